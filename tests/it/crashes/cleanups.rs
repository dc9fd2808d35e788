//! Cleanups that are cut off: what was to stay is whole, what was to go is whole or gone.

use super::campaign::Reach;
use super::recording::Recording;
use super::repository::{KEPT, Standing, World};
use crate::support::damage;
use crate::support::simulated_disk::Disk;

/// A cleanup of three of five snapshots, whose chunks the others rest on.
pub(super) fn recorded() -> Recording {
    record(World::with_snapshots(5))
}

/// A cleanup of one of three snapshots, which merges many small packs besides.
pub(super) fn merging() -> Recording {
    let recording = record(World::scattered(3));
    let packs = damage::packs(&recording.world.repository()).len();
    assert!(packs < 10, "{packs} packs were left");
    recording
}

fn record(mut world: World) -> Recording {
    world.settle();
    let mut disk = Disk::load(&world.root());
    let all = world.listed();
    let call = world.cleanup_call();
    let told = world.record(&mut disk, call).json();
    for done in ["freed_bytes", "rewritten_bytes", "rebased_bytes"] {
        assert!(told[done].as_u64().unwrap() > 0, "nothing to crash: {told}");
    }
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
    merging().attack("merging cleanup", Reach::long());
}
