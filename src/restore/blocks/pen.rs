//! Writing slots of one file: those whose chunks were staged, and those that wait for their chunks.
//!
//! Invariant: a block that is right already is not written. Staged slots are looked at on all cores and written one
//! after the other; where many wait, their chunks are read in the order of packs and written as they come out.

use std::ops::Range as Bytes;

use parking_lot::Mutex;
use rayon::prelude::*;

use super::{BLOCK, SLOTS_A_TASK, Written};
use crate::disk::target::TargetFile;
use crate::error::{Error, Result};
use crate::format::pack::BlobKind;
use crate::progress::Progress;
use crate::restore::awaited::{AwaitedChunks, LostPlace, Place};
use crate::restore::plan::{FileRole, FileStep};
use crate::restore::wanted::{WantedSlot, cannot_be_read, read_slot};
use crate::store::{BlobReader, PlanCapacity, StagedBlobs};

/// Slots of a file from which on their chunks are worth a read of their own in the order of packs.
const MANY_SLOTS: usize = 64;

/// Writes slots of one file.
pub(super) struct Pen<'p> {
    pub(super) file: &'p TargetFile,
    pub(super) step: &'p FileStep,
    pub(super) old_size: u64,
    pub(super) progress: &'p dyn Progress,
}

/// A slot that is about to be written.
struct ReadySlot {
    wanted: Vec<u8>,
    /// The runs of blocks that differ, in bytes of the slot.
    runs: Vec<Bytes<usize>>,
}

impl Pen<'_> {
    /// Writes what differs in these slots, which are emptied; those whose chunks were not staged go to `waiting`.
    pub(super) fn write_staged(
        &self,
        slots: &mut Vec<WantedSlot>,
        staged: Option<&StagedBlobs>,
        waiting: &mut Vec<WantedSlot>,
    ) -> Result<Written> {
        self.progress.check()?;
        let looks = slots.par_iter().with_min_len(SLOTS_A_TASK).map(|slot| {
            let wanted = staged.and_then(|staged| staged.blob(&slot.id, BlobKind::Chunk));
            let fitting = wanted.filter(|wanted| wanted.len() == slot.length);
            fitting.map(|wanted| Ok(ReadySlot { runs: self.look_at(slot, &wanted)?, wanted })).transpose()
        });
        let looks: Vec<Option<ReadySlot>> = looks.collect::<Result<_>>()?;
        let mut written = Written::default();
        for (slot, look) in slots.drain(..).zip(looks) {
            let Some(ReadySlot { wanted, runs }) = look else {
                waiting.push(slot);
                continue;
            };
            written.add(self.write_runs(&slot, &wanted, runs)?);
            self.progress.advance(slot.length as u64);
        }
        Ok(written)
    }

    /// Writes what differs in these slots, which are emptied.
    pub(super) fn write_waiting(&self, slots: &mut Vec<WantedSlot>, reader: &mut BlobReader<'_>) -> Result<Written> {
        let written = Mutex::new(Written::default());
        let put = |slot: &WantedSlot, wanted: &[u8]| {
            let of_slot = self.write_runs(slot, wanted, self.look_at(slot, wanted)?)?;
            written.lock().add(of_slot);
            Ok(())
        };
        if slots.len() < MANY_SLOTS {
            for slot in slots.drain(..) {
                self.progress.check()?;
                put(&slot, &read_slot(reader, &slot)?)?;
                self.progress.advance(slot.length as u64);
            }
        } else {
            let mut awaited = AwaitedChunks::new(reader.repository());
            let mut read = |awaited: &mut AwaitedChunks<'_>| {
                let lost = awaited.read(reader, self.progress, &|place, bytes| put(&place.slot, bytes))?;
                lost.first().map_or(Ok(()), |LostPlace { place, cause }| {
                    Err(Error::damaged(reader.repository().root(), cannot_be_read(&place.slot.id, cause)))
                })
            };
            for slot in slots.drain(..) {
                if awaited.want(Place { file: 0, slot }, self.progress)? == PlanCapacity::Full {
                    read(&mut awaited)?;
                }
            }
            read(&mut awaited)?;
        }
        Ok(written.into_inner())
    }

    /// Finds the runs of blocks of a slot that differ from what is there.
    fn look_at(&self, slot: &WantedSlot, wanted: &[u8]) -> Result<Vec<Bytes<usize>>> {
        let mut current = vec![0; wanted.len()];
        // What is missing at the end reads as zeros.
        if slot.offset < self.old_size {
            self.file.read_at(slot.offset, &mut current)?;
        }
        let mut runs: Vec<Bytes<usize>> = Vec::new();
        for (number, (new, old)) in wanted.chunks(BLOCK).zip(current.chunks(BLOCK)).enumerate() {
            let start = number * BLOCK;
            if self.must_write(slot.offset + start as u64, new, old) {
                match runs.last_mut() {
                    Some(run) if run.end == start => run.end += new.len(),
                    _ => runs.push(start..start + new.len()),
                }
            }
        }
        Ok(runs)
    }

    fn must_write(&self, offset: u64, new: &[u8], old: &[u8]) -> bool {
        let held_back = offset == 0 && self.step.role == FileRole::Database;
        // Behind the old end there is nothing but the hole that growing the file left.
        let unallocated = offset >= self.old_size && !self.step.sparse;
        !held_back && (new != old || unallocated)
    }

    fn write_runs(&self, slot: &WantedSlot, wanted: &[u8], runs: Vec<Bytes<usize>>) -> Result<Written> {
        let mut written = Written::default();
        for run in runs {
            self.progress.check()?;
            let start = run.start as u64;
            let Some(bytes) = wanted.get(run) else { continue };
            self.file.write_block(slot.offset + start, bytes)?;
            written.add(Written { blocks: bytes.len().div_ceil(BLOCK) as u64, bytes: bytes.len() as u64 });
        }
        Ok(written)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::chunk::compress::Thoroughness;
    use crate::disk::target::TargetRoot;
    use crate::format::content::Content;
    use crate::format::limits::CHUNK_SIZE;
    use crate::format::pack::Footer;
    use crate::progress::Silent;
    use crate::restore::attributes::Attributes;
    use crate::restore::blocks::BlockWriter;
    use crate::restore::difference::Difference;
    use crate::restore::plan::Change;
    use crate::restore::verify::fixture::{self, noise};
    use crate::restore::wanted::Range;
    use crate::store::{BlobWriter, MetadataRecords, Repository, layout};

    /// More slots than are read one by one, two of them alike, and a short last one.
    fn bytes() -> Vec<u8> {
        let mut bytes = noise(1, 100 * CHUNK_SIZE + 1234);
        bytes.copy_within(3 * CHUNK_SIZE..4 * CHUNK_SIZE, 80 * CHUNK_SIZE);
        bytes
    }

    fn store(root: &Path) -> (Repository, Content) {
        let repository = fixture::create(root);
        let mut writer = BlobWriter::begin(&repository, MetadataRecords::Whole, Thoroughness::Thorough).unwrap();
        let content = fixture::store_content(&bytes(), &mut writer);
        writer.finish().unwrap();
        (repository, content)
    }

    fn step(content: Content, change: Change) -> FileStep {
        let attributes = Attributes { mode: 0o600, uid: 0, gid: 0, mtime: Default::default() };
        let (name, lost, role) = (b"file".to_vec(), Vec::new(), FileRole::Plain);
        FileStep { name, content, sparse: false, role, change, attributes, lost, keeps_header: false }
    }

    fn write(repository: &Repository, file: &TargetFile, step: &FileStep) -> Result<Written> {
        let mut reader = BlobReader::new(repository);
        let mut writer = BlockWriter { reader: &mut reader, progress: &Silent, written: Written::default() };
        writer.write_content(file, step)?;
        Ok(writer.written)
    }

    fn read(file: &TargetFile) -> Vec<u8> {
        let mut found = vec![0; 200 * CHUNK_SIZE];
        let length = file.read_at(0, &mut found).unwrap();
        found.truncate(length);
        found
    }

    #[test]
    fn many_slots_that_were_not_staged_are_read_together_and_only_blocks_that_differ_are_written() {
        let scratch = tempfile::tempdir().unwrap();
        let (repository, content) = store(&scratch.path().join("repository"));
        let root = TargetRoot::open_or_create(&scratch.path().join("target"), 0o700).unwrap();
        let file = root.create_file(b"file", 0o600).unwrap();
        let written = write(&repository, &file, &step(content, Change::Create)).unwrap();
        assert!(read(&file) == bytes());
        assert_eq!((written.bytes, written.blocks), (content.length, content.length.div_ceil(BLOCK as u64)));

        for slot in [5, 80, 99] {
            file.write_block((slot * CHUNK_SIZE + 2 * BLOCK + 17) as u64, b"changed").unwrap();
        }
        let slots = vec![Range { offset: 0, length: content.length }];
        let overwrite = Change::Overwrite(Difference { slots, ..Difference::default() });
        let written = write(&repository, &file, &step(content, overwrite)).unwrap();
        assert!(read(&file) == bytes());
        assert_eq!(written, Written { blocks: 3, bytes: 3 * BLOCK as u64 });
    }

    #[test]
    fn a_chunk_that_cannot_be_had_ends_the_writing_and_is_named() {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path().join("repository");
        let (repository, content) = store(&root);
        let pack = repository.index().packs().pop().unwrap();
        let footer: Footer =
            crate::store::packs::read_footer(repository.storage(), repository.header(), &pack).unwrap();
        let frame = footer.frames.first().unwrap();
        let path = root.join(layout::pack(&pack.id));
        let mut packed = std::fs::read(&path).unwrap();
        packed[frame.offset as usize + 100] ^= 1;
        std::fs::write(path, packed).unwrap();
        let target = TargetRoot::open_or_create(&scratch.path().join("target"), 0o700).unwrap();
        let file = target.create_file(b"file", 0o600).unwrap();
        let error = write(&repository, &file, &step(content, Change::Create)).unwrap_err();
        assert!(matches!(error, Error::Damaged { .. }), "{error:?}");
        assert!(error.to_string().contains("cannot be read"), "{error}");
    }
}
