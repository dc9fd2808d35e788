//! Where a file has bytes and where it has none: data and holes, in order.
//!
//! Invariant: the extents follow each other without a gap from byte 0 to the given length, and whatever is called a
//! hole reads as zeros. A file system that cannot tell reports one extent of data, which is always true.

use std::fs::File;
use std::io;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

/// What an extent holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExtentKind {
    /// Bytes.
    Data,
    /// Nothing; reads as zeros.
    Hole,
}

/// A run of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// What it holds.
    pub kind: ExtentKind,
    /// Its first byte.
    pub offset: u64,
    /// Its length in bytes, never 0.
    pub length: u64,
}

/// The extents of the first `length` bytes of a file. Moves the file's own position, so read at explicit offsets.
pub fn extents(file: &File, length: u64) -> Extents<'_> {
    Extents { file, position: 0, length }
}

/// See [`extents`].
#[derive(Debug)]
pub struct Extents<'a> {
    file: &'a File,
    position: u64,
    length: u64,
}

impl Extents<'_> {
    fn next_extent(&self) -> io::Result<Extent> {
        let offset = self.position;
        let extent = |kind, end: u64| Extent { kind, offset, length: end.min(self.length) - offset };
        let data = match seek(self.file, SeekFrom::Data(offset)) {
            Ok(data) => data,
            // No data from here to the end.
            Err(Errno::NXIO) => return Ok(extent(ExtentKind::Hole, self.length)),
            Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(extent(ExtentKind::Data, self.length)),
            Err(error) => return Err(error.into()),
        };
        if data > offset {
            return Ok(extent(ExtentKind::Hole, data));
        }
        match seek(self.file, SeekFrom::Hole(offset)) {
            Ok(end) if end > offset => Ok(extent(ExtentKind::Data, end)),
            // The file shrank in between; the reader will notice.
            Ok(_) | Err(Errno::NXIO) => Ok(extent(ExtentKind::Data, self.length)),
            Err(error) => Err(error.into()),
        }
    }
}

impl Iterator for Extents<'_> {
    type Item = io::Result<Extent>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.position >= self.length {
            return None;
        }
        let extent = self.next_extent();
        self.position = extent.as_ref().map_or(self.length, |extent| extent.offset + extent.length);
        Some(extent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    #[test]
    fn extents_cover_the_file_and_holes_read_as_zeros() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(3 << 20).unwrap();
        file.write_all_at(&[7; 4096], 1 << 20).unwrap();
        let found: Vec<_> = extents(&file, 3 << 20).map(|extent| extent.unwrap()).collect();
        let mut position = 0;
        for extent in &found {
            assert_eq!(extent.offset, position);
            position += extent.length;
            if extent.kind == ExtentKind::Hole {
                let mut bytes = vec![1; extent.length as usize];
                file.read_exact_at(&mut bytes, extent.offset).unwrap();
                assert!(bytes.iter().all(|byte| *byte == 0));
            }
        }
        assert_eq!(position, 3 << 20);
        assert!(found.iter().any(|extent| extent.kind == ExtentKind::Hole), "no hole found: {found:?}");
        assert_eq!(extents(&file, 0).count(), 0);
    }
}
