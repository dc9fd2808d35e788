//! Rows on their way into the index, in the order of the table.
//!
//! Footers name blobs in the order of packs, and the table has them in the order of ids: added as they come, each of
//! ten million rows would seek a page of its own. So the smallest rows beyond those already added are picked out of all
//! footers, as many as memory allows, and added in order; then the footers are read once more for the next ones.
//! Invariant: whatever the footers hold, each pass adds what the one before it left out, and memory is bounded.

use crate::format::pack::Footer;
use crate::id::{BlobId, PackId};

/// Rows in memory: 48 MB.
const MOST: usize = 1_000_000;

/// One row of the table, ordered as the table is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Row {
    pub(super) id: [u8; BlobId::LEN],
    pub(super) pack: i64,
    pub(super) record: u32,
}

/// The key of a pack's rows: the first eight bytes of its id.
pub(super) fn key_of(pack: &PackId) -> i64 {
    let (first, _) = pack.as_bytes().split_first_chunk::<8>().unwrap_or((&[0; 8], &[]));
    i64::from_le_bytes(*first)
}

/// Whether rows are left for another pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    None,
    Some,
}

/// The smallest of the rows that are offered, beyond those of earlier passes.
pub(super) struct SmallestRows {
    most: usize,
    rows: Vec<Row>,
    /// The last row of the earlier passes.
    after: Option<Row>,
    /// A row that this pass does not take, nor any greater one.
    bound: Option<Row>,
}

impl SmallestRows {
    pub(super) fn new() -> Self {
        Self::of_at_most(MOST)
    }

    fn of_at_most(most: usize) -> Self {
        Self { most, rows: Vec::new(), after: None, bound: None }
    }

    /// Offers all rows of a pack.
    pub(super) fn offer(&mut self, pack: &PackId, footer: &Footer) {
        let pack = key_of(pack);
        for (record, known) in (0..).zip(&footer.records) {
            self.offer_row(Row { id: *known.id.as_bytes(), pack, record });
        }
    }

    fn offer_row(&mut self, row: Row) {
        if self.after.is_some_and(|after| row <= after) || self.bound.is_some_and(|bound| row >= bound) {
            return;
        }
        if self.rows.len() == self.most {
            let kept = self.most - self.most / 4;
            let (_, bound, _) = self.rows.select_nth_unstable(kept);
            self.bound = Some(*bound);
            self.rows.truncate(kept);
            return self.offer_row(row);
        }
        self.rows.push(row);
    }

    /// Ends a pass: hands its rows out in order, and says whether there must be another one.
    pub(super) fn end_pass<T>(&mut self, add: impl FnOnce(&[Row], Left) -> T) -> T {
        let left = if self.bound.take().is_some() { Left::Some } else { Left::None };
        self.rows.sort_unstable();
        let added = add(&self.rows, left);
        self.after = self.rows.last().copied().or(self.after);
        self.rows.clear();
        added
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(number: u64) -> Row {
        let id = *BlobId::of_chunk(&number.to_le_bytes()).as_bytes();
        Row { id, pack: number.cast_signed() % 7, record: 0 }
    }

    #[test]
    fn passes_over_any_rows_add_each_once_and_in_order_within_the_limit() {
        let all: Vec<Row> = (0..1000).map(row).chain([row(5), row(5)]).collect();
        for most in [4, 10, 300, 1002, 5000] {
            let mut smallest = SmallestRows::of_at_most(most);
            let mut added = Vec::new();
            let mut left = Left::Some;
            let mut passes = 0;
            while left == Left::Some {
                all.iter().for_each(|row| smallest.offer_row(*row));
                assert!(smallest.rows.len() <= most);
                left = smallest.end_pass(|rows, left| {
                    added.extend_from_slice(rows);
                    left
                });
                passes += 1;
            }
            let mut expected = all.clone();
            expected.sort();
            added.dedup();
            expected.dedup();
            assert_eq!(added, expected, "{most}");
            assert_eq!(passes > 1, most < all.len(), "{most}");
        }
    }
}
