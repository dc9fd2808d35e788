//! Running one command in a process of its own, and what it needed.
//!
//! Peak memory and processor time come from the kernel's account of waited-for children. The bench runs itself as the
//! waiting process, so that each command has an account of its own; its wall time is taken there, without the start of
//! that helper.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;
use serde::Serialize;

/// The argument by which the bench runs one command and prints what it needed.
pub(crate) const MEASURE: &str = "--measure";

/// What one command needed.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Run {
    /// Wall time, including the time to make what it wrote durable.
    pub(crate) seconds: f64,
    /// User and system time of all its threads.
    pub(crate) processor_seconds: f64,
    /// Most memory that was resident at once.
    pub(crate) peak_mebibytes: f64,
    /// Bytes it read by system calls, from files and pipes.
    pub(crate) bytes_read: u64,
    /// What it wrote to stdout.
    #[serde(skip)]
    pub(crate) output: String,
}

impl Run {
    /// A field of the JSON document that the command printed.
    pub(crate) fn field(&self, name: &str) -> Option<serde_json::Value> {
        serde_json::from_str::<serde_json::Value>(&self.output).ok()?.get(name).cloned()
    }
}

/// Runs a command; `None` if it failed, which is told on stderr.
pub(crate) fn try_measure(command: &Command) -> Option<Run> {
    let mut waiting = Command::new(std::env::current_exe().unwrap());
    waiting.arg(MEASURE).arg(command.get_program()).args(command.get_args());
    waiting.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    if let Some(directory) = command.get_current_dir() {
        waiting.current_dir(directory);
    }
    nix::unistd::sync();
    let result = waiting.output().unwrap();
    if !result.status.success() {
        eprintln!("{command:?}: {}", String::from_utf8_lossy(&result.stderr));
        return None;
    }
    let text = String::from_utf8(result.stdout).unwrap();
    let (output, figures) = text.trim_end().rsplit_once('\n').unwrap_or(("", text.trim_end()));
    let figures: Vec<f64> = figures.split(' ').map(|figure| figure.parse().unwrap()).collect();
    let [seconds, processor_seconds, peak_mebibytes, bytes_read] = figures[..] else { panic!("{figures:?}") };
    Some(Run { seconds, processor_seconds, peak_mebibytes, bytes_read: bytes_read as u64, output: output.into() })
}

/// Runs a command that must succeed.
pub(crate) fn measure(command: &Command) -> Run {
    try_measure(command).unwrap_or_else(|| panic!("{command:?} failed"))
}

/// The waiting process: runs the command line, then prints its output and a line of figures.
pub(crate) fn serve(line: &[String]) {
    let read_before = bytes_read();
    let began = Instant::now();
    let result = Command::new(&line[0]).args(&line[1..]).stderr(Stdio::inherit()).output().unwrap();
    let seconds = began.elapsed().as_secs_f64();
    if !result.status.success() {
        eprintln!("{}", result.status);
        std::process::exit(1);
    }
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).unwrap();
    let processor = seconds_of(usage.user_time()) + seconds_of(usage.system_time());
    let peak = usage.max_rss() as f64 / 1024.0;
    let read = bytes_read() - read_before - result.stdout.len() as u64;
    println!("{}\n{seconds} {processor} {peak} {read}", String::from_utf8_lossy(&result.stdout).trim_end());
}

fn seconds_of(time: TimeVal) -> f64 {
    time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6
}

/// What this process and its waited-for children have read.
fn bytes_read() -> u64 {
    let account = fs::read_to_string("/proc/self/io").unwrap_or_default();
    let line = account.lines().find_map(|line| line.strip_prefix("rchar: "));
    line.and_then(|figure| figure.parse().ok()).unwrap_or(0)
}

/// Makes every file and directory below `root` durable, and adds the time to what was measured.
pub(crate) fn then_sync(mut run: Run, root: &Path) -> Run {
    let began = Instant::now();
    for entry in walkdir::WalkDir::new(root).contents_first(true).into_iter().map(Result::unwrap) {
        if entry.file_type().is_file() || entry.file_type().is_dir() {
            File::open(entry.path()).and_then(|file| file.sync_all()).unwrap();
        }
    }
    run.seconds += began.elapsed().as_secs_f64();
    run
}

/// The same for a store of very many files, whose file system is made durable as a whole.
pub(crate) fn then_sync_file_system(mut run: Run, root: &Path) -> Run {
    let began = Instant::now();
    nix::unistd::syncfs(File::open(root).unwrap()).unwrap();
    run.seconds += began.elapsed().as_secs_f64();
    run
}

/// Least, median and most of some figures.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Spread {
    pub(crate) least: f64,
    pub(crate) median: f64,
    pub(crate) most: f64,
}

impl Spread {
    /// `None` of nothing.
    pub(crate) fn of(figures: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut figures: Vec<f64> = figures.into_iter().collect();
        figures.sort_by(f64::total_cmp);
        let (least, most) = (*figures.first()?, *figures.last()?);
        let middle = figures.len() / 2;
        let median =
            if figures.len() % 2 == 1 { figures[middle] } else { f64::midpoint(figures[middle - 1], figures[middle]) };
        Some(Self { least, median, most })
    }
}
