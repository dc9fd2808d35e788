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
        let path =
            database(root.path(), &format!("PRAGMA journal_mode={mode}; CREATE TABLE t(x); INSERT INTO t VALUES(1)"));
        assert_eq!(integrity_check(&path), CheckOutcome::Ok, "{mode}");
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
    assert!(matches!(&verdict, CheckOutcome::Unknown(cause) if cause.contains("house")), "{verdict:?}");
}

#[test]
fn an_unknown_tokenizer_is_no_damage() {
    let root = tempfile::tempdir().unwrap();
    let sql = "CREATE VIRTUAL TABLE t USING fts5(x); INSERT INTO t VALUES('a b'); PRAGMA writable_schema=ON;
               UPDATE sqlite_schema SET sql='CREATE VIRTUAL TABLE t USING fts5(x, tokenize=house)' WHERE name='t'";
    let verdict = integrity_check(&database(root.path(), sql));
    assert!(matches!(&verdict, CheckOutcome::Unknown(_)), "{verdict:?}");
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
fn agreed(path: &Path) -> CheckOutcome {
    let whole = all_findings(&open_with_cache(path, CACHE).unwrap()).map_or_else(verdict_of_error, verdict_of_findings);
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
    assert_eq!(agreed(&path), CheckOutcome::Ok);
    // What is wrong in a virtual table is found by its own check alone.
    change(&path, "UPDATE text0_content SET c0 = 'other' WHERE id = 7");
    assert_eq!(findings_before_virtual(&path).unwrap(), [""; 0]);
    assert!(matches!(agreed(&path), CheckOutcome::Failed(cause) if cause.contains("text0")));
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
        assert!(matches!(&verdict, CheckOutcome::Failed(cause) if cause.contains(named)), "{harm}: {verdict:?}");
        fs::remove_file(path).unwrap();
    }
}

/// Removes an index from the schema, so that its pages are used by nothing.
const ORPHAN: &str = "PRAGMA writable_schema=ON; DELETE FROM sqlite_schema WHERE name='by_x';";

#[test]
fn what_was_found_before_a_check_ended_with_an_error_counts() {
    let root = tempfile::tempdir().unwrap();
    let path = with_full_text(root.path());
    change(&path, "PRAGMA writable_schema=ON; DELETE FROM sqlite_schema WHERE name='text0_content'");
    change(&path, ORPHAN);
    let verdict = integrity_check(&path);
    assert!(matches!(&verdict, CheckOutcome::Failed(cause) if cause.contains("never used")), "{verdict:?}");
}

#[test]
fn tables_are_checked_one_by_one_where_not_all_can_be() {
    let root = tempfile::tempdir().unwrap();
    let damaged = "PRAGMA writable_schema=ON;
                   UPDATE sqlite_schema SET sql='CREATE INDEX by_x ON note(id)' WHERE name='by_x'";
    for (harm, is_damaged) in [("", false), (damaged, true)] {
        let path = with_full_text(root.path());
        // A virtual table that cannot even be opened ends every check of the whole.
        change(&path, "DELETE FROM text0_config");
        change(&path, harm);
        let verdict = integrity_check(&path);
        match is_damaged {
            true => assert!(matches!(&verdict, CheckOutcome::Failed(cause) if cause.contains("by_x")), "{verdict:?}"),
            false => assert!(matches!(&verdict, CheckOutcome::Unknown(_)), "{verdict:?}"),
        }
        fs::remove_file(path).unwrap();
    }
}

#[test]
fn a_virtual_table_that_cannot_be_checked_hides_no_other() {
    let root = tempfile::tempdir().unwrap();
    // Whichever of the two the check of the whole comes to first.
    for (gone, damaged) in [("text0", "text3"), ("text3", "text0")] {
        let path = with_full_text(root.path());
        change(&path, &format!("DELETE FROM {gone}_config; DELETE FROM {damaged}_data WHERE id > 100"));
        let verdict = integrity_check(&path);
        assert!(matches!(&verdict, CheckOutcome::Failed(cause) if cause.contains(damaged)), "{verdict:?}");
        fs::remove_file(path).unwrap();
    }
}

/// A database with an R-tree, and what this makes besides.
fn with_rtree(root: &Path, besides: &str) -> PathBuf {
    let rtree = "CREATE VIRTUAL TABLE t USING rtree(id, a, b); INSERT INTO t VALUES(1, 2, 3);";
    let path = database(root, &format!("{rtree} {besides}"));
    assert_eq!(agreed(&path), CheckOutcome::Ok);
    path
}

#[test]
fn a_constraint_that_asks_a_virtual_table_does_not_end_the_check() {
    let root = tempfile::tempdir().unwrap();
    let path = with_rtree(
        root.path(),
        "CREATE TABLE a(x CHECK(rtreecheck('t') = 'ok')); INSERT INTO a VALUES('a');
         CREATE TABLE z(x, y NOT NULL); INSERT INTO z VALUES(1, 'y')",
    );
    change(
        &path,
        "PRAGMA writable_schema=ON; UPDATE sqlite_schema SET sql='CREATE TABLE z(y NOT NULL, x, w NOT NULL)' WHERE name='z'",
    );
    assert!(matches!(agreed(&path), CheckOutcome::Failed(cause) if cause.contains("NULL value in z.w")));
}

#[test]
fn damage_beside_virtual_tables_of_another_kind_is_found() {
    let root = tempfile::tempdir().unwrap();
    let path = with_rtree(root.path(), "CREATE TABLE z(x); CREATE INDEX by_x ON z(x); INSERT INTO z VALUES('a')");
    change(&path, "DELETE FROM t_rowid");
    assert!(matches!(agreed(&path), CheckOutcome::Failed(_)));
    change(&path, ORPHAN);
    assert!(matches!(agreed(&path), CheckOutcome::Failed(cause) if cause.contains("never used")));
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
    assert!(matches!(integrity_check(&path), CheckOutcome::Failed(_)));
    fs::write(&path, [0x55; 4096]).unwrap();
    assert!(matches!(integrity_check(&path), CheckOutcome::OpenFailed(_)));
    assert!(matches!(integrity_check(&root.path().join("none")), CheckOutcome::Unreadable(_)));
}
