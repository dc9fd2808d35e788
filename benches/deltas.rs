//! The two steps of a delta: comparing at equal offsets, and looking for content that moved.
//!
//! `cargo bench --bench deltas`; figures in docs/benchmarks.md.

#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, reason = "a bench that cannot go on has failed")]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use vecsnap::chunk::delta::{Encoder, differences};
use vecsnap::chunk::moved::Needles;
use vecsnap::format::limits::CHUNK_SIZE;

/// Chunks of the previous version.
const CHUNKS: usize = 256;
/// Bytes of a record of an HNSW file, whose first bytes are links.
const RECORD: usize = 1_676;
const PAGE: usize = 4_096;

fn noise(seed: &str, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(seed.as_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// The chunk after some links of one record in ten changed.
fn with_edited_links(chunk: &[u8]) -> Vec<u8> {
    let mut edited = chunk.to_vec();
    for record in edited.chunks_mut(RECORD).step_by(10).filter(|record| record.len() > 64) {
        record[60..64].iter_mut().for_each(|byte| *byte ^= 0x55);
    }
    edited
}

fn in_place(criterion: &mut Criterion) {
    let old = noise("old", CHUNK_SIZE);
    let new = with_edited_links(&old);
    let mut group = criterion.benchmark_group("step 1, equal offsets");
    group.throughput(Throughput::Bytes(CHUNK_SIZE as u64));
    group.bench_function("compare one chunk with edited links", |bencher| bencher.iter(|| differences(&old, &new)));
    let runs = differences(&old, &new);
    group.bench_function("encode its delta", |bencher| {
        bencher.iter(|| {
            let mut encoder = Encoder::default();
            for run in &runs {
                let at = encoder.written();
                encoder.copy(0, at as u32, (run.start - at) as u32);
                encoder.literal(&new[run.start..run.end()]);
            }
            encoder.copy(0, encoder.written() as u32, (new.len() - encoder.written()) as u32);
            encoder.finish()
        });
    });
    group.finish();
}

fn moved(criterion: &mut Criterion) {
    let haystack = noise("haystack", CHUNKS * CHUNK_SIZE);
    // Pages that stand elsewhere in the haystack, as after a split or VACUUM: 1 % of it.
    let moved: Vec<&[u8]> = (0..CHUNKS * CHUNK_SIZE / PAGE / 100)
        .map(|number| {
            let at = number * 7_919 * 64 % (haystack.len() - PAGE);
            &haystack[at..at + PAGE]
        })
        .collect();
    let needles = || {
        let mut needles = Needles::default();
        moved.iter().for_each(|literal| needles.add(literal));
        needles
    };
    let mut group = criterion.benchmark_group("step 2, moved content");
    group.sample_size(20);
    group.throughput(Throughput::Bytes((moved.len() * PAGE) as u64));
    group.bench_function("take needles", |bencher| bencher.iter(needles));
    group.throughput(Throughput::Bytes(haystack.len() as u64));
    group.bench_function("search the haystack", |bencher| {
        let needles = needles();
        bencher.iter(|| haystack.chunks(CHUNK_SIZE).map(|chunk| needles.search(chunk).len()).sum::<usize>());
    });
    group.finish();
}

criterion_group!(benches, in_place, moved);
criterion_main!(benches);
