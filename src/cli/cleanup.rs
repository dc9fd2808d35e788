//! `vecsnap cleanup`: old snapshots go; a dry run unless confirmed.

use serde_json::{Map, Value, json};

use super::arguments::CleanupArguments;
use super::exit::Exit;
use super::session::{Done, Session};
use crate::error::Result;
use crate::upkeep::cleanup::{CleanupMode, CleanupReport, cleanup};

/// Cleans up, or tells what would go, and shows the document.
///
/// # Errors
/// Those of [`cleanup`]; bad usage.
pub fn run(session: &Session<'_>, arguments: &CleanupArguments) -> Result<Exit> {
    let root = session.repository()?;
    let rules = arguments.keep.rules()?;
    let mode = if arguments.confirm { CleanupMode::Delete } else { CleanupMode::DryRun };
    let report = cleanup(&root, &rules, mode, session.lock_wait(), session.progress)?;
    let exit = if report.errors.is_empty() { Exit::Done } else { Exit::Failed };
    match mode {
        CleanupMode::DryRun => session.print(&document(&report), exit)?,
        CleanupMode::Delete => session.print_done(&document(&report), exit, done(&report))?,
    }
    Ok(exit)
}

fn done(report: &CleanupReport) -> Done {
    let CleanupReport { deleted, freed_bytes, errors, .. } = report;
    Done {
        what: match errors.first() {
            None => format!("cleanup is done: {} snapshots are deleted, {freed_bytes} bytes freed", deleted.len()),
            Some(first) => format!("cleanup is not complete: {} snapshots are deleted; {first}", deleted.len()),
        },
        next: "`vecsnap list` shows what is left".into(),
    }
}

/// The result document: the reference's fields first and in its order, which differs where there is no snapshot at all.
fn document(report: &CleanupReport) -> Value {
    let mut document = Map::new();
    let mut field = |name: &str, value: Value| document.insert(name.into(), value);
    let dry_run = report.mode == CleanupMode::DryRun;
    let nothing = report.kept == 0 && report.deleted.is_empty() && report.unparseable.is_empty();
    field("kept", json!(report.kept));
    if nothing {
        field("deleted", json!(0));
        field("would_delete", json!(0));
    }
    field("dry_run", json!(dry_run));
    field("errors", json!(report.errors));
    if !nothing {
        field(if dry_run { "would_delete" } else { "deleted" }, json!(report.deleted.len()));
    }
    if !report.unparseable.is_empty() {
        field("unparseable", json!(report.unparseable));
    }
    if !nothing || report.freed_bytes > 0 {
        field(if dry_run { "would_free_bytes" } else { "freed_bytes" }, json!(report.freed_bytes));
        field(if dry_run { "would_rewrite_bytes" } else { "rewritten_bytes" }, json!(report.rewritten_bytes));
        field(if dry_run { "would_rebase_bytes" } else { "rebased_bytes" }, json!(report.rebased_bytes));
    }
    Value::Object(document)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(mode: CleanupMode) -> CleanupReport {
        let deleted = vec!["20260101T000000Z".parse().unwrap(), "20260102T000000Z".parse().unwrap()];
        let (freed_bytes, rewritten_bytes, rebased_bytes) = (7, 5, 2);
        let (unparseable, errors) = (Vec::new(), Vec::new());
        CleanupReport {
            mode,
            kept: 3,
            deleted,
            unparseable,
            warnings: Vec::new(),
            errors,
            freed_bytes,
            rewritten_bytes,
            rebased_bytes,
        }
    }

    #[test]
    fn documents_have_the_references_fields_in_its_order() {
        let dry = document(&report(CleanupMode::DryRun)).to_string();
        let expected = r#"{"kept":3,"dry_run":true,"errors":[],"would_delete":2,"would_free_bytes":7,"would_rewrite_bytes":5,"would_rebase_bytes":2}"#;
        assert_eq!(dry, expected);
        let odd = CleanupReport { unparseable: vec!["x".into()], ..report(CleanupMode::Delete) };
        let expected = r#"{"kept":3,"dry_run":false,"errors":[],"deleted":2,"unparseable":["x"],"freed_bytes":7,"rewritten_bytes":5,"rebased_bytes":2}"#;
        assert_eq!(document(&odd).to_string(), expected);
        let nothing = CleanupReport { kept: 0, deleted: Vec::new(), freed_bytes: 0, ..report(CleanupMode::DryRun) };
        let expected = r#"{"kept":0,"deleted":0,"would_delete":0,"dry_run":true,"errors":[]}"#;
        assert_eq!(document(&nothing).to_string(), expected);
    }
}
