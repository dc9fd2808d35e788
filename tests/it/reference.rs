//! What operators rely on since the tool that took full copies: its behaviours, one test each.

use std::fs;
use std::os::unix::fs::MetadataExt;

use crate::support::runtime::memories_of;
use crate::support::{Journal, Runtime, TreeState};

#[test]
fn a_snapshot_holds_database_and_registry() {
    let runtime = Runtime::with_journal(Journal::Wal);
    let document = runtime.vecsnap(&["create", "--json"]).json();
    let stamp = document["stamp"].as_str().unwrap();

    let exported = runtime.export(stamp);
    assert_eq!(memories_of(&exported.db()), ["first"]);
    assert_eq!(fs::read(exported.registry()).unwrap(), fs::read(runtime.registry()).unwrap());
    assert!(!exported.chroma().exists());

    let backup_root = runtime.snapshot(stamp);
    let place = |name: &str| backup_root.join(name).display().to_string();
    assert_eq!(document["backup_root"], place("").trim_end_matches('/'));
    assert_eq!(document["db_snapshot_path"], place("db/atocore.db"));
    assert_eq!(document["registry_snapshot_path"], place("config/project-registry.json"));
    assert_eq!(document["chroma_snapshot_path"], "");
    assert_eq!(document["chroma_snapshot_included"], false);
    assert!(document["vector_store_note"].as_str().unwrap().starts_with("Chroma hot backup is not included;"));
    assert!(backup_root.join("backup-metadata.json").is_file());
}

#[test]
fn chroma_is_captured_when_asked() {
    let runtime = Runtime::new();
    let document = runtime.vecsnap(&["create", "--chroma", "--json"]).json();
    let stamp = document["stamp"].as_str().unwrap();
    assert_eq!(document["chroma_snapshot_included"], true);
    assert_eq!(document["chroma_snapshot_files"], 6);
    assert!(document["chroma_snapshot_bytes"].as_u64().unwrap() > 50_000);
    assert!(document["vector_store_note"].as_str().unwrap().starts_with("Chroma snapshot included"));

    let exported = runtime.export(stamp);
    TreeState::logical(&exported.chroma())
        .assert_same(&TreeState::logical(&runtime.chroma()), "the vector store in the snapshot");
}

#[test]
fn a_missing_chroma_directory_is_no_error_and_a_warning() {
    let runtime = Runtime::new();
    fs::remove_dir_all(runtime.chroma()).unwrap();
    let outcome = runtime.vecsnap(&["create", "--chroma", "--json"]).run().exits(0);
    let document = outcome.json();
    assert_eq!(document["chroma_snapshot_path"], "");
    assert_eq!(document["chroma_snapshot_files"], 0);
    assert_eq!(document["chroma_snapshot_bytes"], 0);
    outcome.says(&["chroma_snapshot_skipped_missing"]);
}

#[test]
fn a_missing_registry_is_tolerated() {
    let runtime = Runtime::new();
    fs::remove_file(runtime.registry()).unwrap();
    let document = runtime.vecsnap(&["create", "--json"]).json();
    assert_eq!(document["registry_snapshot_path"], "");
    assert_eq!(document["validated"], true);
    let validation = runtime.vecsnap(&["validate", "latest", "--json"]).json();
    assert_eq!(validation["registry_ok"], serde_json::Value::Null);
    assert_eq!(validation["valid"], true);
}

#[test]
fn a_missing_registry_is_told_and_so_is_the_snapshot_that_holds_the_last_one() {
    let runtime = Runtime::new();
    fs::rename(runtime.registry(), runtime.path().join("elsewhere")).unwrap();
    let never = runtime.vecsnap(&["create", "--json"]).run().exits(0);
    let path = runtime.registry().display().to_string();
    let told = ["registry_snapshot_skipped_missing", path.as_str(), "ATOCORE_PROJECT_REGISTRY_PATH"];
    assert!(!never.says(&told).stderr.contains("is gone"));

    fs::rename(runtime.path().join("elsewhere"), runtime.registry()).unwrap();
    let last = runtime.create(&[]);
    fs::remove_file(runtime.registry()).unwrap();
    for _ in 0..2 {
        let gone = runtime.vecsnap(&["create", "--json"]).run().exits(0).says(&told).says(&["is gone", &last]);
        assert_eq!(gone.stderr.lines().count(), 1, "{gone}");
        assert_eq!(gone.json()["registry_snapshot_path"], "");
    }
    let quiet = runtime.vecsnap(&["create", "--quiet"]).run().exits(0).prints_nothing();
    assert_eq!(quiet.stderr, "", "a warning is no error");
}

#[test]
fn snapshots_are_listed_and_validated_and_a_stamp_that_is_not_there_is_named_so() {
    let runtime = Runtime::new();
    let first = runtime.create(&[]);
    runtime.remember("second");
    let second = runtime.create(&[]);
    assert!(first < second);

    let listed = runtime.vecsnap(&["list", "--json"]).json();
    let stamps: Vec<_> = listed["backups"].as_array().unwrap().iter().map(|backup| backup["stamp"].clone()).collect();
    assert_eq!(stamps, [first.as_str(), second.as_str()]);
    assert_eq!(listed["backups"][0]["has_metadata"], true);
    assert!(listed["backups"][0]["metadata"]["db_size_bytes"].as_u64().unwrap() > 0);

    let validation = runtime.vecsnap(&["validate", &first, "--json"]).json();
    assert_eq!(validation["stamp"], first.as_str());
    assert_eq!(validation["exists"], true);
    assert_eq!(validation["db_ok"], true);
    assert_eq!(validation["registry_ok"], true);
    assert_eq!(validation["chroma_ok"], serde_json::Value::Null);
    assert_eq!(validation["errors"], serde_json::json!([]));
    assert_eq!(validation["valid"], true);

    let missing = runtime.vecsnap(&["validate", "20000101T000000Z", "--json"]).run().exits(3).json();
    assert_eq!(missing["exists"], false);
    assert_eq!(missing["errors"], serde_json::json!(["snapshot_directory_missing"]));
    assert_eq!(missing["valid"], false);
}

#[test]
fn a_restore_without_the_confirmation_is_refused_and_touches_nothing() {
    let runtime = Runtime::new();
    let stamp = runtime.create(&["--chroma"]);
    runtime.remember("second");
    let before = TreeState::of(runtime.path());
    runtime.vecsnap(&["restore", &stamp]).run().exits(5).prints_nothing().says(&["confirm_service_stopped"]);
    TreeState::of(runtime.path()).assert_same(&before, "after the refusal");
}

#[test]
fn a_snapshot_that_is_not_valid_is_not_restored() {
    let runtime = Runtime::new();
    let stamp = runtime.create(&["--chroma"]);
    runtime.remember("second");
    let before = runtime.live_state();
    fs::remove_file(runtime.snapshot(&stamp).join("manifest")).unwrap();
    let confirmed = ["restore", stamp.as_str(), "--confirm-service-stopped"];
    let said = format!("backup {stamp} failed validation: manifest_missing");
    runtime.vecsnap(&confirmed).run().exits(3).prints_nothing().says(&[&said]);
    let never = ["restore", "20000101T000000Z", "--confirm-service-stopped"];
    runtime.vecsnap(&never).run().exits(3).says(&["snapshot_directory_missing"]);
    runtime.live_state().assert_same(&before, "after the refusals");
    assert_eq!(runtime.snapshots().len(), 1, "a pre-restore snapshot was taken for nothing");
}

#[test]
fn a_round_trip_reverses_changes_and_leaves_a_way_back() {
    for journal in [Journal::Rollback, Journal::Wal] {
        let runtime = Runtime::with_journal(journal);
        let baseline = runtime.create(&[]);
        let before = runtime.live_state();
        runtime.remember("marker");
        runtime.write_registry("p02");

        let document = runtime.restore(&baseline, &[]);
        assert_eq!(runtime.memories(), ["first"]);
        assert_eq!(runtime.registered(), "p01");
        runtime.live_state().without_directory_times().assert_same(&before.without_directory_times(), "restored");
        assert_eq!(document["stamp"], baseline.as_str());
        assert_eq!(document["target_db"], runtime.db().display().to_string());
        for field in ["db_restored", "registry_restored", "restored_integrity_ok"] {
            assert_eq!(document[field], true, "{field}");
        }
        assert_eq!(document["chroma_restored"], false);

        let way_back = document["pre_restore_snapshot"].as_str().unwrap();
        assert_eq!(runtime.snapshots(), [baseline.as_str(), way_back]);
        assert_eq!(memories_of(&runtime.export(way_back).db()), ["first", "marker"]);
        assert_eq!(memories_of(&runtime.export(&baseline).db()), ["first"]);

        runtime.restore(way_back, &["--no-pre-snapshot"]);
        assert_eq!(runtime.memories(), ["first", "marker"]);
        assert_eq!(runtime.registered(), "p02");
    }
}

#[test]
fn a_round_trip_with_chroma_brings_back_what_was_removed_and_removes_what_was_added() {
    let runtime = Runtime::new();
    let store = runtime.store();
    let stamp = runtime.create(&["--chroma"]);
    let before = runtime.live_state();
    store.append(20);
    store.update(7);
    fs::remove_file(store.file("length.bin")).unwrap();
    fs::write(runtime.chroma().join("added.bin"), "added").unwrap();
    fs::create_dir(runtime.chroma().join("added")).unwrap();
    fs::write(runtime.chroma().join("added/deep.bin"), "added").unwrap();
    let changed = runtime.live_state();

    let document = runtime.restore(&stamp, &["--chroma"]);
    assert_eq!(document["chroma_restored"], true);
    runtime.live_state().without_directory_times().assert_same(&before.without_directory_times(), "restored");

    let way_back = document["pre_restore_snapshot"].as_str().unwrap();
    runtime.restore(way_back, &["--no-pre-snapshot"]);
    runtime.live_state().without_directory_times().assert_same(&changed.without_directory_times(), "and back");
}

#[test]
fn the_pre_restore_snapshot_is_skipped_on_request() {
    let runtime = Runtime::new();
    let stamp = runtime.create(&[]);
    runtime.remember("marker");
    let document = runtime.restore(&stamp, &["--no-pre-snapshot"]);
    assert_eq!(document["pre_restore_snapshot"], serde_json::Value::Null);
    assert_eq!(runtime.snapshots(), [stamp]);
    assert_eq!(runtime.memories(), ["first"]);
}

#[test]
fn stale_bytes_beside_the_database_are_gone_after_a_restore() {
    for suffix in ["-wal", "-shm", "-journal"] {
        let runtime = Runtime::new();
        let stamp = runtime.create(&[]);
        let stale = runtime.db().with_file_name(format!("atocore.db{suffix}"));
        fs::write(&stale, format!("stale bytes of {suffix}")).unwrap();
        runtime.restore(&stamp, &[]);
        assert!(!stale.exists(), "{suffix}");
        assert_eq!(runtime.memories(), ["first"], "{suffix}");
    }
}

#[test]
fn directories_and_files_keep_their_inodes() {
    let runtime = Runtime::new();
    let stamp = runtime.create(&["--chroma"]);
    runtime.remember("marker");
    runtime.store().append(20);
    let places = [
        runtime.db(),
        runtime.registry(),
        runtime.chroma(),
        runtime.store().database(),
        runtime.store().segment(),
        runtime.store().file("data_level0.bin"),
    ];
    let inodes = || places.clone().map(|path| fs::metadata(path).unwrap().ino());
    let before = inodes();
    runtime.restore(&stamp, &[]);
    assert_eq!(inodes(), before);
    assert_eq!(runtime.store().count(), 300);
}

#[test]
fn chroma_is_left_alone_on_request_and_missed_with_a_warning() {
    let runtime = Runtime::new();
    let with = runtime.create(&["--chroma"]);
    let without = runtime.create(&[]);
    runtime.store().append(5);
    assert_eq!(runtime.restore(&with, &["--no-chroma", "--no-pre-snapshot"])["chroma_restored"], false);
    assert_eq!(runtime.store().count(), 305);

    let call = ["restore", without.as_str(), "--confirm-service-stopped", "--chroma", "--no-pre-snapshot", "--json"];
    let outcome = runtime.vecsnap(&call).run().exits(0);
    assert_eq!(outcome.json()["chroma_restored"], false);
    outcome.says(&["Chroma"]);
    runtime.vecsnap(&["restore", &with, "--chroma", "--no-chroma", "--confirm-service-stopped"]).run().exits(2);
}
