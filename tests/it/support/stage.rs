//! Operations to be attacked: what each begins from, and what must hold however it ended.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::runtime::{Saved, scatter};
use super::tracer::{Aim, Call, Counted, Fault};
use super::{Outcome, Runtime, TreeState, Vecsnap, damage, noise};

const CONFIRMED: &str = "--confirm-service-stopped";

/// An operation that changes a repository or a service's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Into no repository.
    FirstCreate,
    /// Onto two snapshots.
    Create,
    /// In place, to the first of two snapshots, without a way back.
    Restore,
    /// The same, with a pre-restore snapshot.
    RestoreWithWayBack,
    /// Of a restore with a way back that was killed halfway.
    Resume,
    /// Of the same.
    Undo,
    /// Of the first of two snapshots, whose records the second one's deltas need.
    Cleanup,
    /// The same, where many small packs are merged besides.
    MergingCleanup,
    /// Of a pack of the second snapshot, which is what the live files hold.
    Repair,
}

impl Operation {
    pub const ALL: [Operation; 9] = [
        Operation::FirstCreate,
        Operation::Create,
        Operation::Restore,
        Operation::RestoreWithWayBack,
        Operation::Resume,
        Operation::Undo,
        Operation::Cleanup,
        Operation::MergingCleanup,
        Operation::Repair,
    ];

    fn begins_with_snapshots(self) -> bool {
        self != Operation::FirstCreate
    }

    pub fn restores(self) -> bool {
        use Operation::{Restore, RestoreWithWayBack, Resume, Undo};
        matches!(self, Restore | RestoreWithWayBack | Resume | Undo)
    }

    pub fn cleans_up(self) -> bool {
        matches!(self, Operation::Cleanup | Operation::MergingCleanup)
    }

    /// Whether it begins with a restore that is on record as unfinished.
    pub fn goes_on(self) -> bool {
        matches!(self, Operation::Resume | Operation::Undo)
    }

    fn has_way_back(self) -> bool {
        self.restores() && self != Operation::Restore
    }
}

/// A runtime in which an operation can be run again and again from the same beginning.
pub struct Stage {
    pub runtime: Runtime,
    pub operation: Operation,
    beginning: Saved,
    /// The snapshots that were reported as taken, and what each exports.
    acknowledged: BTreeMap<String, TreeState>,
    /// The live files as they were before any restore.
    live: TreeState,
    /// The live files when the first snapshot was taken.
    first: TreeState,
}

impl Stage {
    pub fn new(operation: Operation) -> Self {
        let runtime = Runtime::bare_in_memory();
        runtime.make_database(super::Journal::Rollback);
        runtime.write_registry("p01");
        super::VectorStore::make(&runtime.chroma(), 300);
        let mut stage = Self {
            beginning: runtime.save(),
            live: live(&runtime),
            first: live(&runtime),
            acknowledged: BTreeMap::new(),
            runtime,
            operation,
        };
        stage.fill();
        stage.beginning = stage.runtime.save();
        stage.check_purpose();
        stage
    }

    /// Holds that the operation does what it is attacked for.
    fn check_purpose(&self) {
        let outcome = self.call().run().exits(0);
        self.check_done(&outcome, "unharmed");
        let told = outcome.json();
        let purposes: &[&str] = match self.operation {
            Operation::FirstCreate => &["chunks_new"],
            Operation::Create => &["chunks_new", "chunks_delta", "chunks_reused"],
            Operation::Cleanup | Operation::MergingCleanup => &["freed_bytes", "rewritten_bytes", "rebased_bytes"],
            Operation::Repair => &["saved_blobs", "retaken_blobs"],
            _ => &["db_restored", "registry_restored", "chroma_restored"],
        };
        for purpose in purposes {
            let done = told[purpose].as_u64().is_some_and(|count| count > 0) || told[purpose] == true;
            assert!(done, "{:?} without {purpose}: {told}", self.operation);
        }
        let packs = damage::packs(&self.runtime.repo()).len();
        assert!(packs < 10, "{:?} leaves {packs} packs", self.operation);
        self.begin();
    }

    fn fill(&mut self) {
        let runtime = &self.runtime;
        let chroma = |name: &str| runtime.chroma().join(name);
        fs::write(chroma("blob"), noise::bytes("blob", 400_000)).unwrap();
        fs::create_dir(chroma("gone")).unwrap();
        fs::write(chroma("gone/file"), noise::bytes("gone", 100_000)).unwrap();
        fs::write(chroma("gone/other"), "").unwrap();
        std::os::unix::fs::symlink("blob", chroma("link")).unwrap();
        if self.operation.restores() {
            fs::write(chroma("kept"), "only its mode changes").unwrap();
        }
        if self.operation == Operation::MergingCleanup {
            scatter(&runtime.chroma(), || runtime.snapshot(&runtime.create(&["--chroma"])));
        }
        self.first = live(runtime);
        if self.operation.begins_with_snapshots() {
            let stamp = runtime.create(&["--chroma"]);
            self.acknowledged.insert(stamp.clone(), self.exported(&stamp));
        }
        runtime.remember(&"second ".repeat(3000));
        runtime.write_registry("p02");
        runtime.store().update(7);
        let mut blob = noise::bytes("blob", 300_000);
        blob[100_000..100_050].fill(7);
        fs::write(chroma("blob"), blob).unwrap();
        fs::remove_dir_all(chroma("gone")).unwrap();
        if self.operation.restores() {
            fs::set_permissions(chroma("kept"), fs::Permissions::from_mode(0o640)).unwrap();
        }
        fs::create_dir(chroma("new")).unwrap();
        fs::write(chroma("new/file"), noise::bytes("new", 80_000)).unwrap();
        if self.operation.begins_with_snapshots() {
            let stamp = runtime.create(&["--chroma"]);
            self.acknowledged.insert(stamp.clone(), self.exported(&stamp));
        }
        if self.operation != Operation::Repair {
            runtime.remember("third");
            fs::write(chroma("new/file"), noise::bytes("newer", 90_000)).unwrap();
        }
        if self.operation.cleans_up() {
            // What the next snapshot holds, only the one that goes holds too.
            fs::write(chroma("again"), noise::bytes("gone", 100_000)).unwrap();
        }
        self.live = live(runtime);
        match self.operation {
            Operation::Repair => {
                let of_second = damage::packs(&runtime.repo())
                    .into_iter()
                    .max_by_key(|pack| fs::metadata(pack).unwrap().modified().unwrap());
                damage::flip(&of_second.unwrap(), 300);
            }
            Operation::Resume | Operation::Undo => self.interrupt_a_restore(),
            _ => {}
        }
    }

    /// Leaves a restore that was killed about halfway through the writing.
    fn interrupt_a_restore(&self) {
        let beginning = self.runtime.save();
        let first = self.stamps().first().cloned().unwrap();
        let call = || self.runtime.vecsnap(&["restore", &first, CONFIRMED]);
        let (outcome, calls) = call().traced(&self.aim(None));
        outcome.exits(0);
        let intents = self.runtime.repo().join("intents");
        let published = calls.iter().position(|call| call.path.starts_with(&intents)).unwrap();
        self.runtime.go_back(&beginning);
        let halfway = (published + calls.len()).div_ceil(2);
        let (outcome, _) = call().traced(&self.aim(Some((halfway, Fault::Kill))));
        assert_eq!(outcome.code, None, "{outcome}");
        assert!(self.is_pending(), "the restore was killed too early or too late");
    }

    fn aim(&self, strike: Option<(usize, Fault)>) -> Aim<'_> {
        Aim { below: self.runtime.path(), counted: Counted::Changes, only: None, strike, before: None }
    }

    /// Runs the operation from its beginning and strikes at one of its calls.
    pub fn run(&self, counted: Counted, strike: Option<(usize, Fault)>) -> (Outcome, Vec<Call>) {
        self.begin();
        self.call().traced(&Aim { counted, ..self.aim(strike) })
    }

    /// Runs the operation from its beginning and strikes at the first call that is meant, in whichever order threads
    /// take turns.
    pub fn strike_first(&self, counted: Counted, is_meant: &dyn Fn(&Call) -> bool, fault: Fault) -> Outcome {
        self.strike_among(counted, is_meant, 1, fault).expect("there is such a call")
    }

    /// The same at the n-th of these calls; `None` if there are not so many.
    pub fn strike_among(
        &self,
        counted: Counted,
        is_meant: &dyn Fn(&Call) -> bool,
        number: usize,
        fault: Fault,
    ) -> Option<Outcome> {
        self.begin();
        let aim = Aim { counted, only: Some(is_meant), ..self.aim(Some((number, fault))) };
        let (outcome, calls) = self.call().traced(&aim);
        (calls.len() >= number).then_some(outcome)
    }

    /// Runs the operation from its beginning; right before one of its calls, while that waits, something else is done.
    pub fn pause_at(&self, number: usize, before: &dyn Fn()) -> (Outcome, Vec<Call>) {
        self.begin();
        self.call().traced(&Aim { before: Some(before), ..self.aim(Some((number, Fault::Pause))) })
    }

    /// Runs the operation from where things are, and kills it at one of its calls, right before which something else is
    /// done.
    pub fn kill_at(&self, number: usize, before: &dyn Fn()) -> (Outcome, Vec<Call>) {
        self.call().traced(&Aim { before: Some(before), ..self.aim(Some((number, Fault::Kill))) })
    }

    /// Brings everything to where the operation begins.
    pub fn begin(&self) {
        self.runtime.go_back(&self.beginning);
    }

    /// The call that runs the operation.
    pub fn call(&self) -> Vecsnap {
        let first = || self.acknowledged.keys().next().unwrap().as_str();
        let call = |arguments: &[&str]| self.runtime.vecsnap(arguments).arg("--json");
        match self.operation {
            Operation::FirstCreate | Operation::Create => call(&["create", "--chroma"]),
            Operation::Restore => call(&["restore", first(), CONFIRMED, "--no-pre-snapshot"]),
            Operation::RestoreWithWayBack => call(&["restore", first(), CONFIRMED]),
            Operation::Resume => call(&["restore", "--resume", CONFIRMED]),
            Operation::Undo => call(&["restore", "--undo", CONFIRMED]),
            Operation::Cleanup | Operation::MergingCleanup => call(&["cleanup", "--keep-last", "1", "--confirm"]),
            Operation::Repair => call(&["repair", "--confirm"]),
        }
    }

    fn stamps(&self) -> Vec<String> {
        self.runtime.snapshots()
    }

    /// Whether an unfinished restore is on record.
    pub fn is_pending(&self) -> bool {
        fs::read_dir(self.runtime.seen(&self.runtime.repo().join("intents")))
            .is_ok_and(|mut intents| intents.next().is_some())
    }

    /// What a snapshot exports, which must succeed, to a place that is always the same.
    #[track_caller]
    fn exported(&self, stamp: &str) -> TreeState {
        let mut state = TreeState::of(&self.export(stamp));
        // Not part of any source.
        for outside in ["", "db", "config", "backup-metadata.json"] {
            state.0.remove(Path::new(outside));
        }
        state
    }

    #[track_caller]
    fn export(&self, stamp: &str) -> PathBuf {
        let place = self.runtime.path().join("export");
        let seen = self.runtime.seen(&place);
        let _ = fs::remove_dir_all(&seen);
        self.runtime.vecsnap(&["restore", stamp, "--to"]).arg(&place).run().exits(0);
        seen
    }

    /// A snapshot that nobody was told of must hold what the live files held.
    #[track_caller]
    fn holds_the_live_state(&self, stamp: &str, expected: &TreeState, what: &str) {
        let exported = TreeState::logical(&self.export(stamp)).0.into_iter();
        let mut state = TreeState(BTreeMap::new());
        state.0.extend(exported.map(|(name, item)| match name.strip_prefix("config") {
            Ok(rest) => (Path::new("../config").join(rest), item),
            Err(_) => (name, item),
        }));
        for outside in ["", "db", "../config/", "backup-metadata.json"] {
            state.0.remove(Path::new(outside));
        }
        state.without_directory_times().assert_same(expected, &format!("{what}: the new snapshot {stamp}"));
    }

    /// Every snapshot that was reported is there and exports its bytes, and every other one is whole.
    #[track_caller]
    pub fn check_snapshots(&self, what: &str) {
        let list = self.runtime.vecsnap(&["list", "--json"]).json();
        let listed: Vec<&Value> = list["backups"].as_array().unwrap().iter().collect();
        for entry in &listed {
            assert_eq!(entry["has_metadata"], true, "{what}: half a snapshot: {entry}");
        }
        let listed: Vec<&str> = listed.iter().map(|entry| entry["stamp"].as_str().unwrap()).collect();
        let newest = self.acknowledged.keys().next_back();
        for stamp in self.acknowledged.keys() {
            // It keeps the newest one that it found.
            let may_be_gone = self.operation.cleans_up() && listed.iter().any(|other| *other > stamp.as_str());
            assert!(listed.contains(&stamp.as_str()) || may_be_gone, "{what}: {stamp} is gone");
        }
        for stamp in listed {
            let outcome = self.runtime.vecsnap(&["validate", stamp, "--lock-wait", "0"]).run();
            if outcome.code == Some(3)
                && self.operation == Operation::Repair
                && Some(stamp) == newest.map(String::as_str)
            {
                continue;
            }
            outcome.exits(0);
            match self.acknowledged.get(stamp) {
                Some(expected) => self.exported(stamp).assert_same(expected, &format!("{what}: {stamp}")),
                // A restore with a way back is the only one to take one of the live files.
                None => self.holds_the_live_state(stamp, &self.live, what),
            }
        }
    }

    /// What a run that reported success must have done.
    #[track_caller]
    pub fn check_done(&self, outcome: &Outcome, what: &str) {
        let document = outcome.json();
        let live_is = |expected: &TreeState| {
            assert!(!self.is_pending(), "{what}: an intent is left");
            let (now, expected) = (live(&self.runtime), expected.clone());
            // What may not be set is warned of.
            let (now, expected) = match outcome.stderr.contains("could not be set") {
                true => (now.without_attributes(), expected.without_attributes()),
                false => (now, expected),
            };
            now.assert_same(&expected, &format!("{what}: the live files"));
        };
        match self.operation {
            Operation::FirstCreate | Operation::Create => {
                let stamp = document["stamp"].as_str().unwrap();
                assert_eq!(document["validated"], true, "{what}");
                assert_eq!(self.stamps().len(), self.acknowledged.len() + 1, "{what}: no snapshot {stamp}");
                self.holds_the_live_state(stamp, &self.live, what);
            }
            Operation::Restore | Operation::RestoreWithWayBack | Operation::Resume => live_is(&self.first),
            Operation::Undo => live_is(&self.live),
            Operation::Cleanup | Operation::MergingCleanup => {
                assert_eq!(document["errors"], json!([]), "{what}");
                let kept = self.acknowledged.keys().next_back();
                assert_eq!(self.stamps().first(), kept, "{what}");
            }
            Operation::Repair => {
                for stamp in self.acknowledged.keys() {
                    self.runtime.vecsnap(&["validate", stamp, "--recheck"]).run().exits(0);
                }
            }
        }
    }

    /// Whatever was left behind, it is finished or undone, and snapshots can be taken and cleaned up.
    #[track_caller]
    pub fn check_recovery(&self, what: &str) {
        match self.operation.restores() {
            true => self.check_restored(what),
            false => {
                assert!(!self.is_pending(), "{what}: an intent without a restore");
                live(&self.runtime).assert_same(&self.live, &format!("{what}: the live files"));
            }
        }
        if self.operation == Operation::Repair {
            self.runtime.vecsnap(&["repair", "--confirm"]).run().exits(0);
            for (stamp, expected) in &self.acknowledged {
                self.runtime.vecsnap(&["validate", stamp, "--recheck"]).run().exits(0);
                self.exported(stamp).assert_same(expected, &format!("{what}: {stamp} after a repair"));
            }
        }
        let now = live(&self.runtime);
        let stamp = self.runtime.create(&["--chroma", "--lock-wait", "0"]);
        self.holds_the_live_state(&stamp, &now, what);
        let cleanup =
            |arguments: &[&str]| self.runtime.vecsnap(&["cleanup", "--keep-last", "1"]).args(arguments).json();
        let told = cleanup(&["--confirm", "--json"]);
        assert_eq!(told["errors"], json!([]), "{what}");
        assert_eq!(self.stamps(), [stamp.as_str()], "{what}");
        self.runtime.vecsnap(&["validate", &stamp, "--recheck"]).run().exits(0);
        self.holds_the_live_state(&stamp, &now, what);
        // Less than that is left for when it is worth rewriting a pack.
        let left = cleanup(&["--json"])["would_free_bytes"].as_u64().unwrap();
        let packs = damage::packs(&self.runtime.seen(&self.runtime.repo()));
        let all: u64 = packs.iter().map(|pack| fs::metadata(pack).unwrap().len()).sum();
        let most = match self.operation {
            Operation::MergingCleanup => all / 10,
            // And a chunk of what only a snapshot that went held.
            Operation::Cleanup => 65_536 + 4096,
            _ => 4096,
        };
        assert!(left < most, "{what}: a cleanup left {left} of {all} bytes");
        let scratch = fs::read_dir(self.runtime.seen(&self.runtime.repo().join("tmp")))
            .unwrap()
            .map(|entry| entry.unwrap().path());
        // An empty one may be in the making, for a minute.
        let left: Vec<_> = scratch.filter(|directory| fs::read_dir(directory).unwrap().next().is_some()).collect();
        assert!(left.is_empty(), "{what}: scratch directories were left: {left:?}");
    }

    #[track_caller]
    fn check_restored(&self, what: &str) {
        let undone = self.operation == Operation::Undo;
        let target = if undone { &self.live } else { &self.first };
        if !self.is_pending() {
            let now = live(&self.runtime);
            assert!(now == *target || now == self.live, "{what}: no intent, but the files are neither old nor new");
            return;
        }
        for call in [&["create", "--chroma"][..], &["cleanup", "--keep-last", "1", "--confirm"]] {
            self.runtime.vecsnap(call).run().exits(5).prints_nothing().says(&["--resume", CONFIRMED]);
        }
        let killed = self.operation.has_way_back().then(|| self.runtime.save());
        let go_on = |how: &str| self.runtime.vecsnap(&["restore", how, CONFIRMED, "--lock-wait", "0"]).run().exits(0);
        go_on("--resume");
        // If the killed one had not begun to undo, resuming goes on forwards.
        let now = live(&self.runtime);
        let forwards = self.operation != Operation::Undo || now == self.first;
        let expected = if forwards { &self.first } else { target };
        now.assert_same(expected, &format!("{what}: resumed"));
        if let Some(killed) = killed {
            self.runtime.go_back(&killed);
            go_on("--undo");
            live(&self.runtime).assert_same(&self.live, &format!("{what}: undone"));
        }
    }
}

/// The live files, databases told by their rows.
fn live(runtime: &Runtime) -> TreeState {
    runtime.live_state().without_directory_times()
}
