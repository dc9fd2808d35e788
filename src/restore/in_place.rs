//! Restoring in place: the story of a restore, from what is asked for to the report.
//!
//! Order: the guard, the plan, the verification, room, the state that is kept, the intent, the writes, the end of the
//! intent, the check. Invariant: until the intent is published nothing of the targets has changed, and what fails then
//! leaves no trace but a snapshot.

#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use chrono::{SecondsFormat, Utc};

use super::apply::{Applied, Applier};
use super::blocks::Selected;
use super::fold::{FoldOutcome, fold_databases};
use super::gate::{Accept, Passed};
use super::job::{Action, Direction, Job, Task};
use super::plan::{FileRole, Plan, Planner};
use super::scan::Scan;
use super::settled::Settled;
use super::wanted::{Wanted, for_each_piece};
use super::{
    ChromaChoice, Goal, HardLinkPolicy, Integrity, InvalidPolicy, OthersPolicy, OwnerPolicy, PlannedSource, Rehearsal,
    RestoreReport, SuspectPolicy, Totals, Unreadable, attributes, gate, guard, history, job, losses, permission, room,
    verify,
};
use crate::disk::target::TargetRoot;
use crate::disk::{LockMode, mount, sqlite};
use crate::error::{Error, Result};
use crate::format::intent::Intent;
use crate::format::limits::FORMAT_VERSION;
use crate::format::manifest::{CHROMA, DB, REGISTRY, SnapshotKind, SourceKind, SourceState, bytes_of};
use crate::id::{BlobId, Stamp};
use crate::progress::{Phase, Progress};
use crate::save::{self, CreateOptions, Effort, LiveSources, ReadPolicy, WriterPolicy};
use crate::store::{BlobReader, Repository, StagedBlobs, intents};

/// Whether the present state is kept before it is overwritten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PreSnapshot {
    /// In a snapshot of its own.
    Take,
    /// No; there is then no way back.
    Skip,
}

/// What is restored, where to, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoreOptions {
    /// Which state.
    pub goal: Goal,
    /// Where the live sources are; absolute paths.
    pub targets: LiveSources,
    /// Whether Chroma is restored.
    pub chroma: ChromaChoice,
    /// Whether the present state is kept. Resuming and going back never take another snapshot.
    pub pre_snapshot: PreSnapshot,
    /// What to do about owners.
    pub owner: OwnerPolicy,
    /// What to do about targets with several hard links.
    pub hard_links: HardLinkPolicy,
    /// What to do about processes that have a target open.
    pub others: OthersPolicy,
    /// What to do about a vector store that is known to have lost vectors.
    pub suspect: SuspectPolicy,
    /// What to do about a snapshot that is not valid.
    pub invalid: InvalidPolicy,
}

impl RestoreOptions {
    fn accept(&self) -> Accept {
        Accept { suspect: self.suspect, invalid: self.invalid }
    }
}

/// Restores a snapshot in place.
///
/// # Errors
/// Before the first write: [`Error::Refused`] while another restore is unfinished, while other processes have a target
/// open, for hard links and for mount points in a tree; [`Error::NotValid`] for an invalid snapshot; [`Error::Failed`]
/// for lack of room or of permission; [`Error::Busy`]. After it: [`Error::Failed`] or [`Error::RestoreInterrupted`],
/// with the intent standing, so that the restore can be resumed or undone.
/// A restored database that is not sound is no error: the report says so.
pub fn restore(repository: &Repository, options: &RestoreOptions, progress: &dyn Progress) -> Result<RestoreReport> {
    let began = Instant::now();
    let _live = repository.lock_live(LockMode::Exclusive)?;
    let job = job::decide(repository, options.goal, &options.targets, options.chroma)?;
    guard::check(&job, options.others)?;
    let mut settled = Settled::before_verification(&job)?;
    let Prepared { plans, passed: Passed { mut staged, accepted } } = prepare(repository, &job, options, progress)?;
    room::check_targets(&job, &plans, &mut staged)?;
    for (task, plan) in job.tasks.iter().zip(&plans) {
        task.target.open()?.map_or(Ok(()), |root| permission::check(&root, plan))?;
    }

    let way_back = keep_present_state(repository, &job, options, &plans, &mut staged, progress)?;
    let _locks = guard::lock_out(&job, &plans, options.others)?;
    let plans = publish_intent(repository, &job, way_back)
        .and_then(|()| fold(repository, &job, options, plans, progress))
        .map_err(|error| withdrawn(repository, &job, error, way_back))?;
    let applied = overwrite(repository, &job, options, &plans, staged, &mut settled, progress)
        .and_then(|applied| {
            // Before the intent goes, so that no restore is finished without its record.
            history::keep(repository, job.stamp, way_back, job.intent_targets());
            intents::clear(repository).map(|()| applied)
        })
        .map_err(|error| unfinished(error, way_back))?;

    let integrity = check_database(&job, &plans, progress);
    let report = RestoreReport {
        accepted_errors: accepted,
        ..report_of(&job, options, way_back, &plans, applied, integrity, began)
    };
    tracing::info!(event = "runtime_backup_restored", stamp = %report.stamp, bytes_written = report.bytes_written, "snapshot restored");
    Ok(report)
}

/// Finds out what a restore would do, and touches nothing.
///
/// # Errors
/// As [`restore`] before the first write.
pub fn rehearse(repository: &Repository, options: &RestoreOptions, progress: &dyn Progress) -> Result<Rehearsal> {
    let job = job::decide(repository, options.goal, &options.targets, options.chroma)?;
    guard::foretell(&job)?;
    let Prepared { plans, passed } = prepare(repository, &job, options, progress)?;
    let unreadable = unreadable(&job, &plans);
    let planned = |(task, plan): (&Task, Plan)| PlannedSource {
        source: task.target.source.clone(),
        path: task.target.path(),
        totals: plan.totals,
    };
    let sources = job.tasks.iter().zip(plans).map(planned).collect();
    let (stamp, target_db) = (job.stamp, options.targets.db.clone());
    Ok(Rehearsal { stamp, target_db, sources, accepted_errors: passed.accepted, unreadable })
}

/// What is known before the first write.
struct Prepared {
    plans: Vec<Plan>,
    passed: Passed,
}

/// Looks at the targets, then verifies the snapshot: so it is known by then which blobs will be read once more.
fn prepare(repository: &Repository, job: &Job, options: &RestoreOptions, progress: &dyn Progress) -> Result<Prepared> {
    let mut reader = BlobReader::new(repository);
    match plan_all(job, options, &mut reader, progress) {
        Ok(plans) => {
            let kept = chunks_to_write(&plans, &mut reader)?;
            // Its caches make room for those of the verification.
            drop(reader);
            let passed = gate::check(repository, job, options.accept(), kept, progress)?;
            Ok(Prepared { plans, passed })
        }
        Err(Error::Interrupted) => Err(Error::Interrupted),
        Err(error) => {
            // What is wrong with the snapshot is the better answer.
            gate::check(repository, job, options.accept(), HashSet::new(), progress)?;
            Err(error)
        }
    }
}

fn chunks_to_write(plans: &[Plan], reader: &mut BlobReader<'_>) -> Result<HashSet<BlobId>> {
    let mut chunks = HashSet::new();
    for step in plans.iter().flat_map(|plan| &plan.files) {
        let mut selected = Selected::of(step.slots());
        for_each_piece(&step.content, reader, |_, piece| {
            if let Wanted::Slot(slot) = piece
                && (selected.contains(slot.offset) || (slot.offset == 0 && step.role == FileRole::Database))
                && chunks.len() < verify::MOST_KEPT
            {
                chunks.insert(slot.id);
            }
            Ok(())
        })?;
    }
    Ok(chunks)
}

fn plan_all(
    job: &Job,
    options: &RestoreOptions,
    reader: &mut BlobReader<'_>,
    progress: &dyn Progress,
) -> Result<Vec<Plan>> {
    progress.phase(Phase::Comparing, Some(bytes_of(job.tasks.iter().map(|task| &task.record))));
    job.tasks.iter().map(|task| plan_source(task, options, reader, progress)).collect()
}

fn plan_source(
    task: &Task,
    options: &RestoreOptions,
    reader: &mut BlobReader<'_>,
    progress: &dyn Progress,
) -> Result<Plan> {
    let root = task.target.open()?;
    let mut planner = Planner::new(task.target.directory.clone(), options.owner, options.hard_links);
    let accept = options.invalid;
    let scan = Scan { target: &task.target, root: root.as_ref(), reader: &mut *reader, accept, progress };
    let cut = match task.action {
        Action::Restore => scan.compare(&task.record, &mut |observation| planner.take(observation))?,
        Action::Remove => scan.all_extra(&mut |observation| planner.take(observation)).map(|()| None)?,
    };
    let mut plan = Plan { cut, ..planner.finish() };
    if accept == InvalidPolicy::Accept {
        plan.files.iter_mut().try_for_each(|step| losses::mark(step, reader, progress))?;
    }
    let path = task.target.path();
    if plan.removals.contains(&task.target.name) && mount::is_mount_point(&path)? {
        return Err(Error::Refused(format!(
            "something is mounted at {}, so the file cannot be removed or replaced; unmount it first",
            path.display()
        )));
    }
    Ok(plan)
}

/// Takes the pre-restore snapshot, unless told not to, and returns what is the way back.
fn keep_present_state(
    repository: &Repository,
    job: &Job,
    options: &RestoreOptions,
    plans: &[Plan],
    staged: &mut Option<Arc<StagedBlobs>>,
    progress: &dyn Progress,
) -> Result<Option<Stamp>> {
    if job.direction == Direction::Back {
        return Ok(Some(job.stamp));
    }
    if let Some(intent) = &job.pending {
        return Ok(intent.pre_restore_snapshot.as_deref().and_then(|stamp| stamp.parse().ok()));
    }
    if options.pre_snapshot == PreSnapshot::Skip {
        return Ok(None);
    }
    room::check_pre_restore(repository.root(), plans)?;
    let create = CreateOptions {
        sources: options.targets.clone(),
        include_chroma: job.restores(CHROMA),
        check_trees: false,
        read_policy: ReadPolicy::All,
        // It should be over soon, and is seldom kept for long.
        effort: Effort::Fast,
        writers: WriterPolicy::default(),
        kind: SnapshotKind::PreRestore,
    };
    let report =
        save::create(repository, &create, progress).map_err(|error| room::explain(error, repository.root(), plans))?;
    let left_out = |source: &str| {
        job.restores(source)
            && report.manifest.source(source).is_none_or(|record| record.state == SourceState::Changing)
    };
    if [DB, REGISTRY, CHROMA].into_iter().any(left_out) {
        return Err(Error::Changing(format!(
            "the pre-restore snapshot {} does not hold everything that would be overwritten, because it kept changing; \
             stop the service and try again (nothing was changed)",
            report.stamp
        )));
    }
    if !report.validated {
        tracing::warn!(event = "restore_pre_checkpoint_failed", stamp = %report.stamp, errors = ?report.validation_errors, "the snapshot of the present state is not valid; the restore goes on");
    }
    room::check_beside(report.stamp, repository.root(), job, plans, staged)?;
    Ok(Some(report.stamp))
}

/// From here on the targets may be half old and half new.
fn publish_intent(repository: &Repository, job: &Job, way_back: Option<Stamp>) -> Result<()> {
    let intent = Intent {
        format_version: FORMAT_VERSION.into(),
        stamp: job.stamp.to_string(),
        pre_restore_snapshot: way_back.map(|stamp| stamp.to_string()),
        started_at: Utc::now().to_rfc3339_opts(SecondsFormat::Micros, false),
        targets: job.intent_targets(),
    };
    match &job.pending {
        Some(pending) if (&pending.stamp, pending.is_undo()) == (&intent.stamp, intent.is_undo()) => {
            // Who published it may not have come far enough for it to survive a crash.
            intents::confirm(repository)
        }
        _ => intents::publish(repository, &intent),
    }
}

/// Lets SQLite bring what lies beside the databases into them; where there was something, the target is looked at anew.
/// That loses nothing: if it fails, the targets are as whole as before.
fn fold(
    repository: &Repository,
    job: &Job,
    options: &RestoreOptions,
    plans: Vec<Plan>,
    progress: &dyn Progress,
) -> Result<Vec<Plan>> {
    let mut reader = BlobReader::new(repository);
    let tasks = job.tasks.iter().zip(plans);
    let folded = tasks.map(|(task, plan)| match task.target.open()? {
        Some(root) if fold_databases(&root, &plan, progress)? == FoldOutcome::Changed => {
            plan_source(task, options, &mut reader, progress)
        }
        _ => Ok(plan),
    });
    folded.collect()
}

/// An error before the first write: no intent of this run need stand, and if one does, the ways on are told.
fn withdrawn(repository: &Repository, job: &Job, error: Error, way_back: Option<Stamp>) -> Error {
    if job.pending.is_none() && intents::clear(repository).is_ok() {
        return error;
    }
    unfinished(error, way_back)
}

/// Writes all targets; afterwards they are whole and durable.
fn overwrite(
    repository: &Repository,
    job: &Job,
    options: &RestoreOptions,
    plans: &[Plan],
    staged: Option<Arc<StagedBlobs>>,
    settled: &mut Settled,
    progress: &dyn Progress,
) -> Result<Applied> {
    let bytes = plans.iter().map(|plan| plan.totals.bytes_to_write_at_most).fold(0, u64::saturating_add);
    progress.phase(Phase::Writing, Some(bytes));
    let mut reader = BlobReader::new(repository);
    if let Some(staged) = staged {
        reader = reader.with_staged(staged);
    }
    let mut targets: Vec<(TargetRoot, &Plan)> = Vec::new();
    for (task, plan) in job.tasks.iter().zip(plans) {
        match task.action {
            Action::Restore => targets.push((task.target.open_or_create()?, plan)),
            Action::Remove => targets.extend(task.target.open()?.map(|root| (root, plan))),
        }
    }
    targets.iter().try_for_each(|(root, _)| settled.settle(root))?;
    let mut total = Applied::default();
    // Each step on all targets before the next: no database becomes readable before everything is in place.
    let mut on_all = |step: fn(&mut Applier<'_, '_>) -> Result<()>| {
        targets.iter().try_for_each(|(root, plan)| {
            let mut applier = Applier::new(root, plan, options.owner, &mut reader, progress);
            step(&mut applier)?;
            total.add(applier.applied());
            Ok(())
        })
    };
    on_all(|applier| applier.spoil_databases())?;
    on_all(|applier| applier.apply())?;
    progress.phase(Phase::Verifying, Some(bytes));
    on_all(|applier| applier.check_written())?;
    on_all(|applier| applier.finish_databases())?;
    attributes::warn_of_denials(total.not_permitted);
    Ok(total)
}

/// An error after the first write, said so that the operator knows the ways on.
fn unfinished(error: Error, way_back: Option<Stamp>) -> Error {
    let ways_on = intents::ways_on(way_back);
    match error {
        Error::Interrupted => Error::RestoreInterrupted { ways_on },
        error => Error::Failed(format!("{error}; the restore is unfinished: once the cause is gone, {ways_on}")),
    }
}

fn check_database(job: &Job, plans: &[Plan], progress: &dyn Progress) -> Integrity {
    let mut tasks = job.tasks.iter().zip(plans);
    let Some((task, plan)) = tasks.find(|(task, _)| task.target.kind == SourceKind::Sqlite) else {
        return Integrity::NotRestored;
    };
    match (task.action, task.record.state) {
        (Action::Remove, _) => Integrity::NotRestored,
        (Action::Restore, _) if !plan.restores_something() => Integrity::NotRestored,
        (Action::Restore, SourceState::CapturedRaw) => Integrity::Raw,
        (Action::Restore, _) => {
            progress.phase(Phase::CheckingDatabases, None);
            sqlite::integrity_check(&task.target.path()).into()
        }
    }
}

/// All that is not restored, since it cannot be read.
fn unreadable(job: &Job, plans: &[Plan]) -> Vec<Unreadable> {
    job.tasks.iter().zip(plans).flat_map(|(task, plan)| plan.unreadable(&task.target)).collect()
}

fn report_of(
    job: &Job,
    options: &RestoreOptions,
    way_back: Option<Stamp>,
    plans: &[Plan],
    applied: Applied,
    integrity: Integrity,
    began: Instant,
) -> RestoreReport {
    let sum = |count: fn(&Totals) -> u64| plans.iter().map(|plan| count(&plan.totals)).sum();
    let removed = job.tasks.iter().filter(|task| task.action == Action::Remove);
    let restored = |source: &str| {
        let mut tasks = job.tasks.iter().zip(plans);
        job.restores(source) && tasks.any(|(task, plan)| task.target.source == source && plan.restores_something())
    };
    RestoreReport {
        stamp: job.stamp,
        pre_restore_snapshot: way_back.filter(|_| job.direction == Direction::Forward),
        target_db: options.targets.db.clone(),
        db_restored: restored(DB),
        registry_restored: restored(REGISTRY),
        chroma_restored: restored(CHROMA),
        integrity,
        sources_removed: removed.map(|task| task.target.source.clone()).collect(),
        files_created: sum(|totals| totals.created),
        files_overwritten: sum(|totals| totals.overwritten),
        files_removed: sum(|totals| totals.removed),
        blocks_written: applied.written.blocks,
        bytes_written: applied.written.bytes,
        not_permitted: applied.not_permitted,
        accepted_errors: Vec::new(),
        unreadable: unreadable(job, plans),
        duration: began.elapsed(),
    }
}
