//! Capturing a SQLite database, in whatever state it is found, without changing a byte of it.
//!
//! Invariant: afterwards the source and its sidecars have the bytes, modification times and names they had before,
//! except for what a live service did itself and the lock bytes in its `-shm`. (As root, SQLite sets the owner of a log
//! or journal that it opens to that of the database, which it mostly is already; the file's ctime moves.) The state
//! found decides how the database is read:
//!
//! | found | read |
//! |---|---|
//! | no bytes | as bytes, never opened: SQLite would delete a WAL beside it |
//! | another magic | not at all: an error |
//! | a WAL in use by a service | read-only, as one more reader |
//! | a `-wal` or `-shm` that nobody uses | a copy: opening the original would recover, and so change, it |
//! | WAL mode, nothing beside | like a writer that only queries, so that the sidecars it needs vanish again |
//! | the same on a read-only mount | as immutable, with a look before and after |
//! | rollback mode | read-only; with a hot journal, which that cannot roll back, a copy |
//!
//! Whatever turns out to need writing after all is copied too.

pub(super) mod image;
mod recovery;
#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::Connection;
use rustix::fs::{StatVfsMountFlags, statvfs};

use crate::disk::sqlite::{
    BlockLimit, CopyLimits, DatabaseStats, Frozen, HeaderMode, PinnedSource, Sidecar, Sniffed, SourceTrouble,
    SqliteAccess, WriteLock, is_wal_live, sniff,
};
use crate::error::{Error, Result};
pub(super) use image::DatabaseImage;
use image::PreviousImage;

/// How the pages come into an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CopyMethod {
    /// Through the online backup API, as operators were promised for the database of the service.
    BackupApi,
    /// Read by SQLite, written in bulk; through the backup API where that cannot be done.
    Pages,
}

/// How a capture is done.
#[derive(Clone, Copy, Debug)]
pub(super) struct ImageOptions {
    /// How long the whole capture may take, waiting for locks included. In rollback mode the service's writers wait
    /// meanwhile.
    pub deadline: Duration,
    /// For how long writers may be held off.
    pub block: BlockLimit,
    /// What to do about a source too damaged for SQLite.
    pub damaged: DamagedSource,
    /// How the pages come into the image.
    pub method: CopyMethod,
}

/// What to do about a source too damaged for SQLite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DamagedSource {
    /// Take its files as raw bytes if it begins as a database does, so that what is left of it is kept; refuse a file
    /// of another kind, which somebody named by mistake.
    TakeDatabaseRaw,
    /// Take its files as raw bytes, whatever they are: a restore is about to overwrite them, and there must be a way
    /// back.
    TakeRaw,
}

/// A captured database.
#[derive(Debug)]
pub(super) struct CapturedDatabase {
    /// The states of its files, none newer than the content: as long as they stay the same, so does the content.
    pub stats: DatabaseStats,
    /// Where its content is.
    pub content: DatabaseContent,
}

/// Where the content of a captured database is.
#[derive(Debug)]
pub(super) enum DatabaseContent {
    /// The main file has no bytes, and that is the content.
    Empty,
    /// A consistent image.
    Image(DatabaseImage),
    /// Files to be taken byte by byte.
    Raw(RawDatabase),
}

/// A database that SQLite cannot read.
#[derive(Debug)]
pub(super) struct RawDatabase {
    /// Why it cannot.
    pub reason: String,
    /// The main file, then its `-wal` and `-journal` as far as they have bytes. (A `-shm` only indexes the `-wal`.)
    pub files: Vec<PathBuf>,
}

/// Why an attempt gave no image.
enum Obstacle {
    Damaged(String),
    Failed(Error),
}

impl From<Error> for Obstacle {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// Reads something of a database at the moment of its image: from that, or from the source while it is pinned, where
/// writers wait and what takes too long ends the capture. Of several attempts, the last one counts.
pub(super) type Witness<'w> = &'w mut (dyn FnMut(&Connection) -> rusqlite::Result<()> + Send);

/// What every attempt to take an image needs.
struct Taking<'t> {
    /// For temporary files.
    scratch: &'t Path,
    method: CopyMethod,
    earlier: Option<&'t PreviousImage>,
    limits: CopyLimits,
    witness: Witness<'t>,
}

impl Taking<'_> {
    /// The same within other limits.
    fn within(&mut self, limits: CopyLimits) -> Taking<'_> {
        let &mut Self { scratch, method, earlier, ref mut witness, .. } = self;
        Taking { scratch, method, earlier, limits, witness }
    }
}

/// Captures the database at `source` (a symlink is followed) with temporary files in `scratch`, which needs room for
/// one image, or for an image and a copy of the source where the source needs recovery.
///
/// # Errors
/// [`Error::Changing`] if the source stays locked, or keeps changing, until the deadline, or writers would have to wait
/// for longer than they may; [`Error::Failed`] if it is no
/// SQLite file and that is not accepted; [`Error::Io`] if it is missing or unreadable.
pub(super) fn capture_image(
    source: &Path,
    scratch: &Path,
    options: ImageOptions,
    earlier: Option<&PreviousImage>,
    witness: Witness<'_>,
) -> Result<CapturedDatabase> {
    let source = std::fs::canonicalize(source).map_err(Error::io("resolve", source))?;
    let ImageOptions { deadline, block, method, .. } = options;
    let limits = CopyLimits { deadline: Instant::now() + deadline, block };
    let taking = Taking { scratch, method, earlier, limits, witness };
    let stats = DatabaseStats::of(&source)?;
    let captured = match sniff(&source)? {
        Sniffed::Empty if options.damaged == DamagedSource::TakeRaw && stats.wal.is_some() => {
            Err(Obstacle::Damaged("the main file is empty and a log lies beside it".into()))
        }
        Sniffed::Empty => {
            warn_of_wal(&source, &stats);
            return Ok(CapturedDatabase { stats, content: DatabaseContent::Empty });
        }
        Sniffed::Other(start) if options.damaged == DamagedSource::TakeDatabaseRaw => {
            return Err(Error::Failed(not_sqlite(&source, &start)));
        }
        Sniffed::Other(start) => Err(Obstacle::Damaged(not_sqlite(&source, &start))),
        // What SQLite holds here already is in use, so that reading it takes no more than one more reader.
        Sniffed::HeldBySqlite => take_image(&source, HeaderMode::Rollback, taking),
        Sniffed::Sqlite(mode) => take_image(&source, mode, taking),
    };
    match captured {
        Ok(captured) => Ok(captured),
        Err(Obstacle::Damaged(reason)) => {
            let content = DatabaseContent::Raw(RawDatabase { reason, files: files_with_bytes(&source, &stats) });
            Ok(CapturedDatabase { stats, content })
        }
        Err(Obstacle::Failed(error)) => Err(error),
    }
}

fn take_image(source: &Path, mode: HeaderMode, mut taking: Taking<'_>) -> Result<CapturedDatabase, Obstacle> {
    let Some(access) = access_in_place(source, mode)? else {
        return recovery::image_of_copy(source, taking);
    };
    let limits = taking.limits;
    match image_in_place(source, access, taking.within(limits)) {
        Err(SourceTrouble::NeedsWriting(_)) => recovery::image_of_copy(source, taking),
        outcome => outcome.map_err(|trouble| obstacle(source, limits.block, trouble)),
    }
}

/// How to open the source itself without changing it; `None` if only a copy can be opened.
fn access_in_place(source: &Path, mode: HeaderMode) -> Result<Option<SqliteAccess>> {
    let exists = |sidecar: Sidecar| sidecar.of(source).symlink_metadata().is_ok();
    let log = exists(Sidecar::Wal) || exists(Sidecar::Shm);
    Ok(match mode {
        _ if log => is_wal_live(source)?.then_some(SqliteAccess::ReadOnly),
        HeaderMode::Rollback => Some(SqliteAccess::ReadOnly),
        HeaderMode::Wal if exists(Sidecar::Journal) => None,
        HeaderMode::Wal if is_on_read_only_mount(source)? => Some(SqliteAccess::Immutable),
        HeaderMode::Wal => Some(SqliteAccess::QueryOnly),
    })
}

fn image_in_place(source: &Path, access: SqliteAccess, taking: Taking<'_>) -> Result<CapturedDatabase, SourceTrouble> {
    let captured = image_through(source, access, taking)?;
    // Another mount of the same file may be writable, and an immutable read takes no lock.
    if access == SqliteAccess::Immutable && DatabaseStats::of(source)? != captured.stats {
        return Err(SourceTrouble::NeedsWriting("it changed while it was read without locks".into()));
    }
    Ok(captured)
}

/// Takes an image of a database that can be opened so. What is damaged must be so twice: SQLite calls a page damaged,
/// too, that could not be read (`SQLITE_IOERR_CORRUPTFS`), and what cannot be read again then fails where its bytes are
/// taken raw.
fn image_through(
    database: &Path,
    access: SqliteAccess,
    mut taking: Taking<'_>,
) -> Result<CapturedDatabase, SourceTrouble> {
    let (began, limits) = (Instant::now(), taking.limits);
    let first = image_at_once(database, access, taking.within(limits));
    let damage = match first {
        Err(SourceTrouble::Damaged(damage)) => damage,
        outcome => return outcome,
    };
    let rest = CopyLimits { block: limits.block.after(began.elapsed()), ..limits };
    match image_at_once(database, access, taking.within(rest)) {
        Err(SourceTrouble::Deadline | SourceTrouble::BlockedTooLong) => Err(SourceTrouble::Damaged(damage)),
        outcome => outcome,
    }
}

fn image_at_once(database: &Path, access: SqliteAccess, taking: Taking<'_>) -> Result<CapturedDatabase, SourceTrouble> {
    let Taking { scratch, method, earlier, limits, witness } = taking;
    let pinned = PinnedSource::open(database, access, limits.deadline)?;
    let stats = pinned.stats();
    let image = image::take(pinned, scratch, method, earlier, limits, witness)?;
    Ok(CapturedDatabase { stats, content: DatabaseContent::Image(image) })
}

fn obstacle(source: &Path, block: BlockLimit, trouble: SourceTrouble) -> Obstacle {
    match trouble {
        SourceTrouble::BlockedTooLong => Obstacle::Failed(Error::Changing(format!(
            "copying the database {} would have held its writers off for longer than {} s; raise --max-block, or {}",
            source.display(),
            block.most.unwrap_or_default().as_secs_f64(),
            match block.since {
                Some(_) => "take the snapshot without --freeze",
                None => "put the database into WAL mode, where nobody waits",
            }
        ))),
        SourceTrouble::Deadline => Obstacle::Failed(Error::Changing(format!(
            "the database {} stayed in use by a writer until the time for its capture was up; \
             try again when the service is less busy",
            source.display()
        ))),
        SourceTrouble::Damaged(cause) | SourceTrouble::NeedsWriting(cause) => Obstacle::Damaged(format!(
            "the database {} is too damaged to be copied ({cause}); restore it from a snapshot",
            source.display()
        )),
        SourceTrouble::Other(error) => Obstacle::Failed(error),
    }
}

/// Reads something of the live database at `source` as it is now; `None` if that takes recovery, and so a copy: no
/// service is using it then.
///
/// # Errors
/// [`Error::Changing`] if it stays locked until the deadline, or writers would have to wait for longer than they may;
/// what `read` fails with.
pub(super) fn read_live<T>(
    source: &Path,
    deadline: Duration,
    block: BlockLimit,
    read: impl FnOnce(&Connection) -> rusqlite::Result<T>,
) -> Result<Option<T>> {
    let mode = match sniff(source)? {
        Sniffed::Sqlite(mode) => mode,
        Sniffed::HeldBySqlite => HeaderMode::Rollback,
        Sniffed::Empty | Sniffed::Other(_) => return Ok(None),
    };
    let Some(access) = access_in_place(source, mode)? else { return Ok(None) };
    let limits = CopyLimits { deadline: Instant::now() + deadline, block };
    let pinned = PinnedSource::open(source, access, limits.deadline);
    match pinned.and_then(|pinned| pinned.read(limits, read)) {
        Ok(value) => Ok(Some(value)),
        Err(SourceTrouble::NeedsWriting(_) | SourceTrouble::Damaged(_)) => Ok(None),
        Err(trouble) => match obstacle(source, block, trouble) {
            Obstacle::Failed(error) => Err(error),
            Obstacle::Damaged(_) => Ok(None),
        },
    }
}

/// Holds the writers of the live database at `source` off; `None` where there can be none: it is on a read-only mount,
/// or needs recovery, which taking its lock would do in place.
///
/// # Errors
/// [`Error::Changing`] if writers leave no gap until the deadline; [`Error::Sqlite`] if it may not be written.
pub(super) fn freeze(source: &Path, deadline: Duration) -> Result<Option<WriteLock>> {
    if is_on_read_only_mount(source)? || read_live(source, deadline, BlockLimit::default(), |_| Ok(()))?.is_none() {
        return Ok(None);
    }
    match WriteLock::take(source, Instant::now() + deadline)? {
        Frozen::Held(lock) => Ok(Some(lock)),
        Frozen::Busy => Err(Error::Changing(format!(
            "the writers of {} left no gap of a moment in {} s, so it could not be frozen; try again when the service is less busy",
            source.display(),
            deadline.as_secs()
        ))),
    }
}

fn is_on_read_only_mount(path: &Path) -> Result<bool> {
    let mount = statvfs(path).map_err(io::Error::from).map_err(Error::io("look at the mount of", path))?;
    Ok(mount.f_flag.contains(StatVfsMountFlags::RDONLY))
}

fn not_sqlite(source: &Path, start: &[u8]) -> String {
    let start = start.escape_ascii();
    format!("{} is not a SQLite database: it starts with \"{start}\"; check the path given for it", source.display())
}

fn warn_of_wal(source: &Path, stats: &DatabaseStats) {
    if stats.wal.is_some() {
        tracing::warn!(
            path = %source.display(),
            "the database has no bytes but a log lies beside it; SQLite takes it for empty, and so does this snapshot"
        );
    }
}

fn files_with_bytes(source: &Path, stats: &DatabaseStats) -> Vec<PathBuf> {
    let sidecars = [(Sidecar::Wal, stats.wal), (Sidecar::Journal, stats.journal)];
    let filled = sidecars.into_iter().filter_map(|(sidecar, stat)| stat.map(|_| sidecar.of(source)));
    std::iter::once(source.to_path_buf()).chain(filled).collect()
}
