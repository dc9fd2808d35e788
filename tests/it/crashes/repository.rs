//! A repository on a simulated disk, and what must hold for it after a crash.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;

use super::campaign::Crash;
use crate::support::command::Outcome;
use crate::support::runtime::scatter;
use crate::support::simulated_disk::{Disk, Random, Volume};
use crate::support::{Runtime, TreeState, Vecsnap, damage};

/// How many snapshots the cleanups of these tests keep.
pub(super) const KEPT: usize = 2;

/// A service whose files do not change any more, and a repository that crashes.
pub(super) struct World {
    runtime: Runtime,
    /// What each snapshot that was ever taken holds.
    contents: BTreeMap<String, TreeState>,
    /// What a snapshot of the live files holds.
    present: Option<TreeState>,
}

/// Which snapshots there must and may be.
#[derive(Clone, Debug, Default)]
pub(super) struct Standing {
    /// They were acknowledged.
    pub(super) must: BTreeSet<String>,
    /// Somebody was about to make or to remove them.
    pub(super) may: BTreeSet<String>,
}

impl Standing {
    /// These must be there, and those may be.
    pub(super) fn of(must: &[String], may: &[String]) -> Self {
        Self { must: must.iter().cloned().collect(), may: may.iter().cloned().collect() }
    }
}

impl World {
    /// Without a repository.
    pub(super) fn new() -> Self {
        let world = Self { runtime: Runtime::new(), contents: BTreeMap::new(), present: None };
        fs::create_dir(world.root()).unwrap();
        world
    }

    /// With so many snapshots of changing files.
    pub(super) fn with_snapshots(count: u32) -> Self {
        let mut world = Self::new();
        for number in 0..count {
            world.create();
            world.change(number);
        }
        world
    }

    /// With so many snapshots of changing files, and many small packs that all of them need.
    pub(super) fn scattered(count: u32) -> Self {
        let mut world = Self::new();
        scatter(&world.runtime.chroma(), || {
            world.repository().join("snapshots").join(stamp_of(&world.create_call().run().exits(0)))
        });
        for number in 0..count {
            world.create();
            world.change(number);
        }
        world
    }

    /// Changes every source.
    pub(super) fn change(&self, number: u32) {
        self.runtime.remember(&format!("memory {number}"));
        self.runtime.write_registry(&format!("p1{number}"));
        self.runtime.store().update(7 + number);
        self.runtime.store().append(3);
    }

    /// What is on the disk.
    pub(super) fn root(&self) -> PathBuf {
        self.runtime.path().join("disk")
    }

    pub(super) fn repository(&self) -> PathBuf {
        self.root().join("backup")
    }

    pub(super) fn call(&self, arguments: &[&str]) -> Vecsnap {
        self.runtime.vecsnap(&["--json"]).args(arguments).env("ATOCORE_BACKUP_DIR", self.repository())
    }

    /// The call that takes a snapshot.
    pub(super) fn create_call(&self) -> Vecsnap {
        self.call(&["create", "--chroma"])
    }

    /// The call that keeps the newest few.
    pub(super) fn cleanup_call(&self) -> Vecsnap {
        self.call(&["cleanup", "--keep-last", &KEPT.to_string(), "--confirm"])
    }

    /// The call that puts back what damage took.
    pub(super) fn repair_call(&self) -> Vecsnap {
        self.call(&["repair", "--confirm"])
    }

    /// Takes a snapshot.
    pub(super) fn create(&mut self) {
        let stamp = stamp_of(&self.create_call().run().exits(0));
        self.know(&[stamp]);
    }

    /// Records a call on a disk; afterwards it is known what all snapshots hold.
    pub(super) fn record(&mut self, disk: &mut Disk, call: Vecsnap) -> Outcome {
        let outcome = disk.record(&self.root(), call).exits(0);
        self.know(&self.listed());
        outcome
    }

    /// Takes note of what these snapshots hold.
    fn know(&mut self, stamps: &[String]) {
        for stamp in stamps {
            if !self.contents.contains_key(stamp) {
                self.contents.insert(stamp.clone(), self.export(stamp));
            }
        }
    }

    /// Takes note of what a snapshot taken from now on holds; the live files may not change any more.
    pub(super) fn settle(&mut self) {
        let before = Volume::load(&self.root());
        let stamp = stamp_of(&self.create_call().run().exits(0));
        self.present = Some(self.export(&stamp));
        before.write_to(&self.root());
    }

    /// The names of all snapshots.
    pub(super) fn listed(&self) -> Vec<String> {
        let document = self.call(&["list"]).run().exits(0).json();
        let backups = document["backups"].as_array().unwrap();
        backups.iter().map(|backup| backup["stamp"].as_str().unwrap().to_owned()).collect()
    }

    fn export(&self, stamp: &str) -> TreeState {
        let directory = TempDir::with_prefix("vecsnap-it-export-").unwrap();
        self.call(&["restore", stamp, "--to"]).arg(directory.path()).run().exits(0);
        let mut state = TreeState::of(directory.path());
        // The first tells where it is, the others are of no source.
        for outside in ["backup-metadata.json", "", "db", "config"] {
            state.0.remove(Path::new(outside));
        }
        state
    }

    /// Holds that every snapshot that must be there is, that there are no others than may be, and that each is whole.
    pub(super) fn hold(&self, standing: &Standing) {
        let listed: BTreeSet<String> = self.listed().into_iter().collect();
        assert!(standing.must.is_subset(&listed), "acknowledged snapshots are gone: {standing:?}, found {listed:?}");
        for stamp in &listed {
            assert!(standing.must.contains(stamp) || standing.may.contains(stamp), "{stamp} is back: {standing:?}");
            self.hold_whole(stamp);
        }
    }

    /// Holds that a snapshot is there and what it was.
    pub(super) fn hold_whole(&self, stamp: &str) {
        self.export(stamp).assert_same(&self.contents[stamp], &format!("{stamp} after the crash"));
    }

    /// Holds that a damaged pack is there still, under its name or set aside: somebody may read more of it one day.
    pub(super) fn hold_kept(&self, damaged: &[u8]) {
        let places = ["packs", "damaged"].map(|name| self.repository().join(name));
        let mut files = places.iter().filter(|place| place.exists()).flat_map(|place| damage::files_below(place));
        assert!(files.any(|file| fs::read(file).unwrap() == damaged), "a damaged pack is gone");
    }

    /// Whether a snapshot can be restored.
    pub(super) fn is_restorable(&self, stamp: &str) -> bool {
        let directory = TempDir::with_prefix("vecsnap-it-export-").unwrap();
        self.call(&["restore", stamp, "--to"]).arg(directory.path()).run().code == Some(0)
    }

    /// Holds that the next create and the next cleanup succeed and leave sound snapshots.
    pub(super) fn goes_on(&self) {
        let stamp = stamp_of(&self.create_call().run().exits(0));
        self.cleanup_call().run().exits(0);
        let left = self.listed();
        assert!(left.len() <= KEPT, "cleanup kept {left:?}");
        assert_eq!(left.last(), Some(&stamp));
        self.call(&["validate", "--all"]).run().exits(0);
        for stamp in &left {
            let expected = self.contents.get(stamp).or(self.present.as_ref()).unwrap();
            self.export(stamp).assert_same(expected, &format!("{stamp} after the next cleanup"));
        }
    }

    /// Puts what a crash left into the real directory.
    pub(super) fn put(&self, volume: &Volume, crash: Crash, random: &mut Random) {
        volume.write_to(&self.root());
        if crash.is_power_cut() {
            reboot(&self.repository());
            hurt_index(&self.repository(), random);
        }
    }
}

/// Lets the index of a repository be of another boot of the machine.
pub(super) fn reboot(repository: &Path) {
    let boot = fs::read("/proc/sys/kernel/random/boot_id").unwrap().trim_ascii().to_vec();
    for name in ["index.sqlite", "index.sqlite-journal"] {
        let path = repository.join(name);
        let Ok(mut bytes) = fs::read(&path) else { continue };
        let places: Vec<_> = (0..bytes.len()).filter(|place| bytes[*place..].starts_with(&boot)).collect();
        for place in places {
            bytes[place..place + 8].copy_from_slice(b"00000000");
        }
        fs::write(&path, bytes).unwrap();
    }
}

/// Loses the index in one way or another, or not at all.
fn hurt_index(repository: &Path, random: &mut Random) {
    let index = repository.join("index.sqlite");
    let Ok(mut bytes) = fs::read(&index) else { return };
    match random.below(8) {
        0 => fs::remove_file(&index).unwrap(),
        1 => fs::write(&index, b"").unwrap(),
        2 => {
            let page = bytes.len().min(random.below(bytes.len().div_ceil(4096).max(1)) * 4096);
            let end = bytes.len().min(page + 4096);
            bytes[page..end].fill(0);
            fs::write(&index, bytes).unwrap();
        }
        3 => fs::write(&index, &bytes[..random.below(bytes.len() + 1)]).unwrap(),
        _ => {}
    }
}

/// The stamp of the snapshot that a create took.
pub(super) fn stamp_of(created: &Outcome) -> String {
    let document: Value = created.json();
    document["stamp"].as_str().unwrap().to_owned()
}
