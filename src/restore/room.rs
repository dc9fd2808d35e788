//! Room on the medium, asked before anything is written.
//!
//! Only what is certain is refused on an estimate: the image that the pre-restore snapshot of a database needs in the
//! repository, and what a target must grow by. How much of the present state the repository already holds shows only
//! while it is stored; running out of room then is an error that leaves the targets untouched.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::disk::space;
use crate::error::{Error, Result};
use crate::format::content::Content;
use crate::progress::Progress;
use crate::store::BlobReader;
use crate::store::content::{Piece, Pieces};

use super::job::Task;
use super::plan::Plan;

/// Allowed for tables, list nodes and the manifest, in bytes.
const MARGIN: u64 = 1024 * 1024;

/// Refuses targets that cannot hold what they shall.
///
/// # Errors
/// [`Error::Failed`] naming the bytes.
pub(super) fn check_target(task: &Task, plan: &Plan) -> Result<()> {
    let (needed, free) = (plan.totals.bytes_added, available(&task.target.directory)?);
    if needed <= free.saturating_add(plan.totals.bytes_freed) {
        return Ok(());
    }
    Err(Error::Failed(format!(
        "{} needs {needed} more bytes but only {free} are free there; make room and try again (nothing was changed)",
        task.target.path().display()
    )))
}

/// Refuses a file with more bytes than the whole file system of the target, before anyone walks all of it: a few kilobytes
/// of lists may claim exabytes. Holes take no room.
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
