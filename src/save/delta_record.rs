//! Making the delta record of one changed chunk: what stayed, what was found elsewhere, what is new.
//!
//! Invariant: a record that leaves here has been applied, and the result hashed to the chunk's id; one that does not save
//! a quarter is none. Bytes that stayed, and bytes found elsewhere, were compared with those of their bases when they were
//! found, so the places that a copy reads from are filled with those bytes for the proof instead of being read again.

use std::cmp::Reverse;
use std::collections::HashMap;

use super::changed::Changed;
use super::haystack::{Haystack, HaystackChunk};
use crate::chunk::delta::{self, Encoder, Run};
use crate::chunk::moved::Match;
use crate::format::delta::apply;
use crate::format::limits::{CHUNK_SIZE, DELTA_BASES};
use crate::format::pack::Step;
use crate::id::BlobId;
use crate::store::chain::{Admission, ChainFacts, Needs};
use crate::store::{Base, DeltaRecord};

/// Shortest copy from a chunk that is a base already.
pub(super) const SHORT_COPY: usize = 32;
/// Bytes that must be copied from a chunk in all to make it a base.
const BASE_COPY: usize = 64;

/// What stood at the place of a chunk.
#[derive(Debug, Clone, Copy)]
pub(super) struct OwnBase {
    pub(super) id: BlobId,
    pub(super) step: Step,
    pub(super) facts: ChainFacts,
}

impl From<&Base> for OwnBase {
    fn from(base: &Base) -> Self {
        Self { id: base.id, step: base.step, facts: base.facts }
    }
}

/// The bases of a record in the making.
struct Bases {
    own: Option<OwnBase>,
    /// Other chunks that may be copied from.
    admitted: HashMap<u32, BlobId>,
    /// Those of them that are, in the order of their first copies.
    others: Vec<OtherBase>,
}

struct OtherBase {
    chunk: u32,
    id: BlobId,
    /// The bytes that are copied from it, at their places.
    copied: Vec<u8>,
}

impl Bases {
    fn new(own: Option<OwnBase>, matches: &[Match], haystack: &Haystack) -> Self {
        Self { own, admitted: admitted(own, matches, haystack), others: Vec::new() }
    }

    /// The number of this chunk among the other bases, if it is admitted.
    fn other(&mut self, chunk: u32) -> Option<usize> {
        if let Some(known) = self.others.iter().position(|other| other.chunk == chunk) {
            return Some(known);
        }
        let id = *self.admitted.get(&chunk)?;
        self.others.push(OtherBase { chunk, id, copied: Vec::new() });
        Some(self.others.len() - 1)
    }

    fn number(&self, other: usize) -> u32 {
        (other + usize::from(self.own.is_some())) as u32
    }

    /// Notes that a copy reads these bytes at this place.
    fn note(&mut self, other: usize, offset: usize, bytes: &[u8]) {
        if let Some(base) = self.others.get_mut(other) {
            let end = (offset + bytes.len()).min(CHUNK_SIZE);
            if base.copied.len() < end {
                base.copied.resize(end, 0);
            }
            if let Some(place) = base.copied.get_mut(offset..end) {
                place.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
            }
        }
    }
}

/// The chunks that become bases beside a chunk's own: those that give most bytes for each record that their chains need
/// come first, until the chains of all have as many as they may.
fn admitted(own: Option<OwnBase>, matches: &[Match], haystack: &Haystack) -> HashMap<u32, BlobId> {
    let mut offered: HashMap<u32, usize> = HashMap::new();
    for found in matches {
        *offered.entry(found.chunk).or_default() += found.run.length;
    }
    let mut candidates: Vec<(usize, u32, HaystackChunk)> = offered
        .into_iter()
        .filter(|(_, bytes)| *bytes >= BASE_COPY)
        .filter_map(|(chunk, bytes)| haystack.chunk(chunk).map(|known| (bytes, chunk, *known)))
        .collect();
    let worth = |bytes: usize, facts: &ChainFacts| bytes * CHUNK_SIZE / facts.records.max(1) as usize;
    candidates.sort_by_key(|(bytes, chunk, known)| (Reverse(worth(*bytes, &known.facts)), *chunk));
    let mut needs = Needs::of(own.as_ref().map(|own| &own.facts));
    let mut admitted = HashMap::new();
    for (_, chunk, HaystackChunk { id, facts }) in candidates {
        let has_room = admitted.len() + usize::from(own.is_some()) < DELTA_BASES;
        if has_room && needs.admit(&facts) == Admission::Admitted {
            admitted.insert(chunk, id);
        }
    }
    admitted
}

/// The record of a changed chunk with this content, or `None` where it had better be stored whole.
pub(super) fn encode(
    chunk: &Changed,
    content: &[u8],
    base: Option<OwnBase>,
    haystack: &Haystack,
) -> Option<DeltaRecord> {
    let id = chunk.id;
    let mut bases = Bases::new(base, &chunk.matches, haystack);
    let mut encoder = Encoder::default();
    let mut matches = chunk.matches.iter().peekable();
    for literal in chunk.differences.runs() {
        let at = encoder.written();
        encoder.copy(0, at as u32, (literal.start - at) as u32);
        while let Some(found) = matches.next_if(|found| found.run.start < literal.end()) {
            let Run { start, length } = found.run;
            let Some(other) = bases.other(found.chunk) else { continue };
            encoder.literal(content.get(encoder.written()..start)?);
            encoder.copy(bases.number(other), found.offset, length as u32);
            bases.note(other, found.offset as usize, content.get(start..start + length)?);
        }
        encoder.literal(content.get(encoder.written()..literal.end())?);
    }
    let at = encoder.written();
    encoder.copy(0, at as u32, (content.len() - at) as u32);
    let payload = encoder.finish();
    let count = bases.others.len() + usize::from(base.is_some());
    let own = base.map(|_| content).into_iter();
    let bytes: Vec<&[u8]> = own.chain(bases.others.iter().map(|other| other.copied.as_slice())).collect();
    let rebuilt = apply(&payload, &bytes, content.len()).ok().filter(|bytes| BlobId::of_chunk(bytes) == id);
    if count == 0 || !delta::pays(payload.len(), count, content.len()) || rebuilt.is_none() {
        return None;
    }
    Some(DeltaRecord {
        id,
        length: content.len() as u32,
        payload,
        bases: base
            .map(|base| base.id)
            .into_iter()
            .chain(bases.others.iter().map(|other| other.id))
            .map(|id| id.prefix())
            .collect(),
        step: base.map_or(Step::One, |base| base.step),
    })
}
