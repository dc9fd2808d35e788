//! Damage in each place of a repository and sources that cannot be captured: each gives its exit code and a sentence,
//! no panic, and the live files stay untouched.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::damage::{Damage, files_below, flip, packs};
use crate::support::{Outcome, Runtime, TreeState};

/// A runtime with two snapshots and a change since.
fn runtime() -> (Runtime, String) {
    let runtime = Runtime::new();
    runtime.create(&["--chroma"]);
    runtime.store().append(20);
    let stamp = runtime.create(&["--chroma"]);
    runtime.remember("marker");
    runtime.store().update(9);
    (runtime, stamp)
}

/// A failure in good manners: an expected exit code, nothing on stdout unless it is the verdict, a sentence.
#[track_caller]
fn fails(outcome: Outcome, codes: &[i32]) -> Outcome {
    assert!(outcome.code.is_some_and(|code| codes.contains(&code)), "not one of {codes:?}: {outcome}");
    assert!(!outcome.stderr.contains("panicked") && !outcome.stderr.contains("RUST_BACKTRACE"), "{outcome}");
    outcome
}

#[test]
fn damage_to_any_file_of_the_repository_is_noticed_before_anything_live_is_touched() {
    let (pristine, stamp) = runtime();
    let files = |repository: &Path| -> Vec<PathBuf> {
        let all = files_below(repository).into_iter();
        let derived = ["index.sqlite", "lock", "live.lock", "cleanup.lock", "drills.jsonl", "backup-metadata.json"];
        let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
        all.filter(|path| !derived.contains(&name(path).as_str())).collect()
    };
    let count = files(&pristine.repo()).len();
    assert!(count >= 5, "repository.json, two manifests, two packs at least");
    for damage in Damage::ALL {
        for number in 0..count {
            let (runtime, stamp_of_copy) = (copy_of(&pristine), &stamp);
            let victim = files(&runtime.repo())[number].clone();
            let place = victim.strip_prefix(runtime.repo()).unwrap().display().to_string();
            damage.inflict(&victim);
            let before = runtime.live_state();
            let what = format!("{damage:?} of {place}");

            let validations: Vec<Outcome> =
                runtime_stamps(&runtime).iter().map(|stamp| runtime.vecsnap(&["validate", stamp]).run()).collect();
            let noticed = validations.iter().any(|outcome| outcome.code != Some(0));
            assert!(noticed, "{what}: nothing was noticed");
            validations.into_iter().for_each(|outcome| drop(fails(outcome, &[0, 3, 7])));

            let call = ["restore", stamp_of_copy.as_str(), "--confirm-service-stopped", "--no-pre-snapshot"];
            let restored = fails(runtime.vecsnap(&call).run(), &[0, 3, 7]);
            match restored.code {
                // The damage hurt the other snapshot only.
                Some(0) => assert_eq!(runtime.memories(), ["first"], "{what}"),
                _ => runtime.live_state().assert_same(&before, &what),
            }
        }
    }
}

fn runtime_stamps(runtime: &Runtime) -> Vec<String> {
    runtime.snapshots()
}

/// The same files in another directory.
fn copy_of(runtime: &Runtime) -> Runtime {
    let copy = Runtime::bare();
    let status = std::process::Command::new("cp").arg("-a").arg(runtime.path().join(".")).arg(copy.path()).status();
    assert!(status.unwrap().success());
    copy
}

#[test]
fn damage_is_named_by_file_and_what_is_whole_can_still_be_written_elsewhere() {
    let (runtime, stamp) = runtime();
    for pack in packs(&runtime.repo()) {
        let length = fs::metadata(&pack).unwrap().len();
        (1..20).for_each(|n| flip(&pack, length * n / 20));
    }
    let validation = runtime.vecsnap(&["validate", &stamp]).run().exits(3).json();
    let errors: Vec<&str> =
        validation["errors"].as_array().unwrap().iter().map(|error| error.as_str().unwrap()).collect();
    assert!(!errors.is_empty());
    let known =
        ["chunk_corrupt: ", "chunk_missing: ", "manifest_corrupt: ", "db_snapshot_missing", "chroma_snapshot_missing"];
    assert!(errors.iter().any(|error| known.iter().any(|known| error.starts_with(known))), "{errors:?}");
    assert_eq!(validation["valid"], false);
}

#[test]
fn a_repository_of_an_unknown_version_is_refused_by_every_command() {
    let (runtime, stamp) = runtime();
    let path = runtime.repo().join("repository.json");
    let mut document: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let version = document.get_mut("format_version").expect("repository.json states its version");
    *version = 2.into();
    fs::write(&path, document.to_string()).unwrap();
    let before = TreeState::of(runtime.path());
    for command in [
        &["create"][..],
        &["validate", &stamp],
        &["restore", &stamp, "--confirm-service-stopped"],
        &["cleanup", "--confirm"],
    ] {
        fails(runtime.vecsnap(command).run(), &[7]).prints_nothing().says(&["version"]);
    }
    TreeState::of(runtime.path()).assert_same(&before, "a repository of another version");
}

#[test]
fn a_manifest_of_another_snapshot_or_repository_is_not_taken_for_this_one() {
    let (runtime, stamp) = runtime();
    let (other, other_stamp) = self::runtime();
    let own = runtime.snapshot(&stamp).join("manifest");
    let sibling = runtime.snapshot(&runtime.snapshots()[0]).join("manifest");
    for foreign in [sibling, other.snapshot(&other_stamp).join("manifest")] {
        fs::copy(&foreign, &own).unwrap();
        let validation = runtime.vecsnap(&["validate", &stamp]).run().exits(3).json();
        let error = validation["errors"][0].as_str().unwrap();
        assert!(error.starts_with("manifest_corrupt: "), "{error}");
    }
}

#[test]
fn a_snapshot_without_its_description_is_not_valid() {
    let (runtime, stamp) = runtime();
    let metadata = runtime.snapshot(&stamp).join("backup-metadata.json");
    fs::write(&metadata, "{ no").unwrap();
    let validation = runtime.vecsnap(&["validate", &stamp]).run().exits(3).json();
    assert!(validation["errors"][0].as_str().unwrap().starts_with("metadata_invalid_json"), "{validation}");
    fs::remove_file(&metadata).unwrap();
    let validation = runtime.vecsnap(&["validate", &stamp]).run().exits(3).json();
    assert_eq!(validation["errors"], serde_json::json!(["metadata_missing"]));
    assert!(validation.get("metadata").is_none());
}

#[test]
fn a_missing_database_is_an_error_and_makes_no_snapshot() {
    let runtime = Runtime::new();
    fs::remove_file(runtime.db()).unwrap();
    let name = runtime.db().display().to_string();
    runtime.vecsnap(&["create"]).run().exits(1).prints_nothing().says(&[&name]);
    assert!(runtime.snapshots().is_empty());
}

#[test]
fn a_database_that_is_none_is_an_error_that_tells_what_it_begins_with() {
    let runtime = Runtime::new();
    fs::write(runtime.db(), "PK\u{3}\u{4} a zip archive, perhaps").unwrap();
    let name = runtime.db().display().to_string();
    runtime.vecsnap(&["create"]).run().exits(1).prints_nothing().says(&[&name, "PK"]);
    assert!(runtime.snapshots().is_empty());
}

#[test]
fn a_directory_in_place_of_a_source_file_is_an_error_that_names_it() {
    for source in [Runtime::db as fn(&Runtime) -> PathBuf, Runtime::registry] {
        let runtime = Runtime::new();
        let path = source(&runtime);
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        let name = path.display().to_string();
        runtime.vecsnap(&["create"]).run().exits(1).prints_nothing().says(&[&name]);
    }
    let runtime = Runtime::new();
    fs::remove_dir_all(runtime.chroma()).unwrap();
    fs::write(runtime.chroma(), "a file").unwrap();
    let name = runtime.chroma().display().to_string();
    runtime.vecsnap(&["create", "--chroma"]).run().exits(1).prints_nothing().says(&[&name]);
}

#[test]
fn sockets_and_pipes_in_the_tree_are_skipped_with_a_warning() {
    let runtime = Runtime::new();
    let socket = runtime.chroma().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let document = runtime.vecsnap(&["create", "--chroma"]).run().exits(0).says(&["socket"]).json();
    assert_eq!(document["chroma_snapshot_files"], 6);
}

#[test]
fn a_registry_that_is_no_json_is_kept_and_told() {
    let runtime = Runtime::new();
    fs::write(runtime.registry(), "{ \"projects\": [").unwrap();
    let document = runtime.vecsnap(&["create"]).run().exits(3).says(&["post_backup_validation_failed"]).json();
    assert_eq!(document["validated"], false);
    assert!(document["validation_errors"][0].as_str().unwrap().starts_with("registry_invalid_json: "), "{document}");
    let validation = runtime.vecsnap(&["validate", document["stamp"].as_str().unwrap()]).run().exits(3).json();
    assert_eq!((&validation["registry_ok"], &validation["db_ok"]), (&false.into(), &true.into()));
}

#[test]
fn a_database_with_damage_inside_is_kept_and_told() {
    let runtime = Runtime::new();
    let connection = runtime.connect();
    connection.execute_batch("CREATE TABLE t(x UNIQUE); INSERT INTO t VALUES (1), (2), (3)").unwrap();
    // An index that no longer agrees with its table: readable, and wrong.
    connection
        .execute_batch(
            "PRAGMA writable_schema=ON; UPDATE sqlite_schema SET sql = 'CREATE TABLE t(x UNIQUE, y NOT NULL)' WHERE name = 't';",
        )
        .unwrap();
    drop(connection);
    let document = runtime.vecsnap(&["create"]).run().exits(3).json();
    assert_eq!(document["validated"], false);
    assert!(
        document["validation_errors"][0].as_str().unwrap().starts_with("db_integrity_check_failed: "),
        "{document}"
    );
    assert_eq!(runtime.snapshots().len(), 1);
    let stamp = document["stamp"].as_str().unwrap().to_owned();
    let said = format!("backup {stamp} failed validation: db_integrity_check_failed");
    runtime.vecsnap(&["restore", &stamp, "--confirm-service-stopped"]).run().exits(3).says(&[&said]);
}

#[test]
fn a_repository_inside_the_tree_or_around_a_source_is_refused() {
    let runtime = Runtime::new();
    for repository in [runtime.chroma().join("backup"), runtime.data(), runtime.chroma()] {
        let before = TreeState::of(runtime.path());
        let call = runtime.vecsnap(&["create", "--chroma"]).env("ATOCORE_BACKUP_DIR", &repository);
        call.run().exits(2).prints_nothing().says(&[repository.to_str().unwrap()]);
        TreeState::of(runtime.path()).assert_same(&before, "after the refusal");
    }
}

#[test]
fn a_directory_that_is_no_repository_but_not_empty_is_left_alone() {
    let runtime = Runtime::new();
    fs::create_dir(runtime.repo()).unwrap();
    fs::write(runtime.repo().join("thesis.odt"), "years of work").unwrap();
    let outcome = runtime.vecsnap(&["create"]).run();
    assert_eq!(fs::read(runtime.repo().join("thesis.odt")).unwrap(), b"years of work", "{outcome}");
}

#[test]
fn restore_to_wants_an_empty_directory() {
    let (runtime, stamp) = runtime();
    let out = runtime.path().join("out");
    fs::create_dir(&out).unwrap();
    fs::write(out.join("something"), "there").unwrap();
    let before = TreeState::of(&out);
    let outcome = fails(runtime.vecsnap(&["restore", &stamp, "--to"]).arg(&out).run(), &[1, 2, 5]);
    outcome.prints_nothing().says(&[out.to_str().unwrap()]);
    TreeState::of(&out).assert_same(&before, "a directory that is not empty");
    let inside = runtime.repo().join("out");
    runtime.vecsnap(&["restore", &stamp, "--to"]).arg(&inside).run().exits(2).prints_nothing().says(&["outside"]);
    assert!(!inside.exists());
}

#[test]
fn options_that_do_not_go_with_a_restore_elsewhere_are_not_silently_left_out() {
    let (runtime, stamp) = runtime();
    let out = runtime.path().join("out");
    for option in ["--dry-run", "--chroma", "--no-chroma", "--no-pre-snapshot", "--break-links"] {
        let call = runtime.vecsnap(&["restore", &stamp, option, "--to"]).arg(&out);
        call.run().exits(2).prints_nothing().says(&["--to", option]);
        assert!(!out.exists(), "{option}");
    }
}

#[test]
fn a_database_that_cannot_be_looked_at_is_not_called_missing() {
    let runtime = Runtime::new();
    fs::remove_file(runtime.db()).unwrap();
    std::os::unix::fs::symlink("atocore.db", runtime.db()).unwrap();
    let outcome = runtime.vecsnap(&["create"]).run().exits(1).prints_nothing();
    assert!(outcome.stderr.contains("atocore.db") && !outcome.stderr.contains("does not exist"), "{outcome}");
    assert!(!runtime.repo().exists(), "a repository was made");
}

#[test]
fn a_place_where_no_repository_can_be_is_told_with_what_to_check() {
    let runtime = Runtime::new();
    let before = runtime.live_state();
    let commands = [
        &["create"][..],
        &["list"],
        &["show", "latest"],
        &["validate", "latest"],
        &["validate", "--all"],
        &["restore", "latest", "--confirm-service-stopped"],
        &["cleanup", "--confirm"],
        &["stats"],
        &["status"],
        &["repair"],
        &["drill"],
        &["init"],
    ];
    let below_a_file = runtime.registry().join("some/where");
    for place in [Path::new("/dev/null"), &runtime.db(), &below_a_file] {
        for command in commands {
            let outcome = runtime.vecsnap(command).arg("--repo").arg(place).run().exits(1).prints_nothing();
            outcome.says(&[place.to_str().unwrap(), "is not a directory", "--repo or ATOCORE_BACKUP_DIR"]);
        }
    }
    runtime.live_state().assert_same(&before, "after commands on no repository");
}

#[test]
fn an_ingestion_lock_that_cannot_be_is_told_with_what_to_name_instead() {
    let runtime = Runtime::new();
    for path in [runtime.path().join("none/lock"), runtime.registry().join("lock"), runtime.data()] {
        let outcome = runtime.vecsnap(&["create", "--ingest-lock"]).arg(&path).run().exits(1).prints_nothing();
        outcome.says(&[path.to_str().unwrap(), "name a file in a directory that exists"]);
    }
    assert!(runtime.snapshots().is_empty());
}
