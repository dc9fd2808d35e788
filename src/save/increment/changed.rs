//! A chunk that changed, between being found and being stored.
//!
//! Invariants: it holds no content. Thousands of them wait at a time, and the content is read again when it is needed;
//! that it is still the same is proven by its id before anything of it is stored. Matches lie in differences: what was
//! found elsewhere beyond them, since all shifted by the length of an entry, counts as different from then on.

use super::delta_record::OwnBase;
use crate::chunk::delta::Run;
use crate::chunk::moved::{Match, WINDOW};
use crate::format::limits::CHUNK_SIZE;
use crate::id::BlobId;

/// A chunk whose differences are all shorter than this many bytes is not worth a search, neither for what came nor for
/// what went.
pub(super) const SOUGHT: usize = 64;

/// Bytes in which short runs are counted.
const STRETCH: usize = 1024;
/// Where one byte in this many differs in short runs, content may have shifted.
const DENSE: usize = 8;

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

    /// Where to look for what was not found as a whole, if any of it is worth a search.
    pub(super) fn sought(&self) -> Vec<Run> {
        let found = |run: &Run| self.matches.iter().any(|found| found.run == *run);
        let runs = self.differences.sought().filter(|run| run.length >= WINDOW && !found(run));
        if self.is_sought() { runs.collect() } else { Vec::new() }
    }

    /// Takes what was found elsewhere of what was sought, without overlaps with what is known.
    pub(super) fn take(&mut self, found: Vec<Match>) {
        self.matches.extend(found.into_iter().filter(|found| self.differences.are_worth(found.run)));
        self.matches.sort_by_key(|found| found.run.start);
        self.differences.include(self.matches.iter().map(|found| found.run));
    }

    /// Whether it is worth a search.
    fn is_sought(&self) -> bool {
        self.differences.sought().any(|run| run.length >= SOUGHT)
    }
}

/// Where a chunk differs from its base.
#[derive(Debug, Default)]
pub(super) struct Differences {
    runs: Runs,
    /// Where to look for them, if that is somewhere else.
    sought: Option<Runs>,
}

/// Runs of one chunk in four bytes each.
#[derive(Debug, Default, PartialEq, Eq)]
struct Runs(Box<[(u16, u16)]>);

impl Runs {
    /// Of these, which lie in one chunk.
    fn of(runs: impl Iterator<Item = Run>) -> Self {
        // A chunk has 2^16 bytes, so the first and the last one of a run fit.
        Self(runs.map(|run| (run.start as u16, (run.end() - 1) as u16)).collect())
    }

    fn iter(&self) -> impl Iterator<Item = Run> {
        let run = |&(first, last): &(u16, u16)| Run {
            start: usize::from(first),
            length: usize::from(last).saturating_sub(usize::from(first)) + 1,
        };
        self.0.iter().map(run)
    }

    /// The runs from the first one on that ends behind this byte.
    fn behind(&self, start: usize) -> impl Iterator<Item = Run> {
        let first = self.0.partition_point(|&(_, last)| usize::from(last) < start);
        self.iter().skip(first)
    }
}

impl Differences {
    /// Of these runs, which lie in one chunk.
    pub(super) fn of(runs: &[Run]) -> Self {
        let sought = shifted(runs).map(|runs| Runs::of(runs.into_iter()));
        Self { runs: Runs::of(runs.iter().copied()), sought }
    }

    /// The runs.
    pub(super) fn runs(&self) -> impl Iterator<Item = Run> {
        self.runs.iter()
    }

    /// Where to look for them: the same, but with whole stretches in which much differs in short runs.
    pub(super) fn sought(&self) -> impl Iterator<Item = Run> {
        self.sought.as_ref().unwrap_or(&self.runs).iter()
    }

    /// Whether a run that was found elsewhere gives enough: all of it, or so many bytes that it makes up for those in
    /// it that stayed at their places.
    fn are_worth(&self, found: Run) -> bool {
        let overlap = |run: Run| run.end().min(found.end()).saturating_sub(run.start.max(found.start));
        let given = self.runs.behind(found.start).take_while(|run| run.start < found.end()).map(overlap).sum::<usize>();
        given == found.length || given >= SOUGHT
    }

    /// Counts these runs, which ascend, as different, too.
    fn include(&mut self, found: impl Iterator<Item = Run>) {
        if self.sought.is_none() {
            return;
        }
        let mut runs: Vec<Run> = self.runs.iter().chain(found).collect();
        runs.sort_by_key(|run| run.start);
        runs.dedup_by(|next, last| {
            let joined = next.start <= last.end();
            if joined {
                last.length = last.length.max(next.end() - last.start);
            }
            joined
        });
        self.runs = Runs::of(runs.into_iter());
    }

    /// What lies between the runs in a chunk of this length.
    pub(super) fn equal_runs(&self, length: usize) -> Vec<Run> {
        let mut equal = Vec::with_capacity(self.runs.0.len() + 1);
        let mut start = 0;
        for Run { start: end, length: different } in self.runs.iter().chain([Run { start: length, length: 0 }]) {
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

/// The runs with those joined between which little stays: where entries of one length moved on by one of them, what
/// frames them seems to have stayed, and all else to have changed in places too short to be looked for. `None` where
/// nothing looks like that.
fn shifted(runs: &[Run]) -> Option<Vec<Run>> {
    let mut scattered = [0; CHUNK_SIZE / STRETCH];
    for run in runs.iter().filter(|run| run.length < SOUGHT) {
        if let Some(bytes) = scattered.get_mut(run.start / STRETCH) {
            *bytes += run.length;
        }
    }
    let is_dense = |run: &Run| scattered.get(run.start / STRETCH).is_some_and(|bytes| *bytes >= STRETCH / DENSE);
    runs.iter().any(is_dense).then(|| {
        let mut joined: Vec<Run> = Vec::new();
        for run in runs {
            match joined.last_mut() {
                Some(last) if is_dense(run) && run.start - last.end() < STRETCH / DENSE => {
                    last.length = run.end() - last.start;
                }
                _ => joined.push(*run),
            }
        }
        joined
    })
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
    fn where_much_differs_in_short_runs_the_whole_stretch_is_sought() {
        let run = |start, length| Run { start, length };
        // 8 bytes of 22 differ, from 5120 to 9000; a few elsewhere, and something long beside it.
        let dense = (5120..9000).step_by(22).map(|start| run(start, 8));
        let runs: Vec<Run> = [run(10, 8), run(40, 8)].into_iter().chain(dense).chain([run(30_000, 500)]).collect();
        let mut changed = Changed::new(BlobId::of_chunk(b"new"), 0);
        changed.differences = Differences::of(&runs);
        let end = runs[runs.len() - 2].end();
        assert_eq!(changed.sought(), [run(5120, end - 5120), run(30_000, 500)]);
        assert_eq!(Differences::of(&[run(10, 8), run(40, 8), run(30_000, 500)]).sought, None);
        // What is found takes the place of what stayed in it, unless it gives too little.
        let found = |run| Match { run, chunk: 1, offset: 0 };
        changed.take(vec![found(run(5300, 100)), found(run(6000, 2000)), found(run(30_100, 40))]);
        assert_eq!(changed.matches, [found(run(6000, 2000)), found(run(30_100, 40))]);
        let differing: Vec<Run> = changed.differences.runs().collect();
        assert!(differing.contains(&run(30_000, 500)) && differing.contains(&run(10, 8)));
        let around = differing.iter().find(|run| run.start <= 6000 && 8000 <= run.end()).unwrap();
        assert!(around.length < 2000 + 2 * 22, "{around:?}");
        let equal = changed.differences.equal_runs(65_536);
        assert!(equal.iter().all(|equal| equal.end() <= 6000 || 8000 <= equal.start));
        assert_eq!(equal.iter().map(|run| run.length).sum::<usize>() + changed.differences.bytes(), 65_536);
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
