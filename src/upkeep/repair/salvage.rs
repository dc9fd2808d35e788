//! What can still be read of damaged packs, stored in new ones.
//!
//! Every readable record counts, whether or not a snapshot is known to need it: which ones do may stand in what cannot
//! be read. Invariants: a blob is stored only after it was read and hashed; a delta is copied as a delta only onto
//! bases that packs found sound lead to, so that nothing new rests on a damaged pack and no cycle can arise.

use rusqlite::Connection;

use super::{Examined, RepairMode};
use crate::error::Result;
use crate::format::delta;
use crate::format::pack::{BlobKind, Encoding, Record};
use crate::id::BlobId;
use crate::progress::{Phase, Progress};
use crate::store::index::RecordPlace;
use crate::store::packs::{self, PackFile};
use crate::store::temporary::{self, failed, prepared};
use crate::store::{BlobReader, BlobWriter, DeltaRecord, FrameGroup, Repository, Stored};

/// Greatest depth and number of records of a chain that a copied delta makes longer.
const DEEPEST: u32 = 64;
const MOST_RECORDS: u32 = 512;

/// What came of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Salvaged {
    /// Blobs that only damaged packs gave.
    pub(super) blobs: u64,
    /// Bytes of the packs that were written.
    pub(super) stored_bytes: u64,
}

/// Stores what only damaged packs hold in new packs, which are checked and published on return; a dry run counts.
pub(super) fn salvage(
    repository: &Repository,
    examined: &Examined,
    mode: RepairMode,
    progress: &dyn Progress,
) -> Result<Salvaged> {
    let damaged: u64 = examined.damaged.iter().map(|found| found.pack.size).sum();
    progress.phase(Phase::Cleaning, Some(damaged));
    let sound = repository.with_only(&sound_packs(repository, examined)?)?;
    let writer = match mode {
        RepairMode::Confirmed => Some(BlobWriter::begin_rewriting(repository)?),
        RepairMode::DryRun => None,
    };
    let mut salvage = Salvage {
        all: BlobReader::new(repository),
        sound: BlobReader::new(&sound),
        done: temporary::database("CREATE TABLE done(id BLOB PRIMARY KEY) WITHOUT ROWID;")?,
        writer,
        blobs: 0,
    };
    for found in &examined.damaged {
        salvage.pack(repository, &found.pack, progress)?;
        progress.advance(found.pack.size);
    }
    let stored_bytes = match salvage.writer {
        Some(writer) => writer.finish()?.stored_bytes(),
        None => 0,
    };
    Ok(Salvaged { blobs: salvage.blobs, stored_bytes })
}

/// All packs but the damaged ones, those included that were published meanwhile. One whose footer cannot be read is
/// left out: it may hold exactly its bytes and still be of another repository.
fn sound_packs(repository: &Repository, examined: &Examined) -> Result<Vec<PackFile>> {
    let is_damaged = |pack: &PackFile| examined.damaged.iter().any(|found| found.pack.id == pack.id);
    let has_footer = |pack: &PackFile| packs::read_footer(repository.storage(), repository.header(), pack).is_ok();
    let mut packs = packs::list(repository.storage())?;
    packs.retain(|pack| !is_damaged(pack) && has_footer(pack));
    Ok(packs)
}

struct Salvage<'a> {
    /// Reads from every pack.
    all: BlobReader<'a>,
    /// Reads from sound packs alone.
    sound: BlobReader<'a>,
    done: Connection,
    writer: Option<BlobWriter>,
    blobs: u64,
}

impl Salvage<'_> {
    fn pack(&mut self, repository: &Repository, pack: &PackFile, progress: &dyn Progress) -> Result<()> {
        // Without a footer nobody knows where its records are.
        let Ok(footer) = packs::read_footer(repository.storage(), repository.header(), pack) else { return Ok(()) };
        for (number, record) in (0..).zip(&footer.records) {
            progress.check()?;
            if self.sound.look_up(&record.id, record.kind)?.is_err() && self.is_first(&record.id)? {
                self.record(record, RecordPlace { pack: *pack, record: number })?;
            }
        }
        Ok(())
    }

    fn is_first(&self, id: &BlobId) -> Result<bool> {
        let mut insert = prepared(&self.done, "INSERT OR IGNORE INTO done VALUES(?)")?;
        insert.execute([id.as_bytes()]).map(|rows| rows > 0).map_err(failed("write"))
    }

    fn record(&mut self, record: &Record, place: RecordPlace) -> Result<()> {
        // What cannot be read is lost, which a look at the snapshots will tell.
        let Ok(content) = self.all.blob(&record.id, record.kind)? else { return Ok(()) };
        self.blobs += 1;
        let delta = self.delta(record, place, &content)?;
        let Some(writer) = &mut self.writer else { return Ok(()) };
        if record.kind == BlobKind::ListNode {
            return writer.put_metadata(record.kind, &content, || Ok(None)).map(|_| ());
        }
        match (writer.reserve(record.id), delta) {
            (Stored::Reused, _) => Ok(()),
            (Stored::New, Some(delta)) => writer.put_delta(delta),
            (Stored::New, None) => writer.put_whole(record.id, &content, FrameGroup::Increment),
        }
    }

    /// The record as it is, if it is a delta whose bases are all sound and that leads to the content.
    fn delta(&mut self, record: &Record, place: RecordPlace, content: &[u8]) -> Result<Option<DeltaRecord>> {
        if record.kind == BlobKind::ListNode || record.encoding == Encoding::Whole {
            return Ok(None);
        }
        let Some(recorded) = self.all.recorded_delta(&record.id, &place)? else { return Ok(None) };
        let mut bases = Vec::with_capacity(recorded.bases.len());
        let mut records = 1_u32;
        for id in &recorded.bases {
            let Ok(base) = self.sound.chained(id, BlobKind::Chunk)? else { return Ok(None) };
            records = records.saturating_add(base.facts.records);
            if base.facts.depth >= DEEPEST || records >= MOST_RECORDS {
                return Ok(None);
            }
            bases.push(base.bytes);
        }
        let bytes: Vec<&[u8]> = bases.iter().map(|base| &**base).collect();
        let leads = delta::apply(&recorded.payload, &bytes, content.len()).is_ok_and(|made| made == content);
        Ok((leads && !bases.is_empty()).then(|| DeltaRecord {
            id: record.id,
            length: record.length,
            payload: recorded.payload,
            bases: recorded.bases.iter().map(BlobId::prefix).collect(),
            distance: recorded.distance,
        }))
    }
}
