//! A repository that shares its directory with others: nothing of theirs is touched by any command.

use std::fs;
use std::path::Path;

use crate::support::{Runtime, TreeState};

/// What others keep where repositories keep theirs; each a file.
const OTHERS: [&str; 11] = [
    "README",
    "tmp/notes.txt",
    "tmp/work/deep/file",
    "tmp/work/owner.lock",
    "tmp/systemd-private-12/tmp/socket.txt",
    "tmp/systemd-private-12/owner.lock",
    "tmp/20260407T060000Z/manifest",
    "tmp/20260407T060000Z/notes",
    "packs/notes.txt",
    "snapshots/by-hand/file",
    "damaged/notes.txt",
];

fn settle(repo: &Path) {
    for other in OTHERS {
        let path = repo.join(other);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, if other.ends_with(".lock") { "" } else { "theirs" }).unwrap();
    }
}

#[test]
fn what_others_keep_in_its_directory_survives_every_command() {
    let runtime = Runtime::new();
    settle(&runtime.repo());
    runtime.vecsnap(&["init"]).run().exits(0).says(&["holds other things already", "left alone"]);
    let theirs = |runtime: &Runtime| OTHERS.map(|other| TreeState::of(&runtime.repo().join(other)));
    let before = theirs(&runtime);
    let first = runtime.create(&["--chroma"]);
    runtime.remember("second");
    let second = runtime.create(&["--chroma"]);
    runtime.restore(&first, &[]);
    runtime.create(&["--chroma"]);
    for command in [
        &["cleanup", "--keep-last", "1", "--confirm"][..],
        &["repair", "--confirm"],
        &["drill"],
        &["validate", "--all"],
        &["init"],
    ] {
        runtime.vecsnap(command).run().exits(0);
    }
    assert!(!runtime.snapshots().contains(&second), "the cleanup removed nothing");
    for (before, (after, other)) in before.iter().zip(theirs(&runtime).iter().zip(OTHERS)) {
        after.assert_same(before, other);
    }
}

#[test]
fn the_root_directory_is_no_place_for_a_repository() {
    let runtime = Runtime::new();
    let there = Path::new("/packs").exists();
    for root in ["/", "/tmp/..", "//"] {
        runtime.vecsnap(&["init", "--repo", root]).run().exits(2).prints_nothing().says(&["--repo"]);
        runtime.vecsnap(&["create", "--repo", root]).run().exits(2).prints_nothing();
    }
    assert_eq!(Path::new("/packs").exists(), there, "something was made");
}
