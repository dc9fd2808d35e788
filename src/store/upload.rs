//! Publishing sealed packs beside the work of the caller: sync, read back, check, name, index.
//!
//! Invariant: a pack gets its name only after its bytes are durable and every record in it was read back, decoded and
//! hashed. Two threads in a row do it, in order: one waits for the disk, the other one computes; one pack waits before
//! each at most, so unpublished bytes stay bounded.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread::{self, JoinHandle};

use parking_lot::Mutex;
use rayon::prelude::*;

use super::damaged::{self, Condition};
use super::index::Index;
use super::layout;
use super::pack_builder::SealedPack;
use super::packs::{self, PackFile};
use crate::disk::{ObjectWriter, Published, Storage};
use crate::error::{Error, Result};
use crate::format::pack::{Footer, Frame, Record};
use crate::id::BlobId;
use crate::progress::Silent;

/// Frames that are read back side by side at most: each takes its bytes twice.
const READ_TOGETHER: usize = 4;

const CHANGED: &str = "what was just written does not read back as it was; check the disk";

/// Blobs that were taken but are not in the index yet.
pub(super) type InFlight = Arc<Mutex<HashSet<BlobId>>>;

/// The threads that publish packs.
pub(super) struct Upload {
    queue: Option<SyncSender<SealedPack>>,
    syncing: Option<JoinHandle<Result<()>>>,
    publishing: Option<JoinHandle<Result<Vec<PackFile>>>>,
}

impl Upload {
    pub(super) fn start(storage: Arc<dyn Storage>, index: Arc<Index>, in_flight: InFlight) -> Result<Self> {
        let (queue, sealed) = mpsc::sync_channel(1);
        let (durable, synced) = mpsc::sync_channel(1);
        let syncing = spawn("sync", move || sync_all(sealed, &durable))?;
        let publishing = spawn("publish", move || publish_all(synced, &*storage, &index, &in_flight))?;
        Ok(Self { queue: Some(queue), syncing: Some(syncing), publishing: Some(publishing) })
    }

    /// Hands over a pack; waits while another one waits already.
    pub(super) fn push(&mut self, pack: SealedPack) -> Result<()> {
        let sent = self.queue.as_ref().is_some_and(|queue| queue.send(pack).is_ok());
        if sent { Ok(()) } else { self.finish().and(Err(stopped())) }
    }

    /// Waits until all packs are published and returns them.
    pub(super) fn finish(&mut self) -> Result<Vec<PackFile>> {
        self.queue = None;
        let synced = self.syncing.take().ok_or_else(stopped)?.join().unwrap_or_else(|_| Err(stopped()));
        let published = self.publishing.take().ok_or_else(stopped)?.join().unwrap_or_else(|_| Err(stopped()));
        // The first cause is the one to tell: a thread that stopped makes the other one stop too.
        let packs = published?;
        synced.map(|()| packs)
    }
}

impl Drop for Upload {
    /// A writer that is given up leaves no thread behind that would still publish.
    fn drop(&mut self) {
        if self.publishing.is_some() {
            let _ = self.finish();
        }
    }
}

fn spawn<T: Send + 'static>(name: &str, work: impl FnOnce() -> T + Send + 'static) -> Result<JoinHandle<T>> {
    thread::Builder::new()
        .name(name.into())
        .spawn(work)
        .map_err(|error| Error::Failed(format!("cannot start a thread: {error}")))
}

fn sync_all(sealed: Receiver<SealedPack>, durable: &SyncSender<SealedPack>) -> Result<()> {
    for mut pack in sealed {
        pack.object.sync()?;
        if durable.send(pack).is_err() {
            // Publishing stopped and says why.
            return Ok(());
        }
    }
    Ok(())
}

fn stopped() -> Error {
    Error::Failed("publishing packs stopped unexpectedly; run the command again".into())
}

fn publish_all(
    queue: Receiver<SealedPack>,
    storage: &dyn Storage,
    index: &Index,
    in_flight: &InFlight,
) -> Result<Vec<PackFile>> {
    let mut published = Vec::new();
    for pack in queue {
        let (file, footer) = publish(pack, storage)?;
        match index.adopt_new(&file, &footer) {
            Ok(()) => {
                let mut in_flight = in_flight.lock();
                for record in &footer.records {
                    in_flight.remove(&record.id);
                }
            }
            Err(cause) => tracing::warn!(%cause, "the index could not be updated; the next command will do it"),
        }
        published.push(file);
    }
    Ok(published)
}

/// Gives a checked pack its name. One that has it already holds these very bytes, or it would be what is damaged, and
/// publishing nothing would lose them.
fn publish(pack: SealedPack, storage: &dyn Storage) -> Result<(PackFile, Footer)> {
    check_written(&pack, storage)?;
    let file = PackFile { id: pack.id, size: pack.size };
    let footer = pack.footer.clone();
    match damaged::examine(storage, &pack.id, &Silent)? {
        Condition::Damaged(cause) => replace(pack, storage, &cause)?,
        Condition::Missing | Condition::Sound => {
            // Whoever publishes the same pack at the same time has checked it as well.
            let (Published::New | Published::AlreadyThere) = pack.object.publish(&layout::pack(&file.id))?;
        }
    }
    Ok((file, footer))
}

/// Reads all of a pack back from the medium and compares it with what was written: header and footer by their bytes;
/// every frame decoded, whole records by their ids, payloads of deltas, which were applied when they were made, by the
/// hash of their frame. Frames are decoded side by side: nobody is waiting for a core any more when the last pack
/// comes.
fn check_written(pack: &SealedPack, storage: &dyn Storage) -> Result<()> {
    let object = &*pack.object;
    for edge in &pack.edges {
        if blake3::hash(&object.read_back(edge.offset, edge.length)?) != edge.hash {
            return Err(damaged(storage, CHANGED.into()));
        }
    }
    let mut records = pack.footer.records.as_slice();
    let mut written = Vec::with_capacity(pack.footer.frames.len());
    for (frame, raw_hash) in pack.footer.frames.iter().zip(&pack.raw_hashes) {
        let (own, rest) = records.split_at_checked(frame.records as usize).unwrap_or((records, &[]));
        records = rest;
        written.push(WrittenFrame { frame, raw_hash, records: own });
    }
    for together in written.chunks(READ_TOGETHER) {
        together.par_iter().try_for_each(|frame| frame.check(object, storage))?;
    }
    Ok(())
}

/// A frame of a pack as it was written.
struct WrittenFrame<'p> {
    frame: &'p Frame,
    /// What it must decode to if it holds deltas.
    raw_hash: &'p Option<blake3::Hash>,
    records: &'p [Record],
}

impl WrittenFrame<'_> {
    fn check(&self, object: &dyn ObjectWriter, storage: &dyn Storage) -> Result<()> {
        let stored = object.read_back(self.frame.offset, self.frame.stored_length as usize)?;
        let raw = packs::decode_frame(self.frame, &stored).map_err(|fault| {
            damaged(storage, format!("what was just written does not read back: {fault}; check the disk"))
        })?;
        let is_payload = |record: &Record| {
            let payload = raw.get(record.offset as usize..(record.offset + record.payload_length) as usize);
            payload.is_some_and(|payload| record.kind.id_of(payload) == record.id)
        };
        let same = match self.raw_hash {
            Some(expected) => !self.records.is_empty() && blake3::hash(&raw) == *expected,
            None => self.records.iter().all(is_payload),
        };
        if same { Ok(()) } else { Err(damaged(storage, CHANGED.into())) }
    }
}

fn damaged(storage: &dyn Storage, detail: String) -> Error {
    Error::damaged(storage.root().join(layout::PACKS), detail)
}

/// Sets a damaged pack aside that stands where this one must go, and takes its place.
fn replace(pack: SealedPack, storage: &dyn Storage, cause: &str) -> Result<()> {
    let aside = storage.root().join(damaged::set_aside(storage, &pack.id)?);
    tracing::warn!(
        event = "damaged_pack_replaced",
        pack = %packs::path(storage, &pack.id).display(),
        aside = %aside.display(),
        cause,
        "a damaged pack stood where an undamaged one goes; run `vecsnap validate --all` to learn what else was hurt"
    );
    pack.object.publish_over(&layout::pack(&pack.id))
}
