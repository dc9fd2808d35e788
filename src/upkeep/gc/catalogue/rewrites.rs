//! Planning what is stored anew: which blobs survive beside those that snapshots reach, and on which bases.
//!
//! A blob that no snapshot reaches survives where it costs nothing: in a pack that stays, with bases that survive. All
//! others are dropped, and what was built on them is re-based: onto the nearest survivor along first bases, or onto an
//! heir, a survivor that descends from the dropped blob as well; the first heir itself is stored whole where there is
//! no survivor. Invariants: links are worked off in their order, and a new base always comes before what is built on
//! it, so there is no cycle; a new base needs no longer a chain than the one that it replaces, so limits stay kept
//! (format-spec.md §12).

use rusqlite::{OptionalExtension, Row, params};

use super::choice::DeltaPlace;
use super::links::ChainLength;
use super::{Catalogue, Fate};
use crate::error::Result;
use crate::format::limits::CHAIN_DEPTH;
use crate::format::pack::BlobKind;
use crate::id::{BlobId, PackId};
use crate::store::index;
use crate::store::packs::PackFile;
use crate::store::temporary::{failed, prepared};

/// With what a blob is stored anew, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(in crate::upkeep::gc) enum Group {
    /// Chunks of files that are expected to be whole.
    Bulk = 0,
    /// What changed from snapshot to snapshot: deltas, and whole chunks that stood with them.
    Increment = 1,
    /// Tables and list nodes.
    Metadata = 2,
}

/// Why a blob is stored anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Reason {
    /// Its pack goes; the record is copied as it is.
    Moved = 0,
    /// A base of its record goes: it is stored on others, or whole.
    Rebased = 1,
}

/// A blob to be stored anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::upkeep::gc) struct Rewrite {
    pub(in crate::upkeep::gc) id: BlobId,
    pub(in crate::upkeep::gc) kind: BlobKind,
    pub(in crate::upkeep::gc) group: Group,
    /// The record chosen so far, and the key of its pack.
    pub(in crate::upkeep::gc) place: index::RecordPlace,
    pub(in crate::upkeep::gc) pack: i64,
}

/// What takes the place of one of a record's bases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::upkeep::gc) struct Replacement {
    /// Number of the base in the record.
    pub(in crate::upkeep::gc) position: u32,
    /// Another base; `None` where there is none.
    pub(in crate::upkeep::gc) base: Option<BlobId>,
}

/// A needed link with what its record is like.
struct NeededLink {
    number: i64,
    id: BlobId,
    root: Option<BlobId>,
    length: ChainLength,
    kept: bool,
    opened: bool,
    delta: DeltaPlace,
    stored: u64,
    bytes: u64,
    group: Group,
}

/// The way from a dropped blob along first bases to what may be built upon instead.
struct Way {
    base: Option<BlobId>,
    dropped: Vec<BlobId>,
}

impl Catalogue {
    /// Plans what is stored anew, so that the opened packs can go; to be called after fates were decided, and again if
    /// they were decided otherwise.
    pub(in crate::upkeep::gc) fn plan_rewrites(&mut self) -> Result<()> {
        self.together(|catalogue| {
            catalogue.forget_plan()?;
            catalogue.keep_whole_records()?;
            let mut last = 0;
            while let Some(link) = catalogue.needed_link_after(last)? {
                last = link.number;
                catalogue.plan_link(&link)?;
            }
            catalogue.copy_whole_records()
        })
    }

    /// Makes a fresh start: of what is needed, only that is kept which a snapshot reaches.
    pub(super) fn forget_plan(&self) -> Result<()> {
        self.execute("DELETE FROM rewrites")?;
        self.execute("DELETE FROM replaced")?;
        self.execute("DELETE FROM heirs")?;
        self.execute("UPDATE needed SET kept = id IN (SELECT id FROM reached)")
    }

    /// Of whole records that no snapshot reaches, those survive that cost nothing, and those that no newer version can
    /// stand in for.
    fn keep_whole_records(&self) -> Result<()> {
        self.execute(
            "UPDATE needed SET kept = 1 WHERE NOT kept AND EXISTS(
               SELECT 1 FROM chosen c JOIN packs p ON p.key = c.pack LEFT JOIN families f ON f.root = c.id
               WHERE c.id = needed.id AND c.whole AND (p.fate <> 2 OR COALESCE(f.heirs, 0) = 0))",
        )
    }

    fn plan_link(&self, link: &NeededLink) -> Result<()> {
        let bases = self.bases_by_position(&link.delta)?;
        let mut stands = true;
        for base in bases.iter().flatten() {
            stands = stands && self.is_kept(base)?;
        }
        match (link.kept, link.opened, stands) {
            (true, false, true) => Ok(()),
            (true, true, true) => self.add_rewrite(link, link.group, Reason::Moved, link.stored, link.length),
            (true, _, false) => self.rebase(link, bases),
            (false, false, true) => self.keep(&link.id),
            (false, ..) => Ok(()),
        }
    }

    /// Plans a record on other bases.
    fn rebase(&self, link: &NeededLink, bases: Vec<Vec<BlobId>>) -> Result<()> {
        let (mut lengths, mut first, mut bytes) = (Vec::new(), None, link.stored);
        for (position, matches) in (0..).zip(&bases) {
            let way = match matches.as_slice() {
                [base] => self.way_from(base)?,
                _ => Way { base: None, dropped: Vec::new() },
            };
            if let Some(base) = &way.base {
                lengths.push(self.new_length(base)?);
            }
            if matches.first() != way.base.as_ref() {
                self.replace(&link.id, Replacement { position, base: way.base })?;
            }
            for dropped in &way.dropped {
                bytes += self.stored(dropped)?;
                if position == 0 {
                    self.add_heir(dropped, &link.id)?;
                }
            }
            if position == 0 {
                first = way.base;
            }
        }
        let whole = self.stored_whole(link)?;
        let estimate = first.map_or(whole, |_| bytes.min(whole));
        let length = if lengths.is_empty() { ChainLength::WHOLE } else { ChainLength::after(lengths) };
        let group = match link.group {
            Group::Increment if length == ChainLength::WHOLE => Group::Bulk,
            group => group,
        };
        self.add_rewrite(link, group, Reason::Rebased, estimate, length)
    }

    /// The nearest survivor on the way along first bases, or an heir of what lies on the way.
    fn way_from(&self, base: &BlobId) -> Result<Way> {
        let longest = self.chain_length(base)?;
        let (mut at, mut dropped) = (*base, Vec::new());
        for _ in 0..=CHAIN_DEPTH {
            if self.is_kept(&at)? {
                return Ok(Way { base: Some(at), dropped });
            }
            if let Some(heir) = self.heir_of(&at)?
                && self.new_length(&heir)?.replaces(&longest)
            {
                return Ok(Way { base: Some(heir), dropped });
            }
            dropped.push(at);
            match self.link(&at)?.and_then(|link| link.first) {
                Some(first) => at = first,
                None => break,
            }
        }
        Ok(Way { base: None, dropped })
    }

    fn replace(&self, id: &BlobId, replacement: Replacement) -> Result<()> {
        let base = replacement.base.map(|base| *base.as_bytes());
        prepared(&self.database, "INSERT INTO replaced VALUES(?, ?, ?)")?
            .execute(params![id.as_bytes(), replacement.position, base])
            .map(|_| ())
            .map_err(failed("write"))
    }

    fn add_heir(&self, dropped: &BlobId, heir: &BlobId) -> Result<()> {
        prepared(&self.database, "INSERT OR IGNORE INTO heirs VALUES(?, ?)")?
            .execute([dropped.as_bytes(), heir.as_bytes()])
            .map(|_| ())
            .map_err(failed("write"))
    }

    fn add_rewrite(
        &self,
        link: &NeededLink,
        group: Group,
        reason: Reason,
        estimate: u64,
        length: ChainLength,
    ) -> Result<()> {
        let row = params![
            link.id.as_bytes(),
            group as u8,
            reason as u8,
            estimate.cast_signed(),
            length.depth,
            length.records
        ];
        prepared(&self.database, "INSERT INTO rewrites VALUES(?, ?, ?, ?, ?, ?)")?
            .execute(row)
            .map(|_| ())
            .map_err(failed("write"))
    }

    fn copy_whole_records(&self) -> Result<()> {
        self.execute(
            "INSERT INTO rewrites SELECT n.id, CASE WHEN r.node OR COALESCE(m.metadata, 0) THEN 2 ELSE r.mixed END, 0, r.stored, 0, 1
             FROM packs p JOIN chosen c ON c.pack = p.key AND c.whole JOIN needed n ON n.id = c.id AND n.kept
             JOIN records r ON r.id = c.id AND r.pack = c.pack AND r.number = c.number
             LEFT JOIN reached m ON m.id = c.id WHERE p.fate = 2",
        )
    }

    /// Bytes that storing anew takes, about.
    pub(in crate::upkeep::gc) fn rewritten_bytes(&self) -> Result<u64> {
        self.sum("SELECT COALESCE(SUM(estimate), 0) FROM rewrites")
    }

    /// Bytes of these that go to records on other bases, or whole ones, because a base goes.
    pub(in crate::upkeep::gc) fn rebased_bytes(&self) -> Result<u64> {
        self.sum("SELECT COALESCE(SUM(estimate), 0) FROM rewrites WHERE rebased")
    }

    /// The bytes that such records really took, in packs that were added after the one with this key.
    pub(in crate::upkeep::gc) fn rebased_bytes_after(&self, last: i64) -> Result<u64> {
        let sql = "SELECT COALESCE(SUM(r.stored), 0) FROM rewrites w JOIN records r ON r.id = w.id AND r.pack > ? WHERE w.rebased";
        let bytes: i64 = prepared(&self.database, sql)?.query_row([last], |row| row.get(0)).map_err(failed("read"))?;
        Ok(bytes.cast_unsigned())
    }

    fn sum(&self, sql: &str) -> Result<u64> {
        let bytes: i64 = self.database.query_row(sql, [], |row| row.get(0)).map_err(failed("read"))?;
        Ok(bytes.cast_unsigned())
    }

    /// Calls `take` with each blob to be stored anew: by groups, and within one in the order in which the whole records
    /// of families stand in packs: that is cheap to read, and versions of one place compress well together.
    pub(in crate::upkeep::gc) fn each_rewrite(&self, mut take: impl FnMut(Rewrite) -> Result<()>) -> Result<()> {
        let sql = "SELECT w.id, r.node, w.part, c.pack, p.id, p.size, c.number
             FROM rewrites w JOIN chosen c ON c.id = w.id JOIN packs p ON p.key = c.pack
             JOIN records r ON r.id = c.id AND r.pack = c.pack AND r.number = c.number
             LEFT JOIN links l ON l.id = w.id LEFT JOIN chosen root ON root.id = l.root
             ORDER BY w.part, COALESCE(root.pack, c.pack), COALESCE(root.number, c.number), l.number";
        let mut query = prepared(&self.database, sql)?;
        let mut rows = query.query([]).map_err(failed("read"))?;
        while let Some(row) = rows.next().map_err(failed("read"))? {
            let rewrite = || {
                let kind = if row.get(1)? { BlobKind::ListNode } else { BlobKind::Chunk };
                let id = PackId::from_bytes(row.get(4)?);
                let pack = PackFile { id, size: row.get::<_, i64>(5)?.cast_unsigned() };
                let place = index::RecordPlace { pack, record: row.get(6)? };
                Ok(Rewrite {
                    id: BlobId::from_bytes(row.get(0)?),
                    kind,
                    group: group(row, 2)?,
                    place,
                    pack: row.get(3)?,
                })
            };
            take(rewrite().map_err(failed("read"))?)?;
        }
        Ok(())
    }

    /// What takes the place of bases of a blob's record.
    pub(in crate::upkeep::gc) fn replacements(&self, id: &BlobId) -> Result<Vec<Replacement>> {
        let mut query = prepared(&self.database, "SELECT position, base FROM replaced WHERE id = ?")?;
        let rows = query.query_map([id.as_bytes()], |row| {
            let base = row.get::<_, Option<[u8; BlobId::LEN]>>(1)?.map(BlobId::from_bytes);
            Ok(Replacement { position: row.get(0)?, base })
        });
        rows.and_then(Iterator::collect).map_err(failed("read"))
    }

    fn needed_link_after(&self, number: i64) -> Result<Option<NeededLink>> {
        let sql = "SELECT l.number, l.id, l.root, l.depth, l.records, n.kept, p.fate, c.pack, c.number, r.stored, r.length,
               CASE WHEN r.node OR NOT r.portable OR COALESCE(m.metadata, 0) THEN 2 ELSE 1 END
             FROM links l JOIN needed n ON n.id = l.id JOIN chosen c ON c.id = l.id JOIN packs p ON p.key = c.pack
             JOIN records r ON r.id = c.id AND r.pack = c.pack AND r.number = c.number LEFT JOIN reached m ON m.id = l.id
             WHERE l.number > ? ORDER BY l.number LIMIT 1";
        let read = |row: &Row<'_>| {
            Ok(NeededLink {
                number: row.get(0)?,
                id: BlobId::from_bytes(row.get(1)?),
                root: row.get::<_, Option<[u8; BlobId::LEN]>>(2)?.map(BlobId::from_bytes),
                length: ChainLength { depth: row.get(3)?, records: row.get(4)? },
                kept: row.get(5)?,
                opened: row.get::<_, u8>(6)? == Fate::Opened as u8,
                delta: DeltaPlace { pack: row.get(7)?, number: row.get(8)? },
                stored: row.get::<_, i64>(9)?.cast_unsigned(),
                bytes: row.get::<_, i64>(10)?.cast_unsigned(),
                group: group(row, 11)?,
            })
        };
        prepared(&self.database, sql)?.query_row([number], read).optional().map_err(failed("read"))
    }

    fn bases_by_position(&self, delta: &DeltaPlace) -> Result<Vec<Vec<BlobId>>> {
        self.prefixes_of(delta)?.iter().map(|prefix| self.with_prefix(prefix)).collect()
    }

    fn is_kept(&self, id: &BlobId) -> Result<bool> {
        let sql = "SELECT 1 FROM needed WHERE id = ? AND kept";
        prepared(&self.database, sql)?.exists([id.as_bytes()]).map_err(failed("read"))
    }

    fn keep(&self, id: &BlobId) -> Result<()> {
        let sql = "UPDATE needed SET kept = 1 WHERE id = ?";
        prepared(&self.database, sql)?.execute([id.as_bytes()]).map(|_| ()).map_err(failed("write"))
    }

    fn heir_of(&self, id: &BlobId) -> Result<Option<BlobId>> {
        prepared(&self.database, "SELECT heir FROM heirs WHERE id = ?")?
            .query_row([id.as_bytes()], |row| Ok(BlobId::from_bytes(row.get(0)?)))
            .optional()
            .map_err(failed("read"))
    }

    /// The length of a survivor's chain after everything was stored anew, at most.
    fn new_length(&self, id: &BlobId) -> Result<ChainLength> {
        let planned = prepared(&self.database, "SELECT depth, records FROM rewrites WHERE id = ?")?
            .query_row([id.as_bytes()], |row| Ok(ChainLength { depth: row.get(0)?, records: row.get(1)? }))
            .optional()
            .map_err(failed("read"))?;
        planned.map_or_else(|| self.chain_length(id), Ok)
    }

    /// Bytes that the chosen record of a blob takes.
    fn stored(&self, id: &BlobId) -> Result<u64> {
        let sql = "SELECT r.stored FROM chosen c JOIN records r ON r.id = c.id AND r.pack = c.pack AND r.number = c.number WHERE c.id = ?";
        let bytes: Option<i64> = prepared(&self.database, sql)?
            .query_row([id.as_bytes()], |row| row.get(0))
            .optional()
            .map_err(failed("read"))?;
        Ok(bytes.unwrap_or_default().cast_unsigned())
    }

    /// Bytes that the blob would take as a whole record: as many as the root of its family, as far as can be told.
    fn stored_whole(&self, link: &NeededLink) -> Result<u64> {
        match &link.root {
            Some(root) => self.stored(root),
            None => Ok(link.bytes),
        }
    }
}

fn group(row: &Row<'_>, column: usize) -> rusqlite::Result<Group> {
    Ok(match row.get::<_, u8>(column)? {
        0 => Group::Bulk,
        1 => Group::Increment,
        _ => Group::Metadata,
    })
}
