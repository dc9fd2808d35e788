//! A drill proves that snapshots can be restored, touches nothing live, and keeps a record.

use std::fs;

use serde_json::Value;

use crate::support::Runtime;

#[test]
fn drill_proves_the_newest_snapshots_and_keeps_a_record() {
    let runtime = Runtime::new();
    runtime.create(&["--chroma"]);
    runtime.remember("second");
    runtime.create(&[]);
    let scratch = runtime.path().join("scratch");
    fs::create_dir(&scratch).unwrap();
    let before = runtime.live_state();
    runtime.vecsnap(&["drill", "--scratch"]).arg(&scratch).run().exits(0);
    runtime.live_state().assert_same(&before, "a drill touches nothing live");
    assert_eq!(fs::read_dir(&scratch).unwrap().count(), 0, "the drill left something behind");
    let record = fs::read_to_string(runtime.repo().join("drills.jsonl")).unwrap();
    assert!(!record.is_empty() && record.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()), "{record}");
}
