//! The first snapshot of a runtime beside `tar | zstd -3 -T2` of the same files, both synced; then the next one, a
//! restore, and what each needs of memory.
//!
//! `cargo bench --bench first_create -- [--states DIR] [--megabytes N] [--repeats N]`
//!
//! DIR holds `data/db/atocore.db`, `data/chroma/` and `config/project-registry.json`; without it a runtime of N
//! megabytes (460) is made up. Both run in turns, so that a noisy machine hits both; figures in docs/benchmarks.md.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::indexing_slicing,
    reason = "a bench that cannot go on has failed, and its table is its result"
)]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use nix::sys::resource::{UsageWho, getrusage};

/// The argument by which the bench runs one command in a process of its own, to learn its peak memory.
const MEASURE: &str = "--measure";

struct Options {
    states: Option<PathBuf>,
    megabytes: u64,
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
        states: value("--states").map(PathBuf::from),
        megabytes: value("--megabytes").map_or(460, |text| text.parse().unwrap()),
        repeats: value("--repeats").map_or(5, |text| text.parse().unwrap()),
    };
    let scratch = tempfile::tempdir().unwrap();
    let runtime = options.states.clone().unwrap_or_else(|| make_runtime(scratch.path(), options.megabytes));
    // A file that changed within 2 s of a capture is read once more by the next one.
    std::thread::sleep(std::time::Duration::from_secs(3));
    compare(scratch.path(), &runtime, options.repeats);
}

#[derive(Clone, Copy)]
struct Run {
    seconds: f64,
    peak_mebibytes: f64,
}

fn compare(scratch: &Path, runtime: &Path, repeats: usize) {
    let repository = scratch.join("repository");
    let archive = scratch.join("archive.tar.zst");
    let live = scratch.join("live");
    let tar = format!(
        "tar -C '{}' -cf - data config | zstd -q -f -3 -T2 -o '{}' && sync '{}'",
        runtime.display(),
        archive.display(),
        archive.display()
    );
    let (mut create, mut unchanged, mut restore, mut archived) = (vec![], vec![], vec![], vec![]);
    let mut stored = 0;
    for _ in 0..repeats {
        let _ = fs::remove_dir_all(&repository);
        let _ = fs::remove_dir_all(&live);
        create.push(vecsnap(&repository, runtime, &["create", "--chroma"]));
        stored = size_of(&repository);
        let _ = fs::remove_file(&archive);
        archived.push(measure(Command::new("sh").args(["-c", &tar])));
        unchanged.push(vecsnap(&repository, runtime, &["create", "--chroma"]));
        let arguments = ["restore", "latest", "--confirm-service-stopped", "--no-pre-snapshot"];
        restore.push(vecsnap(&repository, &live, &arguments));
    }
    let logical = size_of(runtime) as f64;
    let packed = fs::metadata(&archive).unwrap().len();
    println!("runtime of {:.0} MB, {repeats} runs of each in turns; median (least to most)", logical / 1e6);
    for (name, runs) in [
        ("first create", &create),
        ("tar | zstd -3 -T2, synced", &archived),
        ("create, nothing changed", &unchanged),
        ("restore to nothing", &restore),
    ] {
        let [least, median, most] = spread(runs.iter().map(|run| run.seconds));
        let [.., peak] = spread(runs.iter().map(|run| run.peak_mebibytes));
        println!("{name:28} {median:7.3} s ({least:.3} to {most:.3})   peak {peak:6.1} MiB");
    }
    let [least, median, most] =
        spread(create.iter().zip(&archived).map(|(ours, theirs)| ours.seconds / theirs.seconds));
    println!("wall, first create / tar:    {median:.2} ({least:.2} to {most:.2})");
    println!("bytes, repository / archive: {:.3} ({stored} / {packed})", stored as f64 / packed as f64);
}

/// Least, median and most.
fn spread(values: impl Iterator<Item = f64>) -> [f64; 3] {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    [values[0], values[values.len() / 2], values[values.len() - 1]]
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

/// Vectors that hardly compress, and a database of text that does: about the shares of a real store.
fn make_runtime(scratch: &Path, megabytes: u64) -> PathBuf {
    let root = scratch.join("runtime");
    let segment = root.join("data/chroma/6c1e0f57-bench");
    fs::create_dir_all(&segment).unwrap();
    fs::create_dir_all(root.join("data/db")).unwrap();
    fs::create_dir_all(root.join("config")).unwrap();
    fs::write(root.join("config/project-registry.json"), "{}").unwrap();
    let mut vectors = fs::File::create(segment.join("data_level0.bin")).unwrap();
    let mut noise = blake3::Hasher::new().update(b"vectors").finalize_xof();
    let mut record = vec![0; 1 << 20];
    for _ in 0..megabytes * 4 / 10 {
        noise.fill(&mut record);
        record.iter_mut().skip(3).step_by(4).for_each(|byte| *byte = 0x3c | (*byte & 3));
        vectors.write_all(&record).unwrap();
    }
    write_database(&root.join("data/chroma/chroma.sqlite3"), megabytes * 59 / 100);
    write_database(&root.join("data/db/atocore.db"), megabytes.div_ceil(100));
    root
}

fn write_database(path: &Path, megabytes: u64) {
    const ROW: usize = 1_920;
    let mut database = rusqlite::Connection::open(path).unwrap();
    database.execute_batch("CREATE TABLE documents(id INTEGER PRIMARY KEY, text TEXT)").unwrap();
    let rows = database.transaction().unwrap();
    let mut noise = blake3::Hasher::new().update(b"words").finalize_xof();
    let mut choices = [0; ROW / 7];
    for _ in 0..megabytes * 1_000_000 / ROW as u64 {
        noise.fill(&mut choices);
        let text: String = choices.iter().map(|choice| format!("{:06x} ", u32::from(*choice) * 0x01_003f)).collect();
        rows.execute("INSERT INTO documents(text) VALUES (?)", [&text]).unwrap();
    }
    rows.commit().unwrap();
}
