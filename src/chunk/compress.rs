//! How hard a frame is compressed.
//!
//! Vectors are nearly incompressible: on them a higher level costs time and saves nothing. So a sample of each frame is
//! tried at the fast level first, and only a frame that shrinks well gets the thorough one (docs/decisions.md has the
//! measurement). Invariant: any choice decodes alike; it is no part of the format.

use crate::format::compression::{self, Compressed};

const FAST: i32 = 1;
const THOROUGH: i32 = 2;
const SAMPLE: usize = 128 * 1024;

/// Compresses the records of one frame.
pub fn compress_frame(raw: &[u8]) -> Compressed {
    compression::compress(raw, level_for(raw))
}

fn level_for(raw: &[u8]) -> i32 {
    let middle = raw.len() / 2;
    let sample = raw.get(middle..raw.len().min(middle + SAMPLE)).unwrap_or(raw);
    let shrunk = compression::compress(sample, FAST).bytes.len();
    if shrunk * 10 > sample.len() * 8 { FAST } else { THOROUGH }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_gets_the_thorough_level_and_noise_the_fast_one() {
        assert_eq!(level_for(&b"all the words of a text, ".repeat(20_000)), THOROUGH);
        let noise: Vec<u8> = (0..20_000_u32).flat_map(|n| *blake3::hash(&n.to_le_bytes()).as_bytes()).collect();
        assert_eq!(level_for(&noise), FAST);
        assert_eq!(level_for(b""), THOROUGH);
    }

    #[test]
    fn frames_come_back() {
        let raw = b"words ".repeat(1000);
        let stored = compress_frame(&raw);
        assert_eq!(compression::decompress(stored.codec, &stored.bytes, raw.len()).unwrap(), raw);
    }
}
