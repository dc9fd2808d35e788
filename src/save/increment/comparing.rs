//! Comparing changed chunks with those that stood at their places, in the order in which packs hold these.
//!
//! Which chunk each one is stored against is chosen from footers alone; then every frame that is needed is decoded
//! once, on all cores, and whatever comes out of it is compared on the spot. Invariant: what stood there has been
//! hashed; what this way does not lead to is read by itself, and what cannot be read at all is reported and not built
//! upon.

use std::collections::HashMap;

use parking_lot::Mutex;

use super::changed::{Against, Changed, Differences};
use super::delta_record::OwnBase;
use super::haystack::{Haystack, HaystackChunk};
use crate::chunk::delta::{Run, differences};
use crate::error::Result;
use crate::format::pack::{BaseDistance, BlobKind};
use crate::id::BlobId;
use crate::save::capturing::Patience;
use crate::save::reading::{SourceSlots, Steadiness};
use crate::store::chain::{BaseChoice, choose_base};
use crate::store::{BulkReader, PlanCapacity, Planning, PreviousContent, WantedChunk};

/// Chunks planned for in one look at the index.
const PLANNED_TOGETHER: usize = 64;

/// Chunks of a file on their way from being found to being compared.
pub(super) struct Comparing<'p> {
    /// Reads what stood at their places.
    bulk: BulkReader<'p>,
    waiting: WaitingChunks,
    /// Numbers of those whose bases are read by themselves.
    alone: Vec<usize>,
    steadiness: Steadiness,
}

/// What is compared with what.
pub(super) struct Versions<'c, 'f, 'a> {
    pub(super) source: SourceSlots<'f>,
    pub(super) previous: &'c mut PreviousContent<'a>,
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
    source: SourceSlots<'g>,
    haystack: Option<&'g Haystack>,
}

/// What the plan of packs makes of a chunk of the previous version.
enum Planned {
    Base(OwnBase),
    Whole,
    /// It is to be read by itself.
    Unplanned,
}

impl<'p> Comparing<'p> {
    pub(super) fn new(bulk: BulkReader<'p>) -> Self {
        Self { bulk, waiting: WaitingChunks::new(), alone: Vec::new(), steadiness: Steadiness::Same }
    }

    /// Chooses what the chunks from number `first` on are stored against.
    pub(super) fn plan(
        &mut self,
        versions: &mut Versions<'_, '_, '_>,
        changed: &mut [Changed],
        first: usize,
    ) -> Result<()> {
        let mut due = first;
        while due < changed.len() {
            let after = changed.len().min(due + PLANNED_TOGETHER);
            if self.plan_some(versions, changed.get_mut(due..after).unwrap_or_default(), due)? == PlanCapacity::Full {
                self.read(versions, changed)?;
            }
            due = after;
        }
        Ok(())
    }

    /// Plans for these chunks, the first of which has this number.
    fn plan_some(
        &mut self,
        versions: &mut Versions<'_, '_, '_>,
        changed: &mut [Changed],
        first: usize,
    ) -> Result<PlanCapacity> {
        let before: Vec<Option<BlobId>> =
            changed.iter().map(|chunk| versions.previous.chunk_at(chunk.slot)).collect::<Result<_>>()?;
        let mut planned = self.bulk.planning(|planning| {
            let plan = |before: &Option<BlobId>| before.map(|before| plan(planning, &before)).transpose();
            before.iter().map(plan).collect::<Result<Vec<_>>>()
        })?;
        for ((number, chunk), planned) in (first..).zip(changed).zip(&mut planned) {
            match planned {
                None => {
                    chunk.against = Against::Previous(None);
                    chunk.differences = versions.all_of(chunk.slot);
                }
                Some(Planned::Whole) => {}
                Some(Planned::Unplanned) => self.alone.push(number),
                Some(Planned::Base(own)) => {
                    chunk.against = Against::Previous(Some(*own));
                    let replaced = versions.announce(HaystackChunk { id: own.id, facts: own.facts });
                    self.waiting.entry(own.id).or_default().push(Waiting { number, slot: chunk.slot, replaced });
                }
            }
        }
        Ok(self.bulk.capacity())
    }

    /// Finds out where each chunk that was planned for differs from its base.
    pub(super) fn compare(
        mut self,
        versions: &mut Versions<'_, '_, '_>,
        changed: &mut [Changed],
    ) -> Result<Steadiness> {
        self.read(versions, changed)?;
        let mut steadiness = self.steadiness;
        self.alone.sort_unstable();
        self.alone.dedup();
        for number in self.alone {
            let Some(chunk) = changed.get_mut(number) else { continue };
            if versions.compare_alone(chunk)? == Steadiness::Changed {
                steadiness = Steadiness::Changed;
            }
        }
        Ok(steadiness)
    }

    /// Reads the bases that were planned; what does not come out is read by itself later.
    fn read(&mut self, versions: &Versions<'_, '_, '_>, changed: &mut [Changed]) -> Result<()> {
        let waiting = std::mem::take(&mut self.waiting);
        let compared = Mutex::new(Compared::default());
        let (ground, patience) = (versions.ground(), versions.patience);
        let unread = self.bulk.read_with_holders(&|base, bytes, held| {
            patience.check()?;
            for chunk in waiting.get(base).into_iter().flatten() {
                if let Some((haystack, _)) = ground.haystack.zip(chunk.replaced) {
                    haystack.holders().keep(base, held);
                }
                match ground.differences(chunk.slot, bytes, chunk.replaced)? {
                    Some(differences) => compared.lock().differences.push((chunk.number, differences)),
                    None => compared.lock().unsteady = true,
                }
            }
            Ok(())
        })?;
        let compared = compared.into_inner();
        if compared.unsteady {
            self.steadiness = Steadiness::Changed;
        }
        for (number, differences) in compared.differences {
            if let Some(chunk) = changed.get_mut(number) {
                chunk.differences = differences;
            }
        }
        let unread = unread.iter().filter_map(|base| waiting.get(&base.id)).flatten();
        self.alone.extend(unread.map(|chunk| chunk.number));
        Ok(())
    }
}

impl Versions<'_, '_, '_> {
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

    /// The number in the haystack of a chunk that was replaced, if that is searched.
    fn announce(&mut self, replaced: HaystackChunk) -> Option<u32> {
        self.haystack.as_mut().and_then(|haystack| haystack.announce(replaced))
    }

    fn ground(&self) -> Ground<'_> {
        Ground { source: self.source, haystack: self.haystack.as_deref() }
    }

    fn all_of(&self, slot: u64) -> Differences {
        Differences::of(&[Run { start: 0, length: self.source.length_of(slot) }])
    }
}

impl Ground<'_> {
    /// Where a chunk differs from its base; `None` if the file ends before it by now. What was replaced is kept.
    fn differences(&self, slot: u64, base: &[u8], replaced: Option<u32>) -> Result<Option<Differences>> {
        let Some(content) = self.source.chunk_again(slot)? else { return Ok(None) };
        let differences = Differences::of(&differences(base, &content));
        if let Some((haystack, replaced)) = self.haystack.zip(replaced) {
            haystack.keep(replaced, base, &differences.sought().collect::<Vec<_>>());
        }
        Ok(Some(differences))
    }
}

/// Chooses the base for what follows a chunk, and asks for it.
fn plan(planning: &mut Planning<'_, '_>, before: &BlobId) -> Result<Planned> {
    let Some(previous) = planning.chain(before)? else { return Ok(Planned::Unplanned) };
    let (id, distance, chain) = match choose_base(&previous.facts) {
        BaseChoice::Whole => return Ok(Planned::Whole),
        BaseChoice::Previous => (*before, BaseDistance::One, previous),
        BaseChoice::Anchor(anchor) => match planning.chain(&anchor)? {
            Some(chain) => (anchor, BaseDistance::Stride, chain),
            None => return Ok(Planned::Unplanned),
        },
    };
    planning.want(&WantedChunk { id, length: chain.length })?;
    Ok(Planned::Base(OwnBase { id, distance, facts: chain.facts }))
}
