//! Files that may not be read, and repositories that may not be written, for root too: without the capabilities that
//! let it pass over permissions.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::support::{Runtime, TreeState, damage};

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn chmod_all(directory: &Path, file_mode: u32, directory_mode: u32) {
    for entry in walkdir::WalkDir::new(directory).contents_first(true) {
        let entry = entry.unwrap();
        chmod(entry.path(), if entry.file_type().is_dir() { directory_mode } else { file_mode });
    }
}

#[test]
fn a_source_that_may_not_be_read_is_an_error_that_names_it_and_makes_no_snapshot() {
    let sources: [fn(&Runtime) -> std::path::PathBuf; 3] =
        [Runtime::db, Runtime::registry, |runtime| runtime.store().file("data_level0.bin")];
    for source in sources {
        let runtime = Runtime::new();
        let path = source(&runtime);
        chmod(&path, 0);
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let call = runtime.vecsnap(&["create", "--chroma"]).held_by_permissions();
        call.run().exits(1).prints_nothing().says(&[&name, "denied"]);
        assert!(runtime.snapshots().is_empty(), "{name}: a snapshot without it was published");
        chmod(&path, 0o600);
        runtime.create(&["--chroma"]);
    }
}

#[test]
fn a_repository_that_may_only_be_read_lists_validates_and_is_restored_from() {
    let runtime = Runtime::new();
    let stamp = runtime.create(&["--chroma"]);
    chmod_all(&runtime.repo(), 0o400, 0o500);
    let before = TreeState::of(&runtime.repo());
    let call = |arguments: &[&str]| runtime.vecsnap(arguments).held_by_permissions();
    assert_eq!(call(&["list"]).json()["backups"][0]["stamp"], stamp.as_str());
    assert_eq!(call(&["show", "latest"]).json()["stamp"], stamp.as_str());
    assert_eq!(call(&["validate", &stamp]).json()["valid"], true);
    let out = runtime.path().join("out");
    call(&["restore", &stamp, "--to"]).arg(&out).run().exits(0);
    call(&["cleanup", "--keep-last", "1"]).run().exits(0);
    assert_eq!(call(&["stats"]).json()["snapshots"], 1);
    let repaired = call(&["repair"]).json();
    assert_eq!(
        (&repaired["dry_run"], &repaired["index"], &repaired["invalid"]),
        (&true.into(), &"unread".into(), &0.into())
    );
    for writing in [&["create"][..], &["cleanup", "--confirm"], &["repair", "--confirm"]] {
        let refused = call(writing).run().exits(1).says(&["denied", "allow this user to"]);
        assert_eq!(refused.stderr.matches(runtime.repo().to_str().unwrap()).count(), 1, "{refused}");
    }
    TreeState::of(&runtime.repo()).assert_same(&before, "a repository that may only be read");
    chmod_all(&runtime.repo(), 0o600, 0o700);
    TreeState::logical(&out.join("chroma")).assert_same(&TreeState::logical(&runtime.chroma()), "restored elsewhere");
}

#[test]
fn a_dry_run_of_a_repair_tells_what_is_lost_of_a_repository_that_may_only_be_read() {
    let runtime = Runtime::new();
    let stamp = runtime.create(&["--chroma"]);
    for pack in damage::packs(&runtime.repo()) {
        let length = fs::metadata(&pack).unwrap().len();
        (1..20).for_each(|n| damage::flip(&pack, length * n / 20));
    }
    let found = runtime.vecsnap(&["repair"]).run().exits(3).json();
    assert!(found["retaken_blobs"].as_u64().unwrap() > 0, "{found}");
    chmod_all(&runtime.repo(), 0o400, 0o500);
    let before = TreeState::of(&runtime.repo());
    let told = runtime.vecsnap(&["repair"]).held_by_permissions().run().exits(3).json();
    TreeState::of(&runtime.repo()).assert_same(&before, "a dry run");
    chmod_all(&runtime.repo(), 0o600, 0o700);
    for same in ["damaged_packs", "saved_blobs", "lost_blobs", "invalid"] {
        assert_eq!(told[same], found[same], "{same}: {told}");
    }
    assert_eq!((&told["invalid_snapshots"][0]["stamp"], &told["retaken_blobs"]), (&stamp.as_str().into(), &0.into()));
    assert!(told["unread_sources"][0].as_str().unwrap().contains("cannot be written"), "{told}");
}

#[test]
fn a_repository_that_may_not_be_read_is_told_with_what_to_do() {
    let runtime = Runtime::new();
    runtime.create(&[]);
    chmod(&runtime.repo(), 0);
    for command in ["create", "list", "status", "stats", "cleanup", "repair", "drill", "init"] {
        let outcome = runtime.vecsnap(&[command]).held_by_permissions().run().exits(1).prints_nothing();
        outcome.says(&[runtime.repo().to_str().unwrap(), "denied", "allow this user to"]);
    }
    chmod(&runtime.repo(), 0o700);
}

#[test]
fn modes_come_back() {
    let runtime = Runtime::new();
    let places = [
        (runtime.db(), 0o640),
        (runtime.registry(), 0o604),
        (runtime.chroma(), 0o711),
        (runtime.store().segment(), 0o750),
        (runtime.store().file("header.bin"), 0o444),
    ];
    places.iter().for_each(|(path, mode)| chmod(path, *mode));
    let stamp = runtime.create(&["--chroma"]);
    places.iter().for_each(|(path, _)| chmod(path, if path.is_dir() { 0o777 } else { 0o666 }));
    runtime.restore(&stamp, &["--no-pre-snapshot"]);
    for (path, mode) in places {
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, mode, "{}", path.display());
    }
}
