//! Storing a file against its previous version.
//!
//! Its chunks are identified on all cores; those that the repository does not know are compared with what stood at
//! their places; what differs is looked for in what was replaced or cut off, and in what did not change; then records
//! are made and handed over in the order of the file. Invariants: a record is made of content that was hashed to its id
//! at that moment, so a file that changes meanwhile is noticed and nothing wrong is stored; the chunks, matches and
//! contents held at a time are bounded, whatever the file; the same change is stored in the same bytes.

mod bases;
mod changed;
mod comparing;
mod delta_record;
mod haystack;
mod holders;
#[cfg(test)]
mod tests;
mod unchanged;

use std::collections::HashSet;

use rayon::prelude::*;

use super::ahead::make_ahead;
use super::capturing::Capturing;
use super::effort::Effort;
use super::file::{ReadOutcome, StoredFile};
use super::reading::{ChangeTimes, Slots, SourceSlots, Steadiness};
use crate::chunk::tree::TreeBuilder;
use crate::error::Result;
use crate::format::content::Content;
use crate::format::limits::CHUNK_SIZE;
use crate::id::BlobId;
use crate::store::blob_reader::temporary_directory;
use crate::store::{BlobWriter, DeltaRecord, FrameGroup, PreviousContent, Stored, TreeSink};

use changed::{Against, Changed};
use comparing::{Comparing, Versions};
use haystack::{Haystack, Searcher};
pub(super) use unchanged::is_probed;
use unchanged::{LEAST_OF, SEARCHED_IN_A_ROW, Unchanged, UnchangedChunk};

/// Changed chunks that are compared together at most: 256 MiB of the file.
const BATCH: usize = 4096;
/// Slots that wait for their places in the tree at most: 4 GiB of the file.
const WINDOW: usize = 65_536;
/// Changed chunks for which content that moved is looked for together.
const SOUGHT_TOGETHER: usize = 512;
/// Chunks whose records are made side by side.
const GROUP: usize = 64;

/// Slots that wait for their places in the tree.
enum Pending {
    Chunk(BlobId),
    Holes(u64),
}

/// A file on its way into the store.
struct Increment<'c, 'f, 'a, 'p> {
    capturing: &'c mut Capturing<'p>,
    source: SourceSlots<'f>,
    previous: PreviousContent<'a>,
    tree: TreeBuilder,
    pending: Vec<Pending>,
    /// The slot that comes next.
    slot: u64,
    changed: Vec<Changed>,
    /// The ids of these.
    ids: HashSet<BlobId>,
    comparing: Comparing<'p>,
    haystack: Haystack,
    /// When the file had been changed before it was identified.
    changed_at: ChangeTimes,
    /// What stood from the end of the file to this slot is in the haystack.
    kept_until: u64,
    /// What stood at the places of chunks that the repository has already.
    displaced: Vec<BlobId>,
    sparse: bool,
}

/// What is stored of a changed chunk.
enum Encoded {
    Delta(DeltaRecord),
    Whole {
        id: BlobId,
        content: Vec<u8>,
    },
    /// The file has other bytes there by now.
    Gone,
}

impl Encoded {
    fn id(&self) -> Option<BlobId> {
        match self {
            Self::Delta(delta) => Some(delta.id),
            Self::Whole { id, .. } => Some(*id),
            Self::Gone => None,
        }
    }
}

/// Stores a file against its previous version.
pub(super) fn store(
    capturing: &mut Capturing<'_>,
    source: SourceSlots<'_>,
    previous: PreviousContent<'_>,
) -> Result<ReadOutcome> {
    let mut increment = Increment::begin(capturing, source, previous)?;
    let steadiness = source.identify(&mut |slots| increment.take(slots))?;
    if steadiness == Steadiness::Changed || increment.flush()? == Steadiness::Changed {
        return Ok(ReadOutcome::Changed);
    }
    increment.finish().map(ReadOutcome::Stored)
}

impl<'c, 'f, 'a, 'p> Increment<'c, 'f, 'a, 'p> {
    fn begin(
        capturing: &'c mut Capturing<'p>,
        source: SourceSlots<'f>,
        mut previous: PreviousContent<'a>,
    ) -> Result<Self> {
        let mut haystack = Haystack::new(&temporary_directory(previous.reader.repository()));
        if capturing.effort == Effort::Max {
            let chunks = previous.chunks()?;
            haystack.expect(chunks.len());
            haystack.keep_all(capturing.bulk_reader(), &chunks)?;
        }
        let comparing = Comparing::new(capturing.bulk_reader());
        Ok(Self {
            capturing,
            source,
            previous,
            tree: TreeBuilder::default(),
            pending: Vec::new(),
            slot: 0,
            changed: Vec::new(),
            comparing,
            ids: HashSet::new(),
            haystack,
            changed_at: source.changed_at()?,
            kept_until: 0,
            displaced: Vec::new(),
            sparse: false,
        })
    }

    /// Takes the next slots of the file.
    fn take(&mut self, slots: Slots) -> Result<Steadiness> {
        self.capturing.patience.check()?;
        match slots {
            Slots::Holes(count) => {
                self.sparse = true;
                self.slot += count;
                self.pending.push(Pending::Holes(count));
            }
            Slots::Chunks(ids) => {
                let rest = self.source.length.saturating_sub(self.slot * CHUNK_SIZE as u64);
                let first = self.changed.len();
                self.capturing.progress.advance(rest.min(ids.len() as u64 * CHUNK_SIZE as u64));
                for (id, known) in ids.iter().zip(self.capturing.writer.known(&ids)) {
                    if known || !self.ids.insert(*id) {
                        self.capturing.writer.count_reused(1);
                        if self.capturing.effort == Effort::Normal {
                            let before = self.previous.chunk_at(self.slot)?;
                            self.displaced.extend(before.filter(|before| before != id));
                        }
                    } else if self.source.is_left_out(self.slot) {
                        // It was lost from the repository since the image was taken.
                        return Ok(Steadiness::Changed);
                    } else {
                        self.changed.push(Changed::new(*id, self.slot));
                    }
                    self.slot += 1;
                    self.pending.push(Pending::Chunk(*id));
                }
                self.plan(first)?;
            }
        }
        if self.changed.len() >= BATCH || self.pending.len() >= WINDOW { self.flush() } else { Ok(Steadiness::Same) }
    }

    /// Stores the chunks taken so far, then the tree above them.
    fn flush(&mut self) -> Result<Steadiness> {
        let mut changed = std::mem::take(&mut self.changed);
        if self.compare(&mut changed)? == Steadiness::Changed || self.store(&mut changed)? == Steadiness::Changed {
            return Ok(Steadiness::Changed);
        }
        self.ids.clear();
        self.displaced.clear();
        let sink = &mut TreeSink { writer: self.capturing.writer, previous: Some(&mut self.previous) };
        for slots in self.pending.drain(..) {
            match slots {
                Pending::Chunk(id) => self.tree.push_chunk(id, sink)?,
                Pending::Holes(count) => self.tree.push_holes(count, sink)?,
            }
        }
        Ok(Steadiness::Same)
    }

    fn finish(mut self) -> Result<StoredFile> {
        let sink = &mut TreeSink { writer: self.capturing.writer, previous: Some(&mut self.previous) };
        let content = self.tree.finish(self.source.length, sink)?;
        Ok(StoredFile { content, sparse: self.sparse })
    }

    /// Chooses what the changed chunks from this number on are stored against.
    fn plan(&mut self, first: usize) -> Result<()> {
        let Self { changed, comparing, previous, haystack, source, capturing, .. } = self;
        comparing.plan(&mut versions(*source, capturing, previous, haystack), changed, first)
    }

    /// Compares chunks with what stood at their places; what was replaced is kept where it will be searched.
    fn compare(&mut self, changed: &mut [Changed]) -> Result<Steadiness> {
        let slots = Content::slots(self.previous.content().length);
        let cut_off = slots.saturating_sub(Content::slots(self.source.length));
        self.haystack.expect(changed.len().saturating_add(cut_off as usize).saturating_add(self.displaced.len()));
        let Self { comparing, previous, haystack, source, capturing, .. } = self;
        let comparing = std::mem::replace(comparing, Comparing::new(capturing.bulk_reader()));
        comparing.compare(&mut versions(*source, capturing, previous, haystack), changed)
    }

    /// Makes the records of chunks that were compared and hands them over.
    fn store(&mut self, changed: &mut [Changed]) -> Result<Steadiness> {
        if self.capturing.effort > Effort::Fast {
            let worth = changed.iter().map(Changed::missing).sum::<usize>() * LEAST_OF / CHUNK_SIZE;
            self.keep_cut_off(worth)?;
            self.keep_displaced(worth)?;
        }
        let mut unchanged = Unchanged::new(self.source, self.unchanged(), self.capturing.patience);
        for together in changed.chunks_mut(SOUGHT_TOGETHER) {
            if self.search(together, &mut unchanged)? == Steadiness::Changed
                || self.encode(together)? == Steadiness::Changed
            {
                return Ok(Steadiness::Changed);
            }
            together.iter_mut().for_each(|chunk| chunk.matches = Vec::new());
        }
        Ok(Steadiness::Same)
    }

    /// Looks for what is new in these chunks.
    fn search(&mut self, changed: &mut [Changed], unchanged: &mut Unchanged<'_>) -> Result<Steadiness> {
        if self.capturing.effort <= Effort::Fast {
            return Ok(Steadiness::Same);
        }
        self.capturing.patience.check()?;
        if let Some(haystack) = self.haystack.searchable() {
            let source = self.source;
            let search = |(searcher, buffer): &mut (Searcher<'_>, Vec<u8>), chunk: &mut Changed| {
                let sought = chunk.sought();
                let steadiness = source.runs_again(chunk.slot, sought.iter().copied(), buffer)?;
                chunk.take(searcher.search(buffer, sought.into_iter()));
                Ok(steadiness)
            };
            let searched: Vec<Steadiness> = changed
                .par_iter_mut()
                .with_max_len(SEARCHED_IN_A_ROW)
                .map_init(|| (haystack.searcher(), Vec::new()), search)
                .collect::<Result<_>>()?;
            if searched.contains(&Steadiness::Changed) {
                return Ok(Steadiness::Changed);
            }
        }
        if self.capturing.effort == Effort::Normal {
            unchanged.search(self.capturing.bulk_reader(), changed, &mut self.haystack)?;
        }
        Ok(Steadiness::Same)
    }

    /// Keeps what stood beyond the end that the file has now, if that is no more chunks than are worth it: `VACUUM`
    /// moves it forward.
    fn keep_cut_off(&mut self, worth: usize) -> Result<()> {
        let slots = Content::slots(self.previous.content().length);
        let cut_off = slots.saturating_sub(Content::slots(self.source.length).max(self.kept_until));
        if cut_off > worth as u64 {
            return Ok(());
        }
        let first = std::mem::replace(&mut self.kept_until, slots).max(Content::slots(self.source.length));
        let mut chunks = Vec::new();
        for slot in first..slots.min(first.saturating_add(WINDOW as u64)) {
            chunks.extend(self.previous.chunk_at(slot)?);
        }
        self.haystack.keep_all(self.capturing.bulk_reader(), &chunks)
    }

    /// Keeps what stood where chunks of another time or place stand now, and stands nowhere any more, if that is no
    /// more chunks than are worth it.
    fn keep_displaced(&mut self, worth: usize) -> Result<()> {
        if self.displaced.len() > worth {
            return Ok(());
        }
        let stand = |pending: &Pending| match pending {
            Pending::Chunk(id) => Some(*id),
            Pending::Holes(_) => None,
        };
        let standing: HashSet<BlobId> = self.pending.iter().filter_map(stand).collect();
        self.displaced.retain(|chunk| !standing.contains(chunk));
        self.haystack.keep_all(self.capturing.bulk_reader(), &self.displaced)
    }

    /// The chunks that wait for their places and did not change.
    fn unchanged(&self) -> Vec<UnchangedChunk> {
        let mut slot = self.tree.slots();
        let mut unchanged = Vec::new();
        for pending in &self.pending {
            match pending {
                Pending::Chunk(id) => {
                    if !self.ids.contains(id) {
                        unchanged.push(UnchangedChunk { slot, id: *id });
                    }
                    slot += 1;
                }
                Pending::Holes(count) => slot += count,
            }
        }
        unchanged
    }

    fn encode(&mut self, changed: &[Changed]) -> Result<Steadiness> {
        let Self { capturing, source, haystack, changed_at, .. } = self;
        let (source, haystack) = (*source, &*haystack);
        let encode = |group: &[Changed]| -> Result<Vec<Encoded>> {
            group.par_iter().map(|chunk| encode(chunk, source, haystack)).collect()
        };
        make_ahead(changed.chunks(GROUP), encode, |encoded| {
            capturing.patience.check()?;
            // Content that came back between two readings has the right hash, and differences that are not its own.
            if source.changed_at()? != *changed_at {
                return Ok(Steadiness::Changed);
            }
            put(capturing.writer, encoded)
        })
    }
}

/// Hands records over in their order, up to one whose content is gone.
fn put(writer: &mut BlobWriter, encoded: Vec<Encoded>) -> Result<Steadiness> {
    let ids: Vec<BlobId> = encoded.iter().map_while(Encoded::id).collect();
    let stored = writer.reserve_all(&ids);
    let steadiness = if stored.len() == encoded.len() { Steadiness::Same } else { Steadiness::Changed };
    for (encoded, _) in encoded.into_iter().zip(stored).filter(|(_, stored)| *stored == Stored::New) {
        match encoded {
            Encoded::Delta(delta) => writer.put_delta(delta)?,
            Encoded::Whole { id, content } => writer.put_whole(id, &content, FrameGroup::Increment)?,
            Encoded::Gone => {}
        }
    }
    Ok(steadiness)
}

/// What is compared with what in a file.
fn versions<'c, 'f, 'a>(
    source: SourceSlots<'f>,
    capturing: &Capturing<'c>,
    previous: &'c mut PreviousContent<'a>,
    haystack: &'c mut Haystack,
) -> Versions<'c, 'f, 'a> {
    let haystack = (capturing.effort == Effort::Normal).then_some(haystack);
    Versions { source, previous, haystack, patience: capturing.patience }
}

/// Makes the record of one chunk.
fn encode(chunk: &Changed, source: SourceSlots<'_>, haystack: &Haystack) -> Result<Encoded> {
    let Some(content) = source.chunk_again(chunk.slot)? else { return Ok(Encoded::Gone) };
    if let Against::Previous(base) = chunk.against
        && let Some(delta) = delta_record::encode(chunk, &content, base, haystack)
    {
        return Ok(Encoded::Delta(delta));
    }
    let id = BlobId::of_chunk(&content);
    Ok(if id == chunk.id { Encoded::Whole { id, content } } else { Encoded::Gone })
}
