//! Chains of deltas made by hand: every depth and breadth that the format allows, one more, circles, and ways past what
//! leads nowhere.

use std::time::Instant;

use serde_json::Value;
use vecsnap::format::delta::Instruction::{self, CopyFrom};
use vecsnap::format::limits::{BASE_COMBINATIONS, CHAIN_DEPTH, CHAIN_RECORDS};
use vecsnap::format::pack::BlobKind;
use vecsnap::id::BlobId;
use vecsnap::store::{BlobFault, BlobReader};

use crate::support::chained::{Made, PATIENCE, version, write_chain};
use crate::support::handmade::HandmadeRepository;
use crate::support::noise;

const STAMPS: [&str; 2] = ["20260401T000000Z", "20260402T000000Z"];

#[test]
fn every_depth_up_to_the_limit_is_read_by_a_reader_that_knows_nothing_yet() {
    let mut made = Made::new();
    let versions = write_chain(&mut made.repository, CHAIN_DEPTH);
    let repository = made.open();
    for (depth, version) in versions.iter().enumerate() {
        let mut reader = BlobReader::new(&repository);
        let id = BlobId::of_chunk(version);
        assert!(reader.look_up_chunk(&id).unwrap().is_ok(), "depth {depth}");
        let chained =
            reader.chained(&id, BlobKind::Chunk).unwrap().unwrap_or_else(|fault| panic!("{depth}: {fault:?}"));
        assert_eq!(*chained.bytes, **version, "depth {depth}");
        assert_eq!((chained.facts.depth, chained.facts.records), (depth as u32, depth as u32 + 1));
    }
}

#[test]
fn snapshots_of_every_depth_are_validated_restored_and_cleaned() {
    let mut made = Made::new();
    let versions = write_chain(&mut made.repository, CHAIN_DEPTH);
    made.snapshot(STAMPS[0], &versions.concat());
    made.snapshot(STAMPS[1], &versions[CHAIN_DEPTH]);
    for stamp in STAMPS {
        for arguments in [&["validate", stamp][..], &["validate", stamp, "--quick"]] {
            assert_eq!(made.run(arguments).exits(0).json()["errors"], Value::Array(Vec::new()));
        }
    }
    assert_eq!(made.restored(STAMPS[0]), versions.concat());
    assert_eq!(made.restored(STAMPS[1]), versions[CHAIN_DEPTH]);
    assert_eq!(made.run(&["stats"]).exits(0).json()["chains"]["max_depth"], CHAIN_DEPTH);

    let cleanup = made.run(&["cleanup", "--keep-last", "1", "--confirm"]).exits(0).json();
    assert_eq!((&cleanup["deleted"], &cleanup["errors"]), (&Value::from(1), &Value::Array(Vec::new())));
    made.run(&["validate", STAMPS[1]]).exits(0);
    assert_eq!(made.restored(STAMPS[1]), versions[CHAIN_DEPTH]);
}

#[test]
fn one_step_beyond_the_depth_is_refused_and_said_to_be() {
    let mut made = Made::new();
    let versions = write_chain(&mut made.repository, CHAIN_DEPTH + 1);
    made.snapshot(STAMPS[0], &versions[CHAIN_DEPTH + 1]);
    let errors = made.errors(&[STAMPS[0]]);
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert!(errors[0].starts_with("chunk_corrupt: chroma/data at byte 0 (65536 bytes): "), "{errors:?}");
    assert!(errors[0].contains("deeper than the format allows"), "{errors:?}");
    assert_eq!(made.errors(&[STAMPS[0], "--quick"]).len(), 1);
    // Another record of it is as good as any: the blob is then no damage at all.
    made.repository.delta_in_place(&versions[CHAIN_DEPTH + 1], &versions[1]);
    made.repository.end_pack();
    made.run(&["validate", STAMPS[0]]).exits(0);
    assert_eq!(made.restored(STAMPS[0]), versions[CHAIN_DEPTH + 1]);
}

/// Adds the concatenation of these pieces of blobs as a delta with a base for each, and returns it.
fn write_concatenation(repository: &mut HandmadeRepository, bases: &[Vec<u8>], each: usize) -> Vec<u8> {
    let content: Vec<u8> = bases.iter().flat_map(|base| &base[..each]).copied().collect();
    let code: Vec<Instruction> =
        (0..bases.len()).map(|base| CopyFrom { length: each as u32, base: base as u32, offset: 0 }).collect();
    let bases: Vec<&[u8]> = bases.iter().map(Vec::as_slice).collect();
    repository.delta(&content, &bases, &code, b"");
    content
}

/// Writes a blob that is a delta against 33 deltas, each of which is one against so many whole blobs of its own.
fn write_tree(repository: &mut HandmadeRepository, leaves: usize) -> Vec<u8> {
    let mut inner = Vec::new();
    for parent in 0..33 {
        let leaf = |number: usize| noise::bytes(&format!("leaf {parent}/{number}"), 60);
        let leaves: Vec<_> = (0..leaves).map(leaf).collect();
        for leaf in &leaves {
            repository.whole(BlobKind::Chunk, leaf);
        }
        inner.push(write_concatenation(repository, &leaves, 60));
    }
    write_concatenation(repository, &inner, 1000)
}

#[test]
fn a_blob_that_needs_as_many_records_as_the_format_allows_is_read_at_once() {
    assert_eq!(1 + 33 + 33 * 30, CHAIN_RECORDS);
    let mut made = Made::new();
    let top = write_tree(&mut made.repository, 30);
    made.repository.end_pack();
    assert_eq!(made.read(&top).unwrap(), top);
    made.snapshot(STAMPS[0], &top);
    made.run(&["validate", STAMPS[0]]).exits(0);
    assert_eq!(made.restored(STAMPS[0]), top);
}

#[test]
fn a_chain_that_fails_does_not_count_against_the_next_record_of_the_blob() {
    let mut made = Made::new();
    // The first record needs more than the format allows, the second one base.
    let top = write_tree(&mut made.repository, 31);
    let base = [&top[..top.len() - 1], b"!"].concat();
    made.repository.whole(BlobKind::Chunk, &base);
    made.repository.delta_in_place(&top, &base);
    made.repository.end_pack();
    let repository = made.open();
    let mut reader = BlobReader::new(&repository);
    let chained = reader.chained(&BlobId::of_chunk(&top), BlobKind::Chunk).unwrap().unwrap();
    assert_eq!(*chained.bytes, *top);
    assert_eq!(chained.facts.records, 2, "a record that exceeds the limits was taken");
}

/// Adds a delta for each pair: the first blob against the second.
fn write_circle(repository: &mut HandmadeRepository, pairs: &[[usize; 2]]) {
    for [new, base] in pairs {
        repository.delta_in_place(&version(*new), &version(*base));
    }
    repository.end_pack();
}

/// Each of so many blobs against each other one.
fn everyone_against_everyone(many: usize) -> Vec<[usize; 2]> {
    (0..many).flat_map(|new| (0..many).filter(move |base| *base != new).map(move |base| [new, base])).collect()
}

#[test]
fn circles_are_damage_and_never_a_hang() {
    let everyone_against_everyone = everyone_against_everyone(14);
    // Each blob of a layer against each of the next; the last layer against the first.
    let layers: Vec<[usize; 2]> = (0..10_usize)
        .flat_map(|layer| {
            (0..6).flat_map(move |new| (0..6).map(move |base| [layer * 6 + new, (layer + 1) % 10 * 6 + base]))
        })
        .collect();
    let circles: [&[[usize; 2]]; 5] =
        [&[[0, 0]], &[[0, 1], [1, 0]], &[[0, 1], [1, 2], [2, 3], [3, 1]], &everyone_against_everyone, &layers];
    for circle in circles {
        let mut made = Made::new();
        write_circle(&mut made.repository, circle);
        made.snapshot(STAMPS[0], &version(0));
        made.snapshot(STAMPS[1], &noise::bytes("another", 1000));
        let began = Instant::now();
        let errors = made.errors(&[STAMPS[0]]);
        assert!(errors[0].starts_with("chunk_corrupt: chroma/data at byte 0 (65536 bytes): "), "{errors:?}");
        assert!(errors[0].len() < 2000, "{} bytes of text", errors[0].len());
        assert!(!made.errors(&[STAMPS[0], "--quick"]).is_empty());
        let nowhere = ["--db", "/x/db", "--registry", "/x/registry", "--chroma-dir", "/x/chroma"];
        made.run(&[&["restore", STAMPS[0], "--confirm-service-stopped"][..], &nowhere].concat()).exits(3);
        let stats = made.run(&["stats"]).exits(1).json();
        assert_eq!(stats["chains"]["lost_blobs"], 1, "{stats}");
        made.run(&["cleanup", "--keep-last", "1"]);
        made.run(&["validate", STAMPS[1]]).exits(0);
        assert!(began.elapsed() < PATIENCE, "{} pairs took {:?}", circle.len(), began.elapsed());
    }
}

#[test]
fn a_way_out_of_a_circle_is_found() {
    let mut made = Made::new();
    write_circle(&mut made.repository, &[[0, 1], [1, 2], [2, 0]]);
    made.repository.whole(BlobKind::Chunk, &version(7));
    made.repository.delta_in_place(&version(2), &version(7));
    made.repository.end_pack();
    let all = [version(0), version(1), version(2)].concat();
    made.snapshot(STAMPS[0], &all);
    for arguments in [&["validate", STAMPS[0]][..], &["validate", STAMPS[0], "--quick"], &["stats"]] {
        made.run(arguments).exits(0);
    }
    assert_eq!(made.restored(STAMPS[0]), all);
    made.run(&["cleanup", "--confirm"]).exits(0);
    made.run(&["validate", STAMPS[0]]).exits(0);
    assert_eq!(made.restored(STAMPS[0]), all);
}

#[test]
fn a_way_past_all_that_lead_nowhere_is_found() {
    // Each step of a ladder has two records, and what they lead to is damaged.
    let ladder: Vec<[usize; 2]> = (0..40).flat_map(|step| [[step, step + 1]; 2]).collect();
    for (pairs, ways_out) in [(ladder, vec![0]), (everyone_against_everyone(14), vec![0, 13])] {
        for way_out in ways_out {
            let mut made = Made::new();
            for [new, base] in &pairs {
                made.repository.delta_in_place(&version(*new), &version(*base));
            }
            made.repository.claimed_whole(BlobId::of_chunk(&version(40)), b"damaged");
            made.repository.whole(BlobKind::Chunk, &version(99));
            made.repository.delta_in_place(&version(way_out), &version(99));
            made.repository.end_pack();
            assert_eq!(made.read(&version(0)).unwrap(), version(0), "{} pairs, out at {way_out}", pairs.len());
            made.snapshot(STAMPS[0], &version(0));
            made.run(&["validate", STAMPS[0]]).exits(0);
            made.run(&["validate", STAMPS[0], "--quick"]).exits(0);
            assert_eq!(made.restored(STAMPS[0]), version(0));
        }
    }
}

#[test]
fn a_search_that_is_given_up_is_said_to_be() {
    let mut made = Made::new();
    let wanted = version(0);
    for _ in 0..=16 * CHAIN_RECORDS {
        made.repository.claimed_whole(BlobId::of_chunk(&wanted), b"damaged");
    }
    made.repository.end_pack();
    let Err(BlobFault::Corrupt(cause)) = made.read(&wanted) else { panic!("it was read") };
    assert!(cause.contains("given up after 16384 tries"), "{cause}");
    assert!(!cause.contains("the format allows") && cause.len() < 2000, "{cause}");
}

#[test]
fn a_base_is_found_among_as_many_of_its_prefix_as_a_reader_must_look_at() {
    let (base, new) = (version(0), version(1));
    for (others, found) in [(BASE_COMBINATIONS - 1, true), (BASE_COMBINATIONS, false)] {
        let mut made = Made::new();
        let mut id = [0; BlobId::LEN];
        id[..8].copy_from_slice(BlobId::of_chunk(&base).prefix().as_bytes());
        for other in 0..others as u64 {
            id[24..].copy_from_slice(&other.to_be_bytes());
            made.repository.claimed_whole(BlobId::from_bytes(id), b"another");
        }
        made.repository.whole(BlobKind::Chunk, &base);
        made.repository.delta_in_place(&new, &base);
        made.repository.end_pack();
        assert_eq!(made.read(&new).is_ok(), found, "{others} others");
    }
}
