//! A service goes on writing while it is captured: the create ends, and what it captured is one moment of the database.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rusqlite::Connection;

use crate::support::Runtime;

const BETWEEN_COMMITS: Duration = Duration::from_millis(5);
/// Enough pages for the copy to take several steps.
const ROWS: u32 = 20_000;

#[test]
fn a_database_in_wal_mode_is_captured_under_a_writer() {
    captured_under_a_writer("wal");
}

#[test]
fn a_database_in_rollback_mode_is_captured_under_a_writer() {
    captured_under_a_writer("delete");
}

#[test]
fn a_database_that_keeps_its_journal_file_is_captured_under_a_writer() {
    captured_under_a_writer("truncate");
    captured_under_a_writer("persist");
}

/// The writer is this process, the capture another one.
fn captured_under_a_writer(journal: &str) {
    let runtime = Runtime::new();
    let connection = runtime.connect();
    connection.pragma_update(None, "journal_mode", journal).unwrap();
    connection
        .execute_batch(&format!(
            "CREATE TABLE pairs(id INTEGER PRIMARY KEY, a INTEGER, b INTEGER, filler BLOB);
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {ROWS})
             INSERT INTO pairs SELECT i, 0, 0, randomblob(300) FROM n;"
        ))
        .unwrap();
    let stop = AtomicBool::new(false);
    let (stamps, commits) = thread::scope(|scope| {
        let writer = scope.spawn(|| write_until(connection, &stop));
        let stamps: Vec<String> = (0..3).map(|_| runtime.create(&[])).collect();
        stop.store(true, Ordering::SeqCst);
        (stamps, writer.join().unwrap())
    });
    assert!(commits > 10, "the writer was held off nearly all the time: {commits} commits");

    for stamp in stamps {
        let exported = runtime.export(&stamp);
        let image = Connection::open(exported.db()).unwrap();
        let check: String = image.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(check, "ok");
        let (rows, torn): (u32, u32) = image
            .query_row("SELECT count(*), sum(a <> b) FROM pairs", [], |row| Ok((row.get(0)?, row.get(1)?)))
            .unwrap();
        assert_eq!((rows, torn), (ROWS, 0), "half of a transaction was captured");
    }
}

/// Commits again and again; each transaction changes two columns of rows far apart that must always agree.
fn write_until(mut connection: Connection, stop: &AtomicBool) -> u32 {
    let mut commits = 0;
    while !stop.load(Ordering::SeqCst) {
        let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).unwrap();
        let (one, other) = (commits * 37 % ROWS + 1, commits * 7919 % ROWS + 1);
        for column in ["a", "b"] {
            let change = format!("UPDATE pairs SET {column} = ?1 WHERE id IN (?2, ?3)");
            transaction.execute(&change, [commits + 1, one, other]).unwrap();
        }
        transaction.commit().unwrap();
        commits += 1;
        thread::sleep(BETWEEN_COMMITS);
    }
    commits
}
