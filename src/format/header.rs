//! What every file of a repository says of the repository: format-spec.md §5.
//!
//! `repository.json` is the readable one; the same facts open each pack and each manifest, so that a file that strayed
//! into another repository is noticed, and the repository can be read when `repository.json` is lost.
//! Invariant: a feature that this build does not know stops it from reading on.

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

use super::Malformed;
use super::limits::{CHUNK_SIZE, FORMAT_VERSION};
use crate::id::RepositoryId;

/// Features that a reader must know; version 1 defines none.
const KNOWN_FEATURES: &[&str] = &[];

/// The facts repeated in every pack and manifest.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct RepositoryHeader {
    /// Which repository the file belongs to.
    pub repository: RepositoryId,
    /// Bytes of a chunk; 65,536 in version 1.
    pub chunk_size: u32,
    /// Features that a reader must know or refuse, ascending.
    pub features: Vec<String>,
}

impl RepositoryHeader {
    /// The header of a new repository of version 1.
    pub fn new(repository: RepositoryId) -> Self {
        Self { repository, chunk_size: CHUNK_SIZE as u32, features: Vec::new() }
    }

    /// Refuses what this build cannot read.
    ///
    /// # Errors
    /// [`Malformed::Feature`] or [`Malformed::Invalid`].
    pub fn check(&self) -> Result<(), Malformed> {
        if let Some(unknown) = self.features.iter().find(|feature| !KNOWN_FEATURES.contains(&feature.as_str())) {
            return Err(Malformed::Feature(unknown.clone()));
        }
        if self.chunk_size as usize != CHUNK_SIZE {
            return Err(Malformed::invalid(format!("its chunk size is {} bytes, not {CHUNK_SIZE}", self.chunk_size)));
        }
        Ok(())
    }
}

/// The content of `repository.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepositoryDocument {
    /// Always `vecsnap`.
    pub format: String,
    /// The format version.
    pub format_version: u32,
    /// The repository's id in hexadecimal.
    pub repository_id: String,
    /// How files are cut.
    pub chunking: Chunking,
    /// Features that a reader must know or refuse.
    pub features: Vec<String>,
    /// When the repository was made, RFC 3339, UTC; information only.
    #[serde(default)]
    pub created_at: String,
}

/// How files are cut into chunks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunking {
    /// Always `fixed`.
    pub kind: String,
    /// Bytes of a chunk.
    pub size: u32,
}

impl RepositoryDocument {
    /// The document of a repository with this header.
    pub fn new(header: &RepositoryHeader, created_at: String) -> Self {
        Self {
            format: "vecsnap".into(),
            format_version: FORMAT_VERSION.into(),
            repository_id: header.repository.to_string(),
            chunking: Chunking { kind: "fixed".into(), size: header.chunk_size },
            features: header.features.clone(),
            created_at,
        }
    }

    /// Reads the document, refusing what this build cannot read.
    ///
    /// # Errors
    /// [`Malformed`], with its own answer for a foreign version and for an unknown feature.
    pub fn parse(bytes: &[u8]) -> Result<RepositoryHeader, Malformed> {
        let value: serde_json::Value =
            serde_json::from_slice(bytes).map_err(|error| Malformed::invalid(format!("it is not JSON ({error})")))?;
        if value.get("format").and_then(|format| format.as_str()) != Some("vecsnap") {
            return Err(Malformed::Magic);
        }
        match value.get("format_version").and_then(serde_json::Value::as_u64) {
            Some(version) if version == u64::from(FORMAT_VERSION) => {}
            Some(version) => return Err(Malformed::Version(u32::try_from(version).unwrap_or(u32::MAX))),
            None => return Err(Malformed::invalid("it names no format version")),
        }
        let document: Self = serde_json::from_value(value)
            .map_err(|error| Malformed::invalid(format!("it is not a repository document ({error})")))?;
        let repository = document
            .repository_id
            .parse()
            .map_err(|_| Malformed::invalid("its repository id is not 32 hexadecimal digits"))?;
        if document.chunking.kind != "fixed" {
            return Err(Malformed::invalid(format!("its chunking '{}' is unknown", document.chunking.kind)));
        }
        let header = RepositoryHeader { repository, chunk_size: document.chunking.size, features: document.features };
        header.check()?;
        Ok(header)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document() -> RepositoryDocument {
        RepositoryDocument::new(&RepositoryHeader::new(RepositoryId::from_bytes([7; 16])), String::new())
    }

    fn parse(document: &RepositoryDocument) -> Result<RepositoryHeader, Malformed> {
        RepositoryDocument::parse(&serde_json::to_vec(document).unwrap())
    }

    #[test]
    fn reads_what_it_writes() {
        assert_eq!(parse(&document()).unwrap().repository, RepositoryId::from_bytes([7; 16]));
    }

    #[test]
    fn refuses_foreign_versions_features_and_chunkings() {
        assert_eq!(parse(&RepositoryDocument { format_version: 2, ..document() }), Err(Malformed::Version(2)));
        let features = vec!["keyed-ids".to_owned()];
        assert_eq!(parse(&RepositoryDocument { features, ..document() }), Err(Malformed::Feature("keyed-ids".into())));
        let chunking = Chunking { kind: "fixed".into(), size: 4096 };
        assert!(parse(&RepositoryDocument { chunking, ..document() }).is_err());
        assert_eq!(RepositoryDocument::parse(b"{}"), Err(Malformed::Magic));
        assert!(RepositoryDocument::parse(b"").is_err());
    }
}
