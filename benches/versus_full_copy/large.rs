//! A large runtime beside a small one, with the same absolute change: time and memory must not grow with what did not
//! change, beyond reading and hashing it.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use super::measure::{Run, Spread, measure};
use super::options::Options;
use super::ours::Vecsnap;
use super::report::Section;
use super::rows::Row;
use super::states;
use super::workload::Workload;

/// The argument by which the bench reads and hashes a directory in a process of its own.
pub(crate) const HASH: &str = "--hash";
/// Vectors that each change adds and rewrites.
const CHANGED: u32 = 500;

/// One runtime and what was measured on it.
struct Subject {
    megabytes: u64,
    live: PathBuf,
    runtime: Workload,
    repository: Vecsnap,
    first: Run,
    increments: Vec<Run>,
    hashing: Vec<Run>,
    unchanged: Run,
    others: Vec<(&'static str, Run)>,
}

/// Measures both runtimes in turns.
pub(crate) fn run(options: &Options, scratch: &Path) -> Section {
    let mut subjects = options.sizes.map(|megabytes| begin(megabytes, scratch));
    for repeat in 0..options.repeats {
        for subject in &mut subjects {
            subject.runtime.insert(CHANGED, 0..4);
            subject.runtime.update(CHANGED);
            std::thread::sleep(states::REST);
            subject.increments.push(subject.repository.must_create(&subject.live, &format!("n{repeat}")));
            let hash = measure(Command::new(std::env::current_exe().unwrap()).arg(HASH).arg(&subject.live));
            subject.hashing.push(hash);
        }
    }
    subjects.iter_mut().for_each(finish);
    section(&subjects)
}

fn begin(megabytes: u64, scratch: &Path) -> Subject {
    let home = scratch.join(format!("of-{megabytes}-megabytes"));
    let live = home.join("live");
    let runtime = Workload::make(&live, megabytes);
    std::thread::sleep(states::REST);
    let mut repository = Vecsnap::at(home.join("repository"));
    let first = repository.must_create(&live, "first");
    eprintln!("first create of {megabytes} MB: {:.1} s, {:.0} MiB", first.seconds, first.peak_mebibytes);
    let (increments, hashing, others) = (Vec::new(), Vec::new(), Vec::new());
    Subject { megabytes, live, runtime, repository, first, increments, hashing, unchanged: Run::default(), others }
}

fn finish(subject: &mut Subject) {
    std::thread::sleep(states::REST);
    subject.unchanged = subject.repository.must_create(&subject.live, "unchanged");
    let validate = measure(&subject.repository.command(&subject.live, &["validate", "latest", "--recheck"]));
    let restore = subject.repository.must_restore("first", &subject.live);
    let cleanup = measure(&subject.repository.command(&subject.live, &["cleanup", "--keep-last", "1", "--confirm"]));
    subject.others = vec![("validate", validate), ("restore in place", restore), ("cleanup", cleanup)];
}

/// Reads and hashes all files below a directory; the measured process of [`HASH`].
pub(crate) fn hash(directory: &Path) {
    for file in states::files(directory) {
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(File::open(directory.join(file)).unwrap()).unwrap();
        hasher.finalize();
    }
}

fn section(subjects: &[Subject; 2]) -> Section {
    let median = |runs: &[Run]| Spread::of(runs.iter().map(|run| run.seconds)).map_or(0.0, |spread| spread.median);
    let [small, large] = subjects;
    let grown = |runs: fn(&Subject) -> &[Run]| median(runs(large)) - median(runs(small));
    let factor = |runs: fn(&Subject) -> &[Run]| median(runs(large)) / median(runs(small));
    let ratio = |of: &dyn Fn(fn(&Subject) -> &[Run]) -> f64| {
        let hashing = of(|subject| &subject.hashing);
        (hashing > 0.0).then(|| of(|subject| &subject.increments) / hashing)
    };
    let sizes = [small.megabytes, large.megabytes];
    let measure =
        format!("{} MB against {} MB, same change: wall grows, against reading and hashing", sizes[1], sizes[0]);
    let mut rows = vec![
        Row::new(&format!("{measure}, by the factor"), ratio(&factor), "x", 1.0, None),
        Row::new(&format!("{measure}, by the difference"), ratio(&grown), "x", 1.0, None),
    ];
    let mut text =
        "| | ".to_owned() + &sizes.map(|size| format!("{size} MB | peak")).join(" | ") + " |\n|---|---|---|---|---|\n";
    let mut line = |name: &str, runs: [(f64, f64); 2]| {
        let cells = runs.map(|(seconds, peak)| format!("{seconds:.2} s | {peak:.0} MiB"));
        writeln!(text, "| {name} | {} |", cells.join(" | ")).unwrap();
    };
    let single = |run: &Run| (run.seconds, run.peak_mebibytes);
    let several = |runs: &[Run]| (median(runs), runs.iter().map(|run| run.peak_mebibytes).fold(0.0, f64::max));
    line("first create", [single(&small.first), single(&large.first)]);
    line("create after the change", [several(&small.increments), several(&large.increments)]);
    line("reading and hashing all", [several(&small.hashing), several(&large.hashing)]);
    line("create, nothing changed", [single(&small.unchanged), single(&large.unchanged)]);
    for ((name, run), (_, larger)) in small.others.iter().zip(&large.others) {
        line(name, [single(run), single(larger)]);
    }
    let created = several(&large.increments).1.max(large.first.peak_mebibytes);
    let peaks =
        std::iter::once(("create", created)).chain(large.others.iter().map(|(name, run)| (*name, run.peak_mebibytes)));
    rows.extend(peaks.map(|(name, peak)| {
        Row::new(&format!("peak memory at {} MB: {name}", large.megabytes), Some(peak), "MiB", 150.0, Some(80.0))
    }));
    let figures = subjects.iter().map(|subject| {
        json!({
            "megabytes": subject.megabytes, "first": subject.first, "increments": subject.increments,
            "hashing": subject.hashing, "unchanged": subject.unchanged,
            "others": subject.others.iter().map(|(name, run)| json!({ "operation": name, "run": run })).collect::<Vec<_>>(),
        })
    });
    let figures = figures.collect::<Vec<_>>().into();
    for subject in subjects {
        fs::remove_dir_all(subject.live.parent().unwrap()).unwrap();
    }
    Section { title: format!("{} MB beside {} MB", sizes[1], sizes[0]), text, rows, figures }
}
