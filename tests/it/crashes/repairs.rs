//! Repairs that are cut off: nothing that was sound is hurt, and the next repair does what this one would have done.

use super::campaign::{Campaign, Reach};
use super::repository::{Standing, World};
use crate::support::damage;
use crate::support::simulated_disk::{Disk, Volume};

fn attack(reach: Reach) {
    let mut world = World::with_snapshots(2);
    world.settle();
    let older = damage::packs(&world.repository());
    world.create();
    let stamps = world.listed();
    let pack = damage::packs(&world.repository()).into_iter().find(|pack| !older.contains(pack)).unwrap();
    damage::flip(&pack, 200);
    let damaged = Volume::load(&world.root());
    let sound: Vec<_> = stamps.iter().filter(|stamp| world.is_restorable(stamp)).cloned().collect();
    assert_eq!(sound, stamps[..2], "only the last snapshot is hurt");
    damaged.write_to(&world.root());

    let mut disk = Disk::load(&world.root());
    let call = world.repair_call();
    world.record(&mut disk, call);
    let mut campaign = Campaign::new("repair", reach);
    campaign.attack(&disk, |crash, volume, random| {
        world.put(volume, crash, random);
        let whole = if disk.acknowledged(crash.point) { &stamps } else { &sound };
        whole.iter().for_each(|stamp| world.hold_whole(stamp));
        world.repair_call().run().exits(0);
        world.hold(&Standing { must: stamps.iter().cloned().collect(), ..Standing::default() });
        world.goes_on();
    });
    campaign.finish();
}

#[test]
fn a_repair_may_be_cut_off_at_any_moment() {
    attack(Reach::Slice(4));
}

#[test]
#[ignore = "minutes: a crash after every operation, in many ways"]
fn every_crash_of_a_repair() {
    attack(Reach::long());
}
