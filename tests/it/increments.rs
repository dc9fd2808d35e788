//! The next snapshot of a service that changed a little, or not at all.

use std::fs;
use std::time::Duration;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use crate::support::{Runtime, TreeState, damage};

/// Long enough for times to be trusted: a file that changed less than 2 s before a capture is read once more.
const SETTLED: Duration = Duration::from_millis(3200);

fn stored(runtime: &Runtime, arguments: &[&str]) -> u64 {
    runtime.vecsnap(&["create", "--chroma", "--json"]).args(arguments).run().exits(0).json()["stored_bytes"]
        .as_u64()
        .unwrap()
}

#[test]
fn what_did_not_change_is_taken_over_and_a_change_behind_equal_size_and_mtime_is_not() {
    let runtime = Runtime::new();
    std::thread::sleep(SETTLED);
    runtime.create(&["--chroma"]);
    let again = runtime.vecsnap(&["create", "--chroma", "--json"]).run().exits(0).json();
    assert_eq!((&again["chunks_new"], &again["chunks_delta"]), (&0.into(), &0.into()));
    assert!(again["stored_bytes"].as_u64().unwrap() < 4096, "{again}");

    let file = runtime.store().file("data_level0.bin");
    let times = fs::metadata(&file).unwrap().modified().unwrap();
    damage::flip(&file, 1000);
    fs::File::options().write(true).open(&file).unwrap().set_modified(times).unwrap();
    let expected = TreeState::of(&runtime.store().segment());
    let stamp = runtime.create(&["--chroma"]);
    damage::flip(&file, 1000);
    runtime.restore(&stamp, &["--no-pre-snapshot"]);
    TreeState::of(&runtime.store().segment()).assert_same(&expected, "the changed file");
}

#[test]
fn no_source_is_even_opened_while_nothing_changes() {
    let runtime = Runtime::new();
    std::thread::sleep(SETTLED);
    runtime.create(&["--chroma"]);
    let opened = || {
        let watch = Inotify::init(InitFlags::IN_NONBLOCK).unwrap();
        let sources =
            [runtime.db(), runtime.registry(), runtime.store().file("data_level0.bin"), runtime.store().database()];
        for source in sources {
            watch.add_watch(&source, AddWatchFlags::IN_OPEN).unwrap();
        }
        runtime.create(&["--chroma"]);
        watch.read_events().map_or(0, |events| events.len())
    };
    assert_eq!(opened(), 0);
    fs::write(runtime.registry(), b"{\"changed\": true}").unwrap();
    assert!(opened() > 0, "the watch sees nothing");
}

#[test]
fn a_file_whose_pack_was_lost_is_read_and_stored_again() {
    let runtime = Runtime::new();
    std::thread::sleep(SETTLED);
    let first = runtime.create(&["--chroma"]);
    runtime.create(&["--chroma"]);
    for pack in damage::packs(&runtime.repo()) {
        fs::remove_file(pack).unwrap();
    }
    runtime.vecsnap(&["validate", &first]).run().exits(3);
    let stamp = runtime.create(&["--chroma"]);
    assert_eq!(runtime.vecsnap(&["validate", &stamp]).json()["valid"], true);
    assert_eq!(
        runtime.vecsnap(&["validate", &first]).json()["valid"],
        true,
        "the same content heals the older snapshot"
    );
}

#[test]
fn deltas_cost_little_and_every_snapshot_of_the_chain_restores_and_survives_cleanups() {
    for effort in ["fast", "normal", "max"] {
        let runtime = Runtime::new();
        runtime.store().append(2000);
        let whole = stored(&runtime, &[]);
        let mut copies = vec![];
        for number in 0..6 {
            runtime.store().update(number * 17);
            runtime.store().append(3);
            runtime.remember(&format!("memory {number}"));
            let state = runtime.live_state();
            let document = runtime.vecsnap(&["create", "--chroma", "--json", "--effort", effort]).run().exits(0).json();
            assert!(document["chunks_delta"].as_u64().unwrap() > 0, "{effort}: {document}");
            assert!(document["stored_bytes"].as_u64().unwrap() < whole / 5, "{effort}: {whole} {document}");
            copies.push((document["stamp"].as_str().unwrap().to_owned(), state));
        }
        runtime.vecsnap(&["cleanup", "--keep-last", "3", "--confirm"]).run().exits(0);
        for (stamp, state) in copies.iter().skip(3) {
            assert_eq!(runtime.vecsnap(&["validate", stamp]).json()["valid"], true, "{effort} {stamp}");
            runtime.restore(stamp, &["--no-pre-snapshot"]);
            runtime.live_state().assert_same(state, &format!("{effort} {stamp}"));
        }
    }
}

#[test]
fn a_vacuumed_database_costs_a_fraction_although_every_page_moved() {
    let runtime = Runtime::new();
    let connection = runtime.connect();
    let text = |seed: u32| hex::encode(blake3::hash(&seed.to_le_bytes()).as_bytes()).repeat(3);
    connection.execute_batch("CREATE TABLE vacuumed(id INTEGER PRIMARY KEY, text TEXT); BEGIN").unwrap();
    for id in 0..20_000_u32 {
        connection.execute("INSERT INTO vacuumed VALUES(?, ?)", (id, text(id))).unwrap();
    }
    connection.execute_batch("COMMIT; DELETE FROM vacuumed WHERE id % 7 = 3 OR id < 500").unwrap();
    let whole = stored(&runtime, &[]);
    connection.execute_batch("VACUUM").unwrap();
    drop(connection);
    let state = runtime.live_state();
    let vacuumed = stored(&runtime, &["--effort", "normal"]);
    assert!(vacuumed * 5 < whole, "{vacuumed} bytes after VACUUM, {whole} before");
    let in_place = stored(&runtime, &["--effort", "none", "--force-read"]);
    assert!(in_place < vacuumed, "what was stored once is known");
    runtime.remember("after the snapshot");
    runtime.restore(runtime.snapshots().last().unwrap(), &["--no-pre-snapshot"]);
    runtime.live_state().assert_same(&state, "vacuumed");
}

/// Beyond 256 MiB, only what changed is copied out of the database; what moved within it is still found.
#[test]
fn a_large_database_comes_back_as_it_was_and_what_moved_in_it_costs_little() {
    let runtime = Runtime::new();
    let database = runtime.store().database();
    let change = |sql: &str| rusqlite::Connection::open(&database).unwrap().execute_batch(sql).unwrap();
    change(
        "CREATE TABLE large(id INTEGER PRIMARY KEY, text);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 650)
         INSERT INTO large SELECT i, iif(i % 20, replace(hex(zeroblob(60000)), '00', printf('%08d', i)), randomblob(500000)) FROM n;",
    );
    assert!(fs::metadata(&database).unwrap().len() > 280 << 20);
    runtime.create(&["--chroma"]);
    change(
        "CREATE TABLE moved AS SELECT text FROM large WHERE id IN (100, 200, 300, 400, 500);
         UPDATE large SET text = 'changed' WHERE id = 333;",
    );
    let added = stored(&runtime, &[]);
    assert!(added < 400_000, "{added} bytes for 2.5 MB that the database has already");
    let stamp = runtime.snapshots().pop().unwrap();
    let exported = runtime.export(&stamp);
    assert!(
        fs::read(exported.chroma().join("chroma.sqlite3")).unwrap() == fs::read(&database).unwrap(),
        "it is not the database that was captured"
    );
}
