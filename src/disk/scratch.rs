//! Scratch directories: `tmp/<random>/`, one per run, told apart from abandoned ones by a held lock.
//!
//! Invariant: a scratch directory whose `owner.lock` can be taken belongs to nobody, because its owner holds that lock
//! from the directory's first moment to its last. A directory that has no lock file yet may be in the making and is left
//! alone for a minute. So any command may clean up after any crash, without pids and without clocks that must agree.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

use tempfile::{TempDir, TempPath};

use super::durable::{self, DIRECTORY_MODE};
use super::lock::{Acquired, FileLock, LockMode};
use crate::error::{Error, Result};

const OWNER_LOCK: &str = "owner.lock";

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
                .rand_bytes(12)
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

/// Removes the scratch directories below `tmp_root` whose owners are gone and returns how many. A directory that cannot
/// be removed is left for a later command; a missing or unreadable `tmp_root` has none. Nor has one that is a symlink:
/// what it leads to may be anybody's.
pub fn remove_abandoned(tmp_root: &Path) -> usize {
    if !fs::symlink_metadata(tmp_root).is_ok_and(|found| found.is_dir()) {
        return 0;
    }
    let Ok(entries) = fs::read_dir(tmp_root) else { return 0 };
    let directories = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    directories.filter(|entry| remove_if_abandoned(&entry.path())).count()
}

fn remove_if_abandoned(directory: &Path) -> bool {
    let lock = directory.join(OWNER_LOCK);
    let held = match fs::symlink_metadata(&lock) {
        Ok(_) => FileLock::try_acquire(&lock, LockMode::Exclusive),
        Err(error) if error.kind() == io::ErrorKind::NotFound && is_old(directory) => Ok(None),
        Err(_) => return false,
    };
    let abandoned = match &held {
        Ok(Some(Acquired::Held(_))) => true,
        Ok(None) => !lock.exists(),
        _ => false,
    };
    if !abandoned {
        return false;
    }
    match fs::remove_dir_all(directory) {
        Ok(()) => true,
        Err(error) => {
            tracing::debug!(path = %directory.display(), %error, "an abandoned scratch directory stays for now");
            false
        }
    }
}

fn is_old(directory: &Path) -> bool {
    let changed =
        |data: Metadata| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(data.ctime().try_into().ok()?));
    let changed = fs::symlink_metadata(directory).ok().and_then(changed);
    changed.and_then(|changed| changed.elapsed().ok()).is_some_and(|age| age > GRACE)
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

    #[test]
    fn abandoned_directories_go_and_fresh_ones_without_a_lock_stay() {
        let root = tempfile::tempdir().unwrap();
        let abandoned = root.path().join("abandoned");
        fs::create_dir_all(abandoned.join("deep")).unwrap();
        fs::write(abandoned.join(OWNER_LOCK), b"").unwrap();
        let fresh = root.path().join("fresh");
        fs::create_dir(&fresh).unwrap();
        assert_eq!(remove_abandoned(root.path()), 1);
        assert!(!abandoned.exists() && fresh.exists());
        assert_eq!(remove_abandoned(&root.path().join("missing")), 0);
    }

    #[test]
    fn nothing_is_removed_through_a_link() {
        let root = tempfile::tempdir().unwrap();
        let elsewhere = root.path().join("elsewhere");
        fs::create_dir_all(elsewhere.join("somebody's")).unwrap();
        fs::write(elsewhere.join("somebody's").join(OWNER_LOCK), b"").unwrap();
        std::os::unix::fs::symlink(&elsewhere, root.path().join("tmp")).unwrap();
        assert_eq!(remove_abandoned(&root.path().join("tmp")), 0);
        assert!(elsewhere.join("somebody's").exists());
    }
}
