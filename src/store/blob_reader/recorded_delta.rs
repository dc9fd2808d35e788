//! A delta record as it stands in its pack, for those who store it once more.
//!
//! Invariant: nothing here is verified. Who copies a record or makes another one of it applies it and hashes the
//! result.

use std::sync::Arc;

use super::search::Search;
use super::{BlobReader, Resolved, tolerable};
use crate::error::Result;
use crate::format::pack::{BaseDistance, Encoding};
use crate::id::BlobId;
use crate::store::index::RecordPlace;

/// A delta record with the blobs that its base prefixes name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedDelta {
    /// What [`crate::format::delta::apply`] makes the blob of.
    pub payload: Vec<u8>,
    /// The bases by number, the id table not counted.
    pub bases: Vec<BlobId>,
    /// How far back the first base is.
    pub distance: BaseDistance,
}

impl BlobReader<'_> {
    /// The bytes of a blob of either kind, as a base may be; `None` if it cannot be had.
    ///
    /// # Errors
    /// I/O errors of the index.
    pub fn base(&mut self, id: &BlobId) -> Result<Option<Arc<[u8]>>> {
        Ok(match self.resolve(id, None, &mut Search::default())? {
            Resolved::Blob(bytes) => Some(bytes),
            Resolved::Nowhere | Resolved::InVain => None,
        })
    }

    /// The delta record of a blob at this place. `None` if it is no delta, if it cannot be read, or if one of its
    /// prefixes names several blobs or none.
    ///
    /// # Errors
    /// I/O errors of the index.
    pub fn recorded_delta(&mut self, id: &BlobId, place: &RecordPlace) -> Result<Option<RecordedDelta>> {
        let found = match self.find(place, id) {
            Ok(Some(found)) => found,
            Ok(None) => return Ok(None),
            Err(error) => return tolerable(error).map(|_| None),
        };
        let Encoding::Delta { bases: prefixes, distance, .. } = &found.record.encoding else { return Ok(None) };
        let mut bases = Vec::with_capacity(prefixes.len());
        for prefix in prefixes {
            match self.repository.index().with_prefix(prefix, 2)?.as_slice() {
                [base] => bases.push(*base),
                _ => return Ok(None),
            }
        }
        match self.payload(&found) {
            Ok(payload) => Ok(Some(RecordedDelta { payload, bases, distance: *distance })),
            Err(error) => tolerable(error).map(|_| None),
        }
    }
}
