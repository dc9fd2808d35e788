//! Room on the medium, asked before anything is written.
//!
//! Only what is certain is refused on an estimate: the image that the pre-restore snapshot of a database needs in the
//! repository, and what the targets must grow by. How much of the present state the repository already holds shows only
//! while it is stored; running out of room then is an error that leaves the targets untouched, and what they must grow
//! by is asked once more when it is done.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fmt, io};

use crate::disk::{space, stat};
use crate::error::{Error, Result};
use crate::format::content::Content;
use crate::id::Stamp;
use crate::progress::Progress;
use crate::store::pieces::{Piece, Pieces};
use crate::store::{BlobReader, StagedBlobs, layout};

use super::job::Job;
use super::plan::{Plan, Totals};

/// Verified blobs in a temporary file in the repository.
type Staged = Option<Arc<StagedBlobs>>;

/// Allowed for tables, list nodes and the manifest, in bytes.
const MARGIN: u64 = 1024 * 1024;

/// Refuses targets that cannot hold what they shall, those on one file system together.
///
/// # Errors
/// [`Error::Failed`] naming the bytes.
pub(super) fn check_targets(job: &Job, plans: &[Plan], staged: &mut Staged) -> Result<()> {
    match shortage(job, plans, staged)? {
        None => Ok(()),
        Some(shortage) => Err(Error::Failed(format!("{shortage}; make room and try again (nothing was changed)"))),
    }
}

/// As [`check_targets`], once the pre-restore snapshot was taken: it may lie on the file system of a target.
///
/// # Errors
/// [`Error::Failed`] naming the bytes and the ways on.
pub(super) fn check_beside(
    way_back: Stamp,
    repository: &Path,
    job: &Job,
    plans: &[Plan],
    staged: &mut Staged,
) -> Result<()> {
    match shortage(job, plans, staged)? {
        None => Ok(()),
        Some(shortage) => Err(Error::Failed(format!(
            "beside the pre-restore snapshot {way_back}, {shortage}; make room and try again, or remove {}, run \
             `vecsnap cleanup --confirm` and repeat with --no-pre-snapshot and without a way back (nothing was changed)",
            layout::snapshot_directory(repository, &way_back.to_string()).display()
        ))),
    }
}

/// A file system that cannot hold what is restored to it.
struct Shortage {
    /// The first target on it.
    path: PathBuf,
    needed: u64,
    free: u64,
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, needed, free } = self;
        write!(f, "the file system of {} needs {needed} more bytes but has only {free} free", path.display())
    }
}

/// What is written to one file system.
struct Medium {
    device: u64,
    path: PathBuf,
    needed: u64,
    free: u64,
    /// What is left once the targets so far are written. Each removes what is too much before it writes, and is written
    /// before the next one.
    left: Option<u64>,
}

/// The file system that is too small, if there is one; what is staged only saves time, and gives way.
fn shortage(job: &Job, plans: &[Plan], staged: &mut Staged) -> Result<Option<Shortage>> {
    match find_shortage(job, plans)? {
        Some(_) if staged.take().is_some() => find_shortage(job, plans),
        found => Ok(found),
    }
}

fn find_shortage(job: &Job, plans: &[Plan]) -> Result<Option<Shortage>> {
    let mut media: Vec<Medium> = Vec::new();
    for (task, plan) in job.tasks.iter().zip(plans) {
        let path = task.target.path();
        let there = existing(&path);
        let device = stat::stat(there)?.map_or(0, |stat| stat.device);
        let Totals { bytes_added, bytes_freed, bytes_cut, .. } = plan.totals;
        let beyond = |left: u64| {
            let left = left.saturating_add(bytes_freed).checked_sub(bytes_added)?;
            Some(left.saturating_add(bytes_cut))
        };
        match media.iter_mut().find(|medium| medium.device == device) {
            Some(medium) => {
                medium.needed = medium.needed.saturating_add(bytes_added);
                medium.left = medium.left.and_then(beyond);
            }
            None => {
                let free = space::available(there)?;
                media.push(Medium { device, needed: bytes_added, free, left: beyond(free), path });
            }
        }
    }
    let short = media.into_iter().find(|medium| medium.left.is_none());
    Ok(short.map(|Medium { path, needed, free, .. }| Shortage { path, needed, free }))
}

/// Refuses a file with more bytes than the whole file system of the target, before anyone walks all of it: a few
/// kilobytes of lists may claim exabytes. Holes take no room.
///
/// # Errors
/// [`Error::Failed`] naming the file; I/O errors.
pub(super) fn check_file(
    directory: &Path,
    name: &[u8],
    content: &Content,
    reader: &mut BlobReader<'_>,
    progress: &dyn Progress,
) -> Result<()> {
    let total = space::total(existing(directory))?;
    let mut pieces = Pieces::of(content);
    let mut bytes = 0;
    while content.length > total && bytes <= total {
        progress.check()?;
        match pieces.next(reader, |_| ())? {
            Some(Piece::Chunk { length, .. }) => bytes += length as u64,
            Some(Piece::Hole { .. } | Piece::Hidden { .. }) => {}
            None => return Ok(()),
        }
    }
    if bytes <= total {
        return Ok(());
    }
    Err(Error::Failed(format!(
        "{} has more bytes than the {total} of the whole file system; restore it to a larger one (nothing was changed)",
        directory.join(OsStr::from_bytes(name)).display()
    )))
}

/// Refuses to begin a pre-restore snapshot for whose images there is no room.
///
/// # Errors
/// [`Error::Failed`] naming the bytes.
pub(super) fn check_pre_restore(repository: &Path, plans: &[Plan]) -> Result<()> {
    let image = plans.iter().map(|plan| plan.totals.largest_database).max().unwrap_or(0);
    if available(repository)? >= image.saturating_add(MARGIN) { Ok(()) } else { Err(no_room(repository, plans)) }
}

/// The error of a pre-restore snapshot, said so that the operator knows the ways on.
pub(super) fn explain(error: Error, repository: &Path, plans: &[Plan]) -> Error {
    let full = match &error {
        Error::Io { source, .. } => matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded),
        Error::Sqlite { source, .. } => source.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull),
        _ => false,
    };
    if full { no_room(repository, plans) } else { error }
}

fn no_room(repository: &Path, plans: &[Plan]) -> Error {
    let image = plans.iter().map(|plan| plan.totals.largest_database).max().unwrap_or(0);
    let replaced: u64 = plans.iter().map(|plan| plan.totals.bytes_replaced).fold(0, u64::saturating_add);
    Error::Failed(format!(
        "there is no room for the pre-restore snapshot: it may need {} bytes and {} has {} free; make room, or repeat with \
         --no-pre-snapshot and without a way back (nothing was changed)",
        image.saturating_add(replaced).saturating_add(MARGIN),
        repository.display(),
        available(repository).unwrap_or(0)
    ))
}

/// Bytes free on the file system of a path, or of what exists of it.
fn available(path: &Path) -> Result<u64> {
    space::available(existing(path))
}

/// As much of the path as exists.
fn existing(path: &Path) -> &Path {
    path.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(Path::new("/"))
}
