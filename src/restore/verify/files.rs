//! What the files of a source must be beyond their bytes: sound databases, a registry that is JSON.
//!
//! Invariant: a verdict of the integrity check belongs to content, so one that is known is not reached again. Most
//! images were checked while blobs were verified (`images`); the others are written out here, one after the other. An
//! image with lost blobs is not checked: that is reported already.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use super::finding::{Finding, file_name};
use super::images::{CheckedImage, ImageRoom};
use super::walk::{Visited, WalkDepth, walk};
use super::{Depth, VerifyOptions};
use crate::error::{Error, Result};
use crate::format::content::Content;
use crate::format::manifest::{SourceKind, SourceRecord, Verdict};
use crate::format::table::{Capture, Entry, EntryKind, FileEntry};
use crate::progress::Progress;
use crate::store::BlobReader;
use crate::store::index::Index;
use crate::store::json_verdict::{self, JsonVerdict};
use crate::store::pieces::{Piece, Pieces};
use crate::store::verdicts::{self, Recheck};

/// Checks the SQLite images of a captured source, but for those that are checked already.
pub(super) fn check_images(
    source: &SourceRecord,
    options: VerifyOptions,
    checked: &[CheckedImage],
    reader: &mut BlobReader<'_>,
    progress: &dyn Progress,
) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    walk(source, WalkDepth::Entries, reader, &mut |reader, visited| {
        if let Visited::Entry(entry) = visited
            && let EntryKind::File(file) = &entry.kind
            && file.capture == Capture::SqliteImage
        {
            progress.check()?;
            let verdict = match checked.iter().find(|checked| checked.content == file.content) {
                Some(checked) => Some(checked.verdict.clone()),
                None => verdict_on(source, entry, file, options, reader)?,
            };
            findings.extend(verdict.and_then(|verdict| finding_of(source, entry, verdict)));
            progress.advance(file.content.length);
        }
        Ok(())
    })?;
    Ok(findings)
}

/// The image on which a verdict is still to be reached, if this entry is one.
pub(super) fn to_be_checked(
    source: &SourceRecord,
    entry: &Entry,
    options: VerifyOptions,
    index: &Index,
) -> Option<Content> {
    let EntryKind::File(file) = &entry.kind else { return None };
    let to_be_checked = file.capture == Capture::SqliteImage
        && file.content != Content::EMPTY
        && is_checked(source, options.depth)
        && !is_final(known_verdict(source, file, options, index).as_ref());
    to_be_checked.then_some(file.content)
}

/// Whether images of this source are checked unless there is a verdict.
fn is_checked(source: &SourceRecord, depth: Depth) -> bool {
    match depth {
        Depth::Quick => false,
        Depth::Content => source.kind == SourceKind::Sqlite,
        Depth::Full => true,
    }
}

/// The verdict on an image; `None` if there is none and none can or shall be reached.
fn verdict_on(
    source: &SourceRecord,
    entry: &Entry,
    file: &FileEntry,
    options: VerifyOptions,
    reader: &mut BlobReader<'_>,
) -> Result<Option<Verdict>> {
    if file.content == Content::EMPTY {
        return Ok(None);
    }
    let index = reader.repository().index();
    let known = known_verdict(source, file, options, index);
    if !is_checked(source, options.depth) || is_final(known.as_ref()) {
        return Ok(known);
    }
    let room = ImageRoom::find(reader.repository(), file.content.length, &file_name(&source.name, entry))?;
    let path = room.path().join("image");
    let written = write_content(&file.content, reader, &path)?;
    Ok((written == Written::Whole).then(|| verdicts::check_image(index, &file.content, &path)))
}

/// The verdict that was reached before, if it counts.
fn known_verdict(source: &SourceRecord, file: &FileEntry, options: VerifyOptions, index: &Index) -> Option<Verdict> {
    verdicts::kept(index, &file.content, options.recheck).or_else(|| {
        // The manifest holds the verdict on the only image of a database source.
        let counts = source.kind == SourceKind::Sqlite && options.recheck == Recheck::IfUnknown;
        (counts && source.verdict != Verdict::Unchecked).then(|| source.verdict.clone())
    })
}

/// Whether a verdict would not be another one today.
fn is_final(verdict: Option<&Verdict>) -> bool {
    verdict.is_some_and(|verdict| !matches!(verdict, Verdict::Unknown(_)))
}

/// What a verdict means for the source: a database inside a tree makes the tree inconsistent.
fn finding_of(source: &SourceRecord, entry: &Entry, verdict: Verdict) -> Option<Finding> {
    let in_tree = source.kind != SourceKind::Sqlite;
    let inconsistent = |cause: &str| Finding::Inconsistent {
        source: source.name.clone(),
        detail: format!("{}: {cause}", file_name(&source.name, entry)),
    };
    match verdict {
        Verdict::Ok | Verdict::Unchecked => None,
        Verdict::Failed(cause) | Verdict::OpenFailed(cause) if in_tree => Some(inconsistent(&cause)),
        Verdict::Failed(detail) => Some(Finding::IntegrityCheckFailed { detail }),
        Verdict::OpenFailed(detail) => Some(Finding::OpenFailed { detail }),
        Verdict::Unknown(cause) => {
            let detail = if in_tree { format!("{}: {cause}", file_name(&source.name, entry)) } else { cause };
            Some(Finding::IntegrityUnknown { detail })
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Written {
    Whole,
    Partly,
}

/// Writes content into a new file, up to the first piece that cannot be read; holes stay holes.
fn write_content(content: &Content, reader: &mut BlobReader<'_>, path: &PathBuf) -> Result<Written> {
    let file = File::create_new(path).map_err(Error::io("create", path))?;
    file.set_len(content.length).map_err(Error::io("write", path))?;
    let mut pieces = Pieces::of(content);
    while let Some(piece) = pieces.next(reader, |_| ())? {
        match piece {
            Piece::Chunk { id, offset, .. } => match reader.chunk(&id)? {
                Ok(bytes) => file.write_all_at(&bytes, offset).map_err(Error::io("write", path))?,
                Err(_) => return Ok(Written::Partly),
            },
            Piece::Hole { .. } => {}
            Piece::Hidden { .. } => return Ok(Written::Partly),
        }
    }
    Ok(Written::Whole)
}

/// Whether the registry in this source is JSON; reads it, but keeps nothing of it in memory.
///
/// # Errors
/// I/O errors; a registry with lost blobs is not judged.
pub fn check_registry(source: &SourceRecord, reader: &mut BlobReader<'_>) -> Result<Option<Finding>> {
    let mut finding = None;
    walk(source, WalkDepth::Entries, reader, &mut |reader, visited| {
        if let Visited::Entry(Entry { kind: EntryKind::File(file), .. }) = visited {
            let mut bytes = ContentBytes::of(&file.content, reader);
            let judged = json_verdict::judge(&mut bytes);
            match (bytes.failure, bytes.lost, judged) {
                (Some(error), ..) => return Err(error),
                (None, false, Ok(JsonVerdict::Invalid(detail))) => {
                    finding = Some(Finding::RegistryInvalidJson { detail });
                }
                (None, ..) => {}
            }
        }
        Ok(())
    })?;
    Ok(finding)
}

/// The bytes of a text file as a reader.
struct ContentBytes<'a, 'r> {
    pieces: Pieces,
    reader: &'a mut BlobReader<'r>,
    /// Bytes not handed out yet, and how many of them were.
    bytes: Vec<u8>,
    used: usize,
    failure: Option<Error>,
    lost: bool,
}

impl<'a, 'r> ContentBytes<'a, 'r> {
    fn of(content: &Content, reader: &'a mut BlobReader<'r>) -> Self {
        let pieces = Pieces::of(content);
        Self { pieces, reader, bytes: Vec::new(), used: 0, failure: None, lost: false }
    }

    /// The bytes of the next piece; none at the end and where they cannot be had.
    fn next(&mut self) -> Result<Vec<u8>> {
        Ok(match self.pieces.next(self.reader, |_| ())? {
            None => Vec::new(),
            Some(Piece::Chunk { id, .. }) => match self.reader.chunk(&id)? {
                Ok(bytes) => bytes.to_vec(),
                Err(_) => {
                    self.lost = true;
                    Vec::new()
                }
            },
            // A hole in a text is a run of NULs, which no JSON may hold; one says it as well as all.
            Some(Piece::Hole { .. }) => vec![0],
            Some(Piece::Hidden { .. }) => {
                self.lost = true;
                Vec::new()
            }
        })
    }
}

impl Read for ContentBytes<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.used == self.bytes.len() && !self.lost {
            self.used = 0;
            self.bytes = match self.next() {
                Ok(bytes) => bytes,
                Err(error) => {
                    self.failure = Some(error);
                    return Err(io::ErrorKind::Other.into());
                }
            };
        }
        let left = self.bytes.get(self.used..).unwrap_or_default();
        let taken = left.len().min(buffer.len());
        buffer.iter_mut().zip(left).for_each(|(to, from)| *to = *from);
        self.used += taken;
        Ok(taken)
    }
}
