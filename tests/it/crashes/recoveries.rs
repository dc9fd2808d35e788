//! What comes after a crash is cut off too: by a loss of power after a kill, or by a second loss of power.

use std::collections::BTreeSet;

use super::campaign::{Campaign, Crash, Reach};
use super::recording::Recording;
use super::repository::{KEPT, Standing, stamp_of};
use super::{cleanups, creates};
use crate::support::simulated_disk::Disk;

/// What is done after the first crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Recovery {
    Create,
    Cleanup,
}

/// So many crashes of an operation, each followed by both recoveries, which crash too.
fn attack(name: &str, mut recording: Recording, count: usize, reach: Reach) {
    let first = Campaign::new(&format!("recovery of {name}"), reach);
    for crash in first.drawn(0, &recording.disk, count) {
        for recovery in [Recovery::Create, Recovery::Cleanup] {
            let disk = first.left_by(&recording.disk, crash, &recording.world);
            let name = format!("{recovery:?} after {name}:{}:{}", crash.point, crash.way).to_lowercase();
            attack_recovery(&name, &mut recording, crash, recovery, disk, reach);
        }
    }
}

fn attack_recovery(
    name: &str,
    recording: &mut Recording,
    crash: Crash,
    recovery: Recovery,
    mut disk: Disk,
    reach: Reach,
) {
    let first = recording.standing(crash).clone();
    let begins_with = disk.moment();
    let (until, from) = record(recording, &first, recovery, &mut disk);
    let world = &recording.world;
    let mut campaign = Campaign::new(name, reach);
    campaign.attack_from(begins_with, &disk, |second, volume, random| {
        world.put(volume, second, random);
        world.hold(if disk.acknowledged_since(begins_with, second.point) { &from } else { &until });
        if recovery == Recovery::Cleanup {
            let left = world.listed().len();
            assert!(left >= KEPT.min(first.must.len()), "only {left} are left of {first:?}");
        }
        world.goes_on();
    });
    campaign.finish();
}

/// Records a recovery; which snapshots there are until it is acknowledged, and from then on.
fn record(recording: &mut Recording, first: &Standing, recovery: Recovery, disk: &mut Disk) -> (Standing, Standing) {
    let world = &mut recording.world;
    let found: BTreeSet<String> = world.listed().into_iter().collect();
    match recovery {
        Recovery::Create => {
            let call = world.create_call();
            let new = BTreeSet::from([stamp_of(&world.record(disk, call))]);
            let until = Standing { must: first.must.clone(), may: &first.may | &new };
            (until, Standing { must: &first.must | &new, may: first.may.clone() })
        }
        Recovery::Cleanup => {
            let call = world.cleanup_call();
            world.record(disk, call);
            let kept: BTreeSet<String> = found.iter().rev().take(KEPT).cloned().collect();
            let until = Standing { must: &first.must & &kept, may: &first.must | &first.may };
            // What nobody ever acknowledged may still go.
            (until, Standing { must: &first.must & &kept, may: kept })
        }
    }
}

#[test]
fn a_recovery_may_be_cut_off_too() {
    attack("create", creates::next(), 1, Reach::Slice(2));
    attack("cleanup", cleanups::recorded(), 1, Reach::Slice(1));
}

#[test]
#[ignore = "minutes: many recoveries, each of them crashed many times"]
fn many_crashes_of_recoveries() {
    attack("create", creates::next(), 20, Reach::Slice(20));
    attack("cleanup", cleanups::recorded(), 20, Reach::Slice(20));
    attack("merging cleanup", cleanups::merging(), 5, Reach::Slice(20));
}
