//! A consistent image of a database that may be in use, taken under a pinned read transaction.
//!
//! Without the pin every commit of the service restarts the backup API in WAL mode, and in rollback mode it never ends.
//! With it the image is the state of one moment, and in rollback mode the service's writers wait for the copy, which is
//! therefore bounded by a deadline. The image depends on the pinned state alone, however often it is taken.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode};

use super::connection::{Database, SqliteAccess, check_length, open};
use super::{DatabaseStats, HeaderMode, backup, pages};
use crate::error::{Error, Result};

/// How long to sleep when the database is locked.
const POLL: Duration = Duration::from_millis(5);

/// Steps of SQLite's machine between two looks at the clock.
const LOOK_STEPS: i32 = 10_000;

/// For how long writers may be held off.
#[derive(Clone, Copy, Debug, Default)]
pub struct BlockLimit {
    /// At most; `None` for no limit.
    pub most: Option<Duration>,
    /// Since when they are held off already, by a lock of our own.
    pub since: Option<Instant>,
}

impl BlockLimit {
    /// When they must be let go if they are held off since this moment, or longer already.
    pub fn end(&self, since: Instant) -> Option<Instant> {
        Some(self.since.unwrap_or(since) + self.most?)
    }

    /// What is left once the copy itself has held them off for so long.
    pub fn after(self, blocked: Duration) -> Self {
        match self.since {
            Some(_) => self,
            None => Self { most: self.most.map(|most| most.saturating_sub(blocked)), since: None },
        }
    }
}

/// For how long a copy may take.
#[derive(Clone, Copy, Debug)]
pub struct CopyLimits {
    /// When it must be done, waiting for locks included.
    pub deadline: Instant,
    /// For how long writers may be held off.
    pub block: BlockLimit,
}

/// Why a source could not be read through SQLite with the access tried.
#[derive(Debug)]
pub enum SourceTrouble {
    /// Other processes kept it locked, or the copy took longer, until the deadline.
    Deadline,
    /// The copy would have held writers off for longer than it may.
    BlockedTooLong,
    /// It cannot be read without writing: a journal to roll back, a log to index, or missing permissions.
    NeedsWriting(String),
    /// Its bytes are damaged beyond what SQLite reads.
    Damaged(String),
    /// Anything else.
    Other(Error),
}

impl SourceTrouble {
    pub(super) fn of(error: rusqlite::Error, action: &'static str, path: &Path) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly) => Self::NeedsWriting(error.to_string()),
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Self::Damaged(error.to_string()),
            _ => Self::Other(Error::sqlite(action, path)(error)),
        }
    }
}

impl From<Error> for SourceTrouble {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

/// For how long writers of a source had to wait; `None` where they did not (WAL mode, private copies).
pub type WriterBlocked = Option<Duration>;

/// A source held at one moment of its history by a read transaction.
pub struct PinnedSource {
    database: Database,
    path: PathBuf,
    access: SqliteAccess,
    pinned_at: Instant,
    mode: HeaderMode,
    stats: DatabaseStats,
}

impl PinnedSource {
    /// Opens the database at `path` (absolute, symlinks resolved) and pins its present state, waiting for locks until
    /// `deadline`.
    pub fn open(path: &Path, access: SqliteAccess, deadline: Instant) -> Result<Self, SourceTrouble> {
        check_length(path)?;
        let database = Database::open(path, access)?;
        let trouble = |error| SourceTrouble::of(error, "read", path);
        // SQLite opens a file that may not be written read-only; as such it would leave new sidecars behind.
        if access == SqliteAccess::QueryOnly && database.connection().is_readonly("main").map_err(trouble)? {
            return Err(SourceTrouble::NeedsWriting("the file may not be written".into()));
        }
        pin_until(database.connection(), path, deadline)?;
        let mode = journal_mode(database.connection()).map_err(trouble)?;
        let mut stats = DatabaseStats::of(path)?;
        if mode == HeaderMode::Wal {
            // In WAL mode commits go on, so the states must be older than what is pinned; and as root SQLite sets the
            // owner of a log when it opens it, so they must be newer than that. In rollback mode the pin stops commits.
            database.connection().execute_batch("ROLLBACK").map_err(trouble)?;
            stats = DatabaseStats::of(path)?;
            pin_until(database.connection(), path, deadline)?;
        }
        Ok(Self { database, path: path.to_path_buf(), access, pinned_at: Instant::now(), mode, stats })
    }

    /// The states of the source's files: whatever changes them later is not in the pinned state, and what the pinned
    /// state lacks has changed them.
    pub fn stats(&self) -> DatabaseStats {
        self.stats
    }

    /// Copies the pinned state through the backup API into the new file `image`, then lets the source go.
    ///
    /// The image is not synced; after an error the file may be there, incomplete.
    pub fn copy_to(self, image: &Path, limits: CopyLimits) -> Result<WriterBlocked, SourceTrouble> {
        self.take(limits, |source, path, within| backup::copy(source, path, image, within))
    }

    /// Whether the pages can be read one by one.
    pub fn has_pages(&self) -> bool {
        pages::of(self.database.connection()).is_some()
    }

    /// Gives all pages of the pinned state to `take`, in order, in stretches of 256 KiB and a last one, then lets the
    /// source go.
    pub fn read_pages(
        self,
        take: &mut dyn FnMut(Vec<u8>) -> Result<()>,
        limits: CopyLimits,
    ) -> Result<WriterBlocked, SourceTrouble> {
        self.take(limits, |source, path, within| match pages::of(source) {
            Some(pages) => pages::read(pages, path, take, within),
            None => Err(SourceTrouble::Damaged("its pages cannot be read one by one".into())),
        })
    }

    fn take(
        self,
        limits: CopyLimits,
        copy: impl FnOnce(&Connection, &Path, Instant) -> Result<(), SourceTrouble>,
    ) -> Result<WriterBlocked, SourceTrouble> {
        let copied = copy(self.database.connection(), &self.path, self.end(limits));
        let others_wait = self.others_wait();
        let copied = copied.map_err(|trouble| self.told_late(trouble, limits));
        let pinned_at = self.pinned_at;
        self.let_go();
        copied?;
        Ok(others_wait.then(|| pinned_at.elapsed()))
    }

    /// Whether the writers of the source wait for it to be let go.
    fn others_wait(&self) -> bool {
        self.mode == HeaderMode::Rollback && self.access != SqliteAccess::Immutable
    }

    /// When writers have been held off for as long as they may, if any are.
    fn limit(&self, limits: CopyLimits) -> Option<Instant> {
        limits.block.end(self.pinned_at).filter(|_| self.others_wait() || limits.block.since.is_some())
    }

    /// When the source must be let go.
    fn end(&self, limits: CopyLimits) -> Instant {
        self.limit(limits).map_or(limits.deadline, |limit| limit.min(limits.deadline))
    }

    /// What it means that the source was let go too early.
    fn told_late(&self, trouble: SourceTrouble, limits: CopyLimits) -> SourceTrouble {
        match trouble {
            SourceTrouble::Deadline if self.limit(limits).is_some_and(|limit| limit < limits.deadline) => {
                SourceTrouble::BlockedTooLong
            }
            other => other,
        }
    }

    /// Reads something of the pinned state for as long as its writers may wait.
    pub fn look<T>(
        &mut self,
        limits: CopyLimits,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, SourceTrouble> {
        let end = self.end(limits);
        let connection = self.database.connection_mut();
        let looked = connection
            .progress_handler(LOOK_STEPS, Some(move || Instant::now() >= end))
            .and_then(|()| read(connection));
        let forgotten = connection.progress_handler(0, None::<fn() -> bool>);
        looked.and_then(|value| forgotten.map(|()| value)).map_err(|error| match error.sqlite_error_code() {
            Some(ErrorCode::OperationInterrupted) => self.told_late(SourceTrouble::Deadline, limits),
            _ => SourceTrouble::of(error, "read", &self.path),
        })
    }

    /// The same, then lets the source go.
    pub fn read<T>(
        mut self,
        limits: CopyLimits,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, SourceTrouble> {
        let outcome = self.look(limits, read);
        self.let_go();
        outcome
    }

    fn let_go(self) {
        if self.access == SqliteAccess::QueryOnly {
            self.database.leave_wal_alone(&self.path);
        }
    }
}

/// Reads something of an image that no process uses.
///
/// # Errors
/// [`Error::Sqlite`].
pub fn read_image<T>(image: &Path, read: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T> {
    let connection = open(image, SqliteAccess::Immutable).map_err(Error::sqlite("open", image))?;
    read(&connection).map_err(Error::sqlite("read", image))
}

fn pin_until(connection: &Connection, path: &Path, deadline: Instant) -> Result<(), SourceTrouble> {
    while !pin(connection).map_err(|error| SourceTrouble::of(error, "read", path))? {
        if Instant::now() >= deadline {
            return Err(SourceTrouble::Deadline);
        }
        thread::sleep(POLL);
    }
    Ok(())
}

/// Begins a read transaction; `false` if the database is locked. Reads the header and nothing of the schema, which may
/// use what this SQLite does not know.
fn pin(connection: &Connection) -> rusqlite::Result<bool> {
    let pinned = connection
        .execute_batch("BEGIN")
        .and_then(|()| connection.query_row("PRAGMA schema_version", [], |row| row.get::<_, i64>(0)));
    match pinned {
        Ok(_) => Ok(true),
        Err(error) => {
            let busy = [ErrorCode::DatabaseBusy, ErrorCode::DatabaseLocked, ErrorCode::FileLockingProtocolFailed];
            if !connection.is_autocommit() {
                connection.execute_batch("ROLLBACK")?;
            }
            if error.sqlite_error_code().is_some_and(|code| busy.contains(&code)) { Ok(false) } else { Err(error) }
        }
    }
}

fn journal_mode(connection: &Connection) -> rusqlite::Result<HeaderMode> {
    let mode: String = connection.query_row("PRAGMA journal_mode", [], |row| row.get(0))?;
    Ok(if mode == "wal" { HeaderMode::Wal } else { HeaderMode::Rollback })
}
