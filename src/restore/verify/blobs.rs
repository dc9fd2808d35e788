//! Reading every blob of a snapshot once, in the order in which packs hold them.
//!
//! Invariants: a blob that many files share is read once; what cannot be read in bulk is looked for in every other way
//! before it is called lost; the set of blobs lies on disk, so memory does not grow with the snapshot.

use std::collections::HashSet;
use std::sync::Arc;
use std::thread;

use parking_lot::Mutex;
use rusqlite::{Connection, OptionalExtension, params};

use super::images::{CheckedImage, ImageFiles};
use super::{CHUNKS_AT_ONCE, Depth};
use crate::error::Result;
use crate::id::{BlobId, BlobPrefix};
use crate::progress::Progress;
use crate::store::{
    BlobFault, BlobReader, BlobResult, BulkReader, PlanCapacity, Repository, StagedBlobs, WantedChunk, temporary,
};

/// Frames kept decoded while tables are read, in bytes.
pub(super) const FRAME_CACHE: usize = 8 * 1024 * 1024;

/// What a check of chunks found, and what it leaves for those who read them next.
pub(super) struct Checked {
    pub(super) lost: LostChunks,
    pub(super) staged: Option<Arc<StagedBlobs>>,
    /// Verdicts reached meanwhile.
    pub(super) images: Vec<CheckedImage>,
}

/// The distinct chunks of a snapshot.
pub(super) struct NeededChunks {
    database: Connection,
    bytes: u64,
}

impl NeededChunks {
    pub(super) fn new() -> Result<Self> {
        let schema = "CREATE TABLE needed(id BLOB, length INTEGER, pack BLOB, record INTEGER, PRIMARY KEY(id, length)) WITHOUT ROWID;";
        Ok(Self { database: temporary::database(schema)?, bytes: 0 })
    }

    /// Adds chunks with their places, those that are not there, and empties the list.
    pub(super) fn insert(&mut self, repository: &Repository, chunks: &mut Vec<WantedChunk>) -> Result<()> {
        let places = repository.index().first_places(chunks.iter().map(|chunk| &chunk.id))?;
        let mut insert = temporary::prepared(&self.database, "INSERT OR IGNORE INTO needed VALUES(?, ?, ?, ?)")?;
        for (chunk, place) in chunks.drain(..).zip(places) {
            let (pack, record) = (place.map(|place| *place.pack.id.as_bytes()), place.map(|place| place.record));
            let inserted = insert
                .execute(params![chunk.id.as_bytes(), chunk.length.cast_signed(), pack, record])
                .map_err(temporary::failed("write"))?;
            self.bytes += inserted as u64 * chunk.length;
        }
        Ok(())
    }

    /// Bytes of all of them.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Reads or looks up all chunks; those of `images` come first, so that these are checked meanwhile; of those in
    /// `kept`, what is worth it is staged.
    pub(super) fn check(
        &self,
        repository: &Repository,
        depth: Depth,
        kept: HashSet<BlobId>,
        images: Option<&ImageFiles>,
        progress: &dyn Progress,
    ) -> Result<Checked> {
        if depth == Depth::Quick {
            let lost = self.look_up_all(repository, progress)?;
            return Ok(Checked { lost, staged: None, images: Vec::new() });
        }
        let mut reading = ChunkReading::begin(repository, kept, progress)?;
        let Some(images) = images else {
            self.read(&mut reading, None, |_| true)?;
            return Ok(reading.finish(Vec::new()));
        };
        self.read(&mut reading, Some(images), |id| images.have(id))?;
        let checked = thread::scope(|scope| {
            let check = scope.spawn(|| images.check(repository.index()));
            self.read(&mut reading, None, |id| !images.have(id))?;
            // Were it to fail, the images would be checked once more, one by one.
            Ok(check.join().unwrap_or_default())
        })?;
        Ok(reading.finish(checked))
    }

    /// Reads the chunks that are chosen, and writes them into images.
    fn read(
        &self,
        reading: &mut ChunkReading<'_>,
        images: Option<&ImageFiles>,
        chosen: impl Fn(&BlobId) -> bool,
    ) -> Result<()> {
        let mut chunks = Vec::with_capacity(CHUNKS_AT_ONCE);
        self.in_order_of_packs(|chunk| {
            if chosen(&chunk.id) {
                chunks.push(chunk);
                if chunks.len() == CHUNKS_AT_ONCE && reading.want(&mut chunks)? == PlanCapacity::Full {
                    return reading.read(images);
                }
            }
            Ok(())
        })?;
        reading.want(&mut chunks)?;
        reading.read(images)
    }

    fn look_up_all(&self, repository: &Repository, progress: &dyn Progress) -> Result<LostChunks> {
        let lost = LostChunks::new()?;
        let mut reader = BlobReader::with_frame_cache(repository, FRAME_CACHE);
        self.in_order_of_packs(|chunk| {
            progress.check()?;
            if let Err(fault) = reader.look_up_chunk(&chunk.id)? {
                lost.insert(&chunk, &fault, reader.blamed())?;
            }
            progress.advance(chunk.length);
            Ok(())
        })?;
        Ok(lost)
    }

    fn in_order_of_packs(&self, mut take: impl FnMut(WantedChunk) -> Result<()>) -> Result<()> {
        let mut query = temporary::prepared(&self.database, "SELECT id, length FROM needed ORDER BY pack, record")?;
        let mut rows = query.query([]).map_err(temporary::failed("read"))?;
        while let Some(row) = rows.next().map_err(temporary::failed("read"))? {
            let id = BlobId::from_bytes(row.get(0).map_err(temporary::failed("read"))?);
            let length = row.get::<_, i64>(1).map_err(temporary::failed("read"))?.cast_unsigned();
            take(WantedChunk { id, length })?;
        }
        Ok(())
    }
}

/// What reads chunks of a snapshot, and what it found so far.
struct ChunkReading<'r> {
    bulk: BulkReader<'r>,
    /// For what cannot be read in bulk.
    single: BlobReader<'r>,
    lost: LostChunks,
    progress: &'r dyn Progress,
}

impl<'r> ChunkReading<'r> {
    fn begin(repository: &'r Repository, kept: HashSet<BlobId>, progress: &'r dyn Progress) -> Result<Self> {
        let bulk = BulkReader::keeping(repository, kept);
        let single = BlobReader::with_frame_cache(repository, FRAME_CACHE).with_staged(bulk.staged());
        Ok(Self { bulk, single, lost: LostChunks::new()?, progress })
    }

    fn want(&mut self, chunks: &mut Vec<WantedChunk>) -> Result<PlanCapacity> {
        let room = self.bulk.want(chunks);
        chunks.clear();
        room
    }

    fn read(&mut self, images: Option<&ImageFiles>) -> Result<()> {
        let progress = self.progress;
        let write = |id: &BlobId, bytes: &[u8]| images.map_or(Ok(()), |images| images.write(id, bytes));
        let unread = self.bulk.read(&|id, bytes| {
            write(id, bytes)?;
            progress.advance(bytes.len() as u64);
            progress.check()
        })?;
        for chunk in unread {
            progress.check()?;
            match read_alone(&chunk, &mut self.single)? {
                Ok(bytes) => write(&chunk.id, &bytes)?,
                Err(fault) => self.lost.insert(&chunk, &fault, self.single.blamed())?,
            }
            progress.advance(chunk.length);
        }
        Ok(())
    }

    fn finish(self, images: Vec<CheckedImage>) -> Checked {
        Checked { lost: self.lost, staged: Some(self.bulk.staged()), images }
    }
}

fn read_alone(chunk: &WantedChunk, reader: &mut BlobReader<'_>) -> Result<BlobResult> {
    Ok(reader.chunk(&chunk.id)?.and_then(|bytes| match bytes.len() as u64 {
        length if length == chunk.length => Ok(bytes),
        length => {
            Err(BlobFault::Corrupt(format!("blob {} has {length} bytes where the file has {}", chunk.id, chunk.length)))
        }
    }))
}

/// The chunks that cannot be had, and why.
pub(super) struct LostChunks {
    database: Mutex<Connection>,
}

impl LostChunks {
    fn new() -> Result<Self> {
        let schema = "CREATE TABLE lost(id BLOB, length INTEGER, cause TEXT, PRIMARY KEY(id, length)) WITHOUT ROWID;
            CREATE TABLE blamed(blob BLOB PRIMARY KEY) WITHOUT ROWID;";
        Ok(Self { database: Mutex::new(temporary::database(schema)?) })
    }

    fn insert(&self, chunk: &WantedChunk, fault: &BlobFault, blamed: &[BlobPrefix]) -> Result<()> {
        let cause = match fault {
            BlobFault::Missing => None,
            BlobFault::Corrupt(cause) => Some(cause),
        };
        let database = self.database.lock();
        let mut insert = temporary::prepared(&database, "INSERT OR REPLACE INTO lost VALUES(?, ?, ?)")?;
        let values = params![chunk.id.as_bytes(), chunk.length.cast_signed(), cause];
        insert.execute(values).map_err(temporary::failed("write"))?;
        let mut blame = temporary::prepared(&database, "INSERT OR IGNORE INTO blamed VALUES(?)")?;
        for blob in blamed {
            blame.execute([blob.as_bytes()]).map_err(temporary::failed("write"))?;
        }
        Ok(())
    }

    /// At most so many of the blobs that are missing or damaged themselves: the chunks, or bases on their chains.
    pub(super) fn blamed(&self, most: usize) -> Result<Vec<BlobPrefix>> {
        let database = self.database.lock();
        let mut query = temporary::prepared(&database, "SELECT blob FROM blamed LIMIT ?")?;
        let rows = query.query_map([most as i64], |row| Ok(BlobPrefix::from_bytes(row.get(0)?)));
        rows.and_then(Iterator::collect).map_err(temporary::failed("read"))
    }

    /// Hands out the chunks, and the blobs that are in their way.
    pub(super) fn each(&self, mut take: impl FnMut(BlobPrefix) -> Result<()>) -> Result<()> {
        let database = self.database.lock();
        let mut query =
            temporary::prepared(&database, "SELECT substr(id, 1, 8) FROM lost UNION SELECT blob FROM blamed")?;
        let mut rows = query.query([]).map_err(temporary::failed("read"))?;
        while let Some(row) = rows.next().map_err(temporary::failed("read"))? {
            take(BlobPrefix::from_bytes(row.get(0).map_err(temporary::failed("read"))?))?;
        }
        Ok(())
    }

    pub(super) fn is_empty(&self) -> Result<bool> {
        let database = self.database.lock();
        let mut query = temporary::prepared(&database, "SELECT 1 FROM lost LIMIT 1")?;
        query.exists([]).map(|any| !any).map_err(temporary::failed("read"))
    }

    pub(super) fn find(&self, chunk: &WantedChunk) -> Result<Option<BlobFault>> {
        let database = self.database.lock();
        let mut query = temporary::prepared(&database, "SELECT cause FROM lost WHERE id = ? AND length = ?")?;
        let found = query
            .query_row(params![chunk.id.as_bytes(), chunk.length.cast_signed()], |row| row.get::<_, Option<String>>(0))
            .optional()
            .map_err(temporary::failed("read"))?;
        Ok(found.map(|cause| cause.map_or(BlobFault::Missing, BlobFault::Corrupt)))
    }
}
