//! Choices that look random and are the same for the same seed.

use super::noise;

const VARIABLE: &str = "VECSNAP_FAULT_SEED";

/// A seed, which is printed, so that a failing run can be repeated.
#[derive(Clone, Copy, Debug)]
pub struct Seed(u64);

impl Seed {
    /// The one of `VECSNAP_FAULT_SEED`, or else 1.
    pub fn from_environment() -> Self {
        let given = std::env::var(VARIABLE).ok();
        let seed = given.map_or(1, |text| text.parse().unwrap_or_else(|_| panic!("{VARIABLE} must be a number")));
        eprintln!("{VARIABLE}={seed}");
        Self(seed)
    }

    /// A number below `end` that depends on the seed and the name alone.
    pub fn below(self, name: &str, end: u64) -> u64 {
        let bytes = noise::bytes(&format!("{} {name}", self.0), 8);
        u64::from_le_bytes(bytes.try_into().unwrap()) % end
    }

    /// Up to `count` different numbers below `end`, ascending.
    pub fn sample(self, name: &str, end: usize, count: usize) -> Vec<usize> {
        let mut chosen = std::collections::BTreeSet::new();
        let mut turn = 0;
        while chosen.len() < count.min(end) {
            chosen.insert(self.below(&format!("{name} {turn}"), end as u64) as usize);
            turn += 1;
        }
        chosen.into_iter().collect()
    }
}
