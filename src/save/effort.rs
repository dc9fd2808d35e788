//! How much time is spent to store less.
//!
//! Invariant: a level changes only how contents are recorded, never what is captured, and every reader reads them all.

use crate::chunk::compress::Thoroughness;
use crate::store::MetadataRecords;

/// How much time is spent to store less.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Effort {
    /// None: what changed is stored whole.
    None,
    /// Only what changed in place is found.
    Fast,
    /// Content that moved is looked for in what changed, and elsewhere where probes find that it pays.
    #[default]
    Normal,
    /// Content that moved is looked for in all of the previous version.
    Max,
}

impl Effort {
    /// How tables and list nodes are stored.
    pub(super) fn metadata(self) -> MetadataRecords {
        if self == Self::None { MetadataRecords::Whole } else { MetadataRecords::Deltas }
    }

    /// How hard what changed is compressed.
    pub(super) fn thoroughness(self) -> Thoroughness {
        if self == Self::Max { Thoroughness::Utmost } else { Thoroughness::Thorough }
    }
}
