//! Chosen deltas as links of chains: what each continues, and how long the way to a whole record is.
//!
//! Invariant: links are numbered in the order in which they were chosen, so what a link needs has smaller numbers.
//! Along first bases, links of versions of one chunk or list node form a family, named by its root: the blob stored
//! whole.

use rusqlite::{OptionalExtension, Row, params};

use super::Catalogue;
use crate::error::Result;
use crate::id::BlobId;
use crate::store::temporary::{failed, prepared};

/// A chosen delta.
#[derive(Debug, Clone, Copy)]
pub(super) struct Link {
    pub(super) id: BlobId,
    /// The first base; a delta of its pack's ids alone has none.
    pub(super) first: Option<BlobId>,
    /// The end of the way along first bases.
    pub(super) root: Option<BlobId>,
    /// Whether a snapshot reaches a blob on that way.
    pub(super) covered: bool,
    pub(super) length: ChainLength,
}

/// How much there is to decode for one blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ChainLength {
    /// Deltas on the longest way to a whole record.
    pub(super) depth: u32,
    /// Records needed, shared ones counted once for each way to them.
    pub(super) records: u32,
}

impl ChainLength {
    pub(super) const WHOLE: Self = Self { depth: 0, records: 1 };

    /// Of a delta whose bases have these.
    pub(super) fn after(bases: impl IntoIterator<Item = Self>) -> Self {
        bases.into_iter().fold(Self { depth: 1, records: 1 }, |length, base| Self {
            depth: length.depth.max(base.depth.saturating_add(1)),
            records: length.records.saturating_add(base.records),
        })
    }

    /// Whether what needs `other` may need this instead, without needing more.
    pub(super) fn replaces(&self, other: &Self) -> bool {
        self.depth <= other.depth && self.records <= other.records
    }
}

impl Link {
    /// Of a delta with these bases, which have been chosen.
    pub(super) fn of(id: BlobId, bases: &[BlobId], catalogue: &Catalogue) -> Result<Self> {
        let mut lengths = Vec::with_capacity(bases.len());
        for base in bases {
            lengths.push(catalogue.chain_length(base)?);
        }
        let first = bases.first().copied();
        let length = ChainLength::after(lengths);
        let Some(before) = first else { return Ok(Self { id, first, root: None, covered: false, length }) };
        let link = catalogue.link(&before)?;
        let covered = link.is_some_and(|link| link.covered) || catalogue.is_reached(&before)?;
        let root = link.map_or(first, |link| link.root);
        Ok(Self { id, first, root, covered, length })
    }

    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        let id = |bytes: Option<[u8; BlobId::LEN]>| bytes.map(BlobId::from_bytes);
        let length = ChainLength { depth: row.get(4)?, records: row.get(5)? };
        let covered = row.get(3)?;
        Ok(Self { id: BlobId::from_bytes(row.get(0)?), first: id(row.get(1)?), root: id(row.get(2)?), covered, length })
    }
}

impl Catalogue {
    pub(super) fn add_link(&self, link: &Link) -> Result<()> {
        let bytes = |id: &Option<BlobId>| id.map(|id| *id.as_bytes());
        let sql = "INSERT INTO links(id, first, root, covered, depth, records) VALUES(?, ?, ?, ?, ?, ?)";
        prepared(&self.database, sql)?
            .execute(params![
                link.id.as_bytes(),
                bytes(&link.first),
                bytes(&link.root),
                link.covered,
                link.length.depth,
                link.length.records
            ])
            .map(|_| ())
            .map_err(failed("write"))
    }

    /// The chosen delta of a blob; `None` where it is whole or nothing was chosen.
    pub(super) fn link(&self, id: &BlobId) -> Result<Option<Link>> {
        let sql = "SELECT id, first, root, covered, depth, records FROM links WHERE id = ?";
        prepared(&self.database, sql)?.query_row([id.as_bytes()], Link::read).optional().map_err(failed("read"))
    }

    /// The length of the chain behind the chosen record of a blob.
    pub(super) fn chain_length(&self, id: &BlobId) -> Result<ChainLength> {
        Ok(self.link(id)?.map_or(ChainLength::WHOLE, |link| link.length))
    }
}
