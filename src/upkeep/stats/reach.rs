//! Walking what snapshots reach, for the ledger.
//!
//! Invariant: in one direction every distinct list node and table is read once, however many snapshots share it: what
//! is below one that was reached before was reached then, by the same or an earlier needer of that direction.

use crate::error::Result;
use crate::format::content::{Content, Root};
use crate::format::manifest::SourceRecord;
use crate::format::table::EntryKind;
use crate::progress::Progress;
use crate::store::BlobReader;
use crate::store::file_table::TableReader;
use crate::store::pieces::{Descent, Piece, Pieces};
use crate::upkeep::ledger::{Direction, Ledger, Needer, Reached};

/// A walk over many snapshots in one direction.
pub(super) struct Walk<'a> {
    pub(super) ledger: &'a Ledger,
    pub(super) reader: BlobReader<'a>,
    pub(super) direction: Direction,
    pub(super) progress: &'a dyn Progress,
}

impl Walk<'_> {
    /// Reaches all of a captured source; the text names what cannot be read, which is then left out.
    pub(super) fn source(&mut self, source: &SourceRecord, needer: Needer) -> Result<Vec<String>> {
        let mut faults = Vec::new();
        // A table in one chunk may have the bytes of a file that was reached: only nodes tell a table that was walked.
        if let Root::Node { id, .. } = source.table.root
            && self.ledger.pass(&id)? == Reached::Before
        {
            return Ok(faults);
        }
        let mut table = TableReader::of(&source.table);
        let mut blobs = Vec::new();
        loop {
            let entry = table.next(&mut self.reader, |blob| blobs.push(*blob))?;
            for blob in blobs.drain(..) {
                self.ledger.reach(&blob, self.direction, needer)?;
            }
            match entry {
                Ok(Some(entry)) => {
                    if let EntryKind::File(file) = &entry.kind {
                        let path = String::from_utf8_lossy(&entry.path).escape_debug().to_string();
                        let fault = self.content(&file.content, needer)?;
                        faults.extend(fault.map(|fault| format!("{}/{path}: {fault}", source.name)));
                    }
                }
                Ok(None) => return Ok(faults),
                Err(fault) => {
                    faults.push(format!("{}: {fault}", source.name));
                    return Ok(faults);
                }
            }
        }
    }

    fn content(&mut self, content: &Content, needer: Needer) -> Result<Option<String>> {
        let Self { ledger, reader, direction, progress } = self;
        let mut pieces = Pieces::of(content);
        let mut hidden = 0;
        let descend = |node: &_| match ledger.reach(node, *direction, needer)? {
            Reached::Now => Ok(Descent::Below),
            Reached::Before => Ok(Descent::Past),
        };
        while let Some(piece) = pieces.next_below(reader, descend)? {
            progress.check()?;
            match piece {
                Piece::Chunk { id, length, .. } => {
                    ledger.reach(&id, *direction, needer)?;
                    progress.advance(length as u64);
                }
                Piece::Hole { .. } => {}
                Piece::Hidden { length, .. } => hidden += length,
            }
        }
        Ok((hidden > 0).then(|| format!("what {hidden} of its bytes need cannot be known")))
    }
}
