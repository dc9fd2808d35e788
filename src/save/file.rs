//! Storing the bytes of one file, chunk by chunk.
//!
//! Invariant: exactly the bytes up to the length seen at the start are stored; a file that became shorter meanwhile is
//! reported as changed, one that changed otherwise is noticed by its stat.

use std::fs::File;
use std::path::Path;

use super::chunks::ChunkStore;
use super::database::Capturing;
use super::reading::{Part, Reached, SourceFile};
use crate::error::Result;
use crate::format::content::Content;
use crate::format::limits::CHUNK_SIZE;

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
    let source = SourceFile { file, path, length };
    let mut store = ChunkStore::begin(capturing.writer, source, previous, capturing.effort);
    let mut sparse = false;
    let reached = source.read(|part| {
        capturing.progress.check()?;
        match part {
            Part::Chunks { bytes, ids } => {
                for (chunk, id) in bytes.chunks(CHUNK_SIZE).zip(ids) {
                    store.push_chunk(id, chunk)?;
                }
                capturing.progress.advance(bytes.len() as u64);
                Ok(())
            }
            Part::Holes(count) => {
                sparse = true;
                store.push_holes(count)
            }
        }
    })?;
    match reached {
        Reached::TooEarly => store.give_up().map(|()| ReadOutcome::Shrank),
        Reached::TheEnd => Ok(ReadOutcome::Stored(StoredFile { content: store.finish(length)?, sparse })),
    }
}
