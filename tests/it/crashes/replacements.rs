//! Creates that are cut off while new packs take the names of damaged ones: what the create reported is whole, and
//! nothing of a damaged pack is lost.

use std::fs;

use super::campaign::{Campaign, Reach};
use super::repository::{Standing, World, stamp_of};
use crate::support::damage;
use crate::support::simulated_disk::Disk;

fn attack(reach: Reach) {
    let mut world = World::with_snapshots(0);
    world.create();
    let packs = damage::packs(&world.repository());
    for pack in &packs {
        damage::flip(pack, fs::metadata(pack).unwrap().len() - 30);
    }
    let damaged: Vec<_> = packs.iter().map(|pack| fs::read(pack).unwrap()).collect();
    // Nobody knows any more what they hold.
    fs::remove_file(world.repository().join("index.sqlite")).unwrap();
    let first = world.listed();
    let mut disk = Disk::load(&world.root());
    let call = world.create_call();
    let stamps = [first[0].clone(), stamp_of(&world.record(&mut disk, call))];
    assert_eq!(damage::packs(&world.repository()), packs, "the same state makes the same packs");
    let mut campaign = Campaign::new("create over damaged packs", reach);
    campaign.attack(&disk, |crash, volume, random| {
        world.put(volume, crash, random);
        damaged.iter().for_each(|pack| world.hold_kept(pack));
        if disk.acknowledged(crash.point) {
            world.hold(&Standing::of(&stamps, &[]));
        }
        // The live files are still what the first snapshot held, so the next create saves it.
        let next = stamp_of(&world.create_call().run().exits(0));
        world.hold_whole(&stamps[0]);
        world.call(&["validate", &next]).run().exits(0);
        damaged.iter().for_each(|pack| world.hold_kept(pack));
    });
    campaign.finish();
}

#[test]
fn a_create_over_damaged_packs_may_be_cut_off_at_any_moment() {
    attack(Reach::Slice(6));
}

#[test]
#[ignore = "minutes: a crash after every operation, in many ways"]
fn every_crash_of_a_create_over_damaged_packs() {
    attack(Reach::long());
}
