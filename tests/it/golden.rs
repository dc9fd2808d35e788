//! The golden repositories of format 1 in `tests/fixtures/v1`: written once, read forever.
//!
//! Each fixture holds `repository/` and, for each snapshot, `<stamp>.tree`: one line for each path, with tabs between
//! path, mode, type, length, and the BLAKE3 of a file or the target of a link.

#[path = "golden/fixtures.rs"]
mod fixtures;
#[path = "golden/reading.rs"]
mod reading;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use vecsnap::format::compression;
use vecsnap::format::envelope::{CHECKSUM_BYTES, HEAD_BYTES};
use vecsnap::format::header::RepositoryDocument;
use vecsnap::format::manifest::Manifest;
use vecsnap::format::pack::{self, BaseDistance, END_BYTES, Encoding, Footer, FooterPlace};
use vecsnap::id::PackId;

/// Every fixture, with what it is there for.
pub(crate) const FIXTURES: [(&str, &str); 7] = [
    ("everything", "all sources, all kinds of entries, raw and zstd frames, several records a frame, whole list nodes"),
    ("deltas", "bases of two chunks, moved copies, a delta against a delta, list nodes against the id table"),
    ("holes", "a sparse file of depth 2 with a hole over a whole node, a file that is one hole, a hole at the end"),
    ("states", "absent, not requested and changing sources; a pre-restore snapshot with a database taken as bytes"),
    ("strides", "chains of chunks and of list nodes with the hint that a base is 32 versions back"),
    ("planes", "frames of vectors in planes: one beyond a segment, lengths that four does not divide, a whole segment"),
    ("several-records", "blobs with several records, deltas in a circle, another record where one leads nowhere"),
];

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/v1")
}

/// The snapshots of a fixture with the trees that a reader must find in them.
pub(crate) fn snapshots(fixture: &str) -> BTreeMap<String, String> {
    let names = fs::read_dir(root().join(fixture)).unwrap().map(|entry| entry.unwrap().path());
    let trees = names.filter(|path| path.extension().is_some_and(|extension| extension == "tree"));
    trees
        .map(|path| (path.file_stem().unwrap().to_str().unwrap().to_owned(), fs::read_to_string(path).unwrap()))
        .collect()
}

/// Run by hand, once for each fixture that is new: `cargo test --test it write_golden_v1 -- --ignored`.
#[test]
#[ignore = "golden repositories are written once; the committed bytes are what later versions must read"]
fn write_golden_v1() {
    fixtures::write_missing();
}

#[test]
fn every_fixture_is_listed_and_every_listed_one_has_snapshots() {
    let mut found: Vec<String> =
        fs::read_dir(root()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    found.sort();
    let mut listed = FIXTURES.map(|(name, _)| name);
    listed.sort_unstable();
    assert_eq!(found, listed);
    for name in listed {
        let mut committed: Vec<String> = fs::read_dir(root().join(name).join("repository/snapshots"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        committed.sort();
        assert!(!committed.is_empty(), "{name}");
        assert_eq!(committed, snapshots(name).into_keys().collect::<Vec<_>>(), "{name}");
    }
}

#[test]
fn every_structure_of_every_fixture_decodes() {
    let (mut deltas, mut id_tables, mut strides) = (0, 0, 0);
    for (fixture, _) in FIXTURES {
        let repository = root().join(fixture).join("repository");
        let header = RepositoryDocument::parse(&fs::read(repository.join("repository.json")).unwrap()).unwrap();
        for stamp in snapshots(fixture).keys() {
            let manifest = fs::read(repository.join("snapshots").join(stamp).join("manifest")).unwrap();
            let manifest = Manifest::decode(&manifest).unwrap();
            assert_eq!(manifest.header, header);
            assert_eq!(manifest.stamp().unwrap().to_string(), *stamp);
        }
        for entry in walkdir::WalkDir::new(repository.join("packs")) {
            let entry = entry.unwrap();
            if entry.file_type().is_dir() {
                continue;
            }
            let pack = fs::read(entry.path()).unwrap();
            let id = PackId::of_hasher(blake3::Hasher::new().update(&pack));
            assert_eq!(entry.file_name().to_str().unwrap(), format!("{id}.pack"));
            assert_eq!(pack::decode_header(&pack).unwrap(), header);
            for record in check_pack(&pack) {
                if let Encoding::Delta { id_table, distance, .. } = record.encoding {
                    deltas += 1;
                    id_tables += usize::from(id_table);
                    strides += usize::from(distance == BaseDistance::Stride);
                }
            }
        }
    }
    assert!(deltas >= 10 && id_tables >= 2, "{deltas} deltas, {id_tables} of them against an id table");
    assert_eq!(strides, 4, "records with the hint");
}

fn check_pack(pack: &[u8]) -> Vec<pack::Record> {
    let (rest, end) = pack.split_at(pack.len() - END_BYTES);
    let place = FooterPlace::decode(end, pack.len() as u64).unwrap();
    assert!(place.length as usize >= HEAD_BYTES + CHECKSUM_BYTES);
    let footer = Footer::decode(&rest[place.offset as usize..], place.offset).unwrap();
    for (number, frame) in (0..).zip(&footer.frames) {
        let stored = &pack[frame.offset as usize..][..frame.stored_length as usize];
        let raw = compression::decompress(frame.codec().unwrap(), stored, frame.raw_length as usize).unwrap();
        for record in footer.records.iter().filter(|record| record.frame == number) {
            let payload = &raw[record.offset as usize..][..record.payload_length as usize];
            if record.encoding == Encoding::Whole {
                assert_eq!(record.kind.id_of(payload), record.id);
            }
        }
    }
    footer.records
}
