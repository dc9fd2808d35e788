//! `PRAGMA integrity_check`, and what its outcome means.
//!
//! A check that cannot run says nothing about the data: a collation, function, tokenizer or module that lives in the
//! application is not here. So "unknown" is a verdict of its own and never counts as damage.
//!
//! Virtual tables check themselves, after everything else, and the full-text index of a vector store takes longer for
//! that than all the rest. So they are checked on a connection of their own, beside a check of the database that is
//! stopped as soon as one of them begins to read. Whatever else goes wrong there is left to one check of everything.
//! <https://www.sqlite.org/pragma.html#pragma_integrity_check>, <https://www.sqlite.org/c3ref/set_authorizer.html>

#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rusqlite::hooks::{AuthContext, Authorization};
use rusqlite::{Connection, ErrorCode, ffi};

use super::connection::{SqliteAccess, check_length, open};
use crate::error::{Error, Result};

/// How many findings are reported at most.
const FINDINGS: usize = 5;

/// How the rows begin by which a virtual table says that it could not be checked.
const NOT_CHECKED: &str = "unable to validate";

/// So many virtual tables are checked by themselves at most: each check looks at the whole schema.
const MOST_VIRTUAL: usize = 16;

/// The cache of a connection that checks a whole database, in KiB.
const CACHE: i64 = 16384;

/// The cache of one that checks virtual tables alone, in KiB: they read from beginning to end.
const CACHE_OF_VIRTUAL: i64 = 2048;

/// Errors after which no further check says anything.
const ENDS_ALL: [ErrorCode; 4] =
    [ErrorCode::SystemIoFailure, ErrorCode::CannotOpen, ErrorCode::PermissionDenied, ErrorCode::OutOfMemory];

/// What the check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckOutcome {
    /// Everything is sound.
    Ok,
    /// The database is damaged; the first findings.
    Failed(String),
    /// The check itself could not run; why.
    Unknown(String),
    /// The file cannot be opened as a database at all; why.
    OpenFailed(String),
    /// The system did not let the file be read, which tells nothing of its bytes; why.
    Unreadable(String),
}

/// Checks a database that no process uses: an image, or a restored file. Opened as immutable, so that no lock is taken
/// and no sidecar appears or is looked at. Memory: about 18 MiB of cache.
pub fn integrity_check(path: &Path) -> CheckOutcome {
    let opened = std::path::absolute(path).map_err(Error::io("resolve", path)).and_then(|path| {
        check_length(&path)?;
        // SQLite calls damaged, too, what could not be read (`SQLITE_IOERR_CORRUPTFS`): this time, or ever.
        match verdict(&path) {
            CheckOutcome::Failed(_) => {
                read_through(&path)?;
                Ok(verdict(&path))
            }
            verdict => Ok(verdict),
        }
    });
    opened.unwrap_or_else(|error| CheckOutcome::Unreadable(error.to_string()))
}

fn verdict(path: &Path) -> CheckOutcome {
    findings(path).map_or_else(verdict_of_error, verdict_of_findings)
}

fn read_through(path: &Path) -> Result<()> {
    let read = File::open(path).and_then(|mut file| io::copy(&mut file, &mut io::sink()));
    read.map(drop).map_err(Error::io("read", path))
}

/// The rows of the check.
fn findings(path: &Path) -> rusqlite::Result<Vec<String>> {
    let connection = open_with_cache(path, CACHE)?;
    // Opening reads nothing; this does, and tells a file that is no database from a damaged one.
    connection.query_row("PRAGMA schema_version", [], |row| row.get::<_, i64>(0))?;
    match virtual_tables(&connection) {
        Ok(tables) if (1..=MOST_VIRTUAL).contains(&tables.len()) => {
            drop(connection);
            in_two(path, &tables).or_else(|_| all_findings(&open_with_cache(path, CACHE)?))
        }
        _ => all_findings(&connection),
    }
}

/// The same, of the virtual tables beside all the rest.
fn in_two(path: &Path, tables: &[String]) -> rusqlite::Result<Vec<String>> {
    let (rest, of_tables) = thread::scope(|scope| {
        let of_tables = thread::Builder::new().spawn_scoped(scope, || findings_of(path, tables));
        let rest = findings_before_virtual(path);
        // A thread that was not to be had, or panicked, has checked nothing.
        let of_tables = of_tables.ok().and_then(|thread| thread.join().ok());
        (rest, of_tables.unwrap_or(Err(rusqlite::Error::InvalidQuery)))
    });
    let (mut findings, of_tables) = (rest?, of_tables?);
    findings.extend(of_tables);
    findings.dedup();
    Ok(findings)
}

/// What these virtual tables say of themselves.
fn findings_of(path: &Path, tables: &[String]) -> rusqlite::Result<Vec<String>> {
    let connection = open_with_cache(path, CACHE_OF_VIRTUAL)?;
    let mut findings = Vec::new();
    for table in tables {
        connection.pragma(None, "integrity_check", table, |row| {
            findings.push(row.get(0)?);
            Ok(())
        })?;
    }
    Ok(findings)
}

/// What is found before the first virtual table is asked that reads anything.
fn findings_before_virtual(path: &Path) -> rusqlite::Result<Vec<String>> {
    let mut connection = open_with_cache(path, CACHE)?;
    let is_running = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&is_running);
    // The check is prepared once; while it runs, none but virtual tables prepare statements.
    connection.authorizer(Some(move |_: AuthContext<'_>| match seen.load(Ordering::Relaxed) {
        true => Authorization::Deny,
        false => Authorization::Allow,
    }))?;
    let mut statement = connection.prepare(&check_sql())?;
    is_running.store(true, Ordering::Relaxed);
    let is_denied =
        |error: &rusqlite::Error| error.sqlite_error_code() == Some(ErrorCode::AuthorizationForStatementDenied);
    let findings = statement.query_map([], |row| row.get(0))?;
    findings.take_while(|finding| !finding.as_ref().is_err_and(is_denied)).collect()
}

/// The names of the virtual tables, if nothing but these prepares statements in a check: a constraint may, with the one
/// function of SQLite that does. <https://www.sqlite.org/rtree.html#integrity_checks_using_the_rtreecheck_sql_function>
fn virtual_tables(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut statement = connection.prepare(
        "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'virtual'
         AND NOT EXISTS (SELECT 1 FROM sqlite_schema WHERE sql LIKE '%rtreecheck%') ORDER BY name",
    )?;
    statement.query_map([], |row| row.get(0))?.collect()
}

fn open_with_cache(path: &Path, kibibytes: i64) -> rusqlite::Result<Connection> {
    let connection = open(path, SqliteAccess::Immutable)?;
    connection.pragma_update(None, "cache_size", -kibibytes)?;
    Ok(connection)
}

/// The findings of one check of everything. One that ends with an error has not checked what came after, but what it
/// found before is wrong all the same, and what it did not come to is checked table by table.
fn all_findings(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut findings = Vec::new();
    let Err(error) = add_findings(connection, &check_sql(), &mut findings) else { return Ok(findings) };
    if error.sqlite_error_code().is_some_and(|code| ENDS_ALL.contains(&code)) {
        return Err(error);
    }
    for table in tables(connection).unwrap_or_default() {
        let check = format!("PRAGMA integrity_check('{}')", table.replace('\'', "''"));
        if let Err(cause) = add_findings(connection, &check, &mut findings) {
            tracing::debug!(%cause, table, "a table cannot be checked");
        }
    }
    findings.retain(|finding| finding != "ok" && !finding.starts_with(NOT_CHECKED));
    if findings.is_empty() {
        return Err(error);
    }
    let mut known = HashSet::new();
    findings.retain(|finding| known.insert(finding.clone()));
    findings.truncate(FINDINGS - 1);
    findings.push(error.to_string());
    Ok(findings)
}

/// Adds the rows of a check; those before an error as well.
fn add_findings(connection: &Connection, check: &str, findings: &mut Vec<String>) -> rusqlite::Result<()> {
    let mut statement = connection.prepare(check)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        findings.push(row.get(0)?);
    }
    Ok(())
}

/// The names of all tables, virtual ones included.
fn tables(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut statement = connection.prepare("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")?;
    statement.query_map([], |row| row.get(0))?.collect()
}

fn check_sql() -> String {
    format!("PRAGMA integrity_check({FINDINGS})")
}

fn verdict_of_findings(mut findings: Vec<String>) -> CheckOutcome {
    let was_checked = findings.iter().any(|finding| finding == "ok");
    findings.retain(|finding| finding != "ok");
    if was_checked && findings.is_empty() {
        return CheckOutcome::Ok;
    }
    let all_unchecked = findings.iter().all(|finding| finding.starts_with(NOT_CHECKED));
    let not_read = findings.iter().any(|finding| is_of_reading(finding));
    findings.truncate(FINDINGS);
    let text = findings.join("; ");
    match (not_read, all_unchecked) {
        (true, _) => CheckOutcome::Unreadable(text),
        (_, true) => CheckOutcome::Unknown(text),
        _ => CheckOutcome::Failed(text),
    }
}

/// Whether a finding is an error of reading rather than damage: the codes are those of `SQLITE_IOERR`, however
/// extended.
fn is_of_reading(finding: &str) -> bool {
    let codes = finding.split("unable to get the page. error code=").skip(1);
    let mut codes = codes.filter_map(|rest| rest.split(|c: char| !c.is_ascii_digit()).next()?.parse::<i32>().ok());
    finding.contains("failed to get page") || codes.any(|code| code & 0xff == ffi::SQLITE_IOERR)
}

fn verdict_of_error(error: rusqlite::Error) -> CheckOutcome {
    let text = error.to_string();
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt) => CheckOutcome::Failed(text),
        Some(ErrorCode::NotADatabase) => CheckOutcome::OpenFailed(text),
        Some(ErrorCode::CannotOpen | ErrorCode::SystemIoFailure | ErrorCode::PermissionDenied) => {
            CheckOutcome::Unreadable(text)
        }
        _ => CheckOutcome::Unknown(text),
    }
}
