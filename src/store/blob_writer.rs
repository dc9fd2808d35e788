//! Putting blobs into the repository.
//!
//! The caller's thread hashes, looks up and gathers records into frames; all cores compress frames; two threads publish
//! packs. Bulk, increments, and metadata (tables and list nodes) each have frames of their own: what changed compresses
//! together, and reading a table decodes no file contents. Invariant: frames and packs follow the order of the blobs,
//! whatever the threads do; what is in flight is bounded; after [`BlobWriter::finish`] every blob that was taken is in
//! a published pack.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;

use super::base::Base;
use super::compressing::Compressing;
use super::index::{Index, LossMark};
use super::metadata_frame::{self, MetadataRecords, RawFrame, WaitingBlob};
use super::pack_builder::{PackBuilder, WaitingRecord};
use super::packs::PackFile;
use super::repository::Repository;
use super::upload::{InFlight, Upload};
use super::wanted::WantedBlobs;
use crate::chunk::compress::Thoroughness;
use crate::disk::Storage;
use crate::error::Result;
use crate::format::content::{Content, Root};
use crate::format::header::RepositoryHeader;
use crate::format::limits::FRAME_BYTES;
use crate::format::pack::{BaseDistance, BlobKind, Encoding};
use crate::id::{BlobId, BlobPrefix};

/// Raw bytes after which a frame of whole chunks is closed.
const FRAME_TARGET: usize = 4 * 1024 * 1024;
/// Contents that are remembered to be complete at most.
const COMPLETE: usize = 4096;
/// Bytes of metadata that wait for their frame at most.
const METADATA_TARGET: usize = 2 * 1024 * 1024;

/// Which frame a whole chunk goes into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameGroup {
    /// Others of files that are new, in great number.
    Bulk,
    /// Others that changed since the previous version, and the literals of deltas: much in them is alike.
    Increment,
}

/// What became of a blob that was put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// The repository did not have it.
    New,
    /// It was there already.
    Reused,
}

/// A chunk as a delta.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeltaRecord {
    /// The chunk.
    pub id: BlobId,
    /// Its bytes.
    pub length: u32,
    /// What [`crate::format::delta::apply`] makes the chunk of.
    pub payload: Vec<u8>,
    /// The bases by number.
    pub bases: Vec<BlobPrefix>,
    /// How far back the first base is.
    pub distance: BaseDistance,
}

/// What a writer did, in numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WriterReport {
    /// The packs it published.
    pub packs: Vec<PackFile>,
    /// Chunks of files that were stored whole.
    pub chunks_new: u64,
    /// Chunks of files that were stored as deltas.
    pub chunks_delta: u64,
    /// Chunks of files that the repository had.
    pub chunks_reused: u64,
}

impl WriterReport {
    /// Bytes of the packs that it published.
    pub fn stored_bytes(&self) -> u64 {
        self.packs.iter().map(|pack| pack.size).sum()
    }
}

/// Takes blobs and publishes them in packs.
pub struct BlobWriter {
    storage: Arc<dyn Storage>,
    admission: Admission,
    header: RepositoryHeader,
    root: PathBuf,
    bulk: RawFrame,
    increment: RawFrame,
    metadata: Vec<WaitingBlob>,
    metadata_bytes: usize,
    how: MetadataRecords,
    thoroughness: Thoroughness,
    compressing: Compressing,
    pack: Option<PackBuilder>,
    in_flight: InFlight,
    upload: Upload,
    /// Contents all of whose blobs were taken.
    complete: Vec<Content>,
    report: WriterReport,
}

/// Whether there was a frame to take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Taken {
    Frame,
    Nothing,
}

/// Which blobs a writer stores.
enum Admission {
    /// Those that the index does not know; what it had lost when it was first asked, if it could be asked.
    Unknown(Arc<Index>, Option<LossMark>),
    /// All of them.
    All,
    /// Those that are looked for.
    Wanted(Arc<WantedBlobs>),
}

impl Admission {
    fn admitted(&self, ids: &[BlobId]) -> Vec<bool> {
        match self {
            Self::Unknown(index, _) => match index.contains_all(ids) {
                Ok(contained) => contained.into_iter().map(|contained| !contained).collect(),
                // An index that cannot be read costs a second copy of the blob, never the blob.
                Err(_) => vec![true; ids.len()],
            },
            Self::All => vec![true; ids.len()],
            Self::Wanted(wanted) => ids.iter().map(|id| wanted.offer(id)).collect(),
        }
    }
}

impl BlobWriter {
    /// Begins to write into a repository that was opened for writing. All but bulk is compressed as thoroughly as told.
    ///
    /// # Errors
    /// When threads cannot be started.
    pub fn begin(repository: &Repository, metadata: MetadataRecords, thoroughness: Thoroughness) -> Result<Self> {
        let index = repository.index_shared();
        let losses = index.loss_mark().ok();
        Self::start(repository, Admission::Unknown(index, losses), metadata, thoroughness)
    }

    /// Begins to store blobs once more that the repository has already, so that the packs that hold them can go.
    ///
    /// # Errors
    /// When threads cannot be started.
    pub fn begin_rewriting(repository: &Repository) -> Result<Self> {
        Self::start(repository, Admission::All, MetadataRecords::Deltas, Thoroughness::Thorough)
    }

    /// Begins to store those blobs that are looked for, whatever the repository has already.
    ///
    /// # Errors
    /// When threads cannot be started.
    pub fn begin_wanted(repository: &Repository, wanted: Arc<WantedBlobs>) -> Result<Self> {
        Self::start(repository, Admission::Wanted(wanted), MetadataRecords::Whole, Thoroughness::Thorough)
    }

    fn start(
        repository: &Repository,
        admission: Admission,
        how: MetadataRecords,
        thoroughness: Thoroughness,
    ) -> Result<Self> {
        let (storage, index) = (repository.storage_shared(), repository.index_shared());
        let in_flight: InFlight = Arc::new(Mutex::new(HashSet::new()));
        let upload = Upload::start(Arc::clone(&storage), index, Arc::clone(&in_flight))?;
        Ok(Self {
            root: storage.root().to_path_buf(),
            header: repository.header().clone(),
            storage,
            admission,
            bulk: RawFrame::default(),
            increment: RawFrame::default(),
            metadata: Vec::new(),
            metadata_bytes: 0,
            how,
            thoroughness,
            compressing: Compressing::start()?,
            pack: None,
            in_flight,
            upload,
            complete: Vec::new(),
            report: WriterReport::default(),
        })
    }

    /// Takes a chunk of a file, to be stored whole, and returns its id.
    ///
    /// # Errors
    /// When packs cannot be written.
    pub fn put_chunk(&mut self, content: &[u8]) -> Result<BlobId> {
        let id = BlobId::of_chunk(content);
        if self.reserve(id) == Stored::New {
            self.put_whole(id, content, FrameGroup::Bulk)?;
        }
        Ok(id)
    }

    /// Which of these chunks are stored already; the others are not taken up by asking.
    pub fn known(&self, ids: &[BlobId]) -> Vec<bool> {
        let in_flight = self.in_flight.lock();
        let admitted = self.admission.admitted(ids);
        ids.iter().zip(admitted).map(|(id, admitted)| !admitted || in_flight.contains(id)).collect()
    }

    /// Asks for a chunk of a file: one that is new must then be put, as a whole or as a delta.
    pub fn reserve(&mut self, id: BlobId) -> Stored {
        self.reserve_all(&[id]).first().copied().unwrap_or(Stored::Reused)
    }

    /// The same of several chunks, in one look at the index; one that comes twice is new once.
    pub fn reserve_all(&mut self, ids: &[BlobId]) -> Vec<Stored> {
        let stored = self.take_up(ids);
        self.report.chunks_reused += stored.iter().filter(|stored| **stored == Stored::Reused).count() as u64;
        stored
    }

    /// Stores the content of a reserved chunk.
    ///
    /// # Errors
    /// When packs cannot be written.
    pub fn put_whole(&mut self, id: BlobId, content: &[u8], company: FrameGroup) -> Result<()> {
        self.report.chunks_new += 1;
        let length = content.len() as u32;
        let (kind, encoding) = (BlobKind::Chunk, Encoding::Whole);
        let record = WaitingRecord { id, kind, length, payload_length: length, encoding };
        match company {
            FrameGroup::Bulk => {
                self.bulk.push(record, content);
                if self.bulk.raw.len() >= FRAME_TARGET { self.close_bulk() } else { Ok(()) }
            }
            FrameGroup::Increment => self.append_to_increment(record, content),
        }
    }

    /// Stores a reserved chunk as a delta, which the caller has found to lead to it.
    ///
    /// # Errors
    /// When packs cannot be written.
    pub fn put_delta(&mut self, delta: DeltaRecord) -> Result<()> {
        self.report.chunks_delta += 1;
        let record = WaitingRecord {
            id: delta.id,
            kind: BlobKind::Chunk,
            length: delta.length,
            payload_length: delta.payload.len() as u32,
            encoding: Encoding::Delta { bases: delta.bases, id_table: false, distance: delta.distance },
        };
        self.append_to_increment(record, &delta.payload)
    }

    /// Takes a chunk of a table or a list node and returns its id; `base` finds what stood at its place before, if the
    /// blob is new.
    ///
    /// # Errors
    /// When packs cannot be written; those of `base`.
    pub fn put_metadata(
        &mut self,
        kind: BlobKind,
        content: &[u8],
        base: impl FnOnce() -> Result<Option<Base>>,
    ) -> Result<BlobId> {
        let id = kind.id_of(content);
        if self.take_up(&[id]) == [Stored::New] {
            let base = base()?;
            self.metadata_bytes += content.len();
            self.metadata.push(WaitingBlob { id, kind, content: content.to_vec(), base });
            if self.metadata_bytes >= METADATA_TARGET {
                self.write_metadata()?;
            }
        }
        Ok(id)
    }

    /// Counts chunks of a file that was taken over without being read.
    pub fn count_reused(&mut self, chunks: u64) {
        self.report.chunks_reused += chunks;
    }

    /// Remembers that all blobs of this content were taken, so that nobody has to look for each of them later.
    pub fn complete(&mut self, content: &Content) {
        if matches!(content.root, Root::Node { .. }) && self.complete.len() < COMPLETE {
            self.complete.push(*content);
        }
    }

    /// Publishes everything that was taken.
    ///
    /// # Errors
    /// When packs cannot be written, or do not read back as written; nothing may then refer to the blobs.
    pub fn finish(mut self) -> Result<WriterReport> {
        self.write_metadata()?;
        self.seal_pack()?;
        self.report.packs = self.upload.finish()?;
        self.keep_complete();
        Ok(self.report)
    }

    /// Has the index keep which contents are complete: each of their blobs it knew, or knows now with the packs of this
    /// run.
    fn keep_complete(&self) {
        let Admission::Unknown(index, Some(since)) = &self.admission else { return };
        if self.report.packs.iter().all(|pack| index.has_pack(&pack.id))
            && let Err(cause) = index.mark_whole(&self.complete, *since)
        {
            tracing::debug!(%cause, "that contents are whole could not be kept");
        }
    }

    /// Which of these blobs must be stored; from now on they count as stored.
    fn take_up(&mut self, ids: &[BlobId]) -> Vec<Stored> {
        let mut in_flight = self.in_flight.lock();
        let admitted = self.admission.admitted(ids);
        let take_up = |(id, admitted): (&BlobId, bool)| match admitted && in_flight.insert(*id) {
            true => Stored::New,
            false => Stored::Reused,
        };
        ids.iter().zip(admitted).map(take_up).collect()
    }

    fn append_to_increment(&mut self, record: WaitingRecord, payload: &[u8]) -> Result<()> {
        if self.increment.raw.len() + payload.len() > FRAME_BYTES {
            self.close_increment()?;
        }
        self.increment.push(record, payload);
        Ok(())
    }

    fn close_bulk(&mut self) -> Result<()> {
        let frame = std::mem::take(&mut self.bulk);
        self.compress(frame, Thoroughness::Bulk)
    }

    fn close_increment(&mut self) -> Result<()> {
        let frame = std::mem::take(&mut self.increment);
        self.compress(frame, self.thoroughness)
    }

    /// Writes the metadata that waits, after all chunks that were taken before it: their ids have places then.
    fn write_metadata(&mut self) -> Result<()> {
        self.close_bulk()?;
        self.close_increment()?;
        self.take_all_compressed()?;
        self.metadata_bytes = 0;
        let waiting = std::mem::take(&mut self.metadata);
        let records = self.pack.as_ref().map(PackBuilder::records).unwrap_or_default();
        let frame = metadata_frame::encode(waiting, records, self.how);
        self.compress(frame, self.thoroughness)?;
        self.take_all_compressed()
    }

    fn compress(&mut self, frame: RawFrame, thoroughness: Thoroughness) -> Result<()> {
        if frame.records.is_empty() {
            return Ok(());
        }
        if self.compressing.is_full() {
            self.take_compressed()?;
        }
        self.compressing.push(frame, thoroughness)
    }

    fn take_all_compressed(&mut self) -> Result<()> {
        while self.take_compressed()? == Taken::Frame {}
        Ok(())
    }

    /// Appends the oldest frame to the pack as soon as it is compressed.
    fn take_compressed(&mut self) -> Result<Taken> {
        let Some(frame) = self.compressing.pop()? else { return Ok(Taken::Nothing) };
        let mut pack = match self.pack.take() {
            Some(pack) => pack,
            None => PackBuilder::begin(&*self.storage, &self.header)?,
        };
        pack.append(&self.root, frame)?;
        let full = pack.is_full();
        self.pack = Some(pack);
        if full {
            self.seal_pack()?;
        }
        Ok(Taken::Frame)
    }

    fn seal_pack(&mut self) -> Result<()> {
        match self.pack.take() {
            Some(pack) => self.upload.push(pack.seal(&self.root)?),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
