//! Footers of packs, kept decoded while there is room.
//!
//! The chains of a snapshot lead through the packs of many snapshots before it, again and again, so all readers of a
//! repository share what was decoded. Invariants: the bytes kept are bounded; a footer is a fact about an immutable
//! file, so one that is kept stays true; one that cannot be read is not remembered.

use std::sync::Arc;

use lru::LruCache;
use parking_lot::Mutex;

use super::packs::{self, PackFile};
use crate::disk::Storage;
use crate::error::Result;
use crate::format::header::RepositoryHeader;
use crate::format::pack::{Encoding, Footer, Record};
use crate::id::{BlobPrefix, PackId};

/// Most bytes kept, one footer at least.
const MOST_BYTES: usize = 16 * 1024 * 1024;
/// What allocating a record's bases takes besides them.
const ALLOCATION: usize = 16;

/// The footers of one repository.
#[derive(Debug)]
pub(super) struct Footers {
    kept: Mutex<Kept>,
}

#[derive(Debug)]
struct Kept {
    footers: LruCache<PackId, Arc<Footer>>,
    bytes: usize,
}

impl Footers {
    /// None yet.
    pub(super) fn new() -> Self {
        Self { kept: Mutex::new(Kept { footers: LruCache::unbounded(), bytes: 0 }) }
    }

    /// The footer of a pack.
    ///
    /// # Errors
    /// Those of [`packs::read_footer`].
    pub(super) fn get(&self, storage: &dyn Storage, header: &RepositoryHeader, pack: &PackFile) -> Result<Arc<Footer>> {
        if let Some(footer) = self.kept.lock().footers.get(&pack.id) {
            return Ok(Arc::clone(footer));
        }
        let footer = Arc::new(packs::read_footer(storage, header, pack)?);
        self.kept.lock().keep(pack.id, &footer);
        Ok(footer)
    }

    /// Forgets all: what was read may be a pack's that was damaged since.
    pub(super) fn forget(&self) {
        let mut kept = self.kept.lock();
        kept.footers.clear();
        kept.bytes = 0;
    }
}

impl Kept {
    fn keep(&mut self, pack: PackId, footer: &Arc<Footer>) {
        self.bytes += bytes_of(footer);
        if let Some(twice) = self.footers.put(pack, Arc::clone(footer)) {
            self.bytes -= bytes_of(&twice);
        }
        while self.bytes > MOST_BYTES && self.footers.len() > 1 {
            let Some((_, old)) = self.footers.pop_lru() else { break };
            self.bytes -= bytes_of(&old);
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::pack::BlobKind;
    use crate::id::BlobId;

    fn footer(records: usize) -> Arc<Footer> {
        let encoding = Encoding::Whole;
        let id = BlobId::of_chunk(b"");
        let record = Record { id, kind: BlobKind::Chunk, length: 1, frame: 0, offset: 0, payload_length: 1, encoding };
        Arc::new(Footer { frames: Vec::new(), records: vec![record; records] })
    }

    #[test]
    fn the_bytes_kept_are_bounded_and_the_last_footer_always_is() {
        let footers = Footers::new();
        let mut kept = footers.kept.lock();
        let pack = |number: u8| PackId::from_bytes([number; 32]);
        let one = footer(40_000);
        let most = MOST_BYTES / bytes_of(&one);
        for number in 0..20 {
            kept.keep(pack(number), &one);
            assert!(kept.bytes <= MOST_BYTES && kept.bytes == kept.footers.len() * bytes_of(&one));
        }
        assert_eq!(kept.footers.len(), most);
        assert!(kept.footers.contains(&pack(19)) && !kept.footers.contains(&pack(0)));
        kept.keep(pack(19), &one);
        assert_eq!(kept.bytes, most * bytes_of(&one), "kept twice, it counts once");
        kept.keep(pack(99), &footer(400_000));
        assert_eq!(kept.footers.len(), 1);
        drop(kept);
        footers.forget();
        assert_eq!(footers.kept.lock().bytes, 0);
    }
}
