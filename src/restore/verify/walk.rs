//! Walking everything that a source of a snapshot holds, damaged parts included.
//!
//! Invariant: each file's pieces come in order after its entry; what a damaged list node or table hides comes as a
//! range, so nothing is passed over in silence. Memory: one node a level.

use std::collections::HashSet;

use super::finding::{FileRange, file_name};
use crate::error::Result;
use crate::format::content::Content;
use crate::format::manifest::SourceRecord;
use crate::format::table::{Entry, EntryKind};
use crate::id::BlobId;
use crate::store::file_table::{TableFault, TableReader};
use crate::store::pieces::{self, NodePlace, Piece, Pieces};
use crate::store::{BlobFault, BlobReader};

/// What a walk meets.
pub enum Visited<'a> {
    /// An entry of the file table.
    Entry(&'a Entry),
    /// A chunk of the file whose entry came last.
    Chunk {
        /// The file's entry.
        entry: &'a Entry,
        /// The chunk.
        id: BlobId,
        /// Where it stands in the file, in bytes.
        offset: u64,
        /// Its bytes.
        length: u64,
    },
    /// A hole of the file whose entry came last.
    Hole {
        /// Where it begins, in bytes.
        offset: u64,
        /// Its bytes.
        length: u64,
    },
    /// A part of a file, or of the table, that cannot be known.
    Hidden {
        /// Which bytes.
        range: FileRange,
        /// Why; for a table, also what it hides.
        fault: BlobFault,
        /// What else is lost with it; may be empty.
        also: String,
    },
}

/// How far a walk goes down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WalkDepth {
    /// Entries alone.
    Entries,
    /// Entries and the chunks of files.
    Chunks,
    /// The same, but what stands below equal list nodes comes once: a file of a few kilobytes of lists may claim to
    /// have exabytes.
    DistinctChunks,
}

/// Nodes from this depth on are remembered: each stands for a gibibyte, so they are few.
const REMEMBERED_DEPTH: u8 = 2;

/// Walks a captured source.
///
/// # Errors
/// I/O errors and those of `visit`; damage comes as [`Visited::Hidden`].
pub fn walk(
    source: &SourceRecord,
    descent: WalkDepth,
    reader: &mut BlobReader<'_>,
    visit: &mut dyn FnMut(&mut BlobReader<'_>, Visited<'_>) -> Result<()>,
) -> Result<()> {
    let mut table = TableReader::of(&source.table);
    let mut last = None;
    let mut seen = (descent == WalkDepth::DistinctChunks).then(HashSet::new);
    loop {
        let entry = match table.next(reader, |_| ())? {
            Ok(Some(entry)) => entry,
            Ok(None) => return Ok(()),
            Err(fault) => return visit(reader, hidden_table(source, last.as_ref(), fault)),
        };
        visit(reader, Visited::Entry(&entry))?;
        if let (EntryKind::File(file), WalkDepth::Chunks | WalkDepth::DistinctChunks) = (&entry.kind, descent) {
            walk_content(source, &entry, &file.content, seen.as_mut(), reader, visit)?;
        }
        last = Some(entry);
    }
}

/// Whether the same stood below an equal node before.
pub(super) fn is_repeated(seen: &mut HashSet<BlobId>, node: &NodePlace) -> bool {
    node.whole && node.depth >= REMEMBERED_DEPTH && !seen.insert(node.id)
}

fn walk_content(
    source: &SourceRecord,
    entry: &Entry,
    content: &Content,
    mut seen: Option<&mut HashSet<BlobId>>,
    reader: &mut BlobReader<'_>,
    visit: &mut dyn FnMut(&mut BlobReader<'_>, Visited<'_>) -> Result<()>,
) -> Result<()> {
    let mut pieces = Pieces::of(content);
    let mut descend = |node: NodePlace| {
        let again = seen.as_mut().is_some_and(|seen| is_repeated(seen, &node));
        Ok(if again { pieces::Descent::Past } else { pieces::Descent::Below })
    };
    while let Some(piece) = pieces.next_in(reader, &mut descend)? {
        match piece {
            Piece::Chunk { id, offset, length } => {
                visit(reader, Visited::Chunk { entry, id, offset, length: length as u64 })?;
            }
            Piece::Hole { offset, length } => visit(reader, Visited::Hole { offset, length })?,
            Piece::Hidden { offset, length, fault, .. } => {
                let range = FileRange { file: file_name(&source.name, entry), offset, length };
                visit(reader, Visited::Hidden { range, fault, also: String::new() })?;
            }
        }
    }
    Ok(())
}

fn hidden_table(source: &SourceRecord, last: Option<&Entry>, fault: TableFault) -> Visited<'static> {
    let also = match last {
        Some(entry) => format!("this hides every file after {}", file_name(&source.name, entry)),
        None => format!("this hides every file of {}", source.name),
    };
    let file = format!("the file table of {}", source.name);
    let (offset, fault) = match fault {
        TableFault::Blob { offset, fault, .. } => (offset, fault),
        TableFault::Malformed(cause) => (0, BlobFault::Corrupt(cause)),
    };
    let range = FileRange { file, offset, length: source.table.length.saturating_sub(offset) };
    Visited::Hidden { range, fault, also }
}
