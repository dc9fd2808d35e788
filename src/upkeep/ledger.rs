//! The ledger: what each blob costs, how deep its chain is, and which snapshots need it.
//!
//! What packs hold comes from their footers, as in a cleanup. A blob is known here by the first eight bytes of its id,
//! as deltas name their bases: two blobs that share them (one chance in a million among five million blobs) count as
//! one, and statistics are all that suffers. Invariants: a blob's bytes are those of one record, a whole one where
//! there is one, else the delta with the shortest chain; a blob's needers lie between its first and its last one.
//! Everything is in a temporary database, so memory is bounded.

use rusqlite::{Connection, params};

use crate::error::{Error, Result};
use crate::format::limits::CHAIN_DEPTH;
use crate::format::pack::{Encoding, Footer};
use crate::id::{BlobId, BlobPrefix};
use crate::progress::Progress;
use crate::store::Repository;
use crate::store::packs::{self, PackFile};
use crate::store::temporary::{self, failed, prepared};

const SCHEMA: &str = "
CREATE TABLE blobs(prefix INTEGER PRIMARY KEY, stored INTEGER NOT NULL DEFAULT 0, depth INTEGER, delta INTEGER, first INTEGER, last INTEGER, source INTEGER);
CREATE TABLE deltas(number INTEGER PRIMARY KEY, blob INTEGER NOT NULL, stored INTEGER NOT NULL, missing INTEGER NOT NULL DEFAULT 0);
CREATE TABLE bases(delta INTEGER, base INTEGER, PRIMARY KEY(delta, base)) WITHOUT ROWID;
CREATE TABLE frontier(blob INTEGER PRIMARY KEY, delta INTEGER NOT NULL);
CREATE TABLE passed(prefix INTEGER PRIMARY KEY);";

const DEEPEST: u32 = CHAIN_DEPTH as u32;

/// The end of the row of snapshots from which blobs are being reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    /// Oldest first: who reaches a blob first is its first needer.
    FromOldest,
    /// Newest first: who reaches a blob first is its last needer.
    FromNewest,
}

/// Whether a blob was reached before in this direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reached {
    Now,
    Before,
}

/// A snapshot and a source by their numbers in the statistics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Needer {
    pub(super) snapshot: u32,
    pub(super) source: u32,
}

/// What snapshots need beyond what is older, and beyond all others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Share {
    pub(super) number: u32,
    pub(super) added: u64,
    pub(super) only: u64,
}

/// Needed blobs at one depth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DepthCount {
    pub(super) depth: u32,
    pub(super) blobs: u64,
    pub(super) stored: u64,
}

/// The ledger.
pub(super) struct Ledger {
    database: Connection,
}

impl Ledger {
    pub(super) fn new() -> Result<Self> {
        Ok(Self { database: temporary::database(SCHEMA)? })
    }

    /// Runs all that `work` does as one transaction, which is much faster.
    pub(super) fn together<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.database.execute_batch("BEGIN").map_err(failed("write"))?;
        let outcome = work(self);
        self.database.execute_batch("COMMIT").map_err(failed("write"))?;
        outcome
    }

    /// Reads the footer of a pack and adds what it holds; the result is why it cannot be read.
    pub(super) fn take(
        &mut self,
        repository: &Repository,
        pack: &PackFile,
        progress: &dyn Progress,
    ) -> Result<Option<Error>> {
        progress.check()?;
        match packs::read_footer(repository.storage(), repository.header(), pack) {
            Ok(footer) => self.together(|ledger| ledger.add_pack(pack, &footer)).map(|()| None),
            Err(error) if error.is_of_one_file() => Ok(Some(error)),
            Err(error) => Err(error),
        }
    }

    /// Strikes out all records of these blobs, as if no pack held them. To be called before chains are resolved.
    pub(super) fn strike_out(&mut self, lost: &[BlobPrefix]) -> Result<()> {
        self.together(|ledger| {
            let mut insert = prepared(&ledger.database, "INSERT OR IGNORE INTO passed VALUES(?)")?;
            for blob in lost {
                insert.execute([key_of_prefix(blob)]).map_err(failed("write"))?;
            }
            ledger.execute("DELETE FROM blobs WHERE prefix IN (SELECT prefix FROM passed)")?;
            ledger.execute("DELETE FROM deltas WHERE blob IN (SELECT prefix FROM passed)")?;
            ledger.turn()
        })
    }

    /// Whether records that were not struck out lead to a blob. To be called after chains are resolved.
    pub(super) fn leads_to(&self, id: &BlobId) -> Result<bool> {
        let sql = "SELECT 1 FROM blobs WHERE prefix = ? AND depth IS NOT NULL";
        prepared(&self.database, sql)?.exists([key(id)]).map_err(failed("read"))
    }

    fn add_pack(&self, pack: &PackFile, footer: &Footer) -> Result<()> {
        let mut add_whole = prepared(
            &self.database,
            "INSERT INTO blobs(prefix, stored, depth) VALUES(?, ?, 0) ON CONFLICT DO NOTHING",
        )?;
        let mut add_delta = prepared(&self.database, "INSERT INTO deltas(blob, stored) VALUES(?, ?)")?;
        let mut add_base = prepared(&self.database, "INSERT OR IGNORE INTO bases VALUES(?, ?)")?;
        let costs = Costs::of(pack, footer);
        for record in &footer.records {
            let stored = costs.of_record(footer, record.frame, record.payload_length).cast_signed();
            let blob = key(&record.id);
            match &record.encoding {
                Encoding::Whole => {
                    add_whole.execute(params![blob, stored]).map_err(failed("write"))?;
                }
                Encoding::Delta { bases, .. } => {
                    add_delta.execute(params![blob, stored]).map_err(failed("write"))?;
                    let delta = self.database.last_insert_rowid();
                    for base in bases {
                        add_base.execute(params![delta, key_of_prefix(base)]).map_err(failed("write"))?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Finds the depth of every chain, from whole records up. Blobs whose chains lead nowhere, into a circle or deeper
    /// than the format allows get none. To be called once, when all packs are added.
    pub(super) fn resolve_chains(&mut self) -> Result<()> {
        self.together(|ledger| {
            ledger.execute("CREATE INDEX bases_by_base ON bases(base)")?;
            ledger.execute(
                "UPDATE deltas SET missing = (SELECT COUNT(*) FROM bases b WHERE b.delta = deltas.number
                   AND NOT EXISTS (SELECT 1 FROM blobs WHERE prefix = b.base))",
            )?;
            ledger.execute("CREATE INDEX ready ON deltas(blob) WHERE missing = 0")?;
            for depth in 1..=DEEPEST {
                if ledger.resolve_depth(depth)? == 0 {
                    break;
                }
            }
            ledger.execute("CREATE INDEX chained ON blobs(depth) WHERE depth > 0")
        })
    }

    /// Gives this depth to all blobs that have none yet and a delta with all its bases; returns how many those are.
    fn resolve_depth(&self, depth: u32) -> Result<usize> {
        self.execute("DELETE FROM frontier")?;
        self.execute(
            "INSERT INTO frontier SELECT blob, MIN(number) FROM deltas
             WHERE missing = 0 AND NOT EXISTS (SELECT 1 FROM blobs WHERE prefix = blob) GROUP BY blob",
        )?;
        // Whatever was ready is not looked at again.
        self.execute("UPDATE deltas SET missing = -1 WHERE missing = 0")?;
        let resolved = prepared(
            &self.database,
            "INSERT INTO blobs(prefix, stored, depth, delta)
             SELECT f.blob, d.stored, ?, f.delta FROM frontier f JOIN deltas d ON d.number = f.delta",
        )?
        .execute([depth])
        .map_err(failed("write"))?;
        self.execute(
            "UPDATE deltas SET missing = missing - t.found FROM (
               SELECT b.delta AS delta, COUNT(*) AS found FROM frontier f JOIN bases b ON b.base = f.blob GROUP BY b.delta) t
             WHERE t.delta = deltas.number AND missing > 0",
        )?;
        Ok(resolved)
    }

    /// Takes note that a snapshot reaches a blob; snapshots come in the order of the direction.
    pub(super) fn reach(&self, id: &BlobId, direction: Direction, needer: Needer) -> Result<Reached> {
        let sql = match direction {
            Direction::FromOldest => {
                "INSERT INTO blobs(prefix, first, source) VALUES(?1, ?2, ?3)
                 ON CONFLICT(prefix) DO UPDATE SET first = ?2, source = ?3 WHERE first IS NULL"
            }
            Direction::FromNewest => {
                "INSERT INTO blobs(prefix, last, source) VALUES(?1, ?2, ?3)
                 ON CONFLICT(prefix) DO UPDATE SET last = ?2 WHERE last IS NULL"
            }
        };
        let changed = prepared(&self.database, sql)?
            .execute(params![key(id), needer.snapshot, needer.source])
            .map_err(failed("write"))?;
        Ok(if changed == 0 { Reached::Before } else { Reached::Now })
    }

    /// Takes note that a walk need not go below this node or table again.
    pub(super) fn pass(&self, node: &BlobId) -> Result<Reached> {
        let changed = prepared(&self.database, "INSERT OR IGNORE INTO passed VALUES(?)")?
            .execute([key(node)])
            .map_err(failed("write"))?;
        Ok(if changed == 0 { Reached::Before } else { Reached::Now })
    }

    /// Whether a walk need not go below this node again.
    pub(super) fn is_passed(&self, node: &BlobId) -> Result<bool> {
        prepared(&self.database, "SELECT 1 FROM passed WHERE prefix = ?")?.exists([key(node)]).map_err(failed("read"))
    }

    /// Forgets what was passed, before a walk in another direction.
    pub(super) fn turn(&self) -> Result<()> {
        self.execute("DELETE FROM passed")
    }

    /// Hands needers on to the bases of what they need, the deepest chains first. To be called when all is reached.
    pub(super) fn share_chains(&mut self) -> Result<()> {
        self.together(|ledger| {
            for depth in (1..=DEEPEST).rev() {
                // `depth > 0` lets the partial index serve.
                prepared(
                    &ledger.database,
                    "UPDATE blobs SET first = MIN(COALESCE(blobs.first, t.first), t.first),
                       last = MAX(COALESCE(blobs.last, t.last), t.last), source = COALESCE(blobs.source, t.source)
                     FROM (SELECT b.base AS base, MIN(n.first) AS first, MAX(n.last) AS last, MIN(n.source) AS source
                           FROM blobs n JOIN bases b ON b.delta = n.delta
                           WHERE n.depth = ? AND n.depth > 0 AND n.first IS NOT NULL GROUP BY b.base) t
                     WHERE t.base = blobs.prefix",
                )?
                .execute([depth])
                .map_err(failed("write"))?;
            }
            Ok(())
        })
    }

    /// What each snapshot costs; those that cost nothing are left out.
    pub(super) fn of_snapshots(&self) -> Result<Vec<Share>> {
        self.rows(
            "SELECT first, SUM(stored), SUM(stored * (last = first)) FROM blobs WHERE first IS NOT NULL GROUP BY first",
            |row| Ok(Share { number: row.get(0)?, added: number(row, 1)?, only: number(row, 2)? }),
        )
    }

    /// What each source costs, all snapshots together; what several sources share counts for the one that had it first.
    pub(super) fn of_sources(&self) -> Result<Vec<Share>> {
        self.rows(
            "SELECT source, SUM(stored) FROM blobs WHERE first IS NOT NULL AND source IS NOT NULL GROUP BY source",
            |row| Ok(Share { number: row.get(0)?, added: number(row, 1)?, only: 0 }),
        )
    }

    /// The needed blobs by the depth of their chains, ascending.
    pub(super) fn depths(&self) -> Result<Vec<DepthCount>> {
        self.rows(
            "SELECT depth, COUNT(*), SUM(stored) FROM blobs WHERE first IS NOT NULL AND depth IS NOT NULL
             GROUP BY depth ORDER BY depth",
            |row| Ok(DepthCount { depth: row.get(0)?, blobs: number(row, 1)?, stored: number(row, 2)? }),
        )
    }

    /// How many needed blobs no readable pack leads to.
    pub(super) fn lost(&self) -> Result<u64> {
        let sql = "SELECT COUNT(*) FROM blobs WHERE first IS NOT NULL AND depth IS NULL";
        Ok(self.rows(sql, |row| number(row, 0))?.into_iter().sum())
    }

    fn rows<T>(&self, sql: &str, of: impl FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<T>) -> Result<Vec<T>> {
        let mut query = prepared(&self.database, sql)?;
        query.query_map([], of).and_then(Iterator::collect).map_err(failed("read"))
    }

    fn execute(&self, sql: &str) -> Result<()> {
        self.database.execute(sql, []).map(|_| ()).map_err(failed("write"))
    }
}

fn number(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<u64> {
    row.get::<_, i64>(column).map(i64::cast_unsigned)
}

fn key(id: &BlobId) -> i64 {
    key_of_prefix(&id.prefix())
}

fn key_of_prefix(prefix: &BlobPrefix) -> i64 {
    i64::from_be_bytes(*prefix.as_bytes())
}

/// How the bytes of a pack are divided among its records: those of a frame by payload, all others equally.
struct Costs {
    each: u64,
}

impl Costs {
    fn of(pack: &PackFile, footer: &Footer) -> Self {
        let frames: u64 = footer.frames.iter().map(|frame| u64::from(frame.stored_length)).sum();
        Self { each: pack.size.saturating_sub(frames) / (footer.records.len() as u64).max(1) }
    }

    fn of_record(&self, footer: &Footer, frame: u32, payload_length: u32) -> u64 {
        let part = footer.frames.get(frame as usize).map_or(0, |frame| {
            u64::from(frame.stored_length) * u64::from(payload_length) / u64::from(frame.raw_length.max(1))
        });
        part + self.each
    }
}
