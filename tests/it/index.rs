//! The index is derived: whatever happens to `index.sqlite` and its sidecars costs time, never data.

use std::fs;
use std::path::Path;

use rusqlite::Connection;

use crate::support::damage::Damage;
use crate::support::{Runtime, TreeState};

const SIDECARS: [&str; 4] = ["", "-journal", "-wal", "-shm"];

/// A repository with history, and a copy of its index from an earlier time.
struct Fixture {
    runtime: Runtime,
    stamps: Vec<String>,
    states: Vec<TreeState>,
    old_index: Vec<u8>,
}

impl Fixture {
    fn new() -> Self {
        let runtime = Runtime::new();
        let (mut stamps, mut states) = (Vec::new(), Vec::new());
        let state = |runtime: &Runtime| runtime.live_state().without_directory_times();
        states.push(state(&runtime));
        stamps.push(runtime.create(&["--chroma"]));
        let old_index = fs::read(runtime.repo().join("index.sqlite")).unwrap();
        runtime.remember("second");
        runtime.store().append(10);
        states.push(state(&runtime));
        stamps.push(runtime.create(&["--chroma"]));
        Self { runtime, stamps, states, old_index }
    }

    fn index(&self, suffix: &str) -> std::path::PathBuf {
        self.runtime.repo().join(format!("index.sqlite{suffix}"))
    }

    /// Both snapshots are whole, a further create stores next to nothing, and both states come back.
    #[track_caller]
    fn prove(&mut self, what: &str) {
        for (stamp, state) in self.stamps.iter().zip(&self.states) {
            let validation = self.runtime.vecsnap(&["validate", stamp, "--json"]).run().exits(0).json();
            assert_eq!(validation["valid"], true, "{what}");
            self.runtime.restore(stamp, &["--no-pre-snapshot"]);
            self.runtime.live_state().without_directory_times().assert_same(state, what);
        }
        let document = self.runtime.vecsnap(&["create", "--chroma", "--json"]).run().exits(0).json();
        assert_eq!(document["chunks_new"], 0, "{what}: what the repository holds was stored again");
    }
}

#[test]
fn deleting_the_index_and_any_sidecars_changes_nothing() {
    let mut fixture = Fixture::new();
    for suffix in SIDECARS {
        let _ = fs::remove_file(fixture.index(suffix));
    }
    fixture.prove("deleted");
}

#[test]
fn a_hurt_index_changes_nothing() {
    for damage in [Damage::Flip, Damage::Truncate, Damage::Empty, Damage::Append] {
        let mut fixture = Fixture::new();
        damage.inflict(&fixture.index(""));
        fixture.prove(&format!("{damage:?}"));
    }
}

#[test]
fn an_older_copy_of_the_index_changes_nothing() {
    let mut fixture = Fixture::new();
    fs::write(fixture.index(""), &fixture.old_index).unwrap();
    fixture.prove("an older copy");
}

/// Sidecars that belong to no index, or to another state of it, beside a present, an old and a missing index.
#[test]
fn foreign_sidecars_beside_the_index_change_nothing() {
    let wal = a_log_of_another_state();
    let mut fixture = Fixture::new();
    let present = fs::read(fixture.index("")).unwrap();
    let mains: [Option<&[u8]>; 3] = [Some(&present), Some(&fixture.old_index.clone()), None];
    for (number, main) in mains.into_iter().enumerate() {
        for subset in 1..8_u8 {
            match main {
                Some(bytes) => fs::write(fixture.index(""), bytes).unwrap(),
                None => drop(fs::remove_file(fixture.index(""))),
            }
            for (bit, suffix) in SIDECARS[1..].iter().enumerate() {
                if subset & 1 << bit != 0 {
                    fs::write(fixture.index(suffix), &wal).unwrap();
                }
            }
            let stamp = fixture.stamps[0].clone();
            let validation = fixture.runtime.vecsnap(&["validate", &stamp, "--json"]).run().exits(0).json();
            assert_eq!(validation["valid"], true, "main {number}, sidecars {subset:03b}");
        }
        fixture.prove(&format!("main {number}"));
    }
}

/// A real write-ahead log that would bring rows of another index back.
fn a_log_of_another_state() -> Vec<u8> {
    let runtime = Runtime::new();
    runtime.create(&[]);
    let index = runtime.repo().join("index.sqlite");
    let connection = Connection::open(&index).unwrap();
    connection.pragma_update(None, "journal_mode", "wal").unwrap();
    connection.execute_batch("CREATE TABLE stranger(x); INSERT INTO stranger VALUES (1)").unwrap();
    let log = fs::read(Path::new(&format!("{}-wal", index.display()))).unwrap();
    assert!(!log.is_empty());
    log
}

/// A runtime whose index takes what the next snapshot will add for stored in an older pack.
fn with_false_rows() -> Runtime {
    let runtime = Runtime::new();
    let index = || Connection::open(runtime.repo().join("index.sqlite")).unwrap();
    let ids = || -> Vec<Vec<u8>> {
        let connection = index();
        let mut query = connection.prepare("SELECT id FROM blobs").unwrap();
        query.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    };
    runtime.create(&[]);
    let before = runtime.save();
    let known = ids();
    runtime.write_registry("p02");
    runtime.create(&[]);
    let added: Vec<_> = ids().into_iter().filter(|id| !known.contains(id)).collect();
    assert!(!added.is_empty());
    runtime.go_back(&before);
    for id in added {
        index().execute("INSERT INTO blobs SELECT ?, key, 0 FROM packs", [id]).unwrap();
    }
    runtime.write_registry("p02");
    runtime
}

#[test]
fn rows_of_what_no_pack_holds_are_found_by_validate_and_mended_by_the_next_create() {
    let runtime = with_false_rows();
    let lost = runtime.create(&[]);
    runtime.vecsnap(&["validate", &lost]).run().exits(3);
    let stamp = runtime.create(&[]);
    for stamp in [stamp, lost] {
        runtime.vecsnap(&["validate", &stamp]).run().exits(0);
    }
}

#[test]
fn rows_of_what_no_pack_holds_are_found_by_repair_before_they_do_harm() {
    let runtime = with_false_rows();
    assert_eq!(runtime.vecsnap(&["repair", "--json"]).json()["index"], "rebuilt");
    let stamp = runtime.create(&[]);
    runtime.vecsnap(&["validate", &stamp]).run().exits(0);
    assert_eq!(runtime.vecsnap(&["repair", "--json"]).json()["index"], "sound");
}
