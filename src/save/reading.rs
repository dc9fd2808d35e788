//! Reading one file: holes by the file system's word, all else in chunks, hashed.
//!
//! What is new is read once, in order, by a second thread that hashes ahead ([`SourceSlots::read`]). What has a
//! previous version is first hashed on all cores ([`SourceSlots::identify`]); the few chunks that changed are then read
//! again. Invariant: exactly the slots up to the length seen at the start come out, ascending; a file that became
//! shorter meanwhile says so. Memory: a few buffers of one size.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::mpsc::sync_channel;
use std::thread;

use rayon::prelude::*;

use super::ahead::make_ahead;
use super::sqlite::image::ImageChunks;
use crate::chunk::delta::Run;
use crate::disk::holes::{self, ExtentKind};
use crate::disk::read;
use crate::disk::stat::{FileStat, Nanoseconds};
use crate::error::{Error, Result};
use crate::format::content::Content;
use crate::format::limits::CHUNK_SIZE;
use crate::id::BlobId;

/// Chunks read at a time.
const BUFFER_SLOTS: u64 = 16;
/// Buffers that wait at most.
const QUEUE: usize = 2;
/// Files with fewer slots are not worth a thread.
const SHORT: u64 = 2 * BUFFER_SLOTS;
/// Slots identified between two looks at the clock.
const SLOTS_AT_ONCE: u64 = 512;

/// Bytes between two runs that are read along with them.
const READ_THROUGH: usize = 4096;

/// A part of a file.
pub(super) enum Part {
    /// Chunks in a row, and their ids.
    Chunks { bytes: Vec<u8>, ids: Vec<BlobId> },
    /// So many slots of holes; none for a hole that fills no slot.
    Holes(u64),
}

/// A part of a file, by its ids alone.
pub(super) enum Slots {
    /// Chunks in a row.
    Chunks(Vec<BlobId>),
    /// So many slots of holes; none for a hole that fills no slot.
    Holes(u64),
}

/// Whether a file stayed as it was while it was read, as far as reading it tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Steadiness {
    /// Yes.
    Same,
    /// It became shorter, or its bytes are other than a moment before.
    Changed,
}

/// When a file was last changed; unlike all of its stat, they stay the same while it is only being written back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ChangeTimes {
    mtime: Nanoseconds,
    ctime: Nanoseconds,
}

/// Slots in a row.
enum Span {
    Data(Range<u64>),
    Holes(u64),
}

/// A file of which the first `length` bytes are read.
#[derive(Clone, Copy)]
pub(super) struct SourceSlots<'f> {
    pub(super) file: &'f File,
    pub(super) path: &'f Path,
    pub(super) length: u64,
    /// Of an image: what is known of its chunks, of which it may lack some.
    pub(super) chunks: Option<&'f ImageChunks>,
}

impl SourceSlots<'_> {
    /// Reads the file and gives its parts to `take`, in order.
    pub(super) fn read(&self, mut take: impl FnMut(Part) -> Result<()>) -> Result<Steadiness> {
        if Content::slots(self.length) < SHORT {
            return self.read_here(&mut take);
        }
        thread::scope(|scope| {
            let (send, parts) = sync_channel(QUEUE);
            let reading = scope.spawn(move || {
                self.read_here(&mut |part| send.send(part).map_err(|_| Error::Failed("nobody takes the parts".into())))
            });
            for part in parts {
                // Returning early closes the channel, which ends the thread.
                take(part)?;
            }
            reading.join().unwrap_or_else(|_| Err(Error::Failed("reading stopped unexpectedly; try again".into())))
        })
    }

    /// Gives the ids of the file's chunks to `take`, in order, which may end it; they are read, unless they are known.
    pub(super) fn identify(&self, take: &mut dyn FnMut(Slots) -> Result<Steadiness>) -> Result<Steadiness> {
        if let Some(chunks) = self.chunks {
            return chunks.each(|ids| take(Slots::Chunks(ids)));
        }
        self.spans(&mut |span| {
            let slots = match span {
                Span::Holes(count) => return take(Slots::Holes(count)),
                Span::Data(slots) => slots,
            };
            let parts = slots.clone().step_by(SLOTS_AT_ONCE as usize);
            let hash = |first: u64| self.hash(first..slots.end.min(first + SLOTS_AT_ONCE));
            make_ahead(parts, hash, |ids| ids.map_or(Ok(Steadiness::Changed), |ids| take(Slots::Chunks(ids))))
        })
    }

    /// The ids of the chunks in these slots, hashed on all cores; `None` if the file ends before them.
    fn hash(&self, slots: Range<u64>) -> Result<Option<Vec<BlobId>>> {
        let buffers: Vec<u64> = slots.clone().step_by(BUFFER_SLOTS as usize).collect();
        let hash = |buffer: &mut Vec<u8>, &first: &u64| {
            let after = slots.end.min(first + BUFFER_SLOTS);
            Ok(self.fill(buffer, first..after)?.map(|()| buffer.chunks(CHUNK_SIZE).map(BlobId::of_chunk).collect()))
        };
        let ids: Option<Vec<Vec<BlobId>>> = buffers.par_iter().map_init(Vec::new, hash).collect::<Result<_>>()?;
        Ok(ids.map(|ids| ids.concat()))
    }

    fn read_here(&self, take: &mut dyn FnMut(Part) -> Result<()>) -> Result<Steadiness> {
        self.spans(&mut |span| {
            let slots = match span {
                Span::Holes(count) => return take(Part::Holes(count)).map(|()| Steadiness::Same),
                Span::Data(slots) => slots,
            };
            let mut first = slots.start;
            while first < slots.end {
                let after = slots.end.min(first + BUFFER_SLOTS);
                let mut bytes = Vec::new();
                if self.fill(&mut bytes, first..after)?.is_none() {
                    return Ok(Steadiness::Changed);
                }
                let ids = bytes.chunks(CHUNK_SIZE).map(BlobId::of_chunk).collect();
                take(Part::Chunks { bytes, ids })?;
                first = after;
            }
            Ok(Steadiness::Same)
        })
    }

    /// Gives all slots to `take`, in order, until it finds that the file changed.
    fn spans(&self, take: &mut dyn FnMut(Span) -> Result<Steadiness>) -> Result<Steadiness> {
        let slots = Content::slots(self.length);
        let mut done = 0;
        for extent in holes::extents(self.file, self.length) {
            let extent = extent.map_err(Error::io("read", self.path))?;
            let end = extent.offset + extent.length;
            if extent.kind == ExtentKind::Hole {
                // A slot is a hole only if all of it is; a file of one slot is always a chunk.
                let first = extent.offset.div_ceil(CHUNK_SIZE as u64).max(done);
                let after = if end == self.length { slots } else { end / CHUNK_SIZE as u64 };
                let after = if slots > 1 { after.max(first) } else { first };
                if take(Span::Data(done..first))? == Steadiness::Changed
                    || take(Span::Holes(after - first))? == Steadiness::Changed
                {
                    return Ok(Steadiness::Changed);
                }
                done = after;
            }
        }
        take(Span::Data(done..slots))
    }

    /// Reads these slots into a buffer, which gets their length; `None` if the file ends before them.
    fn fill(&self, buffer: &mut Vec<u8>, slots: Range<u64>) -> Result<Option<()>> {
        let position = slots.start.saturating_mul(CHUNK_SIZE as u64);
        let end = slots.end.saturating_mul(CHUNK_SIZE as u64).min(self.length);
        let length = usize::try_from(end - position).unwrap_or_default();
        match read::refill(self.file, buffer, position, length) {
            Ok(()) => Ok(Some(())),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(Error::io("read", self.path)(error)),
        }
    }

    /// When the file was last changed.
    pub(super) fn changed_at(&self) -> Result<ChangeTimes> {
        let stat =
            self.file.metadata().map(|metadata| FileStat::from(&metadata)).map_err(Error::io("look at", self.path))?;
        Ok(ChangeTimes { mtime: stat.mtime, ctime: stat.ctime })
    }

    /// Reads these runs of the chunk in this slot, as they are now, to their places in a buffer; what stands beside
    /// them is of no meaning.
    pub(super) fn runs_again(
        &self,
        slot: u64,
        runs: impl Iterator<Item = Run>,
        buffer: &mut Vec<u8>,
    ) -> Result<Steadiness> {
        let position = slot.saturating_mul(CHUNK_SIZE as u64);
        buffer.resize(self.length_of(slot), 0);
        let mut stretches: Vec<Run> = Vec::new();
        for run in runs {
            match stretches.last_mut() {
                Some(last) if run.start < last.end() + READ_THROUGH => last.length = run.end() - last.start,
                _ => stretches.push(run),
            }
        }
        for run in stretches {
            let Some(place) = buffer.get_mut(run.start..run.end()) else { return Ok(Steadiness::Changed) };
            match self.file.read_exact_at(place, position + run.start as u64) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(Steadiness::Changed),
                Err(error) => return Err(Error::io("read", self.path)(error)),
            }
        }
        Ok(Steadiness::Same)
    }

    /// Bytes of the chunk in this slot.
    pub(super) fn length_of(&self, slot: u64) -> usize {
        Content::slot_bytes(self.length, slot)
    }

    /// Whether the file is an image that lacks the chunk in this slot.
    pub(super) fn is_left_out(&self, slot: u64) -> bool {
        self.chunks.is_some_and(|chunks| chunks.is_left_out(slot))
    }

    /// The chunk in this slot, as it is now; `None` if the file ends before it.
    pub(super) fn chunk_again(&self, slot: u64) -> Result<Option<Vec<u8>>> {
        let mut bytes = Vec::new();
        Ok(self.fill(&mut bytes, slot..slot + 1)?.map(|()| bytes))
    }
}
