//! Retention over a calendar of 400 days, against a second implementation that shares nothing with the first: it counts
//! days by hand, knows weekdays by counting from a known one, and groups snapshots by the text of their names.

use std::collections::BTreeSet;

use vecsnap::id::Stamp;
use vecsnap::upkeep::retention::{Rules, decide};

/// A day of the calendar as the second implementation knows it.
struct Day {
    /// `YYYYMMDD`.
    name: String,
    is_sunday: bool,
    is_first: bool,
}

/// 400 days from 2023-11-29, a Wednesday; 2024 is a leap year.
fn calendar() -> Vec<Day> {
    let mut days = Vec::new();
    let (mut year, mut month, mut day, mut days_since_sunday) = (2023, 11, 29, 3);
    while days.len() < 400 {
        days.push(Day {
            name: format!("{year}{month:02}{day:02}"),
            is_sunday: days_since_sunday == 0,
            is_first: day == 1,
        });
        days_since_sunday = (days_since_sunday + 1) % 7;
        day += 1;
        let length = match month {
            2 => 29,
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        };
        if day > length {
            (day, month) = (1, month + 1);
        }
        if month > 12 {
            (month, year) = (1, year + 1);
        }
    }
    days
}

/// The newest snapshot of each of the newest `count` wanted days that have snapshots.
fn newest_of_days(days: &[Day], names: &[String], count: usize, wanted: impl Fn(&Day) -> bool) -> Vec<String> {
    let mut kept = Vec::new();
    for day in days.iter().rev().filter(|day| wanted(day)) {
        let newest = names.iter().filter(|name| name.starts_with(&day.name)).max();
        if kept.len() < count {
            kept.extend(newest.cloned());
        }
    }
    kept
}

fn kept_by_the_second_implementation(days: &[Day], names: &[String]) -> BTreeSet<String> {
    let daily = newest_of_days(days, names, 7, |_| true);
    let sundays = newest_of_days(days, names, 4, |day| day.is_sunday);
    let firsts = newest_of_days(days, names, 6, |day| day.is_first);
    daily.into_iter().chain(sundays).chain(firsts).collect()
}

/// Between none and three snapshots a day, at hours that wander; `gap` days out of every eleven have none.
fn snapshots(days: &[Day], gap: usize) -> Vec<String> {
    let mut names = Vec::new();
    for (number, day) in days.iter().enumerate() {
        if number * 7 % 11 < gap {
            continue;
        }
        for hour in (0..number % 3 + 1).map(|nth| (number * 5 + nth * 9) % 24) {
            names.push(format!("{}T{hour:02}{:02}{:02}Z", day.name, number % 60, number * 13 % 60));
        }
    }
    names
}

fn kept_by_vecsnap(names: &[String]) -> BTreeSet<String> {
    let stamps = names.iter().map(|name| name.parse::<Stamp>().expect("the calendar makes stamps"));
    let decision = decide(stamps, &Rules::default());
    assert_eq!(decision.keep.len() + decision.drop.len(), names.len());
    decision.keep.iter().map(|kept| kept.stamp.to_string()).collect()
}

#[test]
fn retention_agrees_with_a_second_implementation_on_every_day_of_400() {
    let days = calendar();
    assert_eq!(days.last().map(|day| day.name.as_str()), Some("20250101"), "the hand-made calendar has lost a day");
    for gap in [0, 3, 8] {
        let names = snapshots(&days, gap);
        for today in (1..=days.len()).step_by(3) {
            let until: Vec<String> =
                names.iter().filter(|name| name[..8] <= *days[today - 1].name.as_str()).cloned().collect();
            let expected = kept_by_the_second_implementation(&days, &until);
            assert_eq!(kept_by_vecsnap(&until), expected, "gap {gap}, up to {}", days[today - 1].name);
        }
    }
}

#[test]
fn cleaning_up_daily_for_400_days_keeps_what_the_second_implementation_keeps() {
    let days = calendar();
    let all = snapshots(&days, 3);
    let (mut ours, mut theirs) = (BTreeSet::new(), BTreeSet::new());
    for day in &days {
        let new = || all.iter().filter(|name| name.starts_with(&day.name)).cloned();
        ours.extend(new());
        theirs.extend(new());
        ours = kept_by_vecsnap(&ours.into_iter().collect::<Vec<_>>());
        theirs = kept_by_the_second_implementation(&days, &theirs.into_iter().collect::<Vec<_>>());
        assert_eq!(ours, theirs, "after the cleanup of {}", day.name);
    }
    assert!(ours.len() >= 12, "{ours:?}");
}
