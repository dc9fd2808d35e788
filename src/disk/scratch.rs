//! Scratch directories: `tmp/<random>/`, one per run, told apart from abandoned ones by a held lock.
//!
//! Invariants: a scratch directory whose `owner.lock` can be taken belongs to nobody, because its owner holds that lock
//! from the directory's first moment until all else in it is gone; one without that file is in the making or was being
//! removed. So any command may clean up after any crash, without pids and without clocks that must agree. Nothing else
//! is ever removed, and no link is followed: somebody may have made the repository where a `tmp` of other programs lies
//! (format-spec.md §16.4).

use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::process::geteuid;
use tempfile::{TempDir, TempPath};

use super::durable::{self, DIRECTORY_MODE};
use super::lock::{FileLock, LockMode};
use super::stat::{FileKind, FileStat};
use super::target::{TargetEntry, TargetRoot};
use crate::error::{Error, Result};

const OWNER_LOCK: &str = "owner.lock";

/// Letters and digits in the name of a scratch directory.
const NAME_LENGTH: usize = 12;

/// What others than the owner may do.
const OTHERS: u32 = 0o077;
/// What lets others make something in a directory.
const OTHERS_WRITE: u32 = 0o022;

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
        let (Some(tmp_root), Some(name)) = (self.path().parent(), self.path().file_name()) else { return };
        let removed = TargetRoot::open(tmp_root).and_then(|root| remove_contents(&root, name.as_bytes()));
        if let Err(error) = removed {
            tracing::debug!(path = %self.path().display(), %error, "a scratch directory stays for a later command");
            self.directory.disable_cleanup(true);
        }
    }
}

/// Removes the scratch directories below `tmp_root` whose owners are gone and returns how many. A directory that cannot
/// be removed is left for a later command, and one that is none of ours for good; a missing or unreadable `tmp_root`
/// has none. Nor has one that is a symlink: what it leads to may be anybody's.
pub fn remove_abandoned(tmp_root: &Path) -> usize {
    remove_abandoned_after(tmp_root, GRACE)
}

fn remove_abandoned_after(tmp_root: &Path, grace: Duration) -> usize {
    if !fs::symlink_metadata(tmp_root).is_ok_and(|found| found.is_dir()) {
        return 0;
    }
    let Ok(root) = TargetRoot::open(tmp_root) else { return 0 };
    let (Ok(Some(place)), Ok(entries)) = (root.stat(b""), root.list(b"")) else { return 0 };
    let may_be_ours = |entry: &TargetEntry| {
        let is_ours = entry.stat.uid == geteuid().as_raw() && entry.stat.mode & OTHERS == 0;
        // Where nobody else may write, nobody else made it, whatever the file system makes of owners and modes.
        entry.stat.kind == FileKind::Directory && is_name(&entry.name) && (is_ours || place.mode & OTHERS_WRITE == 0)
    };
    let abandoned = entries.iter().filter(|entry| may_be_ours(entry) && remove_if_abandoned(&root, entry, grace));
    abandoned.count()
}

/// Whether a scratch directory may have this name.
pub fn is_name(name: &[u8]) -> bool {
    name.len() == NAME_LENGTH && name.iter().all(u8::is_ascii_alphanumeric)
}

fn remove_if_abandoned(root: &TargetRoot, directory: &TargetEntry, grace: Duration) -> bool {
    let TargetEntry { name, stat } = directory;
    let lock = lock_of(name);
    let removed = match root.stat(&lock) {
        Ok(Some(found)) if found.kind == FileKind::File && found.size == 0 => {
            match FileLock::try_existing(&root.path_of(&lock)) {
                Ok(Some(_held)) => remove_contents(root, name).and_then(|()| root.remove_directory(name)),
                _ => return false,
            }
        }
        // Only an empty one can be removed so.
        Ok(None) if is_older(stat, grace) => root.remove_directory(name),
        _ => return false,
    };
    match removed {
        Ok(()) => true,
        Err(error) => {
            tracing::debug!(path = %root.path_of(name).display(), %error, "an abandoned scratch directory stays for now");
            false
        }
    }
}

/// Removes what is in a scratch directory, the lock last: what is cut short is still known to be a scratch directory.
fn remove_contents(root: &TargetRoot, name: &[u8]) -> Result<()> {
    let mut removed = Ok(());
    for entry in root.list(name)?.iter().filter(|entry| entry.name != OWNER_LOCK.as_bytes()) {
        removed = removed.and(root.remove_tree(&[name, b"/", &entry.name].concat()));
    }
    removed?;
    root.remove_file(&lock_of(name))
}

fn lock_of(name: &[u8]) -> Vec<u8> {
    [name, b"/", OWNER_LOCK.as_bytes()].concat()
}

fn is_older(stat: &FileStat, age: Duration) -> bool {
    let changed = u64::try_from(stat.ctime)
        .ok()
        .and_then(|since| SystemTime::UNIX_EPOCH.checked_add(Duration::from_nanos(since)));
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

    use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

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
        fs::set_permissions(&directory, fs::Permissions::from_mode(DIRECTORY_MODE)).unwrap();
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
    fn where_others_may_write_only_what_is_closed_to_them_is_ours() {
        let root = tempfile::tempdir().unwrap();
        let (closed, open) = ("Abandoned123", "OpenToOthers");
        for (mode, removed) in [(0o1777, 1), (0o700, 2)] {
            fs::set_permissions(root.path(), fs::Permissions::from_mode(mode)).unwrap();
            left_behind(root.path(), closed, Some(b""));
            let open = left_behind(root.path(), open, Some(b""));
            fs::set_permissions(&open, fs::Permissions::from_mode(0o755)).unwrap();
            assert_eq!(remove_abandoned(root.path()), removed, "{mode:o}");
        }
    }

    #[test]
    fn the_lock_goes_after_all_else_so_that_what_is_cut_short_is_known_to_be_ours() {
        let root = tempfile::tempdir().unwrap();
        let abandoned = left_behind(root.path(), "Abandoned123", Some(b""));
        let scratch = ScratchDirectory::create(root.path()).unwrap();
        for name in ["file", "z"] {
            fs::write(scratch.path().join(name), b"x").unwrap();
        }
        let removed_from = |directory: &Path| {
            let watch = Inotify::init(InitFlags::IN_NONBLOCK).unwrap();
            watch.add_watch(directory, AddWatchFlags::IN_DELETE).unwrap();
            watch
        };
        let watches = [removed_from(&abandoned), removed_from(scratch.path())];
        drop(scratch);
        assert_eq!(remove_abandoned(root.path()), 1);
        for (watch, all) in watches.into_iter().zip([2, 3]) {
            let removed: Vec<_> = watch.read_events().unwrap().into_iter().filter_map(|event| event.name).collect();
            assert_eq!(removed.len(), all, "{removed:?}");
            assert_eq!(removed.last().unwrap(), OWNER_LOCK);
        }
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
