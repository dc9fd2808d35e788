//! What is to become of packs: decided by bytes alone, nothing is read or written here.
//!
//! What a rewriting would give back is waste. A little is tolerated, since to get at it the rest has to be written
//! again; the more there is, the more may be written, measured by what comes back and by what is re-based (stored
//! against a base that goes, or instead of it). Packs that waste most are opened first, and one of which half is waste
//! in any case. Small packs are merged by classes of size, many at a time: a byte is copied once in each class, however
//! often cleanup runs.

use std::collections::BTreeMap;

/// What is to become of a pack.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Fate {
    /// It stays.
    #[default]
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
    /// Deltas that go because the roots of their families are in packs that are opened.
    pub(super) replaced: u64,
    /// Deltas in other packs that would go if the roots in this one were replaced.
    pub(super) burden: u64,
    /// What was decided so far; a pack that is not to stay is not decided upon again.
    pub(super) fate: Fate,
}

/// From what space is hoped to come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hope {
    /// From garbage, and from chains made shorter.
    Rebasing,
    /// From garbage alone.
    Garbage,
}

/// Bytes that change when packs are opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Effect {
    pub(super) written: u64,
    /// Of what is written: records on other bases than before, or whole, because a base goes.
    pub(super) rebased: u64,
    /// By how much the repository shrinks.
    pub(super) freed: u64,
}

/// What stays useful in a pack when all that is planned is stored anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Remains {
    pub(super) key: i64,
    pub(super) size: u64,
    pub(super) useful: u64,
}

impl Remains {
    pub(super) fn are_mostly_waste(&self) -> bool {
        self.useful <= self.size.saturating_sub(OVERHEAD + self.useful)
    }
}

/// How much may be written once more than so much is wasted.
struct Limit {
    /// In percent of what is needed.
    waste: u64,
    /// In percent of what is freed and re-based.
    written: u64,
}

const LIMITS: [Limit; 3] =
    [Limit { waste: 4, written: 120 }, Limit { waste: 10, written: 200 }, Limit { waste: 25, written: 1000 }];
/// A pack that has less than this is small: a quarter of the size at which packs are sealed.
const SMALL: u64 = 8 << 20;
/// So many small packs of one class are merged.
const MERGED: usize = 64;
/// What is built on a delta that goes may take so many times its bytes when it is stored anew, where little comes back.
const REBASING: u64 = 4;
/// Bytes of a pack that are no record: header, end, envelope.
const OVERHEAD: u64 = 256;

impl PackBalance {
    fn needed(&self) -> u64 {
        self.live + self.roots + self.sources + self.links + self.replaced
    }

    fn opening(&self, hope: Hope) -> Effect {
        // Of a pack that is opened, the burden counts as replaced where it lies.
        let (links, burden) = match (hope, self.fate) {
            // How much of a delta's change was changed again by those after it is known only when they are read.
            (Hope::Rebasing, Fate::Stays) => (self.links / 2, self.burden),
            (Hope::Rebasing, _) => (self.links / 2, 0),
            (Hope::Garbage, _) => (self.links.saturating_mul(REBASING), 0),
        };
        let rebased = self.roots + links;
        let written = self.live + self.sources + rebased;
        let gone = (self.size + burden).saturating_sub(OVERHEAD);
        Effect { written, rebased, freed: gone.saturating_sub(written) }
    }
}

impl Effect {
    fn and(self, other: Self) -> Self {
        Self {
            written: self.written + other.written,
            rebased: self.rebased + other.rebased,
            freed: self.freed + other.freed,
        }
    }

    /// Whether packs are worth being opened, by what their rewriting would do according to the plan for it.
    pub(super) fn pays(self) -> bool {
        let [Limit { waste, .. }, Limit { written, .. }, _] = LIMITS;
        let worth_it =
            is_within(self.written, written, self.freed + self.rebased) && !is_within(self.freed, waste, self.written);
        self.written == 0 || worth_it
    }

    fn keeps(self, limit: &Limit) -> bool {
        is_within(self.written, limit.written, self.freed + self.rebased)
    }
}

/// Whether `part` is at most so many percent of `whole`.
fn is_within(part: u64, percent: u64, whole: u64) -> bool {
    u128::from(part) * 100 <= u128::from(whole) * u128::from(percent)
}

/// The fate of a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Decision {
    pub(super) key: i64,
    pub(super) fate: Fate,
}

/// Decides what becomes of packs; those of which nothing new was decided are left out.
pub(super) fn decide(packs: &[PackBalance], hope: Hope) -> Vec<Decision> {
    let mut plan = Plan { hope, decided: Vec::new(), effect: Effect::default() };
    let mut stay = Vec::new();
    for pack in packs {
        let opening = pack.opening(hope);
        match pack.needed() {
            0 => plan.bury(pack),
            _ if pack.fate == Fate::Opened => plan.effect = plan.effect.and(opening),
            _ if opening.written <= opening.freed => plan.open(pack),
            _ => stay.push(*pack),
        }
    }
    plan.reduce_waste(stay);
    plan.decided
}

/// A decision in the making.
struct Plan {
    hope: Hope,
    /// Dead and opened packs.
    decided: Vec<Decision>,
    /// What they do together.
    effect: Effect,
}

impl Plan {
    fn bury(&mut self, pack: &PackBalance) {
        if pack.fate == Fate::Stays {
            self.decided.push(Decision { key: pack.key, fate: Fate::Dead });
        }
        self.effect.freed += pack.size;
    }

    fn open(&mut self, pack: &PackBalance) {
        self.decided.push(Decision { key: pack.key, fate: Fate::Opened });
        self.effect = self.effect.and(pack.opening(self.hope));
    }

    /// Opens packs of those that would stay, the most wasteful first, as far as limits ask for it and allow it.
    fn reduce_waste(&mut self, mut candidates: Vec<PackBalance>) {
        let product = |one: u64, other: u64| u128::from(one) * u128::from(other);
        candidates.sort_by(|left, right| {
            let (one, other) = (left.opening(self.hope), right.opening(self.hope));
            product(other.freed, one.written).cmp(&product(one.freed, other.written)).then(left.key.cmp(&right.key))
        });
        let openings = || candidates.iter().map(|pack| pack.opening(self.hope));
        let needed = self.effect.written + openings().map(|opening| opening.written).sum::<u64>();
        let mut waste: u64 = openings().map(|opening| opening.freed).sum();
        for limit in &LIMITS {
            candidates.retain(|pack| {
                let opening = pack.opening(self.hope);
                let asked =
                    !is_within(waste, limit.waste, needed) && !is_within(opening.freed, limit.waste, opening.written);
                let opened = asked && self.effect.and(opening).keeps(limit);
                if opened {
                    waste -= opening.freed;
                    self.open(pack);
                }
                !opened
            });
        }
    }
}

/// The keys of small packs that are to be merged, since there are many of one class: each class reaches to four times
/// the size of the one before.
pub(super) fn merged(packs: &[PackBalance]) -> Vec<i64> {
    let mut classes = BTreeMap::<u32, Vec<i64>>::new();
    for pack in packs.iter().filter(|pack| pack.fate == Fate::Stays && pack.size < SMALL) {
        classes.entry(pack.needed().max(1).ilog2() / 2).or_default().push(pack.key);
    }
    classes.into_values().filter(|class| class.len() >= MERGED).flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn numbered(packs: &[PackBalance]) -> Vec<PackBalance> {
        (0..).zip(packs).map(|(key, pack)| PackBalance { key, ..*pack }).collect()
    }

    fn fates_hoping(packs: &[PackBalance], hope: Hope) -> Vec<Fate> {
        let mut fates: Vec<_> = packs.iter().map(|pack| pack.fate).collect();
        decide(&numbered(packs), hope).iter().for_each(|decision| fates[decision.key as usize] = decision.fate);
        fates
    }

    fn fates(packs: &[PackBalance]) -> Vec<Fate> {
        fates_hoping(packs, Hope::Rebasing)
    }

    fn pack(size: u64, live: u64) -> PackBalance {
        PackBalance { size, live, ..PackBalance::default() }
    }

    #[test]
    fn a_large_pack_is_opened_when_half_of_it_is_garbage() {
        for (live, fate) in [(0, Fate::Dead), (15, Fate::Opened), (24, Fate::Stays), (32, Fate::Stays)] {
            let packs = [pack(32 * MIB, live * MIB), pack(900 * MIB, 900 * MIB)];
            assert_eq!(fates(&packs)[0], fate, "{live}");
        }
    }

    #[test]
    fn a_fifth_of_garbage_is_not_worth_the_rewriting_of_all_the_rest() {
        let packs = [pack(32 * MIB, 26 * MIB); 4];
        assert_eq!(fates(&packs), [Fate::Stays; 4]);
        // Unless so much went by itself that what is written stays in proportion.
        let with_dead = [pack(32 * MIB, 26 * MIB), pack(40 * MIB, 0)];
        assert_eq!(fates(&with_dead), [Fate::Opened, Fate::Dead]);
    }

    #[test]
    fn more_may_be_written_the_more_is_wasted() {
        let opened =
            |live| fates(&[pack(100 * MIB, live * MIB); 8]).iter().filter(|fate| **fate == Fate::Opened).count();
        // Twice what is freed is written at 34 % of garbage, three times as much at 25 %, nine times at 10 %.
        assert_eq!([opened(90), opened(80)], [0, 0]);
        assert!((1..8).contains(&opened(66)), "{}", opened(66));
        assert!((1..8).contains(&opened(75)), "a quarter of all is wasted at most: {}", opened(75));
    }

    #[test]
    fn roots_are_replaced_once_what_they_carry_is_waste_worth_mentioning() {
        let old = |burden| PackBalance { size: 32 * MIB, roots: 32 * MIB, burden, ..PackBalance::default() };
        assert_eq!(fates(&[old(MIB)]), [Fate::Stays]);
        assert_eq!(fates(&[old(2 * MIB)]), [Fate::Opened]);
        assert_eq!(fates(&[old(2 * MIB), pack(32 * MIB, 32 * MIB)]), [Fate::Stays; 2], "there is little waste in all");
        let shared = PackBalance { live: 24 * MIB, roots: 8 * MIB, ..old(2 * MIB) };
        assert_eq!(fates(&[shared]), [Fate::Stays], "it would copy much more than it frees and replaces");
        let copied_from = PackBalance { sources: 32 * MIB, roots: 0, ..old(0) };
        assert_eq!(fates(&[copied_from]), [Fate::Stays]);
    }

    #[test]
    fn the_packs_that_waste_most_are_opened_first_and_no_more_than_needed() {
        let links = |links| PackBalance { size: 2 * MIB, live: 2 * MIB - links, links, ..PackBalance::default() };
        let packs =
            [pack(40 * MIB, 40 * MIB), links(MIB), links(2 * MIB - 1024), links(MIB / 2), links(2 * MIB - 2048)];
        assert_eq!(fates(&packs), [Fate::Stays, Fate::Stays, Fate::Opened, Fate::Stays, Fate::Stays]);
        assert_eq!(fates_hoping(&packs, Hope::Garbage), [Fate::Stays; 5]);
    }

    #[test]
    fn what_opened_roots_leave_behind_in_other_packs_is_garbage_there() {
        let root = PackBalance { size: 32 * MIB, roots: 32 * MIB, fate: Fate::Opened, ..PackBalance::default() };
        let versions = PackBalance { size: MIB, live: MIB / 4, replaced: 3 * MIB / 4, ..PackBalance::default() };
        let nothing_else = PackBalance { size: MIB, replaced: MIB, ..PackBalance::default() };
        assert_eq!(fates(&[root, versions, nothing_else]), [Fate::Opened; 3]);
    }

    #[test]
    fn a_plan_pays_if_it_writes_at_most_twice_what_it_frees_and_rebases_and_frees_enough() {
        let effect = |written, rebased, freed| Effect { written, rebased, freed };
        assert!(effect(100, 0, 50).pays() && !effect(100, 0, 49).pays());
        assert!(effect(100, 95, 5).pays() && !effect(100, 96, 4).pays());
        assert!(effect(0, 0, 0).pays());
    }

    #[test]
    fn what_is_left_behind_is_opened_when_half_of_it_is_waste() {
        let remains = |useful| Remains { key: 0, size: 2000 + OVERHEAD, useful };
        assert!(remains(0).are_mostly_waste() && remains(1000).are_mostly_waste());
        assert!(!remains(1001).are_mostly_waste());
    }

    #[test]
    fn small_packs_are_merged_when_there_are_many_of_about_one_size() {
        let some = |count, size| vec![pack(size, size); count];
        assert!(merged(&numbered(&some(MERGED - 1, MIB))).is_empty());
        assert_eq!(merged(&numbered(&some(MERGED, MIB))).len(), MERGED);
        assert!(merged(&numbered(&some(MERGED, SMALL))).is_empty(), "these are not small");
        let sizes = [some(MERGED - 1, MIB), some(MERGED - 1, MIB / 8)].concat();
        assert!(merged(&numbered(&sizes)).is_empty(), "these are of two classes");
        let opened: Vec<_> = some(MERGED, MIB).iter().map(|pack| PackBalance { fate: Fate::Opened, ..*pack }).collect();
        assert!(merged(&numbered(&opened)).is_empty(), "these are opened anyway");
    }

    #[test]
    fn a_byte_is_copied_once_in_each_class_however_often_cleanup_runs() {
        let (mut packs, mut copied) = (Vec::new(), 0);
        for _ in 0..5000 {
            packs.push(pack(1000, 1000));
            packs = numbered(&packs);
            let keys = merged(&packs);
            packs.retain(|pack| !keys.contains(&pack.key));
            let total = keys.len() as u64 * 1000;
            copied += total;
            packs.extend((total > 0).then_some(pack(total, total)));
        }
        assert!(copied <= 2 * 5_000_000, "{copied} bytes were copied for 5,000,000");
        assert!(packs.len() < 4 * MERGED, "{} packs", packs.len());
    }

    /// Cleanup after each snapshot, as cron does it, on a model in which each snapshot's pack dies piece by piece.
    #[test]
    fn in_the_long_run_little_is_wasted_and_little_is_written() {
        let mut packs = vec![pack(100 * MIB, 100 * MIB)];
        let (mut written, mut freed) = (0, 0);
        for day in 0..400_u64 {
            packs.push(pack(2 * MIB, 2 * MIB));
            // A fiftieth of whatever is live dies.
            for pack in &mut packs {
                pack.live -= pack.live / 50;
            }
            let before: u64 = packs.iter().map(|pack| pack.size).sum();
            packs = numbered(&packs);
            let decisions = decide(&packs, Hope::Rebasing);
            let mut keys: Vec<_> = decisions.iter().map(|decision| decision.key).collect();
            packs.iter_mut().filter(|pack| keys.contains(&pack.key)).for_each(|pack| pack.fate = Fate::Opened);
            keys.extend(merged(&packs));
            let new: u64 = packs.iter().filter(|pack| keys.contains(&pack.key)).map(|pack| pack.live).sum();
            packs.retain(|pack| !keys.contains(&pack.key));
            packs.extend((new > 0).then_some(pack(new, new)));
            let (size, live): (u64, u64) =
                packs.iter().fold((0, 0), |(size, live), pack| (size + pack.size, live + pack.live));
            written += new;
            freed += before - size;
            assert!(size * 100 <= live * 127, "day {day}: {size} bytes for {live}");
        }
        assert!(written <= 3 * freed, "{written} bytes were written to free {freed}");
    }
}
