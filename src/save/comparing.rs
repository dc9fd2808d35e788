//! Comparing changed chunks with those that stood at their places, in the order in which packs hold these.
//!
//! Which chunk each one is stored against is chosen from footers alone; then every frame that is needed is decoded once, on
//! all cores, and whatever comes out of it is compared on the spot. Invariant: what stood there has been hashed; what
//! this way does not lead to is read by itself, and what cannot be read at all is reported and not built upon.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use super::capturing::Patience;
use super::changed::{Against, Changed, Differences};
use super::delta_record::OwnBase;
use super::haystack::{Haystack, HaystackChunk};
use super::reading::{SourceFile, Steadiness};
use crate::chunk::delta::{Run, differences};
use crate::error::Result;
use crate::format::limits::CHUNK_SIZE;
use crate::format::pack::{BlobKind, Step};
use crate::id::BlobId;
use crate::store::chain::{BaseChoice, choose_base};
use crate::store::{BulkReader, PreviousVersion, Room, WantedChunk};

/// What is compared with what.
pub(super) struct Comparing<'c, 'f, 'a, 'p> {
    pub(super) source: SourceFile<'f>,
    pub(super) previous: &'c mut PreviousVersion<'a>,
    /// Reads it.
    pub(super) bulk: BulkReader<'p>,
    /// Takes what was replaced, if that is looked into.
    pub(super) haystack: Option<&'c mut Haystack>,
    pub(super) patience: Patience<'c>,
}

/// A chunk that waits for its base.
#[derive(Debug, Clone, Copy)]
struct Waiting {
    /// Its number among the changed ones.
    number: usize,
    slot: u64,
    /// The number of what it replaces in the haystack.
    replaced: Option<u32>,
}

/// Chunks by the base that they wait for.
type WaitingChunks = HashMap<BlobId, Vec<Waiting>>;

/// What a base told of the chunks that waited for it.
#[derive(Default)]
struct Compared {
    differences: Vec<(usize, Differences)>,
    unsteady: bool,
}

/// What all threads share while they compare.
#[derive(Clone, Copy)]
struct Ground<'g> {
    source: SourceFile<'g>,
    haystack: Option<&'g Haystack>,
}

/// What the plan of packs makes of a chunk of the previous version.
enum Planned {
    Base {
        own: OwnBase,
        length: u64,
    },
    Whole,
    /// It is to be read by itself.
    Unplanned,
}

impl Comparing<'_, '_, '_, '_> {
    /// Finds out what each chunk is stored against, and where it differs from that.
    pub(super) fn compare(&mut self, changed: &mut [Changed]) -> Result<Steadiness> {
        let mut waiting = WaitingChunks::new();
        let mut alone = Vec::new();
        let mut steadiness = Steadiness::Same;
        for number in 0..changed.len() {
            let Some(chunk) = changed.get_mut(number) else { break };
            let Some(before) = self.previous.chunk_at(chunk.slot)? else {
                chunk.against = Against::Previous(None);
                chunk.differences = self.all_of(chunk.slot);
                continue;
            };
            match plan(&mut self.bulk, &before)? {
                Planned::Whole => {}
                Planned::Unplanned => alone.push(number),
                Planned::Base { own, length } => {
                    chunk.against = Against::Previous(Some(own));
                    let replaced = self.announce(HaystackChunk { id: own.id, facts: own.facts });
                    waiting.entry(own.id).or_default().push(Waiting { number, slot: chunk.slot, replaced });
                    if self.bulk.want(&[WantedChunk { id: own.id, length }])? == Room::Full {
                        alone.extend(self.read(&mut waiting, changed, &mut steadiness)?);
                    }
                }
            }
        }
        alone.extend(self.read(&mut waiting, changed, &mut steadiness)?);
        alone.sort_unstable();
        for number in alone {
            let Some(chunk) = changed.get_mut(number) else { continue };
            if self.compare_alone(chunk)? == Steadiness::Changed {
                steadiness = Steadiness::Changed;
            }
        }
        Ok(steadiness)
    }

    /// Reads the bases that were planned, and returns the numbers of those chunks whose bases did not come out.
    fn read(
        &mut self,
        waiting: &mut WaitingChunks,
        changed: &mut [Changed],
        steadiness: &mut Steadiness,
    ) -> Result<Vec<usize>> {
        let waiting = std::mem::take(waiting);
        let compared = Mutex::new(Compared::default());
        let lock = || compared.lock().unwrap_or_else(PoisonError::into_inner);
        let ground = Ground { source: self.source, haystack: self.haystack.as_deref() };
        let patience = self.patience;
        let unread = self.bulk.read(&|base, bytes| {
            patience.check()?;
            for chunk in waiting.get(base).into_iter().flatten() {
                match ground.differences(chunk.slot, bytes, chunk.replaced)? {
                    Some(differences) => lock().differences.push((chunk.number, differences)),
                    None => lock().unsteady = true,
                }
            }
            Ok(())
        })?;
        let compared = compared.into_inner().unwrap_or_else(PoisonError::into_inner);
        if compared.unsteady {
            *steadiness = Steadiness::Changed;
        }
        for (number, differences) in compared.differences {
            if let Some(chunk) = changed.get_mut(number) {
                chunk.differences = differences;
            }
        }
        let unread = unread.iter().filter_map(|base| waiting.get(&base.id)).flatten();
        Ok(unread.map(|chunk| chunk.number).collect())
    }

    /// Compares a chunk whose base is not to be had with others.
    fn compare_alone(&mut self, chunk: &mut Changed) -> Result<Steadiness> {
        chunk.against = Against::Nothing;
        let Some(base) = self.previous.base_at(BlobKind::Chunk, 0, chunk.slot)? else { return Ok(Steadiness::Same) };
        let replaced = self.announce(HaystackChunk { id: base.id, facts: base.facts });
        let Some(differences) = self.ground().differences(chunk.slot, &base.bytes, replaced)? else {
            return Ok(Steadiness::Changed);
        };
        (chunk.against, chunk.differences) = (Against::Previous(Some(OwnBase::from(&base))), differences);
        Ok(Steadiness::Same)
    }

    /// The number in the haystack of a chunk that was replaced, if that is looked into.
    fn announce(&mut self, replaced: HaystackChunk) -> Option<u32> {
        self.haystack.as_mut().map(|haystack| haystack.announce(replaced))
    }

    fn ground(&self) -> Ground<'_> {
        Ground { source: self.source, haystack: self.haystack.as_deref() }
    }

    fn all_of(&self, slot: u64) -> Differences {
        let rest = self.source.length.saturating_sub(slot.saturating_mul(CHUNK_SIZE as u64));
        Differences::of(&[Run { start: 0, length: rest.min(CHUNK_SIZE as u64) as usize }])
    }
}

impl Ground<'_> {
    /// Where a chunk differs from its base; `None` if the file ends before it by now. What was replaced is kept.
    fn differences(&self, slot: u64, base: &[u8], replaced: Option<u32>) -> Result<Option<Differences>> {
        let Some(content) = self.source.chunk_again(slot)? else { return Ok(None) };
        let runs = differences(base, &content);
        if let Some((haystack, replaced)) = self.haystack.zip(replaced) {
            haystack.keep(replaced, base, &runs);
        }
        Ok(Some(Differences::of(&runs)))
    }
}

/// Chooses the base for what follows a chunk.
fn plan(bulk: &mut BulkReader<'_>, before: &BlobId) -> Result<Planned> {
    let Some(previous) = bulk.chain(before)? else { return Ok(Planned::Unplanned) };
    let (id, step, chain) = match choose_base(&previous.facts) {
        BaseChoice::Whole => return Ok(Planned::Whole),
        BaseChoice::Previous => (*before, Step::One, previous),
        BaseChoice::Anchor(anchor) => match bulk.chain(&anchor)? {
            Some(chain) => (anchor, Step::Stride, chain),
            None => return Ok(Planned::Unplanned),
        },
    };
    Ok(Planned::Base { own: OwnBase { id, step, facts: chain.facts }, length: chain.length })
}
