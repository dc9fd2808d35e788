//! The catalogue of a garbage collection: what packs hold, what snapshots reach, and which record keeps each blob.
//!
//! Invariants: what packs hold comes from their footers, never from the index; only what [`Catalogue::choose`] chose
//! decides fates. Everything lies in a temporary database, so memory is bounded.

mod balances;
mod choice;
mod links;
mod rewrites;

use std::cell::Cell;
use std::collections::BTreeSet;

use rusqlite::{Connection, OptionalExtension, params};

pub(super) use rewrites::{Group, Rewrite};

use super::fates::Fate;
use crate::error::Result;
use crate::format::pack::{BlobKind, Encoding, Footer, Record};
use crate::id::{BlobId, BlobPrefix, PackId};
use crate::store::packs::PackFile;
use crate::store::temporary::{self, failed, prepared};

/// `incoming` holds records until they are sorted into `records`; `links` holds the chosen deltas, bases before what
/// needs them; `needed` the blobs that chosen records of reached ones lead to; `heirs`, `rewrites` and `replaced` what
/// is to be stored anew.
const SCHEMA: &str = "
CREATE TABLE packs(key INTEGER PRIMARY KEY, id BLOB NOT NULL UNIQUE, size INTEGER NOT NULL, fate INTEGER NOT NULL, rank INTEGER NOT NULL DEFAULT 1);
CREATE TABLE records(id BLOB, pack INTEGER, number INTEGER, node INTEGER, whole INTEGER, portable INTEGER, mixed INTEGER, length INTEGER, stored INTEGER, PRIMARY KEY(id, pack, number)) WITHOUT ROWID;
CREATE TABLE incoming(id BLOB, pack INTEGER, number INTEGER, node INTEGER, whole INTEGER, portable INTEGER, mixed INTEGER, length INTEGER, stored INTEGER);
CREATE TABLE bases(pack INTEGER, number INTEGER, position INTEGER, prefix BLOB, PRIMARY KEY(pack, number, position)) WITHOUT ROWID;
CREATE TABLE reached(id BLOB PRIMARY KEY, metadata INTEGER, late INTEGER) WITHOUT ROWID;
CREATE TABLE chained(number INTEGER PRIMARY KEY, id BLOB UNIQUE);
CREATE TABLE followed(number INTEGER PRIMARY KEY, id BLOB UNIQUE);
CREATE TABLE hidden(number INTEGER PRIMARY KEY, id BLOB UNIQUE);
CREATE TABLE chosen(id BLOB PRIMARY KEY, pack INTEGER, number INTEGER, whole INTEGER) WITHOUT ROWID;
CREATE TABLE links(number INTEGER PRIMARY KEY, id BLOB UNIQUE, first BLOB, root BLOB, covered INTEGER, depth INTEGER, records INTEGER);
CREATE TABLE needed(id BLOB PRIMARY KEY, kept INTEGER) WITHOUT ROWID;
CREATE TABLE families(root BLOB PRIMARY KEY, heirs INTEGER, burden INTEGER) WITHOUT ROWID;
CREATE TABLE heirs(id BLOB PRIMARY KEY, heir BLOB) WITHOUT ROWID;
CREATE TABLE rewrites(id BLOB PRIMARY KEY, part INTEGER, rebased INTEGER, estimate INTEGER, depth INTEGER, records INTEGER) WITHOUT ROWID;
CREATE TABLE replaced(id BLOB, position INTEGER, base BLOB, PRIMARY KEY(id, position)) WITHOUT ROWID;";

/// Bytes that a record costs in the footer, its bases aside.
const FOOTER_SHARE: u64 = 41;

/// What a reached blob is part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReachedAs {
    /// The content of a file.
    Data,
    /// A file table or a tree of list nodes.
    Metadata,
}

/// A pack with its key in the catalogue.
#[derive(Debug, Clone, Copy)]
pub(super) struct CataloguedPack {
    pub(super) key: i64,
    pub(super) file: PackFile,
}

/// A needed blob that a pack holds which is to go, although one that stays was preferred.
#[derive(Debug, Clone, Copy)]
pub(super) struct Superseded {
    pub(super) id: BlobId,
    pub(super) kind: BlobKind,
    pub(super) pack: i64,
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

    /// Adds a pack and its records, which count after [`Catalogue::sort_in`]; one that is known only gets the fate.
    pub(super) fn add_pack(&self, pack: &PackFile, footer: &Footer, fate: Fate) -> Result<()> {
        if let Some(key) = self.key_of(&pack.id)? {
            return self.set_fate(key, fate);
        }
        prepared(&self.database, "INSERT INTO packs(id, size, fate) VALUES(?, ?, ?)")?
            .execute(params![pack.id.as_bytes(), pack.size.cast_signed(), fate as u8])
            .map_err(failed("write"))?;
        let key = self.database.last_insert_rowid();
        let mut insert_record = prepared(&self.database, "INSERT INTO incoming VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?)")?;
        let mut insert_base = prepared(&self.database, "INSERT INTO bases VALUES(?, ?, ?, ?)")?;
        let deltas = footer.records.iter().filter(|record| record.encoding != Encoding::Whole);
        let mixed: BTreeSet<u32> = deltas.map(|record| record.frame).collect();
        for (number, record) in (0_i64..).zip(&footer.records) {
            let (whole, portable) = match &record.encoding {
                Encoding::Whole => (true, true),
                Encoding::Delta { id_table, .. } => (false, !id_table),
            };
            insert_record
                .execute(params![
                    record.id.as_bytes(),
                    key,
                    number,
                    record.kind == BlobKind::ListNode,
                    whole,
                    portable,
                    mixed.contains(&record.frame),
                    record.length,
                    stored_share(record, footer).cast_signed()
                ])
                .map_err(failed("write"))?;
            if let Encoding::Delta { bases, .. } = &record.encoding {
                for (position, prefix) in (0_i64..).zip(bases) {
                    let row = params![key, number, position, prefix.as_bytes()];
                    insert_base.execute(row).map_err(failed("write"))?;
                }
            }
        }
        Ok(())
    }

    /// Brings the records of added packs into the order of their ids: sorted on disk, since millions of them, each put
    /// at its place, would take a page of its own each.
    pub(super) fn sort_in(&self) -> Result<()> {
        self.execute("INSERT INTO records SELECT * FROM incoming ORDER BY id, pack, number")?;
        self.execute("DELETE FROM incoming")
    }

    /// The key of the pack that was added last.
    pub(super) fn last_key(&self) -> Result<i64> {
        let sql = "SELECT COALESCE(MAX(key), 0) FROM packs";
        self.database.query_row(sql, [], |row| row.get(0)).map_err(failed("read"))
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
    pub(super) fn reach(&self, id: &BlobId, reached_as: ReachedAs) -> Result<()> {
        let added = prepared(&self.database, "INSERT OR IGNORE INTO reached VALUES(?, ?, ?)")?
            .execute(params![id.as_bytes(), reached_as == ReachedAs::Metadata, self.late])
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

    /// From now on whatever is reached comes late.
    pub(super) fn close_marking(&mut self) {
        self.late = true;
    }

    pub(super) fn is_reached(&self, id: &BlobId) -> Result<bool> {
        prepared(&self.database, "SELECT 1 FROM reached WHERE id = ?")?.exists([id.as_bytes()]).map_err(failed("read"))
    }

    /// The packs of this fate.
    pub(super) fn packs(&self, fate: Fate) -> Result<Vec<CataloguedPack>> {
        let mut query = prepared(&self.database, "SELECT key, id, size FROM packs WHERE fate = ? ORDER BY id")?;
        let rows = query.query_map([fate as u8], |row| {
            let file = PackFile { id: PackId::from_bytes(row.get(1)?), size: row.get::<_, i64>(2)?.cast_unsigned() };
            Ok(CataloguedPack { key: row.get(0)?, file })
        });
        rows.and_then(Iterator::collect).map_err(failed("read"))
    }

    pub(super) fn set_fate(&self, key: i64, fate: Fate) -> Result<()> {
        prepared(&self.database, "UPDATE packs SET fate = ? WHERE key = ?")?
            .execute(params![fate as u8, key])
            .map(|_| ())
            .map_err(failed("write"))
    }

    /// Lets every pack stay.
    pub(super) fn keep_all(&self) -> Result<()> {
        self.execute("UPDATE packs SET fate = 0")
    }

    /// Calls `take` with each blob that survives in a pack that stays, without being stored anew, while a pack that is
    /// to go holds it too.
    pub(super) fn each_superseded(&self, mut take: impl FnMut(Superseded) -> Result<()>) -> Result<()> {
        let sql = "SELECT r.id, r.node, r.pack FROM packs p JOIN records r ON r.pack = p.key JOIN needed n ON n.id = r.id AND n.kept
             JOIN chosen c ON c.id = r.id JOIN packs stays ON stays.key = c.pack AND stays.fate = 0
             WHERE p.fate <> 0 AND r.id NOT IN (SELECT id FROM rewrites) ORDER BY c.pack, c.number";
        let mut query = prepared(&self.database, sql)?;
        let mut rows = query.query([]).map_err(failed("read"))?;
        while let Some(row) = rows.next().map_err(failed("read"))? {
            let superseded = || {
                let kind = if row.get(1)? { BlobKind::ListNode } else { BlobKind::Chunk };
                Ok(Superseded { id: BlobId::from_bytes(row.get(0)?), kind, pack: row.get(2)? })
            };
            take(superseded().map_err(failed("read"))?)?;
        }
        Ok(())
    }

    /// Lets every pack stay that holds a record of a reached blob for which no choice was possible, or of a blob on the
    /// way to one; returns how many packs that were. To be called after [`Catalogue::choose`].
    pub(super) fn pardon(&self) -> Result<usize> {
        self.execute("DELETE FROM hidden")?;
        self.execute("INSERT INTO hidden(id) SELECT id FROM reached WHERE id NOT IN (SELECT id FROM chosen)")?;
        let mut last = 0_i64;
        while let Some(next) =
            self.numbered_after("SELECT number, id FROM hidden WHERE number > ? ORDER BY number LIMIT 1", last)?
        {
            last = next.number;
            for delta in self.deltas_of(&next.id)? {
                for base in self.bases_of(&delta)? {
                    if !self.is_chosen(&base)? {
                        prepared(&self.database, "INSERT OR IGNORE INTO hidden(id) VALUES(?)")?
                            .execute([base.as_bytes()])
                            .map_err(failed("write"))?;
                    }
                }
            }
        }
        let sql =
            "UPDATE packs SET fate = 0 WHERE fate <> 0 AND key IN (SELECT r.pack FROM hidden JOIN records r USING(id))";
        prepared(&self.database, sql)?.execute([]).map_err(failed("write"))
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

    fn numbered_after(&self, sql: &str, number: i64) -> Result<Option<Numbered>> {
        prepared(&self.database, sql)?
            .query_row([number], |row| Ok(Numbered { number: row.get(0)?, id: BlobId::from_bytes(row.get(1)?) }))
            .optional()
            .map_err(failed("read"))
    }
}

/// A blob in a table that is worked off in order.
struct Numbered {
    number: i64,
    id: BlobId,
}

/// About how many bytes of the pack a record takes: its part of its frame, and its line in the footer.
fn stored_share(record: &Record, footer: &Footer) -> u64 {
    let frame = footer.frames.get(record.frame as usize);
    let part = frame.map_or(0, |frame| {
        u64::from(frame.stored_length) * u64::from(record.payload_length) / u64::from(frame.raw_length.max(1))
    });
    let bases = match &record.encoding {
        Encoding::Delta { bases, .. } => bases.len() * BlobPrefix::LEN,
        Encoding::Whole => 0,
    };
    part + FOOTER_SHARE + bases as u64
}
