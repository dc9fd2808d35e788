//! The image of a database in a temporary file.
//!
//! Of a large database that has an earlier version, the chunks that are still those of that version are not written,
//! but for one in eight, which increments look into (`save::increment::unchanged`): a database of gigabytes that
//! changed little would otherwise be written to the medium with every snapshot, and its writers held off meanwhile.
//! What is left out is known by hashing all pages, beside the thread that reads them. Invariants: what is left out is a
//! chunk of an earlier version all of whose chunks are known to be in packs, so whoever needs its bytes gets them
//! there; SQLite asks no image that lacks any, but the source in the same read transaction. Memory: a few stretches,
//! and a byte for each chunk.

#[cfg(test)]
mod tests;

use std::fs::{File, OpenOptions};
use std::io::{BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

use tempfile::{NamedTempFile, TempPath};

use super::{CopyMethod, Witness};
use crate::disk::durable::FILE_MODE;
use crate::disk::sqlite::{CopyLimits, PinnedSource, SourceTrouble, WriterBlocked, read_image};
use crate::error::{Error, Result};
use crate::format::content::Content;
use crate::format::limits::CHUNK_SIZE;
use crate::id::BlobId;
use crate::save::capturing::Patience;
use crate::save::increment::is_probed;
use crate::save::previous::{TABLE_CACHE, is_whole, unless_unreadable};
use crate::save::reading::Steadiness;
use crate::store::pieces::{Piece, Pieces};
use crate::store::{BlobReader, Repository};

/// Databases of up to so many bytes are written in full: 256 MiB, which stay in memory.
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
    /// For how long writers waited.
    pub writer_blocked: WriterBlocked,
    /// Its chunks, if it may lack some.
    pub chunks: Option<ImageChunks>,
}

/// The version of a database before the one that is captured.
pub(in crate::save) struct PreviousImage {
    content: Content,
    /// The ids of its chunks by their slots.
    ids: File,
}

impl PreviousImage {
    /// The version with this content; `None` where not all of it is known to be in packs, or finding that out takes
    /// longer than writers may wait.
    ///
    /// # Errors
    /// An interruption.
    pub(in crate::save) fn of(
        repository: &Repository,
        content: Content,
        patience: Patience<'_>,
    ) -> Result<Option<Self>> {
        let mut reader = BlobReader::with_frame_cache(repository, TABLE_CACHE);
        let mut list = || match is_whole(&mut reader, &content, &|| patience.check())? {
            true => list(&mut reader, &content, repository.scratch()?, patience),
            false => Ok(None),
        };
        let ids = unless_unreadable(list())?.flatten();
        Ok(ids.map(|ids| Self { content, ids }))
    }
}

/// Writes the ids of all chunks to their places in a temporary file; `None` where a list node cannot be read.
fn list(
    reader: &mut BlobReader<'_>,
    content: &Content,
    scratch: &Path,
    patience: Patience<'_>,
) -> Result<Option<File>> {
    let ids = tempfile::tempfile_in(scratch).map_err(Error::io("create a file in", scratch))?;
    let (mut to_ids, mut pieces, mut next) = (BufWriter::new(&ids), Pieces::of(content), 0);
    while let Some(piece) = pieces.next(reader, |_| ())? {
        patience.check()?;
        let Piece::Chunk { id, offset, .. } = piece else {
            match piece {
                Piece::Hidden { .. } => return Ok(None),
                _ => continue,
            }
        };
        let slot = offset / CHUNK_SIZE as u64;
        if slot != next {
            to_ids.seek(SeekFrom::Start(slot * BlobId::LEN as u64)).map_err(Error::io("write", IDS))?;
        }
        to_ids.write_all(id.as_bytes()).map_err(Error::io("write", IDS))?;
        next = slot + 1;
    }
    to_ids.flush().map_err(Error::io("write", IDS))?;
    drop(to_ids);
    Ok(Some(ids))
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

/// Takes an image of a pinned database into a new file in `scratch`, and has the witness read that moment.
pub(super) fn take(
    mut pinned: PinnedSource,
    scratch: &Path,
    method: CopyMethod,
    earlier: Option<&PreviousImage>,
    limits: CopyLimits,
    witness: Witness<'_>,
) -> Result<DatabaseImage, SourceTrouble> {
    let make = |path: &Path| OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(path);
    let made = tempfile::Builder::new().prefix("image-").make_in(scratch, make);
    let image = made.map_err(Error::io("create an image in", scratch))?;
    if method == CopyMethod::Pages && pinned.has_pages() {
        if let Some(earlier) = earlier {
            pinned.look(limits, &mut *witness)?;
            let (writer_blocked, chunks) = copy_what_changed(pinned, scratch, &image, earlier, limits)?;
            return Ok(DatabaseImage { file: image.into_temp_path(), writer_blocked, chunks: Some(chunks) });
        }
        let (mut opened, file) = image.into_parts();
        let mut write = |stretch: Vec<u8>| opened.write_all(&stretch).map_err(Error::io("write", &file));
        let writer_blocked = pinned.read_pages(&mut write, limits)?;
        ask(&file, witness);
        return Ok(DatabaseImage { file, writer_blocked, chunks: None });
    }
    let file = image.into_temp_path();
    let writer_blocked = pinned.copy_to(&file, limits)?;
    ask(&file, witness);
    Ok(DatabaseImage { file, writer_blocked, chunks: None })
}

/// Has the witness read a full image; what it does not learn there, it does without.
fn ask(image: &Path, witness: Witness<'_>) {
    if let Err(cause) = read_image(image, witness) {
        tracing::debug!(%cause, "the image of a database cannot be asked");
    }
}

/// Reads the pages on this thread, and hashes them and writes what changed on another one.
fn copy_what_changed(
    pinned: PinnedSource,
    scratch: &Path,
    image: &NamedTempFile,
    earlier: &PreviousImage,
    limits: CopyLimits,
) -> Result<(WriterBlocked, ImageChunks), SourceTrouble> {
    thread::scope(|scope| {
        let (send, stretches) = sync_channel(QUEUE);
        let writing = scope.spawn(move || write_what_changed(stretches, scratch, image, earlier));
        let mut send_on =
            |stretch| send.send(stretch).map_err(|_| Error::Failed("nobody takes the pages of a database".into()));
        let copied = pinned.read_pages(&mut send_on, limits);
        drop(send);
        let stopped = |_| Err(Error::Failed("copying a database stopped unexpectedly; try again".into()));
        // Where this fails, nobody takes the pages any more: so it is the cause.
        let chunks = writing.join().unwrap_or_else(stopped)?;
        Ok((copied?, chunks))
    })
}

fn write_what_changed(
    stretches: Receiver<Vec<u8>>,
    scratch: &Path,
    image: &NamedTempFile,
    earlier: &PreviousImage,
) -> Result<ImageChunks> {
    let mut before = BufReader::new(&earlier.ids);
    before.rewind().map_err(Error::io("read", IDS))?;
    let ids = tempfile::tempfile_in(scratch).map_err(Error::io("create a file in", scratch))?;
    let mut to_ids = BufWriter::new(&ids);
    let (mut left_out, mut length) = (Vec::new(), 0);
    for stretch in stretches {
        for chunk in stretch.chunks(CHUNK_SIZE) {
            let id = BlobId::of_chunk(chunk);
            let mut stood = [0; BlobId::LEN];
            // Behind its end, the earlier version has none.
            let is_same = before.read_exact(&mut stood).is_ok() && BlobId::from_bytes(stood) == id;
            let is_left_out = is_same && !is_probed(left_out.len() as u64);
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
