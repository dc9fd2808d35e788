//! Copying the pages of a pinned database in large writes.
//!
//! The table `sqlite_dbpage` shows each page as the read transaction sees it, whether it stands in the file or in the log:
//! what the backup API copies, too, but in rows, so that whoever copies writes as it likes. That API writes page by page
//! through a second database, which takes nearly twice as long (docs/decisions.md). Invariant: the image is the pinned state,
//! byte for byte; in rollback mode that is the file. <https://www.sqlite.org/dbpage.html>

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Instant;

use rusqlite::{Connection, Statement};

use super::image::{ImageSize, SourceTrouble};
use crate::error::Error;

/// Bytes written at a time.
const WRITE_BYTES: usize = 256 * 1024;

/// Asks for the pages of a database; `None` where SQLite was built without that table, or cannot read the schema, as it must
/// before it finds any table: the backup API tells what is wrong with that.
pub(super) fn of(source: &Connection) -> Option<Statement<'_>> {
    let prepared = source.prepare("SELECT data FROM sqlite_dbpage ORDER BY pgno");
    prepared.inspect_err(|cause| tracing::debug!(%cause, "the pages of this database cannot be had as a table")).ok()
}

/// Copies the pages into the file `image`, which is empty.
pub(super) fn copy(
    mut pages: Statement<'_>,
    path: &Path,
    image: &Path,
    mut file: File,
    deadline: Instant,
) -> Result<ImageSize, SourceTrouble> {
    let trouble = |error| SourceTrouble::of(error, "copy", path);
    let mut write = |bytes: &[u8]| file.write_all(bytes).map_err(Error::io("write", image));
    let mut size = ImageSize { page_size: 0, pages: 0 };
    let mut waiting = Vec::with_capacity(WRITE_BYTES);
    let mut rows = pages.query([]).map_err(trouble)?;
    while let Some(row) = rows.next().map_err(trouble)? {
        let page = row.get_ref(0).map_err(trouble)?.as_blob().map_err(|error| trouble(error.into()))?;
        size = ImageSize { page_size: page.len() as u32, pages: size.pages + 1 };
        waiting.extend_from_slice(page);
        if waiting.len() >= WRITE_BYTES {
            write(&waiting)?;
            waiting.clear();
            if Instant::now() >= deadline {
                return Err(SourceTrouble::Deadline);
            }
        }
    }
    write(&waiting)?;
    Ok(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_build_has_the_pages_as_a_table() {
        let memory = Connection::open_in_memory().unwrap();
        assert!(
            of(&memory).is_some(),
            "LIBSQLITE3_FLAGS of .cargo/config.toml were not in force when SQLite was built"
        );
    }
}
