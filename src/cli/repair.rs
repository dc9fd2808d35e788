//! `vecsnap repair`: puts back what damage took, as far as it can be had; a dry run unless confirmed.

use serde_json::{Map, Value, json};

use super::arguments::RepairArguments;
use super::exit::Exit;
use super::session::{Done, Session};
use crate::error::{Error, Result};
use crate::upkeep::repair::{DamagedPack, IndexState, RepairMode, RepairReport, lost_ranges, repair};
use crate::upkeep::validate::Validation;

/// Repairs, or tells what a repair would do, and shows the document.
///
/// # Errors
/// Those of [`repair`]. Snapshots that are not valid in the end are [`Exit::NotValid`]; damaged packs that still stand
/// are [`Exit::Damaged`].
pub fn run(session: &Session<'_>, arguments: &RepairArguments) -> Result<Exit> {
    let root = session.repository()?;
    let sources = match session.locations().sources() {
        Ok(sources) => Some(sources),
        Err(Error::Usage(cause)) => {
            tracing::warn!(cause, "without live sources only what packs still hold can be saved");
            None
        }
        Err(error) => return Err(error),
    };
    let mode = if arguments.confirm { RepairMode::Confirmed } else { RepairMode::DryRun };
    let Some(report) = repair(&root, sources.as_ref(), mode, session.lock_wait(), session.progress)? else {
        return Err(Error::NotValid(format!(
            "there is no repository at {}, so there is nothing to repair; check --repo or ATOCORE_BACKUP_DIR",
            root.display()
        )));
    };
    let exit = exit_of(&report);
    match mode {
        RepairMode::DryRun => session.print(&document(&report), exit)?,
        RepairMode::Confirmed => session.print_done(&document(&report), exit, done(&report))?,
    }
    Ok(exit)
}

/// The state in which the repository is left.
fn exit_of(report: &RepairReport) -> Exit {
    match (report.invalid().count(), report.is_pack_left()) {
        (0, false) => Exit::Done,
        (0, true) => Exit::Damaged,
        _ => Exit::NotValid,
    }
}

fn done(report: &RepairReport) -> Done {
    let invalid = report.invalid().count();
    Done {
        what: format!("the repair is done, and {invalid} of {} snapshots are not valid", report.snapshots.len()),
        next: "`vecsnap validate --all` tells which".into(),
    }
}

fn document(report: &RepairReport) -> Value {
    let index = match report.index {
        IndexState::Sound => "sound",
        IndexState::Rebuilt => "rebuilt",
        IndexState::Unread => "unread",
    };
    let invalid = report.invalid().count();
    let mut document = Map::new();
    let mut field = |name: &str, value: Value| document.insert(name.into(), value);
    field("dry_run", json!(report.mode == RepairMode::DryRun));
    field("packs", json!(report.packs));
    field("damaged_packs", report.damaged_packs.iter().map(pack).collect());
    field("index", json!(index));
    field("saved_blobs", json!(report.saved_blobs));
    field("lost_blobs", json!(report.lost_blobs));
    field("retaken_blobs", json!(report.retaken_blobs));
    field("unread_sources", json!(report.unread_sources));
    field("stored_bytes", json!(report.stored_bytes));
    field("valid", json!(report.snapshots.len() - invalid));
    field("invalid", json!(invalid));
    field("invalid_snapshots", report.invalid().map(snapshot).collect());
    field("aside_files", json!(report.aside.files));
    field("aside_bytes", json!(report.aside.bytes));
    Value::Object(document)
}

fn pack(pack: &DamagedPack) -> Value {
    let moved_to = pack.moved_to.as_ref().map(|path| path.display().to_string());
    json!({ "path": pack.path.display().to_string(), "cause": pack.cause, "moved_to": moved_to })
}

/// A snapshot that is not valid, and the bytes that it lost.
fn snapshot(snapshot: &Validation) -> Value {
    let lost: Vec<Value> = lost_ranges(snapshot)
        .into_iter()
        .map(|range| json!({ "file": range.file, "offset": range.offset, "length": range.length }))
        .collect();
    json!({ "stamp": snapshot.name, "errors": snapshot.errors, "lost": lost })
}
