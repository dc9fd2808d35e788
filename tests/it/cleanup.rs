//! Cleaning up after many snapshots of a service that changed a little each time.

use std::fs;

use crate::support::{Runtime, TreeState, damage};

/// Bytes of the repository, its index aside.
fn size(runtime: &Runtime) -> u64 {
    let files = damage::files_below(&runtime.repo()).into_iter();
    let counted = files.filter(|path| !path.file_name().unwrap().to_string_lossy().starts_with("index.sqlite"));
    counted.map(|path| fs::metadata(path).unwrap().len()).sum()
}

fn freed(runtime: &Runtime, arguments: &[&str]) -> u64 {
    let document = runtime.vecsnap(&["cleanup", "--json"]).args(arguments).run().exits(0).json();
    document.get("freed_bytes").or(document.get("would_free_bytes")).unwrap().as_u64().unwrap()
}

struct Kept {
    stamp: String,
    state: TreeState,
}

/// Takes a snapshot after each of so many small changes.
fn take(runtime: &Runtime, numbers: std::ops::Range<u32>) -> Vec<Kept> {
    let change = |number| {
        runtime.store().update(number * 17 % 2000);
        runtime.store().append(3);
        runtime.remember(&format!("memory {number}"));
        let state = runtime.live_state();
        Kept { stamp: runtime.create(&["--chroma", "--effort", "normal"]), state }
    };
    numbers.map(change).collect()
}

fn assert_restores(runtime: &Runtime, kept: &Kept) {
    let stamp = &kept.stamp;
    assert_eq!(runtime.vecsnap(&["validate", stamp]).json()["valid"], true, "{stamp}");
    runtime.restore(stamp, &["--no-pre-snapshot"]);
    runtime.live_state().assert_same(&kept.state, stamp);
}

#[test]
fn after_many_small_changes_cleanup_leaves_about_what_a_fresh_repository_would_take() {
    let runtime = Runtime::new();
    runtime.store().append(2000);
    let mut kept = take(&runtime, 0..24);
    kept.drain(..20);
    let before = size(&runtime);
    let told = freed(&runtime, &["--keep-last", "4"]);
    assert_eq!(size(&runtime), before, "a dry run changed something");
    let done = freed(&runtime, &["--keep-last", "4", "--confirm"]);
    let after = size(&runtime);
    assert!(done > 0);
    assert_eq!(done, before - after);
    assert!(told.abs_diff(done) < before / 20, "{told} would come back, {done} did");
    assert_eq!(runtime.snapshots(), kept.iter().map(|kept| kept.stamp.clone()).collect::<Vec<_>>());
    kept.iter().for_each(|kept| assert_restores(&runtime, kept));

    let again = freed(&runtime, &["--keep-last", "4", "--confirm"]);
    assert!(again < after / 100, "{again} of {after}");

    // Chains go on from what was left, and the next cleanup finds its way through them.
    kept.extend(take(&runtime, 30..33));
    kept.drain(..4);
    freed(&runtime, &["--keep-last", "3", "--confirm"]);
    kept.iter().for_each(|kept| assert_restores(&runtime, kept));

    // The same states in a repository of their own.
    let cleaned = size(&runtime);
    fs::rename(runtime.repo(), runtime.path().join("cleaned")).unwrap();
    for state in &kept {
        let cleaned = runtime.path().join("cleaned");
        let restore = runtime.vecsnap(&["restore", &state.stamp, "--confirm-service-stopped", "--no-pre-snapshot"]);
        restore.env("ATOCORE_BACKUP_DIR", cleaned).run().exits(0);
        runtime.create(&["--chroma", "--effort", "normal"]);
    }
    let fresh = size(&runtime);
    assert!(cleaned * 10 <= fresh * 12, "{cleaned} bytes were left, {fresh} are taken by a fresh repository");
}
