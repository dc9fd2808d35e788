//! Blobs whose every record is a delta with a base that no pack holds any more.
//!
//! A pack that vanished, or cannot be read, takes with it what other packs build on. Nobody may take such a blob for
//! stored: a snapshot that reused it would be lost from the start. They are found from footers alone, when a pack is
//! gone and when packs are adopted, and the index then distrusts them until they are stored again. Invariant: a blob
//! with one record that leads to bases that are there is left alone. Memory is bounded: what was noted lies in a
//! temporary file.

use std::collections::HashMap;

use rusqlite::{Connection, params};

use super::index::Index;
use super::packs::{self, PackFile};
use super::temporary::{self, failed, prepared};
use crate::disk::Storage;
use crate::error::Result;
use crate::format::header::RepositoryHeader;
use crate::format::pack::{Encoding, Footer};
use crate::id::{BlobId, BlobPrefix, PackId};

/// Ids looked at that begin with the prefix of a base; there is almost always one.
const PREFIX_MATCHES: usize = 16;

/// Has the index distrust all blobs of these packs that lack bases.
///
/// # Errors
/// I/O errors; errors of the index.
pub(super) fn distrust(
    index: &Index,
    storage: &dyn Storage,
    header: &RepositoryHeader,
    packs: &[PackFile],
) -> Result<()> {
    if packs.is_empty() {
        return Ok(());
    }
    let noted = Noted::new()?;
    // What lacks a base may be a base itself.
    loop {
        let mut lost = Vec::new();
        for pack in packs {
            let footer = match packs::read_footer(storage, header, pack) {
                Ok(footer) => footer,
                Err(error) if error.is_of_one_file() => continue,
                Err(error) => return Err(error),
            };
            for number in lacking_bases(index, &footer)? {
                let Some(record) = footer.records.get(number as usize) else { continue };
                if noted.note(&record.id, &pack.id, number)? {
                    let is_last = noted.count(&record.id)? >= index.places(&record.id)?.len() as i64;
                    lost.extend(is_last.then(|| record.id.prefix()));
                }
            }
        }
        if lost.is_empty() {
            return Ok(());
        }
        index.distrust(&lost)?;
    }
}

/// The numbers of the records that lack bases.
fn lacking_bases(index: &Index, footer: &Footer) -> Result<Vec<u32>> {
    // Neighbours mostly have the same bases.
    let mut known: HashMap<BlobPrefix, bool> = HashMap::new();
    index.reading(|lookups| {
        let mut found = Vec::new();
        for (number, record) in (0..).zip(&footer.records) {
            let Encoding::Delta { bases, .. } = &record.encoding else { continue };
            for base in bases {
                let there = match known.get(base) {
                    Some(there) => *there,
                    None => {
                        let there = lookups.contains_any(base, PREFIX_MATCHES)?;
                        known.insert(*base, there);
                        there
                    }
                };
                if !there {
                    found.push(number);
                    break;
                }
            }
        }
        Ok(found)
    })
}

/// Records that lack bases.
struct Noted {
    database: Connection,
}

impl Noted {
    fn new() -> Result<Self> {
        let schema =
            "CREATE TABLE noted(id BLOB, pack BLOB, record INTEGER, PRIMARY KEY(id, pack, record)) WITHOUT ROWID;";
        Ok(Self { database: temporary::database(schema)? })
    }

    /// Whether it was not noted before.
    fn note(&self, id: &BlobId, pack: &PackId, record: u32) -> Result<bool> {
        let added = prepared(&self.database, "INSERT OR IGNORE INTO noted VALUES(?, ?, ?)")?
            .execute(params![id.as_bytes(), pack.as_bytes(), record])
            .map_err(failed("write"))?;
        Ok(added > 0)
    }

    fn count(&self, id: &BlobId) -> Result<i64> {
        prepared(&self.database, "SELECT count(*) FROM noted WHERE id = ?")?
            .query_row([id.as_bytes()], |row| row.get(0))
            .map_err(failed("read"))
    }
}
