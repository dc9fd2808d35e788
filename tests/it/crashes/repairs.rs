//! Repairs that are cut off: nothing that was sound is hurt, and the next repair does what this one would have done,
//! even if that is cut off too.

use std::fs;

use super::campaign::{Campaign, Reach};
use super::repository::{Standing, World};
use crate::support::damage;
use crate::support::simulated_disk::{Disk, Volume};

/// A repository whose newest snapshot is hurt, but can be had again from the live files.
struct Hurt {
    world: World,
    stamps: Vec<String>,
    sound: Vec<String>,
    damaged_pack: Vec<u8>,
    disk: Disk,
}

impl Hurt {
    fn new() -> Self {
        let mut world = World::with_snapshots(2);
        world.settle();
        let older = damage::packs(&world.repository());
        world.create();
        let stamps = world.listed();
        let pack = damage::packs(&world.repository()).into_iter().find(|pack| !older.contains(pack)).unwrap();
        damage::flip(&pack, 200);
        let damaged_pack = fs::read(pack).unwrap();
        let damaged = Volume::load(&world.root());
        let sound: Vec<_> = stamps.iter().filter(|stamp| world.is_restorable(stamp)).cloned().collect();
        assert_eq!(sound, stamps[..2], "only the last snapshot is hurt");
        damaged.write_to(&world.root());
        let disk = Disk::of(damaged);
        Self { world, stamps, sound, damaged_pack, disk }
    }

    /// Records a repair of what is in the real directory and on a disk, and lets it crash.
    fn attack(&mut self, name: &str, mut disk: Disk, reach: Reach) -> Disk {
        let begins_with = disk.moment();
        let call = self.world.repair_call();
        self.world.record(&mut disk, call);
        let mut campaign = Campaign::new(name, reach);
        campaign.attack_from(begins_with, &disk, |crash, volume, random| {
            self.world.put(volume, crash, random);
            self.world.hold_kept(&self.damaged_pack);
            let repaired = disk.acknowledged_since(begins_with, crash.point);
            let whole = if repaired { &self.stamps } else { &self.sound };
            whole.iter().for_each(|stamp| self.world.hold_whole(stamp));
            self.world.repair_call().run().exits(0);
            self.world.hold(&Standing::of(&self.stamps, &[]));
            self.world.goes_on();
        });
        campaign.finish();
        disk
    }

    /// Lets a repair crash, and some of those that come after it.
    fn attack_repeatedly(&mut self, reach: Reach, again: usize, reach_again: Reach) {
        let disk = self.attack("repair", self.disk.clone(), reach);
        let first = Campaign::new("repairs", reach);
        for crash in first.drawn(0, &disk, again) {
            let cut = first.left_by(&disk, crash, &self.world);
            let name = format!("repair after repair:{}:{}", crash.point, crash.way);
            self.attack(&name, cut, reach_again);
        }
    }
}

#[test]
fn a_repair_may_be_cut_off_at_any_moment() {
    Hurt::new().attack_repeatedly(Reach::Slice(3), 1, Reach::Slice(1));
}

#[test]
#[ignore = "minutes: a crash after every operation, in many ways"]
fn every_crash_of_a_repair() {
    Hurt::new().attack_repeatedly(Reach::long(), 10, Reach::Slice(20));
}
