//! An open directory below which a restore works, and names walked from it without following links.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, Dir, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, UTIME_OMIT, Uid, chmod, chownat, fstat,
    mkdirat, openat, openat2, readlinkat, statat, symlinkat, syncfs, utimensat,
};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::super::durable::{create_directories, sync_open_directory};
use super::super::mount::is_mount_point;
use super::super::stat::{FileKind, FileStat, Nanoseconds};
use super::file::TargetFile;
use crate::error::{Error, Result};

const NANOSECONDS_PER_SECOND: Nanoseconds = 1_000_000_000;

/// The directory below which a restore works.
#[derive(Debug)]
pub struct TargetRoot {
    directory: OwnedFd,
    path: PathBuf,
}

/// One entry of a directory of a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetEntry {
    /// Its name in the directory.
    pub name: Vec<u8>,
    /// Its state, a symlink not followed.
    pub stat: FileStat,
}

/// What became of the wish to change an owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnerChange {
    /// The owner and group are as asked.
    Done,
    /// Only root may do that; nothing was changed.
    NotPermitted,
}

impl TargetRoot {
    /// Opens an existing directory; the path itself may be a symlink or a mount point.
    pub fn open(path: &Path) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = openat(CWD, path, flags, Mode::empty());
        let directory = directory.map_err(io::Error::from).map_err(Error::io("open the directory", path))?;
        Ok(Self { directory, path: path.to_path_buf() })
    }

    /// Opens a directory, making it and its missing parents with these permission bits, durably.
    pub fn open_or_create(path: &Path, mode: u32) -> Result<Self> {
        create_directories(path, mode)?;
        Self::open(path)
    }

    /// The path by which it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of a name in it, for messages.
    pub fn path_of(&self, name: &[u8]) -> PathBuf {
        if name.is_empty() { self.path.clone() } else { self.path.join(OsStr::from_bytes(name)) }
    }

    /// The state of a name (`b""` is the root), a symlink not followed; `None` if there is nothing, or if a component
    /// above is missing or no directory.
    pub fn stat(&self, name: &[u8]) -> Result<Option<FileStat>> {
        let found = self.at(name).and_then(|place| place.stat());
        match found {
            Ok(stat) => Ok(Some(stat)),
            Err(Fault::System(Errno::NOENT | Errno::NOTDIR)) => Ok(None),
            Err(fault) => Err(self.error("look at", name, fault)),
        }
    }

    /// The entries of a directory (`b""` is the root), sorted by name.
    pub fn list(&self, name: &[u8]) -> Result<Vec<TargetEntry>> {
        let listed = || {
            let directory = self.open_beneath(name, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
            let mut entries = Vec::new();
            for entry in Dir::read_from(&directory)? {
                let entry = entry?;
                let child = entry.file_name().to_bytes();
                if child != b"." && child != b".." {
                    let place =
                        NameInDirectory { directory: directory.try_clone().map_err(from_io)?, last: child.to_vec() };
                    entries.push(TargetEntry { stat: place.stat()?, name: place.last });
                }
            }
            entries.sort_by(|a, b| a.name.cmp(&b.name));
            Ok(entries)
        };
        listed().map_err(|fault| self.error("list", name, fault))
    }

    /// What a symlink holds.
    pub fn read_link(&self, name: &[u8]) -> Result<Vec<u8>> {
        let link = self.at(name).and_then(|place| Ok(readlinkat(&place.directory, place.name(), Vec::new())?));
        link.map(|link| link.into_bytes()).map_err(|fault| self.error("read the link", name, fault))
    }

    /// Opens an existing regular file for reading and writing in place: not truncated, not replaced, no link followed.
    pub fn open_file(&self, name: &[u8]) -> Result<TargetFile> {
        self.open_existing(name, OFlags::RDWR)
    }

    /// Opens an existing regular file for reading only.
    pub fn read_file(&self, name: &[u8]) -> Result<TargetFile> {
        self.open_existing(name, OFlags::RDONLY)
    }

    /// Checks that this user may make and remove names in a directory (`b""` is the root), by making a file without a
    /// name there: asking for permissions alone would overlook capabilities. A file system that cannot do that is
    /// taken to permit it.
    pub fn check_changeable(&self, name: &[u8]) -> Result<()> {
        let flags = OFlags::RDWR | OFlags::TMPFILE;
        let made =
            self.open_beneath(name, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).and_then(
                |directory| match openat(&directory, ".", flags | OFlags::CLOEXEC, mode_of(0o600)) {
                    Err(errno @ (Errno::ACCESS | Errno::PERM | Errno::ROFS)) => Err(errno.into()),
                    _ => Ok(()),
                },
            );
        made.map_err(|fault| self.error("change the directory", name, fault))
    }

    /// Whether this user owns what stands at a name.
    pub fn is_own(&self, name: &[u8]) -> Result<bool> {
        Ok(self.stat(name)?.is_some_and(|stat| stat.uid == geteuid().as_raw()))
    }

    /// Makes an empty file with these permission bits (whatever the umask) where nothing is, open for reading and
    /// writing.
    pub fn create_file(&self, name: &[u8], mode: u32) -> Result<TargetFile> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let created = self.at(name).and_then(|place| {
            let file = openat(&place.directory, place.name(), flags | OFlags::CLOEXEC, mode_of(0o600))?;
            rustix::fs::fchmod(&file, mode_of(mode))?;
            Ok(File::from(file))
        });
        let file = created.map_err(|fault| self.error("create", name, fault))?;
        Ok(TargetFile::new(file, self.path_of(name)))
    }

    /// Makes a directory with these permission bits (whatever the umask) where nothing is.
    pub fn create_directory(&self, name: &[u8], mode: u32) -> Result<()> {
        let made = self.at(name).and_then(|place| Ok(mkdirat(&place.directory, place.name(), mode_of(0o700))?));
        made.map_err(|fault| self.error("create the directory", name, fault))?;
        self.set_mode(name, mode)
    }

    /// Makes a symlink that holds `link`, wherever that leads, where nothing is.
    pub fn create_symlink(&self, name: &[u8], link: &[u8]) -> Result<()> {
        let made = self.at(name).and_then(|place| Ok(symlinkat(link, &place.directory, place.name())?));
        made.map_err(|fault| self.error("create the link", name, fault))
    }

    /// Sets the permission bits (`0o7777`) of a file or directory. After [`set_owner`](Self::set_owner), which clears
    /// some.
    pub fn set_mode(&self, name: &[u8], mode: u32) -> Result<()> {
        let set = || {
            // Opened only as a name, so that it works on files that their owner may not read; a symlink has no mode.
            let place = self.open_beneath(name, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty())?;
            if FileStat::from(&fstat(&place)?).kind == FileKind::Symlink {
                return Err(Errno::LOOP.into());
            }
            Ok(chmod(format!("/proc/self/fd/{}", place.as_raw_fd()), mode_of(mode))?)
        };
        set().map_err(|fault| self.error("set the mode of", name, fault))
    }

    /// Sets the owner and group of a name, a symlink not followed. The greatest number is nobody's: what has it stays.
    pub fn set_owner(&self, name: &[u8], uid: u32, gid: u32) -> Result<OwnerChange> {
        let owner = (uid != u32::MAX).then(|| Uid::from_raw(uid));
        let group = (gid != u32::MAX).then(|| Gid::from_raw(gid));
        let set = self
            .at(name)
            .and_then(|place| Ok(chownat(&place.directory, place.name(), owner, group, AtFlags::SYMLINK_NOFOLLOW)?));
        match set {
            Ok(()) => Ok(OwnerChange::Done),
            Err(Fault::System(Errno::PERM | Errno::INVAL)) => Ok(OwnerChange::NotPermitted),
            Err(fault) => Err(self.error("set the owner of", name, fault)),
        }
    }

    /// Sets the time of the last change of content, a symlink not followed. The last step on a name: writing changes
    /// it.
    pub fn set_mtime(&self, name: &[u8], mtime: Nanoseconds) -> Result<()> {
        let times = Timestamps {
            last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
            last_modification: Timespec {
                tv_sec: i64::try_from(mtime.div_euclid(NANOSECONDS_PER_SECOND)).unwrap_or_default(),
                tv_nsec: i64::try_from(mtime.rem_euclid(NANOSECONDS_PER_SECOND)).unwrap_or_default(),
            },
        };
        let set = self
            .at(name)
            .and_then(|place| Ok(utimensat(&place.directory, place.name(), &times, AtFlags::SYMLINK_NOFOLLOW)?));
        set.map_err(|fault| self.error("set the time of", name, fault))
    }

    /// On return, the names made in or removed from a directory (`b""` is the root) survive a crash.
    pub fn sync_directory(&self, name: &[u8]) -> Result<()> {
        let synced = self.open_directory(name).and_then(sync_opened);
        synced.map_err(|fault| self.error("fsync the directory", name, fault))
    }

    /// The same, unless this user may not open the directory.
    pub fn sync_directory_where_permitted(&self, name: &[u8]) -> Result<()> {
        let synced = match self.open_directory(name) {
            Err(Fault::System(Errno::ACCESS | Errno::PERM)) => Ok(()),
            opened => opened.and_then(sync_opened),
        };
        synced.map_err(|fault| self.error("fsync the directory", name, fault))
    }

    /// On return, everything that anybody did so far to the file system that the root is on survives a crash.
    pub fn sync_file_system(&self) -> Result<()> {
        syncfs(&self.directory).map_err(|errno| self.error("sync the file system of", b"", errno.into()))
    }

    /// Whether something is mounted at a name.
    pub fn is_mount_point(&self, name: &[u8]) -> Result<bool> {
        is_mount_point(&self.path_of(name))
    }

    fn open_existing(&self, name: &[u8], access: OFlags) -> Result<TargetFile> {
        let opened = self.at(name).and_then(|place| {
            // Looked at first: opening a device or a pipe can act on it.
            if place.stat()?.kind != FileKind::File {
                return Err(Fault::NotAFile);
            }
            let flags = access | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            Ok(File::from(openat(&place.directory, place.name(), flags, Mode::empty())?))
        });
        let file = opened.map_err(|fault| self.error("open", name, fault))?;
        let file = TargetFile::new(file, self.path_of(name));
        match file.stat()?.kind {
            FileKind::File => Ok(file),
            _ => Err(self.error("open", name, Fault::NotAFile)),
        }
    }

    /// The open directory that holds a name, and the name in it.
    pub(super) fn at(&self, name: &[u8]) -> Result<NameInDirectory, Fault> {
        let (parent, last) = match name.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => (name.get(..slash).unwrap_or_default(), name.get(slash + 1..).unwrap_or_default()),
            None => (&b""[..], name),
        };
        if !name.is_empty() && !is_plain(last) {
            return Err(Fault::BadName);
        }
        let directory = self.open_beneath(parent, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?;
        // The root itself is "." in itself.
        Ok(NameInDirectory { directory, last: if name.is_empty() { b".".to_vec() } else { last.to_vec() } })
    }

    fn open_directory(&self, name: &[u8]) -> Result<OwnedFd, Fault> {
        self.open_beneath(name, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
    }

    /// Opens a name without following a link anywhere in it.
    fn open_beneath(&self, name: &[u8], flags: OFlags, mode: Mode) -> Result<OwnedFd, Fault> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        if name.is_empty() {
            return Ok(openat(&self.directory, ".", flags, mode)?);
        }
        if !name.split(|byte| *byte == b'/').all(is_plain) {
            return Err(Fault::BadName);
        }
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        match openat2(&self.directory, name, flags, mode, resolve) {
            // Kernels before 5.6 do not have it, and some sandboxes refuse it.
            Err(Errno::NOSYS | Errno::PERM) => self.walk(name, flags, mode),
            opened => Ok(opened?),
        }
    }

    /// [`open_beneath`](Self::open_beneath) one component at a time.
    pub(super) fn walk(&self, name: &[u8], flags: OFlags, mode: Mode) -> Result<OwnedFd, Fault> {
        let step = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut directory = openat(&self.directory, ".", step, Mode::empty())?;
        let mut components = name.split(|byte| *byte == b'/').peekable();
        while let Some(component) = components.next() {
            let last = components.peek().is_none();
            directory = if last {
                openat(&directory, component, flags, mode)?
            } else {
                openat(&directory, component, step, Mode::empty())?
            };
        }
        Ok(directory)
    }

    pub(super) fn error(&self, action: &'static str, name: &[u8], fault: Fault) -> Error {
        let path = self.path_of(name);
        match fault {
            Fault::BadName => Error::Failed(format!(
                "'{}' is not a name inside {}; the snapshot that holds it must not be restored",
                name.escape_ascii(),
                self.path.display()
            )),
            Fault::NotAFile => Error::Failed(format!("{} is not a regular file; move it away", path.display())),
            Fault::System(Errno::LOOP) => Error::Refused(format!(
                "{} is, or lies behind, a symlink, which is not followed; move it away",
                path.display()
            )),
            Fault::System(errno) => Error::io(action, path)(errno.into()),
        }
    }
}

/// A name in an open directory.
pub(super) struct NameInDirectory {
    pub(super) directory: OwnedFd,
    last: Vec<u8>,
}

impl NameInDirectory {
    pub(super) fn name(&self) -> &[u8] {
        &self.last
    }

    pub(super) fn stat(&self) -> Result<FileStat, Fault> {
        Ok(FileStat::from(&statat(&self.directory, self.name(), AtFlags::SYMLINK_NOFOLLOW)?))
    }
}

/// Why an operation on a name failed.
pub(super) enum Fault {
    /// It could lead out of the root.
    BadName,
    /// It is no regular file.
    NotAFile,
    /// The operating system said so.
    System(Errno),
}

impl From<Errno> for Fault {
    fn from(errno: Errno) -> Self {
        Self::System(errno)
    }
}

fn sync_opened(directory: OwnedFd) -> Result<(), Fault> {
    sync_open_directory(&File::from(directory)).map_err(from_io)
}

fn from_io(error: io::Error) -> Fault {
    Fault::System(Errno::from_io_error(&error).unwrap_or(Errno::IO))
}

fn is_plain(component: &[u8]) -> bool {
    !component.is_empty()
        && component != b"."
        && component != b".."
        && !component.contains(&0)
        && !component.contains(&b'/')
}

fn mode_of(mode: u32) -> Mode {
    Mode::from_raw_mode(mode & 0o7777)
}
