//! Counts and sizes that no structure of format version 1 may exceed: format-spec.md §12.

/// The only format version that this build reads and writes.
pub const FORMAT_VERSION: u16 = 1;
/// Bytes of a chunk; only the last chunk of a file is shorter.
pub const CHUNK_SIZE: usize = 64 * 1024;
/// Most slots of a list node.
pub const NODE_SLOTS: usize = 128;
/// Greatest depth of a list node: enough for 2^63 bytes.
pub const NODE_DEPTH: u8 = 7;
/// Most decoded bytes of one blob.
pub const BLOB_BYTES: usize = CHUNK_SIZE;
/// Most decoded bytes of one frame.
pub const FRAME_BYTES: usize = 8 * 1024 * 1024;
/// Most bytes of one pack file.
pub const PACK_BYTES: u64 = 256 * 1024 * 1024;
/// Most frames of one pack.
pub const PACK_FRAMES: usize = 65_536;
/// Most records of one pack.
pub const PACK_RECORDS: usize = 524_288;
/// Most decoded bytes of a pack's footer.
pub const FOOTER_BYTES: usize = 64 * 1024 * 1024;
/// Most bases of one delta record, not counting the pack's own id table.
pub const DELTA_BASES: usize = 64;
/// Longest way from a record through its bases to whole records.
pub const CHAIN_DEPTH: usize = 128;
/// Most distinct records that one blob may need.
pub const CHAIN_RECORDS: usize = 1_024;
/// Combinations of blobs that share the prefixes of a delta's bases which a reader tries at least.
pub const BASE_COMBINATIONS: usize = 256;
/// Most decoded bytes of a manifest.
pub const MANIFEST_BYTES: usize = 1024 * 1024;
/// Most sources of one snapshot.
pub const SOURCES: usize = 64;
/// Most bytes of one entry of a file table.
pub const TABLE_ENTRY_BYTES: usize = 64 * 1024;
/// Most bytes of a path or of a link's target.
pub const PATH_BYTES: usize = 4_096;
/// Most bytes of one component of a path.
pub const NAME_BYTES: usize = 255;
/// Most extensions of one structure.
pub const EXTENSIONS: usize = 64;
/// Most bytes of a header's payload.
pub const HEADER_BYTES: usize = 4_096;
