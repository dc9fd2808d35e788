//! Random trees with random edits: whatever snapshot is restored onto whatever later state, the result equals a naive
//! copy that was made beside the snapshot; and after cleanups whoever survives still does.
//!
//! `VECSNAP_PROPERTY_CASES` sets the number of cases; one of the two tests takes 30 snapshots, one a second, in each.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::support::{Journal, Runtime, TreeState, noise};

/// One edit of the tree; names come from a small set, so that edits meet.
#[derive(Clone, Debug)]
enum Edit {
    /// A file of that many bytes.
    Write {
        name: u8,
        length: u32,
        seed: u8,
    },
    /// Some bytes of a file.
    Overwrite {
        name: u8,
        at: u32,
        length: u16,
        seed: u8,
    },
    /// A hole somewhere, or a file cut short.
    Resize {
        name: u8,
        length: u32,
    },
    /// A file that holds the bytes of another.
    Copy {
        from: u8,
        to: u8,
    },
    Remove {
        name: u8,
    },
    Directory {
        name: u8,
    },
    Link {
        name: u8,
        target: u8,
    },
    Mode {
        name: u8,
        private: bool,
    },
    /// A row in the database of the service.
    Row {
        seed: u8,
    },
}

/// Two levels of directories; a name may be a file in one state and a directory in the next.
fn path_of(name: u8) -> String {
    match name % 12 {
        n @ 0..=4 => format!("f{n}"),
        n @ 5..=8 => format!("d{}/f{n}", n % 2),
        n => format!("d{}", n % 2),
    }
}

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let length = prop_oneof![0..200_u32, 65_530..65_542_u32, 0..400_000_u32];
    let edit = prop_oneof![
        4 => (any::<u8>(), length.clone(), any::<u8>()).prop_map(|(name, length, seed)| Edit::Write { name, length, seed }),
        4 => (any::<u8>(), 0..400_000_u32, 1..9000_u16, any::<u8>())
            .prop_map(|(name, at, length, seed)| Edit::Overwrite { name, at, length, seed }),
        2 => (any::<u8>(), length).prop_map(|(name, length)| Edit::Resize { name, length }),
        1 => (any::<u8>(), any::<u8>()).prop_map(|(from, to)| Edit::Copy { from, to }),
        2 => any::<u8>().prop_map(|name| Edit::Remove { name }),
        1 => any::<u8>().prop_map(|name| Edit::Directory { name }),
        1 => (any::<u8>(), any::<u8>()).prop_map(|(name, target)| Edit::Link { name, target }),
        1 => (any::<u8>(), any::<bool>()).prop_map(|(name, private)| Edit::Mode { name, private }),
        2 => any::<u8>().prop_map(|seed| Edit::Row { seed }),
    ];
    proptest::collection::vec(edit, 1..8)
}

fn remove(path: &Path) {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path).unwrap(),
        Ok(_) => fs::remove_file(path).unwrap(),
        Err(_) => {}
    }
}

/// Makes room for a name: its parent is a directory, and nothing stands at it.
fn clear(tree: &Path, name: &str) -> std::path::PathBuf {
    let path = tree.join(name);
    let parent = path.parent().unwrap();
    if !fs::symlink_metadata(parent).is_ok_and(|metadata| metadata.is_dir()) {
        remove(parent);
        fs::create_dir_all(parent).unwrap();
    }
    remove(&path);
    path
}

fn is_file(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_file())
}

fn apply(runtime: &Runtime, edit: &Edit) {
    let tree = runtime.chroma();
    let at = |name: u8| tree.join(path_of(name));
    let open = |path: &Path| fs::OpenOptions::new().write(true).open(path).unwrap();
    match *edit {
        Edit::Write { name, length, seed } => {
            let path = clear(&tree, &path_of(name));
            fs::write(path, noise::bytes(&format!("file {seed}"), length as usize)).unwrap();
        }
        Edit::Overwrite { name, at: place, length, seed } if is_file(&at(name)) => {
            let bytes = noise::bytes(&format!("edit {seed}"), usize::from(length));
            open(&at(name)).write_all_at(&bytes, u64::from(place)).unwrap();
        }
        Edit::Resize { name, length } if is_file(&at(name)) => open(&at(name)).set_len(u64::from(length)).unwrap(),
        Edit::Copy { from, to } if is_file(&at(from)) && path_of(from) != path_of(to) => {
            let bytes = fs::read(at(from)).unwrap();
            fs::write(clear(&tree, &path_of(to)), bytes).unwrap();
        }
        Edit::Remove { name } => remove(&at(name)),
        Edit::Directory { name } => fs::create_dir(clear(&tree, &path_of(name))).unwrap(),
        Edit::Link { name, target } => symlink(path_of(target), clear(&tree, &path_of(name))).unwrap(),
        Edit::Mode { name, private } if at(name).exists() && !at(name).is_symlink() => {
            let mode = if at(name).is_dir() { 0o755 } else { 0o644 };
            let mode = if private { mode & 0o700 } else { mode };
            fs::set_permissions(at(name), fs::Permissions::from_mode(mode)).unwrap();
        }
        Edit::Row { seed } => runtime.remember(&format!("row {seed}")),
        _ => {}
    }
}

/// The state as a naive copy would hold it.
fn state_of(runtime: &Runtime) -> TreeState {
    runtime.live_state().without_directory_times()
}

/// Takes a snapshot after each list of edits, then restores in the given order, cleans up, and restores again.
fn check(histories: &[Vec<Edit>], order: &[prop::sample::Index], keep: u8) {
    let runtime = Runtime::bare();
    runtime.make_database(Journal::Rollback);
    runtime.write_registry("p01");
    fs::create_dir_all(runtime.chroma()).unwrap();
    let mut copies = BTreeMap::new();
    for history in histories {
        history.iter().for_each(|edit| apply(&runtime, edit));
        let state = state_of(&runtime);
        let effort = ["none", "fast", "normal", "max"][copies.len() % 4];
        copies.insert(runtime.create(&["--chroma", "--effort", effort]), state);
    }
    let restore_and_compare = |copies: &BTreeMap<String, TreeState>, index: &prop::sample::Index| {
        let (stamp, state) = copies.iter().nth(index.index(copies.len())).unwrap();
        runtime.restore(stamp, &["--no-pre-snapshot"]);
        state_of(&runtime).assert_same(state, stamp);
    };
    order.iter().for_each(|index| restore_and_compare(&copies, index));

    let keep = (usize::from(keep) % copies.len() + 1).to_string();
    runtime.vecsnap(&["cleanup", "--keep-last", &keep, "--confirm", "--json"]).run().exits(0);
    let survivors = runtime.snapshots();
    assert_eq!(survivors.len(), keep.parse::<usize>().unwrap());
    copies.retain(|stamp, _| survivors.contains(stamp));
    order.iter().for_each(|index| restore_and_compare(&copies, index));
    for stamp in &survivors {
        runtime.vecsnap(&["validate", stamp, "--json"]).run().exits(0);
    }
}

fn run(cases: u32, snapshots: std::ops::Range<usize>) {
    let cases = std::env::var("VECSNAP_PROPERTY_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(cases);
    let config = Config { cases, max_shrink_iters: 20, failure_persistence: None, ..Config::default() };
    let indices = proptest::collection::vec(any::<prop::sample::Index>(), 3..6);
    let strategy = (proptest::collection::vec(edits(), snapshots), indices, any::<u8>());
    let outcome = TestRunner::new(config).run(&strategy, |(histories, order, keep)| {
        check(&histories, &order, keep);
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
}

#[test]
fn any_snapshot_restored_onto_any_state_equals_the_naive_copy() {
    run(4, 2..5);
}

#[test]
fn any_of_30_snapshots_restored_onto_any_state_equals_the_naive_copy() {
    run(1, 30..31);
}
