//! Every state a database can be found in, and the promise that none of its files changes.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tempfile::TempDir;

use super::*;
use crate::disk::held::{SourceOpen, open_source};
use crate::disk::sqlite::{CheckOutcome, integrity_check};
use crate::disk::stat::{FileStat, lstat};

const OPTIONS: ImageOptions = ImageOptions {
    deadline: Duration::from_secs(20),
    block: BlockLimit { most: None, since: None },
    damaged: DamagedSource::TakeDatabaseRaw,
    method: CopyMethod::Pages,
};

/// Counters in the header of a database: <https://www.sqlite.org/fileformat.html#the_database_header>.
const CHANGES: Range<usize> = 24..28;
const SCHEMA_CHANGES: Range<usize> = 40..44;
const VALID_FOR: Range<usize> = 92..96;

/// Captures a database that has no earlier version.
fn capture_alone(path: &Path, scratch: &Path, options: ImageOptions) -> Result<CapturedDatabase> {
    capture_image(path, scratch, options, None, &mut |_| Ok(()))
}

/// A directory for sources and one for scratch files.
struct Place {
    sources: TempDir,
    scratch: TempDir,
}

type Picture = BTreeMap<PathBuf, (FileStat, Vec<u8>)>;

impl Place {
    fn new() -> Self {
        Self { sources: tempfile::tempdir().unwrap(), scratch: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.sources.path().join(name)
    }

    /// Captures and proves that no byte, time or name of any source file changed and no scratch file was left.
    fn capture(&self, name: &str, options: ImageOptions) -> Result<CapturedDatabase> {
        let before = picture(self.sources.path());
        let captured = capture_alone(&self.path(name), self.scratch.path(), options);
        assert_unchanged(&before, self.sources.path());
        let images = fs::read_dir(self.scratch.path()).unwrap().count();
        let expected = captured.as_ref().is_ok_and(|captured| matches!(captured.content, DatabaseContent::Image(_)));
        assert_eq!(images, usize::from(expected), "scratch files were left");
        captured
    }

    /// The image, which is the same both ways but for the counters in its header.
    fn image(&self, name: &str) -> DatabaseImage {
        let backup = self.image_by(CopyMethod::BackupApi, name);
        let mut expected = fs::read(&backup.file).unwrap();
        drop(backup);
        let image = self.image_by(CopyMethod::Pages, name);
        let bytes = fs::read(&image.file).unwrap();
        for counter in [CHANGES, SCHEMA_CHANGES, VALID_FOR] {
            expected[counter.clone()].copy_from_slice(&bytes[counter]);
        }
        assert!(bytes == expected, "{name}: the two ways give different images");
        image
    }

    fn image_by(&self, method: CopyMethod, name: &str) -> DatabaseImage {
        match self.capture(name, ImageOptions { method, ..OPTIONS }).unwrap().content {
            DatabaseContent::Image(image) => image,
            other => panic!("{other:?}"),
        }
    }
}

fn picture(directory: &Path) -> Picture {
    let read = |path: PathBuf| {
        let mut stat = lstat(&path).unwrap().unwrap();
        if path.to_string_lossy().ends_with("-journal") {
            // As root, SQLite sets the owner of a journal that it looks into.
            stat.ctime = 0;
        }
        (path.clone(), (stat, fs::read(&path).unwrap()))
    };
    fs::read_dir(directory).unwrap().map(|entry| read(entry.unwrap().path())).collect()
}

fn assert_unchanged(before: &Picture, directory: &Path) {
    let after = picture(directory);
    assert_eq!(after.keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>(), "files came or went");
    for (path, (stat, bytes)) in before {
        assert_eq!(after[path].0, *stat, "{path:?}");
        assert!(after[path].1 == *bytes, "the bytes of {path:?} changed");
    }
}

fn total(database: &Path) -> i64 {
    assert_eq!(integrity_check(database), CheckOutcome::Ok);
    let connection = Connection::open(database).unwrap();
    connection.query_row("SELECT coalesce(sum(x), 0) FROM t", [], |row| row.get(0)).unwrap()
}

fn make(path: &Path, before: &str) -> Connection {
    let connection = Connection::open(path).unwrap();
    connection.execute_batch(before).unwrap();
    connection
        .execute_batch(
            "CREATE TABLE t(x, filler); WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < 1000)
             INSERT INTO t SELECT i, randomblob(200) FROM n",
        )
        .unwrap();
    connection
}

const TOTAL: i64 = 500_500;

/// What a crash leaves: the files as they are while a process still has them open.
fn leave_behind(from: &Path, to: &Path, sidecars: &[Sidecar]) {
    fs::copy(from, to).unwrap();
    for sidecar in sidecars {
        fs::copy(sidecar.of(from), sidecar.of(to)).unwrap();
    }
}

#[test]
fn every_page_size_and_journal_mode_gives_an_equal_and_repeatable_image() {
    for page_size in [512, 1024, 4096, 16384, 65536] {
        for mode in ["delete", "wal"] {
            let place = Place::new();
            let setup = format!("PRAGMA page_size={page_size}; PRAGMA journal_mode={mode};");
            drop(make(&place.path("a.db"), &setup));
            let first = place.image("a.db");
            let bytes = fs::read(&first.file).unwrap();
            let stated = usize::from(u16::from_be_bytes([bytes[16], bytes[17]]));
            assert_eq!(if stated == 1 { 65_536 } else { stated }, page_size, "{mode}");
            assert_eq!(bytes.len() % page_size, 0, "{mode}");
            assert_eq!(first.writer_blocked.is_some(), mode == "delete");
            assert_eq!(total(&first.file), TOTAL);
            assert!(fs::read(place.path("a.db")).unwrap() == bytes, "{mode}: the log is empty, and the file another");
            drop(first);
            assert!(
                fs::read(&place.image("a.db").file).unwrap() == bytes,
                "the image depends on more than the content"
            );
        }
    }
}

#[test]
fn a_log_that_no_process_uses_is_recovered_in_a_copy() {
    for sidecars in [&[Sidecar::Wal][..], &[Sidecar::Wal, Sidecar::Shm]] {
        let place = Place::new();
        let elsewhere = tempfile::tempdir().unwrap();
        let live = elsewhere.path().join("live.db");
        let service = make(&live, "PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0;");
        leave_behind(&live, &place.path("a.db"), sidecars);
        drop(service);
        let image = place.image("a.db");
        assert_eq!(total(&image.file), TOTAL);
        assert_eq!(image.writer_blocked, None);
    }
}

#[test]
fn empty_and_lone_sidecars_stay_where_they_are() {
    for sidecar in Sidecar::ALL {
        for mode in ["delete", "wal"] {
            let place = Place::new();
            drop(make(&place.path("a.db"), &format!("PRAGMA journal_mode={mode};")));
            fs::write(sidecar.of(&place.path("a.db")), b"").unwrap();
            assert_eq!(total(&place.image("a.db").file), TOTAL, "{sidecar:?} {mode}");
        }
    }
}

#[test]
fn a_hot_journal_is_rolled_back_in_a_copy() {
    let place = Place::new();
    let elsewhere = tempfile::tempdir().unwrap();
    let live = elsewhere.path().join("live.db");
    let service = make(&live, "PRAGMA cache_size=5;");
    service.execute_batch("BEGIN; UPDATE t SET x = x + 1000, filler = randomblob(200)").unwrap();
    leave_behind(&live, &place.path("a.db"), &[Sidecar::Journal]);
    assert!(
        fs::read(&live).unwrap().len() > 100_000 && fs::metadata(Sidecar::Journal.of(&live)).unwrap().len() > 10_000
    );
    drop(service);
    assert_eq!(total(&place.image("a.db").file), TOTAL);
}

#[test]
fn an_empty_main_file_is_taken_as_it_is_and_its_log_survives() {
    let place = Place::new();
    fs::write(place.path("a.db"), b"").unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let live = elsewhere.path().join("live.db");
    let service = make(&live, "PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0;");
    fs::copy(Sidecar::Wal.of(&live), Sidecar::Wal.of(&place.path("a.db"))).unwrap();
    drop(service);
    assert!(matches!(place.capture("a.db", OPTIONS).unwrap().content, DatabaseContent::Empty));
    let raw = place.capture("a.db", ImageOptions { damaged: DamagedSource::TakeRaw, ..OPTIONS }).unwrap();
    let DatabaseContent::Raw(raw) = raw.content else { panic!("{raw:?}") };
    assert_eq!(raw.files, [place.path("a.db"), place.path("a.db-wal")]);
}

#[test]
fn what_is_no_database_is_named_by_how_it_starts_and_taken_raw_only_on_request() {
    let place = Place::new();
    fs::write(place.path("a.db"), b"{\"projects\": []}").unwrap();
    let Err(Error::Failed(message)) = place.capture("a.db", OPTIONS) else { panic!() };
    assert!(message.contains("a.db") && message.contains("{\\\"projects\\\""), "{message}");
    let raw = place.capture("a.db", ImageOptions { damaged: DamagedSource::TakeRaw, ..OPTIONS }).unwrap();
    assert!(matches!(raw.content, DatabaseContent::Raw(raw) if raw.files == [place.path("a.db")]));
}

#[test]
fn a_damaged_header_behind_the_right_magic_is_taken_raw() {
    let place = Place::new();
    drop(make(&place.path("a.db"), ""));
    let mut bytes = fs::read(place.path("a.db")).unwrap();
    bytes[16..100].fill(0xEE);
    fs::write(place.path("a.db"), &bytes).unwrap();
    for damaged in [DamagedSource::TakeDatabaseRaw, DamagedSource::TakeRaw] {
        let raw = place.capture("a.db", ImageOptions { damaged, ..OPTIONS }).unwrap();
        assert!(matches!(raw.content, DatabaseContent::Raw(_)));
    }
}

#[test]
fn a_copy_that_would_hold_writers_off_for_too_long_is_given_up_with_advice_in_rollback_mode_or_under_a_lock_of_ours() {
    let at_once = BlockLimit { most: Some(Duration::ZERO), since: None };
    let frozen = BlockLimit { since: Some(Instant::now()), ..at_once };
    for (mode, block, advice) in [
        ("delete", at_once, Some("WAL mode")),
        ("wal", at_once, None),
        ("delete", frozen, Some("without --freeze")),
        ("wal", frozen, Some("without --freeze")),
    ] {
        let place = Place::new();
        let service = make(&place.path("a.db"), &format!("PRAGMA journal_mode={mode};"));
        service.execute_batch("CREATE TABLE many(x); INSERT INTO many VALUES(zeroblob(5000000))").unwrap();
        let options = ImageOptions { block, ..OPTIONS };
        let outcome = capture_alone(&place.path("a.db"), place.scratch.path(), options);
        match (outcome, advice) {
            (Err(Error::Changing(message)), Some(advice)) => {
                assert!(message.contains("--max-block") && message.contains(advice), "{message}");
            }
            (Ok(captured), None) => assert!(matches!(captured.content, DatabaseContent::Image(_))),
            other => panic!("{mode}: {other:?}"),
        }
        drop(service);
    }
}

#[test]
fn a_database_that_needs_recovery_is_neither_read_live_nor_frozen() {
    let elsewhere = tempfile::tempdir().unwrap();
    let live = elsewhere.path().join("live.db");
    let service = make(&live, "PRAGMA cache_size=5;");
    service.execute_batch("BEGIN; UPDATE t SET x = x + 1").unwrap();
    let place = Place::new();
    leave_behind(&live, &place.path("a.db"), &[Sidecar::Journal]);
    let before = picture(place.sources.path());
    assert!(
        read_live(&place.path("a.db"), Duration::from_secs(5), BlockLimit::default(), |_| Ok(())).unwrap().is_none()
    );
    assert!(freeze(&place.path("a.db"), Duration::from_secs(5)).unwrap().is_none());
    assert_unchanged(&before, place.sources.path());
}

#[test]
fn the_recorded_states_are_those_that_an_untouched_source_still_has() {
    let elsewhere = tempfile::tempdir().unwrap();
    let live = elsewhere.path().join("live.db");
    let service = make(&live, "PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0;");
    let place = Place::new();
    drop(make(&place.path("rollback.db"), "PRAGMA journal_mode=PERSIST;"));
    drop(make(&place.path("clean.db"), "PRAGMA journal_mode=WAL;"));
    leave_behind(&live, &place.path("unclean.db"), &[Sidecar::Wal]);
    for path in [place.path("rollback.db"), place.path("clean.db"), place.path("unclean.db"), live] {
        let captured = capture_alone(&path, place.scratch.path(), OPTIONS).unwrap();
        assert_eq!(captured.stats, DatabaseStats::of(&path).unwrap(), "{path:?}");
    }
    drop(service);
}

#[test]
fn a_missing_database_is_not_found() {
    let place = Place::new();
    assert!(place.capture("none.db", OPTIONS).unwrap_err().is_not_found());
}

#[test]
fn what_only_the_application_can_read_is_copied_all_the_same() {
    let place = Place::new();
    drop(make(&place.path("a.db"), ""));
    Connection::open(place.path("a.db"))
        .unwrap()
        .execute_batch(
            "CREATE INDEX i ON t(x); PRAGMA writable_schema=ON;
             UPDATE sqlite_schema SET sql='CREATE TABLE t(x COLLATE house, filler)' WHERE name='t'",
        )
        .unwrap();
    let image = place.image("a.db");
    assert!(matches!(integrity_check(&image.file), CheckOutcome::Unknown(_)));
}

#[test]
fn a_locked_database_is_changing_after_the_deadline() {
    let place = Place::new();
    let service = make(&place.path("a.db"), "");
    service.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let options = ImageOptions { deadline: Duration::from_millis(80), ..OPTIONS };
    let refused = capture_alone(&place.path("a.db"), place.scratch.path(), options);
    assert!(matches!(refused, Err(Error::Changing(_))), "{refused:?}");
}

/// A second process that runs `role` (see [`child_process`]); it is killed at the end.
struct Process(Child);

impl Process {
    fn start(role: &str, database: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "save::sqlite::tests::child_process", "--nocapture"])
            .env("VECSNAP_TEST_ROLE", role)
            .env("VECSNAP_TEST_DATABASE", database)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        while !line.contains("child is ready") {
            line.clear();
            assert_ne!(lines.read_line(&mut line).unwrap(), 0, "the child ended early");
        }
        // Read on, lest the child block on a full pipe.
        thread::spawn(move || lines.read_to_end(&mut Vec::new()));
        Self(child)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Not a test of its own: what a second process does for the tests below.
#[test]
fn child_process() {
    let (Ok(role), Ok(database)) = (std::env::var("VECSNAP_TEST_ROLE"), std::env::var("VECSNAP_TEST_DATABASE")) else {
        return;
    };
    let connection = Connection::open(database).unwrap();
    match role.as_str() {
        // Every commit moves an amount from one row to another, so that the sum stays.
        "writer" => loop {
            connection.busy_timeout(Duration::from_secs(60)).unwrap();
            let moved = "BEGIN IMMEDIATE; UPDATE t SET x = x - 7, filler = randomblob(200) WHERE rowid % 97 = 3;
                         UPDATE t SET x = x + 7, filler = randomblob(200) WHERE rowid % 97 = 4; COMMIT";
            connection.execute_batch(moved).unwrap();
            println!("child is ready");
            thread::sleep(Duration::from_millis(5));
        },
        "one write" => {
            connection.busy_timeout(Duration::ZERO).unwrap();
            let outcome = connection.execute_batch("UPDATE t SET x = 0");
            println!("{}", if outcome.is_ok() { "it wrote" } else { "it was locked out" });
        }
        other => panic!("{other}"),
    }
}

#[test]
fn a_service_that_commits_every_five_milliseconds_is_captured_in_either_mode() {
    for mode in ["wal", "delete"] {
        let place = Place::new();
        let path = place.path("a.db");
        // Rows 3 and 4 modulo 97 are equally many up to row 970.
        let connection = make(&path, &format!("PRAGMA journal_mode={mode}; PRAGMA synchronous=OFF;"));
        connection.execute_batch("DELETE FROM t WHERE rowid > 970").unwrap();
        drop(connection);
        let expected = 970 * 971 / 2;
        let _writer = Process::start("writer", &path);
        for _ in 0..5 {
            let captured = capture_alone(&path, place.scratch.path(), OPTIONS).unwrap();
            let DatabaseContent::Image(image) = captured.content else { panic!("{mode}") };
            assert_eq!(total(&image.file), expected, "{mode}");
            assert_eq!(image.writer_blocked.is_some(), mode == "delete");
        }
    }
}

#[test]
fn a_live_log_is_still_there_and_in_use_after_a_capture() {
    let place = Place::new();
    let path = place.path("a.db");
    let _writer = {
        drop(make(&path, "PRAGMA journal_mode=WAL;"));
        Process::start("writer", &path)
    };
    assert!(is_wal_live(&path).unwrap());
    capture_alone(&path, place.scratch.path(), OPTIONS).unwrap();
    assert!(is_wal_live(&path).unwrap() && Sidecar::Wal.of(&path).exists());
}

#[test]
fn looking_at_a_database_never_drops_the_locks_that_sqlite_holds_on_it() {
    let place = Place::new();
    let path = place.path("a.db");
    drop(make(&path, ""));
    let try_to_write = || {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "save::sqlite::tests::child_process", "--nocapture"])
            .env("VECSNAP_TEST_ROLE", "one write")
            .env("VECSNAP_TEST_DATABASE", &path)
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap().contains("it wrote")
    };
    let pinned = PinnedSource::open(&path, SqliteAccess::ReadOnly, Instant::now()).map_err(|_| "not pinned").unwrap();
    assert_eq!(sniff(&path).unwrap(), Sniffed::HeldBySqlite);
    assert!(matches!(open_source(&path).unwrap(), SourceOpen::HeldBySqlite));
    // A second capture of the same file, as when the database also lies in a tree.
    let second = capture_alone(&path, place.scratch.path(), OPTIONS).unwrap();
    assert!(matches!(second.content, DatabaseContent::Image(_)));
    assert!(!try_to_write(), "the lock of the first capture was dropped");
    drop(pinned);
    assert!(try_to_write(), "the lock outlived the capture");
}

#[test]
fn a_directory_that_may_not_be_written_is_captured() {
    use std::os::unix::fs::PermissionsExt;
    for mode in ["delete", "wal"] {
        let place = Place::new();
        drop(make(&place.path("a.db"), &format!("PRAGMA journal_mode={mode};")));
        let set = |bits| fs::set_permissions(place.sources.path(), fs::Permissions::from_mode(bits)).unwrap();
        set(0o555);
        let image = place.image("a.db");
        set(0o755);
        assert_eq!(total(&image.file), TOTAL, "{mode}");
    }
}

/// Runs inside a mount namespace where the sources are read-only; see the test below.
#[test]
fn child_on_a_read_only_mount() {
    let Ok(directory) = std::env::var("VECSNAP_TEST_READ_ONLY") else { return };
    let scratch = tempfile::tempdir().unwrap();
    for name in ["rollback.db", "clean.db", "unclean.db"] {
        let path = Path::new(&directory).join(name);
        assert!(is_on_read_only_mount(&path).unwrap());
        let captured = capture_alone(&path, scratch.path(), OPTIONS).unwrap();
        let DatabaseContent::Image(image) = captured.content else { panic!("{name}") };
        assert_eq!(total(&image.file), TOTAL, "{name}");
    }
    println!("captured on a read-only mount");
}

#[test]
fn databases_on_a_read_only_mount_are_captured() {
    let place = Place::new();
    let elsewhere = tempfile::tempdir().unwrap();
    drop(make(&place.path("rollback.db"), ""));
    drop(make(&place.path("clean.db"), "PRAGMA journal_mode=WAL;"));
    let live = elsewhere.path().join("live.db");
    let service = make(&live, "PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0;");
    leave_behind(&live, &place.path("unclean.db"), &[Sidecar::Wal, Sidecar::Shm]);
    drop(service);
    let before = picture(place.sources.path());
    let script = r#"mount --bind "$D" "$D" && mount -o remount,bind,ro "$D" &&
                    exec "$T" --exact save::sqlite::tests::child_on_a_read_only_mount --nocapture"#;
    let flags = if rustix::process::geteuid().is_root() { "-m" } else { "-rm" };
    let output = Command::new("unshare")
        .args([flags, "sh", "-c", script])
        .env("D", place.sources.path())
        .env("T", std::env::current_exe().unwrap())
        .env("VECSNAP_TEST_READ_ONLY", place.sources.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("captured on a read-only mount"), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert_unchanged(&before, place.sources.path());
}
