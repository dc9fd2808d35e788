//! Reading every blob of a snapshot once, in the order in which packs hold them.
//!
//! Invariants: a blob that many files share is read once, and each frame is decoded once as long as no delta chain
//! leads elsewhere; the set of blobs lies on disk, so memory does not grow with the snapshot. Each of a few threads
//! reads its own run of packs.

use std::num::NonZero;
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use rusqlite::{Connection, OptionalExtension, params};

use super::Depth;
use crate::error::{Error, Result};
use crate::id::{BlobId, BlobPrefix};
use crate::progress::Progress;
use crate::store::{BlobFault, BlobReader, Repository, temporary};

/// Frames kept decoded by each thread, in bytes.
pub(super) const FRAME_CACHE: usize = 8 * 1024 * 1024;
const THREADS: usize = 2;
/// Blobs handed to a thread at a time: about as many as a full pack holds.
const BATCH: usize = 512;

/// A chunk with the length that its place in a file demands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NeededChunk {
    pub(super) id: BlobId,
    pub(super) length: u64,
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

    /// Adds a chunk with its place, unless it is there.
    pub(super) fn insert(&mut self, repository: &Repository, chunk: NeededChunk) -> Result<()> {
        let mut known = temporary::prepared(&self.database, "SELECT 1 FROM needed WHERE id = ? AND length = ?")?;
        let key = params![chunk.id.as_bytes(), chunk.length.cast_signed()];
        if known.exists(key).map_err(temporary::failed("read"))? {
            return Ok(());
        }
        let place = repository.index().places(&chunk.id)?.into_iter().next();
        let mut insert = temporary::prepared(&self.database, "INSERT INTO needed VALUES(?, ?, ?, ?)")?;
        let (pack, record) = (place.map(|place| *place.pack.id.as_bytes()), place.map(|place| place.record));
        insert
            .execute(params![chunk.id.as_bytes(), chunk.length.cast_signed(), pack, record])
            .map_err(temporary::failed("write"))?;
        self.bytes += chunk.length;
        Ok(())
    }

    /// Bytes of all of them.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Reads or looks up all chunks and returns those that cannot be had.
    pub(super) fn check(&self, repository: &Repository, depth: Depth, progress: &dyn Progress) -> Result<LostChunks> {
        let lost = LostChunks::new()?;
        let threads = match depth {
            Depth::Full => thread::available_parallelism().map_or(1, NonZero::get).min(THREADS),
            Depth::Quick => 1,
        };
        thread::scope(|scope| {
            let (send, receive) = sync_channel(threads);
            let receive = Arc::new(Mutex::new(receive));
            let start = |receive: Arc<_>| {
                let lost = &lost;
                scope.spawn(move || check_batches(repository, depth, &receive, lost, progress))
            };
            let workers: Vec<_> = (0..threads).map(|_| start(Arc::clone(&receive))).collect();
            // From here on only the threads hold the receiver, so that sending ends when all of them have failed.
            drop(receive);
            let handed_out = self.batches(|batch| send.send(batch).is_ok());
            drop(send);
            for worker in workers {
                worker.join().unwrap_or_else(|_| Err(Error::Failed("reading blobs stopped unexpectedly".into())))?;
            }
            handed_out
        })?;
        Ok(lost)
    }

    /// Hands out the chunks in the order of packs for as long as `take` takes them.
    fn batches(&self, take: impl Fn(Vec<NeededChunk>) -> bool) -> Result<()> {
        let mut query = temporary::prepared(&self.database, "SELECT id, length FROM needed ORDER BY pack, record")?;
        let mut rows = query.query([]).map_err(temporary::failed("read"))?;
        let mut batch = Vec::with_capacity(BATCH);
        while let Some(row) = rows.next().map_err(temporary::failed("read"))? {
            let id = BlobId::from_bytes(row.get(0).map_err(temporary::failed("read"))?);
            let length = row.get::<_, i64>(1).map_err(temporary::failed("read"))?.cast_unsigned();
            batch.push(NeededChunk { id, length });
            if batch.len() == BATCH && !take(std::mem::replace(&mut batch, Vec::with_capacity(BATCH))) {
                return Ok(());
            }
        }
        take(batch);
        Ok(())
    }
}

fn check_batches(
    repository: &Repository,
    depth: Depth,
    batches: &Mutex<Receiver<Vec<NeededChunk>>>,
    lost: &LostChunks,
    progress: &dyn Progress,
) -> Result<()> {
    let mut reader = BlobReader::with_frame_cache(repository, FRAME_CACHE);
    loop {
        let batch = batches.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(batch) = batch else { return Ok(()) };
        for chunk in batch {
            progress.check()?;
            if let Some(fault) = fault_of(&chunk, depth, &mut reader)? {
                lost.insert(&chunk, &fault, reader.blamed())?;
            }
            progress.advance(chunk.length);
        }
    }
}

fn fault_of(chunk: &NeededChunk, depth: Depth, reader: &mut BlobReader<'_>) -> Result<Option<BlobFault>> {
    Ok(match depth {
        Depth::Quick => reader.look_up_chunk(&chunk.id)?.err(),
        Depth::Full => match reader.chunk(&chunk.id)? {
            Ok(bytes) if bytes.len() as u64 == chunk.length => None,
            Ok(bytes) => Some(BlobFault::Corrupt(format!(
                "blob {} has {} bytes where the file has {}",
                chunk.id,
                bytes.len(),
                chunk.length
            ))),
            Err(fault) => Some(fault),
        },
    })
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

    fn insert(&self, chunk: &NeededChunk, fault: &BlobFault, blamed: &[BlobPrefix]) -> Result<()> {
        let cause = match fault {
            BlobFault::Missing => None,
            BlobFault::Corrupt(cause) => Some(cause),
        };
        let database = self.database.lock().unwrap_or_else(PoisonError::into_inner);
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
        let database = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        let mut query = temporary::prepared(&database, "SELECT blob FROM blamed LIMIT ?")?;
        let rows = query.query_map([most as i64], |row| Ok(BlobPrefix::from_bytes(row.get(0)?)));
        rows.and_then(Iterator::collect).map_err(temporary::failed("read"))
    }

    /// Hands out the chunks, and the blobs that are in their way.
    pub(super) fn each(&self, mut take: impl FnMut(BlobPrefix) -> Result<()>) -> Result<()> {
        let database = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        let mut query =
            temporary::prepared(&database, "SELECT substr(id, 1, 8) FROM lost UNION SELECT blob FROM blamed")?;
        let mut rows = query.query([]).map_err(temporary::failed("read"))?;
        while let Some(row) = rows.next().map_err(temporary::failed("read"))? {
            take(BlobPrefix::from_bytes(row.get(0).map_err(temporary::failed("read"))?))?;
        }
        Ok(())
    }

    pub(super) fn is_empty(&self) -> Result<bool> {
        let database = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        let mut query = temporary::prepared(&database, "SELECT 1 FROM lost LIMIT 1")?;
        query.exists([]).map(|any| !any).map_err(temporary::failed("read"))
    }

    pub(super) fn find(&self, chunk: &NeededChunk) -> Result<Option<BlobFault>> {
        let database = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        let mut query = temporary::prepared(&database, "SELECT cause FROM lost WHERE id = ? AND length = ?")?;
        let found = query
            .query_row(params![chunk.id.as_bytes(), chunk.length.cast_signed()], |row| row.get::<_, Option<String>>(0))
            .optional()
            .map_err(temporary::failed("read"))?;
        Ok(found.map(|cause| cause.map_or(BlobFault::Missing, BlobFault::Corrupt)))
    }
}
