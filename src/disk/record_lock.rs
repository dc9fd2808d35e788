//! Byte-range locks on files: who holds one, and one of our own on a database, by which SQLite everywhere is kept out.
//!
//! Ours are those of an open file description (fcntl(2), "Open file description locks"): they conflict with the classic
//! ones that SQLite takes, also with those of SQLite in this process, and closing another descriptor of the same file
//! does not drop them. Invariant: while a [`DatabaseLock`] lives, no SQLite elsewhere begins to read or write the
//! database.

use std::fs::File;
use std::io;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use super::processes::Process;
use super::target::TargetFile;
use crate::error::{Error, Result};

/// Where SQLite's lock bytes begin and how many there are:
/// <https://www.sqlite.org/fileformat2.html#the_lock_byte_page>.
const LOCK_BYTES: libc::off_t = 0x4000_0000;
const LOCK_BYTES_LENGTH: libc::off_t = 512;

/// Who holds a lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LockHolder {
    /// This process.
    Process(Process),
    /// One that cannot be seen from here, or one that did not tell.
    Unnamed,
}

/// Who, other than by this very descriptor, holds a lock on any byte of a file; `None` if nobody does, or if the file
/// system has no such locks.
///
/// # Errors
/// I/O errors.
pub fn holder(file: &File) -> io::Result<Option<LockHolder>> {
    let mut lock = range(libc::F_WRLCK, 0, 0);
    match fcntl(file, FcntlArg::F_OFD_GETLK(&mut lock)) {
        Ok(_) if lock.l_type == libc::F_UNLCK as libc::c_short => Ok(None),
        Ok(_) => Ok(Some(match u32::try_from(lock.l_pid) {
            Ok(id) if id > 0 => LockHolder::Process(Process::with_id(id)),
            _ => LockHolder::Unnamed,
        })),
        Err(errno) if is_unsupported(errno) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// The lock bytes of a database, held.
#[derive(Debug)]
pub struct DatabaseLock {
    /// Held for its lock alone.
    _file: TargetFile,
}

/// The outcome of locking a database.
#[derive(Debug)]
pub enum DatabaseLocking {
    /// The lock is held.
    Held(DatabaseLock),
    /// SQLite in another process holds one.
    InUse,
    /// The file system has no such locks.
    Unsupported,
}

impl DatabaseLock {
    /// Locks an open database, without waiting. One that is open for reading only is locked against writers alone.
    ///
    /// # Errors
    /// I/O errors.
    pub fn take(file: TargetFile) -> Result<DatabaseLocking> {
        let lock = |kind| fcntl(file.file(), FcntlArg::F_OFD_SETLK(&range(kind, LOCK_BYTES, LOCK_BYTES_LENGTH)));
        let locked = match lock(libc::F_WRLCK) {
            Err(Errno::EBADF) => lock(libc::F_RDLCK),
            locked => locked,
        };
        match locked {
            Ok(_) => Ok(DatabaseLocking::Held(Self { _file: file })),
            Err(Errno::EAGAIN | Errno::EACCES) => Ok(DatabaseLocking::InUse),
            Err(errno) if is_unsupported(errno) => Ok(DatabaseLocking::Unsupported),
            Err(errno) => Err(Error::io("lock", file.path())(errno.into())),
        }
    }
}

fn range(kind: libc::c_int, start: libc::off_t, length: libc::off_t) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: start,
        l_len: length,
        l_pid: 0,
    }
}

fn is_unsupported(errno: Errno) -> bool {
    matches!(errno, Errno::EOPNOTSUPP | Errno::ENOLCK | Errno::ENOSYS | Errno::EINVAL)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::target::TargetRoot;
    use rusqlite::{Connection, ErrorCode};

    fn code(outcome: rusqlite::Result<()>) -> Option<ErrorCode> {
        outcome.err().and_then(|error| error.sqlite_error_code())
    }

    #[test]
    fn sqlite_that_reads_writes_or_idles_in_wal_mode_is_noticed_and_kept_out() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a.db");
        let service = Connection::open(&path).unwrap();
        service.busy_timeout(std::time::Duration::ZERO).unwrap();
        service.execute_batch("CREATE TABLE t(x)").unwrap();
        let target = TargetRoot::open(root.path()).unwrap();
        // Kept open: closing it would drop the service's locks, which are this process's too.
        let asker = target.open_file(b"a.db").unwrap();
        let ask = || holder(asker.file()).unwrap();
        assert_eq!(ask(), None);
        let take = || DatabaseLock::take(target.open_file(b"a.db").unwrap()).unwrap();
        service.execute_batch("BEGIN; SELECT * FROM t").unwrap();
        assert_eq!(ask(), Some(LockHolder::Process(Process::with_id(std::process::id()))));
        assert!(matches!(take(), DatabaseLocking::InUse));
        service.execute_batch("ROLLBACK").unwrap();
        let DatabaseLocking::Held(held) = take() else { panic!("nobody uses it") };
        assert_eq!(code(service.execute_batch("SELECT * FROM t")), Some(ErrorCode::DatabaseBusy));
        drop(held);
        service.execute_batch("PRAGMA journal_mode=WAL; SELECT * FROM t").unwrap();
        assert!(ask().is_some(), "an idle connection to a database in WAL mode holds a lock");
    }
}
