//! File tables: what a source consists of, one entry a file, directory or link: format-spec.md §10.
//!
//! A table is a byte stream of length-prefixed entries, stored like a file, so that it costs only what changed.
//! Invariant: paths are relative, ascend component by component without repetition, hold no `.`, `..`, empty component
//! or NUL, and every entry but the first level lies in a directory that stands before it; a decoder checks all of it,
//! since a restore follows these paths.

use std::cmp::Ordering;

use bincode::{Decode, Encode};

use super::Malformed;
use super::codec;
use super::content::Content;
use super::limits::{NAME_BYTES, PATH_BYTES, TABLE_ENTRY_BYTES};
use super::manifest::{self, Extension};

/// A moment of a file system: seconds and nanoseconds since 1970, UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct Time {
    /// Seconds; negative before 1970.
    pub seconds: i64,
    /// Nanoseconds, below 10^9.
    pub nanoseconds: u32,
}

impl Time {
    /// Refuses nanoseconds that make up a second or more: format-spec.md §2.3.
    ///
    /// # Errors
    /// [`Malformed::Limit`].
    pub fn check(&self) -> Result<(), Malformed> {
        if self.nanoseconds < 1_000_000_000 { Ok(()) } else { Err(Malformed::Limit("number of nanoseconds")) }
    }
}

/// What a file's stat said when it was captured; equal stats let a later capture skip reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Stat {
    /// Inode number.
    pub inode: u64,
    /// Bytes.
    pub size: u64,
    /// Time of the last change of content.
    pub modified: Time,
    /// Time of the last change of content or metadata.
    pub changed: Time,
}

/// The stats behind a captured file: of itself and, for a database, of its sidecars.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct SourceStats {
    /// The file itself.
    pub file: Stat,
    /// Its `-wal`, if that was not empty.
    pub wal: Option<Stat>,
    /// Its `-journal`, if that was not empty.
    pub journal: Option<Stat>,
}

impl SourceStats {
    fn check(&self) -> Result<(), Malformed> {
        let stats = [Some(self.file), self.wal, self.journal].into_iter().flatten();
        stats.flat_map(|stat| [stat.modified, stat.changed]).try_for_each(|time| time.check())
    }
}

/// How a file's bytes were taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub enum Capture {
    /// Read as they are.
    Plain,
    /// A SQLite database, through the online backup API.
    SqliteImage,
    /// A SQLite database or sidecar too damaged for the backup API, read as it is.
    RawSqlite,
}

/// What a file entry holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct FileEntry {
    /// Length and tree of blobs.
    pub content: Content,
    /// How the bytes were taken.
    pub capture: Capture,
    /// Whether the source had holes; then blocks of zeros are restored as holes.
    pub sparse: bool,
    /// For skipping; information only to a reader.
    pub stats: SourceStats,
}

/// What stands at a path.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum EntryKind {
    /// A directory.
    Directory,
    /// A regular file.
    File(FileEntry),
    /// A symbolic link with this target, which may be any bytes but NUL.
    Symlink(Vec<u8>),
}

/// One entry of a file table.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Entry {
    /// Path relative to the source, `/` between components; empty for the source's own directory.
    pub path: Vec<u8>,
    /// What stands there.
    pub kind: EntryKind,
    /// Permission bits, 0o7777 at most.
    pub mode: u32,
    /// Numeric owner.
    pub uid: u32,
    /// Numeric group.
    pub gid: u32,
    /// Modification time to restore.
    pub modified: Time,
    /// What later versions add; unknown ones are ignored.
    pub extensions: Vec<Extension>,
}

impl Entry {
    /// The entry as it stands in a table: its length in 32 bits, then its bytes.
    ///
    /// # Errors
    /// [`Malformed`] for an entry that the format forbids.
    pub fn encode(&self) -> Result<Vec<u8>, Malformed> {
        self.check()?;
        let bytes = codec::encode(self)?;
        if bytes.len() > TABLE_ENTRY_BYTES {
            return Err(Malformed::Limit("table entry"));
        }
        let mut framed = Vec::with_capacity(bytes.len() + 4);
        framed.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        framed.extend_from_slice(&bytes);
        Ok(framed)
    }

    fn check(&self) -> Result<(), Malformed> {
        check_path(&self.path)?;
        if self.mode > 0o7777 {
            return Err(Malformed::Limit("mode"));
        }
        self.modified.check()?;
        manifest::check_extensions(&self.extensions)?;
        if self.path.is_empty() && self.kind != EntryKind::Directory {
            return Err(Malformed::invalid("an entry without a path is no directory"));
        }
        match &self.kind {
            EntryKind::File(file) => {
                file.stats.check()?;
                file.content.check()
            }
            EntryKind::Symlink(target) if target.is_empty() || target.len() > PATH_BYTES || target.contains(&0) => {
                Err(Malformed::invalid("a link's target is empty, too long or holds NUL"))
            }
            EntryKind::Directory | EntryKind::Symlink(_) => Ok(()),
        }
    }
}

/// Refuses a path that a table may not hold.
///
/// # Errors
/// [`Malformed::Invalid`] or [`Malformed::Limit`].
pub fn check_path(path: &[u8]) -> Result<(), Malformed> {
    if path.len() > PATH_BYTES {
        return Err(Malformed::Limit("path length"));
    }
    if path.is_empty() {
        return Ok(());
    }
    for name in path.split(|&byte| byte == b'/') {
        if name.is_empty() || name == b"." || name == b".." || name.contains(&0) || name.len() > NAME_BYTES {
            let shown = String::from_utf8_lossy(path);
            return Err(Malformed::invalid(format!("the path '{}' is not allowed in a table", shown.escape_debug())));
        }
    }
    Ok(())
}

/// The order of a table: component by component, so that a directory stands before all that it holds.
pub fn compare_paths(left: &[u8], right: &[u8]) -> Ordering {
    let components = |path| <[u8]>::split(path, |&byte: &u8| byte == b'/');
    if left.is_empty() || right.is_empty() {
        return left.len().cmp(&right.len());
    }
    components(left).cmp(components(right))
}

/// Checks the order of entries and that each lies in a directory of the table.
#[derive(Debug, Default)]
pub struct OrderCheck {
    /// The directories that hold the last entry, outermost first, and that entry itself if it is one.
    open: Vec<Vec<u8>>,
    last: Option<Vec<u8>>,
}

impl OrderCheck {
    /// Takes the next entry.
    ///
    /// # Errors
    /// [`Malformed::Invalid`] if it stands at a wrong place.
    pub fn accept(&mut self, entry: &Entry) -> Result<(), Malformed> {
        let misplaced = || {
            let path = String::from_utf8_lossy(&entry.path).escape_debug().to_string();
            Malformed::invalid(format!("the path '{path}' does not stand in its order"))
        };
        if self.last.as_ref().is_some_and(|last| compare_paths(last, &entry.path) != Ordering::Less) {
            return Err(misplaced());
        }
        while self.open.last().is_some_and(|open| !holds(open, &entry.path)) {
            self.open.pop();
        }
        let parent = entry.path.iter().rposition(|&byte| byte == b'/').and_then(|at| entry.path.get(..at));
        if parent.is_some_and(|parent| self.open.last().is_none_or(|open| open != parent)) {
            return Err(misplaced());
        }
        if entry.kind == EntryKind::Directory && !entry.path.is_empty() {
            self.open.push(entry.path.clone());
        }
        self.last = Some(entry.path.clone());
        Ok(())
    }
}

fn holds(directory: &[u8], path: &[u8]) -> bool {
    path.strip_prefix(directory).is_some_and(|rest| rest.first() == Some(&b'/'))
}

/// Takes entries off a growing buffer of table bytes.
#[derive(Debug, Default)]
pub struct EntryDecoder {
    buffer: Vec<u8>,
    used: usize,
    order: OrderCheck,
}

impl EntryDecoder {
    /// Adds the next bytes of the table.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.used);
        self.used = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// The next entry, or `None` if more bytes are needed.
    ///
    /// # Errors
    /// [`Malformed`] for an entry that the format forbids or that stands out of order.
    pub fn take(&mut self) -> Result<Option<Entry>, Malformed> {
        let Some((length, rest)) = self.buffer.get(self.used..).and_then(|rest| rest.split_first_chunk::<4>()) else {
            return Ok(None);
        };
        let length = u32::from_le_bytes(*length) as usize;
        if length > TABLE_ENTRY_BYTES {
            return Err(Malformed::Limit("table entry"));
        }
        let Some(bytes) = rest.get(..length) else { return Ok(None) };
        let entry: Entry = codec::decode::<_, TABLE_ENTRY_BYTES>(bytes)?;
        entry.check()?;
        self.order.accept(&entry)?;
        self.used += 4 + length;
        Ok(Some(entry))
    }

    /// Ends the table.
    ///
    /// # Errors
    /// [`Malformed::Truncated`] if part of an entry is left.
    pub fn finish(&self) -> Result<(), Malformed> {
        if self.used == self.buffer.len() { Ok(()) } else { Err(Malformed::Truncated) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: Time = Time { seconds: -1, nanoseconds: 999_999_999 };

    fn entry(path: &str, kind: EntryKind) -> Entry {
        Entry { path: path.into(), kind, mode: 0o755, uid: 1, gid: 2, modified: TIME, extensions: Vec::new() }
    }

    fn file() -> EntryKind {
        let stats = Stat { inode: 1, size: 0, modified: TIME, changed: TIME };
        let stats = SourceStats { file: stats, wal: None, journal: Some(stats) };
        EntryKind::File(FileEntry { content: Content::EMPTY, capture: Capture::Plain, sparse: false, stats })
    }

    fn decode(bytes: &[u8], step: usize) -> Result<Vec<Entry>, Malformed> {
        let mut decoder = EntryDecoder::default();
        let mut entries = Vec::new();
        for piece in bytes.chunks(step) {
            decoder.feed(piece);
            while let Some(entry) = decoder.take()? {
                entries.push(entry);
            }
        }
        decoder.finish().map(|()| entries)
    }

    #[test]
    fn entries_decode_however_the_bytes_are_cut() {
        let entries = [
            entry("", EntryKind::Directory),
            entry("a", EntryKind::Directory),
            entry("a/b", file()),
            entry("a-b", EntryKind::Symlink(b"a/b".to_vec())),
        ];
        let bytes: Vec<u8> = entries.iter().flat_map(|entry| entry.encode().unwrap()).collect();
        for step in [1, 7, bytes.len()] {
            assert_eq!(decode(&bytes, step).unwrap(), entries);
        }
        assert_eq!(decode(&bytes[..bytes.len() - 1], 64), Err(Malformed::Truncated));
    }

    #[test]
    fn paths_that_could_leave_the_target_are_refused() {
        for path in ["/a", "a/", "a//b", ".", "..", "a/../b", "a/.", "a\0b", &"x".repeat(256), &"x/".repeat(3000)] {
            assert!(check_path(path.as_bytes()).is_err(), "{path:?}");
            assert!(entry(path, file()).encode().is_err(), "{path:?}");
        }
        assert!(entry("", file()).encode().is_err(), "a file in the place of the source's own directory");
        for path in ["", "a", "...", "a/..b", "\u{fc}/\u{1f600}"] {
            assert!(check_path(path.as_bytes()).is_ok(), "{path:?}");
        }
    }

    #[test]
    fn a_second_of_nanoseconds_is_refused_wherever_a_time_stands() {
        let late = Time { seconds: 0, nanoseconds: 1_000_000_000 };
        assert!(Entry { modified: late, ..entry("a", file()) }.encode().is_err());
        let places: [fn(&mut SourceStats) -> &mut Time; 3] = [
            |stats| &mut stats.file.modified,
            |stats| &mut stats.file.changed,
            |stats| &mut stats.journal.as_mut().unwrap().changed,
        ];
        for place in places {
            let EntryKind::File(mut hostile) = file() else { panic!() };
            *place(&mut hostile.stats) = late;
            assert!(entry("a", EntryKind::File(hostile)).encode().is_err());
        }
    }

    #[test]
    fn entries_out_of_order_twice_or_without_their_directory_are_refused() {
        let refused: [&[Entry]; 5] = [
            &[entry("b", file()), entry("a", file())],
            &[entry("a", file()), entry("a", file())],
            &[entry("a", file()), entry("a/b", file())],
            &[entry("a/b", file())],
            &[entry("l", EntryKind::Symlink(b"/etc".to_vec())), entry("l/passwd", file())],
        ];
        for entries in refused {
            let bytes: Vec<u8> = entries.iter().flat_map(|entry| entry.encode().unwrap()).collect();
            assert!(decode(&bytes, 4096).is_err(), "{entries:?}");
        }
    }

    #[test]
    fn a_directory_sorts_before_all_it_holds_and_that_before_its_siblings() {
        let mut paths = ["a.b", "a/z", "a", "", "a/b/c", "a/b"];
        paths.sort_by(|left, right| compare_paths(left.as_bytes(), right.as_bytes()));
        assert_eq!(paths, ["", "a", "a/b", "a/b/c", "a/z", "a.b"]);
    }
}
