//! Serialised structures: format-spec.md §2.
//!
//! Integers are little-endian and of fixed width, sequences carry a 64-bit count, enumerations a 32-bit number. The
//! bytes are those of bincode's `legacy` configuration, but the specification defines them: this module is the only
//! one that knows the crate. Decoding refuses trailing bytes and claims of more memory than its limit.

use bincode::config::{self, Configuration, Fixint, Limit, LittleEndian};
use bincode::{Decode, Encode};

use super::Malformed;

fn limited<const LIMIT: usize>() -> Configuration<LittleEndian, Fixint, Limit<LIMIT>> {
    config::legacy().with_limit::<LIMIT>()
}

/// The bytes of `value`.
///
/// # Errors
/// [`Malformed::Limit`] when `value` holds a sequence that cannot be written.
pub fn encode<T: Encode>(value: &T) -> Result<Vec<u8>, Malformed> {
    bincode::encode_to_vec(value, config::legacy()).map_err(|_| Malformed::Limit("size"))
}

/// The value whose bytes are exactly `bytes`, which may claim at most `LIMIT` bytes of memory.
///
/// # Errors
/// [`Malformed`] for every other input.
pub fn decode<T: Decode<()>, const LIMIT: usize>(bytes: &[u8]) -> Result<T, Malformed> {
    use bincode::error::DecodeError;
    let (value, used) = bincode::decode_from_slice(bytes, limited::<LIMIT>()).map_err(|error| match error {
        DecodeError::UnexpectedEnd { .. } => Malformed::Truncated,
        DecodeError::LimitExceeded => Malformed::Limit("size"),
        other => Malformed::invalid(format!("it cannot be decoded ({other})")),
    })?;
    if used == bytes.len() { Ok(value) } else { Err(Malformed::Trailing) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_fixed_and_little_endian_and_sequences_counted_in_64_bits() {
        assert_eq!(encode(&0x0102_0304_u32).unwrap(), [4, 3, 2, 1]);
        assert_eq!(encode(&vec![7_u8, 8]).unwrap(), [2, 0, 0, 0, 0, 0, 0, 0, 7, 8]);
    }

    #[test]
    fn trailing_bytes_truncation_and_great_claims_are_refused() {
        assert_eq!(decode::<u32, 16>(&[1, 0, 0, 0, 0]), Err(Malformed::Trailing));
        assert_eq!(decode::<u32, 16>(&[1, 0]), Err(Malformed::Truncated));
        assert_eq!(decode::<Vec<u64>, 64>(&[255; 16]), Err(Malformed::Limit("size")));
    }
}
