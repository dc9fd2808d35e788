//! The file of the index: its tables, and beginning it anew where it is none.
//!
//! Nothing is ever synced: a loss of power may tear the file, and what SQLite then reads need not be wrong visibly: a
//! row may name a record that is not there. So an index is trusted only within the boot of the machine that began it,
//! and begun anew from the packs in the next. A killed process tears nothing.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior};

use crate::disk::boot::boot_id;
use crate::disk::durable;
use crate::disk::lock::FileLock;
use crate::disk::stat::stat;
use crate::error::{Error, Result};
use crate::store::temporary;

/// How long one process waits for another that writes.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// Unreadable blobs that are remembered beyond the index that named them.
const MOST_DISTRUSTED: i64 = 100_000;
const SCHEMA_VERSION: i64 = 4;
const SCHEMA: &str = "
CREATE TABLE packs(key INTEGER PRIMARY KEY, id BLOB NOT NULL, size INTEGER NOT NULL) STRICT;
CREATE TABLE blobs(id BLOB NOT NULL, pack INTEGER NOT NULL, record INTEGER NOT NULL, PRIMARY KEY(id, pack, record)) STRICT, WITHOUT ROWID;
CREATE TABLE verdicts(content BLOB PRIMARY KEY, verdict BLOB NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE whole(content BLOB PRIMARY KEY) STRICT, WITHOUT ROWID;
CREATE TABLE distrusted(prefix BLOB PRIMARY KEY) STRICT, WITHOUT ROWID;
CREATE TABLE begun(boot TEXT NOT NULL) STRICT;
PRAGMA user_version = 4;";

/// Opens the index, beginning a new one where it is missing, unusable, or of another boot.
///
/// Many processes may find the same unusable index: a lock on its directory lets one after the other look. So nobody's
/// new index is removed, and nobody opens one that is about to be, with a journal of it left to the next. One that
/// takes longer than our patience (it may have been stopped) leaves us without this index, not without any.
///
/// # Errors
/// [`Error::Busy`] after that; I/O errors; [`Error::Sqlite`] if it can neither be opened nor made.
pub(super) fn open_or_begin(path: &Path, patience: Duration) -> Result<Connection> {
    let directory = durable::parent_of(path);
    let _others = FileLock::acquire_directory(directory, patience, &format!("the index {}", path.display()))?;
    let cause = match open_checked(path)? {
        Ok(connection) => return Ok(connection),
        Err(cause) if is_unusable(&cause) => cause,
        Err(cause) => return Err(Error::sqlite("open", path)(cause)),
    };
    tracing::debug!(path = %path.display(), %cause, "the index is begun anew");
    let unreadable = Connection::open(path).map(|connection| distrusted_in(&connection)).unwrap_or_default();
    remove_files(path)?;
    let connection = open_checked(path)?.map_err(Error::sqlite("create", path))?;
    distrust(&connection, unreadable).map_err(Error::sqlite("write", path))?;
    Ok(connection)
}

/// Opens the file and brings it into use. A new one gets the mode of all files of a repository, which SQLite's own
/// sidecars then take over, by its name: it is never opened but by SQLite, whose locks closing a second descriptor
/// would drop.
fn open_checked(path: &Path) -> Result<rusqlite::Result<Connection>> {
    let is_new = stat(path)?.is_none();
    let connection = match Connection::open(path) {
        Ok(connection) => connection,
        Err(cause) => return Ok(Err(cause)),
    };
    if is_new {
        let mode = Permissions::from_mode(durable::FILE_MODE);
        fs::set_permissions(path, mode).map_err(Error::io("set the mode of", path))?;
    }
    Ok(prepare(&connection).map(|()| connection))
}

/// Whether the file is no index of this schema, rather than busy or unreadable at the moment.
fn is_unusable(cause: &rusqlite::Error) -> bool {
    let passing = [ErrorCode::DatabaseBusy, ErrorCode::DatabaseLocked, ErrorCode::DiskFull, ErrorCode::ReadOnly];
    cause.sqlite_error_code().is_none_or(|code| !passing.contains(&code))
}

/// Brings the connection into use; an index of another schema or boot, or without its tables, is an error.
pub(super) fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(PATIENCE)?;
    connection.pragma_update(None, "journal_mode", "DELETE")?;
    connection.pragma_update(None, "synchronous", "OFF")?;
    connection.pragma_update(None, "cache_size", -8 * 1024)?;
    temporary::keep_plans(connection)?;
    connection.set_prepared_statement_cache_capacity(16);
    if schema_version(connection)? == 0 {
        let transaction = Transaction::new_unchecked(connection, TransactionBehavior::Immediate)?;
        // Another process may have made the tables meanwhile.
        if schema_version(&transaction)? == 0 {
            transaction.execute_batch(SCHEMA)?;
            transaction.execute("INSERT INTO begun VALUES(?)", [this_boot()])?;
        }
        transaction.commit()?;
    }
    check(connection)
}

/// Whether this is an index of this schema and boot.
fn check(connection: &Connection) -> rusqlite::Result<()> {
    if schema_version(connection)? != SCHEMA_VERSION {
        return Err(rusqlite::Error::InvalidQuery);
    }
    let boot: String = connection.query_row("SELECT boot FROM begun", [], |row| row.get(0))?;
    if boot != this_boot() {
        return Err(rusqlite::Error::InvalidQuery);
    }
    connection.prepare("SELECT id, pack, record FROM blobs LIMIT 1")?.exists([])?;
    connection.prepare("SELECT content, verdict FROM verdicts LIMIT 1")?.exists([])?;
    connection.prepare("SELECT key, id, size FROM packs LIMIT 1")?.exists([])?;
    connection.prepare("SELECT content FROM whole LIMIT 1")?.exists([])?;
    connection.prepare("SELECT prefix FROM distrusted LIMIT 1")?.exists([])?;
    Ok(())
}

fn this_boot() -> String {
    boot_id().unwrap_or_else(|| "unknown".into())
}

/// The blobs that an index which is no longer trusted holds unreadable, as far as it can be read: to store one of them
/// anew without need costs its size, to forget one may cost the snapshot that is built upon it.
fn distrusted_in(connection: &Connection) -> Vec<Vec<u8>> {
    let read = || {
        let mut query = connection.prepare("SELECT prefix FROM distrusted LIMIT ?")?;
        let rows = query.query_map([MOST_DISTRUSTED], |row| row.get(0))?;
        rows.collect::<rusqlite::Result<Vec<Vec<u8>>>>()
    };
    read().unwrap_or_default()
}

/// Remembers blobs as unreadable, by their prefixes.
pub(super) fn distrust(
    connection: &Connection,
    prefixes: impl IntoIterator<Item = impl rusqlite::ToSql>,
) -> rusqlite::Result<()> {
    let mut insert = connection.prepare_cached("INSERT OR IGNORE INTO distrusted VALUES(?)")?;
    prefixes.into_iter().try_for_each(|prefix| insert.execute([prefix]).map(|_| ()))
}

fn schema_version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.pragma_query_value(None, "user_version", |row| row.get(0))
}

/// Removes the sidecars first: an old journal beside a new index would silently bring the old one back.
pub(super) fn remove_files(path: &Path) -> Result<()> {
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
