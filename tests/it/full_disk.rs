//! Media of every size from none to enough, by bytes and by inodes: what does not fit says so with the path and the
//! next step, leaves what was there as it was, and room can always be made.

use std::path::{Path, PathBuf};

use crate::support::Outcome;
use crate::support::mount::Mounts;
use crate::support::stage::{Operation, Stage};

/// The smallest unit of a file system in memory.
const PAGE: u64 = 4096;

/// What a medium has too little of.
#[derive(Clone, Copy, Debug)]
enum Limit {
    Bytes(u64),
    Inodes(u64),
}

impl Limit {
    fn option(self) -> String {
        match self {
            Limit::Bytes(bytes) => format!("size={bytes}"),
            Limit::Inodes(inodes) => format!("nr_inodes={inodes}"),
        }
    }
}

/// Puts a directory of the stage onto a medium of this size, if what is there fits onto it.
fn mounted(stage: &mut Stage, directory: &Path, limit: Limit) -> Option<bool> {
    stage.runtime.leave();
    stage.begin();
    let mounts = Mounts::new()?;
    let medium = PathBuf::from(limit.option());
    std::fs::create_dir_all(directory).unwrap();
    let fits = mounts.run(
        "mkdir \"$1.moved\"; cp -a \"$1/.\" \"$1.moved\"; mount -t tmpfs -o \"$2\" tmpfs \"$1\"\n\
         if cp -a \"$1.moved/.\" \"$1\" 2>/dev/null; then echo fits; fi; rm -r \"$1.moved\"",
        &[directory, &medium],
    );
    stage.runtime.enter(mounts);
    Some(fits.trim() == "fits")
}

/// Makes the medium large.
fn enlarge(stage: &Stage, directory: &Path) {
    stage.runtime.mounts().run("mount -o remount,size=64m,nr_inodes=10000 \"$1\"", &[directory]);
}

/// Takes all the room that is left.
fn fill(stage: &Stage, directory: &Path, limit: Limit) {
    let script = match limit {
        Limit::Bytes(_) => "dd if=/dev/zero of=\"$1/ballast\" bs=4k 2>/dev/null || true",
        Limit::Inodes(_) => {
            "mkdir \"$1/ballast\"; n=0; while true 2>/dev/null > \"$1/ballast/$n\"; do n=$((n + 1)); done"
        }
    };
    stage.runtime.mounts().run(script, &[directory]);
}

/// Holds that a run that found no room said so, and what to do.
#[track_caller]
fn check_said(outcome: &Outcome, directory: &Path, what: &str) {
    let said = &outcome.stderr;
    assert_eq!(outcome.code, Some(1), "{what}: {outcome}");
    assert!(!said.contains("panicked"), "{what}: {outcome}");
    let errors: Vec<_> = said.lines().filter(|line| line.starts_with("error: ")).collect();
    let told = errors.len() == 1 && errors[0].contains(directory.to_str().unwrap()) && errors[0].contains("make room");
    assert!(told, "{what}: no sentence that names the path and the next step: {outcome}");
}

/// Runs the operation with the repository on such a medium. Returns whether there was room enough.
#[track_caller]
fn check_repository(stage: &mut Stage, limit: Limit) -> Option<Room> {
    let repository = stage.runtime.repo();
    if !mounted(stage, &repository, limit)? {
        return Some(Room::NotEvenForWhatIsThere);
    }
    let what = format!("{:?} into {limit:?}", stage.operation);
    let outcome = stage.call().run();
    if outcome.code == Some(0) {
        // Checking an image takes a temporary file.
        enlarge(stage, &repository);
        stage.check_snapshots(&what);
        stage.check_done(&outcome, &what);
        return Some(Room::Enough);
    }
    check_said(&outcome, &repository, &what);
    for stamp in stage.runtime.snapshots() {
        stage.runtime.vecsnap(&["validate", &stamp, "--quick"]).run().exits(0);
    }
    enlarge(stage, &repository);
    stage.check_snapshots(&what);
    if stage.operation == Operation::Create {
        // Nothing at all is left, and still room can be made.
        fill(stage, &repository, limit);
        let told = stage.runtime.vecsnap(&["cleanup", "--keep-last", "1", "--confirm", "--json"]).run().exits(0).json();
        assert!(told["freed_bytes"].as_u64().unwrap() > 0, "{what}: a cleanup of a full medium freed nothing: {told}");
        assert_eq!(told["errors"], serde_json::json!([]), "{what}");
        stage.runtime.mounts().run("rm -r \"$1/ballast\"", &[&repository]);
    }
    stage.check_recovery(&what);
    Some(Room::TooLittle)
}

/// Runs a restore with the service's data on such a medium.
#[track_caller]
fn check_targets(stage: &mut Stage, limit: Limit) -> Option<Room> {
    let data = stage.runtime.data();
    if !mounted(stage, &data, limit)? {
        return Some(Room::NotEvenForWhatIsThere);
    }
    let what = format!("{:?} onto {limit:?}", stage.operation);
    let outcome = stage.call().run();
    if outcome.code == Some(0) {
        stage.check_done(&outcome, &what);
        return Some(Room::Enough);
    }
    check_said(&outcome, &data, &what);
    assert!(!stage.is_pending() || outcome.stderr.contains("--resume"), "{what}: no advice: {outcome}");
    enlarge(stage, &data);
    stage.check_snapshots(&what);
    stage.check_recovery(&what);
    Some(Room::TooLittle)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Room {
    NotEvenForWhatIsThere,
    TooLittle,
    Enough,
}

/// A check of one size.
type Check = fn(&mut Stage, Limit) -> Option<Room>;

/// Goes through sizes in steps, from one that is too little to one that is enough.
fn all_sizes(operation: Operation, check: Check, limit: fn(u64) -> Limit, step: u64) {
    let mut stage = Stage::new(operation);
    let (mut too_little, mut size) = (0, 0);
    loop {
        size += step;
        match check(&mut stage, limit(size)) {
            None => return,
            Some(Room::NotEvenForWhatIsThere) => {}
            Some(Room::TooLittle) => too_little += 1,
            Some(Room::Enough) => break,
        }
    }
    let enough = limit(size);
    eprintln!("{operation:?}: {too_little} sizes were too little, {enough:?} was enough");
    // A cleanup needs nothing beyond what is there.
    let expected = !operation.cleans_up();
    assert_eq!(too_little > 0, expected, "{operation:?}: {too_little} sizes were too little");
}

fn pages(count: u64) -> Limit {
    Limit::Bytes(count * PAGE)
}

#[test]
fn a_first_create_into_little_room() {
    all_sizes(Operation::FirstCreate, check_repository, pages, 40);
}

#[test]
fn a_create_into_little_room() {
    all_sizes(Operation::Create, check_repository, pages, 20);
}

#[test]
fn a_create_with_few_inodes() {
    all_sizes(Operation::Create, check_repository, Limit::Inodes, 1);
}

#[test]
fn a_restore_onto_little_room() {
    all_sizes(Operation::Restore, check_targets, pages, 20);
}

#[test]
fn a_restore_with_few_inodes() {
    all_sizes(Operation::Restore, check_targets, Limit::Inodes, 1);
}

#[test]
#[ignore = "every size in pages: minutes"]
fn repositories_in_every_room() {
    use Operation::{Cleanup, Create, FirstCreate, MergingCleanup, Repair, RestoreWithWayBack};
    for operation in [FirstCreate, Create, Cleanup, MergingCleanup, Repair, RestoreWithWayBack] {
        all_sizes(operation, check_repository, Limit::Inodes, 1);
        all_sizes(operation, check_repository, pages, 1);
    }
}

#[test]
#[ignore = "every size in pages: minutes"]
fn live_files_in_every_room() {
    for operation in [Operation::Restore, Operation::RestoreWithWayBack] {
        all_sizes(operation, check_targets, Limit::Inodes, 1);
        all_sizes(operation, check_targets, pages, 1);
    }
}
