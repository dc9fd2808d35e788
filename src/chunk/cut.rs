//! Cutting a byte stream into chunks of 64 KiB: format-spec.md §7.
//!
//! Invariant: chunks come out aligned and full, but for the last; whatever the sizes in which bytes come in.

use crate::error::Result;
use crate::format::limits::CHUNK_SIZE;

/// Gathers bytes and hands out full chunks.
#[derive(Debug, Default)]
pub struct Cutter {
    partial: Vec<u8>,
}

impl Cutter {
    /// Takes more bytes; calls `chunk` with each full chunk.
    ///
    /// # Errors
    /// Those of `chunk`.
    pub fn feed(&mut self, mut bytes: &[u8], mut chunk: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        if !self.partial.is_empty() {
            let missing = CHUNK_SIZE - self.partial.len();
            let (taken, rest) = bytes.split_at_checked(missing).unwrap_or((bytes, &[]));
            self.partial.extend_from_slice(taken);
            bytes = rest;
            if self.partial.len() == CHUNK_SIZE {
                chunk(&self.partial)?;
                self.partial.clear();
            }
        }
        let mut full = bytes.chunks_exact(CHUNK_SIZE);
        for piece in &mut full {
            chunk(piece)?;
        }
        self.partial.extend_from_slice(full.remainder());
        Ok(())
    }

    /// Hands out the last, shorter chunk, if there is one.
    ///
    /// # Errors
    /// Those of `chunk`.
    pub fn finish(&mut self, mut chunk: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        if !self.partial.is_empty() {
            chunk(&self.partial)?;
            self.partial.clear();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_the_same_however_the_bytes_come_in() {
        let bytes: Vec<u8> = (0..200_000_u32).map(|n| n as u8).collect();
        for step in [1_000, 65_536, 70_000, 200_000] {
            let (mut cutter, mut chunks) = (Cutter::default(), Vec::new());
            let mut take = |chunk: &[u8]| {
                chunks.push(chunk.to_vec());
                Ok(())
            };
            for piece in bytes.chunks(step) {
                cutter.feed(piece, &mut take).unwrap();
            }
            cutter.finish(&mut take).unwrap();
            assert_eq!(chunks.iter().map(Vec::len).collect::<Vec<_>>(), [65_536, 65_536, 65_536, 3_392]);
            assert_eq!(chunks.concat(), bytes);
        }
    }
}
