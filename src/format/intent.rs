//! The intent: the record of a restore under way: format-spec.md §14.
//!
//! It is published before the first write into a target and removed after the last one is durable; while it stands, the
//! targets may be half old and half new, and only the restore that it describes, or its undoing, may go on.

use serde::{Deserialize, Serialize};

use super::Malformed;
use super::limits::FORMAT_VERSION;

/// Where a source is restored to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IntentTarget {
    /// The source's name.
    pub source: String,
    /// The target's absolute path; bytes that are no UTF-8 are kept in `path_hex`.
    pub path: String,
    /// The target's path as hexadecimal bytes.
    pub path_hex: String,
}

/// A restore under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// Always 1.
    pub format_version: u32,
    /// The snapshot being restored.
    pub stamp: String,
    /// The snapshot of the state before, if one was taken.
    pub pre_restore_snapshot: Option<String>,
    /// When the restore began, RFC 3339, UTC.
    pub started_at: String,
    /// The targets, in the order they are written.
    pub targets: Vec<IntentTarget>,
}

impl Intent {
    /// Whether the state before a restore is being put back: then that snapshot is also the way back.
    pub fn is_undo(&self) -> bool {
        self.pre_restore_snapshot.as_deref() == Some(&self.stamp)
    }

    /// The intent in these bytes of JSON.
    ///
    /// # Errors
    /// [`Malformed`] for anything else.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let intent: Self =
            serde_json::from_slice(bytes).map_err(|error| Malformed::invalid(format!("it is no intent ({error})")))?;
        if intent.format_version != u32::from(FORMAT_VERSION) {
            return Err(Malformed::Version(intent.format_version));
        }
        Ok(intent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_back_and_refuses_other_versions() {
        let intent = Intent {
            format_version: 1,
            stamp: "20260406T180000Z".into(),
            pre_restore_snapshot: None,
            started_at: String::new(),
            targets: Vec::new(),
        };
        let bytes = serde_json::to_vec(&intent).unwrap();
        assert_eq!(Intent::parse(&bytes).unwrap(), intent);
        let newer = serde_json::to_vec(&Intent { format_version: 2, ..intent }).unwrap();
        assert_eq!(Intent::parse(&newer), Err(Malformed::Version(2)));
        assert!(Intent::parse(b"").is_err());
    }
}
