//! Sources that the newest snapshots lack although they asked for them.
//!
//! That the directory of a disk that is not mounted is empty, or not there, is no error of a create: it captures what
//! there is. But retention will let the last snapshots go that hold more, so somebody must be told. Invariant: what was
//! never asked for, or never there, is not missed.

use crate::format::manifest::{CHROMA, DB, REGISTRY, SourceState};
use crate::id::Stamp;

use super::KnownSnapshot;

/// Why a snapshot lacks a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Absence {
    /// It could not be captured in one piece.
    Changing,
    /// It was not there.
    Missing,
    /// It had no bytes.
    Empty,
}

/// A source that the newest snapshot that asked for it lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// The source.
    pub source: &'static str,
    /// That snapshot.
    pub stamp: Stamp,
    /// Why.
    pub absence: Absence,
    /// The newest snapshot that holds bytes of it.
    pub holder: Option<Stamp>,
}

/// What going back through the snapshots, the newest first, found of one source.
#[derive(Debug, Clone, Copy)]
struct Trail {
    source: &'static str,
    lacked: Option<(Stamp, Absence)>,
    holder: Option<Stamp>,
}

/// What it found of all of them.
#[derive(Debug)]
pub(super) struct Trails([Trail; 3]);

impl Trails {
    pub(super) fn new() -> Self {
        Self([DB, REGISTRY, CHROMA].map(|source| Trail { source, lacked: None, holder: None }))
    }

    /// Takes the next snapshot.
    pub(super) fn take(&mut self, snapshot: &KnownSnapshot) {
        for trail in self.0.iter_mut().filter(|trail| trail.holder.is_none()) {
            let record = snapshot.manifest.as_ref().ok().and_then(|manifest| manifest.source(trail.source));
            let absence = match record.map(|record| (record.state, record.bytes)) {
                None | Some((SourceState::NotRequested, _)) => continue,
                Some((SourceState::Changing, _)) => Absence::Changing,
                Some((SourceState::Absent, _)) => Absence::Missing,
                Some((SourceState::Captured | SourceState::CapturedRaw, 0)) => Absence::Empty,
                Some((SourceState::Captured | SourceState::CapturedRaw, _)) => {
                    trail.holder = Some(snapshot.stamp);
                    continue;
                }
            };
            trail.lacked.get_or_insert((snapshot.stamp, absence));
        }
    }

    /// Whether older snapshots can tell no more.
    pub(super) fn are_complete(&self) -> bool {
        self.0.iter().all(|trail| trail.holder.is_some())
    }

    /// What the newest snapshots lack.
    pub(super) fn left_out(&self) -> Vec<LeftOut> {
        let left_out = |Trail { source, lacked, holder }: &Trail| {
            let (stamp, absence) = (*lacked)?;
            let is_missed = holder.is_some() || absence == Absence::Changing;
            is_missed.then_some(LeftOut { source, stamp, absence, holder: *holder })
        };
        self.0.iter().filter_map(left_out).collect()
    }
}
