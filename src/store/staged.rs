//! Verified blobs and other bytes of one operation, kept in a temporary file instead of in memory.
//!
//! Invariants: nothing is changed once it is written; memory holds only where things are; the file takes at most half
//! of the free space, and one that cannot be written keeps nothing, which costs time only. Whoever takes a blob from it
//! hashes it once more: the file is no safer than any other.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;

use crate::disk::space;
use crate::format::pack::BlobKind;
use crate::id::BlobId;

/// Bytes in the file beyond which only what is costly to make again is added: writing ever more of it to a disk costs
/// more than decoding a frame twice.
const SPARE_BYTES: u64 = 256 * 1024 * 1024;

/// Where bytes lie in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    offset: u64,
    /// Bytes.
    pub length: u32,
}

impl Span {
    /// A part of it.
    pub(super) fn part(&self, start: u32, length: u32) -> Option<Self> {
        let inside = start.checked_add(length).is_some_and(|end| end <= self.length);
        inside.then_some(Self { offset: self.offset + u64::from(start), length })
    }
}

/// The temporary file.
#[derive(Debug)]
pub struct StagedBlobs {
    directory: PathBuf,
    file: OnceLock<Option<StagingFile>>,
    used: AtomicU64,
    blobs: RwLock<HashMap<BlobId, Span>>,
}

#[derive(Debug)]
struct StagingFile {
    file: File,
    /// Most bytes that it may take.
    limit: u64,
}

impl StagedBlobs {
    /// An empty one; the file is made in `directory` when it is needed.
    pub fn new(directory: PathBuf) -> Self {
        Self { directory, file: OnceLock::new(), used: AtomicU64::new(0), blobs: RwLock::default() }
    }

    fn opened(&self) -> Option<&StagingFile> {
        let open = || {
            let limit = space::available(&self.directory).ok()? / 2;
            Some(StagingFile { file: tempfile::tempfile_in(&self.directory).ok()?, limit })
        };
        self.file.get_or_init(open).as_ref()
    }

    /// Writes bytes; `None` if there is no room for them.
    pub fn put(&self, bytes: &[u8]) -> Option<Span> {
        let opened = self.opened()?;
        let length = bytes.len() as u32;
        let offset = self.used.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        let fits = offset + bytes.len() as u64 <= opened.limit;
        (fits && opened.file.write_all_at(bytes, offset).is_ok()).then_some(Span { offset, length })
    }

    /// Fills `bytes` from `start` in the span; `None` if they do not lie in it or cannot be read.
    pub fn read(&self, span: Span, start: usize, bytes: &mut [u8]) -> Option<()> {
        let inside = start.checked_add(bytes.len()).is_some_and(|end| end <= span.length as usize);
        let file = &self.opened().filter(|_| inside)?.file;
        file.read_exact_at(bytes, span.offset + start as u64).ok()
    }

    /// Whether there is room for what could be had otherwise at little cost.
    pub(super) fn has_room_to_spare(&self) -> bool {
        let most = self.opened().map_or(0, |opened| SPARE_BYTES.min(opened.limit / 4));
        self.used.load(Ordering::Relaxed) < most
    }

    /// Bytes in the file.
    #[cfg(test)]
    pub(super) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Keeps a blob.
    pub(super) fn keep(&self, id: BlobId, bytes: &[u8]) {
        if let Some(span) = self.put(bytes) {
            self.keep_span(id, span);
        }
    }

    /// Keeps a blob that was written already.
    pub(super) fn keep_span(&self, id: BlobId, span: Span) {
        self.blobs.write().insert(id, span);
    }

    /// A kept blob, if it was a blob of this kind that was kept and came back as such.
    pub fn blob(&self, id: &BlobId, kind: BlobKind) -> Option<Vec<u8>> {
        let span = *self.blobs.read().get(id)?;
        let mut bytes = vec![0; span.length as usize];
        self.read(span, 0, &mut bytes)?;
        Some(bytes).filter(|bytes| kind.id_of(bytes) == *id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_kept_comes_back_whole_and_in_parts() {
        let staged = StagedBlobs::new(std::env::temp_dir());
        let span = staged.put(b"payload").unwrap();
        let id = BlobId::of_chunk(b"a chunk");
        staged.keep(id, b"a chunk");
        assert_eq!(staged.blob(&id, BlobKind::Chunk).unwrap(), b"a chunk");
        assert_eq!(staged.blob(&id, BlobKind::ListNode), None, "it does not hash to that");
        assert_eq!(staged.blob(&BlobId::of_chunk(b"another"), BlobKind::Chunk), None);
        let mut part = [0; 4];
        staged.read(span, 3, &mut part).unwrap();
        assert_eq!(&part, b"load");
        assert_eq!(staged.read(span, 4, &mut part), None, "beyond the end of the span");
        staged.read(span.part(1, 5).unwrap(), 1, &mut part).unwrap();
        assert_eq!(&part, b"yloa");
        assert_eq!(span.part(3, 5), None, "beyond the end of the whole");
    }

    #[test]
    fn a_place_that_cannot_be_written_keeps_nothing() {
        let staged = StagedBlobs::new("/does/not/exist".into());
        let id = BlobId::of_chunk(b"x");
        staged.keep(id, b"x");
        assert_eq!((staged.put(b"x"), staged.blob(&id, BlobKind::Chunk)), (None, None));
    }
}
