//! Looks at a tree: what its files' stats say, and which of them are SQLite's.
//!
//! Invariant: equal looks before and after mean that no file changed in between, since the youngest change is old
//! enough at the first look to be told from a later one. SQLite files and their sidecars do not count: an ingesting
//! service changes them all the time, and they are captured through SQLite.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::disk::sqlite::{Sidecar, Sniffed, sniff};
use crate::disk::stat::{FileKind, lstat};
use crate::error::Result;
use crate::format::table::{Capture, compare_paths};
use crate::save::previous::Previous;
use crate::save::sources::table_stat;
use crate::save::walk::{Fingerprint, Found, walk, walk_below};

/// A file younger than this could change again without its times showing it.
pub(in crate::save) const SETTLED: Duration = Duration::from_millis(100);

/// How often a tree is looked at until it is settled.
const LOOKS: usize = 10;

/// How a tree is cut into parts, each of which must be still while it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::save) enum Cut {
    /// All of it is one part.
    Whole,
    /// Each directory right below the root is a part; all files beside them are another.
    Directories,
}

impl Cut {
    /// The name of the part that a thing belongs to: that of the directory, or nothing.
    pub(in crate::save) fn part(self, found: &Found) -> &[u8] {
        match (self, found.path.iter().position(|&byte| byte == b'/')) {
            (Self::Whole, _) => b"",
            (Self::Directories, Some(end)) => found.path.get(..end).unwrap_or_default(),
            (Self::Directories, None) if found.stat.kind == FileKind::Directory => &found.path,
            (Self::Directories, None) => b"",
        }
    }
}

/// What the stats of each part say.
pub(in crate::save) type Parts = BTreeMap<Vec<u8>, blake3::Hash>;

/// Takes the stats of a walk, part by part.
#[derive(Default)]
pub(in crate::save) struct PartPrints {
    done: Parts,
    beside: Fingerprint,
    directory: Option<(Vec<u8>, Fingerprint)>,
    youngest_change: i128,
}

impl PartPrints {
    /// Takes the next thing of the walk.
    pub(in crate::save) fn add(&mut self, part: &[u8], found: &Found) {
        let changed = found.changed();
        // Times beyond that are of a clock that was set back; no change to come will have them.
        if changed < now().saturating_add(SETTLED.as_nanos() as i128) {
            self.youngest_change = self.youngest_change.max(changed);
        }
        if part.is_empty() {
            return self.beside.add(found);
        }
        if self.directory.as_ref().is_none_or(|(name, _)| name != part) {
            self.end_directory();
        }
        self.directory.get_or_insert_with(|| (part.to_vec(), Fingerprint::default())).1.add(found);
    }

    fn end_directory(&mut self) {
        self.done.extend(self.directory.take().map(|(name, print)| (name, print.value())));
    }

    /// All parts.
    pub(in crate::save) fn finish(mut self) -> Parts {
        self.end_directory();
        self.done.insert(Vec::new(), self.beside.value());
        self.done
    }
}

/// What one look at a tree tells.
pub(in crate::save) struct Look {
    /// Of all but the SQLite files and their sidecars.
    pub(in crate::save) parts: Parts,
    /// The table paths of the SQLite files, ascending.
    pub(in crate::save) databases: Vec<Vec<u8>>,
    /// The latest ctime that is not in the future, in nanoseconds since 1970.
    youngest_change: i128,
}

impl Look {
    /// How long ago something changed last.
    pub(in crate::save) fn age(&self) -> Duration {
        let age = u64::try_from(now().saturating_sub(self.youngest_change).max(0)).unwrap_or(u64::MAX);
        Duration::from_nanos(age)
    }
}

/// Nanoseconds since 1970.
fn now() -> i128 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |now| now.as_nanos() as i128)
}

/// Looks at every file, as soon as the youngest change is old enough to be told from a later one; `None` if that does
/// not come about.
pub(in crate::save) fn look(root: &Path, cut: Cut, mut previous: Option<&mut Previous<'_>>) -> Result<Option<Look>> {
    for _ in 0..LOOKS {
        let look = look_now(root, cut, previous.as_deref_mut())?;
        match SETTLED.checked_sub(look.age()) {
            Some(missing) if !missing.is_zero() => std::thread::sleep(missing),
            _ => return Ok(Some(look)),
        }
    }
    Ok(None)
}

/// Looks at every file as it is now.
pub(in crate::save) fn look_now(root: &Path, cut: Cut, mut previous: Option<&mut Previous<'_>>) -> Result<Look> {
    previous.iter_mut().for_each(|previous| previous.rewind());
    let mut prints = PartPrints::default();
    let mut databases = Vec::new();
    for found in walk(root) {
        let found = found?;
        // Sidecars first: those of a database that this process holds cannot be told from one by their bytes.
        if is_sidecar(root, &found, &databases)? {
            continue;
        }
        if found.stat.kind == FileKind::File && is_database(&found, previous.as_deref_mut())? {
            databases.push(found.path);
        } else {
            prints.add(cut.part(&found), &found);
        }
    }
    let youngest_change = prints.youngest_change;
    Ok(Look { parts: prints.finish(), databases, youngest_change })
}

/// Looks at one directory right below the root; `None` if it is gone.
pub(in crate::save) fn look_at_directory(
    root: &Path,
    name: &[u8],
    databases: &[Vec<u8>],
) -> Result<Option<blake3::Hash>> {
    let mut print = None;
    for found in walk_below(root, name) {
        let found = found?;
        let database = databases.binary_search_by(|database| compare_paths(database, &found.path)).is_ok();
        if !database && !is_sidecar(root, &found, databases)? {
            print.get_or_insert_with(Fingerprint::default).add(&found);
        }
    }
    Ok(print.map(|print| print.value()))
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

/// Whether this is a sidecar of a SQLite file (or of an empty one, which SQLite takes for an empty database).
/// `databases` has all SQLite files whose paths are before this one: a sidecar comes after its database.
pub(in crate::save) fn is_sidecar(root: &Path, found: &Found, databases: &[Vec<u8>]) -> Result<bool> {
    let suffixes = Sidecar::ALL.map(|sidecar| sidecar.suffix().as_bytes());
    let Some(main) = suffixes.iter().find_map(|suffix| found.path.strip_suffix(*suffix)) else { return Ok(false) };
    if databases.binary_search_by(|database| compare_paths(database, main)).is_ok() {
        return Ok(true);
    }
    let main = lstat(&root.join(Path::new(OsStr::from_bytes(main))))?;
    Ok(main.is_some_and(|stat| stat.kind == FileKind::File && stat.size == 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_shows_in_its_own_part_alone() {
        let root = tempfile::tempdir().unwrap();
        for directory in ["a", "b", "b/c"] {
            std::fs::create_dir(root.path().join(directory)).unwrap();
        }
        for file in ["a/x", "b/c/y", "aa", "z"] {
            std::fs::write(root.path().join(file), b"1").unwrap();
        }
        let look = |cut| look(root.path(), cut, None).unwrap().unwrap().parts;
        let before = look(Cut::Directories);
        assert_eq!(before.keys().map(Vec::as_slice).collect::<Vec<_>>(), [&b""[..], b"a", b"b"]);
        let whole = look(Cut::Whole);
        assert_eq!(whole.len(), 1);
        std::fs::write(root.path().join("b/c/y"), b"2").unwrap();
        let after = look(Cut::Directories);
        let moved: Vec<_> = before.iter().filter(|(name, print)| after[*name] != **print).collect();
        assert_eq!(moved.len(), 1);
        assert_eq!(moved[0].0, b"b");
        assert_ne!(look(Cut::Whole), whole);
        for name in [&b"a"[..], b"b"] {
            assert_eq!(look_at_directory(root.path(), name, &[]).unwrap(), Some(after[name]));
        }
        assert_eq!(look_at_directory(root.path(), b"gone", &[]).unwrap(), None);
    }

    #[test]
    fn a_look_waits_until_the_youngest_change_is_settled() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("young"), b"1").unwrap();
        assert!(look(root.path(), Cut::Whole, None).unwrap().unwrap().age() >= SETTLED);
    }

    #[test]
    fn times_of_before_a_clock_was_set_back_neither_keep_a_look_waiting_nor_hide_a_young_change() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("file"), b"1").unwrap();
        let found = |ctime: i128| {
            let mut found =
                walk(root.path()).map(Result::unwrap).find(|found| found.stat.kind == FileKind::File).unwrap();
            found.stat.ctime = ctime;
            found
        };
        let youngest = |changes: &[i128]| {
            let mut prints = PartPrints::default();
            changes.iter().for_each(|change| prints.add(b"", &found(*change)));
            prints.youngest_change
        };
        let (hour, just_now) = (3_600_000_000_000, now());
        assert_eq!(youngest(&[now() + hour, just_now, now() + hour]), just_now);
        assert_eq!(youngest(&[now() + hour, hour]), hour);
        assert!(youngest(&[now() + 50_000_000]) > just_now, "clocks of file systems may be a little ahead");
    }
}
