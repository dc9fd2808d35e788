//! How things stand, as cron asks: ages, verdicts, unfinished restores, records, room; and the dead-man check.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::Value;

use crate::support::command::keys;
use crate::support::{Runtime, TreeState, damage, noise};

const FIELDS: [&str; 16] = [
    "repository",
    "exists",
    "attention",
    "last_snapshot",
    "last_sound_stamp",
    "last_sound_age_s",
    "max_age_s",
    "within_max_age",
    "last_chroma_snapshot",
    "snapshots_in_future",
    "pending_restore",
    "last_validation",
    "last_drill",
    "space",
    "damaged_packs",
    "damaged_packs_bytes",
];

#[test]
fn without_a_repository_there_is_nothing_and_the_check_fails_in_one_sentence() {
    let runtime = Runtime::new();
    let document = runtime.vecsnap(&["status", "--json"]).json();
    assert_eq!(keys(&document), FIELDS);
    assert_eq!((&document["exists"], &document["last_snapshot"]), (&false.into(), &Value::Null));
    let outcome =
        runtime.vecsnap(&["status", "--max-age", "26h", "--json"]).run().exits(1).says(&["no repository", "1day 2h"]);
    assert_eq!(outcome.stderr.lines().count(), 1, "{outcome}");
    assert_eq!(outcome.json()["within_max_age"], false);
    assert!(!runtime.repo().exists());
    runtime.vecsnap(&["status", "--max-age", "soon"]).run().exits(2);
}

#[test]
fn the_last_snapshots_validation_drill_and_room_are_told() {
    let runtime = Runtime::new();
    let with_chroma = runtime.create(&["--chroma"]);
    let stamp = runtime.create(&[]);
    let fresh = runtime.vecsnap(&["status", "--max-age", "90m", "--json"]).json();
    assert_eq!(keys(&fresh), FIELDS);
    assert_eq!((&fresh["within_max_age"], &fresh["max_age_s"]), (&true.into(), &5400.into()));
    assert_eq!((&fresh["last_validation"], &fresh["last_drill"]), (&Value::Null, &Value::Null));
    assert_eq!(fresh["attention"], serde_json::json!([]));
    let last = &fresh["last_snapshot"];
    assert_eq!((&last["stamp"], &last["sound"]), (&stamp.as_str().into(), &true.into()));
    assert_eq!((&last["sources"][0]["name"], &last["sources"][0]["integrity"]), (&"db".into(), &"ok".into()));
    assert_eq!(fresh["last_chroma_snapshot"]["stamp"], with_chroma.as_str());
    let space = fresh["space"].as_array().unwrap();
    assert_eq!((&space[0]["for"], &space[1]["for"]), (&"snapshot".into(), &"restore".into()));
    assert!(space.iter().all(|room| room["free_bytes"].as_u64().unwrap() > 0 && room["enough"] == true), "{fresh:#}");
    let db = fs::metadata(runtime.db()).unwrap().len();
    assert!(space[0]["needed_at_most_bytes"].as_u64().unwrap() > 2 * db);
    assert_eq!(space[1]["needed_at_most_bytes"], 0, "everything is there already: {fresh:#}");

    runtime.vecsnap(&["validate", &stamp, "--quick"]).run().exits(0);
    runtime.vecsnap(&["validate", &with_chroma]).run().exits(0);
    runtime.vecsnap(&["drill", &stamp, "--scratch"]).arg(runtime.path()).run().exits(0);
    let told = runtime.vecsnap(&["status", "--json"]).json();
    let validation = &told["last_validation"];
    assert_eq!(keys(validation), ["at", "age_s", "stamp", "extent", "ok", "errors", "duration_s"]);
    assert_eq!((&validation["stamp"], &validation["extent"]), (&with_chroma.as_str().into(), &"full".into()));
    assert_eq!((&told["last_drill"]["stamp"], &told["last_drill"]["ok"]), (&stamp.as_str().into(), &true.into()));
    runtime.vecsnap(&["validate", "--all"]).run().exits(0);
    let told = runtime.vecsnap(&["status", "--json"]).json();
    assert_eq!((&told["last_validation"]["stamp"], &told["last_validation"]["ok"]), (&Value::Null, &true.into()));
    fs::remove_dir_all(runtime.chroma()).unwrap();
    let wiped = runtime.vecsnap(&["status", "--json"]).json();
    assert!(wiped["space"][1]["needed_at_most_bytes"].as_u64().unwrap() > 100_000, "{wiped:#}");
}

#[test]
fn what_is_not_sound_does_not_keep_the_check_quiet() {
    let runtime = Runtime::new();
    let sound = runtime.create(&[]);
    let damaged = runtime.create(&[]);
    runtime.vecsnap(&["status", "--max-age", "1h", "--quiet"]).run().exits(0);
    fs::write(runtime.snapshot(&damaged).join("manifest"), "garbage").unwrap();
    let told = runtime.vecsnap(&["status", "--json"]).json();
    assert_eq!(
        (&told["last_snapshot"]["stamp"], &told["last_snapshot"]["sound"]),
        (&damaged.as_str().into(), &false.into())
    );
    assert_eq!(told["last_sound_stamp"], sound.as_str());
    assert!(told["attention"][0].as_str().unwrap().contains(&damaged), "{told:#}");
    fs::remove_dir_all(runtime.snapshot(&damaged)).unwrap();
    // The sound one is found damaged: nothing is left to count from.
    fs::remove_dir_all(runtime.repo().join("packs")).unwrap();
    runtime.vecsnap(&["validate", &sound]).run().exits(3);
    let outcome = runtime.vecsnap(&["status", "--max-age", "1h", "--json"]).run().exits(1).says(&["no sound snapshot"]);
    assert_eq!(outcome.json()["last_snapshot"]["sound"], false);
}

#[test]
fn what_create_found_wrong_does_not_keep_the_check_quiet() {
    let runtime = Runtime::new();
    let sound = runtime.create(&[]);
    fs::write(runtime.registry(), "{").unwrap();
    let no_json = runtime.vecsnap(&["create", "--json"]).run().exits(3).json();
    let told = runtime.vecsnap(&["status", "--json"]).json();
    let last = &told["last_snapshot"];
    assert_eq!((&last["stamp"], &last["sound"]), (&no_json["stamp"], &false.into()), "{told:#}");
    assert_eq!(last["errors"], no_json["validation_errors"]);
    assert!(last["errors"][0].as_str().unwrap().starts_with("registry_invalid_json: "), "{told:#}");
    assert_eq!(told["last_sound_stamp"], sound.as_str());

    runtime.write_registry("p01");
    runtime.store().write_header(299);
    let suspect = runtime.vecsnap(&["create", "--chroma", "--json"]).run().exits(3).json();
    let told = runtime.vecsnap(&["status", "--json"]).json();
    assert_eq!(told["last_snapshot"]["stamp"], suspect["stamp"]);
    assert_eq!(told["last_snapshot"]["errors"], suspect["validation_errors"]);
    assert_eq!(told["last_sound_stamp"], sound.as_str());

    // A restore refuses a snapshot without its description.
    fs::remove_file(runtime.snapshot(&sound).join("backup-metadata.json")).unwrap();
    runtime.vecsnap(&["status", "--max-age", "1h"]).run().exits(1).says(&["no sound snapshot"]);
}

#[test]
fn a_vector_store_that_was_left_out_is_told_until_one_is_captured() {
    let runtime = Runtime::new();
    let holder = runtime.create(&["--chroma"]);
    let large = "CREATE TABLE large(x); INSERT INTO large VALUES(zeroblob(8000000))";
    rusqlite::Connection::open(runtime.store().database()).unwrap().execute_batch(large).unwrap();
    let created = runtime.vecsnap(&["create", "--chroma", "--max-block", "0", "--json"]).run().exits(4).json();
    let left_out = created["stamp"].as_str().unwrap();
    // It is still missing from a snapshot that does not ask for it.
    runtime.create(&[]);
    let told = runtime.vecsnap(&["status", "--json"]).json();
    let sentence = told["attention"][0].as_str().unwrap();
    assert!(sentence.contains(left_out) && sentence.contains(&holder) && sentence.contains(" old"), "{sentence}");
    runtime.create(&["--chroma"]);
    assert_eq!(runtime.vecsnap(&["status", "--json"]).json()["attention"], serde_json::json!([]));
}

#[test]
fn old_and_future_snapshots_do_not_keep_the_check_quiet() {
    let runtime = Runtime::new();
    let stamp = runtime.create(&[]);
    std::thread::sleep(std::time::Duration::from_millis(2100));
    let outcome = runtime.vecsnap(&["status", "--max-age", "1s"]).run().exits(1);
    outcome.says(&[&stamp, "old, more than 1s"]);
    // A restore's own snapshot is no proof that cron runs.
    runtime.restore(&stamp, &[]);
    runtime.vecsnap(&["status", "--max-age", "1s"]).run().exits(1).says(&[&stamp]);
    fs::create_dir(runtime.snapshot("29990101T000000Z")).unwrap();
    let told = runtime.vecsnap(&["status", "--json"]).json();
    assert_eq!((&told["snapshots_in_future"], &told["last_snapshot"]["stamp"]), (&1.into(), &stamp.as_str().into()));
}

#[test]
fn an_unfinished_restore_is_told_with_the_ways_on() {
    let runtime = Runtime::new();
    let stamp = runtime.create(&[]);
    let intent = serde_json::json!({
        "format_version": 1, "stamp": stamp, "pre_restore_snapshot": null,
        "started_at": "2026-04-07T08:00:01.000000+00:00", "targets": [],
    });
    fs::write(runtime.repo().join("intents/restore.json"), intent.to_string()).unwrap();
    let told = runtime.vecsnap(&["status", "--json"]).run().exits(0).json();
    let pending = &told["pending_restore"];
    assert_eq!((&pending["stamp"], &pending["undo"]), (&stamp.as_str().into(), &false.into()));
    assert!(pending["advice"].as_str().unwrap().contains("--resume --confirm-service-stopped"), "{told:#}");
    assert!(told["attention"][0].as_str().unwrap().contains("unfinished"), "{told:#}");
    // Cron's check says so too, and nothing else.
    let outcome = runtime.vecsnap(&["status", "--max-age", "26h", "--quiet"]).run().exits(0).says(&["unfinished"]);
    assert_eq!((outcome.stderr.lines().count(), outcome.stdout.as_str()), (1, ""), "{outcome}");
}

#[test]
fn a_source_that_vanished_or_became_empty_is_told_until_a_snapshot_holds_it_again() {
    let runtime = Runtime::new();
    let attention = || {
        let told = runtime.vecsnap(&["status", "--json"]).json();
        told["attention"].as_array().unwrap().iter().map(|said| said.as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    fs::rename(runtime.registry(), runtime.path().join("aside")).unwrap();
    runtime.create(&[]);
    assert!(attention().is_empty(), "a registry that never was is not missed");
    fs::rename(runtime.path().join("aside"), runtime.registry()).unwrap();
    let holder = runtime.create(&["--chroma"]);
    // As if both were on a disk that is not mounted.
    fs::rename(runtime.registry(), runtime.path().join("aside")).unwrap();
    fs::rename(runtime.chroma(), runtime.path().join("chroma aside")).unwrap();
    fs::create_dir(runtime.chroma()).unwrap();
    let created =
        runtime.vecsnap(&["create", "--chroma", "--json"]).run().exits(0).says(&["it is empty", &holder]).json();
    let without = created["stamp"].as_str().unwrap();
    runtime.create(&[]);
    let said = attention();
    assert_eq!(said.len(), 2, "{said:?}");
    assert!(said[0].starts_with("registry was not there") && said[1].starts_with("chroma was empty"), "{said:?}");
    assert!(said.iter().all(|said| said.contains(&holder) && said.contains(" old")), "{said:?}");
    assert!(said[1].contains(without), "{said:?}");
    fs::rename(runtime.path().join("aside"), runtime.registry()).unwrap();
    fs::remove_dir(runtime.chroma()).unwrap();
    runtime.create(&["--chroma"]);
    let said = attention();
    assert!(said.len() == 1 && said[0].starts_with("chroma was not there"), "{said:?}");
    fs::rename(runtime.path().join("chroma aside"), runtime.chroma()).unwrap();
    runtime.create(&["--chroma"]);
    assert!(attention().is_empty());
}

#[test]
fn damage_is_not_forgotten_because_something_else_was_found_sound() {
    let runtime = Runtime::new();
    let other = runtime.create(&[]);
    fs::write(runtime.registry(), noise::bytes("long registry", 100_000)).unwrap();
    let damaged = runtime.vecsnap(&["create", "--json"]).run().exits(3).json()["stamp"].as_str().unwrap().to_owned();
    runtime.write_registry("p01");
    let pack = damage::packs(&runtime.repo()).into_iter().max_by_key(|pack| fs::metadata(pack).unwrap().len()).unwrap();
    fs::rename(&pack, runtime.path().join("pack")).unwrap();
    runtime.vecsnap(&["validate", &damaged]).run().exits(3);
    runtime.vecsnap(&["validate", &other, "--quick"]).run();
    let told = runtime.vecsnap(&["status", "--json"]).json();
    assert_eq!(told["last_snapshot"]["stamp"], damaged.as_str());
    assert!(told["last_snapshot"]["errors"].to_string().contains("validate found at"), "{told:#}");
    assert!(told["attention"].to_string().contains(&format!("vecsnap validate {damaged}")), "{told:#}");
    fs::rename(runtime.path().join("pack"), &pack).unwrap();
    runtime.vecsnap(&["validate", &damaged]).run();
    runtime.vecsnap(&["validate", "--all"]).run();
    let told = runtime.vecsnap(&["status", "--json"]).json();
    assert!(!told["last_snapshot"]["errors"].to_string().contains("chunk_missing"), "{told:#}");
}

#[test]
fn it_asks_without_a_lock_and_of_a_repository_that_may_only_be_read() {
    let runtime = Runtime::new();
    let stamp = runtime.create(&["--chroma"]);
    let lock = fs::File::options().append(true).open(runtime.repo().join("lock")).unwrap();
    lock.lock().unwrap();
    let told = runtime.vecsnap(&["status", "--json", "--lock-wait", "0"]).json();
    assert_eq!(told["last_snapshot"]["stamp"], stamp.as_str());
    drop(lock);
    for entry in walkdir::WalkDir::new(runtime.repo()).contents_first(true) {
        let entry = entry.unwrap();
        let mode = if entry.file_type().is_dir() { 0o500 } else { 0o400 };
        fs::set_permissions(entry.path(), fs::Permissions::from_mode(mode)).unwrap();
    }
    let before = TreeState::of(&runtime.repo());
    runtime.vecsnap(&["validate", &stamp, "--quiet"]).held_by_permissions().run().exits(0).says(&[]);
    let told = runtime.vecsnap(&["status", "--max-age", "1h", "--json"]).held_by_permissions().json();
    assert_eq!((&told["last_validation"], &told["within_max_age"]), (&Value::Null, &true.into()));
    TreeState::of(&runtime.repo()).assert_same(&before, "a repository that may only be read");
    for entry in walkdir::WalkDir::new(runtime.repo()) {
        let entry = entry.unwrap();
        fs::set_permissions(entry.path(), fs::Permissions::from_mode(0o700)).unwrap();
    }
}
