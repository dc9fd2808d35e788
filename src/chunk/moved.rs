//! Finding content that moved: bytes of a new chunk that stand elsewhere, in the haystack.
//!
//! Windows of the haystack, sampled by content, are noted with their places; windows of the new bytes that are sampled
//! alike are looked up, and each hit is extended both ways. Page splits and `VACUUM` in SQLite, and whatever shifts,
//! cost little then. Invariants: a match has been compared byte by byte; memory is bounded, since the more is to be
//! noted, and is noted, the fewer windows are sampled; time is in proportion to both sides; what is found does not
//! depend on the order of noting.

use std::collections::HashMap;

use super::delta::Run;
use crate::format::limits::CHUNK_SIZE;

/// Bytes that a fingerprint covers; nothing shorter is found.
pub const WINDOW: usize = 32;
/// One window in two to the power of this is sampled at first where little is to be noted.
const DENSE: u32 = 2;
/// The same where much is to be noted.
const SPARSE: u32 = 6;
/// Windows that are noted at first are about so many, or fewer.
const NOTED_AT_FIRST: usize = 1 << 18;
/// Windows noted at most; at one more, only every other one stays. They take 9 bytes each in a table with 2^21 places,
/// which would double if there were yet another one.
const NOTED: usize = (1 << 21) / 8 * 7 - 1;
/// A match of so many bytes is long enough for no better one to be looked for at its place.
const LONG: usize = 512;
/// Matches at the end of those found that a further hit may be part of.
const LOOK_BACK: usize = 8;

/// A stretch of new bytes that stands in the haystack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Match {
    /// Where it begins and how long it is, in the new chunk.
    pub run: Run,
    /// Number of the chunk of the haystack.
    pub chunk: u32,
    /// Where it begins in that chunk, in bytes.
    pub offset: u32,
}

/// Where a window of the haystack begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct WindowPlace {
    /// Number of its chunk.
    pub chunk: u16,
    /// Byte in that chunk.
    pub offset: u16,
}

/// A stretch of one chunk of the haystack.
#[derive(Debug, Clone, Copy)]
pub struct Stretch<'a> {
    /// Where it begins in its chunk, in bytes.
    pub start: usize,
    /// Its bytes.
    pub bytes: &'a [u8],
}

/// What can be searched.
pub trait StretchSource {
    /// The stretch that holds this place, if it can be read.
    fn stretch(&mut self, place: WindowPlace) -> Option<Stretch<'_>>;
}

/// A window that is sampled.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    fingerprint: u32,
    /// Where it begins in the bytes it was taken from.
    start: u32,
}

/// Which windows are sampled at first: small stores move pieces of 50 bytes, and noting all of those is cheap there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sampling {
    sparseness: u32,
}

impl Sampling {
    /// For a haystack of about so many bytes.
    pub fn of(bytes: usize) -> Self {
        let sparseness = bytes.div_ceil(NOTED_AT_FIRST).next_power_of_two().ilog2();
        Self { sparseness: sparseness.clamp(DENSE, SPARSE) }
    }

    /// The windows of these bytes that are sampled, from left to right.
    pub fn samples(self, bytes: &[u8]) -> Vec<Sample> {
        let mut samples = Vec::with_capacity(bytes.len() >> self.sparseness);
        let bytes = bytes.get(..CHUNK_SIZE).unwrap_or(bytes);
        sample(bytes, self.sparseness, |sample| samples.push(sample));
        samples
    }
}

/// Where the haystack holds which windows.
#[derive(Debug)]
pub struct Fingerprints {
    places: HashMap<u32, WindowPlace, PassThrough>,
    /// One window in two to the power of this is noted.
    sparseness: u32,
    limit: usize,
}

type PassThrough = std::hash::BuildHasherDefault<Fingerprint>;

/// Fingerprints are hashes already; the table needs only their sampled bits to differ.
#[derive(Debug, Default)]
struct Fingerprint(u64);

impl std::hash::Hasher for Fingerprint {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }
    fn write_u32(&mut self, fingerprint: u32) {
        self.0 = u64::from(fingerprint).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

impl Fingerprints {
    /// None so far; windows are sampled like this.
    pub fn new(sampling: Sampling) -> Self {
        Self { places: HashMap::default(), sparseness: sampling.sparseness, limit: NOTED }
    }

    /// Notes windows of a stretch that begins at this byte of this chunk. Of equal ones the first place counts.
    pub fn note(&mut self, chunk: u16, start: usize, samples: &[Sample]) {
        for Sample { fingerprint, start: within } in samples {
            if is_sampled(*fingerprint, self.sparseness) {
                let place = WindowPlace { chunk, offset: (start + *within as usize) as u16 };
                let known = self.places.entry(*fingerprint).or_insert(place);
                *known = place.min(*known);
                while self.places.len() > self.limit {
                    self.thin();
                }
            }
        }
    }

    /// Every other window goes. The table is filled anew: what is taken out of one leaves traces, at which it would
    /// grow.
    fn thin(&mut self) {
        self.sparseness += 1;
        let sampled = |(fingerprint, _): &(u32, WindowPlace)| is_sampled(*fingerprint, self.sparseness);
        let kept: Vec<_> = self.places.drain().filter(sampled).collect();
        self.places.extend(kept);
    }

    /// Whether there is nothing that could be found.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Looks for this run of a new chunk, except what `known` has of it already.
    pub fn search(&self, content: &[u8], run: Run, known: &[Match], haystack: &mut impl StretchSource) -> Vec<Match> {
        let mut found: Vec<Match> = Vec::new();
        let Some(literal) = content.get(run.start..run.end()) else { return found };
        sample(literal, self.sparseness, |Sample { fingerprint, start }| {
            let at = run.start + start as usize;
            let lies_in = |known: &Match| known.run.start <= at && at + WINDOW <= known.run.end();
            let Some(place) = self.places.get(&fingerprint) else { return };
            let is_part = |known: &Match| {
                let continues = known.offset as usize + at == usize::from(place.offset) + known.run.start;
                known.run.length >= LONG || (known.chunk == u32::from(place.chunk) && continues)
            };
            let mut lately = found.iter().rev().take(LOOK_BACK);
            if lately.any(|known| lies_in(known) && is_part(known)) || known.iter().any(lies_in) {
                return;
            }
            let Some(stretch) = haystack.stretch(*place) else { return };
            let Some(there) = usize::from(place.offset).checked_sub(stretch.start) else { return };
            if let Some(extended) = extend(literal, start as usize, stretch.bytes, there) {
                let (start, length) = (run.start + extended.run.start, extended.run.length);
                let offset = (stretch.start + extended.offset) as u32;
                found.push(Match { run: Run { start, length }, chunk: place.chunk.into(), offset });
            }
        });
        found
    }
}

/// Those of the candidates that overlap neither each other nor what is known, ascending, the longest first where they
/// did; those shorter than `least` bytes are left out.
pub fn choose(known: &[Match], mut candidates: Vec<Match>, least: usize) -> Vec<Match> {
    candidates.sort_by_key(|m| (std::cmp::Reverse(m.run.length), m.chunk, m.offset));
    let mut taken: Vec<Run> = known.iter().map(|known| known.run).collect();
    taken.sort_by_key(|run| run.start);
    let mut chosen = Vec::new();
    for Match { run, chunk, offset } in candidates {
        let place = taken.partition_point(|other| other.start < run.start);
        let free_from = place.checked_sub(1).and_then(|before| taken.get(before)).map_or(0, Run::end);
        let free_to = taken.get(place).map_or(usize::MAX, |run| run.start);
        let (start, end) = (run.start.max(free_from), run.end().min(free_to));
        if start + least <= end {
            let free = Run { start, length: end - start };
            taken.insert(place, free);
            chosen.push(Match { run: free, chunk, offset: offset + (start - run.start) as u32 });
        }
    }
    chosen.sort_by_key(|chosen| chosen.run.start);
    chosen
}

/// An equal stretch, in the literal, and where it begins in the haystack.
struct Extended {
    run: Run,
    offset: usize,
}

/// The longest equal stretch around one pair of windows; `None` if the windows differ after all.
fn extend(literal: &[u8], at: usize, haystack: &[u8], found: usize) -> Option<Extended> {
    let (before_literal, from_literal) = literal.split_at_checked(at)?;
    let (before_haystack, from_haystack) = haystack.split_at_checked(found)?;
    let forward = from_literal.iter().zip(from_haystack).take_while(|(left, right)| left == right).count();
    if forward < WINDOW {
        return None;
    }
    let backward = before_literal.iter().rev().zip(before_haystack.iter().rev());
    let backward = backward.take_while(|(left, right)| left == right).count();
    let run = Run { start: at - backward, length: backward + forward };
    Some(Extended { run, offset: found - backward })
}

/// Calls `take` with each sampled window, from left to right.
fn sample(bytes: &[u8], sparseness: u32, mut take: impl FnMut(Sample)) {
    let Some((first, entering)) = bytes.split_at_checked(WINDOW - 1) else { return };
    let mut rolling = first.iter().fold(0, |rolling, byte| roll(rolling, *byte));
    for (start, entering) in (0..).zip(entering) {
        rolling = roll(rolling, *entering);
        let fingerprint = (rolling >> 32) as u32;
        if is_sampled(fingerprint, sparseness) {
            take(Sample { fingerprint, start });
        }
    }
}

/// The hash of the window after a byte has entered: two bits further, so that the byte 32 places before has left.
fn roll(rolling: u64, entering: u8) -> u64 {
    (rolling << 2).wrapping_add(word(entering))
}

/// The uppermost bits decide: only these have seen the whole window.
fn is_sampled(fingerprint: u32, sparseness: u32) -> bool {
    fingerprint.leading_zeros() >= sparseness
}

/// A fixed random word for each byte value.
fn word(byte: u8) -> u64 {
    static WORDS: [u64; 256] = words();
    WORDS.get(usize::from(byte)).copied().unwrap_or_default()
}

/// The first 256 words of splitmix64.
const fn words() -> [u64; 256] {
    let mut words = [0; 256];
    let mut state = 0x6a09_e667_f3bc_c908_u64;
    let mut number = 0;
    while number < 256 {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        #[expect(clippy::indexing_slicing, reason = "a constant expression; out of bounds would not compile")]
        {
            words[number] = word ^ (word >> 31);
        }
        number += 1;
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(seed: u8, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes);
        bytes
    }

    struct Chunks<'a>(&'a [&'a [u8]]);

    impl StretchSource for Chunks<'_> {
        fn stretch(&mut self, place: WindowPlace) -> Option<Stretch<'_>> {
            Some(Stretch { start: 0, bytes: self.0[usize::from(place.chunk)] })
        }
    }

    const SAMPLING: Sampling = Sampling { sparseness: SPARSE };

    fn noted(fingerprints: &mut Fingerprints, chunks: &[&[u8]]) {
        for (number, chunk) in (0..).zip(chunks) {
            fingerprints.note(number, 0, &SAMPLING.samples(chunk));
        }
    }

    fn search(content: &[u8], run: Run, known: &[Match], chunks: &[&[u8]]) -> Vec<Match> {
        let mut fingerprints = Fingerprints::new(SAMPLING);
        noted(&mut fingerprints, chunks);
        choose(known, fingerprints.search(content, run, known, &mut Chunks(chunks)), 32)
    }

    fn all(content: &[u8]) -> Run {
        Run { start: 0, length: content.len() }
    }

    #[test]
    fn the_table_never_grows_beyond_its_places() {
        let mut table = Fingerprints::new(Sampling { sparseness: 0 });
        let places = NOTED + 1;
        // Different ones, spread over all places: multiplied by an odd number.
        let fingerprint = |number: u32| number.wrapping_mul(0x9e37_79b1);
        let samples: Vec<_> =
            (0..8 * places as u32).map(|number| Sample { fingerprint: fingerprint(number), start: 0 }).collect();
        table.note(0, 0, &samples);
        assert!(table.sparseness > 2, "{} were noted", table.places.len());
        assert!(table.places.len() <= NOTED && table.places.capacity() <= places, "{}", table.places.capacity());
    }

    #[test]
    fn a_page_that_moved_is_found_whole_at_any_alignment() {
        let page = noise(1, 4096);
        let content = [noise(3, 77), page.clone(), noise(4, 10)].concat();
        let haystack = [noise(5, 1234), page, noise(6, 999)].concat();
        let chunks: [&[u8]; 2] = [&noise(7, 65_536), &haystack];
        let expected = Match { run: Run { start: 77, length: 4096 }, chunk: 1, offset: 1234 };
        assert_eq!(search(&content, all(&content), &[], &chunks), [expected]);
        let part = Match { run: Run { start: 1000, length: 3173 }, chunk: 1, offset: 2157 };
        assert_eq!(search(&content, Run { start: 1000, length: 3183 }, &[], &chunks), [part]);
        assert_eq!(search(&content, all(&content), &[expected], &chunks), [], "it is known");
        assert_eq!(search(&noise(8, 4000), Run { start: 0, length: 4000 }, &[], &chunks), []);
    }

    #[test]
    fn what_stands_twice_is_found_for_both() {
        let page = noise(1, 4096);
        let content = [page.clone(), noise(2, 100), page.clone()].concat();
        let found = search(&content, all(&content), &[], &[&page]);
        let expected = |start| Match { run: Run { start, length: 4096 }, chunk: 0, offset: 0 };
        assert_eq!(found, [expected(0), expected(4196)]);
    }

    #[test]
    fn overlapping_matches_are_cut_and_the_longest_wins() {
        let text = noise(1, 3000);
        let found = search(&text, all(&text), &[], &[&text[..2000], &text[1500..]]);
        assert_eq!(found.iter().map(|m| m.run.length).sum::<usize>(), 3000);
        assert_eq!(found[0].run, Run { start: 0, length: 2000 });
        assert_eq!((found[1].run.start, found[1].offset), (2000, 500));
        let at = |start, length, offset| Match { run: Run { start, length }, chunk: 7, offset };
        let chosen = choose(&[at(100, 50, 0)], vec![at(0, 400, 1000), at(120, 400, 2000)], 32);
        assert_eq!(chosen, [at(0, 100, 1000), at(150, 370, 2030)], "what is known stays");
    }

    #[test]
    fn however_much_is_noted_in_whatever_order_the_table_is_bounded_and_long_stretches_are_found() {
        let chunks: Vec<Vec<u8>> = (0..100).map(|seed| noise(seed, CHUNK_SIZE)).collect();
        let mut tables = [1, 2].map(|_| Fingerprints { limit: 10_000, ..Fingerprints::new(SAMPLING) });
        for number in 0..100_u16 {
            for (table, number) in tables.iter_mut().zip([number, 99 - number]) {
                table.note(number, 0, &SAMPLING.samples(&chunks[usize::from(number)]));
                assert!(table.places.len() <= 10_000);
            }
        }
        let [table, backwards] = &tables;
        assert!(table.sparseness > SPARSE && table.places == backwards.places);
        let slices: Vec<&[u8]> = chunks.iter().map(Vec::as_slice).collect();
        for number in 0..100_u32 {
            let content = &chunks[number as usize][20_000..36_000];
            let found = choose(&[], table.search(content, all(content), &[], &mut Chunks(&slices)), 32);
            assert_eq!(found, [Match { run: all(content), chunk: number, offset: 20_000 }]);
        }
    }

    #[test]
    fn pieces_of_fifty_bytes_are_found_in_a_small_haystack() {
        let pieces: Vec<Vec<u8>> = (0..200).map(|seed| noise(seed, 50)).collect();
        let haystack = pieces.concat();
        // The same pieces in another order: 77 and 200 have no common divisor.
        let content: Vec<u8> = (0..200).flat_map(|number| pieces[number * 77 % 200].clone()).collect();
        let found_with = |sampling: Sampling| {
            let mut fingerprints = Fingerprints::new(sampling);
            fingerprints.note(0, 0, &sampling.samples(&haystack));
            let found = fingerprints.search(&content, all(&content), &[], &mut Chunks(&[&haystack]));
            choose(&[], found, 32).iter().map(|found| found.run.length).sum::<usize>()
        };
        assert!(found_with(Sampling::of(haystack.len())) > content.len() * 9 / 10);
        assert!(found_with(SAMPLING) < content.len() / 2, "the difference that it makes");
        assert_eq!(Sampling::of(usize::MAX), SAMPLING);
    }

    #[test]
    fn runs_of_one_byte_do_not_flood_the_table() {
        let zeros = vec![0; CHUNK_SIZE];
        let mut fingerprints = Fingerprints::new(SAMPLING);
        noted(&mut fingerprints, &[&zeros]);
        assert!(fingerprints.places.len() <= 1);
        assert!(search(&zeros, all(&zeros), &[], &[&zeros]).len() <= 1);
    }
}
