//! Locks between processes that vanish with their process: flock on files that are never removed while it matters.
//!
//! Invariant: a lock is held exactly as long as its [`FileLock`] lives, so none can be stale. The lock files stay where
//! they are, since removing one would let two processes hold "the same" lock on two files; that of a scratch directory
//! goes with it, and whoever has just locked one looks whether it is still there. Upgrading from shared to exclusive is
//! dropping and taking again: flock itself offers nothing better, and what was read before must be read again
//! afterwards.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::durable::FILE_MODE;
use crate::error::{Error, Result};

/// How long to sleep between two attempts.
const POLL: Duration = Duration::from_millis(20);

/// Who may hold the lock at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockMode {
    /// Any number of shared holders.
    Shared,
    /// One holder alone.
    Exclusive,
}

/// A held lock; dropping it releases it.
#[derive(Debug)]
pub struct FileLock {
    /// Held for its lock alone.
    _file: File,
    path: PathBuf,
}

/// The outcome of taking a lock.
#[derive(Debug)]
pub enum Acquired {
    /// The lock is held.
    Held(FileLock),
    /// There is no lock file and none can be made here: the place is read-only, so nothing in it can be changed by a
    /// process that would need the lock. Readers go on without it.
    ReadOnly(PathBuf),
}

impl Acquired {
    /// The lock, for callers that are about to write: a read-only place is refused.
    pub fn or_refuse(self) -> Result<FileLock> {
        match self {
            Self::Held(lock) => Ok(lock),
            Self::ReadOnly(path) => Err(Error::Refused(format!(
                "cannot make the lock file {}: the place is read-only; use a repository that this user may write",
                path.display()
            ))),
        }
    }
}

impl FileLock {
    /// Takes the lock, waiting up to `wait`. `what` says what is locked, as in "the repository /backup".
    ///
    /// # Errors
    /// [`Error::Busy`] if another process still holds it after `wait`; [`Error::Refused`] if the file system has no
    /// flock, since nothing else would be safe there.
    pub fn acquire(path: &Path, mode: LockMode, wait: Duration, what: &str) -> Result<Acquired> {
        let file = match open_lock_file(path)? {
            Some(file) => file,
            None => return Ok(Acquired::ReadOnly(path.to_path_buf())),
        };
        let held = Self::wait_for(file, path, mode, wait)?.map(Acquired::Held);
        held.ok_or_else(|| busy(path, mode, wait, what, "try again or raise --lock-wait"))
    }

    /// Takes the lock that a directory itself can have, exclusively, waiting up to `wait`, which is not for the
    /// operator to choose.
    ///
    /// # Errors
    /// As those of [`FileLock::acquire`]; I/O errors.
    pub fn acquire_directory(path: &Path, wait: Duration, what: &str) -> Result<Self> {
        let file = File::open(path).map_err(Error::io("open", path))?;
        let held = Self::wait_for(file, path, LockMode::Exclusive, wait)?;
        held.ok_or_else(|| busy(path, LockMode::Exclusive, wait, what, "the next command tries again"))
    }

    /// `None` if another process still holds it after `wait`.
    fn wait_for(file: File, path: &Path, mode: LockMode, wait: Duration) -> Result<Option<Self>> {
        let give_up = Instant::now() + wait;
        while !lock_now(&file, path, mode)? {
            let left = give_up.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            thread::sleep(POLL.min(left));
        }
        Ok(Some(Self { _file: file, path: path.to_path_buf() }))
    }

    /// Takes the lock if it is free at this moment; `None` if another process holds it.
    pub fn try_acquire(path: &Path, mode: LockMode) -> Result<Option<Acquired>> {
        let Some(file) = open_lock_file(path)? else {
            return Ok(Some(Acquired::ReadOnly(path.to_path_buf())));
        };
        let held = lock_now(&file, path, mode)?;
        Ok(held.then(|| Acquired::Held(Self { _file: file, path: path.to_path_buf() })))
    }

    /// Takes the lock of a file that is there, exclusively, if it is free at this moment; none is made.
    ///
    /// # Errors
    /// As those of [`FileLock::acquire`]; I/O errors, a missing file among them.
    pub fn try_existing(path: &Path) -> Result<Option<Self>> {
        let mut options = OpenOptions::new();
        let opened = options.read(true).custom_flags(OFlags::NOFOLLOW.bits() as i32).open(path);
        let file = opened.map_err(Error::io("open the lock file", path))?;
        let held = lock_now(&file, path, LockMode::Exclusive)?;
        Ok(held.then(|| Self { _file: file, path: path.to_path_buf() }))
    }

    /// The lock file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Opens the lock file, making it if it is missing; `None` if it is missing and the place is read-only.
fn open_lock_file(path: &Path) -> Result<Option<File>> {
    let mut options = OpenOptions::new();
    options.read(true).mode(FILE_MODE).custom_flags(OFlags::NOFOLLOW.bits() as i32);
    let refused = match options.clone().write(true).create(true).truncate(false).open(path) {
        Ok(file) => return Ok(Some(file)),
        Err(error) => error,
    };
    if !matches!(refused.kind(), io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied) {
        return Err(Error::io("open the lock file", path)(refused));
    }
    match options.open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("open the lock file", path)(error)),
    }
}

/// Whether the lock was free and is now held.
fn lock_now(file: &File, path: &Path, mode: LockMode) -> Result<bool> {
    let attempt = match mode {
        LockMode::Shared => file.try_lock_shared(),
        LockMode::Exclusive => file.try_lock(),
    };
    match attempt {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Interrupted => Ok(false),
        Err(TryLockError::Error(error)) => Err(match Errno::from_io_error(&error) {
            Some(Errno::OPNOTSUPP | Errno::NOLCK | Errno::NOSYS | Errno::INVAL | Errno::BADF) => {
                Error::Refused(format!(
                    "the file system of {} does not offer flock ({error}); keep the repository on one that does",
                    path.display()
                ))
            }
            _ => Error::io("lock", path)(error),
        }),
    }
}

fn busy(path: &Path, mode: LockMode, wait: Duration, what: &str, advice: &str) -> Error {
    let holder = match mode {
        LockMode::Shared => "another process holds it alone",
        LockMode::Exclusive => "other processes are using it",
    };
    Error::Busy(format!(
        "{what} is busy: {holder} (lock file {}, waited {} s); {advice}",
        path.display(),
        wait.as_secs()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(path: &Path, mode: LockMode) -> FileLock {
        FileLock::try_acquire(path, mode).unwrap().expect("free").or_refuse().unwrap()
    }

    #[test]
    fn shared_holders_coexist_and_an_exclusive_one_waits_for_them() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("lock");
        let (first, second) = (held(&path, LockMode::Shared), held(&path, LockMode::Shared));
        let refused = FileLock::acquire(&path, LockMode::Exclusive, Duration::from_millis(50), "the repository /r");
        let Err(Error::Busy(message)) = refused else { panic!("{refused:?}") };
        assert!(message.contains("the repository /r") && message.contains("lock"), "{message}");
        let waiting = thread::spawn({
            let path = path.clone();
            move || FileLock::acquire(&path, LockMode::Exclusive, Duration::from_secs(20), "it").unwrap().or_refuse()
        });
        thread::sleep(Duration::from_millis(40));
        drop((first, second));
        let exclusive = waiting.join().unwrap().unwrap();
        assert!(FileLock::try_acquire(&path, LockMode::Shared).unwrap().is_none());
        drop(exclusive);
        assert!(FileLock::try_acquire(&path, LockMode::Shared).unwrap().is_some());
        assert!(path.exists(), "lock files are never removed");
    }

    #[test]
    fn an_existing_lock_file_in_a_read_only_place_still_locks() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("lock");
        std::fs::write(&path, b"").unwrap();
        let read_only = OpenOptions::new().read(true).open(&path).unwrap();
        assert!(lock_now(&read_only, &path, LockMode::Exclusive).unwrap());
        assert!(FileLock::try_acquire(&path, LockMode::Shared).unwrap().is_none());
    }

    #[test]
    fn a_missing_directory_is_an_error_and_not_a_read_only_place() {
        let root = tempfile::tempdir().unwrap();
        let missing = FileLock::try_acquire(&root.path().join("none/lock"), LockMode::Shared);
        assert!(missing.unwrap_err().is_not_found());
    }
}
