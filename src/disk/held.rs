//! Which files SQLite holds open in this process, and the only raw open of a source file.
//!
//! POSIX drops *all* record locks that a process has on a file as soon as it closes *any* descriptor of that file. A
//! raw open and close of a database, or of its `-shm`, would therefore silently take away the locks of our own SQLite
//! connection, and another process could write into the middle of a capture. Invariant: as long as a [`SqliteUse`] of a
//! database lives, no raw descriptor of it or of its sidecars is opened or closed here, and as long as a [`SourceFile`]
//! lives, SQLite is not let at that file.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use parking_lot::Mutex;
use rustix::fs::OFlags;

use super::sqlite::Sidecar;
use super::stat::{FileIdentity, FileKind, FileStat};
use crate::error::{Error, Result};

#[derive(Default)]
struct Registry {
    /// Main files that SQLite holds, by identity: path and how many connections.
    databases: HashMap<FileIdentity, (PathBuf, usize)>,
    /// Files open as plain bytes, and how often.
    raw: HashMap<FileIdentity, usize>,
}

static REGISTRY: LazyLock<Mutex<Registry>> = LazyLock::new(Mutex::default);

impl Registry {
    /// Sidecars come and go while a database is open, so theirs are looked up at the moment of the question.
    fn sqlite_holds(&self, file: FileIdentity) -> bool {
        self.databases.contains_key(&file)
            || self.databases.values().any(|(path, _)| sidecar_identities(path).any(|sidecar| sidecar == file))
    }
}

fn sidecar_identities(database: &Path) -> impl Iterator<Item = FileIdentity> {
    Sidecar::ALL
        .into_iter()
        .filter_map(|sidecar| std::fs::metadata(sidecar.of(database)).ok())
        .map(|data| FileStat::from(&data).identity())
}

/// The outcome of a raw open.
#[derive(Debug)]
pub enum SourceOpen {
    /// The file is open for reading.
    File(SourceFile),
    /// SQLite has it open in this process; it must be read through SQLite, or later.
    HeldBySqlite,
}

impl SourceOpen {
    /// The file, for callers that know of no reason why SQLite should hold it: held = [`Error::Failed`].
    pub fn or_fail(self, path: &Path) -> Result<SourceFile> {
        match self {
            Self::File(file) => Ok(file),
            Self::HeldBySqlite => Err(Error::Failed(format!(
                "{} is being captured through SQLite at this moment; try again",
                path.display()
            ))),
        }
    }
}

/// A source file open for reading as plain bytes.
#[derive(Debug)]
pub struct SourceFile {
    // Dropped in this order: registered until the descriptor is closed.
    file: File,
    _use: RawUse,
}

impl SourceFile {
    /// The open file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Its state now.
    pub fn stat(&self) -> io::Result<FileStat> {
        Ok(FileStat::from(&self.file.metadata()?))
    }
}

#[derive(Debug)]
struct RawUse(FileIdentity);

impl Drop for RawUse {
    fn drop(&mut self) {
        let mut registry = REGISTRY.lock();
        if let Some(count) = registry.raw.get_mut(&self.0) {
            *count -= 1;
            if *count == 0 {
                registry.raw.remove(&self.0);
            }
        }
    }
}

/// Opens a regular source file for reading, without following a symlink in its last component, without waiting (a pipe
/// may have taken its place) and without touching its access time where that is permitted.
///
/// # Errors
/// [`Error::Failed`] if it is not a regular file; [`Error::Io`] otherwise.
pub fn open_source(path: &Path) -> Result<SourceOpen> {
    let mut registry = REGISTRY.lock();
    // Looked at before it is opened: devices act on being opened, and a held file must not even be closed.
    let seen = FileStat::from(&std::fs::symlink_metadata(path).map_err(Error::io("look at", path))?);
    if seen.kind != FileKind::File {
        return Err(Error::Failed(format!("{} is not a regular file; check the path given for it", path.display())));
    }
    if registry.sqlite_holds(seen.identity()) {
        return Ok(SourceOpen::HeldBySqlite);
    }
    let file = open_quietly(path).map_err(Error::io("open", path))?;
    let opened = FileStat::from(&file.metadata().map_err(Error::io("look at", path))?);
    let id = opened.identity();
    if registry.sqlite_holds(id) {
        // The name was moved onto a held file in between; closing this descriptor would drop SQLite's locks.
        std::mem::forget(file);
        return Ok(SourceOpen::HeldBySqlite);
    }
    *registry.raw.entry(id).or_default() += 1;
    drop(registry);
    let source = SourceFile { file, _use: RawUse(id) };
    match opened.kind {
        FileKind::File => Ok(SourceOpen::File(source)),
        _ => Err(Error::Failed(format!("{} is no longer a regular file", path.display()))),
    }
}

fn open_quietly(path: &Path) -> io::Result<File> {
    let open = |flags: OFlags| OpenOptions::new().read(true).custom_flags(flags.bits() as i32).open(path);
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    match open(flags | OFlags::NOATIME) {
        // Only the owner of a file may leave its access time alone.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => open(flags),
        outcome => outcome,
    }
}

/// The right to open a database with SQLite; dropped after its connection is closed.
#[derive(Debug)]
pub struct SqliteUse(FileIdentity);

impl SqliteUse {
    /// Announces that SQLite is about to open the database at `path` (its real path, symlinks resolved).
    ///
    /// # Errors
    /// [`Error::Failed`] if the file or a sidecar is open as plain bytes in this process.
    pub fn of(path: &Path) -> Result<Self> {
        let mut registry = REGISTRY.lock();
        let main = FileStat::from(&std::fs::metadata(path).map_err(Error::io("look at", path))?).identity();
        if std::iter::once(main).chain(sidecar_identities(path)).any(|id| registry.raw.contains_key(&id)) {
            let path = path.display();
            return Err(Error::Failed(format!("{path} is being read as a plain file at this moment; try again")));
        }
        registry.databases.entry(main).or_insert_with(|| (path.to_path_buf(), 0)).1 += 1;
        Ok(Self(main))
    }
}

impl Drop for SqliteUse {
    fn drop(&mut self) {
        let mut registry = REGISTRY.lock();
        if let Some((_, count)) = registry.databases.get_mut(&self.0) {
            *count -= 1;
            if *count == 0 {
                registry.databases.remove(&self.0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_sqlite_holds_is_not_opened_raw_under_any_name_and_the_other_way_round() {
        let root = tempfile::tempdir().unwrap();
        let database = root.path().join("held.db");
        let (wal, alias) = (root.path().join("held.db-wal"), root.path().join("alias"));
        std::fs::write(&database, b"x").unwrap();
        std::fs::hard_link(&database, &alias).unwrap();
        let first = SqliteUse::of(&database).unwrap();
        let second = SqliteUse::of(&database).unwrap();
        std::fs::write(&wal, b"x").unwrap();
        drop(first);
        for path in [&database, &wal, &alias] {
            assert!(matches!(open_source(path).unwrap(), SourceOpen::HeldBySqlite), "{path:?}");
        }
        drop(second);
        let raw = open_source(&wal).unwrap().or_fail(&wal).unwrap();
        assert!(SqliteUse::of(&database).is_err());
        drop(raw);
        assert!(SqliteUse::of(&database).is_ok());
    }

    #[test]
    fn links_directories_and_pipes_are_not_opened() {
        let root = tempfile::tempdir().unwrap();
        let (link, pipe) = (root.path().join("link"), root.path().join("pipe"));
        std::os::unix::fs::symlink("/etc/hostname", &link).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        for path in [link.as_path(), pipe.as_path(), root.path()] {
            assert!(matches!(open_source(path), Err(Error::Failed(_))), "{path:?}");
        }
    }
}
