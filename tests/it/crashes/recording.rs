//! A recorded operation on a repository, and which snapshots there must be after a crash of it.

use super::campaign::{Campaign, Crash, Reach};
use super::repository::{Standing, World};
use crate::support::simulated_disk::Disk;

/// An operation from its start to its end.
pub(super) struct Recording {
    pub(super) world: World,
    pub(super) disk: Disk,
    /// Which snapshots there are until the operation is acknowledged.
    pub(super) until: Standing,
    /// Which there are from then on.
    pub(super) from: Standing,
}

impl Recording {
    /// Which snapshots there are after a crash.
    pub(super) fn standing(&self, crash: Crash) -> &Standing {
        if self.disk.acknowledged(crash.point) { &self.from } else { &self.until }
    }

    /// Lets the machine crash, and holds that nothing is lost and work goes on.
    pub(super) fn attack(&self, name: &str, reach: Reach) {
        let mut campaign = Campaign::new(name, reach);
        campaign.attack(&self.disk, |crash, volume, random| {
            self.world.put(volume, crash, random);
            self.world.hold(self.standing(crash));
            self.world.goes_on();
        });
        campaign.finish();
    }
}
