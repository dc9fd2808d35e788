//! What of the changes that were not durable survives a loss of power.
//!
//! The freedoms are those of docs/durability.md: nothing is ordered but by fsync. Writes survive, are lost or torn at
//! sectors or pages; a file may have its new length without the bytes; names survive one by one or, as in a journal, up
//! to some moment.

use super::change::Change;
use super::random::Random;
use super::volume::Volume;

/// How the changes fare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Kept,
    Lost,
    /// This many percent survive.
    Chance(usize),
    /// What came before this change survives.
    Until(usize),
}

/// A crash in one of many ways.
#[derive(Clone, Debug)]
pub struct Survival {
    names: Fate,
    data: Fate,
    /// Writes are torn at multiples of this.
    sector: u64,
    /// How many percent of the writes that do not survive are torn rather than lost.
    torn: usize,
    random: Random,
}

impl Survival {
    /// Everything survives: as if only the process had been killed.
    pub fn everything() -> Self {
        Self { names: Fate::Kept, data: Fate::Kept, sector: 512, torn: 0, random: Random::of(&[]) }
    }

    /// Only what is durable.
    pub fn nothing() -> Self {
        Self { names: Fate::Lost, data: Fate::Lost, ..Self::everything() }
    }

    /// Names survive, and of every write some sectors of 512 bytes.
    pub fn torn(random: Random) -> Self {
        Self { data: Fate::Chance(0), torn: 100, random, ..Self::everything() }
    }

    /// Something in between.
    pub fn random(mut random: Random) -> Self {
        let chance = Fate::Chance(random.pick(&[10, 50, 90]));
        // A journal is cut somewhere; where is decided when it is known what there is.
        let names = random.pick(&[Fate::Kept, Fate::Lost, chance, chance, Fate::Until(usize::MAX)]);
        let data = random.pick(&[Fate::Kept, Fate::Lost, chance, chance]);
        let (sector, torn) = (random.pick(&[512, 4096]), random.pick(&[0, 50, 100]));
        Self { names, data, sector, torn, random }
    }

    /// Learns of all changes and whether they are durable.
    pub fn look_at(&mut self, changes: &[(&Change, bool)]) {
        if self.names == Fate::Until(usize::MAX) {
            // A journal keeps its order: what came before a durable change of names is durable too.
            let durable = changes.iter().rposition(|(change, durable)| *durable && change.is_of_names());
            let from = durable.map_or(0, |last| last + 1);
            self.names = Fate::Until(from + self.random.below(changes.len() - from + 1));
        }
    }

    /// What of a change that is not durable survives on a volume.
    pub fn of(&mut self, index: usize, change: &Change, volume: &Volume) -> Vec<Change> {
        let fate = if change.is_of_names() { self.names } else { self.data };
        let survives = match fate {
            Fate::Kept => true,
            Fate::Lost => false,
            Fate::Chance(percent) => self.random.percent(percent),
            Fate::Until(cut) => index < cut,
        };
        match change {
            _ if survives => vec![change.clone()],
            Change::Write { node, offset, bytes } if fate != Fate::Lost && self.random.percent(self.torn) => {
                let mut parts = self.sectors_of(*offset, bytes);
                parts.retain(|_| self.random.percent(50));
                let parts = parts.into_iter();
                let parts = parts.map(|(offset, bytes)| Change::Write { node: *node, offset, bytes: bytes.to_vec() });
                parts.collect()
            }
            Change::Write { node, offset, bytes } if fate != Fate::Lost && self.random.percent(30) => {
                let length = offset + bytes.len() as u64;
                let grows = length > volume.bytes(*node).len() as u64;
                if grows { vec![Change::SetLength { node: *node, length }] } else { Vec::new() }
            }
            _ => Vec::new(),
        }
    }

    /// The parts of a write that survive or are lost as one.
    fn sectors_of<'b>(&self, offset: u64, bytes: &'b [u8]) -> Vec<(u64, &'b [u8])> {
        let (mut place, mut rest, mut parts) = (offset, bytes, Vec::new());
        while !rest.is_empty() {
            let left = usize::try_from(self.sector - place % self.sector).unwrap();
            let (part, after) = rest.split_at(left.min(rest.len()));
            parts.push((place, part));
            place += part.len() as u64;
            rest = after;
        }
        parts
    }
}
