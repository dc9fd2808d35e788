//! The golden repositories read whole: by the program, and by the independent reader in `format_reader.py`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use super::{FIXTURES, root, snapshots};
use crate::support::runtime::memories_of;
use crate::support::{Runtime, TreeState, chroma};

/// What stands below `directory`, in the form of a `.tree` file; `rename` gives each path its name there, or leaves it
/// out.
fn describe(directory: &Path, rename: impl Fn(&str) -> Option<String>) -> String {
    let mut lines = Vec::new();
    for entry in walkdir::WalkDir::new(directory).min_depth(1) {
        let entry = entry.unwrap();
        let Some(path) = rename(entry.path().strip_prefix(directory).unwrap().to_str().unwrap()) else { continue };
        let metadata = entry.metadata().unwrap();
        let mode = metadata.permissions().mode() & 0o7777;
        lines.push(if metadata.is_dir() {
            format!("{path}\t{mode:04o}\tdirectory\t0\t-\n")
        } else if metadata.is_symlink() {
            format!("{path}\t{mode:04o}\tsymlink\t0\t{}\n", fs::read_link(entry.path()).unwrap().display())
        } else {
            let hash = blake3::hash(&fs::read(entry.path()).unwrap()).to_hex();
            format!("{path}\t{mode:04o}\tfile\t{}\t{hash}\n", metadata.len())
        });
    }
    lines.sort();
    lines.concat()
}

/// The lines of a `.tree` file in the order of [`describe`].
fn sorted(tree: &str) -> String {
    let mut lines: Vec<String> = tree.lines().map(|line| format!("{line}\n")).collect();
    lines.sort();
    lines.concat()
}

/// Copies a fixture's repository to where a program may write beside it.
fn copy(fixture: &str, to: &Path) {
    let from = root().join(fixture).join("repository");
    for entry in walkdir::WalkDir::new(&from) {
        let entry = entry.unwrap();
        let place = to.join(entry.path().strip_prefix(&from).unwrap());
        if entry.file_type().is_dir() { fs::create_dir_all(place) } else { fs::copy(entry.path(), place).map(drop) }
            .unwrap();
    }
}

/// Runs `vecsnap --repo <repository> <arguments> --json`.
fn vecsnap(repository: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vecsnap"));
    command.arg("--repo").arg(repository).args(arguments).arg("--json").output().unwrap()
}

fn document(output: &Output) -> serde_json::Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The name of a source for a path of the layout that `restore --to` writes; nothing for what is no source's.
fn source_path(path: &str) -> Option<String> {
    match path.split_once('/') {
        Some(("db" | "chroma", _)) => Some(path.to_owned()),
        Some(("config", rest)) => Some(format!("registry/{rest}")),
        None if path == "chroma" => Some(path.to_owned()),
        _ => None,
    }
}

#[test]
fn the_program_lists_validates_and_restores_every_golden_snapshot() {
    for (fixture, _) in FIXTURES {
        let scratch = tempfile::tempdir().unwrap();
        let repository = scratch.path().join("repository");
        copy(fixture, &repository);
        let listed = document(&vecsnap(&repository, &["list"]));
        let stamps: Vec<&str> =
            listed["backups"].as_array().unwrap().iter().map(|backup| backup["stamp"].as_str().unwrap()).collect();
        let expected = snapshots(fixture);
        assert_eq!(stamps, expected.keys().collect::<Vec<_>>(), "{fixture}");
        for (stamp, tree) in expected {
            let validation = document(&vecsnap(&repository, &["validate", &stamp]));
            assert_eq!(validation["valid"], true, "{fixture} {stamp}: {validation}");
            let target = scratch.path().join(&stamp);
            let restored = vecsnap(&repository, &["restore", &stamp, "--to", target.to_str().unwrap()]);
            assert!(restored.status.success(), "{fixture} {stamp}: {}", String::from_utf8_lossy(&restored.stderr));
            assert_eq!(describe(&target, source_path), sorted(&tree), "{fixture} {stamp}");
        }
    }
}

#[test]
fn the_independent_reader_reads_every_golden_snapshot() {
    let Some(python) = chroma::python() else { return };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/format_reader.py");
    for (fixture, _) in FIXTURES {
        for (stamp, tree) in snapshots(fixture) {
            let scratch = tempfile::tempdir().unwrap();
            let read = Command::new(&python)
                .arg(&script)
                .args([root().join(fixture).join("repository").as_os_str(), stamp.as_ref(), scratch.path().as_os_str()])
                .output()
                .unwrap();
            assert!(read.status.success(), "{fixture} {stamp}: {}", String::from_utf8_lossy(&read.stderr));
            let found =
                describe(scratch.path(), |path| (path == "chroma" || path.contains('/')).then(|| path.to_owned()));
            assert_eq!(found, sorted(&tree), "{fixture} {stamp}");
        }
    }
}

#[test]
fn the_independent_reader_reads_what_the_program_writes_today() {
    let Some(python) = chroma::python() else { return };
    let runtime = Runtime::new();
    runtime.create(&["--chroma"]);
    runtime.store().append(40);
    runtime.remember("second");
    let stamp = runtime.create(&["--chroma"]);
    let out = runtime.path().join("out");
    fs::create_dir(&out).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/format_reader.py");
    let read = Command::new(python).arg(script).arg(runtime.repo()).arg(&stamp).arg(&out).output().unwrap();
    assert!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
    assert_eq!(memories_of(&out.join("db/atocore.db")), ["first", "second"]);
    assert_eq!(fs::read(out.join("registry/project-registry.json")).unwrap(), fs::read(runtime.registry()).unwrap());
    let state = |path: &Path| TreeState::logical(path).without_times();
    state(&out.join("chroma")).assert_same(&state(&runtime.chroma()), "read by another program");
}
