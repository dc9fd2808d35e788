//! How an operation tells how far it is, and learns that the operator wants it to stop.
//!
//! An operation announces each [`Phase`] with the bytes it expects to handle, advances as it handles them, and asks
//! [`Progress::check`] between pieces of work. Invariant: reporting never changes a result; the only way back into the
//! operation is the interruption, which surfaces as [`Error::Interrupted`] at a place the operation chose.
//! Why a trait here at the bottom: every room reports, while bars and signals are known to the command line alone.

use std::fmt;

use crate::error::{Error, Result};

/// What an operation is doing now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Phase {
    /// Sources are read, hashed and stored.
    Reading,
    /// What was just written is read back and hashed.
    Checking,
    /// The blobs of a snapshot are read, decoded and hashed.
    Verifying,
    /// SQLite checks the integrity of an image.
    CheckingDatabases,
    /// Targets are compared with the snapshot, block by block.
    Comparing,
    /// Blocks that differ are written into targets.
    Writing,
    /// Cleanup finds out which blobs are still needed.
    Marking,
    /// Packs that nothing needs any more are removed or rewritten.
    Cleaning,
    /// The index is built again from the packs.
    Indexing,
    /// The made-up data of the demo is written.
    Preparing,
}

impl Phase {
    /// The phase as one calm word or two, capitalised, for people.
    pub const fn name(self) -> &'static str {
        match self {
            Phase::Reading => "Reading",
            Phase::Checking => "Checking",
            Phase::Verifying => "Verifying",
            Phase::CheckingDatabases => "Checking databases",
            Phase::Comparing => "Comparing",
            Phase::Writing => "Writing",
            Phase::Marking => "Marking",
            Phase::Cleaning => "Cleaning",
            Phase::Indexing => "Indexing",
            Phase::Preparing => "Preparing",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Where an operation reports how far it is; shared by all its threads.
pub trait Progress: Sync {
    /// A new phase begins, and with it the count of bytes; `total` is how many are expected, where that is known.
    fn phase(&self, phase: Phase, total: Option<u64>);

    /// So many more bytes of the present phase are done.
    fn advance(&self, bytes: u64);

    /// The operation is over, whether it succeeded or not.
    fn finish(&self);

    /// Whether the operator asked to stop.
    fn interrupted(&self) -> bool;

    /// Fails with [`Error::Interrupted`] once the operator asked to stop; called wherever stopping is safe.
    fn check(&self) -> Result<()> {
        if self.interrupted() { Err(Error::Interrupted) } else { Ok(()) }
    }
}

/// Reports nothing and is never interrupted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn phase(&self, _phase: Phase, _total: Option<u64>) {}
    fn advance(&self, _bytes: u64) {}
    fn finish(&self) {}
    fn interrupted(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Stopped;

    impl Progress for Stopped {
        fn phase(&self, _phase: Phase, _total: Option<u64>) {}
        fn advance(&self, _bytes: u64) {}
        fn finish(&self) {}
        fn interrupted(&self) -> bool {
            true
        }
    }

    #[test]
    fn a_check_fails_only_once_the_operator_asked_to_stop() {
        assert!(Silent.check().is_ok());
        assert!(matches!(Stopped.check(), Err(Error::Interrupted)));
    }
}
