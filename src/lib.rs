//! vecsnap: content-addressed incremental snapshots of live SQLite databases, small files and Chroma vector stores.
//!
//! A snapshot is a manifest that points into a deduplicated store of 64 KiB chunks; a restore rewrites, in place, the
//! 4 KiB blocks that differ. The rooms of this crate form one-way layers, from the bytes on disk to the operations:
//! `error`, `id`, `progress` ← `format` ← `disk` ← `chunk` ← `store` ← `save` ← `restore` ← `upkeep` ← `cli`.
//! `docs/architecture.md` tells the story; `format-spec.md` is the truth about every byte.

pub mod chunk;
pub mod cli;
pub mod disk;
pub mod error;
pub mod format;
pub mod id;
pub mod progress;
pub mod restore;
pub mod save;
pub mod store;
pub mod upkeep;

pub use error::{Error, Result};
