//! In which order frames are decoded, and what of them is staged.
//!
//! Frames that hold deltas come first: deltas are small, and are staged. A delta that rests on one whole record is then
//! put together while the frame of that record is at hand, so the record itself is staged only for deltas that need
//! others too, and of it only the stretch that they need, which they tell once they have been read. Invariant: whatever
//! a wanted delta needs has been staged, or is at hand, when it is put together.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use super::draft::NeededPart;
use super::plan::{Form, Node, NodeNumber, Plan};
use crate::format::pack::Frame;
use crate::id::PackId;

/// The records that are needed of one frame.
pub(super) struct FrameTask<'p> {
    pub(super) pack: PackId,
    pub(super) frame: Frame,
    pub(super) nodes: Vec<(NodeNumber, &'p Node)>,
}

/// What is done with the records of a plan.
pub(super) struct Order {
    /// By number: whether its payload is staged.
    staged: Vec<Staging>,
    /// Deltas by the one whole record that they rest on.
    resting: HashMap<NodeNumber, Vec<NodeNumber>>,
    /// All other wanted deltas: they are put together last, from what was staged.
    last: Vec<NodeNumber>,
    /// Frames that hold deltas.
    with_deltas: HashSet<FrameKey>,
    /// The parts of whole records that deltas consist of, once these have been read.
    parts: Option<NeededParts>,
}

/// For each whole record the stretch of it that holds all that deltas need, from the first byte to the last.
#[derive(Debug, Default)]
pub(super) struct NeededParts(HashMap<NodeNumber, Range<u32>>);

impl NeededParts {
    /// With what one more delta needs.
    pub(super) fn with(mut self, needs: impl IntoIterator<Item = NeededPart>) -> Self {
        for NeededPart { whole, bytes } in needs {
            let part = self.0.entry(whole).or_insert_with(|| bytes.clone());
            *part = part.start.min(bytes.start)..part.end.max(bytes.end);
        }
        self
    }

    /// With what other deltas need.
    pub(super) fn and(self, others: Self) -> Self {
        self.with(others.0.into_iter().map(|(whole, bytes)| NeededPart { whole, bytes }))
    }
}

/// Whether a payload is staged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
enum Staging {
    #[default]
    No,
    /// Yes, if it is a delta; so are the deltas among its bases.
    Deltas,
    /// Yes, and so are all its bases.
    All,
}

/// When frames are decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Round {
    /// Those that hold deltas.
    First,
    /// All others.
    Second,
}

type FrameKey = (PackId, u64);

fn key(node: &Node) -> FrameKey {
    (node.record.pack, node.record.frame.offset)
}

impl Order {
    /// The order for a plan.
    pub(super) fn of(plan: &Plan) -> Self {
        let is_delta = |node: &&Node| matches!(node.form, Form::Delta { .. });
        let with_deltas = plan.nodes.iter().filter(is_delta).map(key).collect();
        let staged = vec![Staging::No; plan.nodes.len()];
        let mut order = Self { staged, resting: HashMap::new(), last: Vec::new(), with_deltas, parts: None };
        for (number, node) in (0..).zip(&plan.nodes).filter(|(_, node)| node.is_wanted && is_delta(node)) {
            let alone = node
                .rests_on
                .filter(|&root| plan.node(root).is_some_and(|root| !order.with_deltas.contains(&key(root))));
            match alone {
                Some(root) => {
                    order.resting.entry(root).or_default().push(number);
                    order.stage(plan, number, Staging::Deltas);
                }
                None => {
                    order.last.push(number);
                    order.stage(plan, number, Staging::All);
                }
            }
        }
        order
    }

    fn stage(&mut self, plan: &Plan, number: NodeNumber, staging: Staging) {
        let mut open = vec![number];
        while let Some(number) = open.pop() {
            let Some(staged) = self.staged.get_mut(number as usize).filter(|staged| **staged < staging) else {
                continue;
            };
            *staged = staging;
            if let Some(Form::Delta { bases }) = plan.node(number).map(|node| &node.form) {
                open.extend(bases);
            }
        }
    }

    /// Narrows what is staged of whole records to what the deltas that were read need of them.
    pub(super) fn narrow(&mut self, parts: NeededParts) {
        self.parts = Some(parts);
    }

    /// The part of a record's payload that is staged, if any is.
    pub(super) fn staged(&self, number: NodeNumber, node: &Node) -> Option<Range<u32>> {
        let all = 0..node.record.length;
        match (self.staged.get(number as usize)?, &node.form, &self.parts) {
            (Staging::No, ..) | (Staging::Deltas, Form::Whole, _) => None,
            (Staging::All, Form::Whole, Some(parts)) => parts.0.get(&number).cloned(),
            (Staging::Deltas | Staging::All, ..) => Some(all),
        }
    }

    /// The deltas that are put together while this record is at hand.
    pub(super) fn resting_on(&self, number: NodeNumber) -> &[NodeNumber] {
        self.resting.get(&number).map_or(&[], Vec::as_slice)
    }

    /// The wanted deltas that are put together last, from what was staged.
    pub(super) fn last(&self) -> &[NodeNumber] {
        &self.last
    }

    /// The needed records by frames, in the order of packs.
    pub(super) fn tasks<'p>(&self, plan: &'p Plan, round: Round) -> Vec<FrameTask<'p>> {
        let is_needed = |number: NodeNumber, node: &Node| {
            let used = node.is_wanted || self.staged(number, node).is_some() || !self.resting_on(number).is_empty();
            used && !matches!(node.form, Form::Unplanned)
        };
        let is_now = |node: &Node| self.with_deltas.contains(&key(node)) == (round == Round::First);
        let mut nodes: Vec<(NodeNumber, &Node)> =
            (0..).zip(&plan.nodes).filter(|&(number, node)| is_now(node) && is_needed(number, node)).collect();
        nodes.sort_by_key(|(_, node)| (node.record.pack, node.record.frame.offset, node.record.start));
        let mut tasks: Vec<FrameTask<'_>> = Vec::new();
        for (number, node) in nodes {
            let (pack, frame) = (node.record.pack, node.record.frame);
            match tasks.last_mut().filter(|task| (task.pack, task.frame) == (pack, frame)) {
                Some(task) => task.nodes.push((number, node)),
                None => tasks.push(FrameTask { pack, frame, nodes: vec![(number, node)] }),
            }
        }
        tasks
    }
}
