//! The guard of a restore: as long as anybody has a target open, nothing is touched, and the culprit is named.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::chown;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use crate::support::command::binary;
use crate::support::mount::{namespace, succeed};
use crate::support::{Journal, Outcome, Runtime, TreeState};

const CONFIRMED: &str = "--confirm-service-stopped";

/// A process that uses a file until it is dropped.
struct User(Child);

impl User {
    /// One that has the file open and does nothing with it.
    fn opening(path: &Path) -> Self {
        Self(Command::new("sleep").arg("600").stdin(File::open(path).unwrap()).spawn().unwrap())
    }

    /// One that runs this Python code, with the file as `path`, and then idles.
    fn python(path: &Path, code: &str) -> Self {
        let script =
            format!("import sys, time\npath = sys.argv[1]\n{code}\nprint('ready', flush=True)\ntime.sleep(600)\n");
        let mut python = Command::new("python3");
        let mut child = python.args(["-c", &script]).arg(path).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n", "the Python code failed");
        Self(child)
    }

    fn id(&self) -> String {
        self.0.id().to_string()
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A runtime with a snapshot, changed since.
struct Changed {
    runtime: Runtime,
    stamp: String,
}

impl Changed {
    fn new() -> Self {
        Self::with_journal(Journal::Rollback)
    }

    fn with_journal(journal: Journal) -> Self {
        let runtime = Runtime::with_journal(journal);
        let stamp = runtime.create(&["--chroma"]);
        runtime.remember("marker");
        runtime.write_registry("p02");
        Self { runtime, stamp }
    }

    /// Restores, which must be refused with these words and without touching anything.
    #[track_caller]
    fn is_refused(&self, words: &[&str]) -> Outcome {
        let (files, repo) =
            (TreeState::of(&self.runtime.data()), TreeState::of(&self.runtime.repo().join("snapshots")));
        let outcome = self.runtime.vecsnap(&["restore", &self.stamp, CONFIRMED]).run().exits(5).prints_nothing();
        TreeState::of(&self.runtime.data()).assert_same(&files, "after the refusal");
        TreeState::of(&self.runtime.repo().join("snapshots")).assert_same(&repo, "after the refusal");
        assert_eq!(self.runtime.registered(), "p02");
        assert_eq!(fs::read_dir(self.runtime.repo().join("intents")).unwrap().count(), 0);
        outcome.says(words)
    }

    #[track_caller]
    fn is_restored(&self, arguments: &[&str]) {
        self.runtime.restore(&self.stamp, arguments);
        assert_eq!((self.runtime.memories(), self.runtime.registered()), (vec!["first".to_owned()], "p01".to_owned()));
    }
}

#[test]
fn a_process_that_has_a_target_open_is_named_with_the_file() {
    let it = Changed::new();
    let segment = it.runtime.store().file("data_level0.bin");
    for path in [it.runtime.db(), it.runtime.registry(), segment] {
        let user = User::opening(&path);
        it.is_refused(&[&user.id(), "(sleep)", path.to_str().unwrap(), "--force", "stop"]);
    }
    it.is_restored(&[]);
}

#[test]
fn a_mapped_file_counts_as_open() {
    let it = Changed::new();
    let path = it.runtime.store().file("data_level0.bin");
    let code =
        "import mmap\nfile = open(path, 'rb')\nkept = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)\nfile.close()";
    // Python keeps a descriptor of its own for a mapping, which only its size needs.
    let only_mapped = format!(
        "{code}\nimport os, glob\nfor fd in map(int, os.listdir('/proc/self/fd')):\n    \
        try:\n        if os.readlink(f'/proc/self/fd/{{fd}}') == path: os.close(fd)\n    except OSError: pass"
    );
    let user = User::python(&path, &only_mapped);
    assert!(!holds_descriptor(&user, &path), "the test is to show a mapping alone");
    it.is_refused(&[&user.id(), "(python3)", path.to_str().unwrap()]);
}

fn holds_descriptor(user: &User, path: &Path) -> bool {
    let descriptors = fs::read_dir(format!("/proc/{}/fd", user.id())).unwrap();
    descriptors.filter_map(|entry| fs::read_link(entry.unwrap().path()).ok()).any(|target| target == path)
}

#[test]
fn connections_of_sqlite_count_whether_they_read_or_idle() {
    let connect = "import sqlite3\nconnection = sqlite3.connect(path, isolation_level=None)\n";
    let reading = "connection.execute('BEGIN')\nconnection.execute('SELECT * FROM memories').fetchone()";
    for (journal, code) in [
        (Journal::Rollback, reading),
        (Journal::Rollback, "connection.execute('SELECT 1 FROM memories').fetchall()"),
        (Journal::Wal, reading),
        (Journal::Wal, "connection.execute('SELECT 1 FROM memories').fetchall()"),
    ] {
        let it = Changed::with_journal(journal);
        let user = User::python(&it.runtime.db(), &format!("{connect}{code}"));
        it.is_refused(&[&user.id(), "(python3)", "atocore.db"]);
        drop(user);
        it.is_restored(&[]);
    }
}

#[test]
fn force_goes_on_with_a_warning_that_names_the_process() {
    let it = Changed::new();
    let user = User::opening(&it.runtime.registry());
    let call = ["restore", &it.stamp, CONFIRMED, "--force", "--json"];
    it.runtime.vecsnap(&call).run().exits(0).says(&["WARN", &user.id(), "project-registry.json", "--force"]);
    assert_eq!((it.runtime.memories(), it.runtime.registered()), (vec!["first".to_owned()], "p01".to_owned()));
    it.runtime.vecsnap(&["restore", "--undo", CONFIRMED]).run().exits(5).says(&[&user.id()]);
    it.runtime.vecsnap(&["restore", "--undo", CONFIRMED, "--force"]).run().exits(0);
    assert_eq!(it.runtime.registered(), "p02");
}

#[test]
fn force_restores_under_a_reader_of_sqlite_too() {
    for journal in [Journal::Rollback, Journal::Wal] {
        let it = Changed::with_journal(journal);
        let code = "import sqlite3\nconnection = sqlite3.connect(path, isolation_level=None)\n\
            connection.execute('BEGIN')\nconnection.execute('SELECT * FROM memories').fetchone()";
        let user = User::python(&it.runtime.db(), code);
        it.is_refused(&[&user.id()]);
        let call = ["restore", &it.stamp, CONFIRMED, "--force"];
        it.runtime.vecsnap(&call).run().exits(0).says(&[&user.id()]);
        drop(user);
        assert_eq!(it.runtime.memories(), ["first"]);
    }
}

#[test]
fn what_is_not_restored_may_be_in_use_and_elsewhere_too() {
    let it = Changed::new();
    let user = User::opening(&it.runtime.store().file("data_level0.bin"));
    it.runtime.vecsnap(&["restore", &it.stamp, "--to"]).arg(it.runtime.path().join("out")).run().exits(0);
    let rehearsed = it.runtime.vecsnap(&["restore", &it.stamp, "--dry-run"]).run().exits(0);
    rehearsed.says(&[&user.id(), "data_level0.bin", "would be refused"]);
    it.is_restored(&["--no-chroma"]);
}

/// Restores as if in a container: in a PID namespace of its own, with a `/proc` that shows only that.
fn in_container(it: &Changed, through: &[&str]) -> Option<Command> {
    let mut command = namespace()?;
    command.args(["-pf", "--mount-proc"]).args(through).arg(binary()).args(["restore", &it.stamp, CONFIRMED, "--json"]);
    command.env("ATOCORE_BACKUP_DIR", it.runtime.repo()).env("ATOCORE_DATA_DIR", it.runtime.data());
    command.env("ATOCORE_PROJECT_REGISTRY_PATH", it.runtime.registry());
    Some(command)
}

#[test]
fn processes_outside_the_container_are_noticed_too() {
    let it = Changed::new();
    let user = User::opening(&it.runtime.store().file("data_level0.bin"));
    let Some(mut command) = in_container(&it, &[]) else { return };
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(5), "{said}");
    assert!(said.contains("data_level0.bin") && said.contains("cannot be seen from here"), "{said}");
    assert!(!said.contains(&user.id()), "the container was to hide it: {said}");
    assert_eq!(it.runtime.registered(), "p02");
    drop(user);
    let idle = it.runtime.connect();
    idle.execute_batch("BEGIN; SELECT * FROM memories").unwrap();
    let output = in_container(&it, &[]).unwrap().output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(5), "{said}");
    assert!(said.contains("holds a lock on") && said.contains("atocore.db"), "{said}");
    drop(idle);
    succeed(&mut in_container(&it, &[]).unwrap());
    assert_eq!(it.runtime.registered(), "p01");
}

#[test]
fn where_neither_proc_nor_leases_tell_it_is_said_what_the_guard_rests_on() {
    if fs::metadata("/proc/self").map(|own| std::os::unix::fs::MetadataExt::uid(&own)).unwrap() != 0 {
        eprintln!("SKIPPED: only root can give files away");
        return;
    }
    let it = Changed::new();
    chown(it.runtime.registry(), Some(4711), None).unwrap();
    let user = User::opening(&it.runtime.registry());
    // As containers usually are: root may not take leases on others' files, but may act as their owner.
    let Some(mut command) = in_container(&it, &["setpriv", "--bounding-set=-lease"]) else { return };
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(5), "{said}");
    assert!(said.contains("project-registry.json") && said.contains("cannot be seen from here"), "{said}");
    let output = in_container(&it, &["setpriv", "--bounding-set=-lease,-setuid"]).unwrap().output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    for word in ["inside a container", "project-registry.json", "rests on SQLite's locks", "stopped"] {
        assert!(said.contains(word), "no {word:?} in {said}");
    }
    drop(user);
}

#[test]
fn during_the_write_sqlite_elsewhere_finds_the_database_busy() {
    const LENGTH: usize = 32 << 20;
    let it = Changed::new();
    let large = it.runtime.store().file("link_lists.bin");
    fs::write(&large, vec![1; LENGTH]).unwrap();
    let stamp = it.runtime.create(&["--chroma"]);
    fs::write(&large, vec![2; LENGTH]).unwrap();
    let mut restore = Command::new(binary());
    restore.args(["restore", &stamp, CONFIRMED, "--no-pre-snapshot"]).stdout(Stdio::null());
    restore.env("ATOCORE_BACKUP_DIR", it.runtime.repo()).env("ATOCORE_DATA_DIR", it.runtime.data());
    let mut restore = restore.env("ATOCORE_PROJECT_REGISTRY_PATH", it.runtime.registry()).spawn().unwrap();
    let signal = |name: &str| {
        let kill = Command::new("kill").args(["-s", name, &restore.id().to_string()]).status().unwrap();
        assert!(kill.success());
    };
    let intent = it.runtime.repo().join("intents/restore.json");
    let give_up = Instant::now() + Duration::from_secs(60);
    while !intent.exists() && Instant::now() < give_up {
        thread::sleep(Duration::from_millis(1));
    }
    signal("STOP");
    let connection = Connection::open(it.runtime.db()).unwrap();
    connection.busy_timeout(Duration::ZERO).unwrap();
    let read = connection.query_row("SELECT count(*) FROM memories", [], |row| row.get::<_, i64>(0));
    drop(connection);
    let was_under_way = intent.exists();
    signal("CONT");
    assert!(restore.wait().unwrap().success());
    assert!(was_under_way, "the restore was over before it could be stopped");
    let code = read.unwrap_err().sqlite_error_code();
    assert_eq!(code, Some(rusqlite::ErrorCode::DatabaseBusy), "SQLite got at a database that is being overwritten");
}
