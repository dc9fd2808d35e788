//! Carrying out a plan: decoding its frames on all cores, and handing out what was wanted.
//!
//! Invariant: what is handed out has been hashed. What is merely a base has not: the hash of what is built on it proves
//! both.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;

use super::order::{FrameTask, NeededParts, Order, Round};
use super::plan::{Form, Node, NodeNumber, Payload, Plan};
use super::splice::{Spliced, Splicer};
use super::{HolderReport, TakeHeldChunk};
use crate::disk::Storage;
use crate::error::Result;
use crate::format::pack::BlobKind;
use crate::id::BlobId;
use crate::store::decoded_frames::{DecodedFrames, Demand};
use crate::store::packs;
use crate::store::staged::StagedBlobs;

/// Frames of whole records that are all a small file needs: others of its size lie beside it.
const FEW: usize = 2;

/// What is to be staged of a record.
struct NeededPayload<'p> {
    number: NodeNumber,
    node: &'p Node,
    /// Of its payload, in bytes.
    part: Range<u32>,
}

impl NeededPayload<'_> {
    fn in_frame(&self) -> Range<u32> {
        self.node.record.in_frame(&self.part)
    }
}

/// A payload that was staged.
struct StagedPayload {
    number: NodeNumber,
    payload: Payload,
}

/// What all threads share while a plan is carried out.
pub(super) struct Work<'w> {
    pub(super) storage: &'w dyn Storage,
    /// Of this reader and those that come after it.
    pub(super) frames: Option<&'w DecodedFrames>,
    pub(super) staged: &'w StagedBlobs,
    pub(super) kept: &'w HashSet<BlobId>,
    pub(super) take: TakeHeldChunk<'w>,
    pub(super) holders: HolderReport,
}

impl Work<'_> {
    /// Hands out all that is wanted and can be had.
    pub(super) fn carry_out(&self, plan: &mut Plan) -> Result<()> {
        let mut order = Order::of(plan);
        self.carry_out_round(Round::First, plan, &order)?;
        let needs = |number| Splicer::new(plan, self.staged).needs(number).unwrap_or_default();
        let parts = order.last().par_iter().fold(NeededParts::default, |parts, delta| parts.with(needs(*delta)));
        order.narrow(parts.reduce(NeededParts::default, NeededParts::and));
        self.carry_out_round(Round::Second, plan, &order)?;
        order.last().par_iter().try_for_each(|&number| match plan.node(number) {
            Some(node) => self.hand_out(plan, node, Splicer::new(plan, self.staged).blob(number)),
            None => Ok(()),
        })
    }

    /// Decodes the frames of one round.
    fn carry_out_round(&self, round: Round, plan: &mut Plan, order: &Order) -> Result<()> {
        let tasks = order.tasks(plan, round);
        let demand = if round == Round::First || tasks.len() <= FEW { Demand::Again } else { Demand::Once };
        let decode = |task: &FrameTask<'_>| self.decode_frame(task, demand, plan, order);
        let staged: Vec<Vec<StagedPayload>> = tasks.par_iter().with_max_len(1).map(decode).collect::<Result<_>>()?;
        for StagedPayload { number, payload } in staged.into_iter().flatten() {
            if let Some(node) = plan.nodes.get_mut(number as usize) {
                node.payload = Some(payload);
            }
        }
        Ok(())
    }

    /// Hands out what rests on the records of a frame, and stages what others need of it.
    fn decode_frame(
        &self,
        task: &FrameTask<'_>,
        demand: Demand,
        plan: &Plan,
        order: &Order,
    ) -> Result<Vec<StagedPayload>> {
        let read = match self.frames {
            Some(frames) => frames.read(self.storage, &task.pack, &task.frame, demand),
            None => packs::read_frame(self.storage, &task.pack, &task.frame).map(Arc::new),
        };
        let frame = match read {
            Ok(frame) => frame,
            Err(cause) => {
                tracing::debug!(%cause, "a frame cannot be read; what it holds is looked for elsewhere");
                return Ok(Vec::new());
            }
        };
        let mut needed = Vec::new();
        for &(number, node) in &task.nodes {
            let start = node.record.start as usize;
            let Some(payload) = frame.get(start..start + node.record.length as usize) else { continue };
            let mut part = order.staged(number, node);
            if matches!(node.form, Form::Whole) {
                if node.is_wanted {
                    if node.kind.id_of(payload) != node.id {
                        continue;
                    }
                    (self.take)(&node.id, payload, &[])?;
                    if self.is_worth_keeping(node) {
                        part = Some(0..node.record.length);
                    }
                }
                for &resting in order.resting_on(number) {
                    let Some(delta) = plan.node(resting) else { continue };
                    let spliced = Splicer::with_at_hand(plan, self.staged, number, payload).blob(resting);
                    self.hand_out(plan, delta, spliced)?;
                }
            }
            if let Some(part) = part {
                needed.push(NeededPayload { number, node, part });
            }
        }
        Ok(self.stage_payloads(&frame, &needed))
    }

    /// Hands out a chunk that is recorded as a delta, if it came out right.
    fn hand_out(&self, plan: &Plan, node: &Node, spliced: Option<Spliced>) -> Result<()> {
        let is_right = |spliced: &Spliced| BlobKind::Chunk.id_of(&spliced.bytes) == node.id;
        let Some(spliced) = spliced.filter(is_right) else { return Ok(()) };
        if self.kept.contains(&node.id) {
            self.staged.keep(node.id, &spliced.bytes);
        }
        let is_told = self.holders == HolderReport::OfLongChains && node.facts.is_long();
        let held = if is_told { spliced.held_runs(plan) } else { Vec::new() };
        (self.take)(&node.id, &spliced.bytes, &held)
    }

    /// Stages payloads of one frame; neighbours are written at once.
    fn stage_payloads(&self, frame: &[u8], needed: &[NeededPayload<'_>]) -> Vec<StagedPayload> {
        let mut staged = Vec::with_capacity(needed.len());
        for neighbours in needed.chunk_by(|one, next| one.in_frame().end == next.in_frame().start) {
            let Some((first, last)) = neighbours.first().zip(neighbours.last()) else { continue };
            let start = first.in_frame().start;
            let bytes = frame.get(start as usize..last.in_frame().end as usize);
            let Some(all) = bytes.and_then(|bytes| self.staged.put(bytes)) else { continue };
            for needed @ NeededPayload { number, node, part } in neighbours {
                let Some(span) = all.part(needed.in_frame().start - start, part.len() as u32) else { continue };
                staged.push(StagedPayload { number: *number, payload: Payload { span, start: part.start } });
                let is_all = *part == (0..node.record.length);
                if is_all && matches!(node.form, Form::Whole) && self.kept.contains(&node.id) {
                    self.staged.keep_span(node.id, span);
                }
            }
        }
        staged
    }

    /// Whether a chunk recorded whole is read again, and there is room to spare the decoding of its frame then.
    fn is_worth_keeping(&self, node: &Node) -> bool {
        self.kept.contains(&node.id) && self.staged.has_room_to_spare()
    }
}
