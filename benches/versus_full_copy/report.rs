//! The result as text for people and for programs.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::increments::{Increments, Operation};
use super::measure::Spread;
use super::rows::Row;

/// What one scenario found.
#[derive(Debug)]
pub(crate) struct Section {
    pub(crate) title: String,
    /// Tables and sentences beside the rows, as Markdown.
    pub(crate) text: String,
    pub(crate) rows: Vec<Row>,
    /// All figures.
    pub(crate) figures: Value,
}

/// Writes `report.md` and `report.json` and returns the former.
pub(crate) fn write(directory: &Path, command: &str, sections: &[Section]) -> String {
    let mut text = format!("# vecsnap beside full copies and other tools\n\n`{command}` on {}\n", machine());
    for section in sections {
        write!(text, "\n## {}\n\n{}\n{}", section.title, rows_table(&section.rows), section.text).unwrap();
    }
    let sections = sections
        .iter()
        .map(|section| json!({ "title": section.title, "rows": section.rows, "figures": section.figures }));
    let document = json!({ "command": command, "machine": machine(), "sections": sections.collect::<Vec<_>>() });
    fs::create_dir_all(directory).unwrap();
    fs::write(directory.join("report.json"), format!("{document:#}\n")).unwrap();
    fs::write(directory.join("report.md"), &text).unwrap();
    text
}

/// A line on the machine.
fn machine() -> String {
    let account = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = account.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!("{cores} cores of {}", model.trim_start_matches(['\t', ' ', ':']))
}

fn rows_table(rows: &[Row]) -> String {
    let mut table = "| measure | measured | must | aim | |\n|---|---|---|---|---|\n".to_owned();
    for row in rows {
        let measured = row.value.map_or_else(|| "–".into(), |value| quantity(value, row.unit));
        let spread =
            row.spread.map_or_else(String::new, |spread| format!(" ({:.3} to {:.3})", spread.least, spread.most));
        let aim = row.aim.map_or_else(|| "–".into(), |aim| format!("≤ {}", quantity(aim, row.unit)));
        let must = quantity(row.must, row.unit);
        writeln!(table, "| {} | {measured}{spread} | ≤ {must} | {aim} | {} |", row.measure, row.verdict()).unwrap();
    }
    table
}

/// A figure with its unit.
pub(crate) fn quantity(value: f64, unit: &str) -> String {
    match unit {
        "x" => format!("{value:.2}x"),
        "s" => format!("{value:.3} s"),
        "bytes" => format!("{value:.0} bytes"),
        _ => format!("{value:.1} {unit}"),
    }
}

/// The section of the main comparison.
pub(crate) fn of_increments(run: &Increments, rows: Vec<Row>) -> Section {
    let mut text = String::new();
    let versions = if run.versions.is_empty() { "none".into() } else { run.versions.join(", ") };
    let repeats = run.repeats;
    writeln!(text, "Peers: {versions}. {repeats} repeats in turns; medians (least to most).").unwrap();
    text += "\n### Bytes that each state added, in MB\n\n";
    text +=
        &states_table(run, |contender, state| run.growth(contender, state).map(|grown| format!("{:.3}", grown / 1e6)));
    let floors =
        run.floors.iter().map(|floor| floor.map_or_else(|| "–".into(), |floor| format!("{:.3}", floor as f64 / 1e6)));
    writeln!(text, "| floor | {} |", floors.collect::<Vec<_>>().join(" | ")).unwrap();
    text += "\n### Seconds to keep each state\n\n";
    text += &states_table(run, |contender, state| run.seconds(contender, Operation::Create, state).map(seconds));
    text += "\n### Processor seconds (user and system), medians\n\n";
    text += &states_table(run, |contender, state| {
        let runs = run.runs(contender, Operation::Create, state);
        Spread::of(runs.iter().map(|sample| sample.run.processor_seconds)).map(|spread| format!("{:.2}", spread.median))
    });
    text += "\n### Peak memory to keep each state, in MiB\n\n";
    text += &states_table(run, |contender, state| {
        let runs = run.runs(contender, Operation::Create, state);
        Spread::of(runs.iter().map(|sample| sample.run.peak_mebibytes)).map(|spread| format!("{:.0}", spread.most))
    });
    text +=
        "\n### Seconds to restore\n\n| | s1 into files that hold s2 | the last state into nothing |\n|---|---|---|\n";
    let last = run.states.len() - 1;
    for contender in &run.contenders {
        let cells = [(Operation::RestoreInPlace, 1), (Operation::RestoreToNothing, last)]
            .map(|(operation, state)| run.seconds(contender, operation, state).map_or_else(|| "–".into(), seconds));
        writeln!(text, "| {contender} | {} |", cells.join(" | ")).unwrap();
    }
    let states: Vec<Value> = run
        .states
        .iter()
        .zip(run.logical.iter().zip(&run.floors))
        .map(|(state, (bytes, floor))| json!({ "name": state.name, "change": state.change, "bytes": bytes, "floor": floor }))
        .collect();
    let distance = json!({ "blocks": run.distance.blocks, "databases": run.distance.databases });
    let figures = json!({ "states": states, "s2_to_s1": distance, "versions": run.versions, "content_read": run.content_read, "samples": run.samples });
    let megabytes = run.logical[0] / 1_000_000;
    Section { title: format!("Increments: {} states of {megabytes} MB", run.states.len()), text, rows, figures }
}

fn seconds(spread: Spread) -> String {
    format!("{:.2} ({:.2} to {:.2})", spread.median, spread.least, spread.most)
}

/// A line per contender, a column per state.
fn states_table(run: &Increments, cell: impl Fn(&str, usize) -> Option<String>) -> String {
    let headings: Vec<String> = run.states.iter().map(|state| format!("{}: {}", state.name, state.change)).collect();
    let mut table = format!("| | {} |\n|---|{}\n", headings.join(" | "), "---|".repeat(headings.len()));
    for contender in &run.contenders {
        let cells = (0..run.states.len()).map(|state| cell(contender, state).unwrap_or_else(|| "–".into()));
        writeln!(table, "| {contender} | {} |", cells.collect::<Vec<_>>().join(" | ")).unwrap();
    }
    table
}
