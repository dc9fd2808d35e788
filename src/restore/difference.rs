//! Where a file differs from what it shall be, found by hashes: no wanted byte is read.
//!
//! Invariant: a slot that is not named in a [`Difference`] has the wanted bytes, and a wanted hole that is not named
//! takes no space; so nothing else of the file need be touched. Memory grows with the number of runs, not with the
//! file.

use rayon::prelude::*;

use crate::disk::holes::{self, Extent, ExtentKind, Extents};
use crate::disk::target::TargetFile;
use crate::error::{Error, Result};
use crate::format::content::Content;
use crate::format::limits::CHUNK_SIZE;
use crate::id::BlobId;
use crate::progress::Progress;
use crate::store::BlobReader;

use super::gate::InvalidPolicy;
use super::wanted::{Range, Wanted, WantedSlot, for_each_piece};

/// Slots looked at between two looks for an interruption.
const SLOTS_AT_ONCE: usize = 256;
/// Slots that one core looks at before it takes others.
const SLOTS_A_TASK: usize = 16;

/// What must be written into an existing file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Difference {
    /// Runs of whole slots whose bytes are not the wanted ones, ascending.
    pub(super) slots: Vec<Range>,
    /// Runs that shall be holes and are none, ascending.
    pub(super) holes: Vec<Range>,
    /// Whether the length is another one.
    pub(super) resized: bool,
}

impl Difference {
    /// Whether nothing need be written.
    pub(super) fn is_none(&self) -> bool {
        self.slots.is_empty() && self.holes.is_empty() && !self.resized
    }

    /// Bytes of the slots that differ.
    pub(super) fn bytes(&self) -> u64 {
        self.slots.iter().map(|run| run.length).sum()
    }

    /// Looks at these slots on all cores, and adds those that differ.
    fn push_differing(
        &mut self,
        file: &TargetFile,
        slots: &mut Vec<WantedSlot>,
        progress: &dyn Progress,
    ) -> Result<()> {
        progress.check()?;
        let looks = slots.par_iter().with_min_len(SLOTS_A_TASK).map_init(
            || vec![0; CHUNK_SIZE],
            |buffer, slot| {
                progress.advance(slot.length as u64);
                holds(file, slot, buffer)
            },
        );
        let right: Vec<bool> = looks.collect::<Result<_>>()?;
        slots.drain(..).zip(right).filter(|(_, right)| !right).for_each(|(slot, _)| self.push_slot(&slot));
        Ok(())
    }

    fn push_slot(&mut self, slot: &WantedSlot) {
        push(&mut self.slots, Range { offset: slot.offset, length: slot.length as u64 });
    }
}

fn push(runs: &mut Vec<Range>, next: Range) {
    match runs.last_mut() {
        Some(last) if last.end() == next.offset => last.length += next.length,
        _ => runs.push(next),
    }
}

/// Compares a file with the content that it shall have. What cannot be known of the content counts as different, if
/// that is accepted.
///
/// # Errors
/// I/O errors, of the file or of list nodes.
pub(super) fn compare(
    file: &TargetFile,
    content: &Content,
    reader: &mut BlobReader<'_>,
    accept: InvalidPolicy,
    progress: &dyn Progress,
) -> Result<Difference> {
    let size = file.stat()?.size;
    let mut difference = Difference { resized: size != content.length, ..Difference::default() };
    let mut data = DataRuns::of(file, size);
    let mut slots = Vec::with_capacity(SLOTS_AT_ONCE);
    for_each_piece(content, reader, |reader, piece| {
        match piece {
            Wanted::Slot(slot) => {
                slots.push(slot);
                if slots.len() == SLOTS_AT_ONCE {
                    difference.push_differing(file, &mut slots, progress)?;
                }
            }
            Wanted::Hole(hole) => {
                data.inside(&hole, |run| push(&mut difference.holes, run))?;
                progress.advance(hole.length);
            }
            Wanted::Hidden(hidden) if accept == InvalidPolicy::Accept => {
                difference.push_differing(file, &mut slots, progress)?;
                push(&mut difference.slots, hidden.range);
            }
            Wanted::Hidden(hidden) => return Err(hidden.into_error(reader)),
        }
        Ok(())
    })?;
    difference.push_differing(file, &mut slots, progress)?;
    Ok(difference)
}

/// Whether the file has the bytes of the slot.
pub(super) fn holds(file: &TargetFile, slot: &WantedSlot, buffer: &mut [u8]) -> Result<bool> {
    let Some(part) = buffer.get_mut(..slot.length) else { return Ok(false) };
    let read = file.read_at(slot.offset, part)?;
    Ok(read == slot.length && BlobId::of_chunk(part) == slot.id)
}

/// The runs of a file that take space; asked in ascending order only.
struct DataRuns<'a> {
    file: &'a TargetFile,
    size: u64,
    /// Not asked for before the first wanted hole: most files have none.
    extents: Option<Extents<'a>>,
    present: Option<Extent>,
}

impl<'a> DataRuns<'a> {
    fn of(file: &'a TargetFile, size: u64) -> Self {
        Self { file, size, extents: None, present: None }
    }

    fn inside(&mut self, hole: &Range, mut found: impl FnMut(Range)) -> Result<()> {
        let (file, size) = (self.file, self.size);
        let extents = self.extents.get_or_insert_with(|| holes::extents(file.file(), size));
        loop {
            let extent = match self.present {
                Some(extent) => extent,
                None => match extents.next() {
                    Some(extent) => extent.map_err(Error::io("look for holes in", file.path()))?,
                    None => return Ok(()),
                },
            };
            let run = Range { offset: extent.offset, length: extent.length };
            if extent.kind == ExtentKind::Data
                && let Some(inside) = run.intersection(hole)
            {
                found(inside);
            }
            // An extent that goes on behind this hole may reach into the next one.
            self.present = (run.end() > hole.end()).then_some(extent);
            if self.present.is_some() {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(offset: u64, length: u64) -> Range {
        Range { offset, length }
    }

    #[test]
    fn neighbouring_slots_are_one_run() {
        let mut difference = Difference::default();
        for (offset, length) in [(0, 65_536), (65_536, 65_536), (262_144, 100)] {
            difference.push_slot(&WantedSlot { id: BlobId::of_chunk(b""), offset, length });
        }
        assert_eq!(difference.slots, [range(0, 131_072), range(262_144, 100)]);
        assert_eq!(difference.bytes(), 131_172);
        assert!(!difference.is_none());
    }

    #[test]
    fn ranges_meet_only_where_both_are() {
        assert_eq!(range(0, 10).intersection(&range(5, 10)), Some(range(5, 5)));
        assert_eq!(range(0, 10).intersection(&range(10, 10)), None);
        assert_eq!(range(0, u64::MAX).intersection(&range(7, u64::MAX)), Some(range(7, u64::MAX - 7)));
    }
}
