//! Taking a snapshot.
//!
//! Capture each source to blobs, publish the packs, then publish the manifest: that last rename is the commit, and all
//! that it points to is durable and was read back before. Invariant: a create that fails or dies leaves at most packs
//! that nothing points to, which the next cleanup removes.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use chrono::Utc;
use rustix::system::uname;

use super::capturing::{Capturing, Patience};
use super::database::{self, CheckImage, DatabaseRequest, ImageToCheck, StoredDatabase};
use super::effort::Effort;
use super::previous::{EarlierSnapshots, ReadPolicy};
use super::registry;
use super::report::{self, CreateReport};
use super::sources::{self, LiveSources};
use super::sqlite::{CopyMethod, DamagedSource};
use super::tree::{self, TreeOptions, TreeOutcome};
use super::writers::{IngestLock, WriterPolicy};
use crate::disk::{FileLock, LockMode, stat};
use crate::error::{Error, Result};
use crate::format::manifest::{CHROMA, Consistency, DB, Manifest, SnapshotKind, SourceKind, SourceRecord, SourceState};
use crate::format::metadata::SnapshotMetadata;
use crate::format::table::EntryKind;
use crate::id::Stamp;
use crate::progress::{Phase, Progress};
use crate::store::json_verdict::JsonVerdict;
use crate::store::snapshots::{self, SnapshotFiles};
use crate::store::{BlobWriter, DecodedFrames, Repository, intents};

/// What a create captures, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateOptions {
    /// Where the live sources are.
    pub sources: LiveSources,
    /// Whether the Chroma tree is captured.
    pub include_chroma: bool,
    /// Whether SQLite images inside trees are checked now; the database's always is.
    pub check_trees: bool,
    /// Whether files whose stats are those of the previous snapshot are read all the same.
    pub read_policy: ReadPolicy,
    /// How much time is spent to store less.
    pub effort: Effort,
    /// How it gets along with those who write meanwhile.
    pub writers: WriterPolicy,
    /// Why the snapshot is taken. Before a restore, sources that are missing or damaged are recorded as they are, and
    /// the caller holds the live lock.
    pub kind: SnapshotKind,
}

/// Takes a snapshot of the live sources.
///
/// # Errors
/// [`Error::Usage`] where Chroma is asked for and not named; [`Error::Failed`] for a database that is missing or no
/// SQLite file; [`Error::Changing`] where the database could not be read within the time that its writers may be held
/// off; [`Error::Refused`] while a restore is pending; [`Error::Busy`] while one runs, or while the service ingests;
/// I/O errors. A tree that kept changing, or an image that is damaged, is no error: the report says so, and the
/// snapshot stays.
pub fn create(repository: &Repository, options: &CreateOptions, progress: &dyn Progress) -> Result<CreateReport> {
    let began = Instant::now();
    let _live = lock_live(repository, options.kind)?;
    options.sources.check_apart_from(repository.root())?;
    let created = Utc::now();
    let first_stamp = Stamp::of(created);
    let mut manifest =
        Manifest::new(repository.header().clone(), first_stamp, options.kind, created.timestamp_micros());
    manifest.host = host_name();
    let earlier = EarlierSnapshots::of(repository, first_stamp)?;
    manifest.set_parent(earlier.newest());

    let ingestion = options.writers.ingest_lock.as_ref().map(IngestLock::take).transpose()?;
    progress.phase(Phase::Reading, None);
    let mut writer = BlobWriter::begin(repository, options.effort.metadata(), options.effort.thoroughness())?;
    let (read_policy, effort, earlier) = (options.read_policy, options.effort, &earlier);
    let patience = Patience::new(progress, options.writers.max_block);
    let frames = &DecodedFrames::default();
    let mut capturing =
        Capturing { repository, writer: &mut writer, progress, read_policy, effort, earlier, patience, frames };
    let sources = capture_sources(&mut capturing, options)?;
    manifest.sources = sources.records;
    if options.kind == SnapshotKind::Ordinary {
        warn_of_emptiness(&manifest, earlier)?;
    }
    drop(ingestion);

    progress.phase(Phase::Checking, None);
    let written = writer.finish()?;
    progress.check()?;
    let validation_errors = report::validation_errors(&manifest, sources.registry);
    let stamp = snapshots::publish(repository, first_stamp, |stamp| {
        files(&manifest, &validation_errors, repository.root(), stamp)
    })?;
    progress.finish();

    let published = files_size(&files(&manifest, &validation_errors, repository.root(), stamp)?);
    manifest.set_stamp(stamp);
    let report = CreateReport {
        stamp,
        metadata: metadata(&manifest, &validation_errors, repository.root(), stamp),
        manifest,
        validated: validation_errors.is_empty(),
        validation_errors,
        stored_bytes: written.stored_bytes() + published,
        chunks_new: written.chunks_new,
        chunks_delta: written.chunks_delta,
        chunks_reused: written.chunks_reused,
        duration: began.elapsed(),
    };
    tell(&report);
    Ok(report)
}

/// Tells of sources that had no bytes where they used to have some, as a directory has on which no disk is mounted.
fn warn_of_emptiness(manifest: &Manifest, earlier: &EarlierSnapshots<'_>) -> Result<()> {
    for source in manifest.sources.iter().filter(|source| source.is_captured() && source.bytes == 0) {
        let Some(holder) = earlier.newest_with(&source.name)? else { continue };
        if let (Some(stamp), Some(before)) = (holder.stamp(), holder.source(&source.name))
            && before.bytes > 0
        {
            let path = Path::new(OsStr::from_bytes(&source.path)).display();
            let (source, bytes) = (&source.name, before.bytes);
            tracing::warn!(
                %path, source, %stamp, bytes,
                "it is empty, where the snapshot before holds bytes of it; check the path and whether its disk is mounted"
            );
        }
    }
    Ok(())
}

/// The sources of a snapshot.
struct Sources {
    records: Vec<SourceRecord>,
    /// What is known of the registry's content.
    registry: JsonVerdict,
}

/// Captures one source after the other; a check of the database's image runs beside the others.
fn capture_sources(capturing: &mut Capturing<'_>, options: &CreateOptions) -> Result<Sources> {
    let index = capturing.repository.index();
    thread::scope(|scope| {
        let CapturedDb { record: mut db, to_check } = capture_db(capturing, options)?;
        let checking = match to_check {
            Some(image) if !image.may_wait() => {
                db.verdict = image.check(index);
                None
            }
            waiting => waiting.map(|image| scope.spawn(|| image.check(index))),
        };
        let registry = registry::capture(capturing, &options.sources.registry)?;
        if registry.record.state == SourceState::Absent && options.kind == SnapshotKind::Ordinary {
            registry::warn_of_absence(&options.sources.registry, capturing.earlier)?;
        }
        let chroma = capture_chroma(capturing, options)?;
        if let Some(checking) = checking {
            capturing.progress.phase(Phase::CheckingDatabases, None);
            let stopped = |_| Error::Failed("the check of the database stopped unexpectedly; try again".into());
            db.verdict = checking.join().map_err(stopped)?;
        }
        Ok(Sources { records: vec![db, registry.record, chroma], registry: registry.verdict })
    })
}

/// Holds restores off while the live files are read; before a restore, the caller does.
fn lock_live(repository: &Repository, kind: SnapshotKind) -> Result<Option<FileLock>> {
    if kind == SnapshotKind::PreRestore {
        return Ok(None);
    }
    let lock = repository.lock_live(LockMode::Shared)?;
    intents::refuse_pending(repository)?;
    Ok(Some(lock))
}

/// The database as it was captured.
pub(super) struct CapturedDb {
    record: SourceRecord,
    /// Its image, unless the verdict on it is known; what the record says of it is preliminary then.
    to_check: Option<ImageToCheck>,
}

pub(super) fn capture_db(capturing: &mut Capturing<'_>, options: &CreateOptions) -> Result<CapturedDb> {
    let path = &options.sources.db;
    let mut record = sources::record(DB, SourceKind::Sqlite, SourceState::Absent, path, sources::now());
    if stat::stat(path)?.is_none() {
        return match options.kind {
            SnapshotKind::PreRestore => Ok(CapturedDb { record, to_check: None }),
            SnapshotKind::Ordinary => Err(Error::Failed(format!(
                "the database {} does not exist; check --db or ATOCORE_DATA_DIR",
                path.display()
            ))),
        };
    }
    let damaged = match options.kind {
        SnapshotKind::PreRestore => DamagedSource::TakeRaw,
        SnapshotKind::Ordinary => DamagedSource::TakeDatabaseRaw,
    };
    let name = sources::file_name(path)?.as_bytes();
    let mut previous = capturing.previous(DB)?;
    let request = DatabaseRequest {
        source: path,
        name,
        damaged,
        check: CheckImage::Now,
        method: CopyMethod::BackupApi,
        written_in_full: u64::MAX,
    };
    let stored = database::store_or_take_over(capturing, previous.as_mut(), &request)?;
    fill_record(&mut record, &stored);
    let mut table = capturing.table(DB)?;
    for entry in &stored.entries {
        table.push(entry, capturing.writer)?;
    }
    record.table = table.finish(capturing.writer)?;
    Ok(CapturedDb { record, to_check: stored.to_check })
}

fn fill_record(record: &mut SourceRecord, stored: &StoredDatabase) {
    match &stored.raw_because {
        // The backup API and the stats of a file both mean one moment.
        None => (record.state, record.consistency) = (SourceState::Captured, Consistency::Proven),
        Some(_) => record.state = SourceState::CapturedRaw,
    }
    record.verdict = stored.verdict.clone();
    record.writer_blocked_microseconds = microseconds(stored.writer_blocked);
    for entry in &stored.entries {
        if let EntryKind::File(file) = &entry.kind {
            record.files += 1;
            record.bytes += file.content.length;
        }
    }
}

pub(super) fn capture_chroma(capturing: &mut Capturing<'_>, options: &CreateOptions) -> Result<SourceRecord> {
    if !options.include_chroma {
        let path = options.sources.chroma.as_deref().unwrap_or(Path::new(""));
        return Ok(sources::record(CHROMA, SourceKind::Tree, SourceState::NotRequested, path, sources::now()));
    }
    let path = options.sources.chroma()?;
    let mut record = sources::record(CHROMA, SourceKind::Tree, SourceState::Captured, path, sources::now());
    match stat::stat(path)? {
        None => {
            tracing::warn!(event = "chroma_snapshot_skipped_missing", path = %path.display(), "there is no Chroma directory to capture");
            record.state = SourceState::Absent;
            return Ok(record);
        }
        Some(stat) if stat.kind != stat::FileKind::Directory => {
            return Err(Error::Failed(format!(
                "{} is not a directory; check --chroma-dir or ATOCORE_DATA_DIR",
                path.display()
            )));
        }
        Some(_) => {}
    }
    let check = if options.check_trees { CheckImage::Now } else { CheckImage::Later };
    match tree::store(capturing, path, TreeOptions { check, freeze: options.writers.freeze })? {
        TreeOutcome::LeftOut { reason, writer_blocked } => {
            tracing::warn!(path = %path.display(), %reason, "the Chroma directory is not in this snapshot");
            record.state = SourceState::Changing;
            record.consistency = Consistency::Suspect(vec![reason]);
            record.writer_blocked_microseconds = microseconds(writer_blocked);
        }
        TreeOutcome::Stored(stored) => {
            if !stored.raw.is_empty() {
                record.state = SourceState::CapturedRaw;
            }
            record.table = stored.table;
            record.files = stored.files;
            record.bytes = stored.bytes;
            record.verdict = stored.verdict;
            record.consistency = stored.consistency;
            record.writer_blocked_microseconds = microseconds(stored.writer_blocked);
        }
    }
    Ok(record)
}

fn microseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn metadata(manifest: &Manifest, errors: &[String], root: &Path, stamp: Stamp) -> SnapshotMetadata {
    let (validated, validation_errors) = (Some(errors.is_empty()), Some(errors.to_vec()));
    SnapshotMetadata { validated, validation_errors, ..report::metadata(manifest, root, stamp) }
}

fn files(manifest: &Manifest, errors: &[String], root: &Path, stamp: Stamp) -> Result<SnapshotFiles> {
    let mut manifest = manifest.clone();
    manifest.set_stamp(stamp);
    let unwritable = |fault: String| Error::Failed(format!("the snapshot {stamp} cannot be written: {fault}"));
    let metadata = metadata(&manifest, errors, root, stamp);
    let mut metadata = serde_json::to_vec_pretty(&metadata).map_err(|fault| unwritable(fault.to_string()))?;
    metadata.push(b'\n');
    Ok(SnapshotFiles { manifest: manifest.encode().map_err(|fault| unwritable(fault.to_string()))?, metadata })
}

fn files_size(files: &SnapshotFiles) -> u64 {
    (files.manifest.len() + files.metadata.len()) as u64
}

fn tell(report: &CreateReport) {
    if !report.validated {
        tracing::warn!(event = "post_backup_validation_failed", stamp = %report.stamp, errors = ?report.validation_errors, "the snapshot was kept but is not valid");
    }
    tracing::info!(event = "runtime_backup_created", stamp = %report.stamp, stored_bytes = report.stored_bytes, "snapshot created");
}

fn host_name() -> String {
    uname().nodename().to_string_lossy().chars().take(64).collect()
}
