//! Decoded frames, kept and read ahead.
//!
//! Whoever reads a version of a file in order visits the frames of a pack one after the other; so where the frame
//! before was needed, the next ones are decoded on other cores meanwhile. Invariants: the bytes kept in memory and the
//! frames under way are bounded; a frame that was read ahead in vain costs time only, and its errors are met when it is
//! needed.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};

use super::byte_cache::ByteCache;
use super::packs;
use super::spill::Spill;
use crate::disk::Storage;
use crate::error::Result;
use crate::format::limits::FRAME_BYTES;
use crate::format::pack::{Footer, Frame};
use crate::id::PackId;

/// Frames decoded ahead at one time; fewer where fewer are kept.
const AHEAD: usize = 2;
/// Frames shorter than this are decoded sooner than handed over.
const WORTH_IT: u32 = 512 * 1024;

/// Where a frame lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct FramePlace {
    pub(super) pack: PackId,
    /// Its number in the pack.
    pub(super) number: u32,
}

/// A stretch of a decoded frame.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stretch {
    pub(super) start: usize,
    pub(super) length: usize,
}

impl Stretch {
    fn of(&self, frame: &[u8]) -> Vec<u8> {
        frame.get(self.start..self.start + self.length).unwrap_or_default().to_vec()
    }
}

/// The frames of one reader.
pub(super) struct Frames {
    storage: Arc<dyn Storage>,
    kept: ByteCache<FramePlace, Vec<u8>>,
    spilled: Spill<FramePlace>,
    ahead: VecDeque<Ahead>,
    /// Frames in `ahead` at most; none for a reader of small memory, which has other readers at its side.
    most_ahead: usize,
}

/// A frame being decoded.
struct Ahead {
    place: FramePlace,
    decoded: Receiver<Result<Vec<u8>>>,
}

impl Frames {
    /// Keeps at most `limit` bytes in memory, one frame at least.
    pub(super) fn new(storage: Arc<dyn Storage>, limit: usize, spilled: Spill<FramePlace>) -> Self {
        let most_ahead = (limit / FRAME_BYTES).saturating_sub(1).min(AHEAD);
        Self { storage, kept: ByteCache::new(limit), spilled, ahead: VecDeque::new(), most_ahead }
    }

    /// Bytes of a frame of the pack with this footer; fewer where the frame ends too early.
    pub(super) fn read(&mut self, place: FramePlace, footer: &Footer, stretch: Stretch) -> Result<Vec<u8>> {
        if let Some(frame) = self.kept.get(&place) {
            return Ok(stretch.of(frame));
        }
        if let Some(bytes) = self.spilled.read(&place, stretch.start, stretch.length) {
            return Ok(bytes);
        }
        let before = place.number.checked_sub(1).map(|number| FramePlace { number, ..place });
        let in_order = before.is_some_and(|before| self.spilled.was_made(&before)) && !self.spilled.was_made(&place);
        self.spilled.made(place);
        let under_way = self.take_ahead(place);
        if in_order {
            self.read_ahead(place, footer);
        }
        let frame = match under_way {
            Some(decoded) => decoded,
            None => match footer.frames.get(place.number as usize) {
                Some(frame) => packs::read_frame(&*self.storage, &place.pack, frame),
                None => Ok(Vec::new()),
            },
        }?;
        let bytes = stretch.of(&frame);
        self.keep(place, frame);
        Ok(bytes)
    }

    fn take_ahead(&mut self, place: FramePlace) -> Option<Result<Vec<u8>>> {
        let found = self.ahead.iter().position(|ahead| ahead.place == place)?;
        self.ahead.remove(found)?.decoded.recv().ok()
    }

    fn read_ahead(&mut self, place: FramePlace, footer: &Footer) {
        for number in (place.number + 1..).take(self.most_ahead) {
            let place = FramePlace { number, ..place };
            let Some(frame) = footer.frames.get(number as usize).filter(|frame| frame.raw_length >= WORTH_IT) else {
                return;
            };
            if self.spilled.was_made(&place) || self.ahead.iter().any(|ahead| ahead.place == place) {
                continue;
            }
            // One that nobody came for makes room.
            self.ahead.truncate(self.most_ahead - 1);
            self.ahead.push_front(decode_elsewhere(&self.storage, place, *frame));
        }
    }

    fn keep(&mut self, place: FramePlace, frame: Vec<u8>) {
        let bytes = frame.len();
        for (old, frame) in self.kept.put(place, frame, bytes) {
            self.spilled.leave(old, &frame);
        }
    }
}

fn decode_elsewhere(storage: &Arc<dyn Storage>, place: FramePlace, frame: Frame) -> Ahead {
    let (send, decoded) = sync_channel(1);
    let storage = Arc::clone(storage);
    rayon::spawn(move || {
        // Nobody waits any more if the reader went elsewhere.
        let _ = send.send(packs::read_frame(&*storage, &place.pack, &frame));
    });
    Ahead { place, decoded }
}
