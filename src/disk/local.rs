//! Immutable objects as files below a directory.
//!
//! An object is written into a file without a name (`O_TMPFILE`) and linked under its name once it is on the medium, so
//! that a crash leaves either the whole object or nothing at all, not even a temporary file. Where the file system has
//! no such files, a temporary one in the run's scratch directory takes its place; the scratch directory of a dead run
//! is removed by the next command.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, linkat, openat};
use rustix::io::Errno;
use tempfile::TempPath;

use super::durable::{self, DIRECTORY_MODE, FILE_MODE, Renamed};
use super::read;
use super::storage::{Object, ObjectKind, ObjectWriter, Published, Storage};
use crate::error::{Error, Result};

/// A repository in a directory of this machine.
#[derive(Debug)]
pub struct LocalStorage {
    root: PathBuf,
    scratch: Option<PathBuf>,
}

impl LocalStorage {
    /// Objects below `root`, which need not exist for reading. Without a scratch directory (on the same file system),
    /// nothing can be created.
    pub fn new(root: impl Into<PathBuf>, scratch: Option<&Path>) -> Self {
        Self { root: root.into(), scratch: scratch.map(Path::to_path_buf) }
    }

    fn path_of(&self, name: &str) -> Result<PathBuf> {
        let plain = |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains('\0');
        match name.split('/').all(plain) {
            true => Ok(self.root.join(name)),
            false => Err(Error::Usage(format!("'{}' is not a name of a repository object", name.escape_debug()))),
        }
    }

    fn directory_of(&self, name: &str) -> Result<PathBuf> {
        if name.is_empty() { Ok(self.root.clone()) } else { self.path_of(name) }
    }
}

impl Storage for LocalStorage {
    fn root(&self) -> &Path {
        &self.root
    }

    fn list(&self, directory: &str) -> Result<Vec<Object>> {
        let path = self.directory_of(directory)?;
        let entries = match std::fs::read_dir(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(Error::io("list", &path))?,
        };
        let mut objects = Vec::new();
        for entry in entries {
            let entry = entry.map_err(Error::io("list", &path))?;
            let metadata = match entry.metadata() {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                metadata => metadata.map_err(Error::io("look at", entry.path()))?,
            };
            let name = entry.file_name().to_string_lossy().into_owned();
            if metadata.is_dir() {
                objects.push(Object { name, size: 0, kind: ObjectKind::Directory });
            } else if metadata.is_file() {
                objects.push(Object { name, size: metadata.len(), kind: ObjectKind::File });
            }
        }
        objects.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(objects)
    }

    fn size(&self, name: &str) -> Result<Option<u64>> {
        let path = self.path_of(name)?;
        match std::fs::symlink_metadata(&path) {
            Ok(metadata) => Ok(metadata.is_file().then_some(metadata.len())),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
            Err(error) => Err(Error::io("look at", &path)(error)),
        }
    }

    fn read(&self, name: &str, limit: u64) -> Result<Vec<u8>> {
        let path = self.path_of(name)?;
        let file = open_object(&path)?;
        let mut bytes = Vec::new();
        file.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(Error::io("read", &path))?;
        if bytes.len() as u64 > limit {
            return Err(Error::damaged(
                &path,
                format!("it is longer than the {limit} bytes that such a file may have"),
            ));
        }
        Ok(bytes)
    }

    fn read_range(&self, name: &str, offset: u64, length: usize) -> Result<Vec<u8>> {
        let path = self.path_of(name)?;
        read_exactly(&open_object(&path)?, &path, offset, length)
    }

    fn create(&self) -> Result<Box<dyn ObjectWriter>> {
        let Some(scratch) = &self.scratch else {
            return Err(Error::Refused(format!("the repository {} was opened for reading only", self.root.display())));
        };
        let (file, place) = match open_unnamed(&self.root) {
            Ok(file) => (file, Unpublished::Unnamed),
            Err(error) if may_lack_unnamed_files(&error) => {
                let (file, path) = named_temporary(scratch).map_err(Error::io("create a file in", scratch))?;
                (file, Unpublished::Scratch(path))
            }
            Err(error) => return Err(Error::io("create a file in", &self.root)(error)),
        };
        Ok(Box::new(LocalWriter { file, place, root: self.root.clone(), scratch: scratch.clone(), synced: false }))
    }

    fn delete(&self, name: &str) -> Result<()> {
        let path = self.path_of(name)?;
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io("delete", &path)(error)),
            _ => Ok(()),
        }
    }

    fn set_aside(&self, name: &str, aside: &str) -> Result<Published> {
        let (path, aside) = (self.path_of(name)?, self.path_of(aside)?);
        let directory = durable::parent_of(&aside);
        durable::create_directories(directory, DIRECTORY_MODE)?;
        let published = match linkat(CWD, &path, CWD, &aside, AtFlags::empty()) {
            Ok(()) => Published::New,
            Err(Errno::EXIST) => Published::AlreadyThere,
            Err(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS | Errno::MLINK) => {
                match durable::rename_no_replace(&path, &aside)? {
                    Renamed::Done => Published::New,
                    Renamed::Exists => Published::AlreadyThere,
                }
            }
            Err(error) => return Err(Error::io("set aside", &path)(error.into())),
        };
        durable::sync_directory(directory)?;
        Ok(published)
    }

    fn sync_directory(&self, directory: &str) -> Result<()> {
        durable::sync_directory(&self.directory_of(directory)?)
    }
}

/// Where the bytes are until the object has its name.
enum Unpublished {
    Unnamed,
    Scratch(TempPath),
}

struct LocalWriter {
    file: File,
    place: Unpublished,
    root: PathBuf,
    scratch: PathBuf,
    /// Whether everything written so far is on the medium.
    synced: bool,
}

impl Write for LocalWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.synced = false;
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl ObjectWriter for LocalWriter {
    fn read_back(&self, offset: u64, length: usize) -> Result<Vec<u8>> {
        read_exactly(&self.file, &self.root, offset, length)
    }

    fn sync(&mut self) -> Result<()> {
        self.file.sync_all().map_err(Error::io("fsync a new file in", &self.root))?;
        self.synced = true;
        Ok(())
    }

    fn publish(mut self: Box<Self>, name: &str) -> Result<Published> {
        let path = LocalStorage::new(&self.root, None).path_of(name)?;
        if !self.synced {
            self.sync()?;
        }
        let directory = durable::parent_of(&path);
        durable::create_directories(directory, DIRECTORY_MODE)?;
        let published = match self.place {
            Unpublished::Unnamed => link_unnamed(&self.file, &path)?,
            Unpublished::Scratch(from) => match durable::rename_no_replace(&from, &path)? {
                Renamed::Done => {
                    // The file has left the scratch directory; nothing is there to remove.
                    let _ = from.keep();
                    Published::New
                }
                Renamed::Exists => Published::AlreadyThere,
            },
        };
        // Also when it was already there: whoever linked it may not have come this far.
        durable::sync_directory(directory)?;
        Ok(published)
    }

    fn publish_over(mut self: Box<Self>, name: &str) -> Result<()> {
        let path = LocalStorage::new(&self.root, None).path_of(name)?;
        if !self.synced {
            self.sync()?;
        }
        let from = match self.place {
            Unpublished::Unnamed => {
                let from = self.scratch.join(path.file_name().unwrap_or_default());
                link_unnamed(&self.file, &from)?;
                TempPath::try_from_path(&from).map_err(Error::io("look at", &from))?
            }
            Unpublished::Scratch(from) => from,
        };
        from.persist(&path).map_err(|error| Error::io("replace", &path)(error.error))?;
        durable::sync_directory(durable::parent_of(&path))
    }
}

/// Opens a regular file; whatever else stands there, a link included, is damage.
fn open_object(path: &Path) -> Result<File> {
    let no_file = || Error::damaged(path, "it is no regular file; put it back from a copy of the repository");
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32;
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Err(error) if error.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => return Err(no_file()),
        file => file.map_err(Error::io("open", path))?,
    };
    let is_file = file.metadata().map_err(Error::io("look at", path))?.is_file();
    if is_file { Ok(file) } else { Err(no_file()) }
}

fn read_exactly(file: &File, path: &Path, offset: u64, length: usize) -> Result<Vec<u8>> {
    let end = offset.checked_add(length as u64);
    let size = file.metadata().map_err(Error::io("look at", path))?.len();
    // Asked before the memory is taken: the length may come from a damaged file.
    if end.is_none_or(|end| end > size) {
        let detail = format!("it ends at byte {size}, but {length} bytes from byte {offset} are needed");
        return Err(Error::damaged(path, detail));
    }
    read::read_exactly(file, offset, length).map_err(Error::io("read", path))
}

fn open_unnamed(directory: &Path) -> io::Result<File> {
    // Without /proc the file could never be given its name.
    if !Path::new("/proc/self/fd").is_dir() {
        return Err(Errno::OPNOTSUPP.into());
    }
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    Ok(File::from(openat(CWD, directory, flags, Mode::from_raw_mode(FILE_MODE))?))
}

/// Old kernels take `O_TMPFILE` for an attempt to write a directory, others refuse the flag.
fn may_lack_unnamed_files(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL | Errno::NOSYS))
}

fn named_temporary(scratch: &Path) -> io::Result<(File, TempPath)> {
    let permissions = std::fs::Permissions::from_mode(FILE_MODE);
    Ok(tempfile::Builder::new().prefix("object-").permissions(permissions).tempfile_in(scratch)?.into_parts())
}

fn link_unnamed(file: &File, path: &Path) -> Result<Published> {
    let open_file = format!("/proc/self/fd/{}", file.as_raw_fd());
    match linkat(CWD, open_file.as_str(), CWD, path, AtFlags::SYMLINK_FOLLOW) {
        Ok(()) => Ok(Published::New),
        Err(Errno::EXIST) => Ok(Published::AlreadyThere),
        Err(error) => Err(Error::io("create", path)(error.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn storage(root: &Path) -> LocalStorage {
        let scratch = root.join("tmp");
        fs::create_dir_all(&scratch).unwrap();
        LocalStorage::new(root, Some(&scratch))
    }

    fn writers(storage: &LocalStorage) -> Vec<Box<dyn ObjectWriter>> {
        let (file, path) = named_temporary(storage.scratch.as_ref().unwrap()).unwrap();
        let scratch = storage.scratch.clone().unwrap();
        let named =
            LocalWriter { file, place: Unpublished::Scratch(path), root: storage.root.clone(), scratch, synced: false };
        vec![storage.create().unwrap(), Box::new(named)]
    }

    #[test]
    fn a_directory_or_a_link_in_place_of_an_object_is_damage() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("directory")).unwrap();
        fs::write(root.path().join("file"), b"x").unwrap();
        std::os::unix::fs::symlink("file", root.path().join("link")).unwrap();
        let storage = LocalStorage::new(root.path(), None);
        for name in ["directory", "link"] {
            assert!(matches!(storage.read(name, 10), Err(Error::Damaged { .. })), "{name}");
            assert!(matches!(storage.read_range(name, 0, 1), Err(Error::Damaged { .. })), "{name}");
        }
        assert_eq!(storage.read("file", 10).unwrap(), b"x");
    }

    #[test]
    fn an_object_appears_whole_under_its_name_and_is_never_replaced() {
        let root = tempfile::tempdir().unwrap();
        let storage = storage(root.path());
        for (turn, mut writer) in writers(&storage).into_iter().enumerate() {
            let name = format!("packs/ab/{turn}.pack");
            writer.write_all(b"0123456789").unwrap();
            assert_eq!(writer.read_back(2, 3).unwrap(), b"234");
            assert!(matches!(writer.read_back(8, 3), Err(Error::Damaged { .. })));
            assert_eq!(storage.size(&name).unwrap(), None, "seen before publication");
            assert_eq!(writer.publish(&name).unwrap(), Published::New);
            assert_eq!(storage.read(&name, 10).unwrap(), b"0123456789");
            for mut second in writers(&storage) {
                second.write_all(b"other").unwrap();
                assert_eq!(second.publish(&name).unwrap(), Published::AlreadyThere);
            }
            assert_eq!(storage.read(&name, 10).unwrap(), b"0123456789");
            let mode = fs::metadata(root.path().join(&name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, FILE_MODE);
        }
        assert_eq!(fs::read_dir(root.path().join("tmp")).unwrap().count(), 0, "a temporary file was left");
    }

    #[test]
    fn an_object_takes_the_place_of_a_damaged_one_that_was_set_aside() {
        let root = tempfile::tempdir().unwrap();
        let storage = storage(root.path());
        for (turn, mut writer) in writers(&storage).into_iter().enumerate() {
            let (name, aside) = (format!("packs/ab/{turn}.pack"), format!("damaged/{turn}.pack"));
            fs::create_dir_all(root.path().join("packs/ab")).unwrap();
            fs::write(root.path().join(&name), b"rotten").unwrap();
            assert_eq!(storage.set_aside(&name, &aside).unwrap(), Published::New);
            assert_eq!(storage.set_aside(&name, &aside).unwrap(), Published::AlreadyThere);
            assert_eq!(storage.read(&name, 10).unwrap(), b"rotten");
            writer.write_all(b"sound").unwrap();
            writer.publish_over(&name).unwrap();
            assert_eq!(storage.read(&name, 10).unwrap(), b"sound");
            assert_eq!(storage.read(&aside, 10).unwrap(), b"rotten");
        }
        assert_eq!(fs::read_dir(root.path().join("tmp")).unwrap().count(), 0, "a temporary file was left");
    }

    #[test]
    fn an_unpublished_object_leaves_nothing() {
        let root = tempfile::tempdir().unwrap();
        let storage = storage(root.path());
        for mut writer in writers(&storage) {
            writer.write_all(b"x").unwrap();
        }
        assert_eq!(fs::read_dir(root.path().join("tmp")).unwrap().count(), 0);
    }

    #[test]
    fn reads_outside_an_object_are_damage_and_a_missing_object_is_not_found() {
        let root = tempfile::tempdir().unwrap();
        let storage = storage(root.path());
        fs::write(root.path().join("five"), b"12345").unwrap();
        assert_eq!(storage.read_range("five", 1, 4).unwrap(), b"2345");
        for (offset, length) in [(1, 5), (6, 0), (u64::MAX, 1), (0, usize::MAX)] {
            assert!(matches!(storage.read_range("five", offset, length), Err(Error::Damaged { .. })));
        }
        assert!(matches!(storage.read("five", 4), Err(Error::Damaged { .. })));
        assert!(storage.read("none", 4).unwrap_err().is_not_found());
        storage.delete("five").unwrap();
        storage.delete("five").unwrap();
        assert_eq!(storage.size("five").unwrap(), None);
    }

    #[test]
    fn names_that_leave_the_root_are_refused_and_links_are_not_followed() {
        let root = tempfile::tempdir().unwrap();
        let storage = storage(root.path());
        for name in ["", "/etc/passwd", "../x", "a/../b", "a//b", "a/", "./a", "a\0b"] {
            assert!(matches!(storage.read(name, 1), Err(Error::Usage(_))), "{name:?}");
        }
        fs::write(root.path().join("real"), b"x").unwrap();
        std::os::unix::fs::symlink("real", root.path().join("link")).unwrap();
        assert!(storage.read("link", 9).is_err());
        let listed: Vec<_> = storage.list("").unwrap().into_iter().map(|object| object.name).collect();
        assert_eq!(listed, ["real", "tmp"]);
        assert!(storage.list("missing").unwrap().is_empty());
    }

    #[test]
    fn a_storage_without_scratch_creates_nothing() {
        let root = tempfile::tempdir().unwrap();
        assert!(matches!(LocalStorage::new(root.path(), None).create(), Err(Error::Refused(_))));
    }
}
