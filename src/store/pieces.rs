//! Walking a file's content: slot by slot, or compared with another one.
//!
//! Invariant: slots come in order and fit the length; a node that is not what the format allows is a fault of the blob,
//! reported with the range of bytes that it hides. Memory: one node a level.

use super::blob_reader::{BlobFault, BlobReader};
use crate::error::Result;
use crate::format::content::{Content, Root, slots_below};
use crate::format::limits::CHUNK_SIZE;
use crate::format::list_node::ListNode;
use crate::id::BlobId;

/// A piece of a file's content, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// One chunk.
    Chunk {
        /// Its id.
        id: BlobId,
        /// Where it begins in the file, in bytes.
        offset: u64,
        /// Its bytes.
        length: usize,
    },
    /// A hole.
    Hole {
        /// Where it begins, in bytes.
        offset: u64,
        /// Its bytes.
        length: u64,
    },
    /// A part of the file whose list node cannot be read.
    Hidden {
        /// The node.
        node: BlobId,
        /// Where the part begins, in bytes.
        offset: u64,
        /// Its bytes.
        length: u64,
        /// Why.
        fault: BlobFault,
    },
}

/// What to do at a list node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Descent {
    /// Go on with what is below it.
    Below,
    /// Go on with what comes after it.
    Past,
}

/// A list node on the way, and where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodePlace {
    /// The node.
    pub id: BlobId,
    /// Its depth.
    pub depth: u8,
    /// Whether every slot below it is a whole one: then equal nodes of this depth stand for equal bytes.
    pub whole: bool,
}

/// The pieces of one file.
pub struct Pieces {
    length: u64,
    /// Unvisited nodes and chunks, the next one last.
    waiting: Vec<Waiting>,
}

struct Waiting {
    item: Option<BlobId>,
    /// 0 for a chunk.
    depth: u8,
    first_slot: u64,
}

impl Pieces {
    /// The pieces of this content.
    pub fn of(content: &Content) -> Self {
        let waiting = match content.root {
            Root::Empty => Vec::new(),
            Root::Chunk(id) => vec![Waiting { item: Some(id), depth: 0, first_slot: 0 }],
            Root::Node { depth, id } => vec![Waiting { item: Some(id), depth, first_slot: 0 }],
        };
        Self { length: content.length, waiting }
    }

    /// The next piece; calls `node` with the id of each list node on the way.
    ///
    /// # Errors
    /// I/O errors of reading nodes; nodes that are missing or damaged come out as [`Piece::Hidden`].
    pub fn next(&mut self, reader: &mut BlobReader<'_>, mut node: impl FnMut(&BlobId)) -> Result<Option<Piece>> {
        self.next_below(reader, |id| {
            node(id);
            Ok(Descent::Below)
        })
    }

    /// The next piece; `node` decides for each list node on the way whether what is below it comes out at all.
    ///
    /// # Errors
    /// Those of [`Pieces::next`] and of `node`.
    pub fn next_below(
        &mut self,
        reader: &mut BlobReader<'_>,
        mut node: impl FnMut(&BlobId) -> Result<Descent>,
    ) -> Result<Option<Piece>> {
        self.next_in(reader, |place| node(&place.id))
    }

    /// The next piece; `node` decides by the place of each list node on the way.
    ///
    /// # Errors
    /// Those of [`Pieces::next`] and of `node`.
    pub fn next_in(
        &mut self,
        reader: &mut BlobReader<'_>,
        mut node: impl FnMut(NodePlace) -> Result<Descent>,
    ) -> Result<Option<Piece>> {
        while let Some(next) = self.waiting.pop() {
            let offset = next.first_slot * CHUNK_SIZE as u64;
            let span = slots_below(next.depth).saturating_mul(CHUNK_SIZE as u64);
            let length = span.min(self.length.saturating_sub(offset));
            match (next.item, next.depth) {
                (None, _) => return Ok(Some(Piece::Hole { offset, length })),
                (Some(id), 0) => return Ok(Some(Piece::Chunk { id, offset, length: length as usize })),
                (Some(id), depth) => {
                    if node(NodePlace { id, depth, whole: length == span })? == Descent::Past {
                        continue;
                    }
                    if let Err(fault) = self.descend(&id, depth, next.first_slot, reader)? {
                        return Ok(Some(Piece::Hidden { node: id, offset, length, fault }));
                    }
                }
            }
        }
        Ok(None)
    }

    fn descend(
        &mut self,
        id: &BlobId,
        depth: u8,
        first_slot: u64,
        reader: &mut BlobReader<'_>,
    ) -> Result<std::result::Result<(), BlobFault>> {
        let bytes = match reader.list_node(id)? {
            Ok(bytes) => bytes,
            Err(fault) => return Ok(Err(fault)),
        };
        let span = slots_below(depth - 1);
        let below = (Content::slots(self.length) - first_slot).min(slots_below(depth));
        let node = match ListNode::decode(&bytes) {
            Ok(node) if node.depth == depth && node.slots.len() as u64 == below.div_ceil(span) => node,
            Ok(_) => return Ok(Err(BlobFault::Corrupt(format!("list node {id} does not fit its place")))),
            Err(fault) => return Ok(Err(BlobFault::Corrupt(format!("list node {id}: {fault}")))),
        };
        let children = (0_u64..).zip(&node.slots).map(|(number, slot)| Waiting {
            item: *slot,
            depth: depth - 1,
            first_slot: first_slot + number * span,
        });
        let start = self.waiting.len();
        self.waiting.extend(children);
        if let Some(added) = self.waiting.get_mut(start..) {
            added.reverse();
        }
        Ok(Ok(()))
    }
}
