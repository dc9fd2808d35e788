//! What a restore reports.

use std::path::PathBuf;
use std::time::Duration;

use crate::disk::sqlite;
use crate::id::Stamp;

use super::losses::Unreadable;
use super::plan::Totals;

/// Whether the restored database is sound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Integrity {
    /// `PRAGMA integrity_check` found nothing.
    Ok,
    /// It found damage, or the file does not open as a database.
    Failed(String),
    /// It could not run; that says nothing about the data.
    Unknown(String),
    /// The database had been captured as raw bytes, and these are back; it is not judged.
    Raw,
    /// No database was restored.
    NotRestored,
}

impl From<sqlite::CheckOutcome> for Integrity {
    fn from(verdict: sqlite::CheckOutcome) -> Self {
        match verdict {
            sqlite::CheckOutcome::Ok => Self::Ok,
            sqlite::CheckOutcome::Unknown(cause) => Self::Unknown(cause),
            sqlite::CheckOutcome::Failed(cause)
            | sqlite::CheckOutcome::OpenFailed(cause)
            | sqlite::CheckOutcome::Unreadable(cause) => Self::Failed(cause),
        }
    }
}

/// A restore that came to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoreReport {
    /// The snapshot.
    pub stamp: Stamp,
    /// The snapshot of the state before, if there is one.
    pub pre_restore_snapshot: Option<Stamp>,
    /// Where the database is, as the operator named it.
    pub target_db: PathBuf,
    /// Whether the database was restored.
    pub db_restored: bool,
    /// Whether the registry was restored.
    pub registry_restored: bool,
    /// Whether Chroma was restored.
    pub chroma_restored: bool,
    /// Whether the restored database is sound.
    pub integrity: Integrity,
    /// Sources that were removed, since they had been absent.
    pub sources_removed: Vec<String>,
    /// Files and links that were made.
    pub files_created: u64,
    /// Files whose bytes were changed.
    pub files_overwritten: u64,
    /// Files and links that were removed.
    pub files_removed: u64,
    /// Blocks of 4 KiB that were written.
    pub blocks_written: u64,
    /// Bytes that were written into files.
    pub bytes_written: u64,
    /// Names whose owner, mode or time could not be set.
    pub not_permitted: u64,
    /// What was wrong with the snapshot and accepted, as a validation says it.
    pub accepted_errors: Vec<String>,
    /// What could not be read and was accepted.
    pub unreadable: Vec<Unreadable>,
    /// How long it took.
    pub duration: Duration,
}

/// What a restore would do to one source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedSource {
    /// The source.
    pub source: String,
    /// Where it is restored to.
    pub path: PathBuf,
    /// The numbers.
    pub totals: Totals,
}

/// What a restore would do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rehearsal {
    /// The snapshot.
    pub stamp: Stamp,
    /// Where the database is, as the operator named it.
    pub target_db: PathBuf,
    /// Its sources.
    pub sources: Vec<PlannedSource>,
    /// What is wrong with the snapshot and would be accepted, as a validation says it.
    pub accepted_errors: Vec<String>,
    /// What cannot be read and would be accepted.
    pub unreadable: Vec<Unreadable>,
}
