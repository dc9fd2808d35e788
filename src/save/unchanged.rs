//! Looking for content in those chunks of a file that did not change.
//!
//! What a database merges or moves stays behind in its free pages until they are used again, so the old copy lies in
//! chunks that are still the file's own: they are searched as the file has them, without decoding anything. Two probes
//! decide whether that pays; the second one, because text that stands everywhere is found by the first. Invariant: a chunk
//! in which something was found becomes a base only after the repository's copy of it was read and hashed.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use super::haystack::{Haystack, HaystackChunk};
use super::reading::SourceFile;
use crate::chunk::moved::{Coverage, Needles};
use crate::error::Result;
use crate::id::BlobId;
use crate::store::{BulkReader, Repository, WantedChunk};

/// One chunk in this many is in each probe.
const PROBE: usize = 16;
/// The second probe must find that all chunks would give one byte in this many of those that are missing.
const HOPE: usize = 8;
/// Fewer missing bytes are not worth a probe.
const LEAST: usize = 256 * 1024;
/// A chunk that gives fewer missing bytes is not worth decoding.
const GIVEN: usize = 256;
/// Chunks searched together.
const GROUP: usize = 64;

/// A chunk that did not change.
#[derive(Debug, Clone, Copy)]
pub(super) struct Unchanged {
    pub(super) slot: u64,
    pub(super) id: BlobId,
}

/// Looks for what was found nowhere so far of the needles, and notes in the haystack what it finds.
pub(super) fn search(
    repository: &Repository,
    source: SourceFile<'_>,
    chunks: &[Unchanged],
    needles: &Needles,
    haystack: &mut Haystack,
) -> Result<()> {
    let mut coverage = Coverage::of(needles, haystack.matches());
    let missing = coverage.missing();
    if missing < LEAST {
        return Ok(());
    }
    let part = |wanted: &dyn Fn(usize) -> bool| -> Vec<Unchanged> {
        let numbered = chunks.iter().enumerate();
        numbered.filter(|(number, _)| wanted(number % PROBE)).map(|(_, chunk)| *chunk).collect()
    };
    let mut giving = look(source, &part(&|number| number == 0), needles, &mut coverage)?;
    let before = coverage.missing();
    giving.extend(look(source, &part(&|number| number == PROBE / 2), needles, &mut coverage)?);
    if (before - coverage.missing()) * PROBE * HOPE < missing {
        return Ok(());
    }
    giving.extend(look(source, &part(&|number| number % (PROBE / 2) != 0), needles, &mut coverage)?);
    note_verified(repository, &giving, needles, haystack)
}

/// The chunks that give something that was missing.
fn look(
    source: SourceFile<'_>,
    chunks: &[Unchanged],
    needles: &Needles,
    coverage: &mut Coverage,
) -> Result<Vec<BlobId>> {
    let mut giving = Vec::new();
    for group in chunks.chunks(GROUP) {
        let search = |chunk: &Unchanged| {
            let content = source.chunk_again(chunk.slot)?.unwrap_or_default();
            Ok(needles.search(&content))
        };
        let found: Vec<_> = group.par_iter().map(search).collect::<Result<_>>()?;
        let gives = |found: &Vec<_>| coverage.add(needles, found) >= GIVEN;
        giving.extend(group.iter().zip(found.iter().map(gives)).filter(|(_, gives)| *gives).map(|(chunk, _)| chunk.id));
    }
    Ok(giving)
}

/// Notes what is found in the repository's own copies of these chunks.
fn note_verified(repository: &Repository, chunks: &[BlobId], needles: &Needles, haystack: &mut Haystack) -> Result<()> {
    let mut bulk = BulkReader::new(repository);
    let mut chains = HashMap::new();
    for id in chunks {
        if let Some(chain) = bulk.chain(id)? {
            bulk.want(&[WantedChunk { id: *id, length: chain.length }])?;
            chains.insert(*id, chain.facts);
        }
    }
    let verified = Mutex::new(HashMap::new());
    bulk.read(&|id, bytes| {
        let here = needles.search(bytes);
        verified.lock().unwrap_or_else(PoisonError::into_inner).insert(*id, here);
        Ok(())
    })?;
    let verified = verified.into_inner().unwrap_or_else(PoisonError::into_inner);
    for id in chunks {
        if let Some((facts, found)) = chains.remove(id).zip(verified.get(id)) {
            haystack.note(HaystackChunk { id: *id, facts }, found);
        }
    }
    Ok(())
}
