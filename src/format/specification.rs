//! Holds the worked examples of `format-spec.md` to the bytes that the encoders of this room really make.
//!
//! An example is a fenced block whose info string is `hex <name>` or `json <name>`; in hex, `;` begins a remark. Every
//! block of the document must be known here and every example here must stand in the document, so neither can drift.

use std::collections::BTreeMap;

use super::compression::Codec;
use super::content::{Content, Root};
use super::delta::{self, Instruction};
use super::envelope::{self, Kind};
use super::header::{RepositoryDocument, RepositoryHeader};
use super::intent::Intent;
use super::list_node::ListNode;
use super::manifest::{Consistency, Extension, Manifest, SnapshotKind, SourceKind, SourceRecord, SourceState, Verdict};
use super::metadata::SnapshotMetadata;
use super::pack::{self, BaseDistance, BlobKind, Encoding, Footer, FooterPlace, Frame, Record};
use super::table::{Capture, Entry, EntryDecoder, EntryKind, FileEntry, SourceStats, Stat, Time};
use super::{codec, limits, planes};
use crate::id::{BlobId, RepositoryId};

const SPECIFICATION: &str = include_str!("../../format-spec.md");

/// The fenced blocks of the document whose info string begins with `language`, by name.
fn blocks(language: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut lines = SPECIFICATION.lines();
    while let Some(line) = lines.next() {
        let Some(name) = line.strip_prefix("```").and_then(|info| info.strip_prefix(language)) else { continue };
        let text: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
        assert!(found.insert(name.trim().to_owned(), text.join("\n")).is_none(), "two blocks are named {name}");
    }
    found
}

fn bytes_of(block: &str) -> Vec<u8> {
    let digits: String = block.lines().filter_map(|line| line.split(';').next()).collect();
    hex::decode(digits.replace(char::is_whitespace, "")).unwrap()
}

fn header() -> RepositoryHeader {
    RepositoryHeader::new(RepositoryId::from_bytes(*b"sixteen bytes id"))
}

fn time(seconds: i64) -> Time {
    Time { seconds, nanoseconds: 500_000_000 }
}

fn node() -> ListNode {
    ListNode { depth: 1, slots: vec![Some(BlobId::of_chunk(b"abc")), None, None, Some(BlobId::of_chunk(b"abd"))] }
}

fn delta_instructions() -> [Instruction; 4] {
    [
        Instruction::CopyAlong { length: 6 },
        Instruction::Literal { length: 2 },
        Instruction::CopyAlong { length: 3 },
        Instruction::CopyFrom { length: 4, base: 1, offset: 200 },
    ]
}

fn footer() -> Footer {
    let bases = vec![BlobId::of_chunk(b"abc").prefix()];
    let record = |kind: BlobKind, content: &[u8], offset, payload_length, encoding| Record {
        id: kind.id_of(content),
        kind,
        length: content.len() as u32,
        frame: 0,
        offset,
        payload_length,
        encoding,
    };
    let node = node().encode().unwrap();
    Footer {
        frames: vec![Frame::new(92, 14, 14, 3, Codec::Raw)],
        records: vec![
            record(BlobKind::Chunk, b"abc", 0, 3, Encoding::Whole),
            record(
                BlobKind::Chunk,
                b"abd",
                3,
                4,
                Encoding::Delta { bases, id_table: false, distance: BaseDistance::One },
            ),
            record(
                BlobKind::ListNode,
                &node,
                7,
                7,
                Encoding::Delta { bases: Vec::new(), id_table: true, distance: BaseDistance::One },
            ),
        ],
    }
}

fn footer_payload() -> Vec<u8> {
    let bytes = footer().encode(106).unwrap();
    envelope::open(Kind::PackFooter, &bytes[..bytes.len() - pack::END_BYTES], limits::FOOTER_BYTES).unwrap()
}

fn entry(path: &str, kind: EntryKind, mode: u32) -> Vec<u8> {
    let extensions = Vec::new();
    let entry =
        Entry { path: path.into(), kind, mode, uid: 1000, gid: 1000, modified: time(1_775_498_400), extensions };
    entry.encode().unwrap()
}

fn file_entry() -> EntryKind {
    let stat = Stat { inode: 77, size: 3, modified: time(1_775_498_400), changed: time(1_775_498_401) };
    EntryKind::File(FileEntry {
        content: Content { length: 3, root: Root::Chunk(BlobId::of_chunk(b"abc")) },
        capture: Capture::Plain,
        sparse: false,
        stats: SourceStats { file: stat, wal: None, journal: None },
    })
}

fn manifest() -> Manifest {
    let stamp = "20260406T180000Z".parse().unwrap();
    let mut manifest = Manifest::new(header(), stamp, SnapshotKind::Ordinary, 1_775_498_400_123_456);
    manifest.program = "vecsnap 0.1.0".into();
    manifest.set_parent(Some("20260406T170000Z".parse().unwrap()));
    manifest.sources.push(SourceRecord {
        name: "db".into(),
        kind: SourceKind::Sqlite,
        state: SourceState::Absent,
        path: "/srv/a.db".into(),
        table: Content::EMPTY,
        files: 0,
        bytes: 0,
        started: time(1_775_498_400),
        verdict: Verdict::Unchecked,
        consistency: Consistency::Unproven,
        writer_blocked_microseconds: 0,
    });
    manifest.extensions.push(Extension { tag: 9, bytes: b"later".to_vec() });
    manifest
}

fn examples() -> Vec<(&'static str, Vec<u8>)> {
    let encoded = |value: &[u8]| value.to_vec();
    let numbers = [0, 127, 128, 65_536, u32::MAX];
    let leb128 = numbers.iter().fold(Vec::new(), |mut bytes, &number| {
        delta::push_number(&mut bytes, number);
        bytes
    });
    let mut planes = b"ABCDABCDABCDef".to_vec();
    planes::split(&mut planes);
    vec![
        ("integers", codec::encode(&(1_u8, 0x0102_u16, 65_536_u32, 5_u64, -2_i64)).unwrap()),
        ("sequence", codec::encode(&vec![1_u32, 2]).unwrap()),
        ("string", codec::encode(&"db".to_owned()).unwrap()),
        ("options", codec::encode(&(None::<u16>, Some(7_u16), false, true)).unwrap()),
        ("enumeration", codec::encode(&Verdict::Unknown("no such collation".into())).unwrap()),
        ("leb128", leb128),
        ("planes", planes),
        ("chunk-id", encoded(BlobId::of_chunk(b"abc").as_bytes())),
        ("prefix", encoded(BlobId::of_chunk(b"abc").prefix().as_bytes())),
        ("envelope", envelope::seal(Kind::Manifest, b"abc", None)),
        ("pack-header", pack::encode_header(&header()).unwrap()),
        ("footer", footer_payload()),
        ("content-empty", codec::encode(&Content::EMPTY).unwrap()),
        ("content-chunk", codec::encode(&Content { length: 3, root: Root::Chunk(BlobId::of_chunk(b"abc")) }).unwrap()),
        ("content-node", codec::encode(&Content { length: 200_000, root: node_root() }).unwrap()),
        ("list-node", node().encode().unwrap()),
        ("list-node-id", encoded(BlobId::of_list_node(&node().encode().unwrap()).as_bytes())),
        ("delta", delta::encode(&delta_instructions(), b"XY")),
        ("table-directory", entry("", EntryKind::Directory, 0o750)),
        ("table-file", entry("a/b", file_entry(), 0o640)),
        ("table-symlink", entry("link", EntryKind::Symlink(b"a/b".to_vec()), 0o777)),
        ("manifest", envelope::open(Kind::Manifest, &manifest().encode().unwrap(), limits::MANIFEST_BYTES).unwrap()),
    ]
}

fn node_root() -> Root {
    Root::Node { depth: 1, id: BlobId::of_list_node(&node().encode().unwrap()) }
}

#[test]
fn the_hex_examples_are_the_encoders_bytes() {
    let mut written = blocks("hex ");
    for (name, bytes) in examples() {
        let block = written.remove(name).unwrap_or_default();
        assert_eq!(hex::encode(bytes_of(&block)), hex::encode(&bytes), "the example '{name}'");
    }
    let end = bytes_of(&written.remove("pack-end").unwrap());
    let offset = pack::encode_header(&header()).unwrap().len() as u64 + 14;
    let length = envelope::seal(Kind::PackFooter, &footer_payload(), None).len() as u64;
    let place = FooterPlace::decode(&end, offset + length + pack::END_BYTES as u64).unwrap();
    assert_eq!(place, FooterPlace { offset, length });
    assert!(written.is_empty(), "examples that no encoder makes: {:?}", written.keys());
}

#[test]
fn the_examples_decode() {
    assert_eq!(pack::decode_header(&pack::encode_header(&header()).unwrap()).unwrap(), header());
    assert_eq!(manifest(), Manifest::decode(&manifest().encode().unwrap()).unwrap());
    let (base, mut other) = (b"0123456789ABCDEF", vec![b'-'; 200]);
    other.extend_from_slice(b"wxyz");
    let result = delta::apply(&delta::encode(&delta_instructions(), b"XY"), &[base, &other], 15);
    assert_eq!(result.unwrap(), b"012345XY89Awxyz");
    let mut decoder = EntryDecoder::default();
    decoder.feed(&entry("link", EntryKind::Symlink(b"a/b".to_vec()), 0o777));
    assert!(decoder.take().unwrap().is_some());
}

#[test]
fn the_json_examples_are_the_documents_that_are_written() {
    let mut written = blocks("json ");
    let mut take = |name: &str| written.remove(name).unwrap();
    let repository = RepositoryDocument::new(&header(), "2026-04-06T18:00:00.123456+00:00".into());
    assert_eq!(take("repository"), serde_json::to_string_pretty(&repository).unwrap());
    let intent: Intent = serde_json::from_str(&take("intent")).unwrap();
    assert_eq!(blocks("json ").remove("intent").unwrap(), serde_json::to_string_pretty(&intent).unwrap());
    let metadata: SnapshotMetadata = serde_json::from_str(&take("metadata")).unwrap();
    assert_eq!(blocks("json ").remove("metadata").unwrap(), serde_json::to_string_pretty(&metadata).unwrap());
    assert!(written.is_empty(), "documents that nothing writes: {:?}", written.keys());
}

#[test]
fn the_table_of_limits_is_the_codes() {
    let written: BTreeMap<&str, u64> = SPECIFICATION
        .lines()
        .skip_while(|line| *line != "## 12 Limits")
        .take_while(|line| !line.starts_with("## 13"))
        .filter_map(|line| {
            let mut cells = line.strip_prefix("| `")?.split('|').map(str::trim);
            let name = cells.next()?.strip_suffix('`')?;
            Some((name, cells.next()?.replace(',', "").parse().ok()?))
        })
        .collect();
    let code = [
        ("FORMAT_VERSION", limits::FORMAT_VERSION.into()),
        ("CHUNK_SIZE", limits::CHUNK_SIZE as u64),
        ("NODE_SLOTS", limits::NODE_SLOTS as u64),
        ("NODE_DEPTH", limits::NODE_DEPTH.into()),
        ("BLOB_BYTES", limits::BLOB_BYTES as u64),
        ("FRAME_BYTES", limits::FRAME_BYTES as u64),
        ("PACK_BYTES", limits::PACK_BYTES),
        ("PACK_FRAMES", limits::PACK_FRAMES as u64),
        ("PACK_RECORDS", limits::PACK_RECORDS as u64),
        ("FOOTER_BYTES", limits::FOOTER_BYTES as u64),
        ("DELTA_BASES", limits::DELTA_BASES as u64),
        ("CHAIN_DEPTH", limits::CHAIN_DEPTH as u64),
        ("CHAIN_RECORDS", limits::CHAIN_RECORDS as u64),
        ("BASE_COMBINATIONS", limits::BASE_COMBINATIONS as u64),
        ("MANIFEST_BYTES", limits::MANIFEST_BYTES as u64),
        ("SOURCES", limits::SOURCES as u64),
        ("TABLE_ENTRY_BYTES", limits::TABLE_ENTRY_BYTES as u64),
        ("PATH_BYTES", limits::PATH_BYTES as u64),
        ("NAME_BYTES", limits::NAME_BYTES as u64),
        ("EXTENSIONS", limits::EXTENSIONS as u64),
        ("HEADER_BYTES", limits::HEADER_BYTES as u64),
    ];
    assert_eq!(written, BTreeMap::from(code));
}
