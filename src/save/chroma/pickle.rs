//! The one number needed of `index_metadata.pickle`, without unpickling anything.
//!
//! A pickle is a program for a stack machine that can call anything, so it is never run here. Chroma writes a
//! dictionary whose first few values are numbers; this reads a bounded start of the file, finds a key and decodes the
//! integer that stands behind it, whichever opcode carries it. <https://docs.python.org/3/library/pickletools.html>

/// Bytes of the start of the file that are looked at: the number stands among the first few values.
pub(super) const START: usize = 4096;

const BINPUT: u8 = b'q';
const LONG_BINPUT: u8 = b'r';
const MEMOIZE: u8 = 0x94;
const BININT: u8 = b'J';
const BININT1: u8 = b'K';
const BININT2: u8 = b'M';
const LONG1: u8 = 0x8a;

/// The integer that stands behind `key` in the start of a pickle; `None` if there is none.
pub(super) fn integer_after(start: &[u8], key: &str) -> Option<u64> {
    let key_end = start.windows(key.len()).position(|window| window == key.as_bytes())? + key.len();
    let mut rest = start.get(key_end..)?;
    loop {
        let (&opcode, operands) = rest.split_first()?;
        let skipped = match opcode {
            // What was just pushed is remembered for later.
            BINPUT => 1,
            LONG_BINPUT => 4,
            MEMOIZE => 0,
            BININT1 => return operands.first().copied().map(u64::from),
            BININT2 => return Some(u16::from_le_bytes(*operands.first_chunk()?).into()),
            BININT => return i32::from_le_bytes(*operands.first_chunk()?).try_into().ok(),
            LONG1 => return long(operands),
            _ => return None,
        };
        rest = operands.get(skipped..)?;
    }
}

/// A long of up to 8 bytes, little-endian and signed.
fn long(operands: &[u8]) -> Option<u64> {
    let (&length, bytes) = operands.split_first()?;
    let bytes = bytes.get(..usize::from(length))?;
    let sign = bytes.last().is_some_and(|last| last & 0x80 != 0);
    let mut value = [0; 8];
    value.get_mut(..bytes.len())?.copy_from_slice(bytes);
    (!sign).then(|| u64::from_le_bytes(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "total_elements_added";

    fn pickle(value: &[u8]) -> Vec<u8> {
        [b"\x80\x03}(X\x0e\x00\x00\x00dimensionalityNX\x14\x00\x00\x00total_elements_added", value, b"X\x0a"].concat()
    }

    #[test]
    fn every_opcode_that_carries_an_integer_is_read() {
        let table: [(&[u8], Option<u64>); 9] = [
            (b"J\x44\xc5\x00\x00", Some(50_500)),
            (b"K\x07", Some(7)),
            (b"M\xe8\x03", Some(1000)),
            (b"\x8a\x05\x00\x00\x00\x00\x01", Some(1 << 32)),
            (b"q\x03M\xe8\x03", Some(1000)),
            (b"r\x00\x01\x00\x00\x94K\x01", Some(1)),
            (b"J\xff\xff\xff\xff", None),
            (b"\x8a\x01\x80", None),
            (b"N", None),
        ];
        for (value, expected) in table {
            assert_eq!(integer_after(&pickle(value), KEY), expected, "{value:?}");
        }
    }

    /// Mutates a pickle so many times: no start of a file makes the reader panic, nor read a number that is not there.
    fn attack(cases: u64) {
        let seeds: [&[u8]; 4] =
            [b"J\x44\xc5\x00\x00", b"q\x03M\xe8\x03", b"\x8a\x08\x01\0\0\0\0\0\0\0", b"r\0\x01\0\0\x94K\x01"];
        let mut state = 1_u64;
        let mut random = |end: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % end
        };
        let mut read = 0_u64;
        for _ in 0..cases {
            let mut bytes = pickle(seeds[random(seeds.len())]);
            for _ in 0..=random(4) {
                let at = random(bytes.len());
                match random(4) {
                    0 => {
                        bytes[at] = [0, 1, 8, 9, 0x7f, 0x80, 0x8a, 0x94, 0xff, b'J', b'K', b'M', b'q', b'r'][random(14)]
                    }
                    1 => bytes[at] ^= 1 << random(8),
                    2 => bytes.truncate(at + 1),
                    _ => bytes.insert(at, random(256) as u8),
                }
            }
            if let Some(value) = integer_after(&bytes, KEY) {
                read += 1;
                let shortest = value.to_le_bytes();
                let digits = &shortest[..8 - value.leading_zeros() as usize / 8];
                assert!(digits.is_empty() || bytes.windows(digits.len()).any(|window| window == digits), "{bytes:?}");
            }
        }
        assert!(read > 0 && read < cases);
        eprintln!("pickle: {cases} cases, {read} read");
    }

    #[test]
    fn mutated_pickles_are_read_or_passed_over() {
        attack(20_000);
    }

    #[test]
    #[ignore = "10^7 cases, some seconds in a release build"]
    fn long_mutated_pickles_are_read_or_passed_over() {
        attack(10_000_000);
    }

    #[test]
    fn hostile_and_cut_starts_are_no_number() {
        let whole = pickle(b"\x8a\x08\x01\x00\x00\x00\x00\x00\x00\x00");
        assert_eq!(integer_after(&whole, KEY), Some(1));
        for end in 0..whole.len() - 3 {
            assert_eq!(integer_after(&whole[..end], KEY).filter(|value| *value != 1), None);
        }
        assert_eq!(integer_after(&pickle(b"\x8a\xff\x01"), KEY), None);
        assert_eq!(integer_after(&pickle(b"qqqqqqqq"), KEY), None);
        assert_eq!(integer_after(b"", KEY), None);
    }
}
