//! What the golden repositories hold.

use std::path::Path;

use vecsnap::format::compression::Codec;
use vecsnap::format::delta::Instruction::{CopyFrom, Literal};
use vecsnap::format::limits::CHUNK_SIZE;
use vecsnap::format::list_node::ListNode;
use vecsnap::format::manifest::{SnapshotKind, SourceKind, SourceState};
use vecsnap::format::pack::{BaseDistance, BlobKind};
use vecsnap::format::table::Capture;
use vecsnap::id::BlobId;

use crate::support::handmade::{HandmadeRepository, Item, Source, difference};

const REGISTRY: &str = "{\n  \"projects\": [\"gr\\u00fcn\", \"drill\"]\n}\n";

/// Writes the fixtures that do not exist yet.
pub(super) fn write_missing() {
    type Write = fn(&mut HandmadeRepository);
    let writers: [(&str, Write); 7] = [
        ("everything", everything),
        ("deltas", deltas),
        ("holes", holes),
        ("states", states),
        ("several-records", several_records),
        ("strides", strides),
        ("planes", planes),
    ];
    for (name, write) in writers {
        let fixture = super::root().join(name);
        if !fixture.exists() {
            write(&mut HandmadeRepository::new(fixture));
        }
    }
}

/// Text that compresses well, `length` bytes of it.
fn text(seed: &str, length: usize) -> Vec<u8> {
    let mut text = String::new();
    let mut number = 0_u32;
    while text.len() < length {
        text.push_str(&format!("{seed} {:05} of the golden repository\n", number % 1000 * 7));
        number += 1;
    }
    text.into_bytes()[..length].to_vec()
}

/// Numbers of 32 bits, `length` bytes of them; the last one may be cut short.
fn vectors(length: usize) -> Vec<u8> {
    let numbers = (0..length as u64).map(|number| (number * number % 1009) as f32 / 64.0);
    let mut bytes: Vec<u8> = numbers.take(length.div_ceil(4)).flat_map(f32::to_le_bytes).collect();
    bytes.truncate(length);
    bytes
}

/// A database file that grows and changes between two looks at it.
struct Database {
    directory: tempfile::TempDir,
}

impl Database {
    fn new(rows: u32) -> Self {
        let database = Self { directory: tempfile::tempdir().unwrap() };
        database.run("PRAGMA page_size = 4096; CREATE TABLE memory(id INTEGER PRIMARY KEY, text TEXT NOT NULL)");
        for row in 0..rows {
            database.run(&format!("INSERT INTO memory VALUES ({row}, '{}')", "remember this ".repeat(100)));
        }
        database
    }

    fn run(&self, statements: &str) {
        rusqlite::Connection::open(self.path()).unwrap().execute_batch(statements).unwrap();
    }

    fn path(&self) -> impl AsRef<Path> + use<> {
        self.directory.path().join("database")
    }

    fn image(&self) -> Vec<u8> {
        std::fs::read(self.path()).unwrap()
    }
}

fn db(image: Vec<u8>) -> Source {
    let items = vec![("atocore.db", 0o644, Item::captured(image, Capture::SqliteImage))];
    Source::captured("db", SourceKind::Sqlite, items)
}

fn registry() -> Source {
    Source::captured("registry", SourceKind::File, vec![("project-registry.json", 0o640, Item::file(REGISTRY))])
}

fn chroma(items: Vec<(&'static str, u32, Item)>) -> Source {
    let own = std::iter::once(("", 0o750, Item::Directory));
    Source::captured("chroma", SourceKind::Tree, own.chain(items).collect())
}

fn everything(writer: &mut HandmadeRepository) {
    let data = text("vector", 2 * CHUNK_SIZE + 12_345);
    writer.whole(BlobKind::Chunk, REGISTRY.as_bytes());
    writer.whole(BlobKind::Chunk, b"three small chunks in one raw frame");
    writer.whole(BlobKind::Chunk, &[0, 255, 1, 254]);
    writer.end_frame(Codec::Raw);
    for chunk in data.chunks(CHUNK_SIZE) {
        writer.whole(BlobKind::Chunk, chunk);
    }
    writer.end_frame(Codec::Zstd);
    let segment = "0d1b7d2c-6a54-4e5c-9a53-2f0a4f1f3c11";
    let tree = chroma(vec![
        (segment, 0o755, Item::Directory),
        ("0d1b7d2c-6a54-4e5c-9a53-2f0a4f1f3c11/data_level0.bin", 0o644, Item::file(data)),
        ("0d1b7d2c-6a54-4e5c-9a53-2f0a4f1f3c11/header.bin", 0o600, Item::file([0, 255, 1, 254])),
        ("0d1b7d2c-6a54-4e5c-9a53-2f0a4f1f3c11/length.bin", 0o644, Item::file("")),
        ("chroma.sqlite3", 0o644, Item::captured(Database::new(3).image(), Capture::SqliteImage)),
        ("current", 0o777, Item::Symlink(segment)),
        ("empty", 0o700, Item::Directory),
        ("n\u{f6}tes", 0o755, Item::Directory),
        ("n\u{f6}tes/dangling", 0o777, Item::Symlink("../nowhere/at all")),
        ("n\u{f6}tes/read me.txt", 0o444, Item::file("three small chunks in one raw frame")),
        ("n\u{f6}tes.txt", 0o644, Item::file("sorts after all that the directory holds")),
    ]);
    writer.snapshot("20260406T180000Z", SnapshotKind::Ordinary, &[db(Database::new(80).image()), registry(), tree]);
}

fn deltas(writer: &mut HandmadeRepository) {
    let database = Database::new(80);
    let images = [database.image(), changed(&database, 7), changed(&database, 70)];
    let chunks = [text("first", CHUNK_SIZE), text("second", CHUNK_SIZE), text("third", 30_000)];
    let node = ListNode { depth: 1, slots: chunks.iter().map(|chunk| Some(BlobId::of_chunk(chunk))).collect() };
    let tree = |middle: &[u8], moved: &[u8]| {
        let data = [chunks[0].as_slice(), middle, chunks[2].as_slice()].concat();
        chroma(vec![("data.bin", 0o644, Item::file(data)), ("moved.bin", 0o644, Item::file(moved))])
    };
    let ordinary = SnapshotKind::Ordinary;
    writer.snapshot("20260401T000000Z", ordinary, &[db(images[0].clone()), tree(&chunks[1], &chunks[0])]);

    let inserted = [&chunks[0][100..20_100], b"words inserted", &chunks[1][..45_522]].concat();
    let code = [
        CopyFrom { length: 20_000, base: 0, offset: 100 },
        Literal { length: 14 },
        CopyFrom { length: 45_522, base: 1, offset: 0 },
    ];
    let child = writer.delta(&inserted, &[&chunks[0], &chunks[1]], &code, b"words inserted");
    let swapped = [&chunks[0][40_000..], &chunks[0][..40_000]].concat();
    let code = [CopyFrom { length: 25_536, base: 0, offset: 40_000 }, CopyFrom { length: 40_000, base: 0, offset: 0 }];
    writer.delta(&swapped, &[&chunks[0]], &code, b"");
    writer.end_frame(Codec::Raw);
    let second_node = writer.delta_node(BaseDistance::One, &node, 1, child);
    against(writer, &images[0], &images[1]);
    writer.snapshot("20260402T000000Z", ordinary, &[db(images[1].clone()), tree(&inserted, &swapped)]);

    let mut edited = inserted.clone();
    edited[1_000..1_005].copy_from_slice(b"EDITS");
    edited[60_000..60_003].copy_from_slice(b"END");
    let (code, literals) = difference(&inserted, &edited);
    let child = writer.delta(&edited, &[&inserted], &code, &literals);
    writer.delta_node(BaseDistance::One, &second_node, 1, child);
    against(writer, &images[1], &images[2]);
    let only_literals = b"a delta without any base".to_vec();
    writer.delta(&only_literals, &[], &[Literal { length: 24 }], &only_literals);
    writer.snapshot("20260403T000000Z", ordinary, &[db(images[2].clone()), tree(&edited, &only_literals)]);
}

fn changed(database: &Database, row: u32) -> Vec<u8> {
    database.run(&format!("UPDATE memory SET text = replace(text, 'this', 'that') WHERE id = {row}"));
    database.image()
}

/// Adds the chunks of an image that changed as deltas against those that stood there.
fn against(writer: &mut HandmadeRepository, before: &[u8], after: &[u8]) {
    assert_eq!(before.len(), after.len());
    for (old, new) in before.chunks(CHUNK_SIZE).zip(after.chunks(CHUNK_SIZE)).filter(|(old, new)| old != new) {
        let (code, literals) = difference(old, new);
        writer.delta(new, &[old], &code, &literals);
    }
}

fn holes(writer: &mut HandmadeRepository) {
    let slot = |number: usize| number * CHUNK_SIZE;
    let sparse = vec![
        (100, text("begin", 5_000)),
        (slot(5) + 4_096, text("within a slot", 4_096)),
        (slot(127), text("a whole slot", CHUNK_SIZE)),
        (slot(299) + 10, text("end", 490)),
    ];
    let tree = chroma(vec![
        ("all-hole.bin", 0o644, Item::sparse(200_000, vec![])),
        ("deep-hole.bin", 0o644, Item::sparse(slot(256), vec![])),
        ("deep.bin", 0o644, Item::sparse(slot(299) + 500, sparse)),
        ("one-slot.bin", 0o644, Item::sparse(5_000, vec![])),
        ("tail-hole.bin", 0o644, Item::sparse(slot(2) + 7, vec![(0, text("head", 3_000))])),
        ("zeros.bin", 0o644, Item::file(vec![0; slot(3)])),
    ]);
    let absent = Source::missing("registry", SourceKind::File, SourceState::Absent);
    writer.snapshot("20260406T180000Z", SnapshotKind::Ordinary, &[db(Database::new(1).image()), absent, tree]);
}

fn planes(writer: &mut HandmadeRepository) {
    let vectors = vectors(9 * CHUNK_SIZE + 4_099);
    for chunk in vectors.chunks(CHUNK_SIZE) {
        writer.whole(BlobKind::Chunk, chunk);
    }
    writer.end_frame(Codec::ZstdOfPlanes);
    let segment: Vec<u8> = vectors[..8 * CHUNK_SIZE].iter().rev().copied().collect();
    for chunk in segment.chunks(CHUNK_SIZE) {
        writer.whole(BlobKind::Chunk, chunk);
    }
    writer.end_frame(Codec::ZstdOfPlanes);
    for few in [&b"abc"[..], b"abcd", b"abcde"] {
        writer.whole(BlobKind::Chunk, few);
        writer.end_frame(Codec::ZstdOfPlanes);
    }
    let tree = chroma(vec![
        ("data_level0.bin", 0o644, Item::file(vectors)),
        ("few-3.bin", 0o644, Item::file("abc")),
        ("few-4.bin", 0o644, Item::file("abcd")),
        ("few-5.bin", 0o644, Item::file("abcde")),
        ("segment.bin", 0o644, Item::file(segment)),
    ]);
    writer.snapshot("20260406T180000Z", SnapshotKind::Ordinary, &[db(Database::new(1).image()), registry(), tree]);
}

fn states(writer: &mut HandmadeRepository) {
    let image = Database::new(2).image();
    let tree = |state| Source::missing("chroma", SourceKind::Tree, state);
    let no_registry = Source::missing("registry", SourceKind::File, SourceState::Absent);
    let sources = [db(image.clone()), no_registry, tree(SourceState::NotRequested)];
    writer.snapshot("20260406T180000Z", SnapshotKind::Ordinary, &sources);
    writer.snapshot("20260406T180001Z", SnapshotKind::Ordinary, &[db(image), registry(), tree(SourceState::Changing)]);
    let garbage = vec![
        ("atocore.db", 0o644, Item::captured(b"this is no database".repeat(300), Capture::RawSqlite)),
        ("atocore.db-wal", 0o644, Item::captured(b"nor is this a log".to_vec(), Capture::RawSqlite)),
    ];
    let raw = Source { state: SourceState::CapturedRaw, ..Source::captured("db", SourceKind::Sqlite, garbage) };
    let sources = [raw, registry(), tree(SourceState::Absent)];
    writer.snapshot("20260406T190000Z", SnapshotKind::PreRestore, &sources);
}

/// Chunks p, q and x: q is known only as a delta against p, and the first record of p leads back to q.
fn several_records(writer: &mut HandmadeRepository) {
    let x = text("x", 9_000);
    let p = [b"P".as_slice(), &x[1..]].concat();
    let q = [b"Q".as_slice(), &x[1..]].concat();
    let along = |writer: &mut HandmadeRepository, new: &[u8], old: &[u8]| {
        let (code, literals) = difference(old, new);
        writer.delta(new, &[old], &code, &literals);
        writer.end_pack();
    };
    writer.whole(BlobKind::Chunk, &x);
    writer.end_pack();
    along(writer, &p, &q);
    along(writer, &q, &p);
    along(writer, &x, &p);
    along(writer, &p, &x);
    let files = vec![("p", 0o644, Item::file(p)), ("q", 0o644, Item::file(q)), ("x", 0o644, Item::file(x))];
    writer.snapshot("20260406T180000Z", SnapshotKind::Ordinary, &[db(Database::new(1).image()), chroma(files)]);
}

/// 67 versions of a chunk and of the node above it: each a delta against the one before, every 32nd against the 32nd
/// before it, with the hint that says so.
fn strides(writer: &mut HandmadeRepository) {
    let end = text("end", 1_000);
    let version = |number: usize| {
        let mut chunk = text("version", CHUNK_SIZE);
        chunk[700..703].copy_from_slice(format!("{number:03}").as_bytes());
        chunk[number * 900..number * 900 + 4].copy_from_slice(b"EDIT");
        chunk
    };
    let node_of =
        |chunk: &[u8]| ListNode { depth: 1, slots: [chunk, &end].map(|chunk| Some(BlobId::of_chunk(chunk))).to_vec() };
    let tree = |number: usize| {
        let data = [version(number), end.clone()].concat();
        chroma(vec![("data.bin", 0o644, Item::file(data))])
    };
    let image = Database::new(1).image();
    writer.snapshot("20260401T000000Z", SnapshotKind::Ordinary, &[db(image.clone()), tree(0)]);
    for number in 1..67 {
        let (distance, base) =
            if number % 32 == 0 { (BaseDistance::Stride, number - 32) } else { (BaseDistance::One, number - 1) };
        let child = writer.delta_in_place_over(distance, &version(number), &version(base));
        writer.delta_node(distance, &node_of(&version(base)), 0, child);
        if number == 33 {
            writer.snapshot("20260402T000000Z", SnapshotKind::Ordinary, &[db(image.clone()), tree(33)]);
        }
    }
    writer.snapshot("20260403T000000Z", SnapshotKind::Ordinary, &[db(image), tree(66)]);
}
