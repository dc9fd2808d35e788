//! Calls of restore that cannot be followed: each has its exit code and sentence, and touches nothing.

use std::fs;

use crate::support::{Runtime, TreeState};

const CONFIRMED: &str = "--confirm-service-stopped";

#[test]
fn without_a_repository_nothing_is_restored_or_created() {
    let runtime = Runtime::new();
    for call in [&["restore", "latest", CONFIRMED][..], &["restore", "20260406T180000Z", "--dry-run"]] {
        runtime.vecsnap(call).run().exits(3).prints_nothing().says(&["no repository"]);
    }
    let out = runtime.path().join("out");
    runtime.vecsnap(&["restore", "latest", "--to"]).arg(&out).run().exits(3);
    assert!(!runtime.repo().exists() && !out.exists());
}

#[test]
fn snapshots_that_are_not_there_or_not_ours_are_named() {
    let runtime = Runtime::new();
    runtime.create(&[]);
    let before = TreeState::of(&runtime.data());
    let missing = runtime.vecsnap(&["restore", "20200101T000000Z", CONFIRMED]).run().exits(3).prints_nothing();
    missing.says(&["backup 20200101T000000Z failed validation: snapshot_directory_missing", "vecsnap list"]);
    fs::create_dir_all(runtime.snapshot("20210101T000000Z").join("db")).unwrap();
    fs::write(runtime.snapshot("20210101T000000Z").join("backup-metadata.json"), "{}").unwrap();
    let copy = runtime.vecsnap(&["restore", "20210101T000000Z", CONFIRMED]).run().exits(3).prints_nothing();
    copy.says(&["full copy", "import"]);
    TreeState::of(&runtime.data()).assert_same(&before, "after the refusals");
}

#[test]
fn a_directory_that_is_not_empty_is_not_written_into() {
    let runtime = Runtime::new();
    let stamp = runtime.create(&[]);
    let out = runtime.path().join("out");
    fs::create_dir(&out).unwrap();
    fs::write(out.join("precious"), "precious").unwrap();
    runtime.vecsnap(&["restore", &stamp, "--to"]).arg(&out).run().exits(5).prints_nothing().says(&["not empty"]);
    assert_eq!(fs::read_dir(&out).unwrap().count(), 1);
}

#[test]
fn a_database_inside_the_tree_that_is_restored_is_bad_usage() {
    let runtime = Runtime::new();
    let stamp = runtime.create(&["--chroma"]);
    let inside = runtime.chroma().join("atocore.db");
    let call = runtime.vecsnap(&["restore", &stamp, CONFIRMED, "--db"]).arg(&inside);
    call.run().exits(2).prints_nothing().says(&["keep them apart"]);
    assert!(!inside.exists());
}

#[test]
fn a_dry_run_shows_its_plan_and_needs_no_confirmation() {
    let runtime = Runtime::new();
    let stamp = runtime.create(&["--chroma"]);
    runtime.remember("marker");
    fs::remove_file(runtime.store().file("length.bin")).unwrap();
    fs::write(runtime.chroma().join("stranger"), "x").unwrap();
    let plan = runtime.vecsnap(&["restore", &stamp, "--dry-run", "--json"]).json();
    assert_eq!((&plan["stamp"], &plan["dry_run"]), (&stamp.as_str().into(), &true.into()));
    let chroma = &plan["sources"][2];
    assert_eq!(chroma["name"], "chroma");
    assert_eq!((&chroma["files_to_create"], &chroma["files_to_remove"]), (&1.into(), &1.into()));
    assert_eq!(chroma["removed_names"], serde_json::json!(["stranger"]));
    let announced = |source: &serde_json::Value| source["bytes_to_write_at_most"].as_u64().unwrap();
    assert!(announced(&plan["sources"][0]) > 0);
    let done = runtime.restore(&stamp, &["--no-pre-snapshot"]);
    let written = done["bytes_written"].as_u64().unwrap();
    assert!(written <= plan["sources"].as_array().unwrap().iter().map(announced).sum(), "{plan:#} {done:#}");
    let again = runtime.vecsnap(&["restore", &stamp, "--dry-run", "--json"]).json();
    let done = runtime.restore(&stamp, &["--no-pre-snapshot"]);
    let written = done["bytes_written"].as_u64().unwrap();
    assert!(written <= again["sources"].as_array().unwrap().iter().map(announced).sum(), "{again:#} {done:#}");
}

#[test]
fn a_snapshot_whose_description_is_lost_is_not_valid_and_is_restored_only_elsewhere() {
    for (content, code) in [(None, "metadata_missing"), (Some("{"), "metadata_invalid_json: ")] {
        let runtime = Runtime::new();
        let stamp = runtime.create(&[]);
        let description = runtime.snapshot(&stamp).join("backup-metadata.json");
        fs::remove_file(&description).unwrap();
        if let Some(content) = content {
            fs::write(&description, content).unwrap();
        }
        let before = runtime.live_state();
        let said = format!("backup {stamp} failed validation: {code}");
        runtime.vecsnap(&["restore", &stamp, CONFIRMED]).run().exits(3).prints_nothing().says(&[&said]);
        runtime.live_state().assert_same(&before, "after the refusal");
        runtime.vecsnap(&["restore", &stamp, "--to"]).arg(runtime.path().join("out")).run().exits(0);
    }
}

#[test]
fn a_full_copy_is_told_from_nothing_also_where_no_repository_is_yet() {
    let runtime = Runtime::new();
    let copy = runtime.snapshot("20250101T000000Z");
    fs::create_dir_all(copy.join("db")).unwrap();
    fs::write(copy.join("backup-metadata.json"), "{}").unwrap();
    let call = ["restore", "20250101T000000Z", CONFIRMED];
    runtime.vecsnap(&call).run().exits(3).prints_nothing().says(&["full copy", "`import`"]);
    runtime.create(&[]);
    runtime.vecsnap(&call).run().exits(3).prints_nothing().says(&["full copy", "`import`"]);
}

#[test]
fn one_path_is_not_restored_to_twice() {
    let runtime = Runtime::new();
    let stamp = runtime.create(&[]);
    let before = runtime.live_state();
    for name in ["", "-wal"] {
        let call = runtime
            .vecsnap(&["restore", &stamp, CONFIRMED, "--registry"])
            .arg(format!("{}{name}", runtime.db().display()));
        call.run().exits(2).prints_nothing().says(&["give each a path of its own"]);
    }
    runtime.live_state().assert_same(&before, "one path for two sources");
}

#[test]
fn neither_a_repository_nor_plain_files_go_into_the_live_store_or_another_repository() {
    let runtime = Runtime::new();
    let stamp = runtime.create(&["--chroma"]);
    let in_store = runtime.chroma().join("x");
    for arguments in [&["restore", &stamp, "--to"][..], &["init", "--repo"], &["create", "--repo"]] {
        let call = runtime.vecsnap(arguments).arg(&in_store);
        call.run().exits(2).prints_nothing();
        assert!(!in_store.exists(), "{arguments:?}");
    }
    let drill = runtime.vecsnap(&["drill", "--scratch"]).arg(runtime.chroma());
    drill.run().exits(2).says(&["live Chroma directory"]);
    // Also by way of a link.
    let link = runtime.path().join("link");
    std::os::unix::fs::symlink(runtime.snapshot(&stamp), &link).unwrap();
    for inner in [runtime.snapshot(&stamp).join("inner"), link.join("deep/inner")] {
        for command in ["init", "create"] {
            let call = runtime.vecsnap(&[command, "--repo"]).arg(&inner);
            call.run().exits(2).prints_nothing().says(&["lies in the repository"]);
            assert!(!inner.exists());
        }
    }
}

#[test]
fn a_new_repository_in_an_empty_directory_tells_of_disks_that_are_not_mounted() {
    let runtime = Runtime::new();
    fs::create_dir(runtime.repo()).unwrap();
    runtime.vecsnap(&["create", "--json"]).run().exits(0).says(&["not mounted"]);
    let quiet = runtime.vecsnap(&["create", "--json"]).run().exits(0);
    assert_eq!(quiet.stderr, "", "it is told once");
}
