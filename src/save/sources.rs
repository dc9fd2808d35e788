//! The sources of a service: their names, kinds and places.
//!
//! Invariants: a source is known by its name, wherever it lies; its path in a record is information and locates
//! nothing; no source lies in the repository, nor the repository in one.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use chrono::Utc;

use crate::disk::stat::FileStat;
use crate::error::{Error, Result};
use crate::format::content::Content;
use crate::format::manifest::{Consistency, SourceKind, SourceRecord, SourceState, Verdict};
use crate::format::table::{Stat, Time};

/// Where the live sources are: absolute paths, each of which may be a symlink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveSources {
    /// The SQLite database.
    pub db: PathBuf,
    /// The registry.
    pub registry: PathBuf,
    /// The Chroma directory; none where nobody named it, and then it can be neither captured nor restored.
    pub chroma: Option<PathBuf>,
}

impl LiveSources {
    /// The Chroma directory, for an operation that needs it.
    ///
    /// # Errors
    /// [`Error::Usage`] where nobody named it.
    pub fn chroma(&self) -> Result<&Path> {
        let unnamed =
            || Error::Usage("the Chroma directory is not named; give --chroma-dir or set ATOCORE_DATA_DIR".into());
        self.chroma.as_deref().ok_or_else(unnamed)
    }

    /// Refuses a tree that holds the repository, or lies in it: a snapshot would hold itself.
    ///
    /// # Errors
    /// [`Error::Usage`] naming both.
    pub fn check_apart_from(&self, repository: &Path) -> Result<()> {
        let real = |path: &Path| std::fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
        let (tree, repository) = (self.chroma.as_deref().map(real), real(repository));
        if let Some(tree) = tree
            && (repository.starts_with(&tree) || tree.starts_with(&repository))
        {
            return Err(Error::Usage(format!(
                "the repository {} and the Chroma directory {} lie in one another; keep them apart, with another --repo",
                repository.display(),
                tree.display()
            )));
        }
        for file in [&self.db, &self.registry] {
            if real(file).starts_with(&repository) {
                return Err(Error::Usage(format!(
                    "{} lies in the repository {}; keep them apart",
                    file.display(),
                    repository.display()
                )));
            }
        }
        Ok(())
    }
}

impl LiveSources {
    /// Refuses a directory for other things in the Chroma directory: the next snapshot would hold them.
    ///
    /// # Errors
    /// [`Error::Usage`] naming both.
    pub fn check_outside_tree(&self, directory: &Path) -> Result<()> {
        let absolute = std::path::absolute(directory).map_err(Error::io("resolve", directory))?;
        // It need not exist yet.
        let real = absolute.ancestors().find_map(|path| std::fs::canonicalize(path).ok()).unwrap_or(absolute);
        let tree = self.chroma.as_deref().and_then(|tree| std::fs::canonicalize(tree).ok());
        match tree.filter(|tree| real.starts_with(tree)) {
            None => Ok(()),
            Some(tree) => Err(Error::Usage(format!(
                "{} lies in the live Chroma directory {}; name a directory outside",
                directory.display(),
                tree.display()
            ))),
        }
    }
}

/// The name under which a single file stands in its source's table: the last component of its path.
///
/// # Errors
/// [`Error::Usage`] for a path without one.
pub fn file_name(path: &Path) -> Result<&OsStr> {
    path.file_name()
        .ok_or_else(|| Error::Usage(format!("{} does not name a file; check the path given for it", path.display())))
}

/// A record of a source of which nothing has been captured yet.
pub(super) fn record(name: &str, kind: SourceKind, state: SourceState, path: &Path, started: Time) -> SourceRecord {
    SourceRecord {
        name: name.into(),
        kind,
        state,
        path: path.as_os_str().as_bytes().to_vec(),
        table: Content::EMPTY,
        files: 0,
        bytes: 0,
        started,
        verdict: Verdict::Unchecked,
        consistency: Consistency::Unproven,
        writer_blocked_microseconds: 0,
    }
}

/// A moment as a table holds it.
pub(super) fn time(nanoseconds: i128) -> Time {
    const SECOND: i128 = 1_000_000_000;
    Time {
        seconds: i64::try_from(nanoseconds.div_euclid(SECOND)).unwrap_or(0),
        nanoseconds: u32::try_from(nanoseconds.rem_euclid(SECOND)).unwrap_or(0),
    }
}

/// A stat as a table holds it.
pub(super) fn table_stat(stat: &FileStat) -> Stat {
    Stat { inode: stat.inode, size: stat.size, modified: time(stat.mtime), changed: time(stat.ctime) }
}

/// The time of day.
pub(super) fn now() -> Time {
    time(Utc::now().timestamp_nanos_opt().map_or(0, i128::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_in_the_tree_or_around_it_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let at = |path: &str| root.path().join(path);
        std::fs::create_dir_all(at("data/chroma/repo")).unwrap();
        std::os::unix::fs::symlink("data/chroma", at("link")).unwrap();
        let sources = LiveSources { db: at("data/db"), registry: at("registry"), chroma: Some(at("link")) };
        assert!(sources.check_apart_from(&at("backups")).is_ok());
        assert!(sources.check_apart_from(&at("data/chroma/repo")).is_err());
        assert!(sources.check_apart_from(&at("data")).is_err());
        assert!(sources.check_apart_from(&at("data/chroma2")).is_ok());
        assert!(sources.check_outside_tree(&at("data/chroma/new/deep")).is_err());
        assert!(sources.check_outside_tree(&at("data/chroma2/new")).is_ok());
        let without = LiveSources { chroma: None, ..sources };
        assert!(without.check_outside_tree(&at("data/chroma/new")).is_ok());
        assert!(without.check_apart_from(&at("data/chroma/repo")).is_ok());
        assert!(matches!(without.chroma(), Err(Error::Usage(_))));
    }

    #[test]
    fn moments_before_1970_keep_their_nanoseconds_positive() {
        assert_eq!(time(-1), Time { seconds: -1, nanoseconds: 999_999_999 });
        assert_eq!(time(1_500_000_000), Time { seconds: 1, nanoseconds: 500_000_000 });
    }
}
