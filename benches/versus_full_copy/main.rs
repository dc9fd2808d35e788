//! vecsnap beside full copies and other backup tools, on successive states of a runtime, in one interleaved run.
//!
//! `cargo bench --bench versus_full_copy -- --help` tells the options; docs/benchmarks.md has the latest figures, and
//! docs/testing.md says how they are judged. Nothing is asserted about time: rows that are missed are reported as
//! missed.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::indexing_slicing,
    reason = "a bench that cannot go on has failed, and its table is its result"
)]

mod chunks;
mod contender;
mod content_read;
mod copies;
mod daily;
mod floor;
mod increments;
mod large;
mod many;
mod measure;
mod options;
mod ours;
mod peers;
mod plots;
mod report;
mod rows;
mod states;
mod validating;
mod workload;

use std::fs;
use std::path::Path;

use options::Options;
use report::Section;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some(measure::MEASURE) => return measure::serve(&arguments[1..]),
        Some(copies::TAKE_FULL_COPY) => {
            return copies::take_full_copy(Path::new(&arguments[1]), Path::new(&arguments[2]));
        }
        Some(large::HASH) => return large::hash(Path::new(&arguments[1])),
        Some(validating::DECODE) => return validating::decode(Path::new(&arguments[1])),
        Some(validating::CHECK) => return validating::check(&arguments[1..]),
        _ => {}
    }
    let command = format!("cargo bench --bench versus_full_copy -- {}", arguments.join(" "));
    let Some(options) = Options::parse(arguments.into_iter()) else {
        println!("{}", options::USAGE);
        return;
    };
    let results = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("versus-full-copy");
    let scratch = options.scratch.clone().unwrap_or_else(|| results.join("scratch"));
    let _ = fs::remove_dir_all(&scratch);
    fs::create_dir_all(&scratch).unwrap();
    let sections: Vec<Section> =
        options.scenarios.iter().map(|scenario| run(scenario, &options, &scratch, &results)).collect();
    fs::remove_dir_all(&scratch).unwrap();
    println!("{}", report::write(&results, &command, &sections));
    println!("{}", results.join("report.md").display());
}

fn run(scenario: &str, options: &Options, scratch: &Path, results: &Path) -> Section {
    let scratch = scratch.join(scenario);
    fs::create_dir_all(&scratch).unwrap();
    let section = match scenario {
        "increments" => increments(options, &scratch, results),
        "many" => many::run(options, &scratch),
        "daily" => daily::run(options, &scratch),
        "large" => large::run(options, &scratch),
        "chunks" => chunks::run(&scratch),
        "validating" => validating::run(options, &scratch),
        _ => panic!("no scenario is called {scenario}; --help lists them"),
    };
    fs::remove_dir_all(scratch).unwrap();
    section
}

fn increments(options: &Options, scratch: &Path, results: &Path) -> Section {
    let made_up = scratch.join("states");
    let directory = options.states.as_ref().unwrap_or(&made_up);
    if options.states.is_none() {
        workload::make_states(directory, options.scale);
    }
    let mut states = states::in_directory(directory);
    let last = states.last().unwrap_or_else(|| panic!("{} holds no s0", directory.display())).clone();
    states.push(states::vacuumed(&last, states.len(), scratch));
    let run = increments::run(options, states, scratch);
    plots::draw(results, &run);
    report::of_increments(&run, rows::of_increments(&run))
}
