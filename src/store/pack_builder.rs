//! A pack in the making: header, frames as they come, footer.
//!
//! Invariant: the footer describes exactly the bytes written, and the id is the hash of all of them.

use std::io::Write;
use std::path::Path;

use crate::disk::{ObjectWriter, Storage};
use crate::error::{Error, Result};
use crate::format::Malformed;
use crate::format::compression::Compressed;
use crate::format::header::RepositoryHeader;
use crate::format::limits::{PACK_FRAMES, PACK_RECORDS};
use crate::format::pack::{self, BlobKind, Encoding, Footer, Frame, Record};
use crate::id::{BlobId, PackId};

/// Bytes after which a pack is sealed; most packs of a first create have about this size.
const TARGET_BYTES: u64 = 32 * 1024 * 1024;

/// A record waiting in a frame.
#[derive(Debug, Clone)]
pub(super) struct WaitingRecord {
    pub(super) id: BlobId,
    pub(super) kind: BlobKind,
    pub(super) length: u32,
    pub(super) payload_length: u32,
    pub(super) encoding: Encoding,
}

/// A frame ready for a pack.
#[derive(Debug)]
pub(super) struct FinishedFrame {
    pub(super) compressed: Compressed,
    pub(super) raw_length: usize,
    /// Of the decoded bytes, if any record is a delta; whole ones carry their hashes as ids.
    pub(super) raw_hash: Option<blake3::Hash>,
    pub(super) records: Vec<WaitingRecord>,
}

/// A pack that frames are appended to.
pub(super) struct PackBuilder {
    object: Box<dyn ObjectWriter>,
    hasher: blake3::Hasher,
    written: u64,
    footer: Footer,
    raw_hashes: Vec<Option<blake3::Hash>>,
    header: Edge,
}

/// A pack whose bytes are all written but neither synced, checked nor named.
pub(super) struct SealedPack {
    pub(super) object: Box<dyn ObjectWriter>,
    pub(super) id: PackId,
    pub(super) size: u64,
    pub(super) footer: Footer,
    /// What each frame with deltas must decode to.
    pub(super) raw_hashes: Vec<Option<blake3::Hash>>,
    /// What stands before the frames and behind them.
    pub(super) edges: [Edge; 2],
}

/// Bytes of a pack that are no frame: its header, or its footer with the end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Edge {
    pub(super) offset: u64,
    pub(super) length: usize,
    pub(super) hash: blake3::Hash,
}

impl Edge {
    fn of(offset: u64, bytes: &[u8]) -> Self {
        Self { offset, length: bytes.len(), hash: blake3::hash(bytes) }
    }
}

impl PackBuilder {
    pub(super) fn begin(storage: &dyn Storage, header: &RepositoryHeader) -> Result<Self> {
        let object = storage.create()?;
        let (hasher, footer) = (blake3::Hasher::new(), Footer::default());
        let bytes = pack::encode_header(header).map_err(unwritable)?;
        let header = Edge::of(0, &bytes);
        let mut builder = Self { object, hasher, written: 0, footer, raw_hashes: Vec::new(), header };
        builder.write(storage.root(), &bytes)?;
        Ok(builder)
    }

    /// Appends a frame.
    pub(super) fn append(&mut self, root: &Path, frame: FinishedFrame) -> Result<()> {
        let number = self.footer.frames.len() as u32;
        let mut offset = 0;
        let (stored, count) = (frame.compressed.bytes.len() as u32, frame.records.len() as u32);
        for record in frame.records {
            let WaitingRecord { id, kind, length, payload_length, encoding } = record;
            self.footer.records.push(Record { id, kind, length, frame: number, offset, payload_length, encoding });
            offset += payload_length;
        }
        let place = Frame::new(self.written, stored, frame.raw_length as u32, count, frame.compressed.codec);
        self.footer.frames.push(place);
        self.raw_hashes.push(frame.raw_hash);
        self.write(root, &frame.compressed.bytes)
    }

    /// The records so far; a record's number here is its number in the pack's id table.
    pub(super) fn records(&self) -> &[Record] {
        &self.footer.records
    }

    /// Whether the pack has its size and should be sealed.
    pub(super) fn is_full(&self) -> bool {
        self.written >= TARGET_BYTES
            || self.footer.frames.len() >= PACK_FRAMES / 2
            || self.footer.records.len() >= PACK_RECORDS / 2
    }

    pub(super) fn seal(mut self, root: &Path) -> Result<SealedPack> {
        let tail = self.footer.encode(self.written).map_err(unwritable)?;
        let edges = [self.header, Edge::of(self.written, &tail)];
        self.write(root, &tail)?;
        self.object.flush().map_err(Error::io("write a pack in", root))?;
        let id = PackId::of_hasher(&self.hasher);
        let (size, footer, raw_hashes) = (self.written, self.footer, self.raw_hashes);
        Ok(SealedPack { object: self.object, id, size, footer, raw_hashes, edges })
    }

    fn write(&mut self, root: &Path, bytes: &[u8]) -> Result<()> {
        self.object.write_all(bytes).map_err(Error::io("write a pack in", root))?;
        self.hasher.update(bytes);
        self.written += bytes.len() as u64;
        Ok(())
    }
}

fn unwritable(fault: Malformed) -> Error {
    Error::Failed(format!("a pack cannot be written: {fault}"))
}
