//! `vecsnap list`: every snapshot there is, newest last.
//!
//! It reads directories and descriptions alone: no lock, no index, nothing written, so it works wherever the repository
//! can be read.

use std::path::Path;

use chrono::{DateTime, Utc};
use comfy_table::{ContentArrangement, Table, presets};
use indicatif::BinaryBytes;
use serde_json::{Map, Value, json};

use super::exit::Exit;
use super::output::{self, Form};
use super::session::Session;
use super::text;
use crate::disk::LocalStorage;
use crate::error::Result;
use crate::format::manifest::{CHROMA, DB, REGISTRY};
use crate::store::snapshots::{self, MetadataState};
use crate::store::{SnapshotFormat, SnapshotListing};

/// Lists the snapshots.
///
/// # Errors
/// When they cannot be read.
pub fn run(session: &Session<'_>) -> Result<Exit> {
    let root = session.repository()?;
    let listings = snapshots::list(&LocalStorage::new(&root, None))?;
    match session.form(Exit::Done) {
        Form::Text => output::print_bytes(whole_text(&root, &listings, Utc::now()).as_bytes())?,
        Form::Json | Form::Nothing => session.print(&document(&listings), Exit::Done)?,
    }
    Ok(Exit::Done)
}

/// The result document: the reference's fields first and in its order.
pub fn document(listings: &[SnapshotListing]) -> Value {
    json!({ "backups": listings.iter().map(entry).collect::<Vec<_>>() })
}

fn entry(listing: &SnapshotListing) -> Value {
    let mut entry = Map::new();
    let mut field = |name: &str, value: Value| entry.insert(name.into(), value);
    field("stamp", json!(listing.name));
    field("path", json!(listing.path.display().to_string()));
    field("has_metadata", json!(listing.metadata != MetadataState::Missing));
    match &listing.metadata {
        MetadataState::Missing => {}
        MetadataState::Parsed(metadata) => {
            field("metadata", metadata.clone());
        }
        MetadataState::Invalid(_) => {
            field("metadata", Value::Null);
            field("metadata_error", json!("invalid_json"));
        }
    }
    field("format", json!(format_name(listing.format)));
    Value::Object(entry)
}

/// The format as scripts know it.
pub(super) fn format_name(format: SnapshotFormat) -> &'static str {
    match format {
        SnapshotFormat::Vecsnap => "vecsnap",
        SnapshotFormat::FullCopy => "full-copy",
        SnapshotFormat::Unknown => "unknown",
    }
}

/// Every field of every snapshot, then, where the eye ends up, a table of them all.
fn whole_text(root: &Path, listings: &[SnapshotListing], now: DateTime<Utc>) -> String {
    let overview = overview(root, listings, now);
    if listings.is_empty() { overview } else { format!("{}\n{overview}", text::render(&document(listings))) }
}

/// A compact table for a person; `show` has the details of one.
fn overview(root: &Path, listings: &[SnapshotListing], now: DateTime<Utc>) -> String {
    if listings.is_empty() {
        return format!("no snapshots in {}\n", root.display());
    }
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(["stamp", "kind", "age", "size", "holds"]);
    for listing in listings {
        let name = listing.name.chars().flat_map(char::escape_default).collect();
        table.add_row([name, kind(listing), age(listing, now), size(listing), holds(listing)]);
    }
    table.column_iter_mut().for_each(|column| {
        column.set_padding((0, 2));
    });
    let rows = table.lines().map(|line| format!("{}\n", line.trim_end())).collect::<String>();
    format!("snapshots in {}\n{rows}", root.display())
}

fn metadata_field<'a>(listing: &'a SnapshotListing, name: &str) -> Option<&'a Value> {
    match &listing.metadata {
        MetadataState::Parsed(metadata) => metadata.get(name),
        MetadataState::Missing | MetadataState::Invalid(_) => None,
    }
}

fn kind(listing: &SnapshotListing) -> String {
    match metadata_field(listing, "kind").and_then(Value::as_str) {
        Some("pre-restore") => "pre-restore".into(),
        _ if listing.format == SnapshotFormat::Vecsnap => "ordinary".into(),
        _ => format_name(listing.format).into(),
    }
}

fn age(listing: &SnapshotListing, now: DateTime<Utc>) -> String {
    let Some(stamp) = listing.stamp() else { return String::new() };
    let age = now.signed_duration_since(stamp.time());
    match age.num_minutes() {
        ..0 => "in the future".into(),
        minutes @ 0..120 => format!("{minutes} min"),
        minutes @ 120..2880 => format!("{} h", minutes / 60),
        minutes => format!("{} d", minutes / 1440),
    }
}

fn size(listing: &SnapshotListing) -> String {
    let bytes = |name: &str| metadata_field(listing, name).and_then(Value::as_u64);
    match (bytes("db_size_bytes"), bytes("chroma_snapshot_bytes")) {
        (None, None) => String::new(),
        (db, chroma) => BinaryBytes(db.unwrap_or(0).saturating_add(chroma.unwrap_or(0))).to_string(),
    }
}

fn holds(listing: &SnapshotListing) -> String {
    match &listing.metadata {
        MetadataState::Missing => return "no description".into(),
        MetadataState::Invalid(_) => return "a description that is not JSON".into(),
        MetadataState::Parsed(_) => {}
    }
    let held = |path: &str| metadata_field(listing, path).and_then(Value::as_str).is_some_and(|path| !path.is_empty());
    let sources = [(DB, "db_snapshot_path"), (REGISTRY, "registry_snapshot_path"), (CHROMA, "chroma_snapshot_path")];
    let names: Vec<_> = sources.into_iter().filter(|(_, path)| held(path)).map(|(name, _)| name).collect();
    let suspect = metadata_field(listing, "chroma_consistency").and_then(Value::as_str) == Some("suspect");
    names.join(", ") + if suspect { " (suspect)" } else { "" }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn made() -> (tempfile::TempDir, Vec<SnapshotListing>) {
        let root = tempfile::tempdir().unwrap();
        let make = |name: &str, metadata: Option<&str>| {
            let directory = root.path().join("snapshots").join(name);
            fs::create_dir_all(&directory).unwrap();
            if let Some(metadata) = metadata {
                fs::write(directory.join("backup-metadata.json"), metadata).unwrap();
            }
        };
        make("20260407T180000Z", Some(r#"{"format": "vecsnap", "kind": "pre-restore", "db_snapshot_path": "/x"}"#));
        make(
            "20260101T000000Z",
            Some(r#"{"db_size_bytes": 2048, "db_snapshot_path": "/x", "chroma_snapshot_path": "/y"}"#),
        );
        make("by-hand", None);
        make("20260406T180000Z", Some("{"));
        fs::write(root.path().join("snapshots/a-file"), b"").unwrap();
        let listings = snapshots::list(&LocalStorage::new(root.path(), None)).unwrap();
        (root, listings)
    }

    #[test]
    fn every_directory_is_listed_in_the_references_form() {
        let (root, listings) = made();
        let document = document(&listings);
        let backups = document["backups"].as_array().unwrap();
        let stamps: Vec<_> = backups.iter().map(|entry| entry["stamp"].as_str().unwrap()).collect();
        assert_eq!(stamps, ["20260101T000000Z", "20260406T180000Z", "20260407T180000Z", "by-hand"]);
        let keys = |number: usize| backups[number].as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(keys(0), ["stamp", "path", "has_metadata", "metadata", "format"]);
        assert_eq!(keys(1), ["stamp", "path", "has_metadata", "metadata", "metadata_error", "format"]);
        assert_eq!(keys(3), ["stamp", "path", "has_metadata", "format"]);
        assert_eq!((&backups[1]["metadata"], &backups[1]["metadata_error"]), (&Value::Null, &json!("invalid_json")));
        let formats: Vec<_> = backups.iter().map(|entry| entry["format"].as_str().unwrap()).collect();
        assert_eq!(formats, ["full-copy", "unknown", "vecsnap", "unknown"]);
        let path = root.path().join("snapshots/by-hand").display().to_string();
        assert_eq!(backups[3]["path"], json!(path));
    }

    #[test]
    fn a_person_sees_every_field_and_at_the_end_one_line_a_snapshot() {
        let (root, listings) = made();
        let now = "2026-04-08T19:30:00Z".parse().unwrap();
        let whole = whole_text(root.path(), &listings, now);
        assert!(
            ["has_metadata", "metadata_error", "db_size_bytes"].iter().all(|field| whole.contains(field)),
            "{whole}"
        );
        let text = overview(root.path(), &listings, now);
        assert!(whole.ends_with(&text));
        let lines: Vec<Vec<&str>> = text.lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[0], ["stamp", "kind", "age", "size", "holds"]);
        assert_eq!(lines[1], ["20260101T000000Z", "full-copy", "97", "d", "2.00", "KiB", "db,", "chroma"]);
        assert_eq!(lines[3], ["20260407T180000Z", "pre-restore", "25", "h", "db"]);
        assert_eq!(lines.len(), 5);
    }
}
