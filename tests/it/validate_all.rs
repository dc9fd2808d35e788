//! Validating all snapshots at once says of each what validating it alone says, and finds all damage.

use std::fs;

use serde_json::{Value, json};

use crate::support::damage::{self, Damage};
use crate::support::{Runtime, noise};

/// Three snapshots, of which the first one lacks the vector store.
fn made() -> Runtime {
    let runtime = Runtime::new();
    runtime.create(&[]);
    runtime.remember("second");
    fs::write(runtime.chroma().join("blob"), noise::bytes("blob", 400_000)).unwrap();
    runtime.create(&["--chroma"]);
    runtime.store().update(7);
    runtime.write_registry("p02");
    runtime.create(&["--chroma"]);
    runtime
}

fn all(runtime: &Runtime, arguments: &[&str], exit: i32) -> Value {
    runtime.vecsnap(&["validate", "--all", "--json"]).args(arguments).run().exits(exit).json()
}

/// What `validate` says of each snapshot alone.
fn one_by_one(runtime: &Runtime) -> Vec<Value> {
    let documents = runtime.snapshots().into_iter().map(|stamp| {
        let mut document = runtime.vecsnap(&["validate", &stamp, "--json"]).run().json();
        document.as_object_mut().unwrap().shift_remove("also_hurt");
        document
    });
    documents.collect()
}

#[test]
fn sound_snapshots_are_valid_and_totals_say_so() {
    let runtime = made();
    let told = all(&runtime, &[], 0);
    assert_eq!((&told["valid"], &told["invalid"], &told["all_valid"]), (&json!(3), &json!(0), &json!(true)));
    assert_eq!(told["snapshots"].as_array().unwrap(), &one_by_one(&runtime));
    assert_eq!((&told["damaged_packs"], &told["full_copies"]), (&json!([]), &json!(0)));
    let sum = |document: &Value| document["metadata"]["chroma_snapshot_bytes"].as_u64().unwrap();
    let logical: u64 = told["snapshots"].as_array().unwrap().iter().map(sum).sum();
    let read = told["read_bytes"].as_u64().unwrap();
    assert!(read > 0 && read < logical, "what two snapshots share is read once: {read} of {logical}");
}

#[test]
fn every_wound_of_every_pack_is_found_as_by_validating_one_by_one() {
    for wound in [Damage::Flip, Damage::Truncate, Damage::Empty, Damage::Delete] {
        let packs = damage::packs(&made().repo()).len();
        for number in 0..packs {
            let runtime = made();
            let pack = damage::packs(&runtime.repo()).swap_remove(number);
            wound.inflict(&pack);
            let told = runtime.vecsnap(&["validate", "--all", "--json"]).run().exits(3).json();
            assert_eq!(told["snapshots"].as_array().unwrap(), &one_by_one(&runtime), "{wound:?} of {number}");
            assert!(told["invalid"].as_u64().unwrap() > 0, "{wound:?} of {number}: {told}");
        }
    }
}

#[test]
fn a_footer_that_nobody_needs_is_named_without_an_invalid_snapshot() {
    let runtime = made();
    let last = runtime.snapshots().pop().unwrap();
    let before = damage::packs(&runtime.repo());
    fs::write(runtime.chroma().join("passing"), noise::bytes("passing", 100_000)).unwrap();
    let passing = runtime.create(&["--chroma"]);
    assert_ne!(passing, last);
    fs::remove_dir_all(runtime.snapshot(&passing)).unwrap();
    let pack = damage::packs(&runtime.repo()).into_iter().find(|pack| !before.contains(pack)).unwrap();
    let length = fs::metadata(&pack).unwrap().len();
    damage::flip(&pack, length - 30);
    let told = all(&runtime, &[], 7);
    assert_eq!((&told["invalid"], &told["all_valid"]), (&json!(0), &json!(true)));
    assert!(told["damaged_packs"][0].as_str().unwrap().contains(pack.to_str().unwrap()), "{told}");
}

#[test]
fn a_sample_draws_by_its_seed_and_what_it_finds_is_held_against_every_snapshot() {
    let runtime = made();
    let largest = damage::packs(&runtime.repo()).into_iter().max_by_key(|pack| fs::metadata(pack).unwrap().len());
    let pack = largest.unwrap();
    let whole = all(&runtime, &["--sample", "100%"], 0)["read_bytes"].as_u64().unwrap();
    assert_eq!(whole, all(&runtime, &[], 0)["read_bytes"].as_u64().unwrap());
    let part = all(&runtime, &["--sample", "40%"], 0);
    let seed = part["sample"]["seed"].to_string();
    assert_eq!(all(&runtime, &["--sample", "40", "--seed", &seed], 0)["read_bytes"], part["read_bytes"]);
    let shares: Vec<u64> = (0..12_u8)
        .map(|seed| all(&runtime, &["--sample", "40%", "--seed", &seed.to_string()], 0))
        .map(|told| told["read_bytes"].as_u64().unwrap())
        .collect();
    assert!(shares.iter().any(|read| *read < whole) && shares.iter().any(|read| *read > 0), "{shares:?} of {whole}");
    Damage::Flip.inflict(&pack);
    let told = all(&runtime, &["--sample", "100%"], 3);
    assert!(!told["also_hurt"].as_array().unwrap().is_empty(), "{told}");
}

#[test]
fn directories_that_are_no_snapshots_any_more_are_named_and_full_copies_counted() {
    let runtime = made();
    let stamps = runtime.snapshots();
    fs::remove_file(runtime.snapshot(&stamps[0]).join("manifest")).unwrap();
    damage::flip(&runtime.snapshot(&stamps[1]).join("manifest"), 40);
    let copy = runtime.snapshot("20200101T000000Z");
    fs::create_dir_all(copy.join("db")).unwrap();
    let told = all(&runtime, &[], 3);
    assert_eq!((&told["full_copies"], &told["valid"], &told["invalid"]), (&json!(1), &json!(1), &json!(2)));
    assert_eq!(told["snapshots"][0]["errors"], json!(["manifest_missing"]));
    assert!(told["snapshots"][1]["errors"][0].as_str().unwrap().starts_with("manifest_corrupt: "));
    let nowhere = Runtime::bare();
    assert_eq!(all(&nowhere, &[], 3)["snapshots"], json!([]));
}
