//! Reading a stretch of a file into memory that nobody fills with zeros first.
//!
//! Invariant: what comes back has exactly the length that was asked for. Chunks and frames are read by the thousand,
//! and each byte would otherwise be written twice.

use std::io;
use std::os::fd::AsFd;

use rustix::buffer::spare_capacity;
use rustix::io::{Errno, pread};

/// Reads `length` bytes that begin at byte `offset`.
///
/// # Errors
/// [`io::ErrorKind::UnexpectedEof`] if the file ends before; what the system says.
pub fn read_exactly(file: impl AsFd, offset: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(length);
    refill(file, &mut bytes, offset, length)?;
    Ok(bytes)
}

/// The same into a buffer whose content gives way to it; after an error, that is of no meaning.
///
/// # Errors
/// As [`read_exactly`].
pub fn refill(file: impl AsFd, buffer: &mut Vec<u8>, offset: u64, length: usize) -> io::Result<()> {
    buffer.clear();
    buffer.reserve_exact(length);
    while buffer.len() < length {
        let at = offset.checked_add(buffer.len() as u64).ok_or(Errno::OVERFLOW)?;
        match pread(&file, spare_capacity(buffer), at) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    // The buffer may have had room for more.
    buffer.truncate(length);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn a_stretch_comes_whole_or_not_at_all() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let content: Vec<u8> = (0..100_000_u32).map(|number| (number / 7) as u8).collect();
        std::fs::write(&path, &content).unwrap();
        let file = File::open(&path).unwrap();
        assert_eq!(read_exactly(&file, 0, 100_000).unwrap(), content);
        assert_eq!(read_exactly(&file, 99_000, 1000).unwrap(), content[99_000..]);
        assert!(read_exactly(&file, 99_000, 0).unwrap().is_empty());
        for (offset, length) in [(99_000, 1001), (100_000, 1), (200_000, 5), (0, 100_001)] {
            let error = read_exactly(&file, offset, length).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{offset} {length}");
        }
        let mut buffer = vec![9; 70_000];
        refill(&file, &mut buffer, 10, 300).unwrap();
        assert_eq!(buffer, content[10..310], "a buffer with more room gets no more");
    }
}
