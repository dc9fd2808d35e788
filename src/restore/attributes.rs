//! What a name has beside its content: mode, owner and time.
//!
//! Invariant: what may not be set is counted and never fails a restore: files in the right state with a wrong owner are
//! better than none, and the operator is told.

use std::io;

use crate::disk::stat::{FileKind, FileStat, Nanoseconds};
use crate::disk::target::{OwnerChange, TargetRoot};
use crate::error::{Error, Result};
use crate::format::table::Entry;

/// What to do about owners.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnerPolicy {
    /// Restore them, with a warning where that is not permitted.
    Restore,
    /// Leave them.
    Skip,
}

/// What a name has beside its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Attributes {
    /// Permission bits.
    pub(super) mode: u32,
    /// Numeric owner.
    pub(super) uid: u32,
    /// Numeric group.
    pub(super) gid: u32,
    /// Time of the last change of content.
    pub(super) mtime: Nanoseconds,
}

/// What became of attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AttributesSet {
    /// They were as wanted before.
    Kept,
    /// They are now.
    All,
    /// Some may not be set by this user.
    NotPermitted,
}

impl Attributes {
    /// Those that the snapshot holds.
    pub(super) fn of(entry: &Entry) -> Self {
        let seconds = Nanoseconds::from(entry.modified.seconds) * 1_000_000_000;
        let mtime = seconds + Nanoseconds::from(entry.modified.nanoseconds);
        Self { mode: entry.mode, uid: entry.uid, gid: entry.gid, mtime }
    }

    /// Whether something with this state has others.
    pub(super) fn differ(&self, stat: &FileStat, owner: OwnerPolicy) -> bool {
        let mode = stat.kind != FileKind::Symlink && stat.mode != self.mode;
        let owner = owner == OwnerPolicy::Restore && (stat.uid, stat.gid) != (self.uid, self.gid);
        mode || owner || stat.mtime != self.mtime
    }

    /// Gives them to a name, as far as it has others; the last step on it, since all else changes them.
    ///
    /// # Errors
    /// I/O errors other than that it is not permitted.
    pub(super) fn set(&self, root: &TargetRoot, name: &[u8], owner: OwnerPolicy) -> Result<AttributesSet> {
        let Some(stat) = root.stat(name)?.filter(|stat| self.differ(stat, owner)) else {
            return Ok(AttributesSet::Kept);
        };
        let mut permitted = true;
        if owner == OwnerPolicy::Restore && (stat.uid, stat.gid) != (self.uid, self.gid) {
            permitted &= root.set_owner(name, self.uid, self.gid)? == OwnerChange::Done;
        }
        // Changing the owner clears some bits of the mode, so that is looked at again.
        let mode = root.stat(name)?.map_or(stat.mode, |stat| stat.mode);
        if stat.kind != FileKind::Symlink && mode != self.mode {
            permitted &= is_permitted(root.set_mode(name, self.mode))?;
        }
        if stat.mtime != self.mtime {
            permitted &= is_permitted(root.set_mtime(name, self.mtime))?;
        }
        Ok(if permitted { AttributesSet::All } else { AttributesSet::NotPermitted })
    }
}

/// Tells the operator of names whose attributes could not be set.
pub(super) fn warn_of_denials(names: u64) {
    if names > 0 {
        tracing::warn!(names, "the owner, mode or time of some files could not be set; the service may need a chown");
    }
}

/// Whether the operating system said that this user may not do that.
pub(super) fn is_denied(error: &Error) -> bool {
    matches!(error, Error::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied)
}

/// Whether it was done; that it is not permitted is no error.
fn is_permitted(outcome: Result<()>) -> Result<bool> {
    match outcome {
        Ok(()) => Ok(true),
        Err(error) if is_denied(&error) => Ok(false),
        Err(error) => Err(error),
    }
}
