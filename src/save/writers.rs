//! What a capture may ask of those who write to the sources meanwhile.
//!
//! A capture needs nobody's help: what moves is read again. Two things help a busy service all the same: a write lock
//! on the vector store's database while its files are read ([`Freeze::Yes`]), and a lock file that the service takes
//! for as long as it ingests ([`IngestLock`]). Invariant: whoever is held off by SQLite's locks is so for a bounded
//! time.

use std::path::PathBuf;
use std::time::Duration;

use crate::disk::{Acquired, FileLock, LockMode};
use crate::error::{Error, Result};

/// Whether writers of the vector store are held off while its files are read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Freeze {
    /// They are not.
    #[default]
    No,
    /// They are, by a write lock on its database.
    Yes,
}

/// How a capture gets along with writers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WriterPolicy {
    /// Whether the vector store is frozen.
    pub freeze: Freeze,
    /// For how long writers may be held off; `None` for no limit.
    pub max_block: Option<Duration>,
    /// A lock that the service takes too.
    pub ingest_lock: Option<IngestLock>,
}

/// A file that whoever ingests locks exclusively with flock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IngestLock {
    /// The file; made, for its owner alone, if it does not exist.
    pub path: PathBuf,
    /// How long to wait for it.
    pub wait: Duration,
}

impl IngestLock {
    /// Takes the lock.
    ///
    /// # Errors
    /// [`Error::Busy`] if it is not free in time; [`Error::Refused`] where it cannot be made or the file system has no
    /// flock; [`Error::Io`].
    pub fn take(&self) -> Result<FileLock> {
        let acquired = FileLock::acquire(&self.path, LockMode::Exclusive, self.wait, "the ingestion");
        match acquired.map_err(|error| self.explain(error))? {
            Acquired::Held(lock) => Ok(lock),
            Acquired::ReadOnly(path) => Err(Error::Refused(format!(
                "the ingestion lock {} does not exist and cannot be made there; let the service make it",
                path.display()
            ))),
        }
    }

    /// Adds what to do where no such file can be.
    fn explain(&self, error: Error) -> Error {
        use std::io::ErrorKind::{IsADirectory, NotADirectory, NotFound};
        match error {
            Error::Io { source, .. } if [IsADirectory, NotADirectory, NotFound].contains(&source.kind()) => {
                Error::Failed(format!(
                    "cannot open the ingestion lock {}: {source}; name a file in a directory that exists, \
                     the one that the service locks too",
                    self.path.display()
                ))
            }
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_file_is_made_and_excludes_the_service_until_it_is_dropped() {
        let root = tempfile::tempdir().unwrap();
        let lock = IngestLock { path: root.path().join("ingest.lock"), wait: Duration::from_millis(30) };
        let held = lock.take().unwrap();
        let service = std::fs::File::open(&lock.path).unwrap();
        assert!(service.try_lock().is_err());
        assert!(matches!(lock.take(), Err(Error::Busy(_))));
        drop(held);
        assert!(service.try_lock().is_ok());
    }

    #[test]
    fn a_lock_that_cannot_be_is_told_with_what_to_name_instead() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("file"), b"").unwrap();
        for path in ["none/lock", "file/lock", "."] {
            let lock = IngestLock { path: root.path().join(path), wait: Duration::ZERO };
            let Err(Error::Failed(said)) = lock.take() else { panic!("{path}") };
            assert!(said.contains(lock.path.to_str().unwrap()) && said.contains("name a file"), "{said}");
        }
    }
}
