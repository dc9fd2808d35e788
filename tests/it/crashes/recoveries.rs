//! What comes after a crash is cut off too: by a loss of power after a kill, or by a second loss of power.

use std::collections::BTreeSet;

use super::campaign::{Campaign, Crash, Reach};
use super::creates::Recorded;
use super::repository::{KEPT, Standing, stamp_of};
use crate::support::simulated_disk::Disk;

/// What is done after the first crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Recovery {
    Create,
    Cleanup,
}

/// So many crashes of a create, each followed by both recoveries, which crash too.
fn attack(count: usize, reach: Reach) {
    let mut recorded = Recorded::next();
    let first = Campaign::new("recovery", reach);
    for crash in first.drawn(0, &recorded.disk, count) {
        for recovery in [Recovery::Create, Recovery::Cleanup] {
            let root = recorded.world.root();
            let disk = if crash.way % 2 == 0 {
                // What was not synced still is not.
                let killed = recorded.disk.killed_at(crash.point);
                killed.now().write_to(&root);
                killed
            } else {
                recorded.world.put(&first.state(&recorded.disk, crash), crash, &mut first.random(crash));
                Disk::load(&root)
            };
            attack_recovery(&mut recorded, crash, recovery, disk, reach);
        }
    }
}

fn attack_recovery(recorded: &mut Recorded, crash: Crash, recovery: Recovery, mut disk: Disk, reach: Reach) {
    let first = recorded.standing(crash);
    let world = &mut recorded.world;
    let found: BTreeSet<String> = world.listed().into_iter().collect();
    let begins_with = disk.moment();
    let (after, new) = match recovery {
        Recovery::Create => {
            let call = world.create_call();
            let stamp = stamp_of(&world.record(&mut disk, call));
            (found.iter().cloned().chain([stamp.clone()]).collect(), BTreeSet::from([stamp]))
        }
        Recovery::Cleanup => {
            let call = world.cleanup_call();
            world.record(&mut disk, call);
            (found.iter().rev().take(KEPT).cloned().collect::<BTreeSet<_>>(), BTreeSet::new())
        }
    };
    let name = format!("{recovery:?} after create:{}:{}", crash.point, crash.way).to_lowercase();
    let mut campaign = Campaign::new(&name, reach);
    campaign.attack_from(begins_with, &disk, |second, volume, random| {
        recorded.world.put(volume, second, random);
        let acknowledged = disk.acknowledged_since(begins_with, second.point);
        let must = match (recovery, acknowledged) {
            (_, true) => first.must.union(&new).filter(|stamp| after.contains(*stamp)).cloned().collect(),
            (Recovery::Create, false) => first.must.clone(),
            (Recovery::Cleanup, false) => first.must.intersection(&after).cloned().collect(),
        };
        let may = first.must.union(&first.may).chain(&new).cloned().collect();
        recorded.world.hold(&Standing { must, may });
        if recovery == Recovery::Cleanup {
            let left = recorded.world.listed().len();
            assert!(left >= KEPT.min(first.must.len()), "only {left} are left of {first:?}");
        }
        recorded.world.goes_on();
    });
    campaign.finish();
}

#[test]
fn a_recovery_may_be_cut_off_too() {
    attack(1, Reach::Slice(2));
}

#[test]
#[ignore = "minutes: many recoveries, each of them crashed many times"]
fn many_crashes_of_recoveries() {
    attack(40, Reach::Slice(60));
}
