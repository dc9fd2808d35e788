//! What these crashes found: each bug with the crash that showed it.

use std::fs;

use super::campaign::Crash;
use super::creates;
use super::recording::Recording;
use super::repository::stamp_of;
use super::targets::{Present, Targets, Way};
use crate::support::simulated_disk::change::Change;
use crate::support::simulated_disk::{Disk, Random, Survival};

/// Nothing survives that was not synced.
fn cut(point: usize) -> Crash {
    Crash { point, way: 1 }
}

pub(super) fn restored() -> (Targets, Disk) {
    let targets = Targets::new(Present::Changed);
    let mut disk = Disk::load(targets.root());
    disk.record(targets.root(), targets.restore_call()).exits(0);
    (targets, disk)
}

pub(super) fn is_named(change: &Change, wanted: &[u8]) -> bool {
    match change {
        Change::Enter { name, .. } | Change::Remove { name, .. } => name == wanted,
        _ => false,
    }
}

/// The modes of directories were set last, and not synced.
#[test]
fn modes_of_directories_survive_a_restore_that_was_reported() {
    let (targets, disk) = restored();
    targets.put(&disk.power_cut_at(disk.moment(), Survival::nothing()), cut(disk.moment()));
    targets.state().assert_same(&targets.wanted, "after the restore");
}

/// What a killed restore had done without a sync looked right to the next one, which left it alone.
#[test]
fn what_a_killed_restore_did_is_made_durable_by_the_one_that_resumes_it() {
    let (targets, disk) = restored();
    let removed = disk.moment_after(|change| matches!(change, Change::Remove { .. }) && is_named(change, b"strange"));
    let shortened = disk.moment_after(|change| matches!(change, Change::SetLength { length: 6034, .. }));
    // With its time a file looks finished.
    let looks_finished = disk.moments_after(|change| matches!(change, Change::SetTime { .. }));
    for point in [removed, shortened].into_iter().chain(looks_finished) {
        let mut killed = disk.killed_at(point);
        killed.now().write_to(targets.root());
        killed.record(targets.root(), targets.call_on(Way::Resume)).exits(0);
        let end = killed.moment();
        targets.put(&killed.power_cut_at(end, Survival::nothing()), cut(end));
        targets.state().assert_same(&targets.wanted, "after the restore was resumed");
    }
}

/// The name of the intent of a restore that was killed need not be durable; whoever resumed it wrote into the targets
/// all the same.
#[test]
fn an_intent_is_durable_before_a_resumed_restore_writes() {
    let (targets, disk) = restored();
    let mut killed = disk.killed_at(disk.moment_after(|change| is_named(change, b"restore.json")));
    killed.now().write_to(targets.root());
    let begin = killed.moment();
    killed.record(targets.root(), targets.call_on(Way::Resume)).exits(0);
    let points = killed.crash_points(begin);
    for point in points.iter().step_by(points.len().div_ceil(8)) {
        targets.put(&killed.power_cut_at(*point, Survival::nothing()), cut(*point));
        if !targets.is_pending() {
            let state = targets.state();
            assert!(state == targets.present || state == targets.wanted, "half a restore without an intent at {point}");
        }
    }
}

/// The first block of a database was written in one piece: of a torn one, the header could survive alone.
#[test]
fn a_database_whose_first_block_is_torn_cannot_be_read() {
    let (targets, disk) = restored();
    let is_header = |change: &Change| matches!(change, Change::Write { offset: 0, bytes, .. } if bytes.starts_with(b"SQLite format 3\0"));
    let headers = disk.moments_after(is_header);
    assert!(headers.len() > 1, "headers were written");
    for point in headers {
        for seed in 0..20 {
            targets.put(&disk.power_cut_at(point, Survival::torn(Random::of(&[seed]))), Crash { point, way: 2 });
            targets.hold_databases();
        }
    }
}

/// A directory of packs that a killed create had made need not be durable; the next create put its pack there.
#[test]
fn a_directory_that_a_killed_create_made_is_durable_before_a_pack_is_in_it() {
    let Recording { mut world, disk, .. } = creates::next();
    let packs = world.repository().join("packs");
    let is_of_packs = |change: &Change| matches!(change, Change::Enter { name, .. } if name.len() == 2);
    let mut killed = disk.killed_at(disk.moment_after(is_of_packs));
    killed.now().write_to(&world.root());
    let is_empty = |path: &std::path::Path| fs::read_dir(path).unwrap().next().is_none();
    let directories = fs::read_dir(packs).unwrap().map(|entry| entry.unwrap().path());
    let made = directories.filter(|path| is_empty(path)).collect::<Vec<_>>();
    let call = world.create_call();
    let stamp = stamp_of(&world.record(&mut killed, call));
    assert!(made.iter().any(|path| !is_empty(path)), "the next create makes the same pack");
    killed.power_cut_at(killed.moment(), Survival::nothing()).write_to(&world.root());
    world.hold_whole(&stamp);
}

/// The database of a wiped machine is not there before the restore has written it, and that was all that a create said.
#[test]
fn a_create_tells_of_an_unfinished_restore_even_without_a_database() {
    let targets = Targets::new(Present::Wiped);
    let mut disk = Disk::load(targets.root());
    disk.record(targets.root(), targets.restore_call()).exits(0);
    let published = disk.moment_after(|change| is_named(change, b"restore.json"));
    targets.put(disk.killed_at(published).now(), Crash { point: published, way: 0 });
    assert!(targets.is_pending() && !targets.holds_a_database());
    targets.hold_refused();
}
