//! Collections over packs made by hand: deltas, cycles, second copies, and what others publish meanwhile.

use std::fs;
use std::path::Path;

mod rebasing;

use super::*;
use crate::format::compression::Codec;
use crate::format::delta::{self, Instruction};
use crate::format::pack::{self, BaseDistance, BlobKind, Encoding, Footer, Frame, Record};
use crate::id::{BlobId, PackId, Stamp};

pub(super) use crate::restore::verify::fixture::noise;
use crate::restore::verify::fixture::{Source, create, open, snapshot};
use crate::restore::verify::{Depth, VerifyOptions, verify};
use crate::store::verdicts::Recheck;
use crate::store::{Access, BlobWriter, snapshots};

const STAMP: &str = "20260406T180000Z";
const LATER: &str = "20260407T180000Z";
const CHUNK: usize = 65_536;

/// A record to be put into a pack by hand.
struct Handmade<'a> {
    content: &'a [u8],
    /// The payload and encoding, unless it is whole.
    delta: Option<(Vec<u8>, Encoding)>,
}

fn whole(content: &[u8]) -> Handmade<'_> {
    Handmade { content, delta: None }
}

/// The content as a delta that copies all but its last eight bytes from the base.
fn delta_of<'a>(content: &'a [u8], base: &'a [u8]) -> Handmade<'a> {
    stepped(content, base, BaseDistance::One)
}

fn stepped<'a>(content: &'a [u8], base: &'a [u8], distance: BaseDistance) -> Handmade<'a> {
    let copy = Instruction::CopyFrom { length: (CHUNK - 8) as u32, base: 0, offset: 0 };
    copied(content, &[base], &[copy, Instruction::Literal { length: 8 }], distance)
}

/// The content as a delta with these bases; its literals are its last bytes.
fn copied<'a>(content: &'a [u8], bases: &[&[u8]], steps: &[Instruction], distance: BaseDistance) -> Handmade<'a> {
    let literals = steps.iter().map(|step| if let Instruction::Literal { length } = step { *length } else { 0 });
    let payload = delta::encode(steps, &content[content.len() - literals.sum::<u32>() as usize..]);
    assert_eq!(delta::apply(&payload, bases, content.len()).unwrap(), content);
    let bases = bases.iter().map(|base| BlobId::of_chunk(base).prefix()).collect();
    Handmade { content, delta: Some((payload, Encoding::Delta { bases, id_table: false, distance })) }
}

fn write_pack(root: &Path, records: &[Handmade<'_>]) -> PackFile {
    let header = open(root, Access::Read).header().clone();
    let mut bytes = pack::encode_header(&header).unwrap();
    let (start, mut offset) = (bytes.len(), 0);
    let mut footer = Footer::default();
    for record in records {
        let (payload, encoding) = record.delta.clone().unwrap_or((record.content.to_vec(), Encoding::Whole));
        footer.records.push(Record {
            id: BlobId::of_chunk(record.content),
            kind: BlobKind::Chunk,
            length: record.content.len() as u32,
            frame: 0,
            offset,
            payload_length: payload.len() as u32,
            encoding,
        });
        offset += payload.len() as u32;
        bytes.extend(payload);
    }
    footer.frames.push(Frame::new(start as u64, offset, offset, records.len() as u32, Codec::Raw));
    bytes.extend(footer.encode(bytes.len() as u64).unwrap());
    let mut hasher = blake3::Hasher::new();
    hasher.update(&bytes);
    let pack = PackFile { id: PackId::of_hasher(&hasher), size: bytes.len() as u64 };
    let path = root.join(layout::pack(&pack.id));
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
    pack
}

/// Flips a byte of a content that stands whole in a pack.
fn flip(root: &Path, pack: &PackFile, content: &[u8]) {
    let path = root.join(layout::pack(&pack.id));
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.windows(64).position(|window| window == &content[..64]).unwrap();
    bytes[at] ^= 1;
    fs::write(&path, bytes).unwrap();
}

/// So many versions of one chunk, which differ in their last eight bytes.
fn versions(seed: u32, count: u64) -> Vec<Vec<u8>> {
    let first = noise(seed, CHUNK);
    (0..count).map(|number| [&first[..CHUNK - 8], &number.to_le_bytes()].concat()).collect()
}

/// Two chunks that differ in their last eight bytes.
fn twins(seed: u32) -> [Vec<u8>; 2] {
    let first = noise(seed, CHUNK);
    let mut second = first.clone();
    second[CHUNK - 8..].copy_from_slice(b"changed!");
    [first, second]
}

fn holds(root: &Path, pack: &PackFile) -> bool {
    root.join(layout::pack(&pack.id)).exists()
}

fn take_snapshot(root: &Path, stamp: &str, chunks: &[&[u8]]) {
    let content = chunks.concat();
    snapshot(&open(root, Access::Write), stamp, &[Source { name: "chroma", files: &[("file", &content)] }]);
}

fn begin(repository: &Repository) -> Collection {
    let mut collection = Collection::begin(repository, &Silent).unwrap();
    for manifest in snapshots::manifests(repository).unwrap() {
        mark(repository, &mut collection, &manifest);
    }
    collection
}

fn mark(repository: &Repository, collection: &mut Collection, manifest: &Manifest) {
    collection.mark(&mut BlobReader::new(repository), manifest, &Silent).unwrap().unwrap();
}

/// Collects everything that no snapshot needs, and proves that the snapshots are whole afterwards.
fn collect(root: &Path) -> u64 {
    let freed = run(root);
    assert_whole(root);
    freed
}

/// Collects everything that no snapshot needs.
fn run(root: &Path) -> u64 {
    let repository = open(root, Access::Write);
    let mut collection = begin(&repository);
    collection.plan(&repository, &Silent).unwrap();
    let rewriting = collection.rewrite(&repository, &Silent).unwrap();
    assert_eq!(rewriting, Rewriting::Done);
    collection.settle().unwrap();
    collection.settle_again(&repository, rewriting).unwrap();
    sweep(&collection, &repository)
}

/// Removes the dead packs and returns by how many bytes the repository shrank in all.
fn sweep(collection: &Collection, repository: &Repository) -> u64 {
    let swept = collection.sweep(repository, &collection.dead().unwrap());
    assert_eq!(swept.errors, [""; 0]);
    swept.bytes.saturating_sub(collection.stored_anew().bytes)
}

fn assert_whole(root: &Path) {
    let _ = fs::remove_file(root.join(layout::INDEX));
    let repository = open(root, Access::Read);
    for manifest in snapshots::manifests(&repository).unwrap() {
        let options = VerifyOptions { depth: Depth::Full, recheck: Recheck::IfUnknown };
        let verification = verify(&repository, &manifest, options, &Silent).unwrap();
        assert_eq!(verification.errors(), ["db_snapshot_missing"]);
    }
}

fn made() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    drop(create(root.path()));
    root
}

#[test]
fn the_base_of_a_needed_delta_stays_although_no_snapshot_reaches_it() {
    let root = made();
    let [base, content] = twins(1);
    let base_pack = write_pack(root.path(), &[whole(&base)]);
    let delta_pack = write_pack(root.path(), &[delta_of(&content, &base)]);
    take_snapshot(root.path(), STAMP, &[&content]);
    assert_eq!(collect(root.path()), 0);
    assert!(holds(root.path(), &base_pack) && holds(root.path(), &delta_pack));
}

#[test]
fn the_base_of_a_needed_delta_survives_the_rewriting_of_its_pack() {
    let root = made();
    let [base, content] = twins(1);
    let dead: Vec<_> = (10..40).map(|seed| noise(seed, CHUNK)).collect();
    let records: Vec<_> = dead.iter().map(|content| whole(content)).chain([whole(&base)]).collect();
    let sparse = write_pack(root.path(), &records);
    write_pack(root.path(), &[delta_of(&content, &base)]);
    take_snapshot(root.path(), STAMP, &[&content]);
    let freed = collect(root.path());
    assert!(!holds(root.path(), &sparse));
    assert!(freed > 29 * CHUNK as u64 && freed < sparse.size, "{freed}");
}

#[test]
fn deltas_in_a_circle_never_replace_the_whole_records() {
    let [x, y] = twins(1);
    let dead: Vec<_> = (10..40).map(|seed| noise(seed, CHUNK)).collect();
    // The whole records stand together in a mostly dead pack, or each in one of its own.
    for together in [true, false] {
        let root = made();
        write_pack(root.path(), &[delta_of(&x, &y)]);
        write_pack(root.path(), &[delta_of(&y, &x)]);
        if together {
            let records: Vec<_> = dead.iter().map(|content| whole(content)).chain([whole(&x), whole(&y)]).collect();
            write_pack(root.path(), &records);
        } else {
            write_pack(root.path(), &[whole(&x)]);
            write_pack(root.path(), &[whole(&y)]);
        }
        take_snapshot(root.path(), STAMP, &[&x, &y]);
        collect(root.path());
        collect(root.path());
    }
}

#[test]
fn of_a_circle_with_one_way_out_both_survive() {
    // Packs are looked at in the order of their ids, which is another one for each seed.
    for seed in 1..9 {
        let root = made();
        let [x, y] = twins(seed);
        let z = [&x[..CHUNK - 8], b"the base"].concat();
        write_pack(root.path(), &[delta_of(&x, &y)]);
        write_pack(root.path(), &[delta_of(&y, &x)]);
        write_pack(root.path(), &[delta_of(&x, &z)]);
        write_pack(root.path(), &[whole(&z)]);
        take_snapshot(root.path(), STAMP, &[&x, &y]);
        collect(root.path());
        collect(root.path());
    }
}

#[test]
fn a_second_copy_goes_unless_the_first_one_is_damaged() {
    for damaged in [false, true] {
        let root = made();
        let (x, other) = (noise(1, CHUNK), noise(2, CHUNK));
        let small = write_pack(root.path(), &[whole(&x)]);
        let large = write_pack(root.path(), &[whole(&x), whole(&other)]);
        take_snapshot(root.path(), STAMP, &[&x, &other]);
        if damaged {
            flip(root.path(), &large, &x);
        }
        let freed = collect(root.path());
        assert_eq!(freed, if damaged { 0 } else { small.size });
        assert_eq!(holds(root.path(), &small), damaged);
        assert!(holds(root.path(), &large));
    }
}

#[test]
fn what_a_snapshot_published_meanwhile_reaches_stays() {
    let root = made();
    let (kept, forgotten) = (noise(1, CHUNK), noise(2, CHUNK));
    let forgotten_pack = write_pack(root.path(), &[whole(&forgotten)]);
    let orphan = write_pack(root.path(), &[whole(&noise(3, CHUNK))]);
    take_snapshot(root.path(), STAMP, &[&kept]);
    let repository = open(root.path(), Access::Write);
    let mut collection = begin(&repository);
    collection.plan(&repository, &Silent).unwrap();
    let rewriting = collection.rewrite(&repository, &Silent).unwrap();
    collection.settle().unwrap();
    take_snapshot(root.path(), LATER, &[&forgotten, &noise(4, CHUNK)]);
    let stamp: Stamp = LATER.parse().unwrap();
    let manifest = snapshots::read_manifest(&repository, stamp).unwrap().unwrap();
    mark(&repository, &mut collection, &manifest);
    collection.settle_again(&repository, rewriting).unwrap();
    assert_eq!(sweep(&collection, &repository), orphan.size);
    assert!(holds(root.path(), &forgotten_pack) && !holds(root.path(), &orphan));
    drop(repository);
    assert_whole(root.path());
}

#[test]
fn a_second_copy_of_what_is_reached_late_stays_since_nobody_read_the_first_one() {
    let root = made();
    let (kept, twice) = (noise(1, CHUNK), noise(2, CHUNK));
    let large = write_pack(root.path(), &[whole(&kept), whole(&twice)]);
    let small = write_pack(root.path(), &[whole(&twice)]);
    take_snapshot(root.path(), STAMP, &[&kept]);
    flip(root.path(), &large, &twice);
    let repository = open(root.path(), Access::Write);
    let mut collection = begin(&repository);
    collection.plan(&repository, &Silent).unwrap();
    collection.settle().unwrap();
    take_snapshot(root.path(), LATER, &[&twice]);
    let manifest = snapshots::read_manifest(&repository, LATER.parse().unwrap()).unwrap().unwrap();
    mark(&repository, &mut collection, &manifest);
    collection.settle_again(&repository, Rewriting::Done).unwrap();
    sweep(&collection, &repository);
    assert!(holds(root.path(), &small));
    drop(repository);
    assert_whole(root.path());
}

#[test]
fn without_room_for_rewriting_its_remains_go_and_sparse_packs_stay() {
    let root = made();
    let live = noise(1, CHUNK);
    let dead: Vec<_> = (10..40).map(|seed| noise(seed, CHUNK)).collect();
    let records: Vec<_> = dead.iter().map(|content| whole(content)).chain([whole(&live)]).collect();
    let sparse = write_pack(root.path(), &records);
    take_snapshot(root.path(), STAMP, &[&live]);
    let repository = open(root.path(), Access::Write);
    let mut collection = begin(&repository);
    collection.plan(&repository, &Silent).unwrap();
    // What a rewriting does before it finds no room for the rest.
    let mut writer = BlobWriter::begin_rewriting(&repository).unwrap();
    writer.put_chunk(&live).unwrap();
    let remains = writer.finish().unwrap().packs;
    collection.keep_opened().unwrap();
    collection.settle().unwrap();
    collection.settle_again(&repository, Rewriting::NoRoom).unwrap();
    assert_eq!(sweep(&collection, &repository), 0);
    assert!(holds(root.path(), &sparse) && !holds(root.path(), &remains[0]));
    drop(repository);
    assert_whole(root.path());
    assert!(collect(root.path()) > 29 * CHUNK as u64);
}
