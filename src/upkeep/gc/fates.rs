//! What is to become of packs: decided by bytes alone, nothing is read or written here.
//!
//! A pack is rewritten where that pays: it then frees at least as much as it copies, and a tenth of what it writes. Small
//! packs are merged as soon as they add up to more than half of the next larger one, so that their sizes stay apart by
//! factors of two: a byte is copied a logarithm of times, however often cleanup runs.

/// What is to become of a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Fate {
    /// It stays.
    Stays = 0,
    /// Nothing in it is needed: it goes.
    Dead = 1,
    /// What is needed of it is stored elsewhere, then it goes.
    Opened = 2,
}

/// The bytes of one pack, by what they are for. What is neither of it is garbage.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct PackBalance {
    pub(super) key: i64,
    pub(super) size: u64,
    /// Records of blobs that snapshots reach.
    pub(super) live: u64,
    /// Whole records that no snapshot reaches and that newer versions descend from: one of these takes its place.
    pub(super) roots: u64,
    /// Whole records that no snapshot reaches and that others only copy from: they would be copied.
    pub(super) sources: u64,
    /// Deltas that no snapshot reaches: what descends from them is stored against what remains.
    pub(super) links: u64,
    /// Deltas in other packs that go when the roots are replaced.
    pub(super) burden: u64,
}

/// What rewriting a pack would do.
struct Effect {
    copied: u64,
    written: u64,
    freed: u64,
}

/// A pack that has less than this is small: a quarter of the size at which packs are sealed.
const SMALL: u64 = 8 << 20;
/// Bytes of a pack that are no record: header, end, envelope.
const OVERHEAD: u64 = 256;
/// What a rewriting frees must be at least one part in this many of what it writes.
const WORTH: u64 = 10;

impl PackBalance {
    fn needed(&self) -> u64 {
        self.live + self.roots + self.sources + self.links
    }

    fn effect(&self) -> Effect {
        let copied = self.live + self.sources;
        // How much of a delta's change was changed again by those after it is known only when they are read.
        let written = copied + self.roots + self.links / 2;
        let gone = (self.size + self.burden).saturating_sub(OVERHEAD);
        Effect { copied, written, freed: gone.saturating_sub(written) }
    }

    fn pays(&self) -> bool {
        let Effect { copied, written, freed } = self.effect();
        freed > 0 && copied <= freed + self.roots && freed.saturating_mul(WORTH) >= written
    }
}

/// The fate of a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Decision {
    pub(super) key: i64,
    pub(super) fate: Fate,
}

/// Decides what becomes of these packs.
pub(super) fn decide(packs: &[PackBalance]) -> Vec<Decision> {
    let mut decisions = Vec::with_capacity(packs.len());
    let mut small = Vec::new();
    let mut rolled = 0;
    for pack in packs {
        let fate = match (pack.needed(), pack.pays()) {
            (0, _) => Fate::Dead,
            (_, true) => Fate::Opened,
            (_, false) => Fate::Stays,
        };
        match fate {
            Fate::Opened if pack.size < SMALL => rolled += pack.effect().written,
            Fate::Stays if pack.size < SMALL => {
                small.push(*pack);
                continue;
            }
            _ => {}
        }
        decisions.push(Decision { key: pack.key, fate });
    }
    small.sort_by_key(|pack| (pack.needed(), pack.key));
    let merged = merged(&small.iter().map(PackBalance::needed).collect::<Vec<_>>(), rolled);
    let fates = (0..).map(|number: usize| if number < merged { Fate::Opened } else { Fate::Stays });
    decisions.extend(small.iter().zip(fates).map(|(pack, fate)| Decision { key: pack.key, fate }));
    decisions
}

/// How many of the smallest packs are merged, beside `rolled` bytes that are rewritten anyway, so that each that stays has
/// at least twice the bytes of all smaller ones together or of the next smaller one. `sizes` ascend.
fn merged(sizes: &[u64], rolled: u64) -> usize {
    let apart = sizes.windows(2).rev().take_while(|pair| matches!(pair, [less, more] if *more >= 2 * less)).count();
    let mut count = if apart + 1 >= sizes.len() { 0 } else { sizes.len() - apart };
    let mut total = rolled + sizes.iter().take(count).sum::<u64>();
    while let Some(size) = sizes.get(count).filter(|size| **size < 2 * total) {
        total += size;
        count += 1;
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn fates(packs: &[PackBalance]) -> Vec<Fate> {
        let mut decisions = decide(packs);
        decisions.sort_by_key(|decision| decision.key);
        decisions.iter().map(|decision| decision.fate).collect()
    }

    fn pack(size: u64, live: u64) -> PackBalance {
        PackBalance { size, live, ..PackBalance::default() }
    }

    #[test]
    fn a_large_pack_is_opened_when_half_of_it_is_garbage() {
        for (live, fate) in [(0, Fate::Dead), (15, Fate::Opened), (17, Fate::Stays), (32, Fate::Stays)] {
            assert_eq!(fates(&[pack(32 * MIB, live * MIB)]), [fate], "{live}");
        }
    }

    #[test]
    fn roots_are_replaced_once_what_they_carry_is_a_tenth_of_them() {
        let old = |burden| PackBalance { size: 32 * MIB, roots: 32 * MIB, burden, ..PackBalance::default() };
        assert_eq!(fates(&[old(3 * MIB), old(4 * MIB)]), [Fate::Stays, Fate::Opened]);
        let shared = PackBalance { live: 24 * MIB, roots: 8 * MIB, ..old(5 * MIB) };
        assert_eq!(fates(&[shared]), [Fate::Stays], "it would copy more than it frees and replaces");
        let copied_from = PackBalance { sources: 32 * MIB, roots: 0, ..old(0) };
        assert_eq!(fates(&[copied_from]), [Fate::Stays]);
    }

    #[test]
    fn small_packs_are_merged_until_sizes_are_apart_by_factors_of_two() {
        assert_eq!(merged(&[3, 3, 3, 3], 0), 4);
        assert_eq!(merged(&[1, 2, 4, 8], 0), 0);
        assert_eq!(merged(&[3, 3, 40], 0), 2);
        assert_eq!(merged(&[3, 3, 11, 40], 0), 3, "the sum of the small ones is more than half of the next");
        assert_eq!(merged(&[5, 100], 0), 0);
        assert_eq!(merged(&[5, 100], 3), 1, "three bytes are rewritten anyway");
        assert_eq!(merged(&[5], 0), 0);
        assert_eq!(merged(&[], 0), 0);
    }

    #[test]
    fn a_byte_is_copied_a_logarithm_of_times_however_often_cleanup_runs() {
        let (mut sizes, mut copied) = (Vec::new(), 0);
        for _ in 0..1000 {
            sizes.push(1);
            sizes.sort_unstable();
            let count = merged(&sizes, 0);
            let total: u64 = sizes.drain(..count).sum();
            copied += total;
            sizes.extend((total > 0).then_some(total));
        }
        assert!(copied < 10 * 1000, "{copied} bytes were copied for 1000");
        assert!(sizes.len() <= 11, "{sizes:?}");
    }
}
