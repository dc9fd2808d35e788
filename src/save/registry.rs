//! Capturing the registry: one small JSON file.
//!
//! Invariants: a registry that is no JSON is captured as it is and said to be none; one that is missing is no error,
//! but said to be missing. Whether a content is JSON is kept with the index, so that a registry whose stats have not
//! changed is not opened at all.

use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::capturing::Capturing;
use super::database;
use super::previous::{EarlierSnapshots, is_settled};
use super::sources::{self, table_stat};
use crate::disk::stat;
use crate::error::{Error, Result};
use crate::format::content::Content;
use crate::format::manifest::{Consistency, REGISTRY, SourceKind, SourceRecord, SourceState};
use crate::format::table::{Capture, Entry, EntryKind, SourceStats, Time};
use crate::store::json_verdict::{self, JsonVerdict};
use crate::store::verdicts;

/// The event of a create that found no registry, named as that of a missing Chroma directory.
const REGISTRY_SKIPPED: &str = "registry_snapshot_skipped_missing";

/// A captured registry.
pub(super) struct CapturedRegistry {
    /// What the manifest says of it.
    pub(super) record: SourceRecord,
    /// Whether it is JSON; a missing one has nothing wrong.
    pub(super) verdict: JsonVerdict,
}

/// Captures the registry at `path`, if there is one.
///
/// # Errors
/// [`Error::Changing`] if it never stood still; I/O errors.
pub(super) fn capture(capturing: &mut Capturing<'_>, path: &Path) -> Result<CapturedRegistry> {
    let started = sources::now();
    let mut record = sources::record(REGISTRY, SourceKind::File, SourceState::Absent, path, started);
    if stat::stat(path)?.is_none() {
        return Ok(CapturedRegistry { record, verdict: JsonVerdict::Sound });
    }
    let name = sources::file_name(path)?.as_bytes();
    let stored = match take_over(capturing, path, name)? {
        Some(unchanged) => unchanged,
        None => read(capturing, path, name, started)?,
    };
    if let EntryKind::File(file) = &stored.entry.kind {
        record.files = 1;
        record.bytes = file.content.length;
    }
    let mut table = capturing.table(REGISTRY)?;
    table.push(&stored.entry, capturing.writer)?;
    record.table = table.finish(capturing.writer)?;
    (record.state, record.consistency) = (SourceState::Captured, Consistency::Proven);
    Ok(CapturedRegistry { record, verdict: stored.verdict })
}

/// Tells the operator that there was no registry to capture, and where the last one is if there ever was one.
///
/// # Errors
/// When a snapshot cannot be read.
pub(super) fn warn_of_absence(path: &Path, earlier: &EarlierSnapshots<'_>) -> Result<()> {
    let path = path.display();
    match earlier.newest_with(REGISTRY)?.and_then(|manifest| manifest.stamp()) {
        None => tracing::warn!(
            event = REGISTRY_SKIPPED,
            %path,
            "there is no registry to capture; check --registry or ATOCORE_PROJECT_REGISTRY_PATH"
        ),
        Some(last) => tracing::warn!(
            event = REGISTRY_SKIPPED,
            %path,
            last_captured = %last,
            "the registry is gone; check --registry or ATOCORE_PROJECT_REGISTRY_PATH, \
             or get it back with `vecsnap restore {last} --to DIR`"
        ),
    }
    Ok(())
}

/// The registry in the store.
struct StoredRegistry {
    entry: Entry,
    verdict: JsonVerdict,
}

/// The previous version, if its stats say that it is unchanged and it is known whether it is JSON.
fn take_over(capturing: &mut Capturing<'_>, path: &Path, name: &[u8]) -> Result<Option<StoredRegistry>> {
    let Some(mut previous) = capturing.previous(REGISTRY)? else { return Ok(None) };
    let Some(file) = previous.file(name)? else { return Ok(None) };
    let Some(found) = stat::stat(path)? else { return Ok(None) };
    let stats = SourceStats { file: table_stat(&found), wal: None, journal: None };
    if !previous.holds(&file, &stats, Capture::Plain)? {
        return Ok(None);
    }
    let Some(verdict) = verdicts::kept_on_json(capturing.repository.index(), &file.content) else { return Ok(None) };
    capturing.writer.count_reused(Content::slots(file.content.length));
    capturing.progress.advance(file.content.length);
    Ok(Some(StoredRegistry { entry: database::file_entry(name, &found, file), verdict }))
}

fn judge(path: &Path) -> Result<JsonVerdict> {
    File::open(path).and_then(json_verdict::judge).map_err(Error::io("read", path))
}

fn read(capturing: &mut Capturing<'_>, path: &Path, name: &[u8], started: Time) -> Result<StoredRegistry> {
    let entry = database::store_plain(capturing, path, name)?;
    let verdict = judge(path)?;
    if let EntryKind::File(file) = &entry.kind
        && is_settled(&file.stats, started)
        && stat::stat(path)?.is_some_and(|now| table_stat(&now) == file.stats.file)
    {
        // What was parsed is what was captured.
        verdicts::keep_on_json(capturing.repository.index(), &file.content, &verdict);
    }
    Ok(StoredRegistry { entry, verdict })
}
