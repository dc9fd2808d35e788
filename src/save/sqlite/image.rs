//! The image of a database in a temporary file.
//!
//! Of a database that has an earlier version, the image is identified while it is copied: beside the thread that reads the
//! pages, another one hashes them. Of a large one, the chunks that are still those of the earlier version are not written,
//! but for one in eight, which increments look into (`save::unchanged`): a database of gigabytes that changed little would
//! otherwise be written to the medium with every snapshot, and hold its writers off meanwhile. Invariant: what is left out
//! is a chunk of an earlier version all of whose chunks are known to be in packs; whoever needs its bytes gets them there.
//! Memory: a few stretches, and a byte for each chunk.

#[cfg(test)]
mod tests;

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

use tempfile::{NamedTempFile, TempPath};

use super::CopyMethod;
use crate::disk::durable::FILE_MODE;
use crate::disk::sqlite::{CopyLimits, ImageCopy, PinnedSource, SourceTrouble};
use crate::error::{Error, Result};
use crate::format::content::Content;
use crate::format::limits::CHUNK_SIZE;
use crate::id::BlobId;
use crate::save::previous::{TABLE_CACHE, is_whole, unless_unreadable};
use crate::save::reading::Steadiness;
use crate::save::unchanged::is_probed;
use crate::store::{BlobReader, PreviousVersion, Repository};

/// Images of databases of up to so many bytes are written in full: 256 MiB, which stay in memory.
pub(in crate::save) const WRITTEN_IN_FULL: u64 = 256 << 20;
/// Stretches of pages that wait to be hashed at most.
const QUEUE: usize = 4;
/// Ids read at a time.
const IDS_AT_ONCE: usize = 512;

/// A consistent image of a database in a temporary file.
#[derive(Debug)]
pub(in crate::save) struct DatabaseImage {
    /// The file; dropping this deletes it.
    pub file: TempPath,
    /// What was copied, and how long writers waited.
    pub copy: ImageCopy,
    /// Its chunks, if it has an earlier version.
    pub chunks: Option<ImageChunks>,
}

/// The version of a database before the one that is captured.
pub(in crate::save) struct EarlierVersion<'r> {
    repository: &'r Repository,
    content: Content,
    /// Whether an image may lack what did not change since.
    stands_in: bool,
}

impl<'r> EarlierVersion<'r> {
    /// The version with this content, which stands in for what did not change if it has more than `written_in_full` bytes and all
    /// of them are there.
    ///
    /// # Errors
    /// An interruption.
    pub(in crate::save) fn new(repository: &'r Repository, content: Content, written_in_full: u64) -> Result<Self> {
        let mut reader = BlobReader::with_frame_cache(repository, TABLE_CACHE);
        let stands_in =
            content.length > written_in_full && unless_unreadable(is_whole(&mut reader, &content))?.unwrap_or(false);
        Ok(Self { repository, content, stands_in })
    }
}

/// The chunks of an image, in order, by their ids.
#[derive(Debug)]
pub(in crate::save) struct ImageChunks {
    /// What it is to be stored against.
    pub against: Content,
    ids: File,
    /// For each, whether the image lacks it.
    left_out: Vec<bool>,
}

impl ImageChunks {
    /// Gives the ids to `take`, in order, some at a time, until it says that the file changed.
    ///
    /// # Errors
    /// I/O errors; those of `take`.
    pub(in crate::save) fn each(&self, mut take: impl FnMut(Vec<BlobId>) -> Result<Steadiness>) -> Result<Steadiness> {
        for first in (0..self.left_out.len()).step_by(IDS_AT_ONCE) {
            let count = IDS_AT_ONCE.min(self.left_out.len() - first);
            let mut bytes = vec![0; count * BlobId::LEN];
            let read = self.ids.read_exact_at(&mut bytes, (first * BlobId::LEN) as u64);
            read.map_err(Error::io("read", IDS))?;
            let (ids, _) = bytes.as_chunks();
            if take(ids.iter().copied().map(BlobId::from_bytes).collect())? == Steadiness::Changed {
                return Ok(Steadiness::Changed);
            }
        }
        Ok(Steadiness::Same)
    }

    /// Whether the image lacks the chunk in this slot.
    pub(in crate::save) fn is_left_out(&self, slot: u64) -> bool {
        self.left_out.get(slot as usize).copied().unwrap_or(false)
    }
}

/// What messages call the file of ids, which has no name.
const IDS: &str = "(temporary file of ids)";

/// Takes an image of a pinned database into a new file in `scratch`.
pub(super) fn take(
    pinned: PinnedSource,
    scratch: &Path,
    method: CopyMethod,
    earlier: Option<&EarlierVersion<'_>>,
    limits: CopyLimits,
) -> Result<DatabaseImage, SourceTrouble> {
    let make = |path: &Path| OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(path);
    let made = tempfile::Builder::new().prefix("image-").make_in(scratch, make);
    let image = made.map_err(Error::io("create an image in", scratch))?;
    if method == CopyMethod::BackupApi || !pinned.has_pages() {
        let file = image.into_temp_path();
        let copy = pinned.copy_to(&file, limits)?;
        return Ok(DatabaseImage { file, copy, chunks: None });
    }
    let Some(earlier) = earlier else {
        let (mut file, path) = image.into_parts();
        let mut write = |stretch: Vec<u8>| file.write_all(&stretch).map_err(Error::io("write", &path));
        let copy = pinned.read_pages(&mut write, limits)?;
        return Ok(DatabaseImage { file: path, copy, chunks: None });
    };
    let (copy, chunks) = copy_identifying(pinned, scratch, &image, earlier, limits)?;
    Ok(DatabaseImage { file: image.into_temp_path(), copy, chunks: Some(chunks) })
}

/// Reads the pages on this thread, and hashes and writes them on another one.
fn copy_identifying(
    pinned: PinnedSource,
    scratch: &Path,
    image: &NamedTempFile,
    earlier: &EarlierVersion<'_>,
    limits: CopyLimits,
) -> Result<(ImageCopy, ImageChunks), SourceTrouble> {
    thread::scope(|scope| {
        let (send, stretches) = sync_channel(QUEUE);
        let identifying = scope.spawn(move || identify(stretches, scratch, image, earlier));
        let mut send_on =
            |stretch| send.send(stretch).map_err(|_| Error::Failed("nobody takes the pages of a database".into()));
        let copied = pinned.read_pages(&mut send_on, limits);
        drop(send);
        let stopped = |_| Err(Error::Failed("copying a database stopped unexpectedly; try again".into()));
        // Where this fails, nobody takes the pages any more: so it is the cause.
        let chunks = identifying.join().unwrap_or_else(stopped)?;
        Ok((copied?, chunks))
    })
}

/// Hashes chunk after chunk, and writes those that are not left out to their places.
fn identify(
    stretches: Receiver<Vec<u8>>,
    scratch: &Path,
    image: &NamedTempFile,
    earlier: &EarlierVersion<'_>,
) -> Result<ImageChunks> {
    let reader = BlobReader::with_frame_cache(earlier.repository, TABLE_CACHE);
    let mut previous = PreviousVersion::of(reader, earlier.content);
    let ids = tempfile::tempfile_in(scratch).map_err(Error::io("create a file in", scratch))?;
    let mut to_ids = BufWriter::new(&ids);
    let (mut left_out, mut length) = (Vec::new(), 0);
    for stretch in stretches {
        for chunk in stretch.chunks(CHUNK_SIZE) {
            let (slot, id) = (left_out.len() as u64, BlobId::of_chunk(chunk));
            let may_be_left_out = earlier.stands_in && !is_probed(slot);
            let is_left_out = may_be_left_out && unless_unreadable(previous.chunk_at(slot))?.flatten() == Some(id);
            if !is_left_out {
                image.as_file().write_all_at(chunk, length).map_err(Error::io("write", image.path()))?;
            }
            to_ids.write_all(id.as_bytes()).map_err(Error::io("write", IDS))?;
            left_out.push(is_left_out);
            length += chunk.len() as u64;
        }
    }
    to_ids.flush().map_err(Error::io("write", IDS))?;
    drop(to_ids);
    // The last chunk may be one that is left out.
    image.as_file().set_len(length).map_err(Error::io("write", image.path()))?;
    Ok(ImageChunks { against: earlier.content, ids, left_out })
}
