//! A disk: what was durable at the beginning, everything that happened since, and what a crash makes of that.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use super::change::{Change, Event, Extent, NodeId};
use super::outcome::Survival;
use super::process::{Process, TRACED};
use super::system_call;
use super::volume::{ROOT, Volume};
use crate::support::Vecsnap;
use crate::support::command::Outcome;

/// The name of the repository.
const REPOSITORY: &[u8] = b"backup";

/// What happens to a directory.
#[derive(Clone, Debug)]
pub struct Disk {
    durable: Volume,
    events: Vec<Event>,
    now: Volume,
}

impl Disk {
    /// A directory all of whose content is durable.
    pub fn load(root: &Path) -> Self {
        Self::of(Volume::load(root))
    }

    /// A disk of this content, all of it durable.
    pub fn of(durable: Volume) -> Self {
        Self { now: durable.clone(), durable, events: Vec::new() }
    }

    /// How much has happened.
    pub fn moment(&self) -> usize {
        self.events.len()
    }

    /// What processes see.
    pub fn now(&self) -> &Volume {
        &self.now
    }

    /// Lets something happen.
    pub fn happen(&mut self, event: Event) {
        if let Event::Changed(change) = &event {
            self.now.apply(change);
        }
        self.events.push(event);
    }

    /// Lets a call of the binary happen, which works in the real directory `root` with the same content.
    pub fn record(&mut self, root: &Path, call: Vecsnap) -> Outcome {
        require_strace();
        let root = fs::canonicalize(root).unwrap();
        let output = tempfile::NamedTempFile::new().unwrap();
        let outcome = call.recorded(TRACED, output.path()).run();
        let told = fs::read_to_string(output.path()).unwrap();
        Process::new(self, &root).run(&system_call::parse(&told));
        self.assert_is(&root, &outcome);
        outcome
    }

    /// Fails if the model is not what the directory holds: then it would prove nothing. The shared memory of SQLite is
    /// written without system calls.
    fn assert_is(&self, root: &Path, outcome: &Outcome) {
        let told = |volume: &Volume| {
            let mut picture = volume.picture();
            picture.retain(|name, _| !name.to_string_lossy().ends_with("-shm"));
            picture
        };
        let (model, real) = (told(&self.now), told(&Volume::load(root)));
        let differs = model.iter().filter(|(name, is)| real.get(*name) != Some(is)).map(|(name, _)| name);
        let missed = real.keys().filter(|name| !model.contains_key(*name));
        let wrong: Vec<_> = differs.chain(missed).map(|name| (name, model.get(name), real.get(name))).collect();
        assert!(wrong.is_empty(), "the model missed something of {outcome}: {wrong:#?}");
    }

    /// The moments at which a crash differs from one just before, from a moment to the end.
    pub fn crash_points(&self, begin: usize) -> Vec<usize> {
        let counts = |event: &Event| !matches!(event, Event::Changed(Change::Make { .. }));
        let after = (1..).zip(&self.events).filter(|(_, event)| counts(event)).map(|(point, _)| point);
        [begin].into_iter().chain(after.filter(|point| *point > begin)).collect()
    }

    /// The moments right after such a change.
    pub fn moments_after(&self, is_meant: impl Fn(&Change) -> bool) -> Vec<usize> {
        let is_meant = |event: &Event| matches!(event, Event::Changed(change) if is_meant(change));
        (1..).zip(&self.events).filter(|(_, event)| is_meant(event)).map(|(moment, _)| moment).collect()
    }

    /// The first moment right after such a change.
    pub fn moment_after(&self, is_meant: impl Fn(&Change) -> bool) -> usize {
        self.moments_after(is_meant)[0]
    }

    /// Whether a process had answered by then.
    pub fn acknowledged(&self, point: usize) -> bool {
        self.acknowledged_since(0, point)
    }

    /// Whether a process answered between two moments.
    pub fn acknowledged_since(&self, begin: usize, point: usize) -> bool {
        self.events[begin..point].iter().any(|event| matches!(event, Event::Acknowledged))
    }

    /// What there was at a moment, with all that was not durable then: what other processes see when one is killed.
    pub fn killed_at(&self, point: usize) -> Self {
        let mut disk = Self::of(self.durable.clone());
        self.events[..point].iter().for_each(|event| disk.happen(event.clone()));
        disk
    }

    /// A disk that reports syncs as done and does nothing.
    pub fn lying(mut self) -> Self {
        for event in &mut self.events {
            if let Event::Synced { covers, .. } = event {
                *covers = 0;
            }
        }
        self
    }

    /// What is on the medium after the power failed at a moment.
    pub fn power_cut_at(&self, point: usize, mut survival: Survival) -> Volume {
        let events = &self.events[..point];
        let on = self.file_systems();
        let is_durable = |index: usize, change: &Change| {
            let mut later = events[index..].iter();
            later.any(|event| match event {
                Event::Synced { node, extent: Extent::Everything, covers } => {
                    index < *covers && on.get(node).is_some_and(|system| on.get(&change.subject()) == Some(system))
                }
                Event::Synced { node, extent, covers } => index < *covers && change.is_kept_by(*node, *extent),
                _ => false,
            })
        };
        let mut volume = self.durable.clone();
        let changes = events.iter().enumerate().filter_map(|(index, event)| match event {
            Event::Changed(change) => Some((index, change)),
            _ => None,
        });
        let changes: Vec<_> = changes.map(|(index, change)| (change, is_durable(index, change))).collect();
        survival.look_at(&changes);
        for (index, (change, durable)) in changes.into_iter().enumerate() {
            if durable || matches!(change, Change::Make { .. }) {
                volume.apply(change);
            } else {
                survival.of(index, change, &volume).iter().for_each(|part| volume.apply(part));
            }
        }
        volume
    }

    /// The file system that each node lies on. That of the repository is another one than that of the live files, as
    /// where a disk of its own is mounted there: to sync one does not help the other.
    fn file_systems(&self) -> HashMap<NodeId, FileSystem> {
        let mut systems = HashMap::from([(ROOT, FileSystem::OfLiveFiles)]);
        let mut found = vec![ROOT];
        while let Some(directory) = found.pop() {
            for (name, node) in self.durable.entries(directory) {
                systems.insert(node, FileSystem::below(directory, name, systems[&directory]));
                found.push(node);
            }
        }
        for event in &self.events {
            if let Event::Changed(Change::Enter { directory, name, node }) = event {
                systems.insert(*node, FileSystem::below(*directory, name, systems[directory]));
            }
        }
        systems
    }

    /// The last moments, for a message.
    pub fn shown(&self, point: usize) -> String {
        let from = point.saturating_sub(5);
        let shown = self.events[from..point].iter().map(|event| {
            let text = format!("{event:?}");
            text.chars().take(160).collect::<String>()
        });
        shown.collect::<Vec<_>>().join("\n    ")
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FileSystem {
    OfLiveFiles,
    OfRepository,
}

impl FileSystem {
    /// That of what a name in a directory leads to.
    fn below(directory: NodeId, name: &[u8], of_directory: Self) -> Self {
        if directory == ROOT && name == REPOSITORY { Self::OfRepository } else { of_directory }
    }
}

/// Fails with one sentence where strace cannot be run.
fn require_strace() {
    let version = Command::new("strace").arg("--version").output();
    assert!(version.is_ok(), "the simulated disk needs strace to watch the program (apt-get install strace)");
}
