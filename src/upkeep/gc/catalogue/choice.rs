//! Choosing one record for each blob that is needed.
//!
//! Invariants: a blob's record is chosen only after records of all bases it needs are chosen, so that the choice is
//! closed and free of cycles; of a prefix, every blob that matches counts as a base; a whole record is preferred to a
//! delta, and of several whole ones that in the pack of which most is reached, so that sparse packs die out.

use rusqlite::{OptionalExtension, params};

use super::links::Link;
use super::{Catalogue, Fate, Numbered};
use crate::error::Result;
use crate::id::{BlobId, BlobPrefix};
use crate::store::temporary::{failed, prepared};

impl Catalogue {
    /// Chooses, among the packs that stay, one record for each blob that is reached or that a chosen record needs.
    pub(in crate::upkeep::gc) fn choose(&mut self) -> Result<()> {
        self.together(|catalogue| {
            catalogue.execute("DELETE FROM chosen")?;
            catalogue.execute("DELETE FROM chained")?;
            catalogue.execute("DELETE FROM links")?;
            catalogue.execute("DELETE FROM needed")?;
            prepared(&catalogue.database, "UPDATE packs SET rank = (fate = ?)")?
                .execute([Fate::Stays as u8])
                .map_err(failed("write"))?;
            catalogue.choose_whole_records()?;
            catalogue.follow_chains()?;
            catalogue.choose_deltas()?;
            catalogue.gather_needed()
        })
    }

    /// Whole records first: of several, that in the pack with most that is reached, so that sparse packs die out.
    fn choose_whole_records(&self) -> Result<()> {
        self.execute(
            "CREATE TEMP TABLE shares AS SELECT r.pack AS pack, SUM(r.stored) AS reached FROM reached JOIN records r USING(id) GROUP BY r.pack",
        )?;
        self.execute(
            "UPDATE packs SET rank = 1 + 1000000 * s.reached / packs.size FROM shares s WHERE s.pack = packs.key AND rank > 0",
        )?;
        self.execute("DROP TABLE shares")?;
        // Columns beside the one MAX come from the row that has the maximum:
        // https://www.sqlite.org/lang_select.html#bareagg
        self.execute(
            "INSERT INTO chosen SELECT id, pack, number, 1 FROM (
               SELECT r.id AS id, r.pack AS pack, r.number AS number, MAX(p.rank)
               FROM reached JOIN records r USING(id) JOIN packs p ON p.key = r.pack
               WHERE r.whole AND p.rank > 0 GROUP BY r.id)",
        )?;
        self.execute("INSERT INTO chained(id) SELECT id FROM reached WHERE id NOT IN (SELECT id FROM chosen)")
    }

    /// Follows the bases of blobs without a whole record, breadth first.
    fn follow_chains(&self) -> Result<()> {
        let mut last = 0_i64;
        while let Some(Numbered { number, id }) = self.chained_after(last)? {
            last = number;
            for delta in self.deltas_of(&id)? {
                for base in self.bases_of(&delta)? {
                    if !self.choose_whole_record(&base)? {
                        prepared(&self.database, "INSERT OR IGNORE INTO chained(id) VALUES(?)")?
                            .execute([base.as_bytes()])
                            .map_err(failed("write"))?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether the blob has a whole record; it is then the chosen one.
    fn choose_whole_record(&self, id: &BlobId) -> Result<bool> {
        prepared(
            &self.database,
            "INSERT OR IGNORE INTO chosen SELECT r.id, r.pack, r.number, 1 FROM records r JOIN packs p ON p.key = r.pack
             WHERE r.id = ? AND r.whole AND p.rank > 0 ORDER BY p.rank DESC LIMIT 1",
        )?
        .execute([id.as_bytes()])
        .map_err(failed("write"))?;
        self.is_chosen(id)
    }

    /// Chooses deltas whose bases are all chosen, until none is left; those found last have the shortest chains.
    fn choose_deltas(&self) -> Result<()> {
        let mut progress = true;
        while progress {
            progress = false;
            let mut before = i64::MAX;
            while let Some(Numbered { number, id }) = self.chained_before(before)? {
                before = number;
                if !self.is_chosen(&id)? && self.choose_delta(&id)? {
                    progress = true;
                }
            }
        }
        Ok(())
    }

    fn choose_delta(&self, id: &BlobId) -> Result<bool> {
        for delta in self.deltas_of(id)? {
            if self.is_grounded(&delta)? {
                prepared(&self.database, "INSERT INTO chosen VALUES(?, ?, ?, 0)")?
                    .execute(params![id.as_bytes(), delta.pack, delta.number])
                    .map_err(failed("write"))?;
                self.add_link(&Link::of(*id, &self.bases_of(&delta)?, self)?)?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether each base prefix leads to blobs, and to none without a chosen record.
    fn is_grounded(&self, delta: &DeltaPlace) -> Result<bool> {
        for prefix in self.prefixes_of(delta)? {
            let matches = self.with_prefix(&prefix)?;
            if matches.is_empty() {
                return Ok(false);
            }
            for id in matches {
                if !self.is_chosen(&id)? {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// The blobs that chosen records of reached blobs lead to.
    fn gather_needed(&self) -> Result<()> {
        self.execute("DELETE FROM followed")?;
        self.execute("INSERT INTO needed SELECT id, 1 FROM reached WHERE id IN (SELECT id FROM chosen)")?;
        self.execute("INSERT INTO followed(id) SELECT id FROM needed JOIN chosen USING(id) WHERE NOT whole")?;
        let mut last = 0_i64;
        while let Some(next) = self.followed_after(last)? {
            last = next.number;
            for base in self.bases_of(&next.delta)? {
                prepared(&self.database, "INSERT OR IGNORE INTO needed VALUES(?, 0)")?
                    .execute([base.as_bytes()])
                    .map_err(failed("write"))?;
                let sql = "INSERT OR IGNORE INTO followed(id) SELECT id FROM chosen WHERE id = ? AND NOT whole";
                prepared(&self.database, sql)?.execute([base.as_bytes()]).map_err(failed("write"))?;
            }
        }
        Ok(())
    }

    fn chained_after(&self, number: i64) -> Result<Option<Numbered>> {
        self.numbered_after("SELECT number, id FROM chained WHERE number > ? ORDER BY number LIMIT 1", number)
    }

    fn chained_before(&self, number: i64) -> Result<Option<Numbered>> {
        self.numbered_after("SELECT number, id FROM chained WHERE number < ? ORDER BY number DESC LIMIT 1", number)
    }

    pub(super) fn is_chosen(&self, id: &BlobId) -> Result<bool> {
        prepared(&self.database, "SELECT 1 FROM chosen WHERE id = ?")?.exists([id.as_bytes()]).map_err(failed("read"))
    }

    fn followed_after(&self, number: i64) -> Result<Option<Followed>> {
        let sql = "SELECT c.pack, c.number, f.number FROM followed f JOIN chosen c USING(id) WHERE f.number > ? ORDER BY f.number LIMIT 1";
        prepared(&self.database, sql)?
            .query_row([number], |row| Ok(Followed { number: row.get(2)?, delta: DeltaPlace::of(row)? }))
            .optional()
            .map_err(failed("read"))
    }

    /// The delta records of a blob in packs that count.
    pub(super) fn deltas_of(&self, id: &BlobId) -> Result<Vec<DeltaPlace>> {
        let mut query = prepared(
            &self.database,
            "SELECT r.pack, r.number FROM records r JOIN packs p ON p.key = r.pack WHERE r.id = ? AND NOT r.whole AND p.rank > 0
             ORDER BY p.rank DESC, r.pack, r.number",
        )?;
        let rows = query.query_map([id.as_bytes()], DeltaPlace::of);
        rows.and_then(Iterator::collect).map_err(failed("read"))
    }

    pub(super) fn prefixes_of(&self, delta: &DeltaPlace) -> Result<Vec<BlobPrefix>> {
        let mut query =
            prepared(&self.database, "SELECT prefix FROM bases WHERE pack = ? AND number = ? ORDER BY position")?;
        let rows = query.query_map(params![delta.pack, delta.number], |row| Ok(BlobPrefix::from_bytes(row.get(0)?)));
        rows.and_then(Iterator::collect).map_err(failed("read"))
    }

    pub(super) fn bases_of(&self, delta: &DeltaPlace) -> Result<Vec<BlobId>> {
        let mut bases = Vec::new();
        for prefix in self.prefixes_of(delta)? {
            bases.extend(self.with_prefix(&prefix)?);
        }
        Ok(bases)
    }

    /// Every catalogued blob whose id begins with the prefix, also in packs that do not count.
    pub(super) fn with_prefix(&self, prefix: &BlobPrefix) -> Result<Vec<BlobId>> {
        let (mut low, mut high) = ([0; BlobId::LEN], [0xff; BlobId::LEN]);
        low.iter_mut().zip(prefix.as_bytes()).for_each(|(to, from)| *to = *from);
        high.iter_mut().zip(prefix.as_bytes()).for_each(|(to, from)| *to = *from);
        let mut query = prepared(&self.database, "SELECT DISTINCT id FROM records WHERE id BETWEEN ? AND ?")?;
        let rows = query.query_map(params![low, high], |row| Ok(BlobId::from_bytes(row.get(0)?)));
        rows.and_then(Iterator::collect).map_err(failed("read"))
    }
}

/// A delta record in a catalogued pack.
#[derive(Debug, Clone, Copy)]
pub(super) struct DeltaPlace {
    pub(super) pack: i64,
    pub(super) number: i64,
}

impl DeltaPlace {
    fn of(row: &rusqlite::Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self { pack: row.get(0)?, number: row.get(1)? })
    }
}

/// A needed blob whose chosen record is a delta.
struct Followed {
    number: i64,
    delta: DeltaPlace,
}
