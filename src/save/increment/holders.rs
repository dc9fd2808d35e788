//! Which records hold the bytes of chunks with long chains, so that others need not copy by way of them.
//!
//! After a `VACUUM` a chunk has pieces of a dozen others, after the next one of a dozen of those: were each version to
//! name the one before, a blob would soon need more records than it may. So what is found in a chunk with a long chain
//! is copied from the records that hold its bytes themselves. Invariants: what is told of a chunk is what it was put
//! together from before it was hashed; memory holds where that is in a temporary file, for a bounded number of chunks,
//! and what comes back is what went in; what cannot be kept or read costs records, never data.

use std::collections::HashMap;
use std::path::Path;

use parking_lot::Mutex;

use super::haystack::HaystackChunk;
use crate::chunk::delta::Run;
use crate::id::BlobId;
use crate::store::chain::ChainFacts;
use crate::store::{HeldRun, Span, StagedBlobs};

/// Chunks of which it is remembered what holds them, of about 100 bytes each: twice those that can be searched, so that
/// which ones they are does not depend on the order of threads.
const MOST: usize = 1 << 17;
/// A shorter run is not worth an instruction.
const LEAST: usize = 16;
/// Bytes of a holder in the temporary file: its id and three numbers.
const HOLDER: usize = 44;
/// Bytes of a run there: four numbers.
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
    chunks: Mutex<HashMap<BlobId, StagedRuns>>,
}

/// Where the runs of a chunk are.
#[derive(Debug, Clone, Copy)]
struct StagedRuns {
    span: Span,
    hash: blake3::Hash,
}

/// Follows what one new chunk copies to the records that hold it.
pub(super) struct Follower<'h> {
    holders: &'h Holders,
    /// Of the chunks that it copies from.
    runs: HashMap<BlobId, Vec<HeldRun>>,
}

impl Holders {
    /// None so far, with their temporary file, if they need one, in this directory.
    pub(super) fn new(directory: &Path) -> Self {
        Self { staged: StagedBlobs::new(directory.to_path_buf()), chunks: Mutex::default() }
    }

    /// Takes note of what holds a chunk; of nothing if its chain is short.
    pub(super) fn keep(&self, chunk: &BlobId, held: &[HeldRun]) {
        if held.is_empty() || self.know(chunk) || self.chunks.lock().len() >= MOST {
            return;
        }
        let bytes = encode(held);
        if let Some(span) = self.staged.put(&bytes) {
            self.chunks.lock().insert(*chunk, StagedRuns { span, hash: blake3::hash(&bytes) });
        }
    }

    /// Whether anything is known of this chunk.
    pub(super) fn know(&self, chunk: &BlobId) -> bool {
        self.chunks.lock().contains_key(chunk)
    }

    /// For one new chunk.
    pub(super) fn follower(&self) -> Follower<'_> {
        Follower { holders: self, runs: HashMap::new() }
    }

    /// What holds a chunk; nothing if that is not known.
    fn runs(&self, chunk: &BlobId) -> Option<Vec<HeldRun>> {
        let StagedRuns { span, hash } = self.chunks.lock().get(chunk).copied()?;
        let mut bytes = vec![0; span.length as usize];
        self.staged.read(span, 0, &mut bytes)?;
        if blake3::hash(&bytes) == hash { decode(&bytes) } else { None }
    }
}

/// The runs as they are staged: how many holders there are, the holders, then runs with the numbers of these.
fn encode(held: &[HeldRun]) -> Vec<u8> {
    let mut numbers: HashMap<BlobId, u32> = HashMap::new();
    let (mut holders, mut runs) = (Vec::new(), Vec::with_capacity(held.len() * RUN));
    for HeldRun { at, length, holder, facts, offset } in held {
        let new = numbers.len() as u32;
        let number = *numbers.entry(*holder).or_insert_with(|| {
            holders.extend_from_slice(holder.as_bytes());
            holders.extend([facts.depth, facts.records, facts.ways].iter().flat_map(|number| number.to_le_bytes()));
            new
        });
        runs.extend([*at, *length, number, *offset].iter().flat_map(|number| number.to_le_bytes()));
    }
    [&(numbers.len() as u32).to_le_bytes()[..], &holders, &runs].concat()
}

fn decode(bytes: &[u8]) -> Option<Vec<HeldRun>> {
    let number = |bytes: &[u8; 4]| u32::from_le_bytes(*bytes);
    let (count, rest) = bytes.split_first_chunk()?;
    let (holders, runs) = rest.split_at_checked(number(count) as usize * HOLDER)?;
    let holder = |bytes: &[u8; HOLDER]| {
        let (id, facts) = bytes.split_first_chunk()?;
        let [depth, records, ways] = facts.as_chunks().0 else { return None };
        let id = BlobId::from_bytes(*id);
        Some((id, ChainFacts::beside(id, number(depth), number(records), number(ways))))
    };
    let holders: Vec<(BlobId, ChainFacts)> = holders.as_chunks().0.iter().map(holder).collect::<Option<_>>()?;
    let run = |bytes: &[u8; RUN]| {
        let [at, length, holder, offset] = bytes.as_chunks().0 else { return None };
        let &(holder, facts) = holders.get(number(holder) as usize)?;
        Some(HeldRun { at: number(at), length: number(length), holder, facts, offset: number(offset) })
    };
    runs.as_chunks().0.iter().map(run).collect()
}

impl Follower<'_> {
    /// The copies that take the place of one: itself, if its chunk has a short chain or nothing is known of it.
    pub(super) fn follow(&mut self, found: FoundRun) -> Vec<FoundRun> {
        let FoundRun { run, from, offset } = found;
        if !from.facts.is_long() {
            return vec![found];
        }
        let holders = self.holders;
        let runs = self.runs.entry(from.id).or_insert_with(|| holders.runs(&from.id).unwrap_or_default());
        if runs.is_empty() {
            return vec![found];
        }
        let end = |held: &HeldRun| held.at as usize + held.length as usize;
        let part = |held: &HeldRun| {
            let start = offset.max(held.at as usize);
            let length = end(held).min(offset + run.length).saturating_sub(start);
            let run = Run { start: run.start + start - offset, length };
            let from = HaystackChunk { id: held.holder, facts: held.facts };
            let offset = held.offset as usize + start - held.at as usize;
            (length >= LEAST).then_some(FoundRun { run, from, offset })
        };
        let first = runs.partition_point(|held| end(held) <= offset);
        let overlapping = runs.iter().skip(first).take_while(|held| (held.at as usize) < offset + run.length);
        overlapping.filter_map(part).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(name: &str, records: u32) -> HaystackChunk {
        let id = BlobId::of_chunk(name.as_bytes());
        HaystackChunk { id, facts: ChainFacts::beside(id, 3, records, 2 * records) }
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
        rotten.chunks.lock().get_mut(&long.id).unwrap().hash = blake3::hash(b"other");
        let crowded = Holders::new(directory.path());
        let staged = StagedRuns { span: rotten.staged.put(b"").unwrap(), hash: blake3::hash(b"") };
        let chunks = (0..MOST).map(|number| (BlobId::of_chunk(&number.to_le_bytes()), staged));
        *crowded.chunks.lock() = chunks.collect();
        crowded.keep(&long.id, &whole);
        for holders in [nowhere, rotten, crowded] {
            let itself = found(10, 500, &long, 20);
            assert_eq!(holders.follower().follow(itself), [itself]);
        }
    }
}
