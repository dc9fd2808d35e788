//! Damage that validations found and that no later one has disproved.
//!
//! Invariant: damage is forgotten only when a validation that read everything of the same snapshot, or of all, found
//! none. One of another snapshot, of a sample or of no content says nothing of it.

use super::super::validate::record::{ValidationExtent, ValidationRecord};

/// Those of the records, the oldest first, that found damage which stands; for each snapshot, and for all, the newest.
pub(super) fn standing(records: Vec<ValidationRecord>) -> Vec<ValidationRecord> {
    let mut standing: Vec<ValidationRecord> = Vec::new();
    for record in records {
        if !record.ok {
            standing.retain(|earlier| earlier.stamp != record.stamp);
            standing.push(record);
        } else if record.extent == ValidationExtent::Full {
            standing.retain(|earlier| record.stamp.is_some() && earlier.stamp != record.stamp);
        }
    }
    standing
}

/// Whether a validation found damage in this snapshot.
pub(super) fn is_of(record: &ValidationRecord, name: &str) -> bool {
    match &record.stamp {
        Some(stamp) => stamp == name,
        None => record.errors.iter().any(|error| error.strip_prefix(name).is_some_and(|rest| rest.starts_with(':'))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(stamp: Option<&str>, extent: ValidationExtent, ok: bool) -> ValidationRecord {
        let errors = if ok { Vec::new() } else { vec!["a: chunk_missing".into()] };
        ValidationRecord { at: String::new(), stamp: stamp.map(str::to_owned), extent, ok, errors, duration_s: 0.0 }
    }

    #[test]
    fn damage_stands_until_somebody_has_read_the_same_again() {
        use ValidationExtent::{Full, Quick, Sample};
        let of_a = record(Some("a"), Full, false);
        let of_all = record(None, Sample, false);
        let after = |later: &[ValidationRecord]| {
            standing([of_a.clone(), of_all.clone()].into_iter().chain(later.iter().cloned()).collect())
        };
        let both = [of_a.clone(), of_all.clone()];
        assert_eq!(after(&[]), both);
        assert_eq!(after(&[record(Some("b"), Full, true), record(Some("a"), Quick, true)]), both);
        assert_eq!(after(&[record(None, Quick, true), record(None, Sample, true)]), both);
        assert_eq!(after(&[record(Some("a"), Full, true)]), both[1..]);
        assert_eq!(after(&[record(None, Full, true)]), []);
        let again = record(Some("a"), Quick, false);
        assert_eq!(after(std::slice::from_ref(&again)), [of_all.clone(), again]);
        assert!(is_of(&of_a, "a") && !is_of(&of_a, "b") && is_of(&of_all, "a") && !is_of(&of_all, "b"));
    }
}
