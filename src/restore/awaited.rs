//! Places in files that wait for their chunks, which are read together, in the order of packs and on all cores.
//!
//! Invariants: whatever is put to a place has been hashed and has the place's length; a chunk that cannot be had is
//! named with each of its places. Memory: [`MOST_PLACES`] places of 56 bytes, and a plan of bounded size.

use std::sync::Arc;

use super::wanted::WantedSlot;
use crate::error::Result;
use crate::id::BlobId;
use crate::progress::Progress;
use crate::store::{BlobReader, BulkReader, PlanCapacity, Repository, WantedChunk};

/// Places that are filled in one read; fewer in tests, so that small files take several.
pub(super) const MOST_PLACES: usize = if cfg!(test) { 256 } else { 65_536 };
/// Chunks asked for in one look at the index.
const ASKED_TOGETHER: usize = 64;

/// Chunks that are read together.
pub(super) struct AwaitedChunks<'r> {
    bulk: BulkReader<'r>,
    places: Vec<Place>,
    /// How many of the places have been asked for.
    asked: usize,
}

/// A slot of one of several files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// The number that the caller gave the file.
    pub(super) file: usize,
    pub(super) slot: WantedSlot,
}

/// A place whose chunk cannot be had, and why.
#[derive(Debug)]
pub(super) struct LostPlace {
    pub(super) place: Place,
    pub(super) cause: Arc<str>,
}

/// Takes a chunk for one of its places, on any thread.
pub(super) type PutChunk<'p> = &'p (dyn Fn(&Place, &[u8]) -> Result<()> + Sync);

impl<'r> AwaitedChunks<'r> {
    /// None yet.
    pub(super) fn new(repository: &'r Repository) -> Self {
        Self { bulk: BulkReader::new(repository), places: Vec::new(), asked: 0 }
    }

    /// Asks for the chunk of a place; once it is told to be full, all should be read before more is asked for.
    pub(super) fn want(&mut self, place: Place, progress: &dyn Progress) -> Result<PlanCapacity> {
        self.places.push(place);
        if self.places.len() - self.asked < ASKED_TOGETHER {
            return Ok(PlanCapacity::Left);
        }
        progress.check()?;
        let capacity = self.ask()?;
        Ok(if self.places.len() < MOST_PLACES { capacity } else { PlanCapacity::Full })
    }

    fn ask(&mut self) -> Result<PlanCapacity> {
        let wanted: Vec<_> = self.places.iter().skip(self.asked).map(Place::chunk).collect();
        self.asked = self.places.len();
        self.bulk.want(&wanted)
    }

    /// Reads all that was asked for, and returns what cannot be had, by file and offset; `reader` tries every way.
    ///
    /// # Errors
    /// Those of `put`; an interruption.
    pub(super) fn read(
        &mut self,
        reader: &mut BlobReader<'_>,
        progress: &dyn Progress,
        put: PutChunk<'_>,
    ) -> Result<Vec<LostPlace>> {
        self.ask()?;
        let mut places = std::mem::take(&mut self.places);
        self.asked = 0;
        places.sort_by_key(|place| place.slot.id);
        let put_everywhere = |id: &BlobId, bytes: &[u8]| {
            let fitting = places_of(&places, id).filter(|place| place.slot.length == bytes.len());
            fitting.into_iter().try_for_each(|place| {
                put(place, bytes)?;
                progress.advance(bytes.len() as u64);
                progress.check()
            })
        };
        let mut unread = self.bulk.read(&put_everywhere)?;
        unread.sort_by_key(|chunk| (chunk.id, chunk.length));
        unread.dedup();
        let mut lost = Vec::new();
        for chunk in unread {
            progress.check()?;
            let cause: Arc<str> = match reader.chunk(&chunk.id)? {
                Ok(bytes) if bytes.len() as u64 == chunk.length => {
                    put_everywhere(&chunk.id, &bytes)?;
                    continue;
                }
                Ok(_) => "it has not the length of its place".into(),
                Err(fault) => fault.to_string().into(),
            };
            let places = places_of(&places, &chunk.id).filter(|place| place.chunk() == chunk);
            lost.extend(places.map(|&place| LostPlace { place, cause: Arc::clone(&cause) }));
        }
        lost.sort_by_key(|lost| (lost.place.file, lost.place.slot.offset));
        Ok(lost)
    }
}

impl Place {
    fn chunk(&self) -> WantedChunk {
        WantedChunk { id: self.slot.id, length: self.slot.length as u64 }
    }
}

/// The places of a chunk among those that are sorted by chunk.
fn places_of<'p>(places: &'p [Place], id: &'p BlobId) -> impl Iterator<Item = &'p Place> {
    let first = places.partition_point(|place| place.slot.id < *id);
    places.iter().skip(first).take_while(move |place| place.slot.id == *id)
}
