//! Which snapshots stay and which go: what the rules say, and what they must not say.
//!
//! Invariants: one snapshot with a sound database stays, and under the default rules, for some days, what `restore
//! --undo` would put back; what nobody can know the needs of stays, and shadows no other one.

use chrono::{TimeDelta, Utc};

use crate::error::Result;
use crate::format::manifest::{CHROMA, DB, Manifest, REGISTRY, SourceRecord};
use crate::id::Stamp;
use crate::restore;
use crate::store::{Repository, SnapshotFormat, snapshots};
use crate::upkeep::retention::{self, Rules};
use crate::upkeep::status::CLOCK_SKEW;

/// For so long the way back of the last restore stays, counted up to the newest snapshot that is not in the future.
const WAY_BACK_STAYS: TimeDelta = TimeDelta::days(7);

/// What an operator should know of what goes and what stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CleanupWarning {
    /// No rule keeps this snapshot, but it is the newest with a sound database and none that the rules keep has one.
    KeptForItsDatabase(Stamp),
    /// This snapshot goes, and none that stays holds Chroma.
    LastWithChroma(Stamp),
    /// The same of the registry.
    LastWithRegistry(Stamp),
    /// The rules count this snapshot as newer than those of today.
    InFuture(Stamp),
}

impl CleanupWarning {
    pub(super) fn tell(&self) {
        match self {
            Self::KeptForItsDatabase(stamp) => {
                tracing::warn!(snapshot = %stamp, "this snapshot stays although no rule keeps it: it is the newest with a sound database, and none that the rules keep has one");
            }
            Self::LastWithChroma(stamp) => {
                tracing::warn!(snapshot = %stamp, "this is the last snapshot that holds Chroma, and the rules do not keep it; take another with `vecsnap create --chroma`");
            }
            Self::LastWithRegistry(stamp) => {
                tracing::warn!(snapshot = %stamp, "this is the last snapshot that holds the registry, and the rules do not keep it; check the path of the registry");
            }
            Self::InFuture(stamp) => {
                tracing::warn!(snapshot = %stamp, "this snapshot is dated in the future and counts as the newest; check the clock, and remove its directory if it is in the way");
            }
        }
    }
}

/// Which snapshots stay and which go.
#[derive(Default)]
pub(super) struct Decision {
    /// The manifests that stay, those in directories of other names included.
    pub(super) keep: Vec<Manifest>,
    pub(super) drop: Vec<Stamp>,
    /// Names that are no stamps.
    pub(super) unparseable: Vec<String>,
    /// Snapshots of which it cannot be known what they need, each with the cause. They stay, and shadow no other one.
    pub(super) unreadable: Vec<String>,
    pub(super) warnings: Vec<CleanupWarning>,
}

/// Decides over all snapshots.
///
/// # Errors
/// I/O errors.
pub(super) fn decide(repository: &Repository, rules: &Rules) -> Result<Decision> {
    let mut readable = Vec::new();
    let mut decision = Decision::default();
    for listing in snapshots::list(repository.storage())? {
        match (listing.stamp(), listing.format) {
            (None, _) => decision.unparseable.push(listing.name),
            (Some(_), SnapshotFormat::FullCopy | SnapshotFormat::Unknown) => {}
            (Some(stamp), SnapshotFormat::Vecsnap) => match snapshots::read_manifest(repository, stamp)? {
                Ok(manifest) => readable.push(manifest),
                Err(fault) => decision.unreadable.push(unknowable(&stamp.to_string(), &fault.to_string())),
            },
        }
    }
    let stamps = readable.iter().filter_map(Manifest::stamp);
    decision.drop = retention::decide(stamps, rules).drop;
    if let Some(last) = last_sound_that_would_go(&readable, &decision.drop) {
        decision.warnings.push(CleanupWarning::KeptForItsDatabase(last));
        decision.drop.retain(|stamp| *stamp != last);
    }
    // Rules that an operator gave mean what they say.
    let ways_back = if *rules == Rules::default() { restore::ways_back(repository, &readable)? } else { Vec::new() };
    for way_back in ways_back {
        if decision.drop.contains(&way_back) && is_recent(way_back, &readable) {
            tracing::info!(snapshot = %way_back, "this snapshot stays although no rule keeps it: it is the way back of a restore");
            decision.drop.retain(|stamp| *stamp != way_back);
        }
    }
    let (drop, keep): (Vec<_>, Vec<_>) =
        readable.into_iter().partition(|manifest| manifest.stamp().is_some_and(|stamp| decision.drop.contains(&stamp)));
    decision.warnings.extend(last_that_goes(CHROMA, &keep, &drop).map(CleanupWarning::LastWithChroma));
    decision.warnings.extend(last_that_goes(REGISTRY, &keep, &drop).map(CleanupWarning::LastWithRegistry));
    let now = Utc::now();
    let in_future = keep.iter().filter_map(Manifest::stamp).filter(|stamp| stamp.time() > now + CLOCK_SKEW);
    decision.warnings.extend(in_future.map(CleanupWarning::InFuture));
    decision.keep = keep;
    Ok(decision)
}

/// The newest snapshot with a sound database, if it and all others that have one would go: what a restore kept of a
/// damaged or wiped machine is newer than what it restored, and must not be all that is left.
fn last_sound_that_would_go(manifests: &[Manifest], drop: &[Stamp]) -> Option<Stamp> {
    let is_sound = |manifest: &&Manifest| manifest.source(DB).is_some_and(SourceRecord::is_sound);
    let last = manifests.iter().filter(is_sound).filter_map(Manifest::stamp).max()?;
    let goes = |manifest: &Manifest| manifest.stamp().is_some_and(|stamp| drop.contains(&stamp));
    manifests.iter().filter(is_sound).all(goes).then_some(last)
}

/// Why nothing is deleted because of a snapshot.
pub(super) fn unknowable(name: &str, cause: &str) -> String {
    format!(
        "{name}: {cause}; as long as it is not known what this snapshot needs, nothing is deleted: \
         put it back from a copy of the repository, or remove its directory if it is beyond repair"
    )
}

/// Whether the way back of a restore is young enough to be wanted.
fn is_recent(way_back: Stamp, manifests: &[Manifest]) -> bool {
    let now = Utc::now() + CLOCK_SKEW;
    let newest = manifests.iter().filter_map(Manifest::stamp).filter(|stamp| stamp.time() <= now).max();
    newest.is_none_or(|newest| newest.time().signed_duration_since(way_back.time()) <= WAY_BACK_STAYS)
}

/// The newest snapshot that holds a source, if it goes and none that holds it stays.
fn last_that_goes(source: &str, keep: &[Manifest], drop: &[Manifest]) -> Option<Stamp> {
    let holds = |manifest: &&Manifest| manifest.source(source).is_some_and(SourceRecord::is_captured);
    if keep.iter().any(|manifest| holds(&manifest)) {
        return None;
    }
    drop.iter().rev().find(holds).and_then(Manifest::stamp)
}
