//! Which snapshots `cleanup` keeps: a pure decision over stamps.
//!
//! A rule divides time into periods (days, ISO weeks, Sundays, …) and keeps the newest snapshot of each of its newest
//! periods that have one. A snapshot stays when any rule keeps it. Invariants: periods are counted in UTC from the
//! stamps that exist, never from today, so a machine that stood still for a year loses nothing; the order of the input
//! does not matter; deciding again over what was kept drops nothing more; at least one snapshot always stays.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{Datelike, Weekday};

use crate::error::{Error, Result};
use crate::id::Stamp;

/// Why a snapshot stays: the kind of period of which it is the newest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// One of the newest snapshots, whatever their time.
    Last,
    /// The newest of an hour.
    Hourly,
    /// The newest of a calendar day.
    Daily,
    /// The newest of an ISO week, Monday to Sunday.
    Weekly,
    /// The newest of a calendar month.
    Monthly,
    /// The newest of a Sunday.
    Sunday,
    /// The newest of the first day of a month.
    FirstOfMonth,
}

impl Reason {
    /// The number of the period that holds `stamp`, growing with time; `None` where this kind has no such period.
    fn period(self, stamp: Stamp) -> Option<i64> {
        let date = stamp.time().date_naive();
        let day = i64::from(date.num_days_from_ce());
        match self {
            Reason::Last => Some(stamp.seconds()),
            Reason::Hourly => Some(stamp.seconds().div_euclid(3600)),
            Reason::Daily => Some(day),
            Reason::Weekly => Some(i64::from(date.iso_week().year()) * 100 + i64::from(date.iso_week().week())),
            Reason::Monthly => Some(i64::from(date.year()) * 12 + i64::from(date.month0())),
            Reason::Sunday => (date.weekday() == Weekday::Sun).then_some(day),
            Reason::FirstOfMonth => (date.day() == 1).then_some(day),
        }
    }
}

/// How many periods of each kind to keep, as an operator asks for it; `None` where not asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeepCounts {
    /// The newest snapshots.
    pub last: Option<u32>,
    /// The newest hours that have snapshots.
    pub hourly: Option<u32>,
    /// The newest calendar days that have snapshots.
    pub daily: Option<u32>,
    /// The newest ISO weeks that have snapshots.
    pub weekly: Option<u32>,
    /// The newest calendar months that have snapshots.
    pub monthly: Option<u32>,
}

/// So many of the newest periods of one kind keep their newest snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rule {
    reason: Reason,
    periods: u32,
}

/// The rules of one cleanup; never rules that would keep nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules(Vec<Rule>);

impl Default for Rules {
    /// The newest 7 days, 4 Sundays and 6 firsts of a month.
    fn default() -> Self {
        let rule = |reason, periods| Rule { reason, periods };
        Self(vec![rule(Reason::Daily, 7), rule(Reason::Sunday, 4), rule(Reason::FirstOfMonth, 6)])
    }
}

impl Rules {
    /// The rules for these counts: the default ones when no count is given, else exactly the given ones.
    ///
    /// # Errors
    /// [`Error::Usage`] when the counts given would keep nothing at all.
    pub fn of(counts: &KeepCounts) -> Result<Self> {
        let asked = [
            (Reason::Last, counts.last),
            (Reason::Hourly, counts.hourly),
            (Reason::Daily, counts.daily),
            (Reason::Weekly, counts.weekly),
            (Reason::Monthly, counts.monthly),
        ];
        let rules: Vec<_> =
            asked.into_iter().filter_map(|(reason, count)| count.map(|periods| Rule { reason, periods })).collect();
        if rules.is_empty() {
            return Ok(Self::default());
        }
        if rules.iter().all(|rule| rule.periods == 0) {
            return Err(Error::Usage(
                "these --keep options would keep no snapshot at all; give at least one of them a number above 0".into(),
            ));
        }
        Ok(Self(rules))
    }
}

/// A snapshot that stays, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptStamp {
    /// The snapshot.
    pub stamp: Stamp,
    /// Every reason that keeps it; never empty.
    pub reasons: Vec<Reason>,
}

/// What stays and what goes; together exactly the stamps decided on, each once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// What stays, oldest first.
    pub keep: Vec<KeptStamp>,
    /// What goes, oldest first.
    pub drop: Vec<Stamp>,
}

/// Decides over `stamps`, in any order, which of them the rules keep.
pub fn decide(stamps: impl IntoIterator<Item = Stamp>, rules: &Rules) -> Decision {
    let stamps: BTreeSet<Stamp> = stamps.into_iter().collect();
    let mut reasons: BTreeMap<Stamp, Vec<Reason>> = BTreeMap::new();
    for rule in &rules.0 {
        for stamp in kept_by(rule, &stamps) {
            reasons.entry(stamp).or_default().push(rule.reason);
        }
    }
    let drop = stamps.into_iter().filter(|stamp| !reasons.contains_key(stamp)).collect();
    let keep = reasons.into_iter().map(|(stamp, reasons)| KeptStamp { stamp, reasons }).collect();
    Decision { keep, drop }
}

/// The newest snapshot of each of the rule's newest periods, newest first.
fn kept_by(rule: &Rule, stamps: &BTreeSet<Stamp>) -> Vec<Stamp> {
    let mut newest = None;
    let limit = usize::try_from(rule.periods).unwrap_or(usize::MAX);
    stamps
        .iter()
        .rev()
        .filter(|stamp| {
            let period = rule.reason.period(**stamp);
            let opens_a_period = period.is_some() && period != newest;
            newest = period.or(newest);
            opens_a_period
        })
        .take(limit)
        .copied()
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stamps(names: &[&str]) -> Vec<Stamp> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    fn kept(names: &[&str], rules: &Rules) -> Vec<String> {
        decide(stamps(names), rules).keep.iter().map(|kept| kept.stamp.to_string()).collect()
    }

    #[test]
    fn only_the_newest_snapshot_of_a_day_stays() {
        let names = ["20260407T060000Z", "20260407T180000Z", "20260407T120000Z"];
        assert_eq!(kept(&names, &Rules::default()), ["20260407T180000Z"]);
    }

    #[test]
    fn days_without_snapshots_do_not_use_up_the_seven() {
        let names = [
            "20250103T000000Z",
            "20250304T000000Z",
            "20250506T000000Z",
            "20250708T000000Z",
            "20250909T000000Z",
            "20251111T000000Z",
            "20260114T000000Z",
            "20260317T000000Z",
        ];
        assert_eq!(kept(&names, &Rules::default()), names[1..]);
    }

    #[test]
    fn sundays_and_firsts_stay_beyond_the_seven_days_with_their_reasons() {
        let mut names = vec!["20260301T010000Z", "20260308T010000Z", "20260309T010000Z", "20260401T010000Z"];
        let week: Vec<String> = (10..17).map(|day| format!("202604{day}T010000Z")).collect();
        names.extend(week.iter().map(String::as_str));
        let decision = decide(stamps(&names), &Rules::default());
        assert_eq!(decision.drop, stamps(&["20260309T010000Z"]));
        let why = |name: &str| {
            decision.keep.iter().find(|kept| kept.stamp.to_string() == name).map(|kept| kept.reasons.clone())
        };
        assert_eq!(why("20260301T010000Z"), Some(vec![Reason::Sunday, Reason::FirstOfMonth]));
        assert_eq!(why("20260308T010000Z"), Some(vec![Reason::Sunday]));
        assert_eq!(why("20260401T010000Z"), Some(vec![Reason::FirstOfMonth]));
        assert_eq!(why("20260412T010000Z"), Some(vec![Reason::Daily, Reason::Sunday]));
    }

    #[test]
    fn a_count_replaces_all_default_rules() {
        let names = ["20260301T010000Z", "20260315T010000Z", "20260316T010000Z", "20260316T020000Z"];
        let two = Rules::of(&KeepCounts { last: Some(2), ..KeepCounts::default() }).unwrap();
        assert_eq!(kept(&names, &two), names[2..]);
        let hours = Rules::of(&KeepCounts { hourly: Some(3), ..KeepCounts::default() }).unwrap();
        assert_eq!(kept(&names, &hours), names[1..]);
        let months = Rules::of(&KeepCounts { monthly: Some(6), ..KeepCounts::default() }).unwrap();
        assert_eq!(kept(&names, &months), names[3..]);
    }

    #[test]
    fn weeks_are_iso_weeks_across_the_turn_of_the_year() {
        // 2024-12-29 is a Sunday; 2024-12-30 to 2025-01-05 are one ISO week.
        let names = ["20241229T000000Z", "20241230T000000Z", "20250105T000000Z", "20250106T000000Z"];
        let weeks = Rules::of(&KeepCounts { weekly: Some(9), ..KeepCounts::default() }).unwrap();
        assert_eq!(kept(&names, &weeks), [names[0], names[2], names[3]]);
    }

    #[test]
    fn no_counts_are_the_default_and_zeros_alone_are_refused() {
        assert_eq!(Rules::of(&KeepCounts::default()).unwrap(), Rules::default());
        let zeros = KeepCounts { last: Some(0), weekly: Some(0), ..KeepCounts::default() };
        assert!(matches!(Rules::of(&zeros), Err(Error::Usage(_))));
        assert!(Rules::of(&KeepCounts { daily: Some(1), ..zeros }).is_ok());
    }

    fn any_rules() -> impl Strategy<Value = Rules> {
        let count = || proptest::option::of(0u32..5);
        (count(), count(), count(), count(), count()).prop_filter_map(
            "keeps nothing",
            |(last, hourly, daily, weekly, monthly)| {
                Rules::of(&KeepCounts { last, hourly, daily, weekly, monthly }).ok()
            },
        )
    }

    fn any_stamps() -> impl Strategy<Value = Vec<Stamp>> {
        // Half-hours over four months, so that every kind of period is met more than once.
        proptest::collection::vec(
            (0i64..6_000).prop_map(|n| Stamp::from_seconds(1_700_000_000 + n * 1_800).unwrap()),
            0..200,
        )
    }

    proptest! {
        #[test]
        fn deciding_again_drops_nothing_more(stamps in any_stamps(), rules in any_rules()) {
            let first = decide(stamps, &rules);
            let second = decide(first.keep.iter().map(|kept| kept.stamp), &rules);
            prop_assert_eq!(second.keep, first.keep);
            prop_assert!(second.drop.is_empty());
        }

        #[test]
        fn the_newest_always_stays_and_nothing_is_lost(stamps in any_stamps(), rules in any_rules()) {
            let decision = decide(stamps.iter().copied(), &rules);
            prop_assert_eq!(decision.keep.last().map(|kept| kept.stamp), stamps.iter().max().copied());
            prop_assert!(decision.keep.iter().all(|kept| !kept.reasons.is_empty()));
            let mut all: Vec<_> = decision.keep.iter().map(|kept| kept.stamp).chain(decision.drop).collect();
            all.sort();
            prop_assert_eq!(all, stamps.into_iter().collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>());
        }

        #[test]
        fn the_order_of_the_stamps_does_not_matter(
            (sorted, shuffled) in any_stamps().prop_flat_map(|stamps| (Just(stamps.clone()), Just(stamps).prop_shuffle())),
            rules in any_rules(),
        ) {
            prop_assert_eq!(decide(sorted, &rules), decide(shuffled, &rules));
        }
    }
}
