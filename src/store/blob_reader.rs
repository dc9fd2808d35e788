//! Getting blobs out of the repository.
//!
//! Invariant: what comes out has been hashed and is what was asked for. A record is rebuilt from its bases along its
//! chain, within the limits of format-spec.md §12; a blob's other records are tried before it is given up; and before a
//! blob is called missing or corrupt, all footers are read once more, since the index may be an old copy. Memory:
//! frames and blobs are kept in caches of fixed size. What is noted of them grows as long as the reader lives: 135 to
//! 460 bytes for each blob that was rebuilt from a delta (its chain, and where it lies in the temporary file), which is
//! 2 to 7 MB for each GB of them, and up to 300 bytes for each frame that was decoded. Who reads contents as a whole
//! has a [`BulkReader`](super::BulkReader) rebuild them, whose plans are bounded.

mod known;
mod recorded_delta;
mod search;

pub use recorded_delta::RecordedDelta;

use std::collections::HashMap;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lru::LruCache;

use super::chain::ChainFacts;
use super::frames::{FramePlace, Frames, Stretch};
use super::index::RecordPlace;
use super::packs;
use super::repository::Repository;
use super::spill::Spill;
use super::staged::StagedBlobs;
use crate::error::{Error, Result};
use crate::format::delta;
use crate::format::limits::{BASE_COMBINATIONS, BLOB_BYTES};
use crate::format::pack::{BaseDistance, BlobKind, Encoding, Footer, Record};
use crate::id::{BlobId, BlobPrefix};

use search::Search;

/// Most decoded bytes of frames kept at one time.
const FRAME_CACHE_BYTES: usize = 24 * 1024 * 1024;
/// Rebuilt blobs kept take this part of the bytes of the frames kept.
const BLOB_SHARE: usize = 2;
/// Blobs remembered as known.
const KNOWN_CACHE: NonZero<usize> = NonZero::new(65_536).unwrap();
/// Most blobs tried for one base prefix, those that cannot be read included.
const PREFIX_MATCHES: usize = BASE_COMBINATIONS;

/// Why a blob cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BlobFault {
    /// No pack holds it.
    #[error("no pack holds it")]
    Missing,
    /// No record of it leads to the right bytes; the text names packs and causes.
    #[error("{0}")]
    Corrupt(String),
}

/// The outcome of reading a blob: its bytes, or why they cannot be had.
pub type BlobResult = std::result::Result<Arc<[u8]>, BlobFault>;

/// Reads blobs of one repository, with caches of its own.
pub struct BlobReader<'a> {
    repository: &'a Repository,
    frames: Frames,
    blobs: LruCache<BlobId, CachedBlob>,
    spilled_blobs: Spill<BlobId>,
    /// Of blobs that may have left the memory.
    facts: HashMap<BlobId, KnownChain>,
    /// Blobs that were verified earlier in this operation.
    staged: Option<Arc<StagedBlobs>>,
    reindexed: bool,
    known: LruCache<BlobId, ()>,
    /// What was in the way of the blob asked for last.
    blamed: Vec<BlobPrefix>,
}

/// A blob rebuilt before.
#[derive(Clone)]
struct CachedBlob {
    kind: BlobKind,
    bytes: Arc<[u8]>,
}

#[derive(Debug, Clone, Copy)]
struct KnownChain {
    kind: BlobKind,
    facts: ChainFacts,
}

/// A blob with what its chain is like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainedBlob {
    /// The blob.
    pub bytes: Arc<[u8]>,
    /// Its chain.
    pub facts: ChainFacts,
}

/// How the search for a blob ended; where it did not find it, the search says what was in the way.
enum Resolved {
    Blob(Arc<[u8]>),
    /// No pack holds it.
    Nowhere,
    /// No record of it leads to it.
    InVain,
}

/// Why a record does not lead to its blob.
enum RecordFault {
    /// It is damaged itself; the text names the pack.
    Own(String),
    /// A base cannot be had, or the chain goes no further; what is in the way was blamed.
    Blamed,
}

/// The bytes that a record leads to, not hashed yet.
struct Rebuilt {
    bytes: Vec<u8>,
    facts: ChainFacts,
}

/// A record with the facts of the pack around it.
pub(super) struct Found {
    pub(super) place: RecordPlace,
    pub(super) record: Record,
    pub(super) footer: Arc<Footer>,
}

/// A delta record as its pack holds it.
struct StoredDelta<'a> {
    payload: &'a [u8],
    prefixes: &'a [BlobPrefix],
    id_table: bool,
    distance: BaseDistance,
}

impl<'a> BlobReader<'a> {
    /// A reader with empty caches.
    pub fn new(repository: &'a Repository) -> Self {
        Self::with_frame_cache(repository, FRAME_CACHE_BYTES)
    }

    /// A reader that keeps at most `frame_limit` bytes of decoded frames, one frame at least, and half as many of
    /// rebuilt blobs; for several readers side by side, and for reading in the order of packs.
    pub fn with_frame_cache(repository: &'a Repository, frame_limit: usize) -> Self {
        let blobs = NonZero::new(frame_limit / BLOB_SHARE / BLOB_BYTES).unwrap_or(NonZero::<usize>::MIN);
        let spilled_frames = Spill::new(temporary_directory(repository));
        Self {
            repository,
            frames: Frames::new(repository.storage_shared(), frame_limit, spilled_frames),
            spilled_blobs: Spill::new(temporary_directory(repository)),
            blobs: LruCache::new(blobs),
            staged: None,
            reindexed: false,
            known: LruCache::new(KNOWN_CACHE),
            facts: HashMap::new(),
            blamed: Vec::new(),
        }
    }

    /// The same, taking what a [`BulkReader`](super::BulkReader) staged from there.
    pub fn with_staged(mut self, staged: Arc<StagedBlobs>) -> Self {
        self.staged = Some(staged);
        self
    }

    /// What it takes from there.
    pub fn staged(&self) -> Option<&Arc<StagedBlobs>> {
        self.staged.as_ref()
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

    /// The blob with this id and kind, and what the chain is like that led to it.
    ///
    /// # Errors
    /// As [`BlobReader::chunk`].
    pub fn chained(&mut self, id: &BlobId, kind: BlobKind) -> Result<std::result::Result<ChainedBlob, BlobFault>> {
        Ok(self.read(id, kind)?.map(|bytes| ChainedBlob { bytes, facts: self.facts(id) }))
    }

    /// Of a blob just resolved: what is not in the cache was whole.
    fn facts(&self, id: &BlobId) -> ChainFacts {
        self.facts.get(id).map_or_else(|| ChainFacts::whole(*id), |known| known.facts)
    }

    /// The blobs that are missing or damaged themselves and so kept the last one asked for from being read: that one,
    /// or bases on its chains. Empty after a success.
    pub fn blamed(&self) -> &[BlobPrefix] {
        &self.blamed
    }

    fn read(&mut self, id: &BlobId, kind: BlobKind) -> Result<BlobResult> {
        if let Some(bytes) = self.staged.as_ref().and_then(|staged| staged.blob(id, kind)) {
            return Ok(Ok(bytes.into()));
        }
        let first = self.search(id, kind)?;
        if first.is_ok() {
            return Ok(first);
        }
        let last = self.search_after_reindexing(id, kind, first)?;
        self.remember(id, &last);
        Ok(last)
    }

    fn search_after_reindexing(&mut self, id: &BlobId, kind: BlobKind, first: BlobResult) -> Result<BlobResult> {
        if self.reindexed {
            return Ok(first);
        }
        self.reindexed = true;
        self.repository.reindex()?;
        self.repository.forget_footers();
        self.search(id, kind)
    }

    /// Has the index remember what could not be read, so that nobody takes it for stored: what is damaged, and what its
    /// rows alone say is there.
    fn remember(&self, id: &BlobId, outcome: &BlobResult) {
        let index = self.repository.index();
        let is_taken_for_stored = match outcome {
            Ok(_) => false,
            Err(BlobFault::Corrupt(_)) => true,
            Err(BlobFault::Missing) => index.contains(id).unwrap_or(false),
        };
        if is_taken_for_stored {
            let lost: Vec<_> = self.blamed.iter().copied().chain([id.prefix()]).collect();
            if let Err(cause) = index.distrust(&lost) {
                tracing::debug!(%cause, "that a blob cannot be read could not be kept");
            }
        }
    }

    fn search(&mut self, id: &BlobId, kind: BlobKind) -> Result<BlobResult> {
        let mut search = Search::default();
        let resolved = self.resolve(id, Some(kind), &mut search)?;
        self.blamed = search.culprits();
        Ok(match resolved {
            Resolved::Blob(bytes) => Ok(bytes),
            Resolved::Nowhere => Err(BlobFault::Missing),
            Resolved::InVain => Err(BlobFault::Corrupt(search.account(id))),
        })
    }

    /// Tries every record of the blob, whole ones first. `kind` is open for bases, which may be of either.
    fn resolve(&mut self, id: &BlobId, kind: Option<BlobKind>, search: &mut Search) -> Result<Resolved> {
        if let Some(blob) = self.blobs.get(id).filter(|blob| kind.is_none_or(|kind| kind == blob.kind)) {
            return Ok(Resolved::Blob(Arc::clone(&blob.bytes)));
        }
        if let Some(blob) = self.spilled_blob(id, kind) {
            return Ok(Resolved::Blob(blob));
        }
        if search.is_vain(id) {
            return Ok(Resolved::InVain);
        }
        let mark = search.mark();
        let mut faults = Vec::new();
        let places = self.repository.index().places(id)?;
        let found = self.find_all(id, kind, &places, &mut faults)?;
        if found.is_empty() && faults.is_empty() {
            search.blame(id.prefix(), format!("blob {id}, which no pack holds"));
            return Ok(Resolved::Nowhere);
        }
        for record in found {
            let tried = search.mark();
            match self.rebuild(&record, search)? {
                Ok(rebuilt) if record.record.kind.id_of(&rebuilt.bytes) == *id => {
                    search.forget_culprits(mark);
                    let bytes: Arc<[u8]> = rebuilt.bytes.into();
                    if record.record.encoding != Encoding::Whole {
                        self.spilled_blobs.made(*id);
                        let known = KnownChain { kind: record.record.kind, facts: rebuilt.facts };
                        self.facts.insert(*id, known);
                        self.keep(*id, known.kind, &bytes);
                    } else if !search.is_outermost() {
                        self.keep(*id, record.record.kind, &bytes);
                    }
                    return Ok(Resolved::Blob(bytes));
                }
                Ok(_) => faults.push(self.describe(&record, "it does not hash to its id")),
                Err(RecordFault::Own(fault)) => faults.push(fault),
                Err(RecordFault::Blamed) => {}
            }
            search.forget_records(tried);
        }
        faults.dedup();
        if !faults.is_empty() {
            search.blame(id.prefix(), faults.join("; "));
        }
        search.tried_in_vain(id, mark);
        Ok(Resolved::InVain)
    }

    fn keep(&mut self, id: BlobId, kind: BlobKind, bytes: &Arc<[u8]>) {
        if let Some((old, blob)) = self.blobs.push(id, CachedBlob { kind, bytes: Arc::clone(bytes) }) {
            self.spilled_blobs.leave(old, &blob.bytes);
        }
    }

    /// A rebuilt blob that left the memory.
    fn spilled_blob(&mut self, id: &BlobId, kind: Option<BlobKind>) -> Option<Arc<[u8]>> {
        let known = *self.facts.get(id).filter(|known| kind.is_none_or(|kind| kind == known.kind))?;
        let bytes = self.spilled_blobs.read(id, 0, BLOB_BYTES)?;
        let bytes: Arc<[u8]> = Some(bytes).filter(|bytes| known.kind.id_of(bytes) == *id)?.into();
        self.keep(*id, known.kind, &bytes);
        Some(bytes)
    }

    /// The records of a blob at these places, whole ones first; packs that cannot be read are passed over.
    pub(super) fn records(
        &mut self,
        id: &BlobId,
        kind: Option<BlobKind>,
        places: &[RecordPlace],
    ) -> Result<Vec<Found>> {
        self.find_all(id, kind, places, &mut Vec::new())
    }

    fn find_all(
        &mut self,
        id: &BlobId,
        kind: Option<BlobKind>,
        places: &[RecordPlace],
        faults: &mut Vec<String>,
    ) -> Result<Vec<Found>> {
        let mut found = Vec::new();
        for place in places {
            match self.find(place, id) {
                Ok(Some(record)) if kind.is_none_or(|kind| kind == record.record.kind) => found.push(record),
                Ok(_) => {}
                Err(error) => faults.push(tolerable(error)?),
            }
        }
        found.sort_by_key(|found| found.record.encoding != Encoding::Whole);
        Ok(found)
    }

    /// The record at a place, or `None` if the index was wrong about it.
    fn find(&mut self, place: &RecordPlace, id: &BlobId) -> Result<Option<Found>> {
        let footer = self.repository.footer(&place.pack)?;
        let Some(record) = footer.records.get(place.record as usize).filter(|record| record.id == *id).cloned() else {
            return Ok(None);
        };
        Ok(Some(Found { place: *place, record, footer }))
    }

    fn rebuild(&mut self, found: &Found, search: &mut Search) -> Result<Result<Rebuilt, RecordFault>> {
        let own = |fault: String| Ok(Err(RecordFault::Own(fault)));
        if let Err(end) = search.try_record(found.place) {
            search.blame_end(&found.record.id, end, self.describe(found, end.text()));
            return Ok(Err(RecordFault::Blamed));
        }
        let payload = match self.payload(found) {
            Ok(payload) => payload,
            Err(error) => return own(tolerable(error)?),
        };
        if payload.len() != found.record.payload_length as usize {
            return own(self.describe(found, "its record lies outside its frame"));
        }
        match &found.record.encoding {
            Encoding::Whole => Ok(Ok(Rebuilt { bytes: payload, facts: ChainFacts::whole(found.record.id) })),
            Encoding::Delta { bases, id_table, distance } => {
                if let Err(end) = search.descend(&found.record.id) {
                    search.blame_end(&found.record.id, end, self.describe(found, end.text()));
                    return Ok(Err(RecordFault::Blamed));
                }
                let delta =
                    StoredDelta { payload: &payload, prefixes: bases, id_table: *id_table, distance: *distance };
                let rebuilt = self.apply(found, &delta, search);
                search.ascend();
                rebuilt
            }
        }
    }

    /// Applies a delta to the bases that its prefixes name; where several blobs match a prefix, the right ones are
    /// those that lead to the record's id.
    fn apply(
        &mut self,
        found: &Found,
        delta: &StoredDelta<'_>,
        search: &mut Search,
    ) -> Result<Result<Rebuilt, RecordFault>> {
        let mut candidates: Vec<Vec<Arc<[u8]>>> = Vec::with_capacity(delta.prefixes.len() + 1);
        let mut facts = Vec::with_capacity(delta.prefixes.len());
        // Of each base no more than combinations have use for, so that hostile prefixes cost bounded memory.
        let mut useful = BASE_COMBINATIONS;
        for prefix in delta.prefixes {
            let mut blobs = Vec::new();
            let ids = self.repository.index().with_prefix(prefix, PREFIX_MATCHES)?;
            if ids.is_empty() {
                search.blame(*prefix, format!("blob {prefix}…, which no pack holds"));
            }
            for id in ids {
                if let Resolved::Blob(blob) = self.resolve(&id, None, search)? {
                    blobs.push(blob);
                    facts.extend((blobs.len() == 1).then(|| self.facts(&id)));
                }
                if blobs.len() == useful {
                    break;
                }
            }
            if blobs.is_empty() {
                return Ok(Err(RecordFault::Blamed));
            }
            useful = useful.div_ceil(blobs.len());
            candidates.push(blobs);
        }
        if delta.id_table {
            candidates.push(vec![found.footer.id_table().into()]);
        }
        let mut fault = String::new();
        for bases in combinations(&candidates) {
            match delta::apply(delta.payload, &bases, found.record.length as usize) {
                Ok(bytes) if found.record.kind.id_of(&bytes) == found.record.id => {
                    let facts = ChainFacts::delta(found.record.id, delta.distance, &facts);
                    return Ok(Ok(Rebuilt { bytes, facts }));
                }
                Ok(_) => fault = "its delta does not lead to its id".into(),
                Err(malformed) => fault = format!("its delta is malformed: {malformed}"),
            }
        }
        Ok(Err(RecordFault::Own(self.describe(found, &fault))))
    }

    /// The payload of a record.
    fn payload(&mut self, found: &Found) -> Result<Vec<u8>> {
        let place = FramePlace { pack: found.place.pack.id, number: found.record.frame };
        let (start, length) = (found.record.offset as usize, found.record.payload_length as usize);
        self.frames.read(place, &found.footer, Stretch { start, length })
    }

    fn describe(&self, found: &Found, fault: &str) -> String {
        let path = packs::path(self.repository.storage(), &found.place.pack.id);
        format!("blob {} in {}: {fault}", found.record.id, path.display())
    }
}

/// Where temporary files of a reader go: beside the repository's own, where that can be written.
pub(crate) fn temporary_directory(repository: &Repository) -> PathBuf {
    repository.scratch().map_or_else(|_| std::env::temp_dir(), Path::to_path_buf)
}

/// The damage that another record of the blob may make good, as text; other errors end the reading.
fn tolerable(error: Error) -> Result<String> {
    if error.is_of_one_file() { Ok(error.to_string()) } else { Err(error) }
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
