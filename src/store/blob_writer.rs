//! Putting blobs into the repository.
//!
//! The caller's thread hashes, looks up and gathers records into frames; all cores compress frames; one thread publishes
//! packs. Invariant: frames and packs follow the order of the blobs, whatever the threads do; what is in flight is
//! bounded; after [`BlobWriter::finish`] every blob that was taken is in a published pack.

use std::collections::{HashSet, VecDeque};
use std::num::NonZero;
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use super::index::Index;
use super::pack_builder::{PackBuilder, WaitingRecord};
use super::packs::PackFile;
use super::repository::Repository;
use super::upload::{InFlight, Upload};
use crate::chunk::compress::compress_frame;
use crate::chunk::tree::NodeSink;
use crate::disk::Storage;
use crate::error::{Error, Result};
use crate::format::compression::Compressed;
use crate::format::header::RepositoryHeader;
use crate::format::pack::BlobKind;
use crate::id::BlobId;

/// Raw bytes after which a frame is closed.
const FRAME_TARGET: usize = 4 * 1024 * 1024;

/// What a chunk is part of; the two never share a frame, so that reading a table does not decode file contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The content of a file.
    Data,
    /// A file table.
    Metadata,
}

/// What became of a blob that was put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// The repository did not have it.
    New,
    /// It was there already.
    Reused,
}

/// What a writer did, in numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WriterReport {
    /// The packs it published.
    pub packs: Vec<PackFile>,
    /// Chunks of files that were new.
    pub chunks_new: u64,
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
    /// Where blobs are looked up that need not be stored again; `None` while packs are rewritten.
    known: Option<Arc<Index>>,
    header: RepositoryHeader,
    root: PathBuf,
    data: FrameBuilder,
    metadata: FrameBuilder,
    jobs: SyncSender<CompressJob>,
    compressing: VecDeque<CompressingFrame>,
    workers: usize,
    pack: Option<PackBuilder>,
    in_flight: InFlight,
    upload: Upload,
    report: WriterReport,
}

#[derive(Default)]
struct FrameBuilder {
    raw: Vec<u8>,
    records: Vec<WaitingRecord>,
}

struct CompressJob {
    raw: Vec<u8>,
    reply: SyncSender<Compressed>,
}

struct CompressingFrame {
    records: Vec<WaitingRecord>,
    raw_length: usize,
    compressed: Receiver<Compressed>,
}

impl BlobWriter {
    /// Begins to write into a repository that was opened for writing.
    ///
    /// # Errors
    /// When threads cannot be started.
    pub fn begin(repository: &Repository) -> Result<Self> {
        Self::start(repository, Some(repository.index_shared()))
    }

    /// Begins to store blobs once more that the repository has already, so that the packs that hold them can go.
    ///
    /// # Errors
    /// When threads cannot be started.
    pub fn begin_rewriting(repository: &Repository) -> Result<Self> {
        Self::start(repository, None)
    }

    fn start(repository: &Repository, known: Option<Arc<Index>>) -> Result<Self> {
        let (storage, index) = (repository.storage_shared(), repository.index_shared());
        let workers = thread::available_parallelism().map_or(2, NonZero::get).min(8);
        let (jobs, queue) = mpsc::sync_channel::<CompressJob>(workers);
        let queue = Arc::new(Mutex::new(queue));
        for _ in 0..workers {
            let queue = Arc::clone(&queue);
            thread::Builder::new()
                .name("compress".into())
                .spawn(move || compress_all(&queue))
                .map_err(|error| Error::Failed(format!("cannot start a thread: {error}")))?;
        }
        let in_flight: InFlight = Arc::new(Mutex::new(HashSet::new()));
        let upload = Upload::start(Arc::clone(&storage), index, Arc::clone(&in_flight))?;
        Ok(Self {
            root: storage.root().to_path_buf(),
            header: repository.header().clone(),
            storage,
            known,
            data: FrameBuilder::default(),
            metadata: FrameBuilder::default(),
            jobs,
            compressing: VecDeque::new(),
            workers,
            pack: None,
            in_flight,
            upload,
            report: WriterReport::default(),
        })
    }

    /// Takes a chunk and returns its id.
    ///
    /// # Errors
    /// When packs cannot be written.
    pub fn put_chunk(&mut self, content: &[u8], purpose: Purpose) -> Result<BlobId> {
        let id = BlobId::of_chunk(content);
        let stored = self.put(id, BlobKind::Chunk, content, purpose)?;
        match (purpose, stored) {
            (Purpose::Data, Stored::New) => self.report.chunks_new += 1,
            (Purpose::Data, Stored::Reused) => self.report.chunks_reused += 1,
            (Purpose::Metadata, _) => {}
        }
        Ok(id)
    }

    /// Takes a blob of either kind and returns its id.
    ///
    /// # Errors
    /// When packs cannot be written.
    pub fn put_blob(&mut self, content: &[u8], kind: BlobKind, purpose: Purpose) -> Result<BlobId> {
        let id = kind.id_of(content);
        self.put(id, kind, content, purpose)?;
        Ok(id)
    }

    /// Publishes everything that was taken.
    ///
    /// # Errors
    /// When packs cannot be written, or do not read back as written; nothing may then refer to the blobs.
    pub fn finish(mut self) -> Result<WriterReport> {
        self.close_frame(Purpose::Data)?;
        self.close_frame(Purpose::Metadata)?;
        while !self.compressing.is_empty() {
            self.take_compressed()?;
        }
        self.seal_pack()?;
        self.report.packs = self.upload.finish()?;
        Ok(self.report)
    }

    fn put(&mut self, id: BlobId, kind: BlobKind, content: &[u8], purpose: Purpose) -> Result<Stored> {
        if self.in_flight.lock().unwrap_or_else(PoisonError::into_inner).contains(&id) {
            return Ok(Stored::Reused);
        }
        // An index that cannot be read costs a second copy of the blob, never the blob.
        if self.known.as_ref().is_some_and(|index| index.contains(&id).unwrap_or(false)) {
            return Ok(Stored::Reused);
        }
        self.in_flight.lock().unwrap_or_else(PoisonError::into_inner).insert(id);
        let frame = self.frame(purpose);
        frame.raw.extend_from_slice(content);
        frame.records.push(WaitingRecord { id, kind, length: content.len() as u32 });
        if frame.raw.len() >= FRAME_TARGET {
            self.close_frame(purpose)?;
        }
        Ok(Stored::New)
    }

    fn frame(&mut self, purpose: Purpose) -> &mut FrameBuilder {
        match purpose {
            Purpose::Data => &mut self.data,
            Purpose::Metadata => &mut self.metadata,
        }
    }

    fn close_frame(&mut self, purpose: Purpose) -> Result<()> {
        let frame = std::mem::take(self.frame(purpose));
        if frame.records.is_empty() {
            return Ok(());
        }
        if self.compressing.len() > self.workers {
            self.take_compressed()?;
        }
        let (reply, compressed) = mpsc::sync_channel(1);
        let raw_length = frame.raw.len();
        self.jobs.send(CompressJob { raw: frame.raw, reply }).map_err(|_| compression_stopped())?;
        self.compressing.push_back(CompressingFrame { records: frame.records, raw_length, compressed });
        Ok(())
    }

    /// Appends the oldest frame to the pack as soon as it is compressed.
    fn take_compressed(&mut self) -> Result<()> {
        let Some(frame) = self.compressing.pop_front() else { return Ok(()) };
        let compressed = frame.compressed.recv().map_err(|_| compression_stopped())?;
        let mut pack = match self.pack.take() {
            Some(pack) => pack,
            None => PackBuilder::begin(&*self.storage, &self.header)?,
        };
        pack.append(&self.root, &compressed, frame.raw_length, &frame.records)?;
        let full = pack.is_full();
        self.pack = Some(pack);
        if full { self.seal_pack() } else { Ok(()) }
    }

    fn seal_pack(&mut self) -> Result<()> {
        match self.pack.take() {
            Some(pack) => self.upload.push(pack.seal(&self.root)?),
            None => Ok(()),
        }
    }
}

impl NodeSink for BlobWriter {
    fn put_list_node(&mut self, bytes: &[u8]) -> Result<BlobId> {
        let id = BlobId::of_list_node(bytes);
        self.put(id, BlobKind::ListNode, bytes, Purpose::Metadata)?;
        Ok(id)
    }
}

fn compress_all(queue: &Mutex<Receiver<CompressJob>>) {
    loop {
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        // Nobody waits for the frame any more if the writer was dropped.
        let _ = job.reply.send(compress_frame(&job.raw));
    }
}

fn compression_stopped() -> Error {
    Error::Failed("compressing stopped unexpectedly; run the command again".into())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::format::content::Content;
    use crate::store::content::{Piece, Pieces};
    use crate::store::{Access, BlobFault, BlobReader, LockWait};

    const WAIT: LockWait = LockWait(Duration::from_secs(1));

    fn noise(seed: u32, length: usize) -> Vec<u8> {
        let blocks = (0_u32..).flat_map(|n| *blake3::hash(&[seed.to_le_bytes(), n.to_le_bytes()].concat()).as_bytes());
        blocks.take(length).collect()
    }

    fn put_all(repository: &Repository, chunks: &[Vec<u8>]) -> (Vec<BlobId>, WriterReport) {
        let mut writer = BlobWriter::begin(repository).unwrap();
        let ids = chunks.iter().map(|chunk| writer.put_chunk(chunk, Purpose::Data).unwrap()).collect();
        (ids, writer.finish().unwrap())
    }

    #[test]
    fn blobs_come_back_after_reopening_and_are_stored_once() {
        let directory = tempfile::tempdir().unwrap();
        let chunks: Vec<_> = (0..200).map(|seed| noise(seed % 150, 65_536)).collect();
        let repository = Repository::open_or_create(directory.path(), WAIT).unwrap();
        let (ids, report) = put_all(&repository, &chunks);
        assert_eq!((report.chunks_new, report.chunks_reused), (150, 50));
        assert_eq!(put_all(&repository, &chunks).1.packs, []);
        drop(repository);
        std::fs::remove_file(directory.path().join("index.sqlite")).unwrap();
        let repository = Repository::open(directory.path(), Access::Read, WAIT).unwrap().unwrap();
        let mut reader = BlobReader::new(&repository);
        for (id, chunk) in ids.iter().zip(&chunks) {
            assert_eq!(&*reader.chunk(id).unwrap().unwrap(), chunk.as_slice());
        }
        assert_eq!(reader.chunk(&BlobId::of_chunk(b"never stored")).unwrap(), Err(BlobFault::Missing));
        assert_eq!(reader.list_node(&ids[0]).unwrap(), Err(BlobFault::Missing), "a chunk was taken for a node");
    }

    #[test]
    fn a_flipped_byte_in_a_pack_is_a_corrupt_blob_that_names_the_pack() {
        let directory = tempfile::tempdir().unwrap();
        let repository = Repository::open_or_create(directory.path(), WAIT).unwrap();
        let (ids, report) = put_all(&repository, &[noise(1, 5000)]);
        let path = directory.path().join(crate::store::layout::pack(&report.packs[0].id));
        let mut bytes = std::fs::read(&path).unwrap();
        let frame = bytes.len() / 2;
        bytes[frame] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let Err(BlobFault::Corrupt(text)) = BlobReader::new(&repository).chunk(&ids[0]).unwrap() else { panic!() };
        assert!(text.contains(path.to_str().unwrap()), "{text}");
    }

    #[test]
    fn the_pieces_of_a_long_file_with_holes_come_in_order() {
        let directory = tempfile::tempdir().unwrap();
        let repository = Repository::open_or_create(directory.path(), WAIT).unwrap();
        let mut writer = BlobWriter::begin(&repository).unwrap();
        let mut tree = crate::chunk::tree::TreeBuilder::default();
        let id = writer.put_chunk(&noise(1, 65_536), Purpose::Data).unwrap();
        let last = writer.put_chunk(b"end", Purpose::Data).unwrap();
        for slot in 0..300 {
            if slot % 3 == 0 {
                tree.push_holes(1, &mut writer).unwrap()
            } else {
                tree.push_chunk(id, &mut writer).unwrap()
            }
        }
        tree.push_chunk(last, &mut writer).unwrap();
        let content: Content = tree.finish(300 * 65_536 + 3, &mut writer).unwrap();
        writer.finish().unwrap();
        let mut reader = BlobReader::new(&repository);
        let mut pieces = Pieces::of(&content);
        let (mut end, mut chunks) = (0, 0);
        while let Some(piece) = pieces.next(&mut reader, |_| ()).unwrap() {
            let (offset, length) = match piece {
                Piece::Chunk { offset, length, .. } => (offset, length as u64),
                Piece::Hole { offset, length } => (offset, length),
                Piece::Hidden { .. } => panic!("{piece:?}"),
            };
            assert_eq!(offset, end);
            end += length;
            chunks += u64::from(matches!(piece, Piece::Chunk { .. }));
        }
        assert_eq!((end, chunks), (300 * 65_536 + 3, 201));
    }
}
