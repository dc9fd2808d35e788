//! How things stand: how old the last snapshots are and what is known of them, what is unfinished, when a restore was
//! last proved possible, and whether there is room for the next one.
//!
//! It reads directories, manifests and records alone: no lock, no index, nothing written, so a cron job may ask at any
//! time, also of a repository that cannot be written or does not exist. Invariant: a snapshot counts as sound only if
//! its manifest and description can be read, its create found nothing wrong, no validation found damage in it that
//! stands, and the last drill of it, if any, was good.

mod damage;
mod left_out;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use chrono::{DateTime, TimeDelta, Utc};

use super::drill::Drill;
use super::validate::record::ValidationRecord;
use crate::disk::stat::{self, FileKind};
use crate::disk::{LocalStorage, Storage, space};
use crate::error::Result;
use crate::format::intent::Intent;
use crate::format::manifest::{CHROMA, DB, REGISTRY, SnapshotKind, SourceRecord, bytes_of};
use crate::id::Stamp;
use crate::save::{LiveSources, report};
use crate::store::damaged::{self, Aside};
use crate::store::snapshots::{self, ManifestResult};
use crate::store::{intents, layout, outcomes, repository};
pub use damage::StandingDamage;
use left_out::Trails;
pub use left_out::{Absence, LeftOut};

/// Clocks of two machines may differ by so much before a stamp counts as being in the future.
pub(super) const CLOCK_SKEW: TimeDelta = TimeDelta::seconds(60);
/// The database of a Chroma directory.
const CHROMA_DATABASE: &str = "chroma.sqlite3";

/// How things stand.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Status {
    /// Whether there is a repository.
    pub exists: bool,
    /// The newest ordinary snapshot whose stamp is not in the future.
    pub last: Option<KnownSnapshot>,
    /// The newest of them that is sound, if that is another.
    pub last_sound: Option<KnownSnapshot>,
    /// The newest of them that holds Chroma.
    pub last_chroma: Option<KnownSnapshot>,
    /// The sources that the newest of them lack.
    pub left_out: Vec<LeftOut>,
    /// Snapshots whose stamps are in the future.
    pub in_future: u64,
    /// The restore that was interrupted.
    pub pending: Option<Intent>,
    /// The last validation.
    pub validation: Option<ValidationRecord>,
    /// The damage that validations found and that stands, by snapshot.
    pub damage: Vec<StandingDamage>,
    /// The last drill.
    pub drill: Option<Drill>,
    /// Whether there is room for the next snapshot, and for a restore, a file system each.
    pub room: Vec<SpaceNeed>,
    /// Damaged packs that were set aside.
    pub damaged: Aside,
}

/// A snapshot and what is known of it.
#[derive(Debug, Clone, PartialEq)]
pub struct KnownSnapshot {
    /// Its name.
    pub stamp: Stamp,
    /// Its manifest, or what is wrong with that.
    pub manifest: ManifestResult,
    /// What was found wrong with it, in the words of `validate`.
    pub errors: Vec<String>,
}

impl KnownSnapshot {
    /// Whether nothing is known that is wrong with it.
    pub fn is_sound(&self) -> bool {
        self.errors.is_empty()
    }

    fn source(&self, name: &str) -> Option<&SourceRecord> {
        self.manifest.as_ref().ok()?.source(name).filter(|source| source.is_captured())
    }
}

/// What room is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpaceUse {
    /// The next snapshot, in the repository.
    Snapshot,
    /// A restore of the last snapshots, in place.
    Restore,
}

/// The room on one file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpaceNeed {
    /// What it is for.
    pub purpose: SpaceUse,
    /// A path on it.
    pub path: PathBuf,
    /// Bytes that are free.
    pub free: u64,
    /// Bytes that are needed if nothing is stored or there yet: at most.
    pub needed_at_most: u64,
}

/// Finds out how things stand with the repository at `root` at this moment; `live` are the sources, where they are
/// named.
///
/// # Errors
/// [`Error::Damaged`](crate::Error::Damaged) for a repository of an unknown version, or an intent that cannot be
/// understood; I/O errors.
pub fn status(root: &Path, live: Option<&LiveSources>, now: DateTime<Utc>) -> Result<Status> {
    let storage = LocalStorage::new(root, None);
    let exists = repository::exists(&storage)?;
    let mut status = Status { exists, ..Status::default() };
    if !exists {
        return Ok(status);
    }
    status.pending = intents::pending_in(&storage)?;
    let validations: Vec<ValidationRecord> = readable(outcomes::latest(&storage, layout::VALIDATIONS))?;
    status.validation = validations.last().cloned();
    status.damage = damage::standing(validations);
    status.damage.retain(|damage| damage.stamp.as_ref().is_none_or(|name| exists_still(&storage, name)));
    status.drill = readable(outcomes::last(&storage, layout::DRILLS))?;
    status.damaged = damaged::aside(&storage)?;
    find_snapshots(&mut status, &storage, now)?;
    status.room = room(root, &status, live)?;
    Ok(status)
}

/// Outcomes, as far as this user may read them: those that another user kept may be closed to others.
fn readable<T: Default>(outcomes: Result<T>) -> Result<T> {
    match outcomes {
        Err(cause) if outcomes::is_read_only(&cause) => {
            tracing::warn!(%cause, "what was kept of earlier outcomes cannot be read");
            Ok(T::default())
        }
        other => other,
    }
}

/// Whether a snapshot, or what somebody took for one, is still there; in doubt it is.
fn exists_still(storage: &dyn Storage, name: &str) -> bool {
    !snapshots::find(storage, name).is_ok_and(|found| found.is_none())
}

/// Goes back through the snapshots until the last ones are found.
fn find_snapshots(status: &mut Status, storage: &dyn Storage, now: DateTime<Utc>) -> Result<()> {
    let mut trails = Trails::new();
    for stamp in snapshots::stamps(storage)?.into_iter().rev() {
        if stamp.time() > now + CLOCK_SKEW {
            status.in_future += 1;
            continue;
        }
        let Some(snapshot) = look_at(status, storage, stamp)? else { continue };
        trails.take(&snapshot);
        if status.last.is_none() {
            status.last = Some(snapshot.clone());
        }
        if status.last_chroma.is_none() && snapshot.source(CHROMA).is_some() {
            status.last_chroma = Some(snapshot.clone());
        }
        if status.last_sound.is_none() && snapshot.is_sound() {
            status.last_sound = Some(snapshot);
        }
        if status.last_sound.is_some() && status.last_chroma.is_some() && trails.are_complete() {
            break;
        }
    }
    status.left_out = trails.left_out();
    Ok(())
}

/// What is known of a snapshot; `None` for one that a restore took for itself, and for a full copy of the earlier tool.
fn look_at(status: &Status, storage: &dyn Storage, stamp: Stamp) -> Result<Option<KnownSnapshot>> {
    let manifest = snapshots::peek_manifest(storage, stamp)?;
    let mut errors = match &manifest {
        Ok(manifest) if manifest.kind == SnapshotKind::PreRestore => return Ok(None),
        Ok(manifest) => report::capture_errors(manifest),
        Err(_) if !snapshots::is_ours(storage, stamp)? => return Ok(None),
        Err(fault) => vec![fault.to_string()],
    };
    let name = stamp.to_string();
    let metadata = snapshots::metadata_in(storage, &name)?;
    errors.extend(metadata.fault());
    let told: Vec<_> = metadata.validation_errors().filter(|told| !errors.iter().any(|known| known == told)).collect();
    errors.extend(told.into_iter().map(str::to_owned));
    for found in status.damage.iter().filter(|found| found.stamp.as_ref() == Some(&name)) {
        errors.push(format!("validate found at {}: {}", found.at, found.errors.join(", ")));
    }
    if let Some(last) = status.drill.as_ref().filter(|last| last.stamp == name && !last.ok) {
        errors.push(format!("drill found at {}: {}", last.at, last.errors.join(", ")));
    }
    Ok(Some(KnownSnapshot { stamp, manifest, errors }))
}

/// The newest record of each source, and where the source is.
struct Wanted<'a> {
    record: &'a SourceRecord,
    path: PathBuf,
}

fn wanted<'a>(status: &'a Status, live: Option<&LiveSources>) -> Vec<Wanted<'a>> {
    let snapshots = [&status.last, &status.last_sound, &status.last_chroma];
    let newest = |name: &str| snapshots.iter().find_map(|snapshot| snapshot.as_ref()?.source(name));
    let place = |name: &str| match (live, name) {
        (Some(live), DB) => Some(live.db.clone()),
        (Some(live), REGISTRY) => Some(live.registry.clone()),
        (Some(live), CHROMA) => live.chroma.clone(),
        _ => None,
    };
    let wanted = [DB, REGISTRY, CHROMA].into_iter().filter_map(|name| {
        let record = newest(name)?;
        let path = place(name).unwrap_or_else(|| Path::new(OsStr::from_bytes(&record.path)).to_path_buf());
        Some(Wanted { record, path })
    });
    wanted.collect()
}

fn room(root: &Path, status: &Status, live: Option<&LiveSources>) -> Result<Vec<SpaceNeed>> {
    let wanted = wanted(status, live);
    let captured = bytes_of(wanted.iter().map(|source| source.record));
    // The largest database is copied beside the packs before it is stored.
    let image = wanted.iter().map(largest_database).collect::<Result<Vec<_>>>()?.into_iter().max().unwrap_or(0);
    let free = space::available(root)?;
    let needed_at_most = captured.saturating_add(image);
    let mut rooms = vec![SpaceNeed { purpose: SpaceUse::Snapshot, path: root.to_path_buf(), free, needed_at_most }];
    let mut devices: Vec<u64> = Vec::new();
    for source in &wanted {
        let there = source.path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
        let device = stat::stat(there)?.map_or(0, |stat| stat.device);
        let needed = source.record.bytes.saturating_sub(size_of(&source.path)?);
        match devices.iter().position(|known| *known == device).and_then(|at| rooms.get_mut(at + 1)) {
            Some(room) => room.needed_at_most = room.needed_at_most.saturating_add(needed),
            None => {
                devices.push(device);
                let free = space::available(there)?;
                let path = source.path.clone();
                rooms.push(SpaceNeed { purpose: SpaceUse::Restore, path, free, needed_at_most: needed });
            }
        }
    }
    Ok(rooms)
}

fn largest_database(source: &Wanted<'_>) -> Result<u64> {
    match source.record.name.as_str() {
        DB => Ok(source.record.bytes),
        CHROMA => Ok(stat::stat(&source.path.join(CHROMA_DATABASE))?.map_or(0, |stat| stat.size)),
        _ => Ok(0),
    }
}

/// Bytes of a file, or of all files below a directory; what cannot be looked at counts as nothing.
fn size_of(path: &Path) -> Result<u64> {
    match stat::stat(path)? {
        Some(stat) if stat.kind == FileKind::Directory => {
            let files = walkdir::WalkDir::new(path).into_iter().filter_map(|entry| entry.ok()?.metadata().ok());
            Ok(files.filter(|file| file.is_file()).map(|file| file.len()).sum())
        }
        Some(stat) => Ok(stat.size),
        None => Ok(0),
    }
}
