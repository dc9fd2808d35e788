//! Verdicts of SQLite's integrity check, and on what should be JSON, kept by the content that was checked.
//!
//! Invariant: a verdict belongs to bytes, not to a place or a time, so it holds for every snapshot that has the same
//! content. Verdicts that could not be reached are not kept: the next check may have what this one lacked.

use std::path::Path;

use super::index::{Index, Question};
use super::json_verdict::JsonVerdict;
use crate::disk::sqlite;
use crate::format::content::Content;
use crate::format::manifest::Verdict;

/// Whether a kept verdict is good enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recheck {
    /// A kept verdict counts.
    IfUnknown,
    /// The check runs in any case.
    Always,
}

/// Checks the image of this content in the file at `path`, which no process uses, and keeps the verdict.
pub fn check_image(index: &Index, content: &Content, path: &Path) -> Verdict {
    keep(index, content, sqlite::integrity_check(path))
}

/// Keeps what SQLite said of the image of this content, unless that says nothing about the image, and returns what it
/// means.
pub fn keep(index: &Index, content: &Content, verdict: sqlite::CheckOutcome) -> Verdict {
    let verdict = match verdict {
        sqlite::CheckOutcome::Ok => Verdict::Ok,
        sqlite::CheckOutcome::Failed(cause) => Verdict::Failed(cause),
        sqlite::CheckOutcome::Unknown(cause) | sqlite::CheckOutcome::Unreadable(cause) => Verdict::Unknown(cause),
        sqlite::CheckOutcome::OpenFailed(cause) => Verdict::OpenFailed(cause),
    };
    if !matches!(verdict, Verdict::Unknown(_) | Verdict::Unchecked)
        && let Err(cause) = index.record_verdict(Question::Integrity, content, &verdict)
    {
        tracing::debug!(%cause, "a verdict could not be kept");
    }
    verdict
}

/// The kept verdict on this content, if one is good enough.
pub fn kept(index: &Index, content: &Content, recheck: Recheck) -> Option<Verdict> {
    match recheck {
        Recheck::IfUnknown => {
            index.verdict(Question::Integrity, content).filter(|verdict| *verdict != Verdict::Unchecked)
        }
        Recheck::Always => None,
    }
}

/// The kept verdict on this content, which should be JSON.
pub fn kept_on_json(index: &Index, content: &Content) -> Option<JsonVerdict> {
    match index.verdict(Question::Json, content)? {
        Verdict::Ok => Some(JsonVerdict::Sound),
        Verdict::Failed(cause) => Some(JsonVerdict::Invalid(cause)),
        Verdict::Unchecked | Verdict::Unknown(_) | Verdict::OpenFailed(_) => None,
    }
}

/// Keeps a verdict on this content, which should be JSON.
pub fn keep_on_json(index: &Index, content: &Content, verdict: &JsonVerdict) {
    let verdict = match verdict {
        JsonVerdict::Sound => Verdict::Ok,
        JsonVerdict::Invalid(cause) => Verdict::Failed(cause.clone()),
    };
    if let Err(cause) = index.record_verdict(Question::Json, content, &verdict) {
        tracing::debug!(%cause, "a verdict could not be kept");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_not_be_read_has_no_verdict() {
        let index = Index::open_private().unwrap();
        let verdict = check_image(&index, &Content::EMPTY, Path::new("/nowhere/image"));
        assert!(matches!(&verdict, Verdict::Unknown(_)), "{verdict:?}");
        assert_eq!(kept(&index, &Content::EMPTY, Recheck::IfUnknown), None);
    }
}
