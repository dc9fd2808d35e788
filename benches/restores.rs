//! A restore in place: what it would do (verify, compare, plan), and doing it.
//!
//! `cargo bench --bench restores`; figures in docs/benchmarks.md.

#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, reason = "a bench that cannot go on has failed")]

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use vecsnap::format::manifest::SnapshotKind;
use vecsnap::id::Stamp;
use vecsnap::progress::Silent;
use vecsnap::restore::{
    self, ChromaChoice, Goal, HardLinkPolicy, OthersPolicy, OwnerPolicy, PreSnapshot, RestoreOptions,
};
use vecsnap::save::{self, CreateOptions, Effort, LiveSources, ReadPolicy};
use vecsnap::store::{LockWait, Repository};

const MEBIBYTE: usize = 1024 * 1024;
const VECTORS: usize = 64 * MEBIBYTE;
/// Every so many bytes 4 bytes change from one state to the next.
const EDIT_EVERY: usize = 128 * 1024;

/// A tree of vectors and a small database.
fn make_runtime(root: &Path) -> LiveSources {
    let sources = LiveSources {
        db: root.join("service.db"),
        registry: root.join("registry.json"),
        chroma: Some(root.join("chroma")),
    };
    fs::create_dir_all(root.join("chroma")).unwrap();
    fs::write(&sources.registry, "{}").unwrap();
    let database = rusqlite::Connection::open(&sources.db).unwrap();
    database.execute_batch("CREATE TABLE notes(id INTEGER PRIMARY KEY, text TEXT)").unwrap();
    let mut vectors = vec![0; VECTORS];
    blake3::Hasher::new().update(b"vectors").finalize_xof().fill(&mut vectors);
    fs::write(root.join("chroma/data_level0.bin"), vectors).unwrap();
    sources
}

fn edit(root: &Path) {
    let vectors = fs::OpenOptions::new().write(true).open(root.join("chroma/data_level0.bin")).unwrap();
    for at in (0..VECTORS).step_by(EDIT_EVERY) {
        vectors.write_all_at(b"edit", at as u64).unwrap();
    }
}

fn create(repository: &Repository, sources: &LiveSources) -> Stamp {
    let options = CreateOptions {
        sources: sources.clone(),
        include_chroma: true,
        check_trees: false,
        read_policy: ReadPolicy::All,
        effort: Effort::Normal,
        writers: Default::default(),
        kind: SnapshotKind::Ordinary,
    };
    save::create(repository, &options, &Silent).unwrap().stamp
}

fn restore(criterion: &mut Criterion) {
    let directory = tempfile::tempdir().unwrap();
    let live = directory.path().join("live");
    let sources = make_runtime(&live);
    let repository =
        Repository::open_or_create(&directory.path().join("repository"), LockWait(Duration::from_secs(10))).unwrap();
    let before = create(&repository, &sources);
    edit(&live);
    let after = create(&repository, &sources);
    let options = |stamp| RestoreOptions {
        goal: Goal::Snapshot(stamp),
        targets: sources.clone(),
        chroma: ChromaChoice::AsCaptured,
        pre_snapshot: PreSnapshot::Skip,
        owner: OwnerPolicy::Restore,
        hard_links: HardLinkPolicy::Refuse,
        others: OthersPolicy::Refuse,
        suspect: Default::default(),
        invalid: Default::default(),
    };
    let mut group = criterion.benchmark_group("restore of 64 MiB of vectors in place");
    group.throughput(Throughput::Bytes(VECTORS as u64)).sample_size(10);
    group.bench_function("plan, 512 blocks differ", |bencher| {
        bencher.iter(|| restore::rehearse(&repository, &options(before), &Silent).unwrap());
    });
    group.bench_function("plan, nothing differs", |bencher| {
        bencher.iter(|| restore::rehearse(&repository, &options(after), &Silent).unwrap());
    });
    let mut goals = [before, after].into_iter().cycle();
    group.bench_function("plan and apply, 512 blocks differ", |bencher| {
        bencher.iter(|| restore::restore(&repository, &options(goals.next().unwrap()), &Silent).unwrap());
    });
    group.finish();
}

criterion_group!(benches, restore);
criterion_main!(benches);
