//! The repository: putting blobs in, getting them back, and publishing snapshots.
//!
//! Packs and snapshots are the truth; the index is derived from the packs and may vanish at any time. Invariant: a blob
//! that [`blob_reader::BlobReader`] hands out has been hashed and is what its id says; a blob that
//! [`blob_writer::BlobWriter`] reports as stored is in a published pack once it has finished.

pub mod base;
pub mod blob_reader;
pub mod blob_writer;
pub mod bulk_reader;
mod byte_cache;
pub mod chain;
mod compressing;
pub mod damaged;
pub mod decoded_frames;
pub mod file_table;
mod footers;
mod frames;
pub mod index;
pub mod intents;
pub mod json_verdict;
pub mod layout;
mod lost_bases;
mod metadata_frame;
pub mod outcomes;
mod pack_builder;
pub mod packs;
pub mod pieces;
pub mod repository;
pub mod snapshots;
mod spill;
mod staged;
pub mod temporary;
mod upload;
pub mod verdicts;
pub mod wanted;

pub use base::{Base, PreviousContent, TreeSink};
pub use blob_reader::{BlobFault, BlobReader, BlobResult, RecordedDelta};
pub use blob_writer::{BlobWriter, DeltaRecord, FrameGroup, Stored};
pub use bulk_reader::{BulkReader, HeldRun, PlanCapacity, Planning, TakeChunk, WantedChunk};
pub use decoded_frames::DecodedFrames;
pub use metadata_frame::MetadataRecords;
pub use repository::{Access, LockWait, Repository};
pub use snapshots::{SnapshotFormat, SnapshotListing};
pub use staged::{Span, StagedBlobs};
