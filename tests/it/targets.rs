//! What a restore writes into, and what it must leave alone: hard links, symlinks, readers of a read-only repository.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use crate::support::command::binary;
use crate::support::{Runtime, TreeState, noise};

#[test]
fn targets_with_several_names_are_refused_unless_they_may_be_parted() {
    let hard_linked: [fn(&Runtime) -> std::path::PathBuf; 3] =
        [Runtime::db, Runtime::registry, |runtime| runtime.store().file("data_level0.bin")];
    for target in hard_linked {
        let runtime = Runtime::new();
        let stamp = runtime.create(&["--chroma"]);
        runtime.remember("marker");
        runtime.write_registry("p02");
        runtime.store().update(3);
        let (target, copy) = (target(&runtime), runtime.path().join("the operator's copy"));
        fs::hard_link(&target, &copy).unwrap();
        let other = fs::read(&copy).unwrap();
        let before = runtime.live_state();

        let call = ["restore", stamp.as_str(), "--confirm-service-stopped", "--json"];
        let name = target.file_name().unwrap().to_str().unwrap().to_owned();
        runtime.vecsnap(&call).run().exits(5).prints_nothing().says(&[&name, "--break-links"]);
        runtime.live_state().assert_same(&before, "after the refusal");

        runtime.restore(&stamp, &["--break-links"]);
        assert!(fs::read(&copy).unwrap() == other, "the operator's copy of {name} was rewritten");
        assert_eq!(fs::metadata(&target).unwrap().nlink(), 1);
        assert_eq!(runtime.memories(), ["first"]);
        assert_eq!(runtime.registered(), "p01");
    }
}

#[test]
fn a_symlink_planted_in_the_target_is_replaced_and_not_followed() {
    let runtime = Runtime::new();
    let store = runtime.store();
    let stamp = runtime.create(&["--chroma"]);
    let before = runtime.live_state().without_directory_times();
    let outside = runtime.path().join("outside");
    fs::create_dir(&outside).unwrap();
    for name in ["precious", "header.bin", "data_level0.bin"] {
        fs::write(outside.join(name), noise::bytes(name, 500)).unwrap();
    }
    let precious = TreeState::of(&outside);

    // In place of a file, in place of a directory, and as a stranger.
    fs::remove_file(store.file("length.bin")).unwrap();
    symlink(outside.join("precious"), store.file("length.bin")).unwrap();
    let restored = |runtime: &Runtime| {
        runtime.restore(&stamp, &["--no-pre-snapshot"]);
        runtime.live_state().without_directory_times().assert_same(&before, "restored");
        TreeState::of(&outside).assert_same(&precious, "what the symlink led to");
    };
    restored(&runtime);
    fs::remove_dir_all(store.segment()).unwrap();
    symlink(&outside, store.segment()).unwrap();
    restored(&runtime);
    symlink(&outside, runtime.chroma().join("stranger")).unwrap();
    restored(&runtime);
}

#[test]
fn links_inside_the_tree_stay_links_and_empty_directories_are_kept() {
    let runtime = Runtime::new();
    let chroma = runtime.chroma();
    fs::create_dir(chroma.join("empty")).unwrap();
    fs::set_permissions(chroma.join("empty"), fs::Permissions::from_mode(0o750)).unwrap();
    symlink("chroma.sqlite3", chroma.join("inner")).unwrap();
    symlink("/nowhere/at/all", chroma.join("dangling")).unwrap();
    let stamp = runtime.create(&["--chroma"]);
    let before = runtime.live_state().without_directory_times();
    fs::remove_dir(chroma.join("empty")).unwrap();
    fs::remove_file(chroma.join("dangling")).unwrap();
    fs::remove_file(chroma.join("inner")).unwrap();
    fs::write(chroma.join("inner"), "a file now").unwrap();
    runtime.restore(&stamp, &["--no-pre-snapshot"]);
    runtime.live_state().without_directory_times().assert_same(&before, "restored");
}

#[test]
fn a_source_given_as_a_symlink_is_followed_and_stays_a_symlink() {
    let runtime = Runtime::new();
    let elsewhere = runtime.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    for path in [runtime.db(), runtime.registry(), runtime.chroma()] {
        let moved = elsewhere.join(path.file_name().unwrap());
        fs::rename(&path, &moved).unwrap();
        symlink(&moved, &path).unwrap();
    }
    let stamp = runtime.create(&["--chroma"]);
    let before = TreeState::logical(&elsewhere).without_directory_times();
    runtime.remember("marker");
    runtime.write_registry("p02");
    runtime.store().append(5);
    runtime.restore(&stamp, &["--no-pre-snapshot"]);
    TreeState::logical(&elsewhere).without_directory_times().assert_same(&before, "restored through the links");
    for path in [runtime.db(), runtime.registry(), runtime.chroma()] {
        assert!(fs::symlink_metadata(&path).unwrap().is_symlink(), "{}", path.display());
    }
}

#[test]
fn sparse_files_stay_sparse() {
    let runtime = Runtime::new();
    let sparse = runtime.store().file("link_lists.bin");
    let file = fs::File::create(&sparse).unwrap();
    file.set_len(300 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"in the middle", 150 << 20).unwrap();
    drop(file);
    let stamp = runtime.create(&["--chroma"]);
    fs::remove_file(&sparse).unwrap();
    runtime.restore(&stamp, &["--no-pre-snapshot"]);
    let restored = fs::metadata(&sparse).unwrap();
    assert_eq!(restored.len(), 300 << 20);
    assert!(restored.blocks() * 512 < 1 << 20, "{} bytes are allocated", restored.blocks() * 512);
    let mut middle = [0; 13];
    std::os::unix::fs::FileExt::read_exact_at(&fs::File::open(&sparse).unwrap(), &mut middle, 150 << 20).unwrap();
    assert_eq!(&middle, b"in the middle");
}

#[test]
fn a_dry_run_tells_what_would_be_written_and_touches_nothing() {
    let runtime = Runtime::new();
    let stamp = runtime.create(&["--chroma"]);
    runtime.remember("marker");
    fs::write(runtime.chroma().join("stranger"), "x").unwrap();
    let before = TreeState::of(runtime.path());
    runtime.vecsnap(&["restore", &stamp, "--dry-run", "--json"]).json();
    let after = TreeState::of(runtime.path());
    let live = |state: &TreeState| {
        let mut state = state.clone();
        state.0.retain(|name, _| !name.starts_with("backup"));
        state
    };
    live(&after).assert_same(&live(&before), "after the dry run");
    assert_eq!(runtime.snapshots(), [stamp]);
}

#[test]
fn nothing_is_written_where_nothing_differs() {
    let runtime = Runtime::new();
    let stamp = runtime.create(&["--chroma"]);
    runtime.restore(&stamp, &["--no-pre-snapshot"]);
    let before = TreeState::of(&runtime.chroma());
    runtime.restore(&stamp, &["--no-pre-snapshot"]);
    TreeState::of(&runtime.chroma()).assert_same(&before, "restored twice");
}

#[test]
fn a_read_only_repository_lists_validates_and_is_restored_from_elsewhere() {
    let runtime = Runtime::new();
    let stamp = runtime.create(&["--chroma"]);
    let script = "set -eu\n\
        mount --bind \"$REPO\" \"$REPO\"; mount -o remount,bind,ro \"$REPO\"\n\
        ! touch \"$REPO/probe\" 2>/dev/null\n\
        \"$VECSNAP\" list --repo \"$REPO\" | grep -q \"$STAMP\"\n\
        \"$VECSNAP\" show latest --repo \"$REPO\" >/dev/null\n\
        \"$VECSNAP\" validate \"$STAMP\" --repo \"$REPO\" | grep -q '\"valid\": true'\n\
        \"$VECSNAP\" restore \"$STAMP\" --to \"$OUT\" --repo \"$REPO\" >/dev/null\n\
        rc=0; \"$VECSNAP\" create --repo \"$REPO\" --db \"$DB\" --registry /nowhere --chroma-dir /nowhere || rc=$?\n\
        test $rc = 1 || { echo \"create on a read-only repository exits with $rc\" >&2; exit 1; }";
    let out = runtime.path().join("out");
    let before = TreeState::of(&runtime.repo());
    let Some(mut shell) = crate::support::mount::namespace() else { return };
    shell.args(["sh", "-c", script]).env("REPO", runtime.repo()).env("STAMP", &stamp);
    shell.env("OUT", &out).env("VECSNAP", binary()).env("DB", runtime.db());
    crate::support::mount::succeed(&mut shell);
    TreeState::of(&runtime.repo()).assert_same(&before, "the read-only repository");
    assert_eq!(crate::support::runtime::memories_of(&out.join("db/atocore.db")), ["first"]);
    TreeState::logical(&out.join("chroma")).assert_same(&TreeState::logical(&runtime.chroma()), "restored elsewhere");
}
