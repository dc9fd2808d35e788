//! `vecsnap validate --all`: the proof that every snapshot can be restored, or a sample of it.

use serde_json::{Map, Value, json};

use super::arguments::ValidateArguments;
use super::exit::Exit;
use super::session::Session;
use super::validate;
use crate::error::{Error, Result};
use crate::restore::verify::census::Sample;
use crate::store::{Access, Repository};
use crate::upkeep::validate::all::{AllValidation, validate_all};
use crate::upkeep::validate::record::{Begun, Validated, ValidationExtent};

/// Validates all snapshots and shows the document.
///
/// # Errors
/// Those of [`validate_all`]. Snapshots that are not valid are [`Exit::NotValid`], packs that are damaged without
/// hurting any are [`Exit::Damaged`].
pub fn run(session: &Session<'_>, arguments: &ValidateArguments) -> Result<Exit> {
    let root = session.repository()?;
    let sample = match arguments.sample {
        Some(percent) => {
            let seed = arguments.seed.map_or_else(random_seed, Ok)?;
            tracing::info!(seed, "a sample is read; the seed draws it again");
            Some(Sample { share: percent.0 / 100.0, seed })
        }
        None => None,
    };
    let Some(repository) = Repository::open(&root, Access::Read, session.lock_wait())? else {
        session.print(&document_of_nothing(sample), Exit::NotValid)?;
        tracing::error!("there is no repository at {}; check --repo or ATOCORE_BACKUP_DIR", root.display());
        return Ok(Exit::NotValid);
    };
    let begun = Begun::now();
    let found = validate_all(&repository, validate::options(arguments), sample, session.progress)?;
    let subject = Validated::All { invalid: found.invalid() };
    begun.keep(&repository, subject, extent(arguments, sample), &found.errors());
    let exit = exit_of(&found);
    session.print(&document(&found, sample), exit)?;
    Ok(exit)
}

fn exit_of(found: &AllValidation) -> Exit {
    match (found.is_valid(), found.damaged_packs.is_empty()) {
        (false, _) => Exit::NotValid,
        (true, false) => Exit::Damaged,
        (true, true) => Exit::Done,
    }
}

fn extent(arguments: &ValidateArguments, sample: Option<Sample>) -> ValidationExtent {
    match (arguments.quick, sample) {
        (true, _) => ValidationExtent::Quick,
        (false, Some(_)) => ValidationExtent::Sample,
        (false, None) => ValidationExtent::Full,
    }
}

fn random_seed() -> Result<u64> {
    use std::io::Read;
    let mut seed = [0; 4];
    let source = "/dev/urandom";
    std::fs::File::open(source).and_then(|mut file| file.read_exact(&mut seed)).map_err(Error::io("read", source))?;
    // Short enough to be typed, and exact in every JSON reader.
    Ok(u32::from_le_bytes(seed).into())
}

/// The result document: one of `validate` for each snapshot, and totals.
fn document(found: &AllValidation, sample: Option<Sample>) -> Value {
    let mut document = Map::new();
    let mut field = |name: &str, value: Value| document.insert(name.into(), value);
    field("snapshots", found.snapshots.iter().map(validate::document).collect());
    field("valid", json!(found.valid()));
    field("invalid", json!(found.snapshots.len() - found.valid()));
    field("full_copies", json!(found.full_copies));
    field("damaged_packs", json!(found.damaged_packs));
    if let Some(sample) = sample {
        field("sample", json!({ "percent": sample.share * 100.0, "seed": sample.seed }));
        field("also_hurt", found.also_hurt.iter().map(validate::hurt).collect());
    }
    field("read_bytes", json!(found.read_bytes));
    field("all_valid", json!(found.is_valid()));
    Value::Object(document)
}

/// The result document where there is no repository: nothing is proven.
fn document_of_nothing(sample: Option<Sample>) -> Value {
    let mut document = document(&AllValidation::default(), sample);
    if let Some(all_valid) = document.get_mut("all_valid") {
        *all_valid = json!(false);
    }
    document
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_there_is_no_repository_not_all_is_valid() {
        let told = document_of_nothing(None);
        assert_eq!((&told["snapshots"], &told["all_valid"]), (&json!([]), &json!(false)));
    }

    #[test]
    fn damage_that_hurts_no_snapshot_is_told_apart_from_damage_that_does() {
        let mut found = AllValidation::default();
        assert_eq!(exit_of(&found), Exit::Done);
        found.damaged_packs.push("packs/ab/x: the pack is damaged".into());
        assert_eq!(exit_of(&found), Exit::Damaged);
        let hurt = crate::upkeep::impact::HurtSnapshot { name: "s".into(), files: vec!["db/x".into()], more_files: 0 };
        found.also_hurt.push(hurt);
        assert_eq!(exit_of(&found), Exit::NotValid);
        let told = document(&found, Some(Sample { share: 0.05, seed: 7 }));
        assert_eq!(told["sample"], json!({ "percent": 5.0, "seed": 7 }));
        assert_eq!((&told["invalid"], &told["all_valid"]), (&json!(0), &json!(false)));
    }
}
