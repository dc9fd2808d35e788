//! What a repository costs, by snapshot and by source, and what a cleanup would give back.
//!
//! Bytes are divided as packs store them: a blob costs its part of its frame and of its pack's footer, and counts once
//! however many snapshots need it. A snapshot needs what it reaches and the bases of that. Invariants: nothing in the
//! repository changes, so one that cannot be written has statistics too; what the snapshots added sums up to what all
//! of them need; contents are not read, only footers, tables and list nodes. Memory is bounded: see `ledger`.

mod reach;

use std::path::Path;

use super::ledger::{Direction, Ledger, Needer};
use crate::disk::{LocalStorage, Storage};
use crate::error::Result;
use crate::format::manifest::{Manifest, SnapshotKind, SourceRecord, bytes_of};
use crate::id::Stamp;
use crate::progress::{Phase, Progress};
use crate::store::{Access, BlobReader, LockWait, Repository, SnapshotFormat, layout, packs, snapshots};

use reach::Walk;

/// What is known of a repository; all zeros where there is none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Statistics {
    /// The readable snapshots, oldest first.
    pub snapshots: Vec<SnapshotShare>,
    /// Their sources, in the order in which they first occurred.
    pub sources: Vec<SourceShare>,
    /// Full copies by the tool that vecsnap replaced; nothing else here counts them.
    pub full_copies: u64,
    /// Packs.
    pub packs: u64,
    /// Bytes of packs and of the files in snapshots' directories.
    pub stored_bytes: u64,
    /// Bytes in packs that snapshots need.
    pub needed_bytes: u64,
    /// The blobs that snapshots need.
    pub chains: Chains,
    /// Snapshots, packs and files that cannot be read and are left out, each with the cause.
    pub errors: Vec<String>,
}

/// One snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotShare {
    /// Its name.
    pub stamp: Stamp,
    /// Why it was taken.
    pub kind: SnapshotKind,
    /// Bytes of the files it holds, as a full copy would take them.
    pub logical_bytes: u64,
    /// Bytes in packs that it needs and no older snapshot that is still there does.
    pub added_bytes: u64,
    /// Bytes in packs that no other snapshot needs.
    pub only_bytes: u64,
}

/// One source over all snapshots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceShare {
    /// Its name.
    pub name: String,
    /// Snapshots that hold it.
    pub snapshots: u64,
    /// Bytes of its files, all snapshots together.
    pub logical_bytes: u64,
    /// Bytes in packs that it needs; what it shares with another source counts for the one that had it first.
    pub stored_bytes: u64,
}

/// How the needed blobs are stored.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Chains {
    /// Distinct blobs by the depth of their chains, ascending; depth 0 are whole records.
    pub depths: Vec<ChainDepth>,
    /// Blobs that no readable pack leads to.
    pub lost: u64,
}

/// The blobs whose chains have one depth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChainDepth {
    /// Deltas on the longest way to a whole record.
    pub depth: u32,
    /// How many blobs.
    pub blobs: u64,
    /// Their bytes in packs, without those of their bases.
    pub stored_bytes: u64,
}

impl Statistics {
    /// Bytes that full copies of all snapshots would take.
    pub fn logical_bytes(&self) -> u64 {
        self.snapshots.iter().map(|snapshot| snapshot.logical_bytes).fold(0, u64::saturating_add)
    }
}

/// Gathers the statistics of the repository at `root`.
///
/// # Errors
/// [`Error::Busy`](crate::Error::Busy) while a cleanup deletes; I/O errors. What is damaged is in the result.
pub fn statistics(root: &Path, wait: LockWait, progress: &dyn Progress) -> Result<Statistics> {
    let mut statistics = Statistics::default();
    let Some(repository) = Repository::open(root, Access::Read, wait)? else {
        statistics.full_copies = count_full_copies(&LocalStorage::new(root, None))?;
        return Ok(statistics);
    };
    let manifests = take_snapshots(&repository, &mut statistics)?;
    let mut ledger = take_packs(&repository, &mut statistics, progress)?;
    progress.phase(Phase::Marking, None);
    for direction in [Direction::FromOldest, Direction::FromNewest] {
        ledger.together(|ledger| reach_all(&repository, ledger, direction, &manifests, &mut statistics, progress))?;
    }
    ledger.share_chains()?;
    settle(&ledger, &mut statistics)?;
    Ok(statistics)
}

fn count_full_copies(storage: &dyn Storage) -> Result<u64> {
    let listings = snapshots::list(storage)?;
    Ok(listings.iter().filter(|listing| listing.format == SnapshotFormat::FullCopy).count() as u64)
}

/// Reads the manifests, oldest first.
fn take_snapshots(repository: &Repository, statistics: &mut Statistics) -> Result<Vec<Manifest>> {
    let storage = repository.storage();
    let mut manifests = Vec::new();
    for listing in snapshots::list(storage)? {
        let Some(stamp) = listing.stamp().filter(|_| listing.format == SnapshotFormat::Vecsnap) else {
            statistics.full_copies += u64::from(listing.format == SnapshotFormat::FullCopy);
            continue;
        };
        let files = storage.list(&format!("{}/{}", layout::SNAPSHOTS, listing.name))?;
        statistics.stored_bytes += files.iter().map(|file| file.size).sum::<u64>();
        match snapshots::read_manifest(repository, stamp)? {
            Ok(manifest) => {
                statistics.snapshots.push(SnapshotShare {
                    stamp,
                    kind: manifest.kind,
                    logical_bytes: bytes_of(&manifest.sources),
                    added_bytes: 0,
                    only_bytes: 0,
                });
                manifests.push(manifest);
            }
            Err(fault) => statistics.errors.push(format!("{stamp}: {fault}")),
        }
    }
    Ok(manifests)
}

/// Reads the footers of all packs.
fn take_packs(repository: &Repository, statistics: &mut Statistics, progress: &dyn Progress) -> Result<Ledger> {
    let mut ledger = Ledger::new()?;
    for pack in packs::list(repository.storage())? {
        statistics.packs += 1;
        statistics.stored_bytes += pack.size;
        let unreadable = ledger.take(repository, &pack, progress)?;
        statistics.errors.extend(unreadable.map(|error| error.to_string()));
    }
    ledger.resolve_chains()?;
    Ok(ledger)
}

/// Walks all snapshots in one direction.
fn reach_all(
    repository: &Repository,
    ledger: &Ledger,
    direction: Direction,
    manifests: &[Manifest],
    statistics: &mut Statistics,
    progress: &dyn Progress,
) -> Result<()> {
    ledger.turn()?;
    let mut walk = Walk { ledger, reader: BlobReader::new(repository), direction, progress };
    let count = manifests.len();
    for step in 0..count {
        let snapshot = if direction == Direction::FromOldest { step } else { count - 1 - step };
        let Some(manifest) = manifests.get(snapshot) else { continue };
        for record in manifest.sources.iter().filter(|source| source.is_captured()) {
            let source = source_number(record, direction, &mut statistics.sources);
            let faults = walk.source(record, Needer { snapshot: snapshot as u32, source: source as u32 })?;
            if direction == Direction::FromOldest {
                let stamp = manifest.stamp().map(|stamp| stamp.to_string()).unwrap_or_default();
                statistics.errors.extend(faults.into_iter().map(|fault| format!("{stamp}: {fault}")));
            }
        }
    }
    Ok(())
}

/// The number of a source by its name; on the first way its snapshots and bytes are counted.
fn source_number(record: &SourceRecord, direction: Direction, sources: &mut Vec<SourceShare>) -> usize {
    let number = sources.iter().position(|source| source.name == record.name).unwrap_or_else(|| {
        sources.push(SourceShare { name: record.name.clone(), snapshots: 0, logical_bytes: 0, stored_bytes: 0 });
        sources.len() - 1
    });
    if let (Some(source), Direction::FromOldest) = (sources.get_mut(number), direction) {
        source.snapshots += 1;
        source.logical_bytes += record.bytes;
    }
    number
}

/// Takes over what the ledger says in the end.
fn settle(ledger: &Ledger, statistics: &mut Statistics) -> Result<()> {
    for share in ledger.of_snapshots()? {
        statistics.needed_bytes += share.added;
        if let Some(snapshot) = statistics.snapshots.get_mut(share.number as usize) {
            snapshot.added_bytes = share.added;
            snapshot.only_bytes = share.only;
        }
    }
    for share in ledger.of_sources()? {
        if let Some(source) = statistics.sources.get_mut(share.number as usize) {
            source.stored_bytes = share.added;
        }
    }
    let depths = ledger.depths()?.into_iter();
    let depths = depths.map(|row| ChainDepth { depth: row.depth, blobs: row.blobs, stored_bytes: row.stored });
    statistics.chains = Chains { depths: depths.collect(), lost: ledger.lost()? };
    if statistics.chains.lost > 0 {
        let lost = statistics.chains.lost;
        statistics.errors.push(format!(
            "{lost} blobs that snapshots need are in no readable pack; `vecsnap validate` names the files"
        ));
    }
    Ok(())
}
