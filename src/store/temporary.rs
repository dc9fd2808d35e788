//! Sets and relations that may outgrow memory: private SQLite databases in temporary files.
//!
//! Invariant: such a file has no name and vanishes with its connection; memory is bounded by the page cache. Why
//! SQLite: it sorts, joins and looks up on disk, and it is linked in already.

use std::path::Path;

use rusqlite::config::DbConfig;
use rusqlite::{CachedStatement, Connection};

use crate::error::{Error, Result};

/// A new private database with this schema, with about 8 MiB of cache.
///
/// # Errors
/// [`Error::Sqlite`] if no temporary file can be made.
pub fn database(schema: &str) -> Result<Connection> {
    let connection = Connection::open("").map_err(failed("create"))?;
    connection
        .execute_batch(&format!(
            "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -8192; PRAGMA temp_store = FILE;\n{schema}"
        ))
        .map_err(failed("create"))?;
    connection.set_prepared_statement_cache_capacity(64);
    keep_plans(&connection).map_err(failed("create"))?;
    Ok(connection)
}

/// Keeps the plans of prepared statements. By default, SQLite built with `STAT4` parses a statement with a range anew
/// for every new bound, which takes several times as long as looking it up.
///
/// # Errors
/// Those of SQLite.
pub(super) fn keep_plans(connection: &Connection) -> rusqlite::Result<()> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true).map(|_| ())
}

/// The error of a temporary database, for `map_err`; most often the place for temporary files is full.
pub fn failed(action: &'static str) -> impl FnOnce(rusqlite::Error) -> Error {
    Error::sqlite(action, Path::new("(a temporary one; TMPDIR names its directory)"))
}

/// A statement that stays prepared.
///
/// # Errors
/// [`Error::Sqlite`] if it cannot be prepared.
pub fn prepared<'a>(database: &'a Connection, sql: &str) -> Result<CachedStatement<'a>> {
    database.prepare_cached(sql).map_err(failed("read"))
}
