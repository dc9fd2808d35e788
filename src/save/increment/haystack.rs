//! The part of the previous version in which content that moved is looked for.
//!
//! Content moves out of places that changed: half of a page that was split, all of a database that was vacuumed. So the
//! old blocks that differ are kept in a temporary file when they are compared, with fingerprints of them in memory;
//! where few chunks were replaced, all of these; all of the previous version, where every byte counts. What lies in
//! chunks that did not change is looked for in the file itself (`save::increment::unchanged`). Invariants: what is
//! found does not depend on the order of keeping; memory is bounded; what comes back from the temporary file is what
//! went in; a part that cannot be kept or read is passed over and costs bytes, never data.

use std::collections::HashMap;
use std::fs::File;
use std::num::NonZero;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use lru::LruCache;
use parking_lot::Mutex;

use super::changed::SOUGHT;
use super::delta_record::SHORT_COPY;
use super::holders::Holders;
use crate::chunk::delta::Run;
use crate::chunk::moved::{self, Fingerprints, Match, Sample, Sampling, Stretch, WindowPlace, choose};
use crate::disk::read::read_exactly;
use crate::error::Result;
use crate::format::limits::CHUNK_SIZE;
use crate::id::BlobId;
use crate::store::chain::ChainFacts;
use crate::store::{BulkReader, HeldRun, PlanCapacity, WantedChunk};

/// What is kept whole if a byte of it differs: the page of most databases.
const BLOCK: usize = 4096;
/// Bytes read at a time where something is found.
const STRETCH: usize = 8 * 1024;
/// Stretches that one search has at hand: 512 KiB.
const AT_HAND: NonZero<usize> = NonZero::new(64).unwrap();

/// Chunks that can be searched: places have 16 bits for their number.
const MOST: usize = 1 << 16;

/// Chunks replaced in a file, at most, for all of them to be kept: 32 MiB.
const FEW: usize = 512;

/// A chunk of the previous version, as a base.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct HaystackChunk {
    pub(super) id: BlobId,
    pub(super) facts: ChainFacts,
}

/// What is kept of a chunk that was replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum KeptOf {
    /// All of it: a page that stays may be merged into others.
    Chunks,
    /// The blocks that differ, where all would be too much.
    Blocks,
}

/// A stretch of a chunk that was kept.
#[derive(Debug, Clone, Copy)]
struct KeptStretch {
    chunk: u16,
    run: Run,
    /// Where it lies in the temporary file.
    at: u64,
    hash: blake3::Hash,
}

/// What is searched: of the first 65,536 chunks that are announced, what is kept.
#[derive(Debug)]
pub(super) struct Haystack {
    chunks: Vec<HaystackChunk>,
    /// What holds those with long chains.
    holders: Holders,
    directory: PathBuf,
    /// `None` if there cannot be one.
    file: OnceLock<Option<File>>,
    kept: Mutex<Kept>,
    sampling: Sampling,
    kept_of: KeptOf,
}

/// What is known of that which is kept.
#[derive(Debug)]
struct Kept {
    stretches: Vec<KeptStretch>,
    fingerprints: Fingerprints,
    /// Bytes in the file.
    bytes: u64,
}

/// The haystack, ready to be searched.
#[derive(Clone, Copy)]
pub(super) struct Searchable<'h> {
    kept: &'h Kept,
    file: Option<&'h File>,
}

/// A search in the haystack, with the stretches that it read last by their places in the temporary file.
pub(super) struct Searcher<'h> {
    searchable: Searchable<'h>,
    at_hand: LruCache<u64, Vec<u8>>,
}

/// Something cannot be read any more, or is not what it was.
pub(super) struct Unreadable;

impl Haystack {
    /// An empty one, with its temporary file, if it needs one, in this directory.
    pub(super) fn new(directory: &Path) -> Self {
        let holders = Holders::new(directory);
        let (directory, sampling) = (directory.to_path_buf(), Sampling::of(usize::MAX));
        let kept = Mutex::new(Kept::new(sampling));
        let (chunks, file, kept_of) = (Vec::new(), OnceLock::new(), KeptOf::Blocks);
        Self { chunks, holders, directory, file, kept, sampling, kept_of }
    }

    /// So many chunks of the previous version will be kept next, replaced ones, which are announced already, and
    /// others.
    pub(super) fn expect(&mut self, chunks: usize) {
        self.kept_of = if self.chunks.len() <= FEW { KeptOf::Chunks } else { KeptOf::Blocks };
        let kept = self.kept.get_mut();
        if kept.stretches.is_empty() {
            self.sampling = Sampling::of(chunks.saturating_mul(CHUNK_SIZE));
            *kept = Kept::new(self.sampling);
        }
    }

    /// What holds the bytes of its chunks.
    pub(super) fn holders(&self) -> &Holders {
        &self.holders
    }

    pub(super) fn chunk(&self, number: u32) -> Option<&HaystackChunk> {
        self.chunks.get(number as usize)
    }

    /// Takes a chunk of which parts may be kept, and returns its number; `None` if there are as many as can be
    /// searched.
    pub(super) fn announce(&mut self, chunk: HaystackChunk) -> Option<u32> {
        (self.chunks.len() < MOST).then(|| self.add(chunk))
    }

    /// Takes a chunk in which something was found already, and returns its number.
    pub(super) fn add(&mut self, chunk: HaystackChunk) -> u32 {
        self.chunks.push(chunk);
        self.chunks.len() as u32 - 1
    }

    /// Keeps the blocks of a replaced chunk in which these runs lie, or all of it; nothing where many were replaced and
    /// all its runs are short: hardly anything moved out of it then (docs/decisions.md).
    pub(super) fn keep(&self, number: u32, bytes: &[u8], differences: &[Run]) {
        if self.kept_of == KeptOf::Blocks && differences.iter().all(|run| run.length < SOUGHT) {
            return;
        }
        let all = [Run { start: 0, length: bytes.len() }];
        let runs = if self.kept_of == KeptOf::Chunks && !differences.is_empty() { &all[..] } else { differences };
        let Ok(chunk) = u16::try_from(number) else { return };
        let file = self.file.get_or_init(|| tempfile::tempfile_in(&self.directory).ok());
        let Some(file) = file else { return };
        for run in blocks(runs, bytes.len()) {
            let stretch = bytes.get(run.start..run.end()).unwrap_or_default();
            let (hash, samples) = (blake3::hash(stretch), self.sampling.samples(stretch));
            let at = self.kept.lock().reserve(run.length);
            if file.write_all_at(stretch, at).is_ok() {
                self.kept.lock().note(KeptStretch { chunk, run, at, hash }, &samples);
            }
        }
    }

    /// Keeps all of these chunks; those that cannot be read are passed over.
    pub(super) fn keep_all(&mut self, mut bulk: BulkReader<'_>, chunks: &[BlobId]) -> Result<()> {
        let mut numbers = HashMap::new();
        for id in chunks {
            if numbers.contains_key(id) {
                continue;
            }
            let Some(chain) = bulk.chain(id)? else { continue };
            let Some(number) = self.announce(HaystackChunk { id: *id, facts: chain.facts }) else { break };
            numbers.insert(*id, number);
            if bulk.want(&[WantedChunk { id: *id, length: chain.length }])? == PlanCapacity::Full {
                self.keep_read(&mut bulk, &numbers)?;
            }
        }
        self.keep_read(&mut bulk, &numbers)
    }

    fn keep_read(&self, bulk: &mut BulkReader<'_>, numbers: &HashMap<BlobId, u32>) -> Result<()> {
        let keep = |id: &BlobId, bytes: &[u8], held: &[HeldRun]| {
            if let Some(number) = numbers.get(id) {
                self.holders.keep(id, held);
                self.keep(*number, bytes, &[Run { start: 0, length: bytes.len() }]);
            }
            Ok(())
        };
        bulk.read_with_holders(&keep).map(|_| ())
    }

    /// Ends the keeping for now; `None` if nothing can be found.
    pub(super) fn searchable(&mut self) -> Option<Searchable<'_>> {
        let kept = self.kept.get_mut();
        kept.stretches.sort_unstable_by_key(|stretch| (stretch.chunk, stretch.run.start));
        let searchable = Searchable { kept, file: self.file.get().and_then(Option::as_ref) };
        (!searchable.kept.fingerprints.is_empty()).then_some(searchable)
    }
}

impl Kept {
    fn new(sampling: Sampling) -> Self {
        Self { stretches: Vec::new(), fingerprints: Fingerprints::new(sampling), bytes: 0 }
    }

    fn reserve(&mut self, length: usize) -> u64 {
        let at = self.bytes;
        self.bytes += length as u64;
        at
    }

    fn note(&mut self, stretch: KeptStretch, samples: &[Sample]) {
        self.fingerprints.note(stretch.chunk, stretch.run.start, samples);
        self.stretches.push(stretch);
    }

    fn stretch(&self, place: WindowPlace) -> Option<&KeptStretch> {
        let key = (place.chunk, usize::from(place.offset));
        let after = self.stretches.partition_point(|stretch| (stretch.chunk, stretch.run.start) <= key);
        self.stretches.get(after.checked_sub(1)?).filter(|stretch| stretch.holds(place))
    }
}

impl KeptStretch {
    fn holds(&self, place: WindowPlace) -> bool {
        self.chunk == place.chunk && (self.run.start..self.run.end()).contains(&usize::from(place.offset))
    }
}

impl<'h> Searchable<'h> {
    /// For one thread.
    pub(super) fn searcher(self) -> Searcher<'h> {
        Searcher { searchable: self, at_hand: LruCache::new(AT_HAND) }
    }
}

impl Searcher<'_> {
    /// Where these runs of a chunk stand.
    pub(super) fn search(&mut self, content: &[u8], runs: impl Iterator<Item = Run>) -> Vec<Match> {
        let fingerprints = &self.searchable.kept.fingerprints;
        let found = runs.flat_map(|run| fingerprints.search(content, run, &[], self)).collect();
        choose(&[], found, SHORT_COPY)
    }
}

impl moved::StretchSource for Searcher<'_> {
    fn stretch(&mut self, place: WindowPlace) -> Option<Stretch<'_>> {
        let Searchable { kept, file } = self.searchable;
        let KeptStretch { at, run, hash, .. } = *kept.stretch(place)?;
        let read = || {
            let bytes = file.and_then(|file| read_exactly(file, at, run.length).ok());
            bytes.filter(|bytes| blake3::hash(bytes) == hash).ok_or(Unreadable)
        };
        let bytes = self.at_hand.try_get_or_insert(at, read).ok()?;
        Some(Stretch { start: run.start, bytes })
    }
}

/// The blocks of `length` bytes in which the runs lie, neighbours together, up to the length of a stretch.
fn blocks(runs: &[Run], length: usize) -> Vec<Run> {
    let mut blocks: Vec<Run> = Vec::new();
    for run in runs.iter().filter(|run| run.start < length) {
        let (start, end) = (run.start / BLOCK * BLOCK, run.end().next_multiple_of(BLOCK).min(length));
        match blocks.last_mut() {
            Some(last) if start <= last.end() => last.length = end.max(last.end()) - last.start,
            _ => blocks.push(Run { start, length: end - start }),
        }
    }
    let pieces = |run: Run| {
        let starts = (run.start..run.end()).step_by(STRETCH);
        starts.map(move |start| Run { start, length: STRETCH.min(run.end() - start) })
    };
    blocks.into_iter().flat_map(pieces).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(seed: u8) -> (HaystackChunk, Vec<u8>) {
        let mut bytes = vec![0; 65_536];
        blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes);
        let id = BlobId::of_chunk(&bytes);
        (HaystackChunk { id, facts: ChainFacts::whole(id) }, bytes)
    }

    fn search(haystack: &mut Haystack, content: &[u8]) -> Vec<Match> {
        let all = Run { start: 0, length: content.len() };
        haystack
            .searchable()
            .map(|searchable| searchable.searcher().search(content, [all].into_iter()))
            .unwrap_or_default()
    }

    #[test]
    fn a_difference_keeps_its_block_and_neighbours_join() {
        let run = |start, length| Run { start, length };
        assert_eq!(blocks(&[run(5, 1), run(4000, 100), run(20_000, 1)], 65_536), [run(0, 8192), run(16_384, 4096)]);
        assert_eq!(blocks(&[run(9000, 1), run(9500, 500)], 9100), [run(8192, 908)]);
        assert_eq!(blocks(&[run(100, 20_000)], 20_100), [run(0, 8192), run(8192, 8192), run(16_384, 3716)]);
        assert_eq!(blocks(&[], 100), []);
    }

    #[test]
    fn what_was_kept_of_many_chunks_in_any_order_is_found_at_its_place_and_nothing_else_is() {
        let directory = tempfile::tempdir().unwrap();
        let mut haystack = Haystack::new(directory.path());
        let changed = [Run { start: 12_000, length: 10 }, Run { start: 50_000, length: SOUGHT }];
        let numbers: Vec<u32> = (0..200).map(|seed| haystack.announce(chunk(seed).0).unwrap()).collect();
        for (seed, number) in (0..200).zip(numbers).rev() {
            let all = [Run { start: 0, length: 65_536 }];
            haystack.keep(number, &chunk(seed).1, if seed == 100 { &all } else { &changed });
        }
        for seed in [3, 199] {
            let content = [&chunk(seed).1[50_000..52_000], &chunk(seed).1[30_000..31_000]].concat();
            let expected = Match { run: Run { start: 0, length: 2000 }, chunk: seed.into(), offset: 50_000 };
            assert_eq!(search(&mut haystack, &content), [expected]);
        }
        // A stretch that comes back from the disk with other bytes is passed over.
        let stretch = *haystack.kept.get_mut().stretches.iter().find(|stretch| stretch.chunk == 3).unwrap();
        haystack.file.get().unwrap().as_ref().unwrap().write_all_at(b"rot", stretch.at + 100).unwrap();
        let rotten = &chunk(3).1[stretch.run.start + 1000..stretch.run.start + 3000];
        assert_eq!(search(&mut haystack, rotten), []);
    }

    #[test]
    fn of_many_chunks_those_that_nothing_long_went_out_of_are_not_kept() {
        let directory = tempfile::tempdir().unwrap();
        for (replaced, is_kept) in [(FEW, true), (FEW + 1, false)] {
            let mut haystack = Haystack::new(directory.path());
            let (old, bytes) = chunk(1);
            (0..replaced).for_each(|_| assert!(haystack.announce(old).is_some()));
            haystack.expect(replaced);
            haystack.keep(0, &bytes, &[Run { start: 4000, length: SOUGHT - 1 }, Run { start: 9000, length: 2 }]);
            assert_eq!(search(&mut haystack, &bytes[..4096]).is_empty(), !is_kept, "{replaced} replaced");
            haystack.keep(0, &bytes, &[Run { start: 4000, length: SOUGHT }]);
            assert!(!search(&mut haystack, &bytes[..4096]).is_empty());
        }
    }

    #[test]
    fn no_more_chunks_are_taken_than_can_be_searched() {
        let mut haystack = Haystack::new(Path::new("/nowhere/at/all"));
        let (any, _) = chunk(1);
        assert!((0..MOST).all(|_| haystack.announce(any).is_some()));
        assert_eq!(haystack.announce(any), None);
        let number = haystack.add(any);
        assert_eq!((number as usize, haystack.chunk(number)), (MOST, Some(&any)), "what was found has its place");
    }

    #[test]
    fn without_a_temporary_file_nothing_is_kept_and_nothing_fails() {
        let mut haystack = Haystack::new(Path::new("/nowhere/at/all"));
        let number = haystack.announce(chunk(1).0).unwrap();
        haystack.keep(number, &chunk(1).1, &[Run { start: 0, length: 65_536 }]);
        assert_eq!(search(&mut haystack, &chunk(1).1), []);
    }
}
