//! Looking for content in those chunks of a file that did not change.
//!
//! What a database merges or moves stays behind in its free pages until they are used again, so the old copy lies in
//! chunks that are still the file's own: they are searched as the file has them, without decoding anything. Two probes
//! decide whether that pays where it takes long; the second one, because text that stands everywhere is found by the
//! first. An image may lack chunks that did not change (`save::sqlite::image`), but never those of the probes; where
//! all are to be searched, the repository gives the others. Invariants: a chunk in which something was found becomes a
//! base only after its content in the file and the repository's copy of it were read and hashed; each chunk is noted
//! once, however much is looked for.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::num::NonZero;
use std::os::unix::fs::FileExt;

use lru::LruCache;
use parking_lot::Mutex;
use rayon::prelude::*;

use super::changed::Changed;
use super::delta_record::SHORT_COPY;
use super::haystack::{Haystack, HaystackChunk, Unreadable};
use crate::chunk::moved::{self, Fingerprints, Match, Sample, Sampling, Stretch, WindowPlace, choose};
use crate::disk::read::read_exactly;
use crate::error::Result;
use crate::format::limits::CHUNK_SIZE;
use crate::id::BlobId;
use crate::save::ahead::make_ahead;
use crate::save::capturing::Patience;
use crate::save::reading::{SourceSlots, Steadiness};
use crate::store::blob_reader::temporary_directory;
use crate::store::{BulkReader, HeldRun, PlanCapacity, WantedChunk};

/// One chunk in this many is in each probe.
const PROBE: u64 = 16;
/// The second probe must find that all chunks would give one byte in this many of those that are missing.
const HOPE: usize = 8;
/// So few chunks are searched without a probe: 64 MiB. A merge leaves its old pages in runs, which probes may miss.
const FEW: usize = 1024;
/// Fewer missing bytes are not worth a search of a large file.
const LEAST: usize = 256 * 1024;
/// Of that many bytes that would be searched, at least one must be missing.
pub(super) const LEAST_OF: usize = 512;
/// A chunk that gives fewer missing bytes is not worth decoding.
const GIVEN: usize = 256;
/// Chunks that one search has at hand.
const AT_HAND: NonZero<usize> = NonZero::new(16).unwrap();
/// Chunks asked for in one look at the index.
const FETCHED_TOGETHER: usize = 512;
/// Chunks noted together.
const GROUP: usize = 64;
/// Chunks searched by one thread in a row, at most: most of the time goes into a few.
pub(super) const SEARCHED_IN_A_ROW: usize = 16;

/// A chunk that did not change.
#[derive(Debug, Clone, Copy)]
pub(super) struct UnchangedChunk {
    pub(super) slot: u64,
    pub(super) id: BlobId,
}

/// How much of the unchanged chunks has been noted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Noted {
    Nothing,
    FirstProbe,
    BothProbes,
    All,
}

/// The unchanged chunks of a stretch of a file.
pub(super) struct Unchanged<'f> {
    contents: Contents<'f>,
    patience: Patience<'f>,
    /// At most 65,536.
    chunks: Vec<UnchangedChunk>,
    sampling: Sampling,
    fingerprints: Fingerprints,
    noted: Noted,
}

/// The bytes of unchanged chunks.
struct Contents<'f> {
    source: SourceSlots<'f>,
    /// Those that the source lacks, once they were fetched.
    fetched: Option<Fetched>,
}

/// Chunks in a temporary file.
struct Fetched {
    file: File,
    /// The numbers of their places in it.
    places: HashMap<BlobId, u64>,
}

/// Chunks that were read and still were what they had been.
struct ContentCache<'u> {
    unchanged: &'u Unchanged<'u>,
    at_hand: LruCache<u16, Vec<u8>>,
}

impl<'f> Unchanged<'f> {
    pub(super) fn new(source: SourceSlots<'f>, mut chunks: Vec<UnchangedChunk>, patience: Patience<'f>) -> Self {
        chunks.truncate(1 << 16);
        let sampling = Sampling::of(chunks.len() * CHUNK_SIZE);
        let (fingerprints, noted) = (Fingerprints::new(sampling), Noted::Nothing);
        let contents = Contents { source, fetched: None };
        Self { contents, patience, chunks, sampling, fingerprints, noted }
    }

    /// Looks for what was found nowhere so far of these chunks, and notes with them what it finds.
    pub(super) fn search(
        &mut self,
        mut bulk: BulkReader<'_>,
        changed: &mut [Changed],
        haystack: &mut Haystack,
    ) -> Result<()> {
        let missing = changed.iter().map(Changed::missing).sum::<usize>();
        let least = LEAST.min(self.chunks.len() * CHUNK_SIZE / LEAST_OF);
        if missing < least.max(1) || self.chunks.is_empty() || self.noted == Noted::BothProbes {
            // With both probes noted and not the rest, they have found that it does not pay.
            return Ok(());
        }
        if self.chunks.len() <= FEW {
            self.note_until(Noted::FirstProbe)?;
            self.note_until(Noted::BothProbes)?;
            self.note_all(&mut bulk)?;
        }
        if self.noted < Noted::All {
            self.note_until(Noted::FirstProbe)?;
            let first = given(&self.look(changed)?);
            self.note_until(Noted::BothProbes)?;
            let both = given(&self.look(changed)?);
            if both.saturating_sub(first) * PROBE as usize * HOPE < missing {
                return Ok(());
            }
            self.note_all(&mut bulk)?;
        }
        let found = self.look(changed)?;
        let numbers = self.admit(bulk, &found, haystack)?;
        for (chunk, found) in changed.iter_mut().zip(found) {
            let found = found
                .into_iter()
                .filter_map(|found| numbers.get(&found.chunk).map(|number| Match { chunk: *number, ..found }));
            chunk.take(found.collect());
        }
        Ok(())
    }

    /// Notes all chunks, and has those at hand that the source lacks.
    fn note_all(&mut self, bulk: &mut BulkReader<'_>) -> Result<()> {
        if self.noted < Noted::All {
            self.contents.fetch(bulk, &self.chunks, self.patience)?;
        }
        self.note_until(Noted::All)
    }

    /// Notes as many chunks as that.
    fn note_until(&mut self, until: Noted) -> Result<()> {
        if self.noted >= until {
            return Ok(());
        }
        self.noted = until;
        let numbered = self.chunks.iter().enumerate();
        let due: Vec<(usize, &UnchangedChunk)> = numbered.filter(|(_, chunk)| part_of(chunk.slot) == until).collect();
        let Self { contents, fingerprints, sampling, .. } = self;
        let sample = |group: &[(usize, &UnchangedChunk)]| -> Result<Vec<(usize, Vec<Sample>)>> {
            let sample = |(number, chunk): &(usize, &UnchangedChunk)| {
                Ok((*number, sampling.samples(&contents.get(chunk)?.unwrap_or_default())))
            };
            group.par_iter().map(sample).collect()
        };
        make_ahead(due.chunks(GROUP), sample, |sampled| {
            sampled.iter().for_each(|(number, samples)| fingerprints.note(*number as u16, 0, samples));
            Ok(Steadiness::Same)
        })?;
        Ok(())
    }

    /// What stands in the chunks noted so far and is missing, for each changed chunk; their numbers are those of the
    /// unchanged ones.
    fn look(&self, changed: &[Changed]) -> Result<Vec<Vec<Match>>> {
        let look = |(reading, buffer): &mut (ContentCache<'_>, Vec<u8>), chunk: &Changed| {
            let sought = chunk.sought();
            if self.contents.source.runs_again(chunk.slot, sought.iter().copied(), buffer)? == Steadiness::Changed {
                return Ok(Vec::new());
            }
            let search = |run| self.fingerprints.search(buffer, run, &chunk.matches, reading);
            let found = sought.into_iter().flat_map(search).collect();
            Ok(choose(&chunk.matches, found, SHORT_COPY))
        };
        let reading = || (ContentCache { unchanged: self, at_hand: LruCache::new(AT_HAND) }, Vec::new());
        changed.par_iter().with_max_len(SEARCHED_IN_A_ROW).map_init(reading, look).collect()
    }

    /// Takes the chunks that give enough, and that the repository has, into the haystack; their numbers there by those
    /// among the unchanged ones.
    fn admit(
        &self,
        mut bulk: BulkReader<'_>,
        found: &[Vec<Match>],
        haystack: &mut Haystack,
    ) -> Result<HashMap<u32, u32>> {
        let mut gives: HashMap<u32, usize> = HashMap::new();
        for found in found.iter().flatten() {
            *gives.entry(found.chunk).or_default() += found.run.length;
        }
        let mut giving: Vec<u32> =
            gives.into_iter().filter(|(_, bytes)| *bytes >= GIVEN).map(|(number, _)| number).collect();
        giving.sort_unstable();
        let readable = Mutex::new(HashSet::new());
        let holders = haystack.holders();
        let came_out = |id: &BlobId, _: &[u8], held: &[HeldRun]| {
            holders.keep(id, held);
            readable.lock().insert(*id);
            Ok(())
        };
        let mut chains = Vec::new();
        for number in giving {
            let Some(UnchangedChunk { id, .. }) = self.chunks.get(number as usize).copied() else { continue };
            let Some(chain) = bulk.chain(&id)? else { continue };
            chains.push((number, HaystackChunk { id, facts: chain.facts }));
            if bulk.want(&[WantedChunk { id, length: chain.length }])? == PlanCapacity::Full {
                bulk.read_with_holders(&came_out)?;
            }
        }
        bulk.read_with_holders(&came_out)?;
        let readable = readable.into_inner();
        chains.retain(|(_, chunk)| readable.contains(&chunk.id));
        Ok(chains.into_iter().map(|(number, chunk)| (number, haystack.add(chunk))).collect())
    }
}

/// When the chunk in this slot is noted.
fn part_of(slot: u64) -> Noted {
    match slot % PROBE {
        0 => Noted::FirstProbe,
        place if place == PROBE / 2 => Noted::BothProbes,
        _ => Noted::All,
    }
}

/// Whether the chunk in this slot is in one of the probes, if it did not change.
pub(in crate::save) fn is_probed(slot: u64) -> bool {
    part_of(slot) != Noted::All
}

/// Bytes of all matches.
fn given(found: &[Vec<Match>]) -> usize {
    found.iter().flatten().map(|found| found.run.length).sum()
}

impl Contents<'_> {
    /// Fetches those of the chunks that the source lacks from the repository. What cannot be read there, or written, is
    /// not searched.
    fn fetch(&mut self, bulk: &mut BulkReader<'_>, chunks: &[UnchangedChunk], patience: Patience<'_>) -> Result<()> {
        let (mut places, mut due) = (HashMap::new(), Vec::new());
        for chunk in chunks.iter().filter(|chunk| self.source.is_left_out(chunk.slot)) {
            let next = places.len() as u64;
            if let Entry::Vacant(place) = places.entry(chunk.id) {
                place.insert(next);
                due.push(WantedChunk { id: chunk.id, length: self.source.length_of(chunk.slot) as u64 });
            }
        }
        let Ok(file) = tempfile::tempfile_in(temporary_directory(bulk.repository())) else { return Ok(()) };
        let keep = |id: &BlobId, bytes: &[u8]| {
            patience.check()?;
            let written = places.get(id).map(|place| file.write_all_at(bytes, place * CHUNK_SIZE as u64));
            if let Some(Err(cause)) = written {
                tracing::debug!(%cause, "a chunk that did not change cannot be searched");
            }
            Ok(())
        };
        for wanted in due.chunks(FETCHED_TOGETHER) {
            if bulk.want(wanted)? == PlanCapacity::Full {
                bulk.read(&keep)?;
            }
        }
        bulk.read(&keep)?;
        self.fetched = Some(Fetched { file, places });
        Ok(())
    }

    /// What stands in the slot of a chunk; `None` if that is not to be had. What hashes to another id was not fetched.
    fn get(&self, chunk: &UnchangedChunk) -> Result<Option<Vec<u8>>> {
        if !self.source.is_left_out(chunk.slot) {
            return self.source.chunk_again(chunk.slot);
        }
        let place = self.fetched.as_ref().and_then(|fetched| Some((fetched, fetched.places.get(&chunk.id)?)));
        let Some((Fetched { file, .. }, place)) = place else { return Ok(None) };
        Ok(read_exactly(file, place * CHUNK_SIZE as u64, self.source.length_of(chunk.slot)).ok())
    }
}

impl moved::StretchSource for ContentCache<'_> {
    fn stretch(&mut self, place: WindowPlace) -> Option<Stretch<'_>> {
        let Self { unchanged, at_hand } = self;
        let read = || {
            let chunk = unchanged.chunks.get(usize::from(place.chunk)).ok_or(Unreadable)?;
            let content = unchanged.contents.get(chunk).ok().flatten().ok_or(Unreadable)?;
            if BlobId::of_chunk(&content) == chunk.id { Ok(content) } else { Err(Unreadable) }
        };
        let content = at_hand.try_get_or_insert(place.chunk, read).ok()?;
        Some(Stretch { start: 0, bytes: content })
    }
}
