//! Storing the bytes of one file: holes by the file system's word, all else chunk by chunk.
//!
//! Invariant: exactly the bytes up to the length seen at the start are stored; a file that became shorter meanwhile is
//! reported as changed, one that changed otherwise is noticed by its stat. Memory: one buffer.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::chunks::ChunkStore;
use super::database::Capturing;
use crate::disk::holes::{self, ExtentKind};
use crate::error::{Error, Result};
use crate::format::content::Content;
use crate::format::limits::CHUNK_SIZE;
use crate::progress::Progress;

const BUFFER: usize = 16 * CHUNK_SIZE;

/// What was stored of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StoredFile {
    /// Length and tree.
    pub(super) content: Content,
    /// Whether the file system reported holes.
    pub(super) sparse: bool,
}

/// The outcome of reading a file that may change meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReadOutcome {
    /// All of it was read.
    Stored(StoredFile),
    /// It became shorter.
    Shrank,
}

/// Stores the first `length` bytes of a file against its previous version.
pub(super) fn store(
    capturing: &mut Capturing<'_>,
    file: &File,
    path: &Path,
    length: u64,
    previous: Option<Content>,
) -> Result<ReadOutcome> {
    let previous = previous.and_then(|content| capturing.version(content));
    let store = ChunkStore::begin(capturing.writer, previous, capturing.effort);
    let mut reading = Reading { file, path, length, buffer: vec![0; BUFFER], store, progress: capturing.progress };
    let slots = Content::slots(length);
    let mut sparse = false;
    for extent in holes::extents(file, length) {
        let extent = extent.map_err(Error::io("read", path))?;
        let end = extent.offset + extent.length;
        if extent.kind == ExtentKind::Hole {
            sparse = true;
            // A slot is a hole only if all of it is; a file of one slot is always a chunk.
            let first = extent.offset.div_ceil(CHUNK_SIZE as u64).max(reading.store.slots());
            let after = if end == length { slots } else { end / CHUNK_SIZE as u64 };
            if slots > 1 && first < after {
                if reading.read_to(first)? == Reached::TheEnd {
                    return Ok(ReadOutcome::Shrank);
                }
                reading.store.push_holes(after - first)?;
            }
        }
    }
    if reading.read_to(slots)? == Reached::TheEnd {
        return Ok(ReadOutcome::Shrank);
    }
    let content = reading.store.finish(length)?;
    Ok(ReadOutcome::Stored(StoredFile { content, sparse }))
}

/// A file being read.
struct Reading<'f, 's, 'a> {
    file: &'f File,
    path: &'f Path,
    length: u64,
    buffer: Vec<u8>,
    store: ChunkStore<'s, 'a>,
    progress: &'a dyn Progress,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reached {
    Slot,
    /// The file ends before it should.
    TheEnd,
}

impl Reading<'_, '_, '_> {
    /// Reads and stores the slots before `slot`.
    fn read_to(&mut self, slot: u64) -> Result<Reached> {
        let mut position = self.store.slots().saturating_mul(CHUNK_SIZE as u64);
        let end = slot.saturating_mul(CHUNK_SIZE as u64).min(self.length);
        while position < end {
            self.progress.check()?;
            let wanted = usize::try_from(end - position).unwrap_or(usize::MAX).min(self.buffer.len());
            let Some(part) = self.buffer.get_mut(..wanted) else { return Ok(Reached::TheEnd) };
            match self.file.read_exact_at(part, position) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(Reached::TheEnd),
                Err(error) => return Err(Error::io("read", self.path)(error)),
            }
            for chunk in part.chunks(CHUNK_SIZE) {
                self.store.push_chunk(chunk)?;
            }
            self.progress.advance(wanted as u64);
            position += wanted as u64;
        }
        Ok(Reached::Slot)
    }
}
