//! The STAMP argument: which snapshot a command is about.

use std::fmt;
use std::str::FromStr;

use crate::disk::Storage;
use crate::error::Error;
use crate::id::Stamp;
use crate::store::snapshots;

/// The word that stands for the newest snapshot that is no pre-restore snapshot.
const LATEST: &str = "latest";

/// A snapshot as the operator names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StampArgument {
    /// The newest snapshot, pre-restore snapshots aside.
    Latest,
    /// The one with this name.
    Named(SnapshotName),
}

/// The name of a directory directly in `snapshots/`, well-formed stamp or not; never leads out of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotName(String);

impl SnapshotName {
    /// The name as given.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The stamp that this name is, if it is one.
    pub fn stamp(&self) -> Option<Stamp> {
        self.0.parse().ok()
    }
}

impl fmt::Display for StampArgument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Latest => f.write_str(LATEST),
            Self::Named(name) => name.fmt(f),
        }
    }
}

impl fmt::Display for SnapshotName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl StampArgument {
    /// The name of the snapshot meant; `None` if the latest is meant and there is none. A name need not exist.
    ///
    /// # Errors
    /// When the snapshots cannot be listed.
    pub fn resolve(&self, storage: &dyn Storage) -> Result<Option<String>, Error> {
        match self {
            Self::Named(name) => Ok(Some(name.to_string())),
            Self::Latest => Ok(snapshots::latest(storage)?.map(|listing| listing.name)),
        }
    }
}

impl FromStr for StampArgument {
    type Err = Error;

    /// Takes any name that stays inside `snapshots/`; everything else is a usage error.
    fn from_str(text: &str) -> Result<Self, Error> {
        if text == LATEST {
            return Ok(StampArgument::Latest);
        }
        if text.is_empty() || text == "." || text.contains("..") || text.contains(['/', '\0']) {
            return Err(Error::Usage(format!(
                "'{}' cannot name a snapshot; give a stamp like 20260406T180000Z or '{LATEST}' (`vecsnap list` shows them)",
                text.escape_default()
            )));
        }
        Ok(StampArgument::Named(SnapshotName(text.to_owned())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_leads_out_of_the_snapshots_is_a_usage_error() {
        for wrong in ["", ".", "..", "../20260406T180000Z", "a/b", "/", "20260406T180000Z/", "a..b", "a\0b"] {
            assert!(matches!(wrong.parse::<StampArgument>(), Err(Error::Usage(_))), "{wrong:?}");
        }
    }

    #[test]
    fn latest_stamps_and_other_directory_names_are_told_apart() {
        assert_eq!("latest".parse::<StampArgument>().unwrap(), StampArgument::Latest);
        let named = |text: &str| match text.parse().unwrap() {
            StampArgument::Named(name) => name,
            StampArgument::Latest => panic!("{text} is not 'latest'"),
        };
        assert_eq!(named("20260406T180000Z").stamp().unwrap().to_string(), "20260406T180000Z");
        assert_eq!(named("before-upgrade").stamp(), None);
        assert_eq!(named("Latest").as_str(), "Latest");
    }
}
