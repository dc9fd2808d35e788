//! Walking a tree in the order of a file table, streaming.
//!
//! Invariant: entries come component by component in the order of names, directories before what they hold, links not
//! followed; so memory is one directory, not the tree. A tree of one moment gives the same [`Fingerprint`] twice.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use walkdir::WalkDir;

use crate::disk::stat::{self, FileKind, FileStat};
use crate::error::{Error, Result};

/// Something found in a tree.
#[derive(Debug, Clone)]
pub(super) struct Found {
    /// Relative to the tree, `/` between components; empty for the tree itself.
    pub(super) path: Vec<u8>,
    /// Absolute.
    pub(super) absolute: PathBuf,
    /// Its stat, links not followed.
    pub(super) stat: FileStat,
}

/// All that is found in the tree at `root`, which is a real path. A name that vanishes during the walk is passed over:
/// the fingerprints will differ.
pub(super) fn walk(root: &Path) -> impl Iterator<Item = Result<Found>> {
    walk_from(root, WalkDir::new(root))
}

/// The root itself and what lies right below it.
pub(super) fn walk_top(root: &Path) -> impl Iterator<Item = Result<Found>> {
    walk_from(root, WalkDir::new(root).max_depth(1))
}

/// The part of such a walk that lies in the directory `name` right below the root; nothing if that does not exist.
pub(super) fn walk_below(root: &Path, name: &[u8]) -> impl Iterator<Item = Result<Found>> {
    walk_from(root, WalkDir::new(root.join(OsStr::from_bytes(name))))
}

fn walk_from(root: &Path, things: WalkDir) -> impl Iterator<Item = Result<Found>> {
    things.sort_by_file_name().into_iter().filter_map(move |entry| match entry {
        Ok(entry) => found(root, entry.path()).transpose(),
        Err(error) => {
            let path = error.path().unwrap_or(root).to_path_buf();
            match error.into_io_error() {
                Some(cause) if cause.kind() == std::io::ErrorKind::NotFound && path != root => None,
                Some(cause) => Some(Err(Error::io("read", &path)(cause))),
                None => Some(Err(Error::Failed(format!("{} leads back to itself", path.display())))),
            }
        }
    })
}

fn found(root: &Path, absolute: &Path) -> Result<Option<Found>> {
    let Some(stat) = stat::lstat(absolute)? else { return Ok(None) };
    let path = absolute.strip_prefix(root).unwrap_or(absolute).as_os_str().as_bytes().to_vec();
    Ok(Some(Found { path, absolute: absolute.to_path_buf(), stat }))
}

impl Found {
    /// When it changed last, in nanoseconds since 1970; directories, whose times do not count, never did.
    pub(super) fn changed(&self) -> i128 {
        if self.stat.kind == FileKind::Directory { 0 } else { self.stat.ctime }
    }
}

/// What the stats of a tree's files say together; equal before and after means that nothing changed in between.
#[derive(Default)]
pub(super) struct Fingerprint {
    hasher: blake3::Hasher,
}

impl Fingerprint {
    /// Takes the next entry. Times of directories do not count: SQLite's sidecars come and go in them.
    pub(super) fn add(&mut self, found: &Found) {
        let stat = &found.stat;
        self.hasher.update(&(found.path.len() as u64).to_le_bytes());
        self.hasher.update(&found.path);
        self.hasher.update(&[stat.kind as u8]);
        self.hasher.update(&stat.inode.to_le_bytes());
        if stat.kind != FileKind::Directory {
            self.hasher.update(&stat.size.to_le_bytes());
            self.hasher.update(&stat.mtime.to_le_bytes());
            self.hasher.update(&stat.ctime.to_le_bytes());
        }
    }

    /// The value to compare.
    pub(super) fn value(&self) -> blake3::Hash {
        self.hasher.finalize()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::table::compare_paths;

    fn fingerprint(root: &Path) -> blake3::Hash {
        let mut fingerprint = Fingerprint::default();
        walk(root).for_each(|found| fingerprint.add(&found.unwrap()));
        fingerprint.value()
    }

    #[test]
    fn names_come_in_the_order_of_a_table() {
        let root = tempfile::tempdir().unwrap();
        for directory in ["a", "a/b", "a-b", "empty"] {
            std::fs::create_dir(root.path().join(directory)).unwrap();
        }
        for file in ["a/z", "a/b/c", "a.b", "a-b/x"] {
            std::fs::write(root.path().join(file), b"").unwrap();
        }
        let paths: Vec<_> = walk(root.path()).map(|found| found.unwrap().path).collect();
        let mut sorted = paths.clone();
        sorted.sort_by(|left, right| compare_paths(left, right));
        assert_eq!(paths, sorted);
        assert_eq!(paths.len(), 9);
    }

    #[test]
    fn any_change_of_a_file_changes_the_fingerprint() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("file");
        std::fs::write(&file, b"1").unwrap();
        let before = fingerprint(root.path());
        assert_eq!(fingerprint(root.path()), before);
        std::thread::sleep(std::time::Duration::from_millis(20));
        std::fs::write(&file, b"2").unwrap();
        assert_ne!(fingerprint(root.path()), before);
    }
}
