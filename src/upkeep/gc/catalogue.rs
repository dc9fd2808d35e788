//! The catalogue of a garbage collection: what packs hold, what snapshots reach, and which record keeps each blob.
//!
//! Invariants: what packs hold comes from their footers, never from the index; only what [`Catalogue::choose`] chose
//! decides fates. Everything lies in a temporary database, so memory is bounded.

mod choice;

use std::cell::Cell;

use rusqlite::{Connection, OptionalExtension, params};

use crate::error::Result;
use crate::format::pack::{BlobKind, Encoding, Footer, Record};
use crate::id::{BlobId, PackId};
use crate::store::Purpose;
use crate::store::packs::PackFile;
use crate::store::temporary::{self, failed, prepared};

const SCHEMA: &str = "
CREATE TABLE packs(key INTEGER PRIMARY KEY, id BLOB NOT NULL UNIQUE, size INTEGER NOT NULL, fate INTEGER NOT NULL, rank INTEGER NOT NULL DEFAULT 1, live INTEGER NOT NULL DEFAULT 0);
CREATE TABLE records(id BLOB, pack INTEGER, number INTEGER, node INTEGER, whole INTEGER, stored INTEGER, copy INTEGER, PRIMARY KEY(id, pack, number)) WITHOUT ROWID;
CREATE TABLE bases(pack INTEGER, number INTEGER, prefix BLOB, PRIMARY KEY(pack, number, prefix)) WITHOUT ROWID;
CREATE TABLE reached(id BLOB PRIMARY KEY, metadata INTEGER, late INTEGER) WITHOUT ROWID;
CREATE TABLE chained(number INTEGER PRIMARY KEY, id BLOB UNIQUE);
CREATE TABLE followed(number INTEGER PRIMARY KEY, id BLOB UNIQUE);
CREATE TABLE chosen(id BLOB PRIMARY KEY, pack INTEGER, number INTEGER, whole INTEGER) WITHOUT ROWID;
CREATE TABLE needed(id BLOB PRIMARY KEY) WITHOUT ROWID;";

/// Bytes that a record costs in the footer.
const FOOTER_SHARE: u64 = 41;

/// What is to become of a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Fate {
    /// It stays.
    Stays = 0,
    /// Nothing in it is needed: it goes.
    Dead = 1,
    /// Little in it is needed: that is stored elsewhere, then it goes.
    Sparse = 2,
}

/// A blob to be stored again, because its pack is to go.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rescue {
    pub(super) id: BlobId,
    pub(super) kind: BlobKind,
    pub(super) purpose: Purpose,
    pub(super) pack: i64,
}

/// A pack with what is known of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct CataloguedPack {
    pub(super) key: i64,
    pub(super) file: PackFile,
    /// Bytes of the records chosen in it, about as much as copying them would take.
    pub(super) live: u64,
}

/// The catalogue.
pub(super) struct Catalogue {
    database: Connection,
    /// Whether fates are decided, so that whatever is reached from now on was not thought of.
    late: bool,
    /// Whether anything was.
    surprised: Cell<bool>,
}

impl Catalogue {
    pub(super) fn new() -> Result<Self> {
        Ok(Self { database: temporary::database(SCHEMA)?, late: false, surprised: Cell::new(false) })
    }

    /// Runs all that `work` does as one transaction, which is much faster.
    pub(super) fn together<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.database.execute_batch("BEGIN").map_err(failed("write"))?;
        let outcome = work(self);
        self.database.execute_batch("COMMIT").map_err(failed("write"))?;
        outcome
    }

    /// Adds a pack and its records; one that is known only gets the fate.
    pub(super) fn add_pack(&self, pack: &PackFile, footer: &Footer, fate: Fate) -> Result<()> {
        if let Some(key) = self.key_of(&pack.id)? {
            return self.set_fate(key, fate);
        }
        prepared(&self.database, "INSERT INTO packs(id, size, fate) VALUES(?, ?, ?)")?
            .execute(params![pack.id.as_bytes(), pack.size.cast_signed(), fate as u8])
            .map_err(failed("write"))?;
        let key = self.database.last_insert_rowid();
        let mut insert_record = prepared(&self.database, "INSERT INTO records VALUES(?, ?, ?, ?, ?, ?, ?)")?;
        let mut insert_base = prepared(&self.database, "INSERT OR IGNORE INTO bases VALUES(?, ?, ?)")?;
        for (number, record) in (0_i64..).zip(&footer.records) {
            let stored = stored_share(record, footer);
            let (whole, copy) = match &record.encoding {
                Encoding::Whole => (true, stored),
                // It is copied as a whole record, and how well that compresses is not known.
                Encoding::Delta { .. } => (false, u64::from(record.length) + FOOTER_SHARE),
            };
            let node = record.kind == BlobKind::ListNode;
            insert_record
                .execute(params![
                    record.id.as_bytes(),
                    key,
                    number,
                    node,
                    whole,
                    stored.cast_signed(),
                    copy.cast_signed()
                ])
                .map_err(failed("write"))?;
            if let Encoding::Delta { bases, .. } = &record.encoding {
                for prefix in bases {
                    insert_base.execute(params![key, number, prefix.as_bytes()]).map_err(failed("write"))?;
                }
            }
        }
        Ok(())
    }

    pub(super) fn knows_pack(&self, id: &PackId) -> Result<bool> {
        Ok(self.key_of(id)?.is_some())
    }

    fn key_of(&self, id: &PackId) -> Result<Option<i64>> {
        prepared(&self.database, "SELECT key FROM packs WHERE id = ?")?
            .query_row([id.as_bytes()], |row| row.get(0))
            .optional()
            .map_err(failed("read"))
    }

    /// Marks a blob that a snapshot reaches.
    pub(super) fn reach(&self, id: &BlobId, purpose: Purpose) -> Result<()> {
        let added = prepared(&self.database, "INSERT OR IGNORE INTO reached VALUES(?, ?, ?)")?
            .execute(params![id.as_bytes(), purpose == Purpose::Metadata, self.late])
            .map_err(failed("write"))?;
        if self.late && added > 0 {
            self.surprised.set(true);
        }
        Ok(())
    }

    /// Whether a blob was reached only after fates were decided.
    pub(super) fn is_surprised(&self) -> bool {
        self.surprised.get()
    }

    pub(super) fn is_reached(&self, id: &BlobId) -> Result<bool> {
        prepared(&self.database, "SELECT 1 FROM reached WHERE id = ?")?.exists([id.as_bytes()]).map_err(failed("read"))
    }

    /// Sorts packs by what they are worth: those without a needed record are dead, those whose needed records take less
    /// than `percent` of their bytes to copy are sparse. Packs with records of blobs for which no choice was possible stay.
    pub(super) fn decide_fates(&mut self, percent: u64) -> Result<()> {
        self.late = true;
        self.together(|catalogue| {
            catalogue.execute("UPDATE packs SET live = 0")?;
            catalogue.execute(
                "UPDATE packs SET live = t.live FROM (
                   SELECT c.pack AS pack, SUM(r.copy) AS live FROM needed JOIN chosen c USING(id)
                   JOIN records r ON r.id = c.id AND r.pack = c.pack AND r.number = c.number GROUP BY c.pack) t
                 WHERE t.pack = packs.key",
            )?;
            let sql =
                "UPDATE packs SET fate = CASE WHEN live = 0 THEN ?1 WHEN live * 100 < size * ?2 THEN ?3 ELSE ?4 END";
            prepared(&catalogue.database, sql)?
                .execute(params![Fate::Dead as u8, percent.cast_signed(), Fate::Sparse as u8, Fate::Stays as u8])
                .map_err(failed("write"))?;
            catalogue.pardon().map(|_| ())
        })
    }

    /// The packs of this fate.
    pub(super) fn packs(&self, fate: Fate) -> Result<Vec<CataloguedPack>> {
        let mut query = prepared(&self.database, "SELECT key, id, size, live FROM packs WHERE fate = ? ORDER BY id")?;
        let rows = query.query_map([fate as u8], |row| {
            let file = PackFile { id: PackId::from_bytes(row.get(1)?), size: row.get::<_, i64>(2)?.cast_unsigned() };
            Ok(CataloguedPack { key: row.get(0)?, file, live: row.get::<_, i64>(3)?.max(0).cast_unsigned() })
        });
        rows.and_then(Iterator::collect).map_err(failed("read"))
    }

    pub(super) fn set_fate(&self, key: i64, fate: Fate) -> Result<()> {
        prepared(&self.database, "UPDATE packs SET fate = ? WHERE key = ?")?
            .execute(params![fate as u8, key])
            .map(|_| ())
            .map_err(failed("write"))
    }

    /// Calls `take` with each needed blob whose chosen record lies in a sparse pack, in the order of records.
    pub(super) fn each_rescue(&self, mut take: impl FnMut(Rescue) -> Result<()>) -> Result<()> {
        self.each_rescue_of(
            "SELECT c.id, r.node, COALESCE(m.metadata, 0), c.pack FROM needed n JOIN chosen c USING(id)
             JOIN packs p ON p.key = c.pack AND p.fate = 2
             JOIN records r ON r.id = c.id AND r.pack = c.pack AND r.number = c.number
             LEFT JOIN reached m ON m.id = c.id ORDER BY c.pack, c.number",
            &mut take,
        )
    }

    /// Calls `take` with each needed blob that a dead pack holds although one that stays was preferred, and the dead pack.
    pub(super) fn each_superseded(&self, mut take: impl FnMut(Rescue) -> Result<()>) -> Result<()> {
        self.each_rescue_of(
            "SELECT r.id, r.node, 0, r.pack FROM packs p JOIN records r ON r.pack = p.key JOIN needed n ON n.id = r.id
             JOIN chosen c ON c.id = r.id JOIN packs kept ON kept.key = c.pack AND kept.fate = 0
             WHERE p.fate = 1 ORDER BY c.pack, c.number",
            &mut take,
        )
    }

    fn each_rescue_of(&self, sql: &str, take: &mut dyn FnMut(Rescue) -> Result<()>) -> Result<()> {
        let mut query = prepared(&self.database, sql)?;
        let mut rows = query.query([]).map_err(failed("read"))?;
        while let Some(row) = rows.next().map_err(failed("read"))? {
            let rescue = || {
                let kind = if row.get(1)? { BlobKind::ListNode } else { BlobKind::Chunk };
                let purpose = if row.get(2)? { Purpose::Metadata } else { Purpose::Data };
                Ok(Rescue { id: BlobId::from_bytes(row.get(0)?), kind, purpose, pack: row.get(3)? })
            };
            take(rescue().map_err(failed("read"))?)?;
        }
        Ok(())
    }

    /// Lets every pack stay that holds a record of a blob, reached or on the way to one, for which no choice was possible;
    /// returns how many packs that were. To be called after [`Catalogue::choose`].
    pub(super) fn pardon(&self) -> Result<usize> {
        prepared(
            &self.database,
            "UPDATE packs SET fate = 0 WHERE fate <> 0 AND key IN (
               SELECT r.pack FROM (SELECT id FROM reached UNION SELECT id FROM chained) t JOIN records r USING(id)
               WHERE t.id NOT IN (SELECT id FROM chosen))",
        )?
        .execute([])
        .map_err(failed("write"))
    }

    /// Lets every pack stay that holds a blob reached only after fates were decided: nobody read its other copies.
    pub(super) fn pardon_late(&self) -> Result<()> {
        self.execute(
            "UPDATE packs SET fate = 0 WHERE key IN (SELECT r.pack FROM reached JOIN records r USING(id) WHERE late)",
        )
    }

    /// How many reached blobs have no chosen record.
    pub(super) fn lost(&self) -> Result<u64> {
        let sql = "SELECT COUNT(*) FROM reached WHERE id NOT IN (SELECT id FROM chosen)";
        let count: i64 = self.database.query_row(sql, [], |row| row.get(0)).map_err(failed("read"))?;
        Ok(count.cast_unsigned())
    }

    fn execute(&self, sql: &str) -> Result<()> {
        self.database.execute(sql, []).map(|_| ()).map_err(failed("write"))
    }
}

/// About how many bytes of the pack a record takes: its part of its frame, and its line in the footer.
fn stored_share(record: &Record, footer: &Footer) -> u64 {
    let frame = footer.frames.get(record.frame as usize);
    let part = frame.map_or(0, |frame| {
        u64::from(frame.stored_length) * u64::from(record.payload_length) / u64::from(frame.raw_length.max(1))
    });
    part + FOOTER_SHARE
}
