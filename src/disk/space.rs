//! How much room a file system has left, asked before anything large is written.

use std::io;
use std::path::Path;

use rustix::fs::statvfs;

use crate::error::{Error, Result};

/// Bytes that this user can still write on the file system of `path`.
///
/// # Errors
/// [`Error::Io`] if the file system cannot be asked.
pub fn available(path: &Path) -> Result<u64> {
    let mount = statvfs(path).map_err(io::Error::from).map_err(Error::io("ask for free space at", path))?;
    Ok(mount.f_bavail.saturating_mul(mount.f_frsize))
}

/// Bytes that the file system of `path` has in all.
///
/// # Errors
/// As [`available`].
pub fn total(path: &Path) -> Result<u64> {
    let mount =
        statvfs(path).map_err(io::Error::from).map_err(Error::io("ask for the size of the file system at", path))?;
    Ok(mount.f_blocks.saturating_mul(mount.f_frsize))
}

/// Checks that the file system of `path` has room for `needed` bytes; `purpose` says what they are for, as in "checking
/// the integrity of chroma.sqlite3", and `advice` what to do about too little.
///
/// # Errors
/// [`Error::Failed`] that names both numbers.
pub fn require(path: &Path, needed: u64, purpose: &str, advice: &str) -> Result<()> {
    let free = available(path)?;
    if free >= needed {
        return Ok(());
    }
    Err(Error::Failed(format!("{purpose} needs {needed} bytes in {}, which has {free} free; {advice}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_there_is_is_refused_with_both_numbers() {
        let root = tempfile::tempdir().unwrap();
        require(root.path(), 1, "a test", "nothing").unwrap();
        let error = require(root.path(), u64::MAX, "a test", "make room").unwrap_err().to_string();
        assert!(error.contains(&u64::MAX.to_string()) && error.contains("make room"), "{error}");
    }
}
