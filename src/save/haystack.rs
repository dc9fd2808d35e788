//! The part of the previous version in which content that moved is looked for.
//!
//! Content moves out of places that changed: half of a page that was split, all of a database that was vacuumed. So the old
//! blocks that differ are kept as they pass by (in memory, then in a temporary file) and searched without being read from
//! packs again. What was not passed yet, and all else where every byte counts, is read from packs. Invariants: matches
//! are noted in the order of the haystack, whatever the threads do; memory is bounded; what comes back from the temporary
//! file is what went in; a part that cannot be kept or read is passed over and costs bytes, never data.

use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;

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
    hash: blake3::Hash,
}

/// What is searched, and what was found of the needles searched for last.
#[derive(Debug)]
pub(super) struct Haystack {
    chunks: Vec<HaystackChunk>,
    stretches: Vec<Stretch>,
    kept: SpooledTempFile,
    /// Bytes kept.
    bytes: u64,
    limit: u64,
    matches: Matches,
    /// Bytes found, those found twice counted twice.
    found: usize,
}

impl Haystack {
    /// An empty one, with its temporary file, if it needs one, in this directory.
    pub(super) fn new(directory: &Path) -> Self {
        let kept = tempfile::spooled_tempfile_in(MEMORY, directory);
        let (chunks, stretches) = (Vec::new(), Vec::new());
        Self { chunks, stretches, kept, bytes: 0, limit: LIMIT, matches: Matches::default(), found: 0 }
    }

    pub(super) fn chunk(&self, number: u32) -> Option<&HaystackChunk> {
        self.chunks.get(number as usize)
    }

    pub(super) fn matches(&self) -> &Matches {
        &self.matches
    }

    /// Bytes found by the searches since the last [`Haystack::forget_matches`].
    pub(super) fn found(&self) -> usize {
        self.found
    }

    /// Begins with other needles.
    pub(super) fn forget_matches(&mut self) {
        self.matches = Matches::default();
        self.found = 0;
    }

    /// Keeps the blocks of a replaced chunk in which these runs lie.
    pub(super) fn keep(&mut self, chunk: HaystackChunk, bytes: &[u8], differences: &[Run]) {
        let number = self.chunks.len() as u32;
        self.chunks.push(chunk);
        if self.limit == 0 {
            return;
        }
        for run in blocks(differences, bytes.len()) {
            let stretch = bytes.get(run.start..run.end()).unwrap_or_default();
            if self.bytes + stretch.len() as u64 > self.limit || self.kept.write_all(stretch).is_err() {
                // What was written of this stretch is never read.
                return self.keep_no_more();
            }
            self.bytes += stretch.len() as u64;
            self.stretches.push(Stretch { chunk: number, run, hash: blake3::hash(stretch) });
        }
    }

    /// Keeps nothing from now on.
    pub(super) fn keep_no_more(&mut self) {
        self.limit = 0;
    }

    /// Bytes kept so far.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Searches all that was kept.
    pub(super) fn search_kept(&mut self, needles: &Needles) {
        if let Err(cause) = self.try_search_kept(needles) {
            tracing::debug!(%cause, "a temporary file cannot be read; more is stored than need be");
            self.keep_no_more();
        }
    }

    fn try_search_kept(&mut self, needles: &Needles) -> io::Result<()> {
        self.kept.seek(SeekFrom::Start(0))?;
        let stretches = std::mem::take(&mut self.stretches);
        let mut done = 0;
        while let Some(rest) = stretches.get(done..).filter(|rest| !rest.is_empty()) {
            let mut batch = Vec::new();
            let mut read = 0;
            for stretch in rest {
                let mut bytes = vec![0; stretch.run.length];
                self.kept.read_exact(&mut bytes)?;
                read += bytes.len();
                done += 1;
                if blake3::hash(&bytes) == stretch.hash {
                    batch.push(Straw { chunk: stretch.chunk, offset: stretch.run.start as u32, bytes: bytes.into() });
                }
                if read >= BATCH {
                    break;
                }
            }
            self.search_batch(needles, &batch);
        }
        self.stretches = stretches;
        self.kept.seek(SeekFrom::End(0)).map(|_| ())
    }

    /// Reads these chunks, searches them, and keeps them for further searches.
    pub(super) fn search_chunks<'i>(
        &mut self,
        reader: &mut BlobReader<'_>,
        needles: &Needles,
        ids: impl Iterator<Item = &'i BlobId>,
    ) -> Result<()> {
        let mut batch = Vec::new();
        let mut read = 0;
        for id in ids {
            let Ok(chained) = reader.chained(id, BlobKind::Chunk)? else { continue };
            let chunk = self.chunks.len() as u32;
            let whole = [Run { start: 0, length: chained.bytes.len() }];
            self.keep(HaystackChunk { id: *id, facts: chained.facts }, &chained.bytes, &whole);
            read += chained.bytes.len();
            batch.push(Straw { chunk, offset: 0, bytes: chained.bytes });
            if read >= BATCH {
                self.search_batch(needles, &batch);
                batch.clear();
                read = 0;
            }
        }
        self.search_batch(needles, &batch);
        Ok(())
    }

    fn search_batch(&mut self, needles: &Needles, batch: &[Straw]) {
        let found: Vec<Vec<Found>> = batch.par_iter().map(|straw| needles.search(&straw.bytes)).collect();
        for (straw, found) in batch.iter().zip(found) {
            self.found += found.iter().map(|found| found.run.length).sum::<usize>();
            self.matches.note(straw.chunk, straw.offset, &found);
        }
    }
}

/// A part of a chunk to be searched.
struct Straw {
    chunk: u32,
    /// Where it begins in its chunk.
    offset: u32,
    bytes: Arc<[u8]>,
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
    fn what_was_kept_of_many_chunks_is_found_at_its_place_again_and_again() {
        let mut haystack = Haystack::new(&std::env::temp_dir());
        let changed = [Run { start: 12_000, length: 10 }, Run { start: 50_000, length: 10 }];
        for seed in 0..200 {
            let (chunk, bytes) = chunk(seed);
            haystack.keep(chunk, &bytes, if seed == 100 { &[Run { start: 0, length: 65_536 }] } else { &changed });
        }
        for seed in [3, 199] {
            let mut needles = Needles::default();
            needles.add(&chunk(seed).1[50_000..52_000]);
            needles.add(&chunk(seed).1[30_000..31_000]);
            haystack.forget_matches();
            haystack.search_kept(&needles);
            let found = haystack.matches().of(0, 32);
            assert_eq!((found[0].chunk, found[0].offset, found[0].run.length), (u32::from(seed), 50_000, 2000));
            assert_eq!(haystack.matches().of(1, 32), []);
            assert_eq!(haystack.found(), 2000);
        }
    }
}
