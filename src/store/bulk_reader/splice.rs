//! Putting a blob together from its chain at once: each stretch is followed down to the literal or the whole record
//! that it comes from, so that no version in between is rebuilt.
//!
//! Invariant: nothing here is verified; whoever takes the bytes hashes them. Work is bounded by the blob's length and
//! the depth of its chain, memory by [`MOST_OPEN`].

use std::collections::HashMap;
use std::ops::Range;
use std::rc::Rc;

use super::draft::{Draft, DraftRun, RunOrigin};
use super::plan::{Form, NodeNumber, Payload, Plan};
use crate::format::delta::{self, Origin, ResultRun};
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
    /// A whole record of which a stretch was read once: the next time all that is staged of it is worth reading.
    Touched,
    Whole(Rc<Vec<u8>>),
}

struct OpenDelta {
    payload: Vec<u8>,
    runs: Vec<ResultRun>,
}

impl<'p> Splicer<'p> {
    pub(super) fn new(plan: &'p Plan, staged: &'p StagedBlobs) -> Self {
        Self { plan, staged, at_hand: None, open: HashMap::new() }
    }

    /// One that has a whole record before it.
    pub(super) fn with_at_hand(plan: &'p Plan, staged: &'p StagedBlobs, number: NodeNumber, bytes: &'p [u8]) -> Self {
        Self { at_hand: Some((number, bytes)), ..Self::new(plan, staged) }
    }

    /// What a blob consists of, as its records have it.
    pub(super) fn draft(&mut self, number: NodeNumber) -> Option<Draft> {
        let length = self.plan.node(number)?.length as usize;
        let mut draft = Draft::default();
        self.follow(number, 0..length.min(BLOB_BYTES), 0, &mut draft)?;
        Some(draft)
    }

    /// Adds what these bytes of a blob consist of.
    fn follow(&mut self, number: NodeNumber, bytes: Range<usize>, depth: usize, draft: &mut Draft) -> Option<()> {
        let node = self.plan.node(number)?;
        match &node.form {
            Form::Whole => {
                let (place, length) = (bytes.start as u32, bytes.len() as u32);
                draft.runs.push(DraftRun { origin: RunOrigin::Whole, holder: number, place, length });
                (bytes.end <= node.length as usize).then_some(())
            }
            Form::Delta { bases } if depth <= CHAIN_DEPTH => {
                let delta = self.delta(number)?;
                let first = delta.runs.partition_point(|run| run.end() as usize <= bytes.start);
                let mut done = bytes.start;
                for run in delta.runs.get(first..)? {
                    let length = bytes.end.min(run.end() as usize).saturating_sub(done);
                    if length == 0 {
                        break;
                    }
                    let skipped = done - run.at as usize;
                    match run.origin {
                        Origin::Payload(offset) => {
                            let start = offset as usize + skipped;
                            draft.literals.extend_from_slice(delta.payload.get(start..start + length)?);
                            let (place, length) = (done as u32, length as u32);
                            draft.runs.push(DraftRun { origin: RunOrigin::Literals, holder: number, place, length });
                        }
                        Origin::Base { base, offset } => {
                            let start = offset as usize + skipped;
                            self.follow(*bases.get(base as usize)?, start..start + length, depth + 1, draft)?;
                        }
                    }
                    done += length;
                }
                (done == bytes.end).then_some(())
            }
            Form::Delta { .. } | Form::Unplanned => None,
        }
    }

    /// The bytes of a blob with this draft.
    pub(super) fn blob(&mut self, draft: &Draft) -> Option<Vec<u8>> {
        let length: usize = draft.runs.iter().map(|run| run.length as usize).sum();
        let mut bytes = vec![0; length];
        let (mut rest, mut literals) = (bytes.as_mut_slice(), draft.literals.as_slice());
        for &DraftRun { origin, holder, place, length } in &draft.runs {
            let (part, behind) = std::mem::take(&mut rest).split_at_mut_checked(length as usize)?;
            rest = behind;
            match origin {
                RunOrigin::Literals => {
                    let (here, later) = literals.split_at_checked(part.len())?;
                    part.copy_from_slice(here);
                    literals = later;
                }
                RunOrigin::Whole => self.fill_from_whole(holder, place as usize, part)?,
            }
        }
        Some(bytes)
    }

    fn fill_from_whole(&mut self, number: NodeNumber, start: usize, bytes: &mut [u8]) -> Option<()> {
        if let Some((_, whole)) = self.at_hand.filter(|(at_hand, _)| *at_hand == number) {
            bytes.copy_from_slice(whole.get(start..start.checked_add(bytes.len())?)?);
            return Some(());
        }
        let Payload { span, start: staged_from } = self.plan.node(number)?.payload?;
        let start = start.checked_sub(staged_from as usize)?;
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
        let span = node.payload?.span;
        let mut payload = vec![0; span.length as usize];
        self.staged.read(span, 0, &mut payload)?;
        let runs = delta::runs(&payload).ok()?;
        if runs.last().map_or(0, ResultRun::end) != node.length {
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
