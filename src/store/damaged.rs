//! Damaged packs: telling them from sound ones, and setting them aside so that their blobs can be stored again.
//!
//! A pack's name is the hash of its bytes, so a rotten one stands exactly where the same blobs, packed once more, must
//! go. Invariant: a pack leaves its name only after it has one in `damaged/` that survives a crash; nothing reads
//! there, nothing but a person deletes there. Order of each step: name in `damaged/`, fsync, then the name in `packs/`
//! goes to the new pack or away, fsync. A crash in between leaves the pack under both names.

use super::layout;
use crate::disk::{ObjectKind, Published, Storage};
use crate::error::{Error, Result};
use crate::id::PackId;
use crate::progress::Progress;

/// Bytes read at a time.
const STEP: u64 = 1024 * 1024;
/// Times that one pack may have been set aside.
const MOST_ASIDE: u32 = 1000;

/// Whether a pack is what its name says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// Its bytes hash to its name.
    Sound,
    /// There is no pack of this name.
    Missing,
    /// They do not, or cannot be read, for this reason.
    Damaged(String),
}

/// Reads a pack and compares its bytes with its name; advances the progress by its size.
///
/// # Errors
/// [`Error::Interrupted`]; what keeps the pack from being read makes it [`Condition::Damaged`].
pub fn examine(storage: &dyn Storage, pack: &PackId, progress: &dyn Progress) -> Result<Condition> {
    let name = layout::pack(pack);
    let size = match storage.size(&name) {
        Ok(Some(size)) => size,
        Ok(None) => return Ok(Condition::Missing),
        Err(error) => return unreadable(error),
    };
    let mut hasher = blake3::Hasher::new();
    let mut offset = 0;
    while offset < size {
        progress.check()?;
        let length = STEP.min(size - offset);
        match storage.read_range(&name, offset, length as usize) {
            Ok(bytes) => hasher.update(&bytes),
            Err(error) => return unreadable(error),
        };
        offset += length;
        progress.advance(length);
    }
    Ok(match PackId::of_hasher(&hasher) == *pack {
        true => Condition::Sound,
        false => Condition::Damaged(format!("its {size} bytes do not hash to its name")),
    })
}

fn unreadable(error: Error) -> Result<Condition> {
    if error.is_of_one_file() { Ok(Condition::Damaged(error.to_string())) } else { Err(error) }
}

/// Gives a pack a name in `damaged/` beside the one it has, durably, and returns that name.
///
/// # Errors
/// I/O errors; the pack then stands where it stood.
pub fn set_aside(storage: &dyn Storage, pack: &PackId) -> Result<String> {
    for number in 1..=MOST_ASIDE {
        let aside = layout::damaged_pack(pack, number);
        if storage.set_aside(&layout::pack(pack), &aside)? == Published::New {
            return Ok(aside);
        }
    }
    let path = storage.root().join(layout::DAMAGED);
    Err(Error::Failed(format!("{} holds the pack {pack} too often; move what is in there elsewhere", path.display())))
}

/// Moves a pack into `damaged/`, durably, and returns its name there. Nobody else may be using the repository.
///
/// # Errors
/// I/O errors; the pack then stands where it stood, or under both names.
pub fn move_aside(storage: &dyn Storage, pack: &PackId) -> Result<String> {
    let aside = set_aside(storage, pack)?;
    let name = layout::pack(pack);
    storage.delete(&name)?;
    storage.sync_directory(name.rsplit_once('/').map_or("", |(directory, _)| directory))?;
    Ok(aside)
}

/// Files and bytes in `damaged/`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Aside {
    /// How many there are.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What `damaged/` holds.
///
/// # Errors
/// When it cannot be listed.
pub fn aside(storage: &dyn Storage) -> Result<Aside> {
    let objects = storage.list(layout::DAMAGED)?;
    let files = objects.iter().filter(|object| object.kind == ObjectKind::File);
    Ok(files.fold(Aside::default(), |sum, file| Aside { files: sum.files + 1, bytes: sum.bytes + file.size }))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::disk::{LocalStorage, ObjectWriter};
    use crate::progress::Silent;

    const CONTENT: &[u8] = b"not really a pack";

    fn made() -> (tempfile::TempDir, LocalStorage, PackId) {
        let root = tempfile::tempdir().unwrap();
        let scratch = root.path().join("tmp");
        fs::create_dir(&scratch).unwrap();
        let storage = LocalStorage::new(root.path(), Some(&scratch));
        let id = PackId::of_hasher(blake3::Hasher::new().update(CONTENT));
        write(&storage, CONTENT).publish(&layout::pack(&id)).unwrap();
        (root, storage, id)
    }

    fn write(storage: &LocalStorage, bytes: &[u8]) -> Box<dyn ObjectWriter> {
        let mut object = storage.create().unwrap();
        object.write_all(bytes).unwrap();
        object
    }

    fn condition(storage: &LocalStorage, id: &PackId) -> Condition {
        examine(storage, id, &Silent).unwrap()
    }

    #[test]
    fn a_pack_is_sound_damaged_or_missing() {
        let (root, storage, id) = made();
        assert_eq!(condition(&storage, &id), Condition::Sound);
        let path = root.path().join(layout::pack(&id));
        fs::write(&path, b"not really a pacK").unwrap();
        assert!(matches!(condition(&storage, &id), Condition::Damaged(cause) if cause.contains("17 bytes")));
        fs::write(&path, b"").unwrap();
        assert!(matches!(condition(&storage, &id), Condition::Damaged(_)));
        fs::remove_file(&path).unwrap();
        assert_eq!(condition(&storage, &id), Condition::Missing);
    }

    #[test]
    fn a_pack_set_aside_keeps_its_bytes_while_another_takes_its_name() {
        let (root, storage, id) = made();
        let path = root.path().join(layout::pack(&id));
        fs::write(&path, b"rotten").unwrap();
        assert_eq!(set_aside(&storage, &id).unwrap(), format!("damaged/{id}.1.pack"));
        assert_eq!(fs::read(&path).unwrap(), b"rotten", "nothing goes before the new pack is there");
        write(&storage, CONTENT).publish_over(&layout::pack(&id)).unwrap();
        assert_eq!(condition(&storage, &id), Condition::Sound);
        fs::write(&path, b"rotten again").unwrap();
        assert_eq!(move_aside(&storage, &id).unwrap(), format!("damaged/{id}.2.pack"));
        assert_eq!(condition(&storage, &id), Condition::Missing);
        let kept = |number: u32| fs::read(root.path().join(layout::damaged_pack(&id, number))).unwrap();
        assert_eq!((kept(1).as_slice(), kept(2).as_slice()), (b"rotten".as_slice(), b"rotten again".as_slice()));
        assert_eq!(aside(&storage).unwrap(), Aside { files: 2, bytes: 18 });
        assert_eq!(fs::read_dir(root.path().join("tmp")).unwrap().count(), 0, "a temporary file was left");
    }
}
