//! The codec byte of frames and envelopes: format-spec.md §2.5.
//!
//! Decompression allocates exactly the declared length, which the caller has held against the limits, and refuses
//! everything that does not fill it. Why a byte and not a rule: a later codec must not need a new version.

use std::cell::RefCell;

use zstd::bulk::Decompressor;
use zstd::zstd_safe::CParameter;

use super::{Malformed, planes};

/// How stored bytes relate to decoded bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Codec {
    /// They are the same.
    Raw = 0,
    /// One zstd frame that states its content size, without a dictionary, window at most 8 MiB.
    Zstd = 1,
    /// The same around the planes of the bytes: [`super::planes`].
    ZstdOfPlanes = 2,
}

impl Codec {
    /// The codec with this number.
    ///
    /// # Errors
    /// [`Malformed::Invalid`] for a number that version 1 does not define.
    pub fn from_byte(byte: u8) -> Result<Self, Malformed> {
        match byte {
            0 => Ok(Self::Raw),
            1 => Ok(Self::Zstd),
            2 => Ok(Self::ZstdOfPlanes),
            other => Err(Malformed::invalid(format!("codec {other} is unknown"))),
        }
    }
}

/// Bytes with the codec that leads back to them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compressed {
    /// How `bytes` are stored.
    pub codec: Codec,
    /// The stored bytes.
    pub bytes: Vec<u8>,
}

/// The widest window that version 1 allows, as a power of two: format-spec.md §2.5.
const WINDOW_LOG: u32 = 23;

/// In the descriptor of a zstd frame: there is no window but the content.
const SINGLE_SEGMENT: u8 = 0x20;

/// Places that are remembered of what has been seen in planes, as a power of two: there is next to nothing to find, and
/// what a larger table finds is chance, which costs more than it saves.
const PLANES_HASH_LOG: u32 = 8;

thread_local! {
    /// Setting one up costs more than decompressing a small frame.
    static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = RefCell::new(Decompressor::new().ok());
}

/// Compresses with zstd at `level`, or keeps the bytes raw where that is not smaller.
pub fn compress(raw: &[u8], level: i32) -> Compressed {
    smaller(raw, zstd::bulk::compress(raw, level))
}

/// As [`compress`], with the widest window and a search for long repetitions in all of it.
pub fn compress_far(raw: &[u8], level: i32) -> Compressed {
    let compressed = zstd::bulk::Compressor::new(level).and_then(|mut compressor| {
        compressor.window_log(WINDOW_LOG)?;
        compressor.long_distance_matching(true)?;
        compressor.compress(raw)
    });
    smaller(raw, compressed)
}

/// Compresses the planes of the bytes with zstd at `level`, or keeps the bytes raw where that is not smaller.
pub fn compress_planes(raw: Vec<u8>, level: i32) -> Compressed {
    let mut planes = raw;
    planes::split(&mut planes);
    let compressed = zstd::bulk::Compressor::new(level).and_then(|mut compressor| {
        compressor.set_parameter(CParameter::HashLog(PLANES_HASH_LOG))?;
        compressor.compress(&planes)
    });
    match compressed {
        Ok(bytes) if bytes.len() < planes.len() => zstd(Codec::ZstdOfPlanes, bytes),
        _ => {
            planes::join(&mut planes);
            Compressed { codec: Codec::Raw, bytes: planes }
        }
    }
}

fn smaller(raw: &[u8], compressed: std::io::Result<Vec<u8>>) -> Compressed {
    match compressed {
        Ok(bytes) if bytes.len() < raw.len() => zstd(Codec::Zstd, bytes),
        _ => Compressed { codec: Codec::Raw, bytes: raw.to_vec() },
    }
}

/// What was given room for what cannot be compressed, and waits for a while.
fn zstd(codec: Codec, mut bytes: Vec<u8>) -> Compressed {
    bytes.shrink_to_fit();
    Compressed { codec, bytes }
}

/// The bytes that were stored as `stored` with `codec`, which must be exactly `raw_length` many.
///
/// # Errors
/// [`Malformed`] when they are not.
pub fn decompress(codec: Codec, stored: &[u8], raw_length: usize) -> Result<Vec<u8>, Malformed> {
    let raw = match codec {
        Codec::Raw => stored.to_vec(),
        Codec::Zstd => decompress_zstd(stored, raw_length)?,
        Codec::ZstdOfPlanes => {
            let mut planes = decompress_zstd(stored, raw_length)?;
            planes::join(&mut planes);
            planes
        }
    };
    if raw.len() == raw_length {
        Ok(raw)
    } else {
        Err(Malformed::invalid("its decoded length is not the declared one"))
    }
}

fn decompress_zstd(stored: &[u8], raw_length: usize) -> Result<Vec<u8>, Malformed> {
    if zstd::zstd_safe::find_frame_compressed_size(stored) != Ok(stored.len()) {
        return Err(Malformed::invalid("it is not one whole zstd frame"));
    }
    if !matches!(zstd::zstd_safe::get_frame_content_size(stored), Ok(Some(size)) if size == raw_length as u64) {
        return Err(Malformed::invalid("its zstd frame does not state the declared length"));
    }
    let window = window(stored, raw_length as u64);
    if window.ok_or_else(|| Malformed::invalid("it is no zstd frame of RFC 8878"))? > 1 << WINDOW_LOG {
        return Err(Malformed::Limit("zstd window"));
    }
    DECOMPRESSOR
        .with_borrow_mut(|decompressor| match decompressor {
            Some(decompressor) => decompressor.decompress(stored, raw_length),
            None => zstd::bulk::decompress(stored, raw_length),
        })
        .map_err(|error| Malformed::invalid(format!("it cannot be decompressed ({error})")))
}

/// The window that the header of a zstd frame asks for, in bytes: RFC 8878, section 3.1.1.1.
fn window(frame: &[u8], content_size: u64) -> Option<u64> {
    let [0x28, 0xb5, 0x2f, 0xfd, descriptor, window, ..] = frame else { return None };
    if descriptor & SINGLE_SEGMENT != 0 {
        return Some(content_size);
    }
    let base = 1_u64 << (10 + (window >> 3));
    Some(base + base / 8 * u64::from(window & 7))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bomb_is_refused_at_the_declared_length() {
        let bomb = compress(&vec![0; 1 << 20], 3);
        assert_eq!(bomb.codec, Codec::Zstd);
        assert!(decompress(bomb.codec, &bomb.bytes, 4096).is_err());
        assert_eq!(decompress(bomb.codec, &bomb.bytes, 1 << 20).unwrap(), vec![0; 1 << 20]);
        assert!(decompress(bomb.codec, &bomb.bytes, (1 << 20) + 1).is_err());
    }

    #[test]
    fn two_zstd_frames_and_bytes_after_one_are_refused() {
        let one = compress(&[7; 500], 3).bytes;
        let trailing = [one.as_slice(), b"x"].concat();
        assert!(decompress(Codec::Zstd, &[one.clone(), one.clone()].concat(), 1000).is_err());
        assert!(decompress(Codec::Zstd, &trailing, 500).is_err());
        assert_eq!(decompress(Codec::Zstd, &one, 500).unwrap(), [7; 500]);
    }

    #[test]
    fn windows_above_eight_mebibytes_are_refused() {
        let frame = |window: u8| {
            // A content size of two bytes, which counts from 256, and one last block of 300 bytes as they are.
            let head = [0x28, 0xb5, 0x2f, 0xfd, 0x40, window, 44, 0, 0x61, 0x09, 0];
            [head.as_slice(), &[7; 300]].concat()
        };
        assert_eq!(decompress(Codec::Zstd, &frame(13 << 3), 300).unwrap(), [7; 300]);
        for window in [13 << 3 | 1, 14 << 3, 21 << 3] {
            assert_eq!(decompress(Codec::Zstd, &frame(window), 300), Err(Malformed::Limit("zstd window")));
        }
    }

    #[test]
    fn what_is_larger_than_a_window_is_no_single_segment() {
        let large = vec![7; 9 << 20];
        for made in [compress(&large, 3), compress_far(&large, 12)] {
            assert_eq!(decompress(made.codec, &made.bytes, large.len()).unwrap(), large);
        }
        let mut wide = zstd::bulk::Compressor::new(3).unwrap();
        wide.window_log(24).unwrap();
        let single = wide.compress(&large).unwrap();
        assert_ne!(single[4] & SINGLE_SEGMENT, 0);
        assert_eq!(decompress(Codec::Zstd, &single, large.len()), Err(Malformed::Limit("zstd window")));
    }

    #[test]
    fn what_does_not_shrink_stays_raw() {
        let raw = Compressed { codec: Codec::Raw, bytes: b"abc".to_vec() };
        assert_eq!(compress(b"abc", 3), raw);
        assert_eq!(compress_planes(b"abc".to_vec(), 1), raw);
    }

    #[test]
    fn planes_of_numbers_are_fewer_bytes_and_come_back_at_the_declared_length_only() {
        let mut numbers = vec![0; 1_000_003];
        blake3::Hasher::new().finalize_xof().fill(&mut numbers);
        numbers.iter_mut().skip(3).step_by(4).for_each(|exponent| *exponent = 0x3c | (*exponent & 3));
        let planes = compress_planes(numbers.clone(), 1);
        assert_eq!(planes.codec, Codec::ZstdOfPlanes);
        assert!(planes.bytes.len() + 80_000 < compress(&numbers, 1).bytes.len());
        assert_eq!(decompress(planes.codec, &planes.bytes, numbers.len()).unwrap(), numbers);
        assert!(decompress(planes.codec, &planes.bytes, numbers.len() + 1).is_err());
        assert_ne!(decompress(Codec::Zstd, &planes.bytes, numbers.len()).unwrap(), numbers);
    }
}
