//! Folding: bringing everything that lies beside a restore target into its main file, then removing what lay beside.
//!
//! The order matters: a crash after the sidecars are gone but before they were folded in would lose committed data, so
//! SQLite itself folds first, without locks of its own: the caller's keep it out like everybody else. A stale `-wal` or
//! `-journal` that outlived the restore would be replayed over the restored file, so they are removed even where SQLite
//! could not read the database.

use std::io;
use std::path::Path;

use rusqlite::ErrorCode;

use super::super::durable::{parent_of, sync_directory};
use super::super::stat::stat;
use super::Sidecar;
use super::connection::{Access, Database, check_length};
use crate::error::{Error, Result};

/// What became of the content of the sidecars.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Folded {
    /// There was nothing to bring in.
    Nothing,
    /// It is in the main file.
    Done,
    /// SQLite could not read the database; what the sidecars held is lost, as the text explains.
    NotReadable(String),
}

/// Folds the sidecars of the database at `path` into it and removes them; on return no `-wal`, `-shm` or `-journal` is
/// there, which survives a crash. The database may be missing, empty or garbage. The caller sees to it that nobody else
/// uses it, by a [`DatabaseLock`](crate::disk::record_lock::DatabaseLock) where there are such locks.
///
/// # Errors
/// [`Error::Io`] if a sidecar cannot be removed; [`Error::Sqlite`] if there is no room to bring its content in.
pub fn fold_sidecars(path: &Path) -> Result<Folded> {
    let path = match std::fs::canonicalize(path) {
        Ok(path) => path,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            std::path::absolute(path).map_err(Error::io("resolve", path))?
        }
        Err(error) => return Err(Error::io("resolve", path)(error)),
    };
    let folded = if has_content_beside(&path)? { fold(&path)? } else { Folded::Nothing };
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

/// Whether there is a database with something beside it that SQLite would bring in. Beside an empty or missing main file
/// there is not: SQLite discards what it finds there.
fn has_content_beside(path: &Path) -> Result<bool> {
    let filled = |path: &Path| Ok::<_, Error>(stat(path)?.is_some_and(|stat| stat.size > 0));
    Ok(filled(path)? && (filled(&Sidecar::Wal.of(path))? || filled(&Sidecar::Journal.of(path))?))
}

fn fold(path: &Path) -> Result<Folded> {
    check_length(path)?;
    let database = Database::open(path, Access::Unlocked)?;
    let folded = database.connection().execute_batch(
        "PRAGMA locking_mode = EXCLUSIVE; PRAGMA wal_checkpoint(TRUNCATE); PRAGMA journal_mode = DELETE; BEGIN EXCLUSIVE; COMMIT;",
    );
    match folded {
        Ok(()) => Ok(Folded::Done),
        Err(error) => match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Err(Error::sqlite("fold the log into", path)(error)),
            _ => Ok(Folded::NotReadable(error.to_string())),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::record_lock::{DatabaseLock, DatabaseLocking};
    use crate::disk::target::TargetRoot;
    use rusqlite::Connection;
    use std::fs;

    /// A copy of a database with committed rows in its WAL only, as a crash leaves it.
    fn unclean(root: &Path) -> std::path::PathBuf {
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

    fn beside(path: &Path) -> usize {
        Sidecar::ALL.into_iter().filter(|sidecar| sidecar.of(path).exists()).count()
    }

    #[test]
    fn committed_rows_are_brought_in_before_the_log_goes() {
        let root = tempfile::tempdir().unwrap();
        let path = unclean(root.path());
        fs::write(Sidecar::Shm.of(&path), b"stale").unwrap();
        assert_eq!(fold_sidecars(&path).unwrap(), Folded::Done);
        assert_eq!(beside(&path), 0);
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
        assert_eq!(beside(&left), 0);
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
        assert_eq!(beside(&path), 0);
        assert_eq!(fs::read(&path).unwrap(), [0x77; 5000]);
    }

    #[test]
    fn a_missing_database_loses_its_stale_sidecars() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("gone.db");
        fs::write(Sidecar::Wal.of(&path), b"stale").unwrap();
        assert_eq!(fold_sidecars(&path).unwrap(), Folded::Nothing);
        assert_eq!(beside(&path), 0);
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
        assert_eq!(beside(&path), 0);
        drop(locking);
        let rows: i64 = Connection::open(&path).unwrap().query_row("SELECT x FROM t", [], |row| row.get(0)).unwrap();
        assert_eq!(rows, 7);
    }
}
