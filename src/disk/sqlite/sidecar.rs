//! The files that SQLite keeps beside a database, and whether a process is using them.
//!
//! <https://www.sqlite.org/tempfiles.html>: `-journal` rolls a torn transaction back, `-wal` holds committed pages that
//! are not in the main file yet, `-shm` is an index of the `-wal` that any process can rebuild.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use super::super::held::{SourceOpen, open_source};
use super::super::stat::{FileStat, stat};
use crate::error::{Error, Result};

/// The byte of the `-shm` on which every process that uses the WAL holds a shared lock ("deadman switch"):
/// <https://www.sqlite.org/walformat.html#shm_file>, `UNIX_SHM_DMS` in `os_unix.c`.
const DEADMAN_SWITCH: libc::off_t = 128;

/// A file beside a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sidecar {
    /// Committed pages not yet in the main file.
    Wal,
    /// The shared index of the WAL.
    Shm,
    /// The rollback journal.
    Journal,
}

impl Sidecar {
    /// All kinds.
    pub const ALL: [Self; 3] = [Self::Wal, Self::Shm, Self::Journal];

    /// What is appended to the name of the database.
    pub const fn suffix(self) -> &'static str {
        match self {
            Self::Wal => "-wal",
            Self::Shm => "-shm",
            Self::Journal => "-journal",
        }
    }

    /// The path of this sidecar of a database.
    pub fn of(self, database: &Path) -> PathBuf {
        let mut path = OsString::from(database);
        path.push(self.suffix());
        path.into()
    }
}

/// The states of a database's files that together say whether its content may have changed. A sidecar without bytes is
/// as good as none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DatabaseStats {
    /// The main file.
    pub main: FileStat,
    /// The `-wal`, if it has bytes.
    pub wal: Option<FileStat>,
    /// The `-journal`, if it has bytes.
    pub journal: Option<FileStat>,
}

impl DatabaseStats {
    /// Looks at the main file (which must exist) and its sidecars.
    pub fn of(database: &Path) -> Result<Self> {
        let missing = || Error::io("look at", database)(std::io::ErrorKind::NotFound.into());
        let main = stat(database)?.ok_or_else(missing)?;
        let filled = |sidecar: Sidecar| Ok::<_, Error>(stat(&sidecar.of(database))?.filter(|stat| stat.size > 0));
        Ok(Self { main, wal: filled(Sidecar::Wal)?, journal: filled(Sidecar::Journal)? })
    }
}

/// Whether some process (this one included) has the database's WAL open at this moment.
///
/// Asked without taking a lock, so that no other process can notice. A `-shm` that may not be read counts as unused:
/// then the database is copied before it is opened, which is always safe.
pub fn is_wal_live(database: &Path) -> Result<bool> {
    let shm = Sidecar::Shm.of(database);
    let file = match open_source(&shm) {
        Ok(SourceOpen::File(file)) => file,
        Ok(SourceOpen::HeldBySqlite) => return Ok(true),
        Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::PermissionDenied => return Ok(false),
        Err(error) if error.is_not_found() => return Ok(false),
        Err(error) => return Err(error),
    };
    let mut lock = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: DEADMAN_SWITCH,
        l_len: 1,
        l_pid: 0,
    };
    fcntl(file.file(), FcntlArg::F_OFD_GETLK(&mut lock))
        .map_err(|errno| Error::io("query the locks of", &shm)(errno.into()))?;
    Ok(lock.l_type != libc::F_UNLCK as libc::c_short)
}
