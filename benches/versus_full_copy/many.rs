//! Many snapshots of small changes, and what is left when most of them are deleted.
//!
//! Restores are compared with those from a fresh repository that holds the newest state alone; the cleaned repository
//! with a fresh one that took the same ten states one after the other.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::measure::{Run, Spread, measure};
use super::options::Options;
use super::ours::Vecsnap;
use super::report::Section;
use super::rows::Row;
use super::workload::{self, Workload};
use super::{contender::Contender, floor, states};

/// A history of small changes.
pub(crate) struct History {
    pub(crate) repository: Vecsnap,
    live: PathBuf,
    /// Copies of the newest states, oldest first.
    kept: Vec<(String, PathBuf)>,
    pub(crate) growth: u64,
    floors: Option<u64>,
    seconds: Vec<f64>,
    pub(crate) peak_mebibytes: f64,
}

/// Takes many snapshots, restores the newest, cleans up.
pub(crate) fn run(options: &Options, scratch: &Path) -> Section {
    let history = take(options, scratch, |_| {});
    let (newest_name, newest) = history.kept.last().unwrap().clone();
    let mut alone = Vecsnap::at(scratch.join("alone"));
    alone.must_create(&newest, &newest_name);
    let restores: Vec<[Run; 2]> = (0..options.repeats)
        .map(|_| [&history.repository, &alone].map(|repository| restore_newest(repository, &history, scratch)))
        .collect();

    let fresh = fresh(&history, scratch);
    let cleanup = clean(&history, options);
    let validate = measure(&history.repository.command(&history.live, &["validate", "latest"]));
    let cleaned = restore_newest(&history.repository, &history, scratch);
    section(options, &history, &restores, &cleanup, fresh.stored(), [validate, cleaned])
}

/// Takes so many snapshots, each after a small change, and calls `then` after each.
pub(crate) fn take(options: &Options, scratch: &Path, mut then: impl FnMut(&History)) -> History {
    let live = scratch.join("many");
    let mut runtime = Workload::make(&live, options.scale);
    let mut history = History {
        repository: Vecsnap::at(scratch.join("repository")),
        kept: Vec::new(),
        growth: 0,
        floors: Some(0),
        seconds: Vec::new(),
        peak_mebibytes: 0.0,
        live,
    };
    for number in 0..=options.snapshots {
        if number > 0 {
            workload::change_a_little(&mut runtime, options.change);
        }
        let changed = std::time::Instant::now();
        let name = format!("n{number}");
        let copy = scratch.join("states").join(&name);
        states::copy(&history.live, &copy);
        let floor = history.kept.last().map_or(Some(0), |(_, previous)| floor::bytes(previous, &copy));
        history.kept.push((name.clone(), copy));
        if history.kept.len() > options.keep {
            fs::remove_dir_all(history.kept.remove(0).1).unwrap();
        }
        states::rest_since(changed);
        let before = history.repository.stored();
        let run = history.repository.must_create(&history.live, &name);
        if number > 0 {
            history.growth += history.repository.stored() - before;
            history.floors = history.floors.zip(floor).map(|(sum, floor)| sum + floor);
            history.seconds.push(run.seconds);
        }
        history.peak_mebibytes = history.peak_mebibytes.max(run.peak_mebibytes);
        then(&history);
        if number % 20 == 0 {
            eprintln!("snapshot {number}: {:.2} s, grown by {} of {:?}", run.seconds, history.growth, history.floors);
        }
    }
    history
}

/// A fresh repository that takes the newest states one after the other.
pub(crate) fn fresh(history: &History, scratch: &Path) -> Vecsnap {
    let mut fresh = Vecsnap::at(scratch.join("fresh"));
    let replayed = scratch.join("replayed");
    for (name, state) in &history.kept {
        states::rest_since(states::advance(&replayed, state));
        fresh.must_create(&replayed, name);
    }
    fresh
}

/// Deletes all but the newest snapshots.
pub(crate) fn clean(history: &History, options: &Options) -> Cleanup {
    let before = packs(history.repository.repository());
    let keep = options.keep.to_string();
    let run = measure(&history.repository.command(&history.live, &["cleanup", "--keep-last", &keep, "--confirm"]));
    Cleanup { run, before, after: packs(history.repository.repository()) }
}

/// Restores the newest state into nothing.
pub(crate) fn restore_newest(repository: &Vecsnap, history: &History, scratch: &Path) -> Run {
    let target = scratch.join("target");
    let (name, state) = history.kept.last().unwrap();
    let run = repository.must_restore(name, &target);
    let left = states::distance(state, &target);
    assert!(left.blocks <= left.databases, "{left:?} of {name} unrestored");
    fs::remove_dir_all(target).unwrap();
    run
}

/// A cleanup, with the packs that there were and those that there are.
pub(crate) struct Cleanup {
    pub(crate) run: Run,
    before: BTreeMap<PathBuf, u64>,
    after: BTreeMap<PathBuf, u64>,
}

impl Cleanup {
    /// Bytes of packs that are in `one` and not in `other`.
    fn only_in(one: &BTreeMap<PathBuf, u64>, other: &BTreeMap<PathBuf, u64>) -> u64 {
        one.iter().filter(|(pack, _)| !other.contains_key(*pack)).map(|(_, bytes)| bytes).sum()
    }

    /// Bytes of the packs that it wrote.
    pub(crate) fn rewritten(&self) -> u64 {
        Self::only_in(&self.after, &self.before)
    }

    fn removed(&self) -> u64 {
        Self::only_in(&self.before, &self.after)
    }

    /// Bytes by which the packs shrank.
    pub(crate) fn freed(&self) -> u64 {
        self.removed().saturating_sub(self.rewritten())
    }

    /// Bytes that it says it stored on other bases, or whole, because a base went.
    pub(crate) fn rebased(&self) -> u64 {
        self.run.field("rebased_bytes").and_then(|bytes| bytes.as_u64()).unwrap()
    }
}

/// Packs of a repository, with their bytes.
fn packs(repository: &Path) -> BTreeMap<PathBuf, u64> {
    let packs = repository.join("packs");
    let size = |file: PathBuf| {
        let bytes = fs::metadata(packs.join(&file)).unwrap().len();
        (file, bytes)
    };
    states::files(&packs).into_iter().map(size).collect()
}

/// How much each change touches, as people say it.
pub(crate) fn change(options: &Options) -> String {
    format!("+{} %", f64::from(options.change) / 100.0)
}

fn section(
    options: &Options,
    history: &History,
    restores: &[[Run; 2]],
    cleanup: &Cleanup,
    fresh: u64,
    [validate, cleaned]: [Run; 2],
) -> Section {
    let growth = history.floors.map(|floors| history.growth as f64 / floors as f64);
    let median = |index: usize| Spread::of(restores.iter().map(|pair| pair[index].seconds)).map(|spread| spread.median);
    let slower = median(0).zip(median(1)).map(|(ours, fresh)| ours / fresh);
    let stored = history.repository.stored();
    let rewritten = cleanup.rewritten() as f64 / (cleanup.freed() + cleanup.rebased()).max(1) as f64;
    let count = options.snapshots;
    let peak = restores.iter().flatten().map(|run| run.peak_mebibytes).fold(cleaned.peak_mebibytes, f64::max);
    let memory = |name: &str, peak| Row::new(&format!("peak memory: {name}"), Some(peak), "MiB", 150.0, Some(80.0));
    let rows = vec![
        Row::new(
            &format!("{count} snapshots of {}: growth against the sum of floors", change(options)),
            growth,
            "x",
            1.5,
            Some(1.1),
        ),
        Row::new("restore of the newest against a fresh repository's", slower, "x", 2.0, Some(1.3)),
        Row::new(
            &format!("after cleanup --keep-last {0}: bytes against a fresh repository with those {0}", options.keep),
            Some(stored as f64 / fresh as f64),
            "x",
            1.2,
            Some(1.05),
        ),
        Row::new("bytes rewritten against bytes freed and re-based", Some(rewritten), "x", 2.0, Some(1.2)),
        memory("create", history.peak_mebibytes),
        memory("restore", peak),
        memory("cleanup", cleanup.run.peak_mebibytes),
        memory("validate after cleanup", validate.peak_mebibytes),
    ];
    let mut text = String::new();
    let seconds = Spread::of(history.seconds.iter().copied()).unwrap();
    writeln!(
        text,
        "A made-up runtime of about {} MB. Creates took {:.2} s ({:.2} to {:.2}); the cleanup {:.1} s, wrote {:.2} MB \
         of packs ({:.2} MB of it re-based) and removed {:.2} MB; {:.2} MB are left. Restores of the newest: {:.2} s from the whole history, {:.2} s from a \
         fresh repository, {:.2} s after the cleanup.",
        options.scale,
        seconds.median,
        seconds.least,
        seconds.most,
        cleanup.run.seconds,
        cleanup.rewritten() as f64 / 1e6,
        cleanup.rebased() as f64 / 1e6,
        cleanup.removed() as f64 / 1e6,
        stored as f64 / 1e6,
        median(0).unwrap_or(0.0),
        median(1).unwrap_or(0.0),
        cleaned.seconds,
    )
    .unwrap();
    let figures = json!({
        "snapshots": count, "growth": history.growth, "floors": history.floors, "create_seconds": history.seconds,
        "restores": restores, "cleanup": cleanup.run, "rewritten": cleanup.rewritten(), "removed": cleanup.removed(),
        "rebased": cleanup.rebased(), "stored": stored, "fresh": fresh, "validate": validate,
    });
    Section { title: format!("{count} snapshots of small changes"), text, rows, figures }
}
