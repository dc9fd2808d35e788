//! The states of a runtime, one after the other, and the live directory that goes through them.
//!
//! A state is `{data/db/atocore.db, data/chroma, config/project-registry.json}`. The live directory is advanced in
//! place: only files that differ are written, so that unchanged ones keep their stats, as under a real service.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Bytes of a block that a restore writes.
const BLOCK: usize = 4096;
/// A create begins at least so long after the last change.
pub(crate) const REST: Duration = Duration::from_millis(2100);

/// One state.
#[derive(Debug, Clone)]
pub(crate) struct State {
    /// `s0`, `s1`, …
    pub(crate) name: String,
    /// What changed against the one before.
    pub(crate) change: String,
    /// Where it is.
    pub(crate) path: PathBuf,
}

/// What the states of `chroma_states.py` are, and those of the workload of this bench.
const CHANGES: [&str; 7] = [
    "first load",
    "+1 % on a few topics",
    "+1 % across all topics",
    "1 % updated",
    "1 % deleted",
    "+0.1 %",
    "nothing changed",
];

/// The states in `directory`: `s0`, `s1`, … as far as they go.
pub(crate) fn in_directory(directory: &Path) -> Vec<State> {
    let state = |number: usize| State {
        name: format!("s{number}"),
        change: CHANGES.get(number).copied().unwrap_or("changed").into(),
        path: directory.join(format!("s{number}")),
    };
    (0..).map(state).take_while(|state| state.path.join("data").is_dir()).collect()
}

/// A state like `last`, with its Chroma database repacked by `VACUUM`.
pub(crate) fn vacuumed(last: &State, number: usize, scratch: &Path) -> State {
    let path = scratch.join("vacuumed");
    copy(&last.path, &path);
    let database = rusqlite::Connection::open(path.join("data/chroma/chroma.sqlite3")).unwrap();
    database.execute_batch("VACUUM").unwrap();
    State { name: format!("s{number}"), change: "VACUUM of chroma.sqlite3".into(), path }
}

/// Copies a directory to where nothing is.
pub(crate) fn copy(from: &Path, to: &Path) {
    for entry in walkdir::WalkDir::new(from).into_iter().map(Result::unwrap) {
        let target = to.join(entry.path().strip_prefix(from).unwrap());
        if entry.file_type().is_dir() {
            fs::create_dir_all(target).unwrap();
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Makes `live` hold what `state` holds and returns when the last change was.
pub(crate) fn advance(live: &Path, state: &Path) -> Instant {
    let wanted = files(state);
    for stale in files(live).difference(&wanted) {
        fs::remove_file(live.join(stale)).unwrap();
    }
    for file in &wanted {
        let (from, to) = (state.join(file), live.join(file));
        if !to.exists() || differing_blocks(&from, &to) > 0 {
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::copy(from, to).unwrap();
        }
    }
    Instant::now()
}

/// Waits until a create may trust the times of what was last changed.
pub(crate) fn rest_since(change: Instant) {
    std::thread::sleep(REST.saturating_sub(change.elapsed()));
}

/// The files below a directory, by their paths in it.
pub(crate) fn files(root: &Path) -> BTreeSet<PathBuf> {
    let entries = walkdir::WalkDir::new(root).into_iter().filter_map(Result::ok);
    let files = entries.filter(|entry| entry.file_type().is_file());
    files.map(|entry| entry.path().strip_prefix(root).unwrap().to_path_buf()).collect()
}

/// Blocks of 4 KiB that differ between two directories, and SQLite databases among the files that differ.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Distance {
    pub(crate) blocks: u64,
    pub(crate) databases: u64,
}

/// How far `live` is from `state`.
pub(crate) fn distance(state: &Path, live: &Path) -> Distance {
    let mut distance = Distance::default();
    for file in files(state) {
        let blocks = differing_blocks(&state.join(&file), &live.join(&file));
        let is_database = file.extension().is_some_and(|extension| extension == "db" || extension == "sqlite3");
        distance.blocks += blocks;
        distance.databases += u64::from(is_database && blocks > 0);
    }
    distance
}

/// Blocks of `wanted` that are not at their place in `present`; one more if only the length differs.
fn differing_blocks(wanted: &Path, present: &Path) -> u64 {
    let Ok(mut present) = File::open(present) else {
        return fs::metadata(wanted).unwrap().len().div_ceil(BLOCK as u64);
    };
    let mut wanted = File::open(wanted).unwrap();
    let (wanted_length, present_length) = (wanted.metadata().unwrap().len(), present.metadata().unwrap().len());
    let (mut left, mut right) = (vec![0; 256 * BLOCK], vec![0; 256 * BLOCK]);
    let mut blocks = 0;
    loop {
        let (read, there) = (fill(&mut wanted, &mut left), fill(&mut present, &mut right));
        if read == 0 {
            break;
        }
        let right = &right[..there.min(read)];
        let pairs = left[..read].chunks(BLOCK).enumerate();
        blocks += pairs.filter(|(number, block)| right.chunks(BLOCK).nth(*number) != Some(block)).count() as u64;
    }
    blocks.max(u64::from(wanted_length != present_length))
}

fn fill(file: &mut File, buffer: &mut [u8]) -> usize {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..]).unwrap() {
            0 => break,
            read => filled += read,
        }
    }
    filled
}

/// Bytes of the regular files below `root`, without a repository's derived index.
pub(crate) fn stored_bytes(root: &Path) -> u64 {
    let counts = |file: &&PathBuf| !file.file_name().unwrap().to_string_lossy().starts_with("index.sqlite");
    files(root).iter().filter(counts).map(|file| fs::metadata(root.join(file)).unwrap().len()).sum()
}
