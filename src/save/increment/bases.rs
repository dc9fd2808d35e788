//! Which chunks become the bases of one delta record.
//!
//! What stood at the place of a chunk comes first, then the chunks that give most bytes for each record that their
//! chains need. Invariant: a record never has more bases, nor a longer chain, than it may (`store::chain`). Where that
//! leaves something out, it is copied from the records that hold it (`save::increment::holders`) instead of the chunks
//! in which it was found, and what stood at the place is no base as such if less than half of it stayed and its chain
//! is long. Of these ways one that copies most, or nearly so, is taken, which keeps the price of a `VACUUM` a night
//! down (docs/decisions.md).

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};

use super::changed::Changed;
use super::delta_record::OwnBase;
use super::haystack::{Haystack, HaystackChunk};
use super::holders::FoundRun;
use crate::chunk::delta::Run;
use crate::chunk::moved::Match;
use crate::format::limits::{CHUNK_SIZE, DELTA_BASES};
use crate::id::BlobId;
use crate::store::chain::{Admission, Needs};

/// Bytes that must be copied from a chunk in all to make it a base.
const BASE_COPY: usize = 64;

/// What one chunk is made of, and of which bases.
#[derive(Debug)]
pub(super) struct Bases {
    /// The first one: what stood at its place.
    pub(super) own: Option<OwnBase>,
    /// Runs that stayed at their places; none without that base.
    pub(super) stays: Vec<Run>,
    /// Runs that stand in chunks elsewhere, from left to right, between those.
    pub(super) found: Vec<FoundRun>,
    /// Which of these chunks become bases, too.
    pub(super) admitted: HashSet<BlobId>,
}

/// A chunk that could become a base.
struct Candidate {
    from: HaystackChunk,
    /// All bytes that would be copied.
    bytes: usize,
    /// Where the first of them go.
    first: usize,
}

impl Bases {
    /// For a chunk of `length` bytes where `base` stood.
    pub(super) fn choose(chunk: &Changed, length: usize, base: Option<OwnBase>, haystack: &Haystack) -> Self {
        let mut found: Vec<FoundRun> = Vec::with_capacity(chunk.matches.len());
        for Match { run, chunk: number, offset } in &chunk.matches {
            if let Some(from) = haystack.chunk(*number) {
                found.push(FoundRun { run: *run, from: *from, offset: *offset as usize });
            }
        }
        let stays = base.map_or_else(Vec::new, |_| chunk.differences.equal_runs(length));
        let stayed: usize = stays.iter().map(|run| run.length).sum();
        let with_own = Self::of(base, stays, found).best(chunk, haystack);
        let Some(own) = base.filter(|own| stayed * 2 < length && haystack.holders().know(&own.id)) else {
            return with_own;
        };
        // Room for versions to come is worth a quarter of what is copied.
        let without_own = with_own.without_own(own).best(chunk, haystack);
        if without_own.copied() < with_own.copied() / 4 * 3 { with_own } else { without_own }
    }

    fn of(own: Option<OwnBase>, stays: Vec<Run>, found: Vec<FoundRun>) -> Self {
        let all = Self { own, stays, found, admitted: HashSet::new() };
        let admitted = all.greatest();
        Self { admitted, ..all }
    }

    /// The same with what stood at the place as one chunk among others.
    fn without_own(&self, own: OwnBase) -> Self {
        let from = HaystackChunk { id: own.id, facts: own.facts };
        let stays = self.stays.iter().map(|run| FoundRun { run: *run, from, offset: run.start });
        let mut found: Vec<FoundRun> = self.found.iter().copied().chain(stays).collect();
        found.sort_by_key(|found| found.run.start);
        Self::of(None, Vec::new(), found)
    }

    /// The same, or with chunks followed to what holds them, those with the longest chains first, if more is copied so.
    fn best(self, chunk: &Changed, haystack: &Haystack) -> Self {
        let mut follower = haystack.holders().follower();
        let (found, long) = (self.found.clone(), self.long_chains());
        let mut best = self;
        let mut count = 1;
        while best.left_out() > 0 && count < 2 * long.len() {
            let followed = long.get(..count).unwrap_or(&long);
            let follow = |found: &FoundRun| match followed.contains(&found.from.id) {
                true => follower.follow(*found),
                false => vec![*found],
            };
            // A damaged record of the new chunk itself may be one of those that hold it.
            let held = found.iter().flat_map(follow).filter(|found| found.from.id != chunk.id).collect();
            let other = Self::of(best.own, best.stays.clone(), held);
            if other.copied() > best.copied() {
                best = other;
            }
            count *= 2;
        }
        best
    }

    /// The chunks with long chains in which something was found, those with the longest ones first.
    fn long_chains(&self) -> Vec<BlobId> {
        let chunks: HashMap<BlobId, u32> = self
            .found
            .iter()
            .filter(|found| found.from.facts.is_long())
            .map(|found| (found.from.id, found.from.facts.records))
            .collect();
        let mut chunks: Vec<(BlobId, u32)> = chunks.into_iter().collect();
        chunks.sort_by_key(|(id, records)| (Reverse(*records), *id));
        chunks.into_iter().map(|(id, _)| id).collect()
    }

    /// Bytes that are copied.
    fn copied(&self) -> usize {
        let stays = self.stays.iter().map(|run| run.length);
        let found = self.found.iter().filter(|found| self.admitted.contains(&found.from.id));
        stays.chain(found.map(|found| found.run.length)).sum()
    }

    /// Bytes found that are not copied.
    fn left_out(&self) -> usize {
        let left_out = self.found.iter().filter(|found| !self.admitted.contains(&found.from.id));
        left_out.map(|found| found.run.length).sum()
    }

    /// The chunks that may become bases beside the first one: those that give most bytes for each record.
    fn greatest(&self) -> HashSet<BlobId> {
        let mut needs = Needs::of(self.own.as_ref().map(|own| &own.facts));
        let most = DELTA_BASES - usize::from(self.own.is_some());
        let mut admitted = HashSet::new();
        for Candidate { from, .. } in candidates(&self.found) {
            if admitted.len() < most && needs.admit(&from.facts) == Admission::Admitted {
                admitted.insert(from.id);
            }
        }
        admitted
    }
}

/// The chunks that give enough, those that give most for each record first.
fn candidates(found: &[FoundRun]) -> Vec<Candidate> {
    let mut candidates: HashMap<BlobId, Candidate> = HashMap::new();
    for FoundRun { run, from, .. } in found {
        let new = Candidate { from: *from, bytes: 0, first: run.start };
        candidates.entry(from.id).or_insert(new).bytes += run.length;
    }
    let mut candidates: Vec<Candidate> = candidates.into_values().filter(|offer| offer.bytes >= BASE_COPY).collect();
    let worth = |offer: &Candidate| offer.bytes * CHUNK_SIZE / offer.from.facts.records.max(1) as usize;
    candidates.sort_by_key(|offer| (Reverse(worth(offer)), offer.first));
    candidates
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::pack::BaseDistance;
    use crate::save::increment::changed::{Against, Differences};
    use crate::store::HeldRun;
    use crate::store::chain::ChainFacts;

    fn source(name: &str, records: u32) -> HaystackChunk {
        let id = BlobId::of_chunk(name.as_bytes());
        HaystackChunk { id, facts: ChainFacts::beside(id, 1, records, records) }
    }

    fn own(records: u32) -> OwnBase {
        let HaystackChunk { id, facts } = source("own", records);
        OwnBase { id, distance: BaseDistance::One, facts }
    }

    /// A chunk that differs from its base but for the last `stays` bytes, and has 500 bytes of each of these chunks.
    fn changed(haystack: &mut Haystack, stays: usize, from: &[HaystackChunk]) -> Changed {
        let mut chunk = Changed::new(BlobId::of_chunk(b"new"), 0);
        chunk.against = Against::Previous(None);
        chunk.differences = Differences::of(&[Run { start: 0, length: CHUNK_SIZE - stays }]);
        for (place, from) in from.iter().enumerate() {
            let run = Run { start: place * 500, length: 500 };
            chunk.matches.push(Match { run, chunk: haystack.add(*from), offset: 1000 });
        }
        chunk
    }

    fn haystack() -> Haystack {
        Haystack::new(&std::env::temp_dir())
    }

    fn holds(haystack: &Haystack, chunk: BlobId, holder: HaystackChunk) {
        let whole = HeldRun { at: 0, length: 65_536, holder: holder.id, facts: holder.facts, offset: 0 };
        haystack.holders().keep(&chunk, &[whole]);
    }

    #[test]
    fn there_are_as_many_bases_as_there_may_be_and_no_more() {
        let mut haystack = haystack();
        let many: Vec<_> = (0..70).map(|number| source(&number.to_string(), 1)).collect();
        let chunk = changed(&mut haystack, 40_000, &many);
        for (base, most) in [(Some(own(1)), DELTA_BASES - 1), (None, DELTA_BASES)] {
            let bases = Bases::choose(&chunk, CHUNK_SIZE, base, &haystack);
            assert_eq!((bases.admitted.len(), bases.own.is_some()), (most, base.is_some()));
        }
    }

    #[test]
    fn what_is_found_is_followed_only_where_something_would_be_left_out() {
        let mut haystack = haystack();
        let long = [source("one", 500), source("two", 400), source("three", 100)];
        for (number, chunk) in long.iter().enumerate() {
            holds(&haystack, chunk.id, source(&format!("holder {number}"), 1));
        }
        let two = changed(&mut haystack, 40_000, &long[1..]);
        let bases = Bases::choose(&two, CHUNK_SIZE, Some(own(1)), &haystack);
        assert_eq!(bases.admitted, HashSet::from([long[1].id, long[2].id]));
        let three = changed(&mut haystack, 40_000, &long);
        let bases = Bases::choose(&three, CHUNK_SIZE, Some(own(1)), &haystack);
        assert_eq!(bases.admitted, HashSet::from([source("holder 0", 1).id, long[1].id, long[2].id]));
        assert_eq!(bases.left_out(), 0);
    }

    #[test]
    fn what_stood_at_the_place_of_a_chunk_goes_if_hardly_less_is_copied_then() {
        let other = source("other", 30);
        let (short, beyond) = (Some(source("holder", 1)), Some(source("holder", 900)));
        for (holder, stays, is_own) in [
            (short, 300, false),
            (short, CHUNK_SIZE / 2, true),
            (beyond, 100, false),
            (beyond, 3000, true),
            (None, 100, true),
        ] {
            let mut haystack = haystack();
            if let Some(holder) = holder {
                holds(&haystack, own(800).id, holder);
            }
            let chunk = changed(&mut haystack, stays, &[other]);
            let bases = Bases::choose(&chunk, CHUNK_SIZE, Some(own(800)), &haystack);
            assert_eq!(bases.own.is_some(), is_own, "{stays} bytes stay, {holder:?}");
        }
    }

    #[test]
    fn a_chunk_is_never_copied_from_itself() {
        let mut haystack = haystack();
        let long = [source("one", 700), source("two", 700)];
        long.iter().for_each(|chunk| holds(&haystack, chunk.id, source("new", 1)));
        let chunk = changed(&mut haystack, 0, &long);
        let bases = Bases::choose(&chunk, CHUNK_SIZE, None, &haystack);
        assert_eq!(bases.admitted, HashSet::from([long[0].id]));
    }
}
