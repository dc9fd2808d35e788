//! Databases that must be recovered before they can be read: recovered in a copy, never in place.
//!
//! The main file, its `-wal` and its `-journal` are copied under a seqlock of their stats: only if none of them changed
//! from before the first byte to after the last is the copy the state of one moment. A `-shm` is not copied, since
//! SQLite rebuilds it from the `-wal`.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use super::{CapturedDatabase, DatabaseContent, Obstacle, Taking, image_through, obstacle};
use crate::disk::durable::FILE_MODE;
use crate::disk::held::{SourceOpen, open_source};
use crate::disk::sqlite::{BlockLimit, CopyLimits, DatabaseStats, Sidecar, SqliteAccess};
use crate::disk::stat::FileStat;
use crate::error::{Error, Result};

/// How often a copy is tried while the source keeps changing.
const TRIES: usize = 3;

/// How old the last change must be before equal stats prove anything: the clock of file systems ticks every few
/// milliseconds, and two changes within one tick look like one.
const SETTLED: Duration = Duration::from_millis(100);

/// Copies the database with its sidecars into the directory for temporary files, lets SQLite recover the copy, and
/// takes an image of that.
pub(super) fn image_of_copy(source: &Path, mut taking: Taking<'_>) -> Result<CapturedDatabase, Obstacle> {
    let directory = tempfile::Builder::new()
        .prefix("recovery-")
        .tempdir_in(taking.scratch)
        .map_err(Error::io("create a directory in", taking.scratch))?;
    let copy = directory.path().join("copy.db");
    let stats = copy_settled(source, &copy, taking.limits.deadline)?;
    let limits = CopyLimits { block: BlockLimit::default(), ..taking.limits };
    let mut captured = image_through(&copy, SqliteAccess::ReadWrite, taking.within(limits))
        .map_err(|trouble| obstacle(source, BlockLimit::default(), trouble))?;
    captured.stats = stats;
    if let DatabaseContent::Image(image) = &mut captured.content {
        // Nobody waits for a private copy.
        image.writer_blocked = None;
    }
    Ok(captured)
}

/// Copies the files and returns the states that they had throughout.
fn copy_settled(source: &Path, copy: &Path, deadline: Instant) -> Result<DatabaseStats> {
    for _ in 0..TRIES {
        if changed_just_now(&DatabaseStats::of(source)?) {
            thread::sleep(SETTLED);
        }
        let before = DatabaseStats::of(source)?;
        let settled = !changed_just_now(&before);
        copy_files(source, copy)?;
        if settled && DatabaseStats::of(source)? == before {
            return Ok(before);
        }
        if Instant::now() >= deadline {
            break;
        }
    }
    Err(Error::Changing(format!(
        "the database {} needs recovery but kept changing while it was copied for that; \
         stop what writes to it, or start its service, and try again",
        source.display()
    )))
}

fn changed_just_now(stats: &DatabaseStats) -> bool {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos() as i128;
    let fresh = |stat: &FileStat| (now - stat.ctime).unsigned_abs() < SETTLED.as_nanos();
    [Some(stats.main), stats.wal, stats.journal].iter().flatten().any(fresh)
}

fn copy_files(source: &Path, copy: &Path) -> Result<()> {
    copy_file(source, copy)?;
    for sidecar in [Sidecar::Wal, Sidecar::Journal] {
        match copy_file(&sidecar.of(source), &sidecar.of(copy)) {
            Err(error) if error.is_not_found() => remove_if_there(&sidecar.of(copy))?,
            outcome => outcome?,
        }
    }
    Ok(())
}

/// Copies the bytes; a missing source is an error for which `is_not_found` holds.
fn copy_file(from: &Path, to: &Path) -> Result<()> {
    let source = match open_source(from)? {
        SourceOpen::File(source) => source,
        // Its holder in this process may have begun a moment ago; to the caller that is a change like any other.
        held => held.or_fail(from)?,
    };
    let mut options = OpenOptions::new();
    let mut copy =
        options.write(true).create(true).truncate(true).mode(FILE_MODE).open(to).map_err(Error::io("create", to))?;
    io::copy(&mut source.file(), &mut copy).map_err(Error::io("copy", from))?;
    Ok(())
}

fn remove_if_there(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", path)(error)),
        _ => Ok(()),
    }
}
