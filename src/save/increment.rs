//! Storing a file against its previous version.
//!
//! Its chunks are identified on all cores; those that the repository does not know are compared with what stood at their
//! places; what differs is looked for in what was replaced; then records are made and handed over in the order of
//! the file. Invariants: a record is made of content that was hashed to its id at that moment, so a file that changes
//! meanwhile is noticed and nothing wrong is stored; the chunks, literals and contents held at a time are bounded, whatever
//! the file.

use std::collections::HashSet;

use rayon::prelude::*;

use super::capturing::Capturing;
use super::changed::{Against, Changed};
use super::comparing::Comparing;
use super::delta_record::{self, Literal, SHORT_COPY};
use super::effort::Effort;
use super::file::{ReadOutcome, StoredFile};
use super::haystack::Haystack;
use super::reading::{Slots, SourceFile, Steadiness};
use super::unchanged::{self, Unchanged};
use crate::chunk::moved::Needles;
use crate::chunk::tree::TreeBuilder;
use crate::error::Result;
use crate::format::content::Content;
use crate::format::limits::CHUNK_SIZE;
use crate::id::BlobId;
use crate::store::blob_reader::temporary_directory;
use crate::store::{Company, DeltaRecord, PreviousVersion, Stored, TreeSink};

/// Changed chunks that are compared together at most: 256 MiB of the file.
const BATCH: usize = 4096;
/// Slots that wait for their places in the tree at most: 4 GiB of the file.
const WINDOW: usize = 65_536;
/// Bytes of literals looked for in one pass.
const LITERAL_BYTES: usize = 8 * 1024 * 1024;
/// Literals of so many bytes are looked for in what was cut off, too.
const MUCH: usize = 256 * 1024;
/// A chunk whose differences are all shorter than this is not worth a search.
const NEEDLE_BYTES: usize = 64;
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
    source: SourceFile<'f>,
    previous: PreviousVersion<'a>,
    tree: TreeBuilder,
    pending: Vec<Pending>,
    /// The slot that comes next.
    slot: u64,
    changed: Vec<Changed>,
    /// The ids of these.
    ids: HashSet<BlobId>,
    haystack: Haystack,
    /// What stood from the end of the file to this slot is in the haystack.
    kept_until: u64,
    sparse: bool,
}

/// What is stored of a changed chunk.
enum Encoded {
    Delta(DeltaRecord),
    Whole(Vec<u8>),
    /// The file has other bytes there by now.
    Gone,
}

/// Stores a file against its previous version.
pub(super) fn store(
    capturing: &mut Capturing<'_>,
    source: SourceFile<'_>,
    previous: PreviousVersion<'_>,
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
        source: SourceFile<'f>,
        mut previous: PreviousVersion<'a>,
    ) -> Result<Self> {
        let mut haystack = Haystack::new(&temporary_directory(previous.reader.repository()));
        if capturing.effort == Effort::Max {
            let chunks = previous.chunks()?;
            haystack.keep_all(&mut previous.reader, &chunks)?;
        }
        Ok(Self {
            capturing,
            source,
            previous,
            tree: TreeBuilder::default(),
            pending: Vec::new(),
            slot: 0,
            changed: Vec::new(),
            ids: HashSet::new(),
            haystack,
            kept_until: 0,
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
                self.capturing.progress.advance(rest.min(ids.len() as u64 * CHUNK_SIZE as u64));
                for (id, known) in ids.iter().zip(self.capturing.writer.known(&ids)) {
                    if known || !self.ids.insert(*id) {
                        self.capturing.writer.count_reused(1);
                    } else {
                        self.changed.push(Changed::new(*id, self.slot));
                    }
                    self.slot += 1;
                    self.pending.push(Pending::Chunk(*id));
                }
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

    /// Compares chunks with what stood at their places; what was replaced is kept where it will be searched.
    fn compare(&mut self, changed: &mut [Changed]) -> Result<Steadiness> {
        let (source, patience) = (self.source, self.capturing.patience);
        let haystack = (self.capturing.effort == Effort::Normal).then_some(&mut self.haystack);
        Comparing { source, previous: &mut self.previous, haystack, patience }.compare(changed)
    }

    /// Makes the records of chunks that were compared and hands them over.
    fn store(&mut self, changed: &mut [Changed]) -> Result<Steadiness> {
        let mut rest = changed;
        while !rest.is_empty() {
            let mut literals = 0;
            let mut fits = |chunk: &Changed| {
                literals += chunk.differences.bytes();
                literals <= LITERAL_BYTES
            };
            let count = rest.iter().take_while(|chunk| fits(chunk)).count().max(1);
            let (together, behind) = rest.split_at_mut_checked(count).unwrap_or_default();
            rest = behind;
            if self.search(together)? == Steadiness::Changed || self.encode(together)? == Steadiness::Changed {
                return Ok(Steadiness::Changed);
            }
            self.haystack.forget_matches();
        }
        Ok(Steadiness::Same)
    }

    /// Looks for what is new in these chunks.
    fn search(&mut self, changed: &mut [Changed]) -> Result<Steadiness> {
        if self.capturing.effort <= Effort::Fast {
            return Ok(Steadiness::Same);
        }
        let Some(needles) = self.needles(changed)? else { return Ok(Steadiness::Changed) };
        if needles.bytes() >= MUCH {
            self.keep_cut_off()?;
        }
        self.haystack.search(&needles);
        if self.capturing.effort == Effort::Normal {
            let (repository, unchanged) = (self.previous.reader.repository(), self.unchanged());
            unchanged::search(repository, self.source, &unchanged, &needles, &mut self.haystack)?;
        }
        Ok(Steadiness::Same)
    }

    /// Keeps what stood beyond the end that the file has now: `VACUUM` moves it forward.
    fn keep_cut_off(&mut self) -> Result<()> {
        let slots = Content::slots(self.previous.content().length);
        let first = std::mem::replace(&mut self.kept_until, slots).max(Content::slots(self.source.length));
        let mut chunks = Vec::new();
        for slot in (first..slots).take(BATCH) {
            chunks.extend(self.previous.chunk_at(slot)?);
        }
        self.haystack.keep_all(&mut self.previous.reader, &chunks)
    }

    /// The chunks that wait for their places and did not change.
    fn unchanged(&self) -> Vec<Unchanged> {
        let mut slot = self.tree.slots();
        let mut unchanged = Vec::new();
        for pending in &self.pending {
            match pending {
                Pending::Chunk(id) => {
                    if !self.ids.contains(id) {
                        unchanged.push(Unchanged { slot, id: *id });
                    }
                    slot += 1;
                }
                Pending::Holes(count) => slot += count,
            }
        }
        unchanged
    }

    /// The bytes in which these chunks differ, where they are long enough to be found elsewhere; `None` if the file ends
    /// before them by now.
    fn needles(&self, changed: &mut [Changed]) -> Result<Option<Needles>> {
        let (mut needles, source) = (Needles::default(), self.source);
        for group in changed.chunks_mut(GROUP) {
            let contents: Vec<Option<Vec<u8>>> = group
                .par_iter()
                .map(|chunk| {
                    let is_needle = chunk.differences.runs().any(|run| run.length >= NEEDLE_BYTES);
                    if is_needle { source.chunk_again(chunk.slot) } else { Ok(Some(Vec::new())) }
                })
                .collect::<Result<_>>()?;
            for (chunk, content) in group.iter_mut().zip(contents) {
                let Some(content) = content else { return Ok(None) };
                if !content.is_empty() {
                    chunk.first_needle = Some(needles.count());
                    for run in chunk.differences.runs() {
                        needles.add(content.get(run.start..run.end()).unwrap_or_default());
                    }
                }
            }
        }
        Ok(Some(needles))
    }

    fn encode(&mut self, changed: &[Changed]) -> Result<Steadiness> {
        for group in changed.chunks(GROUP) {
            self.capturing.patience.check()?;
            let (source, haystack) = (self.source, &self.haystack);
            let encoded: Vec<Encoded> =
                group.par_iter().map(|chunk| encode(chunk, source, haystack)).collect::<Result<_>>()?;
            for (chunk, encoded) in group.iter().zip(encoded) {
                if matches!(encoded, Encoded::Gone) {
                    return Ok(Steadiness::Changed);
                }
                let writer = &mut *self.capturing.writer;
                match (writer.reserve(chunk.id), encoded) {
                    (Stored::New, Encoded::Delta(delta)) => writer.put_delta(delta)?,
                    (Stored::New, Encoded::Whole(content)) => {
                        writer.put_whole(chunk.id, &content, Company::Increment)?;
                    }
                    (Stored::New, Encoded::Gone) | (Stored::Reused, _) => {}
                }
            }
        }
        Ok(Steadiness::Same)
    }
}

/// Makes the record of one chunk.
fn encode(chunk: &Changed, source: SourceFile<'_>, haystack: &Haystack) -> Result<Encoded> {
    let Some(content) = source.chunk_again(chunk.slot)? else { return Ok(Encoded::Gone) };
    if let Against::Previous(base) = chunk.against {
        let matches_of = |number: usize| match chunk.first_needle {
            Some(first) => haystack.matches().of(first + number, SHORT_COPY),
            None => Vec::new(),
        };
        let literals = chunk.differences.runs().enumerate();
        let literals: Vec<Literal> =
            literals.map(|(number, run)| Literal { run, matches: matches_of(number) }).collect();
        if let Some(delta) = delta_record::encode(chunk.id, &content, base, &literals, haystack) {
            return Ok(Encoded::Delta(delta));
        }
    }
    Ok(if BlobId::of_chunk(&content) == chunk.id { Encoded::Whole(content) } else { Encoded::Gone })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;
    use std::time::Duration;

    use super::*;
    use crate::progress::Silent;
    use crate::save::capturing::Patience;
    use crate::save::file;
    use crate::save::previous::{Predecessors, Reading};
    use crate::store::{Access, BlobReader, BlobWriter, LockWait, Repository};

    const WAIT: LockWait = LockWait(Duration::from_secs(1));

    fn noise(seed: u8, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes);
        bytes
    }

    fn with_capturing<T>(repository: &Repository, effort: Effort, use_it: impl FnOnce(&mut Capturing<'_>) -> T) -> T {
        let mut writer = BlobWriter::begin(repository, effort.metadata(), effort.thoroughness()).unwrap();
        let predecessors = Predecessors::none(repository);
        let patience = Patience::new(&Silent, None);
        let (reading, predecessors) = (Reading::All, &predecessors);
        let writer_ref = &mut writer;
        let used = use_it(&mut Capturing {
            repository,
            writer: writer_ref,
            progress: &Silent,
            reading,
            effort,
            predecessors,
            patience,
        });
        writer.finish().unwrap();
        used
    }

    fn store_bytes(directory: &std::path::Path, bytes: &[u8], previous: Option<Content>, effort: Effort) -> Content {
        let repository = Repository::open_or_create(directory, WAIT).unwrap();
        let source = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(source.path(), bytes).unwrap();
        let outcome = with_capturing(&repository, effort, |capturing| {
            file::store(capturing, source.as_file(), source.path(), bytes.len() as u64, previous).unwrap()
        });
        let ReadOutcome::Stored(stored) = outcome else { panic!("{outcome:?}") };
        stored.content
    }

    fn assert_holds(directory: &std::path::Path, bytes: &[u8]) {
        let repository = Repository::open(directory, Access::Read, WAIT).unwrap().unwrap();
        let mut reader = BlobReader::new(&repository);
        for chunk in bytes.chunks(CHUNK_SIZE) {
            assert_eq!(&*reader.chunk(&BlobId::of_chunk(chunk)).unwrap().unwrap(), chunk);
        }
    }

    fn stored_bytes(directory: &std::path::Path) -> u64 {
        let repository = Repository::open(directory, Access::Read, WAIT).unwrap().unwrap();
        crate::store::packs::list(repository.storage()).unwrap().iter().map(|pack| pack.size).sum()
    }

    #[test]
    fn whatever_changed_comes_back_at_every_effort_and_content_that_moved_costs_little() {
        let old = noise(1, 200 * CHUNK_SIZE + 777);
        let mut new = old.clone();
        for chunk in 0..180 {
            // A page moves here from the next chunk but one, where something else takes its place.
            let from = (chunk + 2) * CHUNK_SIZE + 12_288;
            new.copy_within(from..from + 4096, chunk * CHUNK_SIZE + 12_288);
            new[chunk * CHUNK_SIZE + 40_000] ^= 1;
        }
        new.extend(noise(2, 3 * CHUNK_SIZE));
        let mut costs = Vec::new();
        for effort in [Effort::Fast, Effort::Normal, Effort::Max] {
            let directory = tempfile::tempdir().unwrap();
            let first = store_bytes(directory.path(), &old, None, effort);
            let before = stored_bytes(directory.path());
            let second = store_bytes(directory.path(), &new, Some(first), effort);
            assert_eq!(second.length, new.len() as u64);
            assert_holds(directory.path(), &new);
            costs.push(stored_bytes(directory.path()) - before);
        }
        let [fast, normal, max] = costs[..] else { panic!() };
        assert!(fast > 180 * 4096 && max < 300_000 && normal < fast, "{costs:?}");
    }

    #[test]
    fn content_that_is_copied_out_of_places_that_stay_as_they_are_is_found_there() {
        let directory = tempfile::tempdir().unwrap();
        let old = noise(1, 120 * CHUNK_SIZE);
        let mut new = old.clone();
        // Half of the file is merged into its beginning and stays behind as it was.
        for page in 0..300 {
            let from = 60 * CHUNK_SIZE + page * 8192;
            new.copy_within(from..from + 4096, page * 4096);
        }
        let first = store_bytes(directory.path(), &old, None, Effort::Normal);
        let before = stored_bytes(directory.path());
        store_bytes(directory.path(), &new, Some(first), Effort::Normal);
        let cost = stored_bytes(directory.path()) - before;
        assert!(cost < 30_000, "{cost} bytes for 1.2 MB that the file has already");
        assert_holds(directory.path(), &new);
    }

    #[test]
    fn a_file_that_changes_between_two_readings_is_noticed_and_nothing_of_it_counts_as_stored() {
        let directory = tempfile::tempdir().unwrap();
        let old = noise(1, 40 * CHUNK_SIZE);
        let first = store_bytes(directory.path(), &old, None, Effort::Normal);
        let mut new = old.clone();
        new[5 * CHUNK_SIZE + 9..5 * CHUNK_SIZE + 9000].copy_from_slice(&noise(3, 8991));
        let source = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(source.path(), &new).unwrap();
        let repository = Repository::open_or_create(directory.path(), WAIT).unwrap();
        with_capturing(&repository, Effort::Normal, |capturing| {
            let file = SourceFile { file: source.as_file(), path: source.path(), length: new.len() as u64 };
            let previous = capturing.version(first).unwrap();
            let mut increment = Increment::begin(capturing, file, previous).unwrap();
            assert_eq!(file.identify(&mut |slots| increment.take(slots)).unwrap(), Steadiness::Same);
            source.as_file().write_all_at(b"later", 5 * CHUNK_SIZE as u64 + 100).unwrap();
            assert_eq!(increment.flush().unwrap(), Steadiness::Changed);
            // What is read anew is stored, also what was met before.
            source.as_file().write_all_at(&new[5 * CHUNK_SIZE + 100..][..5], 5 * CHUNK_SIZE as u64 + 100).unwrap();
            let previous = capturing.version(first).unwrap();
            assert!(matches!(store(capturing, file, previous).unwrap(), ReadOutcome::Stored(_)));
        });
        drop(repository);
        assert_holds(directory.path(), &new);
    }
}
