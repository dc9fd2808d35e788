//! The records of the packs that a plan has met, by the prefixes of their ids.
//!
//! The bases of a chunk lie in the packs in which the bases of its neighbours lie, so most of them are found here
//! without asking the index. Invariants: only records of packs that the index knows are here, and the number of them is
//! bounded; a prefix that two blobs among them share is left to the index. Another pack may still hold a blob with the
//! same prefix: then what is built on the wrong one does not hash to its id, and is read in another way.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use crate::format::pack::{Encoding, Footer};
use crate::id::{BlobPrefix, PackId};
use crate::store::blob_reader::Found;
use crate::store::index::RecordPlace;
use crate::store::packs::PackFile;

/// Records held at most, of 21 bytes each: as many as the table takes before it doubles to 2^18 places.
const MOST_RECORDS: usize = (1 << 17) / 8 * 7;

/// What was met so far.
#[derive(Debug, Default)]
pub(super) struct MetRecords {
    packs: Vec<MetPack>,
    numbers: HashMap<PackId, PackNumber>,
    records: HashMap<BlobPrefix, MetRecord>,
}

/// Number of a pack among those that were met.
type PackNumber = u32;

#[derive(Debug)]
struct MetPack {
    file: PackFile,
    footer: Arc<Footer>,
}

#[derive(Debug, Clone, Copy)]
enum MetRecord {
    At {
        pack: PackNumber,
        /// Number in the footer.
        record: u32,
    },
    /// Several blobs have this prefix.
    Ambiguous,
}

impl MetRecords {
    /// Notes all records of a pack, if there is room for them.
    pub(super) fn meet(&mut self, file: &PackFile, footer: &Arc<Footer>) {
        if self.records.len() + footer.records.len() > MOST_RECORDS || self.numbers.contains_key(&file.id) {
            return;
        }
        let pack = self.packs.len() as PackNumber;
        self.numbers.insert(file.id, pack);
        self.packs.push(MetPack { file: *file, footer: Arc::clone(footer) });
        for (record, new) in (0..).zip(&footer.records) {
            let met = MetRecord::At { pack, record };
            match self.records.entry(new.id.prefix()) {
                Entry::Vacant(vacant) => {
                    vacant.insert(met);
                }
                Entry::Occupied(mut known) => {
                    let of_known = find(&self.packs, *known.get());
                    if of_known.is_none_or(|known| known.record.id != new.id) {
                        known.insert(MetRecord::Ambiguous);
                    } else if new.encoding == Encoding::Whole {
                        known.insert(met);
                    }
                }
            }
        }
    }

    /// The record of the only blob with this prefix among those that were met, a whole one if one was.
    pub(super) fn find(&self, prefix: &BlobPrefix) -> Option<Found> {
        find(&self.packs, *self.records.get(prefix)?)
    }
}

fn find(packs: &[MetPack], met: MetRecord) -> Option<Found> {
    let MetRecord::At { pack, record } = met else { return None };
    let MetPack { file, footer } = packs.get(pack as usize)?;
    let place = RecordPlace { pack: *file, record };
    Some(Found { place, record: footer.records.get(record as usize)?.clone(), footer: Arc::clone(footer) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::pack::{BaseDistance, BlobKind, Record};
    use crate::id::BlobId;

    fn record(id: [u8; 32], encoding: Encoding) -> Record {
        let id = BlobId::from_bytes(id);
        Record { id, kind: BlobKind::Chunk, length: 1, frame: 0, offset: 0, payload_length: 1, encoding }
    }

    fn delta() -> Encoding {
        Encoding::Delta { bases: Vec::new(), id_table: false, distance: BaseDistance::One }
    }

    fn meet(met: &mut MetRecords, pack: u8, records: Vec<Record>) {
        let file = PackFile { id: PackId::from_bytes([pack; 32]), size: 1 };
        met.meet(&file, &Arc::new(Footer { frames: Vec::new(), records }));
    }

    fn prefix(byte: u8) -> BlobPrefix {
        BlobId::from_bytes([byte; 32]).prefix()
    }

    #[test]
    fn a_whole_record_goes_before_a_delta_whichever_was_met_first() {
        let mut met = MetRecords::default();
        meet(&mut met, 1, vec![record([7; 32], delta()), record([8; 32], Encoding::Whole)]);
        meet(&mut met, 2, vec![record([7; 32], Encoding::Whole), record([8; 32], delta())]);
        let found = |byte| met.find(&prefix(byte)).map(|found| (found.place.pack.id, found.place.record)).unwrap();
        assert_eq!(found(7), (PackId::from_bytes([2; 32]), 0));
        assert_eq!(found(8), (PackId::from_bytes([1; 32]), 1));
        assert!(met.find(&prefix(9)).is_none());
    }

    #[test]
    fn a_prefix_that_two_blobs_share_is_nobodys() {
        let mut met = MetRecords::default();
        let mut other = [7; 32];
        other[31] = 0;
        meet(&mut met, 1, vec![record([7; 32], Encoding::Whole)]);
        assert!(met.find(&prefix(7)).is_some());
        meet(&mut met, 2, vec![record(other, Encoding::Whole)]);
        assert!(met.find(&prefix(7)).is_none());
        meet(&mut met, 3, vec![record([7; 32], Encoding::Whole)]);
        assert!(met.find(&prefix(7)).is_none(), "not with a third one either");
    }

    #[test]
    fn the_records_held_are_bounded() {
        let mut met = MetRecords::default();
        let many = |pack: u8| {
            let id = |number: usize| {
                let mut id = [pack; 32];
                id[..4].copy_from_slice(&(number as u32).to_le_bytes());
                id
            };
            (0..40_000).map(|number| record(id(number), Encoding::Whole)).collect()
        };
        for pack in 0..5 {
            meet(&mut met, pack, many(pack));
        }
        assert_eq!((met.packs.len(), met.records.len()), (2, 80_000), "a third would be too many");
        assert!(met.records.capacity() <= MOST_RECORDS);
    }
}
