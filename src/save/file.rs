//! Storing the bytes of one file, chunk by chunk.
//!
//! Invariant: exactly the bytes up to the length seen at the start are stored; a file that became shorter meanwhile is
//! reported as changed, one that changed otherwise is noticed by its stat.

use std::fs::File;
use std::path::Path;

use super::capturing::Capturing;
use super::chunks::ChunkStore;
use super::reading::{Part, Reached, SourceFile};
use crate::error::{Error, Result};
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
    let (mut sparse, patience) = (false, capturing.patience);
    let reached = source.read(|part| {
        patience.check()?;
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
    });
    match reached {
        Err(error @ Error::Changing(_)) => store.give_up().and(Err(error)),
        Err(error) => Err(error),
        Ok(Reached::TooEarly) => store.give_up().map(|()| ReadOutcome::Shrank),
        Ok(Reached::TheEnd) => Ok(ReadOutcome::Stored(StoredFile { content: store.finish(length)?, sparse })),
    }
}
