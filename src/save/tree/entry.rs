//! Reading one thing of a tree that is no SQLite file.
//!
//! Invariant: whether a thing stood still is not decided here but by a look afterwards; what is seen to change while it
//! is read is told apart from an error, so that the tree can be tried again.

use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use crate::disk::held::open_source;
use crate::disk::stat::FileKind;
use crate::error::{Error, Result};
use crate::format::content::Content;
use crate::format::table::{Capture, Entry, EntryKind, FileEntry, SourceStats};
use crate::save::capturing::Capturing;
use crate::save::database;
use crate::save::file::{self, ReadOutcome};
use crate::save::previous::Previous;
use crate::save::sources::table_stat;
use crate::save::walk::Found;

/// What came of reading a thing.
#[derive(Debug, Clone)]
pub(in crate::save) enum EntryRead {
    /// It is in the store now.
    Stored(Entry),
    /// It is unchanged since the previous version, and nothing of it was read.
    TakenOver(Entry),
    /// It is of a kind that is not captured.
    NotCaptured,
    /// It changed, in a way that a look afterwards would reveal too.
    Changed,
}

/// Reads what is no SQLite file.
///
/// # Errors
/// I/O errors and those of the store; [`Error::Changing`] if writers have been held off for too long.
pub(in crate::save) fn read_entry(
    capturing: &mut Capturing<'_>,
    previous: Option<&mut Previous<'_>>,
    root: &Path,
    found: &Found,
) -> Result<EntryRead> {
    let kind = match found.stat.kind {
        FileKind::Directory => EntryKind::Directory,
        FileKind::Symlink => {
            let link = std::fs::read_link(&found.absolute).map_err(Error::io("read the link", &found.absolute))?;
            warn_of_link_outside(root, found, &link);
            EntryKind::Symlink(link.into_os_string().into_vec())
        }
        FileKind::Special => {
            tracing::warn!(path = %found.absolute.display(), "a socket, pipe or device is not captured");
            return Ok(EntryRead::NotCaptured);
        }
        FileKind::File => return read_file(capturing, previous, found),
    };
    Ok(EntryRead::Stored(database::entry(&found.path, &found.stat, kind)))
}

fn read_file(capturing: &mut Capturing<'_>, previous: Option<&mut Previous<'_>>, found: &Found) -> Result<EntryRead> {
    let stats = SourceStats { file: table_stat(&found.stat), wal: None, journal: None };
    let mut before = None;
    if let Some(previous) = previous
        && let Some(file) = previous.file(&found.path)?
    {
        if previous.holds(&file, &stats, Capture::Plain)? {
            capturing.writer.count_reused(Content::slots(file.content.length));
            capturing.progress.advance(file.content.length);
            return Ok(EntryRead::TakenOver(database::file_entry(&found.path, &found.stat, file)));
        }
        before = Some(file.content);
    }
    let source = match open_source(&found.absolute) {
        Err(error) if error.is_not_found() => return Ok(EntryRead::Changed),
        opened => opened?.or_fail(&found.absolute)?,
    };
    Ok(match file::store(capturing, source.file(), &found.absolute, found.stat.size, before)? {
        ReadOutcome::Changed => EntryRead::Changed,
        ReadOutcome::Stored(stored) => {
            let capture = Capture::Plain;
            let file = FileEntry { content: stored.content, capture, sparse: stored.sparse, stats };
            EntryRead::Stored(database::file_entry(&found.path, &found.stat, file))
        }
    })
}

fn warn_of_link_outside(root: &Path, found: &Found, link: &Path) {
    let from = found.absolute.parent().unwrap_or(root);
    let target = normalise(&from.join(link));
    if !target.starts_with(root) {
        tracing::warn!(path = %found.absolute.display(), target = %target.to_string_lossy().escape_debug(), "a link leads outside the tree; it is captured as a link");
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
