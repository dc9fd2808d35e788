//! Which records hold the bytes of chunks with long chains, so that others need not copy by way of them.
//!
//! After a `VACUUM` a chunk has pieces of a dozen others, after the next one of a dozen of those: were each version to name
//! the one before, a blob would soon need more records than it may. So what is found in a chunk with a long chain is
//! copied from the records that hold its bytes themselves. Invariants: what is told of a chunk is what it was put together
//! from before it was hashed; memory is bounded, the rest is in a temporary file, and what comes back from that is what
//! went in; what cannot be kept or read costs records, never data.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use super::haystack::HaystackChunk;
use crate::chunk::delta::Run;
use crate::id::BlobId;
use crate::store::{HeldRun, Span, StagedBlobs};

/// Records that are remembered as holders, and chunks of which it is known what holds them, of about 130 bytes each.
const MOST: usize = 1 << 16;
/// A shorter run is not worth an instruction.
const LEAST: usize = 16;
/// Bytes of a run in the temporary file.
const RUN: usize = 16;

/// A run of a new chunk that stands elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FoundRun {
    pub(super) run: Run,
    /// The chunk that it is copied from.
    pub(super) from: HaystackChunk,
    /// Where it begins there, in bytes.
    pub(super) offset: usize,
}

/// What is known of chunks with long chains.
#[derive(Debug)]
pub(super) struct Holders {
    staged: StagedBlobs,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    chunks: HashMap<BlobId, StagedRuns>,
    holders: Vec<HaystackChunk>,
    /// Of the holders.
    numbers: HashMap<BlobId, u32>,
}

/// Where the runs of a chunk are.
#[derive(Debug, Clone, Copy)]
struct StagedRuns {
    span: Span,
    hash: blake3::Hash,
}

/// A run of a chunk in the temporary file: four numbers of 32 bits.
#[derive(Debug, Clone, Copy)]
struct StagedRun {
    at: u32,
    length: u32,
    holder: u32,
    offset: u32,
}

/// Follows what one new chunk copies to the records that hold it.
pub(super) struct Follower<'h> {
    holders: &'h Holders,
    /// Of the chunks that it copies from.
    runs: HashMap<BlobId, Vec<StagedRun>>,
}

impl Holders {
    /// None so far, with their temporary file, if they need one, in this directory.
    pub(super) fn new(directory: &Path) -> Self {
        Self { staged: StagedBlobs::new(directory.to_path_buf()), kept: Mutex::default() }
    }

    /// Takes note of what holds a chunk; of none if its chain is short.
    pub(super) fn keep(&self, chunk: &BlobId, held: &[HeldRun]) {
        let kept = || self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(runs) = kept().numbered(held).filter(|runs| !runs.is_empty()) else { return };
        let bytes: Vec<u8> = runs.iter().flat_map(|run| run.to_bytes()).collect();
        if let Some(span) = self.staged.put(&bytes) {
            kept().chunks.insert(*chunk, StagedRuns { span, hash: blake3::hash(&bytes) });
        }
    }

    /// Whether anything is known of this chunk.
    pub(super) fn know(&self, chunk: &BlobId) -> bool {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).chunks.contains_key(chunk)
    }

    /// For one new chunk.
    pub(super) fn follower(&self) -> Follower<'_> {
        Follower { holders: self, runs: HashMap::new() }
    }

    /// What holds a chunk; nothing if that is not known.
    fn runs(&self, chunk: &BlobId) -> Vec<StagedRun> {
        let staged = self.kept.lock().unwrap_or_else(PoisonError::into_inner).chunks.get(chunk).copied();
        let read = |StagedRuns { span, hash }| {
            let mut bytes = vec![0; span.length as usize];
            self.staged.read(span, 0, &mut bytes)?;
            (blake3::hash(&bytes) == hash).then(|| bytes.as_chunks().0.iter().map(StagedRun::of_bytes).collect())
        };
        staged.and_then(read).unwrap_or_default()
    }

    fn holder(&self, number: u32) -> Option<HaystackChunk> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).holders.get(number as usize).copied()
    }
}

impl Kept {
    /// The runs with numbers for their holders; `None` if these, or the chunks, are too many.
    fn numbered(&mut self, held: &[HeldRun]) -> Option<Vec<StagedRun>> {
        if self.chunks.len() >= MOST {
            return None;
        }
        let number = |run: &HeldRun| {
            let number = match self.numbers.get(&run.holder) {
                Some(&known) => known,
                None if self.holders.len() >= MOST => return None,
                None => {
                    self.holders.push(HaystackChunk { id: run.holder, facts: run.facts });
                    let number = self.holders.len() as u32 - 1;
                    self.numbers.insert(run.holder, number);
                    number
                }
            };
            Some(StagedRun { at: run.at, length: run.length, holder: number, offset: run.offset })
        };
        held.iter().map(number).collect()
    }
}

impl StagedRun {
    fn to_bytes(self) -> [u8; RUN] {
        let mut bytes = [0; RUN];
        let numbers = [self.at, self.length, self.holder, self.offset];
        bytes.as_chunks_mut().0.iter_mut().zip(numbers).for_each(|(to, number)| *to = number.to_le_bytes());
        bytes
    }

    fn of_bytes(bytes: &[u8; RUN]) -> Self {
        let mut numbers = bytes.as_chunks().0.iter().map(|number| u32::from_le_bytes(*number));
        let mut next = || numbers.next().unwrap_or_default();
        Self { at: next(), length: next(), holder: next(), offset: next() }
    }

    fn end(&self) -> usize {
        self.at as usize + self.length as usize
    }
}

impl Follower<'_> {
    /// The copies that take the place of one: itself, if its chunk has a short chain or nothing is known of it.
    pub(super) fn follow(&mut self, found: FoundRun) -> Vec<FoundRun> {
        let FoundRun { run, from, offset } = found;
        if !from.facts.is_long() {
            return vec![found];
        }
        let holders = self.holders;
        let runs = self.runs.entry(from.id).or_insert_with(|| holders.runs(&from.id));
        let first = runs.partition_point(|held| held.end() <= offset);
        let part = |held: &StagedRun| {
            let start = offset.max(held.at as usize);
            let length = held.end().min(offset + run.length).saturating_sub(start);
            let from = holders.holder(held.holder).filter(|_| length >= LEAST)?;
            let run = Run { start: run.start + start - offset, length };
            Some(FoundRun { run, from, offset: held.offset as usize + start - held.at as usize })
        };
        let overlapping = runs.iter().skip(first).take_while(|held| (held.at as usize) < offset + run.length);
        let followed: Vec<FoundRun> = overlapping.filter_map(part).collect();
        if runs.is_empty() { vec![found] } else { followed }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::pack::Step;
    use crate::store::chain::ChainFacts;

    fn chunk(name: &str, records: u32) -> HaystackChunk {
        let id = BlobId::of_chunk(name.as_bytes());
        HaystackChunk { id, facts: ChainFacts::whole(id).with_records(records) }
    }

    fn held(at: u32, length: u32, holder: &HaystackChunk, offset: u32) -> HeldRun {
        HeldRun { at, length, holder: holder.id, facts: holder.facts, offset }
    }

    fn found(start: usize, length: usize, from: &HaystackChunk, offset: usize) -> FoundRun {
        FoundRun { run: Run { start, length }, from: *from, offset }
    }

    #[test]
    fn what_is_found_in_a_long_chain_is_copied_from_the_records_that_hold_it() {
        let directory = tempfile::tempdir().unwrap();
        let holders = Holders::new(directory.path());
        let (long, one, two) = (chunk("long", 100), chunk("one", 1), chunk("two", 5));
        holders.keep(&long.id, &[held(0, 1000, &one, 50), held(1000, 8, &long, 1000), held(1008, 3000, &two, 700)]);
        assert!(holders.know(&long.id) && !holders.know(&one.id));
        let mut follower = holders.follower();
        let expected = [found(7000, 100, &one, 950), found(7108, 492, &two, 700)];
        assert_eq!(follower.follow(found(7000, 600, &long, 900)), expected, "eight bytes are not worth a copy");
        assert_eq!(follower.follow(found(10, 50, &long, 2000)), [found(10, 50, &two, 1692)]);
        for itself in [found(10, 50, &one, 20), found(10, 50, &chunk("unknown", 100), 20)] {
            assert_eq!(follower.follow(itself), [itself]);
        }
    }

    #[test]
    fn what_cannot_be_kept_is_copied_from_where_it_was_found() {
        let (long, one) = (chunk("long", 100), chunk("one", 1));
        let whole = [held(0, 4000, &one, 0)];
        let nowhere = Holders::new(Path::new("/nowhere/at/all"));
        nowhere.keep(&long.id, &whole);
        let directory = tempfile::tempdir().unwrap();
        let rotten = Holders::new(directory.path());
        rotten.keep(&long.id, &whole);
        rotten.kept.lock().unwrap().chunks.get_mut(&long.id).unwrap().hash = blake3::hash(b"other");
        let crowded = Holders::new(directory.path());
        let staged = StagedRuns { span: rotten.staged.put(b"").unwrap(), hash: blake3::hash(b"") };
        let chunks = (0..MOST).map(|number| (BlobId::of_chunk(&number.to_le_bytes()), staged));
        crowded.kept.lock().unwrap().chunks = chunks.collect();
        crowded.keep(&long.id, &whole);
        let full = Holders::new(directory.path());
        full.kept.lock().unwrap().holders = vec![one; MOST];
        full.keep(&long.id, &whole);
        for holders in [nowhere, rotten, crowded, full] {
            let itself = found(10, 500, &long, 20);
            assert_eq!(holders.follower().follow(itself), [itself]);
        }
    }

    #[test]
    fn only_chunks_with_long_chains_are_followed() {
        let base = ChainFacts::whole(BlobId::of_chunk(b"base"));
        let short = ChainFacts::delta(BlobId::of_chunk(b"short"), Step::One, &[base; 31]);
        let long = ChainFacts::delta(BlobId::of_chunk(b"long"), Step::One, &[base; 32]);
        assert!(!short.is_long() && long.is_long());
    }
}
