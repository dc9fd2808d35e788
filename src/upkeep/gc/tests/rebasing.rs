//! Chains through versions that no snapshot reaches: what survives gets new bases, and the rest goes.

use super::*;
use crate::format::limits::CHAIN_DEPTH;
use crate::store::Base;
use crate::store::blob_reader::ChainedBlob;

/// The records of a chunk in all packs that there are.
fn records_of(root: &Path, content: &[u8]) -> Vec<Encoding> {
    let repository = open(root, Access::Read);
    let id = BlobId::of_chunk(content);
    let packs = packs::list(repository.storage()).unwrap();
    let footers = packs.iter().map(|pack| packs::read_footer(repository.storage(), repository.header(), pack).unwrap());
    let records = footers.flat_map(|footer| footer.records).filter(|record| record.id == id);
    records.map(|record| record.encoding).collect()
}

fn on(base: &[u8]) -> Encoding {
    Encoding::Delta { bases: vec![BlobId::of_chunk(base).prefix()], id_table: false, distance: BaseDistance::One }
}

fn chained(root: &Path, content: &[u8]) -> ChainedBlob {
    let repository = open(root, Access::Read);
    BlobReader::new(&repository).chained(&BlobId::of_chunk(content), BlobKind::Chunk).unwrap().unwrap()
}

fn pack_count(root: &Path) -> usize {
    packs::list(open(root, Access::Read).storage()).unwrap().len()
}

/// A pack of one needed chunk and so much garbage that it is opened.
fn mostly_garbage(root: &Path, needed: &[u8]) -> PackFile {
    let dead: Vec<_> = (10..40).map(|seed| noise(seed, CHUNK)).collect();
    let records: Vec<_> = dead.iter().map(|content| whole(content)).chain([whole(needed)]).collect();
    write_pack(root, &records)
}

#[test]
fn versions_between_the_root_and_what_survives_go() {
    let root = made();
    let own = 2000;
    let common = noise(1, CHUNK - own);
    let versions: Vec<_> = (100..140).map(|seed| [&common[..], &noise(seed, own)].concat()).collect();
    let live: Vec<_> = (50..58).map(|seed| noise(seed, CHUNK)).collect();
    let records: Vec<_> = live.iter().chain([&versions[0]]).map(|content| whole(content)).collect();
    let first = write_pack(root.path(), &records);
    let along = Instruction::CopyAlong { length: (CHUNK - own) as u32 };
    let steps = [along, Instruction::Literal { length: own as u32 }];
    let delta = |pair: &[Vec<u8>]| write_pack(root.path(), &[copied(&pair[1], &[&pair[0]], &steps, BaseDistance::One)]);
    let middle: Vec<_> = versions.windows(2).map(delta).collect();
    let kept: Vec<&[u8]> = live.iter().chain([&versions[39]]).map(Vec::as_slice).collect();
    take_snapshot(root.path(), STAMP, &kept);
    let before: u64 = middle.iter().map(|pack| pack.size).sum();
    let freed = collect(root.path());
    assert!(holds(root.path(), &first) && middle.iter().all(|pack| !holds(root.path(), pack)));
    assert!(freed > before / 2, "{freed} of {before}");
    assert_eq!(records_of(root.path(), &versions[39]), [on(&versions[0])]);
    assert_eq!((collect(root.path()), pack_count(root.path())), (0, 3), "nothing is left to do");
}

#[test]
fn the_oldest_survivor_takes_the_place_of_a_root_that_goes() {
    let root = made();
    let versions = versions(1, 8);
    let opened = mostly_garbage(root.path(), &versions[0]);
    for pair in versions.windows(2) {
        write_pack(root.path(), &[delta_of(&pair[1], &pair[0])]);
    }
    take_snapshot(root.path(), STAMP, &[&versions[3], &versions[5], &versions[6]]);
    collect(root.path());
    assert!(!holds(root.path(), &opened));
    for gone in [0, 1, 2, 4, 7] {
        assert_eq!(records_of(root.path(), &versions[gone]), [], "version {gone}");
    }
    assert_eq!(records_of(root.path(), &versions[3]), [Encoding::Whole]);
    assert_eq!(records_of(root.path(), &versions[5]), [on(&versions[3])]);
    assert_eq!(records_of(root.path(), &versions[6]), [on(&versions[5])]);
}

#[test]
fn chains_of_every_depth_are_cleaned_and_what_is_kept_of_them_restores() {
    let versions = versions(1, CHAIN_DEPTH as u64 + 1);
    for depth in 1..=CHAIN_DEPTH {
        let root = made();
        // With every eighth one the root goes too.
        if depth.is_multiple_of(8) {
            mostly_garbage(root.path(), &versions[0]);
        } else {
            write_pack(root.path(), &[whole(&versions[0])]);
        }
        let chain: Vec<_> = versions[..=depth].windows(2).map(|pair| delta_of(&pair[1], &pair[0])).collect();
        write_pack(root.path(), &chain);
        let kept = [&*versions[depth], &*versions[depth.div_ceil(2)]];
        take_snapshot(root.path(), STAMP, &kept);
        collect(root.path());
        assert!(chained(root.path(), kept[0]).facts.depth <= depth as u32, "depth {depth}");
    }
}

#[test]
fn a_version_whose_stride_anchor_goes_is_stored_against_its_nearest_relative() {
    let root = made();
    let versions = versions(1, 66);
    mostly_garbage(root.path(), &versions[0]);
    let mut chain = Vec::new();
    for (number, pair) in (1..).zip(versions.windows(2)) {
        chain.push(match number {
            32 | 64 => stepped(&pair[1], &versions[number - 32], BaseDistance::Stride),
            _ => delta_of(&pair[1], &pair[0]),
        });
    }
    write_pack(root.path(), &chain);
    let kept: Vec<&[u8]> = (60..66).map(|number| &*versions[number]).collect();
    take_snapshot(root.path(), STAMP, &kept);
    collect(root.path());
    let wholes = kept.iter().filter(|content| records_of(root.path(), content) == [Encoding::Whole]).count();
    assert_eq!(wholes, 1, "versions 60 and 64 have only version 32 in common, which is dead");
    for content in &kept {
        assert!(chained(root.path(), content).facts.depth < 6);
    }
    // The next version finds a base.
    let repository = open(root.path(), Access::Read);
    let mut reader = BlobReader::new(&repository);
    let base = Base::after(&mut reader, BlobKind::Chunk, &BlobId::of_chunk(kept[5])).unwrap().unwrap();
    assert_eq!((&*base.bytes, base.distance), (kept[5], BaseDistance::One));
}

#[test]
fn copies_from_bases_that_stay_are_kept_and_those_from_others_become_literals() {
    let root = made();
    let [first, second] = twins(1);
    let (live, dead) = (noise(2, CHUNK), noise(3, CHUNK));
    let content = [&second[..30_000], &live[100..5_100], &dead[7_000..7_500], &second[35_500..]].concat();
    let along = |length| Instruction::CopyAlong { length };
    let from = |base, offset, length| Instruction::CopyFrom { length, base, offset };
    let rest = (CHUNK - 35_500) as u32;
    let content_steps = [along(30_000), from(1, 100, 5_000), from(2, 7_000, 500), from(0, 35_500, rest)];
    // Another place, where the 500 bytes have been overwritten meanwhile.
    let dead_root = [&dead[..CHUNK - 8], b"the root"].concat();
    let newer = [&dead[..7_000], &dead[8_000..], &noise(4, 1_000)].concat();
    let newer_steps = [along(7_000), from(0, 8_000, (CHUNK - 8_000) as u32), Instruction::Literal { length: 1_000 }];
    mostly_garbage(root.path(), &first);
    mostly_garbage(root.path(), &dead_root);
    write_pack(root.path(), &[whole(&live)]);
    write_pack(root.path(), &[delta_of(&second, &first), delta_of(&dead, &dead_root)]);
    write_pack(root.path(), &[copied(&content, &[&second, &live, &dead], &content_steps, BaseDistance::One)]);
    write_pack(root.path(), &[copied(&newer, &[&dead], &newer_steps, BaseDistance::One)]);
    take_snapshot(root.path(), STAMP, &[&second, &content, &live, &newer]);
    collect(root.path());
    assert_eq!(records_of(root.path(), &dead), [], "no snapshot reaches it");
    let bases = vec![BlobId::of_chunk(&second).prefix(), BlobId::of_chunk(&live).prefix()];
    let expected = Encoding::Delta { bases, id_table: false, distance: BaseDistance::One };
    assert_eq!(records_of(root.path(), &content), [expected]);
}

#[test]
fn a_dead_chunk_that_many_copy_from_is_kept() {
    let root = made();
    let source = noise(1, CHUNK);
    let opened = mostly_garbage(root.path(), &source);
    let own: Vec<_> = (50..60).map(|seed| noise(seed, 1_000)).collect();
    let contents: Vec<Vec<u8>> = own.iter().map(|own| [&source[..CHUNK - 1_000], own].concat()).collect();
    let roots: Vec<Vec<u8>> = (60..70).map(|seed| noise(seed, CHUNK)).collect();
    write_pack(root.path(), &roots.iter().map(|content| whole(content)).collect::<Vec<_>>());
    let copy = Instruction::CopyFrom { length: (CHUNK - 1_000) as u32, base: 1, offset: 0 };
    let steps = [copy, Instruction::Literal { length: 1_000 }];
    let pairs = contents.iter().zip(&roots);
    let records: Vec<_> =
        pairs.map(|(content, first)| copied(content, &[first, &source], &steps, BaseDistance::One)).collect();
    write_pack(root.path(), &records);
    let kept: Vec<&[u8]> = contents.iter().chain(&roots).map(Vec::as_slice).collect();
    take_snapshot(root.path(), STAMP, &kept);
    collect(root.path());
    assert!(!holds(root.path(), &opened));
    assert_eq!(records_of(root.path(), &source), [Encoding::Whole]);
    assert!(contents.iter().all(|content| records_of(root.path(), content) != [Encoding::Whole]));
}

#[test]
fn behind_a_damaged_dead_base_another_record_counts_or_else_the_packs_stay() {
    for second_copy in [true, false] {
        let root = made();
        let versions = versions(1, 3);
        let opened = mostly_garbage(root.path(), &versions[0]);
        let link = write_pack(root.path(), &[delta_of(&versions[1], &versions[0])]);
        let newest = write_pack(root.path(), &[delta_of(&versions[2], &versions[1])]);
        take_snapshot(root.path(), STAMP, &[&versions[2]]);
        if second_copy {
            let other = noise(7, CHUNK);
            let steps = [Instruction::Literal { length: CHUNK as u32 }];
            write_pack(root.path(), &[whole(&other), copied(&versions[2], &[&other], &steps, BaseDistance::One)]);
        }
        flip(root.path(), &opened, &versions[0]);
        run(root.path());
        if second_copy {
            assert_whole(root.path());
        } else {
            assert!([opened, link, newest].iter().all(|pack| holds(root.path(), pack)));
        }
    }
}

#[test]
fn small_packs_are_merged_and_their_deltas_stay_deltas() {
    let root = made();
    let versions: Vec<Vec<Vec<u8>>> = (1..13).map(|seed| versions(seed, 66)).collect();
    let first = write_pack(root.path(), &versions.iter().map(|versions| whole(&versions[0])).collect::<Vec<_>>());
    for number in 1..66 {
        let pairs = versions.iter().map(|versions| (&versions[number], &versions[number - 1]));
        write_pack(root.path(), &pairs.map(|(content, base)| delta_of(content, base)).collect::<Vec<_>>());
    }
    let all: Vec<&[u8]> = versions.iter().flatten().map(Vec::as_slice).collect();
    take_snapshot(root.path(), STAMP, &all);
    // One of whole chunks, 65 of deltas, one of tables.
    assert_eq!(pack_count(root.path()), 67);
    collect(root.path());
    assert!(holds(root.path(), &first));
    assert_eq!(pack_count(root.path()), 3);
    for versions in &versions {
        for pair in versions.windows(2) {
            assert_eq!(records_of(root.path(), &pair[1]), [on(&pair[0])]);
        }
    }
    assert_eq!((collect(root.path()), pack_count(root.path())), (0, 3));
}
