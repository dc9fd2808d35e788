//! Decoded frames that the readers of one operation come back to.
//!
//! The deltas of one snapshot share a frame whatever files they are of, and small files lie side by side, so a capture
//! that reads file after file would decode the same frames once for each. Invariants: a frame is kept as it was
//! decoded; those that are kept take a bounded number of bytes, and the first ones stay, since whoever reads more than
//! that in turn would find none of the latest. Whoever makes blobs of a frame hashes them.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::packs;
use crate::disk::Storage;
use crate::error::Result;
use crate::format::pack::Frame;
use crate::id::PackId;

/// Bytes kept at most.
const LIMIT: usize = 16 * 1024 * 1024;

/// Decoded frames by their packs and their first bytes in these.
#[derive(Debug)]
pub struct DecodedFrames {
    kept: Mutex<Kept>,
    limit: usize,
}

#[derive(Debug, Default)]
struct Kept {
    frames: HashMap<(PackId, u64), Arc<Vec<u8>>>,
    bytes: usize,
}

/// Whether others are expected to need a frame, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Demand {
    /// Yes.
    Again,
    /// No.
    Once,
}

impl Default for DecodedFrames {
    fn default() -> Self {
        Self::with_limit(LIMIT)
    }
}

impl DecodedFrames {
    /// None so far, and of those to come at most so many bytes.
    pub(super) fn with_limit(limit: usize) -> Self {
        Self { kept: Mutex::default(), limit }
    }

    /// The bytes of a frame, which is kept if there is a further demand for it, and room.
    pub(super) fn read(
        &self,
        storage: &dyn Storage,
        pack: &PackId,
        frame: &Frame,
        demand: Demand,
    ) -> Result<Arc<Vec<u8>>> {
        let key = (*pack, frame.offset);
        if let Some(bytes) = self.kept.lock().frames.get(&key) {
            return Ok(Arc::clone(bytes));
        }
        let bytes = Arc::new(packs::read_frame(storage, pack, frame)?);
        let mut kept = self.kept.lock();
        if demand == Demand::Again && kept.bytes + bytes.len() <= self.limit && !kept.frames.contains_key(&key) {
            kept.bytes += bytes.len();
            kept.frames.insert(key, Arc::clone(&bytes));
        }
        Ok(bytes)
    }
}
