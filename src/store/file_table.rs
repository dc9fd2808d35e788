//! Writing and reading file tables: format-spec.md §10.
//!
//! A table is streamed in both directions, so that a source of a million files needs no more memory than one of ten.

use super::base::{PreviousContent, TreeSink};
use super::blob_reader::{BlobFault, BlobReader};
use super::blob_writer::BlobWriter;
use super::pieces::{Piece, Pieces};
use crate::chunk::cut::Cutter;
use crate::chunk::tree::TreeBuilder;
use crate::error::{Error, Result};
use crate::format::content::Content;
use crate::format::pack::BlobKind;
use crate::format::table::{Entry, EntryDecoder};
use crate::id::BlobId;

/// Writes one file table, against the previous one of the same source.
#[derive(Default)]
pub struct TableWriter<'a> {
    cutter: Cutter,
    tree: TreeBuilder,
    length: u64,
    previous: Option<PreviousContent<'a>>,
}

impl<'a> TableWriter<'a> {
    /// A writer that stores the table against the previous one.
    pub fn after(previous: Option<PreviousContent<'a>>) -> Self {
        Self { previous, ..Self::default() }
    }

    /// Appends an entry; entries come in the order of [`compare_paths`](crate::format::table::compare_paths).
    ///
    /// # Errors
    /// [`Error::Failed`] for an entry that the format forbids; errors of the writer.
    pub fn push(&mut self, entry: &Entry, writer: &mut BlobWriter) -> Result<()> {
        let bytes = entry.encode().map_err(|fault| {
            Error::Failed(format!(
                "'{}' cannot be captured: {fault}",
                String::from_utf8_lossy(&entry.path).escape_debug()
            ))
        })?;
        self.length += bytes.len() as u64;
        let Self { cutter, tree, previous, .. } = self;
        cutter.feed(&bytes, |chunk| put_chunk(chunk, tree, previous, writer))
    }

    /// Ends the table and returns its content.
    ///
    /// # Errors
    /// Errors of the writer.
    pub fn finish(mut self, writer: &mut BlobWriter) -> Result<Content> {
        let Self { cutter, tree, previous, .. } = &mut self;
        cutter.finish(|chunk| put_chunk(chunk, tree, previous, writer))?;
        self.tree.finish(self.length, &mut TreeSink { writer, previous: self.previous.as_mut() })
    }
}

fn put_chunk(
    chunk: &[u8],
    tree: &mut TreeBuilder,
    previous: &mut Option<PreviousContent<'_>>,
    writer: &mut BlobWriter,
) -> Result<()> {
    let id = writer.put_metadata(BlobKind::Chunk, chunk, || match previous {
        Some(previous) => previous.base_at(BlobKind::Chunk, 0, tree.slots()),
        None => Ok(None),
    })?;
    tree.push_chunk(id, &mut TreeSink { writer, previous: previous.as_mut() })
}

/// Why a table cannot be read on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TableFault {
    /// One of its blobs is missing or damaged.
    #[error("a part of the file table cannot be read")]
    Blob {
        /// The blob.
        id: BlobId,
        /// Where it stands in the table, in bytes.
        offset: u64,
        /// Why.
        fault: BlobFault,
    },
    /// Its bytes are no table.
    #[error("the file table is malformed: {0}")]
    Malformed(String),
}

/// Reads one file table entry by entry.
pub struct TableReader {
    pieces: Pieces,
    decoder: EntryDecoder,
    ended: bool,
}

/// The outcome of reading an entry.
pub type EntryResult = std::result::Result<Option<Entry>, TableFault>;

impl TableReader {
    /// The table with this content.
    pub fn of(content: &Content) -> Self {
        Self { pieces: Pieces::of(content), decoder: EntryDecoder::default(), ended: false }
    }

    /// The next entry, or `None` after the last; calls `blob` with the id of each blob of the table on the way.
    ///
    /// # Errors
    /// I/O errors; a table that is damaged is a [`TableFault`] inside.
    pub fn next(&mut self, reader: &mut BlobReader<'_>, mut blob: impl FnMut(&BlobId)) -> Result<EntryResult> {
        loop {
            match self.decoder.take() {
                Ok(Some(entry)) => return Ok(Ok(Some(entry))),
                Ok(None) if self.ended => {
                    return Ok(match self.decoder.finish() {
                        Ok(()) => Ok(None),
                        Err(fault) => Err(TableFault::Malformed(fault.to_string())),
                    });
                }
                Ok(None) => {}
                Err(fault) => return Ok(Err(TableFault::Malformed(fault.to_string()))),
            }
            match self.pieces.next(reader, &mut blob)? {
                Some(Piece::Chunk { id, offset, length }) => {
                    blob(&id);
                    match reader.chunk(&id)? {
                        Ok(bytes) if bytes.len() == length => self.decoder.feed(&bytes),
                        Ok(_) => {
                            return Ok(Err(TableFault::Malformed("a chunk has not the length of its place".into())));
                        }
                        Err(fault) => return Ok(Err(TableFault::Blob { id, offset, fault })),
                    }
                }
                Some(Piece::Hidden { node, offset, fault, .. }) => {
                    return Ok(Err(TableFault::Blob { id: node, offset, fault }));
                }
                Some(Piece::Hole { .. }) => return Ok(Err(TableFault::Malformed("it has a hole".into()))),
                None => self.ended = true,
            }
        }
    }
}
