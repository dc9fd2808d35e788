//! The live files of a service on a simulated disk together with the repository, and what must hold for them after a
//! crash of a restore.

use std::fs;
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use serde_json::Value;

use super::campaign::Crash;
use super::repository::reboot;
use crate::support::simulated_disk::Volume;
use crate::support::tree_state::{Item, is_database};
use crate::support::{Runtime, TreeState, Vecsnap};

/// What the live files are like when they are overwritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Present {
    /// Changed everywhere.
    Changed,
    /// The same, with committed rows that are in a log only.
    Unfolded,
    /// Gone.
    Wiped,
}

/// A service with a snapshot of an older state.
pub(super) struct Targets {
    runtime: Runtime,
    /// The older state.
    pub(super) stamp: String,
    pub(super) wanted: TreeState,
    pub(super) present: TreeState,
}

/// Where a restore leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Resume,
    Undo,
}

impl Targets {
    pub(super) fn new(present: Present) -> Self {
        let runtime = Runtime::new();
        let chroma = runtime.chroma();
        fs::create_dir(chroma.join("goes")).unwrap();
        fs::write(chroma.join("goes/file"), "only before").unwrap();
        std::os::unix::fs::symlink("goes/file", chroma.join("link")).unwrap();
        let stamp = runtime.create(&["--chroma"]);
        let wanted = state(&runtime);
        match present {
            Present::Changed => change(&runtime),
            Present::Unfolded => {
                change(&runtime);
                leave_a_log(&runtime.db());
            }
            Present::Wiped => {
                for directory in ["data", "config"] {
                    fs::remove_dir_all(runtime.path().join(directory)).unwrap();
                    fs::create_dir(runtime.path().join(directory)).unwrap();
                }
            }
        }
        let present = state(&runtime);
        Self { runtime, stamp, wanted, present }
    }

    /// What is on the disk.
    pub(super) fn root(&self) -> &Path {
        self.runtime.path()
    }

    /// Puts what a crash left into the real directory.
    pub(super) fn put(&self, volume: &Volume, crash: Crash) {
        volume.write_to(self.root());
        if crash.is_power_cut() {
            reboot(&self.runtime.repo());
        }
    }

    fn call(&self, arguments: &[&str]) -> Vecsnap {
        self.runtime.vecsnap(&["--json"]).args(arguments)
    }

    /// The call that restores the older state.
    pub(super) fn restore_call(&self) -> Vecsnap {
        self.call(&["restore", &self.stamp, "--confirm-service-stopped"])
    }

    /// The call that finishes or undoes an interrupted restore.
    pub(super) fn call_on(&self, way: Way) -> Vecsnap {
        let option = match way {
            Way::Resume => "--resume",
            Way::Undo => "--undo",
        };
        self.call(&["restore", option, "--confirm-service-stopped"])
    }

    pub(super) fn state(&self) -> TreeState {
        state(&self.runtime)
    }

    fn pending(&self) -> Value {
        self.call(&["status"]).run().exits(0).json()["pending_restore"].clone()
    }

    /// Whether a restore is unfinished.
    pub(super) fn is_pending(&self) -> bool {
        self.pending() != Value::Null
    }

    /// Whether the service's database is there.
    pub(super) fn holds_a_database(&self) -> bool {
        self.runtime.db().exists()
    }

    /// Whether what is unfinished is going back.
    pub(super) fn is_going_back(&self) -> bool {
        self.pending()["undo"] == true
    }

    /// Holds that the targets are in one of these states, and work goes on.
    pub(super) fn hold_whole(&self, states: &[&TreeState]) {
        let state = self.state();
        let nearest = states.iter().min_by_key(|possible| state.differences(possible).len()).unwrap();
        state.assert_same(nearest, "without an intent");
        self.call(&["validate", &self.stamp]).run().exits(0);
        self.hold_goes_on();
    }

    /// Holds that the next create and the next cleanup succeed, where there is something to capture.
    fn hold_goes_on(&self) {
        let created = if self.runtime.db().exists() { 0 } else { 1 };
        self.call(&["create", "--chroma"]).run().exits(created);
        self.call(&["cleanup", "--confirm"]).run().exits(0);
    }

    /// Holds that everybody is told of the unfinished restore, and that nobody reads half of it.
    pub(super) fn hold_refused(&self) {
        for call in [&["create"][..], &["cleanup", "--confirm"], &["restore", &self.stamp, "--confirm-service-stopped"]]
        {
            self.call(call).run().exits(5).prints_nothing().says(&["--resume --confirm-service-stopped"]);
        }
        self.hold_databases();
    }

    /// Holds that no database of the targets can be read that is not wholly of one state.
    pub(super) fn hold_databases(&self) {
        for database in [self.runtime.db(), self.runtime.store().database()] {
            if is_database(&database) {
                self.hold_database(&database);
            }
        }
    }

    fn hold_database(&self, path: &Path) {
        let name = path.strip_prefix(self.runtime.data()).unwrap();
        let content = |state: &TreeState| state.0.get(name).map(|item: &Item| item.thing.clone());
        let is = Some(TreeState::logical(path).0.remove(Path::new("")).unwrap().thing);
        let [wanted, present] = [&self.wanted, &self.present].map(content);
        assert!(is == wanted || is == present, "{} can be read but is half of something", path.display());
    }

    /// Goes on, which must succeed, and holds that the targets are in this state then.
    pub(super) fn go(&self, way: Way, expected: &TreeState) {
        self.call_on(way).run().exits(0);
        self.state().assert_same(expected, &format!("{way:?}"));
        assert!(!self.is_pending());
        self.hold_goes_on();
    }
}

fn state(runtime: &Runtime) -> TreeState {
    let mut state = runtime.live_state().without_directory_times();
    // Its directory is made by a restore and never removed.
    let chroma = Path::new("chroma");
    if !state.0.keys().any(|name| name != chroma && name.starts_with(chroma)) {
        state.0.remove(chroma);
    }
    state
}

fn change(runtime: &Runtime) {
    runtime.remember(&"a later memory ".repeat(600));
    // The schema is in the first block.
    let schema = "DROP INDEX memories_project; CREATE INDEX later ON memories(content, project); VACUUM;";
    runtime.connect().execute_batch(schema).unwrap();
    runtime.write_registry("a later project");
    runtime.store().append(30);
    runtime.store().update(5);
    let chroma = runtime.chroma();
    fs::remove_dir_all(chroma.join("goes")).unwrap();
    fs::remove_file(chroma.join("link")).unwrap();
    fs::create_dir_all(chroma.join("strange/deep")).unwrap();
    fs::write(chroma.join("strange/deep/file"), "only after").unwrap();
}

/// Leaves a database as a service does that was killed: committed rows in its log only.
fn leave_a_log(database: &Path) {
    let sidecar = |suffix: &str| PathBuf::from(format!("{}{suffix}", database.display()));
    let service = Connection::open(database).unwrap();
    service
        .execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0;
             INSERT INTO memories(project, content) VALUES ('p01', 'in the log only');",
        )
        .unwrap();
    let (main, log) = (fs::read(database).unwrap(), fs::read(sidecar("-wal")).unwrap());
    drop(service);
    fs::write(database, main).unwrap();
    fs::write(sidecar("-wal"), log).unwrap();
}
