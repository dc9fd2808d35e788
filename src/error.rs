//! The one error type of the library, grouped by what the caller can do about it.
//!
//! Every message is one plain sentence that names the path concerned and the next step; the source chain holds the
//! technical cause. The command line maps each group to one exit code (`cli::exit`); only reports that hold bad news
//! choose theirs beside it. Why groups and not one variant per place: a caller can retry, correct the call, wait, or
//! give up, and no more.

use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

/// What the library returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an operation did not succeed, grouped by what the caller can do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The call itself is wrong: correct it and call again.
    #[error("{0}")]
    Usage(String),

    /// The operating system refused an operation on a path.
    #[error("cannot {action} {}: {source}{}", path.display(), advice(source))]
    Io {
        /// What was attempted, as a verb phrase (`read`, `create the directory`).
        action: &'static str,
        /// The path concerned, absolute where known.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },

    /// SQLite refused an operation on a database.
    #[error("cannot {action} the SQLite database {}: {source}{}", path.display(), advice_of_sqlite(source))]
    Sqlite {
        /// What was attempted, as a verb phrase (`open`, `copy`).
        action: &'static str,
        /// The database file.
        path: PathBuf,
        /// The cause.
        source: rusqlite::Error,
    },

    /// The operation failed for a reason that the sentence explains.
    #[error("{0}")]
    Failed(String),

    /// The snapshot exists but may not be used as it is.
    #[error("{0}")]
    NotValid(String),

    /// A source kept changing while it was captured; everything else was published.
    #[error("{0}")]
    Changing(String),

    /// The operation was refused to protect the operator; the sentence names what would allow it.
    #[error("{0}")]
    Refused(String),

    /// Another process holds the repository or the live files: wait and call again.
    #[error("{0}")]
    Busy(String),

    /// A file of the repository is damaged, missing or of an unknown version.
    #[error("{}: {detail}", path.display())]
    Damaged {
        /// The file of the repository.
        path: PathBuf,
        /// What is wrong with it and what to do.
        detail: String,
    },

    /// The operator asked to stop.
    #[error("interrupted; nothing that was published before is affected")]
    Interrupted,

    /// The operator asked to stop while a restore wrote: its targets are half written until somebody goes on.
    #[error("interrupted; the restore is unfinished: {ways_on}")]
    RestoreInterrupted {
        /// How to go on.
        ways_on: &'static str,
    },
}

/// The error of the operating system alone, where a library (tempfile) put a path of its own behind it.
fn without_path(error: io::Error) -> io::Error {
    if error.raw_os_error().is_some() {
        return error;
    }
    match error.to_string().split_once(" at path \"") {
        Some((cause, _)) => io::Error::new(error.kind(), cause.to_owned()),
        None => error,
    }
}

/// What to do about a refusal of the operating system, where that is always the same.
fn advice(cause: &io::Error) -> &'static str {
    match Errno::from_io_error(cause) {
        Some(Errno::LOOP) => return "; correct the symbolic link that leads back to itself, or name another path",
        Some(Errno::NAMETOOLONG) => return "; name a shorter path",
        _ => {}
    }
    match cause.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "; make room there and try again",
        io::ErrorKind::PermissionDenied => "; allow this user to, or run vecsnap as one who may",
        io::ErrorKind::ReadOnlyFilesystem => "; mount it so that it can be written",
        io::ErrorKind::NotADirectory => "; a part of this path is a file, so move that away or name another one",
        io::ErrorKind::AlreadyExists => "; something else has this name, so move that away or name another one",
        io::ErrorKind::IsADirectory => "; a directory has this name, so move that away or name another one",
        _ => "",
    }
}

/// What to do about a refusal of SQLite, which tells neither a full medium nor a missing permission by its name.
fn advice_of_sqlite(cause: &rusqlite::Error) -> &'static str {
    use rusqlite::ErrorCode::{CannotOpen, DiskFull};
    match cause.sqlite_error_code() {
        Some(DiskFull) => "; make room there and try again",
        Some(CannotOpen) => "; make room there if the medium is full, or allow this user to write the directory",
        _ => "",
    }
}

impl Error {
    /// An [`Error::Io`] builder for `map_err`: `File::open(p).map_err(Error::io("open", p))`.
    pub fn io(action: &'static str, path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Error {
        let path = path.as_ref().to_path_buf();
        move |source| Error::Io { action, path, source: without_path(source) }
    }

    /// An [`Error::Sqlite`] builder for `map_err`.
    pub fn sqlite(action: &'static str, path: impl AsRef<Path>) -> impl FnOnce(rusqlite::Error) -> Error {
        let path = path.as_ref().to_path_buf();
        move |source| Error::Sqlite { action, path, source }
    }

    /// An [`Error::Damaged`] for a file of the repository.
    pub fn damaged(path: impl AsRef<Path>, detail: impl Into<String>) -> Error {
        Error::Damaged { path: path.as_ref().to_path_buf(), detail: detail.into() }
    }

    /// Whether one file cannot be read, or is not what it should be; what other files hold may still be had.
    pub fn is_of_one_file(&self) -> bool {
        matches!(self, Self::Damaged { .. } | Self::Io { .. })
    }

    /// Whether the cause is that a medium has no room left, of bytes or of names, or that a quota is used up.
    pub fn is_out_of_room(&self) -> bool {
        let full = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded];
        matches!(self, Error::Io { source, .. } if full.contains(&source.kind()))
    }

    /// Whether the cause is that a file or directory does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Error::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_told_once() {
        let missing = tempfile::tempdir().unwrap().path().join("none");
        let refused = tempfile::tempdir_in(&missing).unwrap_err();
        assert!(
            refused.to_string().contains("none"),
            "tempfile tells the path, which is what this is about: {refused}"
        );
        let said = Error::io("create a directory in", &missing)(refused);
        assert!(said.is_not_found() && said.to_string().matches("none").count() == 1, "{said}");
    }

    #[test]
    fn refusals_of_the_system_name_the_path_and_the_next_step() {
        let table = [
            (io::ErrorKind::StorageFull, "make room"),
            (io::ErrorKind::QuotaExceeded, "make room"),
            (io::ErrorKind::PermissionDenied, "allow this user"),
            (io::ErrorKind::ReadOnlyFilesystem, "mount it"),
            (io::ErrorKind::NotADirectory, "name another"),
            (io::ErrorKind::AlreadyExists, "name another"),
            (io::ErrorKind::IsADirectory, "name another"),
        ];
        let causes = table.map(|(kind, step)| (io::Error::from(kind), step));
        let numbered = [(Errno::LOOP, "symbolic link"), (Errno::NAMETOOLONG, "shorter")];
        for (cause, step) in causes.into_iter().chain(numbered.map(|(errno, step)| (errno.into(), step))) {
            let said = Error::io("write", "/backup/x")(cause).to_string();
            assert!(said.starts_with("cannot write /backup/x: ") && said.contains(step), "{said}");
        }
    }
}
