//! The bytes of each pack, by what they are for.

use super::Catalogue;
use crate::error::Result;
use crate::store::temporary::{failed, prepared};
use crate::upkeep::gc::fates::{self, Fate, Hope, PackBalance, Remains};

/// So often at most it is looked at what the opening of packs makes of others.
const ROUNDS: usize = 8;

impl Catalogue {
    /// Decides the fate of each pack; to be called after [`Catalogue::choose`]. Packs with records of blobs for which
    /// no choice was possible stay.
    pub(in crate::upkeep::gc) fn decide_fates(&mut self, hope: Hope) -> Result<()> {
        self.together(|catalogue| {
            catalogue.keep_all()?;
            catalogue.forget_plan()?;
            catalogue.gather_families()?;
            for _ in 0..ROUNDS {
                let decisions = fates::decide(&catalogue.balances()?, hope);
                if decisions.is_empty() {
                    break;
                }
                for decision in decisions {
                    catalogue.set_fate(decision.key, decision.fate)?;
                }
            }
            catalogue.pardon().map(|_| ())
        })
    }

    /// Opens packs of which half or more is waste once everything is stored anew that is planned to be; returns whether
    /// there are any. The plan is to be made again then.
    pub(in crate::upkeep::gc) fn open_left_behind(&mut self) -> Result<bool> {
        self.together(|catalogue| {
            let left: Vec<_> = catalogue.remains()?.into_iter().filter(Remains::are_mostly_waste).collect();
            left.iter().try_for_each(|pack| catalogue.set_fate(pack.key, Fate::Opened))?;
            Ok(catalogue.pardon()? < left.len())
        })
    }

    /// What stays useful in packs that stay and of which something is stored elsewhere or dropped.
    fn remains(&self) -> Result<Vec<Remains>> {
        let sql = "SELECT p.key, p.size, SUM(CASE WHEN n.kept AND w.id IS NULL THEN r.stored ELSE 0 END) AS useful
             FROM needed n JOIN chosen c USING(id) JOIN packs p ON p.key = c.pack AND p.fate = 0
             JOIN records r ON r.id = c.id AND r.pack = c.pack AND r.number = c.number
             LEFT JOIN rewrites w ON w.id = n.id GROUP BY p.key HAVING COUNT(w.id) > 0 OR SUM(NOT n.kept) > 0";
        let mut query = prepared(&self.database, sql)?;
        let bytes = |row: &rusqlite::Row<'_>, column| row.get(column).map(i64::cast_unsigned);
        let rows =
            query.query_map([], |row| Ok(Remains { key: row.get(0)?, size: bytes(row, 1)?, useful: bytes(row, 2)? }));
        rows.and_then(Iterator::collect).map_err(failed("read"))
    }

    /// Opens packs that are to be merged; returns whether there are any.
    pub(in crate::upkeep::gc) fn decide_merging(&mut self) -> Result<bool> {
        self.together(|catalogue| {
            let merged = fates::merged(&catalogue.balances()?);
            merged.iter().try_for_each(|key| catalogue.set_fate(*key, Fate::Opened))?;
            Ok(catalogue.pardon()? < merged.len())
        })
    }

    /// The families whose roots no snapshot reaches, with what would go beside the root if a newer version took its
    /// place: the versions that no snapshot reaches, and the delta of the oldest one that is reached. Of the former,
    /// the packs in which they are give back the other half.
    fn gather_families(&self) -> Result<()> {
        self.execute("DELETE FROM families")?;
        self.execute(
            "INSERT INTO families SELECT l.root, SUM(n.kept AND NOT l.covered),
               SUM(CASE WHEN c.pack = root.pack THEN 0 WHEN NOT n.kept THEN r.stored / 2 WHEN NOT l.covered THEN r.stored ELSE 0 END)
             FROM links l JOIN needed n ON n.id = l.id JOIN needed dead ON dead.id = l.root AND NOT dead.kept
             JOIN chosen c ON c.id = l.id JOIN chosen root ON root.id = l.root
             JOIN records r ON r.id = c.id AND r.pack = c.pack AND r.number = c.number GROUP BY l.root",
        )
    }

    /// What each pack holds, given the fates so far.
    fn balances(&self) -> Result<Vec<PackBalance>> {
        let sql = "SELECT p.key, p.size, p.fate, COALESCE(live, 0), COALESCE(roots, 0), COALESCE(sources, 0), COALESCE(links, 0), COALESCE(replaced, 0), COALESCE(burden, 0)
             FROM packs p LEFT JOIN (
               SELECT pack,
                 SUM(CASE WHEN part = 0 THEN stored END) AS live,
                 SUM(CASE WHEN part = 1 THEN stored END) AS roots,
                 SUM(CASE WHEN part = 2 THEN stored END) AS sources,
                 SUM(CASE WHEN part = 3 THEN stored END) AS links,
                 SUM(CASE WHEN part = 4 THEN stored END) AS replaced,
                 SUM(burden) AS burden
               FROM (SELECT c.pack AS pack, r.stored AS stored, f.burden AS burden,
                   CASE WHEN NOT c.whole AND old.heirs > 0 AND opened.fate = 2 AND NOT (n.kept AND l.covered) THEN 4
                     WHEN n.kept THEN 0 WHEN NOT c.whole THEN 3 WHEN f.heirs > 0 THEN 1 ELSE 2 END AS part
                 FROM needed n JOIN chosen c USING(id)
                 JOIN records r ON r.id = c.id AND r.pack = c.pack AND r.number = c.number
                 LEFT JOIN families f ON f.root = n.id AND f.heirs > 0
                 LEFT JOIN links l ON l.id = n.id LEFT JOIN families old ON old.root = l.root
                 LEFT JOIN chosen root ON root.id = old.root LEFT JOIN packs opened ON opened.key = root.pack)
               GROUP BY pack) ON pack = p.key";
        let mut query = prepared(&self.database, sql)?;
        let bytes = |row: &rusqlite::Row<'_>, column| row.get(column).map(i64::cast_unsigned);
        let rows = query.query_map([], |row| {
            Ok(PackBalance {
                key: row.get(0)?,
                size: bytes(row, 1)?,
                fate: fate(row.get(2)?),
                live: bytes(row, 3)?,
                roots: bytes(row, 4)?,
                sources: bytes(row, 5)?,
                links: bytes(row, 6)?,
                replaced: bytes(row, 7)?,
                burden: bytes(row, 8)?,
            })
        });
        rows.and_then(Iterator::collect).map_err(failed("read"))
    }
}

fn fate(number: u8) -> Fate {
    [Fate::Stays, Fate::Dead, Fate::Opened].into_iter().find(|fate| *fate as u8 == number).unwrap_or_default()
}
