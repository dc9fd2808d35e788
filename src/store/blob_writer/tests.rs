//! What is put can be read, and what cannot be stored or read is said so.

use std::time::Duration;

use super::*;
use crate::chunk::tree::TreeBuilder;
use crate::store::pieces::{Piece, Pieces};
use crate::store::{Access, BlobFault, BlobReader, LockWait, TreeSink};

const WAIT: LockWait = LockWait(Duration::from_secs(1));

fn noise(seed: u32, length: usize) -> Vec<u8> {
    let blocks = (0_u32..).flat_map(|n| *blake3::hash(&[seed.to_le_bytes(), n.to_le_bytes()].concat()).as_bytes());
    blocks.take(length).collect()
}

fn put_all(repository: &Repository, chunks: &[Vec<u8>]) -> (Vec<BlobId>, WriterReport) {
    let mut writer = BlobWriter::begin(repository, MetadataRecords::Whole, Thoroughness::Thorough).unwrap();
    let ids = chunks.iter().map(|chunk| writer.put_chunk(chunk).unwrap()).collect();
    (ids, writer.finish().unwrap())
}

#[test]
fn blobs_come_back_after_reopening_and_are_stored_once() {
    let directory = tempfile::tempdir().unwrap();
    let chunks: Vec<_> = (0..200).map(|seed| noise(seed % 150, 65_536)).collect();
    let repository = Repository::open_or_create(directory.path(), WAIT).unwrap();
    let (ids, report) = put_all(&repository, &chunks);
    assert_eq!((report.chunks_new, report.chunks_reused), (150, 50));
    assert_eq!(put_all(&repository, &chunks).1.packs, []);
    drop(repository);
    std::fs::remove_file(directory.path().join("index.sqlite")).unwrap();
    let repository = Repository::open(directory.path(), Access::Read, WAIT).unwrap().unwrap();
    let mut reader = BlobReader::new(&repository);
    for (id, chunk) in ids.iter().zip(&chunks) {
        assert_eq!(&*reader.chunk(id).unwrap().unwrap(), chunk.as_slice());
    }
    assert_eq!(reader.chunk(&BlobId::of_chunk(b"never stored")).unwrap(), Err(BlobFault::Missing));
    assert_eq!(reader.list_node(&ids[0]).unwrap(), Err(BlobFault::Missing), "a chunk was taken for a node");
}

#[test]
fn of_chunks_that_are_asked_for_together_each_is_new_once() {
    let directory = tempfile::tempdir().unwrap();
    let repository = Repository::open_or_create(directory.path(), WAIT).unwrap();
    let [known, new, other] = [1, 2, 3].map(|seed| noise(seed, 1000));
    put_all(&repository, std::slice::from_ref(&known));
    let mut writer = BlobWriter::begin(&repository, MetadataRecords::Whole, Thoroughness::Thorough).unwrap();
    let ids = [&new, &known, &new, &other].map(|chunk| BlobId::of_chunk(chunk));
    assert_eq!(writer.reserve_all(&ids), [Stored::New, Stored::Reused, Stored::Reused, Stored::New]);
    assert_eq!(writer.reserve(ids[0]), Stored::Reused);
    for (id, chunk) in [(ids[0], &new), (ids[3], &other)] {
        writer.put_whole(id, chunk, FrameGroup::Bulk).unwrap();
    }
    let report = writer.finish().unwrap();
    assert_eq!((report.chunks_new, report.chunks_reused), (2, 3));
}

#[test]
fn a_complete_content_is_known_to_be_whole_once_it_is_published_and_by_no_other_writer() {
    let directory = tempfile::tempdir().unwrap();
    let repository = Repository::open_or_create(directory.path(), WAIT).unwrap();
    let begin = || BlobWriter::begin(&repository, MetadataRecords::Whole, Thoroughness::Thorough).unwrap();
    let put = |writer: &mut BlobWriter, seed| {
        let mut tree = TreeBuilder::default();
        for chunk in [noise(seed, 65_536), noise(seed + 1, 9)] {
            let id = writer.put_chunk(&chunk).unwrap();
            tree.push_chunk(id, &mut TreeSink { writer, previous: None }).unwrap();
        }
        let content = tree.finish(65_545, &mut TreeSink { writer, previous: None }).unwrap();
        writer.complete(&content);
        content
    };
    let mut dropped = begin();
    let never = put(&mut dropped, 1);
    drop(dropped);
    let mut writer = begin();
    let published = put(&mut writer, 3);
    assert!(!repository.index().is_whole(&published));
    writer.finish().unwrap();
    assert!(repository.index().is_whole(&published) && !repository.index().is_whole(&never));
    let mut rewriting = BlobWriter::begin_rewriting(&repository).unwrap();
    let rewritten = put(&mut rewriting, 5);
    rewriting.finish().unwrap();
    assert!(!repository.index().is_whole(&rewritten), "the packs that it replaces may be about to go");
}

#[test]
fn a_flipped_byte_in_a_pack_is_a_corrupt_blob_that_names_the_pack() {
    let directory = tempfile::tempdir().unwrap();
    let repository = Repository::open_or_create(directory.path(), WAIT).unwrap();
    let (ids, report) = put_all(&repository, &[noise(1, 5000)]);
    let path = directory.path().join(crate::store::layout::pack(&report.packs[0].id));
    let mut bytes = std::fs::read(&path).unwrap();
    let frame = bytes.len() / 2;
    bytes[frame] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let Err(BlobFault::Corrupt(text)) = BlobReader::new(&repository).chunk(&ids[0]).unwrap() else { panic!() };
    assert!(text.contains(path.to_str().unwrap()), "{text}");
}

#[test]
fn a_damaged_pack_makes_way_for_its_like_and_a_blob_found_damaged_is_stored_again() {
    let directory = tempfile::tempdir().unwrap();
    let repository = Repository::open_or_create(directory.path(), WAIT).unwrap();
    let chunks = [noise(1, 5000)];
    let (ids, report) = put_all(&repository, &chunks);
    let path = directory.path().join(crate::store::layout::pack(&report.packs[0].id));
    let sound = std::fs::read(&path).unwrap();
    let mut rotten = sound.clone();
    rotten[2000] ^= 1;
    std::fs::write(&path, &rotten).unwrap();
    assert_eq!(put_all(&repository, &chunks).1.packs, [], "nobody knows of the damage yet");
    for id in &ids {
        assert!(BlobReader::new(&repository).chunk(id).unwrap().is_err());
    }
    let (_, again) = put_all(&repository, &chunks);
    assert_eq!(again.packs, report.packs, "the same blobs make the same pack");
    assert_eq!(std::fs::read(&path).unwrap(), sound);
    let aside = crate::store::layout::damaged_pack(&report.packs[0].id, 1);
    assert_eq!(std::fs::read(directory.path().join(aside)).unwrap(), rotten);
    for (id, chunk) in ids.iter().zip(&chunks) {
        assert_eq!(&*BlobReader::new(&repository).chunk(id).unwrap().unwrap(), chunk.as_slice());
    }
    assert_eq!(put_all(&repository, &chunks).1.packs, [], "they are trusted again");
}

#[test]
fn the_pieces_of_a_long_file_with_holes_come_in_order() {
    let directory = tempfile::tempdir().unwrap();
    let repository = Repository::open_or_create(directory.path(), WAIT).unwrap();
    let mut writer = BlobWriter::begin(&repository, MetadataRecords::Whole, Thoroughness::Thorough).unwrap();
    let mut tree = TreeBuilder::default();
    let id = writer.put_chunk(&noise(1, 65_536)).unwrap();
    let last = writer.put_chunk(b"end").unwrap();
    for slot in 0..300 {
        if slot % 3 == 0 {
            tree.push_holes(1, &mut TreeSink { writer: &mut writer, previous: None }).unwrap()
        } else {
            tree.push_chunk(id, &mut TreeSink { writer: &mut writer, previous: None }).unwrap()
        }
    }
    tree.push_chunk(last, &mut TreeSink { writer: &mut writer, previous: None }).unwrap();
    let content: Content =
        tree.finish(300 * 65_536 + 3, &mut TreeSink { writer: &mut writer, previous: None }).unwrap();
    writer.finish().unwrap();
    let mut reader = BlobReader::new(&repository);
    let mut pieces = Pieces::of(&content);
    let (mut end, mut chunks) = (0, 0);
    while let Some(piece) = pieces.next(&mut reader, |_| ()).unwrap() {
        let (offset, length) = match piece {
            Piece::Chunk { offset, length, .. } => (offset, length as u64),
            Piece::Hole { offset, length } => (offset, length),
            Piece::Hidden { .. } => panic!("{piece:?}"),
        };
        assert_eq!(offset, end);
        end += length;
        chunks += u64::from(matches!(piece, Piece::Chunk { .. }));
    }
    assert_eq!((end, chunks), (300 * 65_536 + 3, 201));
}
