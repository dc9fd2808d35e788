//! Capturing a directory tree: a seqlock over the stats of its files.
//!
//! Look at everything, take the SQLite images, read the files, look again: if no file changed from the first look to
//! the last, what was read is of one moment. The images come first: a service that moves what is in its database into
//! its files, as Chroma does, loses nothing then. Changes of SQLite files alone do not count, or an ingesting service
//! could never be captured. A Chroma store is captured directory by directory ([`super::chroma`]); what follows here is
//! for any other tree. Invariant: SQLite sidecars are never captured; every SQLite file is known before the first one
//! is opened by SQLite (disk::held).

pub(super) mod entry;
pub(super) mod look;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use super::capturing::Capturing;
use super::chroma;
use super::database::{self, CheckImage, DatabaseRequest, StoredDatabase};
use super::previous::Previous;
use super::sqlite::image::WRITTEN_IN_FULL;
use super::sqlite::{CopyMethod, DamagedSource};
use super::walk::walk;
use super::writers::Freeze;
use crate::error::{Error, Result};
use crate::format::content::Content;
use crate::format::manifest::{CHROMA, Consistency, Verdict};
use crate::format::table::{Capture, Entry, EntryKind, FileEntry};
use crate::store::file_table::TableWriter;
use entry::{EntryRead, read_entry};
use look::{Cut, PartPrints, Parts, is_sidecar, look, look_now};

/// How often a tree that moved is tried again.
pub(super) const RETRIES: usize = 3;
/// How long to wait before each of these tries.
pub(super) const PAUSE: Duration = Duration::from_millis(200);

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
    /// Whether its files and its database are of one moment.
    pub consistency: Consistency,
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
    /// It was left out.
    LeftOut {
        /// Why.
        reason: String,
        /// For how long writers had to wait all the same.
        writer_blocked: Duration,
    },
}

/// How a tree is captured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TreeOptions {
    /// Whether SQLite images in it are checked now.
    pub check: CheckImage,
    /// Whether its writers are held off while its files are read.
    pub freeze: Freeze,
}

/// Stores the tree at `root`, which may be a symlink.
pub(super) fn store(capturing: &mut Capturing<'_>, root: &Path, options: TreeOptions) -> Result<TreeOutcome> {
    let root = std::fs::canonicalize(root).map_err(Error::io("resolve", root))?;
    let outcome = match chroma::store(capturing, &root, options) {
        Ok(Some(outcome)) => Ok(outcome),
        Ok(None) => store_whole(capturing, &root, options),
        Err(error) => Err(error),
    };
    match outcome {
        Err(Error::Changing(reason)) => Ok(TreeOutcome::LeftOut { reason, writer_blocked: Duration::ZERO }),
        outcome => outcome,
    }
}

/// Why a tree that never stood still was left out.
pub(super) fn kept_changing(root: &Path) -> String {
    format!("{} kept changing while it was captured", root.display())
}

fn store_whole(capturing: &mut Capturing<'_>, root: &Path, options: TreeOptions) -> Result<TreeOutcome> {
    if options.freeze == Freeze::Yes {
        tracing::warn!(path = %root.display(), "there is no Chroma database to freeze in this tree");
    }
    for attempt in 0..=RETRIES {
        if attempt > 0 {
            tracing::debug!(path = %root.display(), attempt, "the tree changed while it was read");
            std::thread::sleep(PAUSE);
        }
        if let Some(mut stored) = attempt_once(capturing, root, options.check)? {
            if stored.files > 0
                && let Some(doubt) = chroma::doubt_in_tree(capturing, root)?
            {
                stored.consistency = doubt;
            }
            return Ok(TreeOutcome::Stored(stored));
        }
    }
    Ok(TreeOutcome::LeftOut { reason: kept_changing(root), writer_blocked: Duration::ZERO })
}

fn attempt_once(capturing: &mut Capturing<'_>, root: &Path, check: CheckImage) -> Result<Option<StoredTree>> {
    let mut previous = capturing.previous(CHROMA)?;
    let Some(before) = look(root, Cut::Whole, previous.as_mut())? else { return Ok(None) };
    let mut databases = Vec::new();
    previous.iter_mut().for_each(Previous::rewind);
    for path in &before.databases {
        let absolute = root.join(Path::new(OsStr::from_bytes(path)));
        let request = in_tree(&absolute, path, check);
        match database::store_or_take_over(capturing, previous.as_mut(), &request) {
            Ok(stored) => databases.push(stored.checked(capturing)),
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error),
        }
    }
    previous.iter_mut().for_each(Previous::rewind);
    let captured = Captured { paths: &before.databases, stored: &databases };
    let Some((stored, while_reading)) = read_tree(capturing, root, previous.as_mut(), &captured)? else {
        return Ok(None);
    };
    let after = look_now(root, Cut::Whole, previous.as_mut())?;
    let stood_still = while_reading == before.parts && after.parts == before.parts;
    Ok((stood_still && before.databases == after.databases).then_some(stored))
}

/// What is asked for of a database in a tree.
pub(super) fn in_tree<'r>(source: &'r Path, name: &'r [u8], check: CheckImage) -> DatabaseRequest<'r> {
    DatabaseRequest {
        source,
        name,
        damaged: DamagedSource::TakeRaw,
        check,
        method: CopyMethod::Pages,
        written_in_full: WRITTEN_IN_FULL,
    }
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
) -> Result<Option<(StoredTree, Parts)>> {
    let mut table = TreeTable::begin(capturing)?;
    let mut prints = PartPrints::default();
    let Captured { paths, stored: databases } = databases;
    let entries = databases.iter().flat_map(|database| &database.entries);
    let mut waiting: BTreeMap<&[u8], &Entry> = entries.map(|entry| (entry.path.as_slice(), entry)).collect();
    for found in walk(root) {
        let found = found?;
        if let Some(entry) = waiting.remove(found.path.as_slice()) {
            table.push(entry, capturing)?;
        } else if !is_sidecar(root, &found, paths)? {
            prints.add(Cut::Whole.part(&found), &found);
            match read_entry(capturing, previous.as_deref_mut(), root, &found)? {
                EntryRead::Stored(entry) | EntryRead::TakenOver(entry) => table.push(&entry, capturing)?,
                EntryRead::NotCaptured => {}
                EntryRead::Changed => return Ok(None),
            }
        }
    }
    if !waiting.is_empty() {
        return Ok(None);
    }
    let stored = table.finish(capturing, databases, Consistency::Unproven)?;
    Ok(Some((stored, prints.finish())))
}

/// The table of a tree, and what is counted along.
pub(super) struct TreeTable<'a> {
    table: TableWriter<'a>,
    files: u64,
    bytes: u64,
}

impl<'a> TreeTable<'a> {
    pub(super) fn begin(capturing: &Capturing<'a>) -> Result<Self> {
        Ok(Self { table: capturing.table(CHROMA)?, files: 0, bytes: 0 })
    }

    /// Takes the next entry, in the order of the table.
    pub(super) fn push(&mut self, entry: &Entry, capturing: &mut Capturing<'_>) -> Result<()> {
        if let EntryKind::File(file) = &entry.kind {
            self.files += u64::from(!is_raw_sidecar(&entry.path, file));
            self.bytes += file.content.length;
        }
        self.table.push(entry, capturing.writer)
    }

    /// Ends the table of a tree with these databases.
    pub(super) fn finish(
        self,
        capturing: &mut Capturing<'_>,
        databases: &[StoredDatabase],
        consistency: Consistency,
    ) -> Result<StoredTree> {
        Ok(StoredTree {
            table: self.table.finish(capturing.writer)?,
            files: self.files,
            bytes: self.bytes,
            verdict: worst(databases.iter().map(|database| &database.verdict)),
            consistency,
            writer_blocked: databases.iter().map(|database| database.writer_blocked).max().unwrap_or_default(),
            raw: databases.iter().filter_map(|database| database.raw_because.clone()).collect(),
        })
    }
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
