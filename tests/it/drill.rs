//! A drill proves that snapshots can be restored, touches nothing live, and keeps a record.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

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

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_copy_with_directories_that_may_not_be_changed_goes_too() {
    let runtime = Runtime::new();
    let outside = runtime.path().join("outside");
    let closed = runtime.chroma().join("closed");
    fs::create_dir(&outside).unwrap();
    fs::create_dir_all(closed.join("deeper")).unwrap();
    fs::write(closed.join("deeper/file"), "x").unwrap();
    symlink(&outside, closed.join("link")).unwrap();
    let all = [closed.join("deeper"), closed.clone(), outside.clone()];
    all.iter().for_each(|directory| chmod(directory, 0o555));
    runtime.create(&["--chroma"]);
    let scratch = runtime.path().join("scratch");
    fs::create_dir(&scratch).unwrap();
    let drill = runtime.vecsnap(&["drill", "--json", "--scratch"]).arg(&scratch).held_by_permissions();
    assert_eq!(drill.run().exits(0).json()["ok"], true);
    assert_eq!(fs::read_dir(&scratch).unwrap().count(), 0, "the drill left something behind");
    assert_eq!(fs::metadata(&outside).unwrap().permissions().mode() & 0o777, 0o555, "a link was followed");
    assert!(runtime.repo().join("drills.jsonl").exists());
    all.iter().for_each(|directory| chmod(directory, 0o755));
}
