//! Putting a blob together from its chain at once: each stretch is followed down to the literal or the whole record
//! that it comes from, so that no version in between is rebuilt.
//!
//! Invariant: nothing here is verified; whoever takes the bytes hashes them. Work is bounded by the blob's length and
//! the depth of its chain, memory by [`MOST_OPEN`].

use std::collections::HashMap;
use std::ops::Range;
use std::rc::Rc;

use super::HeldRun;
use super::plan::{Form, Node, NodeNumber, Payload, Plan};
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

/// A stretch of a blob, with the bytes that it consists of.
pub(super) struct Piece {
    from: PieceOf,
    /// Where it begins there, in bytes.
    start: usize,
    /// Where it begins in the blob that is recorded there, in bytes.
    place: usize,
    /// Bytes.
    length: usize,
}

/// A blob that was put together.
pub(super) struct Spliced {
    pub(super) bytes: Vec<u8>,
    /// What it was put together from, from its first byte to its last.
    pieces: Vec<Piece>,
}

impl Spliced {
    /// Which records hold its bytes, from the first one to the last.
    pub(super) fn held_runs(&self, plan: &Plan) -> Vec<HeldRun> {
        let mut at = 0;
        let mut held = Vec::with_capacity(self.pieces.len());
        for piece in &self.pieces {
            let (PieceOf::Delta(number) | PieceOf::Whole(number)) = piece.from;
            let (length, offset) = (piece.length as u32, piece.place as u32);
            if let Some(Node { id, facts, .. }) = plan.node(number) {
                held.push(HeldRun { at, length, offset, holder: *id, facts: *facts });
            }
            at += length;
        }
        held
    }
}

#[derive(Clone, Copy)]
enum PieceOf {
    /// The payload of a delta.
    Delta(NodeNumber),
    Whole(NodeNumber),
}

/// A part of a whole record that a blob is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NeededPart {
    pub(super) whole: NodeNumber,
    pub(super) bytes: Range<u32>,
}

impl<'p> Splicer<'p> {
    pub(super) fn new(plan: &'p Plan, staged: &'p StagedBlobs) -> Self {
        Self { plan, staged, at_hand: None, open: HashMap::new() }
    }

    /// One that has a whole record before it.
    pub(super) fn with_at_hand(plan: &'p Plan, staged: &'p StagedBlobs, number: NodeNumber, bytes: &'p [u8]) -> Self {
        Self { at_hand: Some((number, bytes)), ..Self::new(plan, staged) }
    }

    /// A blob, as its records have it.
    pub(super) fn blob(&mut self, number: NodeNumber) -> Option<Spliced> {
        let pieces = self.pieces(number)?;
        let mut bytes = vec![0; self.plan.node(number)?.length as usize];
        let mut rest = bytes.as_mut_slice();
        for &Piece { from, start, length, .. } in &pieces {
            let (part, behind) = std::mem::take(&mut rest).split_at_mut_checked(length)?;
            rest = behind;
            match from {
                PieceOf::Delta(delta) => part.copy_from_slice(self.delta(delta)?.payload.get(start..start + length)?),
                PieceOf::Whole(whole) => self.fill_from_whole(whole, start, part)?,
            }
        }
        rest.is_empty().then_some(Spliced { bytes, pieces })
    }

    /// The parts of whole records that a blob is made of, one for each record, from the first byte needed to the last.
    pub(super) fn needs(&mut self, number: NodeNumber) -> Option<Vec<NeededPart>> {
        let mut needs: Vec<NeededPart> = Vec::new();
        for Piece { from, start, length, .. } in self.pieces(number)? {
            let PieceOf::Whole(whole) = from else { continue };
            let (start, end) = (start as u32, (start + length) as u32);
            match needs.iter_mut().find(|part| part.whole == whole) {
                Some(part) => part.bytes = part.bytes.start.min(start)..part.bytes.end.max(end),
                None => needs.push(NeededPart { whole, bytes: start..end }),
            }
        }
        Some(needs)
    }

    /// What a blob consists of, from its first byte to its last.
    fn pieces(&mut self, number: NodeNumber) -> Option<Vec<Piece>> {
        let length = self.plan.node(number)?.length as usize;
        let mut pieces = Vec::new();
        self.follow(number, 0..length.min(BLOB_BYTES), 0, &mut pieces)?;
        Some(pieces)
    }

    /// Adds what these bytes of a blob consist of.
    fn follow(&mut self, number: NodeNumber, bytes: Range<usize>, depth: usize, pieces: &mut Vec<Piece>) -> Option<()> {
        let node = self.plan.node(number)?;
        match &node.form {
            Form::Whole => {
                let (start, length) = (bytes.start, bytes.len());
                pieces.push(Piece { from: PieceOf::Whole(number), start, place: start, length });
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
                            pieces.push(Piece { from: PieceOf::Delta(number), start, place: done, length });
                        }
                        Origin::Base { base, offset } => {
                            let start = offset as usize + skipped;
                            self.follow(*bases.get(base as usize)?, start..start + length, depth + 1, pieces)?;
                        }
                    }
                    done += length;
                }
                (done == bytes.end).then_some(())
            }
            Form::Delta { .. } | Form::Unplanned => None,
        }
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
