//! What must be reached, row by row, and whether it was.

use serde::Serialize;

use super::copies::{FULL_COPY, LEAN_COPY, PLAIN_COPY};
use super::increments::{Increments, Operation, Sample};
use super::measure::Spread;
use super::{ours, peers};

/// One measure with its bounds. Every bound is an upper one.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    pub(crate) measure: String,
    /// `None` where it could not be measured.
    pub(crate) value: Option<f64>,
    /// Over repeats, where there are some.
    pub(crate) spread: Option<Spread>,
    pub(crate) unit: &'static str,
    pub(crate) must: f64,
    pub(crate) aim: Option<f64>,
}

impl Row {
    pub(crate) fn new(measure: &str, value: Option<f64>, unit: &'static str, must: f64, aim: Option<f64>) -> Self {
        Self { measure: measure.into(), value, spread: None, unit, must, aim }
    }

    /// A ratio of medians, with the spread of the ratios of single repeats.
    fn of_ratio(measure: &str, ratio: Option<Ratio>, must: f64, aim: f64) -> Self {
        let spread = ratio.map(|ratio| ratio.spread);
        Self { spread, ..Self::new(measure, ratio.map(|ratio| ratio.of_medians), "x", must, Some(aim)) }
    }

    /// `aim`, `must` or `missed`.
    pub(crate) fn verdict(&self) -> &'static str {
        match self.value {
            None => "not measured",
            Some(value) if self.aim.is_some_and(|aim| value <= aim) => "aim reached",
            Some(value) if value <= self.must => "reached",
            Some(_) => "**missed**",
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Ratio {
    of_medians: f64,
    spread: Spread,
}

const DEFAULT: &str = ours::DEFAULT;
const FAST: &str = "vecsnap --effort fast";

/// The rows that a run over states can tell.
pub(crate) fn of_increments(run: &Increments) -> Vec<Row> {
    let mut rows = vec![growth(run)];
    if let Some(vacuum) = run.states.iter().position(|state| state.change.starts_with("VACUUM")) {
        let ratio = run.growth(DEFAULT, vacuum).zip(run.floors[vacuum]).map(|(grown, floor)| grown / floor as f64);
        rows.push(Row::new("after VACUUM: growth against its floor", ratio, "x", 1.5, Some(0.8)));
    }
    if let Some(unchanged) = run.states.iter().position(|state| state.change == "nothing changed") {
        let seconds = run.seconds(DEFAULT, Operation::Create, unchanged);
        rows.push(Row::new("nothing changed: growth", run.growth(DEFAULT, unchanged), "bytes", 4096.0, Some(2048.0)));
        let read = run.content_read.map(|bytes| bytes as f64);
        rows.push(Row::new("nothing changed: content of live files read", read, "bytes", 0.0, None));
        let median = seconds.map(|spread| spread.median);
        rows.push(Row { spread: seconds, ..Row::new("nothing changed: wall time", median, "s", 0.05, Some(0.015)) });
    }
    let rivals: Vec<&String> = run.contenders.iter().filter(|name| peers::is_rival(name)).collect();
    let fastest = |state: usize| {
        let timed = rivals.iter().filter_map(|name| Some((*name, run.seconds(name, Operation::Create, state)?.median)));
        timed.min_by(|(_, one), (_, other)| one.total_cmp(other)).map(|(name, _)| name.as_str())
    };
    let create = |ours, theirs| ratio(run, [ours, theirs], Operation::Create, 2);
    for name in [FULL_COPY, LEAN_COPY] {
        let measure = format!("create of s2: wall against the {name}");
        rows.push(Row::of_ratio(&measure, create(DEFAULT, name), 0.6, 0.3));
    }
    let name = fastest(2).unwrap_or("none there");
    let measure = format!("create of s2: wall against the fastest peer ({name})");
    rows.push(Row::of_ratio(&measure, fastest(2).and_then(|peer| create(DEFAULT, peer)), 0.35, 0.2));
    rows.push(Row::of_ratio("create of s2: wall against cp -a + sync", create(DEFAULT, PLAIN_COPY), 4.0, 2.0));
    let fast = create(FAST, PLAIN_COPY);
    rows.push(Row::of_ratio("create of s2 --effort fast: wall against cp -a + sync", fast, 3.0, 1.5));
    let first = fastest(0).and_then(|peer| ratio(run, [DEFAULT, peer], Operation::Create, 0));
    let measure = format!("first create: wall against the fastest peer ({})", fastest(0).unwrap_or("none there"));
    rows.push(Row::of_ratio(&measure, first, 0.9, 0.6));
    let sizes = rivals.iter().filter_map(|name| Some((name.as_str(), run.growth(name, 0)?)));
    let smallest = sizes.min_by(|(_, one), (_, other)| one.total_cmp(other));
    let measure =
        format!("first create: bytes against the smallest peer ({})", smallest.map_or("none", |(name, _)| name));
    let bytes = run.growth(DEFAULT, 0).zip(smallest).map(|(grown, (_, theirs))| grown / theirs);
    rows.push(Row::new(&measure, bytes, "x", 1.02, Some(0.97)));
    rows.extend(restores(run));
    rows.extend(memory(run));
    let blocked = most(run, Operation::Create, 2, |sample| sample.writer_blocked_seconds);
    rows.push(Row::new("create of s2: writers held off, at most", blocked, "s", 1.0, Some(0.3)));
    rows
}

/// Over the five states with changes.
fn growth(run: &Increments) -> Row {
    let grown: Option<f64> = (1..=5).map(|state| run.growth(DEFAULT, state)).sum();
    let floors: Option<u64> = (1..=5).map(|state| run.floors.get(state).copied().flatten()).sum();
    let ratio = grown.zip(floors).map(|(grown, floors)| grown / floors as f64);
    Row::new("growth over s1 to s5 against the sum of floors", ratio, "x", 1.15, Some(0.95))
}

fn restores(run: &Increments) -> [Row; 2] {
    let wall = ratio(run, [DEFAULT, PLAIN_COPY], Operation::RestoreInPlace, 1);
    let written = most(run, Operation::RestoreInPlace, 1, |sample| Some(sample.blocks_written? as f64));
    let allowed = 2.0 * run.distance.databases as f64;
    let blocks = written.map(|written| (written - allowed) / run.distance.blocks as f64);
    [
        Row::of_ratio("restore in place s2 → s1: wall against cp -a + sync", wall, 4.0, 1.5),
        Row::new("the same: blocks written, less 2 per database, against those that differ", blocks, "x", 1.02, None),
    ]
}

fn memory(run: &Increments) -> Vec<Row> {
    let operations = [
        ("create, the most of all states", Operation::Create),
        ("restore in place", Operation::RestoreInPlace),
        ("restore into nothing", Operation::RestoreToNothing),
        ("validate", Operation::Validate),
        ("cleanup", Operation::Cleanup),
    ];
    let megabytes = run.logical.first().map_or(0, |bytes| bytes / 1_000_000);
    let row = |(name, operation)| {
        let states =
            (0..run.states.len()).filter_map(|state| most(run, operation, state, |s| Some(s.run.peak_mebibytes)));
        let peak = Spread::of(states).map(|spread| spread.most);
        Row::new(&format!("peak memory at {megabytes} MB: {name}"), peak, "MiB", 150.0, Some(80.0))
    };
    operations.into_iter().map(row).collect()
}

/// The most of a figure over the repeats of what vecsnap does by default.
fn most(run: &Increments, operation: Operation, state: usize, figure: impl Fn(&Sample) -> Option<f64>) -> Option<f64> {
    let runs = run.runs(DEFAULT, operation, state);
    Spread::of(runs.into_iter().filter_map(figure)).map(|spread| spread.most)
}

fn ratio(run: &Increments, [ours, theirs]: [&str; 2], operation: Operation, state: usize) -> Option<Ratio> {
    let of_medians = run.seconds(ours, operation, state)?.median / run.seconds(theirs, operation, state)?.median;
    let (ours, theirs) = (run.runs(ours, operation, state), run.runs(theirs, operation, state));
    let pairs = ours.iter().filter_map(|mine| {
        let other = theirs.iter().find(|sample| sample.repeat == mine.repeat)?;
        Some(mine.run.seconds / other.run.seconds)
    });
    Some(Ratio { of_medians, spread: Spread::of(pairs)? })
}
