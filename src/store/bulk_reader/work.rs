//! Carrying out a plan: decoding its frames on all cores, and handing out what was wanted.
//!
//! Invariant: what is handed out has been hashed. What is merely a base has not: the hash of what is built on it proves
//! both.

use std::collections::HashSet;
use std::sync::Arc;

use rayon::prelude::*;

use super::draft::Draft;
use super::order::{FrameTask, NeededParts, Order, Round};
use super::plan::{Form, Node, NodeNumber, Payload, Plan};
use super::splice::Splicer;
use super::{HolderReport, TakeHeldChunk};
use crate::disk::Storage;
use crate::error::Result;
use crate::format::pack::BlobKind;
use crate::id::BlobId;
use crate::store::decoded_frames::{DecodedFrames, Demand};
use crate::store::packs;
use crate::store::staged::{Span, StagedBlobs};

/// Frames of whole records that are all a small file needs: others of its size lie beside it.
const FEW: usize = 2;

/// Bytes of payloads staged in one write.
const STAGED_AT_ONCE: usize = 256 * 1024;

/// What is to be staged of a record.
struct NeededPayload<'p> {
    number: NodeNumber,
    node: &'p Node,
    /// Where the part that is needed begins in its payload, in bytes.
    start: u32,
    bytes: &'p [u8],
}

/// A delta that is put together last.
struct LastDelta {
    number: NodeNumber,
    /// Where its draft was staged.
    draft: Span,
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
        let (drafts, parts) = self.draft_last(plan, &order);
        order.narrow(parts);
        self.carry_out_round(Round::Second, plan, &order)?;
        drafts.par_iter().try_for_each(|last| match plan.node(last.number) {
            Some(node) => {
                let draft = Draft::read(self.staged, last.draft);
                self.hand_out(plan, node, draft, &mut Splicer::new(plan, self.staged))
            }
            None => Ok(()),
        })
    }

    /// Follows the chains of the deltas that are put together last, and tells what they need of whole records.
    fn draft_last(&self, plan: &Plan, order: &Order) -> (Vec<LastDelta>, NeededParts) {
        let drafts = order.last().par_iter().filter_map(|&number| {
            let draft = Splicer::new(plan, self.staged).draft(number)?;
            Some((LastDelta { number, draft: draft.put(self.staged)? }, draft.needs()))
        });
        let drafts = drafts.fold(
            || (Vec::new(), NeededParts::default()),
            |(mut drafts, parts), (last, needs)| {
                drafts.push(last);
                (drafts, parts.with(needs))
            },
        );
        drafts.reduce(Default::default, |(mut drafts, parts), (more, others)| {
            drafts.extend(more);
            (drafts, parts.and(others))
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
                    let mut splicer = Splicer::with_at_hand(plan, self.staged, number, payload);
                    self.hand_out(plan, delta, splicer.draft(resting), &mut splicer)?;
                }
            }
            let bytes = part.as_ref().and_then(|part| payload.get(part.start as usize..part.end as usize));
            if let Some((part, bytes)) = part.zip(bytes) {
                needed.push(NeededPayload { number, node, start: part.start, bytes });
            }
        }
        Ok(self.stage_payloads(&needed))
    }

    /// Hands out a chunk that is recorded as a delta, if it comes out right.
    fn hand_out(&self, plan: &Plan, node: &Node, draft: Option<Draft>, splicer: &mut Splicer<'_>) -> Result<()> {
        let Some(draft) = draft else { return Ok(()) };
        let is_right = |bytes: &Vec<u8>| bytes.len() == node.length as usize && BlobKind::Chunk.id_of(bytes) == node.id;
        let Some(bytes) = splicer.blob(&draft).filter(is_right) else { return Ok(()) };
        if self.kept.contains(&node.id) {
            self.staged.keep(node.id, &bytes);
        }
        let is_told = self.holders == HolderReport::OfLongChains && node.facts.is_long();
        let held = if is_told { draft.held_runs(plan) } else { Vec::new() };
        (self.take)(&node.id, &bytes, &held)
    }

    /// Stages payloads of one frame, many small ones in one write.
    fn stage_payloads(&self, needed: &[NeededPayload<'_>]) -> Vec<StagedPayload> {
        let mut staged = Vec::with_capacity(needed.len());
        let mut gathered = Vec::new();
        let mut rest = needed;
        while !rest.is_empty() {
            let mut length = 0;
            let together = rest.iter().take_while(|next| {
                length += next.bytes.len();
                length <= STAGED_AT_ONCE
            });
            let (now, later) = rest.split_at(together.count().max(1));
            rest = later;
            gathered.clear();
            now.iter().for_each(|needed| gathered.extend_from_slice(needed.bytes));
            let Some(all) = self.staged.put(&gathered) else { continue };
            let mut at = 0;
            for NeededPayload { number, node, start, bytes } in now {
                let length = bytes.len() as u32;
                let Some(span) = all.part(at, length) else { continue };
                at += length;
                staged.push(StagedPayload { number: *number, payload: Payload { span, start: *start } });
                let is_whole_blob = matches!(node.form, Form::Whole) && length == node.length;
                if is_whole_blob && self.kept.contains(&node.id) {
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
