//! Many crashes of one recording: which ones, how they are told, how one of them is repeated.

use std::collections::HashSet;
use std::env;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::Instant;

use super::repository::World;
use crate::support::simulated_disk::{Disk, Random, Survival, Volume};

/// How many crashes are tried.
#[derive(Clone, Copy, Debug)]
pub(super) enum Reach {
    /// So many, drawn by the seed.
    Slice(usize),
    /// After every operation, in so many ways.
    Every { ways: usize },
}

impl Reach {
    /// After every operation, as often as `VECSNAP_CRASH_WAYS` says.
    pub(super) fn long() -> Self {
        Self::Every { ways: number_from("VECSNAP_CRASH_WAYS").unwrap_or(5) }
    }
}

fn number_from(variable: &str) -> Option<usize> {
    let text = env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is a number, not {text:?}")))
}

/// The seed of this run: `VECSNAP_SEED`, or always the same.
pub(super) fn seed() -> u64 {
    number_from("VECSNAP_SEED").unwrap_or(1) as u64
}

/// A way in which a machine stops at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Crash {
    /// After so many operations.
    pub(super) point: usize,
    /// 0: only the process is killed. 1: the power fails and nothing survives that was not synced. From 2 on: some of
    /// it does.
    pub(super) way: usize,
}

impl Crash {
    /// Whether the machine starts again, and not only the process.
    pub(super) fn is_power_cut(self) -> bool {
        self.way > 0
    }
}

/// All crashes of one recording that are tried.
pub(super) struct Campaign {
    name: String,
    reach: Reach,
    tried: usize,
    states: HashSet<blake3::Hash>,
    failures: Vec<String>,
    began: Instant,
}

impl Campaign {
    pub(super) fn new(name: &str, reach: Reach) -> Self {
        let (states, failures) = (HashSet::new(), Vec::new());
        Self { name: name.into(), reach, tried: 0, states, failures, began: Instant::now() }
    }

    /// Random numbers that depend on the seed, this campaign and a crash.
    pub(super) fn random(&self, crash: Crash) -> Random {
        let name = u64::from_le_bytes(blake3::hash(self.name.as_bytes()).as_bytes()[..8].try_into().unwrap());
        Random::of(&[seed(), name, crash.point as u64, crash.way as u64])
    }

    /// What is on the medium after a crash.
    pub(super) fn state(&self, disk: &Disk, crash: Crash) -> Volume {
        let survival = match crash.way {
            0 => Survival::everything(),
            1 => Survival::nothing(),
            _ => Survival::random(self.random(crash)),
        };
        disk.power_cut_at(crash.point, survival)
    }

    /// The disk of a world after a crash, from where work goes on, in the real directory too. Every other time only the
    /// process was killed: what it had not synced still is not.
    pub(super) fn left_by(&self, disk: &Disk, crash: Crash, world: &World) -> Disk {
        if crash.way.is_multiple_of(2) {
            let killed = disk.killed_at(crash.point);
            killed.now().write_to(&world.root());
            return killed;
        }
        world.put(&self.state(disk, crash), crash, &mut self.random(crash));
        Disk::load(&world.root())
    }

    /// The crashes to try: with `VECSNAP_CRASH=name:point:way` that one alone.
    pub(super) fn crashes(&self, begin: usize, disk: &Disk) -> Vec<Crash> {
        if let Ok(only) = env::var("VECSNAP_CRASH") {
            let parts: Vec<&str> = only.rsplitn(3, ':').collect();
            let [way, point, name] = parts[..] else { panic!("VECSNAP_CRASH is name:point:way, not {only:?}") };
            let crash = Crash { point: point.parse().unwrap(), way: way.parse().unwrap() };
            return if name == self.name { vec![crash] } else { Vec::new() };
        }
        match self.reach {
            Reach::Every { ways } => {
                let points = disk.crash_points(begin);
                points.into_iter().flat_map(|point| (0..ways).map(move |way| Crash { point, way })).collect()
            }
            Reach::Slice(count) => {
                let end = Crash { point: disk.moment(), way: 1 };
                [end].into_iter().chain(self.drawn(begin, disk, count - 1)).collect()
            }
        }
    }

    /// So many crashes, drawn by the seed.
    pub(super) fn drawn(&self, begin: usize, disk: &Disk, count: usize) -> Vec<Crash> {
        let points = disk.crash_points(begin);
        let mut random = self.random(Crash { point: 0, way: 0 });
        (0..count).map(|_| Crash { point: random.pick(&points), way: random.below(6) }).collect()
    }

    /// Lets the machine crash in all these ways; `check` gets what is left each time.
    pub(super) fn attack(&mut self, disk: &Disk, check: impl FnMut(Crash, &Volume, &mut Random)) {
        self.attack_from(0, disk, check);
    }

    /// The same, but not before a moment.
    pub(super) fn attack_from(
        &mut self,
        begin: usize,
        disk: &Disk,
        mut check: impl FnMut(Crash, &Volume, &mut Random),
    ) {
        for crash in self.crashes(begin, disk) {
            let volume = self.state(disk, crash);
            let picture = format!("{:?} {}", volume.picture(), disk.acknowledged(crash.point));
            self.tried += 1;
            // States that look alike need not be tried twice, but for what else chance decides.
            if !self.states.insert(blake3::hash(picture.as_bytes())) && crash.way < 2 {
                continue;
            }
            let mut random = self.random(crash);
            let outcome = catch_unwind(AssertUnwindSafe(|| check(crash, &volume, &mut random)));
            if let Err(panic) = outcome {
                self.failed(disk, crash, &volume, panic.as_ref());
            }
        }
    }

    fn failed(&mut self, disk: &Disk, crash: Crash, volume: &Volume, panic: &(dyn std::any::Any + Send)) {
        let (name, Crash { point, way }) = (&self.name, crash);
        let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        let kept = PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("crash-{}-{point}-{way}", name.replace([' ', ':'], "-")));
        volume.write_to(&kept);
        let told = format!(
            "VECSNAP_SEED={} VECSNAP_CRASH='{name}:{point}:{way}' (what was left is in {}):\n{}\n  last operations:\n    {}",
            seed(),
            kept.display(),
            text.unwrap_or("a panic without words"),
            disk.shown(point)
        );
        eprintln!("FAILED {told}");
        self.failures.push(told);
    }

    /// Tells how much was tried, and fails if anything failed.
    pub(super) fn finish(self) {
        let Self { name, tried, states, failures, began, .. } = self;
        let seconds = began.elapsed().as_secs_f64();
        eprintln!(
            "{name}: {tried} crashes, {} different states, {} failures, seed {}, {seconds:.1} s",
            states.len(),
            failures.len(),
            seed()
        );
        assert!(failures.is_empty(), "{name}: {} of {tried} crashes; the first:\n{}", failures.len(), failures[0]);
    }
}
