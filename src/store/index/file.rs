//! The file of the index: its tables, and beginning it anew where it is none.
//!
//! Nothing is ever synced: a crash may tear the file, and a torn index is begun anew.

use std::fs;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior};

use crate::disk::durable;
use crate::error::{Error, Result};
use crate::store::temporary;

const SCHEMA_VERSION: i64 = 3;
const SCHEMA: &str = "
CREATE TABLE packs(key INTEGER PRIMARY KEY, id BLOB NOT NULL, size INTEGER NOT NULL) STRICT;
CREATE TABLE blobs(id BLOB NOT NULL, pack INTEGER NOT NULL, record INTEGER NOT NULL, PRIMARY KEY(id, pack, record)) STRICT, WITHOUT ROWID;
CREATE TABLE verdicts(content BLOB PRIMARY KEY, verdict BLOB NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE whole(content BLOB PRIMARY KEY) STRICT, WITHOUT ROWID;
CREATE TABLE distrusted(prefix BLOB PRIMARY KEY) STRICT, WITHOUT ROWID;
PRAGMA user_version = 3;";

/// Opens the file and brings it into use. It is made with the mode of all files of a repository, which SQLite's own
/// sidecars then take over; one that exists is never opened but by SQLite, whose locks a second descriptor would drop.
pub(super) fn open_checked(path: &Path) -> Result<rusqlite::Result<Connection>> {
    match fs::OpenOptions::new().write(true).create_new(true).mode(durable::FILE_MODE).open(path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(Error::io("create", path)(error));
        }
        _ => {}
    }
    Ok(Connection::open(path).and_then(|connection| prepare(&connection).map(|()| connection)))
}

/// Whether the file is no index of this schema, rather than busy or unreadable at the moment.
pub(super) fn is_unusable(cause: &rusqlite::Error) -> bool {
    let passing = [ErrorCode::DatabaseBusy, ErrorCode::DatabaseLocked, ErrorCode::DiskFull, ErrorCode::ReadOnly];
    cause.sqlite_error_code().is_none_or(|code| !passing.contains(&code))
}

/// Brings the connection into use; an index of another schema or without its tables is an error.
///
/// Nothing is ever synced: a crash may tear the file, and a torn index is begun anew.
pub(super) fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(Duration::from_secs(10))?;
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
    connection.prepare("SELECT prefix FROM distrusted LIMIT 1")?.exists([])?;
    Ok(())
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
