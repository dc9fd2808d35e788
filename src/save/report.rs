//! What a create tells: the manifest's facts in the words that scripts and people read.
//!
//! Invariant: `backup-metadata.json` and the result of `create` say the same of the same snapshot.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat};

use crate::format::limits::FORMAT_VERSION;
use crate::format::manifest::{
    CHROMA, Consistency, DB, Manifest, REGISTRY, SnapshotKind, SourceRecord, SourceState, Verdict, bytes_of,
};
use crate::format::metadata::{FORMAT_NAME, SnapshotMetadata};
use crate::id::Stamp;
use crate::store::json_verdict::JsonVerdict;
use crate::store::layout;

/// What a create did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateReport {
    /// The snapshot's name.
    pub stamp: Stamp,
    /// Its manifest.
    pub manifest: Manifest,
    /// Its readable description.
    pub metadata: SnapshotMetadata,
    /// Whether nothing was found wrong with it.
    pub validated: bool,
    /// What was found wrong, in the words of `validate`.
    pub validation_errors: Vec<String>,
    /// Bytes by which the repository grew.
    pub stored_bytes: u64,
    /// Chunks of files that were stored whole.
    pub chunks_new: u64,
    /// Chunks of files that were stored as deltas.
    pub chunks_delta: u64,
    /// Chunks of files that the repository had.
    pub chunks_reused: u64,
    /// How long it took.
    pub duration: Duration,
}

impl CreateReport {
    /// Bytes of all captured files.
    pub fn logical_bytes(&self) -> u64 {
        bytes_of(&self.manifest.sources)
    }

    /// Whether a source kept changing and was left out.
    pub fn left_out(&self) -> Option<&SourceRecord> {
        self.manifest.sources.iter().find(|source| source.state == SourceState::Changing)
    }
}

/// What is wrong with what was just captured, in the words of `validate`.
pub(super) fn validation_errors(manifest: &Manifest, registry: JsonVerdict) -> Vec<String> {
    for source in &manifest.sources {
        if let Verdict::Unknown(cause) = &source.verdict {
            tracing::warn!(source = source.name, %cause, "db_integrity_unknown: the integrity check could not run");
        }
    }
    let mut errors = capture_errors(manifest);
    if let JsonVerdict::Invalid(cause) = registry {
        errors.push(format!("registry_invalid_json: {cause}"));
    }
    errors
}

/// What a manifest holds against its own snapshot, in the words of `validate`.
pub fn capture_errors(manifest: &Manifest) -> Vec<String> {
    let mut errors = Vec::new();
    for source in &manifest.sources {
        match &source.verdict {
            Verdict::Failed(cause) if source.name == DB => errors.push(format!("db_integrity_check_failed: {cause}")),
            Verdict::OpenFailed(cause) if source.name == DB => errors.push(format!("db_open_failed: {cause}")),
            Verdict::Failed(cause) | Verdict::OpenFailed(cause) => {
                errors.push(format!("chroma_inconsistent: {cause}"));
            }
            Verdict::Ok | Verdict::Unchecked | Verdict::Unknown(_) => {}
        }
        let reasons = source.doubts().iter().map(String::as_str).chain(manifest.fault_of_raw(source));
        errors.extend(reasons.map(|reason| format!("{}_inconsistent: {reason}", source.name)));
    }
    errors
}

/// The readable description of a snapshot published at `stamp` in the repository at `root`.
pub fn metadata(manifest: &Manifest, root: &Path, stamp: Stamp) -> SnapshotMetadata {
    let backup_root = layout::snapshot_directory(root, &stamp.to_string());
    let captured = |name: &str| manifest.source(name).filter(|source| source.is_captured());
    let (db, registry, chroma) = (captured(DB), captured(REGISTRY), captured(CHROMA));
    let place = |source: Option<&SourceRecord>, directory: &str| {
        source.map_or_else(String::new, |source| {
            let path = Path::new(OsStr::from_bytes(&source.path));
            let name = path.file_name().unwrap_or_default();
            backup_root.join(directory).join(name).display().to_string()
        })
    };
    SnapshotMetadata {
        created_at: created_at(manifest),
        backup_root: backup_root.display().to_string(),
        db_snapshot_path: place(db, "db"),
        db_size_bytes: db.map_or(0, |source| source.bytes),
        registry_snapshot_path: place(registry, "config"),
        chroma_snapshot_path: chroma.map_or_else(String::new, |_| backup_root.join("chroma").display().to_string()),
        chroma_snapshot_bytes: chroma.map_or(0, |source| source.bytes),
        chroma_snapshot_files: chroma.map_or(0, |source| source.files),
        chroma_snapshot_included: manifest.source(CHROMA).is_some_and(|s| s.state != SourceState::NotRequested),
        vector_store_note: vector_store_note(manifest),
        stamp: stamp.to_string(),
        format: FORMAT_NAME.into(),
        format_version: FORMAT_VERSION.into(),
        kind: match manifest.kind {
            SnapshotKind::Ordinary => "ordinary".into(),
            SnapshotKind::PreRestore => "pre-restore".into(),
        },
        chroma_consistency: chroma.map(|source| match source.consistency {
            Consistency::Unproven => "unproven".into(),
            Consistency::Proven => "proven".into(),
            Consistency::Suspect(_) => "suspect".into(),
        }),
        validated: None,
        validation_errors: None,
    }
}

/// `2026-04-06T18:00:00.123456+00:00`.
pub fn created_at(manifest: &Manifest) -> String {
    let time = DateTime::from_timestamp_micros(manifest.created_microseconds).unwrap_or_default();
    time.to_rfc3339_opts(SecondsFormat::Micros, false)
}

fn vector_store_note(manifest: &Manifest) -> String {
    let Some(chroma) = manifest.source(CHROMA) else {
        return "Chroma hot backup is not included; it was not asked for (--chroma).".into();
    };
    let path = Path::new(OsStr::from_bytes(&chroma.path)).display();
    match chroma.state {
        SourceState::Captured => match &chroma.consistency {
            Consistency::Proven => "Chroma snapshot included; database and vectors are of one moment.".into(),
            Consistency::Unproven => "Chroma snapshot included; no file of it changed while it was captured.".into(),
            Consistency::Suspect(reasons) => {
                format!("Chroma snapshot included, but there is doubt about it: {}.", reasons.join("; "))
            }
        },
        SourceState::CapturedRaw => {
            "Chroma snapshot included; a SQLite database in it is damaged and was captured as raw bytes.".into()
        }
        SourceState::Absent => format!("Chroma hot backup is not included; the directory {path} does not exist."),
        SourceState::NotRequested => "Chroma hot backup is not included; it was not asked for (--chroma).".into(),
        SourceState::Changing => match &chroma.consistency {
            Consistency::Suspect(reasons) => format!("Chroma hot backup is not included; {}.", reasons.join("; ")),
            Consistency::Unproven | Consistency::Proven => {
                format!("Chroma hot backup is not included; {path} kept changing while it was captured.")
            }
        },
    }
}
