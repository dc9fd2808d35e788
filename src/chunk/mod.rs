//! How content becomes blobs: cut into chunks, joined into trees, compressed into frames.
//!
//! Invariant: nothing here knows where blobs are kept; a [`tree::NodeSink`] takes them. Why fixed chunks of 64 KiB:
//! every page size of SQLite divides them, and deltas, not boundaries, find what changed (docs/decisions.md).

pub mod compress;
pub mod cut;
pub mod delta;
pub mod moved;
pub mod tree;
