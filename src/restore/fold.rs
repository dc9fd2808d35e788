//! Bringing what lies beside the databases of a target into them, before anything is overwritten.
//!
//! Invariant: afterwards no sidecar with content lies beside a database that will be overwritten: a stale log would be
//! replayed over the restored file. SQLite itself brings it in first, so that an interruption loses no committed row.

use crate::disk::sqlite::{Folded, Sidecar, fold_sidecars};
use crate::disk::target::TargetRoot;
use crate::error::{Error, Result};
use crate::progress::Progress;

use super::plan::{Change, Plan};

/// What lay beside the databases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FoldOutcome {
    /// Nothing: the target is as it was.
    NothingBeside,
    /// Something, which is gone: the target must be looked at again.
    Changed,
}

/// Brings what lies beside the databases of a plan into them; they must be locked.
///
/// # Errors
/// I/O errors, and those of SQLite that have another cause than the bytes.
pub(super) fn fold_databases(root: &TargetRoot, plan: &Plan, progress: &dyn Progress) -> Result<FoldOutcome> {
    let mut outcome = FoldOutcome::NothingBeside;
    for step in plan.databases().filter(|step| step.change != Change::Create) {
        progress.check()?;
        let path = root.path_of(&step.name);
        let beside = |sidecar: Sidecar| root.stat(&[&step.name, sidecar.suffix().as_bytes()].concat());
        // Looked at first: a single file may be mounted into a directory that cannot be written.
        if !Sidecar::ALL.into_iter().map(beside).collect::<Result<Vec<_>>>()?.iter().any(Option::is_some) {
            continue;
        }
        outcome = FoldOutcome::Changed;
        match fold_sidecars(&path) {
            Ok(Folded::NotReadable(cause)) => {
                tracing::warn!(path = %path.display(), %cause, "what lay beside the database could not be brought into it and is gone");
            }
            Ok(_) => {}
            Err(Error::Io { action: "remove", path, source }) => {
                tracing::warn!(event = "restore_sidecar_unlink_failed", path = %path.display(), cause = %source, "a file beside the database cannot be removed");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(outcome)
}
