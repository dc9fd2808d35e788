//! Cleanups that are cut off: what was to stay is whole, what was to go is whole or gone.

use std::collections::BTreeSet;

use super::campaign::{Campaign, Reach};
use super::repository::{KEPT, Standing, World};
use crate::support::simulated_disk::Disk;

fn attack(reach: Reach) {
    let mut world = World::with_snapshots(5);
    world.settle();
    let mut disk = Disk::load(&world.root());
    let all = world.listed();
    let call = world.cleanup_call();
    world.record(&mut disk, call);
    let (doomed, staying) = all.split_at(all.len() - KEPT);
    assert_eq!(world.listed(), staying);
    let mut campaign = Campaign::new("cleanup", reach);
    campaign.attack(&disk, |crash, volume, random| {
        world.put(volume, crash, random);
        let doomed = if disk.acknowledged(crash.point) { &[] } else { doomed };
        let set = |stamps: &[String]| stamps.iter().cloned().collect::<BTreeSet<_>>();
        world.hold(&Standing { must: set(staying), may: set(doomed) });
        world.goes_on();
    });
    campaign.finish();
}

#[test]
fn a_cleanup_may_be_cut_off_at_any_moment() {
    attack(Reach::Slice(4));
}

#[test]
#[ignore = "minutes: a crash after every operation, in many ways"]
fn every_crash_of_a_cleanup() {
    attack(Reach::long());
}
