//! Getting many chunks out of the repository, in the order of packs instead of their own.
//!
//! First footers say which records the chunks need, chains included; then each frame that holds one of them is decoded
//! once, on all cores; what deltas need is staged in a temporary file; last, deltas are put together from there.
//! Invariant: what is handed out has been hashed and is what was asked for; what this way does not lead to (damage,
//! records that are not there, ambiguous prefixes) is left to [`BlobReader`], which tries every other way and says what is
//! wrong. Memory: a plan of bounded size, and a frame a core.

mod plan;
mod splice;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use rayon::prelude::*;

use super::blob_reader::{BlobReader, temporary_directory};
use super::chain::ChainFacts;
use super::packs;
use super::repository::Repository;
use super::staged::{Span, StagedBlobs};
use crate::disk::Storage;
use crate::error::Result;
use crate::format::pack::{BlobKind, Frame};
use crate::id::{BlobId, PackId};

use plan::{Form, Node, NodeNumber, Plan, Source};
use splice::Splicer;

/// A chunk with the length that its place in a file demands, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WantedChunk {
    /// The chunk.
    pub id: BlobId,
    /// Its bytes.
    pub length: u64,
}

/// A chunk that can be read in the order of packs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlannedChain {
    /// Its bytes.
    pub length: u64,
    /// Its chain.
    pub facts: ChainFacts,
}

/// Takes each chunk as it comes out, on any thread.
pub type TakeChunk<'t> = &'t (dyn Fn(&BlobId, &[u8]) -> Result<()> + Sync);

/// Whether more chunks may be asked for before those so far are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// Yes.
    Left,
    /// No.
    Full,
}

/// Reads many chunks of one repository.
pub struct BulkReader<'a> {
    repository: &'a Repository,
    /// For footers.
    footers: BlobReader<'a>,
    plan: Plan,
    unread: Vec<WantedChunk>,
    wanted: Vec<WantedChunk>,
    staged: Arc<StagedBlobs>,
    kept: HashSet<BlobId>,
}

/// The records that are needed of one frame.
struct FrameTask<'p> {
    pack: PackId,
    frame: Frame,
    nodes: Vec<(NodeNumber, &'p Node)>,
}

impl<'a> BulkReader<'a> {
    /// A reader that stages nothing for others.
    pub fn new(repository: &'a Repository) -> Self {
        Self::keeping(repository, HashSet::new())
    }

    /// A reader that stages the chunks in `kept` for whoever reads them next: those recorded as deltas, and as many of the
    /// others as are worth their room.
    pub fn keeping(repository: &'a Repository, kept: HashSet<BlobId>) -> Self {
        let staged = Arc::new(StagedBlobs::new(temporary_directory(repository)));
        let (plan, unread, wanted) = (Plan::default(), Vec::new(), Vec::new());
        Self { repository, footers: BlobReader::new(repository), plan, unread, wanted, staged, kept }
    }

    /// What was staged.
    pub fn staged(&self) -> Arc<StagedBlobs> {
        Arc::clone(&self.staged)
    }

    /// What the chain of a chunk is like, as footers have it; `None` if it is to be read in another way.
    ///
    /// # Errors
    /// I/O errors of the index.
    pub fn chain(&mut self, id: &BlobId) -> Result<Option<PlannedChain>> {
        let Self { plan, footers, .. } = self;
        self.repository.index().reading(|index| {
            let node = plan.chunk(id, &mut Source { index, footers })?;
            Ok(node.map(|node| PlannedChain { length: node.length.into(), facts: node.facts }))
        })
    }

    /// Asks for a chunk.
    ///
    /// # Errors
    /// I/O errors of the index.
    pub fn want(&mut self, chunk: WantedChunk) -> Result<Room> {
        let Self { plan, footers, .. } = self;
        let planned = self
            .repository
            .index()
            .reading(|index| plan.want(&chunk.id, chunk.length, &mut Source { index, footers }))?;
        if planned {
            self.wanted.push(chunk);
        } else {
            self.unread.push(chunk);
        }
        Ok(self.room())
    }

    /// Asks for a chunk to be staged if it takes more than reading it; one recorded whole does not even come out.
    ///
    /// # Errors
    /// I/O errors of the index.
    pub fn stage(&mut self, id: &BlobId) -> Result<Room> {
        let Self { plan, footers, .. } = self;
        let planned = self.repository.index().reading(|index| plan.want_rebuilt(id, &mut Source { index, footers }))?;
        if planned {
            self.kept.insert(*id);
        }
        Ok(self.room())
    }

    fn room(&self) -> Room {
        if self.plan.is_full() { Room::Full } else { Room::Left }
    }

    /// Reads what was asked for since the last time, hands it out in no particular order, and returns what could not be
    /// read in this way.
    ///
    /// # Errors
    /// Those of `take`.
    pub fn read(&mut self, take: TakeChunk<'_>) -> Result<Vec<WantedChunk>> {
        let mut plan = std::mem::take(&mut self.plan);
        let came_out = Mutex::new(HashSet::new());
        let take = |id: &BlobId, bytes: &[u8]| {
            take(id, bytes)?;
            came_out.lock().unwrap_or_else(PoisonError::into_inner).insert(*id);
            Ok(())
        };
        let storage = self.repository.storage();
        let work = Work { storage, staged: &self.staged, kept: &self.kept, take: &take };
        work.decode_frames(&mut plan)?;
        work.put_together(&plan)?;
        let came_out = came_out.into_inner().unwrap_or_else(PoisonError::into_inner);
        let mut unread = std::mem::take(&mut self.unread);
        unread.extend(self.wanted.drain(..).filter(|chunk| !came_out.contains(&chunk.id)));
        Ok(unread)
    }
}

/// What all threads share while a plan is carried out.
struct Work<'w> {
    storage: &'w dyn Storage,
    staged: &'w StagedBlobs,
    kept: &'w HashSet<BlobId>,
    take: TakeChunk<'w>,
}

impl Work<'_> {
    /// Hands out what is recorded whole, and stages whatever deltas need.
    fn decode_frames(&self, plan: &mut Plan) -> Result<()> {
        let tasks = frame_tasks(plan);
        let staged: Vec<Vec<(NodeNumber, Span)>> =
            tasks.par_iter().map(|task| self.decode_frame(task)).collect::<Result<_>>()?;
        for (number, span) in staged.into_iter().flatten() {
            if let Some(node) = plan.nodes.get_mut(number as usize) {
                node.payload = Some(span);
            }
        }
        Ok(())
    }

    fn decode_frame(&self, task: &FrameTask<'_>) -> Result<Vec<(NodeNumber, Span)>> {
        let frame = match packs::read_frame(self.storage, &task.pack, &task.frame) {
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
            if matches!(node.form, Form::Whole) {
                if node.kind.id_of(payload) != node.id {
                    continue;
                }
                if node.is_wanted {
                    (self.take)(&node.id, payload)?;
                }
                if !node.is_base && !self.is_worth_keeping(node) {
                    continue;
                }
            }
            needed.push((number, node));
        }
        Ok(self.stage_payloads(&frame, &needed))
    }

    /// Stages payloads of one frame; neighbours are written at once.
    fn stage_payloads(&self, frame: &[u8], needed: &[(NodeNumber, &Node)]) -> Vec<(NodeNumber, Span)> {
        let mut staged = Vec::with_capacity(needed.len());
        for neighbours in needed.chunk_by(|(_, one), (_, next)| one.record.end() == next.record.start) {
            let Some(((_, first), (_, last))) = neighbours.first().zip(neighbours.last()) else { continue };
            let start = first.record.start;
            let bytes = frame.get(start as usize..last.record.end() as usize);
            let Some(all) = bytes.and_then(|bytes| self.staged.put(bytes)) else { continue };
            for (number, node) in neighbours {
                let Some(span) = all.part(node.record.start - start, node.record.length) else { continue };
                staged.push((*number, span));
                if matches!(node.form, Form::Whole) && self.kept.contains(&node.id) {
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

    /// Hands out what is recorded as deltas.
    fn put_together(&self, plan: &Plan) -> Result<()> {
        let is_delta = |node: &Node| node.is_wanted && matches!(node.form, Form::Delta { .. });
        plan.nodes.par_iter().enumerate().filter(|(_, node)| is_delta(node)).try_for_each(|(number, node)| {
            let spliced = Splicer::new(plan, self.staged).blob(number as NodeNumber);
            if let Some(bytes) = spliced.filter(|bytes| BlobKind::Chunk.id_of(bytes) == node.id) {
                if self.kept.contains(&node.id) {
                    self.staged.keep(node.id, &bytes);
                }
                (self.take)(&node.id, &bytes)?;
            }
            Ok(())
        })
    }
}

/// The planned records by frames, in the order of packs.
fn frame_tasks(plan: &Plan) -> Vec<FrameTask<'_>> {
    let planned = (0..).zip(&plan.nodes).filter(|(_, node)| !matches!(node.form, Form::Unplanned));
    let mut nodes: Vec<(NodeNumber, &Node)> = planned.collect();
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
