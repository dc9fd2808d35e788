//! What a file looked like: the fields by which two states of it are told apart.
//!
//! Equal [`FileStat`]s mean "not changed in between" under the rules of the capture (docs/architecture.md, "Create": a
//! file that changed within 2 s of its capture is read again); they are compared as a whole, never field by field.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::FileType;

use crate::error::{Error, Result};

/// A moment as the kernel records it: nanoseconds since the Unix epoch.
pub type Nanoseconds = i128;

/// What kind of thing a name leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A socket, pipe or device.
    Special,
}

/// A file whatever its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileIdentity {
    /// The device that holds the file.
    pub device: u64,
    /// The file's number on that device.
    pub inode: u64,
}

/// The state of a file as `stat` reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileStat {
    /// The device that holds the file.
    pub device: u64,
    /// The file's number on that device.
    pub inode: u64,
    /// What it is.
    pub kind: FileKind,
    /// Length in bytes.
    pub size: u64,
    /// Bytes that it takes on the medium; less than `size` for a sparse file.
    pub allocated: u64,
    /// Time of the last change of its content.
    pub mtime: Nanoseconds,
    /// Time of the last change of its content or attributes.
    pub ctime: Nanoseconds,
    /// The permission bits, `0o7777` at most.
    pub mode: u32,
    /// The owner's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
    /// How many names the file has.
    pub links: u64,
}

impl FileStat {
    /// Which file it is.
    pub fn identity(&self) -> FileIdentity {
        FileIdentity { device: self.device, inode: self.inode }
    }
}

impl From<&Metadata> for FileStat {
    fn from(metadata: &Metadata) -> Self {
        let kind = metadata.file_type();
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            kind: match kind {
                _ if kind.is_file() => FileKind::File,
                _ if kind.is_dir() => FileKind::Directory,
                _ if kind.is_symlink() => FileKind::Symlink,
                _ => FileKind::Special,
            },
            size: metadata.len(),
            allocated: metadata.blocks().saturating_mul(512),
            mtime: nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
            ctime: nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
            mode: metadata.mode() & 0o7777,
            uid: metadata.uid(),
            gid: metadata.gid(),
            links: metadata.nlink(),
        }
    }
}

impl From<&rustix::fs::Stat> for FileStat {
    fn from(stat: &rustix::fs::Stat) -> Self {
        Self {
            device: stat.st_dev,
            inode: stat.st_ino,
            kind: match FileType::from_raw_mode(stat.st_mode) {
                FileType::RegularFile => FileKind::File,
                FileType::Directory => FileKind::Directory,
                FileType::Symlink => FileKind::Symlink,
                _ => FileKind::Special,
            },
            size: stat.st_size.try_into().unwrap_or_default(),
            allocated: u64::try_from(stat.st_blocks).unwrap_or_default().saturating_mul(512),
            mtime: nanoseconds(stat.st_mtime, stat.st_mtime_nsec as i64),
            ctime: nanoseconds(stat.st_ctime, stat.st_ctime_nsec as i64),
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            links: stat.st_nlink,
        }
    }
}

/// The state of what the path leads to, symlinks followed; `None` if there is nothing.
pub fn stat(path: &Path) -> Result<Option<FileStat>> {
    present(std::fs::metadata(path), path)
}

/// The state of the name itself, a symlink not followed; `None` if there is nothing.
pub fn lstat(path: &Path) -> Result<Option<FileStat>> {
    present(std::fs::symlink_metadata(path), path)
}

fn present(metadata: io::Result<Metadata>, path: &Path) -> Result<Option<FileStat>> {
    match metadata {
        Ok(metadata) => Ok(Some(FileStat::from(&metadata))),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(Error::io("look at", path)(error)),
    }
}

fn nanoseconds(seconds: i64, nanoseconds: i64) -> Nanoseconds {
    Nanoseconds::from(seconds) * 1_000_000_000 + Nanoseconds::from(nanoseconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_seen_as_itself_or_as_what_it_leads_to() {
        let root = tempfile::tempdir().unwrap();
        let (file, link) = (root.path().join("file"), root.path().join("link"));
        std::fs::write(&file, b"12345").unwrap();
        std::os::unix::fs::symlink("file", &link).unwrap();
        assert_eq!(stat(&link).unwrap(), stat(&file).unwrap());
        assert_eq!(stat(&file).unwrap(), Some(FileStat::from(&rustix::fs::stat(&file).unwrap())));
        assert_eq!(stat(&link).unwrap().unwrap().size, 5);
        assert_eq!(lstat(&link).unwrap().unwrap().kind, FileKind::Symlink);
        assert_eq!(lstat(&file.join("below")).unwrap(), None);
    }
}
