//! Small repositories, in which little waste is worth it, but not again and again.

use std::fs::File;
use std::time::{Duration, SystemTime};

use super::*;
use crate::format::compression;

/// Makes the pack as old as if it had been written so long before the first stamp of these tests.
fn age(root: &Path, pack: &PackFile, before: Duration) {
    let stamp: Stamp = STAMP.parse().unwrap();
    let file = File::options().write(true).open(root.join(layout::pack(&pack.id))).unwrap();
    file.set_modified(SystemTime::from(stamp.time()) - before).unwrap();
}

/// A pack of so many chunks that are needed and as many that are not.
fn partly_dead(root: &Path, needed: &[Vec<u8>], dead: u32) -> PackFile {
    let dead: Vec<_> = (500..500 + dead).map(|seed| noise(seed, CHUNK)).collect();
    write_pack(root, &needed.iter().chain(&dead).map(|content| whole(content)).collect::<Vec<_>>())
}

fn chunks(count: u32) -> Vec<Vec<u8>> {
    (1..=count).map(|seed| noise(seed, CHUNK)).collect()
}

fn pack_bytes(root: &Path) -> u64 {
    packs::list(open(root, Access::Read).storage()).unwrap().iter().map(|pack| pack.size).sum()
}

/// What is freed of a pack of so many needed chunks and one that is not.
fn freed_of(needed: u32, before: Duration) -> u64 {
    let root = made();
    let needed = chunks(needed);
    let pack = partly_dead(root.path(), &needed, 1);
    take_snapshot(root.path(), STAMP, &needed.iter().map(Vec::as_slice).collect::<Vec<_>>());
    age(root.path(), &pack, before);
    let size = pack_bytes(root.path());
    let freed = collect(root.path());
    assert_eq!(pack_bytes(root.path()) + freed, size);
    assert_eq!(holds(root.path(), &pack), freed == 0);
    freed
}

const DAY: Duration = Duration::from_secs(86_400);

#[test]
fn one_percent_of_an_old_pack_comes_back() {
    let freed = freed_of(100, DAY);
    assert!(freed.abs_diff(CHUNK as u64) < 1000, "{freed}");
}

#[test]
fn less_than_a_256th_is_not_worth_it() {
    assert_eq!(freed_of(300, DAY), 0);
}

/// In one frame of 8 MiB each chunk is compressed against its like; what a rewriting makes is no frame of that size.
#[test]
fn a_rewriting_that_takes_as_much_as_it_was_to_free_is_dropped() {
    let root = made();
    let pairs: Vec<[Vec<u8>; 2]> = (1..=64).map(twins).collect();
    let firsts = pairs.iter().map(|[first, _]| whole(first));
    let all: Vec<_> = firsts.chain(pairs.iter().map(|[_, second]| whole(second))).collect();
    let pack = write_pack_with(root.path(), &all, |raw| compression::compress_far(raw, 3));
    assert!(pack.size < 70 * CHUNK as u64, "{}", pack.size);
    let needed: Vec<&[u8]> = pairs.iter().skip(1).flatten().map(Vec::as_slice).collect();
    take_snapshot(root.path(), STAMP, &needed);
    age(root.path(), &pack, DAY);
    let size = pack_bytes(root.path());

    let repository = open(root.path(), Access::Write);
    let mut collection = begin(&repository);
    collection.plan(&repository, &Silent).unwrap();
    assert!(collection.estimate().unwrap().freed > CHUNK as u64 / 2);
    let rewriting = collection.rewrite(&repository, &Silent).unwrap();
    assert_eq!(rewriting, Rewriting::NoGain);
    collection.settle().unwrap();
    collection.settle_again(&repository, rewriting).unwrap();
    assert_eq!((collection.sweep(&repository).unwrap(), collection.stored_anew()), (0, StoredAnew::default()));
    drop(repository);
    assert_eq!(pack_bytes(root.path()), size);
    assert!(holds(root.path(), &pack));
    assert_whole(root.path());
}

#[test]
fn a_repository_larger_than_a_pack_is_not_rewritten_for_little() {
    let root = made();
    let needed = chunks(520);
    let packs: Vec<_> = needed.chunks(260).map(|needed| partly_dead(root.path(), needed, 5)).collect();
    take_snapshot(root.path(), STAMP, &needed.iter().map(Vec::as_slice).collect::<Vec<_>>());
    packs.iter().for_each(|pack| age(root.path(), pack, DAY));
    assert_eq!(collect(root.path()), 0);
}

/// Each snapshot needs its own chunk and all those that are shared; four are kept, and one is cleaned up after each.
#[test]
fn a_byte_is_written_at_most_once_more_while_the_oldest_snapshot_is_kept() {
    let root = made();
    let shared = chunks(60);
    let mut stamps: Vec<Stamp> = Vec::new();
    let first: Stamp = STAMP.parse().unwrap();
    let (mut written, mut rewritings) = (0, 0);
    for day in 0..24_u32 {
        let stamp = Stamp::of(first.time() + TimeDelta::days(day.into()));
        let own = noise(1000 + day, CHUNK);
        let content: Vec<&[u8]> = shared.iter().map(Vec::as_slice).chain([own.as_slice()]).collect();
        let before = packs::list(open(root.path(), Access::Read).storage()).unwrap();
        take_snapshot(root.path(), &stamp.to_string(), &content);
        date_new(root.path(), &before, stamp, Duration::ZERO);
        stamps.push(stamp);
        if stamps.len() > 4 {
            fs::remove_dir_all(layout::snapshot_directory(root.path(), &stamps.remove(0).to_string())).unwrap();
        }
        let before = packs::list(open(root.path(), Access::Read).storage()).unwrap();
        collect(root.path());
        let new = date_new(root.path(), &before, stamp, Duration::from_secs(60));
        written += new;
        rewritings += u32::from(new > 0);
    }
    let size = pack_bytes(root.path());
    assert!((3..=6).contains(&rewritings), "{rewritings} rewritings of {written} bytes in all");
    assert!(written <= 6 * size, "{written} bytes were written in 24 cleanups of {size}");
    assert!(size < 66 * CHUNK as u64, "{size}");
}

/// Gives packs that were not there before the time of this moment after a stamp; returns their bytes.
fn date_new(root: &Path, before: &[PackFile], stamp: Stamp, after: Duration) -> u64 {
    let all = packs::list(open(root, Access::Read).storage()).unwrap();
    let new: Vec<_> = all.into_iter().filter(|pack| !before.contains(pack)).collect();
    for pack in &new {
        let file = File::options().write(true).open(root.join(layout::pack(&pack.id))).unwrap();
        file.set_modified(SystemTime::from(stamp.time()) + after).unwrap();
    }
    new.iter().map(|pack| pack.size).sum()
}
