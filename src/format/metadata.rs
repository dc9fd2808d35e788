//! `backup-metadata.json`: a snapshot's description, readable without the tool: format-spec.md §13.
//!
//! Invariant: the fields of the tool that vecsnap replaced come first and in its order, since scripts read them; the
//! paths name places in the snapshot and never locate data. The manifest, not this file, is what a reader trusts.

use serde::{Deserialize, Serialize};

/// The value of `format` that tells a snapshot of this tool from an old full copy.
pub const FORMAT_NAME: &str = "vecsnap";

/// The content of `backup-metadata.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotMetadata {
    /// When the create began: `2026-04-06T18:00:00.123456+00:00`.
    pub created_at: String,
    /// Absolute path of the snapshot's directory; its last component is the stamp.
    pub backup_root: String,
    /// `<backup_root>/db/<database name>`, or empty.
    pub db_snapshot_path: String,
    /// Bytes of the database image.
    pub db_size_bytes: u64,
    /// `<backup_root>/config/<registry name>`, or empty.
    pub registry_snapshot_path: String,
    /// `<backup_root>/chroma`, or empty.
    pub chroma_snapshot_path: String,
    /// Bytes of the captured tree.
    pub chroma_snapshot_bytes: u64,
    /// Files of the captured tree, without SQLite sidecars.
    pub chroma_snapshot_files: u64,
    /// Whether the tree was asked for.
    pub chroma_snapshot_included: bool,
    /// What a person should know of the vector store in this snapshot.
    pub vector_store_note: String,
    /// The snapshot's name.
    pub stamp: String,
    /// Always [`FORMAT_NAME`].
    pub format: String,
    /// The format version of the repository.
    pub format_version: u32,
    /// `ordinary` or `pre-restore`.
    pub kind: String,
    /// `proven`, `suspect` or `unproven`; none where the tree was not captured.
    #[serde(default)]
    pub chroma_consistency: Option<String>,
    /// Whether the create found nothing wrong with it; none where that is not told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validated: Option<bool>,
    /// What the create found wrong, in the words of `validate`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation_errors: Option<Vec<String>>,
}

/// Whether a parsed `backup-metadata.json` was written by vecsnap and not by the tool that it replaced.
pub fn is_vecsnap(metadata: &serde_json::Value) -> bool {
    metadata.get("format").and_then(serde_json::Value::as_str) == Some(FORMAT_NAME)
}
