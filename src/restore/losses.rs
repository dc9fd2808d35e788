//! What of a file cannot be read from the repository: found before the first write, zeroed, and named.
//!
//! Invariant: a file never holds a mixture of old and new bytes without being named. Bytes that cannot be read become
//! zeros, which no format takes for content, unless the file at the target has them already: that is known by their
//! hash. This is the way of `--accept-invalid` alone; otherwise a restore stops at the first unreadable byte.

use std::path::PathBuf;

use crate::error::Result;
use crate::progress::Progress;
use crate::store::BlobReader;

use super::blocks::Selected;
use super::plan::{FileRole, FileStep};
use super::wanted::{Range, Wanted, for_each_piece};

/// A run of bytes of a file that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LostRange {
    pub(super) range: Range,
    /// Why.
    pub(super) cause: String,
}

/// A part of the snapshot that was not restored, since it cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// Where it would be: a file, or the directory or file of a source whose table cannot be read.
    pub path: PathBuf,
    /// Which bytes of the file are zeros instead; none if all of the file, or of what follows in the source, was left
    /// out.
    pub bytes: Option<UnreadableBytes>,
    /// Why.
    pub cause: String,
}

/// A run of bytes of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnreadableBytes {
    /// Where it begins.
    pub offset: u64,
    /// How many.
    pub length: u64,
}

impl LostRange {
    /// The same, with the path of the file.
    pub(super) fn at(&self, path: PathBuf) -> Unreadable {
        let bytes = UnreadableBytes { offset: self.range.offset, length: self.range.length };
        Unreadable { path, bytes: Some(bytes), cause: self.cause.clone() }
    }
}

/// Reads all that the step will write, and notes in it what cannot be read.
///
/// # Errors
/// I/O errors; an interruption.
pub(super) fn mark(step: &mut FileStep, reader: &mut BlobReader<'_>, progress: &dyn Progress) -> Result<()> {
    let mut selected = Selected::of(step.slots());
    let mut lost = Vec::new();
    let mut keeps_header = false;
    for_each_piece(&step.content, reader, |reader, piece| {
        progress.check()?;
        match piece {
            Wanted::Hole(_) => {}
            Wanted::Hidden(hidden) => {
                push(&mut lost, LostRange { range: hidden.range, cause: hidden.fault.to_string() })
            }
            Wanted::Slot(slot) => {
                let differs = selected.contains(slot.offset);
                let header = slot.offset == 0 && step.role == FileRole::Database;
                if !differs && !header {
                    return Ok(());
                }
                let cause = match reader.chunk(&slot.id)? {
                    Ok(bytes) if bytes.len() == slot.length => return Ok(()),
                    Ok(_) => "it has not the length of its place".into(),
                    Err(fault) => fault.to_string(),
                };
                if differs {
                    let range = Range { offset: slot.offset, length: slot.length as u64 };
                    push(&mut lost, LostRange { range, cause });
                } else {
                    keeps_header = true;
                }
            }
        }
        Ok(())
    })?;
    step.lost = lost;
    step.keeps_header = keeps_header;
    Ok(())
}

/// Neighbours with one cause are one run.
pub(super) fn push(lost: &mut Vec<LostRange>, next: LostRange) {
    match lost.last_mut() {
        Some(last) if last.range.end() == next.range.offset && last.cause == next.cause => {
            last.range.length += next.range.length;
        }
        _ => lost.push(next),
    }
}
