//! The files of an export that are being written, many at a time: their chunks are read together, in the order of
//! packs, and written to their places on all cores.
//!
//! Invariants: a file that is finished has all its bytes, or zeros for what could not be read, where that is accepted;
//! any other is removed again. Memory: that of the awaited chunks, and [`MOST_FILES`] open files.

use std::ops::Range as Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::disk::target::{TargetFile, TargetRoot};
use crate::error::Result;
use crate::format::table::FileEntry;
use crate::id::BlobId;
use crate::progress::Progress;
use crate::restore::attributes::Attributes;
use crate::restore::awaited::{AwaitedChunks, LostPlace, Place};
use crate::restore::blocks::BLOCK;
use crate::restore::losses::{self, LostRange};
use crate::restore::wanted::{self, HiddenRun, Range, WantedSlot};
use crate::store::{BlobReader, PlanCapacity, Repository};

/// Files open at one time.
const MOST_FILES: usize = 128;
/// Permission bits of what is not finished yet.
const UNFINISHED_FILE: u32 = 0o600;

/// Files that do not have all their bytes yet, and the chunks that they wait for.
pub(super) struct UnfinishedFiles<'w, 'r> {
    root: &'w TargetRoot,
    progress: &'w dyn Progress,
    awaited: AwaitedChunks<'r>,
    files: Vec<UnfinishedFile>,
    bytes_written: AtomicU64,
}

/// A file, and what it shall be.
pub(super) struct UnfinishedFile {
    pub(super) name: Vec<u8>,
    pub(super) attributes: Attributes,
    pub(super) target: TargetFile,
    /// Whether blocks of zeros stay holes.
    sparse: bool,
    lost: Vec<Loss>,
}

/// A run of a file that cannot be read.
struct Loss {
    range: Range,
    /// The first chunk of it, or the list node above.
    blob: BlobId,
    cause: Arc<str>,
}

impl UnfinishedFile {
    /// Why it cannot have all its bytes: what is in the way of the first one that is lost.
    pub(super) fn fault(&self) -> Option<String> {
        let Loss { blob, cause, .. } = self.lost.iter().min_by_key(|loss| loss.range.offset)?;
        Some(wanted::cannot_be_read(blob, cause))
    }

    /// What of it cannot be read, ascending.
    pub(super) fn lost_ranges(&mut self) -> Vec<LostRange> {
        self.lost.sort_by_key(|loss| loss.range.offset);
        let mut ranges = Vec::new();
        for Loss { range, cause, .. } in self.lost.drain(..) {
            losses::push(&mut ranges, LostRange { range, cause: cause.to_string() });
        }
        ranges
    }

    /// Notes what cannot be read; what follows the last loss for the same cause is one with it, so that a file without
    /// any of its bytes takes no memory for each.
    fn lose(&mut self, next: Loss) {
        match self.lost.last_mut() {
            Some(last) if last.range.end() == next.range.offset && last.cause == next.cause => {
                last.range.length += next.range.length;
            }
            _ => self.lost.push(next),
        }
    }

    /// Writes a chunk to its place, and returns how many bytes of it were no hole.
    fn write(&self, offset: u64, bytes: &[u8]) -> Result<u64> {
        if !self.sparse {
            self.target.write_block(offset, bytes)?;
            return Ok(bytes.len() as u64);
        }
        let mut written = 0;
        for run in runs_with_bytes(bytes) {
            let start = run.start as u64;
            let Some(part) = bytes.get(run) else { continue };
            self.target.write_block(offset + start, part)?;
            written += part.len() as u64;
        }
        Ok(written)
    }
}

/// The runs of blocks that are not all zeros.
fn runs_with_bytes(bytes: &[u8]) -> Vec<Bytes<usize>> {
    let mut runs: Vec<Bytes<usize>> = Vec::new();
    let blocks = bytes.chunks(BLOCK).zip((0..).step_by(BLOCK));
    for (block, start) in blocks.filter(|(block, _)| block.iter().any(|&byte| byte != 0)) {
        let end = start + block.len();
        match runs.last_mut() {
            Some(run) if run.end == start => run.end = end,
            _ => runs.push(start..end),
        }
    }
    runs
}

impl<'w, 'r> UnfinishedFiles<'w, 'r> {
    /// None yet, below `root`.
    pub(super) fn below(root: &'w TargetRoot, repository: &'r Repository, progress: &'w dyn Progress) -> Self {
        let (awaited, bytes_written) = (AwaitedChunks::new(repository), AtomicU64::new(0));
        Self { root, progress, awaited, files: Vec::new(), bytes_written }
    }

    /// Makes a file, whose slots follow.
    pub(super) fn begin(&mut self, name: &[u8], file: &FileEntry, attributes: Attributes) -> Result<()> {
        let (target, name) = (self.root.create_file(name, UNFINISHED_FILE)?, name.to_vec());
        self.files.push(UnfinishedFile { name, attributes, target, sparse: file.sparse, lost: Vec::new() });
        self.files.last().map_or(Ok(()), |begun| begun.target.set_length(file.content.length))
    }

    /// Asks for a slot of the file that was begun last.
    pub(super) fn want(&mut self, slot: WantedSlot, reader: &mut BlobReader<'r>) -> Result<()> {
        let place = Place { file: self.files.len().saturating_sub(1), slot };
        match self.awaited.want(place, self.progress)? {
            PlanCapacity::Full => self.write(reader),
            PlanCapacity::Left => Ok(()),
        }
    }

    /// Notes a run of the file that was begun last of which nothing is known.
    pub(super) fn lose(&mut self, hidden: HiddenRun) {
        let HiddenRun { range, node: blob, fault } = hidden;
        if let Some(file) = self.files.last_mut() {
            file.lose(Loss { range, blob, cause: fault.to_string().into() });
        }
    }

    /// Whether those that were begun should be finished before more are.
    pub(super) fn are_many(&self) -> bool {
        self.files.len() >= MOST_FILES
    }

    /// Writes all that was asked for, and hands the files over to whoever finishes them.
    pub(super) fn fill(&mut self, reader: &mut BlobReader<'r>) -> Result<Vec<UnfinishedFile>> {
        self.write(reader)?;
        Ok(std::mem::take(&mut self.files))
    }

    /// Takes files back that could not be finished.
    pub(super) fn take_back(&mut self, files: impl Iterator<Item = UnfinishedFile>) {
        self.files.extend(files);
    }

    /// Bytes written so far.
    pub(super) fn bytes_written(&self) -> u64 {
        self.bytes_written.load(Ordering::Relaxed)
    }

    /// Removes them all: none of them will have all its bytes.
    pub(super) fn remove(&mut self) {
        for file in self.files.drain(..) {
            if let Err(cause) = self.root.remove_file(&file.name) {
                tracing::warn!(%cause, "an incomplete file stays");
            }
        }
    }

    fn write(&mut self, reader: &mut BlobReader<'r>) -> Result<()> {
        let (files, written) = (&self.files, &self.bytes_written);
        let lost = self.awaited.read(reader, self.progress, &|place, bytes| {
            if let Some(file) = files.get(place.file) {
                written.fetch_add(file.write(place.slot.offset, bytes)?, Ordering::Relaxed);
            }
            Ok(())
        })?;
        for LostPlace { place: Place { file, slot }, cause } in lost {
            let range = Range { offset: slot.offset, length: slot.length as u64 };
            if let Some(file) = self.files.get_mut(file) {
                file.lose(Loss { range, blob: slot.id, cause });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_of_zeros_divide_the_runs_that_are_written() {
        let mut bytes = vec![0; 5 * BLOCK + 10];
        assert_eq!(runs_with_bytes(&bytes), []);
        for at in [BLOCK, 2 * BLOCK + 7, 5 * BLOCK + 9] {
            bytes[at] = 1;
        }
        assert_eq!(runs_with_bytes(&bytes), [BLOCK..3 * BLOCK, 5 * BLOCK..5 * BLOCK + 10]);
    }
}
