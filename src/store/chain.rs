//! The chain policy: which base the next version of a chunk gets.
//!
//! A chain is cheap to read while the frames that it visits fit the cache, but it must end, and where it is cut decides
//! what a snapshot costs: a whole record every n versions costs 64 KiB / n each, and a delta against a distant root
//! repeats every change since. So there are two levels of radix 32: a version is a delta against the one before, every
//! 32nd against the 32nd before it. That is at most twice the bytes and a depth of at most 63 over 1,024 versions; then
//! a whole record begins the chain anew. It is no part of the format, whose limits are wider (format-spec.md §12).

use crate::format::pack::BaseDistance;
use crate::id::BlobId;

/// Versions between the two ends of a long step.
const RADIX: u32 = 32;
/// Versions after which a whole record is due.
const GENERATIONS: u32 = RADIX * RADIX;
/// Greatest depth of a chain that a new delta may have.
const DEPTH: u32 = 96;
/// Most records that a new delta may need.
const RECORDS: u32 = 1000;
/// Most that it may need with bases beside its first one: the difference is left to the versions that follow, which
/// would have to be whole otherwise.
const RECORDS_BESIDE: u32 = 768;
/// Records that a chunk needs from which on others had better copy from those that hold its bytes.
const LONG: u32 = 32;
/// Most records that a new delta may need, shared ones counted once for each way to them: a reader that can keep
/// nothing, since disks are full, decodes so many, and gives up at 16,384.
const WAYS: u32 = 12_288;
/// Most that it may need with bases beside its first one, for the same reason.
const WAYS_BESIDE: u32 = 12_000;

/// What is known of the chain behind a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChainFacts {
    /// Deltas on the longest way to a whole record; 0 for a whole record.
    pub depth: u32,
    /// Distinct records needed, itself included, or more: shared ones may be counted several times.
    pub records: u32,
    /// Records needed, itself included, shared ones counted once for each way to them.
    pub ways: u32,
    /// Versions since the whole record, along first bases.
    generation: u32,
    /// The latest version, itself included, at which a long step ends.
    anchor: BlobId,
}

impl ChainFacts {
    /// Of a whole record.
    pub fn whole(id: BlobId) -> Self {
        Self { depth: 0, records: 1, ways: 1, generation: 0, anchor: id }
    }

    /// Of a blob that is to be a base beside the first one, for which versions do not count.
    pub fn beside(id: BlobId, depth: u32, records: u32, ways: u32) -> Self {
        Self { depth, records, ways, ..Self::whole(id) }
    }

    /// Of a delta with these bases.
    pub fn delta(id: BlobId, distance: BaseDistance, bases: &[Self]) -> Self {
        let depth = bases.iter().map(|base| base.depth + 1).max().unwrap_or(1);
        let sum = |of: fn(&Self) -> u32| bases.iter().fold(1_u32, |sum, base| sum.saturating_add(of(base)));
        let (records, ways) = (sum(|base| base.records), sum(|base| base.ways));
        let (generation, anchor) = match (bases.first(), distance) {
            (Some(first), BaseDistance::One) => (first.generation.saturating_add(1), first.anchor),
            (Some(first), BaseDistance::Stride) => (first.generation.saturating_add(RADIX), id),
            (None, _) => (1, id),
        };
        Self { depth, records, ways, generation, anchor }
    }

    /// The same with the records needed counted one by one.
    pub fn with_records(self, records: u32) -> Self {
        Self { records, ..self }
    }

    /// Whether so many records are needed that what copies from this one had better copy from those that hold its
    /// bytes.
    pub fn is_long(&self) -> bool {
        self.records > LONG
    }

    /// Whether a delta may have this one as its first base.
    fn may_go_on(&self) -> bool {
        self.depth < DEPTH && self.records < RECORDS && self.ways < WAYS
    }
}

/// What a new delta needs with the bases chosen for it so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Needs {
    records: u32,
    ways: u32,
}

/// Whether a delta may have a further base.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// It may, and that is counted.
    Admitted,
    /// Its chain would become too deep or too wide.
    Refused,
}

impl Needs {
    /// Of a delta with this first base, or with none.
    pub fn of(first: Option<&ChainFacts>) -> Self {
        first.map_or(Self { records: 1, ways: 1 }, |first| Self { records: first.records, ways: first.ways })
    }

    /// Asks for one base more.
    pub fn admit(&mut self, base: &ChainFacts) -> Admission {
        let (records, ways) = (self.records.saturating_add(base.records), self.ways.saturating_add(base.ways));
        if base.depth >= DEPTH || records >= RECORDS_BESIDE || ways >= WAYS_BESIDE {
            return Admission::Refused;
        }
        *self = Self { records, ways };
        Admission::Admitted
    }
}

/// What the next version of a chunk is stored against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BaseChoice {
    /// The version before.
    Previous,
    /// The version at the other end of a long step.
    Anchor(BlobId),
    /// Nothing: it is stored whole.
    Whole,
}

/// The base of the version that follows one with this chain.
pub fn choose_base(previous: &ChainFacts) -> BaseChoice {
    let generation = previous.generation.saturating_add(1);
    if generation >= GENERATIONS || !previous.may_go_on() {
        BaseChoice::Whole
    } else if generation.is_multiple_of(RADIX) {
        BaseChoice::Anchor(previous.anchor)
    } else {
        BaseChoice::Previous
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn a_thousand_versions_stay_within_the_depth_and_refer_32_back_at_most() {
        let id = |version: u32| BlobId::of_chunk(&version.to_le_bytes());
        let versions: HashMap<BlobId, u32> = (0..5000).map(|version| (id(version), version)).collect();
        let mut facts = vec![ChainFacts::whole(id(0))];
        let (mut deepest, mut whole) = (0, 0);
        for version in 1..5000 {
            let previous = facts[version as usize - 1];
            let next = match choose_base(&previous) {
                BaseChoice::Previous => ChainFacts::delta(id(version), BaseDistance::One, &[previous]),
                BaseChoice::Anchor(anchor) => {
                    let base = versions[&anchor];
                    assert_eq!(version - base, 32);
                    ChainFacts::delta(id(version), BaseDistance::Stride, &[facts[base as usize]])
                }
                BaseChoice::Whole => {
                    whole += 1;
                    ChainFacts::whole(id(version))
                }
            };
            deepest = deepest.max(next.depth);
            facts.push(next);
        }
        assert!(deepest <= 64, "depth {deepest}");
        assert_eq!(whole, 4);
    }

    #[test]
    fn a_chain_is_long_beyond_32_records() {
        let base = ChainFacts::whole(BlobId::of_chunk(b"base"));
        let with = |bases: &[ChainFacts]| ChainFacts::delta(BlobId::of_chunk(b"delta"), BaseDistance::One, bases);
        assert!(!with(&[base; 31]).is_long() && with(&[base; 32]).is_long());
    }

    #[test]
    fn a_chunk_that_moved_as_a_whole_is_where_a_long_step_leads_back_to() {
        let elsewhere = ChainFacts { generation: 3, ..ChainFacts::whole(BlobId::of_chunk(b"elsewhere")) };
        let moved = BlobId::of_chunk(b"moved");
        let facts = ChainFacts::delta(moved, BaseDistance::Stride, &[elsewhere]);
        let mut latest = facts;
        let next = BlobId::of_chunk(b"next");
        for _ in 0..100 {
            match choose_base(&latest) {
                BaseChoice::Previous => latest = ChainFacts::delta(next, BaseDistance::One, &[latest]),
                choice => return assert_eq!(choice, BaseChoice::Anchor(moved)),
            }
        }
        panic!("no long step in 100 versions");
    }

    #[test]
    fn a_chain_that_needs_many_records_takes_no_more() {
        let base = ChainFacts { records: 500, ..ChainFacts::whole(BlobId::of_chunk(b"")) };
        let mut needs = Needs::of(None);
        assert_eq!([needs.admit(&base), needs.admit(&base)], [Admission::Admitted, Admission::Refused]);
        let shared = ChainFacts { ways: 7000, ..ChainFacts::whole(BlobId::of_chunk(b"")) };
        let mut needs = Needs::of(Some(&shared));
        assert_eq!(needs.admit(&shared), Admission::Refused, "a reader that keeps nothing would take 14,000 steps");
        assert_eq!(needs.admit(&base), Admission::Admitted, "what was refused does not count");
        let deep = ChainFacts { depth: DEPTH, ..base };
        assert_eq!(needs.admit(&deep), Admission::Refused);
        assert_eq!(choose_base(&deep), BaseChoice::Whole);
    }

    #[test]
    fn two_hundred_versions_may_follow_a_delta_with_as_many_bases_as_it_may_have() {
        let id = BlobId::of_chunk(b"");
        // What ends the choice of bases is the number of records for the one, and of ways to them for the other.
        for ways in [40, 900] {
            let other = ChainFacts { records: 40, ways, ..ChainFacts::whole(id) };
            let (mut bases, mut needs) = (vec![ChainFacts::whole(id)], Needs::of(Some(&ChainFacts::whole(id))));
            while needs.admit(&other) == Admission::Admitted {
                bases.push(other);
            }
            let facts = ChainFacts::delta(id, BaseDistance::One, &bases);
            assert!(bases.len() > 13 && (facts.records > 700 || facts.ways > 11_000), "{facts:?}");
            let later = ChainFacts { records: facts.records + 200, ways: facts.ways + 200, ..facts };
            assert!(later.may_go_on());
            assert_eq!(Needs::of(Some(&later)).admit(&other), Admission::Refused);
        }
    }
}
