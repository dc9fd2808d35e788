//! Storing the chunks of one file: known ones by reference, changed ones as deltas, new ones whole.
//!
//! A chunk that changed is compared with the one that stood at its place; what differs may stand elsewhere in the
//! previous version, which is searched once for many chunks. Invariants: a delta is applied and hashed before it is
//! stored; a base that cannot be read is not built upon; literals that wait for the search are bounded, whatever the file.

use rayon::prelude::*;

use super::delta_record::{self, Literal, OwnBase, SHORT_COPY};
use super::haystack::{Haystack, HaystackChunk};
use super::reading::SourceFile;
use crate::chunk::compress::Thoroughness;
use crate::chunk::delta::{Run, differences};
use crate::chunk::moved::Needles;
use crate::chunk::tree::TreeBuilder;
use crate::error::{Error, Result};
use crate::format::content::Content;
use crate::format::pack::BlobKind;
use crate::id::BlobId;
use crate::store::blob_reader::temporary_directory;
use crate::store::{Base, BlobWriter, Company, DeltaRecord, MetadataRecords, PreviousVersion, Stored, TreeSink};

/// Bytes of literals that wait for the search at most.
const WAITING_BYTES: usize = 8 * 1024 * 1024;
/// A chunk whose differences are all shorter than this is not worth a search.
const NEEDLE_BYTES: usize = 64;
/// Chunks that are searched or encoded together: about those of one frame.
const GROUP: usize = 64;
/// One group in this many is probed.
const PROBE: usize = 8;
/// A first look, or a probe, that finds less than one byte in this many ends the search.
const HOPE: usize = 500;
/// Bytes of replaced blocks after which a first search decides whether more of them are kept.
const FIRST_LOOK: u64 = 2 * 1024 * 1024;
/// After so many probes in vain, what was not passed yet is not looked into any more.
const PROBES: usize = 8;

/// How much time is spent to store less.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Effort {
    /// None: what changed is stored whole.
    None,
    /// Only what changed in place is found.
    Fast,
    /// Content that moved is looked for in what changed, where a probe finds some.
    #[default]
    Normal,
    /// Content that moved is looked for in all of the previous version.
    Max,
}

impl Effort {
    /// How tables and list nodes are stored.
    pub(super) fn metadata(self) -> MetadataRecords {
        if self == Self::None { MetadataRecords::Whole } else { MetadataRecords::Deltas }
    }

    /// How hard what changed is compressed.
    pub(super) fn thoroughness(self) -> Thoroughness {
        if self == Self::Max { Thoroughness::Utmost } else { Thoroughness::Thorough }
    }
}

/// A changed chunk, which may wait for the search.
struct Changed {
    id: BlobId,
    slot: u64,
    length: usize,
    /// What it is stored against, if something stood at its place.
    base: Option<OwnBase>,
    /// Where it differs from the base; the bytes are needles.
    runs: Vec<Run>,
    /// The number of the first of these needles, if they are looked for.
    first_needle: Option<usize>,
}

impl Changed {
    /// Its record with what was found of its literals, if that pays and the content is the chunk's.
    fn encode(&self, content: &[u8], haystack: &Haystack) -> Option<DeltaRecord> {
        let mut literals = Vec::with_capacity(self.runs.len());
        for (number, run) in self.runs.iter().enumerate() {
            let matches = self.first_needle.map(|first| haystack.matches().of(first + number, SHORT_COPY));
            literals.push(Literal { run: *run, matches: matches.unwrap_or_default() });
        }
        delta_record::encode(self.id, content, self.base, &literals, haystack)
    }

    /// Puts the chunk together again: what differed, into what stood at its place.
    fn assemble(&self, base: Option<&Base>, needles: &Needles) -> Vec<u8> {
        let mut content = base.map_or_else(Vec::new, |base| base.bytes.to_vec());
        content.resize(self.length, 0);
        for (number, run) in (self.first_needle.unwrap_or_default()..).zip(&self.runs) {
            if let Some(place) = content.get_mut(run.start..run.end()) {
                place.copy_from_slice(needles.literal(number));
            }
        }
        content
    }
}

/// What is known of the part of the previous version that was not passed yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ahead {
    /// Nothing but that so many probes found little in it.
    Unread { probes: usize },
    /// From this slot on it is in the haystack.
    Kept(u64),
}

/// Takes the slots of one file in order.
pub(super) struct ChunkStore<'s, 'f, 'a> {
    writer: &'s mut BlobWriter,
    source: SourceFile<'f>,
    previous: Option<PreviousVersion<'a>>,
    effort: Effort,
    tree: TreeBuilder,
    waiting: Vec<Changed>,
    needles: Needles,
    /// What stood where something else stands now.
    haystack: Haystack,
    /// Whether it is decided if that pays.
    looked: bool,
    ahead: Ahead,
}

impl<'s, 'f, 'a> ChunkStore<'s, 'f, 'a> {
    pub(super) fn begin(
        writer: &'s mut BlobWriter,
        source: SourceFile<'f>,
        previous: Option<PreviousVersion<'a>>,
        effort: Effort,
    ) -> Self {
        let (tree, waiting, needles) = (TreeBuilder::default(), Vec::new(), Needles::default());
        let directory = previous.as_ref().map(|previous| temporary_directory(previous.reader.repository()));
        let haystack = Haystack::new(&directory.unwrap_or_default());
        Self {
            writer,
            source,
            previous,
            effort,
            tree,
            waiting,
            needles,
            haystack,
            looked: false,
            ahead: Ahead::Unread { probes: 0 },
        }
    }

    /// Takes the next chunk.
    pub(super) fn push_chunk(&mut self, id: BlobId, content: &[u8]) -> Result<()> {
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

    /// Ends without a content. What was taken is stored nevertheless, since it may be met again.
    pub(super) fn give_up(mut self) -> Result<()> {
        self.store_waiting()
    }

    fn store_new(&mut self, id: BlobId, content: &[u8]) -> Result<()> {
        let slot = self.tree.slots();
        let Some(previous) = &mut self.previous else { return self.writer.put_whole(id, content, Company::Bulk) };
        let base = match previous.chunk_at(slot)? {
            None => None,
            Some(before) => match Base::after(&mut previous.reader, BlobKind::Chunk, &before)? {
                Some(base) => Some(base),
                None => return self.writer.put_whole(id, content, Company::Increment),
            },
        };
        let runs = differences(base.as_ref().map_or(&[], |base| &base.bytes), content);
        let own = base.as_ref().map(OwnBase::from);
        if self.effort <= Effort::Fast {
            return self
                .put(&Changed { id, slot, length: content.len(), base: own, runs, first_needle: None }, content);
        }
        if let Some(base) = base.as_ref().filter(|_| !self.is_kept(slot)) {
            self.haystack.keep(HaystackChunk { id: base.id, facts: base.facts }, &base.bytes, &runs);
            self.give_up_hope();
        }
        if runs.iter().all(|run| run.length < NEEDLE_BYTES) {
            return self
                .put(&Changed { id, slot, length: content.len(), base: own, runs, first_needle: None }, content);
        }
        let first_needle = Some(self.needles.count());
        for run in &runs {
            self.needles.add(content.get(run.start..run.end()).unwrap_or_default());
        }
        self.waiting.push(Changed { id, slot, length: content.len(), base: own, runs, first_needle });
        if self.needles.bytes() >= WAITING_BYTES { self.store_waiting() } else { Ok(()) }
    }

    /// Stores a chunk that need not wait.
    fn put(&mut self, chunk: &Changed, content: &[u8]) -> Result<()> {
        match chunk.encode(content, &self.haystack) {
            Some(delta) => self.writer.put_delta(delta),
            None => self.writer.put_whole(chunk.id, content, Company::Increment),
        }
    }

    /// Searches the previous version for the literals that wait, and stores their chunks.
    fn store_waiting(&mut self) -> Result<()> {
        self.search()?;
        let waiting = std::mem::take(&mut self.waiting);
        for together in waiting.chunks(GROUP) {
            let (source, haystack) = (self.source, &self.haystack);
            let encode = |chunk: &Changed| {
                let content = source.chunk_again(chunk.slot).ok()?;
                chunk.encode(&content, haystack)
            };
            let encoded: Vec<_> = together.par_iter().map(encode).collect();
            for (chunk, delta) in together.iter().zip(encoded) {
                match delta {
                    Some(delta) => self.writer.put_delta(delta)?,
                    None => {
                        let content = self.content_again(chunk)?;
                        self.put(chunk, &content)?;
                    }
                }
            }
        }
        self.needles = Needles::default();
        self.haystack.forget_matches();
        Ok(())
    }

    /// The content of a chunk that waited: as its file has it, or, if that was changed meanwhile, put together again.
    fn content_again(&mut self, waiting: &Changed) -> Result<Vec<u8>> {
        let is_it = |content: &Vec<u8>| BlobId::of_chunk(content) == waiting.id;
        if let Some(content) = self.source.chunk_again(waiting.slot).ok().filter(is_it) {
            return Ok(content);
        }
        let base = match (&mut self.previous, &waiting.base) {
            (Some(previous), Some(base)) => {
                Some(Base::read(&mut previous.reader, BlobKind::Chunk, &base.id, base.step)?)
            }
            _ => None,
        };
        let content = Some(waiting.assemble(base.as_ref(), &self.needles)).filter(is_it);
        content.ok_or_else(|| Error::Failed(format!("the chunk {} came out wrong while it was stored", waiting.id)))
    }

    fn is_kept(&self, slot: u64) -> bool {
        matches!(self.ahead, Ahead::Kept(first) if first <= slot)
    }

    /// Once enough was kept for a first look, decides whether content moves in this file at all.
    fn give_up_hope(&mut self) {
        if self.looked || self.effort == Effort::Max || self.haystack.bytes() < FIRST_LOOK {
            return;
        }
        self.looked = true;
        self.haystack.search_kept(&self.needles);
        if self.haystack.found() * HOPE < self.needles.bytes() {
            self.haystack.keep_no_more();
        }
        self.haystack.forget_matches();
    }

    /// Looks for the needles in what was replaced so far, and, where a probe gives hope, in what was not passed yet.
    fn search(&mut self) -> Result<()> {
        let Some(previous) = self.previous.as_mut().filter(|_| !self.needles.is_empty()) else { return Ok(()) };
        self.haystack.search_kept(&self.needles);
        let from = if self.effort == Effort::Max { 0 } else { self.tree.slots() };
        let Ahead::Unread { probes } = self.ahead else { return Ok(()) };
        if probes >= PROBES {
            return Ok(());
        }
        let chunks = previous.chunks_from(from)?;
        let groups = || chunks.chunks(GROUP).enumerate();
        let probing = self.effort == Effort::Normal && chunks.len() > GROUP * PROBE;
        let is_probe = |number: usize| probing && number % PROBE == PROBE / 2;
        if probing {
            let before = self.haystack.found();
            let probed = groups().filter(|(number, _)| is_probe(*number));
            self.haystack.search_chunks(&mut previous.reader, &self.needles, probed.flat_map(|(_, group)| group))?;
            if (self.haystack.found() - before) * HOPE < self.needles.bytes() {
                self.ahead = Ahead::Unread { probes: probes + 1 };
                return Ok(());
            }
        }
        // Content moves all over this file: what was not passed yet is read once, for this search and all further ones.
        self.ahead = Ahead::Kept(from);
        let rest = groups().filter(|(number, _)| !is_probe(*number));
        self.haystack.search_chunks(&mut previous.reader, &self.needles, rest.flat_map(|(_, group)| group))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::store::{Access, BlobReader, LockWait, Repository};

    fn noise(seed: u8, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes);
        bytes
    }

    /// Stores these bytes, read from a file, against a previous version.
    fn store(repository: &Repository, bytes: &[u8], previous: Option<Content>, given_up: bool) -> Option<Content> {
        let mut writer = BlobWriter::begin(repository, MetadataRecords::Deltas, Effort::Normal.thoroughness()).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        let source = SourceFile { file: file.as_file(), path: file.path(), length: bytes.len() as u64 };
        let previous = previous.map(|content| PreviousVersion::of(BlobReader::new(repository), content));
        let mut store = ChunkStore::begin(&mut writer, source, previous, Effort::Normal);
        for chunk in bytes.chunks(65_536) {
            store.push_chunk(BlobId::of_chunk(chunk), chunk).unwrap();
        }
        // Whatever the file has by then, what was taken is what is stored.
        std::fs::write(file.path(), b"gone").unwrap();
        let content = if given_up {
            store.give_up().unwrap();
            None
        } else {
            Some(store.finish(bytes.len() as u64).unwrap())
        };
        writer.finish().unwrap();
        content
    }

    #[test]
    fn chunks_that_wait_are_stored_also_when_their_file_changes_or_is_given_up() {
        let directory = tempfile::tempdir().unwrap();
        let wait = LockWait(Duration::from_secs(1));
        let repository = Repository::open_or_create(directory.path(), wait).unwrap();
        let old = noise(1, 300_000);
        let first = store(&repository, &old, None, false);
        for (seed, given_up) in [(2, false), (3, true)] {
            let mut new = old.clone();
            for place in [1000, 90_000, 250_000] {
                new[place..place + 5000].copy_from_slice(&noise(seed, 5000));
            }
            store(&repository, &new, first, given_up);
            let repository = Repository::open(directory.path(), Access::Read, wait).unwrap().unwrap();
            let mut reader = BlobReader::new(&repository);
            for chunk in new.chunks(65_536) {
                let id = BlobId::of_chunk(chunk);
                assert_eq!(&*reader.chunk(&id).unwrap().unwrap(), chunk, "given up: {given_up}");
            }
        }
    }
}
