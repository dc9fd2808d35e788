//! `PRAGMA integrity_check`, and what its outcome means.
//!
//! A check that cannot run says nothing about the data: a collation, function, tokenizer or module that lives in the
//! application is not here. So "unknown" is a verdict of its own and never counts as damage.
//!
//! Virtual tables check themselves, after everything else, and the full-text index of a vector store takes longer for that
//! than all the rest. So they are checked on a connection of their own, beside a check of the database that is stopped as
//! soon as one of them begins to read. Whatever else goes wrong there is left to one check of everything.
//! <https://www.sqlite.org/pragma.html#pragma_integrity_check>, <https://www.sqlite.org/c3ref/set_authorizer.html>

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rusqlite::hooks::{AuthContext, Authorization};
use rusqlite::{Connection, ErrorCode, ffi};

use super::connection::{Access, check_length, open};
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
/// no sidecar appears or is looked at. Memory: about 18 MiB of cache.
pub fn integrity_check(path: &Path) -> Verdict {
    let opened = std::path::absolute(path).map_err(Error::io("resolve", path)).and_then(|path| {
        check_length(&path)?;
        // SQLite calls damaged, too, what could not be read (`SQLITE_IOERR_CORRUPTFS`): this time, or ever.
        match verdict(&path) {
            Verdict::Failed(_) => {
                read_through(&path)?;
                Ok(verdict(&path))
            }
            verdict => Ok(verdict),
        }
    });
    opened.unwrap_or_else(|error| Verdict::Unreadable(error.to_string()))
}

fn verdict(path: &Path) -> Verdict {
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
    let connection = open(path, Access::Immutable)?;
    connection.pragma_update(None, "cache_size", -kibibytes)?;
    Ok(connection)
}

fn all_findings(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    connection.prepare(&check_sql())?.query_map([], |row| row.get(0))?.collect()
}

fn check_sql() -> String {
    format!("PRAGMA integrity_check({FINDINGS})")
}

fn verdict_of_findings(mut findings: Vec<String>) -> Verdict {
    let was_checked = findings.iter().any(|finding| finding == "ok");
    findings.retain(|finding| finding != "ok");
    if was_checked && findings.is_empty() {
        return Verdict::Ok;
    }
    let all_unchecked = findings.iter().all(|finding| finding.starts_with(NOT_CHECKED));
    let not_read = findings.iter().any(|finding| is_of_reading(finding));
    findings.truncate(FINDINGS);
    let text = findings.join("; ");
    match (not_read, all_unchecked) {
        (true, _) => Verdict::Unreadable(text),
        (_, true) => Verdict::Unknown(text),
        _ => Verdict::Failed(text),
    }
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

    /// A database with full-text indexes of every kind, and a table beside them.
    fn with_full_text(root: &Path) -> PathBuf {
        let kinds = ["", ", content=''", ", content='note', content_rowid='id'", ", detail=none"];
        let mut sql = String::from(
            "CREATE TABLE note(id INTEGER PRIMARY KEY, x); CREATE INDEX by_x ON note(x);
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500)
             INSERT INTO note SELECT i, 'note ' || i FROM n;",
        );
        for (number, kind) in kinds.iter().enumerate() {
            sql += &format!(
                "CREATE VIRTUAL TABLE text{number} USING fts5(x{kind});
                 INSERT INTO text{number}(rowid, x) SELECT id, x FROM note;"
            );
        }
        database(root, &sql)
    }

    fn change(path: &Path, sql: &str) {
        let connection = Connection::open(path).unwrap();
        connection.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_DEFENSIVE, false).unwrap();
        connection.execute_batch(sql).unwrap();
    }

    /// Says what one check of everything says, and returns it.
    fn agreed(path: &Path) -> Verdict {
        let whole =
            all_findings(&open_with_cache(path, CACHE).unwrap()).map_or_else(verdict_of_error, verdict_of_findings);
        let verdict = integrity_check(path);
        assert_eq!(verdict, whole);
        verdict
    }

    #[test]
    fn virtual_tables_are_checked_beside_the_rest() {
        let root = tempfile::tempdir().unwrap();
        let path = with_full_text(root.path());
        let tables = virtual_tables(&open_with_cache(&path, CACHE).unwrap()).unwrap();
        assert_eq!(tables, ["text0", "text1", "text2", "text3"]);
        assert_eq!(findings_before_virtual(&path).unwrap(), [""; 0]);
        assert_eq!(findings_of(&path, &tables).unwrap(), ["ok"; 4]);
        assert_eq!(agreed(&path), Verdict::Ok);
        // What is wrong in a virtual table is found by its own check alone.
        change(&path, "UPDATE text0_content SET c0 = 'other' WHERE id = 7");
        assert_eq!(findings_before_virtual(&path).unwrap(), [""; 0]);
        assert!(matches!(agreed(&path), Verdict::Failed(cause) if cause.contains("text0")));
    }

    #[test]
    fn damage_of_every_kind_of_table_is_found() {
        let root = tempfile::tempdir().unwrap();
        for (harm, named) in [
            ("DELETE FROM text0_content WHERE id = 7", "text0"),
            ("DELETE FROM text1_data WHERE id > 100", "text1"),
            ("DELETE FROM text2_data WHERE id > 100", "text2"),
            ("DELETE FROM text3_data WHERE id > 100", "text3"),
            (
                "PRAGMA writable_schema=ON; UPDATE sqlite_schema SET sql='CREATE INDEX by_x ON note(id)' WHERE name='by_x'",
                "by_x",
            ),
        ] {
            let path = with_full_text(root.path());
            change(&path, harm);
            let verdict = agreed(&path);
            assert!(matches!(&verdict, Verdict::Failed(cause) if cause.contains(named)), "{harm}: {verdict:?}");
            fs::remove_file(path).unwrap();
        }
    }

    #[test]
    fn a_constraint_that_asks_a_virtual_table_does_not_end_the_check() {
        let root = tempfile::tempdir().unwrap();
        let path = database(
            root.path(),
            "CREATE VIRTUAL TABLE t USING rtree(id, a, b); INSERT INTO t VALUES(1, 2, 3);
             CREATE TABLE a(x CHECK(rtreecheck('t') = 'ok')); INSERT INTO a VALUES('a');
             CREATE TABLE z(x, y NOT NULL); INSERT INTO z VALUES(1, 'y')",
        );
        assert_eq!(agreed(&path), Verdict::Ok);
        change(
            &path,
            "PRAGMA writable_schema=ON; UPDATE sqlite_schema SET sql='CREATE TABLE z(y NOT NULL, x, w NOT NULL)' WHERE name='z'",
        );
        assert!(matches!(agreed(&path), Verdict::Failed(cause) if cause.contains("NULL value in z.w")));
    }

    #[test]
    fn damage_beside_virtual_tables_of_another_kind_is_found() {
        let root = tempfile::tempdir().unwrap();
        let path = database(
            root.path(),
            "CREATE VIRTUAL TABLE t USING rtree(id, a, b); INSERT INTO t VALUES(1, 2, 3);
             CREATE TABLE z(x); CREATE INDEX by_x ON z(x); INSERT INTO z VALUES('a')",
        );
        assert_eq!(agreed(&path), Verdict::Ok);
        change(&path, "DELETE FROM t_rowid");
        assert!(matches!(agreed(&path), Verdict::Failed(_)));
        change(&path, "PRAGMA writable_schema=ON; DELETE FROM sqlite_schema WHERE name='by_x'");
        assert!(matches!(agreed(&path), Verdict::Failed(cause) if cause.contains("never used")));
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
