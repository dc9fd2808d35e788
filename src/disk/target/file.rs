//! A file of a restore target, changed in place.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

use super::super::stat::FileStat;
use crate::error::{Error, Result};

/// Zeros are written in pieces of this many bytes where holes cannot be punched.
const ZEROS: usize = 64 * 1024;

/// A regular file open for reading and, if it was opened so, for writing; its inode stays the same whatever is written.
#[derive(Debug)]
pub struct TargetFile {
    file: File,
    path: PathBuf,
}

impl TargetFile {
    pub(super) fn new(file: File, path: PathBuf) -> Self {
        Self { file, path }
    }

    /// The path, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The open file, for walking its [`extents`](crate::disk::holes::extents).
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Its state now.
    pub fn stat(&self) -> Result<FileStat> {
        Ok(FileStat::from(&self.file.metadata().map_err(Error::io("look at", &self.path))?))
    }

    /// Fills the buffer from `offset` and returns how many bytes there were; fewer than its length only at the end.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.file.read_at(rest, offset + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::io("read", &self.path)(error)),
            }
        }
        Ok(filled)
    }

    /// Writes the bytes at `offset`, growing the file if they end behind its end.
    pub fn write_block(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.file.write_all_at(bytes, offset).map_err(Error::io("write", &self.path))
    }

    /// Cuts the file, or grows it by a hole.
    pub fn set_length(&self, length: u64) -> Result<()> {
        self.file.set_len(length).map_err(Error::io("set the length of", &self.path))
    }

    /// Makes a run of the file read as zeros, without taking space where the file system can do that. The length of the
    /// file stays; what lies behind its end is left out.
    pub fn punch_hole(&self, offset: u64, length: u64) -> Result<()> {
        let size = self.stat()?.size;
        let length = length.min(size.saturating_sub(offset));
        if length == 0 {
            return Ok(());
        }
        match fallocate(&self.file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, length) {
            Ok(()) => Ok(()),
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => self.write_zeros(offset, length),
            Err(error) => Err(Error::io("punch a hole into", &self.path)(error.into())),
        }
    }

    pub(super) fn write_zeros(&self, offset: u64, length: u64) -> Result<()> {
        let zeros = [0; ZEROS];
        let mut written = 0;
        while written < length {
            let piece = zeros.get(..usize::try_from(length - written).unwrap_or(ZEROS).min(ZEROS)).unwrap_or(&zeros);
            self.write_block(offset + written, piece)?;
            written += piece.len() as u64;
        }
        Ok(())
    }

    /// On return the content and length survive a crash. An error means that they are lost; do not try again.
    pub fn sync(&self) -> Result<()> {
        self.file.sync_all().map_err(Error::io("fsync", &self.path))
    }
}
