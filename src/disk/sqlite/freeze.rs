//! Holding the writers of a live database off for a while, without writing a byte of it.
//!
//! `BEGIN IMMEDIATE` takes the one write lock that a database has; readers go on, and so does our own copy. Nothing is
//! written under it: SQLite makes a journal, or appends to a log, with the first changed page and not before.
//! <https://www.sqlite.org/lang_transaction.html#immediate>

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::ErrorCode;

use super::connection::{Database, SqliteAccess, check_length};
use crate::error::{Error, Result};

/// How long to sleep when another writer is at work.
const POLL: Duration = Duration::from_millis(2);

/// The write lock of a database; dropping it lets writers go on.
pub struct WriteLock {
    database: Database,
    path: PathBuf,
    since: Instant,
}

/// The outcome of taking the write lock.
pub enum Frozen {
    /// It is held.
    Held(WriteLock),
    /// Another writer held it until the deadline.
    Busy,
}

impl WriteLock {
    /// Takes the write lock of the database at `path` (absolute, symlinks resolved), waiting until `deadline`.
    ///
    /// # Errors
    /// [`Error::Sqlite`] for a database that may not be written or is damaged.
    pub fn take(path: &Path, deadline: Instant) -> Result<Frozen> {
        check_length(path)?;
        let database = Database::open(path, SqliteAccess::ReadWrite)?;
        loop {
            match database.connection().execute_batch("BEGIN IMMEDIATE") {
                Ok(()) => {
                    return Ok(Frozen::Held(Self { database, path: path.to_path_buf(), since: Instant::now() }));
                }
                Err(error) if is_busy(&error) => {}
                Err(error) => return Err(Error::sqlite("lock the writers of", path)(error)),
            }
            if Instant::now() >= deadline {
                return Ok(Frozen::Busy);
            }
            thread::sleep(POLL);
        }
    }

    /// Since when it is held.
    pub fn since(&self) -> Instant {
        self.since
    }
}

impl Drop for WriteLock {
    fn drop(&mut self) {
        // Nothing was written, so there is nothing to lose; closing ends the transaction too.
        let _ = self.database.connection().execute_batch("ROLLBACK");
        self.database.leave_wal_alone(&self.path);
    }
}

fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::*;
    use crate::disk::sqlite::DatabaseStats;

    fn held(path: &Path) -> WriteLock {
        match WriteLock::take(path, Instant::now() + Duration::from_secs(20)).unwrap() {
            Frozen::Held(lock) => lock,
            Frozen::Busy => panic!("nobody else writes"),
        }
    }

    #[test]
    fn writers_wait_readers_go_on_and_no_byte_changes_in_either_mode() {
        for mode in ["delete", "wal"] {
            let root = tempfile::tempdir().unwrap();
            let path = root.path().join("live.db");
            let service = Connection::open(&path).unwrap();
            service.pragma_update(None, "journal_mode", mode).unwrap();
            service.execute_batch("CREATE TABLE t(x); INSERT INTO t VALUES(1)").unwrap();
            service.busy_timeout(Duration::ZERO).unwrap();
            let (before, bytes) = (DatabaseStats::of(&path).unwrap(), std::fs::read(&path).unwrap());
            let lock = held(&path);
            assert!(is_busy(&service.execute_batch("INSERT INTO t VALUES(2)").unwrap_err()), "{mode}");
            let rows: i64 = service.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap();
            assert_eq!(rows, 1);
            assert!(matches!(WriteLock::take(&path, Instant::now()).unwrap(), Frozen::Busy));
            drop(lock);
            // SQLite makes sidecars belong to the owner of the database, which as root touches their ctime.
            let after = DatabaseStats::of(&path).unwrap();
            let times = |stats: &DatabaseStats| stats.wal.as_ref().map(|wal| (wal.size, wal.mtime));
            assert_eq!((after.main, times(&after)), (before.main, times(&before)), "{mode}");
            assert_eq!(std::fs::read(&path).unwrap(), bytes);
            service.execute_batch("INSERT INTO t VALUES(2)").unwrap();
        }
    }

    #[test]
    fn an_idle_database_in_wal_mode_has_no_sidecars_afterwards() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("idle.db");
        Connection::open(&path).unwrap().execute_batch("PRAGMA journal_mode = wal; CREATE TABLE t(x)").unwrap();
        drop(held(&path));
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 1);
    }
}
