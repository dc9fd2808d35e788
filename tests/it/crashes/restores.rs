//! Restores that are cut off: the targets are old, new, or known to be unfinished; then both ways on lead to exact
//! states.

use super::campaign::{Campaign, Crash, Reach};
use super::found::{is_named, restored};
use super::targets::{Present, Targets, Way};
use crate::support::simulated_disk::change::Change;
use crate::support::simulated_disk::{Disk, Random, Survival};

fn attack(present: Present, reach: Reach) {
    let targets = Targets::new(present);
    let mut disk = Disk::load(targets.root());
    disk.record(targets.root(), targets.restore_call()).exits(0);
    targets.state().assert_same(&targets.wanted, "restored");
    let mut campaign = Campaign::new(&format!("restore over {present:?}").to_lowercase(), reach);
    campaign.attack(&disk, |crash, volume, _| {
        targets.put(volume, crash);
        if targets.is_pending() {
            assert!(!disk.acknowledged(crash.point), "a restore that was reported as done is unfinished");
            targets.hold_refused();
            targets.go(Way::Resume, &targets.wanted);
            targets.put(volume, crash);
            targets.go(Way::Undo, &targets.present);
        } else if disk.acknowledged(crash.point) {
            targets.hold_whole(&[&targets.wanted]);
            targets.put(volume, crash);
            targets.go(Way::Undo, &targets.present);
        } else {
            targets.hold_whole(&[&targets.present, &targets.wanted]);
        }
    });
    campaign.finish();
}

/// So many crashes of a restore, each followed by both ways on, which crash too.
fn attack_ways_on(present: Present, count: usize, reach: Reach) {
    let targets = Targets::new(present);
    let mut disk = Disk::load(targets.root());
    disk.record(targets.root(), targets.restore_call()).exits(0);
    let first = Campaign::new(&format!("ways on over {present:?}"), reach);
    let mut left = count;
    for crash in first.drawn(0, &disk, count * 50) {
        let cut = if crash.way.is_multiple_of(2) {
            // What was not synced still is not.
            let killed = disk.killed_at(crash.point);
            killed.now().write_to(targets.root());
            killed
        } else {
            targets.put(&first.state(&disk, crash), crash);
            Disk::load(targets.root())
        };
        if !targets.is_pending() {
            continue;
        }
        for way in [Way::Resume, Way::Undo] {
            attack_way_on(&targets, cut.clone(), crash, way, reach);
        }
        left -= 1;
        if left == 0 {
            return;
        }
    }
    panic!("{left} of {count} crashes that leave a restore unfinished were not found");
}

fn attack_way_on(targets: &Targets, mut disk: Disk, crash: Crash, way: Way, reach: Reach) {
    disk.now().write_to(targets.root());
    let begins_with = disk.moment();
    disk.record(targets.root(), targets.call_on(way)).exits(0);
    let end = match way {
        Way::Resume => &targets.wanted,
        Way::Undo => &targets.present,
    };
    targets.state().assert_same(end, "gone on");
    let name = format!("{way:?} after restore:{}:{}", crash.point, crash.way).to_lowercase();
    let mut campaign = Campaign::new(&name, reach);
    campaign.attack_from(begins_with, &disk, |second, volume, _| {
        targets.put(volume, second);
        if targets.is_pending() {
            assert!(!disk.acknowledged_since(begins_with, second.point), "what was reported as done is unfinished");
            targets.hold_refused();
            let resumed = if targets.is_going_back() { &targets.present } else { &targets.wanted };
            targets.go(Way::Resume, resumed);
            targets.put(volume, second);
            targets.go(Way::Undo, &targets.present);
        } else if second.point == begins_with {
            // A crash that undid the first operations of the restore after it was killed.
            targets.hold_whole(&[&targets.present, end]);
        } else {
            targets.hold_whole(&[end]);
        }
    });
    campaign.finish();
}

#[test]
fn a_restore_may_be_cut_off_at_any_moment() {
    attack(Present::Changed, Reach::Slice(4));
}

#[test]
fn a_restore_over_a_log_or_over_nothing_may_be_cut_off_at_any_moment() {
    attack(Present::Unfolded, Reach::Slice(2));
    attack(Present::Wiped, Reach::Slice(2));
}

#[test]
fn resuming_and_undoing_may_be_cut_off_too() {
    attack_ways_on(Present::Changed, 1, Reach::Slice(2));
}

#[test]
fn nothing_is_written_before_the_intent_is_durable() {
    let (targets, disk) = restored();
    let published = disk.moment_after(|change| is_named(change, b"restore.json"));
    for point in disk.crash_points(published).into_iter().take(12) {
        targets.put(&disk.power_cut_at(point, Survival::nothing()), Crash { point, way: 1 });
        if !targets.is_pending() {
            targets.state().assert_same(&targets.present, "without an intent");
        }
    }
}

/// Of two intents, the one that tells what was done last goes last.
#[test]
fn an_undo_that_is_almost_done_stays_an_undo() {
    let (targets, disk) = restored();
    let published = disk.moment_after(|change| is_named(change, b"restore.json"));
    let mut killed = disk.killed_at((published + disk.moment()) / 2);
    killed.now().write_to(targets.root());
    let begin = killed.moment();
    killed.record(targets.root(), targets.call_on(Way::Undo)).exits(0);
    let is_removal = |change: &Change| matches!(change, Change::Remove { name, .. } if name.ends_with(b".json"));
    let removals: Vec<_> = killed.moments_after(is_removal).into_iter().filter(|moment| *moment > begin).collect();
    assert_eq!(removals.len(), 2, "two intents go");
    for point in removals {
        for way in 0..24 {
            let crash = Crash { point, way };
            let survival = match way {
                0 => Survival::everything(),
                _ => Survival::random(Random::of(&[way as u64])),
            };
            targets.put(&killed.power_cut_at(point, survival), crash);
            assert!(!targets.is_pending() || targets.is_going_back(), "an undo became a restore: {crash:?}");
            targets.state().assert_same(&targets.present, "undone");
        }
    }
}

#[test]
#[ignore = "minutes: a crash after every operation, in many ways"]
fn every_crash_of_restores() {
    for present in [Present::Changed, Present::Unfolded, Present::Wiped] {
        attack(present, Reach::long());
    }
}

#[test]
#[ignore = "minutes: many resumed and undone restores, each of them crashed many times"]
fn many_crashes_of_ways_on() {
    for present in [Present::Changed, Present::Unfolded, Present::Wiped] {
        attack_ways_on(present, 6, Reach::Slice(25));
    }
}
