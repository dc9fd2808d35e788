//! The bytes of each pack, by what they are for.

use super::Catalogue;
use crate::error::Result;
use crate::store::temporary::{failed, prepared};
use crate::upkeep::gc::fates::{self, PackBalance};

impl Catalogue {
    /// Decides the fate of each pack; to be called after [`Catalogue::choose`]. Packs with records of blobs for which no
    /// choice was possible stay.
    pub(in crate::upkeep::gc) fn decide_fates(&mut self) -> Result<()> {
        self.together(|catalogue| {
            catalogue.gather_families()?;
            for decision in fates::decide(&catalogue.balances()?) {
                catalogue.set_fate(decision.key, decision.fate)?;
            }
            catalogue.pardon().map(|_| ())
        })
    }

    /// The families whose roots no snapshot reaches, with what would go beside the root if a newer version took its place:
    /// the versions that no snapshot reaches, and the delta of the oldest one that is reached.
    fn gather_families(&self) -> Result<()> {
        self.execute("DELETE FROM families")?;
        self.execute(
            "INSERT INTO families SELECT l.root, SUM(n.kept AND NOT l.covered),
               SUM(CASE WHEN c.pack <> root.pack AND NOT (n.kept AND l.covered) THEN r.stored ELSE 0 END)
             FROM links l JOIN needed n ON n.id = l.id JOIN needed dead ON dead.id = l.root AND NOT dead.kept
             JOIN chosen c ON c.id = l.id JOIN chosen root ON root.id = l.root
             JOIN records r ON r.id = c.id AND r.pack = c.pack AND r.number = c.number GROUP BY l.root",
        )
    }

    fn balances(&self) -> Result<Vec<PackBalance>> {
        let sql = "SELECT p.key, p.size, COALESCE(live, 0), COALESCE(roots, 0), COALESCE(sources, 0), COALESCE(links, 0), COALESCE(burden, 0)
             FROM packs p LEFT JOIN (
               SELECT c.pack AS pack,
                 SUM(CASE WHEN n.kept THEN r.stored END) AS live,
                 SUM(CASE WHEN NOT n.kept AND c.whole AND COALESCE(f.heirs, 0) > 0 THEN r.stored END) AS roots,
                 SUM(CASE WHEN NOT n.kept AND c.whole AND COALESCE(f.heirs, 0) = 0 THEN r.stored END) AS sources,
                 SUM(CASE WHEN NOT n.kept AND NOT c.whole THEN r.stored END) AS links,
                 SUM(CASE WHEN f.heirs > 0 THEN f.burden END) AS burden
               FROM needed n JOIN chosen c USING(id)
               JOIN records r ON r.id = c.id AND r.pack = c.pack AND r.number = c.number
               LEFT JOIN families f ON f.root = n.id GROUP BY c.pack) ON pack = p.key";
        let mut query = prepared(&self.database, sql)?;
        let bytes = |row: &rusqlite::Row<'_>, column| row.get(column).map(i64::cast_unsigned);
        let rows = query.query_map([], |row| {
            Ok(PackBalance {
                key: row.get(0)?,
                size: bytes(row, 1)?,
                live: bytes(row, 2)?,
                roots: bytes(row, 3)?,
                sources: bytes(row, 4)?,
                links: bytes(row, 5)?,
                burden: bytes(row, 6)?,
            })
        });
        rows.and_then(Iterator::collect).map_err(failed("read"))
    }
}
