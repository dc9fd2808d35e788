//! Footers of packs, kept decoded while there is room.
//!
//! The chains of a snapshot lead through the packs of many snapshots before it, again and again, so all readers of a
//! repository share what was decoded. Invariants: the bytes kept are bounded; a footer is a fact about an immutable
//! file, so one that is kept stays true; one that cannot be read is not remembered.

use std::sync::Arc;

use parking_lot::Mutex;

use super::byte_cache::ByteCache;
use super::packs::{self, PackFile};
use crate::disk::Storage;
use crate::error::Result;
use crate::format::header::RepositoryHeader;
use crate::format::pack::{Encoding, Footer, Record};
use crate::id::{BlobPrefix, PackId};

/// Bytes kept at most, one footer at least.
const MOST_BYTES: usize = 16 * 1024 * 1024;
/// What allocating a record's bases takes besides them.
const ALLOCATION: usize = 16;

/// The footers of one repository.
#[derive(Debug)]
pub(super) struct Footers {
    kept: Mutex<ByteCache<PackId, Arc<Footer>>>,
}

impl Footers {
    /// None yet.
    pub(super) fn new() -> Self {
        Self { kept: Mutex::new(ByteCache::new(MOST_BYTES)) }
    }

    /// The footer of a pack.
    ///
    /// # Errors
    /// Those of [`packs::read_footer`].
    pub(super) fn get(&self, storage: &dyn Storage, header: &RepositoryHeader, pack: &PackFile) -> Result<Arc<Footer>> {
        if let Some(footer) = self.kept.lock().get(&pack.id) {
            return Ok(Arc::clone(footer));
        }
        let footer = Arc::new(packs::read_footer(storage, header, pack)?);
        self.kept.lock().put(pack.id, Arc::clone(&footer), bytes_of(&footer));
        Ok(footer)
    }

    /// Forgets all: what was read may be a pack's that was damaged since.
    pub(super) fn forget(&self) {
        self.kept.lock().clear();
    }
}

/// Bytes of memory that a footer takes, about.
fn bytes_of(footer: &Footer) -> usize {
    let of_bases = |record: &Record| match &record.encoding {
        Encoding::Whole => 0,
        Encoding::Delta { bases, .. } => bases.len() * size_of::<BlobPrefix>() + ALLOCATION,
    };
    footer.records.len() * size_of::<Record>() + footer.records.iter().map(of_bases).sum::<usize>()
}
