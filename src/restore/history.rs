//! The restores that came to their end, so that going back leads to the state before the last one: `restores.jsonl`,
//! format-spec.md §14.4.
//!
//! It is information and may be missing; then the newest pre-restore snapshot is taken for the state before the last
//! restore. Invariant: what came after a restore that was undone is not thrown away by undoing it once more.

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::format::manifest::{Manifest, SnapshotKind};
use crate::id::Stamp;
use crate::store::{Repository, layout, outcomes};

/// A restore that came to its end, as `restores.jsonl` keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct FinishedRestore {
    /// The snapshot that was restored.
    stamp: String,
    /// The way back; where a restore was undone, the snapshot that was restored.
    pre_restore_snapshot: Option<String>,
    /// RFC 3339, UTC.
    finished_at: String,
}

impl FinishedRestore {
    fn is_undo(&self) -> bool {
        self.pre_restore_snapshot.as_deref() == Some(&self.stamp)
    }
}

/// Keeps that a restore came to its end. That it could not be kept is no failure of the restore.
pub(super) fn keep(repository: &Repository, stamp: Stamp, way_back: Option<Stamp>) {
    let finished = FinishedRestore {
        stamp: stamp.to_string(),
        pre_restore_snapshot: way_back.map(|stamp| stamp.to_string()),
        finished_at: Utc::now().to_rfc3339_opts(SecondsFormat::Micros, false),
    };
    if let Err(cause) = outcomes::append(repository, layout::RESTORES, &finished) {
        let file = layout::RESTORES;
        tracing::warn!(%cause, file, "the restore could not be recorded; before an --undo, look which snapshot it puts back");
    }
}

/// What going back would put back, if it is known; `manifests` are all there are, oldest first.
///
/// # Errors
/// I/O errors.
pub fn way_back(repository: &Repository, manifests: &[Manifest]) -> Result<Option<Stamp>> {
    match state_before(repository, manifests) {
        Ok(stamp) => Ok(Some(stamp)),
        Err(Error::Refused(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The pre-restore snapshot that holds the state before the last restore; `manifests` are all there are, oldest first.
///
/// # Errors
/// [`Error::Refused`] if there is none, or only older ones; I/O errors.
pub(super) fn state_before(repository: &Repository, manifests: &[Manifest]) -> Result<Stamp> {
    let of_restores = manifests.iter().filter(|manifest| manifest.kind == SnapshotKind::PreRestore);
    let kept: Vec<Stamp> = of_restores.filter_map(Manifest::stamp).collect();
    // A clock that ran ahead for a while names states that are newer than they were.
    let now = Utc::now();
    let newest = kept.iter().rev().find(|stamp| stamp.time() <= now).or(kept.last()).copied().ok_or_else(|| {
        Error::Refused(format!(
            "there is nothing to undo: {} holds no pre-restore snapshot",
            repository.root().display()
        ))
    })?;
    let Some(last) = outcomes::last::<FinishedRestore>(repository.storage(), layout::RESTORES)? else {
        return Ok(newest);
    };
    // One that was taken later belongs to a restore that was not recorded, or that was refused.
    let is_later = |finished: DateTime<_>| newest.time() > finished;
    if DateTime::parse_from_rfc3339(&last.finished_at).is_ok_and(is_later) {
        return Ok(newest);
    }
    if last.is_undo() {
        return Err(Error::Refused(format!(
            "the last restore was undone at {} already; what came after it would be lost; to get that state once more, run \
             `vecsnap restore {} --confirm-service-stopped`",
            last.finished_at, last.stamp
        )));
    }
    let lacks = match &last.pre_restore_snapshot {
        None => "took no pre-restore snapshot".into(),
        Some(before) => match kept.iter().find(|stamp| stamp.to_string() == *before) {
            Some(before) => return Ok(*before),
            None => format!("has lost its pre-restore snapshot {before}"),
        },
    };
    Err(Error::Refused(format!(
        "the last restore, of {}, {lacks}, and the newest one, {newest}, is of a restore before it; to get that state, run \
         `vecsnap restore {newest} --confirm-service-stopped`",
        last.stamp
    )))
}
