//! Reading one file in order: holes by the file system's word, all else in chunks, hashed.
//!
//! A second thread reads and hashes ahead, so that whoever stores the chunks finds them ready. Invariant: exactly the slots
//! up to the length seen at the start come out, ascending; a file that became shorter meanwhile says so. Memory: a few
//! buffers of one size.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::mpsc::sync_channel;
use std::thread;

use crate::disk::holes::{self, ExtentKind};
use crate::error::{Error, Result};
use crate::format::content::Content;
use crate::format::limits::CHUNK_SIZE;
use crate::id::BlobId;

/// Bytes read at a time.
const BUFFER: usize = 16 * CHUNK_SIZE;
/// Buffers that wait at most.
const QUEUE: usize = 2;
/// Files shorter than this are not worth a thread.
const SHORT: u64 = 2 * BUFFER as u64;

/// A part of a file.
pub(super) enum Part {
    /// Chunks in a row, and their ids.
    Chunks { bytes: Vec<u8>, ids: Vec<BlobId> },
    /// So many slots of holes; none for a hole that fills no slot.
    Holes(u64),
}

/// How the reading ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reached {
    /// At the length asked for.
    TheEnd,
    /// The file became shorter.
    TooEarly,
}

/// A file of which the first `length` bytes are read.
#[derive(Clone, Copy)]
pub(super) struct SourceFile<'f> {
    pub(super) file: &'f File,
    pub(super) path: &'f Path,
    pub(super) length: u64,
}

impl SourceFile<'_> {
    /// Reads the file and gives its parts to `take`, in order.
    pub(super) fn read(&self, mut take: impl FnMut(Part) -> Result<()>) -> Result<Reached> {
        if self.length < SHORT {
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

    fn read_here(&self, take: &mut dyn FnMut(Part) -> Result<()>) -> Result<Reached> {
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
                if self.read_slots(done, first, take)? == Reached::TooEarly {
                    return Ok(Reached::TooEarly);
                }
                take(Part::Holes(after - first))?;
                done = after;
            }
        }
        self.read_slots(done, slots, take)
    }

    fn read_slots(&self, first: u64, after: u64, take: &mut dyn FnMut(Part) -> Result<()>) -> Result<Reached> {
        let mut position = first.saturating_mul(CHUNK_SIZE as u64);
        let end = after.saturating_mul(CHUNK_SIZE as u64).min(self.length);
        while position < end {
            let mut bytes = vec![0; usize::try_from(end - position).unwrap_or(usize::MAX).min(BUFFER)];
            match self.file.read_exact_at(&mut bytes, position) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(Reached::TooEarly),
                Err(error) => return Err(Error::io("read", self.path)(error)),
            }
            position += bytes.len() as u64;
            let ids = bytes.chunks(CHUNK_SIZE).map(BlobId::of_chunk).collect();
            take(Part::Chunks { bytes, ids })?;
        }
        Ok(Reached::TheEnd)
    }

    /// The chunk in this slot, as it is now.
    pub(super) fn chunk_again(&self, slot: u64) -> io::Result<Vec<u8>> {
        let position = slot.saturating_mul(CHUNK_SIZE as u64);
        let length = self.length.saturating_sub(position).min(CHUNK_SIZE as u64);
        let mut bytes = vec![0; length as usize];
        self.file.read_exact_at(&mut bytes, position)?;
        Ok(bytes)
    }
}
