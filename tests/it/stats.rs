//! `stats`: every figure against repositories made by hand, and against what the disk says.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use vecsnap::format::limits::CHUNK_SIZE;
use vecsnap::format::manifest::{SnapshotKind, SourceKind};
use vecsnap::format::pack::BlobKind;

use crate::support::command::keys;
use crate::support::damage::{self, Damage};
use crate::support::handmade::{HandmadeRepository, Item, Source};
use crate::support::{Runtime, TreeState, Vecsnap, noise};

const STAMPS: [&str; 3] = ["20260401T000000Z", "20260402T000000Z", "20260403T000000Z"];

const FIELDS: [&str; 18] = [
    "repository",
    "snapshots",
    "pre_restore_snapshots",
    "full_copies",
    "oldest",
    "oldest_age_s",
    "newest",
    "newest_age_s",
    "packs",
    "logical_bytes",
    "stored_bytes",
    "needed_bytes",
    "full_copy_ratio",
    "by_snapshot",
    "by_source",
    "chains",
    "cleanup",
    "errors",
];

fn stats(repository: &Path, arguments: &[&str]) -> Value {
    Vecsnap::new().args(["stats", "--json", "--repo"]).arg(repository).args(arguments).run().exits(0).json()
}

fn repository_bytes(root: &Path) -> u64 {
    let files = ["packs", "snapshots"].iter().flat_map(|name| damage::files_below(&root.join(name)));
    files.map(|file| fs::metadata(file).unwrap().len()).sum()
}

/// One file `data` in a tree.
fn tree(data: &[u8]) -> [Source; 1] {
    [Source::captured(
        "chroma",
        SourceKind::Tree,
        vec![("", 0o700, Item::Directory), ("data", 0o600, Item::file(data))],
    )]
}

/// The sum of a figure over the rows of a table in the document.
fn sum(rows: &Value, field: &str) -> u64 {
    rows.as_array().unwrap().iter().map(|row| row[field].as_u64().unwrap()).sum()
}

#[test]
fn without_a_repository_everything_is_zero_and_nothing_is_made() {
    let runtime = Runtime::new();
    let stats = runtime.vecsnap(&["stats"]).json();
    assert_eq!(keys(&stats), FIELDS);
    for field in ["snapshots", "packs", "logical_bytes", "stored_bytes", "needed_bytes", "full_copies"] {
        assert_eq!(stats[field], 0, "{field}");
    }
    assert_eq!((&stats["newest"], &stats["by_snapshot"]), (&Value::Null, &json!([])));
    assert_eq!(stats["cleanup"], json!({ "kept": 0, "would_delete": 0, "would_free_bytes": 0, "errors": [] }));
    assert!(!runtime.repo().exists());
    let quiet = runtime.vecsnap(&["stats", "--quiet"]).run().exits(0);
    assert_eq!((quiet.stdout.as_str(), quiet.stderr.as_str()), ("", ""));
}

#[test]
fn each_snapshot_is_told_what_it_added_and_what_only_it_needs() {
    let directory = tempfile::tempdir().unwrap();
    let mut repository = HandmadeRepository::new(directory.path().join("made"));
    let chunk = |name: &str| noise::bytes(name, CHUNK_SIZE);
    let (kept, first, last) = (chunk("in all three"), chunk("in the first"), chunk("in the last two"));
    for (stamp, other) in STAMPS.iter().zip([&first, &last, &last]) {
        repository.snapshot(stamp, SnapshotKind::Ordinary, &tree(&[kept.as_slice(), other].concat()));
    }
    let stats = stats(&repository.root(), &[]);
    let rows = stats["by_snapshot"].as_array().unwrap();
    let figures = |name: &str| rows.iter().map(|row| row[name].as_u64().unwrap()).collect::<Vec<_>>();
    assert_eq!(figures("logical_bytes"), [2 * CHUNK_SIZE as u64; 3]);
    let [first, second, third] = figures("added_bytes")[..] else { panic!("{stats}") };
    // Two chunks, one, none; and about a kilobyte for what leads there.
    let chunks = |bytes: u64| (bytes / CHUNK_SIZE as u64, bytes % CHUNK_SIZE as u64 / 1500);
    assert_eq!([chunks(first), chunks(second), chunks(third)], [(2, 0), (1, 0), (0, 0)], "{stats}");
    let [first, second, third] = figures("only_bytes")[..] else { panic!("{stats}") };
    assert_eq!([chunks(first), chunks(second), chunks(third)], [(1, 0), (0, 0), (0, 0)], "{stats}");
    assert_eq!(stats["needed_bytes"].as_u64(), Some(sum(&stats["by_snapshot"], "added_bytes")));
    assert_eq!(stats["stored_bytes"].as_u64(), Some(repository_bytes(&repository.root())));
    assert_eq!(sum(&stats["by_source"], "stored_bytes"), stats["needed_bytes"]);
    assert_eq!((&stats["oldest"], &stats["newest"]), (&json!(STAMPS[0]), &json!(STAMPS[2])));
}

#[test]
fn bases_count_for_those_whose_chains_need_them_and_depths_are_told_in_classes() {
    let directory = tempfile::tempdir().unwrap();
    let mut repository = HandmadeRepository::new(directory.path().join("made"));
    let base = noise::bytes("base", CHUNK_SIZE);
    let version = |number: usize| [&base[..CHUNK_SIZE - 8], &(number as u64).to_le_bytes()].concat();
    repository.whole(BlobKind::Chunk, &base);
    let mut before = base.clone();
    for number in 1..=9 {
        repository.delta_in_place(&version(number), &before);
        before = version(number);
    }
    // What nobody needs: a blob in no chain, and one in a chain on top.
    repository.whole(BlobKind::Chunk, &noise::bytes("nobody's", CHUNK_SIZE));
    repository.delta_in_place(&version(10), &version(9));
    repository.end_pack();
    repository.snapshot(STAMPS[0], SnapshotKind::Ordinary, &tree(&version(4)));
    repository.snapshot(STAMPS[1], SnapshotKind::Ordinary, &tree(&version(9)));
    let stats = stats(&repository.root(), &[]);
    let chains = &stats["chains"];
    assert_eq!(
        (&chains["delta_blobs"], &chains["max_depth"], &chains["lost_blobs"]),
        (&json!(9), &json!(9), &json!(0))
    );
    let classes = chains["depths"].as_array().unwrap();
    let classes: Vec<_> = classes.iter().map(|row| [&row["from_depth"], &row["to_depth"], &row["blobs"]]).collect();
    let class = |from: u32, to: u32, blobs: u32| [from, to, blobs].map(Value::from);
    // Depth 0: the base, and the table of each snapshot.
    let expected = [class(0, 0, 3), class(1, 1, 1), class(2, 3, 2), class(4, 7, 4), class(8, 15, 2)];
    assert_eq!(format!("{classes:?}"), format!("{:?}", expected.iter().map(|row| row.each_ref()).collect::<Vec<_>>()));
    let rows = &stats["by_snapshot"];
    // The base came with the first, and the second needs it too.
    assert!(rows[0]["added_bytes"].as_u64().unwrap() > CHUNK_SIZE as u64, "{stats}");
    assert!(
        rows[0]["only_bytes"].as_u64().unwrap() < 1500 && rows[1]["only_bytes"].as_u64().unwrap() < 2500,
        "{stats}"
    );
    let unneeded = stats["stored_bytes"].as_u64().unwrap() - stats["needed_bytes"].as_u64().unwrap();
    assert!(unneeded > CHUNK_SIZE as u64, "{stats}");
}

#[test]
fn a_real_history_sums_up_and_cleanup_frees_what_was_foretold() {
    let runtime = Runtime::new();
    for number in 0..3 {
        runtime.remember(&format!("memory {number}"));
        runtime.store().append(20);
        runtime.create(&["--chroma", "--effort", "normal"]);
    }
    let stats = stats(&runtime.repo(), &["--keep-last", "1"]);
    assert_eq!(keys(&stats), FIELDS);
    assert_eq!((&stats["snapshots"], &stats["errors"]), (&json!(3), &json!([])));
    let (stored, needed) = (stats["stored_bytes"].as_u64().unwrap(), stats["needed_bytes"].as_u64().unwrap());
    assert_eq!(stored, repository_bytes(&runtime.repo()));
    assert!(needed <= stored && needed > stored / 2, "{stats}");
    assert_eq!(sum(&stats["by_source"], "logical_bytes"), stats["logical_bytes"]);
    let sources: Vec<_> = stats["by_source"].as_array().unwrap().iter().map(|row| &row["source"]).collect();
    assert_eq!(sources, ["db", "registry", "chroma"]);
    assert!(stats["full_copy_ratio"].as_f64().unwrap() > 1.5, "{stats}");
    assert!(stats["chains"]["delta_blobs"].as_u64().unwrap() > 0, "{stats}");
    let dry_run = runtime.vecsnap(&["cleanup", "--keep-last", "1"]).json();
    for field in ["kept", "would_delete", "would_free_bytes"] {
        assert_eq!(stats["cleanup"][field], dry_run[field], "{field}");
    }
}

#[test]
fn pre_restore_snapshots_and_full_copies_are_counted_and_nothing_changes() {
    let runtime = Runtime::new();
    runtime.create(&["--chroma"]);
    runtime.restore("latest", &[]);
    fs::create_dir_all(runtime.repo().join("snapshots/20200101T000000Z/db")).unwrap();
    fs::write(runtime.repo().join("snapshots/20200101T000000Z/backup-metadata.json"), "{}").unwrap();
    let before = TreeState::of(&runtime.repo());
    let stats = runtime.vecsnap(&["stats"]).json();
    let counts = ["snapshots", "pre_restore_snapshots", "full_copies"].map(|field| &stats[field]);
    assert_eq!(counts, [&json!(2), &json!(1), &json!(1)]);
    TreeState::of(&runtime.repo())
        .without_directory_times()
        .assert_same(&before.without_directory_times(), "after stats");
}

#[test]
fn damage_is_told_beside_the_figures_that_are_left() {
    let runtime = Runtime::new();
    let first = runtime.create(&["--chroma"]);
    runtime.remember("more");
    let second = runtime.create(&["--chroma"]);
    Damage::Truncate.inflict(&runtime.snapshot(&first).join("manifest"));
    let document = runtime.vecsnap(&["stats"]).run().exits(1).json();
    assert!(document["errors"][0].as_str().unwrap().starts_with(&format!("{first}: manifest_corrupt: ")), "{document}");
    assert_eq!((&document["snapshots"], &document["newest"]), (&json!(1), &json!(second)));
    assert!(!document["cleanup"]["errors"].as_array().unwrap().is_empty());
    for pack in damage::packs(&runtime.repo()) {
        Damage::Delete.inflict(&pack);
    }
    let document = runtime.vecsnap(&["stats"]).run().exits(1).json();
    assert_eq!((&document["packs"], &document["needed_bytes"]), (&json!(0), &json!(0)));
    assert!(document["chains"]["lost_blobs"].as_u64().unwrap() > 0, "{document}");
}
