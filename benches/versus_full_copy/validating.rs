//! `validate` of a whole snapshot beside what it cannot do without: decoding and hashing the same blobs on all cores,
//! and SQLite's integrity check of the same databases. It does both at the same time, so the slower of them is its
//! measure.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};
use serde_json::json;
use vecsnap::restore::verify::{Visited, WalkDepth, walk};
use vecsnap::store::{Access, BlobReader, BulkReader, LockWait, PlanCapacity, Repository, WantedChunk, snapshots};

use super::measure::{Run, Spread, measure};
use super::options::Options;
use super::ours::Vecsnap;
use super::report::Section;
use super::rows::Row;
use super::{states, workload};

/// The argument by which the bench decodes and hashes the newest snapshot of a repository in a process of its own.
pub(crate) const DECODE: &str = "--decode";
/// The argument by which the bench checks databases in a process of its own.
pub(crate) const CHECK: &str = "--integrity-check";
/// The states that are captured, as far as there are so many: the last one rests on deltas.
const CAPTURED: usize = 3;

/// Validates the newest of a few snapshots, in turns with both parts alone.
pub(crate) fn run(options: &Options, scratch: &Path) -> Section {
    let made_up = scratch.join("states");
    let directory = options.states.as_ref().unwrap_or(&made_up);
    if options.states.is_none() {
        workload::make_states(directory, options.scale);
    }
    let live = scratch.join("live");
    let mut repository = Vecsnap::at(scratch.join("repository"));
    for state in states::in_directory(directory).iter().take(CAPTURED) {
        states::rest_since(states::advance(&live, &state.path));
        repository.must_create(&live, &state.name);
    }
    let own = |arguments: &[PathBuf]| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(arguments);
        command
    };
    let databases = ["data/db/atocore.db", "data/chroma/chroma.sqlite3"].map(|name| live.join(name));
    let commands = [
        repository.command(&live, &["validate", "latest", "--recheck"]),
        own(&[DECODE.into(), scratch.join("repository")]),
        own(&[&[CHECK.into()], &databases[..]].concat()),
    ];
    let mut runs = [const { Vec::new() }; 3];
    for repeat in 0..options.repeats {
        for turn in 0..commands.len() {
            let which = (turn + repeat) % commands.len();
            runs[which].push(measure(&commands[which]));
        }
    }
    section(&runs, states::stored_bytes(&live))
}

/// Reads, decodes and hashes all that the newest snapshot holds, on all cores; the measured process of [`DECODE`].
pub(crate) fn decode(root: &Path) {
    let repository = Repository::open(root, Access::Read, LockWait(Duration::ZERO)).unwrap().unwrap();
    let newest = snapshots::latest(repository.storage()).unwrap().unwrap();
    let manifest = snapshots::read_manifest(&repository, newest.stamp().unwrap()).unwrap().unwrap();
    let mut chunks = std::collections::HashSet::new();
    let mut reader = BlobReader::new(&repository);
    for source in &manifest.sources {
        let mut note = |_: &mut BlobReader<'_>, step: Visited<'_>| {
            if let Visited::Chunk { id, length, .. } = step {
                chunks.insert((id, length));
            }
            Ok(())
        };
        walk(source, WalkDepth::DistinctChunks, &mut reader, &mut note).unwrap();
    }
    let wanted: Vec<_> = chunks.into_iter().map(|(id, length)| WantedChunk { id, length }).collect();
    let bytes = AtomicU64::new(0);
    let mut bulk = BulkReader::new(&repository);
    let read = |bulk: &mut BulkReader<'_>| {
        let count = |_: &_, chunk: &[u8]| {
            bytes.fetch_add(chunk.len() as u64, Ordering::Relaxed);
            Ok(())
        };
        assert_eq!(bulk.read(&count).unwrap(), [], "a chunk is not where the index has it");
    };
    for some in wanted.chunks(512) {
        if bulk.want(some).unwrap() == PlanCapacity::Full {
            read(&mut bulk);
        }
    }
    read(&mut bulk);
    let expected: u64 = wanted.iter().map(|chunk| chunk.length).sum();
    assert_eq!(bytes.into_inner(), expected);
}

/// Checks databases one after the other, each by one `PRAGMA integrity_check`; the measured process of [`CHECK`].
pub(crate) fn check(databases: &[String]) {
    for database in databases {
        let connection = Connection::open_with_flags(database, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
        connection.pragma_update(None, "cache_size", -16_384).unwrap();
        let verdict: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(verdict, "ok");
    }
}

fn section(runs: &[Vec<Run>; 3], bytes: u64) -> Section {
    let names = ["validate --recheck", "decoding and hashing alone", "integrity check alone"];
    let spreads = runs.each_ref().map(|runs| Spread::of(runs.iter().map(|run| run.seconds)).unwrap());
    let [validate, decode, check] = spreads.map(|spread| spread.median);
    let ratio = validate / decode.max(check);
    let measure = "validate: wall against the slower of decoding and hashing, and the integrity check";
    let rows = vec![Row::new(measure, Some(ratio), "x", 1.3, None)];
    let mut text = "| | wall | processor | peak |\n|---|---|---|---|\n".to_owned();
    for ((name, spread), runs) in names.iter().zip(spreads).zip(runs) {
        let processor = Spread::of(runs.iter().map(|run| run.processor_seconds)).unwrap().median;
        let peak = Spread::of(runs.iter().map(|run| run.peak_mebibytes)).unwrap().most;
        let Spread { least, median, most } = spread;
        text += &format!("| {name} | {median:.3} s ({least:.3} to {most:.3}) | {processor:.2} s | {peak:.0} MiB |\n");
    }
    let figures = json!({ "validate": runs[0], "decode": runs[1], "check": runs[2] });
    Section { title: format!("Validating a snapshot of {} MB", bytes / 1_000_000), text, rows, figures }
}
