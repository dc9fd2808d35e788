//! The binary is killed at its n-th system call, for n = 1, 2, 3 … until a run ends: what was acknowledged stays, what
//! was not is absent or complete, no lock outlives its process, and the next command goes on.

use crate::support::seed::Seed;
use crate::support::stage::{Operation, Stage};
use crate::support::tracer::{Counted, Fault};

/// How many points the quick tier takes of each operation.
const SAMPLE: usize = 3;

#[track_caller]
fn check_killed(stage: &Stage, number: usize) -> bool {
    let (outcome, calls) = stage.run(Counted::Changes, Some((number, Fault::Kill)));
    if outcome.code.is_some() {
        outcome.exits(0);
        return false;
    }
    let what = format!("{:?} killed at call {number}, {}", stage.operation, calls.last().unwrap());
    stage.check_snapshots(&what);
    stage.check_recovery(&what);
    true
}

fn sample(operation: Operation) {
    let stage = Stage::new(operation);
    let (outcome, calls) = stage.run(Counted::Changes, None);
    outcome.exits(0);
    stage.check_snapshots("unharmed");
    let seed = Seed::from_environment();
    for number in seed.sample(&format!("{operation:?}"), calls.len(), SAMPLE) {
        check_killed(&stage, number + 1);
    }
}

/// Kills at every call.
fn all(operation: Operation) {
    let stage = Stage::new(operation);
    let points = (1..).take_while(|number| check_killed(&stage, *number)).count();
    eprintln!("{operation:?}: {points} kill points");
    assert!(points > 20, "{operation:?}: only {points} calls were met");
}

/// The same by strace, which counts each name in each thread by itself: n = 1, 2, 3 … of these names, until a run ends.
fn all_by_strace(operation: Operation, names: &[&str]) {
    let stage = Stage::new(operation);
    let mut points = 0;
    for name in names {
        let killed = |number: &usize| {
            let traced = format!("trace={name}");
            let inject = format!("inject={name}:signal=SIGKILL:when={number}");
            stage.begin();
            let strace = ["strace", "-f", "-qqq", "-o", "/dev/null", "-e", &traced, "-e", &inject];
            let outcome = stage.call().run_by(&strace).run();
            if outcome.code.is_some() {
                outcome.exits(0);
                return false;
            }
            let what = format!("{operation:?} killed by strace at {name} {number}");
            stage.check_snapshots(&what);
            stage.check_recovery(&what);
            true
        };
        points += (1..).take_while(killed).count();
    }
    eprintln!("{operation:?}: {points} kill points by strace");
    assert!(points > 0, "{operation:?}: strace killed nothing");
}

#[test]
fn a_create_killed_by_strace() {
    all_by_strace(Operation::Create, &["linkat", "renameat2"]);
}

/// The names of calls that strace kills at.
const NAMES: [&str; 14] = [
    "write",
    "pwrite64",
    "fsync",
    "fdatasync",
    "ftruncate",
    "fallocate",
    "openat",
    "mkdir",
    "unlink",
    "unlinkat",
    "rename",
    "renameat2",
    "linkat",
    "utimensat",
];

#[test]
#[ignore = "kills by strace at every system call of each name: minutes"]
fn creates_killed_by_strace() {
    all_by_strace(Operation::FirstCreate, &NAMES);
    all_by_strace(Operation::Create, &NAMES);
}

#[test]
#[ignore = "kills by strace at every system call of each name: a quarter of an hour"]
fn restores_killed_by_strace() {
    all_by_strace(Operation::Restore, &NAMES);
    all_by_strace(Operation::RestoreWithWayBack, &NAMES);
}

#[test]
#[ignore = "kills by strace at every system call of each name: a quarter of an hour"]
fn ways_on_killed_by_strace() {
    all_by_strace(Operation::Resume, &NAMES);
    all_by_strace(Operation::Undo, &NAMES);
}

#[test]
#[ignore = "kills by strace at every system call of each name: minutes"]
fn cleanups_killed_by_strace() {
    all_by_strace(Operation::Cleanup, &NAMES);
    all_by_strace(Operation::MergingCleanup, &NAMES);
}

#[test]
#[ignore = "kills by strace at every system call of each name: minutes"]
fn a_repair_killed_by_strace() {
    all_by_strace(Operation::Repair, &NAMES);
}

#[test]
fn a_killed_first_create() {
    sample(Operation::FirstCreate);
}

#[test]
#[ignore = "kills at every system call: minutes"]
fn a_first_create_killed_at_every_call() {
    all(Operation::FirstCreate);
}

#[test]
fn a_killed_create() {
    sample(Operation::Create);
}

#[test]
#[ignore = "kills at every system call: minutes"]
fn a_create_killed_at_every_call() {
    all(Operation::Create);
}

#[test]
fn a_killed_restore() {
    sample(Operation::Restore);
}

#[test]
#[ignore = "kills at every system call: minutes"]
fn a_restore_killed_at_every_call() {
    all(Operation::Restore);
}

#[test]
fn a_killed_restore_with_a_way_back() {
    sample(Operation::RestoreWithWayBack);
}

#[test]
#[ignore = "kills at every system call: minutes"]
fn a_restore_with_a_way_back_killed_at_every_call() {
    all(Operation::RestoreWithWayBack);
}

#[test]
fn a_killed_resume() {
    sample(Operation::Resume);
}

#[test]
#[ignore = "kills at every system call: minutes"]
fn a_resume_killed_at_every_call() {
    all(Operation::Resume);
}

#[test]
fn a_killed_undo() {
    sample(Operation::Undo);
}

#[test]
#[ignore = "kills at every system call: minutes"]
fn an_undo_killed_at_every_call() {
    all(Operation::Undo);
}

#[test]
fn a_killed_cleanup() {
    sample(Operation::Cleanup);
}

#[test]
#[ignore = "kills at every system call: minutes"]
fn a_cleanup_killed_at_every_call() {
    all(Operation::Cleanup);
}

#[test]
#[ignore = "kills at every system call: minutes"]
fn a_merging_cleanup_killed_at_every_call() {
    all(Operation::MergingCleanup);
}

#[test]
fn a_killed_repair() {
    sample(Operation::Repair);
}

#[test]
#[ignore = "kills at every system call: minutes"]
fn a_repair_killed_at_every_call() {
    all(Operation::Repair);
}
