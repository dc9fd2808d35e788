//! What stdout and stderr that cannot be written, or that nobody reads, change: nothing of what is done.

use std::fs;

use crate::support::{Outcome, Runtime};

/// Runs the call with its stdout on a full device.
fn onto_a_full_device(runtime: &Runtime, arguments: &[&str]) -> Outcome {
    runtime.vecsnap(arguments).run_by(&["sh", "-c", "exec \"$0\" \"$@\" >/dev/full"]).run()
}

#[test]
fn what_was_done_is_said_where_the_report_cannot_be_written() {
    let runtime = Runtime::new();
    let first = runtime.create(&[]);
    let outcome = onto_a_full_device(&runtime, &["create", "--chroma", "--json"]).exits(1);
    let stamp = runtime.snapshots().pop().unwrap();
    assert_ne!(stamp, first);
    outcome.says(&[&format!("snapshot {stamp} is published"), "could not be written to stdout"]);
    assert_eq!(runtime.vecsnap(&["validate", &stamp]).json()["valid"], true);

    runtime.remember("later");
    let restore = ["restore", &first, "--confirm-service-stopped", "--json"];
    let outcome = onto_a_full_device(&runtime, &restore).exits(1);
    let way_back = runtime.snapshots().pop().unwrap();
    outcome.says(&[&format!("snapshot {first} is restored"), &format!("the state before is snapshot {way_back}")]);
    assert_eq!(runtime.memories(), ["first"]);

    let elsewhere = runtime.path().join("elsewhere");
    let call = ["restore", &first, "--to", elsewhere.to_str().unwrap()];
    onto_a_full_device(&runtime, &call).exits(1).says(&["is written to", elsewhere.to_str().unwrap()]);

    let cleanup = ["cleanup", "--keep-last", "1", "--confirm"];
    onto_a_full_device(&runtime, &cleanup).exits(1).says(&["cleanup is done: 2 snapshots are deleted"]);
    assert_eq!(runtime.snapshots(), [way_back.as_str()]);
    onto_a_full_device(&runtime, &["repair", "--confirm"]).exits(1).says(&["the repair is done, and 0 of 1 snapshots"]);
    onto_a_full_device(&runtime, &["drill", &way_back]).exits(1).says(&["the drill passed", "drills.jsonl"]);

    // Nothing was done here, so nothing is claimed.
    for arguments in [&["list"][..], &["cleanup"], &["repair"], &["--help"], &["create", "--help"], &["man"]] {
        let outcome = onto_a_full_device(&runtime, arguments).exits(1).says(&["error: cannot write stdout"]);
        assert!(!outcome.stderr.contains("done"), "{outcome}");
    }
}

#[test]
fn a_reader_that_went_away_changes_nothing_and_is_not_complained_about() {
    let runtime = Runtime::new();
    let calls = [
        (&["create", "--json"][..], 0),
        (&["list"], 0),
        (&["cleanup"], 0),
        (&["--help"], 0),
        (&["restore", "latest", "--confirm-service-stopped"], 0),
        (&["validate", "20200101T000000Z"], 3),
    ];
    for (arguments, code) in calls {
        let late = "{ sleep 0.1; \"$0\" \"$@\"; echo exited with $? >&2; } | true";
        let outcome = runtime.vecsnap(arguments).run_by(&["sh", "-c", late]).run().exits(0);
        assert_eq!(outcome.stderr, format!("exited with {code}\n"), "{arguments:?}");
    }
    assert_eq!(runtime.snapshots().len(), 2, "a snapshot and the way back");
}

#[test]
fn a_stderr_that_cannot_be_written_stops_nothing() {
    let runtime = Runtime::new();
    fs::remove_dir_all(runtime.chroma()).unwrap();
    let onto = |script: &str| runtime.vecsnap(&["create", "--chroma"]).run_by(&["sh", "-c", script]).run().exits(0);
    // There is a warning to be written.
    onto("exec \"$0\" \"$@\"").says(&["chroma_snapshot_skipped_missing"]);
    onto("exec \"$0\" \"$@\" 2>/dev/full");
    onto("{ sleep 0.1; \"$0\" \"$@\" 2>&3; code=$?; exec 3>&-; exit $code; } 3>&1 >/dev/null | true; exit 0");
    assert_eq!(runtime.snapshots().len(), 3);
}
