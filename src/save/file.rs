//! Storing the bytes of one file: all of it, or what changed since its previous version.
//!
//! Invariant: exactly the bytes up to the length seen at the start are stored; a file that is found to have changed
//! meanwhile is reported as changed, one that changed otherwise is noticed by its stat.

use std::fs::File;
use std::path::Path;

use super::capturing::Capturing;
use super::increment;
use super::reading::{Part, SourceSlots, Steadiness};
use super::sqlite::image::ImageChunks;
use crate::chunk::tree::TreeBuilder;
use crate::error::Result;
use crate::format::content::Content;
use crate::format::limits::CHUNK_SIZE;
use crate::store::{FrameGroup, PreviousContent, Stored, TreeSink};

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
    /// It became shorter, or was other than a moment before.
    Changed,
}

/// Stores the first `length` bytes of a file against its previous version.
pub(super) fn store(
    capturing: &mut Capturing<'_>,
    file: &File,
    path: &Path,
    length: u64,
    previous: Option<Content>,
) -> Result<ReadOutcome> {
    let source = SourceSlots { file, path, length, chunks: None };
    let outcome = match previous.and_then(|content| capturing.version(content)) {
        Some(previous) => increment::store(capturing, source, previous),
        None => store_all(capturing, source),
    }?;
    if let ReadOutcome::Stored(stored) = &outcome {
        capturing.writer.complete(&stored.content);
    }
    Ok(outcome)
}

/// Stores an image of so many bytes whose chunks are known, against the version for which they were found out.
pub(super) fn store_identified(
    capturing: &mut Capturing<'_>,
    file: &File,
    path: &Path,
    length: u64,
    chunks: &ImageChunks,
) -> Result<ReadOutcome> {
    let source = SourceSlots { file, path, length, chunks: Some(chunks) };
    let previous = PreviousContent::of(capturing.version_reader(), chunks.against);
    let outcome = increment::store(capturing, source, previous)?;
    if let ReadOutcome::Stored(stored) = &outcome {
        capturing.writer.complete(&stored.content);
    }
    Ok(outcome)
}

/// Stores a file that has no previous version.
fn store_all(capturing: &mut Capturing<'_>, source: SourceSlots<'_>) -> Result<ReadOutcome> {
    let (writer, patience) = (&mut *capturing.writer, capturing.patience);
    let (mut tree, mut sparse) = (TreeBuilder::default(), false);
    let steadiness = source.read(|part| {
        patience.check()?;
        match part {
            Part::Chunks { bytes, ids } => {
                let stored = writer.reserve_all(&ids);
                for ((chunk, id), stored) in bytes.chunks(CHUNK_SIZE).zip(ids).zip(stored) {
                    if stored == Stored::New {
                        writer.put_whole(id, chunk, FrameGroup::Bulk)?;
                    }
                    tree.push_chunk(id, &mut TreeSink { writer, previous: None })?;
                }
                capturing.progress.advance(bytes.len() as u64);
                Ok(())
            }
            Part::Holes(count) => {
                sparse = true;
                tree.push_holes(count, &mut TreeSink { writer, previous: None })
            }
        }
    })?;
    Ok(match steadiness {
        Steadiness::Changed => ReadOutcome::Changed,
        Steadiness::Same => {
            let content = tree.finish(source.length, &mut TreeSink { writer, previous: None })?;
            ReadOutcome::Stored(StoredFile { content, sparse })
        }
    })
}
