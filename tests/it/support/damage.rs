//! Wounds: what may happen to one file of a repository.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// A way to hurt a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// One bit in the middle is the other one.
    Flip,
    /// The second half is missing.
    Truncate,
    /// No bytes are left.
    Empty,
    /// The file is missing.
    Delete,
    /// There is more than there was.
    Append,
}

impl Damage {
    pub const ALL: [Damage; 5] = [Damage::Flip, Damage::Truncate, Damage::Empty, Damage::Delete, Damage::Append];

    pub fn inflict(self, path: &Path) {
        let length = fs::metadata(path).unwrap().len();
        match self {
            Damage::Flip => flip(path, length / 2),
            Damage::Truncate => OpenOptions::new().write(true).open(path).unwrap().set_len(length / 2).unwrap(),
            Damage::Empty => OpenOptions::new().write(true).open(path).unwrap().set_len(0).unwrap(),
            Damage::Delete => fs::remove_file(path).unwrap(),
            Damage::Append => OpenOptions::new().append(true).open(path).unwrap().write_all(b"more").unwrap(),
        }
    }
}

/// Flips the lowest bit of the byte at `offset`.
pub fn flip(path: &Path, offset: u64) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 1], offset).unwrap();
}

/// The regular files below `directory`, ascending.
pub fn files_below(directory: &Path) -> Vec<PathBuf> {
    let entries = walkdir::WalkDir::new(directory).sort_by_file_name().into_iter().map(Result::unwrap);
    entries.filter(|entry| entry.file_type().is_file()).map(walkdir::DirEntry::into_path).collect()
}

/// The packs of the repository.
pub fn packs(repository: &Path) -> Vec<PathBuf> {
    files_below(&repository.join("packs"))
}
