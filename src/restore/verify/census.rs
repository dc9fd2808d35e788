//! Every blob that many snapshots reach, read once.
//!
//! Snapshots share most of what they reach, so what is below a list node that was gone through is not gone through
//! again. Invariant: a snapshot that is judged without a lost blob reaches only blobs that were read, decoded and
//! hashed in this census (or, in a sample, only such whose frames were not drawn). Tables and list nodes are always
//! read; of the frames of contents, a sample draws some by a seed. Sets lie in temporary files.

use std::collections::HashSet;
use std::num::NonZero;

use lru::LruCache;
use rusqlite::Connection;

use super::blobs::{self, LostChunks, NeededChunks};
use super::walk::is_repeated;
use super::{MOST_LOST, Survey, Verification, VerifyOptions, Visited, WalkDepth, judge, walk};
use crate::error::Result;
use crate::format::content::{Content, Root};
use crate::format::manifest::{Manifest, SourceRecord};
use crate::format::table::EntryKind;
use crate::id::{BlobId, BlobPrefix, PackId};
use crate::progress::{Phase, Progress};
use crate::store::file_table::{TableFault, TableReader};
use crate::store::packs::{self, PackFile};
use crate::store::pieces::{Descent, Piece, Pieces};
use crate::store::temporary::{self, failed, prepared};
use crate::store::{BlobReader, Repository, WantedChunk};

/// Packs whose drawn frames are remembered.
const DRAWN_PACKS: NonZero<usize> = NonZero::new(256).unwrap();

const SCHEMA: &str = "
CREATE TABLE passed(node BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE hiding(blob BLOB PRIMARY KEY) WITHOUT ROWID;";

/// Which part of the contents is read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// How likely a frame is drawn, from 0 to 1.
    pub share: f64,
    /// What decides which frames are drawn: the same seed draws the same ones.
    pub seed: u64,
}

impl Sample {
    fn draws(&self, pack: &PackId, frame: u32) -> bool {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.seed.to_le_bytes()).update(pack.as_bytes()).update(&frame.to_le_bytes());
        let hash = hasher.finalize();
        let drawn = hash.as_bytes().first_chunk::<8>().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        (drawn as f64) < self.share * (u64::MAX as f64)
    }
}

/// A census under way.
pub struct Census<'r> {
    repository: &'r Repository,
    reader: BlobReader<'r>,
    needed: NeededChunks,
    marks: Connection,
    sample: Option<Draw>,
}

/// The records that a sample draws, by pack.
struct Draw {
    sample: Sample,
    packs: LruCache<PackId, Vec<bool>>,
}

impl<'r> Census<'r> {
    /// Begins a census of this repository; without a sample, of everything.
    ///
    /// # Errors
    /// When no temporary file can be made.
    pub fn begin(repository: &'r Repository, sample: Option<Sample>) -> Result<Self> {
        let marks = temporary::database(SCHEMA)?;
        repository.forget_footers();
        let reader = BlobReader::with_frame_cache(repository, blobs::FRAME_CACHE);
        let sample = sample.map(|sample| Draw { sample, packs: LruCache::new(DRAWN_PACKS) });
        Ok(Self { repository, reader, needed: NeededChunks::new()?, marks, sample })
    }

    /// Gathers what a snapshot reaches, and reads its tables and list nodes.
    ///
    /// # Errors
    /// I/O errors; an interruption.
    pub fn add(&mut self, manifest: &Manifest, progress: &dyn Progress) -> Result<()> {
        self.marks.execute_batch("BEGIN").map_err(failed("write"))?;
        let mut captured = manifest.sources.iter().filter(|source| source.is_captured());
        let added = captured.try_for_each(|source| self.add_source(source, progress));
        self.marks.execute_batch("COMMIT").map_err(failed("write"))?;
        added
    }

    fn add_source(&mut self, source: &SourceRecord, progress: &dyn Progress) -> Result<()> {
        let mut table = TableReader::of(&source.table);
        loop {
            progress.check()?;
            match table.next(&mut self.reader, |_| ())? {
                Ok(Some(entry)) => {
                    if let EntryKind::File(file) = &entry.kind {
                        self.add_content(&file.content, progress)?;
                    }
                }
                Ok(None) => return Ok(()),
                Err(TableFault::Blob { id, .. }) => return self.note_hiding(&id),
                Err(TableFault::Malformed(_)) => return Ok(()),
            }
        }
    }

    fn add_content(&mut self, content: &Content, progress: &dyn Progress) -> Result<()> {
        if let Root::Node { id, .. } = content.root
            && is_passed(&self.marks, &id)?
        {
            return Ok(());
        }
        let mut pieces = Pieces::of(content);
        let mut nodes: Vec<BlobId> = Vec::new();
        let mut seen = HashSet::new();
        let mut all = true;
        loop {
            let marks = &self.marks;
            let piece = pieces.next_in(&mut self.reader, |node| {
                if is_passed(marks, &node.id)? || is_repeated(&mut seen, &node) {
                    return Ok(Descent::Past);
                }
                nodes.push(node.id);
                Ok(Descent::Below)
            })?;
            match piece {
                None => break,
                Some(Piece::Hole { .. }) => {}
                Some(Piece::Chunk { id, length, .. }) => {
                    progress.check()?;
                    if self.is_drawn(&id)? {
                        self.needed.insert(self.repository, &mut vec![WantedChunk { id, length: length as u64 }])?;
                    }
                }
                Some(Piece::Hidden { node, .. }) => {
                    all = false;
                    self.note_hiding(&node)?;
                }
            }
        }
        // Below a node that hides something, every snapshot looks for itself.
        if all {
            for node in &nodes {
                insert(&self.marks, "INSERT OR IGNORE INTO passed VALUES(?)", node.as_bytes())?;
            }
        }
        Ok(())
    }

    /// Notes a table chunk or list node that cannot be read, and what is in its way.
    fn note_hiding(&self, blob: &BlobId) -> Result<()> {
        for blob in self.reader.blamed().iter().chain([&blob.prefix()]) {
            insert(&self.marks, "INSERT OR IGNORE INTO hiding VALUES(?)", blob.as_bytes())?;
        }
        Ok(())
    }

    /// Whether a chunk is read. One that no pack holds always is looked for.
    fn is_drawn(&mut self, id: &BlobId) -> Result<bool> {
        let Some(draw) = &mut self.sample else { return Ok(true) };
        let places = self.repository.index().places(id)?;
        let Some(place) = places.first() else { return Ok(true) };
        let drawn = match draw.packs.get(&place.pack.id) {
            Some(drawn) => drawn,
            None => {
                let drawn = drawn_records(self.repository, &place.pack, &draw.sample);
                draw.packs.get_or_insert(place.pack.id, || drawn)
            }
        };
        Ok(drawn.get(place.record as usize).copied().unwrap_or(true))
    }

    /// Reads what was gathered and drawn, or looks it up, in the order of packs.
    ///
    /// # Errors
    /// I/O errors; an interruption.
    pub fn read(self, options: VerifyOptions, progress: &dyn Progress) -> Result<CensusResult<'r>> {
        let bytes = self.needed.bytes();
        progress.phase(Phase::Verifying, Some(bytes));
        let chunks = self.needed.check(self.repository, options.depth, HashSet::new(), None, progress)?.lost;
        Ok(CensusResult { reader: self.reader, chunks, marks: self.marks, options, bytes })
    }
}

/// Which records of a pack are drawn; empty, and then all are, where its footer cannot be read.
fn drawn_records(repository: &Repository, pack: &PackFile, sample: &Sample) -> Vec<bool> {
    let Ok(footer) = packs::read_footer(repository.storage(), repository.header(), pack) else { return Vec::new() };
    let frames: Vec<bool> = (0..footer.frames.len() as u32).map(|frame| sample.draws(&pack.id, frame)).collect();
    let drawn = |frame: u32| frames.get(frame as usize).copied().unwrap_or(true);
    footer.records.iter().map(|record| drawn(record.frame)).collect()
}

/// The blobs that a census found lost.
pub struct CensusResult<'r> {
    reader: BlobReader<'r>,
    chunks: LostChunks,
    marks: Connection,
    options: VerifyOptions,
    bytes: u64,
}

impl CensusResult<'_> {
    /// Distinct bytes of contents that were read or looked up.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether anything is lost.
    ///
    /// # Errors
    /// When the temporary file cannot be read.
    pub fn any(&self) -> Result<bool> {
        Ok(!self.chunks.is_empty()? || self.any_hiding()?)
    }

    fn any_hiding(&self) -> Result<bool> {
        prepared(&self.marks, "SELECT 1 FROM hiding LIMIT 1")?.exists([]).map_err(failed("read"))
    }

    /// Hands out every lost blob, and every blob that is in the way of one; some may come twice.
    ///
    /// # Errors
    /// When the temporary files cannot be read; those of `take`.
    pub fn each(&self, mut take: impl FnMut(BlobPrefix) -> Result<()>) -> Result<()> {
        self.chunks.each(&mut take)?;
        let mut query = prepared(&self.marks, "SELECT blob FROM hiding")?;
        let mut rows = query.query([]).map_err(failed("read"))?;
        while let Some(row) = rows.next().map_err(failed("read"))? {
            take(BlobPrefix::from_bytes(row.get(0).map_err(failed("read"))?))?;
        }
        Ok(())
    }

    /// What all this means for a snapshot that was added: what it lost by file and byte; databases are checked.
    ///
    /// # Errors
    /// Those of [`super::verify`].
    pub fn judge(&mut self, manifest: &Manifest, progress: &dyn Progress) -> Result<Verification> {
        let depth = if self.any_hiding()? { WalkDepth::Chunks } else { WalkDepth::Entries };
        let mut surveys = Vec::with_capacity(manifest.sources.len());
        for source in &manifest.sources {
            surveys.push(look_over(source, depth, &mut self.reader, progress)?);
        }
        judge(manifest, surveys, &self.chunks, &[], self.options, &mut self.reader, progress)
    }
}

/// What a source holds, chunks aside; what hides any of it comes out if it is gone through down to the chunks.
fn look_over(
    source: &SourceRecord,
    depth: WalkDepth,
    reader: &mut BlobReader<'_>,
    progress: &dyn Progress,
) -> Result<Survey> {
    let mut survey = Survey::default();
    walk(source, depth, reader, &mut |reader, visited| {
        match visited {
            Visited::Entry(entry) => {
                progress.check()?;
                survey.entries += 1;
                survey.files += u64::from(matches!(entry.kind, EntryKind::File(_)));
            }
            Visited::Chunk { .. } | Visited::Hole { .. } => {}
            Visited::Hidden { .. } => {
                survey.hidden = true;
                if survey.lost.len() < MOST_LOST {
                    survey.lost.extend(reader.blamed());
                }
            }
        }
        Ok(())
    })?;
    Ok(survey)
}

fn is_passed(marks: &Connection, node: &BlobId) -> Result<bool> {
    prepared(marks, "SELECT 1 FROM passed WHERE node = ?")?.exists([node.as_bytes()]).map_err(failed("read"))
}

fn insert(marks: &Connection, sql: &str, bytes: &[u8]) -> Result<()> {
    prepared(marks, sql)?.execute([bytes]).map(|_| ()).map_err(failed("write"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_draws_about_its_share_of_frames_and_the_same_ones_again() {
        let pack = PackId::from_bytes([7; 32]);
        let drawn = |sample: Sample| (0..10_000).filter(|frame| sample.draws(&pack, *frame)).collect::<Vec<_>>();
        let some = drawn(Sample { share: 0.05, seed: 1 });
        assert!((350..650).contains(&some.len()), "{}", some.len());
        assert_eq!(drawn(Sample { share: 0.05, seed: 1 }), some);
        assert_ne!(drawn(Sample { share: 0.05, seed: 2 }), some);
        assert_eq!(drawn(Sample { share: 1.0, seed: 3 }).len(), 10_000);
    }
}
