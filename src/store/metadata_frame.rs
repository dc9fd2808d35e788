//! Tables and list nodes of a snapshot, gathered until the ids of its chunks have their places in the pack.
//!
//! What changes in them is mostly ids of blobs in the same pack; such an id is copied out of the pack's own id table
//! (format-spec.md §9.2) instead of being stored a second time, and all else is a delta against the version before.

use std::collections::HashMap;

use super::base::Base;
use super::pack_builder::WaitingRecord;
use crate::chunk::delta::{self, Encoder, Run};
use crate::format::pack::{BaseDistance, BlobKind, Encoding, Record};
use crate::id::BlobId;

/// A table chunk or list node that waits.
#[derive(Debug)]
pub(super) struct WaitingBlob {
    pub(super) id: BlobId,
    pub(super) kind: BlobKind,
    pub(super) content: Vec<u8>,
    pub(super) base: Option<Base>,
}

/// The raw bytes of a frame and its records.
#[derive(Debug, Default)]
pub(super) struct RawFrame {
    pub(super) raw: Vec<u8>,
    pub(super) records: Vec<WaitingRecord>,
}

impl RawFrame {
    /// Appends a record with its payload.
    pub(super) fn push(&mut self, record: WaitingRecord, payload: &[u8]) {
        self.raw.extend_from_slice(payload);
        self.records.push(record);
    }
}

/// Where ids stand in the id table of the pack being written.
struct IdTable(HashMap<[u8; BlobId::LEN], u32>);

/// How tables and list nodes are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetadataRecords {
    /// Whole.
    Whole,
    /// As deltas against their previous versions and the ids of the pack.
    Deltas,
}

/// Encodes blobs for a pack that has these records already.
pub(super) fn encode(blobs: Vec<WaitingBlob>, records: &[Record], how: MetadataRecords) -> RawFrame {
    let mut table = IdTable((0..).zip(records).map(|(number, record)| (*record.id.as_bytes(), number)).collect());
    let mut frame = RawFrame::default();
    for (number, blob) in (records.len() as u32..).zip(blobs) {
        let delta = if how == MetadataRecords::Deltas { encode_one(&blob, &table) } else { None };
        let (payload, encoding) = delta.unwrap_or_else(|| (blob.content.clone(), Encoding::Whole));
        let (length, payload_length) = (blob.content.len() as u32, payload.len() as u32);
        frame.push(WaitingRecord { id: blob.id, kind: blob.kind, length, payload_length, encoding }, &payload);
        table.0.insert(*blob.id.as_bytes(), number);
    }
    frame
}

/// An id that stands in the id table.
struct KnownId {
    start: usize,
    number: u32,
}

fn encode_one(blob: &WaitingBlob, table: &IdTable) -> Option<(Vec<u8>, Encoding)> {
    let content = blob.content.as_slice();
    let runs = match &blob.base {
        Some(base) => delta::differences(&base.bytes, content),
        None => vec![Run { start: 0, length: content.len() }],
    };
    let known = table.find(content, &runs);
    let bases: Vec<_> = blob.base.iter().map(|base| base.id.prefix()).collect();
    let (id_table, table_number) = (!known.is_empty(), bases.len() as u32);
    let mut encoder = Encoder::default();
    let mut known = known.into_iter().peekable();
    for run in runs {
        // An id that shares its first bytes with the one that stood there begins before the run of differences.
        while encoder.written() < run.end() {
            let at = encoder.written();
            let next = known.peek().map_or(usize::MAX, |id| id.start);
            if at < run.start.min(next) {
                encoder.copy(0, at as u32, (run.start.min(next) - at) as u32);
            } else if at == next {
                let number = known.next().map_or(0, |id| id.number);
                encoder.copy(table_number, number * BlobId::LEN as u32, BlobId::LEN as u32);
            } else {
                encoder.literal(content.get(at..run.end().min(next))?);
            }
        }
    }
    let at = encoder.written();
    encoder.copy(0, at as u32, (content.len() - at) as u32);
    let payload = encoder.finish();
    let distance = blob.base.as_ref().map_or(BaseDistance::One, |base| base.distance);
    let worth = (id_table || !bases.is_empty()) && delta::pays(payload.len(), bases.len(), content.len());
    worth.then_some((payload, Encoding::Delta { bases, id_table, distance }))
}

impl IdTable {
    /// The known ids that overlap the runs, ascending and apart from each other.
    fn find(&self, content: &[u8], runs: &[Run]) -> Vec<KnownId> {
        let mut found: Vec<KnownId> = Vec::new();
        for run in runs {
            let free = found.last().map_or(0, |id| id.start + BlobId::LEN);
            let mut start = (run.start + 1).saturating_sub(BlobId::LEN).max(free);
            while start < run.end() {
                let window = content.get(start..).and_then(|rest| rest.first_chunk::<{ BlobId::LEN }>());
                let Some(window) = window else { break };
                match self.0.get(window) {
                    Some(&number) => {
                        found.push(KnownId { start, number });
                        start += BlobId::LEN;
                    }
                    None => start += 1,
                }
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::delta::apply;

    fn id(number: u32) -> BlobId {
        BlobId::of_chunk(&number.to_le_bytes())
    }

    fn ids(numbers: impl Iterator<Item = u32>) -> Vec<u8> {
        numbers.flat_map(|number| *id(number).as_bytes()).collect()
    }

    fn records(count: u32) -> Vec<Record> {
        let record = |number| Record {
            id: id(number),
            kind: BlobKind::Chunk,
            length: 1,
            frame: 0,
            offset: 0,
            payload_length: 1,
            encoding: Encoding::Whole,
        };
        (0..count).map(record).collect()
    }

    fn waiting(content: Vec<u8>, base: Option<&[u8]>) -> WaitingBlob {
        let facts = crate::store::chain::ChainFacts::whole(id(999));
        let base = base.map(|bytes| Base { id: id(999), bytes: bytes.into(), distance: BaseDistance::One, facts });
        WaitingBlob { id: BlobId::of_list_node(&content), kind: BlobKind::ListNode, content, base }
    }

    #[test]
    fn a_changed_id_costs_a_few_bytes_and_comes_back() {
        let old = [b"head".to_vec(), ids(1000..1128)].concat();
        let mut new = old.clone();
        for (slot, number) in [(3, 7_u32), (4, 8), (90, 2)] {
            new[4 + 32 * slot..][..32].copy_from_slice(id(number).as_bytes());
        }
        let frame = encode(vec![waiting(new.clone(), Some(&old))], &records(20), MetadataRecords::Deltas);
        let Encoding::Delta { bases, id_table: true, .. } = &frame.records[0].encoding else { panic!() };
        assert_eq!(bases, &[id(999).prefix()]);
        assert!(frame.raw.len() < 40, "{} bytes", frame.raw.len());
        let table = ids(0..20);
        assert_eq!(apply(&frame.raw, &[&old, &table], new.len()).unwrap(), new);
    }

    #[test]
    fn a_first_node_is_made_of_the_id_table_alone_and_later_blobs_may_refer_to_earlier_ones() {
        let first = ids(0..20);
        let second = [ids(0..1), BlobId::of_list_node(&first).as_bytes().to_vec(), ids(1..9)].concat();
        let frame = encode(
            vec![waiting(first.clone(), None), waiting(second.clone(), None)],
            &records(20),
            MetadataRecords::Deltas,
        );
        let table = [ids(0..20), BlobId::of_list_node(&first).as_bytes().to_vec()].concat();
        let mut offset = 0;
        for (record, expected) in frame.records.iter().zip([first, second]) {
            assert!(matches!(&record.encoding, Encoding::Delta { bases, id_table: true, .. } if bases.is_empty()));
            let payload = &frame.raw[offset..offset + record.payload_length as usize];
            assert_eq!(apply(payload, &[&table], expected.len()).unwrap(), expected);
            offset += record.payload_length as usize;
        }
        assert!(offset < 60);
    }

    #[test]
    fn what_nothing_is_known_of_stays_whole() {
        let frame = encode(
            vec![waiting(vec![5; 10], None), waiting(ids(500..600), Some(b"short"))],
            &records(3),
            MetadataRecords::Deltas,
        );
        assert!(frame.records.iter().all(|record| record.encoding == Encoding::Whole));
        assert_eq!(frame.raw.len(), 10 + 3200);
    }
}
