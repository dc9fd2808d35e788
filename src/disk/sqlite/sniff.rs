//! What a file is, by its first bytes, before SQLite is let at it.
//!
//! <https://www.sqlite.org/fileformat2.html#the_database_header>: 16 bytes of magic; byte 19 is 2 if the database is in
//! WAL mode. SQLite itself would take an empty file for an empty database and delete the WAL beside it.

use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::super::held::{SourceOpen, open_source};
use crate::error::{Error, Result};

const MAGIC: &[u8] = b"SQLite format 3\0";
/// The byte of the header that names the lowest version able to read the file.
const READ_VERSION: usize = 19;
const READ_VERSION_WAL: u8 = 2;

/// How a database's header says that it is journalled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderMode {
    /// With a rollback journal.
    Rollback,
    /// With a write-ahead log.
    Wal,
}

/// What a file is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sniffed {
    /// No bytes at all.
    Empty,
    /// It begins as a SQLite database does.
    Sqlite(HeaderMode),
    /// Another kind of file, beginning with these bytes (at most 16).
    Other(Vec<u8>),
    /// SQLite has it open in this process, so that it cannot be looked at, nor needs to be.
    HeldBySqlite,
}

/// Looks at the first bytes of a regular file.
pub fn sniff(path: &Path) -> Result<Sniffed> {
    let file = match open_source(path)? {
        SourceOpen::File(file) => file,
        SourceOpen::HeldBySqlite => return Ok(Sniffed::HeldBySqlite),
    };
    let mut start = Vec::new();
    let mut buffer = [0; READ_VERSION + 1];
    while start.len() < buffer.len() {
        let read = match file.file().read_at(&mut buffer, start.len() as u64) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Error::io("read", path)(error)),
        };
        start.extend(buffer.iter().take(read.min(buffer.len() - start.len())));
    }
    Ok(match start.get(READ_VERSION) {
        _ if start.is_empty() => Sniffed::Empty,
        Some(&version) if start.starts_with(MAGIC) => {
            Sniffed::Sqlite(if version == READ_VERSION_WAL { HeaderMode::Wal } else { HeaderMode::Rollback })
        }
        None if start.starts_with(MAGIC) => Sniffed::Sqlite(HeaderMode::Rollback),
        _ => Sniffed::Other(start.into_iter().take(MAGIC.len()).collect()),
    })
}

/// Whether a regular file is a SQLite database by its magic.
pub fn is_sqlite(path: &Path) -> Result<bool> {
    Ok(matches!(sniff(path)?, Sniffed::Sqlite(_) | Sniffed::HeldBySqlite))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_told_apart_by_their_first_bytes() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("file");
        let mut wal = MAGIC.to_vec();
        wal.extend([16, 0, 2, 2]);
        for (bytes, expected) in [
            (&b""[..], Sniffed::Empty),
            (MAGIC, Sniffed::Sqlite(HeaderMode::Rollback)),
            (&wal, Sniffed::Sqlite(HeaderMode::Wal)),
            (b"SQLite", Sniffed::Other(b"SQLite".to_vec())),
            (b"{\"projects\": [], \"more\": 1}", Sniffed::Other(b"{\"projects\": [], ".to_vec()[..16].to_vec())),
        ] {
            std::fs::write(&path, bytes).unwrap();
            assert_eq!(sniff(&path).unwrap(), expected);
        }
    }
}
