//! Repair: whatever happens to packs, footers and the index, what can still be had comes back, the rest is named, and
//! nothing that was sound is touched.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use vecsnap::format::compression::Codec;
use vecsnap::format::pack::{BlobKind, END_BYTES, Encoding, Footer, FooterPlace};

use crate::support::chained::{Made, version};
use crate::support::damage::{self, Damage};
use crate::support::{Runtime, TreeState, command, noise};

/// Three snapshots with Chroma, the last of which is the present state, and what each holds.
struct Fixture {
    runtime: Runtime,
    contents: BTreeMap<String, Vec<TreeState>>,
}

impl Fixture {
    fn new() -> Self {
        let runtime = Runtime::new();
        fs::write(runtime.chroma().join("blob"), noise::bytes("blob", 1_000_000)).unwrap();
        runtime.create(&["--chroma"]);
        runtime.remember("second");
        fs::write(runtime.chroma().join("passing"), noise::bytes("passing", 300_000)).unwrap();
        runtime.create(&["--chroma"]);
        fs::remove_file(runtime.chroma().join("passing")).unwrap();
        runtime.store().update(7);
        runtime.write_registry("p02");
        runtime.create(&["--chroma"]);
        let contents =
            runtime.snapshots().into_iter().map(|stamp| (stamp.clone(), content(&runtime, &stamp))).collect();
        Self { runtime, contents }
    }

    fn packs(&self) -> Vec<PathBuf> {
        damage::packs(&self.runtime.repo())
    }

    fn last(&self) -> &str {
        self.contents.keys().next_back().unwrap()
    }

    fn repair(&self, arguments: &[&str]) -> (i32, Value) {
        let outcome = self.runtime.vecsnap(&["repair", "--json"]).args(arguments).run();
        (outcome.code.unwrap(), outcome.json())
    }

    /// Repairs, and holds all that a repair promises whatever was damaged. Returns the document.
    #[track_caller]
    fn repaired(&self, what: &str) -> Value {
        let before = files(&self.runtime.repo());
        let (expected, told) = self.repair(&[]);
        assert_eq!(told["dry_run"], true);
        assert_eq!(files(&self.runtime.repo()), before, "{what}: a dry run changed something");
        let (code, told) = self.repair(&["--confirm"]);
        assert!(code == 0 || code == 3, "{what}: {told}");
        assert!(code <= expected, "{what}: it got worse");
        let invalid: Vec<_> = told["invalid_snapshots"].as_array().unwrap().iter().map(|hurt| &hurt["stamp"]).collect();
        for (stamp, content_before) in &self.contents {
            assert!(self.runtime.snapshot(stamp).is_dir(), "{what}: {stamp} is gone");
            if invalid.contains(&&json!(stamp)) {
                self.runtime.vecsnap(&["validate", stamp]).run().exits(3);
                continue;
            }
            self.runtime.vecsnap(&["validate", stamp, "--recheck"]).run().exits(0);
            for (now, before) in content(&self.runtime, stamp).iter().zip(content_before) {
                now.assert_same(before, &format!("{what}: {stamp}"));
            }
        }
        for pack in self.packs() {
            let id = blake3::hash(&fs::read(&pack).unwrap()).to_hex().to_string();
            assert_eq!(pack.file_stem().unwrap().to_str().unwrap(), id, "{what}: a damaged pack stands");
        }
        let before = files(&self.runtime.repo());
        let (again, second) = self.repair(&["--confirm"]);
        assert_eq!(again, code, "{what}");
        for (field, nothing) in [("damaged_packs", json!([])), ("saved_blobs", json!(0)), ("stored_bytes", json!(0))] {
            assert_eq!(second[field], nothing, "{what}: a second repair found something to do: {second}");
        }
        assert_eq!((&second["retaken_blobs"], &second["index"]), (&json!(0), &json!("sound")), "{what}");
        assert_eq!(files(&self.runtime.repo()), before, "{what}: a second repair changed something");
        told
    }
}

/// What a snapshot holds, times of directories aside.
fn content(runtime: &Runtime, stamp: &str) -> Vec<TreeState> {
    let exported = runtime.export(stamp);
    let below = |name: &str| TreeState::of(&exported.path().join(name)).without_directory_times();
    ["db", "config", "chroma"].map(below).into()
}

/// The files of a repository but for its index and locks, with their sizes.
fn files(repository: &Path) -> BTreeMap<PathBuf, u64> {
    let files = damage::files_below(repository).into_iter();
    let files = files.filter(|file| !file.file_name().unwrap().to_str().unwrap().starts_with("index.sqlite"));
    let files = files.filter(|file| file.extension().is_none_or(|extension| extension != "lock"));
    files.map(|file| (file.clone(), fs::metadata(&file).unwrap().len())).collect()
}

#[test]
fn with_the_live_sources_the_present_state_survives_every_wound_of_every_pack() {
    let packs = Fixture::new().packs().len();
    for wound in Damage::ALL {
        // Packs are named by chance, so each wound meets each of them by and by; a lost bit does so every time.
        for number in if wound == Damage::Flip { 0..packs } else { 0..1 } {
            let made = Fixture::new();
            let what = format!("{wound:?} of pack {number}");
            let pack = made.packs().swap_remove(number);
            wound.inflict(&pack);
            let told = made.repaired(&what);
            let hurt = told["invalid_snapshots"].as_array().unwrap();
            assert!(hurt.iter().all(|hurt| hurt["stamp"] != made.last()), "{what}: {told}");
            if wound != Damage::Delete {
                let moved = PathBuf::from(told["damaged_packs"][0]["moved_to"].as_str().unwrap());
                assert_eq!(moved.parent(), Some(made.runtime.repo().join("damaged").as_path()));
                assert_eq!(told["aside_files"], 1);
            }
        }
    }
}

#[test]
fn without_live_sources_what_packs_still_give_is_saved_and_the_rest_named_by_file_and_byte() {
    let made = Fixture::new();
    let pack = made.packs().into_iter().max_by_key(|pack| fs::metadata(pack).unwrap().len()).unwrap();
    // The second half of the largest pack holds a frame of metadata; the first one contents.
    damage::flip(&pack, 2000);
    fs::rename(made.runtime.data(), made.runtime.path().join("elsewhere")).unwrap();
    fs::remove_file(made.runtime.registry()).unwrap();
    let told = made.repaired("a frame without live sources");
    assert_eq!(told["retaken_blobs"], 0, "{told}");
    assert!(told["saved_blobs"].as_u64().unwrap() > 0, "{told}");
    let hurt = told["invalid_snapshots"].as_array().unwrap();
    assert!(!hurt.is_empty(), "{told}");
    for snapshot in hurt {
        let lost = snapshot["lost"].as_array().unwrap();
        assert!(!lost.is_empty() && lost.iter().all(|range| range["length"].as_u64().unwrap() > 0), "{told}");
        assert!(lost.iter().all(|range| range["file"].as_str().unwrap().contains('/')), "{told}");
    }
    // Once the sources are back, so is what they still hold.
    fs::rename(made.runtime.path().join("elsewhere"), made.runtime.data()).unwrap();
    made.runtime.write_registry("p02");
    let told = made.repaired("the sources are back");
    assert!(told["retaken_blobs"].as_u64().unwrap() > 0, "{told}");
}

#[test]
fn a_damaged_footer_or_index_and_both_are_mended() {
    let made = Fixture::new();
    let pack = made.packs().swap_remove(0);
    let length = fs::metadata(&pack).unwrap().len();
    damage::flip(&pack, length - 30);
    made.repaired("a footer");

    let made = Fixture::new();
    let index = made.runtime.repo().join("index.sqlite");
    rusqlite::Connection::open(&index).unwrap().execute("DELETE FROM blobs", []).unwrap();
    assert_eq!(made.repair(&[]).1["index"], "rebuilt");
    let told = made.repaired("rows of the index");
    assert_eq!((&told["index"], &told["lost_blobs"], &told["invalid"]), (&json!("sound"), &json!(0), &json!(0)));

    let made = Fixture::new();
    fs::write(made.runtime.repo().join("index.sqlite"), b"garbage").unwrap();
    let pack = made.packs().swap_remove(0);
    damage::flip(&pack, fs::metadata(&pack).unwrap().len() - 10);
    made.repaired("an index and the end of a pack");
}

#[test]
fn of_a_chain_in_a_damaged_pack_all_but_what_was_hit_is_saved() {
    let mut made = Made::new();
    let versions: Vec<_> = (0..5).map(version).collect();
    made.repository.whole(BlobKind::Chunk, &versions[0]);
    made.repository.end_pack();
    for pair in versions.windows(2) {
        made.repository.delta_in_place(&pair[1], &pair[0]);
        made.repository.end_frame(Codec::Zstd);
    }
    let pack = made.repository.end_pack();
    let stamps = ["20260401T000000Z", "20260402T000000Z", "20260403T000000Z"];
    for (stamp, number) in stamps.iter().zip([1, 3, 4]) {
        made.snapshot(stamp, &versions[number]);
    }
    let last = footer(&pack).frames.last().cloned().unwrap();
    damage::flip(&pack, last.offset + u64::from(last.stored_length) - 1);
    let before = damage::packs(&made.repository.root());
    let told = made.run(&["repair", "--confirm", "--json"]).exits(3).json();
    assert_eq!((&told["saved_blobs"], &told["lost_blobs"]), (&json!(3), &json!(1)), "{told}");
    let hurt = told["invalid_snapshots"].as_array().unwrap();
    assert_eq!((hurt.len(), &hurt[0]["stamp"]), (1, &json!(stamps[2])), "{told}");
    assert_eq!(hurt[0]["lost"], json!([{ "file": "chroma/data", "offset": 0, "length": 65_536 }]));
    assert_eq!(made.restored(stamps[0]), versions[1]);
    assert_eq!(made.restored(stamps[1]), versions[3]);
    // What is built on a sound pack stays a delta; the others may not rest on the damaged one.
    let new = damage::packs(&made.repository.root()).into_iter().find(|pack| !before.contains(pack)).unwrap();
    let whole: Vec<_> = footer(&new).records.iter().map(|record| record.encoding == Encoding::Whole).collect();
    assert_eq!(whole, [false, true, true]);
}

fn footer(pack: &Path) -> Footer {
    let bytes = fs::read(pack).unwrap();
    let (rest, end) = bytes.split_at(bytes.len() - END_BYTES);
    let place = FooterPlace::decode(end, bytes.len() as u64).unwrap();
    Footer::decode(&rest[place.offset as usize..], place.offset).unwrap()
}

#[test]
fn nothing_to_repair_changes_nothing() {
    let made = Fixture::new();
    let told = made.repaired("nothing");
    assert_eq!((&told["damaged_packs"], &told["lost_blobs"], &told["valid"]), (&json!([]), &json!(0), &json!(3)));
    let nowhere = Runtime::bare();
    nowhere.vecsnap(&["repair"]).run().exits(3).says(&["nothing to repair"]);
    assert!(!nowhere.repo().exists());
}

#[test]
fn a_repair_that_was_interrupted_goes_on() {
    let made = Fixture::new();
    let pack = made.packs().into_iter().max_by_key(|pack| fs::metadata(pack).unwrap().len()).unwrap();
    damage::flip(&pack, 2000);
    // It had its second name, and still its first one.
    let id = pack.file_stem().unwrap().to_str().unwrap();
    fs::create_dir(made.runtime.repo().join("damaged")).unwrap();
    fs::hard_link(&pack, made.runtime.repo().join(format!("damaged/{id}.1.pack"))).unwrap();
    // Others still read: what was saved is saved, and the next attempt moves the pack.
    let lock = fs::File::open(made.runtime.repo().join("lock")).unwrap();
    lock.lock_shared().unwrap();
    made.runtime.vecsnap(&["repair", "--confirm", "--lock-wait", "0"]).run().exits(6);
    assert!(pack.exists());
    drop(lock);
    let told = made.repaired("an interrupted repair");
    assert_eq!((&told["saved_blobs"], &told["aside_files"]), (&json!(0), &json!(2)), "{told}");
}

#[test]
fn repairs_that_are_killed_harm_nothing_and_the_last_one_finishes() {
    let made = Fixture::new();
    let pack = made.packs().into_iter().max_by_key(|pack| fs::metadata(pack).unwrap().len()).unwrap();
    damage::flip(&pack, 2000);
    let sound = |made: &Fixture| {
        let stamps = made.contents.keys();
        stamps.filter(|stamp| made.runtime.vecsnap(&["validate", stamp]).run().code == Some(0)).count()
    };
    let mut before = sound(&made);
    for delay in 1_u64.. {
        let mut repair = Command::new(command::binary());
        repair.args(["repair", "--confirm", "--json"]).env("ATOCORE_BACKUP_DIR", made.runtime.repo());
        repair.env("ATOCORE_DATA_DIR", made.runtime.data());
        repair.env("ATOCORE_PROJECT_REGISTRY_PATH", made.runtime.registry());
        let mut repair = repair.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(delay * delay));
        let finished = repair.try_wait().unwrap();
        repair.kill().unwrap();
        repair.wait().unwrap();
        if finished.is_some() {
            break;
        }
        let now = sound(&made);
        assert!(now >= before, "after {} ms fewer snapshots are valid", delay * delay);
        before = now;
    }
    made.repaired("killed repairs");
}

#[test]
fn cleanup_passes_over_packs_that_were_set_aside() {
    let made = Fixture::new();
    let pack = made.packs().swap_remove(0);
    Damage::Flip.inflict(&pack);
    let moved = made.repaired("a pack")["damaged_packs"][0]["moved_to"].as_str().unwrap().to_owned();
    let told = made.runtime.vecsnap(&["cleanup", "--keep-last", "1", "--confirm", "--json"]).run().exits(0).json();
    assert_eq!(told["errors"], json!([]));
    assert!(Path::new(&moved).exists());
    made.runtime.vecsnap(&["validate", made.last()]).run().exits(0);
}

#[test]
fn create_takes_the_place_of_a_damaged_pack_of_the_same_name() {
    let runtime = Runtime::new();
    let first = runtime.create(&["--chroma"]);
    let before = damage::packs(&runtime.repo());
    for pack in &before {
        damage::flip(pack, fs::metadata(pack).unwrap().len() - 30);
    }
    fs::remove_file(runtime.repo().join("index.sqlite")).unwrap();
    runtime.vecsnap(&["validate", &first]).run().exits(3);
    let second = runtime.create(&["--chroma"]);
    assert_eq!(damage::packs(&runtime.repo()), before, "the same state makes the same packs");
    for stamp in [&first, &second] {
        runtime.vecsnap(&["validate", stamp]).run().exits(0);
    }
    assert_eq!(damage::files_below(&runtime.repo().join("damaged")).len(), before.len());
}

#[test]
fn after_validate_found_damage_the_next_create_stores_anew_what_it_still_has() {
    let runtime = Runtime::new();
    fs::write(runtime.chroma().join("blob"), noise::bytes("blob", 1_000_000)).unwrap();
    let first = runtime.create(&["--chroma"]);
    let pack = damage::packs(&runtime.repo()).into_iter().max_by_key(|pack| fs::metadata(pack).unwrap().len());
    damage::flip(&pack.unwrap(), 2000);
    runtime.vecsnap(&["validate", &first]).run().exits(3);
    let second = runtime.create(&["--chroma"]);
    for stamp in [&first, &second] {
        runtime.vecsnap(&["validate", stamp]).run().exits(0);
    }
    // Nor does a cleanup take the damaged copy for the one to keep.
    runtime.vecsnap(&["cleanup", "--keep-last", "1", "--confirm"]).run().exits(0);
    runtime.vecsnap(&["validate", &second]).run().exits(0);
}
