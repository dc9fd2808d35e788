//! Building a file's tree of list nodes while its chunks come by: format-spec.md §7, §8.
//!
//! Invariant: memory is one partly filled node a level, whatever the length of the file; a run of holes costs time in
//! proportion to the depth of the tree, not to its length; the result is canonical.

use crate::error::{Error, Result};
use crate::format::Malformed;
use crate::format::content::{Content, Root, slots_below};
use crate::format::limits::NODE_SLOTS;
use crate::format::list_node::ListNode;
use crate::id::BlobId;

/// A list node as it leaves the builder, with its place in the tree.
#[derive(Debug, Clone, Copy)]
pub struct FinishedNode<'a> {
    /// The serialised node.
    pub bytes: &'a [u8],
    /// Its depth: 1 above chunks.
    pub depth: u8,
    /// Its number among the places for nodes of its depth, from the left.
    pub number: u64,
}

/// Takes the list nodes of a tree.
pub trait NodeSink {
    /// Stores a list node.
    ///
    /// # Errors
    /// Whatever keeps it from being stored.
    fn put_list_node(&mut self, node: FinishedNode<'_>) -> Result<BlobId>;
}

/// Builds one file's tree from its slots in order.
#[derive(Debug, Default)]
pub struct TreeBuilder {
    /// Item d holds the finished children of the unfinished node of depth d + 1.
    levels: Vec<Vec<Option<BlobId>>>,
    slots: u64,
}

impl TreeBuilder {
    /// Slots taken so far.
    pub fn slots(&self) -> u64 {
        self.slots
    }

    /// Takes the next chunk.
    ///
    /// # Errors
    /// Those of the sink.
    pub fn push_chunk(&mut self, id: BlobId, sink: &mut dyn NodeSink) -> Result<()> {
        self.slots += 1;
        self.push(0, Some(id), sink)
    }

    /// Takes a run of slots that are holes.
    ///
    /// # Errors
    /// Those of the sink.
    pub fn push_holes(&mut self, count: u64, sink: &mut dyn NodeSink) -> Result<()> {
        let mut left = count;
        while left > 0 {
            let aligned = self.levels.iter().take_while(|level| level.is_empty()).count();
            let level = (0..=aligned).rev().find(|&level| slots_below(level as u8) <= left).unwrap_or(0);
            let span = slots_below(level as u8);
            self.slots += span;
            left -= span;
            self.push(level, None, sink)?;
        }
        Ok(())
    }

    /// Ends the file, which is `length` bytes long.
    ///
    /// # Errors
    /// Those of the sink; [`Error::Failed`] if the slots do not fit the length, which a file that shrank while it was
    /// read can cause.
    pub fn finish(mut self, length: u64, sink: &mut dyn NodeSink) -> Result<Content> {
        let slots = Content::slots(length);
        if slots != self.slots {
            return Err(Error::Failed(format!("{} chunks were read for a file of {length} bytes", self.slots)));
        }
        let depth = Content::depth_for(slots);
        for level in 0..usize::from(depth) {
            if self.levels.get(level).is_some_and(|children| !children.is_empty()) {
                self.close(level, sink)?;
            }
        }
        let top = self.levels.get(usize::from(depth)).and_then(|level| level.first()).copied().flatten();
        let root = match (depth, top) {
            (0, None) => Root::Empty,
            (0, Some(id)) => Root::Chunk(id),
            (depth, Some(id)) => Root::Node { depth, id },
            (depth, None) => {
                let children = slots.div_ceil(slots_below(depth - 1)) as usize;
                Root::Node { depth, id: put_node(depth, 0, vec![None; children], sink)? }
            }
        };
        let content = Content { length, root };
        content.check().map_err(|_| Error::Failed(format!("a hole alone cannot hold a file of {length} bytes")))?;
        Ok(content)
    }

    fn push(&mut self, level: usize, child: Option<BlobId>, sink: &mut dyn NodeSink) -> Result<()> {
        if self.levels.len() <= level {
            self.levels.resize_with(level + 1, Vec::new);
        }
        let Some(children) = self.levels.get_mut(level) else { return Ok(()) };
        children.push(child);
        if children.len() == NODE_SLOTS { self.close(level, sink) } else { Ok(()) }
    }

    fn close(&mut self, level: usize, sink: &mut dyn NodeSink) -> Result<()> {
        let children = self.levels.get_mut(level).map(std::mem::take).unwrap_or_default();
        let node =
            if children.iter().all(Option::is_none) { None } else { Some(self.put_full(level, children, sink)?) };
        self.push(level + 1, node, sink)
    }

    fn put_full(&self, level: usize, children: Vec<Option<BlobId>>, sink: &mut dyn NodeSink) -> Result<BlobId> {
        let depth = level as u8 + 1;
        put_node(depth, self.slots.saturating_sub(1) / slots_below(depth), children, sink)
    }
}

fn put_node(depth: u8, number: u64, slots: Vec<Option<BlobId>>, sink: &mut dyn NodeSink) -> Result<BlobId> {
    let broken = |error: Malformed| Error::Failed(format!("a file is too long for the format: {error}"));
    let bytes = ListNode { depth, slots }.encode().map_err(broken)?;
    sink.put_list_node(FinishedNode { bytes: &bytes, depth, number })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::limits::CHUNK_SIZE;
    use std::collections::HashMap;

    #[derive(Default)]
    struct Nodes(HashMap<BlobId, ListNode>, Vec<(u8, u64)>);

    impl NodeSink for Nodes {
        fn put_list_node(&mut self, node: FinishedNode<'_>) -> Result<BlobId> {
            let id = BlobId::of_list_node(node.bytes);
            self.0.insert(id, ListNode::decode(node.bytes).unwrap());
            self.1.push((node.depth, node.number));
            Ok(id)
        }
    }

    impl Nodes {
        fn leaves(&self, depth: u8, id: BlobId, slots: u64) -> Vec<Option<BlobId>> {
            let node = &self.0[&id];
            assert_eq!(node.depth, depth);
            let span = slots_below(depth - 1);
            assert_eq!(node.slots.len() as u64, slots.div_ceil(span));
            let mut leaves = Vec::new();
            for (number, slot) in node.slots.iter().enumerate() {
                let below = span.min(slots - number as u64 * span);
                match slot {
                    Some(id) if depth > 1 => leaves.extend(self.leaves(depth - 1, *id, below)),
                    Some(id) => leaves.push(Some(*id)),
                    None => leaves.extend(vec![None; below as usize]),
                }
            }
            leaves
        }
    }

    fn build(slots: &[Option<BlobId>], together: bool) -> (Content, Nodes) {
        let (mut tree, mut nodes) = (TreeBuilder::default(), Nodes::default());
        let mut holes = 0;
        for slot in slots {
            match slot {
                None if together => holes += 1,
                None => tree.push_holes(1, &mut nodes).unwrap(),
                Some(id) => {
                    tree.push_holes(std::mem::take(&mut holes), &mut nodes).unwrap();
                    tree.push_chunk(*id, &mut nodes).unwrap();
                }
            }
        }
        tree.push_holes(holes, &mut nodes).unwrap();
        let content = tree.finish(slots.len() as u64 * CHUNK_SIZE as u64, &mut nodes).unwrap();
        (content, nodes)
    }

    #[test]
    fn trees_of_every_shape_give_their_slots_back_and_are_canonical() {
        let chunk = Some(BlobId::of_chunk(b"x"));
        for count in [2, 127, 128, 129, 300, 128 * 128, 128 * 128 + 1, 40_000] {
            for shape in 0..4 {
                let slot = |number: usize| match shape {
                    0 => chunk,
                    1 => None,
                    2 => {
                        if number % 1000 < 500 {
                            chunk
                        } else {
                            None
                        }
                    }
                    _ => {
                        if number == count - 1 {
                            chunk
                        } else {
                            None
                        }
                    }
                };
                let slots: Vec<_> = (0..count).map(slot).collect();
                let (content, nodes) = build(&slots, true);
                let Root::Node { depth, id } = content.root else { panic!("{content:?}") };
                assert_eq!(nodes.leaves(depth, id, count as u64), slots, "{count} slots, shape {shape}");
                assert_eq!(build(&slots, false).0, content, "{count} slots, shape {shape}");
            }
        }
    }

    #[test]
    fn a_hole_of_seventeen_terabytes_is_one_small_tree() {
        let (mut tree, mut nodes) = (TreeBuilder::default(), Nodes::default());
        let slots = Content::slots(17 << 40);
        tree.push_chunk(BlobId::of_chunk(b"x"), &mut nodes).unwrap();
        tree.push_holes(slots - 1, &mut nodes).unwrap();
        tree.finish(17 << 40, &mut nodes).unwrap();
        assert!(nodes.0.len() <= 5, "{} nodes", nodes.0.len());
    }

    #[test]
    fn nodes_tell_their_places() {
        let chunk = Some(BlobId::of_chunk(b"x"));
        let slots: Vec<_> = (0..40_000).map(|number| if number / 128 == 3 { None } else { chunk }).collect();
        let (_, nodes) = build(&slots, true);
        let places = |depth| nodes.1.iter().filter(move |place| place.0 == depth).map(|place| place.1);
        assert!(places(1).eq((0..313).filter(|number| *number != 3)));
        assert!(places(2).eq(0..3));
        assert!(places(3).eq(0..1));
    }

    #[test]
    fn small_files_have_no_nodes() {
        let mut nodes = Nodes::default();
        assert_eq!(TreeBuilder::default().finish(0, &mut nodes).unwrap(), Content::EMPTY);
        let mut tree = TreeBuilder::default();
        tree.push_chunk(BlobId::of_chunk(b"x"), &mut nodes).unwrap();
        assert_eq!(tree.finish(1, &mut nodes).unwrap().root, Root::Chunk(BlobId::of_chunk(b"x")));
        assert!(nodes.0.is_empty());
    }

    #[test]
    fn a_length_that_does_not_fit_the_slots_is_an_error() {
        let mut tree = TreeBuilder::default();
        tree.push_chunk(BlobId::of_chunk(b"x"), &mut Nodes::default()).unwrap();
        assert!(tree.finish(65_537, &mut Nodes::default()).is_err());
    }
}
