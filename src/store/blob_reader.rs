//! Getting blobs out of the repository.
//!
//! Invariant: what comes out has been hashed and is what was asked for. A record is rebuilt from its bases along its
//! chain, within the limits of format-spec.md §12; a blob's other records are tried before it is given up; and before a
//! blob is called missing or corrupt, all footers are read once more, since the index may be an old copy.
//! Memory: frames and blobs are kept in caches of fixed size.

use std::collections::HashSet;
use std::num::NonZero;
use std::sync::Arc;

use lru::LruCache;

use super::index::Place;
use super::packs;
use super::repository::Repository;
use crate::error::{Error, Result};
use crate::format::delta;
use crate::format::limits::{BASE_COMBINATIONS, CHAIN_DEPTH, CHAIN_RECORDS};
use crate::format::pack::{BlobKind, Encoding, Footer, Frame, Record};
use crate::id::{BlobId, BlobPrefix, PackId};

/// Most decoded bytes of frames kept at one time.
const FRAME_CACHE_BYTES: usize = 40 * 1024 * 1024;
/// Most records in footers kept at one time.
const FOOTER_CACHE_RECORDS: usize = 100_000;
/// Rebuilt blobs kept, of at most 64 KiB each.
const BLOB_CACHE: NonZero<usize> = NonZero::new(256).unwrap();
/// Most decodings for one blob, when caches are too small for its chain or a hostile chain branches without end.
const ATTEMPTS: usize = 16 * CHAIN_RECORDS;
/// Blobs remembered as known.
const KNOWN_CACHE: NonZero<usize> = NonZero::new(65_536).unwrap();
/// Most blobs tried for one base prefix.
const PREFIX_MATCHES: usize = 8;

/// Why a blob cannot be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BlobFault {
    /// No pack holds it.
    Missing,
    /// No record of it leads to the right bytes; the text names packs and causes.
    Corrupt(String),
}

/// The outcome of reading a blob: its bytes, or why they cannot be had.
pub type BlobResult = std::result::Result<Arc<[u8]>, BlobFault>;

/// Reads blobs of one repository, with caches of its own.
pub struct BlobReader<'a> {
    repository: &'a Repository,
    footers: LruCache<PackId, Arc<Footer>>,
    footer_records: usize,
    frames: LruCache<FramePlace, Arc<[u8]>>,
    frame_bytes: usize,
    frame_limit: usize,
    blobs: LruCache<BlobId, CachedBlob>,
    reindexed: bool,
    known: LruCache<BlobId, ()>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct FramePlace {
    pack: PackId,
    offset: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct RecordPlace {
    pack: PackId,
    record: u32,
}

/// A blob rebuilt before.
#[derive(Clone)]
struct CachedBlob {
    kind: BlobKind,
    bytes: Arc<[u8]>,
}

/// The chain that is being followed for one blob.
#[derive(Default)]
struct Chain {
    /// The blobs that wait for a base, outermost first.
    path: Vec<BlobId>,
    /// The distinct records decoded so far.
    records: HashSet<RecordPlace>,
    /// Records decoded so far, those decoded again included.
    attempts: usize,
}

/// A record with the facts of the pack around it.
struct Found {
    place: Place,
    record: Record,
    frame: Frame,
    footer: Arc<Footer>,
}

impl<'a> BlobReader<'a> {
    /// A reader with empty caches.
    pub fn new(repository: &'a Repository) -> Self {
        Self::with_frame_cache(repository, FRAME_CACHE_BYTES)
    }

    /// A reader that keeps at most `frame_limit` bytes of decoded frames, one frame at least; for several readers side by
    /// side, and for reading in the order of packs.
    pub fn with_frame_cache(repository: &'a Repository, frame_limit: usize) -> Self {
        Self {
            frame_limit,
            repository,
            footers: LruCache::unbounded(),
            footer_records: 0,
            frames: LruCache::unbounded(),
            frame_bytes: 0,
            blobs: LruCache::new(BLOB_CACHE),
            reindexed: false,
            known: LruCache::new(KNOWN_CACHE),
        }
    }

    /// The repository it reads.
    pub fn repository(&self) -> &'a Repository {
        self.repository
    }

    /// The chunk with this id.
    ///
    /// # Errors
    /// I/O errors; a chunk that is missing or damaged is a [`BlobFault`] inside.
    pub fn chunk(&mut self, id: &BlobId) -> Result<BlobResult> {
        self.read(id, BlobKind::Chunk)
    }

    /// The serialised list node with this id.
    ///
    /// # Errors
    /// As [`BlobReader::chunk`].
    pub fn list_node(&mut self, id: &BlobId) -> Result<BlobResult> {
        self.read(id, BlobKind::ListNode)
    }

    /// The blob of this kind with this id.
    ///
    /// # Errors
    /// As [`BlobReader::chunk`].
    pub fn blob(&mut self, id: &BlobId, kind: BlobKind) -> Result<BlobResult> {
        self.read(id, kind)
    }

    /// Whether footers record this chunk, and all bases that its record needs; reads no content.
    ///
    /// # Errors
    /// I/O errors of the index.
    pub fn knows_chunk(&mut self, id: &BlobId) -> Result<bool> {
        self.knows(id, Some(BlobKind::Chunk), &mut Vec::new())
    }

    fn knows(&mut self, id: &BlobId, kind: Option<BlobKind>, path: &mut Vec<BlobId>) -> Result<bool> {
        if self.known.get(id).is_some() {
            return Ok(true);
        }
        for place in self.repository.index().places(id)? {
            let found = match self.find(&place, id) {
                Ok(Some(found)) if kind.is_none_or(|kind| kind == found.record.kind) => found,
                Ok(_) => continue,
                Err(error) => {
                    tolerable(error)?;
                    continue;
                }
            };
            if self.knows_bases(&found, path)? {
                self.known.put(*id, ());
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn knows_bases(&mut self, found: &Found, path: &mut Vec<BlobId>) -> Result<bool> {
        let Encoding::Delta { bases, .. } = &found.record.encoding else { return Ok(true) };
        if path.len() >= CHAIN_DEPTH || path.contains(&found.record.id) {
            return Ok(false);
        }
        path.push(found.record.id);
        let mut all = true;
        for prefix in bases {
            all = all && self.knows_one_of(prefix, path)?;
        }
        path.pop();
        Ok(all)
    }

    fn knows_one_of(&mut self, prefix: &BlobPrefix, path: &mut Vec<BlobId>) -> Result<bool> {
        for id in self.repository.index().with_prefix(prefix, PREFIX_MATCHES)? {
            if self.knows(&id, None, path)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn read(&mut self, id: &BlobId, kind: BlobKind) -> Result<BlobResult> {
        let first = self.resolve(id, Some(kind), &mut Chain::default())?;
        if first.is_ok() || self.reindexed {
            return Ok(first);
        }
        self.reindexed = true;
        self.repository.reindex()?;
        self.footers.clear();
        self.footer_records = 0;
        self.resolve(id, Some(kind), &mut Chain::default())
    }

    /// Tries every record of the blob, whole ones first. `kind` is open for bases, which may be of either.
    fn resolve(&mut self, id: &BlobId, kind: Option<BlobKind>, chain: &mut Chain) -> Result<BlobResult> {
        if let Some(blob) = self.blobs.get(id).filter(|blob| kind.is_none_or(|kind| kind == blob.kind)) {
            return Ok(Ok(Arc::clone(&blob.bytes)));
        }
        let mut faults = Vec::new();
        let mut found = Vec::new();
        for place in self.repository.index().places(id)? {
            match self.find(&place, id) {
                Ok(Some(record)) if kind.is_none_or(|kind| kind == record.record.kind) => found.push(record),
                Ok(_) => {}
                Err(error) => faults.push(tolerable(error)?),
            }
        }
        if found.is_empty() && faults.is_empty() {
            return Ok(Err(BlobFault::Missing));
        }
        found.sort_by_key(|found| found.record.encoding != Encoding::Whole);
        for record in found {
            match self.rebuild(&record, chain)? {
                Ok(blob) if record.record.kind.id_of(&blob) == *id => {
                    let blob: Arc<[u8]> = blob.into();
                    if record.record.encoding != Encoding::Whole || !chain.path.is_empty() {
                        self.blobs.put(*id, CachedBlob { kind: record.record.kind, bytes: Arc::clone(&blob) });
                    }
                    return Ok(Ok(blob));
                }
                Ok(_) => faults.push(self.describe(&record, "it does not hash to its id")),
                Err(fault) => faults.push(fault),
            }
        }
        faults.dedup();
        Ok(Err(BlobFault::Corrupt(faults.join("; "))))
    }

    /// The record at a place, or `None` if the index was wrong about it.
    fn find(&mut self, place: &Place, id: &BlobId) -> Result<Option<Found>> {
        let footer = self.footer(place)?;
        let Some(record) = footer.records.get(place.record as usize).filter(|record| record.id == *id).cloned() else {
            return Ok(None);
        };
        let frame = footer.frames.get(record.frame as usize).copied();
        Ok(frame.map(|frame| Found { place: *place, record, frame, footer }))
    }

    fn rebuild(&mut self, found: &Found, chain: &mut Chain) -> Result<std::result::Result<Vec<u8>, String>> {
        chain.attempts += 1;
        chain.records.insert(RecordPlace { pack: found.place.pack.id, record: found.place.record });
        if chain.records.len() > CHAIN_RECORDS || chain.attempts > ATTEMPTS {
            return Ok(Err(self.describe(found, "its chain needs more records than the format allows")));
        }
        let frame = match self.frame(found) {
            Ok(frame) => frame,
            Err(error) => return Ok(Err(tolerable(error)?)),
        };
        let range = found.record.offset as usize..(found.record.offset + found.record.payload_length) as usize;
        let Some(payload) = frame.get(range) else {
            return Ok(Err(self.describe(found, "its record lies outside its frame")));
        };
        match &found.record.encoding {
            Encoding::Whole => Ok(Ok(payload.to_vec())),
            Encoding::Delta { bases, id_table } => {
                if chain.path.len() >= CHAIN_DEPTH || chain.path.contains(&found.record.id) {
                    return Ok(Err(self.describe(found, "its chain is a cycle or deeper than the format allows")));
                }
                chain.path.push(found.record.id);
                let rebuilt = self.apply(found, payload, bases, *id_table, chain);
                chain.path.pop();
                rebuilt
            }
        }
    }

    /// Applies a delta to the bases that its prefixes name; where several blobs match a prefix, the right ones are those
    /// that lead to the record's id.
    fn apply(
        &mut self,
        found: &Found,
        payload: &[u8],
        prefixes: &[BlobPrefix],
        id_table: bool,
        chain: &mut Chain,
    ) -> Result<std::result::Result<Vec<u8>, String>> {
        let mut candidates: Vec<Vec<Arc<[u8]>>> = Vec::with_capacity(prefixes.len() + 1);
        for prefix in prefixes {
            let mut blobs = Vec::new();
            for id in self.repository.index().with_prefix(prefix, PREFIX_MATCHES)? {
                if let Ok(blob) = self.resolve(&id, None, chain)? {
                    blobs.push(blob);
                }
            }
            if blobs.is_empty() {
                return Ok(Err(self.describe(found, &format!("its base {prefix} cannot be read"))));
            }
            candidates.push(blobs);
        }
        if id_table {
            candidates.push(vec![found.footer.id_table().into()]);
        }
        let mut fault = String::new();
        for bases in combinations(&candidates) {
            match delta::apply(payload, &bases, found.record.length as usize) {
                Ok(blob) if found.record.kind.id_of(&blob) == found.record.id => return Ok(Ok(blob)),
                Ok(_) => fault = "its delta does not lead to its id".into(),
                Err(malformed) => fault = format!("its delta is malformed: {malformed}"),
            }
        }
        Ok(Err(self.describe(found, &fault)))
    }

    fn footer(&mut self, place: &Place) -> Result<Arc<Footer>> {
        if let Some(footer) = self.footers.get(&place.pack.id) {
            return Ok(Arc::clone(footer));
        }
        let footer = packs::read_footer(self.repository.storage(), self.repository.header(), &place.pack)?;
        let footer = Arc::new(footer);
        self.footer_records += footer.records.len();
        self.footers.put(place.pack.id, Arc::clone(&footer));
        while self.footer_records > FOOTER_CACHE_RECORDS && self.footers.len() > 1 {
            let Some((_, old)) = self.footers.pop_lru() else { break };
            self.footer_records -= old.records.len();
        }
        Ok(footer)
    }

    fn frame(&mut self, found: &Found) -> Result<Arc<[u8]>> {
        let key = FramePlace { pack: found.place.pack.id, offset: found.frame.offset };
        if let Some(frame) = self.frames.get(&key) {
            return Ok(Arc::clone(frame));
        }
        let frame: Arc<[u8]> = packs::read_frame(self.repository.storage(), &found.place.pack.id, &found.frame)?.into();
        self.frame_bytes += frame.len();
        self.frames.put(key, Arc::clone(&frame));
        while self.frame_bytes > self.frame_limit && self.frames.len() > 1 {
            let Some((_, old)) = self.frames.pop_lru() else { break };
            self.frame_bytes -= old.len();
        }
        Ok(frame)
    }

    fn describe(&self, found: &Found, fault: &str) -> String {
        let path = packs::path(self.repository.storage(), &found.place.pack.id);
        format!("blob {} in {}: {fault}", found.record.id, path.display())
    }
}

/// The damage that another record of the blob may make good, as text; other errors end the reading.
fn tolerable(error: Error) -> Result<String> {
    match error {
        Error::Damaged { .. } | Error::Io { .. } => Ok(error.to_string()),
        other => Err(other),
    }
}

/// Every choice of one candidate a base, the first candidates first.
fn combinations(candidates: &[Vec<Arc<[u8]>>]) -> impl Iterator<Item = Vec<&[u8]>> {
    let total = candidates.iter().fold(1_usize, |total, blobs| total.saturating_mul(blobs.len()));
    let total = total.min(BASE_COMBINATIONS);
    (0..total).map(move |number| {
        let mut rest = number;
        let choose = |blobs: &'_ Vec<Arc<[u8]>>| -> usize {
            let chosen = rest % blobs.len().max(1);
            rest /= blobs.len().max(1);
            chosen
        };
        let chosen: Vec<usize> = candidates.iter().map(choose).collect();
        candidates.iter().zip(chosen).filter_map(|(blobs, chosen)| blobs.get(chosen).map(|blob| &**blob)).collect()
    })
}
