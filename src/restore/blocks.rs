//! Writing the bytes of one file: only the blocks of 4 KiB that differ from what is there.
//!
//! Invariant: the file's inode stays; blocks that are right already are not written; a block of zeros where the file has
//! a hole stays a hole if the snapshot's file was sparse. The first block of a database is left out here, so that nobody
//! takes the file for one before [`write_first_block`]. Memory: two slots.

use crate::disk::target::TargetFile;
use crate::error::Result;
use crate::format::limits::CHUNK_SIZE;
use crate::id::BlobId;
use crate::progress::Progress;
use crate::store::BlobReader;

use super::content::{Range, Wanted, WantedSlot, first_piece, for_each_piece, read_slot};
use super::plan::{Change, FileRole, FileStep};

/// The unit of writing in bytes: what file systems and SQLite change at least.
pub(super) const BLOCK: usize = 4096;
/// What stands in place of a database's header while it is restored. SQLite says "file is not a database".
pub(super) const SPOILED_HEADER: &[u8; 16] = b"vecsnap restore\0";
/// Bytes written at the head of every database, whether it differs or not, at most: spoiled first, made good last.
pub(super) const HEADER_REWRITTEN: u64 = (SPOILED_HEADER.len() + BLOCK) as u64;

/// What was written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Written {
    /// Blocks of 4 KiB, and runs of zeros that became holes.
    pub(super) blocks: u64,
    /// Bytes.
    pub(super) bytes: u64,
}

/// Writes file contents of one restore.
pub(super) struct BlockWriter<'w, 'r> {
    pub(super) reader: &'w mut BlobReader<'r>,
    pub(super) progress: &'w dyn Progress,
    pub(super) written: Written,
}

impl BlockWriter<'_, '_> {
    /// Gives the file the wanted bytes, but for the first block of a database.
    pub(super) fn write_content(&mut self, file: &TargetFile, step: &FileStep) -> Result<()> {
        let old_size = file.stat()?.size;
        if step.change == Change::Create && step.role == FileRole::Database && step.content.length > 0 {
            self.write(file, 0, SPOILED_HEADER)?;
        }
        self.progress.check()?;
        if old_size != step.content.length {
            file.set_length(step.content.length)?;
        }
        let mut selected = Selected::of(step.slots());
        let lost = step.lost_ranges();
        let mut unreadable = Selected::of(Some(&lost));
        let mut buffer = vec![0; CHUNK_SIZE];
        let progress = self.progress;
        let (written, reader) = (&mut self.written, &mut *self.reader);
        for_each_piece(&step.content, reader, |reader, piece| match piece {
            Wanted::Slot(slot) if unreadable.contains(slot.offset) => Ok(()),
            Wanted::Hidden(hidden) if !unreadable.contains(hidden.range.offset) => Err(hidden.into_error(reader)),
            Wanted::Slot(slot) if selected.contains(slot.offset) => {
                let wanted = read_slot(reader, &slot)?;
                let mut pen = Pen { file, step, old_size, progress, written: &mut *written };
                pen.write_slot(&slot, &wanted, &mut buffer)?;
                progress.advance(slot.length as u64);
                Ok(())
            }
            _ => Ok(()),
        })?;
        let holes = match &step.change {
            Change::Overwrite(difference) => difference.holes.as_slice(),
            Change::Create => &[],
        };
        for hole in holes.iter().chain(&lost) {
            self.progress.check()?;
            file.punch_hole(hole.offset, hole.length)?;
            self.written.blocks += 1;
        }
        Ok(())
    }

    /// Makes a database recognisable: writes its first block.
    pub(super) fn write_first_block(&mut self, file: &TargetFile, step: &FileStep) -> Result<()> {
        if step.lost.first().is_some_and(|lost| lost.range.offset == 0) {
            return Ok(());
        }
        match first_piece(&step.content, self.reader)? {
            Some(Wanted::Hidden(hidden)) => Err(hidden.into_error(self.reader)),
            Some(Wanted::Slot(slot)) => {
                let wanted = read_slot(self.reader, &slot)?;
                self.write(file, 0, wanted.get(..BLOCK).unwrap_or(&wanted))
            }
            Some(Wanted::Hole(hole)) => {
                let length = usize::try_from(hole.length).unwrap_or(BLOCK).min(BLOCK);
                self.write(file, 0, [0; BLOCK].get(..length).unwrap_or_default())
            }
            None => Ok(()),
        }
    }

    /// Spoils the header of a database that is there.
    pub(super) fn spoil_header(&mut self, file: &TargetFile) -> Result<()> {
        let length = usize::try_from(file.stat()?.size).unwrap_or(usize::MAX).min(SPOILED_HEADER.len());
        match SPOILED_HEADER.get(..length) {
            Some(header) if length > 0 => self.write(file, 0, header),
            _ => Ok(()),
        }
    }

    fn write(&mut self, file: &TargetFile, offset: u64, bytes: &[u8]) -> Result<()> {
        self.progress.check()?;
        file.write_block(offset, bytes)?;
        self.written.blocks += 1;
        self.written.bytes += bytes.len() as u64;
        Ok(())
    }
}

/// Writes slots of one file.
struct Pen<'p> {
    file: &'p TargetFile,
    step: &'p FileStep,
    old_size: u64,
    progress: &'p dyn Progress,
    written: &'p mut Written,
}

impl Pen<'_> {
    /// Writes the runs of blocks that differ.
    fn write_slot(&mut self, slot: &WantedSlot, wanted: &[u8], buffer: &mut [u8]) -> Result<()> {
        let Some(current) = buffer.get_mut(..wanted.len()) else { return Ok(()) };
        let read = self.file.read_at(slot.offset, current)?;
        if let Some(missing) = current.get_mut(read..) {
            missing.fill(0);
        }
        let mut run: Option<std::ops::Range<usize>> = None;
        for (number, (new, old)) in wanted.chunks(BLOCK).zip(current.chunks(BLOCK)).enumerate() {
            let start = number * BLOCK;
            if self.must_write(slot.offset + start as u64, new, old) {
                let end = start + new.len();
                run = Some(run.map_or(start, |run| run.start)..end);
            } else if let Some(run) = run.take() {
                self.write_run(slot, wanted, run)?;
            }
        }
        run.map_or(Ok(()), |run| self.write_run(slot, wanted, run))
    }

    fn must_write(&self, offset: u64, new: &[u8], old: &[u8]) -> bool {
        let held_back = offset == 0 && self.step.role == FileRole::Database;
        // Behind the old end there is nothing but the hole that growing the file left.
        let unallocated = offset >= self.old_size && !self.step.sparse;
        !held_back && (new != old || unallocated)
    }

    fn write_run(&mut self, slot: &WantedSlot, wanted: &[u8], run: std::ops::Range<usize>) -> Result<()> {
        self.progress.check()?;
        let Some(bytes) = wanted.get(run.clone()) else { return Ok(()) };
        self.file.write_block(slot.offset + run.start as u64, bytes)?;
        self.written.blocks += bytes.len().div_ceil(BLOCK) as u64;
        self.written.bytes += bytes.len() as u64;
        Ok(())
    }
}

/// Whether ascending offsets lie in ascending runs.
pub(super) struct Selected<'a> {
    runs: Option<&'a [Range]>,
}

impl<'a> Selected<'a> {
    /// Of these runs; `None` selects everything.
    pub(super) fn of(runs: Option<&'a [Range]>) -> Self {
        Self { runs }
    }

    /// Whether the offset lies in a run; offsets must not descend from call to call.
    pub(super) fn contains(&mut self, offset: u64) -> bool {
        let Some(runs) = &mut self.runs else { return true };
        while let Some((first, rest)) = runs.split_first() {
            if offset < first.end() {
                return offset >= first.offset;
            }
            *runs = rest;
        }
        false
    }
}

/// Whether the file has the wanted bytes in all slots that the step wrote, but for unreadable ones; the first block of a database is taken as
/// written.
pub(super) fn is_as_wanted(
    file: &TargetFile,
    step: &FileStep,
    reader: &mut BlobReader<'_>,
    progress: &dyn Progress,
) -> Result<bool> {
    let mut right = file.stat()?.size == step.content.length;
    let mut selected = Selected::of(step.slots());
    let lost = step.lost_ranges();
    let mut unreadable = Selected::of(Some(&lost));
    let mut buffer = vec![0; CHUNK_SIZE];
    for_each_piece(&step.content, reader, |reader, piece| {
        let Wanted::Slot(slot) = piece else { return Ok(()) };
        if unreadable.contains(slot.offset) || !selected.contains(slot.offset) {
            return Ok(());
        }
        progress.check()?;
        let Some(part) = buffer.get_mut(..slot.length) else { return Ok(()) };
        let read = file.read_at(slot.offset, part)?;
        if slot.offset == 0 && step.rewrites_header() {
            let wanted = read_slot(reader, &slot)?;
            part.iter_mut().zip(wanted.iter()).take(BLOCK).for_each(|(byte, wanted)| *byte = *wanted);
        }
        right &= read == slot.length && BlobId::of_chunk(part) == slot.id;
        progress.advance(slot.length as u64);
        Ok(())
    })?;
    Ok(right)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ascending_offsets_are_found_in_ascending_runs() {
        let runs = [Range { offset: 10, length: 10 }, Range { offset: 40, length: 5 }];
        let mut selected = Selected::of(Some(&runs));
        let found: Vec<u64> = (0..50).filter(|offset| selected.contains(*offset)).collect();
        assert_eq!(found, (10..20).chain(40..45).collect::<Vec<_>>());
        assert!(Selected::of(None).contains(7));
        assert!(!Selected::of(Some(&[])).contains(7));
    }
}
