//! Where a source is restored to.
//!
//! A single file is restored inside the directory that holds it, a tree inside its own directory; either is opened once
//! and everything below it is named relative to it. Invariant: the operator's own path is followed if it is a symlink,
//! even one that leads to nothing yet; below the directory no link is followed. The directory of a tree is never
//! removed, renamed or replaced, since it may be a bind mount.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use crate::disk::sqlite::Sidecar;
use crate::disk::stat::{self, FileKind};
use crate::disk::target::TargetRoot;
use crate::error::{Error, Result};
use crate::format::manifest::SourceKind;

/// Links followed before a path counts as a loop.
const MOST_LINKS: usize = 40;
/// Permission bits of directories above a target that are missing, as `mkdir -p` would make them.
const PARENT_MODE: u32 = 0o755;

/// The place of one source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    /// The source's name.
    pub(super) source: String,
    /// What it is.
    pub(super) kind: SourceKind,
    /// The directory below which everything happens: the tree itself, or the one that holds the file.
    pub(super) directory: PathBuf,
    /// The file's name in the directory; empty for a tree.
    pub(super) name: Vec<u8>,
}

impl Target {
    /// Finds the real place of a source; it need not exist.
    ///
    /// # Errors
    /// [`Error::Refused`] if something of another kind stands there; I/O errors.
    pub(super) fn locate(source: &str, kind: SourceKind, path: &Path) -> Result<Self> {
        let real = resolve(path)?;
        let wanted = if kind == SourceKind::Tree { FileKind::Directory } else { FileKind::File };
        if let Some(found) = stat::lstat(&real)?
            && found.kind != wanted
        {
            let what = if kind == SourceKind::Tree { "a directory" } else { "a regular file" };
            return Err(Error::Refused(format!("{} is not {what}; move it away", real.display())));
        }
        let (directory, name) = match (kind, real.file_name(), real.parent()) {
            (SourceKind::Tree, ..) => (real, Vec::new()),
            (_, Some(name), Some(parent)) => (parent.to_path_buf(), name.as_bytes().to_vec()),
            _ => return Err(Error::Usage(format!("{} does not name a file", path.display()))),
        };
        Ok(Self { source: source.into(), kind, directory, name })
    }

    /// The real path of the source.
    pub(super) fn path(&self) -> PathBuf {
        if self.name.is_empty() { self.directory.clone() } else { self.directory.join(OsStr::from_bytes(&self.name)) }
    }

    /// Opens its directory, if that exists.
    ///
    /// # Errors
    /// I/O errors.
    pub(super) fn open(&self) -> Result<Option<TargetRoot>> {
        match TargetRoot::open(&self.directory) {
            Ok(root) => Ok(Some(root)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Opens its directory, making it and those above it where they are missing.
    ///
    /// # Errors
    /// I/O errors.
    pub(super) fn open_or_create(&self) -> Result<TargetRoot> {
        TargetRoot::open_or_create(&self.directory, PARENT_MODE)
    }

    /// The sidecars that a database of this name may have in the directory.
    pub(super) fn sidecars(name: &[u8]) -> impl Iterator<Item = Vec<u8>> {
        Sidecar::ALL.into_iter().map(move |sidecar| [name, sidecar.suffix().as_bytes()].concat())
    }
}

/// Refuses files that lie inside the tree that is restored too, which would remove them, and one place for two of them:
/// the database and its sidecars, and another file.
///
/// # Errors
/// [`Error::Usage`] naming both.
pub(super) fn check_apart(targets: &[Target]) -> Result<()> {
    for database in targets.iter().filter(|target| target.kind == SourceKind::Sqlite) {
        let taken: Vec<_> = Target::sidecars(&database.name).chain([database.name.clone()]).collect();
        for other in targets.iter().filter(|target| target.kind == SourceKind::File) {
            if other.directory == database.directory && taken.contains(&other.name) {
                return Err(Error::Usage(format!(
                    "{} is named for {} and belongs to the database {}; give each a path of its own",
                    other.path().display(),
                    other.source,
                    database.path().display()
                )));
            }
        }
    }
    for tree in targets.iter().filter(|target| target.kind == SourceKind::Tree) {
        for file in targets.iter().filter(|target| target.kind != SourceKind::Tree) {
            if file.path().starts_with(&tree.directory) {
                return Err(Error::Usage(format!(
                    "{} lies in {}, which is restored as a whole; keep them apart",
                    file.path().display(),
                    tree.directory.display()
                )));
            }
        }
    }
    Ok(())
}

/// The path without symlinks, as far as it exists.
///
/// # Errors
/// [`Error::Refused`] for a loop of links; [`Error::Usage`] for a path that leads through `..`; I/O errors.
pub(super) fn resolve(path: &Path) -> Result<PathBuf> {
    let mut path = std::path::absolute(path).map_err(Error::io("resolve", path))?;
    for _ in 0..MOST_LINKS {
        match std::fs::canonicalize(&path) {
            Ok(real) => return Ok(real),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::io("resolve", &path)(error)),
        }
        let (existing, missing) = split_missing(&path)?;
        let mut names = missing.components();
        let first = names.next().map(|name| existing.join(name)).unwrap_or_else(|| existing.clone());
        match std::fs::read_link(&first) {
            // A link to nothing: what it names is what the operator means.
            Ok(link) => path = existing.join(link).join(names.as_path()),
            Err(_) if missing.components().all(|name| matches!(name, Component::Normal(_))) => {
                return Ok(existing.join(missing));
            }
            Err(_) => return Err(Error::Usage(format!("{} leads through '..'; give a plain path", path.display()))),
        }
    }
    Err(Error::Refused(format!("{} is a loop of symlinks; remove it", path.display())))
}

/// The real path of the longest part that exists, and the rest.
fn split_missing(path: &Path) -> Result<(PathBuf, PathBuf)> {
    for ancestor in path.ancestors().skip(1) {
        match std::fs::canonicalize(ancestor) {
            Ok(real) => return Ok((real, path.strip_prefix(ancestor).unwrap_or(path).to_path_buf())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::io("resolve", ancestor)(error)),
        }
    }
    Ok((PathBuf::from("/"), path.strip_prefix("/").unwrap_or(path).to_path_buf()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn paths_are_followed_to_where_they_lead_even_if_nothing_is_there() {
        let root = tempfile::tempdir().unwrap();
        let real = root.path().canonicalize().unwrap();
        fs::create_dir(real.join("data")).unwrap();
        symlink("data", real.join("link")).unwrap();
        symlink("../gone/a.db", real.join("data/a.db")).unwrap();
        let locate = |path: &str| Target::locate("db", SourceKind::Sqlite, &real.join(path));
        assert_eq!(locate("link/b.db").unwrap().path(), real.join("data/b.db"));
        let dangling = locate("link/a.db").unwrap();
        assert_eq!((dangling.directory.as_path(), dangling.name.as_slice()), (&*real.join("gone"), &b"a.db"[..]));
        assert_eq!(locate("none/deep/a.db").unwrap().path(), real.join("none/deep/a.db"));
        assert!(locate("none/../a.db").is_err());
        symlink("loop", real.join("loop")).unwrap();
        assert!(locate("loop").is_err());
    }

    #[test]
    fn what_stands_there_must_be_of_the_right_kind() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("file"), b"").unwrap();
        let locate = |kind, path: &Path| Target::locate("x", kind, path);
        assert!(matches!(locate(SourceKind::Sqlite, root.path()), Err(Error::Refused(_))));
        assert!(matches!(locate(SourceKind::Tree, &root.path().join("file")), Err(Error::Refused(_))));
        let tree = locate(SourceKind::Tree, root.path()).unwrap();
        let file = locate(SourceKind::File, &root.path().join("file")).unwrap();
        assert!(check_apart(&[file, tree]).is_err());
    }

    #[test]
    fn one_place_is_not_given_to_two() {
        let root = tempfile::tempdir().unwrap();
        let locate = |kind, name: &str| Target::locate(name, kind, &root.path().join(name)).unwrap();
        let database = locate(SourceKind::Sqlite, "a.db");
        for name in ["a.db", "a.db-wal", "a.db-journal"] {
            let both = check_apart(&[database.clone(), locate(SourceKind::File, name)]);
            assert!(matches!(both, Err(Error::Usage(_))), "{name}");
        }
        assert!(check_apart(&[database, locate(SourceKind::File, "a.json")]).is_ok());
    }
}
