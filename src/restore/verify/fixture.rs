//! Small repositories with snapshots made by hand, for tests of what reads or removes them.

use std::path::Path;
use std::time::Duration;

use crate::chunk::cut::Cutter;
use crate::chunk::tree::TreeBuilder;
use crate::format::content::Content;
use crate::format::manifest::{Consistency, Manifest, SnapshotKind, SourceKind, SourceRecord, SourceState, Verdict};
use crate::format::table::{Capture, Entry, EntryKind, FileEntry, SourceStats, Stat, Time};
use crate::id::Stamp;
use crate::store::file_table::TableWriter;
use crate::store::snapshots::{self, SnapshotFiles};
use crate::store::{Access, BlobWriter, LockWait, MetadataRecords, Repository, TreeSink};

pub(crate) const WAIT: LockWait = LockWait(Duration::from_secs(2));
const TIME: Time = Time { seconds: 1, nanoseconds: 0 };

pub(crate) fn create(root: &Path) -> Repository {
    Repository::open_or_create(root, WAIT).unwrap()
}

pub(crate) fn open(root: &Path, access: Access) -> Repository {
    Repository::open(root, access, WAIT).unwrap().unwrap()
}

/// Bytes that do not compress.
pub(crate) fn noise(seed: u32, length: usize) -> Vec<u8> {
    let blocks = (0_u32..).flat_map(|n| *blake3::hash(&[seed.to_le_bytes(), n.to_le_bytes()].concat()).as_bytes());
    blocks.take(length).collect()
}

/// A source to be stored: files by path, ascending; those of a tree lie flat in it.
pub(crate) struct Source<'a> {
    pub(crate) name: &'a str,
    pub(crate) files: &'a [(&'a str, &'a [u8])],
}

pub(crate) fn database(path: &Path) -> Vec<u8> {
    let connection = rusqlite::Connection::open(path).unwrap();
    connection.execute_batch("CREATE TABLE t(x); INSERT INTO t VALUES(zeroblob(300000)), ('row');").unwrap();
    drop(connection);
    std::fs::read(path).unwrap()
}

/// Stores and publishes a snapshot of these sources.
pub(crate) fn snapshot(repository: &Repository, stamp: &str, sources: &[Source<'_>]) -> Manifest {
    let mut writer =
        BlobWriter::begin(repository, MetadataRecords::Whole, crate::chunk::compress::Thoroughness::Thorough).unwrap();
    let records = sources.iter().map(|source| store(source, &mut writer)).collect();
    writer.finish().unwrap();
    publish(repository, stamp, records)
}

pub(crate) fn publish(repository: &Repository, stamp: &str, sources: Vec<SourceRecord>) -> Manifest {
    let stamp: Stamp = stamp.parse().unwrap();
    let mut manifest = Manifest::new(repository.header().clone(), stamp, SnapshotKind::Ordinary, 0);
    manifest.sources = sources;
    let bytes = manifest.encode().unwrap();
    let metadata = br#"{"format": "vecsnap"}"#.to_vec();
    snapshots::publish(repository, stamp, |_| {
        Ok(SnapshotFiles { manifest: bytes.clone(), metadata: metadata.clone() })
    })
    .unwrap();
    manifest
}

fn store(source: &Source<'_>, writer: &mut BlobWriter) -> SourceRecord {
    let kind = match source.name {
        "db" => SourceKind::Sqlite,
        "chroma" => SourceKind::Tree,
        _ => SourceKind::File,
    };
    let mut table = TableWriter::default();
    if kind == SourceKind::Tree {
        table.push(&entry("", EntryKind::Directory), writer).unwrap();
    }
    for (path, bytes) in source.files {
        let content = store_content(bytes, writer);
        let stat = Stat { inode: 1, size: content.length, modified: TIME, changed: TIME };
        let stats = SourceStats { file: stat, wal: None, journal: None };
        let image = bytes.starts_with(b"SQLite format 3\0");
        let capture = if image { Capture::SqliteImage } else { Capture::Plain };
        let file = FileEntry { content, capture, sparse: false, stats };
        table.push(&entry(path, EntryKind::File(file)), writer).unwrap();
    }
    SourceRecord {
        name: source.name.into(),
        kind,
        state: SourceState::Captured,
        path: format!("/srv/{}", source.name).into(),
        table: table.finish(writer).unwrap(),
        files: source.files.len() as u64,
        bytes: source.files.iter().map(|(_, bytes)| bytes.len() as u64).sum(),
        started: TIME,
        verdict: Verdict::Unchecked,
        consistency: Consistency::Unproven,
        writer_blocked_microseconds: 0,
    }
}

pub(crate) fn store_content(bytes: &[u8], writer: &mut BlobWriter) -> Content {
    let (mut cutter, mut tree) = (Cutter::default(), TreeBuilder::default());
    let mut put = |chunk: &[u8]| {
        let id = writer.put_chunk(chunk)?;
        tree.push_chunk(id, &mut TreeSink { writer, previous: None })
    };
    cutter.feed(bytes, &mut put).unwrap();
    cutter.finish(&mut put).unwrap();
    tree.finish(bytes.len() as u64, &mut TreeSink { writer, previous: None }).unwrap()
}

fn entry(path: &str, kind: EntryKind) -> Entry {
    Entry { path: path.into(), kind, mode: 0o700, uid: 0, gid: 0, modified: TIME, extensions: Vec::new() }
}
