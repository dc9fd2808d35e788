//! The worst mornings: a wiped machine, garbage where the database was, and the wish to have the garbage back.

use std::fs;
use std::path::Path;

use crate::support::{Runtime, TreeState, noise};

/// A runtime that exists as a repository only, with the stamp of its snapshot and the state that it holds.
fn wiped() -> (Runtime, String, TreeState) {
    let runtime = Runtime::new();
    let stamp = runtime.create(&["--chroma"]);
    let state = runtime.live_state().without_directory_times();
    fs::remove_dir_all(runtime.data()).unwrap();
    fs::remove_dir_all(runtime.registry().parent().unwrap()).unwrap();
    (runtime, stamp, state)
}

#[test]
fn a_wiped_machine_restores() {
    for arguments in [&[][..], &["--no-pre-snapshot"]] {
        let (runtime, stamp, state) = wiped();
        let document = runtime.restore(&stamp, arguments);
        runtime.live_state().without_directory_times().assert_same(&state, "restored from nothing");
        assert_eq!(document["restored_integrity_ok"], true);
        assert_eq!(document["chroma_restored"], true);
        assert_eq!(document["pre_restore_snapshot"].is_null(), !arguments.is_empty());
    }
}

#[test]
fn undo_of_a_restore_onto_nothing_leaves_nothing() {
    let (runtime, stamp, _) = wiped();
    runtime.restore(&stamp, &[]);
    runtime.vecsnap(&["restore", "--undo", "--confirm-service-stopped", "--json"]).run().exits(0);
    assert!(!runtime.db().exists());
    assert!(!runtime.registry().exists());
}

#[test]
fn garbage_in_place_of_the_database_is_kept_raw_and_comes_back_byte_for_byte() {
    let header_only = [b"SQLite format 3\0".as_slice(), &noise::bytes("pages", 9000)].concat();
    for garbage in [noise::bytes("garbage", 10_000), header_only, b"short".to_vec()] {
        let runtime = Runtime::new();
        let stamp = runtime.create(&["--chroma"]);
        let registry = fs::read(runtime.registry()).unwrap();
        fs::write(runtime.db(), &garbage).unwrap();
        fs::write(runtime.registry(), "{ not json").unwrap();

        let document = runtime.restore(&stamp, &[]);
        assert_eq!(runtime.memories(), ["first"]);
        assert_eq!(fs::read(runtime.registry()).unwrap(), registry);
        let way_back = document["pre_restore_snapshot"].as_str().expect("there is a way back").to_owned();
        assert_eq!(fs::read(runtime.export(&way_back).db()).unwrap(), garbage, "kept raw");

        let undo = ["restore", "--undo", "--confirm-service-stopped", "--json"];
        let undone = runtime.vecsnap(&undo).run().exits(0).json();
        assert_eq!(undone["stamp"], way_back.as_str());
        assert!(fs::read(runtime.db()).unwrap() == garbage, "the garbage did not come back");
        assert_eq!(fs::read(runtime.registry()).unwrap(), b"{ not json");
        assert_eq!(runtime.snapshots().len(), 2, "going back takes no further snapshot");
    }
}

#[test]
fn undo_without_anything_to_undo_says_so() {
    let runtime = Runtime::new();
    let undo = ["restore", "--undo", "--confirm-service-stopped"];
    runtime.create(&[]);
    let before = runtime.live_state();
    let outcome = runtime.vecsnap(&undo).run();
    assert!(matches!(outcome.code, Some(1..=7)), "{outcome}");
    runtime.live_state().assert_same(&before, "nothing to undo");
}

#[test]
fn a_full_copy_of_the_old_layout_can_be_taken_from_a_snapshot_without_the_tool_later() {
    let (runtime, stamp, _) = wiped();
    let exported = runtime.export(&stamp);
    let metadata: serde_json::Value =
        serde_json::from_slice(&fs::read(exported.path().join("backup-metadata.json")).unwrap()).unwrap();
    for field in ["db_snapshot_path", "registry_snapshot_path", "chroma_snapshot_path"] {
        let path = Path::new(metadata[field].as_str().unwrap());
        assert!(path.starts_with(exported.path()) && path.exists(), "{field}: {}", path.display());
    }
}

#[test]
fn the_cleanup_of_the_night_after_a_restore_leaves_the_way_back() {
    let runtime = Runtime::new();
    let stamp = runtime.create(&["--chroma"]);
    runtime.remember("second");
    let before = runtime.memories();
    let way_back = runtime.restore(&stamp, &[])["pre_restore_snapshot"].as_str().unwrap().to_owned();
    runtime.create(&[]);
    let newest = runtime.create(&["--chroma"]);
    let cleanup = || runtime.vecsnap(&["cleanup", "--confirm", "--json"]).run().exits(0).json();
    // Rules that are given mean what they say.
    let given = runtime.vecsnap(&["cleanup", "--keep-last", "1", "--json"]).run().exits(0).json();
    assert_eq!(given["kept"], 1);
    assert_eq!(cleanup()["kept"], 2);
    assert_eq!(runtime.snapshots(), [way_back.clone(), newest.clone()]);
    let undo = ["restore", "--undo", "--confirm-service-stopped", "--json"];
    assert_eq!(runtime.vecsnap(&undo).run().exits(0).json()["stamp"], way_back.as_str());
    assert_eq!(runtime.memories(), before);
    // Once it has been put back, it is a snapshot as any other.
    assert_eq!(cleanup()["kept"], 1);
    assert_eq!(runtime.snapshots(), [newest]);
}

#[test]
fn a_cleanup_never_leaves_only_what_a_restore_kept_of_a_damaged_or_wiped_machine() {
    for (what, stays) in [("wiped", true), ("garbage", true), ("sound", false)] {
        let runtime = Runtime::new();
        let stamp = runtime.create(&["--chroma"]);
        match what {
            "wiped" => fs::remove_dir_all(runtime.data()).unwrap(),
            "garbage" => fs::write(runtime.db(), noise::bytes("garbage", 10_000)).unwrap(),
            _ => runtime.remember("second"),
        }
        let kept = runtime.restore(&stamp, &[])["pre_restore_snapshot"].as_str().unwrap().to_owned();
        let cleanup = |arguments: &[&str]| {
            let arguments = [&["cleanup", "--keep-last", "1", "--json"], arguments].concat();
            runtime.vecsnap(&arguments).run().exits(0)
        };
        let told = cleanup(&[]);
        assert_eq!(told.json()["would_delete"], u32::from(!stays), "{what}");
        let done = cleanup(&["--confirm"]);
        assert_eq!(done.json()["kept"], 1 + u32::from(stays), "{what}");
        if stays {
            for output in [told, done] {
                output.says(&[&stamp, "the newest with a sound database"]);
            }
            assert_eq!(runtime.snapshots(), [stamp.clone(), kept], "{what}");
            runtime.vecsnap(&["restore", "latest", "--confirm-service-stopped"]).run().exits(0);
        } else {
            assert_eq!(runtime.snapshots(), [kept], "what SQLite can read is as good as any other");
        }
    }
}
