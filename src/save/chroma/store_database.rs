//! The database of a store: asked while it is live, and frozen.
//!
//! Invariant: a live database is only read, and its locks are held for the length of one question; frozen, it is held
//! by the write lock of SQLite itself, which goes with the process.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::Connection;

use crate::disk::sqlite::{BlockLimit, WriteLock};
use crate::error::{Error, Result};
use crate::format::manifest::CHROMA;
use crate::save::capturing::Capturing;
use crate::save::sqlite;
use crate::save::tree::PAUSE;
use crate::save::tree::look::{Cut, SETTLED, look_now};

/// How long to wait for locks of the database.
const LOCK_WAIT: Duration = Duration::from_secs(60);
/// How often the store is frozen anew because it was being persisted at that moment.
const FREEZES: usize = 20;

/// What the live database says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer<T> {
    /// What it was asked for.
    Store(T),
    /// It is not the database of a store.
    NoStore,
    /// Nothing: nobody uses it and it needs recovery, or it is none that is known here.
    None,
}

impl<T> Answer<T> {
    /// What it was asked for, if it said that.
    pub(super) fn given(self) -> Option<T> {
        match self {
            Self::Store(given) => Some(given),
            Self::NoStore | Self::None => None,
        }
    }
}

/// The database of a store.
pub(super) struct StoreDatabase {
    path: PathBuf,
}

impl StoreDatabase {
    pub(super) fn at(path: PathBuf) -> Self {
        Self { path }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Asks the live database, whose writers may be held off for so long meanwhile.
    pub(super) fn live<T>(
        &self,
        block: BlockLimit,
        read: impl FnOnce(&Connection) -> rusqlite::Result<Option<T>>,
    ) -> Result<Answer<T>> {
        match sqlite::read_live(&self.path, LOCK_WAIT, block, read) {
            Ok(Some(Some(given))) => Ok(Answer::Store(given)),
            Ok(Some(None)) => Ok(Answer::NoStore),
            Ok(None) => Ok(Answer::None),
            Err(Error::Sqlite { source, .. }) => {
                tracing::debug!(%source, "the live database does not answer as that of a Chroma store");
                Ok(Answer::None)
            }
            Err(error) => Err(error),
        }
    }

    /// Takes the database's write lock at a moment at which no segment is being persisted: that ends with a row in the
    /// database, which the lock would keep from being written.
    pub(super) fn freeze(&self, root: &Path, capturing: &Capturing<'_>) -> Result<Option<WriteLock>> {
        let mut previous = capturing.previous(CHROMA)?;
        for freeze in 1.. {
            let Some(lock) = sqlite::freeze(&self.path, LOCK_WAIT)? else {
                tracing::warn!(path = %self.path.display(), "nothing can write to this database now, so nothing is frozen");
                return Ok(None);
            };
            let look = look_now(root, Cut::Directories, previous.as_mut())?;
            if look.age() >= SETTLED || freeze >= FREEZES {
                return Ok(Some(lock));
            }
            drop(lock);
            std::thread::sleep(PAUSE);
        }
        Ok(None)
    }
}
