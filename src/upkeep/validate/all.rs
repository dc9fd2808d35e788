//! Validating every snapshot at once: each blob is read once, however many snapshots need it.
//!
//! Invariant: without a sample, a snapshot is found valid exactly if validating it alone would find it so. A sample
//! reads all tables and list nodes and the drawn frames; what it finds lost is held against every snapshot, by the
//! packs' footers. Packs whose footers cannot be read are named even if no snapshot needs them. Old full copies are
//! counted.

use std::collections::BTreeSet;

use super::{Validation, look_at, manifest_of};
use crate::error::Result;
use crate::id::BlobPrefix;
use crate::progress::{Phase, Progress};
use crate::restore::verify::VerifyOptions;
use crate::restore::verify::census::{Census, CensusResult, Sample};
use crate::store::snapshots;
use crate::store::{Repository, SnapshotFormat, SnapshotListing, packs};
use crate::upkeep::impact::{self, HurtSnapshot};

/// Lost blobs of a sample that are held against every snapshot at most.
const MOST_LOST: usize = 65_536;

/// What is known of all snapshots.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AllValidation {
    /// Each snapshot, oldest first.
    pub snapshots: Vec<Validation>,
    /// Old full copies, which are not looked at.
    pub full_copies: u64,
    /// Packs whose footers cannot be read, each with the cause.
    pub damaged_packs: Vec<String>,
    /// Snapshots that need a blob that a sample found lost, whether or not they seemed valid by themselves.
    pub also_hurt: Vec<HurtSnapshot>,
    /// Distinct bytes of contents that were read, or looked up.
    pub read_bytes: u64,
}

impl AllValidation {
    /// How many snapshots are valid.
    pub fn valid(&self) -> usize {
        self.snapshots.iter().filter(|snapshot| snapshot.is_valid()).count()
    }

    /// The names of those that are not valid, or need what is lost.
    pub fn invalid(&self) -> Vec<String> {
        let invalid = self.snapshots.iter().filter(|snapshot| !snapshot.is_valid()).map(|snapshot| &snapshot.name);
        let names: BTreeSet<&String> = invalid.chain(self.also_hurt.iter().map(|hurt| &hurt.name)).collect();
        names.into_iter().cloned().collect()
    }

    /// Everything that is wrong, snapshots first.
    pub fn errors(&self) -> Vec<String> {
        let of_snapshots = self
            .snapshots
            .iter()
            .flat_map(|snapshot| snapshot.errors.iter().map(move |error| format!("{}: {error}", snapshot.name)));
        let hurt = self.also_hurt.iter().map(|hurt| format!("{}: it needs a blob that is lost", hurt.name));
        of_snapshots.chain(hurt).chain(self.damaged_packs.iter().cloned()).collect()
    }

    /// Whether every snapshot can be restored as it was captured, as far as was looked.
    pub fn is_valid(&self) -> bool {
        self.valid() == self.snapshots.len() && self.also_hurt.is_empty()
    }
}

/// Validates all snapshots of a repository; a sample reads only a part of their contents.
///
/// # Errors
/// What keeps the validation from running: I/O errors, an interruption.
pub fn validate_all(
    repository: &Repository,
    options: VerifyOptions,
    sample: Option<Sample>,
    progress: &dyn Progress,
) -> Result<AllValidation> {
    let found = FoundSnapshots::of(repository)?;
    let damaged_packs = damaged_packs(repository, progress)?;
    let mut losses = survey(repository, &found, options, sample, progress)?;
    let snapshots = judge(repository, &found, &mut losses, progress)?;
    let also_hurt = if sample.is_some() { hurt(repository, &losses, progress)? } else { Vec::new() };
    let (full_copies, read_bytes) = (found.full_copies, losses.bytes());
    Ok(AllValidation { snapshots, full_copies, damaged_packs, also_hurt, read_bytes })
}

/// The directories under `snapshots/`.
pub(in crate::upkeep) struct FoundSnapshots {
    /// Those that are snapshots, or were.
    listings: Vec<SnapshotListing>,
    full_copies: u64,
}

impl FoundSnapshots {
    pub(in crate::upkeep) fn of(repository: &Repository) -> Result<Self> {
        let mut found = Self { listings: Vec::new(), full_copies: 0 };
        for listing in snapshots::list(repository.storage())? {
            match (listing.format, listing.stamp()) {
                (SnapshotFormat::FullCopy, _) => found.full_copies += 1,
                (SnapshotFormat::Unknown, None) => {}
                (SnapshotFormat::Vecsnap, _) | (SnapshotFormat::Unknown, Some(_)) => found.listings.push(listing),
            }
        }
        Ok(found)
    }
}

/// Reads all that the snapshots reach, or a sample of it.
pub(in crate::upkeep) fn survey<'r>(
    repository: &'r Repository,
    found: &FoundSnapshots,
    options: VerifyOptions,
    sample: Option<Sample>,
    progress: &dyn Progress,
) -> Result<CensusResult<'r>> {
    progress.phase(Phase::Marking, None);
    let mut census = Census::begin(repository, sample)?;
    for listing in &found.listings {
        if let Ok(manifest) = manifest_of(listing, repository)? {
            census.add(&manifest, progress)?;
        }
    }
    census.read(options, progress)
}

/// What was found, snapshot by snapshot.
pub(in crate::upkeep) fn judge(
    repository: &Repository,
    found: &FoundSnapshots,
    losses: &mut CensusResult<'_>,
    progress: &dyn Progress,
) -> Result<Vec<Validation>> {
    let mut snapshots = Vec::with_capacity(found.listings.len());
    for listing in &found.listings {
        progress.check()?;
        let mut validation = Validation::of(listing.path.clone(), listing.name.clone());
        let mut judge = |manifest: &_| losses.judge(manifest, progress);
        look_at(listing, Some(repository), &mut validation, &mut judge)?;
        snapshots.push(validation);
    }
    Ok(snapshots)
}

fn hurt(repository: &Repository, losses: &CensusResult<'_>, progress: &dyn Progress) -> Result<Vec<HurtSnapshot>> {
    let mut lost: Vec<BlobPrefix> = Vec::new();
    losses.each(|blob| {
        if lost.len() < MOST_LOST {
            lost.push(blob);
        }
        Ok(())
    })?;
    if lost.is_empty() { Ok(Vec::new()) } else { impact::all_hurt(repository, &lost, progress) }
}

fn damaged_packs(repository: &Repository, progress: &dyn Progress) -> Result<Vec<String>> {
    let mut damaged = Vec::new();
    for pack in packs::list(repository.storage())? {
        progress.check()?;
        match packs::read_footer(repository.storage(), repository.header(), &pack) {
            Ok(_) => {}
            Err(error) if error.is_of_one_file() => damaged.push(error.to_string()),
            Err(error) => return Err(error),
        }
    }
    Ok(damaged)
}
