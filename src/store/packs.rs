//! Reading packs: which there are, their footers, their frames.
//!
//! Invariant: what is returned has been checked against the format; a frame's bytes are not trusted until the blob made
//! of them is hashed. Every fault names the pack's file.

use std::path::PathBuf;

use super::layout;
use crate::disk::{ObjectKind, Storage};
use crate::error::{Error, Result};
use crate::format::Malformed;
use crate::format::compression;
use crate::format::header::RepositoryHeader;
use crate::format::limits::HEADER_BYTES;
use crate::format::pack::{self, END_BYTES, Footer, FooterPlace, Frame};
use crate::id::PackId;

/// A pack in the repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PackFile {
    /// Its id and name.
    pub id: PackId,
    /// Its bytes.
    pub size: u64,
}

/// All packs, ascending by id.
///
/// # Errors
/// When a directory cannot be listed.
pub fn list(storage: &dyn Storage) -> Result<Vec<PackFile>> {
    let mut packs = Vec::new();
    for directory in storage.list(layout::PACKS)? {
        if directory.kind != ObjectKind::Directory {
            continue;
        }
        for object in storage.list(&format!("{}/{}", layout::PACKS, directory.name))? {
            if let (Some(id), ObjectKind::File) = (layout::pack_id(&directory.name, &object.name), object.kind) {
                packs.push(PackFile { id, size: object.size });
            }
        }
    }
    packs.sort_by_key(|pack| pack.id);
    Ok(packs)
}

/// The path of a pack, for messages.
pub fn path(storage: &dyn Storage, id: &PackId) -> PathBuf {
    storage.root().join(layout::pack(id))
}

/// Reads a pack's footer and checks that the pack belongs to this repository.
///
/// # Errors
/// [`Error::Damaged`] with the pack's path; an I/O error where it cannot be read.
pub fn read_footer(storage: &dyn Storage, header: &RepositoryHeader, pack: &PackFile) -> Result<Footer> {
    let name = layout::pack(&pack.id);
    let damaged = |fault: Malformed| {
        Error::damaged(
            path(storage, &pack.id),
            format!("the pack is damaged: {fault}; put it back from a copy of the repository, or move it away"),
        )
    };
    let end_offset = pack.size.checked_sub(END_BYTES as u64).ok_or_else(|| damaged(Malformed::Truncated))?;
    let end = storage.read_range(&name, end_offset, END_BYTES)?;
    let place = FooterPlace::decode(&end, pack.size).map_err(damaged)?;
    let footer = storage.read_range(&name, place.offset, place.length as usize)?;
    let footer = Footer::decode(&footer, place.offset).map_err(damaged)?;
    let first = usize::try_from(place.offset).unwrap_or(HEADER_BYTES).min(HEADER_BYTES);
    let begin = storage.read_range(&name, 0, first)?;
    let found = pack::decode_header(&begin).map_err(damaged)?;
    if found.repository != header.repository {
        return Err(damaged(Malformed::invalid(format!("it belongs to the repository {}", found.repository))));
    }
    pack::check_begin(&begin, &footer, place).map_err(damaged)?;
    Ok(footer)
}

/// Reads and decodes one frame.
///
/// # Errors
/// [`Error::Damaged`] with the pack's path.
pub fn read_frame(storage: &dyn Storage, pack: &PackId, frame: &Frame) -> Result<Vec<u8>> {
    let stored = storage.read_range(&layout::pack(pack), frame.offset, frame.stored_length as usize)?;
    decode_frame(frame, &stored)
        .map_err(|fault| Error::damaged(path(storage, pack), format!("the frame at byte {}: {fault}", frame.offset)))
}

/// Decodes the stored bytes of a frame.
///
/// # Errors
/// [`Malformed`] if they are not what the footer says.
pub fn decode_frame(frame: &Frame, stored: &[u8]) -> Result<Vec<u8>, Malformed> {
    compression::decompress(frame.codec()?, stored, frame.raw_length as usize)
}
