//! `PRAGMA integrity_check`, and what its outcome means.
//!
//! A check that cannot run says nothing about the data: a collation, function, tokenizer or module that lives in the
//! application is not here. So "unknown" is a verdict of its own and never counts as damage.
//! <https://www.sqlite.org/pragma.html#pragma_integrity_check>

use std::path::Path;

use rusqlite::{Connection, ErrorCode, ffi};

use super::connection::{Access, check_length, open};
use crate::error::Error;

/// How many findings are reported at most.
const FINDINGS: usize = 5;

/// How the rows begin by which a virtual table says that it could not be checked.
const NOT_CHECKED: &str = "unable to validate";

/// What the check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
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

/// Checks a database that no process uses: an image, or a restored file. Opened as immutable, so that no lock is taken and
/// no sidecar appears or is looked at. Memory: about 16 MiB of cache.
pub fn integrity_check(path: &Path) -> Verdict {
    let opened = std::path::absolute(path).map_err(Error::io("resolve", path)).and_then(|path| {
        check_length(&path)?;
        let attempt = || open(&path, Access::Immutable).and_then(|connection| check(&connection));
        // SQLite calls a page damaged, too, that could not be read this time (`SQLITE_IOERR_CORRUPTFS`).
        let outcome = attempt().or_else(|error| match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt) => attempt(),
            _ => Err(error),
        });
        Ok(outcome.unwrap_or_else(verdict_of_error))
    });
    opened.unwrap_or_else(|error| Verdict::Unreadable(error.to_string()))
}

fn check(connection: &Connection) -> rusqlite::Result<Verdict> {
    // Opening reads nothing; this does, and tells a file that is no database from a damaged one.
    connection.query_row("PRAGMA schema_version", [], |row| row.get::<_, i64>(0))?;
    connection.execute_batch("PRAGMA cache_size = -16384;")?;
    let mut statement = connection.prepare(&format!("PRAGMA integrity_check({FINDINGS})"))?;
    let rows = statement.query_map([], |row| row.get::<_, String>(0))?;
    let mut findings = rows.collect::<rusqlite::Result<Vec<_>>>()?;
    if findings == ["ok"] {
        return Ok(Verdict::Ok);
    }
    let all_unchecked = findings.iter().all(|finding| finding.starts_with(NOT_CHECKED));
    let not_read = findings.iter().any(|finding| is_of_reading(finding));
    findings.truncate(FINDINGS);
    let text = findings.join("; ");
    Ok(match (not_read, all_unchecked) {
        (true, _) => Verdict::Unreadable(text),
        (_, true) => Verdict::Unknown(text),
        _ => Verdict::Failed(text),
    })
}

/// Whether a finding is an error of reading rather than damage: the codes are those of `SQLITE_IOERR`, however extended.
fn is_of_reading(finding: &str) -> bool {
    let codes = finding.split("unable to get the page. error code=").skip(1);
    let mut codes = codes.filter_map(|rest| rest.split(|c: char| !c.is_ascii_digit()).next()?.parse::<i32>().ok());
    finding.contains("failed to get page") || codes.any(|code| code & 0xff == ffi::SQLITE_IOERR)
}

fn verdict_of_error(error: rusqlite::Error) -> Verdict {
    let text = error.to_string();
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt) => Verdict::Failed(text),
        Some(ErrorCode::NotADatabase) => Verdict::OpenFailed(text),
        Some(ErrorCode::CannotOpen | ErrorCode::SystemIoFailure | ErrorCode::PermissionDenied) => {
            Verdict::Unreadable(text)
        }
        _ => Verdict::Unknown(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::PathBuf;

    fn database(root: &Path, sql: &str) -> PathBuf {
        let path = root.join("check.db");
        let connection = Connection::open(&path).unwrap();
        connection.execute_batch(sql).unwrap();
        path
    }

    #[test]
    fn a_sound_database_is_ok_in_either_journal_mode_and_no_sidecar_appears() {
        for mode in ["delete", "wal"] {
            let root = tempfile::tempdir().unwrap();
            let path = database(
                root.path(),
                &format!("PRAGMA journal_mode={mode}; CREATE TABLE t(x); INSERT INTO t VALUES(1)"),
            );
            assert_eq!(integrity_check(&path), Verdict::Ok, "{mode}");
            assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1, "{mode}");
        }
    }

    #[test]
    fn an_unknown_collation_is_no_damage() {
        let root = tempfile::tempdir().unwrap();
        let sql = "CREATE TABLE t(x); CREATE INDEX i ON t(x); INSERT INTO t VALUES('a'),('b');
                   PRAGMA writable_schema=ON;
                   UPDATE sqlite_schema SET sql='CREATE TABLE t(x COLLATE house)' WHERE name='t'";
        let verdict = integrity_check(&database(root.path(), sql));
        assert!(matches!(&verdict, Verdict::Unknown(cause) if cause.contains("house")), "{verdict:?}");
    }

    #[test]
    fn an_unknown_tokenizer_is_no_damage() {
        let root = tempfile::tempdir().unwrap();
        let sql = "CREATE VIRTUAL TABLE t USING fts5(x); INSERT INTO t VALUES('a b'); PRAGMA writable_schema=ON;
                   UPDATE sqlite_schema SET sql='CREATE VIRTUAL TABLE t USING fts5(x, tokenize=house)' WHERE name='t'";
        let verdict = integrity_check(&database(root.path(), sql));
        assert!(matches!(&verdict, Verdict::Unknown(_)), "{verdict:?}");
    }

    #[test]
    fn errors_of_reading_are_told_from_damage() {
        let damage = ["Tree 2 page 3: btreeInitPage() returns error code 11", "Page 5: never used", "ok"];
        assert!(!damage.iter().any(|finding| is_of_reading(finding)));
        let page =
            |code: u32| format!("*** in database main ***\nTree 6 page 18: unable to get the page. error code={code}");
        assert!(is_of_reading(&page(266)) && is_of_reading(&page(8458)) && !is_of_reading(&page(11)));
        assert!(is_of_reading("Tree 2 page 2 cell 1: failed to get page 4\nPage 5: never used"));
    }

    #[test]
    fn damage_and_files_that_are_no_database_are_told_apart() {
        let root = tempfile::tempdir().unwrap();
        let path = database(root.path(), "CREATE TABLE t(x); INSERT INTO t VALUES(zeroblob(20000))");
        let mut bytes = fs::read(&path).unwrap();
        bytes[4096..4196].fill(0xAA);
        fs::write(&path, &bytes).unwrap();
        assert!(matches!(integrity_check(&path), Verdict::Failed(_)));
        fs::write(&path, [0x55; 4096]).unwrap();
        assert!(matches!(integrity_check(&path), Verdict::OpenFailed(_)));
        assert!(matches!(integrity_check(&root.path().join("none")), Verdict::Unreadable(_)));
    }
}
