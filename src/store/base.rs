//! The base that the next version of a blob is stored against.
//!
//! Invariant: a base has been read and hashed; one that cannot be had is reported and never built upon.

use std::sync::Arc;

use super::blob_reader::{BlobFault, BlobReader, ChainedBlob};
use super::blob_writer::BlobWriter;
use super::chain::{BaseChoice, ChainFacts, choose_base};
use super::pieces::{Piece, Pieces};
use crate::chunk::tree::{FinishedNode, NodeSink};
use crate::error::Result;
use crate::format::content::{Content, Root, slots_below};
use crate::format::limits::NODE_SLOTS;
use crate::format::list_node::ListNode;
use crate::format::pack::{BaseDistance, BlobKind};
use crate::id::BlobId;

/// A blob to store the next version of another one against.
#[derive(Debug, Clone)]
pub struct Base {
    /// Its id.
    pub id: BlobId,
    /// Its bytes.
    pub bytes: Arc<[u8]>,
    /// How many versions back it is.
    pub distance: BaseDistance,
    /// What its own chain is like.
    pub facts: ChainFacts,
}

impl Base {
    /// The base for the version that follows `previous`; `None` where a whole record is due or none can be read.
    ///
    /// # Errors
    /// I/O errors.
    pub fn after(reader: &mut BlobReader<'_>, kind: BlobKind, previous: &BlobId) -> Result<Option<Self>> {
        let chained = match reader.chained(previous, kind)? {
            Ok(chained) => chained,
            Err(fault) => {
                report(previous, &fault);
                return Ok(None);
            }
        };
        let of = |id, chained: ChainedBlob, distance| Self { id, bytes: chained.bytes, distance, facts: chained.facts };
        let anchor = match choose_base(&chained.facts) {
            BaseChoice::Previous => return Ok(Some(of(*previous, chained, BaseDistance::One))),
            BaseChoice::Anchor(anchor) => anchor,
            BaseChoice::Whole => return Ok(None),
        };
        Ok(match reader.chained(&anchor, kind)? {
            Ok(chained) => Some(of(anchor, chained, BaseDistance::Stride)),
            Err(fault) => {
                report(&anchor, &fault);
                None
            }
        })
    }
}

fn report(id: &BlobId, fault: &BlobFault) {
    tracing::warn!(blob = %id, cause = %fault, "a blob of the previous snapshot cannot be read; what follows it is stored whole; run `vecsnap validate`");
}

/// The blobs of a content by their places, for looking up what stood where something new stands now. Cheap as long as
/// the places asked for ascend.
#[derive(Debug)]
pub struct PlacedBlobs {
    content: Content,
    /// The node looked into last, by depth from 1.
    open: Vec<Option<OpenNode>>,
}

#[derive(Debug)]
struct OpenNode {
    number: u64,
    node: ListNode,
}

impl PlacedBlobs {
    /// Of this content.
    pub fn of(content: Content) -> Self {
        Self { content, open: Vec::new() }
    }

    /// The blob at a place: a node of `depth`, or a chunk if that is 0. `None` for holes, places beyond the end and
    /// nodes that cannot be read.
    ///
    /// # Errors
    /// I/O errors.
    pub fn at(&mut self, reader: &mut BlobReader<'_>, depth: u8, number: u64) -> Result<Option<BlobId>> {
        let (root_depth, root) = match self.content.root {
            Root::Empty => return Ok(None),
            Root::Chunk(id) => (0, id),
            Root::Node { depth, id } => (depth, id),
        };
        if depth >= root_depth {
            return Ok((depth == root_depth && number == 0).then_some(root));
        }
        if number >= slots_below(root_depth - depth) {
            return Ok(None);
        }
        let (parent, slot) = (number / NODE_SLOTS as u64, (number % NODE_SLOTS as u64) as usize);
        let level = usize::from(depth);
        if self.open.len() <= level {
            self.open.resize_with(level + 1, || None);
        }
        if self.open.get(level).and_then(Option::as_ref).is_none_or(|open| open.number != parent) {
            let Some(id) = self.at(reader, depth + 1, parent)? else { return Ok(None) };
            let node = match reader.list_node(&id)? {
                Ok(bytes) => ListNode::decode(&bytes).ok(),
                Err(fault) => {
                    report(&id, &fault);
                    None
                }
            };
            let Some(node) = node else { return Ok(None) };
            if let Some(open) = self.open.get_mut(level) {
                *open = Some(OpenNode { number: parent, node });
            }
        }
        let open = self.open.get(level).and_then(Option::as_ref);
        Ok(open.and_then(|open| open.node.slots.get(slot).copied().flatten()))
    }
}

/// The previous version of something: what stood at each place of it.
pub struct PreviousContent<'a> {
    /// For reading its blobs.
    pub reader: BlobReader<'a>,
    blobs: PlacedBlobs,
}

impl<'a> PreviousContent<'a> {
    /// Of this content.
    pub fn of(reader: BlobReader<'a>, content: Content) -> Self {
        Self { reader, blobs: PlacedBlobs::of(content) }
    }

    /// Its content.
    pub fn content(&self) -> Content {
        self.blobs.content
    }

    /// The ids of its chunks, in order; those below nodes that cannot be read are left out.
    ///
    /// # Errors
    /// I/O errors.
    pub fn chunks(&mut self) -> Result<Vec<BlobId>> {
        let mut pieces = Pieces::of(&self.content());
        let mut chunks = Vec::new();
        while let Some(piece) = pieces.next(&mut self.reader, |_| ())? {
            if let Piece::Chunk { id, .. } = piece {
                chunks.push(id);
            }
        }
        Ok(chunks)
    }

    /// The id of the chunk in this slot.
    ///
    /// # Errors
    /// I/O errors.
    pub fn chunk_at(&mut self, slot: u64) -> Result<Option<BlobId>> {
        self.blobs.at(&mut self.reader, 0, slot)
    }

    /// The base for what stands at this place now.
    ///
    /// # Errors
    /// I/O errors.
    pub fn base_at(&mut self, kind: BlobKind, depth: u8, number: u64) -> Result<Option<Base>> {
        match self.blobs.at(&mut self.reader, depth, number)? {
            Some(previous) => Base::after(&mut self.reader, kind, &previous),
            None => Ok(None),
        }
    }
}

/// Stores the list nodes of a content against those of its previous version.
pub struct TreeSink<'s, 'a> {
    /// Takes the nodes.
    pub writer: &'s mut BlobWriter,
    /// What they are stored against.
    pub previous: Option<&'s mut PreviousContent<'a>>,
}

impl NodeSink for TreeSink<'_, '_> {
    fn put_list_node(&mut self, node: FinishedNode<'_>) -> Result<BlobId> {
        let previous = &mut self.previous;
        self.writer.put_metadata(BlobKind::ListNode, node.bytes, || match previous {
            Some(previous) => previous.base_at(BlobKind::ListNode, node.depth, node.number),
            None => Ok(None),
        })
    }
}
