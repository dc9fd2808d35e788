//! The snapshots of a repository: which there are, reading one, publishing one.
//!
//! Invariant: a directory under `snapshots/` with a manifest is a committed snapshot; it appears with all its files by
//! one rename that never replaces. A stamp is claimed by that rename alone, and is never in the future: whoever finds
//! its second taken waits for the next one.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use chrono::Utc;

use super::layout;
use super::repository::Repository;
use crate::disk::durable::{self, NewFile, Renamed};
use crate::disk::{ObjectKind, Storage};
use crate::error::{Error, Result};
use crate::format::limits::MANIFEST_BYTES;
use crate::format::manifest::{Manifest, SnapshotKind};
use crate::format::metadata;
use crate::id::Stamp;

const METADATA_LIMIT: u64 = 1024 * 1024;

/// Who made the directory of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SnapshotFormat {
    /// vecsnap; the manifest may be lost all the same.
    Vecsnap,
    /// The tool that copied everything.
    FullCopy,
    /// Nobody known.
    Unknown,
}

/// What stands in a snapshot's `backup-metadata.json`.
#[derive(Debug, Clone, PartialEq)]
pub enum MetadataState {
    /// There is none.
    Missing,
    /// It is not JSON, for this reason.
    Invalid(String),
    /// This.
    Parsed(serde_json::Value),
}

impl MetadataState {
    /// What is wrong with it, in the words of `validate`.
    pub fn fault(&self) -> Option<String> {
        match self {
            Self::Missing => Some("metadata_missing".into()),
            Self::Invalid(cause) => Some(format!("metadata_invalid_json: {cause}")),
            Self::Parsed(_) => None,
        }
    }

    /// What the create found wrong with the snapshot, as far as it is told there.
    pub fn validation_errors(&self) -> impl Iterator<Item = &str> {
        let errors = match self {
            Self::Parsed(metadata) => metadata.get("validation_errors").and_then(serde_json::Value::as_array),
            Self::Missing | Self::Invalid(_) => None,
        };
        errors.into_iter().flatten().filter_map(serde_json::Value::as_str)
    }
}

/// A directory under `snapshots/`.
#[derive(Debug, Clone, PartialEq)]
pub struct SnapshotListing {
    /// Its name, a stamp or not.
    pub name: String,
    /// Its absolute path.
    pub path: PathBuf,
    /// Who made it.
    pub format: SnapshotFormat,
    /// Its description.
    pub metadata: MetadataState,
}

impl SnapshotListing {
    /// The stamp that its name is, if it is one.
    pub fn stamp(&self) -> Option<Stamp> {
        self.name.parse().ok()
    }
}

/// Lists the directories under `snapshots/` of the repository at `root`, ascending by name; none if there is none.
///
/// # Errors
/// When they cannot be read.
pub fn list(storage: &dyn Storage) -> Result<Vec<SnapshotListing>> {
    let directories = storage.list(layout::SNAPSHOTS)?;
    let directories = directories.into_iter().filter(|object| object.kind == ObjectKind::Directory);
    directories.map(|object| look_at(storage, object.name)).collect()
}

/// Looks at one directory under `snapshots/`; `None` if it does not exist.
///
/// # Errors
/// When it cannot be read.
pub fn find(storage: &dyn Storage, name: &str) -> Result<Option<SnapshotListing>> {
    let exists = storage
        .list(layout::SNAPSHOTS)?
        .iter()
        .any(|object| object.kind == ObjectKind::Directory && object.name == name);
    if exists { look_at(storage, name.to_owned()).map(Some) } else { Ok(None) }
}

fn look_at(storage: &dyn Storage, name: String) -> Result<SnapshotListing> {
    let directory = format!("{}/{name}", layout::SNAPSHOTS);
    let path = layout::snapshot_directory(storage.root(), &name);
    let metadata = metadata_in(storage, &name)?;
    let objects = storage.list(&directory)?;
    let has = |name: &str| objects.iter().any(|object| object.name == name);
    let ours = matches!(&metadata, MetadataState::Parsed(value) if metadata::is_vecsnap(value));
    let format = if has(layout::MANIFEST) || ours {
        SnapshotFormat::Vecsnap
    } else if has("db") || has("config") || has("chroma") || matches!(metadata, MetadataState::Parsed(_)) {
        SnapshotFormat::FullCopy
    } else {
        SnapshotFormat::Unknown
    };
    Ok(SnapshotListing { name, path, format, metadata })
}

/// Reads the description in the directory `name` under `snapshots/`.
///
/// # Errors
/// I/O errors; one that is missing or no JSON is no error.
pub fn metadata_in(storage: &dyn Storage, name: &str) -> Result<MetadataState> {
    match storage.read(&format!("{}/{name}/{}", layout::SNAPSHOTS, layout::METADATA), METADATA_LIMIT) {
        Ok(bytes) => Ok(serde_json::from_slice(&bytes)
            .map_or_else(|cause| MetadataState::Invalid(cause.to_string()), MetadataState::Parsed)),
        Err(error) if error.is_not_found() => Ok(MetadataState::Missing),
        Err(Error::Damaged { detail, .. }) => Ok(MetadataState::Invalid(detail)),
        Err(error) => Err(error),
    }
}

/// Why a snapshot has no usable manifest; the text is that of `validate`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestFault {
    /// There is no manifest.
    #[error("manifest_missing")]
    Missing,
    /// It is damaged, or not of this snapshot or repository.
    #[error("manifest_corrupt: {0}")]
    Corrupt(String),
}

/// The outcome of reading a manifest.
pub type ManifestResult = std::result::Result<Manifest, ManifestFault>;

/// Reads the manifest of a snapshot.
///
/// # Errors
/// I/O errors; a manifest that is missing or damaged is a [`ManifestFault`] inside.
pub fn read_manifest(repository: &Repository, stamp: Stamp) -> Result<ManifestResult> {
    Ok(peek_manifest(repository.storage(), stamp)?.and_then(|manifest| {
        let repository_id = manifest.header.repository;
        match repository_id == repository.header().repository {
            true => Ok(manifest),
            false => Err(ManifestFault::Corrupt(format!("it belongs to the repository {repository_id}"))),
        }
    }))
}

/// Reads the manifest of a snapshot without a repository to hold it against: for showing, never for restoring.
///
/// # Errors
/// As [`read_manifest`].
pub fn peek_manifest(storage: &dyn Storage, stamp: Stamp) -> Result<ManifestResult> {
    Ok(manifest_in(storage, &stamp.to_string())?.and_then(|manifest| match manifest.stamp() == Some(stamp) {
        true => Ok(manifest),
        false => Err(ManifestFault::Corrupt("it is the manifest of another snapshot".into())),
    }))
}

/// Reads the manifest in the directory `name` under `snapshots/`, whichever snapshot it is of: a snapshot whose
/// directory an operator renamed still needs its blobs.
///
/// # Errors
/// As [`read_manifest`].
pub fn manifest_in(storage: &dyn Storage, name: &str) -> Result<ManifestResult> {
    let bytes =
        match storage.read(&format!("{}/{name}/{}", layout::SNAPSHOTS, layout::MANIFEST), 2 * MANIFEST_BYTES as u64) {
            Ok(bytes) => bytes,
            Err(error) if error.is_not_found() => return Ok(Err(ManifestFault::Missing)),
            Err(Error::Damaged { detail, .. }) => return Ok(Err(ManifestFault::Corrupt(detail))),
            Err(error) => return Err(error),
        };
    Ok(Manifest::decode(&bytes).map_err(|fault| ManifestFault::Corrupt(fault.to_string())))
}

/// The stamps that have a directory, oldest first.
///
/// # Errors
/// When they cannot be listed.
pub fn stamps(storage: &dyn Storage) -> Result<Vec<Stamp>> {
    let directories =
        storage.list(layout::SNAPSHOTS)?.into_iter().filter(|object| object.kind == ObjectKind::Directory);
    Ok(directories.filter_map(|object| object.name.parse().ok()).collect())
}

/// The readable snapshots, oldest first; those without a usable manifest are left out.
///
/// # Errors
/// I/O errors.
pub fn manifests(repository: &Repository) -> Result<Vec<Manifest>> {
    let mut manifests = Vec::new();
    for stamp in stamps(repository.storage())? {
        manifests.extend(read_manifest(repository, stamp)?.ok());
    }
    Ok(manifests)
}

/// The newest snapshot of vecsnap that no restore took for itself. One that is damaged counts: whoever asks for the
/// latest must hear of the damage instead of getting an older one unawares.
///
/// # Errors
/// When they cannot be read.
pub fn latest(storage: &dyn Storage) -> Result<Option<SnapshotListing>> {
    for object in storage.list(layout::SNAPSHOTS)?.into_iter().rev() {
        if object.kind != ObjectKind::Directory || object.name.parse::<Stamp>().is_err() {
            continue;
        }
        let listing = look_at(storage, object.name)?;
        if listing.format == SnapshotFormat::Vecsnap && kind_of(storage, &listing)? == SnapshotKind::Ordinary {
            return Ok(Some(listing));
        }
    }
    Ok(None)
}

/// Whether vecsnap made the directory of this stamp and took it for no restore, as far as its files still tell.
///
/// # Errors
/// When they cannot be read.
pub fn is_ours(storage: &dyn Storage, stamp: Stamp) -> Result<bool> {
    let listing = look_at(storage, stamp.to_string())?;
    Ok(listing.format == SnapshotFormat::Vecsnap && kind_of(storage, &listing)? == SnapshotKind::Ordinary)
}

/// Why a snapshot was taken, from its manifest or, where that cannot be read, from its description.
fn kind_of(storage: &dyn Storage, listing: &SnapshotListing) -> Result<SnapshotKind> {
    if let Some(stamp) = listing.stamp()
        && let Ok(manifest) = peek_manifest(storage, stamp)?
    {
        return Ok(manifest.kind);
    }
    let MetadataState::Parsed(metadata) = &listing.metadata else { return Ok(SnapshotKind::Ordinary) };
    let pre_restore = metadata.get("kind").and_then(serde_json::Value::as_str) == Some("pre-restore");
    Ok(if pre_restore { SnapshotKind::PreRestore } else { SnapshotKind::Ordinary })
}

/// The files of a snapshot about to be published under a stamp.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotFiles {
    /// The bytes of the manifest.
    pub manifest: Vec<u8>,
    /// The bytes of `backup-metadata.json`.
    pub metadata: Vec<u8>,
}

/// Publishes a snapshot under `first` or, where that is taken, under the next free second once it has come; `files`
/// makes the files for the stamp. This is the commit: when it returns, the snapshot survives a crash.
///
/// # Errors
/// I/O errors; nothing is then published.
pub fn publish(repository: &Repository, first: Stamp, files: impl Fn(Stamp) -> Result<SnapshotFiles>) -> Result<Stamp> {
    let parent = repository.root().join(layout::SNAPSHOTS);
    durable::create_directories(&parent, durable::DIRECTORY_MODE)?;
    let mut stamp = first;
    loop {
        let target = parent.join(stamp.to_string());
        if fs::symlink_metadata(&target).is_err() {
            let prepared = prepare(repository.scratch()?, &files(stamp)?)?;
            match durable::rename_no_replace(&prepared, &target)? {
                Renamed::Done => return Ok(stamp),
                Renamed::Exists => {
                    fs::remove_dir_all(&prepared).map_err(Error::io("remove", &prepared))?;
                }
            }
        }
        stamp = stamp.next();
        wait_for(stamp);
    }
}

/// Writes the files of a snapshot into a new directory, the manifest last, and makes them durable.
fn prepare(scratch: &Path, files: &SnapshotFiles) -> Result<PathBuf> {
    let directory = scratch.join("snapshot");
    let metadata = NewFile { name: layout::METADATA, bytes: &files.metadata };
    let manifest = NewFile { name: layout::MANIFEST, bytes: &files.manifest };
    durable::write_new_directory(&directory, &[metadata, manifest])?;
    Ok(directory)
}

fn wait_for(stamp: Stamp) {
    let left = stamp.time().signed_duration_since(Utc::now()).to_std().unwrap_or(Duration::ZERO);
    thread::sleep(left.min(Duration::from_secs(1)));
}
