//! Whether this user may change what a plan changes, asked before the first change.
//!
//! Invariant: nothing is written here, and what is refused here leaves the targets as they are. A restore that ran into
//! a file which it may not write would stand half done until somebody with more rights finishes it.

use std::collections::BTreeSet;

use crate::disk::stat::FileKind;
use crate::disk::target::TargetRoot;
use crate::error::{Error, Result};

use super::plan::{Change, Existence, FileRole, FileStep, Plan};

/// Refuses a plan that this user may not carry out.
///
/// # Errors
/// [`Error::Failed`] naming the file or directory.
pub(super) fn check(root: &TargetRoot, plan: &Plan) -> Result<()> {
    for step in plan.files.iter().filter(|step| is_written(step)) {
        match root.open_file(&step.name) {
            // Its mode forbids it, and an owner may change that.
            Err(error) if is_access_denied(&error) && root.is_own(&step.name)? => {}
            outcome => {
                outcome.map_err(refusal)?;
            }
        }
    }
    changed_directories(plan).into_iter().try_for_each(|name| match root.stat(name) {
        Ok(Some(stat)) if stat.kind == FileKind::Directory => root.check_changeable(name).map_err(refusal),
        // The plan itself puts a directory there, in place of whatever it is.
        _ => Ok(()),
    })
}

fn is_written(step: &FileStep) -> bool {
    match &step.change {
        Change::Create => false,
        Change::Overwrite(difference) => !difference.is_none() || step.role == FileRole::Database,
    }
}

/// The directories in which names are made or removed. Sidecars are left out: where they cannot be removed, they are
/// emptied.
fn changed_directories(plan: &Plan) -> BTreeSet<&[u8]> {
    let files = plan.files.iter().filter(|step| step.change == Change::Create).map(|step| &step.name);
    let links = plan.links.iter().filter(|step| step.existence == Existence::Create).map(|step| &step.name);
    let directories = plan.directories.iter().filter(|step| step.existence == Existence::Create).map(|step| &step.name);
    let names = files.chain(links).chain(directories).chain(&plan.removals).filter(|name| !name.is_empty());
    names
        .map(|name| name.iter().rposition(|byte| *byte == b'/').and_then(|slash| name.get(..slash)).unwrap_or_default())
        .collect()
}

fn is_access_denied(error: &Error) -> bool {
    let denied = rustix::io::Errno::ACCESS.raw_os_error();
    matches!(error, Error::Io { source, .. } if source.raw_os_error() == Some(denied))
}

fn refusal(error: Error) -> Error {
    match error {
        Error::Io { path, source, .. } => Error::Failed(format!(
            "{} cannot be changed: {source}; remove what forbids it, or restore as a user who may write there \
             (nothing was changed)",
            path.display()
        )),
        other => other,
    }
}
