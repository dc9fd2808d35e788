//! Which chunks become the bases of one delta record.
//!
//! What stood at the place of a chunk comes first, unless it has moved as a whole; then the chunks that give most bytes for
//! each record that their chains need. Invariant: a record never has more bases, nor a longer chain, than it may
//! (`store::chain`). Where that leaves something out, it is copied from the records that hold it (`save::holders`) instead
//! of those in which it was found, so that a `VACUUM` a night costs no more than the first one.

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
#[derive(Debug, Default)]
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
        for Match { run, chunk, offset } in &chunk.matches {
            if let Some(from) = haystack.chunk(*chunk) {
                found.push(FoundRun { run: *run, from: *from, offset: *offset as usize });
            }
        }
        let stays = base.map_or_else(Vec::new, |_| chunk.differences.equal_runs(length));
        let stayed: usize = stays.iter().map(|run| run.length).sum();
        match base.filter(|base| stayed * 2 < length && haystack.holders().know(&base.id)) {
            Some(OwnBase { id, facts, .. }) => {
                let from = HaystackChunk { id, facts };
                found.extend(stays.iter().map(|run| FoundRun { run: *run, from, offset: run.start }));
                found.sort_by_key(|found| found.run.start);
                Self { own: None, stays: Vec::new(), found, admitted: HashSet::new() }
            }
            None => Self { own: base, stays, found, admitted: HashSet::new() },
        }
        .admit(haystack)
    }

    /// With as much of what was found as may be copied.
    fn admit(self, haystack: &Haystack) -> Self {
        let mut best = self.admitting();
        let found: usize = best.found.iter().map(|found| found.run.length).sum();
        if best.taken() == found {
            return best;
        }
        let long = best.long_chains();
        let (all, mut follower) = (best.found.clone(), haystack.holders().follower());
        let counts = std::iter::successors(Some(1), |count| (*count < long.len()).then_some(count * 2));
        for count in counts.take_while(|_| !long.is_empty()) {
            let followed = long.get(..count).unwrap_or(&long);
            let follow = |found: &FoundRun| match followed.contains(&found.from.id) {
                true => follower.follow(*found),
                false => vec![*found],
            };
            let found_so = all.iter().flat_map(follow).collect();
            let stays = best.stays.clone();
            let other = Self { own: best.own, stays, found: found_so, admitted: HashSet::new() }.admitting();
            if other.taken() > best.taken() {
                best = other;
            }
            if best.taken() == found {
                break;
            }
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

    /// Bytes found elsewhere that are copied.
    fn taken(&self) -> usize {
        let taken = self.found.iter().filter(|found| self.admitted.contains(&found.from.id));
        taken.map(|found| found.run.length).sum()
    }

    /// With those that give most bytes for each record, until there are as many as there may be.
    fn admitting(mut self) -> Self {
        let mut needs = Needs::of(self.own.as_ref().map(|own| &own.facts));
        for Candidate { from, .. } in candidates(&self.found) {
            let has_room = self.admitted.len() + usize::from(self.own.is_some()) < DELTA_BASES;
            if has_room && needs.admit(&from.facts) == Admission::Admitted {
                self.admitted.insert(from.id);
            }
        }
        self
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
