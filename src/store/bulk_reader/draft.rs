//! What a blob is put together from, found by following its chain once.
//!
//! Invariants: a draft holds all literals of the blob, so that whoever has it needs the whole records that it names and
//! no delta any more; its runs cover the blob from the first byte to the last. Nothing of it is verified: what is put
//! together from it must be hashed. Why: what a delta needs of whole records must be known before their frames are
//! decoded, and its chain would have to be followed twice otherwise.

use std::ops::Range;

use bincode::{Decode, Encode};

use super::HeldRun;
use super::plan::{Node, NodeNumber, Plan};
use crate::format::codec;
use crate::store::staged::{Span, StagedBlobs};

/// Most bytes that a draft takes in memory: a blob of 64 KiB has no more runs than bytes.
const MOST_BYTES: usize = 4 * 1024 * 1024;

/// How to put one blob together.
#[derive(Debug, Default, PartialEq, Eq, Encode, Decode)]
pub(super) struct Draft {
    pub(super) runs: Vec<DraftRun>,
    /// The bytes of all runs that are literals, one after the other.
    pub(super) literals: Vec<u8>,
}

/// A run of the blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub(super) struct DraftRun {
    pub(super) origin: RunOrigin,
    /// The record that holds its bytes.
    pub(super) holder: NodeNumber,
    /// Where it begins in the blob that is recorded there, in bytes.
    pub(super) place: u32,
    /// Bytes.
    pub(super) length: u32,
}

/// Where the bytes of a run are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub(super) enum RunOrigin {
    /// Next among the draft's literals: the holder is a delta.
    Literals,
    /// In the holder, a whole record.
    Whole,
}

/// A part of a whole record that a blob is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NeededPart {
    pub(super) whole: NodeNumber,
    pub(super) bytes: Range<u32>,
}

impl Draft {
    /// The parts of whole records that the blob is made of, one for each record, from the first byte needed to the
    /// last.
    pub(super) fn needs(&self) -> Vec<NeededPart> {
        let mut needs: Vec<NeededPart> = Vec::new();
        for run in self.runs.iter().filter(|run| run.origin == RunOrigin::Whole) {
            let (start, end) = (run.place, run.place + run.length);
            match needs.iter_mut().find(|part| part.whole == run.holder) {
                Some(part) => part.bytes = part.bytes.start.min(start)..part.bytes.end.max(end),
                None => needs.push(NeededPart { whole: run.holder, bytes: start..end }),
            }
        }
        needs
    }

    /// Which records hold the blob's bytes, from the first one to the last.
    pub(super) fn held_runs(&self, plan: &Plan) -> Vec<HeldRun> {
        let mut at = 0;
        let mut held = Vec::with_capacity(self.runs.len());
        for &DraftRun { holder, place, length, .. } in &self.runs {
            if let Some(Node { id, facts, .. }) = plan.node(holder) {
                held.push(HeldRun { at, length, offset: place, holder: *id, facts: *facts });
            }
            at += length;
        }
        held
    }

    /// Stages it for later; `None` if there is no room for it.
    pub(super) fn put(&self, staged: &StagedBlobs) -> Option<Span> {
        staged.put(&codec::encode(self).ok()?)
    }

    /// One that was staged.
    pub(super) fn read(staged: &StagedBlobs, span: Span) -> Option<Self> {
        let mut bytes = vec![0; span.length as usize];
        staged.read(span, 0, &mut bytes)?;
        codec::decode::<Self, MOST_BYTES>(&bytes).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(origin: RunOrigin, holder: NodeNumber, place: u32, length: u32) -> DraftRun {
        DraftRun { origin, holder, place, length }
    }

    #[test]
    fn a_draft_needs_of_each_whole_record_all_from_the_first_byte_to_the_last() {
        use RunOrigin::{Literals, Whole};
        let runs = vec![run(Whole, 7, 100, 10), run(Literals, 8, 0, 3), run(Whole, 9, 0, 5), run(Whole, 7, 20, 5)];
        let draft = Draft { runs, literals: vec![1, 2, 3] };
        let part = |whole, bytes| NeededPart { whole, bytes };
        assert_eq!(draft.needs(), [part(7, 20..110), part(9, 0..5)]);
    }

    #[test]
    fn the_largest_draft_comes_back_as_it_was_staged() {
        let staged = StagedBlobs::new(std::env::temp_dir());
        let runs = (0..65_536).map(|byte| run(RunOrigin::Literals, 1, byte, 1)).collect();
        let draft = Draft { runs, literals: vec![7; 65_536] };
        let span = draft.put(&staged).unwrap();
        assert_eq!(Draft::read(&staged, span).unwrap(), draft);
    }
}
