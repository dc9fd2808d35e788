//! Putting a blob together from its chain at once: each stretch is followed down to the literal or the whole record that
//! it comes from, so that no version in between is rebuilt.
//!
//! Invariant: nothing here is verified; whoever takes the bytes hashes them. Work is bounded by the blob's length and the
//! depth of its chain, memory by [`MOST_OPEN`].

use std::collections::HashMap;
use std::rc::Rc;

use super::plan::{Form, NodeNumber, Plan};
use crate::format::delta::{self, Origin, Run};
use crate::format::limits::{BLOB_BYTES, CHAIN_DEPTH};
use crate::store::staged::StagedBlobs;

/// Records of a chain kept open while a blob is put together.
const MOST_OPEN: usize = 192;

/// Puts one blob together.
pub(super) struct Splicer<'p> {
    plan: &'p Plan,
    staged: &'p StagedBlobs,
    /// The bytes of a whole record that need not be staged.
    at_hand: Option<(NodeNumber, &'p [u8])>,
    open: HashMap<NodeNumber, Open>,
}

#[derive(Clone)]
enum Open {
    Delta(Rc<OpenDelta>),
    /// A whole record of which a stretch was read once: the next time all of it is worth reading.
    Touched,
    Whole(Rc<Vec<u8>>),
}

struct OpenDelta {
    payload: Vec<u8>,
    runs: Vec<Run>,
}

impl<'p> Splicer<'p> {
    pub(super) fn new(plan: &'p Plan, staged: &'p StagedBlobs) -> Self {
        Self { plan, staged, at_hand: None, open: HashMap::new() }
    }

    /// One that has a whole record before it.
    pub(super) fn with_at_hand(plan: &'p Plan, staged: &'p StagedBlobs, number: NodeNumber, bytes: &'p [u8]) -> Self {
        Self { at_hand: Some((number, bytes)), ..Self::new(plan, staged) }
    }

    /// The bytes of a blob, as its records have them.
    pub(super) fn blob(&mut self, number: NodeNumber) -> Option<Vec<u8>> {
        let length = self.plan.node(number)?.length as usize;
        let mut bytes = vec![0; length.min(BLOB_BYTES)];
        self.fill(number, 0, &mut bytes, 0)?;
        Some(bytes)
    }

    /// Fills `bytes` with those of a blob from `start`.
    fn fill(&mut self, number: NodeNumber, start: usize, bytes: &mut [u8], depth: usize) -> Option<()> {
        let node = self.plan.node(number)?;
        match &node.form {
            Form::Whole => self.fill_from_whole(number, start, bytes),
            Form::Delta { bases } if depth <= CHAIN_DEPTH => {
                let delta = self.delta(number)?;
                let end = start.checked_add(bytes.len())?;
                let mut rest = bytes;
                let first = delta.runs.partition_point(|run| run.end() as usize <= start);
                for run in delta.runs.get(first..)? {
                    let from = start.max(run.at as usize);
                    let length = end.min(run.end() as usize).saturating_sub(from);
                    if length == 0 {
                        break;
                    }
                    let (part, behind) = std::mem::take(&mut rest).split_at_mut_checked(length)?;
                    rest = behind;
                    let skipped = from - run.at as usize;
                    match run.origin {
                        Origin::Payload(offset) => {
                            let offset = offset as usize + skipped;
                            part.copy_from_slice(delta.payload.get(offset..offset + length)?);
                        }
                        Origin::Base { base, offset } => {
                            self.fill(*bases.get(base as usize)?, offset as usize + skipped, part, depth + 1)?;
                        }
                    }
                }
                rest.is_empty().then_some(())
            }
            Form::Delta { .. } | Form::Unplanned => None,
        }
    }

    fn fill_from_whole(&mut self, number: NodeNumber, start: usize, bytes: &mut [u8]) -> Option<()> {
        if let Some((_, whole)) = self.at_hand.filter(|(at_hand, _)| *at_hand == number) {
            bytes.copy_from_slice(whole.get(start..start.checked_add(bytes.len())?)?);
            return Some(());
        }
        let span = self.plan.node(number)?.payload?;
        let whole = match self.open.get(&number) {
            Some(Open::Whole(whole)) => Rc::clone(whole),
            None if bytes.len() < span.length as usize / 2 => {
                self.keep(number, Open::Touched);
                return self.staged.read(span, start, bytes);
            }
            _ => {
                let mut whole = vec![0; span.length as usize];
                self.staged.read(span, 0, &mut whole)?;
                let whole = Rc::new(whole);
                self.keep(number, Open::Whole(Rc::clone(&whole)));
                whole
            }
        };
        bytes.copy_from_slice(whole.get(start..start.checked_add(bytes.len())?)?);
        Some(())
    }

    fn delta(&mut self, number: NodeNumber) -> Option<Rc<OpenDelta>> {
        if let Some(Open::Delta(delta)) = self.open.get(&number) {
            return Some(Rc::clone(delta));
        }
        let node = self.plan.node(number)?;
        let span = node.payload?;
        let mut payload = vec![0; span.length as usize];
        self.staged.read(span, 0, &mut payload)?;
        let runs = delta::runs(&payload).ok()?;
        if runs.last().map_or(0, Run::end) != node.length {
            return None;
        }
        let delta = Rc::new(OpenDelta { payload, runs });
        self.keep(number, Open::Delta(Rc::clone(&delta)));
        Some(delta)
    }

    fn keep(&mut self, number: NodeNumber, open: Open) {
        if self.open.len() >= MOST_OPEN {
            self.open.clear();
        }
        self.open.insert(number, open);
    }
}
