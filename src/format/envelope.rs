//! The envelope around manifests, pack headers and footers: format-spec.md §4.
//!
//! Magic, version, codec, protection, lengths, payload, then the BLAKE3 of all bytes before it, which is checked before
//! anything is decoded. Invariant: an opened payload is bit for bit what was sealed, and within its limit.

use super::Malformed;
use super::compression::{self, Codec};
use super::limits::FORMAT_VERSION;

/// Bytes before the payload.
pub const HEAD_BYTES: usize = 32;
/// Bytes of the checksum after the payload.
pub const CHECKSUM_BYTES: usize = 32;

/// What an envelope holds, told by its magic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A snapshot's manifest.
    Manifest,
    /// The header of a pack.
    PackHeader,
    /// The footer of a pack.
    PackFooter,
}

impl Kind {
    /// The eight bytes an envelope of this kind begins with.
    pub const fn magic(self) -> &'static [u8; 8] {
        match self {
            Self::Manifest => b"vecsnapM",
            Self::PackHeader => b"vecsnapP",
            Self::PackFooter => b"vecsnapF",
        }
    }
}

/// The envelope of `payload`, compressed with zstd at `level` where that is smaller.
pub fn seal(kind: Kind, payload: &[u8], level: Option<i32>) -> Vec<u8> {
    let stored = match level {
        Some(level) => compression::compress(payload, level),
        None => compression::Compressed { codec: Codec::Raw, bytes: payload.to_vec() },
    };
    let mut bytes = Vec::with_capacity(HEAD_BYTES + stored.bytes.len() + CHECKSUM_BYTES);
    bytes.extend_from_slice(kind.magic());
    bytes.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
    bytes.push(stored.codec as u8);
    bytes.push(0);
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&(payload.len() as u64).to_le_bytes());
    bytes.extend_from_slice(&(stored.bytes.len() as u64).to_le_bytes());
    bytes.extend_from_slice(&stored.bytes);
    let checksum = blake3::hash(&bytes);
    bytes.extend_from_slice(checksum.as_bytes());
    bytes
}

/// The payload of the envelope that `bytes` is, whole; its decoded length is at most `limit`.
///
/// # Errors
/// [`Malformed`] for everything but an undamaged envelope of this kind and version.
pub fn open(kind: Kind, bytes: &[u8], limit: usize) -> Result<Vec<u8>, Malformed> {
    let opened = open_prefix(kind, bytes, limit)?;
    if opened.length == bytes.len() { Ok(opened.payload) } else { Err(Malformed::Trailing) }
}

/// An envelope found at the start of a longer piece of bytes.
#[derive(Debug)]
pub struct OpenedEnvelope {
    /// The decoded payload.
    pub payload: Vec<u8>,
    /// Bytes of the whole envelope.
    pub length: usize,
}

/// As [`open`], for an envelope that other bytes follow.
///
/// # Errors
/// As [`open`], except that bytes may follow.
pub fn open_prefix(kind: Kind, bytes: &[u8], limit: usize) -> Result<OpenedEnvelope, Malformed> {
    let (magic, rest) = bytes.split_first_chunk::<8>().ok_or(Malformed::Truncated)?;
    if magic != kind.magic() {
        return Err(Malformed::Magic);
    }
    let ([v0, v1, codec, protection, reserved @ ..], rest) =
        rest.split_first_chunk::<8>().ok_or(Malformed::Truncated)?;
    let version = u16::from_le_bytes([*v0, *v1]);
    if version != FORMAT_VERSION {
        return Err(Malformed::Version(version.into()));
    }
    let (raw_length, rest) = rest.split_first_chunk::<8>().ok_or(Malformed::Truncated)?;
    let (stored_length, rest) = rest.split_first_chunk::<8>().ok_or(Malformed::Truncated)?;
    let raw_length = bounded(*raw_length, limit)?;
    let stored_length = bounded(*stored_length, limit)?;
    let (stored, rest) = rest.split_at_checked(stored_length).ok_or(Malformed::Truncated)?;
    let (checksum, _) = rest.split_first_chunk::<CHECKSUM_BYTES>().ok_or(Malformed::Truncated)?;
    let checked = bytes.get(..HEAD_BYTES + stored_length).ok_or(Malformed::Truncated)?;
    if blake3::hash(checked) != *checksum {
        return Err(Malformed::Checksum);
    }
    if *protection != 0 {
        return Err(Malformed::invalid(format!("protection {protection} is unknown to this build; use a newer one")));
    }
    if reserved != &[0; 4] {
        return Err(Malformed::invalid("its reserved bytes are not zero"));
    }
    let payload = compression::decompress(Codec::from_byte(*codec)?, stored, raw_length)?;
    Ok(OpenedEnvelope { payload, length: HEAD_BYTES + stored_length + CHECKSUM_BYTES })
}

fn bounded(length: [u8; 8], limit: usize) -> Result<usize, Malformed> {
    usize::try_from(u64::from_le_bytes(length)).ok().filter(|&n| n <= limit).ok_or(Malformed::Limit("length"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_what_it_sealed_and_notices_every_flipped_bit_and_every_cut() {
        for level in [None, Some(3)] {
            let payload = b"the same words, the same words, the same words".repeat(3);
            let sealed = seal(Kind::Manifest, &payload, level);
            assert_eq!(open(Kind::Manifest, &sealed, 1000).unwrap(), payload);
            for at in 0..sealed.len() {
                assert!(open(Kind::Manifest, &sealed[..at], 1000).is_err(), "cut at {at}");
                let mut flipped = sealed.clone();
                flipped[at] ^= 1;
                assert!(open(Kind::Manifest, &flipped, 1000).is_err(), "flipped at {at}");
            }
        }
    }

    #[test]
    fn foreign_kinds_versions_sizes_and_trailing_bytes_have_their_own_answers() {
        let sealed = seal(Kind::Manifest, b"x", None);
        assert_eq!(open(Kind::PackFooter, &sealed, 10), Err(Malformed::Magic));
        assert_eq!(open(Kind::Manifest, &sealed, 0), Err(Malformed::Limit("length")));
        assert_eq!(open(Kind::Manifest, &[sealed.clone(), vec![0]].concat(), 10), Err(Malformed::Trailing));
        let mut newer = sealed;
        newer[8] = 2;
        assert_eq!(open(Kind::Manifest, &newer, 10), Err(Malformed::Version(2)));
    }
}
