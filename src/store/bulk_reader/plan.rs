//! Which records many chunks need, and where they lie: from footers alone.
//!
//! Invariants: each blob stands in a plan once; a plan holds a bounded number of them; what cannot be planned simply
//! (several blobs with one prefix, a chain beyond the limits, a record that is not there) is unplanned, and its reader
//! looks for another way.

use std::collections::HashMap;

use super::met::MetRecords;
use crate::error::Result;
use crate::format::limits::{CHAIN_DEPTH, CHAIN_RECORDS};
use crate::format::pack::{BlobKind, Encoding, Frame};
use crate::id::{BlobId, BlobPrefix, PackId};
use crate::store::blob_reader::{BlobReader, Found};
use crate::store::chain::ChainFacts;
use crate::store::index::{Lookups, OnlyMatch};
use crate::store::staged::Span;

/// Blobs of one plan, of about 400 bytes each with the tables beside, from which on it takes no more than what is being
/// looked up together. A little less than 2^16, at which the memory for them would double.
const MOST_NODES: usize = 60_000;

/// Records of a chain from which on a close count counts them one by one: bases of bases are often the same ones.
const MANY: u32 = 64;

/// How the records of a chain are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum RecordCount {
    /// Closely, for who decides what is built on it.
    #[default]
    Close,
    /// As far as the format's limit demands: shared ones may be counted several times below it.
    ToTheLimit,
}

impl RecordCount {
    /// The sum over all bases from which on shared records are counted once.
    fn tolerated(self) -> u32 {
        match self {
            Self::Close => MANY,
            Self::ToTheLimit => CHAIN_RECORDS as u32,
        }
    }
}

/// Number of a blob in a plan.
pub(super) type NodeNumber = u32;

/// A blob that is needed.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) id: BlobId,
    pub(super) kind: BlobKind,
    /// Bytes of the blob.
    pub(super) length: u32,
    pub(super) record: PayloadPlace,
    pub(super) form: Form,
    /// Whether it was asked for itself.
    pub(super) is_wanted: bool,
    /// The whole record that it needs, if it needs no other: for a whole one itself.
    pub(super) rests_on: Option<NodeNumber>,
    /// Where its payload was staged.
    pub(super) payload: Option<Payload>,
    /// What its chain is like.
    pub(super) facts: ChainFacts,
}

/// How a blob is recorded.
#[derive(Debug)]
pub(super) enum Form {
    Whole,
    Delta { bases: Box<[NodeNumber]> },
    Unplanned,
}

/// As much of a record's payload as was staged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Payload {
    pub(super) span: Span,
    /// The byte of the payload that comes first there.
    pub(super) start: u32,
}

/// Where a record's payload lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PayloadPlace {
    pub(super) pack: PackId,
    pub(super) frame: Frame,
    pub(super) start: u32,
    pub(super) length: u32,
}

/// Where a plan learns of records.
pub(super) struct Source<'s, 'r> {
    pub(super) index: &'s Lookups<'s>,
    pub(super) footers: &'s mut BlobReader<'r>,
}

/// The records that are needed next.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) nodes: Vec<Node>,
    numbers: HashMap<BlobId, NodeNumber>,
    prefixes: HashMap<BlobPrefix, Option<NodeNumber>>,
    met: MetRecords,
    record_count: RecordCount,
    /// By number: in which count a node was last met.
    counted: Vec<u32>,
    /// Counts so far.
    count: u32,
}

impl Plan {
    /// An empty one.
    pub(super) fn counting(record_count: RecordCount) -> Self {
        Self { record_count, ..Self::default() }
    }

    /// What was planned, leaving an empty plan that counts likewise.
    pub(super) fn take(&mut self) -> Self {
        std::mem::replace(self, Self::counting(self.record_count))
    }

    pub(super) fn is_full(&self) -> bool {
        self.nodes.len() >= MOST_NODES
    }

    pub(super) fn node(&self, number: NodeNumber) -> Option<&Node> {
        self.nodes.get(number as usize)
    }

    /// Plans for a chunk of `length` bytes; `false` if it is to be read in another way.
    pub(super) fn want(&mut self, id: &BlobId, length: u64, source: &mut Source<'_, '_>) -> Result<bool> {
        let Some(number) = self.chunk_number(id, source)? else { return Ok(false) };
        let Some(node) = self.nodes.get_mut(number as usize) else { return Ok(false) };
        let fits = node.kind == BlobKind::Chunk && u64::from(node.length) == length;
        node.is_wanted |= fits;
        Ok(fits)
    }

    /// A chunk that can be planned for, with all that it needs.
    pub(super) fn chunk(&mut self, id: &BlobId, source: &mut Source<'_, '_>) -> Result<Option<&Node>> {
        let number = self.chunk_number(id, source)?;
        Ok(number.and_then(|number| self.node(number)).filter(|node| node.kind == BlobKind::Chunk))
    }

    /// The number of a chunk that can be planned for, with all that it needs.
    fn chunk_number(&mut self, id: &BlobId, source: &mut Source<'_, '_>) -> Result<Option<NodeNumber>> {
        if let Some(&number) = self.numbers.get(id) {
            return Ok(self.planned(number));
        }
        let places = source.index.places(id)?;
        let records = source.footers.records(id, Some(BlobKind::Chunk), &places)?;
        self.number_of(records.into_iter().next(), 0, source)
    }

    /// The number of the base with this prefix.
    fn base_number(
        &mut self,
        prefix: &BlobPrefix,
        depth: usize,
        source: &mut Source<'_, '_>,
    ) -> Result<Option<NodeNumber>> {
        if let Some(&known) = self.prefixes.get(prefix) {
            return Ok(known);
        }
        let found = match self.met.find(prefix) {
            Some(found) => Some(found),
            None => match source.index.only_one_with_prefix(prefix)? {
                Some(OnlyMatch { id, places }) => source.footers.records(&id, None, &places)?.into_iter().next(),
                None => None,
            },
        };
        let number = self.number_of(found, depth, source)?;
        self.prefixes.insert(*prefix, number);
        Ok(number)
    }

    /// The number of a record's blob, if it can be planned for with all that it needs.
    fn number_of(
        &mut self,
        found: Option<Found>,
        depth: usize,
        source: &mut Source<'_, '_>,
    ) -> Result<Option<NodeNumber>> {
        let Some(found) = found else { return Ok(None) };
        let number = match self.numbers.get(&found.record.id) {
            Some(&number) => number,
            None if depth > CHAIN_DEPTH => return Ok(None),
            None => self.add(&found, depth, source)?,
        };
        Ok(self.planned(number))
    }

    /// The number, unless the node is unplanned.
    fn planned(&self, number: NodeNumber) -> Option<NodeNumber> {
        self.node(number).filter(|node| !matches!(node.form, Form::Unplanned)).map(|_| number)
    }

    fn add(&mut self, found: &Found, depth: usize, source: &mut Source<'_, '_>) -> Result<NodeNumber> {
        let number = self.nodes.len() as NodeNumber;
        let record = &found.record;
        self.met.meet(&found.place.pack, &found.footer);
        self.numbers.insert(record.id, number);
        // Until its bases are known it is unplanned, and so is whoever comes back to it on a circle.
        self.nodes.push(Node {
            id: record.id,
            kind: record.kind,
            length: record.length,
            record: PayloadPlace {
                pack: found.place.pack.id,
                frame: found.footer.frames.get(record.frame as usize).copied().unwrap_or_default(),
                start: record.offset,
                length: record.payload_length,
            },
            form: Form::Unplanned,
            is_wanted: false,
            rests_on: matches!(record.encoding, Encoding::Whole).then_some(number),
            payload: None,
            facts: ChainFacts::whole(record.id),
        });
        let form = match &record.encoding {
            Encoding::Whole => Form::Whole,
            Encoding::Delta { id_table: true, .. } => Form::Unplanned,
            Encoding::Delta { bases, .. } => self.bases_of(bases, depth, source)?,
        };
        if let (Form::Delta { bases }, Encoding::Delta { distance, .. }) = (&form, &record.encoding) {
            let known = || bases.iter().filter_map(|base| self.node(*base));
            let facts: Vec<_> = known().map(|base| base.facts).collect();
            let root = known().next().and_then(|base| base.rests_on);
            let rests_on = root.filter(|_| known().all(|base| base.rests_on == root));
            let mut facts = ChainFacts::delta(record.id, *distance, &facts);
            if facts.records > self.record_count.tolerated() {
                facts = facts.with_records(self.distinct_records(bases));
            }
            let within_limits = facts.depth as usize <= CHAIN_DEPTH && facts.records as usize <= CHAIN_RECORDS;
            if let Some(node) = self.nodes.get_mut(number as usize).filter(|_| within_limits) {
                (node.facts, node.rests_on, node.form) = (facts, rests_on, form);
            }
        } else if let Some(node) = self.nodes.get_mut(number as usize) {
            node.form = form;
        }
        Ok(number)
    }

    /// How many distinct records a blob with these bases needs, itself included; counted until they are too many.
    fn distinct_records(&mut self, bases: &[NodeNumber]) -> u32 {
        self.count += 1;
        self.counted.resize(self.nodes.len(), 0);
        let (mut distinct, mut open) = (1, bases.to_vec());
        while let Some(number) = open.pop() {
            let count = self.counted.get_mut(number as usize).map(|last| std::mem::replace(last, self.count));
            if count.is_none_or(|last| last == self.count) {
                continue;
            }
            distinct += 1;
            if distinct as usize > CHAIN_RECORDS {
                break;
            }
            if let Some(Form::Delta { bases }) = self.node(number).map(|node| &node.form) {
                open.extend(bases);
            }
        }
        distinct
    }

    fn bases_of(&mut self, prefixes: &[BlobPrefix], depth: usize, source: &mut Source<'_, '_>) -> Result<Form> {
        let mut bases = Vec::with_capacity(prefixes.len());
        for prefix in prefixes {
            match self.base_number(prefix, depth + 1, source)? {
                Some(base) => bases.push(base),
                None => return Ok(Form::Unplanned),
            }
        }
        Ok(Form::Delta { bases: bases.into() })
    }
}
