//! Cleanup: old snapshots go, and the space that only they needed comes back.
//!
//! The protocol (docs/architecture.md): one cleanup at a time; the repository shared while it is found out what can go
//! and while what survives in mostly dead packs is stored elsewhere; the repository alone only for the deletions, after
//! a look at what others published meanwhile. Invariants: a snapshot's directory is gone durably before the first pack
//! is removed; where it cannot be known what a snapshot needs, nothing at all is deleted; a crash leaves at worst packs
//! that nobody needs, which the next cleanup finds. Full copies of the earlier tool and directories of other names are
//! not touched.

mod decision;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::gc::{Collection, Rewriting, StoredAnew, Swept};
use super::retention::Rules;
use crate::disk::durable;
use crate::disk::stat::FileKind;
use crate::disk::target::{TargetEntry, TargetRoot};
use crate::error::{Error, Result};
use crate::format::manifest::Manifest;
use crate::id::Stamp;
use crate::progress::Progress;
use crate::store::{Access, BlobReader, LockWait, Repository, SnapshotFormat, intents, layout, snapshots};
pub use decision::CleanupWarning;
use decision::{Decision, decide, unknowable};

/// Whether anything is deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CleanupMode {
    /// It is only told what would be.
    DryRun,
    /// It is.
    Delete,
}

/// What a cleanup did, or would do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CleanupReport {
    /// Whether it deleted.
    pub mode: CleanupMode,
    /// Snapshots that stay, full copies aside.
    pub kept: u64,
    /// Snapshots that went or would go, oldest first.
    pub deleted: Vec<Stamp>,
    /// Directories whose name is no stamp.
    pub unparseable: Vec<String>,
    /// What an operator should know of the decision.
    pub warnings: Vec<CleanupWarning>,
    /// What went wrong, each beginning with the snapshot or pack concerned.
    pub errors: Vec<String>,
    /// Bytes by which the repository shrank or would, its index not counted.
    pub freed_bytes: u64,
    /// Bytes of the packs that were written or would be, for what survives in packs that go.
    pub rewritten_bytes: u64,
    /// Bytes of these that are records on other bases than before, or whole, because a base goes.
    pub rebased_bytes: u64,
}

impl CleanupReport {
    fn empty(mode: CleanupMode) -> Self {
        Self {
            mode,
            kept: 0,
            deleted: Vec::new(),
            unparseable: Vec::new(),
            warnings: Vec::new(),
            errors: Vec::new(),
            freed_bytes: 0,
            rewritten_bytes: 0,
            rebased_bytes: 0,
        }
    }

    fn tell(&mut self, decision: &Decision) {
        self.kept = (decision.keep.len() + decision.unreadable.len()) as u64;
        self.unparseable.clone_from(&decision.unparseable);
        self.warnings.clone_from(&decision.warnings);
        self.errors.clone_from(&decision.unreadable);
    }

    fn account(&mut self, stored: StoredAnew) {
        self.rewritten_bytes = stored.bytes;
        self.rebased_bytes = stored.rebased;
    }
}

/// Removes the snapshots below `root` that the rules do not keep, or tells which they are. No repository, no effect.
///
/// # Errors
/// [`Error::Busy`] while others use the repository; [`Error::Refused`] while a restore is unfinished. What concerns
/// single snapshots or packs is in the report.
pub fn cleanup(
    root: &Path,
    rules: &Rules,
    mode: CleanupMode,
    wait: LockWait,
    progress: &dyn Progress,
) -> Result<CleanupReport> {
    let mut report = attempt(root, rules, mode, wait, progress)?;
    report.report.warnings.iter().for_each(CleanupWarning::tell);
    if report.rewriting == Rewriting::NoRoom {
        tracing::info!("there was no room to rewrite packs; now that dead ones are gone it is tried again");
        match attempt(root, rules, mode, wait, progress) {
            Ok(again) => report.add_second(again),
            Err(Error::Interrupted) => return Err(Error::Interrupted),
            // What is gone must be told of all the same.
            Err(cause) => report.report.errors.push(format!("{}: {cause}", layout::PACKS)),
        }
    }
    let CleanupReport { kept, deleted, freed_bytes, rewritten_bytes, rebased_bytes, errors, .. } = &report.report;
    tracing::info!(
        event = "cleanup_old_backups",
        kept,
        deleted = deleted.len(),
        dry_run = mode == CleanupMode::DryRun,
        freed_bytes,
        rewritten_bytes,
        rebased_bytes,
        errors = errors.len(),
        "cleanup is done"
    );
    Ok(report.report)
}

/// What a cleanup with these rules would do; it leaves no trace, not even in the log.
///
/// # Errors
/// As [`cleanup`].
pub fn preview(root: &Path, rules: &Rules, wait: LockWait, progress: &dyn Progress) -> Result<CleanupReport> {
    attempt(root, rules, CleanupMode::DryRun, wait, progress).map(|attempt| attempt.report)
}

/// One pass, and whether there was room for it.
struct Attempt {
    report: CleanupReport,
    rewriting: Rewriting,
}

impl Attempt {
    fn add_second(&mut self, again: Self) {
        if again.rewriting == Rewriting::NoRoom {
            tracing::warn!("there is no room to rewrite mostly dead packs; free some space and run cleanup again");
        }
        // What the first one had to leave may be gone now.
        self.report.kept = again.report.kept;
        self.report.deleted.extend(again.report.deleted);
        self.report.freed_bytes += again.report.freed_bytes;
        self.report.rewritten_bytes += again.report.rewritten_bytes;
        self.report.rebased_bytes += again.report.rebased_bytes;
        self.report.errors.extend(again.report.errors);
    }
}

fn attempt(root: &Path, rules: &Rules, mode: CleanupMode, wait: LockWait, progress: &dyn Progress) -> Result<Attempt> {
    let mut done = Attempt { report: CleanupReport::empty(mode), rewriting: Rewriting::Done };
    let opened = match mode {
        CleanupMode::Delete => Repository::open_to_reclaim(root, wait)?,
        CleanupMode::DryRun => Repository::open(root, Access::Read, wait)?,
    };
    let Some(repository) = opened else { return Ok(done) };
    let _alone = if mode == CleanupMode::Delete { Some(repository.lock_cleanup()?) } else { None };
    intents::refuse_pending(&repository)?;
    if mode == CleanupMode::Delete {
        remove_moved_out(repository.root());
    }
    let decision = decide(&repository, rules)?;
    done.report.tell(&decision);
    let mut collection = Collection::begin(&repository, progress)?;
    done.report.errors.extend(mark(&repository, &mut collection, &decision.keep, progress)?);
    if !done.report.errors.is_empty() {
        done.report.kept += decision.drop.len() as u64;
        return Ok(done);
    }
    collection.plan(&repository, progress)?;
    done.report.errors.extend(collection.unreadable().iter().cloned());
    match mode {
        CleanupMode::DryRun => estimate(&repository, &collection, decision, &mut done.report)?,
        CleanupMode::Delete => delete(repository, &mut collection, decision, &mut done, progress)?,
    }
    Ok(done)
}

/// Tells what would go, and the bytes that would come back.
fn estimate(
    repository: &Repository,
    collection: &Collection,
    decision: Decision,
    report: &mut CleanupReport,
) -> Result<()> {
    let estimate = collection.estimate()?;
    report.account(estimate.stored);
    let directories: u64 = decision.drop.iter().map(|stamp| snapshot_bytes(repository, *stamp)).sum();
    report.freed_bytes = estimate.freed + directories;
    report.deleted = decision.drop;
    Ok(())
}

/// Stores anew what survives in packs that go; then, with the repository alone, removes the snapshots and the packs.
fn delete(
    mut repository: Repository,
    collection: &mut Collection,
    decision: Decision,
    done: &mut Attempt,
    progress: &dyn Progress,
) -> Result<()> {
    done.rewriting = collection.rewrite(&repository, progress)?;
    let report = &mut done.report;
    report.account(collection.stored_anew());
    collection.settle()?;
    repository.lock_exclusively()?;
    intents::refuse_pending(&repository)?;
    let errors = catch_up(&repository, collection, &decision, done.rewriting, progress)?;
    if !errors.is_empty() {
        report.errors.extend(errors);
        report.kept += decision.drop.len() as u64;
        return Ok(());
    }
    let dead = collection.dead()?;
    // From here on nothing may end without the report: it tells what is gone.
    let removal = remove_snapshots(&repository, &decision.drop);
    report.kept += removal.left;
    report.deleted = removal.removed;
    // What a snapshot needs that is still there, or may come back, must stay.
    let swept = if removal.errors.is_empty() { collection.sweep(&repository, &dead) } else { Swept::default() };
    report.freed_bytes = (removal.bytes + swept.bytes).saturating_sub(collection.stored_anew().bytes);
    report.errors.extend(removal.errors);
    report.errors.extend(swept.errors);
    Ok(())
}

/// Marks what these snapshots need, and what those need whose directories were given other names.
fn mark(
    repository: &Repository,
    collection: &mut Collection,
    manifests: &[Manifest],
    progress: &dyn Progress,
) -> Result<Vec<String>> {
    let mut errors = Vec::new();
    let mut reader = BlobReader::new(repository);
    for manifest in manifests {
        if let Err(damage) = collection.mark(&mut reader, manifest, progress)? {
            let stamp = manifest.stamp().map(|stamp| stamp.to_string()).unwrap_or_default();
            errors.push(unknowable(&stamp, &damage));
        }
    }
    for listing in snapshots::list(repository.storage())?.into_iter().filter(|listing| listing.stamp().is_none()) {
        if let Ok(manifest) = snapshots::manifest_in(repository.storage(), &listing.name)?
            && let Err(damage) = collection.mark(&mut reader, &manifest, progress)?
        {
            errors.push(unknowable(&listing.name, &damage));
        }
    }
    Ok(errors)
}

/// Takes account of what others published before the repository was ours alone; the result is why that is impossible.
fn catch_up(
    repository: &Repository,
    collection: &mut Collection,
    decision: &Decision,
    rewriting: Rewriting,
    progress: &dyn Progress,
) -> Result<Vec<String>> {
    let seen: BTreeSet<Stamp> =
        decision.keep.iter().filter_map(Manifest::stamp).chain(decision.drop.iter().copied()).collect();
    let mut new = Vec::new();
    let mut errors = Vec::new();
    for listing in snapshots::list(repository.storage())? {
        let Some(stamp) = listing.stamp().filter(|stamp| !seen.contains(stamp)) else { continue };
        if listing.format != SnapshotFormat::Vecsnap {
            continue;
        }
        match snapshots::read_manifest(repository, stamp)? {
            Ok(manifest) => new.push(manifest),
            Err(fault) => errors.push(unknowable(&listing.name, &fault.to_string())),
        }
    }
    errors.extend(mark(repository, collection, &new, progress)?);
    if errors.is_empty() {
        collection.settle_again(repository, rewriting)?;
    }
    Ok(errors)
}

/// The snapshots whose directories are gone, and why others are not.
#[derive(Default)]
struct Removal {
    removed: Vec<Stamp>,
    /// Of their files.
    bytes: u64,
    /// Snapshots that could not be removed.
    left: u64,
    errors: Vec<String>,
}

/// Bytes of the files of a snapshot's directory, what it reaches in packs not counted.
fn snapshot_bytes(repository: &Repository, stamp: Stamp) -> u64 {
    let Ok(entries) = fs::read_dir(layout::snapshot_directory(repository.root(), &stamp.to_string())) else { return 0 };
    let files = entries.filter_map(|entry| entry.ok()?.metadata().ok()).filter(fs::Metadata::is_file);
    files.map(|file| file.len()).sum()
}

/// Removes what a cleanup without room for a scratch directory moved out of `snapshots/` and had no time to remove: a
/// directory with the name of a snapshot and nothing else than its files.
fn remove_moved_out(root: &Path) {
    let tmp = root.join(layout::TMP);
    if !fs::symlink_metadata(&tmp).is_ok_and(|found| found.is_dir()) {
        return;
    }
    let remove = || -> Result<()> {
        let tmp = TargetRoot::open(&tmp)?;
        let is_stamp = |name: &[u8]| str::from_utf8(name).is_ok_and(|name| name.parse::<Stamp>().is_ok());
        let is_file = |entry: &TargetEntry| {
            let names = [layout::MANIFEST, layout::METADATA];
            entry.stat.kind == FileKind::File && names.iter().any(|name| entry.name == name.as_bytes())
        };
        for TargetEntry { name, stat } in tmp.list(b"")? {
            if is_stamp(&name) && stat.kind == FileKind::Directory && tmp.list(&name)?.iter().all(is_file) {
                tmp.remove_tree(&name)?;
            }
        }
        Ok(())
    };
    if let Err(error) = remove() {
        tracing::debug!(path = %tmp.display(), %error, "snapshots that were moved out earlier stay for now");
    }
}

/// A snapshot's directory that was moved out of `snapshots/`.
struct MovedOut {
    stamp: Stamp,
    from: PathBuf,
    to: PathBuf,
    /// Of its files.
    bytes: u64,
}

/// Moves the directories of snapshots out of `snapshots/`, durably, and only then removes what is in them: one that is
/// cut short is left to the next command, in a scratch directory without an owner, or to the next cleanup. Where that
/// cannot be made durable, they are moved back.
fn remove_snapshots(repository: &Repository, stamps: &[Stamp]) -> Removal {
    let aside = repository.scratch().map_or_else(|_| repository.root().join(layout::TMP), Path::to_path_buf);
    let mut removal = Removal::default();
    let mut moved = Vec::new();
    for &stamp in stamps {
        let from = layout::snapshot_directory(repository.root(), &stamp.to_string());
        let bytes = snapshot_bytes(repository, stamp);
        let to = aside.join(stamp.to_string());
        match fs::rename(&from, &to) {
            Ok(()) => moved.push(MovedOut { stamp, from, to, bytes }),
            // The old clean-up job, or the operator, was faster.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                removal.left += 1;
                removal.errors.push(format!("{stamp}: {}", Error::io("remove", &from)(error)));
            }
        }
    }
    if let Err(cause) = durable::sync_directory(&repository.root().join(layout::SNAPSHOTS)) {
        removal.errors.push(format!("{}: {cause}", layout::SNAPSHOTS));
        let (back, gone): (Vec<_>, Vec<_>) =
            moved.into_iter().partition(|moved| fs::rename(&moved.to, &moved.from).is_ok());
        removal.left += back.len() as u64;
        moved = gone;
    }
    for MovedOut { stamp, to, bytes, .. } in moved {
        removal.removed.push(stamp);
        removal.bytes += bytes;
        if let Err(cause) = fs::remove_dir_all(&to) {
            tracing::debug!(path = %to.display(), %cause, "a removed snapshot's directory stays for now");
        }
    }
    removal
}
