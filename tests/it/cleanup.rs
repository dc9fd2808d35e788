//! Cleaning up after many snapshots of a service that changed a little each time.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

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

/// The packs of the repository, with their bytes.
fn packs(runtime: &Runtime) -> BTreeMap<PathBuf, u64> {
    let files = damage::files_below(&runtime.repo().join("packs")).into_iter();
    files.map(|path| (path.clone(), fs::metadata(path).unwrap().len())).collect()
}

/// Bytes that cleanups wrote, and what for.
#[derive(Debug, Default)]
struct Work {
    rewritten: u64,
    freed: u64,
    rebased: u64,
}

impl Work {
    /// Cleans up; what the document says must be what happened.
    fn clean(&mut self, runtime: &Runtime, keep: &str) {
        let (size_before, packs_before) = (size(runtime), packs(runtime));
        let document = runtime.vecsnap(&["cleanup", "--json", "--confirm", "--keep-last", keep]).run().exits(0).json();
        let figure = |name: &str| document[name].as_u64().unwrap();
        let new = packs(runtime).into_iter().filter(|(path, _)| !packs_before.contains_key(path));
        assert_eq!(figure("rewritten_bytes"), new.map(|(_, bytes)| bytes).sum::<u64>(), "{document}");
        assert!(figure("rebased_bytes") <= figure("rewritten_bytes"), "{document}");
        assert_eq!(size(runtime) + figure("freed_bytes"), size_before, "a cleanup added to the repository: {document}");
        self.rewritten += figure("rewritten_bytes");
        self.freed += figure("freed_bytes");
        self.rebased += figure("rebased_bytes");
    }

    fn assert_in_proportion(&self) {
        assert!(self.freed > 0, "{self:?}");
        assert!(self.rewritten <= 2 * (self.freed + self.rebased), "{self:?}");
    }
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
    let mut work = Work::default();
    work.clean(&runtime, "4");
    work.assert_in_proportion();
    let (after, done) = (size(&runtime), work.freed);
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

    assert_about_what_a_fresh_repository_takes(&runtime, &kept);
}

/// Takes the same states into a repository of their own.
fn assert_about_what_a_fresh_repository_takes(runtime: &Runtime, kept: &[Kept]) {
    let cleaned = size(runtime);
    fs::rename(runtime.repo(), runtime.path().join("cleaned")).unwrap();
    for state in kept {
        let cleaned = runtime.path().join("cleaned");
        let restore = runtime.vecsnap(&["restore", &state.stamp, "--confirm-service-stopped", "--no-pre-snapshot"]);
        restore.env("ATOCORE_BACKUP_DIR", cleaned).run().exits(0);
        runtime.create(&["--chroma", "--effort", "normal"]);
    }
    let fresh = size(runtime);
    assert!(cleaned * 10 <= fresh * 12, "{cleaned} bytes were left, {fresh} are taken by a fresh repository");
}

#[test]
fn cleanups_after_each_snapshot_neither_pile_up_waste_nor_write_everything_again() {
    let runtime = Runtime::new();
    runtime.store().append(2000);
    let mut kept = take(&runtime, 0..4);
    let (before, mut work) = (size(&runtime), Work::default());
    for number in 4..28 {
        kept.extend(take(&runtime, number..number + 1));
        kept.remove(0);
        work.clean(&runtime, "4");
    }
    work.assert_in_proportion();
    assert!(work.rewritten < before * 2, "{work:?} in a repository of {before} bytes");
    assert_eq!(runtime.snapshots(), kept.iter().map(|kept| kept.stamp.clone()).collect::<Vec<_>>());
    kept.iter().for_each(|kept| assert_restores(&runtime, kept));
    assert_about_what_a_fresh_repository_takes(&runtime, &kept);
}
