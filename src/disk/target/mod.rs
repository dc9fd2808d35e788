//! A directory below which no link leads out: where a restore writes, and what removes temporary directories.
//!
//! Invariant: nothing outside a [`TargetRoot`] is ever touched, whatever symlinks lie or are planted in it: a name is
//! walked from the open root without following a link in any component, and no open truncates or replaces a file. Names
//! are byte strings relative to the root, `/`-separated; one that is absolute or holds `.`, `..`, an empty component or
//! a NUL is refused. Nothing is durable before the file or directory concerned is synced.

mod file;
mod removal;
mod root;
#[cfg(test)]
mod tests;

pub use file::TargetFile;
pub use root::{OwnerChange, TargetEntry, TargetRoot};
