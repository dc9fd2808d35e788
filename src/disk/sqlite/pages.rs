//! The pages of a pinned database, in large stretches.
//!
//! The table `sqlite_dbpage` shows each page as the read transaction sees it, whether it stands in the file or in the
//! log: what the backup API copies, too, but in rows, so that whoever takes them does with them as it likes. That API
//! writes page by page through a second database, which takes nearly twice as long (docs/decisions.md). Invariant: the
//! pages are those of the pinned state, byte for byte; in rollback mode those of the file.
//! <https://www.sqlite.org/dbpage.html>

use std::path::Path;
use std::time::Instant;

use rusqlite::{Connection, Statement};

use super::image::SourceTrouble;
use crate::error::Result;

/// Bytes of a stretch: a multiple of every size that pages have.
const STRETCH_BYTES: usize = 256 * 1024;

/// Asks for the pages of a database; `None` where SQLite was built without that table, or cannot read the schema, as it
/// must before it finds any table: the backup API tells what is wrong with that.
pub(super) fn of(source: &Connection) -> Option<Statement<'_>> {
    let prepared = source.prepare("SELECT data FROM sqlite_dbpage ORDER BY pgno");
    prepared.inspect_err(|cause| tracing::debug!(%cause, "the pages of this database cannot be had as a table")).ok()
}

/// Gives the pages to `take`, in order, in stretches of 256 KiB and a last one.
pub(super) fn read(
    mut pages: Statement<'_>,
    path: &Path,
    take: &mut dyn FnMut(Vec<u8>) -> Result<()>,
    deadline: Instant,
) -> Result<(), SourceTrouble> {
    let trouble = |error| SourceTrouble::of(error, "copy", path);
    let mut stretch = Vec::with_capacity(STRETCH_BYTES);
    let mut rows = pages.query([]).map_err(trouble)?;
    while let Some(row) = rows.next().map_err(trouble)? {
        let page = row.get_ref(0).map_err(trouble)?.as_blob().map_err(|error| trouble(error.into()))?;
        stretch.extend_from_slice(page);
        if stretch.len() >= STRETCH_BYTES {
            take(std::mem::replace(&mut stretch, Vec::with_capacity(STRETCH_BYTES)))?;
            if Instant::now() >= deadline {
                return Err(SourceTrouble::Deadline);
            }
        }
    }
    Ok(take(stretch)?)
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
