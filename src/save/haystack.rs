//! The part of the previous version in which content that moved is looked for.
//!
//! Content moves out of places that changed: half of a page that was split, all of a database that was vacuumed. So the old
//! blocks that differ are kept when they are compared (in memory, then in a temporary file) and searched without being
//! read from packs again; all of the previous version, where every byte counts. What lies in chunks that did not change is
//! looked for in the file itself (`save::unchanged`). Invariants: matches are noted in the order
//! of the haystack, in whatever order it was filled; memory is bounded; what comes back from the temporary file is what went
//! in; a part that cannot be kept or read is passed over and costs bytes, never data.

use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;
use tempfile::SpooledTempFile;

use crate::chunk::delta::Run;
use crate::chunk::moved::{Found, Matches, Needles};
use crate::error::Result;
use crate::format::pack::BlobKind;
use crate::id::BlobId;
use crate::store::BlobReader;
use crate::store::chain::ChainFacts;

/// What is kept whole if a byte of it differs: the page of most databases.
const BLOCK: usize = 4096;
/// Bytes kept in memory; more go to a temporary file.
const MEMORY: usize = 4 * 1024 * 1024;
/// Bytes kept at most.
const LIMIT: u64 = 4 << 30;
/// Bytes searched together.
const BATCH: usize = 4 * 1024 * 1024;

/// A chunk of the previous version, as a base.
#[derive(Debug, Clone, Copy)]
pub(super) struct HaystackChunk {
    pub(super) id: BlobId,
    pub(super) facts: ChainFacts,
}

/// A stretch of a chunk that was kept.
#[derive(Debug, Clone, Copy)]
struct Stretch {
    chunk: u32,
    run: Run,
    /// Where it lies in the temporary file.
    at: u64,
    hash: blake3::Hash,
}

/// A part of a chunk to be searched.
struct Straw {
    chunk: u32,
    /// Where it begins in its chunk.
    offset: u32,
    bytes: Vec<u8>,
}

/// What is searched, and what was found of the needles searched for last.
#[derive(Debug)]
pub(super) struct Haystack {
    chunks: Vec<HaystackChunk>,
    kept: Mutex<Kept>,
    matches: Matches,
}

/// The bytes that are kept.
#[derive(Debug)]
struct Kept {
    stretches: Vec<Stretch>,
    file: SpooledTempFile,
    /// Bytes in the file.
    bytes: u64,
    limit: u64,
}

impl Haystack {
    /// An empty one, with its temporary file, if it needs one, in this directory.
    pub(super) fn new(directory: &Path) -> Self {
        let file = tempfile::spooled_tempfile_in(MEMORY, directory);
        let kept = Mutex::new(Kept { stretches: Vec::new(), file, bytes: 0, limit: LIMIT });
        Self { chunks: Vec::new(), kept, matches: Matches::default() }
    }

    pub(super) fn chunk(&self, number: u32) -> Option<&HaystackChunk> {
        self.chunks.get(number as usize)
    }

    pub(super) fn matches(&self) -> &Matches {
        &self.matches
    }

    /// Begins with other needles.
    pub(super) fn forget_matches(&mut self) {
        self.matches = Matches::default();
    }

    /// Takes a chunk of which parts may be kept, and returns its number.
    pub(super) fn announce(&mut self, chunk: HaystackChunk) -> u32 {
        self.chunks.push(chunk);
        self.chunks.len() as u32 - 1
    }

    /// Keeps the blocks of a replaced chunk in which these runs lie.
    pub(super) fn keep(&self, number: u32, bytes: &[u8], differences: &[Run]) {
        for run in blocks(differences, bytes.len()) {
            let stretch = bytes.get(run.start..run.end()).unwrap_or_default();
            let hash = blake3::hash(stretch);
            self.kept.lock().unwrap_or_else(PoisonError::into_inner).keep(number, run, stretch, hash);
        }
    }

    /// Keeps all of these chunks; those that cannot be read are passed over.
    pub(super) fn keep_all(&mut self, reader: &mut BlobReader<'_>, chunks: &[BlobId]) -> Result<()> {
        for id in chunks {
            let Ok(chained) = reader.chained(id, BlobKind::Chunk)? else { continue };
            let number = self.announce(HaystackChunk { id: *id, facts: chained.facts });
            self.keep(number, &chained.bytes, &[Run { start: 0, length: chained.bytes.len() }]);
        }
        Ok(())
    }

    /// Takes a chunk with what was found in it.
    pub(super) fn note(&mut self, chunk: HaystackChunk, found: &[Found]) {
        let number = self.announce(chunk);
        self.matches.note(number, 0, found);
    }

    /// Lets go of all that was kept, and keeps nothing from now on.
    fn forget_all(&mut self) {
        let kept = self.kept.get_mut().unwrap_or_else(PoisonError::into_inner);
        kept.stretches = Vec::new();
        kept.limit = 0;
    }

    /// Searches all that was kept.
    pub(super) fn search(&mut self, needles: &Needles) {
        if needles.is_empty() {
            return;
        }
        let Self { kept, matches, .. } = self;
        let kept = kept.get_mut().unwrap_or_else(PoisonError::into_inner);
        let searched = kept.search(|batch| {
            let searched: Vec<Vec<Found>> = batch.par_iter().map(|straw| needles.search(&straw.bytes)).collect();
            for (straw, here) in batch.iter().zip(searched) {
                matches.note(straw.chunk, straw.offset, &here);
            }
        });
        if let Err(cause) = searched {
            tracing::debug!(%cause, "a temporary file cannot be read; more is stored than need be");
            self.forget_all();
        }
    }
}

impl Kept {
    fn keep(&mut self, chunk: u32, run: Run, bytes: &[u8], hash: blake3::Hash) {
        if self.bytes + bytes.len() as u64 > self.limit {
            return;
        }
        match self.file.write_all(bytes) {
            Ok(()) => {
                self.stretches.push(Stretch { chunk, run, at: self.bytes, hash });
                self.bytes += bytes.len() as u64;
            }
            // What was written of this stretch is never read.
            Err(_) => self.limit = 0,
        }
    }

    /// Gives everything to `search` in the order of the haystack, a batch at a time.
    fn search(&mut self, mut search: impl FnMut(&[Straw])) -> io::Result<()> {
        self.stretches.sort_unstable_by_key(|stretch| (stretch.chunk, stretch.run.start));
        let mut batch = Vec::new();
        let mut read = 0;
        for stretch in &self.stretches {
            let mut bytes = vec![0; stretch.run.length];
            self.file.seek(SeekFrom::Start(stretch.at))?;
            self.file.read_exact(&mut bytes)?;
            read += bytes.len();
            if blake3::hash(&bytes) == stretch.hash {
                batch.push(Straw { chunk: stretch.chunk, offset: stretch.run.start as u32, bytes });
            }
            if read >= BATCH {
                search(&batch);
                batch.clear();
                read = 0;
            }
        }
        search(&batch);
        self.file.seek(SeekFrom::End(0)).map(|_| ())
    }
}

/// The blocks of `length` bytes in which the runs lie, neighbours together.
fn blocks(runs: &[Run], length: usize) -> Vec<Run> {
    let mut blocks: Vec<Run> = Vec::new();
    for run in runs.iter().filter(|run| run.start < length) {
        let (start, end) = (run.start / BLOCK * BLOCK, run.end().next_multiple_of(BLOCK).min(length));
        match blocks.last_mut() {
            Some(last) if start <= last.end() => last.length = end.max(last.end()) - last.start,
            _ => blocks.push(Run { start, length: end - start }),
        }
    }
    blocks
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

    #[test]
    fn a_difference_keeps_its_block_and_neighbours_join() {
        let run = |start, length| Run { start, length };
        assert_eq!(blocks(&[run(5, 1), run(4000, 100), run(20_000, 1)], 65_536), [run(0, 8192), run(16_384, 4096)]);
        assert_eq!(blocks(&[run(9000, 1), run(9500, 500)], 9100), [run(8192, 908)]);
        assert_eq!(blocks(&[], 100), []);
    }

    #[test]
    fn what_was_kept_of_many_chunks_in_any_order_is_found_at_its_place_again_and_again() {
        let mut haystack = Haystack::new(&std::env::temp_dir());
        let changed = [Run { start: 12_000, length: 10 }, Run { start: 50_000, length: 10 }];
        let numbers: Vec<u32> = (0..200).map(|seed| haystack.announce(chunk(seed).0)).collect();
        for (seed, number) in (0..200).zip(numbers).rev() {
            let all = [Run { start: 0, length: 65_536 }];
            haystack.keep(number, &chunk(seed).1, if seed == 100 { &all } else { &changed });
        }
        for seed in [3, 199] {
            let mut needles = Needles::default();
            needles.add(&chunk(seed).1[50_000..52_000]);
            needles.add(&chunk(seed).1[30_000..31_000]);
            haystack.forget_matches();
            haystack.search(&needles);
            let found = haystack.matches().of(0, 32);
            assert_eq!((found[0].chunk, found[0].offset, found[0].run.length), (u32::from(seed), 50_000, 2000));
            assert_eq!(haystack.matches().of(1, 32), []);
        }
        haystack.forget_all();
        let mut needles = Needles::default();
        needles.add(&chunk(3).1[50_000..52_000]);
        haystack.forget_matches();
        haystack.search(&needles);
        assert_eq!(haystack.matches().of(0, 32), []);
    }
}
