//! How hard a frame is compressed.
//!
//! A first snapshot is mostly bulk, and vectors are nearly incompressible: on them a higher level costs time and saves
//! nothing. So a sample of each bulk frame is tried at the fast level first, and only a frame that shrinks well gets
//! the better one; of the others a sample is tried in planes, which vectors of 32-bit numbers gain by. What changed
//! since the previous snapshot is little and much alike (new rows and their words in the full-text index, new vectors
//! in two files), so there it pays to look for repetitions in all of the frame (docs/decisions.md has the
//! measurements). Invariant: any choice decodes alike; it is no part of the format.

use crate::format::compression::{self, Compressed};
use crate::format::planes;

const FAST: i32 = 1;
const BETTER: i32 = 2;
const SAMPLE: usize = 128 * 1024;
/// Percent of its bytes in a row that a sample may take in planes for these to be worth the time.
const WORTH_PLANES: usize = 97;

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
pub fn compress_frame(raw: Vec<u8>, thoroughness: Thoroughness) -> Compressed {
    match thoroughness {
        Thoroughness::Bulk => match bulk_way(&raw) {
            BulkWay::Level(level) => compression::compress(&raw, level),
            BulkWay::Planes => compression::compress_planes(raw, FAST),
        },
        Thoroughness::Thorough => compression::compress_far(&raw, 3),
        Thoroughness::Utmost => compression::compress_far(&raw, 12),
    }
}

/// What suits bulk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BulkWay {
    Level(i32),
    Planes,
}

fn bulk_way(raw: &[u8]) -> BulkWay {
    let middle = raw.len() / 2;
    let sample = raw.get(middle..raw.len().min(middle + SAMPLE)).unwrap_or(raw);
    let shrunk = compression::compress(sample, FAST).bytes.len();
    if shrunk * 10 <= sample.len() * 8 {
        BulkWay::Level(BETTER)
    } else if planes_shrunk(sample) * 100 < shrunk * WORTH_PLANES {
        BulkWay::Planes
    } else {
        BulkWay::Level(FAST)
    }
}

/// Bytes that the planes of a sample shrink to; each by itself, as those of a whole segment are.
fn planes_shrunk(sample: &[u8]) -> usize {
    let mut planes = sample.to_vec();
    planes::split(&mut planes);
    let each = planes.chunks((planes.len() / 4).max(1));
    each.map(|plane| compression::compress(plane, FAST).bytes.len()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(blocks: u32) -> Vec<u8> {
        (0..blocks).flat_map(|n| *blake3::hash(&n.to_le_bytes()).as_bytes()).collect()
    }

    #[test]
    fn text_gets_the_better_level_and_noise_the_fast_one() {
        assert_eq!(bulk_way(&b"all the words of a text, ".repeat(20_000)), BulkWay::Level(BETTER));
        assert_eq!(bulk_way(&noise(20_000)), BulkWay::Level(FAST));
        assert_eq!(bulk_way(b""), BulkWay::Level(BETTER));
    }

    #[test]
    fn vectors_go_in_planes() {
        let numbers =
            noise(20_000).as_chunks().0.iter().map(|&bits| i32::from_le_bytes(bits) as f32 / 1e10).collect::<Vec<_>>();
        let vectors: Vec<u8> = numbers.into_iter().flat_map(f32::to_le_bytes).collect();
        assert_eq!(bulk_way(&vectors), BulkWay::Planes);
        let stored = compress_frame(vectors.clone(), Thoroughness::Bulk);
        assert_eq!(compression::decompress(stored.codec, &stored.bytes, vectors.len()).unwrap(), vectors);
    }

    #[test]
    fn frames_come_back() {
        let raw = b"words ".repeat(1000);
        for thoroughness in [Thoroughness::Bulk, Thoroughness::Thorough, Thoroughness::Utmost] {
            let stored = compress_frame(raw.clone(), thoroughness);
            assert_eq!(compression::decompress(stored.codec, &stored.bytes, raw.len()).unwrap(), raw);
        }
    }

    #[test]
    fn a_repetition_seven_mebibytes_away_is_found_where_it_pays() {
        let page = noise(1000);
        let raw = [page.clone(), noise(230_000), page].concat();
        let length = raw.len();
        let far = compress_frame(raw, Thoroughness::Thorough).bytes.len();
        assert!(far + 30_000 < length, "{far} of {length}");
    }
}
