//! Verifying a snapshot: is every byte of it there, and is it what it was when it was captured?
//!
//! Invariant: a snapshot is found valid only if every blob that it reaches was read, decoded and hashed just now (or,
//! for a quick look, is recorded in a pack together with all that its deltas need). What is lost is named by source,
//! file and byte. Damage is a result, not an error: errors are what keeps the verification itself from running. Memory:
//! sets lie in temporary files (`store::temporary`), and of images to be checked at most 200,000 chunks are held, with
//! 48 bytes each. What grows with the snapshot is what a [`BlobReader`] notes of blobs that it rebuilt: tens of
//! kilobytes for each GB of it, since those are tables and list nodes, and 2 to 7 MB for each GB of images that are
//! checked one after the other, being too many or too large for the room.

mod blobs;
pub mod census;
mod files;
mod finding;
#[cfg(test)]
pub(crate) mod fixture;
mod images;
#[cfg(test)]
mod tests;
mod walk;

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use crate::error::Result;
use crate::format::content::Content;
use crate::format::manifest::{DB, Manifest, REGISTRY, SnapshotKind, SourceKind, SourceRecord, bytes_of};
use crate::format::table::EntryKind;
use crate::id::{BlobId, BlobPrefix};
use crate::progress::{Phase, Progress};
use crate::store::verdicts::Recheck;
use crate::store::{BlobFault, BlobReader, Repository, StagedBlobs, WantedChunk};

use blobs::{Checked, LostChunks, NeededChunks};
pub use files::check_registry;
pub use finding::{FileRange, Finding, file_name};
use images::{CheckedImage, ImageFiles, MOST_IMAGES};
pub use walk::{Visited, WalkDepth, walk};

/// Lost places named for each source; the rest is counted.
const MOST_PLACES: usize = 1000;
/// Chunks remembered that are read again.
pub(super) const MOST_KEPT: usize = 200_000;
/// Chunks looked up at one time.
pub(super) const CHUNKS_AT_ONCE: usize = 512;
/// Lost blobs remembered.
const MOST_LOST: usize = 65_536;

/// How thorough a verification is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Every blob is known to be there; no content is read.
    Quick,
    /// Every blob is read, decoded and hashed; the registry parses; images of databases pass the integrity check, but
    /// those inside a tree count by the verdict that is kept on them, if there is one.
    Content,
    /// Every blob is read, decoded and hashed; the registry parses; all images pass the integrity check.
    Full,
}

/// How to verify.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VerifyOptions {
    /// How thorough to be.
    pub depth: Depth,
    /// Whether known verdicts of the integrity check count.
    pub recheck: Recheck,
}

/// What was found of one source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceVerification {
    /// The source.
    pub name: String,
    /// Whether the snapshot holds it.
    pub captured: bool,
    /// What is wrong with it, or may be.
    pub findings: Vec<Finding>,
}

impl SourceVerification {
    /// Whether nothing is wrong with it; warnings do not count.
    pub fn is_valid(&self) -> bool {
        self.findings.iter().all(Finding::is_warning)
    }
}

/// What was found of a snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verification {
    /// Its sources, in the order of the manifest.
    pub sources: Vec<SourceVerification>,
    /// The blobs that are missing or damaged themselves, which may be bases that other snapshots need too; of very
    /// many, some.
    pub lost_blobs: BTreeSet<BlobPrefix>,
}

impl Verification {
    /// Whether nothing is wrong with the snapshot; warnings do not count.
    pub fn is_valid(&self) -> bool {
        self.sources.iter().all(SourceVerification::is_valid)
    }

    /// What was found of the source with this name.
    pub fn source(&self, name: &str) -> Option<&SourceVerification> {
        self.sources.iter().find(|source| source.name == name)
    }

    /// What is wrong, as scripts know it.
    pub fn errors(&self) -> Vec<String> {
        self.findings(false)
    }

    /// What gives rise to doubt without being wrong.
    pub fn warnings(&self) -> Vec<String> {
        self.findings(true)
    }

    fn findings(&self, warnings: bool) -> Vec<String> {
        let findings = self.sources.iter().flat_map(|source| &source.findings);
        findings.filter(|finding| finding.is_warning() == warnings).map(Finding::to_string).collect()
    }
}

/// A verification, with what it leaves for those who read the same snapshot next.
pub struct Verified {
    /// What was found.
    pub verification: Verification,
    /// Blobs that need not be rebuilt once more.
    pub staged: Option<Arc<StagedBlobs>>,
}

/// Verifies the snapshot of this manifest.
///
/// # Errors
/// What keeps the verification from running: I/O errors, too little room for the image of a database, an interruption.
/// Whatever is wrong with the snapshot is in the result.
pub fn verify(
    repository: &Repository,
    manifest: &Manifest,
    options: VerifyOptions,
    progress: &dyn Progress,
) -> Result<Verification> {
    Ok(verify_keeping(repository, manifest, options, HashSet::new(), progress)?.verification)
}

/// As [`verify`]; the chunks in `kept` are read by the caller afterwards.
///
/// # Errors
/// As [`verify`].
pub fn verify_keeping(
    repository: &Repository,
    manifest: &Manifest,
    options: VerifyOptions,
    kept: HashSet<BlobId>,
    progress: &dyn Progress,
) -> Result<Verified> {
    progress.phase(Phase::Verifying, None);
    repository.forget_footers();
    let mut needed = NeededChunks::new()?;
    let mut reader = BlobReader::with_frame_cache(repository, blobs::FRAME_CACHE);
    let (mut surveys, mut images) = (Vec::with_capacity(manifest.sources.len()), Vec::new());
    for source in &manifest.sources {
        let mut surveyor = Surveyor { options, needed: &mut needed, images: &mut images, survey: Survey::default() };
        surveyor.walk(source, &mut reader, progress)?;
        surveys.push(surveyor.survey);
    }
    let images = ImageFiles::lay_out(&images, &mut reader)?;
    // Its caches make room for those of the threads.
    drop(reader);
    progress.phase(Phase::Verifying, Some(needed.bytes()));
    let Checked { lost, staged, images } = needed.check(repository, options.depth, kept, images.as_ref(), progress)?;
    drop(needed);
    let mut reader = BlobReader::new(repository);
    if let Some(staged) = &staged {
        reader = reader.with_staged(Arc::clone(staged));
    }
    let verification = judge(manifest, surveys, &lost, &images, options, &mut reader, progress)?;
    Ok(Verified { verification, staged })
}

/// Names what lost chunks mean for a snapshot, and checks what its files must be beyond their bytes.
fn judge(
    manifest: &Manifest,
    surveys: Vec<Survey>,
    lost: &LostChunks,
    checked: &[CheckedImage],
    options: VerifyOptions,
    reader: &mut BlobReader<'_>,
    progress: &dyn Progress,
) -> Result<Verification> {
    let captured = || manifest.sources.iter().filter(|source| source.is_captured());
    let images = bytes_of(captured().filter(|source| source.kind != SourceKind::File));
    progress.phase(Phase::CheckingDatabases, Some(images));
    let any_lost = !lost.is_empty()?;
    let mut verification = Verification::default();
    verification.lost_blobs.extend(lost.blamed(MOST_LOST)?);
    for (source, survey) in manifest.sources.iter().zip(surveys) {
        let mut findings = Vec::new();
        let left = MOST_LOST.saturating_sub(verification.lost_blobs.len());
        verification.lost_blobs.extend(survey.lost.iter().take(left));
        if is_missing(manifest, source, &survey) {
            findings.push(Finding::SnapshotMissing { source: source.name.clone() });
        }
        if any_lost || survey.hidden {
            findings.extend(name_losses(source, lost, reader)?);
        }
        findings.extend(files::check_images(source, options, checked, reader, progress)?);
        if source.name == REGISTRY && options.depth != Depth::Quick {
            findings.extend(check_registry(source, reader)?);
        }
        findings.extend(inconsistencies(manifest, source));
        let (name, captured) = (source.name.clone(), source.is_captured());
        verification.sources.push(SourceVerification { name, captured, findings });
    }
    if manifest.source(DB).is_none() {
        let findings = vec![Finding::SnapshotMissing { source: DB.into() }];
        verification.sources.insert(0, SourceVerification { name: DB.into(), captured: false, findings });
    }
    Ok(verification)
}

/// What a first look at a source's table and list nodes found.
#[derive(Default)]
struct Survey {
    entries: u64,
    files: u64,
    hidden: bool,
    /// What is in the way of its table and nodes.
    lost: BTreeSet<BlobPrefix>,
}

/// Gathers the chunks that a source needs.
struct Surveyor<'s> {
    options: VerifyOptions,
    needed: &'s mut NeededChunks,
    /// Images without a verdict, some of very many.
    images: &'s mut Vec<Content>,
    survey: Survey,
}

impl Surveyor<'_> {
    fn walk(&mut self, source: &SourceRecord, reader: &mut BlobReader<'_>, progress: &dyn Progress) -> Result<()> {
        let Self { options, needed, images, survey } = self;
        let mut chunks = Vec::with_capacity(CHUNKS_AT_ONCE);
        walk(source, WalkDepth::DistinctChunks, reader, &mut |reader, visited| {
            match visited {
                Visited::Entry(entry) => {
                    progress.check()?;
                    survey.entries += 1;
                    survey.files += u64::from(matches!(entry.kind, EntryKind::File(_)));
                    images.extend(files::to_be_checked(source, entry, *options, reader.repository().index()));
                    images.truncate(MOST_IMAGES);
                }
                Visited::Chunk { id, length, .. } => {
                    chunks.push(WantedChunk { id, length });
                    if chunks.len() == CHUNKS_AT_ONCE {
                        needed.insert(reader.repository(), &mut chunks)?;
                    }
                }
                Visited::Hole { .. } => {}
                Visited::Hidden { .. } => {
                    survey.hidden = true;
                    if survey.lost.len() < MOST_LOST {
                        survey.lost.extend(reader.blamed());
                    }
                }
            }
            Ok(())
        })?;
        needed.insert(reader.repository(), &mut chunks)
    }
}

/// Whether the snapshot lacks a source that it should hold. Before a restore, a database may well be absent.
fn is_missing(manifest: &Manifest, source: &SourceRecord, survey: &Survey) -> bool {
    let has_content = match source.kind {
        SourceKind::Sqlite | SourceKind::File => survey.files > 0,
        SourceKind::Tree => survey.entries > 0,
    };
    match source.is_captured() {
        true => !has_content && !survey.hidden,
        false => source.name == DB && manifest.kind == SnapshotKind::Ordinary,
    }
}

/// What the capture itself said against a source.
fn inconsistencies(manifest: &Manifest, source: &SourceRecord) -> Vec<Finding> {
    let suspect = |reason: &String| Finding::Suspect { source: source.name.clone(), reason: reason.clone() };
    let raw = manifest.fault_of_raw(source);
    let raw = raw.map(|fault| Finding::Inconsistent { source: source.name.clone(), detail: fault.into() });
    source.doubts().iter().map(suspect).chain(raw).collect()
}

/// Names every place of a source whose bytes are lost; neighbours with one cause are one place.
fn name_losses(source: &SourceRecord, lost: &LostChunks, reader: &mut BlobReader<'_>) -> Result<Vec<Finding>> {
    let mut losses = LossFindings::default();
    walk(source, WalkDepth::Chunks, reader, &mut |_, visited| {
        match visited {
            Visited::Entry(_) | Visited::Hole { .. } => {}
            Visited::Chunk { entry, id, offset, length } => {
                if let Some(fault) = lost.find(&WantedChunk { id, length })? {
                    let range = FileRange { file: file_name(&source.name, entry), offset, length };
                    losses.push(range, fault, String::new());
                }
            }
            Visited::Hidden { range, fault, also } => losses.push(range, fault, also),
        }
        Ok(())
    })?;
    Ok(losses.finish())
}

/// Places of loss, joined as they come.
#[derive(Default)]
struct LossFindings {
    findings: Vec<Finding>,
    unlisted: u64,
}

impl LossFindings {
    fn push(&mut self, range: FileRange, fault: BlobFault, also: String) {
        let finding = match fault {
            BlobFault::Missing => Finding::ChunkMissing { range, detail: also },
            BlobFault::Corrupt(cause) if also.is_empty() => Finding::ChunkCorrupt { range, detail: cause },
            BlobFault::Corrupt(cause) => Finding::ChunkCorrupt { range, detail: format!("{cause}; {also}") },
        };
        if self.findings.last_mut().is_some_and(|last| join(last, &finding)) {
            return;
        }
        if self.findings.len() < MOST_PLACES {
            self.findings.push(finding);
        } else {
            self.unlisted += 1;
        }
    }

    fn finish(mut self) -> Vec<Finding> {
        if self.unlisted > 0 {
            self.findings.push(Finding::MoreChunks { places: self.unlisted });
        }
        self.findings
    }
}

/// Extends `last` by `next` if that follows it in the same file and for the same cause.
fn join(last: &mut Finding, next: &Finding) -> bool {
    let (range, next) = match (last, next) {
        (Finding::ChunkMissing { range, detail }, Finding::ChunkMissing { range: next_range, detail: next_detail })
        | (Finding::ChunkCorrupt { range, detail }, Finding::ChunkCorrupt { range: next_range, detail: next_detail })
            if detail == next_detail =>
        {
            (range, next_range)
        }
        _ => return false,
    };
    let follows = range.file == next.file && range.offset + range.length == next.offset;
    if follows {
        range.length += next.length;
    }
    follows
}
