//! Exports of trees with many files that share content, whole, damaged and stopped.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::*;
use crate::chunk::compress::Thoroughness;
use crate::format::content::{Content, Root};
use crate::format::limits::CHUNK_SIZE;
use crate::format::manifest::SourceRecord;
use crate::id::BlobId;
use crate::progress::Silent;
use crate::restore::verify::fixture::{self, Source, noise};
use crate::store::file_table::TableWriter;
use crate::store::{Access, BlobWriter, MetadataRecords, layout, packs};

const STAMP: &str = "20260401T120000Z";

/// More files than are open at one time, of three contents in turn.
const FILES: usize = 300;

fn contents() -> [Vec<u8>; 3] {
    [noise(1, 2 * CHUNK_SIZE + 100), noise(2, 5000), Vec::new()]
}

/// The files of the tree by name.
fn tree() -> BTreeMap<String, Vec<u8>> {
    (0..FILES).map(|number| (format!("file-{number:03}"), contents()[number % 3].clone())).collect()
}

/// A repository with a snapshot of the tree; what the files numbered 1, 4, 7, … hold is in a pack of its own.
fn repository(root: &Path) -> Repository {
    let repository = fixture::create(root);
    let second = &contents()[1];
    fixture::snapshot(&repository, "20260401T110000Z", &[Source { name: "chroma", files: &[("alone", second)] }]);
    let tree = tree();
    let files: Vec<(&str, &[u8])> = tree.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
    fixture::snapshot(&repository, STAMP, &[Source { name: "chroma", files: &files }]);
    repository
}

/// What came out, by name.
fn written(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let Ok(entries) = fs::read_dir(directory.join("chroma")) else { return BTreeMap::new() };
    let file = |entry: fs::DirEntry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap());
    entries.map(|entry| file(entry.unwrap())).collect()
}

fn export_to(
    directory: &Path,
    repository: &Repository,
    invalid: InvalidPolicy,
    progress: &dyn Progress,
) -> Result<ExportReport> {
    export(repository, STAMP.parse().unwrap(), directory, OwnerPolicy::Skip, invalid, progress)
}

#[test]
fn more_files_than_are_open_at_once_come_out_whole() {
    let scratch = tempfile::tempdir().unwrap();
    let repository = repository(&scratch.path().join("repository"));
    let out = scratch.path().join("out");
    let report = export_to(&out, &repository, InvalidPolicy::Refuse, &Silent).unwrap();
    assert!(written(&out) == tree());
    let bytes: usize = tree().values().map(Vec::len).sum();
    assert_eq!((report.files, report.bytes_written), (FILES as u64, bytes as u64));
    assert_eq!(report.unreadable, []);
}

#[test]
fn a_lost_chunk_takes_the_files_that_hold_it_and_no_others() {
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().join("repository");
    drop(repository(&root));
    let alone = {
        let repository = fixture::open(&root, Access::Read);
        let id = BlobId::of_chunk(&contents()[1]);
        repository.index().places(&id).unwrap()[0].pack
    };
    fs::remove_file(root.join(layout::pack(&alone.id))).unwrap();
    let repository = fixture::open(&root, Access::Read);
    assert_eq!(packs::list(repository.storage()).unwrap().len(), 1, "the other one stays");

    let (refusing, accepting) = (scratch.path().join("refusing"), scratch.path().join("accepting"));
    let report = export_to(&refusing, &repository, InvalidPolicy::Refuse, &Silent).unwrap();
    let mut sound = tree();
    sound.retain(|_, bytes| *bytes != contents()[1]);
    assert!(written(&refusing) == sound);
    assert_eq!((report.files, report.unreadable.len()), (200, 100));
    let Unreadable { path, bytes, cause } = &report.unreadable[1];
    assert_eq!((path, bytes), (&refusing.join("chroma/file-004"), &None));
    assert!(cause.contains("cannot be read") && cause.contains("vecsnap validate"), "{cause}");

    let report = export_to(&accepting, &repository, InvalidPolicy::Accept, &Silent).unwrap();
    let mut zeroed = tree();
    zeroed.values_mut().filter(|bytes| **bytes == contents()[1]).for_each(|bytes| bytes.fill(0));
    assert!(written(&accepting) == zeroed);
    let Unreadable { path, bytes, .. } = &report.unreadable[1];
    assert_eq!(path, &accepting.join("chroma/file-004"));
    assert_eq!(bytes.map(|bytes| (bytes.offset, bytes.length)), Some((0, 5000)));
}

/// A snapshot of a tree with these files, whatever they claim.
fn snapshot_of(root: &Path, files: impl FnOnce(&mut BlobWriter) -> Vec<(&'static str, Content)>) -> Repository {
    let repository = fixture::create(root);
    let template =
        fixture::snapshot(&repository, "20260401T110000Z", &[Source { name: "chroma", files: &[("a", b"a")] }]);
    let mut writer = BlobWriter::begin(&repository, MetadataRecords::Whole, Thoroughness::Thorough).unwrap();
    let mut reader = BlobReader::new(&repository);
    let mut entries = TableReader::of(&template.sources[0].table);
    let mut next = || entries.next(&mut reader, |_| ()).unwrap().unwrap().unwrap();
    let (directory, entry) = (next(), next());
    let EntryKind::File(file) = &entry.kind else { panic!("{entry:?}") };
    let files = files(&mut writer);
    let mut table = TableWriter::default();
    table.push(&directory, &mut writer).unwrap();
    for (name, content) in files {
        let kind = EntryKind::File(FileEntry { content, sparse: true, ..*file });
        table.push(&Entry { path: name.into(), kind, ..entry.clone() }, &mut writer).unwrap();
    }
    let table = table.finish(&mut writer).unwrap();
    writer.finish().unwrap();
    fixture::publish(&repository, STAMP, vec![SourceRecord { table, ..template.sources[0].clone() }]);
    repository
}

#[test]
fn blocks_of_zeros_of_a_sparse_file_stay_holes() {
    let scratch = tempfile::tempdir().unwrap();
    let mut bytes = vec![0; 3 * CHUNK_SIZE];
    bytes[CHUNK_SIZE + 5000..CHUNK_SIZE + 5100].fill(7);
    let repository = snapshot_of(&scratch.path().join("repository"), |writer| {
        vec![("sparse", fixture::store_content(&bytes, writer))]
    });
    let out = scratch.path().join("out");
    let report = export_to(&out, &repository, InvalidPolicy::Refuse, &Silent).unwrap();
    let path = out.join("chroma/sparse");
    assert!(fs::read(&path).unwrap() == bytes);
    assert!(fs::metadata(&path).unwrap().blocks() * 512 < CHUNK_SIZE as u64);
    assert_eq!(report.bytes_written, 4096);
}

#[test]
fn a_chunk_that_has_not_the_length_of_its_place_is_lost_there_and_nowhere_else() {
    let scratch = tempfile::tempdir().unwrap();
    let right = noise(3, 5000);
    let id = BlobId::of_chunk(&right);
    let repository = snapshot_of(&scratch.path().join("repository"), |writer| {
        let content = fixture::store_content(&right, writer);
        vec![("false", Content { length: 100, root: Root::Chunk(id) }), ("right", content)]
    });
    let out = scratch.path().join("out");
    let report = export_to(&out, &repository, InvalidPolicy::Refuse, &Silent).unwrap();
    assert!(written(&out) == BTreeMap::from([("right".into(), right)]));
    assert_eq!(report.unreadable.len(), 1);
    assert!(report.unreadable[0].cause.contains("not the length of its place"), "{:?}", report.unreadable);
}

#[test]
fn losses_that_follow_one_another_are_one() {
    let scratch = tempfile::tempdir().unwrap();
    let slots = 1000;
    let repository = snapshot_of(&scratch.path().join("repository"), |writer| {
        let mut tree = crate::chunk::tree::TreeBuilder::default();
        for _ in 0..slots {
            let sink = &mut crate::store::TreeSink { writer, previous: None };
            tree.push_chunk(BlobId::of_chunk(b"in no pack"), sink).unwrap();
        }
        let sink = &mut crate::store::TreeSink { writer, previous: None };
        vec![("lost", tree.finish((slots * CHUNK_SIZE) as u64, sink).unwrap())]
    });
    let out = scratch.path().join("out");
    let report = export_to(&out, &repository, InvalidPolicy::Accept, &Silent).unwrap();
    assert_eq!(report.unreadable.len(), 1, "{:?}", report.unreadable);
    let lost = report.unreadable[0].bytes.map(|bytes| (bytes.offset, bytes.length));
    assert_eq!(lost, Some((0, (slots * CHUNK_SIZE) as u64)));
    assert_eq!(fs::metadata(out.join("chroma/lost")).unwrap().len(), (slots * CHUNK_SIZE) as u64);
}

#[test]
fn a_lost_list_node_takes_its_file_or_is_named() {
    let scratch = tempfile::tempdir().unwrap();
    let node = Root::Node { id: BlobId::of_chunk(b"in no pack"), depth: 1 };
    let length = 3 * CHUNK_SIZE as u64;
    let repository = snapshot_of(&scratch.path().join("repository"), |writer| {
        let sound = fixture::store_content(b"sound", writer);
        vec![("lost", Content { length, root: node }), ("sound", sound)]
    });
    let out = scratch.path().join("out");
    let report = export_to(&out, &repository, InvalidPolicy::Refuse, &Silent).unwrap();
    assert_eq!((report.unreadable.len(), written(&out).len()), (1, 1));
    let out = scratch.path().join("accepting");
    let report = export_to(&out, &repository, InvalidPolicy::Accept, &Silent).unwrap();
    assert_eq!(report.unreadable[0].bytes.map(|bytes| (bytes.offset, bytes.length)), Some((0, length)));
    assert!(written(&out)["lost"].iter().all(|&byte| byte == 0));
}

#[test]
fn what_the_index_does_not_know_is_found_all_the_same() {
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().join("repository");
    drop(repository(&root));
    let index = rusqlite::Connection::open(root.join(layout::INDEX)).unwrap();
    let id = BlobId::of_chunk(&contents()[1]);
    assert!(index.execute("DELETE FROM blobs WHERE id = ?", [id.as_bytes()]).unwrap() > 0);
    drop(index);
    let repository = fixture::open(&root, Access::Read);
    let out = scratch.path().join("out");
    let report = export_to(&out, &repository, InvalidPolicy::Refuse, &Silent).unwrap();
    assert_eq!(report.unreadable, []);
    assert!(written(&out) == tree());
}

/// Stops the operation when it was asked so many times.
struct StopsAfter {
    asked: AtomicUsize,
    most: usize,
    advanced: AtomicU64,
}

impl Progress for StopsAfter {
    fn phase(&self, _phase: Phase, _total: Option<u64>) {}
    fn advance(&self, bytes: u64) {
        self.advanced.fetch_add(bytes, Ordering::Relaxed);
    }
    fn finish(&self) {}
    fn interrupted(&self) -> bool {
        self.asked.fetch_add(1, Ordering::Relaxed) >= self.most
    }
}

#[test]
fn wherever_it_is_stopped_no_file_stays_without_its_bytes() {
    let scratch = tempfile::tempdir().unwrap();
    let repository = repository(&scratch.path().join("repository"));
    let stopping = |most| {
        let progress = StopsAfter { asked: AtomicUsize::new(0), most, advanced: AtomicU64::new(0) };
        let out = scratch.path().join(format!("out-{most}"));
        let outcome = export_to(&out, &repository, InvalidPolicy::Refuse, &progress);
        let written = written(&out);
        let mode = |name: &String| fs::metadata(out.join("chroma").join(name)).unwrap().permissions().mode();
        assert!(written.keys().all(|name| mode(name) & 0o777 == 0o700), "one has not the snapshot's mode yet");
        (outcome, written, progress)
    };
    let (whole, _, progress) = stopping(usize::MAX);
    let asked = progress.asked.into_inner();
    assert!(whole.is_ok() && asked > FILES, "{asked}");
    assert_eq!(progress.advanced.into_inner(), tree().values().map(Vec::len).sum::<usize>() as u64);
    let tree = tree();
    let mut met = Vec::new();
    for most in (0..asked).step_by(asked / 25) {
        let (outcome, written, _) = stopping(most);
        assert!(matches!(outcome, Err(Error::Interrupted)), "{outcome:?}");
        assert!(written.iter().all(|(name, bytes)| tree[name] == *bytes), "stopped after {most} questions");
        met.push(written.len());
    }
    assert!(met.contains(&0) && met.iter().any(|files| (1..FILES).contains(files)), "{met:?}");
}
