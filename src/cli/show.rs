//! `vecsnap show`: everything that is known of one snapshot without reading its content.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use chrono::{DateTime, SecondsFormat};
use serde_json::{Map, Value, json};

use super::arguments::ShowArguments;
use super::create;
use super::exit::Exit;
use super::list::format_name;
use super::session::Session;
use crate::disk::{LocalStorage, Storage};
use crate::error::{Error, Result};
use crate::format::manifest::{Manifest, SnapshotKind, SourceKind, SourceRecord, bytes_of};
use crate::format::table::Time;
use crate::store::SnapshotListing;
use crate::store::snapshots::{self, ManifestFault, MetadataState};

/// Shows a snapshot.
///
/// # Errors
/// [`Error::NotValid`] for a snapshot that does not exist.
pub fn run(session: &Session<'_>, arguments: &ShowArguments) -> Result<Exit> {
    let root = session.repository()?;
    let storage = LocalStorage::new(&root, None);
    let missing = || {
        let (stamp, root) = (&arguments.stamp, root.display());
        Error::NotValid(format!("there is no snapshot {stamp} in {root}; `vecsnap list` shows those there are"))
    };
    let name = arguments.stamp.resolve(&storage)?.ok_or_else(missing)?;
    let listing = snapshots::find(&storage, &name)?.ok_or_else(missing)?;
    session.print(&document(&storage, &listing)?, Exit::Done)?;
    Ok(Exit::Done)
}

fn document(storage: &dyn Storage, listing: &SnapshotListing) -> Result<Value> {
    let mut document = Map::new();
    let mut extend = |fields: Value| document.extend(fields.as_object().cloned().unwrap_or_default());
    let (path, format) = (listing.path.display().to_string(), format_name(listing.format));
    extend(json!({ "stamp": listing.name, "path": path, "format": format }));
    match listing.stamp().map(|stamp| snapshots::peek_manifest(storage, stamp)).transpose()? {
        Some(Ok(manifest)) => extend(described(&manifest)),
        Some(Err(fault)) => extend(json!({ "manifest_error": fault.to_string() })),
        None => extend(json!({ "manifest_error": ManifestFault::Missing.to_string() })),
    }
    match &listing.metadata {
        MetadataState::Missing => {}
        MetadataState::Parsed(metadata) => extend(json!({ "metadata": metadata })),
        MetadataState::Invalid(_) => extend(json!({ "metadata": null, "metadata_error": "invalid_json" })),
    }
    Ok(Value::Object(document))
}

fn described(manifest: &Manifest) -> Value {
    let created = DateTime::from_timestamp_micros(manifest.created_microseconds).unwrap_or_default();
    json!({
        "kind": match manifest.kind {
            SnapshotKind::Ordinary => "ordinary",
            SnapshotKind::PreRestore => "pre-restore",
        },
        "created_at": created.to_rfc3339_opts(SecondsFormat::Micros, false),
        "parent": manifest.parent().map(|parent| parent.to_string()),
        "repository_id": manifest.header.repository.to_string(),
        "program": manifest.program,
        "host": manifest.host,
        "logical_bytes": bytes_of(&manifest.sources),
        "sources": manifest.sources.iter().map(source).collect::<Vec<_>>(),
    })
}

/// What `create` says of a source, and what else its record holds.
pub(super) fn source(source: &SourceRecord) -> Value {
    let mut told = create::source(source).as_object().cloned().unwrap_or_default();
    let more = json!({
        "kind": match source.kind {
            SourceKind::Sqlite => "sqlite",
            SourceKind::File => "file",
            SourceKind::Tree => "tree",
        },
        "path": Path::new(OsStr::from_bytes(&source.path)).display().to_string(),
        "started_at": moment(source.started),
    });
    told.extend(more.as_object().cloned().unwrap_or_default());
    Value::Object(told)
}

fn moment(time: Time) -> Option<String> {
    let time = DateTime::from_timestamp(time.seconds, time.nanoseconds)?;
    Some(time.to_rfc3339_opts(SecondsFormat::Micros, false))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::restore::verify::fixture::{Source, create as create_repository, snapshot};

    const STAMP: &str = "20260406T180000Z";

    #[test]
    fn a_snapshot_is_described_from_manifest_and_metadata() {
        let directory = tempfile::tempdir().unwrap();
        let repository = create_repository(directory.path());
        snapshot(&repository, STAMP, &[Source { name: "registry", files: &[("r.json", b"{}")] }]);
        let storage = LocalStorage::new(directory.path(), None);
        let show = || document(&storage, &snapshots::find(&storage, STAMP).unwrap().unwrap()).unwrap();
        let shown = show();
        assert_eq!(shown["kind"], "ordinary");
        assert_eq!(shown["sources"][0]["name"], "registry");
        assert_eq!(shown["sources"][0]["bytes"], 2);
        assert_eq!(shown["sources"][0]["path"], "/srv/registry");
        assert_eq!(shown["metadata"]["format"], "vecsnap");
        let manifest = directory.path().join("snapshots").join(STAMP).join("manifest");
        std::fs::write(&manifest, b"garbage").unwrap();
        assert!(show()["manifest_error"].as_str().unwrap().starts_with("manifest_corrupt: "));
        std::fs::remove_file(&manifest).unwrap();
        assert_eq!(show()["manifest_error"], "manifest_missing");
    }
}
