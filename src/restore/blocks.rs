//! Writing the bytes of one file: only the blocks of 4 KiB that differ from what is there.
//!
//! Invariant: the file's inode stays; blocks that are right already are not written; a block of zeros where the file
//! has a hole stays a hole if the snapshot's file was sparse. The first block of a database is left out here, so that
//! nobody takes the file for one before [`write_first_block`]. Memory: [`SLOTS_AT_ONCE`] slots, and that of the awaited
//! chunks.

mod pen;

use rayon::prelude::*;

use crate::disk::target::TargetFile;
use crate::error::{Error, Result};
use crate::format::limits::CHUNK_SIZE;
use crate::progress::Progress;
use crate::store::BlobReader;

use super::awaited::MOST_PLACES;
use super::difference::holds;
use super::plan::{Change, FileRole, FileStep};
use super::wanted::{Range, Wanted, WantedSlot, first_piece, for_each_piece, read_slot};
use pen::Pen;

/// The unit of writing in bytes: what file systems and SQLite change at least.
pub(super) const BLOCK: usize = 4096;
/// Slots in memory at one time.
const SLOTS_AT_ONCE: usize = 128;
/// Slots that one core looks at before it takes others.
const SLOTS_A_TASK: usize = 8;
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

impl Written {
    /// Counts what was written elsewhere too.
    pub(super) fn add(&mut self, other: Self) {
        self.blocks += other.blocks;
        self.bytes += other.bytes;
    }
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
        let pen = Pen { file, step, old_size, progress: self.progress };
        let mut waiting = Vec::new();
        for_each_selected(step, self.reader, |reader, slots| {
            self.written.add(pen.write_staged(slots, reader.staged().map(|staged| &**staged), &mut waiting)?);
            if waiting.len() >= MOST_PLACES {
                self.written.add(pen.write_waiting(&mut waiting, reader)?);
            }
            Ok(())
        })?;
        self.written.add(pen.write_waiting(&mut waiting, self.reader)?);
        let lost = step.lost_ranges();
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
                self.write_header_last(file, wanted.get(..BLOCK).unwrap_or(&wanted))
            }
            Some(Wanted::Hole(hole)) => {
                let length = usize::try_from(hole.length).unwrap_or(BLOCK).min(BLOCK);
                self.write_header_last(file, [0; BLOCK].get(..length).unwrap_or_default())
            }
            None => Ok(()),
        }
    }

    fn write_header_last(&mut self, file: &TargetFile, block: &[u8]) -> Result<()> {
        let (header, rest) = block.split_at_checked(SPOILED_HEADER.len()).unwrap_or((block, &[]));
        file.write_block(header.len() as u64, rest)?;
        check_written(file, header.len() as u64, rest)?;
        file.sync()?;
        self.written.bytes += rest.len() as u64;
        self.write(file, 0, header)?;
        check_written(file, 0, header)
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

/// Reads again what was written where nothing reads it later.
fn check_written(file: &TargetFile, offset: u64, bytes: &[u8]) -> Result<()> {
    let mut found = vec![0; bytes.len()];
    let length = file.read_at(offset, &mut found)?;
    if length == bytes.len() && found == bytes { Ok(()) } else { Err(not_as_written(file)) }
}

/// The error for a target that does not read back as it was written.
pub(super) fn not_as_written(file: &TargetFile) -> Error {
    Error::Failed(format!(
        "{} does not read back as written; its disk may be failing, or another process writes to it",
        file.path().display()
    ))
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

/// Calls `take` with the slots that a step writes, in order, some at a time, without unreadable ones; it must empty
/// what it is given.
fn for_each_selected<'r>(
    step: &FileStep,
    reader: &mut BlobReader<'r>,
    mut take: impl FnMut(&mut BlobReader<'r>, &mut Vec<WantedSlot>) -> Result<()>,
) -> Result<()> {
    let mut selected = Selected::of(step.slots());
    let lost = step.lost_ranges();
    let mut unreadable = Selected::of(Some(&lost));
    let mut slots = Vec::with_capacity(SLOTS_AT_ONCE);
    for_each_piece(&step.content, reader, |reader, piece| match piece {
        Wanted::Slot(slot) if unreadable.contains(slot.offset) => Ok(()),
        Wanted::Hidden(hidden) if !unreadable.contains(hidden.range.offset) => Err(hidden.into_error(reader)),
        Wanted::Slot(slot) if selected.contains(slot.offset) => {
            slots.push(slot);
            if slots.len() == SLOTS_AT_ONCE { take(reader, &mut slots) } else { Ok(()) }
        }
        _ => Ok(()),
    })?;
    take(reader, &mut slots)
}

/// Whether the file has the wanted bytes in all slots that the step wrote, but for unreadable ones; the first block of
/// a database is taken as written.
pub(super) fn is_as_wanted(
    file: &TargetFile,
    step: &FileStep,
    reader: &mut BlobReader<'_>,
    progress: &dyn Progress,
) -> Result<bool> {
    let mut right = file.stat()?.size == step.content.length;
    for_each_selected(step, reader, |reader, slots| {
        progress.check()?;
        if step.rewrites_header()
            && let Some(first) = slots.first().filter(|slot| slot.offset == 0).copied()
        {
            slots.remove(0);
            right &= is_right_but_for_first_block(file, &first, &read_slot(reader, &first)?)?;
            progress.advance(first.length as u64);
        }
        let looks = slots.par_iter().with_min_len(SLOTS_A_TASK).map_init(
            || vec![0; CHUNK_SIZE],
            |buffer, slot| {
                progress.advance(slot.length as u64);
                holds(file, slot, buffer)
            },
        );
        right &= looks.try_reduce(|| true, |one, other| Ok(one && other))?;
        slots.clear();
        Ok(())
    })?;
    Ok(right)
}

fn is_right_but_for_first_block(file: &TargetFile, slot: &WantedSlot, wanted: &[u8]) -> Result<bool> {
    let mut current = vec![0; slot.length];
    let read = file.read_at(slot.offset, &mut current)?;
    Ok(read == slot.length && current.get(BLOCK..) == wanted.get(BLOCK..))
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
