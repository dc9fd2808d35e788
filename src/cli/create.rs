//! `vecsnap create`: the default command, made for cron.

use std::time::Duration;

use serde_json::{Value, json};

use super::arguments::CreateArguments;
use super::exit::Exit;
use super::session::{Done, Session};
use crate::disk::{LocalStorage, stat};
use crate::error::{Error, Result};
use crate::format::manifest::{Consistency, SnapshotKind, SourceRecord, SourceState, Verdict};
use crate::save::{self, CreateOptions, CreateReport, Freeze, IngestLock, ReadPolicy, WriterPolicy};
use crate::store::{Repository, repository};

/// How long writers may be held off unless the operator says otherwise: a service that waits 5 s for a lock, as most
/// do, does not notice.
const MAX_BLOCK: Duration = Duration::from_secs(4);

/// Takes a snapshot and shows its document.
///
/// # Errors
/// Those of [`save::create()`]; bad usage.
pub fn run(session: &Session<'_>, arguments: &CreateArguments) -> Result<Exit> {
    let locations = session.locations();
    let root = session.repository()?;
    let sources = locations.sources()?;
    if arguments.chroma {
        sources.chroma()?;
    }
    sources.check_apart_from(&root)?;
    // Where there is a repository, a restore may be unfinished; that comes first.
    if stat::stat(&sources.db)?.is_none() && !repository::exists(&LocalStorage::new(&root, None))? {
        let db = sources.db.display();
        return Err(Error::Failed(format!("the database {db} does not exist; check --db or ATOCORE_DATA_DIR")));
    }
    let repository = Repository::open_or_create(&root, session.lock_wait())?;
    let options = CreateOptions {
        sources,
        include_chroma: arguments.chroma,
        check_trees: arguments.check,
        read_policy: if arguments.force_read { ReadPolicy::All } else { ReadPolicy::Changed },
        effort: arguments.effort.into(),
        writers: writers(session, arguments)?,
        kind: SnapshotKind::Ordinary,
    };
    let report = save::create(&repository, &options, session.progress)?;
    let exit = exit_of(&report);
    let stamp = report.stamp;
    let done = Done {
        what: format!("snapshot {stamp} is published in {}", root.display()),
        next: format!("`vecsnap show {stamp}` shows it"),
    };
    session.print_done(&document(&report)?, exit, done)?;
    Ok(exit)
}

/// How the capture gets along with writers.
fn writers(session: &Session<'_>, arguments: &CreateArguments) -> Result<WriterPolicy> {
    if arguments.freeze && !arguments.chroma {
        return Err(Error::Usage(
            "--freeze holds off the writers of Chroma, which is only captured with --chroma".into(),
        ));
    }
    let lock = |path| std::path::absolute(path).map_err(Error::io("find the present directory for", path));
    let ingest_lock = arguments.ingest_lock.as_ref().map(lock).transpose()?;
    Ok(WriterPolicy {
        freeze: if arguments.freeze { Freeze::Yes } else { Freeze::No },
        max_block: Some(arguments.max_block.unwrap_or(MAX_BLOCK)),
        ingest_lock: ingest_lock.map(|path| IngestLock { path, wait: session.lock_wait().0 }),
    })
}

/// A source that was left out weighs more than a verdict: the next create may well capture it.
fn exit_of(report: &CreateReport) -> Exit {
    match (report.left_out(), report.validated) {
        (Some(_), _) => Exit::Changing,
        (None, false) => Exit::NotValid,
        (None, true) => Exit::Done,
    }
}

/// The result document: the reference's fields first and in its order.
///
/// # Errors
/// [`Error::Failed`] if the metadata cannot be told as JSON.
pub fn document(report: &CreateReport) -> Result<Value> {
    let metadata = serde_json::to_value(&report.metadata)
        .map_err(|fault| Error::Failed(format!("the result cannot be told as JSON: {fault}")))?;
    let mut document = metadata.as_object().cloned().unwrap_or_default();
    for own in ["stamp", "format", "format_version", "kind", "chroma_consistency"] {
        document.shift_remove(own);
    }
    let sources: Vec<Value> = report.manifest.sources.iter().map(source).collect();
    let additions = json!({
        "validated": report.validated,
        "validation_errors": report.validation_errors,
        "stamp": report.stamp.to_string(),
        "parent": report.manifest.parent().map(|parent| parent.to_string()),
        "stored_bytes": report.stored_bytes,
        "logical_bytes": report.logical_bytes(),
        "chunks_new": report.chunks_new,
        "chunks_delta": report.chunks_delta,
        "chunks_reused": report.chunks_reused,
        "duration_s": (report.duration.as_secs_f64() * 1000.0).round() / 1000.0,
        "sources": sources,
    });
    document.extend(additions.as_object().cloned().unwrap_or_default());
    Ok(Value::Object(document))
}

/// What became of a source.
pub(super) fn source(source: &SourceRecord) -> Value {
    let state = match source.state {
        SourceState::Captured => "captured",
        SourceState::CapturedRaw => "captured_raw",
        SourceState::Absent => "absent",
        SourceState::NotRequested => "not_requested",
        SourceState::Changing => "changing",
    };
    let (verdict, cause) = match &source.verdict {
        Verdict::Unchecked => ("unchecked", None),
        Verdict::Ok => ("ok", None),
        Verdict::Failed(cause) => ("failed", Some(cause)),
        Verdict::Unknown(cause) => ("unknown", Some(cause)),
        Verdict::OpenFailed(cause) => ("open_failed", Some(cause)),
    };
    let (consistency, doubts) = match &source.consistency {
        Consistency::Unproven => ("unproven", &[][..]),
        Consistency::Proven => ("proven", &[][..]),
        Consistency::Suspect(causes) => ("suspect", causes.as_slice()),
    };
    json!({
        "name": source.name,
        "state": state,
        "files": source.files,
        "bytes": source.bytes,
        "integrity": verdict,
        "integrity_error": cause,
        "consistency": consistency,
        "consistency_doubts": doubts,
        "writer_blocked_s": source.writer_blocked_microseconds as f64 / 1e6,
    })
}
