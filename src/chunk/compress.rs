//! How hard a frame is compressed.
//!
//! A first snapshot is mostly bulk, and vectors are nearly incompressible: on them a higher level costs time and saves
//! nothing. So a sample of each bulk frame is tried at the fast level first, and only a frame that shrinks well gets the
//! better one. What changed since the previous snapshot is little and much alike (new rows and their words in the full-text
//! index, new vectors in two files), so there it pays to look for repetitions in all of the frame (docs/decisions.md has the
//! measurements). Invariant: any choice decodes alike; it is no part of the format.

use crate::format::compression::{self, Compressed};

const FAST: i32 = 1;
const BETTER: i32 = 2;
const SAMPLE: usize = 128 * 1024;

/// What a frame holds, and how much time it may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Thoroughness {
    /// Bulk: little time for each byte.
    Bulk,
    /// Few bytes with far repetitions.
    Thorough,
    /// The same, with more time.
    Utmost,
}

/// Compresses the records of one frame.
pub fn compress_frame(raw: &[u8], thoroughness: Thoroughness) -> Compressed {
    match thoroughness {
        Thoroughness::Bulk => compression::compress(raw, bulk_level(raw)),
        Thoroughness::Thorough => compression::compress_far(raw, 3),
        Thoroughness::Utmost => compression::compress_far(raw, 12),
    }
}

fn bulk_level(raw: &[u8]) -> i32 {
    let middle = raw.len() / 2;
    let sample = raw.get(middle..raw.len().min(middle + SAMPLE)).unwrap_or(raw);
    let shrunk = compression::compress(sample, FAST).bytes.len();
    if shrunk * 10 > sample.len() * 8 { FAST } else { BETTER }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(blocks: u32) -> Vec<u8> {
        (0..blocks).flat_map(|n| *blake3::hash(&n.to_le_bytes()).as_bytes()).collect()
    }

    #[test]
    fn text_gets_the_better_level_and_noise_the_fast_one() {
        assert_eq!(bulk_level(&b"all the words of a text, ".repeat(20_000)), BETTER);
        assert_eq!(bulk_level(&noise(20_000)), FAST);
        assert_eq!(bulk_level(b""), BETTER);
    }

    #[test]
    fn frames_come_back() {
        let raw = b"words ".repeat(1000);
        for thoroughness in [Thoroughness::Bulk, Thoroughness::Thorough, Thoroughness::Utmost] {
            let stored = compress_frame(&raw, thoroughness);
            assert_eq!(compression::decompress(stored.codec, &stored.bytes, raw.len()).unwrap(), raw);
        }
    }

    #[test]
    fn a_repetition_seven_mebibytes_away_is_found_where_it_pays() {
        let page = noise(1000);
        let raw = [page.clone(), noise(230_000), page].concat();
        let far = compress_frame(&raw, Thoroughness::Thorough).bytes.len();
        assert!(far + 30_000 < raw.len(), "{far} of {}", raw.len());
    }
}
