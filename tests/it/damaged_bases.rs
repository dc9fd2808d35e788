//! A base that is missing or damaged: what is said of it, and of every snapshot and file that it hurts.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use vecsnap::format::pack::BlobKind;
use vecsnap::id::BlobId;

use crate::support::chained::{Made, version, write_chain};
use crate::support::damage::{self, Damage};
use crate::support::{Runtime, noise};

const STAMPS: [&str; 4] = ["20260401T000000Z", "20260402T000000Z", "20260403T000000Z", "20260404T000000Z"];

/// A chain of 25 versions over three packs, and a snapshot of some versions each; the last one needs none.
fn made() -> Made {
    let mut made = Made::new();
    let versions = write_chain(&mut made.repository, 24);
    made.snapshot(STAMPS[0], &versions[3]);
    made.snapshot(STAMPS[1], &[version(24), noise::bytes("its own", 5000)].concat());
    made.snapshot(STAMPS[2], &version(14));
    made.snapshot(STAMPS[3], &noise::bytes("sound", 100_000));
    made
}

/// The pack that begins with this version of the chain.
fn pack_from(made: &Made, number: usize) -> std::path::PathBuf {
    let first = BlobId::of_chunk(&version(number));
    let packs = damage::packs(&made.repository.root());
    packs.into_iter().find(|pack| first_record(pack) == first).unwrap()
}

fn first_record(pack: &Path) -> BlobId {
    use vecsnap::format::pack::{END_BYTES, Footer, FooterPlace};
    let bytes = fs::read(pack).unwrap();
    let (rest, end) = bytes.split_at(bytes.len() - END_BYTES);
    let place = FooterPlace::decode(end, bytes.len() as u64).unwrap();
    Footer::decode(&rest[place.offset as usize..], place.offset).unwrap().records[0].id
}

fn document(made: &Made, arguments: &[&str], exit: i32) -> Value {
    made.run(&[&["validate"], arguments].concat()).exits(exit).json()
}

fn hurt(stamps: &[&str]) -> Value {
    stamps.iter().map(|stamp| json!({ "stamp": stamp, "files": ["chroma/data"], "more_files": 0 })).collect()
}

#[test]
fn a_damaged_base_is_named_with_its_pack_and_all_that_it_hurts() {
    let made = made();
    let pack = pack_from(&made, 0);
    // Within the first frame, whose first bytes are those of version 0.
    damage::flip(&pack, 1000);
    let told = document(&made, &[STAMPS[1]], 3);
    let errors = told["errors"].as_array().unwrap();
    assert_eq!(errors.len(), 1, "{told}");
    let error = errors[0].as_str().unwrap();
    let (hurt_blob, base) = (BlobId::of_chunk(&version(24)), BlobId::of_chunk(&version(0)));
    let begin = format!("chunk_corrupt: chroma/data at byte 0 (65536 bytes): blob {hurt_blob} needs blob {base} in ");
    assert!(error.starts_with(&begin) && error.contains(pack.to_str().unwrap()), "{error}");
    assert_eq!(told["also_hurt"], hurt(&[STAMPS[0], STAMPS[2]]));
    assert_eq!((&told["chroma_ok"], &told["db_ok"]), (&json!(false), &json!(true)));

    assert_eq!(document(&made, &[STAMPS[0]], 3)["also_hurt"], hurt(&[STAMPS[1], STAMPS[2]]));
    let sound = document(&made, &[STAMPS[3]], 0);
    assert!(sound.get("also_hurt").is_none(), "{sound}");
}

#[test]
fn a_missing_base_is_named_by_a_quick_look_too() {
    let made = made();
    fs::remove_file(pack_from(&made, 10)).unwrap();
    for arguments in [&[STAMPS[1]][..], &[STAMPS[1], "--quick"]] {
        let told = document(&made, arguments, 3);
        let error = told["errors"][0].as_str().unwrap();
        let base = BlobId::of_chunk(&version(19)).prefix();
        assert!(error.contains(&format!("needs blob {base}…, which no pack holds")), "{error}");
        assert_eq!(told["also_hurt"], hurt(&[STAMPS[2]]));
    }
    document(&made, &[STAMPS[0]], 0);
    document(&made, &[STAMPS[3]], 0);
}

#[test]
fn a_base_with_another_record_that_is_fine_is_no_damage() {
    let mut made = made();
    Damage::Flip.inflict(&pack_from(&made, 10));
    let lost = document(&made, &[STAMPS[1]], 3);
    assert!(lost["errors"][0].as_str().unwrap().starts_with("chunk_corrupt: chroma/data at byte 0 "), "{lost}");
    made.repository.whole(BlobKind::Chunk, &version(19));
    made.repository.end_pack();
    document(&made, &[STAMPS[1]], 0);
    // Of the others, only what needs the rest of the damaged pack is hurt.
    assert_eq!(document(&made, &[STAMPS[2]], 3).get("also_hurt"), None);
    assert_eq!(made.restored(STAMPS[1])[..65_536], version(24));
}

#[test]
fn a_lost_pack_of_real_snapshots_hurts_those_that_came_after_and_only_where_they_need_it() {
    let runtime = Runtime::new();
    let mut stamps = Vec::new();
    for number in 0..3 {
        stamps.push(runtime.create(&["--chroma", "--effort", "normal"]));
        runtime.remember(&format!("memory {number}"));
    }
    runtime.store().update(7);
    let last = runtime.create(&["--chroma", "--effort", "normal"]);
    runtime.vecsnap(&["validate", &last]).run().exits(0);
    let packs = damage::packs(&runtime.repo());
    let largest = packs.iter().max_by_key(|pack| fs::metadata(pack).unwrap().len()).unwrap();
    fs::remove_file(largest).unwrap();
    let told = runtime.vecsnap(&["validate", &last]).run().exits(3).json();
    let also: Vec<_> = told["also_hurt"].as_array().unwrap().iter().map(|other| other["stamp"].clone()).collect();
    assert_eq!(also, stamps, "{told}");
    for (other, stamp) in told["also_hurt"].as_array().unwrap().iter().zip(&stamps) {
        let own = runtime.vecsnap(&["validate", stamp]).run().exits(3).json();
        for file in other["files"].as_array().unwrap() {
            let named = own["errors"].as_array().unwrap().iter();
            let mut named = named.filter(|error| error.as_str().unwrap().contains(file.as_str().unwrap()));
            assert!(named.next().is_some(), "{file} of {stamp} is said to be hurt: {own}");
        }
    }
}
