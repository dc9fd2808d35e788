//! Repair: what damage took from the repository is put back from wherever it can still be had.
//!
//! The story: every pack is held against its name; what can still be read of damaged packs is stored in new ones; every
//! blob that a snapshot reaches is read, and lost ones are looked for in the live sources, until that brings no more;
//! what then is still lost is named; damaged packs go to `damaged/`. Invariants: no snapshot and no readable blob is
//! ever removed; nothing that is stored was not hashed; a repair that is interrupted leaves at worst packs with second
//! copies, and the next one goes on from there. Without confirmation only temporary files and the index are written. A
//! restore under way does not stand in the way: it may be what the repair is for.

mod salvage;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::validate::Validation;
use super::validate::all::{FoundSnapshots, judge, survey};
use crate::error::{Error, Result};
use crate::progress::{Phase, Progress};
use crate::restore::verify::{Depth, FileRange, VerifyOptions};
use crate::save::LiveSources;
use crate::save::retake::retake;
use crate::store::damaged::{self, Aside, Condition};
use crate::store::index::Index;
use crate::store::packs::{self, PackFile};
use crate::store::repository::is_writable;
use crate::store::verdicts::Recheck;
use crate::store::wanted::{OnFound, WantedBlobs};
use crate::store::{Access, LockWait, Repository, layout};

/// Looks at the live sources at most: a list node that comes back may name further blobs that are lost.
const MOST_ROUNDS: u32 = 8;
const THOROUGH: VerifyOptions = VerifyOptions { depth: Depth::Full, recheck: Recheck::IfUnknown };

/// Whether anything is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RepairMode {
    /// It is only told what would be.
    DryRun,
    /// It is.
    Confirmed,
}

/// What was found of the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IndexState {
    /// It says what the packs hold, no less and no more.
    Sound,
    /// It did not, and was built anew from the packs.
    Rebuilt,
    /// It was not looked at, since the repository cannot be written; what packs hold was taken from themselves.
    Unread,
}

/// A pack that does not hold what its name says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DamagedPack {
    /// Where it stood.
    pub path: PathBuf,
    /// What is wrong with it.
    pub cause: String,
    /// Where it is now, if it was moved.
    pub moved_to: Option<PathBuf>,
}

/// What a repair did, or would do.
#[derive(Debug, Clone, PartialEq)]
pub struct RepairReport {
    /// Whether it changed anything.
    pub mode: RepairMode,
    /// The index.
    pub index: IndexState,
    /// Packs that were read.
    pub packs: u64,
    /// Those that are damaged.
    pub damaged_packs: Vec<DamagedPack>,
    /// Blobs that could be read from damaged packs alone, which were or would be stored in new ones.
    pub saved_blobs: u64,
    /// Blobs that no pack gave any more when the repair began: those that snapshots need, and what they are built on.
    pub lost_blobs: u64,
    /// Blobs of those that the live sources gave, or would.
    pub retaken_blobs: u64,
    /// Why live sources could not be read.
    pub unread_sources: Vec<String>,
    /// Bytes of the packs that were written.
    pub stored_bytes: u64,
    /// The snapshots as they are now, oldest first.
    pub snapshots: Vec<Validation>,
    /// What `damaged/` holds now.
    pub aside: Aside,
}

impl RepairReport {
    /// The snapshots that are not valid now.
    pub fn invalid(&self) -> impl Iterator<Item = &Validation> {
        self.snapshots.iter().filter(|snapshot| !snapshot.is_valid())
    }

    /// Whether damaged packs still stand where readers find them.
    pub fn is_pack_left(&self) -> bool {
        self.damaged_packs.iter().any(|pack| pack.moved_to.is_none())
    }
}

/// The bytes that a snapshot lost, by file; those that its errors leave out are left out here too.
pub fn lost_ranges(snapshot: &Validation) -> Vec<&FileRange> {
    let sources = snapshot.sources.iter().flat_map(|verification| &verification.sources);
    sources.flat_map(|source| &source.findings).filter_map(|finding| finding.lost_range()).collect()
}

/// Repairs the repository at `root` with the help of the live sources, if they are named; `None` if there is no
/// repository.
///
/// # Errors
/// [`Error::Busy`] while others use the repository or a cleanup runs; I/O errors; an interruption.
/// What cannot be saved is in the report.
pub fn repair(
    root: &Path,
    sources: Option<&LiveSources>,
    mode: RepairMode,
    wait: LockWait,
    progress: &dyn Progress,
) -> Result<Option<RepairReport>> {
    let Some((mut repository, index)) = open(root, mode, wait)? else { return Ok(None) };
    let _alone = if mode == RepairMode::Confirmed { Some(repository.lock_cleanup()?) } else { None };
    let examined = examine(&repository, progress)?;
    let mut report = RepairReport {
        mode,
        index,
        packs: examined.packs,
        damaged_packs: examined.damaged.iter().map(|found| found.told(&repository)).collect(),
        saved_blobs: 0,
        lost_blobs: 0,
        retaken_blobs: 0,
        unread_sources: Vec::new(),
        stored_bytes: 0,
        snapshots: Vec::new(),
        aside: Aside::default(),
    };
    refill(&repository, &examined, sources, &mut report, progress)?;
    if mode == RepairMode::Confirmed && !examined.damaged.is_empty() {
        report.damaged_packs = move_aside(&mut repository, &examined, progress)?;
    }
    report.aside = damaged::aside(repository.storage())?;
    tracing::info!(
        event = "repository_repaired",
        dry_run = mode == RepairMode::DryRun,
        damaged_packs = report.damaged_packs.len(),
        saved_blobs = report.saved_blobs,
        retaken_blobs = report.retaken_blobs,
        invalid = report.invalid().count(),
        "repair is done"
    );
    Ok(Some(report))
}

/// Opens the repository and looks whether its index says what the packs hold; if not, it is built anew. The index is
/// derived, so that needs no confirmation: every command begins a damaged one anew. A dry run makes do with a
/// repository that can only be read.
fn open(root: &Path, mode: RepairMode, wait: LockWait) -> Result<Option<(Repository, IndexState)>> {
    if mode == RepairMode::DryRun && !is_writable(root) {
        let repository = Repository::open(root, Access::Read, wait)?;
        return Ok(repository.map(|repository| (repository, IndexState::Unread)));
    }
    let Some(repository) = Repository::open(root, Access::Write, wait)? else { return Ok(None) };
    if is_index_true(&repository)? {
        return Ok(Some((repository, IndexState::Sound)));
    }
    tracing::warn!("the index does not say what the packs hold");
    drop(repository);
    Index::remove(&root.join(layout::INDEX))?;
    Ok(Repository::open(root, Access::Write, wait)?.map(|repository| (repository, IndexState::Rebuilt)))
}

/// Whether the index says of every pack whose footer can be read what the footer says.
fn is_index_true(repository: &Repository) -> Result<bool> {
    let index = repository.index();
    let compare = || -> Result<bool> {
        let rows = index.rows()?;
        for pack in packs::list(repository.storage())? {
            let Ok(footer) = packs::read_footer(repository.storage(), repository.header(), &pack) else { continue };
            if !index.agrees(&pack, &footer, &rows)? {
                return Ok(false);
            }
        }
        Ok(true)
    };
    match compare() {
        Err(cause @ (Error::Sqlite { .. } | Error::Failed(_))) => {
            tracing::warn!(%cause, "the index cannot be read");
            Ok(false)
        }
        compared => compared,
    }
}

/// All packs, held against their names.
struct Examined {
    packs: u64,
    damaged: Vec<FoundDamaged>,
}

struct FoundDamaged {
    pack: PackFile,
    cause: String,
}

impl FoundDamaged {
    fn told(&self, repository: &Repository) -> DamagedPack {
        let path = packs::path(repository.storage(), &self.pack.id);
        DamagedPack { path, cause: self.cause.clone(), moved_to: None }
    }
}

fn examine(repository: &Repository, progress: &dyn Progress) -> Result<Examined> {
    let all = packs::list(repository.storage())?;
    progress.phase(Phase::Verifying, Some(all.iter().map(|pack| pack.size).sum()));
    let mut examined = Examined { packs: all.len() as u64, damaged: Vec::new() };
    for pack in all {
        match damaged::examine(repository.storage(), &pack.id, progress)? {
            Condition::Damaged(cause) => examined.damaged.push(FoundDamaged { pack, cause }),
            Condition::Sound | Condition::Missing => {}
        }
    }
    Ok(examined)
}

/// Moves damaged packs to `damaged/`, of which everything readable is stored elsewhere. Nobody else may read meanwhile.
fn move_aside(repository: &mut Repository, examined: &Examined, progress: &dyn Progress) -> Result<Vec<DamagedPack>> {
    repository.lock_exclusively()?;
    let mut moved = Vec::with_capacity(examined.damaged.len());
    let mut ids = Vec::with_capacity(examined.damaged.len());
    for found in &examined.damaged {
        // Somebody may have put it back, or published its like.
        if let Condition::Damaged(_) = damaged::examine(repository.storage(), &found.pack.id, progress)? {
            let name = damaged::move_aside(repository.storage(), &found.pack.id)?;
            moved.push(DamagedPack { moved_to: Some(repository.root().join(name)), ..found.told(repository) });
            ids.push(found.pack.id);
        }
    }
    if let Err(cause) = repository.index().forget(&ids) {
        tracing::debug!(%cause, "rows of moved packs stay in the index and are passed over");
    }
    // What other packs build on them is not stored any more.
    repository.distrust_lost_bases()?;
    Ok(moved)
}

/// Saves what damaged packs still give, reads all that snapshots reach, and looks for lost blobs in the live sources,
/// until that brings no more: a blob that comes back may be what others in damaged packs are built on.
fn refill(
    repository: &Repository,
    examined: &Examined,
    sources: Option<&LiveSources>,
    report: &mut RepairReport,
    progress: &dyn Progress,
) -> Result<()> {
    let on_found = if report.mode == RepairMode::Confirmed { OnFound::Store } else { OnFound::Count };
    for round in 1.. {
        if !examined.damaged.is_empty() {
            let saved = salvage::salvage(repository, examined, report.mode, progress)?;
            report.saved_blobs += saved.blobs;
            report.stored_bytes += saved.stored_bytes;
        }
        let found = FoundSnapshots::of(repository)?;
        let mut losses = survey(repository, &found, THOROUGH, None, progress)?;
        let wanted = Arc::new(WantedBlobs::new(on_found)?);
        losses.each(|blob| wanted.add(&blob))?;
        // What earlier rounds stored is not lost any more.
        report.lost_blobs = report.retaken_blobs + wanted.count()?;
        if let Some(sources) = sources.filter(|_| wanted.count().is_ok_and(|lost| lost > 0)) {
            if repository.scratch().is_err() {
                report.unread_sources = vec![no_room_for_copies(repository)];
                report.snapshots = judge(repository, &found, &mut losses, progress)?;
                return Ok(());
            }
            let retaken = retake(repository, sources, &wanted, progress)?;
            report.retaken_blobs += wanted.found()?;
            report.stored_bytes += retaken.stored_bytes;
            report.unread_sources = retaken.unread_sources;
        }
        if wanted.found()? == 0 || on_found == OnFound::Count || round == MOST_ROUNDS {
            report.snapshots = judge(repository, &found, &mut losses, progress)?;
            return Ok(());
        }
    }
    Ok(())
}

fn no_room_for_copies(repository: &Repository) -> String {
    format!(
        "the live sources were not searched for what is lost, since the repository {} cannot be written, \
         and they are copied there first; repeat the call as a user who may write it",
        repository.root().display()
    )
}
