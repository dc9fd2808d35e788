//! `vecsnap demo`: the whole loop on made-up data, the newcomer's first command.
//!
//! It takes the way that the other commands take, through the library, in a scratch directory of its own; nothing of
//! the caller's environment is read. Whether the restore brought everything back is told by hashes that were taken
//! beside it, not by anything that vecsnap says of itself.

mod proof;
mod random;
mod report;
mod vectors;
mod workload;

use std::path::Path;
use std::time::Instant;

use self::proof::Proof;
use self::report::{DemoReport, Step};
use self::workload::Workload;
use super::arguments::DemoArguments;
use super::exit::Exit;
use super::output::{self, Form};
use super::session::Session;
use crate::disk::space;
use crate::error::{Error, Result};
use crate::format::manifest::SnapshotKind;
use crate::progress::Progress;
use crate::restore::{
    self, ChromaChoice, Goal, HardLinkPolicy, OthersPolicy, OwnerPolicy, PreSnapshot, RestoreOptions, RestoreReport,
};
use crate::save::{self, CreateOptions, CreateReport, Effort, ReadPolicy};
use crate::store::Repository;

/// What the data, three snapshots of it and SQLite's temporary images take at most.
const ROOM_BYTES: u64 = 400 << 20;

/// Shows the whole loop and what it cost; the scratch directory is removed unless it is to be kept.
///
/// # Errors
/// Those of creating and restoring; [`Error::Failed`] where there is no room for the data.
pub fn run(session: &Session<'_>, arguments: &DemoArguments) -> Result<Exit> {
    let parent = session.scratch_parent(arguments.scratch.as_deref())?;
    space::require(&parent, ROOM_BYTES, "the demo", "name another directory with --scratch")?;
    let scratch = tempfile::Builder::new()
        .prefix("vecsnap-demo-")
        .tempdir_in(&parent)
        .map_err(Error::io("create a directory in", &parent))?;
    let mut report = play(session, scratch.path())?;
    if arguments.keep {
        report.kept = Some(scratch.keep());
    }
    let exit = if report.differences.is_empty() { Exit::Done } else { Exit::Failed };
    show(session, &report, exit)?;
    Ok(exit)
}

fn show(session: &Session<'_>, report: &DemoReport, exit: Exit) -> Result<()> {
    session.progress.finish();
    match session.form(exit) {
        Form::Text => output::print_bytes(report.text().as_bytes()),
        Form::Json | Form::Nothing => session.print(&report.document(), exit),
    }
}

/// Make, snapshot, change, snapshot, damage, restore, compare.
fn play(session: &Session<'_>, scratch: &Path) -> Result<DemoReport> {
    let progress = session.progress;
    let mut report = DemoReport::default();

    let clock = Instant::now();
    let mut workload = Workload::make(&scratch.join("service"), progress)?;
    let size = proof::size_of(&workload.directories())?;
    report.push(Step::new("make up a service: vectors, texts, rows", clock).of(size));

    let repository = Repository::open_or_create(&scratch.join("backup"), session.lock_wait())?;
    let clock = Instant::now();
    let first = snapshot(&repository, &workload, progress)?;
    report.push(taken(Step::new("first snapshot", clock), &first));

    let clock = Instant::now();
    workload.change(progress)?;
    report.push(Step::new("change 1 % of it, as a day of use does", clock));

    let clock = Instant::now();
    let second = snapshot(&repository, &workload, progress)?;
    report.push(taken(Step::new("second snapshot", clock), &second));

    let expected = Proof::of(&workload.directories(), progress)?;
    let clock = Instant::now();
    workload.damage()?;
    report.push(Step::new("damage it: garbage, a lost file, a stray one", clock));

    let clock = Instant::now();
    let restored = put_back(&repository, &workload, &second, progress)?;
    let step = Step::new("restore the second snapshot in place", clock).of(second.logical_bytes());
    report.push(step.rewrote(restored.bytes_written, second.logical_bytes()));

    let clock = Instant::now();
    let found = Proof::of(&workload.directories(), progress)?;
    report.differences = found.differences(&expected);
    report.files_compared = expected.count();
    report.push(Step::new("compare every file with its hash from before", clock));
    Ok(report)
}

fn snapshot(repository: &Repository, workload: &Workload, progress: &dyn Progress) -> Result<CreateReport> {
    let options = CreateOptions {
        sources: workload.sources(),
        include_chroma: true,
        check_trees: false,
        read_policy: ReadPolicy::Changed,
        effort: Effort::default(),
        writers: Default::default(),
        kind: SnapshotKind::Ordinary,
    };
    save::create(repository, &options, progress)
}

/// A full copy would have written every byte again.
fn taken(step: Step, report: &CreateReport) -> Step {
    step.of(report.logical_bytes()).stored(report.stored_bytes, report.logical_bytes())
}

fn put_back(
    repository: &Repository,
    workload: &Workload,
    snapshot: &CreateReport,
    progress: &dyn Progress,
) -> Result<RestoreReport> {
    let options = RestoreOptions {
        goal: Goal::Snapshot(snapshot.stamp),
        targets: workload.sources(),
        chroma: ChromaChoice::AsCaptured,
        // The damage is made up; nobody will want it back.
        pre_snapshot: PreSnapshot::Skip,
        owner: OwnerPolicy::Restore,
        hard_links: HardLinkPolicy::Refuse,
        others: OthersPolicy::Refuse,
        suspect: Default::default(),
        invalid: Default::default(),
    };
    restore::restore(repository, &options, progress)
}
