//! Storing one SQLite database: its image, its emptiness, or, where SQLite cannot read it, its raw bytes.
//!
//! Invariant: an image is checked by content: the verdict is the kept one or that of a check of this very image, or
//! `Unchecked` where the caller did not ask. An image that is to be checked is handed to the caller with the rest,
//! since a check takes long and others can be captured meanwhile; every other one is gone from the scratch directory
//! when this returns.

use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use tempfile::TempPath;

use super::capturing::{Capturing, Patience};
use super::effort::Effort;
use super::file::{self, ReadOutcome};
use super::previous::Previous;
use super::sources::{table_stat, time};
use super::sqlite::image::PreviousImage;
use super::sqlite::{
    CapturedDatabase, CopyMethod, DamagedSource, DatabaseContent, DatabaseImage, ImageOptions, RawDatabase, Witness,
    capture_image,
};
use crate::disk::held::open_source;
use crate::disk::scratch::delete_beside;
use crate::disk::space;
use crate::disk::sqlite::DatabaseStats;
use crate::disk::stat::{self, FileStat};
use crate::error::{Error, Result};
use crate::format::content::Content;
use crate::format::manifest::Verdict;
use crate::format::table::{Capture, Entry, EntryKind, FileEntry, SourceStats, compare_paths};
use crate::progress::Phase;
use crate::store::Repository;
use crate::store::index::Index;
use crate::store::verdicts::{self, Recheck};

/// How long the capture of one database may take.
pub const DEADLINE: Duration = Duration::from_secs(600);
/// How long writers may wait before it is worth a warning: the usual busy timeout of a service is 5 s.
const LONG_BLOCK: Duration = Duration::from_secs(4);

/// An image may wait for its check where this many times its bytes are free.
const MUCH_ROOM: u64 = 4;

/// How often a file that changes while it is read as plain bytes is read.
const ATTEMPTS: usize = 4;

/// Whether an image is checked when no verdict on it is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckImage {
    /// It is, before the snapshot is published.
    Now,
    /// It stays unchecked.
    Later,
}

/// An image whose check is due.
#[derive(Debug)]
pub(super) struct ImageToCheck {
    content: Content,
    image: TempPath,
}

impl ImageToCheck {
    /// Whether the image leaves room for those of others while it waits for its check.
    pub(super) fn may_wait(&self) -> bool {
        let directory = self.image.parent().unwrap_or(Path::new("."));
        space::available(directory).is_ok_and(|free| self.content.length <= free / MUCH_ROOM)
    }

    /// Checks the image, keeps the verdict, and deletes the image.
    pub(super) fn check(self, index: &Index) -> Verdict {
        let verdict = verdicts::check_image(index, &self.content, &self.image);
        delete_beside(self.image);
        verdict
    }
}

/// A database in the store.
#[derive(Debug)]
pub(super) struct StoredDatabase {
    /// The main file and, for a raw capture, its sidecars. Paths begin with the name that was given.
    pub entries: Vec<Entry>,
    /// What is known of the image.
    pub verdict: Verdict,
    /// The image, if a check of it was asked for and is not known yet.
    pub to_check: Option<ImageToCheck>,
    /// Why it was taken raw, if it was.
    pub raw_because: Option<String>,
    /// For how long writers had to wait.
    pub writer_blocked: Duration,
}

impl StoredDatabase {
    /// The same once its check is done, if one is due.
    pub(super) fn checked(mut self, capturing: &Capturing<'_>) -> Self {
        if let Some(image) = self.to_check.take() {
            capturing.progress.phase(Phase::CheckingDatabases, None);
            self.verdict = image.check(capturing.repository.index());
            capturing.progress.phase(Phase::Reading, None);
        }
        self
    }
}

/// A database that was captured and is not in the store yet.
pub(super) enum PendingDatabase {
    /// It is that of the previous version, which the store has.
    TakenOver(StoredDatabase),
    /// Its image, or its files, and the content to store them against.
    Captured { captured: Box<CapturedDatabase>, previous: Option<Content> },
}

impl PendingDatabase {
    /// For how long its writers had to wait.
    pub(super) fn writer_blocked(&self) -> Duration {
        match self {
            Self::Captured { captured, .. } => match &captured.content {
                DatabaseContent::Image(image) => image.writer_blocked.unwrap_or_default(),
                DatabaseContent::Empty | DatabaseContent::Raw(_) => Duration::ZERO,
            },
            Self::TakenOver(_) => Duration::ZERO,
        }
    }

    /// Whether it was captured as an image.
    pub(super) fn is_image(&self) -> bool {
        matches!(self, Self::Captured { captured, .. } if matches!(captured.content, DatabaseContent::Image(_)))
    }

    /// Stores it; `None` if it must be captured again, since what its image lacks was lost from the repository
    /// meanwhile.
    ///
    /// # Errors
    /// Errors of the store; [`Error::Changing`] for files taken raw that kept changing.
    pub(super) fn store(
        self,
        capturing: &mut Capturing<'_>,
        request: &DatabaseRequest<'_>,
    ) -> Result<Option<StoredDatabase>> {
        match self {
            Self::TakenOver(stored) => Ok(Some(stored)),
            Self::Captured { captured, previous } => store(capturing, request, *captured, previous),
        }
    }
}

/// What the previous version says of a database.
pub(super) enum Known {
    /// It is the same, and stays closed.
    Unchanged(StoredDatabase),
    /// It is new, changed, or due for a check; the content to store it against, where deltas are wanted.
    Changed { previous: Option<Content> },
}

/// Compares the stats of a database with those of the previous version.
///
/// # Errors
/// I/O errors, a missing database among them.
pub(super) fn compare(
    capturing: &mut Capturing<'_>,
    previous: Option<&mut Previous<'_>>,
    request: &DatabaseRequest<'_>,
) -> Result<Known> {
    let Some(previous) = previous else { return Ok(Known::Changed { previous: None }) };
    let Some(file) = previous.file(request.name)? else { return Ok(Known::Changed { previous: None }) };
    let changed = Known::Changed { previous: (capturing.effort != Effort::None).then_some(file.content) };
    let real = std::fs::canonicalize(request.source).map_err(Error::io("resolve", request.source))?;
    let found = DatabaseStats::of(&real)?;
    if !previous.holds(&file, &source_stats(&found), Capture::SqliteImage)? {
        return Ok(changed);
    }
    let kept = verdicts::kept(capturing.repository.index(), &file.content, Recheck::IfUnknown);
    let verdict = match (kept.or_else(|| previous.verdict()), request.check) {
        (Some(verdict), _) => verdict,
        (None, CheckImage::Later) => Verdict::Unchecked,
        (None, CheckImage::Now) => return Ok(changed),
    };
    capturing.writer.count_reused(Content::slots(file.content.length));
    capturing.progress.advance(file.content.length);
    let entries = vec![file_entry(request.name, &found.main, file)];
    let writer_blocked = Duration::ZERO;
    Ok(Known::Unchanged(StoredDatabase { entries, verdict, to_check: None, raw_because: None, writer_blocked }))
}

/// Captures a database, to be stored against a previous content.
///
/// # Errors
/// As [`capture_image`].
pub(super) fn capture(
    repository: &Repository,
    request: &DatabaseRequest<'_>,
    patience: Patience<'_>,
    previous: Option<Content>,
    witness: Witness<'_>,
) -> Result<PendingDatabase> {
    let scratch = repository.scratch()?;
    let options =
        ImageOptions { deadline: DEADLINE, block: patience.block, damaged: request.damaged, method: request.method };
    let earlier = match previous.filter(|content| request.may_lack(content)) {
        Some(content) => PreviousImage::of(repository, content, patience)?,
        None => None,
    };
    let captured = Box::new(capture_image(request.source, scratch, options, earlier.as_ref(), witness)?);
    Ok(PendingDatabase::Captured { captured, previous })
}

/// Captures a database and stores it, or takes it over from the previous version if its stats say that it is unchanged
/// and no check of it is due.
///
/// # Errors
/// As [`compare`], [`capture`] and [`PendingDatabase::store`].
pub(super) fn store_or_take_over(
    capturing: &mut Capturing<'_>,
    previous: Option<&mut Previous<'_>>,
    request: &DatabaseRequest<'_>,
) -> Result<StoredDatabase> {
    match compare(capturing, previous, request)? {
        Known::Unchanged(stored) => Ok(stored),
        Known::Changed { previous } => {
            for _ in 0..ATTEMPTS {
                let (repository, patience) = (capturing.repository, capturing.patience);
                let held = capture(repository, request, patience, previous, &mut |_| Ok(()))?;
                if let Some(stored) = held.store(capturing, request)? {
                    return Ok(stored);
                }
            }
            Err(Error::Changing(keeps_being_lost(request.source)))
        }
    }
}

/// Why a database could not be captured although it stood still.
pub(super) fn keeps_being_lost(source: &Path) -> String {
    format!(
        "what {} has in common with its previous version keeps being lost from the repository; \
         run `vecsnap validate --all`",
        source.display()
    )
}

/// A database to be captured.
pub(super) struct DatabaseRequest<'a> {
    /// Where it is.
    pub(super) source: &'a Path,
    /// Its path in the table.
    pub(super) name: &'a [u8],
    /// What to do if SQLite cannot read it.
    pub(super) damaged: DamagedSource,
    /// Whether its image is checked.
    pub(super) check: CheckImage,
    /// How its pages come into the image.
    pub(super) method: CopyMethod,
    /// The image of a database that had more bytes than these may lack what did not change.
    pub(super) written_in_full: u64,
}

impl DatabaseRequest<'_> {
    /// Whether the image may lack what it has in common with this content: not where SQLite is to check it.
    fn may_lack(&self, content: &Content) -> bool {
        self.check == CheckImage::Later && content.length > self.written_in_full
    }
}

fn source_stats(stats: &DatabaseStats) -> SourceStats {
    SourceStats {
        file: table_stat(&stats.main),
        wal: stats.wal.as_ref().map(table_stat),
        journal: stats.journal.as_ref().map(table_stat),
    }
}

fn store(
    capturing: &mut Capturing<'_>,
    request: &DatabaseRequest<'_>,
    captured: CapturedDatabase,
    previous: Option<Content>,
) -> Result<Option<StoredDatabase>> {
    let &DatabaseRequest { source, name, check, .. } = request;
    let stats = source_stats(&captured.stats);
    let main = captured.stats.main;
    let entry = |content, capture| file_entry(name, &main, FileEntry { content, capture, sparse: false, stats });
    let stored = match captured.content {
        DatabaseContent::Empty => StoredDatabase {
            entries: vec![entry(Content::EMPTY, Capture::SqliteImage)],
            verdict: Verdict::Ok,
            to_check: None,
            raw_because: None,
            writer_blocked: Duration::ZERO,
        },
        DatabaseContent::Image(image) => {
            let writer_blocked = image.writer_blocked.unwrap_or_default();
            if writer_blocked > LONG_BLOCK {
                tracing::warn!(path = %source.display(), seconds = writer_blocked.as_secs_f64(), "writers of the database had to wait for long; WAL mode would spare them");
            }
            let Some(content) = store_image(capturing, &image, previous)? else { return Ok(None) };
            let kept = verdicts::kept(capturing.repository.index(), &content, Recheck::IfUnknown);
            let to_check = if kept.is_none() && check == CheckImage::Now {
                Some(ImageToCheck { content, image: image.file })
            } else {
                delete_beside(image.file);
                None
            };
            let (entries, verdict) = (vec![entry(content, Capture::SqliteImage)], kept.unwrap_or(Verdict::Unchecked));
            StoredDatabase { entries, verdict, to_check, raw_because: None, writer_blocked }
        }
        DatabaseContent::Raw(raw) => {
            tracing::warn!(path = %source.display(), cause = %raw.reason, "the database is captured as raw bytes");
            let mut entries = store_raw_settled(capturing, &raw, source, name)?;
            entries.sort_by(|left, right| compare_paths(&left.path, &right.path));
            StoredDatabase {
                entries,
                verdict: Verdict::Unchecked,
                to_check: None,
                raw_because: Some(raw.reason),
                writer_blocked: Duration::ZERO,
            }
        }
    };
    Ok(Some(stored))
}

/// Stores an image; `None` if what it lacks was lost from the repository meanwhile.
fn store_image(
    capturing: &mut Capturing<'_>,
    image: &DatabaseImage,
    previous: Option<Content>,
) -> Result<Option<Content>> {
    let path: &Path = &image.file;
    let file = File::open(path).map_err(Error::io("open", path))?;
    let length = file.metadata().map_err(Error::io("look at", path))?.len();
    let outcome = match &image.chunks {
        Some(chunks) => file::store_identified(capturing, &file, path, length, chunks)?,
        None => file::store(capturing, &file, path, length, previous)?,
    };
    match outcome {
        ReadOutcome::Stored(stored) => Ok(Some(stored.content)),
        ReadOutcome::Changed if image.chunks.is_some() => Ok(None),
        ReadOutcome::Changed => Err(Error::Failed(format!("{} was changed by another process", path.display()))),
    }
}

/// Stores the files of a damaged database as they are at one moment.
fn store_raw_settled(
    capturing: &mut Capturing<'_>,
    raw: &RawDatabase,
    source: &Path,
    name: &[u8],
) -> Result<Vec<Entry>> {
    let look = || raw.files.iter().map(|path| stat::stat(path)).collect::<Result<Vec<_>>>();
    for _ in 0..ATTEMPTS {
        let before = look()?;
        let entries = raw.files.iter().map(|path| store_raw(capturing, path, source, name)).collect::<Result<_>>()?;
        if look()? == before {
            return Ok(entries);
        }
    }
    Err(Error::Changing(format!(
        "the damaged database {} kept changing while its bytes were captured; stop what writes to it and try again",
        source.display()
    )))
}

/// Stores one file of a damaged database: the main file, or a sidecar, which keeps its suffix.
fn store_raw(capturing: &mut Capturing<'_>, path: &Path, source: &Path, name: &[u8]) -> Result<Entry> {
    let file = open_source(path)?.or_fail(path)?;
    let stat = file.stat().map_err(Error::io("look at", path))?;
    let real = std::fs::canonicalize(source).unwrap_or_else(|_| source.to_path_buf());
    let suffix = path.as_os_str().as_bytes().strip_prefix(real.as_os_str().as_bytes()).unwrap_or_default();
    let stored = match file::store(capturing, file.file(), path, stat.size, None)? {
        ReadOutcome::Stored(stored) => stored,
        ReadOutcome::Changed => {
            return Err(Error::Changing(format!("{} changed while it was captured; try again", path.display())));
        }
    };
    let stats = SourceStats { file: table_stat(&stat), wal: None, journal: None };
    let entry = FileEntry { content: stored.content, capture: Capture::RawSqlite, sparse: stored.sparse, stats };
    Ok(file_entry(&[name, suffix].concat(), &stat, entry))
}

/// The table entry of a regular file with this stat.
pub(super) fn file_entry(path: &[u8], stat: &FileStat, file: FileEntry) -> Entry {
    entry(path, stat, EntryKind::File(file))
}

/// The table entry of anything with this stat.
pub(super) fn entry(path: &[u8], stat: &FileStat, kind: EntryKind) -> Entry {
    Entry {
        path: path.to_vec(),
        kind,
        mode: stat.mode,
        uid: stat.uid,
        gid: stat.gid,
        modified: time(stat.mtime),
        extensions: Vec::new(),
    }
}

/// Stores one plain file that nobody should be writing, such as the registry: read again if it changed meanwhile.
///
/// # Errors
/// [`Error::Changing`] if it never stood still; I/O errors.
pub(super) fn store_plain(capturing: &mut Capturing<'_>, path: &Path, name: &[u8]) -> Result<Entry> {
    let real = std::fs::canonicalize(path).map_err(Error::io("resolve", path))?;
    for _ in 0..ATTEMPTS {
        let file = open_source(&real)?.or_fail(&real)?;
        let before = file.stat().map_err(Error::io("look at", path))?;
        let outcome = file::store(capturing, file.file(), &real, before.size, None)?;
        let after = stat::stat(&real)?;
        match outcome {
            ReadOutcome::Stored(stored) if after == Some(before) => {
                let stats = SourceStats { file: table_stat(&before), wal: None, journal: None };
                let capture = Capture::Plain;
                let entry = FileEntry { content: stored.content, capture, sparse: stored.sparse, stats };
                return Ok(file_entry(name, &before, entry));
            }
            _ => std::thread::sleep(Duration::from_millis(50)),
        }
    }
    Err(Error::Changing(format!("{} kept changing while it was captured; try again", path.display())))
}
