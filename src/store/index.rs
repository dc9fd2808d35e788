//! The index: blob id → places. Derived from the packs' footers; losing it costs time, never data.
//!
//! Invariant: every row is a fact about an immutable pack ("blob X is record n of pack P"), and packs are keyed by eight
//! bytes of their own id, never by a number that could be given twice. So a row is true in whichever older copy of the
//! file, or mixture of old pages, it is found; rows of packs that are gone are passed over; rows that are missing cost a
//! second look at the footers. Whoever deletes packs reads footers and does not ask the index (upkeep::gc).

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OptionalExtension, Transaction, TransactionBehavior, params};

use super::packs::PackFile;
use crate::disk::durable;
use crate::error::{Error, Result};
use crate::format::codec;
use crate::format::content::Content;
use crate::format::manifest::Verdict;
use crate::format::pack::Footer;
use crate::id::{BlobId, BlobPrefix, PackId};

const SCHEMA_VERSION: i64 = 2;
const SCHEMA: &str = "
CREATE TABLE packs(key INTEGER PRIMARY KEY, id BLOB NOT NULL, size INTEGER NOT NULL) STRICT;
CREATE TABLE blobs(id BLOB NOT NULL, pack INTEGER NOT NULL, record INTEGER NOT NULL, PRIMARY KEY(id, pack, record)) STRICT, WITHOUT ROWID;
CREATE TABLE verdicts(content BLOB PRIMARY KEY, verdict BLOB NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE whole(content BLOB PRIMARY KEY) STRICT, WITHOUT ROWID;
PRAGMA user_version = 2;";

/// Where a blob is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Place {
    /// The pack.
    pub pack: PackFile,
    /// Number of the record in the pack's footer.
    pub record: u32,
}

/// What a kept verdict answers about a content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// Whether the image passes SQLite's integrity check.
    Integrity,
    /// Whether the file is JSON.
    Json,
}

impl Question {
    /// The key of the answer: no encoded content is the beginning of another one.
    fn key(self, content: &Content) -> Result<Vec<u8>> {
        let mut key = codec::encode(content).map_err(|fault| Error::Failed(format!("a content: {fault}")))?;
        if self == Self::Json {
            key.extend(b"json");
        }
        Ok(key)
    }
}

/// The index of one repository, shared by all threads of this process.
#[derive(Debug)]
pub struct Index {
    inner: Mutex<Inner>,
    /// The file; a private one has none.
    path: Option<PathBuf>,
}

#[derive(Debug)]
struct Inner {
    connection: Connection,
    /// The packs that exist and whose rows are complete.
    packs: HashMap<i64, PackFile>,
}

impl Index {
    /// Opens the index file, beginning a new one where it is missing or no index.
    ///
    /// # Errors
    /// [`Error::Sqlite`] if it can neither be opened nor made.
    pub fn open(path: &Path) -> Result<Self> {
        let connection = match open_checked(path)? {
            Ok(connection) => connection,
            Err(cause) if is_unusable(&cause) => {
                tracing::debug!(path = %path.display(), %cause, "the index is begun anew");
                remove_files(path)?;
                open_checked(path)?.map_err(Error::sqlite("create", path))?
            }
            Err(cause) => return Err(Error::sqlite("open", path)(cause)),
        };
        Ok(Self { inner: Mutex::new(Inner { connection, packs: HashMap::new() }), path: Some(path.to_path_buf()) })
    }

    /// An index that lives in a private temporary file, for repositories that cannot be written.
    ///
    /// # Errors
    /// [`Error::Sqlite`] if no temporary file can be made.
    pub fn open_private() -> Result<Self> {
        let named = Path::new("(temporary index)");
        let connection = Connection::open("").map_err(Error::sqlite("create", named))?;
        prepare(&connection).map_err(Error::sqlite("create", named))?;
        Ok(Self { inner: Mutex::new(Inner { connection, packs: HashMap::new() }), path: None })
    }

    /// Learns which packs exist and returns those whose footers must be adopted.
    ///
    /// # Errors
    /// [`Error::Sqlite`] if the index cannot be read; the caller begins a new one.
    pub fn reconcile(&self, existing: &[PackFile]) -> Result<Vec<PackFile>> {
        let mut inner = self.lock();
        let known = inner.known_packs().map_err(failed("read"))?;
        let adopted = |pack: &PackFile| known.get(&key_of(&pack.id)) == Some(pack);
        let present = existing.iter().filter(|pack| adopted(pack)).count();
        if present < known.len() {
            // A pack is gone: what was whole may not be so any more.
            inner.connection.execute("DELETE FROM whole", []).map_err(failed("write"))?;
        }
        inner.packs = existing.iter().filter(|pack| adopted(pack)).map(|pack| (key_of(&pack.id), *pack)).collect();
        Ok(existing.iter().filter(|pack| !adopted(pack)).copied().collect())
    }

    /// Adds the rows of a pack, all or none.
    ///
    /// # Errors
    /// [`Error::Sqlite`]; the pack is then unknown to the index, and a later opening tries again.
    pub fn adopt(&self, pack: &PackFile, footer: &Footer) -> Result<()> {
        let mut inner = self.lock();
        inner.insert(pack, footer).map_err(|cause| self.unusable(cause, "write"))?;
        inner.packs.insert(key_of(&pack.id), *pack);
        Ok(())
    }

    /// Removes the rows of packs that were deleted.
    ///
    /// # Errors
    /// [`Error::Sqlite`]; rows that stay are passed over, since their packs are gone.
    pub fn forget(&self, packs: &[PackId]) -> Result<()> {
        let mut inner = self.lock();
        for pack in packs {
            inner.packs.remove(&key_of(pack));
        }
        inner.delete(packs).map_err(failed("write"))
    }

    /// The places of a blob in packs that exist.
    ///
    /// # Errors
    /// [`Error::Sqlite`] if the index cannot be read.
    pub fn places(&self, id: &BlobId) -> Result<Vec<Place>> {
        let places = self.lock().places(id);
        places.map_err(|cause| self.unusable(cause, "read"))
    }

    /// Whether a pack that exists holds the blob.
    ///
    /// # Errors
    /// [`Error::Sqlite`] if the index cannot be read.
    pub fn contains(&self, id: &BlobId) -> Result<bool> {
        Ok(!self.places(id)?.is_empty())
    }

    /// The ids that begin with `prefix`, at most `limit`.
    ///
    /// # Errors
    /// [`Error::Sqlite`] if the index cannot be read.
    pub fn with_prefix(&self, prefix: &BlobPrefix, limit: usize) -> Result<Vec<BlobId>> {
        let found = self.lock().with_prefix(prefix, limit);
        found.map_err(|cause| self.unusable(cause, "read"))
    }

    /// Whether all blobs of this content were known to be in packs, none of which has gone since.
    pub fn is_whole(&self, content: &Content) -> bool {
        let Ok(key) = codec::encode(content) else { return false };
        let inner = self.lock();
        let query = inner.connection.prepare_cached("SELECT 1 FROM whole WHERE content = ?");
        query.and_then(|mut query| query.exists([key])).unwrap_or(false)
    }

    /// Records that all blobs of this content are known to be in packs.
    ///
    /// # Errors
    /// [`Error::Sqlite`] if it cannot be written; it is then found out again next time.
    pub fn mark_whole(&self, content: &Content) -> Result<()> {
        let key = codec::encode(content).map_err(|fault| Error::Failed(format!("a content: {fault}")))?;
        let inner = self.lock();
        inner.connection.execute("INSERT OR IGNORE INTO whole VALUES(?)", [key]).map(|_| ()).map_err(failed("write"))
    }

    /// The recorded verdict on this content.
    pub fn verdict(&self, question: Question, content: &Content) -> Option<Verdict> {
        let key = question.key(content).ok()?;
        let inner = self.lock();
        let mut query = inner.connection.prepare_cached("SELECT verdict FROM verdicts WHERE content = ?").ok()?;
        let bytes: Vec<u8> = query.query_row([key], |row| row.get(0)).optional().ok().flatten()?;
        codec::decode::<Verdict, 65_536>(&bytes).ok()
    }

    /// Records a verdict on a content, for as long as the index lives.
    ///
    /// # Errors
    /// [`Error::Sqlite`] if it cannot be written; it is then checked again next time.
    pub fn record_verdict(&self, question: Question, content: &Content, verdict: &Verdict) -> Result<()> {
        let key = question.key(content)?;
        let value = codec::encode(verdict).map_err(|fault| Error::Failed(format!("a verdict: {fault}")))?;
        let inner = self.lock();
        inner
            .connection
            .execute("INSERT OR REPLACE INTO verdicts VALUES(?, ?)", params![key, value])
            .map(|_| ())
            .map_err(failed("write"))
    }

    /// The packs that exist and are indexed.
    pub fn packs(&self) -> Vec<PackFile> {
        let mut packs: Vec<_> = self.lock().packs.values().copied().collect();
        packs.sort_by_key(|pack| pack.id);
        packs
    }

    /// Whether this pack is indexed.
    pub fn has_pack(&self, id: &PackId) -> bool {
        self.lock().packs.get(&key_of(id)).is_some_and(|pack| pack.id == *id)
    }

    /// What a failure means. A damaged file is removed: the next command builds it again from the packs.
    fn unusable(&self, cause: rusqlite::Error, action: &'static str) -> Error {
        let damaged = matches!(cause.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase));
        match &self.path {
            Some(path) if damaged && remove_files(path).is_ok() => Error::Failed(format!(
                "the index {} was damaged and has been removed; the next command builds it anew from the packs (run the command again if this one failed)",
                path.display()
            )),
            _ => failed(action)(cause),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
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

    fn insert(&mut self, pack: &PackFile, footer: &Footer) -> rusqlite::Result<()> {
        let transaction = self.connection.transaction()?;
        let key = key_of(&pack.id);
        {
            let mut insert = transaction.prepare_cached("INSERT OR IGNORE INTO blobs VALUES(?, ?, ?)")?;
            for (number, record) in (0_u32..).zip(&footer.records) {
                insert.execute(params![record.id.as_bytes(), key, number])?;
            }
            transaction.execute(
                "INSERT OR REPLACE INTO packs VALUES(?, ?, ?)",
                params![key, pack.id.as_bytes(), pack.size.cast_signed()],
            )?;
        }
        transaction.commit()
    }

    fn delete(&mut self, packs: &[PackId]) -> rusqlite::Result<()> {
        let transaction = self.connection.transaction()?;
        for pack in packs {
            transaction.execute("DELETE FROM packs WHERE key = ?", [key_of(pack)])?;
        }
        transaction.execute("DELETE FROM blobs WHERE pack NOT IN (SELECT key FROM packs)", [])?;
        transaction.execute("DELETE FROM whole", [])?;
        transaction.commit()
    }

    fn places(&self, id: &BlobId) -> rusqlite::Result<Vec<Place>> {
        let mut query = self.connection.prepare_cached("SELECT pack, record FROM blobs WHERE id = ?")?;
        let rows = query.query_map([id.as_bytes()], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, u32>(1)?)))?;
        let mut places = Vec::new();
        for row in rows {
            let (key, record) = row?;
            if let Some(&pack) = self.packs.get(&key) {
                places.push(Place { pack, record });
            }
        }
        Ok(places)
    }

    fn with_prefix(&self, prefix: &BlobPrefix, limit: usize) -> rusqlite::Result<Vec<BlobId>> {
        let (mut low, mut high) = ([0; BlobId::LEN], [0xff; BlobId::LEN]);
        low.iter_mut().zip(prefix.as_bytes()).for_each(|(to, from)| *to = *from);
        high.iter_mut().zip(prefix.as_bytes()).for_each(|(to, from)| *to = *from);
        let mut query =
            self.connection.prepare_cached("SELECT DISTINCT id FROM blobs WHERE id BETWEEN ? AND ? LIMIT ?")?;
        let rows = query.query_map(params![low, high, limit as i64], |row| Ok(BlobId::from_bytes(row.get(0)?)))?;
        rows.collect()
    }
}

/// The key of a pack's rows: the first eight bytes of its id.
fn key_of(pack: &PackId) -> i64 {
    let (first, _) = pack.as_bytes().split_first_chunk::<8>().unwrap_or((&[0; 8], &[]));
    i64::from_le_bytes(*first)
}

fn failed(action: &'static str) -> impl Fn(rusqlite::Error) -> Error {
    move |source| Error::Sqlite { action, path: PathBuf::from("index.sqlite"), source }
}

/// Opens the file and brings it into use. It is made with the mode of all files of a repository, which SQLite's own
/// sidecars then take over; one that exists is never opened but by SQLite, whose locks a second descriptor would drop.
fn open_checked(path: &Path) -> Result<rusqlite::Result<Connection>> {
    match fs::OpenOptions::new().write(true).create_new(true).mode(durable::FILE_MODE).open(path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(Error::io("create", path)(error));
        }
        _ => {}
    }
    Ok(Connection::open(path).and_then(|connection| prepare(&connection).map(|()| connection)))
}

/// Whether the file is no index of this schema, rather than busy or unreadable at the moment.
fn is_unusable(cause: &rusqlite::Error) -> bool {
    let passing = [ErrorCode::DatabaseBusy, ErrorCode::DatabaseLocked, ErrorCode::DiskFull, ErrorCode::ReadOnly];
    cause.sqlite_error_code().is_none_or(|code| !passing.contains(&code))
}

/// Brings the connection into use; an index of another schema or without its tables is an error.
///
/// Nothing is ever synced: a crash may tear the file, and a torn index is begun anew.
fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(Duration::from_secs(10))?;
    connection.pragma_update(None, "journal_mode", "DELETE")?;
    connection.pragma_update(None, "synchronous", "OFF")?;
    connection.pragma_update(None, "cache_size", -8 * 1024)?;
    connection.set_prepared_statement_cache_capacity(16);
    if schema_version(connection)? == 0 {
        let transaction = Transaction::new_unchecked(connection, TransactionBehavior::Immediate)?;
        // Another process may have made the tables meanwhile.
        if schema_version(&transaction)? == 0 {
            transaction.execute_batch(SCHEMA)?;
        }
        transaction.commit()?;
    }
    if schema_version(connection)? != SCHEMA_VERSION {
        return Err(rusqlite::Error::InvalidQuery);
    }
    connection.prepare("SELECT id, pack, record FROM blobs LIMIT 1")?.exists([])?;
    connection.prepare("SELECT content, verdict FROM verdicts LIMIT 1")?.exists([])?;
    connection.prepare("SELECT key, id, size FROM packs LIMIT 1")?.exists([])?;
    connection.prepare("SELECT content FROM whole LIMIT 1")?.exists([])?;
    Ok(())
}

fn schema_version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.pragma_query_value(None, "user_version", |row| row.get(0))
}

/// Removes the sidecars first: an old journal beside a new index would silently bring the old one back.
fn remove_files(path: &Path) -> Result<()> {
    for suffix in ["-wal", "-shm", "-journal", ""] {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        match fs::remove_file(&name) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io("remove the index file", &name)(error));
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::compression::Codec;
    use crate::format::pack::{BlobKind, Encoding, Frame, Record};

    fn pack(number: u8) -> PackFile {
        PackFile { id: PackId::from_bytes([number; 32]), size: u64::from(number) + 100 }
    }

    fn footer(contents: &[&[u8]]) -> Footer {
        let records = contents.iter().map(|content| Record {
            id: BlobId::of_chunk(content),
            kind: BlobKind::Chunk,
            length: 1,
            frame: 0,
            offset: 0,
            payload_length: 1,
            encoding: Encoding::Whole,
        });
        Footer { frames: vec![Frame::new(0, 1, 1, 1, Codec::Raw)], records: records.collect() }
    }

    #[test]
    fn places_are_those_of_packs_that_exist() {
        let index = Index::open_private().unwrap();
        index.reconcile(&[pack(1), pack(2)]).unwrap();
        index.adopt(&pack(1), &footer(&[b"a", b"b"])).unwrap();
        index.adopt(&pack(2), &footer(&[b"b"])).unwrap();
        let b = BlobId::of_chunk(b"b");
        assert_eq!(index.places(&b).unwrap().len(), 2);
        assert_eq!(index.with_prefix(&b.prefix(), 8).unwrap(), [b]);
        assert_eq!(index.reconcile(&[pack(2)]).unwrap(), []);
        assert_eq!(index.places(&b).unwrap(), [Place { pack: pack(2), record: 0 }]);
        assert!(!index.contains(&BlobId::of_chunk(b"a")).unwrap());
        index.forget(&[pack(2).id]).unwrap();
        assert!(!index.contains(&b).unwrap());
    }

    #[test]
    fn a_pack_of_another_size_is_adopted_again() {
        let index = Index::open_private().unwrap();
        index.adopt(&pack(1), &footer(&[b"a"])).unwrap();
        let resized = PackFile { size: 7, ..pack(1) };
        assert_eq!(index.reconcile(&[resized]).unwrap(), [resized]);
        assert!(!index.contains(&BlobId::of_chunk(b"a")).unwrap());
    }

    #[test]
    fn garbage_truncation_and_other_schemas_begin_a_new_index() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("index.sqlite");
        let fill = |path: &Path| {
            let index = Index::open(path).unwrap();
            assert_eq!(index.reconcile(&[pack(1)]).unwrap(), [pack(1)]);
            index.adopt(&pack(1), &footer(&[b"a"])).unwrap();
        };
        fill(&path);
        assert_eq!(Index::open(&path).unwrap().reconcile(&[pack(1)]).unwrap(), []);
        fs::write(&path, b"garbage, not a database at all").unwrap();
        fill(&path);
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..5000]).unwrap();
        fill(&path);
        Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
        fill(&path);
        assert!(Index::open(&path).unwrap().contains(&BlobId::of_chunk(b"a")).is_ok());
    }

    #[test]
    fn many_may_begin_the_index_at_once_and_only_the_owner_may_read_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("index.sqlite");
        std::thread::scope(|scope| {
            for number in 1..9 {
                let path = &path;
                scope.spawn(move || Index::open(path).unwrap().adopt(&pack(number), &footer(&[&[number]])).unwrap());
            }
        });
        let all: Vec<_> = (1..9).map(pack).collect();
        assert_eq!(Index::open(&path).unwrap().reconcile(&all).unwrap(), []);
        let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&path).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_content_is_whole_until_a_pack_is_lost() {
        let index = Index::open_private().unwrap();
        index.adopt(&pack(1), &footer(&[b"a"])).unwrap();
        index.adopt(&pack(2), &footer(&[b"b"])).unwrap();
        assert!(!index.is_whole(&Content::EMPTY));
        index.mark_whole(&Content::EMPTY).unwrap();
        index.reconcile(&[pack(1), pack(2), pack(3)]).unwrap();
        assert!(index.is_whole(&Content::EMPTY));
        index.reconcile(&[pack(1), pack(3)]).unwrap();
        assert!(!index.is_whole(&Content::EMPTY));
    }

    #[test]
    fn a_file_found_damaged_at_a_look_up_is_removed_and_the_next_one_is_whole() {
        use std::os::unix::fs::FileExt;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("index.sqlite");
        let contents: Vec<Vec<u8>> = (0..5000_u32).map(|number| number.to_le_bytes().to_vec()).collect();
        let footer = footer(&contents.iter().map(Vec::as_slice).collect::<Vec<_>>());
        Index::open(&path).unwrap().adopt(&pack(1), &footer).unwrap();
        let length = fs::metadata(&path).unwrap().len() as usize;
        fs::File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .write_all_at(&vec![0xa5; length - 40_960], 40_960)
            .unwrap();
        let index = Index::open(&path).unwrap();
        index.reconcile(&[pack(1)]).unwrap();
        let fault = contents.iter().find_map(|content| index.places(&BlobId::of_chunk(content)).err()).unwrap();
        assert!(fault.to_string().contains("run the command again"), "{fault}");
        assert!(!path.exists());
        assert_eq!(Index::open(&path).unwrap().reconcile(&[pack(1)]).unwrap(), [pack(1)]);
    }

    #[test]
    fn verdicts_are_kept_by_content_and_question() {
        let index = Index::open_private().unwrap();
        assert_eq!(index.verdict(Question::Integrity, &Content::EMPTY), None);
        index.record_verdict(Question::Integrity, &Content::EMPTY, &Verdict::Failed("page 3".into())).unwrap();
        assert_eq!(index.verdict(Question::Integrity, &Content::EMPTY), Some(Verdict::Failed("page 3".into())));
        assert_eq!(index.verdict(Question::Json, &Content::EMPTY), None);
        index.record_verdict(Question::Json, &Content::EMPTY, &Verdict::Ok).unwrap();
        assert_eq!(index.verdict(Question::Json, &Content::EMPTY), Some(Verdict::Ok));
    }
}
