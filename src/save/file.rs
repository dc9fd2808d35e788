//! Storing the bytes of one file: holes by the file system's word, all else chunk by chunk.
//!
//! Invariant: exactly the bytes up to the length seen at the start are stored; a file that became shorter meanwhile is
//! reported as changed, one that changed otherwise is noticed by its stat. Memory: one buffer.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::chunk::tree::TreeBuilder;
use crate::disk::holes::{self, ExtentKind};
use crate::error::{Error, Result};
use crate::format::content::Content;
use crate::format::limits::CHUNK_SIZE;
use crate::progress::Progress;
use crate::store::{BlobWriter, Purpose};

const BUFFER_CHUNKS: usize = 16;

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

/// Stores the first `length` bytes of a file.
pub(super) fn store(
    file: &File,
    path: &Path,
    length: u64,
    writer: &mut BlobWriter,
    progress: &dyn Progress,
) -> Result<ReadOutcome> {
    let slots = Content::slots(length);
    let mut tree = TreeBuilder::default();
    let mut buffer = vec![0; CHUNK_SIZE * BUFFER_CHUNKS];
    let mut sparse = false;
    for extent in holes::extents(file, length) {
        let extent = extent.map_err(Error::io("read", path))?;
        let end = extent.offset + extent.length;
        if extent.kind == ExtentKind::Hole {
            sparse = true;
            // A slot is a hole only if all of it is; a file of one slot is always a chunk.
            let first = extent.offset.div_ceil(CHUNK_SIZE as u64).max(tree.slots());
            let after = if end == length { slots } else { end / CHUNK_SIZE as u64 };
            if slots > 1 && first < after {
                if !read_slots(file, path, tree.slots()..first, length, &mut buffer, &mut tree, writer, progress)? {
                    return Ok(ReadOutcome::Shrank);
                }
                tree.push_holes(after - first, writer)?;
            }
        }
    }
    if !read_slots(file, path, tree.slots()..slots, length, &mut buffer, &mut tree, writer, progress)? {
        return Ok(ReadOutcome::Shrank);
    }
    let content = tree.finish(length, writer)?;
    Ok(ReadOutcome::Stored(StoredFile { content, sparse }))
}

/// Reads and stores a run of slots; false if the file ends within it.
#[expect(clippy::too_many_arguments, reason = "the state of one loop, split off for its name")]
fn read_slots(
    file: &File,
    path: &Path,
    slots: std::ops::Range<u64>,
    length: u64,
    buffer: &mut [u8],
    tree: &mut TreeBuilder,
    writer: &mut BlobWriter,
    progress: &dyn Progress,
) -> Result<bool> {
    let mut position = slots.start.saturating_mul(CHUNK_SIZE as u64);
    let end = slots.end.saturating_mul(CHUNK_SIZE as u64).min(length);
    while position < end {
        progress.check()?;
        let wanted = usize::try_from(end - position).unwrap_or(usize::MAX).min(buffer.len());
        let Some(part) = buffer.get_mut(..wanted) else { return Ok(false) };
        match file.read_exact_at(part, position) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            Err(error) => return Err(Error::io("read", path)(error)),
        }
        for chunk in part.chunks(CHUNK_SIZE) {
            let id = writer.put_chunk(chunk, Purpose::Data)?;
            tree.push_chunk(id, writer)?;
        }
        progress.advance(wanted as u64);
        position += wanted as u64;
    }
    Ok(true)
}
