//! Reasons for doubt in a captured vector store, as the manifest holds them: format-spec.md §11.6.
//!
//! Invariant: a reason begins with its code, and the codes that mean a loss come first in a manifest, so that none of
//! them is ever among those left out for brevity.

use std::fmt;

use crate::format::manifest::Consistency;

/// Reasons recorded at most; a manifest stays small whatever is wrong.
const RECORDED: usize = 8;
/// How reasons begin that mean a loss.
const BEHIND_QUEUE: &str = "behind_queue";
const NO_DATABASE: &str = "no_database";

/// Why a segment of a vector store may not be what it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Suspicion {
    /// Its files lack vectors that the queue does not hold any more: restored, the store would have lost them.
    BehindQueue { segment: String, vectors: u64 },
    /// The directory held a store before, and has files but no database now.
    NoDatabase,
    /// A file does not have the size that the header says.
    WrongSize { segment: String, file: &'static str, bytes: u64, expected: u64 },
    /// A file that goes with the others is missing.
    Missing { segment: String, file: &'static str },
    /// The header is no header.
    BadHeader { segment: String },
    /// The list of ids and the header count differently.
    WrongTotal { segment: String, total: u64, elements: u64 },
}

impl Suspicion {
    fn is_loss(&self) -> bool {
        matches!(self, Self::BehindQueue { .. } | Self::NoDatabase)
    }
}

impl fmt::Display for Suspicion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BehindQueue { segment, vectors } => write!(
                f,
                "{BEHIND_QUEUE}: {segment}: its HNSW files lack {vectors} vectors that the queue does not hold any more"
            ),
            Self::NoDatabase => {
                write!(f, "{NO_DATABASE}: chroma.sqlite3 is missing, or no database, and an earlier snapshot holds it")
            }
            Self::WrongSize { segment, file, bytes, expected } => {
                write!(f, "wrong_size: {segment}/{file} has {bytes} bytes where its header says {expected}")
            }
            Self::Missing { segment, file } => write!(f, "missing: {segment}/{file} does not exist"),
            Self::BadHeader { segment } => write!(f, "bad_header: {segment}/header.bin is too short"),
            Self::WrongTotal { segment, total, elements } => write!(
                f,
                "wrong_total: {segment}/index_metadata.pickle counts {total} elements and header.bin {elements}"
            ),
        }
    }
}

/// What is recorded of these reasons.
pub(super) fn consistency(mut suspicions: Vec<Suspicion>) -> Consistency {
    if suspicions.is_empty() {
        return Consistency::Proven;
    }
    suspicions.sort_by_key(|suspicion| !suspicion.is_loss());
    let more = suspicions.len().saturating_sub(RECORDED);
    let mut reasons: Vec<_> = suspicions.iter().take(RECORDED).map(Suspicion::to_string).collect();
    if more > 0 {
        reasons.push(format!("more: {more} further reasons of this kind"));
    }
    Consistency::Suspect(reasons)
}

/// Whether a tree was a store with a database when it was judged so.
pub(super) fn is_of_store(consistency: &Consistency) -> bool {
    match consistency {
        Consistency::Proven => true,
        Consistency::Suspect(reasons) => !reasons.iter().any(|reason| reason.starts_with(NO_DATABASE)),
        Consistency::Unproven => false,
    }
}

/// Whether a recorded reason means that restoring the tree would lose what the live service still had.
pub fn is_loss(reason: &str) -> bool {
    let begins_with = |code| reason.strip_prefix(code).is_some_and(|rest| rest.starts_with(':'));
    [BEHIND_QUEUE, NO_DATABASE].into_iter().any(begins_with)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_come_first_and_the_rest_is_counted() {
        let doubt = |number: u64| Suspicion::WrongTotal { segment: "s".into(), total: number, elements: 0 };
        let loss = Suspicion::BehindQueue { segment: "s".into(), vectors: 3 };
        let Consistency::Suspect(reasons) = consistency((0..20).map(doubt).chain([loss]).collect()) else { panic!() };
        assert_eq!(reasons.len(), RECORDED + 1);
        assert!(is_loss(&reasons[0]) && !is_loss(&reasons[1]), "{reasons:?}");
        assert!(reasons[RECORDED].contains("13"), "{reasons:?}");
        assert_eq!(consistency(Vec::new()), Consistency::Proven);
        assert!(is_loss(&Suspicion::NoDatabase.to_string()));
    }
}
