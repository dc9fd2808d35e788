//! What a restore demands of a snapshot before anything is touched.
//!
//! Invariant: behind this gate every blob of the snapshot has been read, decoded and hashed in this run, so whatever is
//! written later is known to be readable. Going back is judged by bytes alone: the state before may well have been
//! damaged, and it is what the operator asks for.

use std::collections::HashSet;
use std::sync::Arc;

use crate::disk::Storage;
use crate::error::{Error, Result};
use crate::format::manifest::{CHROMA, Manifest};
use crate::id::{BlobId, Stamp};
use crate::progress::Progress;
use crate::save::chroma::is_loss as is_loss_of_vectors;
use crate::store::snapshots::{self, ManifestFault, SnapshotFormat};
use crate::store::verdicts::Recheck;
use crate::store::{Repository, StagedBlobs, layout};

use super::job::{ChromaChoice, Direction, Job};
use super::verify::{Depth, Finding, Verification, Verified, VerifyOptions, verify_keeping};

/// What a missing snapshot is called.
const DIRECTORY_MISSING: &str = "snapshot_directory_missing";

const MANIFEST_MISSING: &str = "manifest_missing";

/// The error for a snapshot that cannot be restored.
pub fn not_valid(name: &str, errors: &[String]) -> Error {
    Error::NotValid(format!("backup {name} failed validation: {}", errors.join(", ")))
}

/// The error for a name that no snapshot has.
pub fn missing(name: &str) -> Error {
    Error::NotValid(format!(
        "backup {name} failed validation: {DIRECTORY_MISSING}; `vecsnap list` shows those there are"
    ))
}

/// The stamp that an operator's name for a snapshot is.
///
/// # Errors
/// [`Error::NotValid`] for a name that is no stamp, saying what stands there.
pub fn resolve(repository: &Repository, name: &str) -> Result<Stamp> {
    match name.parse() {
        Ok(stamp) => Ok(stamp),
        Err(_) => {
            find_own(repository, name)?;
            Err(not_valid(name, &[MANIFEST_MISSING.into()]))
        }
    }
}

/// Reads the manifest of a snapshot.
///
/// # Errors
/// [`Error::NotValid`] if there is none that can be used; I/O errors.
pub fn read_manifest(repository: &Repository, stamp: Stamp) -> Result<Manifest> {
    let name = stamp.to_string();
    find_own(repository, &name)?;
    snapshots::read_manifest(repository, stamp)?.map_err(|fault| match fault {
        ManifestFault::Missing => not_valid(&name, &[MANIFEST_MISSING.into()]),
        ManifestFault::Corrupt(cause) => {
            let path = layout::snapshot_directory(repository.root(), &name).join(layout::MANIFEST);
            not_valid(&name, &[format!("manifest_corrupt: {}: {cause}", path.display())])
        }
    })
}

/// Refuses a snapshot that does not exist, or that another tool took.
fn find_own(repository: &Repository, name: &str) -> Result<()> {
    refuse_full_copy(repository.storage(), name)?.ok_or_else(|| missing(name))
}

/// Refuses a full copy of the earlier tool, whether there is a repository around it or not; none if there is no such
/// directory.
///
/// # Errors
/// [`Error::NotValid`] that tells what takes it in; I/O errors.
pub fn refuse_full_copy(storage: &dyn Storage, name: &str) -> Result<Option<()>> {
    match snapshots::find(storage, name)? {
        None => Ok(None),
        Some(listing) if listing.format == SnapshotFormat::FullCopy => Err(Error::NotValid(format!(
            "backup {name} is a full copy of the tool that vecsnap replaced ({}); `import`, which is to come, takes it in",
            listing.path.display()
        ))),
        Some(_) => Ok(Some(())),
    }
}

/// What to do about a vector store that is known to have lost vectors when it was captured.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SuspectPolicy {
    /// It is not restored.
    #[default]
    Refuse,
    /// It is restored all the same.
    Accept,
}

/// What to do about a snapshot that is not valid.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum InvalidPolicy {
    /// It is not restored.
    #[default]
    Refuse,
    /// What can be read of it is restored, and the rest is named.
    Accept,
}

/// What is restored in spite of its faults.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Accept {
    pub(super) suspect: SuspectPolicy,
    pub(super) invalid: InvalidPolicy,
}

/// A snapshot that may be restored.
#[derive(Default)]
pub(super) struct Passed {
    /// Verified blobs that are read again.
    pub(super) staged: Option<Arc<StagedBlobs>>,
    /// What is wrong with it all the same.
    pub(super) accepted: Vec<String>,
}

/// Verifies the whole snapshot of a job; of the chunks in `kept`, which are read again, those that cost most are
/// staged.
///
/// # Errors
/// [`Error::NotValid`] with everything that is wrong, unless that is accepted; errors that keep the verification from
/// running.
pub(super) fn check(
    repository: &Repository,
    job: &Job,
    accept: Accept,
    kept: HashSet<BlobId>,
    progress: &dyn Progress,
) -> Result<Passed> {
    let options = VerifyOptions { depth: Depth::Content, recheck: Recheck::IfUnknown };
    let Verified { verification, staged } = verify_keeping(repository, &job.manifest, options, kept, progress)?;
    for warning in verification.warnings() {
        tracing::warn!(stamp = %job.stamp, %warning, "the snapshot can be restored all the same");
    }
    let objections = objections(repository, job, accept.suspect, &verification)?;
    match accept.invalid {
        InvalidPolicy::Refuse if !objections.errors.is_empty() => Err(refusal(job.stamp, objections)),
        InvalidPolicy::Refuse => Ok(Passed { staged, accepted: Vec::new() }),
        InvalidPolicy::Accept => {
            for error in &objections.errors {
                tracing::warn!(
                    stamp = %job.stamp, %error, "the snapshot is not valid; what can be read of it is restored"
                );
            }
            Ok(Passed { staged, accepted: objections.errors })
        }
    }
}

/// What speaks against restoring a snapshot.
#[derive(Default)]
struct Objections {
    errors: Vec<String>,
    /// Among them is that the vector store had lost vectors.
    vectors_lost: bool,
    /// Among them is that blobs are lost.
    blobs_lost: bool,
}

/// What an operator is told about a finding.
enum Judgement {
    Objection,
    Doubt,
    NotRestored,
}

/// Finds what speaks against a job; what does not is told.
fn objections(
    repository: &Repository,
    job: &Job,
    suspect: SuspectPolicy,
    verification: &Verification,
) -> Result<Objections> {
    let mut objections = Objections::default();
    // What was begun, or is taken back, is judged by bytes alone.
    if job.direction == Direction::Forward && job.pending.is_none() {
        let listing = snapshots::find(repository.storage(), &job.stamp.to_string())?;
        objections.errors.extend(listing.and_then(|listing| listing.metadata.fault()));
    }
    for source in &verification.sources {
        let wrong = source.findings.iter().filter(|finding| !finding.is_warning());
        for finding in wrong.filter(|finding| job.direction == Direction::Forward || is_loss(finding)) {
            match judge(finding, &source.name, job, suspect) {
                Judgement::Objection => {
                    objections.vectors_lost |= matches!(finding, Finding::Suspect { .. });
                    objections.blobs_lost |= is_loss(finding);
                    objections.errors.push(finding.to_string());
                }
                Judgement::Doubt => {
                    tracing::warn!(stamp = %job.stamp, doubt = %finding, "the snapshot is restored in spite of this doubt");
                }
                Judgement::NotRestored => {
                    tracing::warn!(stamp = %job.stamp, error = %finding, "Chroma in the snapshot is damaged; it is not restored");
                }
            }
        }
    }
    Ok(objections)
}

fn judge(finding: &Finding, source: &str, job: &Job, suspect: SuspectPolicy) -> Judgement {
    match finding {
        Finding::Suspect { reason, .. }
            if is_loss_of_vectors(reason) && suspect == SuspectPolicy::Refuse && job.restores(source) =>
        {
            Judgement::Objection
        }
        Finding::Suspect { .. } => Judgement::Doubt,
        _ if source == CHROMA && job.chroma == ChromaChoice::Skip => Judgement::NotRestored,
        _ => Judgement::Objection,
    }
}

fn refusal(stamp: Stamp, Objections { mut errors, vectors_lost, blobs_lost }: Objections) -> Error {
    let repair = if blobs_lost { "run `vecsnap repair`, " } else { "" };
    if vectors_lost {
        errors.push(
            "restored, the vector store would lack what was lost; --accept-suspect restores it all the same".into(),
        );
    }
    Error::NotValid(format!(
        "{}; {repair}choose another snapshot, or give --accept-invalid to restore what can be read of this one",
        not_valid(&stamp.to_string(), &errors)
    ))
}

fn is_loss(finding: &Finding) -> bool {
    matches!(
        finding,
        Finding::SnapshotMissing { .. }
            | Finding::ChunkMissing { .. }
            | Finding::ChunkCorrupt { .. }
            | Finding::MoreChunks { .. }
    )
}
