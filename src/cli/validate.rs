//! `vecsnap validate`: the proof that a snapshot can be restored.

use serde_json::{Map, Value, json};

use super::arguments::ValidateArguments;
use super::exit::Exit;
use super::session::Session;
use super::validate_all;
use crate::error::Result;
use crate::format::manifest::{CHROMA, DB, REGISTRY};
use crate::restore::verify::{Depth, VerifyOptions};
use crate::store::verdicts::Recheck;
use crate::store::{Access, Repository};
use crate::upkeep::impact::HurtSnapshot;
use crate::upkeep::validate::record::{Begun, Validated, ValidationExtent};
use crate::upkeep::validate::{Validation, validate};

/// Validates a snapshot and shows its document.
///
/// # Errors
/// Those of [`validate`]; a snapshot that is not valid is no error but [`Exit::NotValid`].
pub fn run(session: &Session<'_>, arguments: &ValidateArguments) -> Result<Exit> {
    let Some(stamp) = arguments.stamp.as_ref().filter(|_| !arguments.all) else {
        return validate_all::run(session, arguments);
    };
    let root = session.repository()?;
    let repository = Repository::open(&root, Access::Read, session.lock_wait())?;
    let name = match &repository {
        Some(repository) => stamp.resolve(repository.storage())?,
        None => None,
    };
    let name = name.unwrap_or_else(|| stamp.to_string());
    let begun = Begun::now();
    let validation = validate(&root, repository.as_ref(), &name, options(arguments), session.progress)?;
    if let Some(repository) = repository.as_ref().filter(|_| validation.exists) {
        let extent = if arguments.quick { ValidationExtent::Quick } else { ValidationExtent::Full };
        begun.keep(repository, Validated::One(&name), extent, &validation.errors);
    }
    let exit = if validation.is_valid() { Exit::Done } else { Exit::NotValid };
    session.print(&document(&validation), exit)?;
    Ok(exit)
}

/// How thorough the arguments ask to be.
pub(super) fn options(arguments: &ValidateArguments) -> VerifyOptions {
    VerifyOptions {
        depth: if arguments.quick { Depth::Quick } else { Depth::Full },
        recheck: if arguments.recheck { Recheck::Always } else { Recheck::IfUnknown },
    }
}

/// The result document: the reference's fields in its order.
pub(super) fn document(validation: &Validation) -> Value {
    // Where the sources were not looked at, the reference says `false` of the database.
    let db_ok = match validation.sources {
        Some(_) => json!(validation.source_ok(DB)),
        None => json!(false),
    };
    let mut document = Map::new();
    let mut field = |name: &str, value: Value| document.insert(name.into(), value);
    field("stamp", json!(validation.name));
    field("path", json!(validation.path.display().to_string()));
    field("exists", json!(validation.exists));
    field("db_ok", db_ok);
    field("registry_ok", json!(validation.source_ok(REGISTRY)));
    field("chroma_ok", json!(validation.source_ok(CHROMA)));
    field("errors", json!(validation.errors));
    if let Some(metadata) = &validation.metadata {
        field("metadata", metadata.clone());
    }
    field("valid", json!(validation.is_valid()));
    if !validation.also_hurt.is_empty() {
        field("also_hurt", validation.also_hurt.iter().map(hurt).collect());
    }
    Value::Object(document)
}

/// Another snapshot that the same damage hurts.
pub(super) fn hurt(hurt: &HurtSnapshot) -> Value {
    json!({ "stamp": hurt.name, "files": hurt.files, "more_files": hurt.more_files })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_early_end_has_no_metadata_and_is_not_valid() {
        let validation = Validation {
            name: "20260406T180000Z".into(),
            path: "/r/snapshots/20260406T180000Z".into(),
            exists: false,
            sources: None,
            errors: vec!["snapshot_directory_missing".into()],
            also_hurt: Vec::new(),
            metadata: None,
        };
        let expected = r#"{"stamp":"20260406T180000Z","path":"/r/snapshots/20260406T180000Z","exists":false,"db_ok":false,"registry_ok":null,"chroma_ok":null,"errors":["snapshot_directory_missing"],"valid":false}"#;
        assert_eq!(document(&validation).to_string(), expected);
        let ended_later = Validation { exists: true, metadata: Some(json!({})), errors: Vec::new(), ..validation };
        let keys: Vec<_> = document(&ended_later).as_object().unwrap().keys().cloned().collect();
        assert_eq!(keys[6..], ["errors", "metadata", "valid"]);
    }
}
