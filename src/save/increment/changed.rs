//! A chunk that changed, between being found and being stored.
//!
//! Invariant: it holds no content. Thousands of them wait at a time, and the content is read again when it is needed;
//! that it is still the same is proven by its id before anything of it is stored.

use super::delta_record::OwnBase;
use crate::chunk::delta::Run;
use crate::chunk::moved::{Match, WINDOW};
use crate::id::BlobId;

/// A chunk whose differences are all shorter than this many bytes is not worth a search, neither for what came nor for
/// what went.
pub(super) const SOUGHT: usize = 64;

/// A chunk that differs from the one that stood at its place.
pub(super) struct Changed {
    pub(super) id: BlobId,
    pub(super) slot: u64,
    pub(super) against: Against,
    /// Where it differs from its base; all of it where it has none.
    pub(super) differences: Differences,
    /// What was found elsewhere of these: ascending, without overlaps, each one in one of them.
    pub(super) matches: Vec<Match>,
}

/// What a changed chunk is stored against.
#[derive(Debug, Clone, Copy)]
pub(super) enum Against {
    /// Nothing: a whole record is due, or what it could build upon cannot be read.
    Nothing,
    /// What stood at its place, or content from elsewhere alone if nothing did.
    Previous(Option<OwnBase>),
}

impl Changed {
    pub(super) fn new(id: BlobId, slot: u64) -> Self {
        Self { id, slot, against: Against::Nothing, differences: Differences::default(), matches: Vec::new() }
    }

    /// Bytes of the differences that were found nowhere so far; none if all are too short to be looked for.
    pub(super) fn missing(&self) -> usize {
        let found: usize = self.matches.iter().map(|found| found.run.length).sum();
        if self.is_sought() { self.differences.bytes().saturating_sub(found) } else { 0 }
    }

    /// The differences that were not found as a whole, if any is worth a search.
    pub(super) fn sought(&self) -> Vec<Run> {
        let found = |run: &Run| self.matches.iter().any(|found| found.run == *run);
        let runs = self.differences.runs().filter(|run| run.length >= WINDOW && !found(run));
        if self.is_sought() { runs.collect() } else { Vec::new() }
    }

    /// Whether it is worth a search.
    fn is_sought(&self) -> bool {
        self.differences.runs().any(|run| run.length >= SOUGHT)
    }
}

/// Runs of one chunk in four bytes each.
#[derive(Debug, Default)]
pub(super) struct Differences(Box<[(u16, u16)]>);

impl Differences {
    /// Of these runs, which lie in one chunk.
    pub(super) fn of(runs: &[Run]) -> Self {
        // A chunk has 2^16 bytes, so the first and the last one of a run fit.
        Self(runs.iter().map(|run| (run.start as u16, (run.end() - 1) as u16)).collect())
    }

    /// The runs.
    pub(super) fn runs(&self) -> impl Iterator<Item = Run> {
        let run = |&(first, last): &(u16, u16)| Run {
            start: usize::from(first),
            length: usize::from(last).saturating_sub(usize::from(first)) + 1,
        };
        self.0.iter().map(run)
    }

    /// What lies between the runs in a chunk of this length.
    pub(super) fn equal_runs(&self, length: usize) -> Vec<Run> {
        let mut equal = Vec::with_capacity(self.0.len() + 1);
        let mut start = 0;
        for Run { start: end, length: different } in self.runs().chain([Run { start: length, length: 0 }]) {
            if end > start {
                equal.push(Run { start, length: end - start });
            }
            start = end + different;
        }
        equal
    }

    /// Bytes in all runs.
    pub(super) fn bytes(&self) -> usize {
        self.runs().map(|run| run.length).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_come_back_as_they_were() {
        let runs = [Run { start: 0, length: 1 }, Run { start: 700, length: 64_835 }, Run { start: 65_535, length: 1 }];
        let differences = Differences::of(&runs);
        assert_eq!(differences.runs().collect::<Vec<_>>(), runs);
        assert_eq!(differences.bytes(), 64_837);
        assert_eq!(Differences::of(&[Run { start: 0, length: 65_536 }]).bytes(), 65_536);
        assert_eq!(Differences::default().bytes(), 0);
    }

    #[test]
    fn what_lies_between_the_runs_stayed() {
        let run = |start, length| Run { start, length };
        let equal = |runs: &[Run], length| Differences::of(runs).equal_runs(length);
        assert_eq!(equal(&[run(10, 5), run(90, 10)], 100), [run(0, 10), run(15, 75)]);
        assert_eq!(equal(&[run(0, 7)], 100), [run(7, 93)]);
        assert_eq!(equal(&[], 100), [run(0, 100)]);
        assert_eq!(equal(&[run(0, 100)], 100), []);
    }

    #[test]
    fn what_is_short_or_found_is_sought_no_more() {
        let run = |start, length| Run { start, length };
        let mut changed = Changed::new(BlobId::of_chunk(b"new"), 0);
        changed.differences = Differences::of(&[run(0, 20), run(100, 40), run(200, 60)]);
        assert_eq!((changed.sought(), changed.missing()), (vec![], 0), "all are short");
        changed.differences = Differences::of(&[run(0, 20), run(100, 40), run(200, 600)]);
        assert_eq!((changed.sought(), changed.missing()), (vec![run(100, 40), run(200, 600)], 660));
        changed.matches =
            vec![Match { run: run(100, 40), chunk: 1, offset: 0 }, Match { run: run(300, 500), chunk: 1, offset: 0 }];
        assert_eq!((changed.sought(), changed.missing()), (vec![run(200, 600)], 120));
    }
}
