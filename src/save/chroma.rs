//! Capturing a Chroma store while it is being written: a seqlock for each segment.
//!
//! A store is a SQLite database and, for each persisted segment, a directory of HNSW files that are written in place;
//! when they are, the database notes how far they reach (see `records`). A segment is of one moment with the image if
//! its files' stats before the image and after its files were read are equal, and its watermark before, in the image
//! and after is the same. The image is taken first, then the files: the other way round, what Chroma purged from its
//! queue in between would be in neither. Only what moved is read again, and the image, which is not stored before all
//! segments are proved: that keeps the time short in which nothing may move. Directories that the database does not
//! know (dropped collections) and segments without a directory (never persisted) are normal. Memory: an entry for each
//! file, of which a segment has five.

mod databases;
mod judgement;
mod pickle;
mod records;
mod segment;
mod store_database;
mod suspicion;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use super::capturing::Capturing;
use super::database::{PendingDatabase, keeps_being_lost};
use super::previous::Previous;
use super::tree::entry::{EntryRead, read_entry};
use super::tree::look::{Cut, Look, is_sidecar, look, look_at_directory};
use super::tree::{PAUSE, RETRIES, StoredTree, TreeOptions, TreeOutcome, TreeTable, in_tree, kept_changing};
use super::walk::{Fingerprint, Found, walk_below, walk_top};
use super::writers::Freeze;
use crate::disk::sqlite::{BlockLimit, DatabaseStats, WriteLock, is_sqlite};
use crate::disk::stat::{self, FileKind, FileStat};
use crate::error::{Error, Result};
use crate::format::manifest::{CHROMA, Consistency, SourceRecord};
use crate::format::table::{Entry, EntryKind, compare_paths};
use records::{Records, Watermarks};
use segment::SegmentFiles;
use store_database::StoreDatabase;
use suspicion::Suspicion;
pub use suspicion::is_loss;

/// The database of a store, in its root.
const DATABASE: &[u8] = b"chroma.sqlite3";

/// Stores the Chroma store at `root`, which is a real path; `None` if the tree there is none.
///
/// # Errors
/// I/O errors and those of the repository. A store that kept changing, or whose locks could not be had or would have
/// been held for too long, is left out.
pub(super) fn store(capturing: &mut Capturing<'_>, root: &Path, options: TreeOptions) -> Result<Option<TreeOutcome>> {
    let database = root.join(OsStr::from_bytes(DATABASE));
    if stat::lstat(&database)?.is_none_or(|stat| stat.kind != FileKind::File || stat.size == 0) {
        return Ok(None);
    }
    let judged = capturing.earlier.record(CHROMA)?.filter(|record| record.consistency != Consistency::Unproven);
    let mut capture = StoreCapture {
        root,
        database: StoreDatabase::at(database),
        options,
        examine: judged.is_none(),
        judged,
        read: HashMap::new(),
        writer_blocked: Duration::ZERO,
    };
    let mut retries = RETRIES;
    loop {
        match capture.attempt(capturing) {
            Err(Error::Changing(reason)) => return Ok(Some(capture.left_out(reason))),
            Err(error) => return Err(error),
            Ok(Attempt::Stored(stored)) => return Ok(Some(TreeOutcome::Stored(stored))),
            Ok(Attempt::NoStore) => return Ok(None),
            Ok(Attempt::ToBeExamined) => {}
            Ok(Attempt::Moved(part)) if retries == 0 => {
                tracing::debug!(part, "moved once more");
                return Ok(Some(capture.left_out(kept_changing(root))));
            }
            Ok(Attempt::Lost(path)) if retries == 0 => {
                return Ok(Some(capture.left_out(keeps_being_lost(&path))));
            }
            Ok(Attempt::Lost(_)) => retries -= 1,
            Ok(Attempt::Moved(part)) => {
                tracing::debug!(path = %root.display(), part, retries, "a part of the store changed while it was read");
                retries -= 1;
                thread::sleep(PAUSE);
            }
        }
    }
}

/// The doubt in a tree that is no store but was one, and still has files: its database went.
///
/// # Errors
/// I/O errors; when a snapshot cannot be read.
pub(super) fn doubt_in_tree(capturing: &Capturing<'_>, root: &Path) -> Result<Option<Consistency>> {
    let database = root.join(OsStr::from_bytes(DATABASE));
    let is_file = stat::lstat(&database)?.is_some_and(|stat| stat.kind == FileKind::File);
    let was_store = |record: &SourceRecord| record.is_captured() && suspicion::is_of_store(&record.consistency);
    if (is_file && is_sqlite(&database)?) || capturing.earlier.newest_where(CHROMA, was_store)?.is_none() {
        return Ok(None);
    }
    let suspicion = Suspicion::NoDatabase;
    tracing::warn!(path = %root.display(), "the vector store looks inconsistent: {suspicion}");
    Ok(Some(suspicion::consistency(vec![suspicion])))
}

/// The outcome of one attempt.
enum Attempt {
    Stored(StoredTree),
    /// Something moved; the first part that did.
    Moved(String),
    /// What the image of this database lacks was lost from the repository.
    Lost(PathBuf),
    /// Files changed or went although the database did not, so that the earlier verdict does not hold.
    ToBeExamined,
    /// This is no Chroma store.
    NoStore,
}

/// What became of a part of the store.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stillness {
    Still,
    Moved,
}

/// A file that this run has read.
struct ReadFile {
    stat: FileStat,
    read: EntryRead,
}

/// A store under capture.
struct StoreCapture<'a> {
    root: &'a Path,
    database: StoreDatabase,
    options: TreeOptions,
    /// The previous version and the verdict on it.
    judged: Option<SourceRecord>,
    /// Whether a verdict is reached even if the database is unchanged.
    examine: bool,
    /// What need not be read again unless it moves.
    read: HashMap<Vec<u8>, ReadFile>,
    writer_blocked: Duration,
}

/// What was captured in one attempt, before it is in the store.
struct StoreParts {
    databases: Vec<PendingPath>,
    /// Of all that is not a database, in the order of the walk.
    entries: Vec<Entry>,
    /// Whether a file was read that is not that of the previous version.
    any_read: bool,
    /// What the database knows at the moment of its image; `None` where the earlier verdict is enough.
    records: Option<Records>,
    /// The watermarks before the image; `None` where the database is unchanged or nobody uses it.
    before: Option<Watermarks>,
    /// Those after the last segment that was read, and the states of the database they belong to.
    after: Option<(DatabaseStats, Watermarks)>,
    files: BTreeMap<String, SegmentFiles>,
}

impl StoreParts {
    /// Whether these are all files of the previous version, none of them changed, and no others.
    fn are_all_of(&self, previous: &SourceRecord) -> bool {
        let files = self.entries.iter().filter(|entry| matches!(entry.kind, EntryKind::File(_)));
        let is_known = |database: &PendingPath| matches!(database.held, PendingDatabase::TakenOver(_));
        let are_known = !self.any_read && self.databases.iter().all(is_known);
        // All of these were there, so if they are as many, they are the same.
        are_known && (files.count() + self.databases.len()) as u64 == previous.files
    }
}

/// A captured database and its path in the table.
struct PendingPath {
    path: Vec<u8>,
    held: PendingDatabase,
}

impl StoreCapture<'_> {
    /// Captures the store; the image and the table are stored once everything is proved and writers are let go.
    fn attempt(&mut self, capturing: &mut Capturing<'_>) -> Result<Attempt> {
        let frozen = match self.options.freeze {
            Freeze::Yes => self.database.freeze(self.root, capturing)?,
            Freeze::No => None,
        };
        capturing.patience.hold_writers(frozen.as_ref().map(WriteLock::since));
        let read = self.read(capturing);
        capturing.patience.hold_writers(None);
        if let Some(lock) = frozen {
            let since = lock.since();
            drop(lock);
            self.writer_blocked = self.writer_blocked.max(since.elapsed());
        }
        match read? {
            Ok(parts) => self.finish(capturing, parts),
            Err(attempt) => Ok(attempt),
        }
    }

    fn left_out(&self, reason: String) -> TreeOutcome {
        TreeOutcome::LeftOut { reason, writer_blocked: self.writer_blocked }
    }

    /// Takes the images, then reads and proves part after part.
    fn read(&mut self, capturing: &mut Capturing<'_>) -> Result<Result<StoreParts, Attempt>> {
        let mut previous = capturing.previous(CHROMA)?;
        let Some(before) = look(self.root, Cut::Directories, previous.as_mut())? else {
            return Ok(Err(Attempt::Moved(String::new())));
        };
        let mut parts = match self.capture_databases(capturing, previous.as_mut(), &before)? {
            Ok(parts) => parts,
            Err(attempt) => return Ok(Err(attempt)),
        };
        previous.iter_mut().for_each(Previous::rewind);
        let mut moved = None;
        let mut beside = Fingerprint::default();
        let mut directories = 0;
        for found in walk_top(self.root) {
            let found = found?;
            if is_captured_by_sqlite(self.root, &found, &before.databases)? {
                continue;
            }
            let part = Cut::Directories.part(&found).to_vec();
            let stillness = if part.is_empty() {
                beside.add(&found);
                self.read_one(capturing, previous.as_mut(), &found, &mut parts)?
            } else if let Some(print) = before.parts.get(&part) {
                directories += 1;
                self.read_directory(capturing, previous.as_mut(), &part, (*print, &before), &mut parts)?
            } else {
                // It came after the image, which knows nothing of it.
                Stillness::Still
            };
            if stillness == Stillness::Moved {
                moved.get_or_insert_with(|| String::from_utf8_lossy(&part).into_owned());
            }
        }
        let beside_before = before.parts.get(&b""[..]);
        let beside_still = beside_before == Some(&beside.value()) && beside_before == Some(&self.look_beside(&before)?);
        if moved.is_none() && (!beside_still || directories + 1 != before.parts.len()) {
            moved = Some(String::new());
        }
        Ok(match moved {
            None => Ok(parts),
            Some(part) => Err(Attempt::Moved(part)),
        })
    }

    /// Reads one directory and proves that it stood still, and its segment with it, since before the image.
    fn read_directory(
        &mut self,
        capturing: &mut Capturing<'_>,
        mut previous: Option<&mut Previous<'_>>,
        name: &[u8],
        (before, look): (blake3::Hash, &Look),
        parts: &mut StoreParts,
    ) -> Result<Stillness> {
        let mut print = Fingerprint::default();
        let mut stillness = Stillness::Still;
        for found in walk_below(self.root, name) {
            let found = found?;
            if is_captured_by_sqlite(self.root, &found, &look.databases)? {
                continue;
            }
            print.add(&found);
            if self.read_one(capturing, previous.as_deref_mut(), &found, parts)? == Stillness::Moved {
                stillness = Stillness::Moved;
            }
        }
        if stillness == Stillness::Moved || print.value() != before {
            return Ok(Stillness::Moved);
        }
        let segment = std::str::from_utf8(name).ok();
        let known = segment.and_then(|id| Some((id, parts.records.as_ref()?.get(id)?.watermark)));
        if let Some((id, in_image)) = known {
            let files = segment::examine(&self.absolute(name), id)?;
            parts.files.insert(id.to_owned(), files);
            if !self.watermark_stood(id, in_image, parts)? {
                return Ok(Stillness::Moved);
            }
        }
        let after = look_at_directory(self.root, name, &look.databases)?;
        Ok(if after == Some(before) { Stillness::Still } else { Stillness::Moved })
    }

    /// Whether the watermark of a segment is the same before, in the image and now.
    fn watermark_stood(&self, id: &str, in_image: Option<u64>, parts: &mut StoreParts) -> Result<bool> {
        let Some(before) = &parts.before else { return Ok(true) };
        if before.get(id).copied() != in_image {
            return Ok(false);
        }
        let stats = DatabaseStats::of(self.database.path())?;
        if parts.after.as_ref().is_none_or(|(known, _)| *known != stats) {
            let Some(watermarks) = self.database.live(BlockLimit::default(), records::watermarks)?.given() else {
                return Ok(false);
            };
            parts.after = Some((stats, watermarks));
        }
        Ok(parts.after.as_ref().is_some_and(|(_, after)| after.get(id).copied() == in_image))
    }

    /// Reads one thing that is no database, unless it was read before and is the same still.
    fn read_one(
        &mut self,
        capturing: &mut Capturing<'_>,
        previous: Option<&mut Previous<'_>>,
        found: &Found,
        parts: &mut StoreParts,
    ) -> Result<Stillness> {
        capturing.patience.check()?;
        match self.read_once(capturing, previous, found)? {
            EntryRead::Stored(entry) => {
                parts.any_read |= matches!(entry.kind, EntryKind::File(_));
                parts.entries.push(entry);
            }
            EntryRead::TakenOver(entry) => parts.entries.push(entry),
            EntryRead::NotCaptured => {}
            EntryRead::Changed => return Ok(Stillness::Moved),
        }
        Ok(Stillness::Still)
    }

    /// Reads one thing, or returns what was read of it before if it is the same still.
    fn read_once(
        &mut self,
        capturing: &mut Capturing<'_>,
        previous: Option<&mut Previous<'_>>,
        found: &Found,
    ) -> Result<EntryRead> {
        if let Some(known) = self.read.get(&found.path).filter(|known| known.stat == found.stat) {
            return Ok(known.read.clone());
        }
        let read = read_entry(capturing, previous, self.root, found)?;
        if matches!(&read, EntryRead::Stored(entry) | EntryRead::TakenOver(entry) if matches!(entry.kind, EntryKind::File(_)))
        {
            self.read.insert(found.path.clone(), ReadFile { stat: found.stat, read: read.clone() });
        }
        Ok(read)
    }

    /// Looks at what lies beside the directories.
    fn look_beside(&self, look: &Look) -> Result<blake3::Hash> {
        let mut print = Fingerprint::default();
        for found in walk_top(self.root) {
            let found = found?;
            if Cut::Directories.part(&found).is_empty() && !is_captured_by_sqlite(self.root, &found, &look.databases)? {
                print.add(&found);
            }
        }
        Ok(print.value())
    }

    /// Judges what was captured, then stores the images and the table.
    fn finish(&mut self, capturing: &mut Capturing<'_>, parts: StoreParts) -> Result<Attempt> {
        let consistency = match (&parts.records, &self.judged) {
            (Some(records), _) => judgement::judge(self.root, records, &parts.files),
            (None, Some(judged)) if parts.are_all_of(judged) => judged.consistency.clone(),
            (None, _) => {
                self.examine = true;
                return Ok(Attempt::ToBeExamined);
            }
        };
        let StoreParts { databases, mut entries, .. } = parts;
        let mut stored = Vec::with_capacity(databases.len());
        for PendingPath { path, held } in databases {
            let source = self.absolute(&path);
            match held.store(capturing, &in_tree(&source, &path, self.options.check))? {
                Some(database) => stored.push(database.checked(capturing)),
                None => return Ok(Attempt::Lost(source)),
            }
        }
        entries.extend(stored.iter().flat_map(|database| database.entries.iter().cloned()));
        entries.sort_by(|left, right| compare_paths(&left.path, &right.path));
        let mut table = TreeTable::begin(capturing)?;
        for entry in &entries {
            table.push(entry, capturing)?;
        }
        let mut tree = table.finish(capturing, &stored, consistency)?;
        tree.writer_blocked = tree.writer_blocked.max(self.writer_blocked);
        Ok(Attempt::Stored(tree))
    }

    fn absolute(&self, path: &[u8]) -> PathBuf {
        self.root.join(OsStr::from_bytes(path))
    }
}

/// Whether this is a database or a file beside one.
fn is_captured_by_sqlite(root: &Path, found: &Found, databases: &[Vec<u8>]) -> Result<bool> {
    let database = databases.binary_search_by(|database| compare_paths(database, &found.path)).is_ok();
    Ok(database || is_sidecar(root, found, databases)?)
}
