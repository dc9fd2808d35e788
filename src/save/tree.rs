//! Capturing a directory tree: a seqlock over the stats of its files.
//!
//! Look at everything, take the SQLite images, read the files, look again: if no file changed from the first look to the
//! last, what was read is of one moment. The images come first, because Chroma purges its queue once the vectors are in
//! its files; the other order could lose vectors. Changes of SQLite files alone do not count, or an ingesting service
//! could never be captured. Invariant: SQLite sidecars are never captured; every SQLite file is known before the first
//! one is opened by SQLite (disk::held).

use std::collections::BTreeMap;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::database::{self, Capturing, CheckImage, DatabaseRequest, StoredDatabase};
use super::file::{self, ReadOutcome};
use super::previous::Previous;
use super::sources::{CHROMA, table_stat};
use super::sqlite::DamagedSource;
use super::walk::{Fingerprint, Found, walk};
use crate::disk::held::open_source;
use crate::disk::sqlite::{Sidecar, Sniffed, sniff};
use crate::disk::stat::FileKind;
use crate::error::{Error, Result};
use crate::format::content::Content;
use crate::format::manifest::Verdict;
use crate::format::table::{Capture, Entry, EntryKind, FileEntry, SourceStats, compare_paths};

/// How often a tree that moved is tried again.
const RETRIES: usize = 3;
/// How long to wait before each of these tries.
const PAUSE: Duration = Duration::from_millis(200);
/// A file younger than this could change again without its times showing it.
const SETTLED: Duration = Duration::from_millis(100);

/// A captured tree.
#[derive(Debug)]
pub struct StoredTree {
    /// Its file table.
    pub table: Content,
    /// Regular files in it.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The worst verdict on its images.
    pub verdict: Verdict,
    /// For how long writers had to wait.
    pub writer_blocked: Duration,
    /// The databases that were taken raw, with the reason.
    pub raw: Vec<String>,
}

/// The outcome of capturing a tree.
#[derive(Debug)]
pub enum TreeOutcome {
    /// It was captured.
    Stored(StoredTree),
    /// It never stood still.
    KeptChanging,
}

/// Stores the tree at `root`, which may be a symlink.
pub(super) fn store(capturing: &mut Capturing<'_>, root: &Path, check: CheckImage) -> Result<TreeOutcome> {
    let root = std::fs::canonicalize(root).map_err(Error::io("resolve", root))?;
    for attempt in 0..=RETRIES {
        if attempt > 0 {
            tracing::debug!(path = %root.display(), attempt, "the tree changed while it was read");
            std::thread::sleep(PAUSE);
        }
        if let Some(stored) = attempt_once(capturing, &root, check)? {
            return Ok(TreeOutcome::Stored(stored));
        }
    }
    Ok(TreeOutcome::KeptChanging)
}

fn attempt_once(capturing: &mut Capturing<'_>, root: &Path, check: CheckImage) -> Result<Option<StoredTree>> {
    let mut previous = capturing.previous(CHROMA)?;
    let before = look(root, previous.as_mut())?;
    let mut databases = Vec::new();
    previous.iter_mut().for_each(Previous::rewind);
    for path in &before.databases {
        let absolute = root.join(Path::new(std::ffi::OsStr::from_bytes(path)));
        let request = DatabaseRequest { source: &absolute, name: path, damaged: DamagedSource::TakeRaw, check };
        match database::store_or_take_over(capturing, previous.as_mut(), &request) {
            Ok(stored) => databases.push(stored),
            Err(Error::Changing(_)) => return Ok(None),
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error),
        }
    }
    previous.iter_mut().for_each(Previous::rewind);
    let captured = Captured { paths: &before.databases, stored: &databases };
    let Some((stored, while_reading)) = read_tree(capturing, root, previous.as_mut(), &captured)? else {
        return Ok(None);
    };
    let after = look(root, previous.as_mut())?;
    let stood_still = [while_reading.value(), after.fingerprint.value()] == [before.fingerprint.value(); 2];
    Ok((stood_still && before.databases == after.databases).then_some(stored))
}

/// What one look at a tree tells.
struct Look {
    /// Of all but the SQLite files and their sidecars.
    fingerprint: Fingerprint,
    /// The table paths of the SQLite files, ascending.
    databases: Vec<Vec<u8>>,
}

/// Looks at every file; waits until the youngest change is old enough to be told from a later one.
fn look(root: &Path, mut previous: Option<&mut Previous<'_>>) -> Result<Look> {
    let look = look_once(root, previous.as_deref_mut())?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |now| now.as_nanos() as i128);
    let age = now - look.fingerprint.youngest_change();
    match u64::try_from(SETTLED.as_nanos() as i128 - age) {
        Ok(missing) if age >= 0 => {
            std::thread::sleep(Duration::from_nanos(missing));
            look_once(root, previous)
        }
        _ => Ok(look),
    }
}

fn look_once(root: &Path, mut previous: Option<&mut Previous<'_>>) -> Result<Look> {
    previous.iter_mut().for_each(|previous| previous.rewind());
    let mut look = Look { fingerprint: Fingerprint::default(), databases: Vec::new() };
    for found in walk(root) {
        let found = found?;
        if found.stat.kind == FileKind::File && is_database(&found, previous.as_deref_mut())? {
            look.databases.push(found.path);
        } else if !is_sidecar(root, &found, &look.databases)? {
            look.fingerprint.add(&found);
        }
    }
    Ok(look)
}

/// Whether this is a SQLite file; one that has not changed since the previous version is what it was, and stays closed.
fn is_database(found: &Found, previous: Option<&mut Previous<'_>>) -> Result<bool> {
    let known = match previous {
        Some(previous) => previous.capture_of_unchanged(&found.path, &table_stat(&found.stat))?,
        None => None,
    };
    match known {
        Some(Capture::Plain) => return Ok(false),
        Some(Capture::SqliteImage) => return Ok(true),
        Some(Capture::RawSqlite) | None => {}
    }
    match sniff(&found.absolute) {
        Ok(sniffed) => Ok(matches!(sniffed, Sniffed::Sqlite(_) | Sniffed::HeldBySqlite)),
        Err(error) if error.is_not_found() => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether this is a sidecar of a SQLite file (or of an empty one, which SQLite takes for an empty database). `databases`
/// has all SQLite files whose paths are before this one: a sidecar comes after its database.
fn is_sidecar(root: &Path, found: &Found, databases: &[Vec<u8>]) -> Result<bool> {
    let suffixes = Sidecar::ALL.map(|sidecar| sidecar.suffix().as_bytes());
    let Some(main) = suffixes.iter().find_map(|suffix| found.path.strip_suffix(*suffix)) else { return Ok(false) };
    if databases.binary_search_by(|database| compare_paths(database, main)).is_ok() {
        return Ok(true);
    }
    let main = crate::disk::stat::lstat(&root.join(Path::new(std::ffi::OsStr::from_bytes(main))))?;
    Ok(main.is_some_and(|stat| stat.kind == FileKind::File && stat.size == 0))
}

/// The SQLite files of a tree.
struct Captured<'a> {
    /// Their paths, ascending.
    paths: &'a [Vec<u8>],
    /// What was captured of each.
    stored: &'a [StoredDatabase],
}

/// Reads all files and writes the table; `None` if something changed in a way that the end of the attempt would reveal
/// anyway.
fn read_tree(
    capturing: &mut Capturing<'_>,
    root: &Path,
    mut previous: Option<&mut Previous<'_>>,
    databases: &Captured<'_>,
) -> Result<Option<(StoredTree, Fingerprint)>> {
    let mut table = capturing.table(CHROMA)?;
    let mut fingerprint = Fingerprint::default();
    let (mut files, mut bytes) = (0, 0);
    let Captured { paths, stored: databases } = databases;
    let entries = databases.iter().flat_map(|database| &database.entries);
    let mut waiting: BTreeMap<&[u8], &Entry> = entries.map(|entry| (entry.path.as_slice(), entry)).collect();
    for found in walk(root) {
        let found = found?;
        let entry = match waiting.remove(found.path.as_slice()) {
            Some(entry) => entry.clone(),
            None if is_sidecar(root, &found, paths)? => continue,
            None => {
                fingerprint.add(&found);
                match read_entry(capturing, previous.as_deref_mut(), root, &found)? {
                    Some(entry) => entry,
                    None if found.stat.kind == FileKind::File => return Ok(None),
                    None => continue,
                }
            }
        };
        if let EntryKind::File(file) = &entry.kind {
            files += u64::from(!is_raw_sidecar(&entry.path, file));
            bytes += file.content.length;
        }
        table.push(&entry, capturing.writer)?;
    }
    if !waiting.is_empty() {
        return Ok(None);
    }
    let stored = StoredTree {
        table: table.finish(capturing.writer)?,
        files,
        bytes,
        verdict: worst(databases.iter().map(|database| &database.verdict)),
        writer_blocked: databases.iter().map(|database| database.writer_blocked).max().unwrap_or_default(),
        raw: databases.iter().filter_map(|database| database.raw_because.clone()).collect(),
    };
    Ok(Some((stored, fingerprint)))
}

/// Reads what is no SQLite file; `None` for what is not captured, and for a file that changed.
fn read_entry(
    capturing: &mut Capturing<'_>,
    previous: Option<&mut Previous<'_>>,
    root: &Path,
    found: &Found,
) -> Result<Option<Entry>> {
    let kind = match found.stat.kind {
        FileKind::Directory => EntryKind::Directory,
        FileKind::Symlink => {
            let link = std::fs::read_link(&found.absolute).map_err(Error::io("read the link", &found.absolute))?;
            warn_of_link_outside(root, found, &link);
            EntryKind::Symlink(link.into_os_string().into_vec())
        }
        FileKind::Special => {
            tracing::warn!(path = %found.absolute.display(), "a socket, pipe or device is not captured");
            return Ok(None);
        }
        FileKind::File => {
            let stats = SourceStats { file: table_stat(&found.stat), wal: None, journal: None };
            let mut before = None;
            if let Some(previous) = previous
                && let Some(file) = previous.file(&found.path)?
            {
                if previous.holds(&file, &stats, Capture::Plain)? {
                    capturing.writer.count_reused(Content::slots(file.content.length));
                    capturing.progress.advance(file.content.length);
                    return Ok(Some(database::file_entry(&found.path, &found.stat, file)));
                }
                before = Some(file.content);
            }
            let source = match open_source(&found.absolute) {
                Err(error) if error.is_not_found() => return Ok(None),
                opened => opened?.or_fail(&found.absolute)?,
            };
            let path = &found.absolute;
            match file::store(capturing, source.file(), path, found.stat.size, before)? {
                ReadOutcome::Shrank => return Ok(None),
                ReadOutcome::Stored(stored) => EntryKind::File(FileEntry {
                    content: stored.content,
                    capture: Capture::Plain,
                    sparse: stored.sparse,
                    stats,
                }),
            }
        }
    };
    Ok(Some(database::entry(&found.path, &found.stat, kind)))
}

fn warn_of_link_outside(root: &Path, found: &Found, link: &Path) {
    let from = found.absolute.parent().unwrap_or(root);
    let target = normalise(&from.join(link));
    if !target.starts_with(root) {
        tracing::warn!(path = %found.absolute.display(), target = %target.display(), "a link leads outside the tree; it is captured as a link");
    }
}

/// Resolves `.` and `..` by name alone: a link may lead to nothing.
fn normalise(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => drop(plain.pop()),
            Component::CurDir => {}
            other => plain.push(other),
        }
    }
    plain
}

/// Sidecars are in a table only beside a database that was captured raw.
fn is_raw_sidecar(path: &[u8], file: &FileEntry) -> bool {
    file.capture == Capture::RawSqlite && (path.ends_with(b"-wal") || path.ends_with(b"-journal"))
}

fn worst<'a>(verdicts: impl Iterator<Item = &'a Verdict>) -> Verdict {
    let severity = |verdict: &&Verdict| match verdict {
        Verdict::Ok => 0,
        Verdict::Unchecked => 1,
        Verdict::Unknown(_) => 2,
        Verdict::Failed(_) | Verdict::OpenFailed(_) => 3,
    };
    verdicts.max_by_key(severity).cloned().unwrap_or(Verdict::Unchecked)
}
