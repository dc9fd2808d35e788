//! What the database and the files of each segment say of one another.
//!
//! Invariant: a suspicion is something that cannot be in a sound store; what cannot be known (an unknown layout, a
//! database that cannot be asked) raises none, since a false alarm would keep a good snapshot from being restored.

use std::collections::BTreeMap;
use std::path::Path;

use super::records::Records;
use super::segment::SegmentFiles;
use super::suspicion::{self, Suspicion};
use crate::format::manifest::Consistency;

/// Judges a captured store by its records and the files of its segments.
pub(super) fn judge(root: &Path, records: &Records, files: &BTreeMap<String, SegmentFiles>) -> Consistency {
    let mut suspicions = Vec::new();
    for (id, record) in records {
        let elements = match files.get(id) {
            Some(SegmentFiles::Begun { .. }) if record.watermark.is_none() => 0,
            Some(
                SegmentFiles::Index { elements, suspicions: found }
                | SegmentFiles::Begun { elements, suspicions: found },
            ) => {
                suspicions.extend(found.iter().cloned());
                *elements
            }
            Some(SegmentFiles::None) | None => 0,
            Some(SegmentFiles::UnknownLayout) => {
                tracing::debug!(segment = id, "the HNSW files are of a layout that cannot be checked");
                continue;
            }
        };
        let vectors = record.lost_vectors(elements);
        if vectors > 0 {
            suspicions.push(Suspicion::BehindQueue { segment: id.clone(), vectors });
        }
    }
    for suspicion in &suspicions {
        tracing::warn!(path = %root.display(), "the vector store looks inconsistent: {suspicion}");
    }
    suspicion::consistency(suspicions)
}
