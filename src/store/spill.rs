//! What a reader decoded more than once, kept in a temporary file instead of in memory.
//!
//! Deltas refer to bases all over the previous version, so that a small cache would decode the same frames and chains
//! again and again. Invariants: nothing is written before something was needed a second time; each item is written
//! once; memory holds only where the items are; a file that cannot be written or has reached its limit only costs time.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::hash::Hash;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use crate::disk::read::read_exactly;

/// Most bytes of the temporary file.
const LIMIT: u64 = 4 << 30;
/// Items made a second time after which every one is written when it leaves the memory for the first time.
const REPEATS: usize = 4;

#[derive(Debug, Clone, Copy)]
struct Span {
    offset: u64,
    length: usize,
}

/// Items by key.
#[derive(Debug)]
pub(super) struct Spill<Key> {
    directory: PathBuf,
    file: Option<File>,
    used: u64,
    /// Made once so far.
    seen: HashSet<Key>,
    /// Made more than once: written when they leave the memory.
    wanted: HashSet<Key>,
    /// How often something was made more than once.
    repeats: usize,
    spans: HashMap<Key, Span>,
}

impl<Key: Copy + Eq + Hash> Spill<Key> {
    /// An empty one; the file is made in `directory` when it is needed.
    pub(super) fn new(directory: PathBuf) -> Self {
        let (seen, wanted, spans) = (HashSet::new(), HashSet::new(), HashMap::new());
        Self { directory, file: None, used: 0, seen, wanted, repeats: 0, spans }
    }

    /// Notes that the item had to be made.
    pub(super) fn made(&mut self, key: Key) {
        if !self.seen.insert(key) {
            self.wanted.insert(key);
            self.repeats += 1;
        }
    }

    /// Whether the item was made before.
    pub(super) fn was_made(&self, key: &Key) -> bool {
        self.seen.contains(key)
    }

    /// Takes an item that leaves the memory, if it is worth keeping.
    pub(super) fn leave(&mut self, key: Key, bytes: &[u8]) {
        let wanted = self.wanted.remove(&key) || self.repeats >= REPEATS;
        if !wanted || self.spans.contains_key(&key) || self.used + bytes.len() as u64 > LIMIT {
            return;
        }
        if self.file.is_none() {
            self.file = tempfile::tempfile_in(&self.directory).ok();
        }
        let span = Span { offset: self.used, length: bytes.len() };
        if self.file.as_ref().is_some_and(|file| file.write_all_at(bytes, span.offset).is_ok()) {
            self.used += bytes.len() as u64;
            self.spans.insert(key, span);
        }
    }

    /// The bytes of an item from `start`, at most `length` of them.
    pub(super) fn read(&self, key: &Key, start: usize, length: usize) -> Option<Vec<u8>> {
        let span = self.spans.get(key)?;
        let length = span.length.checked_sub(start)?.min(length);
        read_exactly(self.file.as_ref()?, span.offset + start as u64, length).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_made_twice_is_kept_and_comes_back() {
        let mut spill = Spill::new(std::env::temp_dir());
        for key in [1, 2, 2, 3, 3] {
            spill.made(key);
        }
        for key in [1_u8, 2, 3] {
            spill.leave(key, &[key; 10]);
        }
        assert_eq!(spill.read(&1, 0, 10), None);
        assert_eq!(spill.read(&2, 0, 10).unwrap(), [2; 10]);
        assert_eq!(spill.read(&3, 7, 100).unwrap(), [3; 3]);
        assert_eq!(spill.used, 20);
    }

    #[test]
    fn after_some_repetitions_everything_is_kept_that_leaves() {
        let mut spill = Spill::new(std::env::temp_dir());
        for key in [0, 1, 2, 3, 9, 0, 1, 2] {
            spill.made(key);
        }
        spill.leave(8_u8, b"too early");
        spill.made(3);
        assert!(spill.was_made(&9) && !spill.was_made(&8));
        spill.leave(9, b"x");
        assert_eq!((spill.read(&8, 0, 9), spill.read(&9, 0, 1)), (None, Some(b"x".to_vec())));
    }

    #[test]
    fn a_place_that_cannot_be_written_keeps_nothing() {
        let mut spill = Spill::new("/does/not/exist".into());
        spill.made(1);
        spill.made(1);
        spill.leave(1, b"x");
        assert_eq!(spill.read(&1, 0, 1), None);
    }
}
