//! Exports of trees with many files that share content, whole, damaged and stopped.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::format::limits::CHUNK_SIZE;
use crate::progress::Silent;
use crate::restore::verify::fixture::{self, Source, noise};
use crate::store::{Access, layout, packs};

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
        let id = crate::id::BlobId::of_chunk(&contents()[1]);
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

/// Stops the operation when it was asked so many times.
struct StopsAfter {
    asked: AtomicUsize,
    most: usize,
}

impl Progress for StopsAfter {
    fn phase(&self, _phase: Phase, _total: Option<u64>) {}
    fn advance(&self, _bytes: u64) {}
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
        let progress = StopsAfter { asked: AtomicUsize::new(0), most };
        let out = scratch.path().join(format!("out-{most}"));
        let outcome = export_to(&out, &repository, InvalidPolicy::Refuse, &progress);
        let written = written(&out);
        let mode = |name: &String| fs::metadata(out.join("chroma").join(name)).unwrap().permissions().mode();
        assert!(written.keys().all(|name| mode(name) & 0o777 == 0o700), "one has not the snapshot's mode yet");
        (outcome, written, progress.asked.into_inner())
    };
    let (whole, _, asked) = stopping(usize::MAX);
    assert!(whole.is_ok() && asked > FILES, "{asked}");
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
