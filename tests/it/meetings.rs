//! Another command begins and ends while a cleanup stands still, at each of its system calls in turn: what it reported
//! is whole when the cleanup is done. The snapshot that a create takes then needs what only the snapshot that goes
//! held.

use std::cell::RefCell;

use crate::support::Outcome;
use crate::support::seed::Seed;
use crate::support::stage::{Operation, Stage};
use crate::support::tracer::{Call, Counted};

const CREATE: &[&str] = &["create", "--chroma"];
const CLEANUP: &[&str] = &["cleanup", "--keep-last", "1", "--confirm"];
const VALIDATE: &[&str] = &["validate", "latest"];

/// How many moments the quick tier takes for each command.
const SAMPLE: usize = 3;

/// How others fared that met a cleanup.
#[derive(Debug, Default)]
struct Met {
    went_on: u32,
    found_it_busy: u32,
}

impl Met {
    /// Lets another command meet the cleanup at one call. Returns whether there is a call of this number.
    #[track_caller]
    fn at(&mut self, stage: &Stage, number: usize, other: &[&str]) -> bool {
        let met = RefCell::new(None);
        let meet = || {
            let call = stage.runtime.vecsnap(other).args(["--lock-wait", "0", "--json"]);
            *met.borrow_mut() = Some(call.run());
        };
        let (outcome, calls) = stage.pause_at(number, &meet);
        let Some(met) = met.into_inner() else {
            outcome.exits(0);
            return false;
        };
        let what = format!("{other:?} before call {number}, {}, of a cleanup", calls[number - 1]);
        self.judge(&met, &what);
        let is_locked = calls[..number - 1].iter().any(|call| call.path.ends_with("cleanup.lock"))
            && calls[number..].iter().any(|call| call.path.starts_with(stage.runtime.repo().join("packs")));
        assert!(met.code == Some(6) || other[0] != "cleanup" || !is_locked, "{what}: two at a time: {met}");
        // Who waits for nobody may find the other one busy, too.
        assert!(matches!(outcome.code, Some(0 | 6)), "{what}: {outcome}");
        stage.check_snapshots(&what);
        if let (Some(0), Some(&"create")) = (met.code, other.first()) {
            let stamp = met.json()["stamp"].as_str().unwrap().to_owned();
            assert!(stage.runtime.snapshots().contains(&stamp), "{what}: {stamp} is gone");
        }
        true
    }

    #[track_caller]
    fn judge(&mut self, met: &Outcome, what: &str) {
        match met.code {
            Some(0) => self.went_on += 1,
            Some(6) => self.found_it_busy += 1,
            _ => panic!("{what}: {met}"),
        }
    }
}

/// The calls at which a cleanup may stand still. While it changes the index it holds others up: they wait for the locks
/// of the index, however long they would wait for the repository.
fn moments(stage: &Stage) -> Vec<usize> {
    let calls = stage.run(Counted::Changes, None).1;
    let is_of_index = |call: &Call| call.path.to_str().is_some_and(|path| path.contains("/index.sqlite"));
    (1..).zip(&calls).filter(|(_, call)| !is_of_index(call)).map(|(number, _)| number).collect()
}

#[test]
fn whoever_meets_a_cleanup_finds_it_busy_or_is_whole_afterwards() {
    let stage = Stage::new(Operation::Cleanup);
    let moments = moments(&stage);
    let mut met = Met::default();
    for other in [CREATE, CLEANUP, VALIDATE] {
        for chosen in Seed::from_environment().sample(&format!("{other:?}"), moments.len(), SAMPLE) {
            met.at(&stage, moments[chosen], other);
        }
    }
    assert!(met.went_on > 0, "{met:?}");
}

/// Lets another command meet a cleanup, and one that merges, at each of its calls.
fn meet_at_any_call(other: &[&str]) {
    for operation in [Operation::Cleanup, Operation::MergingCleanup] {
        let stage = Stage::new(operation);
        let mut met = Met::default();
        let points = moments(&stage).into_iter().filter(|number| met.at(&stage, *number, other)).count();
        eprintln!("{operation:?}: {other:?} at {points} calls: {met:?}");
        assert!(points > 20 && met.went_on > 0 && met.found_it_busy > 0, "{met:?}");
    }
}

#[test]
#[ignore = "another command at every call of a cleanup: minutes"]
fn a_create_that_meets_a_cleanup_at_any_call_finds_it_busy_or_is_whole_afterwards() {
    meet_at_any_call(CREATE);
}

#[test]
#[ignore = "another command at every call of a cleanup: minutes"]
fn a_cleanup_that_meets_a_cleanup_at_any_call_finds_it_busy_or_all_is_whole_afterwards() {
    meet_at_any_call(CLEANUP);
}

#[test]
#[ignore = "another command at every call of a cleanup: minutes"]
fn a_validate_that_meets_a_cleanup_at_any_call_finds_it_busy_or_all_is_whole() {
    meet_at_any_call(VALIDATE);
}
