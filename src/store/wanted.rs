//! Blobs that are looked for: lost ones, which a live source may still hold.
//!
//! Blobs are known by the first eight bytes of their ids, as deltas name their bases; one that is stored by mistake
//! (one chance in a million among five million blobs) costs space and nothing else. The set lies in a temporary file.

use parking_lot::Mutex;
use rusqlite::Connection;

use super::temporary::{self, failed, prepared};
use crate::error::Result;
use crate::id::{BlobId, BlobPrefix};

/// What is done with a blob that is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnFound {
    /// It is counted.
    Count,
    /// It is counted and stored.
    Store,
}

/// The set, shared by whoever looks.
#[derive(Debug)]
pub struct WantedBlobs {
    database: Mutex<Connection>,
    finding: OnFound,
}

impl WantedBlobs {
    /// Nothing is looked for yet.
    ///
    /// # Errors
    /// When no temporary file can be made.
    pub fn new(finding: OnFound) -> Result<Self> {
        let schema =
            "CREATE TABLE wanted(prefix BLOB PRIMARY KEY, found INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID; BEGIN;";
        Ok(Self { database: Mutex::new(temporary::database(schema)?), finding })
    }

    /// Looks for one more.
    ///
    /// # Errors
    /// When the temporary file cannot be written.
    pub fn add(&self, blob: &BlobPrefix) -> Result<()> {
        let database = self.database.lock();
        let mut insert = prepared(&database, "INSERT OR IGNORE INTO wanted(prefix) VALUES(?)")?;
        insert.execute([blob.as_bytes()]).map(|_| ()).map_err(failed("write"))
    }

    /// Whether a blob is looked for, was not found before, and shall be stored.
    pub(super) fn offer(&self, id: &BlobId) -> bool {
        let database = self.database.lock();
        let update = prepared(&database, "UPDATE wanted SET found = 1 WHERE prefix = ? AND found = 0");
        // What cannot be looked up stays lost, which is told in the end.
        let found = update.is_ok_and(|mut update| update.execute([id.prefix().as_bytes()]).is_ok_and(|rows| rows > 0));
        found && self.finding == OnFound::Store
    }

    /// How many are looked for.
    ///
    /// # Errors
    /// When the temporary file cannot be read.
    pub fn count(&self) -> Result<u64> {
        self.number("SELECT COUNT(*) FROM wanted")
    }

    /// How many were found.
    ///
    /// # Errors
    /// When the temporary file cannot be read.
    pub fn found(&self) -> Result<u64> {
        self.number("SELECT COUNT(*) FROM wanted WHERE found")
    }

    fn number(&self, sql: &str) -> Result<u64> {
        let database = self.database.lock();
        let number = prepared(&database, sql)?.query_row([], |row| row.get::<_, i64>(0)).map_err(failed("read"))?;
        Ok(number.cast_unsigned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_looked_for_is_found_once() {
        let [a, b] = [b"a", b"b"].map(|content| BlobId::of_chunk(content));
        for (finding, stored) in [(OnFound::Store, true), (OnFound::Count, false)] {
            let wanted = WantedBlobs::new(finding).unwrap();
            wanted.add(&a.prefix()).unwrap();
            wanted.add(&a.prefix()).unwrap();
            assert!(!wanted.offer(&b));
            assert_eq!(wanted.offer(&a), stored);
            assert!(!wanted.offer(&a), "it is stored only once");
            assert_eq!((wanted.count().unwrap(), wanted.found().unwrap()), (1, 1));
        }
    }
}
