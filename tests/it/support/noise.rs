//! Bytes that look random, do not compress, and are the same in every run.

/// `length` bytes that depend on `name` alone.
pub fn bytes(name: &str, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(name.as_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}
