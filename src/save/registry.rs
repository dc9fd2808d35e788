//! Capturing the registry: one small JSON file.
//!
//! Invariants: a registry that is no JSON is captured as it is and said to be none; one that is missing is no error, but
//! said to be missing. Whether a content is JSON is kept with
//! the index, so that a registry whose stats have not changed is not opened at all.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Seek};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use serde::de::IgnoredAny;

use super::capturing::Capturing;
use super::database;
use super::previous::{Predecessors, is_settled};
use super::sources::{self, REGISTRY, table_stat};
use crate::disk::stat;
use crate::error::{Error, Result};
use crate::format::content::Content;
use crate::format::manifest::{Consistency, SourceKind, SourceRecord, SourceState};
use crate::format::table::{Capture, Entry, EntryKind, SourceStats, Time};
use crate::store::verdicts::{self, JsonVerdict};

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
pub(super) fn warn_of_absence(path: &Path, predecessors: &Predecessors<'_>) -> Result<()> {
    let path = path.display();
    match predecessors.newest_with(REGISTRY)?.and_then(|manifest| manifest.stamp()) {
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

/// Whether a file is JSON; one that cannot be read is neither.
fn parse(path: &Path) -> Result<JsonVerdict> {
    let file = File::open(path).map_err(Error::io("open", path))?;
    match serde_json::from_reader::<_, IgnoredAny>(BufReader::new(&file)) {
        Ok(_) => (),
        Err(fault) if fault.is_io() => return Err(Error::io("read", path)(fault.into())),
        Err(fault) => return Ok(JsonVerdict::Invalid(fault.to_string())),
    }
    // What is ignored is not looked into, and strings of JSON are Unicode.
    (&file).rewind().map_err(Error::io("read", path))?;
    Ok(match is_utf8(BufReader::new(&file)).map_err(Error::io("read", path))? {
        true => JsonVerdict::Sound,
        false => JsonVerdict::Invalid("a string is not UTF-8".into()),
    })
}

/// Whether all of this is UTF-8, however long it is.
fn is_utf8(mut content: impl BufRead) -> io::Result<bool> {
    // A character may stand across the end of what was read.
    let mut begun = Vec::new();
    loop {
        let read = content.fill_buf()?;
        if read.is_empty() {
            return Ok(begun.is_empty());
        }
        let consumed = read.len();
        begun.extend_from_slice(read);
        match std::str::from_utf8(&begun) {
            Ok(_) => begun.clear(),
            Err(fault) if fault.error_len().is_none() => drop(begun.drain(..fault.valid_up_to())),
            Err(_) => return Ok(false),
        }
        content.consume(consumed);
    }
}

fn read(capturing: &mut Capturing<'_>, path: &Path, name: &[u8], started: Time) -> Result<StoredRegistry> {
    let entry = database::store_plain(capturing, path, name)?;
    let verdict = parse(path)?;
    if let EntryKind::File(file) = &entry.kind
        && is_settled(&file.stats, started)
        && stat::stat(path)?.is_some_and(|now| table_stat(&now) == file.stats.file)
    {
        // What was parsed is what was captured.
        verdicts::keep_on_json(capturing.repository.index(), &file.content, &verdict);
    }
    Ok(StoredRegistry { entry, verdict })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_may_stand_across_what_is_read_at_once() {
        let text = "{\"ä\": \"€𝄞\"}";
        for room in 1..text.len() {
            assert!(is_utf8(BufReader::with_capacity(room, text.as_bytes())).unwrap(), "{room}");
            for cut in (0..text.len()).filter(|cut| !text.is_char_boundary(*cut)) {
                let begun = BufReader::with_capacity(room, &text.as_bytes()[..cut]);
                assert!(!is_utf8(begun).unwrap(), "{room} {cut}");
            }
        }
    }

    #[test]
    fn a_registry_that_cannot_be_read_is_not_called_invalid() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("registry.json");
        for (bytes, is_sound) in [(&b"{}"[..], true), (b"{", false), (b"\"\xff\"", false)] {
            std::fs::write(&path, bytes).unwrap();
            assert_eq!(parse(&path).unwrap() == JsonVerdict::Sound, is_sound, "{bytes:?}");
        }
        // A directory opens, and then every read of it fails.
        assert!(matches!(parse(directory.path()), Err(Error::Io { .. })));
    }
}
