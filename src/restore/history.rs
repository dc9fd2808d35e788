//! The restores that came to their end, so that going back leads to the state before the last one: `restores.jsonl`,
//! format-spec.md §14.4.
//!
//! It is information and may be missing; then the newest pre-restore snapshot is taken for the state before the last
//! restore. Invariants: what came after a restore that was undone is not thrown away by undoing it once more; a state
//! is put back only where it was; where it is not known which restore was the last to write, none is undone.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::format::intent::IntentTarget;
use crate::format::manifest::{Manifest, SnapshotKind, SourceRecord};
use crate::id::Stamp;
use crate::store::{Repository, layout, outcomes};

use super::target::{Target, resolve};

/// A restore that came to its end, as `restores.jsonl` keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct FinishedRestore {
    /// The snapshot that was restored.
    stamp: String,
    /// The way back; where a restore was undone, the snapshot that was restored.
    pre_restore_snapshot: Option<String>,
    /// RFC 3339, UTC.
    finished_at: String,
    /// What it wrote; nothing in a record that does not tell.
    #[serde(default)]
    targets: Vec<IntentTarget>,
}

impl FinishedRestore {
    fn is_undo(&self) -> bool {
        self.pre_restore_snapshot.as_deref() == Some(&self.stamp)
    }

    /// Whether it had ended when a snapshot was taken.
    fn is_before(&self, stamp: Stamp) -> bool {
        DateTime::parse_from_rfc3339(&self.finished_at).is_ok_and(|finished| stamp.time() > finished)
    }
}

/// Where going back leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct WayBack {
    /// The snapshot of the state before.
    pub(super) stamp: Stamp,
    /// What was written since, as far as that is known and it was not put back.
    written: Option<Vec<IntentTarget>>,
}

impl WayBack {
    /// Whether a source, which the snapshot records so, is to be put back.
    ///
    /// # Errors
    /// [`Error::Refused`] if it was written somewhere else: the state of one place was never in another one.
    pub(super) fn covers(&self, target: &Target, record: &SourceRecord) -> Result<bool> {
        let was = match &self.written {
            Some(written) => match written.iter().find(|named| named.source == target.source) {
                Some(named) => shown(named),
                None => return Ok(false),
            },
            // Links may lead elsewhere by now, which no record tells.
            None => resolve(Path::new(OsStr::from_bytes(&record.path)))?,
        };
        if was == target.path() {
            return Ok(true);
        }
        Err(Error::Refused(format!(
            "the last restore wrote {} to {}, but this call names {}; give the same paths again, or run \
             `vecsnap restore {} --confirm-service-stopped` to restore what that snapshot holds here",
            target.source,
            was.display(),
            target.path().display(),
            self.stamp
        )))
    }
}

/// The path of a target that was recorded.
pub(super) fn shown(named: &IntentTarget) -> PathBuf {
    hex::decode(&named.path_hex)
        .map_or_else(|_| named.path.clone().into(), |bytes| Path::new(OsStr::from_bytes(&bytes)).into())
}

/// Keeps that a restore came to its end. That it could not be kept is no failure of the restore.
pub(super) fn keep(repository: &Repository, stamp: Stamp, way_back: Option<Stamp>, targets: Vec<IntentTarget>) {
    let finished = FinishedRestore {
        stamp: stamp.to_string(),
        pre_restore_snapshot: way_back.map(|stamp| stamp.to_string()),
        finished_at: Utc::now().to_rfc3339_opts(SecondsFormat::Micros, false),
        targets,
    };
    if let Err(cause) = outcomes::append(repository, layout::RESTORES, &finished) {
        let file = layout::RESTORES;
        tracing::warn!(%cause, file, "the restore could not be recorded; before an --undo, look which snapshot it puts back");
    }
}

/// What going back may be wanted to put back: the state before the last restore that was recorded, unless that was
/// undone, and what was kept since; `manifests` are all there are, oldest first.
///
/// # Errors
/// I/O errors.
pub fn ways_back(repository: &Repository, manifests: &[Manifest]) -> Result<Vec<Stamp>> {
    let records: Vec<FinishedRestore> = outcomes::latest(repository.storage(), layout::RESTORES)?;
    let kept = states_before(manifests);
    let Some(last) = records.last() else { return Ok(kept.last().copied().into_iter().collect()) };
    let before = last.pre_restore_snapshot.as_deref();
    let is_left = |stamp: &Stamp| Some(stamp.to_string().as_str()) == before && left_to_undo(*stamp, &records).is_ok();
    Ok(kept.into_iter().filter(|stamp| is_left(stamp) || last.is_before(*stamp)).collect())
}

/// The snapshots that restores kept, oldest first.
fn states_before(manifests: &[Manifest]) -> Vec<Stamp> {
    let of_restores = manifests.iter().filter(|manifest| manifest.kind == SnapshotKind::PreRestore);
    of_restores.filter_map(Manifest::stamp).collect()
}

/// The pre-restore snapshot that holds the state before the last restore; `manifests` are all there are, oldest first.
///
/// # Errors
/// [`Error::Refused`] if there is none, or only others, or it was put back already; I/O errors.
pub(super) fn state_before(repository: &Repository, manifests: &[Manifest]) -> Result<WayBack> {
    let kept = states_before(manifests);
    // A clock that ran ahead for a while names states that are newer than they were.
    let now = Utc::now();
    let newest = kept.iter().rev().find(|stamp| stamp.time() <= now).or(kept.last()).copied().ok_or_else(|| {
        Error::Refused(format!(
            "there is nothing to undo: {} holds no pre-restore snapshot",
            repository.root().display()
        ))
    })?;
    let records: Vec<FinishedRestore> = outcomes::latest(repository.storage(), layout::RESTORES)?;
    let Some(last) = records.last() else { return Ok(WayBack { stamp: newest, written: None }) };
    if last.is_before(newest) {
        let before = last.pre_restore_snapshot.as_deref().filter(|before| *before != last.stamp).unwrap_or("none");
        return Err(Error::Refused(format!(
            "the last restore that came to its end kept {before}, and a later one kept {newest}, of which it is not known \
             whether it wrote anything; look which one is wanted, and run `vecsnap restore STAMP --confirm-service-stopped`"
        )));
    }
    let lacks = match &last.pre_restore_snapshot {
        None => "took no pre-restore snapshot".into(),
        Some(before) => match kept.iter().find(|stamp| stamp.to_string() == *before) {
            Some(stamp) => return left_to_undo(*stamp, &records),
            None => format!("has lost its pre-restore snapshot {before}"),
        },
    };
    Err(Error::Refused(format!(
        "the last restore, of {}, {lacks}, and the newest one, {newest}, is of another one; to restore what it holds, run \
         `vecsnap restore {newest} --confirm-service-stopped`",
        last.stamp
    )))
}

/// What the restore that kept this state wrote and no undoing after it has put back.
fn left_to_undo(stamp: Stamp, records: &[FinishedRestore]) -> Result<WayBack> {
    let of_it = |record: &&FinishedRestore| record.pre_restore_snapshot.as_deref() == Some(&stamp.to_string());
    let (undone, restores): (Vec<_>, Vec<_>) = records.iter().filter(of_it).partition(|record| record.is_undo());
    let Some(undoing) = undone.last() else {
        let written = restores.last().map(|restore| restore.targets.clone()).filter(|targets| !targets.is_empty());
        return Ok(WayBack { stamp, written });
    };
    let is_undone = |target: &IntentTarget| {
        // A record that does not tell tells of all.
        let puts_back = |record: &&&FinishedRestore| {
            record.targets.is_empty() || record.targets.iter().any(|undone| undone.source == target.source)
        };
        undone.iter().any(|record| puts_back(&record))
    };
    let written = restores.last().map(|restore| restore.targets.clone()).unwrap_or_default();
    let left: Vec<_> = written.into_iter().filter(|target| !is_undone(target)).collect();
    if left.is_empty() {
        return Err(Error::Refused(format!(
            "the last restore was undone at {} already; what came after it would be lost; to restore what was put back \
             then once more, run `vecsnap restore {stamp} --confirm-service-stopped`",
            undoing.finished_at
        )));
    }
    Ok(WayBack { stamp, written: Some(left) })
}
