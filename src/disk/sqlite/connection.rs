//! How databases are opened: by URI, with the access that the situation calls for.

use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::super::held::SqliteUse;
use super::Sidecar;
use crate::error::{Error, Result};

/// The longest path that SQLite opens, less the longest sidecar suffix (`MAX_PATHNAME` in `os_unix.c`).
const LONGEST_PATH: usize = 512 - "-journal".len();

/// What a connection may do to the files of a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SqliteAccess {
    /// Take locks and read. On a WAL database without sidecars this would leave new ones behind.
    ReadOnly,
    /// Take locks and read, but clean up like a writer: the sidecars of a WAL database vanish again at the end.
    QueryOnly,
    /// Read without locks and sidecars, as if nothing could change the file.
    Immutable,
    /// Everything; for private copies.
    ReadWrite,
    /// Everything, without taking locks; for restore targets, from which a lock of our own keeps SQLite out.
    Unlocked,
}

/// A connection to a database, registered so that its files are not opened raw meanwhile.
pub(super) struct Database {
    // Dropped in this order: registered until the connection is closed.
    connection: Connection,
    _use: SqliteUse,
}

impl Database {
    /// Opens the database at an absolute path without symlinks. SQLite reads nothing before the first statement.
    pub(super) fn open(path: &Path, access: SqliteAccess) -> Result<Self> {
        let sqlite_use = SqliteUse::of(path)?;
        let connection = open(path, access).map_err(Error::sqlite("open", path))?;
        Ok(Self { connection, _use: sqlite_use })
    }

    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    pub(super) fn connection_mut(&mut self) -> &mut Connection {
        &mut self.connection
    }

    /// Leaves the WAL, if a service has filled it meanwhile, to that service: closing must not write into a source.
    pub(super) fn leave_wal_alone(&self, path: &Path) {
        let filled = std::fs::metadata(Sidecar::Wal.of(path)).is_ok_and(|wal| wal.len() > 0);
        let _ = self.connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, filled);
    }
}

/// Refuses what SQLite would refuse with a less helpful message.
pub(super) fn check_length(path: &Path) -> Result<()> {
    let length = path.as_os_str().len();
    if length <= LONGEST_PATH {
        return Ok(());
    }
    Err(Error::Failed(format!(
        "the path {} has {length} bytes, more than the {LONGEST_PATH} that SQLite can open; mount or move it to a shorter one",
        path.display()
    )))
}

/// Opens a connection that is not registered: for private files that are never read raw while it is open.
pub(super) fn open(path: &Path, access: SqliteAccess) -> rusqlite::Result<Connection> {
    let mode = match access {
        SqliteAccess::ReadOnly | SqliteAccess::Immutable => OpenFlags::SQLITE_OPEN_READ_ONLY,
        SqliteAccess::QueryOnly | SqliteAccess::ReadWrite | SqliteAccess::Unlocked => OpenFlags::SQLITE_OPEN_READ_WRITE,
    };
    let flags = mode | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(uri(path, access), flags)?;
    connection.busy_timeout(Duration::ZERO)?;
    if access == SqliteAccess::QueryOnly {
        connection.pragma_update(None, "query_only", true)?;
    }
    Ok(connection)
}

/// The path as a `file:` URI, so that a name with `?`, `%` or bytes that are no UTF-8 means itself.
fn uri(path: &Path, access: SqliteAccess) -> String {
    let mut uri = String::from("file:");
    if path.is_absolute() {
        // An empty authority, lest a path that begins with two slashes be taken for one.
        uri.push_str("//");
    }
    for &byte in path.as_os_str().as_bytes() {
        if byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte) {
            uri.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(uri, "%{byte:02X}");
        }
    }
    uri.push_str(match access {
        SqliteAccess::Immutable => "?immutable=1",
        SqliteAccess::Unlocked => "?vfs=unix-none",
        SqliteAccess::ReadOnly | SqliteAccess::QueryOnly | SqliteAccess::ReadWrite => "",
    });
    uri
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;

    #[test]
    fn paths_of_any_bytes_open_the_file_they_name() {
        let root = tempfile::tempdir().unwrap();
        for name in [&b"plain.db"[..], b"a?mode=memory&x=1#y", b"100%25 db", b"\xff\xfe.db", "für.db".as_bytes()] {
            let path = root.path().join(OsStr::from_bytes(name));
            std::fs::write(&path, b"").unwrap();
            open(&path, SqliteAccess::ReadWrite).unwrap().execute_batch("CREATE TABLE t(x)").unwrap();
            assert!(std::fs::metadata(&path).unwrap().len() > 0, "{name:?}");
            let count = |sql: &str| {
                open(&path, SqliteAccess::Immutable).unwrap().query_row(sql, [], |row| row.get::<_, i64>(0))
            };
            assert_eq!(count("SELECT count(*) FROM sqlite_schema").unwrap(), 1);
        }
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 5);
    }
}
