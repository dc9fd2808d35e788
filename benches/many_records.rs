//! What commands cost on a repository of many records: ten million synthetic ones in real packs, beside one real
//! runtime.
//!
//! `cargo bench --bench many_records -- [--records N] [--packs N] [--repository DIR] [--states DIR] [--repeats N]`
//!
//! The records (10,000,000 in 1,000 packs) are blobs of eight bytes, put through the library as any others, so that the
//! repository is valid and its index can be built anew; no snapshot needs them. DIR keeps the repository for another
//! run. The states DIR holds `data/db/atocore.db`, `data/chroma/` and `config/project-registry.json`; without it, a
//! small runtime is made up. Each command runs in a process of its own; figures in docs/benchmarks.md.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::indexing_slicing,
    reason = "a bench that cannot go on has failed, and its table is its result"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use vecsnap::store::{BlobWriter, LockWait, Repository, layout};

/// The argument by which the bench runs one command in a process of its own, to learn its peak memory.
const MEASURE: &str = "--measure";
/// A file changed within 2 s of a capture is read once more by the next one.
const SETTLE: Duration = Duration::from_millis(3100);

struct Options {
    records: u64,
    packs: u64,
    repository: Option<PathBuf>,
    states: Option<PathBuf>,
    repeats: usize,
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == MEASURE) {
        return measure_one(&arguments[1..]);
    }
    let value = |name: &str| {
        arguments.iter().position(|argument| argument == name).and_then(|at| arguments.get(at + 1)).cloned()
    };
    let options = Options {
        records: value("--records").map_or(10_000_000, |text| text.parse().unwrap()),
        packs: value("--packs").map_or(1_000, |text| text.parse().unwrap()),
        repository: value("--repository").map(PathBuf::from),
        states: value("--states").map(PathBuf::from),
        repeats: value("--repeats").map_or(9, |text| text.parse().unwrap()),
    };
    let scratch = tempfile::tempdir().unwrap();
    let repository = options.repository.clone().unwrap_or_else(|| scratch.path().join("repository"));
    if !repository.join(layout::PACKS).exists() {
        let began = Instant::now();
        fill(&repository, options.records, options.packs);
        println!("{} records put in {:.0} s", options.records, began.elapsed().as_secs_f64());
    }
    let runtime = options.states.clone().unwrap_or_else(|| make_runtime(scratch.path()));
    measure_all(scratch.path(), &repository, &runtime, options.repeats);
}

/// Puts blobs that differ in their eight bytes alone.
fn fill(root: &Path, records: u64, packs: u64) {
    let repository = Repository::open_or_create(root, LockWait(Duration::from_secs(10))).unwrap();
    for pack in 0..packs {
        // What is new is known to be new: nothing is looked up.
        let mut writer = BlobWriter::begin_rewriting(&repository).unwrap();
        for number in records * pack / packs..records * (pack + 1) / packs {
            writer.put_chunk(&number.to_le_bytes()).unwrap();
        }
        writer.finish().unwrap();
    }
}

fn make_runtime(scratch: &Path) -> PathBuf {
    let root = scratch.join("runtime");
    fs::create_dir_all(root.join("data/db")).unwrap();
    fs::create_dir_all(root.join("data/chroma/6c1e0f57-bench")).unwrap();
    fs::create_dir_all(root.join("config")).unwrap();
    fs::write(root.join("config/project-registry.json"), "{}").unwrap();
    let mut vectors = vec![0; 8 << 20];
    blake3::Hasher::new().update(b"vectors").finalize_xof().fill(&mut vectors);
    fs::write(root.join("data/chroma/6c1e0f57-bench/data_level0.bin"), &vectors).unwrap();
    for name in ["data/db/atocore.db", "data/chroma/chroma.sqlite3"] {
        let database = rusqlite::Connection::open(root.join(name)).unwrap();
        database.execute_batch("CREATE TABLE documents(id INTEGER PRIMARY KEY, text TEXT)").unwrap();
        for text in vectors.chunks(1024).take(1000) {
            database.execute("INSERT INTO documents(text) VALUES (hex(?))", [text]).unwrap();
        }
    }
    root
}

fn measure_all(scratch: &Path, repository: &Path, runtime: &Path, repeats: usize) {
    let run = |arguments: &[&str]| vecsnap(repository, runtime, arguments);
    let many = |arguments: &[&str]| -> Vec<Run> {
        let one = |_| {
            // The second snapshot in a second waits for the next one.
            std::thread::sleep(Duration::from_millis(1100));
            run(arguments)
        };
        (0..repeats).map(one).collect()
    };
    println!("{:36} {:>9} {:>9} {:>9} {:>10}", "command", "median", "least", "most", "peak");
    std::thread::sleep(SETTLE);
    show("create, first or changed", &[run(&["create", "--chroma"])]);
    std::thread::sleep(SETTLE);
    run(&["create", "--chroma"]);
    let before = size_of(repository);
    show("create, nothing changed", &many(&["create", "--chroma"]));
    println!("{:36} {} bytes", "  growth of each", (size_of(repository) - before) / repeats as u64);
    show("list", &many(&["list"]));
    show("show latest", &many(&["show", "latest"]));
    show("validate latest --quick", &many(&["validate", "latest", "--quick"]));
    show("validate latest", &[run(&["validate", "latest"])]);
    show("cleanup, dry run", &[run(&["cleanup"])]);
    let copy = scratch.join("copy");
    copy_repository(repository, &copy);
    show("cleanup --confirm, of a copy", &[vecsnap(&copy, runtime, &["cleanup", "--confirm"])]);
    fs::remove_dir_all(&copy).unwrap();
    fs::remove_file(repository.join(layout::INDEX)).unwrap();
    show("create without its index", &[run(&["create", "--chroma"])]);
    let index = fs::metadata(repository.join(layout::INDEX)).unwrap().len();
    println!("{:36} {index} bytes", "  size of the index");
}

/// A copy whose packs are links.
fn copy_repository(from: &Path, to: &Path) {
    for entry in walkdir::WalkDir::new(from).into_iter().map(Result::unwrap) {
        let target = to.join(entry.path().strip_prefix(from).unwrap());
        if entry.file_type().is_dir() {
            fs::create_dir(&target).unwrap();
        } else if entry.path().extension().is_some_and(|extension| extension == "pack") {
            fs::hard_link(entry.path(), &target).unwrap();
        } else {
            fs::copy(entry.path(), &target).unwrap();
        }
    }
}

#[derive(Clone, Copy)]
struct Run {
    seconds: f64,
    peak_mebibytes: f64,
}

fn show(name: &str, runs: &[Run]) {
    let mut seconds: Vec<f64> = runs.iter().map(|run| run.seconds).collect();
    seconds.sort_by(f64::total_cmp);
    let peak = runs.iter().map(|run| run.peak_mebibytes).fold(0.0, f64::max);
    let (median, least, most) = (seconds[seconds.len() / 2], seconds[0], seconds[seconds.len() - 1]);
    println!("{name:36} {median:7.4} s {least:7.4} s {most:7.4} s {peak:6.1} MiB");
}

fn vecsnap(repository: &Path, runtime: &Path, arguments: &[&str]) -> Run {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vecsnap"));
    command.args(arguments).arg("--quiet").arg("--repo").arg(repository);
    command.arg("--db").arg(runtime.join("data/db/atocore.db"));
    command.arg("--registry").arg(runtime.join("config/project-registry.json"));
    command.arg("--chroma-dir").arg(runtime.join("data/chroma"));
    measure(&mut command)
}

/// Runs a command in a process that has no other child.
fn measure(command: &mut Command) -> Run {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.arg(MEASURE).arg(command.get_program()).args(command.get_args());
    let output = child.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let mut figures = text.lines().last().unwrap().split(' ').map(|figure| figure.parse::<f64>().unwrap());
    Run { seconds: figures.next().unwrap(), peak_mebibytes: figures.next().unwrap() }
}

fn measure_one(line: &[String]) {
    let began = Instant::now();
    let status = Command::new(&line[0]).args(&line[1..]).stdout(std::process::Stdio::null()).status().unwrap();
    let seconds = began.elapsed().as_secs_f64();
    assert!(status.success(), "{line:?}");
    let peak = getrusage(UsageWho::RUSAGE_CHILDREN).unwrap().max_rss() as f64 / 1024.0;
    println!("{seconds} {peak}");
}

fn size_of(directory: &Path) -> u64 {
    let files = walkdir::WalkDir::new(directory).into_iter().map(Result::unwrap);
    let files = files.filter(|entry| entry.file_type().is_file());
    files
        .filter(|entry| !entry.file_name().to_string_lossy().starts_with("index.sqlite"))
        .map(|entry| entry.metadata().unwrap().len())
        .sum()
}
