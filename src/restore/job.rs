//! Deciding which snapshot is restored, and what of it goes where.
//!
//! Three goals: a snapshot; finishing the restore that was interrupted; going back to the state before the last one.
//! Invariant: while a restore is unfinished, only finishing it or going back is decided upon, and only for the targets
//! that it was about.

use std::os::unix::ffi::OsStrExt;

use crate::error::{Error, Result};
use crate::format::intent::{Intent, IntentTarget};
use crate::format::manifest::{CHROMA, DB, Manifest, REGISTRY, SourceKind, SourceRecord, SourceState};
use crate::id::Stamp;
use crate::save::LiveSources;
use crate::store::{Repository, intents, snapshots};

use super::gate;
use super::history::{self, WayBack, shown};
use super::target::{self, Target};

/// What the operator wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    /// The state of this snapshot.
    Snapshot(Stamp),
    /// The end of the restore, or of the going back, that was interrupted.
    Resume,
    /// The state before the last restore.
    Undo,
}

/// Whether Chroma is restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChromaChoice {
    /// If the snapshot holds it.
    AsCaptured,
    /// It is asked for; a snapshot without it gives rise to a warning.
    Wanted,
    /// No.
    Skip,
}

/// Towards which state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    /// That of a snapshot: what it does not hold stays as it is.
    Forward,
    /// That before a restore: what was absent then is removed again.
    Back,
}

/// What is done with one source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// It gets what the snapshot holds.
    Restore,
    /// It was absent and becomes so again.
    Remove,
}

/// One source to restore.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Task {
    pub(super) target: Target,
    pub(super) record: SourceRecord,
    pub(super) action: Action,
}

/// A restore, decided upon.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Job {
    pub(super) stamp: Stamp,
    pub(super) manifest: Manifest,
    pub(super) direction: Direction,
    pub(super) chroma: ChromaChoice,
    pub(super) tasks: Vec<Task>,
    /// The intent that stands already.
    pub(super) pending: Option<Intent>,
}

impl Job {
    /// Whether a source gets what the snapshot holds.
    pub(super) fn restores(&self, source: &str) -> bool {
        self.tasks.iter().any(|task| task.target.source == source && task.action == Action::Restore)
    }

    /// The targets as an intent names them.
    pub(super) fn intent_targets(&self) -> Vec<IntentTarget> {
        self.tasks.iter().map(|task| intent_target(&task.target)).collect()
    }
}

/// Decides upon a restore.
///
/// # Errors
/// [`Error::Refused`] for a goal that the state of things does not allow; [`Error::NotValid`] for a snapshot without a
/// usable manifest; [`Error::Usage`] for targets that lie in one another, or one that nobody named.
pub(super) fn decide(repository: &Repository, goal: Goal, live: &LiveSources, chroma: ChromaChoice) -> Result<Job> {
    live.check_apart_from(repository.root())?;
    let pending = match goal {
        Goal::Snapshot(_) => {
            intents::refuse_pending(repository)?;
            None
        }
        Goal::Resume | Goal::Undo => intents::pending(repository)?,
    };
    let aim = aim(repository, goal, pending.as_ref())?;
    let (stamp, direction) = (aim.stamp, aim.direction);
    let manifest = gate::read_manifest(repository, stamp)?;
    let mut tasks = Vec::new();
    for (source, kind, path) in [
        (DB, SourceKind::Sqlite, Ok(live.db.as_path())),
        (REGISTRY, SourceKind::File, Ok(live.registry.as_path())),
        (CHROMA, SourceKind::Tree, live.chroma()),
    ] {
        let Some(record) = manifest.source(source).filter(|record| record.kind == kind) else { continue };
        let Some(action) = action(record, direction, chroma) else { continue };
        let target = Target::locate(source, kind, path?)?;
        if let Some(intent) = &pending
            && !is_target_of(intent, &target)?
        {
            continue;
        }
        if let Some(way_back) = &aim.way_back
            && !way_back.covers(&target, record)?
        {
            continue;
        }
        tasks.push(Task { target, record: record.clone(), action });
    }
    if aim.way_back.is_some() && tasks.is_empty() {
        return Err(Error::Refused(format!(
            "nothing of what is asked for is left to undo; `vecsnap show {stamp}` shows the state before the last restore"
        )));
    }
    let targets: Vec<Target> = tasks.iter().map(|task| task.target.clone()).collect();
    target::check_apart(&targets)?;
    if let Some(left) = pending
        .iter()
        .flat_map(|intent| &intent.targets)
        .find(|left| !targets.iter().any(|target| target.source == left.source))
    {
        return Err(Error::Refused(format!(
            "the unfinished restore also writes {} to {}, which must not be left half written; repeat without --no-chroma",
            left.source,
            shown(left).display()
        )));
    }
    Ok(Job { stamp, manifest, direction, chroma, tasks, pending })
}

/// What a goal comes to.
struct Aim {
    stamp: Stamp,
    direction: Direction,
    /// What is known of the restore that is undone.
    way_back: Option<WayBack>,
}

impl Aim {
    fn at(stamp: Stamp, direction: Direction) -> Self {
        Self { stamp, direction, way_back: None }
    }
}

fn aim(repository: &Repository, goal: Goal, pending: Option<&Intent>) -> Result<Aim> {
    let parse = |text: &str| {
        text.parse::<Stamp>()
            .map_err(|_| Error::Failed(format!("the intent of the unfinished restore names no stamp: '{text}'")))
    };
    match (goal, pending) {
        (Goal::Snapshot(stamp), _) => Ok(Aim::at(stamp, Direction::Forward)),
        (Goal::Resume, None) => Err(Error::Refused(
            "there is no unfinished restore to resume; name a snapshot to restore (`vecsnap list` shows them)".into(),
        )),
        (Goal::Resume, Some(intent)) => {
            let direction = if intent.is_undo() { Direction::Back } else { Direction::Forward };
            Ok(Aim::at(parse(&intent.stamp)?, direction))
        }
        (Goal::Undo, Some(intent)) => match &intent.pre_restore_snapshot {
            Some(before) => Ok(Aim::at(parse(before)?, Direction::Back)),
            None => Err(Error::Refused(format!(
                "the unfinished restore of {} took no pre-restore snapshot, so there is no way back; finish it with --resume --confirm-service-stopped",
                intent.stamp
            ))),
        },
        (Goal::Undo, None) => {
            let manifests = snapshots::manifests(repository)?;
            let way_back = history::state_before(repository, &manifests)?;
            Ok(Aim { stamp: way_back.stamp, direction: Direction::Back, way_back: Some(way_back) })
        }
    }
}

fn action(record: &SourceRecord, direction: Direction, chroma: ChromaChoice) -> Option<Action> {
    let captured = record.is_captured();
    if record.name == CHROMA && chroma == ChromaChoice::Skip {
        return None;
    }
    if record.name == CHROMA && chroma == ChromaChoice::Wanted && !captured {
        tracing::warn!("the snapshot holds no Chroma, so the present one stays as it is");
    }
    match (record.state, direction) {
        _ if captured => Some(Action::Restore),
        (SourceState::Absent, Direction::Back) => Some(Action::Remove),
        _ => None,
    }
}

/// Whether an unfinished restore was about this source.
fn is_target_of(intent: &Intent, target: &Target) -> Result<bool> {
    let Some(named) = intent.targets.iter().find(|named| named.source == target.source) else { return Ok(false) };
    if named.path_hex == intent_target(target).path_hex {
        return Ok(true);
    }
    Err(Error::Refused(format!(
        "the unfinished restore writes {} to {}, but this call names {}; give the same paths again",
        target.source,
        shown(named).display(),
        target.path().display()
    )))
}

fn intent_target(target: &Target) -> IntentTarget {
    let path = target.path();
    IntentTarget {
        source: target.source.clone(),
        path: path.to_string_lossy().into_owned(),
        path_hex: hex::encode(path.as_os_str().as_bytes()),
    }
}
