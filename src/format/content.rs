//! The content of one file: its length and the root of its tree of blobs: format-spec.md §7.
//!
//! Invariant: canonical. Equal bytes with equal holes have the equal [`Content`], so that it can stand as the identity
//! of an image (verdicts are kept by it) and of a subtree (comparison stops at equal ids).

use bincode::{Decode, Encode};

use super::Malformed;
use super::limits::{CHUNK_SIZE, NODE_DEPTH, NODE_SLOTS};
use crate::id::BlobId;

/// Where a file's tree of blobs begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Encode, Decode)]
pub enum Root {
    /// A file of no bytes.
    Empty,
    /// A file of at most one chunk.
    Chunk(BlobId),
    /// A longer file.
    Node {
        /// Levels of list nodes, at least 1.
        depth: u8,
        /// The node at the top.
        id: BlobId,
    },
}

/// What a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Encode, Decode)]
pub struct Content {
    /// Bytes, holes included.
    pub length: u64,
    /// The tree that holds them.
    pub root: Root,
}

impl Content {
    /// The content of an empty file.
    pub const EMPTY: Self = Self { length: 0, root: Root::Empty };

    /// Chunk slots of a file of this length: format-spec.md §7.1.
    pub const fn slots(length: u64) -> u64 {
        length.div_ceil(CHUNK_SIZE as u64)
    }

    /// Bytes of the slot with this number in a file of this length.
    pub fn slot_bytes(length: u64, slot: u64) -> usize {
        let start = slot.saturating_mul(CHUNK_SIZE as u64);
        usize::try_from(length.saturating_sub(start).min(CHUNK_SIZE as u64)).unwrap_or(CHUNK_SIZE)
    }

    /// Levels of list nodes over this many slots: 0 for at most one, else the least `d` with 128^d ≥ `slots`.
    pub fn depth_for(slots: u64) -> u8 {
        if slots <= 1 {
            return 0;
        }
        (1..NODE_DEPTH).find(|&depth| slots_below(depth) >= slots).unwrap_or(NODE_DEPTH)
    }

    /// Refuses a root that does not fit the length.
    ///
    /// # Errors
    /// [`Malformed::Invalid`].
    pub fn check(&self) -> Result<(), Malformed> {
        let depth = match self.root {
            Root::Empty if self.length == 0 => return Ok(()),
            Root::Chunk(_) if self.length > 0 => 0,
            Root::Node { depth, .. } if depth > 0 => depth,
            _ => return Err(Malformed::invalid("a file's root does not fit its length")),
        };
        if self.length > i64::MAX as u64 || Self::depth_for(Self::slots(self.length)) != depth {
            return Err(Malformed::invalid("a file's depth does not fit its length"));
        }
        Ok(())
    }
}

/// Chunk slots that a node of this depth spans: 128^depth.
pub fn slots_below(depth: u8) -> u64 {
    (NODE_SLOTS as u64).saturating_pow(depth.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_grows_with_the_number_of_slots() {
        let cases = [(0, 0), (1, 0), (2, 1), (128, 1), (129, 2), (128 * 128, 2), (128 * 128 + 1, 3)];
        for (slots, depth) in cases {
            assert_eq!(Content::depth_for(slots), depth, "{slots} slots");
        }
        assert_eq!(Content::depth_for(Content::slots(i64::MAX as u64)), 7);
    }

    #[test]
    fn only_roots_that_fit_the_length_pass() {
        let id = BlobId::of_chunk(b"");
        assert!(Content::EMPTY.check().is_ok());
        assert!(Content { length: 1, root: Root::Chunk(id) }.check().is_ok());
        assert!(Content { length: 65_537, root: Root::Node { depth: 1, id } }.check().is_ok());
        for (length, root) in [
            (1, Root::Empty),
            (0, Root::Chunk(id)),
            (65_537, Root::Chunk(id)),
            (65_537, Root::Node { depth: 2, id }),
            (5, Root::Node { depth: 0, id }),
            (u64::MAX, Root::Node { depth: 7, id }),
        ] {
            assert!(Content { length, root }.check().is_err(), "{length} {root:?}");
        }
    }

    #[test]
    fn the_last_slot_is_the_short_one() {
        assert_eq!(Content::slot_bytes(65_537, 0), 65_536);
        assert_eq!(Content::slot_bytes(65_537, 1), 1);
        assert_eq!(Content::slot_bytes(65_537, 2), 0);
    }
}
