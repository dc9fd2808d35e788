//! `restore --accept-invalid`: what can be read comes back, what cannot is zeros and is named, byte by byte, and the
//! way back stands.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use vecsnap::format::limits::CHUNK_SIZE;
use vecsnap::format::manifest::Manifest;
use vecsnap::format::pack::BlobKind;
use vecsnap::id::BlobId;

use crate::support::packs::{Pack, wound_blob};
use crate::support::{Outcome, Runtime, TreeState, noise};

const LINKS: &str = "link_lists.bin";

/// A runtime whose vector store has a file of four slots that do not compress, and a snapshot of it.
struct Kept {
    runtime: Runtime,
    stamp: String,
    files: BTreeMap<PathBuf, Vec<u8>>,
}

fn kept() -> Kept {
    let runtime = Runtime::new();
    fs::write(runtime.store().file(LINKS), noise::bytes("links of old", 4 * CHUNK_SIZE)).unwrap();
    let stamp = runtime.create(&["--chroma"]);
    // An image of a database need not be the same bytes: from here on it is.
    runtime.restore(&stamp, &["--no-pre-snapshot"]);
    let files = contents(&runtime);
    Kept { runtime, stamp, files }
}

/// The bytes of all live files.
fn contents(runtime: &Runtime) -> BTreeMap<PathBuf, Vec<u8>> {
    let below = |root: &Path| walkdir::WalkDir::new(root).into_iter().map(Result::unwrap).collect::<Vec<_>>();
    let entries = below(&runtime.data()).into_iter().chain(below(runtime.registry().parent().unwrap()));
    let files = entries.filter(|entry| entry.file_type().is_file());
    files.map(|entry| (entry.path().to_path_buf(), fs::read(entry.path()).unwrap())).collect()
}

impl Kept {
    fn links(&self) -> PathBuf {
        self.runtime.store().file(LINKS)
    }

    /// Damages what the repository holds of one slot of a file of the snapshot.
    fn lose(&self, file: &Path, slot: usize) {
        let chunk = self.files[file].chunks(CHUNK_SIZE).nth(slot).unwrap();
        assert!(wound_blob(&self.runtime.repo(), BlobId::of_chunk(chunk)) > 0);
    }

    /// Changes every live file.
    fn change(&self) {
        self.runtime.remember("newer than the snapshot");
        self.runtime.write_registry("p02");
        self.runtime.store().append(40);
        fs::write(self.links(), noise::bytes("links of today", 5 * CHUNK_SIZE)).unwrap();
        fs::write(self.runtime.chroma().join("stranger"), "not in the snapshot").unwrap();
    }

    fn restore(&self, arguments: &[&str]) -> Outcome {
        let call = ["restore", &self.stamp, "--confirm-service-stopped", "--json"];
        self.runtime.vecsnap(&call).args(arguments).run()
    }

    /// Holds that each file has the snapshot's bytes, but for zeros in exactly what the document names.
    #[track_caller]
    fn assert_restored_but_for(&self, document: &Value) {
        let mut expected = self.files.clone();
        for (path, offset, length) in named(document) {
            expected.get_mut(&path).unwrap()[offset..offset + length].fill(0);
        }
        for (path, bytes) in contents(&self.runtime) {
            assert!(expected.remove(&path) == Some(bytes), "{} is not as told: {document}", path.display());
        }
        assert_eq!(expected.keys().collect::<Vec<_>>(), Vec::<&PathBuf>::new(), "not restored");
    }
}

/// The byte ranges that a document names.
fn named(document: &Value) -> Vec<(PathBuf, usize, usize)> {
    let parts = document["unreadable"].as_array().unwrap_or_else(|| panic!("{document}"));
    let number = |value: &Value| usize::try_from(value.as_u64().unwrap()).unwrap();
    parts
        .iter()
        .map(|part| (part["path"].as_str().unwrap().into(), number(&part["offset"]), number(&part["length"])))
        .collect()
}

#[test]
fn what_cannot_be_read_becomes_zeros_and_is_named_and_the_way_back_stands() {
    let kept = kept();
    kept.lose(&kept.links(), 2);
    kept.change();
    let before = kept.runtime.live_state().without_directory_times();

    kept.restore(&[]).exits(3).prints_nothing().says(&["chunk_corrupt", "--accept-invalid"]);
    kept.runtime.live_state().without_directory_times().assert_same(&before, "refused");
    let rehearsed = kept.restore(&["--dry-run", "--accept-invalid"]).exits(3).json();
    kept.runtime.live_state().without_directory_times().assert_same(&before, "rehearsed");
    assert_eq!(kept.runtime.snapshots().len(), 1);

    let document = kept.restore(&["--accept-invalid"]).exits(3).says(&[LINKS, "cannot be read"]).json();
    assert_eq!(named(&document), [(kept.links(), 2 * CHUNK_SIZE, CHUNK_SIZE)]);
    assert_eq!(document["unreadable"], rehearsed["unreadable"]);
    assert!(document["accepted_errors"][0].as_str().unwrap().starts_with("chunk_corrupt: chroma/"), "{document}");
    assert_eq!(document["restored_integrity_ok"], true);
    kept.assert_restored_but_for(&document);

    kept.runtime.vecsnap(&["restore", "--undo", "--confirm-service-stopped"]).run().exits(0);
    kept.runtime.live_state().without_directory_times().assert_same(&before, "undone");
}

#[test]
fn bytes_that_the_target_has_already_are_not_lost() {
    let kept = kept();
    kept.lose(&kept.links(), 1);
    let mut changed = kept.files[&kept.links()].clone();
    changed[3 * CHUNK_SIZE..].fill(7);
    fs::write(kept.links(), changed).unwrap();
    let document = kept.restore(&["--accept-invalid"]).exits(0).json();
    assert_eq!(document["unreadable"], serde_json::json!([]));
    assert!(!document["accepted_errors"].as_array().unwrap().is_empty());
    kept.assert_restored_but_for(&document);
}

#[test]
fn a_database_whose_header_only_the_target_has_keeps_it() {
    let kept = kept();
    kept.runtime.write_registry("p02");
    kept.lose(&kept.runtime.db(), 0);
    let document = kept.restore(&["--accept-invalid"]).exits(0).json();
    assert_eq!((&document["unreadable"], &document["restored_integrity_ok"]), (&serde_json::json!([]), &true.into()));
    kept.assert_restored_but_for(&document);
}

#[test]
fn a_database_that_lost_its_header_is_not_sound_and_that_is_told() {
    let kept = kept();
    kept.change();
    kept.lose(&kept.runtime.db(), 0);
    let document = kept.restore(&["--accept-invalid"]).exits(1).json();
    assert_eq!(document["restored_integrity_ok"], false);
    assert!(named(&document).iter().any(|(path, offset, _)| (path, *offset) == (&kept.runtime.db(), 0)), "{document}");
    kept.assert_restored_but_for(&document);
}

#[test]
fn a_lost_list_node_hides_the_whole_file() {
    let kept = kept();
    kept.change();
    let nodes = Pack::all(&kept.runtime.repo()).into_iter().flat_map(|pack| pack.footer.records);
    let nodes: Vec<BlobId> = nodes.filter(|record| record.kind == BlobKind::ListNode).map(|record| record.id).collect();
    nodes.iter().for_each(|id| assert!(wound_blob(&kept.runtime.repo(), *id) > 0));
    let document = kept.restore(&["--accept-invalid"]).exits(3).json();
    let whole = (kept.links(), 0, 4 * CHUNK_SIZE);
    assert!(named(&document).contains(&whole), "{document}");
    kept.assert_restored_but_for(&document);
}

#[test]
fn a_source_whose_table_is_lost_is_left_as_it_is_and_named() {
    let kept = kept();
    kept.change();
    let before = kept.runtime.live_state().without_directory_times();
    let manifest = fs::read(kept.runtime.snapshot(&kept.stamp).join("manifest")).unwrap();
    let manifest = Manifest::decode(&manifest).unwrap();
    for source in &manifest.sources {
        let vecsnap::format::content::Root::Chunk(id) = source.table.root else { panic!("{:?}", source.table) };
        // In one frame with others perhaps, which are then hurt too.
        wound_blob(&kept.runtime.repo(), id);
    }
    let document = kept.restore(&["--accept-invalid"]).exits(3).json();
    let restored = ["db_restored", "registry_restored", "chroma_restored"].map(|field| document[field].as_bool());
    assert!(restored.contains(&Some(false)), "{document}");
    if restored == [Some(false); 3] {
        kept.runtime.live_state().without_directory_times().assert_same(&before, "nothing can be known");
        assert_eq!(document["restored_integrity_ok"], Value::Null);
    }
    let parts = document["unreadable"].as_array().unwrap();
    let left: Vec<&Value> = parts.iter().filter(|part| part["offset"].is_null()).collect();
    assert_eq!(left.len(), restored.iter().filter(|restored| **restored == Some(false)).count(), "{document}");
    assert!(left.iter().all(|part| part["error"].as_str().unwrap().contains("left as it is")), "{document}");
}

#[test]
fn written_elsewhere_files_are_left_out_and_named_or_padded_and_named() {
    let kept = kept();
    kept.lose(&kept.links(), 3);
    let outside = kept.runtime.path().join("without");
    let call = |directory: &Path| kept.runtime.vecsnap(&["restore", &kept.stamp, "--json", "--to"]).arg(directory);
    let document = call(&outside).run().exits(3).json();
    let relative = kept.links().strip_prefix(kept.runtime.chroma()).unwrap().to_path_buf();
    let path = outside.join("chroma").join(&relative);
    assert_eq!(document["unreadable"][0]["path"], path.to_str().unwrap());
    assert!(!path.exists() && document["unreadable"][0]["offset"].is_null(), "{document}");

    let padded = kept.runtime.path().join("padded");
    let document = call(&padded).arg("--accept-invalid").run().exits(3).json();
    let path = padded.join("chroma").join(&relative);
    assert_eq!(named(&document), [(path.clone(), 3 * CHUNK_SIZE, CHUNK_SIZE)]);
    let mut expected = kept.files[&kept.links()].clone();
    expected[3 * CHUNK_SIZE..].fill(0);
    assert!(fs::read(path).unwrap() == expected);
}

#[test]
fn errors_without_a_lost_byte_are_accepted_and_told() {
    let runtime = Runtime::new();
    fs::write(runtime.registry(), "{ no json").unwrap();
    let document = runtime.vecsnap(&["create", "--json"]).run().exits(3).json();
    let stamp = document["stamp"].as_str().unwrap();
    runtime.write_registry("p02");
    let call = ["restore", stamp, "--confirm-service-stopped", "--json"];
    runtime.vecsnap(&call).run().exits(3).prints_nothing().says(&["registry_invalid_json"]);
    let restored = runtime.vecsnap(&call).arg("--accept-invalid").run().exits(0).json();
    assert!(restored["accepted_errors"][0].as_str().unwrap().starts_with("registry_invalid_json"), "{restored}");
    assert_eq!(fs::read(runtime.registry()).unwrap(), b"{ no json");
}

#[test]
fn without_a_manifest_there_is_nothing_to_accept() {
    let kept = kept();
    let before = TreeState::of(&kept.runtime.data());
    fs::write(kept.runtime.snapshot(&kept.stamp).join("manifest"), b"no manifest").unwrap();
    kept.restore(&["--accept-invalid"]).exits(3).prints_nothing().says(&["manifest_corrupt"]);
    TreeState::of(&kept.runtime.data()).assert_same(&before, "nothing to go by");
}

#[test]
fn a_way_back_that_rotted_is_taken_as_far_as_it_goes() {
    let kept = kept();
    let undo = ["restore", "--undo", "--confirm-service-stopped", "--json"];
    kept.change();
    kept.restore(&[]).exits(0);
    kept.runtime.vecsnap(&undo).run().exits(0);
    let today = contents(&kept.runtime);
    kept.restore(&[]).exits(0);
    let chunk = today[&kept.links()].chunks(CHUNK_SIZE).nth(4).unwrap();
    assert!(wound_blob(&kept.runtime.repo(), BlobId::of_chunk(chunk)) > 0);
    kept.runtime.vecsnap(&undo).run().exits(3).prints_nothing().says(&["--accept-invalid"]);
    let document = kept.runtime.vecsnap(&undo).arg("--accept-invalid").run().exits(3).json();
    assert_eq!(named(&document), [(kept.links(), 4 * CHUNK_SIZE, CHUNK_SIZE)]);
    let back = Kept { files: today, ..kept };
    back.assert_restored_but_for(&document);
}
