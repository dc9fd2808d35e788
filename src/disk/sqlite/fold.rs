//! Folding: bringing everything that lies beside a restore target into its main file, then removing what lay beside.
//!
//! The order matters: a crash after the sidecars are gone but before they were folded in would lose committed data, so
//! SQLite itself folds first, without locks of its own: the caller's keep it out like everybody else. A stale `-wal` or
//! `-journal` that outlived the restore would be replayed over the restored file, so they are removed even where SQLite
//! cannot read the database. Invariant: they are removed only if they were brought in, or if it is their bytes, or
//! those of the database, that SQLite makes no sense of; whatever else is in its way may pass, and is an error.

use std::io;
use std::path::{Path, PathBuf};

use rusqlite::ErrorCode;

use super::super::durable::{parent_of, sync_directory};
use super::super::stat::{FileKind, lstat, stat};
use super::Sidecar;
use super::connection::{Database, SqliteAccess, check_length};
use crate::error::{Error, Result};

/// What became of the content of the sidecars.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Folded {
    /// There was nothing to bring in.
    Nothing,
    /// It is in the main file.
    Done,
    /// SQLite cannot read the database; what the sidecars held is lost, as the text explains.
    NotReadable(String),
}

/// Folds the sidecars of the database at `path` into it and removes them; on return no `-wal`, `-shm` or `-journal` is
/// there, which survives a crash. The database may be missing, empty or garbage. The caller sees to it that nobody else
/// uses it, by a [`DatabaseLock`](crate::disk::record_lock::DatabaseLock) where there are such locks.
///
/// # Errors
/// [`Error::Io`] if a sidecar cannot be removed; [`Error::Sqlite`] if its content cannot be brought in at this time,
/// for lack of room, memory or permissions or since the medium fails: nothing is removed then.
pub fn fold_sidecars(path: &Path) -> Result<Folded> {
    let path = match std::fs::canonicalize(path) {
        Ok(path) => path,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            std::path::absolute(path).map_err(Error::io("resolve", path))?
        }
        Err(error) => return Err(Error::io("resolve", path)(error)),
    };
    let folded = match beside(&path)? {
        Beside::Nothing => Folded::Nothing,
        Beside::NoFile(name) => Folded::NotReadable(format!("{} is no regular file", name.display())),
        Beside::Content => fold(&path)?,
    };
    let mut removed = false;
    for sidecar in Sidecar::ALL {
        let sidecar = sidecar.of(&path);
        match std::fs::remove_file(&sidecar) {
            Ok(()) => removed = true,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::io("remove", &sidecar)(error)),
        }
    }
    if removed || folded == Folded::Done {
        sync_directory(parent_of(&path))?;
    }
    Ok(folded)
}

/// What lies beside a database.
enum Beside {
    /// Nothing that SQLite would bring in. Beside an empty or missing main file it discards what it finds.
    Nothing,
    /// Something in place of a log that SQLite never opens.
    NoFile(PathBuf),
    /// A log.
    Content,
}

fn beside(path: &Path) -> Result<Beside> {
    if stat(path)?.is_none_or(|main| main.size == 0) {
        return Ok(Beside::Nothing);
    }
    let mut beside = Beside::Nothing;
    for log in [Sidecar::Wal, Sidecar::Journal].map(|log| log.of(path)) {
        match lstat(&log)? {
            Some(found) if found.kind != FileKind::File => return Ok(Beside::NoFile(log)),
            Some(found) if found.size > 0 => beside = Beside::Content,
            _ => {}
        }
    }
    Ok(beside)
}

fn fold(path: &Path) -> Result<Folded> {
    check_length(path)?;
    match fold_at_once(path)? {
        // SQLite calls a database damaged, too, whose first page it could not read at that moment.
        Folded::NotReadable(_) => fold_at_once(path),
        folded => Ok(folded),
    }
}

fn fold_at_once(path: &Path) -> Result<Folded> {
    let database = Database::open(path, SqliteAccess::Unlocked)?;
    let folded = database.connection().execute_batch(
        "PRAGMA locking_mode = EXCLUSIVE; PRAGMA wal_checkpoint(TRUNCATE); PRAGMA journal_mode = DELETE; BEGIN EXCLUSIVE; COMMIT;",
    );
    drop(database);
    match folded {
        Ok(()) => Ok(Folded::Done),
        Err(error) if is_for_its_bytes(&error) => Ok(Folded::NotReadable(error.to_string())),
        Err(error) => Err(Error::sqlite("fold the log into", path)(error)),
    }
}

/// Whether SQLite would say the same of these bytes whenever and wherever it tried. The last code is its word for a
/// schema of a format that it does not know.
fn is_for_its_bytes(cause: &rusqlite::Error) -> bool {
    let codes = [ErrorCode::DatabaseCorrupt, ErrorCode::NotADatabase, ErrorCode::Unknown];
    cause.sqlite_error_code().is_some_and(|code| codes.contains(&code))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::record_lock::{DatabaseLock, DatabaseLocking};
    use crate::disk::target::TargetRoot;
    use rusqlite::{Connection, ffi};
    use std::fs;

    /// A copy of a database with committed rows in its WAL only, as a crash leaves it.
    fn unclean(root: &Path) -> PathBuf {
        let (live, left) = (root.join("live.db"), root.join("left.db"));
        let service = Connection::open(&live).unwrap();
        service
            .execute_batch(
                "PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0; CREATE TABLE t(x); INSERT INTO t VALUES(7)",
            )
            .unwrap();
        fs::copy(&live, &left).unwrap();
        fs::copy(Sidecar::Wal.of(&live), Sidecar::Wal.of(&left)).unwrap();
        left
    }

    fn count_beside(path: &Path) -> usize {
        Sidecar::ALL.into_iter().filter(|sidecar| sidecar.of(path).exists()).count()
    }

    #[test]
    fn committed_rows_are_brought_in_before_the_log_goes() {
        let root = tempfile::tempdir().unwrap();
        let path = unclean(root.path());
        fs::write(Sidecar::Shm.of(&path), b"stale").unwrap();
        assert_eq!(fold_sidecars(&path).unwrap(), Folded::Done);
        assert_eq!(count_beside(&path), 0);
        let rows: i64 = Connection::open(&path).unwrap().query_row("SELECT x FROM t", [], |row| row.get(0)).unwrap();
        assert_eq!(rows, 7);
    }

    #[test]
    fn a_transaction_that_a_crash_cut_off_is_rolled_back() {
        let root = tempfile::tempdir().unwrap();
        let (live, left) = (root.path().join("live.db"), root.path().join("left.db"));
        let service = Connection::open(&live).unwrap();
        let rows = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000)";
        service
            .execute_batch(&format!(
                "PRAGMA journal_mode=DELETE; PRAGMA cache_size=4; CREATE TABLE t(x); \
                 {rows} INSERT INTO t SELECT 'before ' || i FROM n; BEGIN; UPDATE t SET x = 'after'"
            ))
            .unwrap();
        fs::copy(&live, &left).unwrap();
        fs::copy(Sidecar::Journal.of(&live), Sidecar::Journal.of(&left)).unwrap();
        assert_ne!(
            fs::read(&left).unwrap().windows(5).filter(|bytes| bytes == b"after").count(),
            0,
            "nothing was spilt"
        );
        assert_eq!(fold_sidecars(&left).unwrap(), Folded::Done);
        assert_eq!(count_beside(&left), 0);
        let count = "SELECT count(*) FROM t WHERE x LIKE 'before %'";
        let rows: i64 = Connection::open(&left).unwrap().query_row(count, [], |row| row.get(0)).unwrap();
        assert_eq!(rows, 2000);
    }

    #[test]
    fn beside_garbage_the_sidecars_go_all_the_same() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("garbage.db");
        fs::write(&path, [0x77; 5000]).unwrap();
        fs::write(Sidecar::Wal.of(&path), [2; 600]).unwrap();
        fs::write(Sidecar::Journal.of(&path), [1; 600]).unwrap();
        assert!(matches!(fold_sidecars(&path).unwrap(), Folded::NotReadable(_)));
        assert_eq!(count_beside(&path), 0);
        assert_eq!(fs::read(&path).unwrap(), [0x77; 5000]);
    }

    #[test]
    fn a_missing_database_loses_its_stale_sidecars() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("gone.db");
        fs::write(Sidecar::Wal.of(&path), b"stale").unwrap();
        assert_eq!(fold_sidecars(&path).unwrap(), Folded::Nothing);
        assert_eq!(count_beside(&path), 0);
        assert!(!path.exists());
    }

    #[test]
    fn a_lock_of_our_own_does_not_keep_our_own_sqlite_out() {
        let root = tempfile::tempdir().unwrap();
        let path = unclean(root.path());
        let target = TargetRoot::open(root.path()).unwrap();
        let locking = DatabaseLock::take(target.open_file(b"left.db").unwrap()).unwrap();
        assert!(matches!(locking, DatabaseLocking::Held(_)));
        assert_eq!(fold_sidecars(&path).unwrap(), Folded::Done);
        assert_eq!(count_beside(&path), 0);
        drop(locking);
        let rows: i64 = Connection::open(&path).unwrap().query_row("SELECT x FROM t", [], |row| row.get(0)).unwrap();
        assert_eq!(rows, 7);
    }

    /// Whatever the bytes are, a restore must be able to go on; only what may pass stops it.
    #[test]
    fn bytes_that_make_no_sense_are_never_taken_for_what_may_pass() {
        let root = tempfile::tempdir().unwrap();
        let wal = unclean(root.path());
        let (rollback, left) = (root.path().join("rollback.db"), root.path().join("hurt.db"));
        let service = Connection::open(&rollback).unwrap();
        service.execute_batch("PRAGMA journal_mode=DELETE; CREATE TABLE t(x); INSERT INTO t VALUES(7)").unwrap();
        fs::write(Sidecar::Journal.of(&rollback), [1; 600]).unwrap();
        for (of, sidecar) in [(&wal, Sidecar::Wal), (&rollback, Sidecar::Journal)] {
            for (at, value) in (0..108).flat_map(|at| [0, 3, 0xFF].map(|value| (at, value))) {
                let mut bytes = fs::read(of).unwrap();
                bytes[at] = value;
                fs::write(&left, bytes).unwrap();
                fs::copy(sidecar.of(of), sidecar.of(&left)).unwrap();
                let folded = fold_sidecars(&left);
                assert!(matches!(folded, Ok(Folded::Done | Folded::NotReadable(_))), "{at} {value}: {folded:?}");
                assert_eq!(count_beside(&left), 0, "{at} {value}");
            }
        }
    }

    #[test]
    fn what_is_no_log_is_removed_and_not_followed() {
        let root = tempfile::tempdir().unwrap();
        let (path, other) = (unclean(root.path()), root.path().join("other"));
        fs::rename(Sidecar::Wal.of(&path), &other).unwrap();
        std::os::unix::fs::symlink(&other, Sidecar::Wal.of(&path)).unwrap();
        assert!(matches!(fold_sidecars(&path).unwrap(), Folded::NotReadable(_)));
        assert_eq!(count_beside(&path), 0);
        assert!(other.exists());
    }

    #[test]
    fn what_may_pass_is_not_laid_to_the_bytes() {
        for code in
            [ffi::SQLITE_IOERR_READ, ffi::SQLITE_NOMEM, ffi::SQLITE_CANTOPEN, ffi::SQLITE_FULL, ffi::SQLITE_READONLY]
        {
            let cause = rusqlite::Error::SqliteFailure(ffi::Error::new(code), None);
            assert!(!is_for_its_bytes(&cause), "{cause}");
        }
        for code in [ffi::SQLITE_CORRUPT, ffi::SQLITE_NOTADB] {
            let cause = rusqlite::Error::SqliteFailure(ffi::Error::new(code), None);
            assert!(is_for_its_bytes(&cause), "{cause}");
        }
    }
}
