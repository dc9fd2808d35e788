//! What a verification found, in the words that scripts know.
//!
//! Invariant: the text of a finding begins with its code, and the codes are those of the tool that vecsnap replaced
//! (`db_integrity_check_failed: …`) and, for what that tool could not see, of the same form (`chunk_missing: …`).

use std::fmt;

use crate::format::table::Entry;

/// A place in a snapshot: a run of bytes of one of its files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileRange {
    /// The file: source, `/`, path in the source; printable.
    pub file: String,
    /// Where the run begins, in bytes.
    pub offset: u64,
    /// Its bytes.
    pub length: u64,
}

impl fmt::Display for FileRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at byte {} ({} bytes)", self.file, self.offset, self.length)
    }
}

/// The printable name of a file of a source.
pub fn file_name(source: &str, entry: &Entry) -> String {
    format!("{source}/{}", String::from_utf8_lossy(&entry.path).escape_debug())
}

/// What is wrong with a source of a snapshot, or may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// The snapshot should hold the source and does not.
    SnapshotMissing {
        /// The source.
        source: String,
    },
    /// `PRAGMA integrity_check` found damage in the image of a database source.
    IntegrityCheckFailed {
        /// What it found.
        detail: String,
    },
    /// The image of a database source does not open as a database.
    OpenFailed {
        /// Why.
        detail: String,
    },
    /// The integrity check could not run: a doubt, not damage.
    IntegrityUnknown {
        /// Why; names the file if it is one of a tree.
        detail: String,
    },
    /// The registry is not JSON.
    RegistryInvalidJson {
        /// Why.
        detail: String,
    },
    /// Bytes of a file are in no pack.
    ChunkMissing {
        /// Which bytes.
        range: FileRange,
        /// What else is lost with them; may be empty.
        detail: String,
    },
    /// Bytes of a file cannot be read from the packs that hold them.
    ChunkCorrupt {
        /// Which bytes.
        range: FileRange,
        /// Why.
        detail: String,
    },
    /// More missing or corrupt places than are listed.
    MoreChunks {
        /// How many more.
        places: u64,
    },
    /// The capture itself found a reason for doubt: files that do not go with one another.
    Suspect {
        /// The source.
        source: String,
        /// The reason, which begins with a code.
        reason: String,
    },
    /// A tree holds a damaged database, or a source was captured as raw bytes.
    Inconsistent {
        /// The source.
        source: String,
        /// Why.
        detail: String,
    },
}

impl Finding {
    /// The bytes that it is about, if it names lost ones.
    pub fn lost_range(&self) -> Option<&FileRange> {
        match self {
            Self::ChunkMissing { range, .. } | Self::ChunkCorrupt { range, .. } => Some(range),
            _ => None,
        }
    }

    /// Whether it leaves the snapshot valid.
    pub fn is_warning(&self) -> bool {
        matches!(self, Self::IntegrityUnknown { .. })
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SnapshotMissing { source } => write!(f, "{source}_snapshot_missing"),
            Self::IntegrityCheckFailed { detail } => write!(f, "db_integrity_check_failed: {detail}"),
            Self::OpenFailed { detail } => write!(f, "db_open_failed: {detail}"),
            Self::IntegrityUnknown { detail } => write!(f, "db_integrity_unknown: {detail}"),
            Self::RegistryInvalidJson { detail } => write!(f, "registry_invalid_json: {detail}"),
            Self::ChunkMissing { range, detail } if detail.is_empty() => write!(f, "chunk_missing: {range}"),
            Self::ChunkMissing { range, detail } => write!(f, "chunk_missing: {range}: {detail}"),
            Self::ChunkCorrupt { range, detail } => write!(f, "chunk_corrupt: {range}: {detail}"),
            Self::MoreChunks { places } => write!(f, "chunk_corrupt: {places} more places are missing or corrupt"),
            Self::Suspect { source, reason } => write!(f, "{source}_inconsistent: {reason}"),
            Self::Inconsistent { source, detail } => write!(f, "{source}_inconsistent: {detail}"),
        }
    }
}
