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

/// A whole record waiting in a frame.
#[derive(Debug, Clone, Copy)]
pub(super) struct WaitingRecord {
    pub(super) id: BlobId,
    pub(super) kind: BlobKind,
    pub(super) length: u32,
}

/// A pack that frames are appended to.
pub(super) struct PackBuilder {
    object: Box<dyn ObjectWriter>,
    hasher: blake3::Hasher,
    written: u64,
    footer: Footer,
}

/// A pack whose bytes are all written but neither synced, checked nor named.
pub(super) struct SealedPack {
    pub(super) object: Box<dyn ObjectWriter>,
    pub(super) id: PackId,
    pub(super) size: u64,
    pub(super) footer: Footer,
}

impl PackBuilder {
    pub(super) fn begin(storage: &dyn Storage, header: &RepositoryHeader) -> Result<Self> {
        let object = storage.create()?;
        let mut builder = Self { object, hasher: blake3::Hasher::new(), written: 0, footer: Footer::default() };
        let bytes = pack::encode_header(header).map_err(unwritable)?;
        builder.write(storage.root(), &bytes)?;
        Ok(builder)
    }

    /// Appends a frame of whole records; `raw_length` is its decoded length in bytes.
    pub(super) fn append(
        &mut self,
        root: &Path,
        frame: &Compressed,
        raw_length: usize,
        records: &[WaitingRecord],
    ) -> Result<()> {
        let number = self.footer.frames.len() as u32;
        let mut offset = 0;
        for record in records {
            self.footer.records.push(Record {
                id: record.id,
                kind: record.kind,
                length: record.length,
                frame: number,
                offset,
                payload_length: record.length,
                encoding: Encoding::Whole,
            });
            offset += record.length;
        }
        let stored = frame.bytes.len() as u32;
        let place = Frame::new(self.written, stored, raw_length as u32, records.len() as u32, frame.codec);
        self.footer.frames.push(place);
        self.write(root, &frame.bytes)
    }

    /// Whether the pack has its size and should be sealed.
    pub(super) fn is_full(&self) -> bool {
        self.written >= TARGET_BYTES
            || self.footer.frames.len() >= PACK_FRAMES / 2
            || self.footer.records.len() >= PACK_RECORDS / 2
    }

    pub(super) fn seal(mut self, root: &Path) -> Result<SealedPack> {
        let tail = self.footer.encode(self.written).map_err(unwritable)?;
        self.write(root, &tail)?;
        self.object.flush().map_err(Error::io("write a pack in", root))?;
        let id = PackId::of_hasher(&self.hasher);
        Ok(SealedPack { object: self.object, id, size: self.written, footer: self.footer })
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
