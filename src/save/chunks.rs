//! Storing the chunks of one file: known ones by reference, changed ones as deltas, new ones whole.
//!
//! A chunk that changed is compared with the one that stood at its place; what differs may stand elsewhere in the
//! previous version, which is searched once for many chunks. Invariants: a delta is applied and hashed before it is
//! stored; a base that cannot be read is not built upon; literals that wait for the search are bounded, whatever the file.

use super::delta_record::{self, HaystackChunk, Literal, SHORT_COPY};
use crate::chunk::delta::{Run, differences};
use crate::chunk::moved::Needles;
use crate::chunk::tree::TreeBuilder;
use crate::error::{Error, Result};
use crate::format::content::Content;
use crate::format::pack::{BlobKind, Step};
use crate::id::BlobId;
use crate::store::content::{Piece, Pieces};
use crate::store::{Base, BlobWriter, PreviousVersion, Stored, TreeSink};

/// Bytes of literals that wait for the search at most.
const WAITING_BYTES: usize = 16 * 1024 * 1024;
/// A chunk whose differences are all shorter than this is not worth a search.
const NEEDLE_BYTES: usize = 64;
/// Chunks that a probe searches together: about those of one frame.
const GROUP: usize = 64;
/// One group in this many is probed.
const PROBE: usize = 8;
/// A probe that finds less than one byte in this many ends the search.
const HOPE: usize = 500;

/// How much time is spent to store less.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Effort {
    /// None: what changed is stored whole.
    #[default]
    None,
    /// Only what changed in place is found.
    Fast,
    /// Content that moved is looked for where a probe finds some.
    Normal,
    /// Content that moved is always looked for.
    Max,
}

/// A changed chunk that waits for the search.
struct Waiting {
    id: BlobId,
    length: usize,
    /// What it is stored against, if something stood at its place.
    base: Option<WaitingBase>,
    /// Where it differs from the base; the bytes are needles.
    runs: Vec<Run>,
    first_needle: usize,
}

impl Waiting {
    /// Puts the chunk together again: what differed, into what stood at its place.
    fn content(&self, base: Option<&Base>, needles: &Needles) -> Vec<u8> {
        let mut content = base.map_or_else(Vec::new, |base| base.bytes.to_vec());
        content.resize(self.length, 0);
        for (number, run) in (self.first_needle..).zip(&self.runs) {
            if let Some(place) = content.get_mut(run.start..run.end()) {
                place.copy_from_slice(needles.literal(number));
            }
        }
        content
    }
}

struct WaitingBase {
    id: BlobId,
    step: Step,
}

/// Takes the slots of one file in order.
pub(super) struct ChunkStore<'s, 'a> {
    writer: &'s mut BlobWriter,
    previous: Option<PreviousVersion<'a>>,
    effort: Effort,
    tree: TreeBuilder,
    waiting: Vec<Waiting>,
    needles: Needles,
}

impl<'s, 'a> ChunkStore<'s, 'a> {
    pub(super) fn begin(writer: &'s mut BlobWriter, previous: Option<PreviousVersion<'a>>, effort: Effort) -> Self {
        let (tree, waiting, needles) = (TreeBuilder::default(), Vec::new(), Needles::default());
        Self { writer, previous, effort, tree, waiting, needles }
    }

    /// Slots taken so far.
    pub(super) fn slots(&self) -> u64 {
        self.tree.slots()
    }

    /// Takes the next chunk.
    pub(super) fn push_chunk(&mut self, content: &[u8]) -> Result<()> {
        let id = BlobId::of_chunk(content);
        if self.writer.reserve(id) == Stored::New {
            self.store_new(id, content)?;
        }
        self.tree.push_chunk(id, &mut TreeSink { writer: self.writer, previous: self.previous.as_mut() })
    }

    /// Takes a run of holes.
    pub(super) fn push_holes(&mut self, count: u64) -> Result<()> {
        self.tree.push_holes(count, &mut TreeSink { writer: self.writer, previous: self.previous.as_mut() })
    }

    /// Ends the file, which is `length` bytes long.
    pub(super) fn finish(mut self, length: u64) -> Result<Content> {
        self.store_waiting()?;
        self.tree.finish(length, &mut TreeSink { writer: self.writer, previous: self.previous.as_mut() })
    }

    fn store_new(&mut self, id: BlobId, content: &[u8]) -> Result<()> {
        let Some(previous) = &mut self.previous else { return self.writer.put_whole(id, content) };
        let base = match previous.chunk_at(self.tree.slots())? {
            None => None,
            Some(before) => match Base::after(&mut previous.reader, BlobKind::Chunk, &before)? {
                Some(base) => Some(base),
                None => return self.writer.put_whole(id, content),
            },
        };
        let runs = differences(base.as_ref().map_or(&[], |base| &base.bytes), content);
        if self.effort <= Effort::Fast || runs.iter().all(|run| run.length < NEEDLE_BYTES) {
            let literals: Vec<_> = runs.iter().map(|run| Literal { run: *run, matches: Vec::new() }).collect();
            return self.put(id, content, base.as_ref(), &literals, &[]);
        }
        let first_needle = self.needles.count();
        for run in &runs {
            self.needles.add(content.get(run.start..run.end()).unwrap_or_default());
        }
        let base = base.map(|base| WaitingBase { id: base.id, step: base.step });
        self.waiting.push(Waiting { id, length: content.len(), base, runs, first_needle });
        if self.needles.bytes() >= WAITING_BYTES { self.store_waiting() } else { Ok(()) }
    }

    fn put(
        &mut self,
        id: BlobId,
        content: &[u8],
        base: Option<&Base>,
        literals: &[Literal],
        haystack: &[HaystackChunk],
    ) -> Result<()> {
        match delta_record::encode(id, content, base, literals, haystack) {
            Some(delta) => self.writer.put_delta(delta),
            None => self.writer.put_whole(id, content),
        }
    }

    /// Searches the previous version for the literals that wait, and stores their chunks.
    fn store_waiting(&mut self) -> Result<()> {
        let haystack = self.search()?;
        let needles = std::mem::take(&mut self.needles);
        for waiting in std::mem::take(&mut self.waiting) {
            let base = match (&mut self.previous, &waiting.base) {
                (Some(previous), Some(base)) => {
                    Some(Base::read(&mut previous.reader, BlobKind::Chunk, &base.id, base.step)?)
                }
                _ => None,
            };
            let content = waiting.content(base.as_ref(), &needles);
            if BlobId::of_chunk(&content) != waiting.id {
                return Err(Error::Failed(format!("the chunk {} came out wrong while it was stored", waiting.id)));
            }
            let mut literals = Vec::with_capacity(waiting.runs.len());
            for (number, run) in (waiting.first_needle..).zip(waiting.runs) {
                literals.push(Literal { run, matches: needles.matches(number, SHORT_COPY) });
            }
            self.put(waiting.id, &content, base.as_ref(), &literals, &haystack)?;
        }
        Ok(())
    }

    /// Looks for the needles in the previous version: first in a part of it, then, if that gives hope, in all.
    fn search(&mut self) -> Result<Vec<HaystackChunk>> {
        let mut haystack = Vec::new();
        let Some(previous) = self.previous.as_mut().filter(|_| !self.needles.is_empty()) else { return Ok(haystack) };
        let chunks = chunks_of(previous)?;
        let groups = chunks.chunks(GROUP).enumerate();
        let probing = self.effort == Effort::Normal && chunks.len() > GROUP * PROBE;
        let probed = |number: usize| probing && number % PROBE == PROBE / 2;
        let mut found = 0;
        for (_, group) in groups.clone().filter(|(number, _)| probed(*number)) {
            found += search_group(previous, &mut self.needles, group, &mut haystack)?;
        }
        if probing && found * HOPE < self.needles.bytes() {
            return Ok(haystack);
        }
        for (_, group) in groups.filter(|(number, _)| !probed(*number)) {
            search_group(previous, &mut self.needles, group, &mut haystack)?;
        }
        Ok(haystack)
    }
}

/// The chunks of the previous version, in order.
fn chunks_of(previous: &mut PreviousVersion<'_>) -> Result<Vec<BlobId>> {
    let mut pieces = Pieces::of(&previous.content());
    let mut chunks = Vec::new();
    while let Some(piece) = pieces.next(&mut previous.reader, |_| ())? {
        if let Piece::Chunk { id, .. } = piece {
            chunks.push(id);
        }
    }
    Ok(chunks)
}

/// Searches some chunks and returns how many bytes were found; a chunk that cannot be read is passed over.
fn search_group(
    previous: &mut PreviousVersion<'_>,
    needles: &mut Needles,
    group: &[BlobId],
    haystack: &mut Vec<HaystackChunk>,
) -> Result<usize> {
    let mut found = 0;
    for id in group {
        if let Ok(chained) = previous.reader.chained(id, BlobKind::Chunk)? {
            found += needles.search(haystack.len() as u32, &chained.bytes);
            haystack.push(HaystackChunk { id: *id, facts: chained.facts });
        }
    }
    Ok(found)
}
