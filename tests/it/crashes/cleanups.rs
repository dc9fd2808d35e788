//! Cleanups that are cut off: what was to stay is whole, what was to go is whole or gone.

use super::campaign::Reach;
use super::recording::Recording;
use super::repository::{KEPT, Standing, World};
use crate::support::simulated_disk::Disk;

/// A cleanup of three of five snapshots, whose chunks the others rest on.
pub(super) fn recorded() -> Recording {
    let mut world = World::with_snapshots(5);
    world.settle();
    let mut disk = Disk::load(&world.root());
    let all = world.listed();
    let call = world.cleanup_call();
    world.record(&mut disk, call);
    let (doomed, staying) = all.split_at(all.len() - KEPT);
    assert_eq!(world.listed(), staying);
    Recording { world, disk, until: Standing::of(staying, doomed), from: Standing::of(staying, &[]) }
}

#[test]
fn a_cleanup_may_be_cut_off_at_any_moment() {
    recorded().attack("cleanup", Reach::Slice(4));
}

#[test]
#[ignore = "minutes: a crash after every operation, in many ways"]
fn every_crash_of_a_cleanup() {
    recorded().attack("cleanup", Reach::long());
}
