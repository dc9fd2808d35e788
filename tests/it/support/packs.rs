//! What stands where in a pack, read through the decoders of `vecsnap::format`, so that tests can hurt one thing in it.

use std::fs;
use std::path::{Path, PathBuf};

use vecsnap::format::compression;
use vecsnap::format::pack::{END_BYTES, Footer, FooterPlace, Frame, Record};
use vecsnap::id::{BlobId, PackId};

use super::damage;

/// A pack with its footer.
pub struct Pack {
    pub path: PathBuf,
    pub footer: Footer,
    pub footer_place: FooterPlace,
}

impl Pack {
    /// Reads the footer of an undamaged pack.
    pub fn read(path: &Path) -> Self {
        let bytes = fs::read(path).unwrap();
        let length = bytes.len() as u64;
        let footer_place = FooterPlace::decode(&bytes[bytes.len() - END_BYTES..], length).unwrap();
        let footer =
            Footer::decode(&bytes[footer_place.offset as usize..][..footer_place.length as usize], footer_place.offset);
        Self { path: path.to_path_buf(), footer: footer.unwrap(), footer_place }
    }

    /// All packs of a repository, ascending by name.
    pub fn all(repository: &Path) -> Vec<Self> {
        damage::packs(repository).iter().map(|path| Self::read(path)).collect()
    }

    /// Replaces the pack by one with other payloads and another footer, of the same sizes, under the name that is right
    /// for it.
    pub fn rewrite(&mut self, footer: impl FnOnce(&mut Footer), mut payload: impl FnMut(&Record, &mut [u8])) {
        let old = fs::read(&self.path).unwrap();
        let mut bytes =
            old[..self.footer.frames.first().map_or(self.footer_place.offset, |frame| frame.offset) as usize].to_vec();
        for number in 0..self.footer.frames.len() {
            let frame = self.footer.frames[number];
            let stored = &old[frame.offset as usize..][..frame.stored_length as usize];
            let mut raw = compression::decompress(frame.codec().unwrap(), stored, frame.raw_length as usize).unwrap();
            for record in self.footer.records.iter().filter(|record| record.frame as usize == number) {
                payload(record, &mut raw[record.offset as usize..][..record.payload_length as usize]);
            }
            let stored = compression::compress(&raw, 3);
            let counts = (stored.bytes.len() as u32, raw.len() as u32, frame.records);
            self.footer.frames[number] = Frame::new(bytes.len() as u64, counts.0, counts.1, counts.2, stored.codec);
            bytes.extend(stored.bytes);
        }
        footer(&mut self.footer);
        let place = bytes.len() as u64;
        bytes.extend(self.footer.encode(place).unwrap());
        let name = PackId::of_hasher(blake3::Hasher::new().update(&bytes)).to_string();
        let directory = self.path.parent().unwrap().parent().unwrap().join(&name[..2]);
        fs::remove_file(&self.path).unwrap();
        fs::create_dir_all(&directory).unwrap();
        self.path = directory.join(format!("{name}.pack"));
        fs::write(&self.path, bytes).unwrap();
    }
}

/// Rewrites every pack that holds this blob with one bit of its payload flipped, and returns how many there were.
/// Nothing else is hurt, even where a frame holds many blobs.
pub fn wound_blob(repository: &Path, id: BlobId) -> usize {
    let mut packs = Pack::all(repository);
    packs.retain(|pack| pack.footer.records.iter().any(|record| record.id == id));
    packs.iter_mut().for_each(|pack| pack.rewrite(|_| {}, |record, payload| payload[0] ^= u8::from(record.id == id)));
    packs.len()
}
