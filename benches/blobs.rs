//! The hot paths of the store: hashing, compressing, putting and getting blobs.
//!
//! `cargo bench --bench blobs`; figures in docs/benchmarks.md.

#![allow(missing_docs, clippy::unwrap_used, reason = "a bench that cannot go on has failed")]

use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use vecsnap::chunk::compress::compress_frame;
use vecsnap::format::limits::CHUNK_SIZE;
use vecsnap::id::BlobId;
use vecsnap::store::{Access, BlobReader, BlobWriter, LockWait, MetadataRecords, Repository};

const WAIT: LockWait = LockWait(Duration::from_secs(10));
const FRAME: usize = 4 * 1024 * 1024;

/// Bytes that compress about as vectors do: every fourth one is nearly constant.
fn vector_like(seed: u64, length: usize) -> Vec<u8> {
    let mut output = blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof();
    let mut bytes = vec![0; length];
    output.fill(&mut bytes);
    bytes.iter_mut().skip(3).step_by(4).for_each(|byte| *byte = 0x3c | (*byte & 3));
    bytes
}

/// Bytes that compress about as the text in a database does.
fn text_like(seed: u64, length: usize) -> Vec<u8> {
    let choices = vector_like(seed, length / 4);
    let words = choices.iter().flat_map(|choice| format!("word{:02x} ", choice & 0x3f).into_bytes());
    words.take(length).collect()
}

fn hash(criterion: &mut Criterion) {
    let chunk = vector_like(1, CHUNK_SIZE);
    let mut group = criterion.benchmark_group("hash");
    group.throughput(Throughput::Bytes(CHUNK_SIZE as u64));
    group.bench_function("one chunk", |bencher| bencher.iter(|| BlobId::of_chunk(&chunk)));
    group.finish();
}

fn compress(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("compress one frame");
    group.throughput(Throughput::Bytes(FRAME as u64)).sample_size(10);
    for (name, frame) in [("vectors", vector_like(1, FRAME)), ("text", text_like(1, FRAME))] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| compress_frame(frame.clone(), vecsnap::chunk::compress::Thoroughness::Bulk))
        });
    }
    group.finish();
}

fn put_and_get(criterion: &mut Criterion) {
    const CHUNKS: usize = 256;
    let content = vector_like(2, CHUNKS * CHUNK_SIZE);
    let mut group = criterion.benchmark_group("blobs");
    group.throughput(Throughput::Bytes(content.len() as u64)).sample_size(10);
    let put = |repository: &Repository| -> Vec<BlobId> {
        let mut writer =
            BlobWriter::begin(repository, MetadataRecords::Whole, vecsnap::chunk::compress::Thoroughness::Thorough)
                .unwrap();
        let ids = content.chunks(CHUNK_SIZE).map(|chunk| writer.put_chunk(chunk).unwrap()).collect();
        writer.finish().unwrap();
        ids
    };
    let fresh = || {
        let directory = tempfile::tempdir().unwrap();
        let repository = Repository::open_or_create(directory.path(), WAIT).unwrap();
        (repository, directory)
    };
    group.bench_function("put, new", |bencher| {
        bencher.iter_batched(fresh, |(repository, directory)| (put(&repository), directory), BatchSize::PerIteration);
    });
    let (repository, directory) = fresh();
    let ids = put(&repository);
    group.bench_function("put, known", |bencher| bencher.iter(|| put(&repository)));
    drop(repository);
    let repository = Repository::open(directory.path(), Access::Read, WAIT).unwrap().unwrap();
    group.bench_function("get, with empty caches", |bencher| {
        bencher.iter(|| {
            let mut reader = BlobReader::new(&repository);
            ids.iter().map(|id| reader.chunk(id).unwrap().unwrap().len()).sum::<usize>()
        });
    });
    group.finish();
}

criterion_group!(benches, hash, compress, put_and_get);
criterion_main!(benches);
