//! The index: blob id → places. Derived from the packs' footers; losing it costs time, never data.
//!
//! Invariant: every row is a fact about an immutable pack ("blob X is record n of pack P"), and packs are keyed by
//! eight bytes of their own id, never by a number that could be given twice. So a row is true in whichever older copy
//! of the file it is found; rows of packs that are gone are passed over; rows that are missing cost a second look at
//! the footers. What a loss of power tore may say anything, so an index of an earlier boot is begun anew. Whoever
//! deletes packs reads footers and does not ask the index (upkeep::gc).

mod file;
mod kept;
mod rows;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use rusqlite::{Connection, ErrorCode, params};

use self::file::{PATIENCE, distrust, open_or_begin, prepare, remove_files};
pub use self::kept::{LossMark, Question};
use self::rows::{Left, Row, SmallestRows, key_of};
use super::packs::PackFile;
use crate::error::{Error, Result};
use crate::format::pack::Footer;
use crate::id::{BlobId, BlobPrefix, PackId};

/// Where a blob is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RecordPlace {
    /// The pack.
    pub pack: PackFile,
    /// Number of the record in the pack's footer.
    pub record: u32,
}

/// The index of one repository, shared by all threads of this process.
#[derive(Debug)]
pub struct Index {
    inner: Mutex<Inner>,
    /// The file; a private one has none.
    path: Option<PathBuf>,
}

/// What messages call an index without a file of its own.
const PRIVATE: &str = "(temporary index)";

#[derive(Debug)]
struct Inner {
    connection: Connection,
    /// The packs that exist and whose rows are complete.
    packs: HashMap<i64, PackFile>,
    /// How often this process found packs or blobs lost.
    losses: u64,
}

impl Index {
    /// Opens the index file, beginning a new one where it is missing or no index.
    ///
    /// # Errors
    /// [`Error::Busy`] if another process has been opening it for seconds; [`Error::Sqlite`] if it can neither be
    /// opened nor made.
    pub fn open(path: &Path) -> Result<Self> {
        let connection = open_or_begin(path, PATIENCE)?;
        Ok(Self {
            inner: Mutex::new(Inner { connection, packs: HashMap::new(), losses: 0 }),
            path: Some(path.to_path_buf()),
        })
    }

    /// An index that lives in a private temporary file, for repositories that cannot be written.
    ///
    /// # Errors
    /// [`Error::Sqlite`] if no temporary file can be made.
    pub fn open_private() -> Result<Self> {
        let named = Path::new(PRIVATE);
        let connection = Connection::open("").map_err(Error::sqlite("create", named))?;
        prepare(&connection).map_err(Error::sqlite("create", named))?;
        Ok(Self { inner: Mutex::new(Inner { connection, packs: HashMap::new(), losses: 0 }), path: None })
    }

    /// Removes the index file and its sidecars; whoever opens it next builds it from the packs.
    ///
    /// # Errors
    /// I/O errors.
    pub fn remove(path: &Path) -> Result<()> {
        remove_files(path)
    }

    /// Whether a pack's rows are its records: none missing, and none that `rows` ([`Index::rows`]) counts beside them.
    ///
    /// # Errors
    /// [`Error::Sqlite`] if the index cannot be read.
    pub fn agrees(&self, pack: &PackFile, footer: &Footer, rows: &HashMap<PackId, u64>) -> Result<bool> {
        if rows.get(&pack.id).copied().unwrap_or(0) != footer.records.len() as u64 {
            return Ok(false);
        }
        self.reading(|lookups| {
            for (record, known) in (0..).zip(&footer.records) {
                if !lookups.places(&known.id)?.contains(&RecordPlace { pack: *pack, record }) {
                    return Ok(false);
                }
            }
            Ok(true)
        })
    }

    /// How many rows there are of each pack that exists.
    ///
    /// # Errors
    /// [`Error::Sqlite`] if the index cannot be read.
    pub fn rows(&self) -> Result<HashMap<PackId, u64>> {
        let rows = self.inner.lock().rows();
        rows.map_err(|cause| self.unusable(cause, "read"))
    }

    /// Learns which packs exist and returns those whose footers must be adopted.
    ///
    /// # Errors
    /// [`Error::Sqlite`] if the index cannot be read; the caller begins a new one.
    pub fn reconcile(&self, existing: &[PackFile]) -> Result<Vec<PackFile>> {
        let mut inner = self.inner.lock();
        let known = inner.known_packs().map_err(self.failed("read"))?;
        let adopted = |pack: &PackFile| known.get(&key_of(&pack.id)) == Some(pack);
        let present = existing.iter().filter(|pack| adopted(pack)).count();
        if present < known.len() {
            // A pack is gone: what was whole may not be so any more.
            inner.losses += 1;
            inner.connection.execute("DELETE FROM whole", []).map_err(self.failed("write"))?;
        }
        inner.packs = existing.iter().filter(|pack| adopted(pack)).map(|pack| (key_of(&pack.id), *pack)).collect();
        Ok(existing.iter().filter(|pack| !adopted(pack)).copied().collect())
    }

    /// The packs that were indexed and are not among these: somebody took them away.
    ///
    /// # Errors
    /// [`Error::Sqlite`] if the index cannot be read.
    pub fn vanished(&self, existing: &[PackFile]) -> Result<Vec<PackId>> {
        let known = self.inner.lock().known_packs().map_err(self.failed("read"))?;
        let existing: HashSet<PackId> = existing.iter().map(|pack| pack.id).collect();
        Ok(known.into_values().map(|pack| pack.id).filter(|id| !existing.contains(id)).collect())
    }

    /// Adds the rows of a pack, all or none.
    ///
    /// # Errors
    /// [`Error::Sqlite`]; the pack is then unknown to the index, and a later opening tries again.
    pub fn adopt(&self, pack: &PackFile, footer: &Footer) -> Result<()> {
        let mut rows = SmallestRows::new();
        rows.offer(&pack.id, footer);
        // A pack of the format's limit fits into one pass.
        rows.end_pass(|rows, _| self.add(rows, &[*pack]))
    }

    /// Adds the rows of a pack that was just written, read back and published: its blobs are trusted from now on.
    ///
    /// # Errors
    /// As [`Index::adopt`].
    pub fn adopt_new(&self, pack: &PackFile, footer: &Footer) -> Result<()> {
        self.adopt(pack, footer)?;
        let mut inner = self.inner.lock();
        inner.trust(footer).map_err(self.failed("write"))
    }

    /// Adds the rows of many packs. `footer_of` may be asked several times for each; it returns `None` for a pack that
    /// cannot be read, which stays unknown.
    ///
    /// # Errors
    /// Those of `footer_of`; [`Error::Sqlite`]. The packs are then unknown to the index.
    pub fn adopt_all(
        &self,
        packs: &[PackFile],
        mut footer_of: impl FnMut(&PackFile) -> Result<Option<Footer>>,
    ) -> Result<()> {
        let mut rows = SmallestRows::new();
        let mut readable = packs.to_vec();
        loop {
            let mut read = Vec::with_capacity(readable.len());
            for pack in readable {
                if let Some(footer) = footer_of(&pack)? {
                    rows.offer(&pack.id, &footer);
                    read.push(pack);
                }
            }
            readable = read;
            let left = rows.end_pass(|rows, left| {
                // Only when all its rows are there is a pack known.
                let complete = if left == Left::None { readable.as_slice() } else { &[] };
                self.add(rows, complete).map(|()| left)
            })?;
            if left == Left::None {
                return Ok(());
            }
        }
    }

    /// Adds rows, and packs all of whose rows are there then.
    fn add(&self, rows: &[Row], complete: &[PackFile]) -> Result<()> {
        let mut inner = self.inner.lock();
        inner.insert(rows, complete).map_err(|cause| self.unusable(cause, "write"))?;
        inner.packs.extend(complete.iter().map(|pack| (key_of(&pack.id), *pack)));
        Ok(())
    }

    /// Removes the rows of packs that were deleted.
    ///
    /// # Errors
    /// [`Error::Sqlite`]; rows that stay are passed over, since their packs are gone.
    pub fn forget(&self, packs: &[PackId]) -> Result<()> {
        let mut inner = self.inner.lock();
        for pack in packs {
            inner.packs.remove(&key_of(pack));
        }
        inner.delete(packs).map_err(self.failed("write"))
    }

    /// The places of a blob in packs that exist.
    ///
    /// # Errors
    /// [`Error::Sqlite`] if the index cannot be read.
    pub fn places(&self, id: &BlobId) -> Result<Vec<RecordPlace>> {
        let places = self.inner.lock().places(id);
        places.map_err(|cause| self.unusable(cause, "read"))
    }

    /// The first place of each of these blobs, if it has one.
    ///
    /// # Errors
    /// [`Error::Sqlite`] if the index cannot be read.
    pub fn first_places<'b>(&self, ids: impl IntoIterator<Item = &'b BlobId>) -> Result<Vec<Option<RecordPlace>>> {
        self.reading(|lookups| ids.into_iter().map(|id| Ok(lookups.places(id)?.into_iter().next())).collect())
    }

    /// Whether a pack that exists holds the blob, and nobody found it unreadable since it was last stored.
    ///
    /// # Errors
    /// [`Error::Sqlite`] if the index cannot be read.
    pub fn contains(&self, id: &BlobId) -> Result<bool> {
        self.reading(|index| index.contains(id))
    }

    /// The same of many blobs, in one read of the file.
    ///
    /// # Errors
    /// As [`Index::contains`].
    pub fn contains_all(&self, ids: &[BlobId]) -> Result<Vec<bool>> {
        self.reading(|index| ids.iter().map(|id| index.contains(id)).collect())
    }

    /// Records that these blobs cannot be read although packs hold them: what is put again is then stored again.
    /// Storing a blob ends it.
    ///
    /// # Errors
    /// [`Error::Sqlite`] if it cannot be written; the blobs then count as there until they are met again.
    pub fn distrust(&self, blobs: &[BlobPrefix]) -> Result<()> {
        let mut inner = self.inner.lock();
        inner.distrust(blobs).map_err(self.failed("write"))
    }

    /// The ids that begin with `prefix`, at most `limit`.
    ///
    /// # Errors
    /// [`Error::Sqlite`] if the index cannot be read.
    pub fn with_prefix(&self, prefix: &BlobPrefix, limit: usize) -> Result<Vec<BlobId>> {
        let found = self.inner.lock().with_prefix(prefix, limit);
        found.map_err(|cause| self.unusable(cause, "read"))
    }

    /// Looks several things up in one read of the file, which is then locked once and not for each of them.
    ///
    /// # Errors
    /// Those of `look`; [`Error::Sqlite`] if the index cannot be read.
    pub(super) fn reading<T>(&self, look: impl FnOnce(&Lookups<'_>) -> Result<T>) -> Result<T> {
        let inner = self.inner.lock();
        let read = inner.connection.unchecked_transaction().map_err(|cause| self.unusable(cause, "read"))?;
        let found = look(&Lookups { index: self, inner: &inner })?;
        read.finish().map_err(|cause| self.unusable(cause, "read"))?;
        Ok(found)
    }

    /// The packs that exist and are indexed.
    pub fn packs(&self) -> Vec<PackFile> {
        let mut packs: Vec<_> = self.inner.lock().packs.values().copied().collect();
        packs.sort_by_key(|pack| pack.id);
        packs
    }

    /// Whether this pack is indexed.
    pub fn has_pack(&self, id: &PackId) -> bool {
        self.inner.lock().packs.get(&key_of(id)).is_some_and(|pack| pack.id == *id)
    }

    /// What a failure means. A damaged file is removed: the next command builds it again from the packs.
    fn unusable(&self, cause: rusqlite::Error, action: &'static str) -> Error {
        let damaged = matches!(cause.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase));
        match &self.path {
            Some(path) if damaged && remove_files(path).is_ok() => Error::Failed(format!(
                "the index {} was damaged and has been removed; the next command builds it anew from the packs (run the command again if this one failed)",
                path.display()
            )),
            _ => self.failed(action)(cause),
        }
    }

    fn failed(&self, action: &'static str) -> impl Fn(rusqlite::Error) -> Error {
        let path = self.path.clone().unwrap_or_else(|| PathBuf::from(PRIVATE));
        move |source| Error::Sqlite { action, path: path.clone(), source }
    }
}

/// The only blob whose id begins with a prefix.
pub(super) struct OnlyMatch {
    pub(super) id: BlobId,
    /// Its places in packs that exist.
    pub(super) places: Vec<RecordPlace>,
}

/// Lookups of one read.
pub(super) struct Lookups<'i> {
    index: &'i Index,
    inner: &'i Inner,
}

impl Lookups<'_> {
    /// As [`Index::places`].
    pub(super) fn places(&self, id: &BlobId) -> Result<Vec<RecordPlace>> {
        self.inner.places(id).map_err(|cause| self.index.unusable(cause, "read"))
    }

    /// As [`Index::contains`].
    fn contains(&self, id: &BlobId) -> Result<bool> {
        let contains =
            self.inner.places(id).and_then(|places| Ok(!places.is_empty() && !self.inner.is_distrusted(id)?));
        contains.map_err(|cause| self.index.unusable(cause, "read"))
    }

    /// As [`Index::contains`], for any blob whose id begins with this prefix; of very many, some are looked at.
    pub(super) fn contains_any(&self, prefix: &BlobPrefix, limit: usize) -> Result<bool> {
        for id in self.with_prefix(prefix, limit)? {
            let contains =
                self.inner.places(&id).and_then(|places| Ok(!places.is_empty() && !self.inner.is_distrusted(&id)?));
            if contains.map_err(|cause| self.index.unusable(cause, "read"))? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The blob whose id begins with this prefix; `None` if there is none, or more than one.
    pub(super) fn only_one_with_prefix(&self, prefix: &BlobPrefix) -> Result<Option<OnlyMatch>> {
        self.inner.only_one_with_prefix(prefix).map_err(|cause| self.index.unusable(cause, "read"))
    }

    /// As [`Index::with_prefix`].
    pub(super) fn with_prefix(&self, prefix: &BlobPrefix, limit: usize) -> Result<Vec<BlobId>> {
        self.inner.with_prefix(prefix, limit).map_err(|cause| self.index.unusable(cause, "read"))
    }
}

impl Inner {
    fn known_packs(&self) -> rusqlite::Result<HashMap<i64, PackFile>> {
        let mut query = self.connection.prepare("SELECT key, id, size FROM packs")?;
        let rows = query.query_map([], |row| {
            let pack = PackFile { id: PackId::from_bytes(row.get(1)?), size: row.get::<_, i64>(2)?.unsigned_abs() };
            Ok((row.get(0)?, pack))
        })?;
        rows.collect()
    }

    fn insert(&mut self, rows: &[Row], complete: &[PackFile]) -> rusqlite::Result<()> {
        let transaction = self.connection.transaction()?;
        {
            let mut insert = transaction.prepare_cached("INSERT OR IGNORE INTO blobs VALUES(?, ?, ?)")?;
            for row in rows {
                insert.execute(params![row.id, row.pack, row.record])?;
            }
            let mut insert = transaction.prepare_cached("INSERT OR REPLACE INTO packs VALUES(?, ?, ?)")?;
            for pack in complete {
                insert.execute(params![key_of(&pack.id), pack.id.as_bytes(), pack.size.cast_signed()])?;
            }
        }
        transaction.commit()
    }

    fn delete(&mut self, packs: &[PackId]) -> rusqlite::Result<()> {
        self.losses += 1;
        let transaction = self.connection.transaction()?;
        for pack in packs {
            transaction.execute("DELETE FROM packs WHERE key = ?", [key_of(pack)])?;
        }
        transaction.execute("DELETE FROM blobs WHERE pack NOT IN (SELECT key FROM packs)", [])?;
        transaction.execute("DELETE FROM whole", [])?;
        transaction.commit()
    }

    fn rows(&self) -> rusqlite::Result<HashMap<PackId, u64>> {
        let mut query = self.connection.prepare("SELECT pack, count(*) FROM blobs GROUP BY pack")?;
        let counts = query.query_map([], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?.unsigned_abs())))?;
        let mut rows = HashMap::new();
        for count in counts {
            let (key, count) = count?;
            rows.extend(self.packs.get(&key).map(|pack| (pack.id, count)));
        }
        Ok(rows)
    }

    fn places(&self, id: &BlobId) -> rusqlite::Result<Vec<RecordPlace>> {
        let mut query = self.connection.prepare_cached("SELECT pack, record FROM blobs WHERE id = ?")?;
        let rows = query.query_map([id.as_bytes()], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, u32>(1)?)))?;
        let mut places = Vec::new();
        for row in rows {
            let (key, record) = row?;
            if let Some(&pack) = self.packs.get(&key) {
                places.push(RecordPlace { pack, record });
            }
        }
        Ok(places)
    }

    fn is_distrusted(&self, id: &BlobId) -> rusqlite::Result<bool> {
        let mut query = self.connection.prepare_cached("SELECT 1 FROM distrusted WHERE prefix = ?")?;
        query.exists([id.prefix().as_bytes()])
    }

    fn distrust(&mut self, blobs: &[BlobPrefix]) -> rusqlite::Result<()> {
        self.losses += 1;
        let transaction = self.connection.transaction()?;
        distrust(&transaction, blobs.iter().map(BlobPrefix::as_bytes))?;
        // What was whole may hold them.
        transaction.execute("DELETE FROM whole", [])?;
        transaction.commit()
    }

    fn trust(&mut self, footer: &Footer) -> rusqlite::Result<()> {
        if !self.connection.prepare_cached("SELECT 1 FROM distrusted LIMIT 1")?.exists([])? {
            return Ok(());
        }
        let transaction = self.connection.transaction()?;
        {
            let mut delete = transaction.prepare_cached("DELETE FROM distrusted WHERE prefix = ?")?;
            for record in &footer.records {
                delete.execute([record.id.prefix().as_bytes()])?;
            }
        }
        transaction.commit()
    }

    fn only_one_with_prefix(&self, prefix: &BlobPrefix) -> rusqlite::Result<Option<OnlyMatch>> {
        let (low, high) = bounds(prefix);
        let mut query = self
            .connection
            .prepare_cached("SELECT id, pack, record FROM blobs WHERE id BETWEEN ? AND ? ORDER BY id")?;
        let mut rows = query.query(params![low, high])?;
        let mut found: Option<OnlyMatch> = None;
        while let Some(row) = rows.next()? {
            let id = BlobId::from_bytes(row.get(0)?);
            let place = self.packs.get(&row.get(1)?).map(|&pack| row.get(2).map(|record| RecordPlace { pack, record }));
            match &mut found {
                Some(known) if known.id != id => return Ok(None),
                Some(known) => known.places.extend(place.transpose()?),
                None => found = Some(OnlyMatch { id, places: place.transpose()?.into_iter().collect() }),
            }
        }
        Ok(found)
    }

    fn with_prefix(&self, prefix: &BlobPrefix, limit: usize) -> rusqlite::Result<Vec<BlobId>> {
        let (low, high) = bounds(prefix);
        let mut query = self
            .connection
            .prepare_cached("SELECT DISTINCT id FROM blobs WHERE id BETWEEN ? AND ? ORDER BY id LIMIT ?")?;
        let rows = query.query_map(params![low, high, limit as i64], |row| Ok(BlobId::from_bytes(row.get(0)?)))?;
        rows.collect()
    }
}

/// The first and the last id that begin with a prefix.
fn bounds(prefix: &BlobPrefix) -> ([u8; BlobId::LEN], [u8; BlobId::LEN]) {
    let (mut low, mut high) = ([0; BlobId::LEN], [0xff; BlobId::LEN]);
    low.iter_mut().zip(prefix.as_bytes()).for_each(|(to, from)| *to = *from);
    high.iter_mut().zip(prefix.as_bytes()).for_each(|(to, from)| *to = *from);
    (low, high)
}
