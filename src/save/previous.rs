//! The previous version of a source: what a file that has not changed is taken over from, without reading it.
//!
//! Invariant: an entry is taken over only if the stats of the file (for a database also of its log and journal) are
//! those of its capture, none of its times is so close to that capture that a later change could hide behind them, and
//! every blob of its content is known to be there. Memory: the table is read along with the walk.

use std::cmp::Ordering;

use crate::error::{Error, Result};
use crate::format::content::{Content, Root};
use crate::format::manifest::{Manifest, SourceKind, SourceRecord, Verdict};
use crate::format::table::{Capture, Entry, EntryKind, FileEntry, SourceStats, Stat, Time, compare_paths};
use crate::id::Stamp;
use crate::store::file_table::TableReader;
use crate::store::pieces::{Piece, Pieces};
use crate::store::{BlobReader, Repository, snapshots};

/// A file changed less than this many seconds before its capture began, or later, is read once more: a change after the
/// capture might not show in its times.
const RACY_SECONDS: i64 = 2;

/// Decoded frames kept for reading a table, in bytes.
pub(super) const TABLE_CACHE: usize = 8 * 1024 * 1024;

/// Whether files are trusted to be what they were when their stats are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadPolicy {
    /// Only what changed is read.
    Changed,
    /// Everything is read.
    All,
}

/// The snapshots before the one that is taken.
pub(super) struct EarlierSnapshots<'a> {
    repository: &'a Repository,
    /// The newest that can be read.
    newest: Option<Manifest>,
    /// Those before it, newest first.
    older: Vec<Stamp>,
}

impl<'a> EarlierSnapshots<'a> {
    /// Of a snapshot to be taken at `now`; those of the future do not count.
    ///
    /// # Errors
    /// When the snapshots cannot be listed or read.
    pub(super) fn of(repository: &'a Repository, now: Stamp) -> Result<Self> {
        let mut older = snapshots::stamps(repository.storage())?;
        for stamp in older.drain(older.partition_point(|stamp| *stamp <= now)..) {
            tracing::warn!(%stamp, "a snapshot has a stamp in the future; check the clock of this machine");
        }
        let mut newest = None;
        while newest.is_none()
            && let Some(stamp) = older.pop()
        {
            newest = snapshots::read_manifest(repository, stamp)?.ok();
        }
        older.reverse();
        Ok(Self { repository, newest, older })
    }

    /// As if there were none.
    pub(super) fn none(repository: &'a Repository) -> Self {
        Self { repository, newest: None, older: Vec::new() }
    }

    /// The stamp of the newest that can be read.
    pub(super) fn newest(&self) -> Option<Stamp> {
        self.newest.as_ref().and_then(Manifest::stamp)
    }

    /// The record of a source in the newest that holds it.
    ///
    /// # Errors
    /// When a snapshot cannot be read.
    pub(super) fn record(&self, name: &str) -> Result<Option<SourceRecord>> {
        Ok(self.newest_with(name)?.and_then(|manifest| manifest.source(name).cloned()))
    }

    /// The newest that holds a source.
    ///
    /// # Errors
    /// When a snapshot cannot be read.
    pub(super) fn newest_with(&self, name: &str) -> Result<Option<Manifest>> {
        self.newest_where(name, SourceRecord::is_captured)
    }

    /// The newest whose record of a source is like this.
    ///
    /// # Errors
    /// When a snapshot cannot be read.
    pub(super) fn newest_where(&self, name: &str, is_so: impl Fn(&SourceRecord) -> bool) -> Result<Option<Manifest>> {
        let holds = |manifest: &Manifest| manifest.source(name).is_some_and(&is_so);
        if let Some(newest) = self.newest.as_ref().filter(|manifest| holds(manifest)) {
            return Ok(Some(newest.clone()));
        }
        for stamp in &self.older {
            if let Ok(manifest) = snapshots::read_manifest(self.repository, *stamp)?
                && holds(&manifest)
            {
                return Ok(Some(manifest));
            }
        }
        Ok(None)
    }
}

/// The previous version of one source, read entry by entry.
pub(super) struct Previous<'a> {
    reader: BlobReader<'a>,
    table: TableReader,
    /// The entry that the walk has not reached yet.
    next: Option<Entry>,
    record: SourceRecord,
    read_policy: ReadPolicy,
}

impl<'a> Previous<'a> {
    /// Reads the table of a record from its first entry.
    pub(super) fn of(repository: &'a Repository, record: SourceRecord, read_policy: ReadPolicy) -> Self {
        let table = TableReader::of(&record.table);
        let reader = BlobReader::with_frame_cache(repository, TABLE_CACHE);
        Self { reader, table, next: None, record, read_policy }
    }

    /// Begins again with the first entry.
    pub(super) fn rewind(&mut self) {
        self.table = TableReader::of(&self.record.table);
        self.next = None;
    }

    /// How the file at `path` was captured, if it is known to be the same file still. Paths must ascend from call to
    /// call.
    pub(super) fn capture_of_unchanged(&mut self, path: &[u8], stat: &Stat) -> Result<Option<Capture>> {
        let main = SourceStats { file: *stat, wal: None, journal: None };
        let trusted = is_settled(&main, self.record.started) && self.read_policy == ReadPolicy::Changed;
        let same = |file: &FileEntry| trusted && file.stats.file == *stat;
        Ok(self.file(path)?.filter(same).map(|file| file.capture))
    }

    /// The file at `path`, if there was one. Paths must ascend from call to call.
    pub(super) fn file(&mut self, path: &[u8]) -> Result<Option<FileEntry>> {
        // What cannot be read of the previous version costs reading the files.
        Ok(match unless_unreadable(self.find(path))?.flatten().map(|entry| entry.kind) {
            Some(EntryKind::File(file)) => Some(file),
            _ => None,
        })
    }

    /// Whether the file is unchanged and all its content is there.
    pub(super) fn holds(&mut self, file: &FileEntry, stats: &SourceStats, capture: Capture) -> Result<bool> {
        let same = file.capture == capture && file.stats == *stats && is_settled(stats, self.record.started);
        let trusted = same && self.read_policy == ReadPolicy::Changed;
        Ok(trusted && unless_unreadable(is_whole(&mut self.reader, &file.content, &|| Ok(())))?.unwrap_or(false))
    }

    /// The verdict that the snapshot recorded on its database; a tree's own verdict is on several.
    pub(super) fn verdict(&self) -> Option<Verdict> {
        let recorded = self.record.kind == SourceKind::Sqlite && self.record.verdict != Verdict::Unchecked;
        recorded.then(|| self.record.verdict.clone())
    }

    fn find(&mut self, path: &[u8]) -> Result<Option<Entry>> {
        loop {
            if self.next.is_none() {
                self.next = self.table.next(&mut self.reader, |_| ())?.unwrap_or_default();
            }
            match self.next.as_ref().map(|entry| compare_paths(&entry.path, path)) {
                Some(Ordering::Less) => self.next = None,
                Some(Ordering::Equal) => return Ok(self.next.take()),
                Some(Ordering::Greater) | None => return Ok(None),
            }
        }
    }
}

/// `None` for whatever keeps the previous version from being read, except that the operator wants to stop.
pub(super) fn unless_unreadable<T>(outcome: Result<T>) -> Result<Option<T>> {
    match outcome {
        Err(Error::Interrupted) => Err(Error::Interrupted),
        Err(cause) => {
            tracing::debug!(%cause, "the previous version cannot be read");
            Ok(None)
        }
        Ok(value) => Ok(Some(value)),
    }
}

/// Whether none of the times is so young that a change after the capture at `captured` could have left it as it is.
pub(super) fn is_settled(stats: &SourceStats, captured: Time) -> bool {
    let before = |time: Time| Time { seconds: time.seconds.saturating_add(RACY_SECONDS), ..time } <= captured;
    let settled = |stat: &Stat| before(stat.modified) && before(stat.changed);
    settled(&stats.file) && stats.wal.as_ref().is_none_or(settled) && stats.journal.as_ref().is_none_or(settled)
}

/// Whether every blob of the content is known to be in a pack; `check` may end the look. That a long one is, is kept in
/// the index for as long as no pack is lost.
pub(super) fn is_whole(reader: &mut BlobReader<'_>, content: &Content, check: &dyn Fn() -> Result<()>) -> Result<bool> {
    let index = reader.repository().index();
    match content.root {
        Root::Empty => return Ok(true),
        Root::Chunk(id) => return index.contains(&id),
        Root::Node { .. } if index.is_whole(content) => return Ok(true),
        Root::Node { .. } => {}
    }
    let since = index.loss_mark();
    let mut pieces = Pieces::of(content);
    while let Some(piece) = pieces.next(reader, |_| ())? {
        check()?;
        let there = match piece {
            Piece::Chunk { id, .. } => index.contains(&id)?,
            Piece::Hole { .. } => true,
            Piece::Hidden { .. } => false,
        };
        if !there {
            return Ok(false);
        }
    }
    if let Err(cause) = since.and_then(|since| index.mark_whole(std::slice::from_ref(content), since)) {
        tracing::debug!(%cause, "that a content is whole could not be kept");
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(modified: i64, changed: i64) -> SourceStats {
        let time = |seconds| Time { seconds, nanoseconds: 999_999_999 };
        let file = Stat { inode: 1, size: 2, modified: time(modified), changed: time(changed) };
        SourceStats { file, wal: None, journal: None }
    }

    #[test]
    fn times_close_to_the_capture_or_after_it_are_not_trusted() {
        let captured = Time { seconds: 1000, nanoseconds: 0 };
        assert!(is_settled(&stats(997, 997), captured));
        for (modified, changed) in [(998, 997), (997, 998), (997, 1000), (997, 2000), (5000, 997)] {
            assert!(!is_settled(&stats(modified, changed), captured), "{modified} {changed}");
        }
        let exactly_two_seconds_later = Time { seconds: 1000, nanoseconds: 999_999_999 };
        assert!(is_settled(&stats(998, 998), exactly_two_seconds_later));
        let log = SourceStats { wal: Some(stats(999, 999).file), ..stats(1, 1) };
        assert!(!is_settled(&log, captured));
    }
}
