//! `vecsnap restore`: a snapshot put back in place, finished, undone, rehearsed, or written elsewhere.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::arguments::RestoreArguments;
use super::exit::Exit;
use super::session::{Done, Session};
use super::stamp::StampArgument;
use crate::disk::LocalStorage;
use crate::error::{Error, Result};
use crate::id::Stamp;
use crate::restore::{
    self, ChromaChoice, ExportReport, Goal, HardLinkPolicy, Integrity, InvalidPolicy, OthersPolicy, OwnerPolicy,
    PlannedSource, PreSnapshot, Rehearsal, RestoreOptions, RestoreReport, SuspectPolicy, Unreadable, gate,
};
use crate::save::LiveSources;
use crate::store::{Access, Repository};

/// Restores and shows the document of what was done.
///
/// # Errors
/// Those of [`restore::restore`], [`restore::rehearse`] and [`restore::export`]; bad usage; no confirmation.
pub fn run(session: &Session<'_>, arguments: &RestoreArguments) -> Result<Exit> {
    arguments.check_confirmation()?;
    let locations = session.locations();
    let root = session.repository()?;
    let access = if arguments.dry_run || arguments.to.is_some() { Access::Read } else { Access::Write };
    let open = || match Repository::open(&root, access, session.lock_wait())? {
        Some(repository) => Ok(repository),
        None => Err(no_repository(&root, arguments)?),
    };
    if let Some(directory) = &arguments.to {
        locations.sources().map_or(Ok(()), |live| live.check_outside_tree(directory))?;
        export(session, &open()?, arguments, directory)
    } else {
        in_place(session, &open()?, arguments, locations.sources()?)
    }
}

fn export(
    session: &Session<'_>,
    repository: &Repository,
    arguments: &RestoreArguments,
    directory: &Path,
) -> Result<Exit> {
    let stamp = stamp_of(repository, arguments)?;
    let (owner, invalid) = (owner_policy(arguments), invalid_policy(arguments));
    let report = restore::export(repository, stamp, directory, owner, invalid, session.progress)?;
    let exit = exit_after(&report.unreadable);
    let directory = report.directory.display();
    let done = Done {
        what: format!("snapshot {stamp} is written to {directory}"),
        next: format!("`ls {directory}` shows it"),
    };
    session.print_done(&export_document(&report), exit, done)?;
    Ok(exit)
}

fn in_place(
    session: &Session<'_>,
    repository: &Repository,
    arguments: &RestoreArguments,
    targets: LiveSources,
) -> Result<Exit> {
    let goal = match arguments {
        RestoreArguments { resume: true, .. } => Goal::Resume,
        RestoreArguments { undo: true, .. } => Goal::Undo,
        _ => Goal::Snapshot(stamp_of(repository, arguments)?),
    };
    let options = RestoreOptions {
        goal,
        targets,
        chroma: match (arguments.chroma, arguments.no_chroma) {
            (_, true) => ChromaChoice::Skip,
            (true, false) => ChromaChoice::Wanted,
            (false, false) => ChromaChoice::AsCaptured,
        },
        pre_snapshot: if arguments.no_pre_snapshot { PreSnapshot::Skip } else { PreSnapshot::Take },
        owner: owner_policy(arguments),
        hard_links: if arguments.break_links { HardLinkPolicy::Break } else { HardLinkPolicy::Refuse },
        others: if arguments.force { OthersPolicy::Warn } else { OthersPolicy::Refuse },
        suspect: if arguments.accept_suspect { SuspectPolicy::Accept } else { SuspectPolicy::Refuse },
        invalid: invalid_policy(arguments),
    };
    if arguments.dry_run {
        let rehearsal = restore::rehearse(repository, &options, session.progress)?;
        let exit = exit_after(&rehearsal.unreadable);
        session.print(&rehearsal_document(&rehearsal, options.invalid), exit)?;
        return Ok(exit);
    }
    let report = restore::restore(repository, &options, session.progress)?;
    let lost = exit_after(&report.unreadable);
    let exit = if matches!(report.integrity, Integrity::Failed(_)) { Exit::Failed } else { lost };
    session.print_done(&document(&report, options.invalid), exit, done(&report))?;
    Ok(exit)
}

fn done(report: &RestoreReport) -> Done {
    let stamp = report.stamp;
    let verdict = match &report.integrity {
        Integrity::Failed(cause) => format!(", but its database fails the integrity check: {cause}"),
        Integrity::Ok | Integrity::Raw | Integrity::NotRestored | Integrity::Unknown(_) => String::new(),
    };
    Done {
        what: format!("snapshot {stamp} is restored{verdict}"),
        next: match report.pre_restore_snapshot {
            Some(way_back) => format!("the state before is snapshot {way_back}"),
            None => format!("`vecsnap show {stamp}` shows what it holds"),
        },
    }
}

fn stamp_of(repository: &Repository, arguments: &RestoreArguments) -> Result<Stamp> {
    let Some(argument) = &arguments.stamp else {
        return Err(Error::Usage("name the snapshot to restore: a stamp or 'latest'".into()));
    };
    match argument.resolve(repository.storage())? {
        Some(name) => gate::resolve(repository, &name),
        None => Err(gate::missing(&argument.to_string())),
    }
}

fn owner_policy(arguments: &RestoreArguments) -> OwnerPolicy {
    if arguments.no_owner { OwnerPolicy::Skip } else { OwnerPolicy::Restore }
}

/// Why nothing can be restored where no repository is: full copies of the earlier tool may lie there all the same.
fn no_repository(root: &Path, arguments: &RestoreArguments) -> Result<Error> {
    if let Some(StampArgument::Named(name)) = &arguments.stamp {
        gate::refuse_full_copy(&LocalStorage::new(root, None), name.as_str())?;
    }
    Ok(Error::NotValid(format!(
        "there is no repository at {}, so there is nothing to restore; check --repo or ATOCORE_BACKUP_DIR",
        root.display()
    )))
}

fn invalid_policy(arguments: &RestoreArguments) -> InvalidPolicy {
    if arguments.accept_invalid { InvalidPolicy::Accept } else { InvalidPolicy::Refuse }
}

/// Tells of everything that could not be read, and what the call exits with for it.
fn exit_after(unreadable: &[Unreadable]) -> Exit {
    for part in unreadable {
        let (offset, length) = part.bytes.map(|bytes| (bytes.offset, bytes.length)).unzip();
        tracing::error!(path = %part.path.display(), offset, length, cause = %part.cause, "this cannot be read from the repository");
    }
    if unreadable.is_empty() { Exit::Done } else { Exit::NotValid }
}

/// The result document: the reference's fields first and in its order.
fn document(report: &RestoreReport, invalid: InvalidPolicy) -> Value {
    let mut document = Map::new();
    let mut field = |name: &str, value: Value| document.insert(name.into(), value);
    field("stamp", json!(report.stamp.to_string()));
    field("pre_restore_snapshot", json!(report.pre_restore_snapshot.map(|stamp| stamp.to_string())));
    field("target_db", json!(report.target_db.display().to_string()));
    field("db_restored", json!(report.db_restored));
    field("registry_restored", json!(report.registry_restored));
    field("chroma_restored", json!(report.chroma_restored));
    match &report.integrity {
        Integrity::Ok | Integrity::Raw => field("restored_integrity_ok", json!(true)),
        Integrity::NotRestored => field("restored_integrity_ok", Value::Null),
        Integrity::Failed(cause) => {
            field("restored_integrity_ok", json!(false));
            field("integrity_error", json!(cause))
        }
        Integrity::Unknown(cause) => {
            field("restored_integrity_ok", json!(true));
            field("integrity_unknown", json!(cause))
        }
    };
    field("db_captured_raw", json!(report.integrity == Integrity::Raw));
    field("sources_removed", json!(report.sources_removed));
    field("files_created", json!(report.files_created));
    field("files_overwritten", json!(report.files_overwritten));
    field("files_removed", json!(report.files_removed));
    field("blocks_written", json!(report.blocks_written));
    field("bytes_written", json!(report.bytes_written));
    if invalid == InvalidPolicy::Accept {
        field("accepted_errors", json!(report.accepted_errors));
        field("unreadable", unreadable_parts(&report.unreadable));
    }
    field("duration_s", json!(seconds(report.duration)));
    Value::Object(document)
}

fn unreadable_parts(unreadable: &[Unreadable]) -> Value {
    let part = |part: &Unreadable| {
        let (offset, length) = part.bytes.map(|bytes| (bytes.offset, bytes.length)).unzip();
        json!({ "path": part.path.display().to_string(), "offset": offset, "length": length, "error": part.cause })
    };
    unreadable.iter().map(part).collect()
}

fn rehearsal_document(rehearsal: &Rehearsal, invalid: InvalidPolicy) -> Value {
    let sources: Vec<Value> = rehearsal.sources.iter().map(planned_source).collect();
    let mut document = json!({
        "stamp": rehearsal.stamp.to_string(),
        "dry_run": true,
        "target_db": rehearsal.target_db.display().to_string(),
        "sources": sources,
    });
    if invalid == InvalidPolicy::Accept
        && let Some(fields) = document.as_object_mut()
    {
        fields.insert("accepted_errors".into(), json!(rehearsal.accepted_errors));
        fields.insert("unreadable".into(), unreadable_parts(&rehearsal.unreadable));
    }
    document
}

fn planned_source(source: &PlannedSource) -> Value {
    let totals = &source.totals;
    let removed: Vec<_> = totals.removed_names.iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect();
    json!({
        "name": source.source,
        "path": source.path.display().to_string(),
        "files_to_create": totals.created,
        "files_to_overwrite": totals.overwritten,
        "files_unchanged": totals.unchanged,
        "files_to_remove": totals.removed,
        "bytes_to_write_at_most": totals.bytes_to_write_at_most,
        "removed_names": removed,
    })
}

fn export_document(report: &ExportReport) -> Value {
    json!({
        "stamp": report.stamp.to_string(),
        "to": report.directory.display().to_string(),
        "db_snapshot_path": report.metadata.db_snapshot_path,
        "registry_snapshot_path": report.metadata.registry_snapshot_path,
        "chroma_snapshot_path": report.metadata.chroma_snapshot_path,
        "files": report.files,
        "bytes_written": report.bytes_written,
        "unreadable": unreadable_parts(&report.unreadable),
        "duration_s": seconds(report.duration),
    })
}

fn seconds(duration: std::time::Duration) -> f64 {
    (duration.as_secs_f64() * 1000.0).round() / 1000.0
}
