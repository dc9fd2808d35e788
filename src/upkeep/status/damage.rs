//! Damage that validations found and that no later one has disproved.
//!
//! Invariant: damage of a snapshot is forgotten only when a validation that read all of it found none, whether it was
//! of that snapshot or of all. One of another snapshot, of a sample or of no content says nothing of it.

use std::collections::BTreeMap;

use super::super::validate::record::{ValidationExtent, ValidationRecord};

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
            // What is not named now was found valid.
            standing.clear();
        }
        match (&record.stamp, record.ok) {
            (Some(_), true) if is_full => drop(standing.remove(&record.stamp)),
            (_, true) => {}
            (None, false) if !record.invalid.is_empty() => {
                for name in &record.invalid {
                    standing.insert(Some(name.clone()), of_one(&record, name));
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

/// What a validation of all snapshots found wrong with one.
fn of_one(record: &ValidationRecord, name: &str) -> StandingDamage {
    let of_it = |error: &String| Some(error.strip_prefix(name)?.strip_prefix(": ")?.to_owned());
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
    fn each_snapshot_has_its_own_errors() {
        let standing = standing(vec![record(None, ValidationExtent::Full, &["a", "b"])]);
        let errors: Vec<&str> = standing.iter().map(|damage| damage.errors[0].as_str()).collect();
        assert_eq!(errors, ["chunk_missing", "it is not valid"]);
    }
}
