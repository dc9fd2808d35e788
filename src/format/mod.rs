//! Every byte that vecsnap writes to a repository, and nothing else: pure encoding and decoding, no I/O.
//!
//! Invariant: `format-spec.md` is normative; each fact of it stands in exactly one place here, with its clause.
//! Decoders accept only what the specification allows, never allocate beyond its limits and never panic, whatever the
//! input. Why a room of its own: a reader in another language and the golden repositories hold this room, not its
//! users.

pub mod codec;
pub mod compression;
pub mod content;
pub mod delta;
pub mod envelope;
pub mod header;
pub mod intent;
pub mod limits;
pub mod list_node;
pub mod malformed;
pub mod manifest;
pub mod metadata;
pub mod pack;
pub mod planes;
#[cfg(test)]
mod specification;
pub mod table;

pub use malformed::Malformed;
