//! Creates that are cut off: the snapshot is there whole or not at all, and nothing else is hurt.

use std::collections::BTreeSet;

use super::campaign::{Campaign, Crash, Reach};
use super::repository::{Standing, World, stamp_of};
use crate::support::simulated_disk::{Disk, Survival};

/// A create that was recorded.
pub(super) struct Recorded {
    pub(super) world: World,
    pub(super) disk: Disk,
    /// The snapshots before it.
    pub(super) before: BTreeSet<String>,
    /// The snapshot that it took.
    pub(super) stamp: String,
}

impl Recorded {
    /// The first create of all, which makes the repository.
    pub(super) fn first() -> Self {
        Self::of(World::new())
    }

    /// A create beside two snapshots, most of whose content it shares.
    pub(super) fn next() -> Self {
        Self::of(World::with_snapshots(2))
    }

    fn of(mut world: World) -> Self {
        world.settle();
        let mut disk = Disk::load(&world.root());
        let before = world.listed().into_iter().collect();
        let call = world.create_call();
        let stamp = stamp_of(&world.record(&mut disk, call));
        Self { world, disk, before, stamp }
    }

    /// Which snapshots there are after a crash.
    pub(super) fn standing(&self, crash: Crash) -> Standing {
        let mut standing = Standing { must: self.before.clone(), may: BTreeSet::new() };
        let acknowledged = self.disk.acknowledged(crash.point);
        let set = if acknowledged { &mut standing.must } else { &mut standing.may };
        set.insert(self.stamp.clone());
        standing
    }

    fn attack(&self, name: &str, reach: Reach) {
        let mut campaign = Campaign::new(name, reach);
        campaign.attack(&self.disk, |crash, volume, random| {
            self.world.put(volume, crash, random);
            self.world.hold(&self.standing(crash));
            self.world.goes_on();
        });
        campaign.finish();
    }
}

#[test]
fn a_first_create_may_be_cut_off_at_any_moment() {
    Recorded::first().attack("first create", Reach::Slice(4));
}

#[test]
fn a_create_may_be_cut_off_at_any_moment() {
    Recorded::next().attack("create", Reach::Slice(4));
}

/// Were there no syncs, the snapshot would be lost: so these tests can fail.
#[test]
fn a_create_on_a_disk_that_lies_about_fsync_is_caught() {
    let Recorded { world, disk, stamp, .. } = Recorded::next();
    let lying = disk.lying();
    assert!(lying.acknowledged(lying.moment()));
    lying.power_cut_at(lying.moment(), Survival::nothing()).write_to(&world.root());
    assert!(!world.listed().contains(&stamp));
}

#[test]
#[ignore = "minutes: a crash after every operation, in many ways"]
fn every_crash_of_creates() {
    Recorded::first().attack("first create", Reach::long());
    Recorded::next().attack("create", Reach::long());
}
