//! The command line as scripts know it: exit codes, documents and the order of their fields, silence, stamps.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::support::command::keys;
use crate::support::{Runtime, TreeState, Vecsnap};

const METADATA: [&str; 10] = [
    "created_at",
    "backup_root",
    "db_snapshot_path",
    "db_size_bytes",
    "registry_snapshot_path",
    "chroma_snapshot_path",
    "chroma_snapshot_bytes",
    "chroma_snapshot_files",
    "chroma_snapshot_included",
    "vector_store_note",
];

#[track_caller]
fn assert_begins(document: &Value, expected: &[&str]) {
    let keys = keys(document);
    assert_eq!(keys[..expected.len().min(keys.len())], *expected);
}

#[test]
fn without_a_repository_every_command_answers_and_none_makes_one() {
    let runtime = Runtime::new();
    let run = |arguments: &[&str]| runtime.vecsnap(arguments).run();
    assert_eq!(run(&["list"]).exits(0).json(), json!({ "backups": [] }));
    let validation = run(&["validate", "20260406T180000Z"]).exits(3).json();
    assert_eq!((&validation["exists"], &validation["valid"]), (&json!(false), &json!(false)));
    assert_eq!(run(&["validate", "latest"]).exits(3).json()["exists"], false);
    run(&["restore", "20260406T180000Z", "--confirm-service-stopped"]).exits(3).prints_nothing();
    run(&["restore", "latest", "--confirm-service-stopped"]).exits(3).prints_nothing();
    for arguments in [&["repair"][..], &["repair", "--confirm"], &["drill"]] {
        run(arguments).exits(3).prints_nothing().says(&["there is no repository at", "--repo"]);
    }
    for (arguments, dry_run) in [(&["cleanup"][..], true), (&["cleanup", "--confirm"], false)] {
        let cleanup = run(arguments).exits(0).json();
        let expected = json!({ "kept": 0, "deleted": 0, "would_delete": 0, "dry_run": dry_run, "errors": [] });
        assert_eq!(cleanup, expected);
        assert_eq!(keys(&cleanup), ["kept", "deleted", "would_delete", "dry_run", "errors"]);
    }
    assert!(!runtime.repo().exists(), "a repository was made");
    run(&["create"]).exits(0);
    assert!(runtime.repo().join("repository.json").is_file());
}

#[test]
fn init_makes_an_empty_repository_and_leaves_one_that_is_there_alone() {
    let runtime = Runtime::new();
    runtime.vecsnap(&["init"]).run().exits(0);
    assert_eq!(runtime.vecsnap(&["list"]).json(), json!({ "backups": [] }));
    let stamp = runtime.create(&[]);
    let before = TreeState::of(&runtime.repo().join("snapshots"));
    runtime.vecsnap(&["init"]).run().exits(0);
    assert_eq!(runtime.snapshots(), [stamp]);
    TreeState::of(&runtime.repo().join("snapshots")).assert_same(&before, "after a second init");
}

#[test]
fn documents_begin_with_the_fields_that_scripts_know_in_their_order() {
    let runtime = Runtime::new();
    let created = runtime.vecsnap(&["create", "--chroma"]).json();
    assert_begins(&created, &METADATA);
    assert_eq!(keys(&created)[10..12], ["validated", "validation_errors"]);
    for added in ["stamp", "parent", "stored_bytes", "logical_bytes", "chunks_new", "chunks_delta", "chunks_reused"] {
        assert!(created.get(added).is_some(), "{added}");
    }
    let stamp = created["stamp"].as_str().unwrap().to_owned();

    let metadata: Value =
        serde_json::from_slice(&fs::read(runtime.snapshot(&stamp).join("backup-metadata.json")).unwrap()).unwrap();
    assert_begins(&metadata, &METADATA);
    let created_at = metadata["created_at"].as_str().unwrap();
    assert!(
        created_at.len() == 32 && created_at.ends_with("+00:00") && created_at[19..].starts_with('.'),
        "{created_at}"
    );

    let listed = runtime.vecsnap(&["list"]).json();
    assert_eq!(keys(&listed), ["backups"]);
    assert_begins(&listed["backups"][0], &["stamp", "path", "has_metadata", "metadata"]);
    assert_eq!(listed["backups"][0]["metadata"], metadata);

    let validation = runtime.vecsnap(&["validate", &stamp]).json();
    let known = ["stamp", "path", "exists", "db_ok", "registry_ok", "chroma_ok", "errors", "metadata", "valid"];
    assert_begins(&validation, &known);

    let restored = runtime.vecsnap(&["restore", &stamp, "--confirm-service-stopped"]).json();
    let known = [
        "stamp",
        "pre_restore_snapshot",
        "target_db",
        "db_restored",
        "registry_restored",
        "chroma_restored",
        "restored_integrity_ok",
    ];
    assert_begins(&restored, &known);

    let cleanup = runtime.vecsnap(&["cleanup"]).json();
    assert_begins(&cleanup, &["kept", "dry_run", "errors", "would_delete"]);
    let cleanup = runtime.vecsnap(&["cleanup", "--confirm"]).json();
    assert_begins(&cleanup, &["kept", "dry_run", "errors", "deleted"]);
}

#[test]
fn no_command_is_create() {
    let runtime = Runtime::new();
    let created = runtime.vecsnap(&["--chroma"]).json();
    assert_eq!(created["chroma_snapshot_included"], true);
    assert_eq!(runtime.snapshots().len(), 1);
}

#[test]
fn quiet_is_silent_on_success_and_not_on_failure() {
    let runtime = Runtime::new();
    let loop_ = [
        &["--quiet", "--chroma"][..],
        &["--quiet", "list"],
        &["--quiet", "validate", "latest"],
        &["--quiet", "restore", "latest", "--confirm-service-stopped"],
        &["--quiet", "cleanup", "--confirm"],
    ];
    for arguments in loop_ {
        let outcome = runtime.vecsnap(arguments).run().exits(0);
        assert_eq!((outcome.stdout.as_str(), outcome.stderr.as_str()), ("", ""), "{arguments:?}");
    }
    assert!(!runtime.vecsnap(&["--quiet", "--json", "list"]).run().exits(0).stdout.is_empty());
    fs::remove_file(runtime.db()).unwrap();
    let failed = runtime.vecsnap(&["--quiet"]).run().exits(1);
    assert!(failed.stderr.contains("atocore.db"), "{failed}");
}

#[test]
fn a_path_that_neither_flag_nor_environment_names_is_bad_usage() {
    let named = [("create", "--repo"), ("list", "--repo"), ("cleanup", "--repo")];
    for (command, flag) in named {
        Vecsnap::new().arg(command).run().exits(2).prints_nothing().says(&[flag, "ATOCORE_BACKUP_DIR"]);
    }
    let runtime = Runtime::new();
    let call = Vecsnap::new().arg("create").arg("--repo").arg(runtime.repo());
    call.run().exits(2).says(&["--db", "ATOCORE_DATA_DIR"]);
}

#[test]
fn the_chroma_directory_need_be_named_only_where_it_matters() {
    let runtime = Runtime::new();
    let with_chroma = runtime.create(&["--chroma"]);
    let call = |arguments: &[&str]| {
        let places = [("--repo", runtime.repo()), ("--db", runtime.db()), ("--registry", runtime.registry())];
        let call = Vecsnap::new().args(arguments);
        places.into_iter().fold(call, |call, (flag, path)| call.arg(flag).arg(path))
    };
    let created = call(&["create"]).json();
    assert_eq!((&created["chroma_snapshot_included"], &created["chroma_snapshot_path"]), (&json!(false), &json!("")));
    call(&["create", "--chroma"]).run().exits(2).prints_nothing().says(&["--chroma-dir", "ATOCORE_DATA_DIR"]);
    let stamp = created["stamp"].as_str().unwrap();
    assert_eq!(call(&["restore", stamp, "--confirm-service-stopped"]).json()["db_restored"], true);
    let restore = ["restore", &with_chroma, "--confirm-service-stopped"];
    call(&restore).run().exits(2).prints_nothing().says(&["--chroma-dir", "ATOCORE_DATA_DIR"]);
    assert_eq!(call(&[&restore[..], &["--no-chroma"]].concat()).json()["chroma_restored"], false);
}

#[test]
fn flags_beat_the_environment_and_relative_paths_become_absolute() {
    let runtime = Runtime::new();
    let call = Vecsnap::new().env("ATOCORE_BACKUP_DIR", "/nowhere/at/all").env("ATOCORE_DATA_DIR", "/nowhere");
    let call = call.args(["create", "--repo", "backup", "--db", "data/db/atocore.db"]);
    let call = call.args(["--registry", "config/project-registry.json", "--chroma-dir", "data/chroma", "--chroma"]);
    let document = call.current_dir(runtime.path()).json();
    let root = document["backup_root"].as_str().unwrap();
    assert!(root.starts_with(runtime.repo().to_str().unwrap()), "{root}");
    assert_eq!(document["chroma_snapshot_files"], 6);
}

#[test]
fn stamps_that_lead_elsewhere_are_bad_usage() {
    let runtime = Runtime::new();
    runtime.create(&[]);
    let before = TreeState::of(runtime.path());
    for stamp in ["../snapshots", "a/b", "..", "/etc", "20260406T180000Z/"] {
        for command in [&["validate", stamp][..], &["show", stamp], &["restore", stamp, "--confirm-service-stopped"]] {
            runtime.vecsnap(command).run().exits(2).prints_nothing();
        }
    }
    TreeState::of(runtime.path()).assert_same(&before, "after bad usage");
}

#[test]
fn bad_usage_is_2_wherever_it_is_noticed() {
    let runtime = Runtime::new();
    runtime.create(&[]);
    for arguments in [
        &["no-such-command"][..],
        &["create", "--no-such-flag"],
        &["restore"],
        &["cleanup", "--keep-last", "0"],
        &["cleanup", "--keep-last", "minus one"],
        &["--lock-wait", "soon", "list"],
    ] {
        runtime.vecsnap(arguments).run().exits(2).prints_nothing();
    }
    for help in [&["--help"][..], &["--version"], &["help", "restore"], &["restore", "--help"]] {
        runtime.vecsnap(help).run().exits(0);
    }
}

#[test]
fn every_command_has_help_with_an_example() {
    for command in ["create", "list", "show", "validate", "restore", "cleanup", "stats", "init", "drill", "demo"] {
        let help = Vecsnap::new().args([command, "--help"]).run().exits(0).stdout;
        assert!(help.contains("Example") && help.contains(&format!("vecsnap {command}")), "{help}");
    }
}

#[test]
fn two_creates_in_one_second_get_two_stamps() {
    let runtime = Runtime::new();
    let stamps: Vec<String> = std::thread::scope(|scope| {
        let creates: Vec<_> = (0..3).map(|_| scope.spawn(|| runtime.create(&[]))).collect();
        creates.into_iter().map(|create| create.join().unwrap()).collect()
    });
    let mut distinct = stamps.clone();
    distinct.sort();
    distinct.dedup();
    assert_eq!(distinct.len(), 3, "{stamps:?}");
    assert_eq!(runtime.snapshots(), distinct);
}

#[test]
fn latest_is_the_newest_that_is_no_pre_restore_snapshot() {
    let runtime = Runtime::new();
    runtime.create(&[]);
    let newest = runtime.create(&[]);
    let way_back = runtime.restore(&newest, &[])["pre_restore_snapshot"].as_str().unwrap().to_owned();
    assert!(way_back > newest);
    assert_eq!(runtime.vecsnap(&["validate", "latest"]).json()["stamp"], newest.as_str());
    assert_eq!(runtime.restore("latest", &["--no-pre-snapshot"])["stamp"], newest.as_str());
}

#[test]
fn the_scripts_that_cut_the_stamp_from_backup_root_go_on_working() {
    let runtime = Runtime::new();
    let document = runtime.vecsnap(&["create"]).run().exits(0);
    let root = document.json()["backup_root"].as_str().unwrap().to_owned();
    let mut awk = Command::new("awk");
    let child = awk.args(["-F/", "{print $NF}"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.as_ref().unwrap(), format!("{root}\n").as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap().trim(), document.json()["stamp"].as_str().unwrap());
}

#[test]
fn a_repository_that_was_moved_or_copied_stays_valid() {
    let runtime = Runtime::new();
    let stamp = runtime.create(&["--chroma"]);
    let state = runtime.live_state().without_directory_times();
    let moved = runtime.path().join("elsewhere/backups of old");
    fs::create_dir_all(moved.parent().unwrap()).unwrap();
    fs::rename(runtime.repo(), &moved).unwrap();
    let call = |arguments: &[&str]| runtime.vecsnap(arguments).env("ATOCORE_BACKUP_DIR", &moved);
    let validation = call(&["validate", &stamp]).json();
    assert_eq!(validation["valid"], true);
    assert!(validation["path"].as_str().unwrap().starts_with(moved.to_str().unwrap()));
    runtime.store().append(5);
    assert_eq!(call(&["create", "--chroma"]).json()["parent"], stamp.as_str());
    call(&["restore", &stamp, "--confirm-service-stopped", "--no-pre-snapshot"]).run().exits(0);
    runtime.live_state().without_directory_times().assert_same(&state, "restored from the moved repository");
}

/// What the tool of full copies left in the same directory.
fn plant_full_copy(runtime: &Runtime, stamp: &str) {
    let directory = runtime.snapshot(stamp);
    fs::create_dir_all(directory.join("db")).unwrap();
    fs::copy(runtime.db(), directory.join("db/atocore.db")).unwrap();
    let metadata = json!({ "created_at": "2026-01-01T00:00:00.000001+00:00", "backup_root": directory });
    fs::write(directory.join("backup-metadata.json"), metadata.to_string()).unwrap();
}

#[test]
fn full_copies_are_listed_as_such_and_never_touched() {
    let runtime = Runtime::new();
    plant_full_copy(&runtime, "20250101T000000Z");
    let stamp = runtime.create(&[]);
    let copy = runtime.snapshot("20250101T000000Z");
    let before = TreeState::of(&copy);

    let listed = runtime.vecsnap(&["list"]).json();
    assert_eq!(listed["backups"][0]["stamp"], "20250101T000000Z");
    assert_eq!(listed["backups"][0]["format"], "full-copy");
    assert_ne!(listed["backups"][1]["format"], "full-copy");

    let validation = runtime.vecsnap(&["validate", "20250101T000000Z"]).run().exits(3).json();
    assert!(validation["errors"][0].as_str().unwrap().contains("`import`"), "{validation}");
    let call = ["restore", "20250101T000000Z", "--confirm-service-stopped"];
    runtime.vecsnap(&call).run().exits(3).prints_nothing().says(&["`import`"]);
    let cleanup = runtime.vecsnap(&["cleanup", "--keep-last", "1", "--confirm"]).json();
    assert_eq!((&cleanup["kept"], &cleanup["deleted"]), (&json!(1), &json!(0)));
    TreeState::of(&copy).assert_same(&before, "the full copy");
    assert_eq!(runtime.vecsnap(&["validate", "latest"]).json()["stamp"], stamp.as_str());
}

#[test]
fn strangers_under_snapshots_are_listed_and_left_alone() {
    let runtime = Runtime::new();
    let stamp = runtime.create(&[]);
    fs::create_dir(runtime.snapshot("before-upgrade")).unwrap();
    fs::write(runtime.snapshot("a file"), "x").unwrap();
    fs::create_dir(runtime.snapshot("broken")).unwrap();
    fs::write(runtime.snapshot("broken").join("backup-metadata.json"), "{ no").unwrap();

    let listed = runtime.vecsnap(&["list"]).json();
    let entries = listed["backups"].as_array().unwrap();
    let names: Vec<_> = entries.iter().map(|entry| entry["stamp"].as_str().unwrap()).collect();
    assert_eq!(names, [stamp.as_str(), "before-upgrade", "broken"]);
    assert_eq!(entries[1]["has_metadata"], false);
    assert!(entries[1].get("metadata").is_none());
    assert_eq!((&entries[2]["metadata"], &entries[2]["metadata_error"]), (&Value::Null, &json!("invalid_json")));

    let cleanup = runtime.vecsnap(&["cleanup", "--confirm"]).json();
    assert_eq!(cleanup["unparseable"], json!(["before-upgrade", "broken"]));
    assert_eq!(cleanup["kept"], 1);
    assert!(runtime.snapshot("before-upgrade").is_dir() && runtime.snapshot("a file").is_file());
}

#[test]
fn cleanup_is_a_dry_run_unless_confirmed_and_gives_the_space_back() {
    let runtime = Runtime::new();
    let passing = runtime.chroma().join("passing.bin");
    fs::write(&passing, crate::support::noise::bytes("passing", 1_000_000)).unwrap();
    runtime.create(&["--chroma"]);
    fs::remove_file(passing).unwrap();
    runtime.store().append(400);
    runtime.create(&["--chroma"]);
    let newest = runtime.create(&["--chroma"]);
    let (packs, size) = (|| bytes_below(&runtime.repo().join("packs")), || bytes_below(&runtime.repo()));
    let before = (runtime.snapshots(), packs(), size());
    let dry = runtime.vecsnap(&["cleanup", "--keep-last", "1"]).json();
    assert_eq!((&dry["kept"], &dry["would_delete"], &dry["dry_run"]), (&json!(1), &json!(2), &json!(true)));
    assert!(dry["would_free_bytes"].is_u64(), "{dry}");
    assert_eq!((runtime.snapshots(), packs(), size()), before);

    let done = runtime.vecsnap(&["cleanup", "--keep-last", "1", "--confirm"]).json();
    assert_eq!((&done["kept"], &done["deleted"], &done["dry_run"]), (&json!(1), &json!(2), &json!(false)));
    assert_eq!(runtime.snapshots(), [newest]);
    assert_eq!(size() + done["freed_bytes"].as_u64().unwrap(), before.2, "{done}");
    assert!(
        packs() + 990_000 < before.1,
        "the space did not come back: {} of {}, {done}",
        before.1 - packs(),
        before.1
    );
    assert_eq!(runtime.vecsnap(&["validate", "latest"]).json()["valid"], true);
    assert_about_fresh(&runtime);
}

/// Bytes of the files in there, the index aside.
fn bytes_below(directory: &Path) -> u64 {
    let files = crate::support::damage::files_below(directory).into_iter();
    let counted = files.filter(|path| !path.file_name().unwrap().to_string_lossy().starts_with("index.sqlite"));
    counted.map(|path| fs::metadata(path).unwrap().len()).sum()
}

/// The repository takes at most a tenth more than a fresh one with the live state.
#[track_caller]
fn assert_about_fresh(runtime: &Runtime) {
    let fresh = runtime.path().join("fresh");
    runtime.vecsnap(&["create", "--chroma"]).env("ATOCORE_BACKUP_DIR", &fresh).run().exits(0);
    let (left, fresh) = (bytes_below(&runtime.repo()), bytes_below(&fresh));
    // What survives a cleanup is stored in other frames than those of a create, so they are never quite equal.
    assert!(left * 10 <= fresh * 11, "{left} bytes are left, {fresh} are taken by a fresh repository");
}

#[test]
fn the_demo_proves_itself_and_leaves_nothing() {
    let scratch = tempfile::tempdir().unwrap();
    let document = Vecsnap::new().args(["demo", "--scratch"]).arg(scratch.path()).json();
    assert_eq!(document["equal"], true, "{document}");
    assert!(document["files_compared"].as_u64().unwrap() >= 8);
    let snapshots: Vec<&Value> =
        document["steps"].as_array().unwrap().iter().filter(|step| step["stored_bytes"].is_u64()).collect();
    assert_eq!(snapshots.len(), 2);
    for step in snapshots {
        let (stored, full) = (step["stored_bytes"].as_u64().unwrap(), step["full_copy_bytes"].as_u64().unwrap());
        assert!(full > 50_000_000 && stored < full, "{step}");
    }
    assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0, "the demo left something behind");
}

#[test]
fn a_document_is_text_on_a_terminal_and_json_otherwise() {
    let runtime = Runtime::new();
    runtime.create(&[]);
    // `script` gives the program a terminal for stdout.
    let mut script = Command::new("script");
    script.args(["-qec"]).arg(format!("{} validate latest", env!("CARGO_BIN_EXE_vecsnap"))).arg("/dev/null");
    let output = script.env("ATOCORE_BACKUP_DIR", runtime.repo()).stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).replace('\r', "");
    assert!(text.lines().any(|line| line.starts_with("valid") && line.ends_with("yes")), "{text}");
    assert!(runtime.vecsnap(&["validate", "latest"]).run().stdout.starts_with("{\n  \"stamp\": "));
}

#[test]
fn what_is_wrong_with_a_number_or_a_directory_is_told_with_what_to_give() {
    let runtime = Runtime::new();
    runtime.create(&[]);
    let numbers = [
        (&["cleanup", "--keep-last", "-1"][..], "whole number of snapshots"),
        (&["cleanup", "--keep-daily", "1.5"], "whole number of snapshots"),
        (&["cleanup", "--keep-weekly", "4294967296"], "to 4294967295"),
        (&["list", "--lock-wait", "-1"], "whole number of seconds"),
        (&["create", "--max-block", "-1"], "number of seconds"),
        (&["status", "--max-age", "-1"], "such as 26h"),
    ];
    for (call, advice) in numbers {
        runtime.vecsnap(call).run().exits(2).prints_nothing().says(&[advice]);
    }
    let sample = runtime.vecsnap(&["validate", "--sample", "5%"]).run().exits(2).says(&["--all"]);
    assert!(!sample.stderr.contains("<STAMP>"), "a sample is one of all: {sample}");
    let (none, file) = (runtime.path().join("none"), runtime.registry());
    for command in ["drill", "demo"] {
        for place in [&none, &file] {
            let told = [place.to_str().unwrap(), "--scratch or TMPDIR"];
            runtime.vecsnap(&[command, "--scratch"]).arg(place).run().exits(1).prints_nothing().says(&told);
            runtime.vecsnap(&[command]).env("TMPDIR", place).run().exits(1).prints_nothing().says(&told);
        }
    }
    for place in [file.join("below"), file.clone()] {
        let call = runtime.vecsnap(&["restore", "latest", "--to"]).arg(&place);
        call.run().exits(1).prints_nothing().says(&[place.to_str().unwrap(), "name another one"]);
    }
}
