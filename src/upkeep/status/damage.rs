//! Damage that validations found and that no later one has disproved.
//!
//! Invariant: damage of a snapshot is forgotten only when a validation that read all of it found none, whether it was
//! of that snapshot or of all. One of another snapshot, of a sample or of no content says nothing of it.

use std::collections::{BTreeMap, BTreeSet};

use super::super::validate::record::{ValidationExtent, ValidationRecord};
use crate::id::Stamp;

/// Damage that stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StandingDamage {
    /// The snapshot that it hurts; `None` where it hurts the repository, and no snapshot as far as is known.
    pub stamp: Option<String>,
    /// When it was found last, as the record says.
    pub at: String,
    /// What was found, as far as it was kept.
    pub errors: Vec<String>,
}

/// What stands of the damage that these records tell of, the oldest first; by snapshot.
pub(super) fn standing(records: Vec<ValidationRecord>) -> Vec<StandingDamage> {
    let mut standing: BTreeMap<Option<String>, StandingDamage> = BTreeMap::new();
    for record in records {
        let is_full = record.extent == ValidationExtent::Full;
        if record.stamp.is_none() && is_full {
            // What is not named now was found valid; of packs, only what found nothing at all speaks.
            standing.retain(|stamp, _| stamp.is_none() && !record.ok);
        }
        let invalid = invalid(&record);
        match (&record.stamp, record.ok) {
            (Some(_), true) if is_full => drop(standing.remove(&record.stamp)),
            (_, true) => {}
            (None, false) if !invalid.is_empty() => {
                for name in &invalid {
                    standing.insert(Some(name.clone()), of_one(&record, name));
                }
                let is_of_one = |error: &String| invalid.iter().any(|name| of_snapshot(error, name).is_some());
                let errors: Vec<String> = record.errors.iter().filter(|error| !is_of_one(error)).cloned().collect();
                if !errors.is_empty() {
                    standing.insert(None, StandingDamage { stamp: None, at: record.at.clone(), errors });
                }
            }
            (stamp, false) => {
                let ValidationRecord { at, errors, .. } = &record;
                let found = StandingDamage { stamp: stamp.clone(), at: at.clone(), errors: errors.clone() };
                standing.insert(stamp.clone(), found);
            }
        }
    }
    standing.into_values().collect()
}

/// The snapshots that a validation of all found not valid; of a record that does not name them, those of its errors.
fn invalid(record: &ValidationRecord) -> Vec<String> {
    match record.invalid.as_slice() {
        [] => {
            record.errors.iter().filter_map(|error| snapshot_of(error)).collect::<BTreeSet<_>>().into_iter().collect()
        }
        named => named.to_vec(),
    }
}

/// The snapshot that an error of a validation of all begins with.
fn snapshot_of(error: &str) -> Option<String> {
    let (name, _) = error.split_once(": ")?;
    name.parse::<Stamp>().ok().map(|_| name.to_owned())
}

/// What an error of a validation of all says of this snapshot.
fn of_snapshot<'e>(error: &'e str, name: &str) -> Option<&'e str> {
    error.strip_prefix(name)?.strip_prefix(": ")
}

/// What a validation of all snapshots found wrong with one.
fn of_one(record: &ValidationRecord, name: &str) -> StandingDamage {
    let of_it = |error: &String| of_snapshot(error, name).map(str::to_owned);
    let mut errors: Vec<String> = record.errors.iter().filter_map(of_it).collect();
    if errors.is_empty() {
        errors.push("it is not valid".into());
    }
    StandingDamage { stamp: Some(name.into()), at: record.at.clone(), errors }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(stamp: Option<&str>, extent: ValidationExtent, invalid: &[&str]) -> ValidationRecord {
        let invalid: Vec<String> = invalid.iter().map(|name| (*name).to_owned()).collect();
        let errors: Vec<String> = invalid.iter().take(1).map(|name| format!("{name}: chunk_missing")).collect();
        let (stamp, ok) = (stamp.map(str::to_owned), invalid.is_empty());
        let invalid = if stamp.is_some() { Vec::new() } else { invalid };
        ValidationRecord { at: String::new(), stamp, extent, ok, errors, invalid, duration_s: 0.0 }
    }

    #[test]
    fn damage_stands_until_somebody_has_read_the_same_again() {
        use ValidationExtent::{Full, Quick, Sample};
        let found = [record(Some("a"), Full, &["a"]), record(None, Sample, &["b", "c"])];
        let after = |later: &[ValidationRecord]| -> Vec<String> {
            let standing = standing(found.iter().chain(later).cloned().collect());
            standing.into_iter().map(|damage| damage.stamp.unwrap_or_else(|| "all".into())).collect()
        };
        assert_eq!(after(&[]), ["a", "b", "c"]);
        assert_eq!(after(&[record(Some("d"), Full, &[]), record(Some("a"), Quick, &[])]), ["a", "b", "c"]);
        assert_eq!(after(&[record(None, Quick, &[]), record(None, Sample, &[])]), ["a", "b", "c"]);
        assert_eq!(after(&[record(Some("a"), Full, &[]), record(Some("c"), Full, &[])]), ["b"]);
        assert_eq!(after(&[record(None, Full, &["c", "d"])]), ["c", "d"], "the others were found valid");
        assert_eq!(after(&[record(None, Quick, &["d"])]), ["a", "b", "c", "d"]);
        assert_eq!(after(&[record(None, Full, &[])]).len(), 0);
        // Damage of packs that hurts no snapshot.
        let of_a_pack = ValidationRecord { ok: false, ..record(None, Full, &[]) };
        assert_eq!(after(std::slice::from_ref(&of_a_pack)), ["all"]);
        assert_eq!(after(&[of_a_pack, record(None, Full, &[])]).len(), 0);
    }

    #[test]
    fn damage_of_packs_stands_beside_that_of_snapshots_and_old_records_name_these_in_their_errors() {
        let errors = ["20260101T000000Z: chunk_missing", "packs/ab/x: the pack is damaged"].map(str::to_owned).to_vec();
        let record = ValidationRecord { errors, ok: false, ..record(None, ValidationExtent::Full, &[]) };
        let stamps: Vec<_> = standing(vec![record]).into_iter().map(|damage| damage.stamp).collect();
        assert_eq!(stamps, [None, Some("20260101T000000Z".to_owned())]);
    }

    #[test]
    fn each_snapshot_has_its_own_errors() {
        let standing = standing(vec![record(None, ValidationExtent::Full, &["a", "b"])]);
        let errors: Vec<&str> = standing.iter().map(|damage| damage.errors[0].as_str()).collect();
        assert_eq!(errors, ["chunk_missing", "it is not valid"]);
    }
}
