//! Making the delta record of one changed chunk: what stayed, what was found elsewhere, what is new.
//!
//! Invariant: a record that leaves here has been applied, and the result hashed to the chunk's id; one that does not
//! save a quarter is none. Bytes that stayed, and bytes found elsewhere, were compared with those of their bases when
//! they were found, or with those of a chunk that was rebuilt from these (`save::increment::holders`), so the places
//! that a copy reads from are filled with those bytes for the proof instead of being read again.

use std::collections::HashSet;

use super::bases::Bases;
use super::changed::Changed;
use super::haystack::Haystack;
use super::holders::FoundRun;
use crate::chunk::delta::{self, Encoder, Run};
use crate::format::delta::apply;
use crate::format::limits::CHUNK_SIZE;
use crate::format::pack::BaseDistance;
use crate::id::BlobId;
use crate::store::chain::ChainFacts;
use crate::store::{Base, DeltaRecord};

/// Shortest copy from a chunk that is a base already.
pub(super) const SHORT_COPY: usize = 32;

/// What stood at the place of a chunk.
#[derive(Debug, Clone, Copy)]
pub(super) struct OwnBase {
    pub(super) id: BlobId,
    pub(super) distance: BaseDistance,
    pub(super) facts: ChainFacts,
}

impl From<&Base> for OwnBase {
    fn from(base: &Base) -> Self {
        Self { id: base.id, distance: base.distance, facts: base.facts }
    }
}

/// A record in the making.
struct Making<'c> {
    content: &'c [u8],
    own: Option<OwnBase>,
    /// Other chunks that may be copied from.
    admitted: HashSet<BlobId>,
    /// Those of them that are, in the order of their first copies.
    others: Vec<OtherBase>,
    encoder: Encoder,
}

struct OtherBase {
    id: BlobId,
    /// The bytes that are copied from it, at their places.
    copied: Vec<u8>,
}

impl Making<'_> {
    /// The bytes before this place that were copied from nowhere are new.
    fn fill(&mut self, end: usize) -> Option<()> {
        self.encoder.literal(self.content.get(self.encoder.written()..end)?);
        Some(())
    }

    /// This run stayed.
    fn stay(&mut self, run: Run) -> Option<()> {
        self.fill(run.start)?;
        self.encoder.copy(0, run.start as u32, run.length as u32);
        Some(())
    }

    /// This run stands elsewhere.
    fn copy(&mut self, found: &FoundRun) -> Option<()> {
        let Some(number) = self.other(&found.from.id) else { return Some(()) };
        self.fill(found.run.start)?;
        let base = number + usize::from(self.own.is_some());
        self.encoder.copy(base as u32, found.offset as u32, found.run.length as u32);
        let bytes = self.content.get(found.run.start..found.run.end())?;
        let copied = &mut self.others.get_mut(number)?.copied;
        let end = Some(found.offset + bytes.len()).filter(|end| *end <= CHUNK_SIZE)?;
        copied.resize(end.max(copied.len()), 0);
        copied.get_mut(found.offset..end)?.copy_from_slice(bytes);
        Some(())
    }

    /// The number of this chunk among the other bases, if it is admitted.
    fn other(&mut self, id: &BlobId) -> Option<usize> {
        if let Some(known) = self.others.iter().position(|other| other.id == *id) {
            return Some(known);
        }
        self.admitted.get(id)?;
        self.others.push(OtherBase { id: *id, copied: Vec::new() });
        Some(self.others.len() - 1)
    }

    fn finish(mut self, id: BlobId) -> Option<DeltaRecord> {
        self.fill(self.content.len())?;
        let Self { content, own, others, encoder, .. } = self;
        let payload = encoder.finish();
        let bytes: Vec<&[u8]> =
            own.map(|_| content).into_iter().chain(others.iter().map(|other| other.copied.as_slice())).collect();
        let rebuilt = apply(&payload, &bytes, content.len()).ok().filter(|bytes| BlobId::of_chunk(bytes) == id);
        if bytes.is_empty() || !delta::pays(payload.len(), bytes.len(), content.len()) || rebuilt.is_none() {
            return None;
        }
        let ids = own.map(|own| own.id).into_iter().chain(others.iter().map(|other| other.id));
        Some(DeltaRecord {
            id,
            length: content.len() as u32,
            payload,
            bases: ids.map(|id| id.prefix()).collect(),
            distance: own.map_or(BaseDistance::Stride, |own| own.distance),
        })
    }
}

/// The record of a changed chunk with this content, or `None` where it had better be stored whole.
pub(super) fn encode(
    chunk: &Changed,
    content: &[u8],
    base: Option<OwnBase>,
    haystack: &Haystack,
) -> Option<DeltaRecord> {
    let Bases { own, stays, found, admitted } = Bases::choose(chunk, content.len(), base, haystack);
    let mut making = Making { content, own, admitted, others: Vec::new(), encoder: Encoder::default() };
    let mut stays = stays.into_iter().peekable();
    for found in &found {
        while let Some(run) = stays.next_if(|run| run.start < found.run.start) {
            making.stay(run)?;
        }
        making.copy(found)?;
    }
    stays.try_for_each(|run| making.stay(run))?;
    making.finish(chunk.id)
}
