//! Bytes in planes: format-spec.md §2.7.
//!
//! Of vectors of 32-bit numbers the signs and exponents are much alike and the rest is noise. One byte of each four
//! apart from the others, the like ones compress well, and noise that stands alone costs next to no time. A segment is
//! cut so that each of its planes is one block of zstd, and so that it fits the cache of a core. Invariant: bytes of
//! any length come back as they were. (Shifts and not moves of bytes: what compilers make of these takes a third of the
//! time.) Memory: one segment for each thread.

use std::cell::RefCell;

/// Bytes of a segment.
const SEGMENT: usize = 512 * 1024;

/// Puts bytes into their planes.
pub fn split(bytes: &mut [u8]) {
    rearrange(bytes, |numbers, planes| {
        let (words, rest) = numbers.as_chunks::<4>();
        let ([first, second, third, fourth], tail) = parts_mut(planes);
        for ((((word, first), second), third), fourth) in words.iter().zip(first).zip(second).zip(third).zip(fourth) {
            let number = u32::from_le_bytes(*word);
            *first = number as u8;
            *second = (number >> 8) as u8;
            *third = (number >> 16) as u8;
            *fourth = (number >> 24) as u8;
        }
        tail.copy_from_slice(rest);
    });
}

/// Brings the bytes back whose planes these are.
pub fn join(planes: &mut [u8]) {
    rearrange(planes, |planes, numbers| {
        let (words, rest) = numbers.as_chunks_mut::<4>();
        let ([first, second, third, fourth], tail) = parts(planes);
        for ((((word, first), second), third), fourth) in words.iter_mut().zip(first).zip(second).zip(third).zip(fourth)
        {
            let upper = u32::from(*third) << 16 | u32::from(*fourth) << 24;
            *word = (u32::from(*first) | u32::from(*second) << 8 | upper).to_le_bytes();
        }
        rest.copy_from_slice(tail);
    });
}

thread_local! {
    /// What a segment was; kept, since memory that comes and goes with each frame is not all given back.
    static BEFORE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Has each segment written anew from what it was.
fn rearrange(bytes: &mut [u8], write: impl Fn(&[u8], &mut [u8])) {
    BEFORE.with_borrow_mut(|before| {
        for segment in bytes.chunks_mut(SEGMENT) {
            before.clear();
            before.extend_from_slice(segment);
            write(before, segment);
        }
    });
}

/// The four planes of a segment and what stands behind them.
fn parts(planes: &[u8]) -> ([&[u8]; 4], &[u8]) {
    let length = planes.len() / 4;
    let (first, rest) = planes.split_at(length);
    let (second, rest) = rest.split_at(length);
    let (third, rest) = rest.split_at(length);
    let (fourth, tail) = rest.split_at(length);
    ([first, second, third, fourth], tail)
}

/// As [`parts`], to be written.
fn parts_mut(planes: &mut [u8]) -> ([&mut [u8]; 4], &mut [u8]) {
    let length = planes.len() / 4;
    let (first, rest) = planes.split_at_mut(length);
    let (second, rest) = rest.split_at_mut(length);
    let (third, rest) = rest.split_at_mut(length);
    let (fourth, tail) = rest.split_at_mut(length);
    ([first, second, third, fourth], tail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbered(length: usize) -> Vec<u8> {
        (0..length).map(|number| (number % 251) as u8).collect()
    }

    #[test]
    fn every_length_comes_back() {
        for length in (0..70).chain(SEGMENT - 5..SEGMENT + 6).chain([2 * SEGMENT, 3 * SEGMENT + 4099]) {
            let mut bytes = numbered(length);
            split(&mut bytes);
            assert!(length < 8 || bytes != numbered(length), "{length}");
            join(&mut bytes);
            assert!(bytes == numbered(length), "{length}");
        }
    }

    #[test]
    fn a_segment_follows_the_other() {
        let mut bytes = [[1, 2, 3, 4].repeat(SEGMENT / 4), vec![5, 6, 7, 8, 5, 6, 7, 8, 9]].concat();
        split(&mut bytes);
        let planes = [[1; SEGMENT / 4], [2; SEGMENT / 4], [3; SEGMENT / 4], [4; SEGMENT / 4]].concat();
        assert!(bytes[..SEGMENT] == planes);
        assert_eq!(bytes[SEGMENT..], [5, 5, 6, 6, 7, 7, 8, 8, 9]);
    }
}
