//! Finding content that moved: literals of changed chunks that stand elsewhere in the previous version.
//!
//! Fingerprints of the literals, sampled by content, are the needles; one pass over the previous version, the haystack,
//! with the same rolling hash finds them again wherever they went, and each hit is extended both ways. Page splits and
//! `VACUUM` in SQLite, and whatever shifts, cost little then. Invariants: a match has been compared byte by byte; memory is
//! in proportion to the literals, not to the haystack; needles can be searched for by many threads at a time.

use std::collections::HashMap;

use super::delta::Run;

/// Bytes that a fingerprint covers.
const WINDOW: usize = 32;
/// One position in 32 is sampled.
const SAMPLE_MASK: u64 = 31;
/// Matches of one chunk that a further hit may be part of.
const LOOK_BACK: usize = 8;
/// Matches remembered for one literal; the longest stay.
const MATCHES: usize = 128;

/// A stretch of a literal that stands in the haystack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Match {
    /// Where it begins and how long it is, in the literal.
    pub run: Run,
    /// Number of the chunk of the haystack, as given to [`Matches::note`].
    pub chunk: u32,
    /// Where it begins in that chunk, in bytes.
    pub offset: u32,
}

/// Literals to be found in a haystack.
#[derive(Debug, Default)]
pub struct Needles {
    bytes: Vec<u8>,
    /// Where each literal stands in `bytes`.
    literals: Vec<Run>,
    fingerprints: HashMap<u64, u32, PassThrough>,
    filter: Filter,
}

/// What a search found of one literal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// Number of the literal.
    pub literal: usize,
    /// Where it begins and how long it is, in the literal.
    pub run: Run,
    /// Where it begins in the bytes that were searched.
    pub offset: u32,
}

/// Most fingerprints of the haystack belong to no needle; a bit for each hash tells that without a look at the table.
#[derive(Debug, Default)]
struct Filter(Vec<u64>);

impl Filter {
    /// Words; 256 KiB stay in the cache of one core.
    const WORDS: usize = 1 << 15;

    fn place(fingerprint: u64) -> (usize, u64) {
        let bit = (fingerprint >> 16) as usize % (Self::WORDS * 64);
        (bit / 64, 1 << (bit % 64))
    }

    fn add(&mut self, fingerprint: u64) {
        self.0.resize(Self::WORDS, 0);
        let (word, bit) = Self::place(fingerprint);
        if let Some(word) = self.0.get_mut(word) {
            *word |= bit;
        }
    }

    fn may_contain(&self, fingerprint: u64) -> bool {
        let (word, bit) = Self::place(fingerprint);
        self.0.get(word).is_some_and(|word| word & bit != 0)
    }
}

type PassThrough = std::hash::BuildHasherDefault<Fingerprint>;

/// Fingerprints are hashes already.
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
    fn write_u64(&mut self, fingerprint: u64) {
        self.0 = fingerprint.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

impl Needles {
    /// Adds a literal; they are numbered in the order in which they are added.
    pub fn add(&mut self, literal: &[u8]) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(literal);
        sample(literal, |sampled| {
            self.filter.add(sampled.fingerprint);
            self.fingerprints.entry(sampled.fingerprint).or_insert((start + sampled.start) as u32);
        });
        self.literals.push(Run { start, length: literal.len() });
    }

    /// How many literals there are.
    pub fn count(&self) -> usize {
        self.literals.len()
    }

    /// Bytes of all literals.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there is nothing that could be found.
    pub fn is_empty(&self) -> bool {
        self.fingerprints.is_empty()
    }

    /// The literal with this number.
    pub fn literal(&self, number: usize) -> &[u8] {
        self.literals.get(number).and_then(|run| self.bytes.get(run.start..run.end())).unwrap_or_default()
    }

    /// Where the bytes of a literal lie among those of all.
    fn span(&self, number: usize, run: &Run) -> std::ops::Range<usize> {
        let start = self.literals.get(number).map_or(0, |literal| literal.start) + run.start;
        start..(start + run.length).min(self.bytes.len())
    }

    /// Looks for the literals in a chunk of the haystack, from left to right.
    pub fn search(&self, haystack: &[u8]) -> Vec<Found> {
        let mut found: Vec<Found> = Vec::new();
        sample(haystack, |sampled| {
            if !self.filter.may_contain(sampled.fingerprint) {
                return;
            }
            let Some(&at) = self.fingerprints.get(&sampled.fingerprint) else { return };
            let at = at as usize;
            let literal = self.literals.partition_point(|literal| literal.end() <= at);
            let Some(at) = self.literals.get(literal).and_then(|run| at.checked_sub(run.start)) else { return };
            let covers = |known: &Found| {
                let shifted = known.offset as usize + at == sampled.start + known.run.start;
                known.literal == literal && shifted && (known.run.start..known.run.end()).contains(&at)
            };
            if !found.iter().rev().take(LOOK_BACK).any(covers) {
                let extended = extend(self.literal(literal), at, haystack, sampled.start);
                found.extend(extended.map(|Extended { run, offset }| Found { literal, run, offset }));
            }
        });
        found
    }
}

/// What was found of each literal.
#[derive(Debug, Default)]
pub struct Matches(HashMap<usize, Vec<Match>>);

impl Matches {
    /// Notes what was found in a part of a chunk of the haystack, which begins at `start`.
    pub fn note(&mut self, chunk: u32, start: u32, found: &[Found]) {
        for Found { literal, run, offset } in found.iter().copied() {
            let matches = self.0.entry(literal).or_default();
            matches.push(Match { run, chunk, offset: start + offset });
            if matches.len() > MATCHES {
                matches.sort_by_key(|known| std::cmp::Reverse(known.run.length));
                matches.truncate(MATCHES / 2);
            }
        }
    }

    /// The matches of a literal that do not overlap, ascending; those shorter than `least` bytes are left out. Where they
    /// overlapped, the longest came first.
    pub fn of(&self, literal: usize, least: usize) -> Vec<Match> {
        let mut candidates = self.0.get(&literal).cloned().unwrap_or_default();
        candidates.sort_by_key(|m| (std::cmp::Reverse(m.run.length), m.chunk, m.offset));
        let mut chosen: Vec<Match> = Vec::new();
        for candidate in candidates {
            let place = chosen.partition_point(|other| other.run.start < candidate.run.start);
            let free_from = place.checked_sub(1).and_then(|before| chosen.get(before)).map_or(0, |m| m.run.end());
            let free_to = chosen.get(place).map_or(usize::MAX, |m| m.run.start);
            let start = candidate.run.start.max(free_from);
            let end = candidate.run.end().min(free_to);
            if start + least <= end {
                let offset = candidate.offset + (start - candidate.run.start) as u32;
                chosen.insert(place, Match { run: Run { start, length: end - start }, chunk: candidate.chunk, offset });
            }
        }
        chosen
    }
}

/// Which bytes of the literals were found somewhere.
#[derive(Debug)]
pub struct Coverage {
    covered: Vec<bool>,
    missing: usize,
}

impl Coverage {
    /// Of these literals, with what was found of them.
    pub fn of(needles: &Needles, matches: &Matches) -> Self {
        let mut coverage = Self { covered: vec![false; needles.bytes()], missing: needles.bytes() };
        for (literal, matches) in &matches.0 {
            for found in matches {
                coverage.cover(needles.span(*literal, &found.run));
            }
        }
        coverage
    }

    /// Bytes that were found nowhere.
    pub fn missing(&self) -> usize {
        self.missing
    }

    /// Adds what was found, and returns how many bytes of that had been missing.
    pub fn add(&mut self, needles: &Needles, found: &[Found]) -> usize {
        let before = self.missing;
        found.iter().for_each(|found| self.cover(needles.span(found.literal, &found.run)));
        before - self.missing
    }

    fn cover(&mut self, span: std::ops::Range<usize>) {
        for covered in self.covered.get_mut(span).unwrap_or_default() {
            self.missing -= usize::from(!*covered);
            *covered = true;
        }
    }
}

/// An equal stretch, in the literal, and where it begins in the haystack.
struct Extended {
    run: Run,
    offset: u32,
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
    Some(Extended { run, offset: (found - backward) as u32 })
}

/// A window whose fingerprint is sampled.
#[derive(Debug, Clone, Copy)]
struct Sampled {
    start: usize,
    fingerprint: u64,
}

/// Calls `take` with each sampled window, from left to right.
fn sample(bytes: &[u8], mut take: impl FnMut(Sampled)) {
    let Some((first, entering)) = bytes.split_at_checked(WINDOW) else { return };
    let mut fingerprint = first.iter().fold(0_u64, |fingerprint, byte| fingerprint.rotate_left(1) ^ entered(*byte));
    if is_sampled(fingerprint) {
        take(Sampled { start: 0, fingerprint });
    }
    for (start, (leaving, entering)) in (1..).zip(bytes.iter().zip(entering)) {
        fingerprint = fingerprint.rotate_left(1) ^ entered(*entering) ^ left(*leaving);
        if is_sampled(fingerprint) {
            take(Sampled { start, fingerprint });
        }
    }
}

/// All bits see all bytes of the window alike; a run of one byte has a constant fingerprint, mostly unsampled.
fn is_sampled(fingerprint: u64) -> bool {
    (fingerprint >> 7) & SAMPLE_MASK == 0
}

/// A fixed random word for each byte value.
fn entered(byte: u8) -> u64 {
    static WORDS: [u64; 256] = words(0);
    WORDS.get(usize::from(byte)).copied().unwrap_or_default()
}

/// What became of the word while its byte passed through the window.
fn left(byte: u8) -> u64 {
    static WORDS: [u64; 256] = words(WINDOW as u32);
    WORDS.get(usize::from(byte)).copied().unwrap_or_default()
}

/// The first 256 words of splitmix64, rotated.
const fn words(rotation: u32) -> [u64; 256] {
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
            words[number] = (word ^ (word >> 31)).rotate_left(rotation);
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

    fn search(needles: &Needles, chunks: &[&[u8]]) -> Matches {
        let mut matches = Matches::default();
        for (number, chunk) in (0..).zip(chunks) {
            matches.note(number, 0, &needles.search(chunk));
        }
        matches
    }

    #[test]
    fn a_page_that_moved_is_found_whole_at_any_alignment() {
        let page = noise(1, 4096);
        let mut needles = Needles::default();
        needles.add(&noise(2, 500));
        needles.add(&[noise(3, 77), page.clone(), noise(4, 10)].concat());
        assert!(!needles.is_empty());
        let haystack = [noise(5, 1234), page, noise(6, 999)].concat();
        let matches = search(&needles, &[&noise(7, 65_536), &haystack]);
        let expected = Match { run: Run { start: 77, length: 4096 }, chunk: 1, offset: 1234 };
        assert_eq!(matches.of(1, 32), [expected]);
        assert_eq!(matches.of(0, 32), []);
        assert_eq!(needles.literal(0), noise(2, 500));
    }

    #[test]
    fn what_is_found_twice_was_missing_once() {
        let text = noise(1, 1000);
        let mut needles = Needles::default();
        needles.add(&noise(2, 500));
        needles.add(&text);
        let mut matches = Matches::default();
        matches.note(0, 0, &needles.search(&text[..400]));
        let mut coverage = Coverage::of(&needles, &matches);
        assert_eq!(coverage.missing(), 1100);
        let found = needles.search(&text[300..700]);
        assert_eq!(coverage.add(&needles, &found), 300);
        assert_eq!(coverage.add(&needles, &found), 0);
        assert_eq!(coverage.missing(), 800);
    }

    #[test]
    fn overlapping_matches_are_cut_and_the_longest_wins() {
        let text = noise(1, 3000);
        let mut needles = Needles::default();
        needles.add(&text);
        let found = search(&needles, &[&text[..2000], &text[1500..]]).of(0, 32);
        assert_eq!(found.iter().map(|m| m.run.length).sum::<usize>(), 3000);
        assert_eq!(found[0].run, Run { start: 0, length: 2000 });
        assert_eq!((found[1].run.start, found[1].offset), (2000, 500));
    }

    #[test]
    fn runs_of_one_byte_do_not_flood_the_table() {
        let mut needles = Needles::default();
        needles.add(&vec![0; 65_536]);
        assert!(needles.fingerprints.len() <= 1);
        assert!(search(&needles, &[&vec![0; 65_536]]).of(0, 32).len() <= 1);
    }
}
