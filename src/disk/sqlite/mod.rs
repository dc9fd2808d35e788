//! SQLite files: what lies beside them, how they are opened, copied, checked and folded.
//!
//! Invariant: a source database is never changed by any function here except [`fold_sidecars`], which is for restore
//! targets; and a private image is opened so that no sidecar ever appears beside it. The bundled SQLite is used
//! throughout, since older ones can corrupt a database under a concurrent checkpoint (the WAL-reset bug, fixed in
//! 3.51.3).

mod backup;
mod check;
mod connection;
mod fold;
mod freeze;
mod image;
mod pages;
mod sidecar;
mod sniff;

pub use check::{CheckOutcome, integrity_check};
pub use connection::SqliteAccess;
pub use fold::{Folded, fold_sidecars};
pub use freeze::{Frozen, WriteLock};
pub use image::{BlockLimit, CopyLimits, PinnedSource, SourceTrouble, WriterBlocked, read_image};
pub use sidecar::{DatabaseStats, Sidecar, is_wal_live};
pub use sniff::{HeaderMode, Sniffed, is_sqlite, sniff};

#[cfg(test)]
mod tests {
    #[test]
    fn the_bundled_sqlite_has_the_fix_of_the_wal_reset_bug() {
        assert!(rusqlite::version_number() >= 3_051_003, "{}", rusqlite::version());
    }
}
