//! The helpers that tests trust, held to what they say.

use std::fs;
use std::os::unix::fs::symlink;

use super::damage::{Damage, files_below};
use super::{Journal, Runtime, TreeState};

#[test]
fn a_picture_shows_every_difference_and_only_differences() {
    let runtime = Runtime::new();
    let before = TreeState::of(runtime.path());
    before.assert_same(&TreeState::of(runtime.path()), "nothing happened");
    assert!(before.0.len() > 10, "{before:?}");

    for damage in Damage::ALL {
        let copy = Runtime::new();
        let state = || TreeState::of(&copy.data()).without_times();
        let whole = state();
        damage.inflict(&copy.store().file("header.bin"));
        assert_ne!(state(), whole, "{damage:?}");
    }
    symlink("nowhere", runtime.path().join("link")).unwrap();
    assert_ne!(TreeState::of(runtime.path()), before);
}

#[test]
fn databases_are_told_by_their_rows_wherever_these_are() {
    let rollback = Runtime::new();
    let wal = Runtime::with_journal(Journal::Wal);
    let same = |a: &Runtime, b: &Runtime| {
        TreeState::logical(&a.data()).without_times().0 == TreeState::logical(&b.data()).without_times().0
    };
    assert!(same(&rollback, &wal));

    let open = wal.connect();
    open.execute("INSERT INTO memories(project, content) VALUES ('p01', 'in the log')", []).unwrap();
    assert!(!same(&rollback, &wal), "a row that is only in the log was overlooked");
    assert_eq!(wal.memories(), ["first", "in the log"]);
    assert!(
        files_below(&wal.data()).iter().any(|file| file.ends_with("atocore.db-wal")),
        "the picture took the log away"
    );

    rollback.remember("in the log");
    assert!(same(&rollback, &wal));
}

#[test]
fn a_vector_store_grows_and_changes_in_every_file_that_chroma_changes() {
    let runtime = Runtime::new();
    let store = runtime.store();
    let contents =
        || ["data_level0.bin", "length.bin", "index_metadata.pickle"].map(|name| fs::read(store.file(name)).unwrap());
    let before = contents();
    store.append(5);
    assert_eq!(store.count(), 305);
    assert!(before.iter().zip(contents()).all(|(before, after)| *before != after));
    let level0 = fs::read(store.file("data_level0.bin")).unwrap();
    store.update(3);
    assert_ne!(fs::read(store.file("data_level0.bin")).unwrap(), level0);
    assert_eq!(TreeState::logical(&runtime.chroma()), TreeState::logical(&runtime.chroma()));
}
