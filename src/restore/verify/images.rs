//! Images of databases as files, which SQLite checks while the rest of the snapshot is still being verified.
//!
//! The files are filled with chunks as those come out of packs, in any order, so that no chunk is decoded twice.
//! Invariants: an image is checked only if all of its chunks were read, hashed and written; the files exist for that
//! long only, in the repository's place for temporary files or, where that cannot be written or has no room, in the
//! system's. Images for which this cannot be done (too many, no room for all at once) are left to `files`, which takes
//! one after the other.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use tempfile::TempDir;

use super::MOST_KEPT;
use crate::disk::{ScratchDirectory, space};
use crate::error::{Error, Result};
use crate::format::content::Content;
use crate::format::limits::CHUNK_SIZE;
use crate::format::manifest::Verdict;
use crate::id::BlobId;
use crate::store::index::Index;
use crate::store::pieces::{Piece, Pieces};
use crate::store::verdicts;
use crate::store::{BlobReader, Repository, layout};

/// Most images that are files at one time.
pub(super) const MOST_IMAGES: usize = 64;

/// A verdict that was reached just now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CheckedImage {
    pub(super) content: Content,
    pub(super) verdict: Verdict,
}

/// Images that are being filled.
pub(super) struct ImageFiles {
    images: Vec<ImageFile>,
    /// Where chunks go, ascending by their ids.
    places: Vec<ChunkPlace>,
    _room: ImageRoom,
}

struct ImageFile {
    content: Content,
    path: PathBuf,
    file: File,
    /// Bytes that are still to be written.
    missing: AtomicU64,
}

struct ChunkPlace {
    id: BlobId,
    image: usize,
    /// In bytes.
    offset: u64,
}

impl ImageFiles {
    /// Lays out empty files for as many of these images as may be; `None` if that is none.
    ///
    /// # Errors
    /// I/O errors.
    pub(super) fn lay_out(contents: &[Content], reader: &mut BlobReader<'_>) -> Result<Option<Self>> {
        let contents = chosen(contents);
        let bytes = contents.iter().map(|content| content.length).sum();
        let Ok(room) = ImageRoom::find(reader.repository(), bytes, "the images of the snapshot") else {
            return Ok(None);
        };
        let (mut images, mut places) = (Vec::new(), Vec::new());
        for (image, content) in contents.into_iter().enumerate() {
            images.push(ImageFile::lay_out(image, content, room.path(), reader, &mut places)?);
        }
        places.sort_unstable_by_key(|place| place.id);
        Ok((!images.is_empty()).then_some(Self { images, places, _room: room }))
    }

    /// Whether an image has this chunk.
    pub(super) fn have(&self, id: &BlobId) -> bool {
        !self.places_of(id).is_empty()
    }

    fn places_of(&self, id: &BlobId) -> &[ChunkPlace] {
        let first = self.places.partition_point(|place| place.id < *id);
        let from = self.places.get(first..).unwrap_or_default();
        from.get(..from.partition_point(|place| place.id == *id)).unwrap_or_default()
    }

    /// Writes a chunk, which was hashed, to all its places; each chunk comes once.
    ///
    /// # Errors
    /// I/O errors.
    pub(super) fn write(&self, id: &BlobId, bytes: &[u8]) -> Result<()> {
        for place in self.places_of(id) {
            let Some(image) = self.images.get(place.image) else { continue };
            image.file.write_all_at(bytes, place.offset).map_err(Error::io("write", &image.path))?;
            image.missing.fetch_sub(bytes.len() as u64, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Checks the images that are whole, and keeps the verdicts.
    pub(super) fn check(&self, index: &Index) -> Vec<CheckedImage> {
        let whole = self.images.iter().filter(|image| image.missing.load(Ordering::Relaxed) == 0);
        let check = |image: &ImageFile| {
            let verdict = verdicts::check_image(index, &image.content, &image.path);
            CheckedImage { content: image.content, verdict }
        };
        whole.map(check).collect()
    }
}

/// Distinct images, large ones first since their check takes longest, with a bounded number of chunks.
fn chosen(contents: &[Content]) -> Vec<Content> {
    let mut by_length = contents.to_vec();
    by_length.sort_by_key(|content| std::cmp::Reverse(content.length));
    let (mut chosen, mut chunks) = (Vec::new(), 0);
    for content in by_length {
        let more = content.length.div_ceil(CHUNK_SIZE as u64);
        if chosen.len() < MOST_IMAGES && chunks + more <= MOST_KEPT as u64 && !chosen.contains(&content) {
            chunks += more;
            chosen.push(content);
        }
    }
    chosen
}

impl ImageFile {
    fn lay_out(
        number: usize,
        content: Content,
        directory: &Path,
        reader: &mut BlobReader<'_>,
        places: &mut Vec<ChunkPlace>,
    ) -> Result<Self> {
        let path = directory.join(format!("image-{number}"));
        let file = File::create_new(&path).map_err(Error::io("create", &path))?;
        file.set_len(content.length).map_err(Error::io("write", &path))?;
        let mut missing = 0;
        let mut pieces = Pieces::of(&content);
        while let Some(piece) = pieces.next(reader, |_| ())? {
            match piece {
                Piece::Chunk { id, offset, length } => {
                    missing += length as u64;
                    places.push(ChunkPlace { id, image: number, offset });
                }
                Piece::Hole { .. } => {}
                // Never to be whole.
                Piece::Hidden { length, .. } => missing += length.max(1),
            }
        }
        Ok(Self { content, path, file, missing: AtomicU64::new(missing) })
    }
}

/// A directory for images.
pub(super) enum ImageRoom {
    InRepository(ScratchDirectory),
    OfSystem(TempDir),
}

impl ImageRoom {
    /// In the repository if that has the room, so that one may be restored whose repository is full.
    ///
    /// # Errors
    /// [`Error::Failed`] that names the bytes needed if they are free nowhere.
    pub(super) fn find(repository: &Repository, bytes: u64, image: &str) -> Result<Self> {
        match ScratchDirectory::create(&repository.root().join(layout::TMP)) {
            Ok(scratch) if space::available(scratch.path())? >= bytes => return Ok(Self::InRepository(scratch)),
            Ok(_) => tracing::debug!("the repository has no room for an image; the system's temporary files take it"),
            Err(cause) => {
                tracing::debug!(%cause, "the repository has no place for temporary files; the system's is used");
            }
        }
        let system = std::env::temp_dir();
        let room = TempDir::new().map_err(Error::io("create a temporary directory in", &system))?;
        let purpose = format!("checking the integrity of {image}");
        space::require(room.path(), bytes, &purpose, "make room there, or name a larger directory in TMPDIR")?;
        Ok(Self::OfSystem(room))
    }

    pub(super) fn path(&self) -> &Path {
        match self {
            Self::InRepository(scratch) => scratch.path(),
            Self::OfSystem(directory) => directory.path(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::compress::Thoroughness;
    use crate::restore::verify::fixture::{create, database, store_content};
    use crate::store::{BlobWriter, MetadataRecords};

    #[test]
    fn images_are_filled_in_any_order_and_checked_once_they_are_whole() {
        let directory = tempfile::tempdir().unwrap();
        let sound = database(&directory.path().join("live.db"));
        let mut damaged = sound.clone();
        damaged[100..4096].fill(0xAA);
        let repository = create(&directory.path().join("repo"));
        let mut writer = BlobWriter::begin(&repository, MetadataRecords::Whole, Thoroughness::Thorough).unwrap();
        let contents = [&sound, &damaged].map(|bytes| store_content(bytes, &mut writer));
        writer.finish().unwrap();
        let mut reader = BlobReader::new(&repository);
        let images = ImageFiles::lay_out(&[contents[0], contents[1], contents[0]], &mut reader).unwrap().unwrap();
        let index = repository.index();
        let (first, rest) = damaged.split_at(CHUNK_SIZE);
        for chunk in rest.chunks(CHUNK_SIZE).rev() {
            let id = BlobId::of_chunk(chunk);
            if images.have(&id) {
                images.write(&id, chunk).unwrap();
            }
        }
        assert_eq!(images.check(index), [], "each lacks its first chunk");
        images.write(&BlobId::of_chunk(first), first).unwrap();
        let checked = images.check(index);
        assert!(
            matches!(&checked[..], [CheckedImage { content, verdict: Verdict::Failed(_) }] if *content == contents[1])
        );
        images.write(&BlobId::of_chunk(&sound[..CHUNK_SIZE]), &sound[..CHUNK_SIZE]).unwrap();
        assert!(images.check(index).contains(&CheckedImage { content: contents[0], verdict: Verdict::Ok }));
        assert_eq!(images.check(index).len(), 2, "a content is checked once, wherever it stands");
        assert!(!images.have(&BlobId::of_chunk(b"another")));
    }
}
