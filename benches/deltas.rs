//! The two steps of a delta: comparing at equal offsets, and looking for content that moved.
//!
//! `cargo bench --bench deltas`; figures in docs/benchmarks.md.

#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, reason = "a bench that cannot go on has failed")]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use vecsnap::chunk::delta::{Encoder, Run, differences};
use vecsnap::chunk::moved::{Fingerprints, Sampling, Stretch, StretchSource, WindowPlace, choose};
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
    // A chunk of pages that stand elsewhere in the haystack, as after a split or VACUUM.
    let moved: Vec<u8> = (0..CHUNK_SIZE / PAGE)
        .flat_map(|number| {
            let at = number * 7_919 * 64 % (haystack.len() - PAGE);
            haystack[at..at + PAGE].to_vec()
        })
        .collect();
    let note = || {
        let sampling = Sampling::of(haystack.len());
        let mut fingerprints = Fingerprints::new(sampling);
        for (number, chunk) in (0..).zip(haystack.chunks(CHUNK_SIZE)) {
            fingerprints.note(number, 0, &sampling.samples(chunk));
        }
        fingerprints
    };
    let mut group = criterion.benchmark_group("step 2, moved content");
    group.sample_size(20);
    group.throughput(Throughput::Bytes(haystack.len() as u64));
    group.bench_function("note the haystack", |bencher| bencher.iter(note));
    group.throughput(Throughput::Bytes(moved.len() as u64));
    group.bench_function("find the pages of a chunk", |bencher| {
        let (fingerprints, all) = (note(), Run { start: 0, length: moved.len() });
        bencher.iter(|| choose(&[], fingerprints.search(&moved, all, &[], &mut Chunks(&haystack)), 32).len());
    });
    group.finish();
}

struct Chunks<'a>(&'a [u8]);

impl StretchSource for Chunks<'_> {
    fn stretch(&mut self, place: WindowPlace) -> Option<Stretch<'_>> {
        let start = usize::from(place.chunk) * CHUNK_SIZE;
        self.0.get(start..start + CHUNK_SIZE).map(|bytes| Stretch { start: 0, bytes })
    }
}

criterion_group!(benches, in_place, moved);
criterion_main!(benches);
