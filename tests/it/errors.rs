//! The n-th system call of the binary fails, for n = 1, 2, 3 … until a run is not struck: one sentence and an exit
//! code, never a panic; never a success over something lost; what was acknowledged stays, and the next command goes on.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use serde_json::Value;

use crate::support::seed::Seed;
use crate::support::stage::{Operation, Stage};
use crate::support::tracer::{Aim, Call, Counted, Fault};
use crate::support::{Journal, Outcome, Runtime, damage};

/// What the system may say at any call.
const ERRORS: [Errno; 4] = [Errno::EIO, Errno::ENOSPC, Errno::EACCES, Errno::EINTR];

/// How many points the quick tier takes of each operation.
const SAMPLE: usize = 2;

/// How many of the thousands of calls that only look the long tier takes of each operation.
const LOOKS: usize = 100;

/// The codes by which a run may say that it failed: not 2, since the call was right, nor 130.
const FAILURES: [i32; 6] = [1, 3, 4, 5, 6, 7];

/// Strikes once. Returns whether a call of this number was made.
#[track_caller]
fn check_struck(stage: &Stage, counted: Counted, number: usize, fault: Fault) -> bool {
    let (outcome, calls) = stage.run(counted, Some((number, fault)));
    let Some(call) = calls.get(number - 1) else {
        outcome.exits(0);
        return false;
    };
    let what = format!("{:?} with {fault:?} at call {number}, {call}", stage.operation);
    let code = outcome.code.unwrap_or_else(|| panic!("{what}: killed by a signal: {outcome}"));
    let said = &outcome.stderr;
    for word in ["panicked", "RUST_BACKTRACE", "stack backtrace", "overflow"] {
        assert!(!said.contains(word), "{what}: {outcome}");
    }
    stage.check_snapshots(&what);
    if code == 0 {
        stage.check_done(&outcome, &what);
    } else {
        assert!(FAILURES.contains(&code), "{what}: {outcome}");
        let sentences = sentences(&outcome);
        let place = stage.runtime.path().to_str().unwrap();
        let names_a_path = sentences.iter().any(|line| line.contains(place)) || outcome.stdout.contains(place);
        assert!(names_a_path && !sentences.is_empty(), "{what}: no sentence with a path: {outcome}");
        assert!(sentences.len() == 1 || !outcome.stdout.is_empty(), "{what}: more than one sentence: {outcome}");
        // Who resumes or undoes knows already.
        let needs_advice = stage.is_pending() && !stage.operation.goes_on();
        assert!(!needs_advice || said.contains("--resume"), "{what}: no advice: {outcome}");
    }
    match fault {
        Fault::Lie => assert_eq!(code, 0, "{what}: {outcome}"),
        Fault::Error(Errno::EINTR) => {
            let is_merely_interrupted = ["write", "pwrite64", "read", "pread64"].contains(&call.name);
            assert!(code == 0 || !is_merely_interrupted, "{what}: {outcome}");
        }
        Fault::Error(_) if call.name == "fsync" || call.name == "fdatasync" => {
            check_not_synced(&what, &outcome, number, &calls);
        }
        _ => {}
    }
    if code != 0 {
        stage.check_recovery(&what);
    }
    true
}

/// What a run that failed said about it: on stderr, or where several things may go wrong, in its document.
fn sentences(outcome: &Outcome) -> Vec<String> {
    let mut sentences: Vec<_> =
        outcome.stderr.lines().filter(|line| line.starts_with("error: ")).map(String::from).collect();
    if sentences.is_empty() && !outcome.stdout.is_empty() {
        let document = outcome.json();
        let told = ["errors", "unread_sources"].iter().filter_map(|field| document[field].as_array());
        sentences = told.flatten().chain(document.get("integrity_error")).map(Value::to_string).collect();
    }
    sentences
}

/// What an fsync could not make durable is lost, and asking again would not tell.
#[track_caller]
fn check_not_synced(what: &str, outcome: &Outcome, number: usize, calls: &[Call]) {
    let call = &calls[number - 1];
    // A cleanup without room gives up its new packs, deletes what nothing needs, and tries again.
    let starts_over = what.contains("Cleanup with Error(ENOSPC)");
    // A record is information: a restore that could not keep it says so.
    let warned = outcome.stderr.contains("restores.jsonl");
    assert!(outcome.code != Some(0) || starts_over || warned, "{what}: {outcome}");
    let is_directory = call.path.is_dir();
    let again = calls[number..].iter().filter(|later| later.path == call.path && later.name == call.name).count();
    assert!(is_directory || again == 0, "{what}: synced again: {outcome}");
}

fn sample(operation: Operation) {
    let stage = Stage::new(operation);
    let seed = Seed::from_environment();
    for counted in [Counted::Changes, Counted::Looks, Counted::Syncs] {
        let (outcome, calls) = stage.run(counted, None);
        outcome.exits(0);
        let name = format!("{operation:?} {counted:?}");
        for number in seed.sample(&name, calls.len(), SAMPLE) {
            let fault = match counted {
                Counted::Syncs => Fault::Lie,
                _ => Fault::Error(ERRORS[seed.below(&format!("{name} {number}"), ERRORS.len() as u64) as usize]),
            };
            check_struck(&stage, counted, number + 1, fault);
        }
    }
}

/// Strikes at all of these calls, until there are no more, and fails with all that went wrong.
struct Attack {
    stage: Stage,
    failures: Vec<String>,
}

impl Attack {
    fn strike(&mut self, counted: Counted, numbers: impl IntoIterator<Item = usize>, fault: Fault) {
        let mut struck = 0;
        for number in numbers {
            let checked = catch_unwind(AssertUnwindSafe(|| check_struck(&self.stage, counted, number, fault)));
            match checked {
                Ok(false) => break,
                Ok(true) => struck += 1,
                Err(_) => self.failures.push(format!("{counted:?} {number} {fault:?}")),
            }
        }
        eprintln!("{:?}: {fault:?} at {struck} calls of {counted:?}", self.stage.operation);
    }

    fn report(self) {
        let failures = &self.failures;
        assert!(failures.is_empty(), "{:?}: {} failures: {failures:?}", self.stage.operation, failures.len());
    }
}

fn all(operation: Operation) {
    let mut attack = Attack { stage: Stage::new(operation), failures: Vec::new() };
    for error in ERRORS {
        attack.strike(Counted::Changes, 1.., Fault::Error(error));
    }
    attack.strike(Counted::Syncs, 1.., Fault::Lie);
    let looks = attack.stage.run(Counted::Looks, None).1.len();
    for error in [Errno::EIO, Errno::EACCES, Errno::EINTR] {
        let chosen = Seed::from_environment().sample(&format!("{operation:?} {error}"), looks, LOOKS);
        attack.strike(Counted::Looks, chosen.into_iter().map(|number| number + 1), Fault::Error(error));
    }
    attack.report();
}

#[test]
#[ignore = "lets every look at a source fail: minutes"]
fn a_create_meets_every_failed_look_at_its_sources() {
    let mut attack = Attack { stage: Stage::new(Operation::Create), failures: Vec::new() };
    let repository = attack.stage.runtime.repo();
    let calls = attack.stage.run(Counted::Looks, None).1;
    let of_sources = (1..).zip(&calls).filter(|(_, call)| !call.path.starts_with(&repository));
    attack.strike(Counted::Looks, of_sources.map(|(number, _)| number), Fault::Error(Errno::EIO));
    attack.report();
}

/// Strikes at the first call of this name whose path contains these words.
fn strike_at(stage: &Stage, counted: Counted, name: &str, words: &str, fault: Fault) -> Outcome {
    let is_meant = |call: &Call| call.name == name && call.path.to_str().unwrap().contains(words);
    stage.strike_first(counted, &is_meant, fault)
}

#[test]
fn an_intent_that_could_not_be_published_or_removed_is_told_of() {
    let stage = Stage::new(Operation::Restore);
    for (name, place) in [("fsync", "backup/intents"), ("unlink", "backup/intents/restore.json")] {
        let outcome = strike_at(&stage, Counted::Changes, name, place, Fault::Error(Errno::EIO)).exits(1);
        assert_eq!(stage.is_pending(), outcome.stderr.contains("--resume"), "{outcome}");
        stage.check_recovery(name);
    }
}

#[test]
fn looking_at_the_first_bytes_of_a_source_goes_on_after_an_interruption() {
    let stage = Stage::new(Operation::FirstCreate);
    let outcome = strike_at(&stage, Counted::Looks, "pread64", "chroma/blob", Fault::Error(Errno::EINTR)).exits(0);
    stage.check_done(&outcome, "interrupted");
}

#[test]
fn reading_a_registry_goes_on_after_an_interruption() {
    let stage = Stage::new(Operation::Create);
    let is_meant =
        |call: &Call| ["read", "pread64"].contains(&call.name) && call.path.ends_with("project-registry.json");
    let strike = |number| stage.strike_among(Counted::Looks, &is_meant, number, Fault::Error(Errno::EINTR));
    let struck: Vec<_> = (1..).map_while(strike).collect();
    assert!(struck.len() >= 3, "{struck:?}");
    for outcome in struck {
        outcome.exits(0);
    }
}

/// Only a directory that may not be opened is left unsynced.
#[test]
fn names_of_directories_that_could_not_be_synced_are_told_of_whatever_the_error() {
    let stage = Stage::new(Operation::FirstCreate);
    let repository = stage.runtime.repo();
    let is_meant = |call: &Call| call.name == "fsync" && [stage.runtime.path(), &repository].contains(&&*call.path);
    let strike = |number| stage.strike_among(Counted::Changes, &is_meant, number, Fault::Error(Errno::EACCES));
    let struck: Vec<_> = (1..).map_while(strike).collect();
    assert!(struck.len() >= 3, "{struck:?}");
    for outcome in struck {
        outcome.exits(1).prints_nothing().says(&["cannot fsync the directory"]);
    }
}

/// Attributes, too, are durable or told of: only what may not be opened is left unsynced.
#[test]
fn attributes_that_could_not_be_synced_are_told_of_whatever_the_error() {
    let stage = Stage::new(Operation::Restore);
    let vectors = stage.runtime.chroma();
    for place in [vectors.join("kept"), vectors.join("gone"), vectors] {
        let is_meant = |call: &Call| call.name == "fsync" && call.path == place;
        let strike = |number| stage.strike_among(Counted::Changes, &is_meant, number, Fault::Error(Errno::EACCES));
        let struck: Vec<_> = (1..).map_while(strike).collect();
        assert!(!struck.is_empty(), "{place:?}");
        for outcome in struck {
            outcome.exits(1).prints_nothing().says(&["cannot fsync", "--resume"]);
        }
    }
}

#[test]
fn an_image_that_cannot_be_written_is_named_and_not_its_source() {
    let stage = Stage::new(Operation::FirstCreate);
    let outcome = strike_at(&stage, Counted::Changes, "pwrite64", "/image-", Fault::Error(Errno::EIO));
    outcome.exits(1).says(&["cannot write", "/image-"]);
}

#[test]
fn an_image_that_could_not_be_read_for_its_check_is_not_called_damaged() {
    let stage = Stage::new(Operation::FirstCreate);
    let calls = stage.run(Counted::Looks, None).1;
    let of_images = calls.iter().filter(|call| call.path.to_str().unwrap().contains("/image-"));
    let last = of_images.filter(|call| call.name == "pread64").count();
    for turn in [1, 2, last / 2, last] {
        let mut left = turn;
        let number = calls.iter().position(|call| {
            left -= usize::from(call.name == "pread64" && call.path.to_str().unwrap().contains("/image-"));
            left == 0
        });
        check_struck(&stage, Counted::Looks, number.unwrap() + 1, Fault::Error(Errno::EIO));
    }
}

/// SQLite calls a database damaged whose first page it could not read.
#[test]
fn a_database_that_could_not_be_read_for_a_moment_is_not_captured_raw() {
    let stage = Stage::new(Operation::Create);
    let calls = stage.run(Counted::Looks, None).1;
    let is_meant = |call: &Call| call.name == "pread64" && call.path.ends_with("data/db/atocore.db");
    // SQLite's reads of the header, before it takes the lock and after that.
    let of_header: Vec<_> = (1..).zip(&calls).filter(|(_, call)| is_meant(call)).take(4).collect();
    assert!(of_header.len() >= 3, "{calls:?}");
    for (number, _) in of_header {
        check_struck(&stage, Counted::Looks, number, Fault::Error(Errno::EIO));
    }
}

/// What a run wrote is read back before it is reported: packs with header and footer, the files of the snapshot,
/// targets.
#[test]
fn what_the_medium_changed_while_it_was_written_is_noticed() {
    for operation in [Operation::Create, Operation::Cleanup, Operation::Restore] {
        let stage = Stage::new(operation);
        let calls = stage.run(Counted::Changes, None).1;
        let is_meant = |call: &Call| {
            let of_repository = call.path.strip_prefix(stage.runtime.repo()).ok().and_then(Path::to_str);
            // Objects have no name yet.
            let of_snapshots = of_repository.is_some_and(|path| path.starts_with('#') || path.contains("/snapshot/"));
            let of_targets = operation.restores() && of_repository.is_none();
            ["write", "pwrite64"].contains(&call.name) && (of_snapshots || of_targets)
        };
        let chosen: Vec<_> = (1..).zip(&calls).filter(|(_, call)| is_meant(call)).collect();
        assert!(chosen.len() >= 3, "{operation:?}: {calls:?}");
        for (number, _) in chosen {
            check_struck(&stage, Counted::Changes, number, Fault::Rot);
        }
    }
}

/// Deltas of a pack that cannot be read for a moment need bases that nothing else seems to need.
#[test]
fn a_pack_that_a_cleanup_cannot_read_for_a_moment_keeps_the_bases_of_its_deltas() {
    let stage = Stage::new(Operation::Cleanup);
    let calls = stage.run(Counted::Looks, None).1;
    // The footers of its two packs are what it reads first.
    let opened = (1..).zip(&calls).filter(|(_, call)| call.name == "openat" && is_pack(call)).take(8);
    for (number, _) in opened {
        check_struck(&stage, Counted::Looks, number, Fault::Error(Errno::EIO));
    }
}

/// What is gone is told of, and whatever else can go goes.
#[test]
fn a_dead_pack_that_cannot_be_removed_is_named_and_the_others_go() {
    let stage = Stage::new(Operation::MergingCleanup);
    let whole = stage.run(Counted::Changes, None).0.exits(0).json();
    let packs = || damage::packs(&stage.runtime.repo()).len();
    let left = packs();
    let is_meant = |call: &Call| call.name.starts_with("unlink") && is_pack(call);
    for number in 1..=3 {
        let struck = stage.strike_among(Counted::Changes, &is_meant, number, Fault::Error(Errno::EPERM));
        let told = struck.expect("there are so many dead packs").exits(1).json();
        assert_eq!(packs(), left + 1, "{told}");
        let errors = told["errors"].as_array().unwrap();
        let (named, cause) = errors[0].as_str().unwrap().split_once(": ").unwrap();
        assert!(errors.len() == 1 && cause.contains("Operation not permitted"), "{told}");
        let stays = fs::metadata(stage.runtime.repo().join(named)).unwrap().len();
        assert_eq!(told["freed_bytes"].as_u64().unwrap(), whole["freed_bytes"].as_u64().unwrap() - stays, "{told}");
        assert_eq!(told["deleted"], whole["deleted"], "{told}");
    }
    stage.check_recovery("a dead pack stayed");
}

#[test]
fn a_cleanup_whose_removals_may_not_be_durable_takes_them_back() {
    let stage = Stage::new(Operation::Cleanup);
    let packs = || damage::packs(&stage.runtime.repo()).len();
    let snapshots = stage.runtime.snapshots();
    let of_snapshots = |call: &Call| call.name == "fsync" && call.path.ends_with("snapshots");
    let told = stage.strike_first(Counted::Changes, &of_snapshots, Fault::Error(Errno::EIO)).exits(1).json();
    assert_eq!((&told["deleted"], told["errors"].as_array().unwrap().len()), (&0.into(), 1), "{told}");
    assert_eq!((stage.runtime.snapshots(), &told["kept"]), (snapshots.clone(), &snapshots.len().into()), "{told}");
    let before = packs();
    assert_eq!(stage.run(Counted::Changes, None).0.exits(0).json()["deleted"], 1);
    assert!(packs() < before, "packs went although what needs them was there");
}

/// A log that cannot be brought in at that moment stays, with the rows that are in it alone.
#[test]
fn a_log_that_could_not_be_read_for_a_moment_is_not_thrown_away() {
    let runtime = Runtime::with_journal(Journal::Wal);
    let stamp = runtime.create(&[]);
    let log = PathBuf::from(format!("{}-wal", runtime.db().display()));
    let service = runtime.connect();
    let logged = "PRAGMA wal_autocheckpoint=0; INSERT INTO memories(project, content) VALUES('p01', 'logged')";
    service.execute_batch(logged).unwrap();
    let left = [runtime.db(), log.clone()].map(|path| (fs::read(&path).unwrap(), path));
    drop(service);
    let of_log = |call: &Call| call.name == "pread64" && call.path == log;
    for number in 1.. {
        left.iter().for_each(|(bytes, path)| fs::write(path, bytes).unwrap());
        let strike = Some((number, Fault::Error(Errno::EIO)));
        let aim = Aim { below: runtime.path(), counted: Counted::Looks, only: Some(&of_log), strike, before: None };
        let call = ["restore", &stamp, "--confirm-service-stopped", "--no-pre-snapshot"];
        let (outcome, calls) = runtime.vecsnap(&call).traced(&aim);
        if calls.len() < number {
            outcome.exits(0);
            assert!(number > 2 && runtime.memories() == ["first"], "{number}");
            break;
        }
        assert!(!outcome.stderr.contains("could not be brought into it"), "{number}: {outcome}");
        // Where SQLite calls that damage, it is asked twice, and brings the rows in.
        if outcome.code != Some(0) {
            outcome.exits(1).says(&["cannot fold the log into", "atocore.db"]);
            assert_eq!(runtime.memories(), ["first", "logged"], "{number}");
        }
    }
}

/// The record is made before the copy is removed.
#[test]
fn the_outcome_of_a_drill_is_kept_although_its_copy_cannot_be_removed() {
    let runtime = Runtime::new();
    let stamp = runtime.create(&["--chroma"]);
    let of_copy = |call: &Call| call.name == "unlinkat" && call.path.to_str().unwrap().contains("vecsnap-drill-");
    let strike = Some((1, Fault::Error(Errno::EPERM)));
    let aim = Aim { below: runtime.path(), counted: Counted::Changes, only: Some(&of_copy), strike, before: None };
    let drill = runtime.vecsnap(&["drill", "--scratch"]).arg(runtime.path());
    let (outcome, calls) = drill.traced(&aim);
    assert!(!calls.is_empty(), "nothing was removed");
    outcome.exits(1).prints_nothing().says(&["cannot remove the copy", "vecsnap-drill-", "remove it by hand"]);
    let record = fs::read_to_string(runtime.repo().join("drills.jsonl")).unwrap();
    assert!(record.contains(&stamp) && record.contains("\"ok\":true"), "{record}");
}

fn is_pack(call: &Call) -> bool {
    call.path.extension().is_some_and(|extension| extension == "pack")
}

#[test]
fn a_first_create_meets_errors() {
    sample(Operation::FirstCreate);
}

#[test]
#[ignore = "lets every system call fail: minutes"]
fn a_first_create_meets_every_error() {
    all(Operation::FirstCreate);
}

#[test]
fn a_create_meets_errors() {
    sample(Operation::Create);
}

#[test]
#[ignore = "lets every system call fail: minutes"]
fn a_create_meets_every_error() {
    all(Operation::Create);
}

#[test]
fn a_restore_meets_errors() {
    sample(Operation::Restore);
}

#[test]
#[ignore = "lets every system call fail: minutes"]
fn a_restore_meets_every_error() {
    all(Operation::Restore);
}

#[test]
fn a_restore_with_a_way_back_meets_errors() {
    sample(Operation::RestoreWithWayBack);
}

#[test]
#[ignore = "lets every system call fail: minutes"]
fn a_restore_with_a_way_back_meets_every_error() {
    all(Operation::RestoreWithWayBack);
}

#[test]
fn a_resume_meets_errors() {
    sample(Operation::Resume);
}

#[test]
#[ignore = "lets every system call fail: minutes"]
fn a_resume_meets_every_error() {
    all(Operation::Resume);
}

#[test]
fn an_undo_meets_errors() {
    sample(Operation::Undo);
}

#[test]
#[ignore = "lets every system call fail: minutes"]
fn an_undo_meets_every_error() {
    all(Operation::Undo);
}

#[test]
fn a_cleanup_meets_errors() {
    sample(Operation::Cleanup);
}

#[test]
#[ignore = "lets every system call fail: minutes"]
fn a_cleanup_meets_every_error() {
    all(Operation::Cleanup);
}

#[test]
#[ignore = "lets every system call fail: minutes"]
fn a_merging_cleanup_meets_every_error() {
    all(Operation::MergingCleanup);
}

#[test]
fn a_repair_meets_errors() {
    sample(Operation::Repair);
}

#[test]
#[ignore = "lets every system call fail: minutes"]
fn a_repair_meets_every_error() {
    all(Operation::Repair);
}
