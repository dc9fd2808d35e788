//! Snapshots damaged in every place, and what is said of them.

use std::path::{Path, PathBuf};

use super::fixture::{Source, create, database, noise, open, snapshot};
use super::*;
use crate::progress::Silent;
use crate::store::{Access, layout, packs};

const STAMP: &str = "20260406T180000Z";
const REGISTRY_JSON: &[u8] = br#"{"projects": ["a", "\u00fc"]}"#;

fn options(depth: Depth) -> VerifyOptions {
    VerifyOptions { depth, recheck: Recheck::IfUnknown }
}

struct Made {
    directory: tempfile::TempDir,
    manifest: Manifest,
    vectors: Vec<u8>,
}

impl Made {
    fn new() -> Self {
        Self::with(REGISTRY_JSON)
    }

    fn with(registry: &[u8]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let image = database(&directory.path().join("live.db"));
        let vectors = noise(1, 40 * 65_536 + 7);
        let repository = create(&directory.path().join("repo"));
        let manifest = snapshot(
            &repository,
            STAMP,
            &[
                Source { name: "db", files: &[("live.db", &image)] },
                Source { name: "registry", files: &[("registry.json", registry)] },
                Source { name: "chroma", files: &[("chroma.sqlite3", &image), ("data_level0.bin", &vectors)] },
            ],
        );
        Self { directory, manifest, vectors }
    }

    fn root(&self) -> PathBuf {
        self.directory.path().join("repo")
    }

    fn verify(&self, depth: Depth) -> Verification {
        let repository = open(&self.root(), Access::Read);
        verify(&repository, &self.manifest, options(depth), &Silent).unwrap()
    }

    fn packs(&self) -> Vec<PathBuf> {
        let repository = open(&self.root(), Access::Read);
        let packs = packs::list(repository.storage()).unwrap();
        packs.iter().map(|pack| self.root().join(layout::pack(&pack.id))).collect()
    }

    /// Flips a byte in the middle of the stored vectors.
    fn flip(&self) -> u64 {
        let offset = 20 * 65_536;
        let needle = &self.vectors[offset..offset + 64];
        for pack in self.packs() {
            let mut bytes = std::fs::read(&pack).unwrap();
            if let Some(at) = bytes.windows(needle.len()).position(|window| window == needle) {
                bytes[at] ^= 1;
                std::fs::write(&pack, bytes).unwrap();
                return offset as u64;
            }
        }
        panic!("the vectors are stored compressed");
    }
}

#[test]
fn a_sound_snapshot_has_no_findings_at_either_depth() {
    let made = Made::new();
    for depth in [Depth::Quick, Depth::Full, Depth::Full] {
        let verification = made.verify(depth);
        assert_eq!(verification.errors(), [""; 0]);
        assert!(verification.is_valid());
        assert_eq!(
            verification.sources.iter().map(|source| source.name.as_str()).collect::<Vec<_>>(),
            ["db", "registry", "chroma"]
        );
    }
}

#[test]
fn a_flipped_byte_is_named_with_file_and_offset_and_only_a_full_look_sees_it() {
    let made = Made::new();
    let offset = made.flip();
    assert!(made.verify(Depth::Quick).is_valid());
    let verification = made.verify(Depth::Full);
    let [Finding::ChunkCorrupt { range, detail }] = verification.source("chroma").unwrap().findings.as_slice() else {
        panic!("{verification:?}")
    };
    assert_eq!(range.file, "chroma/data_level0.bin");
    assert!(range.offset <= offset && offset < range.offset + range.length, "{range}");
    assert!(detail.contains("packs/"), "{detail}");
    assert!(verification.errors()[0].starts_with("chunk_corrupt: chroma/data_level0.bin at byte "));
    assert!(verification.source("db").unwrap().is_valid());
}

#[test]
fn lost_packs_are_missing_chunks_or_tables_at_either_depth() {
    for depth in [Depth::Quick, Depth::Full] {
        for damage in [remove as fn(&Path), truncate, empty] {
            let made = Made::new();
            made.packs().iter().for_each(|pack| damage(pack));
            let verification = made.verify(depth);
            for name in ["db", "registry", "chroma"] {
                let source = verification.source(name).unwrap();
                let text = source.findings.iter().map(Finding::to_string).collect::<String>();
                assert!(text.starts_with(&format!("chunk_missing: the file table of {name} at byte 0")), "{text}");
                assert!(text.contains(&format!("hides every file of {name}")), "{text}");
            }
        }
    }
}

fn remove(path: &Path) {
    std::fs::remove_file(path).unwrap();
}

fn truncate(path: &Path) {
    let bytes = std::fs::read(path).unwrap();
    std::fs::write(path, &bytes[..bytes.len() - 1]).unwrap();
}

fn empty(path: &Path) {
    std::fs::write(path, b"").unwrap();
}

#[test]
fn a_missing_pack_of_contents_is_named_file_by_file_in_joined_ranges() {
    let directory = tempfile::tempdir().unwrap();
    let (first, second) = (noise(1, 10 * 65_536), noise(2, 3 * 65_536));
    let root = directory.path().join("repo");
    let repository = create(&root);
    // The contents come into a pack of their own; the tables that follow find them there.
    let mut writer = crate::store::BlobWriter::begin(
        &repository,
        crate::store::MetadataRecords::Whole,
        crate::chunk::compress::Thoroughness::Thorough,
    )
    .unwrap();
    for chunk in first.chunks(65_536).skip(4).chain(second.chunks(65_536)) {
        writer.put_chunk(chunk).unwrap();
    }
    let lost = writer.finish().unwrap().packs;
    let files: &[(&str, &[u8])] = &[("a", &first), ("b", &second), ("c", &second)];
    let manifest = snapshot(&repository, STAMP, &[Source { name: "chroma", files }]);
    drop(repository);
    remove(&root.join(layout::pack(&lost[0].id)));
    for depth in [Depth::Quick, Depth::Full] {
        let repository = open(&root, Access::Read);
        let verification = verify(&repository, &manifest, options(depth), &Silent).unwrap();
        assert_eq!(
            verification.errors(),
            [
                "db_snapshot_missing",
                "chunk_missing: chroma/a at byte 262144 (393216 bytes)",
                "chunk_missing: chroma/b at byte 0 (196608 bytes)",
                "chunk_missing: chroma/c at byte 0 (196608 bytes)",
            ]
        );
    }
}

#[test]
fn a_registry_that_is_no_json_is_named() {
    for wrong in [&b"{\"projects\": ["[..], b"", b"[1] trailing", b"\"\xff\"", b"\"\xc3"] {
        let verification = Made::with(wrong).verify(Depth::Full);
        let errors = verification.errors();
        assert!(errors.len() == 1 && errors[0].starts_with("registry_invalid_json: "), "{wrong:?}: {errors:?}");
        assert!(!verification.source("registry").unwrap().is_valid());
    }
    let long = format!("[\"{}\", {}1]", "ü".repeat(100_000), "1,".repeat(100_000));
    assert!(Made::with(long.as_bytes()).verify(Depth::Full).is_valid());
}

#[test]
fn a_damaged_database_image_fails_its_check_and_the_verdict_is_kept_by_content() {
    let directory = tempfile::tempdir().unwrap();
    let mut image = database(&directory.path().join("live.db"));
    let root = directory.path().join("repo");
    let repository = create(&root);
    let sound = image.clone();
    image[100..4096].fill(0xAA);
    let files: &[(&str, &[u8])] = &[("chroma.sqlite3", &image)];
    let sources = [Source { name: "db", files: &[("live.db", &sound)] }, Source { name: "chroma", files }];
    let manifest = snapshot(&repository, STAMP, &sources);
    for depth in [Depth::Quick, Depth::Content] {
        assert!(
            verify(&repository, &manifest, options(depth), &Silent).unwrap().is_valid(),
            "not known yet: {depth:?}"
        );
    }
    let verification = verify(&repository, &manifest, options(Depth::Full), &Silent).unwrap();
    let errors = verification.errors();
    assert!(errors.len() == 1 && errors[0].starts_with("chroma_inconsistent: chroma/chroma.sqlite3: "), "{errors:?}");
    assert!(verification.source("db").unwrap().is_valid());
    for depth in [Depth::Quick, Depth::Content] {
        let again = verify(&repository, &manifest, options(depth), &Silent).unwrap();
        assert_eq!(again.errors(), errors, "the verdict was kept: {depth:?}");
    }
    assert_eq!(std::fs::read_dir(root.join("tmp")).unwrap().count(), 1, "only the run's own directory is left");
}

#[test]
fn the_image_of_a_database_source_is_checked_with_its_content() {
    let directory = tempfile::tempdir().unwrap();
    let mut image = database(&directory.path().join("live.db"));
    image[100..4096].fill(0xAA);
    let repository = create(&directory.path().join("repo"));
    let manifest = snapshot(&repository, STAMP, &[Source { name: "db", files: &[("live.db", &image)] }]);
    let errors = verify(&repository, &manifest, options(Depth::Content), &Silent).unwrap().errors();
    assert!(errors.len() == 1 && errors[0].starts_with("db_integrity_check_failed: "), "{errors:?}");
}

#[test]
fn a_source_without_its_file_is_a_missing_snapshot() {
    let directory = tempfile::tempdir().unwrap();
    let repository = create(directory.path());
    let sources = [Source { name: "db", files: &[] }, Source { name: "registry", files: &[] }];
    let manifest = snapshot(&repository, STAMP, &sources);
    let verification = verify(&repository, &manifest, options(Depth::Full), &Silent).unwrap();
    assert_eq!(verification.errors(), ["db_snapshot_missing", "registry_snapshot_missing"]);
}
