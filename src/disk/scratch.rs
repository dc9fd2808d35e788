//! Scratch directories: `tmp/<random>/`, one per run, told apart from abandoned ones by a held lock.
//!
//! Invariants: a scratch directory whose `owner.lock` can be taken belongs to nobody, because its owner holds that lock
//! from the directory's first moment until all else in it is gone; one without that file is in the making or empty. So any
//! command may clean up after any crash, without pids and without clocks that must agree. Nothing else is ever removed:
//! somebody may have made the repository where a `tmp` of other programs lies (format-spec.md §16.4).

use std::ffi::OsStr;
use std::fs::{self, DirEntry, File, Metadata};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

use tempfile::{TempDir, TempPath};

use super::durable::{self, DIRECTORY_MODE};
use super::lock::{Acquired, FileLock, LockMode};
use crate::error::{Error, Result};

const OWNER_LOCK: &str = "owner.lock";

/// Letters and digits in the name of a scratch directory.
const NAME_LENGTH: usize = 12;

/// How old a directory without a lock file must be to count as abandoned.
const GRACE: Duration = Duration::from_secs(60);

/// How often a new directory may be lost to another process that takes it for abandoned.
const ATTEMPTS: usize = 10;

/// A private directory for temporary files of this run; dropping it removes it with everything inside.
#[derive(Debug)]
pub struct ScratchDirectory {
    // Dropped in this order: the lock is held until the directory is gone.
    directory: TempDir,
    _owner: FileLock,
}

impl ScratchDirectory {
    /// Makes `<tmp_root>/<random>/`, and `tmp_root` itself if it is missing.
    pub fn create(tmp_root: &Path) -> Result<Self> {
        if !tmp_root.is_dir() {
            durable::create_directories(tmp_root, DIRECTORY_MODE)?;
        }
        for _ in 0..ATTEMPTS {
            let directory = tempfile::Builder::new()
                .prefix("")
                .rand_bytes(NAME_LENGTH)
                .permissions(fs::Permissions::from_mode(DIRECTORY_MODE))
                .tempdir_in(tmp_root)
                .map_err(Error::io("create a scratch directory in", tmp_root))?;
            let lock = directory.path().join(OWNER_LOCK);
            match FileLock::try_acquire(&lock, LockMode::Exclusive) {
                Ok(Some(held)) if lock.exists() => return Ok(Self { directory, _owner: held.or_refuse()? }),
                // Another process cleaned it away between the two steps.
                Ok(_) => continue,
                Err(error) if error.is_not_found() => continue,
                Err(error) => return Err(error),
            }
        }
        Err(Error::Busy(format!("other processes keep removing new directories in {}; try again", tmp_root.display())))
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }
}

impl Drop for ScratchDirectory {
    fn drop(&mut self) {
        if let Err(error) = remove_contents(self.path()) {
            tracing::debug!(path = %self.path().display(), %error, "a scratch directory stays for a later command");
        }
    }
}

/// Removes the scratch directories below `tmp_root` whose owners are gone and returns how many. A directory that cannot
/// be removed is left for a later command, and one that is none of ours for good; a missing or unreadable `tmp_root` has
/// none. Nor has one that is a symlink: what it leads to may be anybody's.
pub fn remove_abandoned(tmp_root: &Path) -> usize {
    remove_abandoned_after(tmp_root, GRACE)
}

fn remove_abandoned_after(tmp_root: &Path, grace: Duration) -> usize {
    if !fs::symlink_metadata(tmp_root).is_ok_and(|found| found.is_dir()) {
        return 0;
    }
    let Ok(entries) = fs::read_dir(tmp_root) else { return 0 };
    let is_scratch =
        |entry: &DirEntry| is_name(&entry.file_name()) && entry.file_type().is_ok_and(|kind| kind.is_dir());
    entries.flatten().filter(is_scratch).filter(|entry| remove_if_abandoned(&entry.path(), grace)).count()
}

/// Whether a scratch directory may have this name.
pub fn is_name(name: &OsStr) -> bool {
    let name = name.as_encoded_bytes();
    name.len() == NAME_LENGTH && name.iter().all(u8::is_ascii_alphanumeric)
}

fn remove_if_abandoned(directory: &Path, grace: Duration) -> bool {
    let lock = directory.join(OWNER_LOCK);
    let removed = match fs::symlink_metadata(&lock) {
        Ok(found) if found.is_file() && found.len() == 0 => match FileLock::try_acquire(&lock, LockMode::Exclusive) {
            Ok(Some(Acquired::Held(_held))) => remove_contents(directory).and_then(|()| fs::remove_dir(directory)),
            _ => return false,
        },
        // Only an empty one goes.
        Err(error) if error.kind() == io::ErrorKind::NotFound && is_older(directory, grace) => {
            fs::remove_dir(directory)
        }
        _ => return false,
    };
    match removed {
        Ok(()) => true,
        Err(error) => {
            tracing::debug!(path = %directory.display(), %error, "an abandoned scratch directory stays for now");
            false
        }
    }
}

/// Removes what is in a scratch directory, the lock last: what is cut short is still known to be a scratch directory.
fn remove_contents(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_name() == OWNER_LOCK {
            continue;
        }
        let path = entry.path();
        if entry.file_type()?.is_dir() { fs::remove_dir_all(path)? } else { fs::remove_file(path)? }
    }
    fs::remove_file(directory.join(OWNER_LOCK))
}

fn is_older(directory: &Path, age: Duration) -> bool {
    let changed =
        |data: Metadata| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(data.ctime().try_into().ok()?));
    let changed = fs::symlink_metadata(directory).ok().and_then(changed);
    changed.and_then(|changed| changed.elapsed().ok()).is_some_and(|elapsed| elapsed > age)
}

/// Deletes a file: its name now, its blocks beside further work, since those of a large file take their time.
pub fn delete_beside(file: TempPath) {
    let held = File::open(&file);
    drop(file);
    if let Ok(held) = held {
        rayon::spawn(move || drop(held));
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn a_scratch_directory_lives_as_long_as_its_owner() {
        let root = tempfile::tempdir().unwrap();
        let tmp = root.path().join("tmp");
        let scratch = ScratchDirectory::create(&tmp).unwrap();
        fs::write(scratch.path().join("file"), b"x").unwrap();
        assert_eq!(remove_abandoned(&tmp), 0, "a directory in use was removed");
        assert!(scratch.path().join("file").exists());
        drop(scratch);
        assert_eq!(fs::read_dir(&tmp).unwrap().count(), 0);
    }

    /// A directory of this name with a file in it, as an owner that died left it if it is given a lock file.
    fn left_behind(tmp: &Path, name: &str, lock: Option<&[u8]>) -> PathBuf {
        let directory = tmp.join(name);
        fs::create_dir_all(directory.join("deep")).unwrap();
        fs::write(directory.join("deep/file"), b"x").unwrap();
        if let Some(lock) = lock {
            fs::write(directory.join(OWNER_LOCK), lock).unwrap();
        }
        directory
    }

    #[test]
    fn abandoned_directories_go_and_fresh_ones_without_a_lock_stay() {
        let root = tempfile::tempdir().unwrap();
        let abandoned = left_behind(root.path(), "Abandoned123", Some(b""));
        let fresh = root.path().join("InTheMaking1");
        fs::create_dir(&fresh).unwrap();
        assert_eq!(remove_abandoned(root.path()), 1);
        assert!(!abandoned.exists() && fresh.exists());
        assert_eq!(remove_abandoned(&root.path().join("missing")), 0);
        assert_eq!(remove_abandoned_after(root.path(), Duration::ZERO), 1, "an empty one goes after a while");
    }

    #[test]
    fn what_is_none_of_ours_is_never_removed() {
        let root = tempfile::tempdir().unwrap();
        let others = [
            left_behind(root.path(), "work", None),
            left_behind(root.path(), "work of others", Some(b"")),
            left_behind(root.path(), "pytest-of-me", Some(b"")),
            left_behind(root.path(), "TwelveLetter", None),
            left_behind(root.path(), "HoldsAPid012", Some(b"4711")),
            left_behind(root.path(), "LinkToALock1", None),
        ];
        std::os::unix::fs::symlink("/dev/null", others[5].join(OWNER_LOCK)).unwrap();
        assert_eq!(remove_abandoned_after(root.path(), Duration::ZERO), 0);
        assert!(others.iter().all(|directory| directory.join("deep/file").exists()));
    }

    #[test]
    fn nothing_is_removed_through_a_link() {
        let root = tempfile::tempdir().unwrap();
        let elsewhere = root.path().join("elsewhere");
        let somebodys = left_behind(&elsewhere, "Abandoned123", Some(b""));
        std::os::unix::fs::symlink(&elsewhere, root.path().join("tmp")).unwrap();
        assert_eq!(remove_abandoned(&root.path().join("tmp")), 0);
        assert!(somebodys.exists());
    }
}
