//! The wanted content of a file, piece by piece, for those who cannot go on without it.
//!
//! What is missing or damaged is an error here that names the repository: a restore comes this far only with a snapshot
//! whose every blob was read and hashed before, or with a plan that names what cannot be read (`losses`).

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::format::content::Content;
use crate::id::BlobId;
use crate::store::pieces::{Piece, Pieces};
use crate::store::{BlobFault, BlobReader};

/// A piece of a file, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wanted {
    /// One slot with bytes.
    Slot(WantedSlot),
    /// A run that reads as zeros and takes no space.
    Hole(Range),
    /// A run of which nothing is known, since a list node cannot be read.
    Hidden(HiddenRun),
}

/// A run of bytes whose list node cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HiddenRun {
    pub(super) range: Range,
    pub(super) node: BlobId,
    pub(super) fault: BlobFault,
}

impl HiddenRun {
    /// The error for those who cannot go on without it.
    pub(super) fn into_error(self, reader: &BlobReader<'_>) -> Error {
        unreadable(reader, &self.node, self.fault)
    }
}

/// A slot with bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct WantedSlot {
    pub(super) id: BlobId,
    /// Where it begins, in bytes.
    pub(super) offset: u64,
    /// Its bytes.
    pub(super) length: usize,
}

/// A run of bytes of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    /// Where it begins.
    pub(super) offset: u64,
    /// Its bytes.
    pub(super) length: u64,
}

impl Range {
    /// The first byte behind it.
    pub(super) fn end(&self) -> u64 {
        self.offset.saturating_add(self.length)
    }

    /// What both cover, if anything.
    pub(super) fn intersection(&self, other: &Range) -> Option<Range> {
        let offset = self.offset.max(other.offset);
        let length = self.end().min(other.end()).checked_sub(offset).filter(|length| *length > 0)?;
        Some(Range { offset, length })
    }
}

/// Calls `take` with every piece of the content.
pub(super) fn for_each_piece<'a>(
    content: &Content,
    reader: &mut BlobReader<'a>,
    mut take: impl FnMut(&mut BlobReader<'a>, Wanted) -> Result<()>,
) -> Result<()> {
    let mut pieces = Pieces::of(content);
    while let Some(piece) = pieces.next(reader, |_| ())? {
        match piece {
            Piece::Chunk { id, offset, length } => take(reader, Wanted::Slot(WantedSlot { id, offset, length }))?,
            Piece::Hole { offset, length } => take(reader, Wanted::Hole(Range { offset, length }))?,
            Piece::Hidden { node, offset, length, fault } => {
                take(reader, Wanted::Hidden(HiddenRun { range: Range { offset, length }, node, fault }))?;
            }
        }
    }
    Ok(())
}

/// The bytes of a slot.
pub(super) fn read_slot(reader: &mut BlobReader<'_>, slot: &WantedSlot) -> Result<Arc<[u8]>> {
    match reader.chunk(&slot.id)? {
        Ok(bytes) if bytes.len() == slot.length => Ok(bytes),
        Ok(_) => Err(unreadable(reader, &slot.id, BlobFault::Corrupt("it has not the length of its place".into()))),
        Err(fault) => Err(unreadable(reader, &slot.id, fault)),
    }
}

fn unreadable(reader: &BlobReader<'_>, id: &BlobId, fault: BlobFault) -> Error {
    Error::damaged(reader.repository().root(), cannot_be_read(id, &fault.to_string()))
}

/// What is told of a blob that is in the way.
pub(super) fn cannot_be_read(id: &BlobId, cause: &str) -> String {
    format!("blob {id} cannot be read: {cause}; run `vecsnap validate`")
}

/// The first piece of the content, if it has any.
pub(super) fn first_piece(content: &Content, reader: &mut BlobReader<'_>) -> Result<Option<Wanted>> {
    Ok(match Pieces::of(content).next(reader, |_| ())? {
        Some(Piece::Chunk { id, offset, length }) => Some(Wanted::Slot(WantedSlot { id, offset, length })),
        Some(Piece::Hole { offset, length }) => Some(Wanted::Hole(Range { offset, length })),
        Some(Piece::Hidden { node, offset, length, fault }) => {
            Some(Wanted::Hidden(HiddenRun { range: Range { offset, length }, node, fault }))
        }
        None => None,
    })
}
