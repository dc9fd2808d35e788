//! Many processes at once, some in process namespaces of their own as on two hosts, some killed at any moment: nobody
//! sees half a snapshot, no lock outlives its process, and what was acknowledged and is kept is restored bit for bit.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::support::command::binary;
use crate::support::random::Random;
use crate::support::{Runtime, TreeState, tree_state};

/// Snapshots that a cleanup keeps.
const KEPT: usize = 5;

/// What the live files, or those of a snapshot, are.
#[derive(Clone, PartialEq, Debug)]
struct State {
    rows: String,
    registry: Vec<u8>,
    /// None where a snapshot was taken without it.
    chroma: Option<TreeState>,
}

impl State {
    fn live(runtime: &Runtime) -> Self {
        Self {
            rows: tree_state::dump(&runtime.db()),
            registry: fs::read(runtime.registry()).unwrap(),
            chroma: Some(TreeState::logical(&runtime.chroma()).without_directory_times()),
        }
    }

    fn of(runtime: &Runtime, stamp: &str) -> Self {
        let exported = runtime.export(stamp);
        let chroma = exported.chroma().exists();
        Self {
            rows: tree_state::dump(&exported.db()),
            registry: fs::read(exported.registry()).unwrap(),
            chroma: chroma.then(|| TreeState::logical(&exported.chroma()).without_directory_times()),
        }
    }

    /// Whether a snapshot of this state is right where the live files were `live`.
    fn is_capture_of(&self, live: &State) -> bool {
        self.rows == live.rows
            && self.registry == live.registry
            && (self.chroma.is_none() || self.chroma == live.chroma)
    }
}

/// A process of the crowd.
struct Running {
    line: Vec<String>,
    child: std::process::Child,
    killed: bool,
}

/// One that came to its end.
struct Ended {
    line: Vec<String>,
    killed: bool,
    output: Output,
}

impl Running {
    fn end(self) -> Ended {
        Ended { line: self.line, killed: self.killed, output: self.child.wait_with_output().unwrap() }
    }
}

struct Crowd {
    runtime: Runtime,
    random: Random,
    seed: u64,
    /// Acknowledged snapshots, with the states that each may hold.
    acknowledged: BTreeMap<String, Vec<State>>,
    counts: BTreeMap<String, u32>,
}

impl Crowd {
    fn new(seed: u64) -> Self {
        let runtime = Runtime::new();
        let stamp = runtime.create(&["--chroma"]);
        let acknowledged = BTreeMap::from([(stamp, vec![State::live(&runtime)])]);
        Self { runtime, random: Random::of(seed, 0), seed, acknowledged, counts: BTreeMap::new() }
    }

    /// Changes the live files, lets several commands loose on them at once, and looks at what is left.
    fn round(&mut self, number: u32) {
        self.change(number);
        let before = State::live(&self.runtime);
        let restored = self.acknowledged.keys().next_back().cloned().filter(|stamp| self.exists(stamp));
        let processes = 3 + self.random.below(4);
        let mut running: Vec<Running> = (0..processes).map(|_| self.start(restored.as_deref())).collect();
        for process in &mut running {
            if self.random.one_in(3) {
                thread::sleep(Duration::from_millis(self.random.next() % 250));
                process.killed = process.child.kill().is_ok();
            }
        }
        let ended: Vec<Ended> = running.into_iter().map(Running::end).collect();
        self.no_lock_is_left();
        self.finish_restores();
        let after = State::live(&self.runtime);
        ended.iter().for_each(|process| self.judge(number, process, &before, &after));
        self.all_that_is_kept_is_whole(number);
    }

    fn change(&mut self, number: u32) {
        self.runtime.remember(&format!("round {number} of seed {}", self.seed));
        self.runtime.write_registry(&format!("p{number}"));
        self.runtime.store().update(self.random.below(200) as u32);
        if self.random.one_in(2) {
            self.runtime.store().append(5);
        }
    }

    fn start(&mut self, restored: Option<&str>) -> Running {
        let keep = KEPT.to_string();
        let mut line: Vec<String> = match self.random.below(9) {
            0..=2 => vec!["create", "--chroma"],
            3 => vec!["create"],
            4 => vec!["cleanup", "--confirm", "--keep-last", &keep],
            5 => vec!["validate", "--all"],
            6 => vec!["list"],
            7 => vec!["validate", "latest"],
            _ => match restored {
                Some(stamp) => vec!["restore", stamp, "--confirm-service-stopped"],
                None => vec!["create", "--chroma"],
            },
        }
        .into_iter()
        .map(str::to_owned)
        .collect();
        line.push("--json".into());
        let elsewhere = self.random.one_in(2) && may_unshare();
        let mut command = if elsewhere { Command::new("unshare") } else { Command::new(binary()) };
        if elsewhere {
            command.args(["--pid", "--fork", "--kill-child"]).arg(binary());
        }
        command.args(&line).env("ATOCORE_BACKUP_DIR", self.runtime.repo()).env("ATOCORE_DATA_DIR", self.runtime.data());
        command.env("ATOCORE_PROJECT_REGISTRY_PATH", self.runtime.registry());
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        *self.counts.entry(line[0].clone()).or_default() += 1;
        Running { line, child, killed: false }
    }

    /// Every lock of the repository can be had at once.
    fn no_lock_is_left(&self) {
        for name in ["lock", "live.lock", "cleanup.lock"] {
            if let Ok(file) = File::options().append(true).open(self.runtime.repo().join(name)) {
                // A killed process of another namespace is gone a moment after the one that was killed for it.
                let free = (0..100).any(|_| {
                    let free = file.try_lock().is_ok();
                    thread::sleep(Duration::from_millis(if free { 0 } else { 20 }));
                    free
                });
                assert!(free, "{name} outlived its process (seed {})", self.seed);
            }
        }
    }

    fn finish_restores(&mut self) {
        let pending =
            fs::read_dir(self.runtime.repo().join("intents")).is_ok_and(|mut intents| intents.next().is_some());
        if pending {
            let way = if self.random.one_in(2) { "--resume" } else { "--undo" };
            self.runtime.vecsnap(&["restore", way, "--confirm-service-stopped"]).run().exits(0);
            *self.counts.entry(format!("restore {way}")).or_default() += 1;
        }
    }

    fn judge(&mut self, number: u32, process: &Ended, before: &State, after: &State) {
        let output = &process.output;
        let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let told =
            format!("round {number} of seed {}: {:?}: {}\n{stdout}\n{stderr}", self.seed, process.line, output.status);
        assert!(!stderr.contains("panicked"), "{told}");
        if process.killed && !output.status.success() {
            *self.counts.entry("killed".into()).or_default() += 1;
            return;
        }
        let code = output.status.code();
        // Busy, or refused because a restore was killed; a snapshot may go while it is looked at.
        let codes: &[i32] = match process.line[0].as_str() {
            "list" => &[0],
            "validate" => &[0, 3, 6],
            "restore" => &[0, 3, 5, 6],
            _ => &[0, 5, 6],
        };
        assert!(code.is_some_and(|code| codes.contains(&code)), "{told}");
        for lost in ["chunk_", "manifest_missing", "manifest_corrupt", "metadata_missing"] {
            assert!(!stdout.contains(lost) && !stderr.contains(lost), "half a snapshot was seen: {told}");
        }
        if process.line[0] == "list" {
            let document: Value = serde_json::from_str(&stdout).unwrap();
            for backup in document["backups"].as_array().unwrap() {
                assert!(backup["has_metadata"] == true && backup["metadata"].is_object(), "half a snapshot: {told}");
            }
        }
        if process.line[0] == "create" && code == Some(0) {
            let document: Value = serde_json::from_str(&stdout).unwrap();
            let stamp = document["stamp"].as_str().unwrap().to_owned();
            assert!(!self.acknowledged.contains_key(&stamp), "a stamp was given twice: {told}");
            self.acknowledged.insert(stamp, vec![before.clone(), after.clone()]);
        }
    }

    fn exists(&self, stamp: &str) -> bool {
        self.runtime.snapshot(stamp).join("manifest").exists()
    }

    /// Each acknowledged snapshot is there and holds one of its states, unless so many newer ones are that cleanup may
    /// take it.
    fn all_that_is_kept_is_whole(&mut self, number: u32) {
        let present = self.runtime.snapshots();
        for (stamp, states) in &self.acknowledged {
            let what = format!("{stamp} after round {number} of seed {}", self.seed);
            if !present.contains(stamp) {
                // Newer ones may have gone since as well.
                let newer = self.acknowledged.keys().chain(&present).filter(|other| *other > stamp);
                let newer: std::collections::BTreeSet<&String> = newer.collect();
                assert!(newer.len() >= KEPT, "{what} is gone although only {} are newer", newer.len());
                continue;
            }
            self.runtime.vecsnap(&["validate", stamp]).run().exits(0);
            let held = State::of(&self.runtime, stamp);
            assert!(states.iter().any(|state| held.is_capture_of(state)), "{what} holds something else");
        }
        self.acknowledged.retain(|stamp, _| present.contains(stamp));
    }
}

fn may_unshare() -> bool {
    static MAY: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *MAY.get_or_init(|| {
        let tried = Command::new("unshare").args(["--pid", "--fork", "true"]).status();
        let may = tried.is_ok_and(|status| status.success());
        if !may {
            assert!(
                std::env::var_os("VECSNAP_SKIP_MOUNT").is_some(),
                "unshare --pid is not permitted; set VECSNAP_SKIP_MOUNT=1"
            );
            eprintln!("SKIPPED: processes in namespaces of their own");
        }
        may
    })
}

fn attack(rounds: u32) {
    let seed = std::env::var("VECSNAP_CROWD_SEED").map_or(1, |text| text.parse().expect("a number"));
    let mut crowd = Crowd::new(seed);
    (1..=rounds).for_each(|number| crowd.round(number));
    eprintln!("concurrency: {rounds} rounds of seed {seed}: {:?}", crowd.counts);
}

#[test]
fn a_crowd_of_processes_leaves_whole_snapshots_and_no_lock() {
    attack(4);
}

#[test]
#[ignore = "60 rounds of up to 6 processes, some killed: about ten minutes"]
fn long_crowd_of_processes_leaves_whole_snapshots_and_no_lock() {
    attack(60);
}
