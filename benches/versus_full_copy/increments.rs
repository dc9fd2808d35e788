//! The main comparison: every contender keeps the same states, one after the other, in turns.
//!
//! Who goes first changes from state to state, so that a noisy machine, or a cache that someone else warmed, favours
//! nobody for long. Each repeat begins with empty repositories.

use std::path::Path;

use serde::Serialize;

use super::contender::Contender;
use super::copies::{FullCopy, PlainCopy};
use super::measure::{Run, Spread, measure};
use super::options::Options;
use super::ours::{self, Vecsnap};
use super::states::{self, Distance, State};
use super::{content_read, floor, peers};

/// What was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Operation {
    Create,
    /// s1 into files that hold s2.
    RestoreInPlace,
    /// The last state into an empty directory.
    RestoreToNothing,
    Validate,
    Cleanup,
}

/// One measured command.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Sample {
    pub(crate) contender: String,
    pub(crate) operation: Operation,
    /// Number of the state.
    pub(crate) state: usize,
    pub(crate) repeat: usize,
    #[serde(flatten)]
    pub(crate) run: Run,
    /// Bytes by which the repository grew.
    pub(crate) growth: i64,
    /// Blocks of 4 KiB that a restore says it wrote.
    pub(crate) blocks_written: Option<u64>,
    /// How long writers of a database were held off, at most.
    pub(crate) writer_blocked_seconds: Option<f64>,
}

/// Everything that was measured over the states.
#[derive(Debug)]
pub(crate) struct Increments {
    pub(crate) states: Vec<State>,
    /// Bytes of each state.
    pub(crate) logical: Vec<u64>,
    /// Per state, against the one before; `None` without zstd.
    pub(crate) floors: Vec<Option<u64>>,
    /// Between s2 and s1.
    pub(crate) distance: Distance,
    /// In the order of tables.
    pub(crate) contenders: Vec<String>,
    /// Versions of the peers.
    pub(crate) versions: Vec<String>,
    pub(crate) repeats: usize,
    /// Bytes of live files that a create reads when nothing changed; `None` without strace.
    pub(crate) content_read: Option<u64>,
    pub(crate) samples: Vec<Sample>,
}

impl Increments {
    /// The runs of an operation of one contender on one state, one per repeat.
    pub(crate) fn runs(&self, contender: &str, operation: Operation, state: usize) -> Vec<&Sample> {
        let wanted =
            |sample: &&Sample| sample.contender == contender && sample.operation == operation && sample.state == state;
        self.samples.iter().filter(wanted).collect()
    }

    /// The wall times of these runs.
    pub(crate) fn seconds(&self, contender: &str, operation: Operation, state: usize) -> Option<Spread> {
        Spread::of(self.runs(contender, operation, state).iter().map(|sample| sample.run.seconds))
    }

    /// The bytes that one state added.
    pub(crate) fn growth(&self, contender: &str, state: usize) -> Option<f64> {
        let runs = self.runs(contender, Operation::Create, state);
        Spread::of(runs.iter().map(|sample| sample.growth as f64)).map(|spread| spread.median)
    }
}

/// Measures all contenders over all states.
pub(crate) fn run(options: &Options, states: Vec<State>, scratch: &Path) -> Increments {
    let (mut contenders, versions) = contenders(options);
    let mut increments = Increments {
        logical: states.iter().map(|state| states::stored_bytes(&state.path)).collect(),
        floors: floors(&states),
        distance: states.get(2).map_or_else(Distance::default, |s2| states::distance(&states[1].path, &s2.path)),
        contenders: contenders.iter().map(|contender| contender.name()).collect(),
        versions,
        repeats: options.repeats,
        content_read: None,
        samples: Vec::new(),
        states,
    };
    for repeat in 0..options.repeats {
        let home = scratch.join("homes");
        for contender in &mut contenders {
            let home = home.join(contender.name());
            std::fs::create_dir_all(&home).unwrap();
            if !contender.begin(&home) {
                eprintln!("{} cannot take part", contender.name());
            }
        }
        let mut turn = Turn { repeat, scratch, content_read: None, samples: Vec::new() };
        turn.all_states(&mut contenders, &increments.states);
        increments.samples.append(&mut turn.samples);
        increments.content_read = turn.content_read.max(increments.content_read);
        std::fs::remove_dir_all(home).unwrap();
        eprintln!("repeat {} of {} is done", repeat + 1, options.repeats);
    }
    increments
}

fn contenders(options: &Options) -> (Vec<Box<dyn Contender>>, Vec<String>) {
    let mut contenders: Vec<Box<dyn Contender>> = Vec::new();
    for effort in ["normal", "fast", "none"] {
        contenders.push(Box::new(Vecsnap::with_effort(effort)));
    }
    contenders.push(Box::new(FullCopy::of_the_service()));
    contenders.push(Box::new(FullCopy::without_interpreter()));
    contenders.push(Box::new(PlainCopy::default()));
    let mut versions = Vec::new();
    if options.peers {
        for (peer, version) in peers::on_the_path() {
            versions.push(version);
            contenders.push(Box::new(peer));
        }
    }
    (contenders, versions)
}

fn floors(states: &[State]) -> Vec<Option<u64>> {
    let against = |pair: &[State]| floor::bytes(&pair[0].path, &pair[1].path);
    std::iter::once(None).chain(states.windows(2).map(against)).collect()
}

/// One pass over all states.
struct Turn<'a> {
    repeat: usize,
    scratch: &'a Path,
    content_read: Option<u64>,
    samples: Vec<Sample>,
}

impl Turn<'_> {
    fn all_states(&mut self, contenders: &mut [Box<dyn Contender>], states: &[State]) {
        let live = self.scratch.join("live");
        for (number, state) in states.iter().enumerate() {
            let change = states::advance(&live, &state.path);
            states::rest_since(change);
            for contender in in_turn(contenders, number + self.repeat) {
                let before = contender.stored() as i64;
                if let Some(run) = contender.create(&live, &state.name) {
                    let growth = contender.stored() as i64 - before;
                    self.add(&**contender, Operation::Create, number, run, growth);
                }
            }
            if number == 2 {
                self.restore_in_place(contenders, &states[1], state);
            }
        }
        if let Some(last) = states.len().checked_sub(1) {
            self.restore_to_nothing(contenders, last, &states[last]);
            self.look_after(last, &live);
        }
        std::fs::remove_dir_all(live).unwrap();
    }

    fn restore_in_place(&mut self, contenders: &mut [Box<dyn Contender>], s1: &State, s2: &State) {
        let target = self.scratch.join("target");
        for contender in in_turn(contenders, self.repeat) {
            if peers::is_peer(&contender.name()) {
                continue;
            }
            states::copy(&s2.path, &target);
            if let Some(run) = contender.restore(&s1.name, &target) {
                // SQLite's backup API counts a change in the header of each copy.
                let left = states::distance(&s1.path, &target);
                assert!(left.blocks <= left.databases, "{} left {left:?} of {} unrestored", contender.name(), s1.name);
                self.add(&**contender, Operation::RestoreInPlace, 1, run, 0);
            }
            std::fs::remove_dir_all(&target).unwrap();
        }
    }

    fn restore_to_nothing(&mut self, contenders: &mut [Box<dyn Contender>], number: usize, last: &State) {
        let target = self.scratch.join("target");
        for contender in in_turn(contenders, self.repeat) {
            if let Some(run) = contender.restore(&last.name, &target) {
                self.add(&**contender, Operation::RestoreToNothing, number, run, 0);
            }
            let _ = std::fs::remove_dir_all(&target);
        }
    }

    /// What keeping a repository of vecsnap's takes; last, since it deletes snapshots.
    fn look_after(&mut self, last: usize, live: &Path) {
        let ours = Vecsnap::at(self.scratch.join("homes").join(ours::DEFAULT).join("repository"));
        let unchanged = ours.command(live, &["create", "--chroma", "--effort", "normal"]);
        self.content_read = content_read::bytes(&unchanged, live, self.scratch);
        let validate = measure(&ours.command(live, &["validate", "latest", "--recheck"]));
        self.add(&ours, Operation::Validate, last, validate, 0);
        let before = ours.stored() as i64;
        let cleanup = measure(&ours.command(live, &["cleanup", "--keep-last", "2", "--confirm"]));
        self.add(&ours, Operation::Cleanup, last, cleanup, ours.stored() as i64 - before);
    }

    fn add(&mut self, contender: &dyn Contender, operation: Operation, state: usize, run: Run, growth: i64) {
        let blocks_written = run.field("blocks_written").and_then(|blocks| blocks.as_u64());
        let writer_blocked_seconds = run.field("sources").and_then(|sources| {
            let blocked = sources.as_array()?.iter().filter_map(|source| source.get("writer_blocked_s")?.as_f64());
            Spread::of(blocked).map(|spread| spread.most)
        });
        let contender = contender.name();
        eprintln!("s{state} {operation:?} {contender}: {:.2} s, {growth} bytes", run.seconds);
        self.samples.push(Sample {
            contender,
            operation,
            state,
            repeat: self.repeat,
            run,
            growth,
            blocks_written,
            writer_blocked_seconds,
        });
    }
}

/// The contenders, beginning with another one each time.
fn in_turn(contenders: &mut [Box<dyn Contender>], turn: usize) -> impl Iterator<Item = &mut Box<dyn Contender>> {
    let first = turn % contenders.len();
    let (before, from) = contenders.split_at_mut(first);
    from.iter_mut().chain(before)
}
