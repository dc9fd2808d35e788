//! Holding restored files against the snapshot.
//!
//! Invariant: a file passes only if it has the snapshot's length, each chunk's bytes hash to the chunk's id, and holes
//! read as zeros; a link only with its very target. Only tables and list nodes come from the repository, so that a
//! fault of the restore cannot be repeated by the proof.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use crate::disk::sqlite::{self, CheckOutcome};
use crate::error::{Error, Result};
use crate::format::limits::CHUNK_SIZE;
use crate::format::manifest::{Manifest, REGISTRY, SourceRecord, bytes_of};
use crate::format::table::{Capture, Entry, EntryKind};
use crate::id::BlobId;
use crate::progress::{Phase, Progress};
use crate::restore::directory_of;
use crate::restore::verify::{Visited, WalkDepth, walk};
use crate::store::json_verdict::{self, JsonVerdict};
use crate::store::{BlobReader, Repository, verdicts};

use super::shown;

/// Compares the copy in `directory` with the snapshot and returns every difference.
pub(super) fn prove(
    repository: &Repository,
    manifest: &Manifest,
    directory: &Path,
    progress: &dyn Progress,
) -> Result<Vec<String>> {
    let mut reader = BlobReader::new(repository);
    let mut faults = Vec::new();
    let captured = || manifest.sources.iter().filter(|source| source.is_captured());
    progress.phase(Phase::Comparing, Some(bytes_of(captured())));
    for source in captured() {
        faults.extend(compare(source, directory, &mut reader, progress)?);
    }
    if !faults.is_empty() {
        // What is wrong with other bytes than the snapshot's says nothing about the snapshot.
        return Ok(faults);
    }
    progress.phase(Phase::CheckingDatabases, None);
    for source in captured() {
        let raw = manifest.fault_of_raw(source);
        faults.extend(raw.map(|fault| format!("{}_inconsistent: {fault}", source.name)));
        faults.extend(check_files(source, directory, &mut reader, progress)?);
    }
    Ok(faults)
}

fn path_of(source: &SourceRecord, entry: &Entry, directory: &Path) -> PathBuf {
    let below = directory.join(OsStr::from_bytes(directory_of(source)));
    if entry.path.is_empty() { below } else { below.join(OsStr::from_bytes(&entry.path)) }
}

/// The restored file that is being compared.
struct Restored {
    file: File,
    /// Its path in the copy.
    name: String,
    /// Whether a difference was reported; one a file is enough.
    differs: bool,
}

fn compare(
    source: &SourceRecord,
    directory: &Path,
    reader: &mut BlobReader<'_>,
    progress: &dyn Progress,
) -> Result<Vec<String>> {
    let mut faults = Vec::new();
    let mut current: Option<Restored> = None;
    walk(source, WalkDepth::Chunks, reader, &mut |_, visited| {
        progress.check()?;
        let fault = match visited {
            Visited::Entry(entry) => {
                let path = path_of(source, entry, directory);
                let opened = open(entry, &path, shown(&path, directory))?;
                current = opened.file;
                opened.fault
            }
            Visited::Chunk { id, offset, length, .. } => {
                progress.advance(length);
                difference(&mut current, offset, |file| has_chunk(file, &id, offset, length as usize))?
            }
            Visited::Hole { offset, length } => {
                progress.advance(length);
                difference(&mut current, offset, |file| is_hole(file, offset, length))?
            }
            Visited::Hidden { range, fault, .. } => Some(format!("{range}: {fault}")),
        };
        faults.extend(fault);
        Ok(())
    })?;
    Ok(faults)
}

/// What stands where an entry should have been restored.
struct Inspected {
    file: Option<Restored>,
    fault: Option<String>,
}

fn open(entry: &Entry, path: &Path, name: String) -> Result<Inspected> {
    let wrong = |what: &str| Inspected { file: None, fault: Some(format!("{name}: {what}")) };
    let Ok(found) = fs::symlink_metadata(path) else { return Ok(wrong("it was not restored")) };
    Ok(match &entry.kind {
        EntryKind::Directory if found.is_dir() => Inspected { file: None, fault: None },
        EntryKind::Directory => wrong("it is no directory"),
        EntryKind::Symlink(target) => match fs::read_link(path) {
            Ok(link) if link.as_os_str().as_bytes() == target.as_slice() => Inspected { file: None, fault: None },
            _ => wrong("it is not the link that it should be"),
        },
        EntryKind::File(file) if found.is_file() && found.len() == file.content.length => {
            let file = File::open(path).map_err(Error::io("open", path))?;
            Inspected { file: Some(Restored { file, name, differs: false }), fault: None }
        }
        EntryKind::File(file) => wrong(&format!("it is no file of {} bytes", file.content.length)),
    })
}

/// The first difference of a file, as text.
fn difference(
    current: &mut Option<Restored>,
    offset: u64,
    equal: impl FnOnce(&File) -> io::Result<bool>,
) -> Result<Option<String>> {
    let Some(restored) = current.as_mut().filter(|restored| !restored.differs) else { return Ok(None) };
    restored.differs = !equal(&restored.file).map_err(Error::io("read", &restored.name))?;
    Ok(restored.differs.then(|| format!("{}: it differs from the snapshot at byte {offset}", restored.name)))
}

fn has_chunk(file: &File, id: &BlobId, offset: u64, length: usize) -> io::Result<bool> {
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, offset)?;
    Ok(BlobId::of_chunk(&bytes) == *id)
}

/// Whether a range reads as zeros; ranges without data on the medium are not read.
fn is_hole(file: &File, offset: u64, length: u64) -> io::Result<bool> {
    let end = offset + length;
    let mut at = offset;
    let mut bytes = vec![0; CHUNK_SIZE];
    while at < end {
        at = match seek(file, SeekFrom::Data(at)) {
            Ok(data) => data,
            Err(Errno::NXIO) => return Ok(true),
            Err(Errno::INVAL) => at,
            Err(error) => return Err(error.into()),
        };
        let step = end.saturating_sub(at).min(CHUNK_SIZE as u64);
        let Some(piece) = bytes.get_mut(..step as usize) else { break };
        file.read_exact_at(piece, at)?;
        if piece.iter().any(|&byte| byte != 0) {
            return Ok(false);
        }
        at += step.max(1);
    }
    Ok(true)
}

/// Checks the restored databases, whose verdicts are kept since their bytes are the snapshot's, and the restored
/// registry.
fn check_files(
    source: &SourceRecord,
    directory: &Path,
    reader: &mut BlobReader<'_>,
    progress: &dyn Progress,
) -> Result<Vec<String>> {
    let mut faults = Vec::new();
    walk(source, WalkDepth::Entries, reader, &mut |reader, visited| {
        progress.check()?;
        let Visited::Entry(entry) = visited else { return Ok(()) };
        let EntryKind::File(file) = &entry.kind else { return Ok(()) };
        let path = path_of(source, entry, directory);
        if file.capture == Capture::SqliteImage && file.content.length > 0 {
            let verdict = sqlite::integrity_check(&path);
            verdicts::keep(reader.repository().index(), &file.content, verdict.clone());
            faults.extend(fault_of(verdict, &shown(&path, directory)));
        }
        if source.name == REGISTRY {
            let judged = File::open(&path).and_then(json_verdict::judge).map_err(Error::io("read", &path))?;
            if let JsonVerdict::Invalid(cause) = judged {
                faults.push(format!("registry_invalid_json: {}: {cause}", shown(&path, directory)));
            }
        }
        Ok(())
    })?;
    Ok(faults)
}

fn fault_of(verdict: CheckOutcome, name: &str) -> Option<String> {
    match verdict {
        CheckOutcome::Ok => None,
        CheckOutcome::Failed(cause) => Some(format!("db_integrity_check_failed: {name}: {cause}")),
        CheckOutcome::OpenFailed(cause) | CheckOutcome::Unreadable(cause) => {
            Some(format!("db_open_failed: {name}: {cause}"))
        }
        CheckOutcome::Unknown(cause) => {
            tracing::warn!(path = name, %cause, "db_integrity_unknown: the integrity check could not run");
            None
        }
    }
}
