//! List nodes, the inner blobs of a file's tree: format-spec.md §8.
//!
//! A node of depth d has up to 128 slots, each spanning 128^(d-1) chunks by position; a slot is a child or a hole.
//! Ids stand together in one run, so that a run of changed chunks is one run of changed bytes for a delta.
//! Invariant: positional and canonical, so that growing a file touches only its right edge.

use bincode::{Decode, Encode};

use super::Malformed;
use super::codec;
use super::limits::{BLOB_BYTES, NODE_DEPTH, NODE_SLOTS};
use crate::id::BlobId;

/// A run of slots that are holes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct HoleRun {
    /// The first slot of the run.
    pub first: u32,
    /// Slots of the run, at least 1.
    pub count: u32,
}

#[derive(Encode, Decode)]
struct StoredNode {
    depth: u8,
    slots: u32,
    holes: Vec<HoleRun>,
    ids: Vec<BlobId>,
}

/// A list node: children and holes in the order of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListNode {
    /// 1 when the children are chunks, else their depth plus one.
    pub depth: u8,
    /// One item a slot; `None` is a hole over all that the slot spans.
    pub slots: Vec<Option<BlobId>>,
}

impl ListNode {
    /// The serialised bytes, which [`BlobId::of_list_node`] names.
    ///
    /// # Errors
    /// [`Malformed`] if the node breaks a limit.
    pub fn encode(&self) -> Result<Vec<u8>, Malformed> {
        let mut holes: Vec<HoleRun> = Vec::new();
        let mut ids = Vec::with_capacity(self.slots.len());
        for (number, slot) in (0_u32..).zip(&self.slots) {
            match (slot, holes.last_mut()) {
                (Some(id), _) => ids.push(*id),
                (None, Some(run)) if run.first + run.count == number => run.count += 1,
                (None, _) => holes.push(HoleRun { first: number, count: 1 }),
            }
        }
        let stored = StoredNode { depth: self.depth, slots: self.slots.len() as u32, holes, ids };
        check(&stored)?;
        codec::encode(&stored)
    }

    /// The node with these bytes.
    ///
    /// # Errors
    /// [`Malformed`] for bytes that are no canonical node.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let stored: StoredNode = codec::decode::<_, BLOB_BYTES>(bytes)?;
        check(&stored)?;
        let mut ids = stored.ids.into_iter();
        let mut holes = stored.holes.iter().peekable();
        let mut slots = Vec::with_capacity(NODE_SLOTS);
        for number in 0..stored.slots {
            while holes.next_if(|run| run.first + run.count <= number).is_some() {}
            let hole = holes.peek().is_some_and(|run| run.first <= number);
            slots.push(if hole { None } else { ids.next() });
        }
        Ok(Self { depth: stored.depth, slots })
    }
}

fn check(stored: &StoredNode) -> Result<(), Malformed> {
    if stored.depth == 0 || stored.depth > NODE_DEPTH {
        return Err(Malformed::Limit("depth"));
    }
    if stored.slots == 0 || stored.slots as usize > NODE_SLOTS {
        return Err(Malformed::Limit("number of slots"));
    }
    let mut free = 0_u32;
    let mut holes = 0_u32;
    for run in &stored.holes {
        let end = run.first.checked_add(run.count).filter(|&end| end <= stored.slots);
        let (Some(end), true, true) = (end, run.count > 0, run.first >= free) else {
            return Err(Malformed::invalid("its holes are not ascending runs within its slots"));
        };
        free = end + 1;
        holes += run.count;
    }
    if stored.ids.len() != (stored.slots - holes) as usize {
        return Err(Malformed::invalid("it has not one id for each slot that is no hole"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn node() -> impl Strategy<Value = ListNode> {
        let slot = prop_oneof![Just(None), any::<[u8; 32]>().prop_map(|bytes| Some(BlobId::from_bytes(bytes)))];
        (1..=NODE_DEPTH, prop::collection::vec(slot, 1..=NODE_SLOTS))
            .prop_map(|(depth, slots)| ListNode { depth, slots })
    }

    proptest! {
        #[test]
        fn decodes_what_it_encodes(node in node()) {
            prop_assert_eq!(ListNode::decode(&node.encode().unwrap()).unwrap(), node);
        }

        #[test]
        fn any_bytes_decode_canonically_or_not_at_all(mut bytes in node().prop_map(|node| node.encode().unwrap()), at in any::<prop::sample::Index>(), value in any::<u8>()) {
            let at = at.index(bytes.len());
            bytes[at] = value;
            if let Ok(node) = ListNode::decode(&bytes) {
                prop_assert_eq!(node.encode().unwrap(), bytes);
            }
        }
    }

    #[test]
    fn too_many_slots_and_no_slots_are_refused() {
        assert!(ListNode { depth: 1, slots: vec![None; NODE_SLOTS + 1] }.encode().is_err());
        assert!(ListNode { depth: 1, slots: Vec::new() }.encode().is_err());
        assert!(ListNode { depth: 8, slots: vec![None] }.encode().is_err());
    }
}
