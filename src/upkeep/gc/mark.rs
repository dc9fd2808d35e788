//! Marking: every blob that a snapshot reaches, from the manifest down.
//!
//! Invariant: when marking succeeds, all tables, list nodes and chunks of the snapshot are marked. A list node that is
//! marked was walked before, by this or another snapshot, and is not walked again, so that many snapshots of
//! nearly the same state cost little more than one. Where marking fails, nothing at all is removed.

use super::catalogue::{Catalogue, ReachedAs};
use crate::error::Result;
use crate::format::content::{Content, Root};
use crate::format::manifest::{Manifest, SourceRecord};
use crate::format::table::EntryKind;
use crate::id::BlobId;
use crate::progress::Progress;
use crate::store::BlobReader;
use crate::store::file_table::TableReader;
use crate::store::pieces::{Descent, Piece, Pieces};

/// Marks what `manifest` reaches; the text names what hides a part of it.
pub(super) fn mark(
    manifest: &Manifest,
    catalogue: &Catalogue,
    reader: &mut BlobReader<'_>,
    progress: &dyn Progress,
) -> Result<Result<(), String>> {
    for source in &manifest.sources {
        progress.check()?;
        if let Err(damage) = mark_source(source, catalogue, reader, progress)? {
            return Ok(Err(format!("{}: {damage}", source.name)));
        }
    }
    Ok(Ok(()))
}

fn mark_source(
    source: &SourceRecord,
    catalogue: &Catalogue,
    reader: &mut BlobReader<'_>,
    progress: &dyn Progress,
) -> Result<Result<(), String>> {
    if is_marked(&source.table, catalogue)? {
        return Ok(Ok(()));
    }
    let mut table = TableReader::of(&source.table);
    let mut blobs = Vec::new();
    loop {
        let entry = table.next(reader, |blob| blobs.push(*blob))?;
        for blob in blobs.drain(..) {
            catalogue.reach(&blob, ReachedAs::Metadata)?;
        }
        match entry {
            Ok(Some(entry)) => {
                if let EntryKind::File(file) = &entry.kind
                    && let Err(damage) = mark_content(&file.content, catalogue, reader, progress)?
                {
                    let path = String::from_utf8_lossy(&entry.path).escape_debug().to_string();
                    return Ok(Err(format!("{path}: {damage}")));
                }
            }
            Ok(None) => return Ok(Ok(())),
            Err(fault) => return Ok(Err(fault.to_string())),
        }
    }
}

fn mark_content(
    content: &Content,
    catalogue: &Catalogue,
    reader: &mut BlobReader<'_>,
    progress: &dyn Progress,
) -> Result<Result<(), String>> {
    if is_marked(content, catalogue)? {
        return Ok(Ok(()));
    }
    let mut pieces = Pieces::of(content);
    let mut descend = |node: &BlobId| {
        let descent = if catalogue.is_reached(node)? { Descent::Past } else { Descent::Below };
        catalogue.reach(node, ReachedAs::Metadata)?;
        Ok(descent)
    };
    loop {
        match pieces.next_below(reader, &mut descend)? {
            Some(Piece::Chunk { id, length, .. }) => {
                catalogue.reach(&id, ReachedAs::Data)?;
                progress.check()?;
                progress.advance(length as u64);
            }
            Some(Piece::Hole { .. }) => {}
            Some(Piece::Hidden { offset, length, .. }) => {
                return Ok(Err(format!("what stands at byte {offset} ({length} bytes) cannot be known")));
            }
            None => return Ok(Ok(())),
        }
    }
}

/// Whether the content was walked before.
fn is_marked(content: &Content, catalogue: &Catalogue) -> Result<bool> {
    match content.root {
        Root::Empty => Ok(true),
        Root::Chunk(_) => Ok(false),
        Root::Node { id, .. } => catalogue.is_reached(&id),
    }
}
