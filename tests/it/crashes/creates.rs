//! Creates that are cut off: the snapshot is there whole or not at all, and nothing else is hurt.

use super::campaign::{Campaign, Reach};
use super::recording::Recording;
use super::repository::{Standing, World, stamp_of};
use crate::support::simulated_disk::{Disk, Survival};

/// The first create of all, which makes the repository.
fn first() -> Recording {
    recorded(World::new())
}

/// A create beside two snapshots, most of whose content it shares.
pub(super) fn next() -> Recording {
    recorded(World::with_snapshots(2))
}

fn recorded(mut world: World) -> Recording {
    world.settle();
    let mut disk = Disk::load(&world.root());
    let before = world.listed();
    let call = world.create_call();
    let stamp = stamp_of(&world.record(&mut disk, call));
    let until = Standing::of(&before, &[stamp]);
    let from = Standing::of(&world.listed(), &[]);
    Recording { world, disk, until, from }
}

#[test]
fn a_first_create_may_be_cut_off_at_any_moment() {
    first().attack("first create", Reach::Slice(4));
}

#[test]
fn an_init_may_be_cut_off_at_any_moment() {
    let mut world = World::new();
    world.settle();
    let mut disk = Disk::load(&world.root());
    let call = world.call(&["init"]);
    world.record(&mut disk, call);
    let mut campaign = Campaign::new("init", Reach::Every { ways: 3 });
    campaign.attack(&disk, |crash, volume, random| {
        world.put(volume, crash, random);
        let is_there = world.repository().join("repository.json").exists();
        assert!(is_there || !disk.acknowledged(crash.point), "a repository that was reported is gone");
        world.goes_on();
    });
    campaign.finish();
}

#[test]
fn a_create_may_be_cut_off_at_any_moment() {
    next().attack("create", Reach::Slice(4));
}

/// Were there no syncs, the snapshot would be lost: so these tests can fail.
#[test]
fn a_create_on_a_disk_that_lies_about_fsync_is_caught() {
    let Recording { world, disk, until, .. } = next();
    let lying = disk.lying();
    assert!(lying.acknowledged(lying.moment()));
    lying.power_cut_at(lying.moment(), Survival::nothing()).write_to(&world.root());
    assert!(world.listed().iter().all(|stamp| !until.may.contains(stamp)));
}

#[test]
#[ignore = "minutes: a crash after every operation, in many ways"]
fn every_crash_of_creates() {
    first().attack("first create", Reach::long());
    next().attack("create", Reach::long());
}
