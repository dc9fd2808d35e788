//! The scratch copy of a drill.
//!
//! Invariant: it is private to its owner, and goes with its [`ScratchCopy`], read-only directories in it too.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::disk::space;
use crate::disk::target::TargetRoot;
use crate::error::{Error, Result};
use crate::format::manifest::Manifest;
use crate::id::Stamp;

/// Bytes of directories and of the description, generously.
const OVERHEAD: u64 = 16 * 1024 * 1024;

/// A directory for one restored snapshot.
pub(super) struct ScratchCopy {
    directory: TempDir,
}

impl ScratchCopy {
    const RESTORED: &str = "restored";

    /// Makes one below `scratch`, which must have the room.
    ///
    /// # Errors
    /// [`Error::Failed`] if it has not; I/O errors.
    pub(super) fn make(manifest: &Manifest, stamp: Stamp, scratch: &Path) -> Result<Self> {
        let needed = manifest.sources.iter().map(|source| source.bytes).fold(OVERHEAD, u64::saturating_add);
        let purpose = format!("a drill of {stamp}");
        space::require(scratch, needed, &purpose, "name a directory with more room by --scratch")?;
        let directory = tempfile::Builder::new().prefix("vecsnap-drill-").tempdir_in(scratch);
        Ok(Self { directory: directory.map_err(Error::io("create a directory in", scratch))? })
    }

    /// Where the snapshot goes, which does not exist yet.
    pub(super) fn restored(&self) -> PathBuf {
        self.directory.path().join(Self::RESTORED)
    }

    fn make_removable(&self) -> Result<()> {
        TargetRoot::open(self.directory.path())?.make_removable(Self::RESTORED.as_bytes())
    }

    /// Removes it.
    ///
    /// # Errors
    /// [`Error::Failed`] that names what stays.
    pub(super) fn remove(self) -> Result<()> {
        let path = self.directory.path();
        let removed = self
            .make_removable()
            .and_then(|()| fs::remove_dir_all(path).map_err(Error::io("remove the copy of the drill", path)));
        removed.map_err(|cause| {
            Error::Failed(format!(
                "{cause}; remove it by hand (`vecsnap status` tells what the last recorded drill found)"
            ))
        })
    }
}

impl Drop for ScratchCopy {
    fn drop(&mut self) {
        // What is left then is told by `remove`, or by the error that came before.
        let _ = self.make_removable();
    }
}
