//! Getting many chunks out of the repository, in the order of packs instead of their own.
//!
//! First footers say which records the chunks need, chains included; then each frame that holds one of them is decoded
//! once, on all cores, those with deltas first. Most deltas rest on one whole record and are put together while its
//! frame is at hand; of the others a draft is made, what it needs of whole records is staged in a temporary file, and
//! they are put together last.
//! Invariant: what is handed out has been hashed and is what was asked for; what this way does not lead to (damage,
//! records that are not there, ambiguous prefixes) is left to [`BlobReader`], which tries every other way and says what
//! is wrong. Memory: a plan of bounded size, and a frame a core.

mod draft;
mod met;
mod order;
mod plan;
mod splice;
#[cfg(test)]
mod tests;
mod work;

use std::collections::HashSet;
use std::sync::Arc;

use super::blob_reader::{BlobReader, temporary_directory};
use super::chain::ChainFacts;
use super::decoded_frames::DecodedFrames;
use super::repository::Repository;
use super::staged::StagedBlobs;
use crate::error::Result;
use crate::id::BlobId;

use parking_lot::Mutex;
use plan::{Plan, RecordCount, Source};
use work::Work;

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

/// A run of a chunk, and the record that holds its bytes instead of referring to another one for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeldRun {
    /// Where it begins in the chunk, in bytes.
    pub at: u32,
    /// Bytes.
    pub length: u32,
    /// The blob that is recorded there.
    pub holder: BlobId,
    /// What the chain of that one is like.
    pub facts: ChainFacts,
    /// Where the run begins in that one, in bytes.
    pub offset: u32,
}

/// Takes each chunk as it comes out, on any thread.
pub type TakeChunk<'t> = &'t (dyn Fn(&BlobId, &[u8]) -> Result<()> + Sync);

/// The same, with the records that hold its bytes, without a gap, if its chain is long; otherwise with none.
pub type TakeHeldChunk<'t> = &'t (dyn Fn(&BlobId, &[u8], &[HeldRun]) -> Result<()> + Sync);

/// Whether it is told which records hold the bytes of chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum HolderReport {
    Untold,
    OfLongChains,
}

/// Whether more chunks may be asked for before those so far are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlanCapacity {
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
    frames: Option<&'a DecodedFrames>,
}

/// Looks at the index for what is to be read.
pub struct Planning<'s, 'r> {
    plan: &'s mut Plan,
    wanted: &'s mut Vec<WantedChunk>,
    unread: &'s mut Vec<WantedChunk>,
    source: Source<'s, 'r>,
}

impl Planning<'_, '_> {
    /// What the chain of a chunk is like, as footers have it; `None` if it is to be read in another way.
    ///
    /// # Errors
    /// I/O errors of the index.
    pub fn chain(&mut self, id: &BlobId) -> Result<Option<PlannedChain>> {
        let node = self.plan.chunk(id, &mut self.source)?;
        Ok(node.map(|node| PlannedChain { length: node.length.into(), facts: node.facts }))
    }

    /// Asks for a chunk.
    ///
    /// # Errors
    /// I/O errors of the index.
    pub fn want(&mut self, chunk: &WantedChunk) -> Result<()> {
        let planned = self.plan.want(&chunk.id, chunk.length, &mut self.source)?;
        if planned {
            self.wanted.push(*chunk)
        } else {
            self.unread.push(*chunk)
        }
        Ok(())
    }
}

impl<'a> BulkReader<'a> {
    /// A reader that stages nothing for others.
    pub fn new(repository: &'a Repository) -> Self {
        Self::keeping(repository, HashSet::new())
    }

    /// A reader that stages the chunks in `kept` for whoever reads them next: those recorded as deltas, and as many of
    /// the others as are worth their room.
    pub fn keeping(repository: &'a Repository, kept: HashSet<BlobId>) -> Self {
        Self::counting(repository, kept, RecordCount::ToTheLimit)
    }

    /// A reader for who builds on what it reads: it counts the records of chains closely, and shares the frames that it
    /// decodes with the next ones.
    pub fn sharing(repository: &'a Repository, frames: &'a DecodedFrames) -> Self {
        Self { frames: Some(frames), ..Self::counting(repository, HashSet::new(), RecordCount::Close) }
    }

    fn counting(repository: &'a Repository, kept: HashSet<BlobId>, record_count: RecordCount) -> Self {
        let staged = Arc::new(StagedBlobs::new(temporary_directory(repository)));
        let (plan, unread, wanted) = (Plan::counting(record_count), Vec::new(), Vec::new());
        let footers = BlobReader::new(repository);
        Self { repository, footers, plan, unread, wanted, staged, kept, frames: None }
    }

    /// The repository it reads.
    pub fn repository(&self) -> &'a Repository {
        self.repository
    }

    /// What was staged.
    pub fn staged(&self) -> Arc<StagedBlobs> {
        Arc::clone(&self.staged)
    }

    /// Looks several chunks up and asks for them in one read of the index, which is locked meanwhile.
    ///
    /// # Errors
    /// Those of `look`; I/O errors of the index.
    pub fn planning<T>(&mut self, look: impl FnOnce(&mut Planning<'_, 'a>) -> Result<T>) -> Result<T> {
        let Self { plan, footers, wanted, unread, repository, .. } = self;
        repository
            .index()
            .reading(|index| look(&mut Planning { plan, wanted, unread, source: Source { index, footers } }))
    }

    /// What the chain of a chunk is like, as footers have it; `None` if it is to be read in another way.
    ///
    /// # Errors
    /// I/O errors of the index.
    pub fn chain(&mut self, id: &BlobId) -> Result<Option<PlannedChain>> {
        self.planning(|planning| planning.chain(id))
    }

    /// Asks for chunks; the index is locked as long as they are looked up.
    ///
    /// # Errors
    /// I/O errors of the index.
    pub fn want(&mut self, chunks: &[WantedChunk]) -> Result<PlanCapacity> {
        self.planning(|planning| chunks.iter().try_for_each(|chunk| planning.want(chunk)))?;
        Ok(self.capacity())
    }

    /// Whether more chunks may be asked for.
    pub fn capacity(&self) -> PlanCapacity {
        if self.plan.is_full() { PlanCapacity::Full } else { PlanCapacity::Left }
    }

    /// Reads what was asked for since the last time, hands it out in no particular order, and returns what could not be
    /// read in this way.
    ///
    /// # Errors
    /// Those of `take`.
    pub fn read(&mut self, take: TakeChunk<'_>) -> Result<Vec<WantedChunk>> {
        self.carry_out(HolderReport::Untold, &|id, bytes, _| take(id, bytes))
    }

    /// The same, and tells which records hold the bytes of chunks with long chains.
    ///
    /// # Errors
    /// Those of `take`.
    pub fn read_with_holders(&mut self, take: TakeHeldChunk<'_>) -> Result<Vec<WantedChunk>> {
        self.carry_out(HolderReport::OfLongChains, take)
    }

    fn carry_out(&mut self, holders: HolderReport, take: TakeHeldChunk<'_>) -> Result<Vec<WantedChunk>> {
        let mut plan = self.plan.take();
        let came_out = Mutex::new(HashSet::new());
        let take = |id: &BlobId, bytes: &[u8], held: &[HeldRun]| {
            take(id, bytes, held)?;
            came_out.lock().insert(*id);
            Ok(())
        };
        let storage = self.repository.storage();
        let work = Work { storage, frames: self.frames, staged: &self.staged, kept: &self.kept, take: &take, holders };
        work.carry_out(&mut plan)?;
        let came_out = came_out.into_inner();
        let mut unread = std::mem::take(&mut self.unread);
        unread.extend(self.wanted.drain(..).filter(|chunk| !came_out.contains(&chunk.id)));
        Ok(unread)
    }
}
