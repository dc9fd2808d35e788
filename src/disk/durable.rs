//! The steps from which everything durable is made: a new file or directory, a name that does not replace, fsync.
//!
//! Invariant: when one of these returns success, its effect survives a crash of the machine, assuming that the medium
//! keeps what an fsync reported as written. An fsync that fails is an error and never tried again: the kernel drops the
//! dirty pages and the second call would report success. What may be synced in any order is synced at once: the medium
//! is then flushed once for all of it, which is most of what a small snapshot costs.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;

use rustix::fs::{AtFlags, CWD, RenameFlags, linkat, renameat_with};
use rustix::io::Errno;

use crate::error::{Error, Result};

/// The mode of every file in a repository.
pub const FILE_MODE: u32 = 0o600;
/// The mode of every directory in a repository.
pub const DIRECTORY_MODE: u32 = 0o700;

/// What a rename found under the new name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renamed {
    /// Nothing: the file or directory has its new name.
    Done,
    /// Something: nothing was changed.
    Exists,
}

/// The directory that holds `path`; `.` for a bare name.
pub fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => path,
    }
}

/// Writes a file that must not exist yet, mode 0600; durable together with its name. A failed attempt leaves no file.
pub fn write_new_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let file = create_file(path)?;
    let written = write_bytes(&file, path, bytes).and_then(|()| file.sync_all().map_err(Error::io("write", path)));
    if written.is_err() {
        let _ = std::fs::remove_file(path);
        return written;
    }
    sync_directory(parent_of(path))
}

/// A file of a new directory.
#[derive(Debug, Clone, Copy)]
pub struct NewFile<'a> {
    /// Its name in the directory.
    pub name: &'a str,
    /// What it holds.
    pub bytes: &'a [u8],
}

/// Makes a directory that must not exist yet, mode 0700, and these files in it, mode 0600. What is in it is durable on
/// return, and was read back; its own name is not, since [`rename_no_replace`] is to give it another one. A failed
/// attempt leaves it behind.
pub fn write_new_directory(path: &Path, files: &[NewFile<'_>]) -> Result<()> {
    std::fs::DirBuilder::new().mode(DIRECTORY_MODE).create(path).map_err(Error::io("create the directory", path))?;
    let mut written = Vec::with_capacity(files.len() + 1);
    for new in files {
        let path = path.join(new.name);
        let file = create_file(&path)?;
        write_bytes(&file, &path, new.bytes)?;
        written.push(Unsynced { file, path });
    }
    written.push(Unsynced::directory(path)?);
    sync_together(&written)?;
    files.iter().try_for_each(|new| check_written(&path.join(new.name), new.bytes))
}

/// Reads back what was written.
fn check_written(path: &Path, bytes: &[u8]) -> Result<()> {
    if std::fs::read(path).map_err(Error::io("read", path))? == bytes {
        return Ok(());
    }
    Err(Error::damaged(path, "what was just written does not read back as it was; check the disk"))
}

fn create_file(path: &Path) -> Result<File> {
    let mut new = OpenOptions::new();
    new.write(true).create_new(true).mode(FILE_MODE).open(path).map_err(Error::io("create", path))
}

fn write_bytes(mut file: &File, path: &Path, bytes: &[u8]) -> Result<()> {
    file.write_all(bytes).map_err(Error::io("write", path))
}

/// A file or directory with changes that a crash may still undo.
struct Unsynced {
    file: File,
    path: PathBuf,
}

impl Unsynced {
    fn directory(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::io("open the directory", path))?;
        Ok(Self { file, path: path.to_path_buf() })
    }

    fn sync(&self) -> Result<()> {
        match self.file.sync_all() {
            Err(error) if lacks_support(&error) && self.path.is_dir() => Ok(()),
            outcome => outcome.map_err(Error::io("fsync", &self.path)),
        }
    }
}

/// On return, the changes of all of them survive a crash; in which order they reach the medium is open.
fn sync_together(changed: &[Unsynced]) -> Result<()> {
    let Some((last, others)) = changed.split_last() else { return Ok(()) };
    thread::scope(|scope| {
        let sync_beside = |one| thread::Builder::new().spawn_scoped(scope, move || Unsynced::sync(one));
        let beside: Vec<_> = others.iter().map(|one| (one, sync_beside(one))).collect();
        let mut outcome = last.sync();
        for (one, thread) in beside {
            let synced = match thread.map(thread::ScopedJoinHandle::join) {
                Ok(Ok(synced)) => synced,
                Ok(Err(_)) => Err(Error::Failed(format!("syncing {} stopped unexpectedly", one.path.display()))),
                // There may be no more threads.
                Err(_) => one.sync(),
            };
            outcome = outcome.and(synced);
        }
        outcome
    })
}

/// On return, the names in the directory survive a crash.
///
/// A file system that has no such operation for directories (some network and FUSE file systems answer "invalid
/// argument") orders names in its own way; that answer is accepted.
pub fn sync_directory(path: &Path) -> Result<()> {
    let directory = File::open(path).map_err(Error::io("open the directory", path))?;
    sync_open_directory(&directory).map_err(Error::io("fsync the directory", path))
}

/// [`sync_directory`] for a directory that is already open.
pub(super) fn sync_open_directory(directory: &File) -> io::Result<()> {
    match directory.sync_all() {
        Err(error) if lacks_support(&error) => Ok(()),
        outcome => outcome,
    }
}

/// Renames a file or directory unless the new name exists, and makes both the old and the new directory durable.
///
/// Where the file system cannot do this in one step, a file is linked and unlinked; a directory is renamed after a
/// look, which could replace only an *empty* directory made in between.
pub fn rename_no_replace(from: &Path, to: &Path) -> Result<Renamed> {
    let renamed = match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => rename_in_steps(from, to),
        outcome => outcome.map_err(io::Error::from),
    };
    match renamed {
        Ok(()) => {}
        Err(error) if exists(&error) => return Ok(Renamed::Exists),
        Err(error) => return Err(Error::io("rename to its final name", from)(error)),
    }
    let mut changed = vec![Unsynced::directory(parent_of(to))?];
    if parent_of(from) != parent_of(to) {
        changed.push(Unsynced::directory(parent_of(from))?);
    }
    sync_together(&changed)?;
    Ok(Renamed::Done)
}

/// Makes a directory and those above it that are missing, with the given permission bits, each durable in its parent.
///
/// One that is there but empty may have been made by somebody who was killed before its name was durable; whoever put
/// something in it had that done first.
pub fn create_directories(path: &Path, mode: u32) -> Result<()> {
    if path.is_dir() {
        return if is_empty(path) { sync_where_permitted(parent_of(path)) } else { Ok(()) };
    }
    let parent = parent_of(path);
    if path.file_name() != Some(OsStr::new("")) && parent != path {
        create_directories(parent, mode)?;
    }
    match std::fs::DirBuilder::new().mode(mode).create(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        Err(error) => return Err(Error::io("create the directory", path)(error)),
    }
    sync_directory(parent)
}

/// [`sync_directory`], unless this user may not open the directory: then it was not this tool that made something in
/// it.
fn sync_where_permitted(path: &Path) -> Result<()> {
    match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        Err(error) => Err(Error::io("open the directory", path)(error)),
        Ok(directory) => sync_open_directory(&directory).map_err(Error::io("fsync the directory", path)),
    }
}

/// Whether nothing is in a directory; one that cannot be listed counts as filled.
fn is_empty(path: &Path) -> bool {
    std::fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none())
}

fn rename_in_steps(from: &Path, to: &Path) -> io::Result<()> {
    if std::fs::symlink_metadata(from)?.is_dir() {
        return match std::fs::symlink_metadata(to) {
            Ok(_) => Err(Errno::EXIST.into()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => std::fs::rename(from, to),
            Err(error) => Err(error),
        };
    }
    linkat(CWD, from, CWD, to, AtFlags::empty())?;
    std::fs::remove_file(from)
}

fn exists(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::DirectoryNotEmpty)
}

/// Whether the file system said that it does not know the operation, rather than that it failed.
fn lacks_support(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_new_file_is_private_and_never_replaces() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        write_new_file(&path, b"first").unwrap();
        assert!(write_new_file(&path, b"second").is_err());
        assert_eq!(fs::read(&path).unwrap(), b"first");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, FILE_MODE);
    }

    #[test]
    fn a_new_directory_is_private_with_all_it_holds() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("directory");
        let files = [NewFile { name: "one", bytes: b"first" }, NewFile { name: "two", bytes: b"" }];
        write_new_directory(&path, &files).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, DIRECTORY_MODE);
        for file in files {
            assert_eq!(fs::read(path.join(file.name)).unwrap(), file.bytes);
            assert_eq!(fs::metadata(path.join(file.name)).unwrap().permissions().mode() & 0o777, FILE_MODE);
        }
        assert!(write_new_directory(&path, &files).is_err());
    }

    #[test]
    fn one_failure_among_several_is_a_failure_of_all() {
        let root = tempfile::tempdir().unwrap();
        let directory = || Unsynced::directory(root.path()).unwrap();
        // What is no file cannot be synced.
        let broken = || Unsynced { file: File::open("/proc/self/stat").unwrap(), path: "/proc/self/stat".into() };
        sync_together(&[directory(), directory()]).unwrap();
        assert!(sync_together(&[broken(), directory()]).is_err());
        assert!(sync_together(&[directory(), broken()]).is_err());
    }

    #[test]
    fn a_rename_leaves_what_stands_there() {
        let root = tempfile::tempdir().unwrap();
        let (from, to) = (root.path().join("from"), root.path().join("to"));
        fs::create_dir(&from).unwrap();
        fs::create_dir(&to).unwrap();
        assert_eq!(rename_no_replace(&from, &to).unwrap(), Renamed::Exists);
        assert!(from.is_dir());
        fs::remove_dir(&to).unwrap();
        assert_eq!(rename_no_replace(&from, &to).unwrap(), Renamed::Done);
        assert!(to.is_dir() && !from.exists());
    }

    #[test]
    fn the_steps_without_kernel_support_do_not_replace_either() {
        let root = tempfile::tempdir().unwrap();
        let (from, to) = (root.path().join("from"), root.path().join("to"));
        fs::write(&from, b"new").unwrap();
        fs::write(&to, b"old").unwrap();
        assert!(exists(&rename_in_steps(&from, &to).unwrap_err()));
        assert_eq!(fs::read(&to).unwrap(), b"old");
        fs::remove_file(&to).unwrap();
        rename_in_steps(&from, &to).unwrap();
        assert_eq!(fs::read(&to).unwrap(), b"new");
    }

    #[test]
    fn directories_are_made_down_to_the_last_one() {
        let root = tempfile::tempdir().unwrap();
        let deep = root.path().join("a/b/c");
        create_directories(&deep, DIRECTORY_MODE).unwrap();
        create_directories(&deep, DIRECTORY_MODE).unwrap();
        assert_eq!(fs::metadata(&deep).unwrap().permissions().mode() & 0o777, DIRECTORY_MODE);
        fs::write(root.path().join("file"), b"").unwrap();
        assert!(create_directories(&root.path().join("file/below"), DIRECTORY_MODE).is_err());
    }
}
