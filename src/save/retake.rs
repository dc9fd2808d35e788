//! Taking lost blobs from the live sources once more.
//!
//! The sources are captured exactly as `create` does it, so that whatever is still as it was gives the same chunks,
//! list nodes and tables; but only blobs that are looked for are stored, and no snapshot comes of it. Invariant: a blob
//! is known by its hash alone, so a source that changed, or is damaged, gives less, never anything wrong.

use std::sync::Arc;

use super::capturing::{Capturing, Patience};
use super::create::{self, CreateOptions};
use super::effort::Effort;
use super::previous::{EarlierSnapshots, ReadPolicy};
use super::registry;
use super::sources::LiveSources;
use super::writers::WriterPolicy;
use crate::disk::LockMode;
use crate::error::{Error, Result};
use crate::format::manifest::SnapshotKind;
use crate::progress::{Phase, Progress};
use crate::store::wanted::WantedBlobs;
use crate::store::{BlobWriter, DecodedFrames, Repository};

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Retaken {
    /// Bytes of the packs that were published.
    pub stored_bytes: u64,
    /// Why sources could not be read, or not to their end.
    pub unread_sources: Vec<String>,
}

/// Reads all live sources and stores those of their blobs that are looked for.
///
/// # Errors
/// [`Error::Busy`] while a restore runs; I/O errors of the repository; an interruption. A source that cannot be read is
/// in the result.
pub fn retake(
    repository: &Repository,
    sources: &LiveSources,
    wanted: &Arc<WantedBlobs>,
    progress: &dyn Progress,
) -> Result<Retaken> {
    let _live = repository.lock_live(LockMode::Shared)?;
    sources.check_apart_from(repository.root())?;
    progress.phase(Phase::Reading, None);
    let mut writer = BlobWriter::begin_wanted(repository, Arc::clone(wanted))?;
    let earlier = EarlierSnapshots::none(repository);
    let options = CreateOptions {
        sources: sources.clone(),
        include_chroma: sources.chroma.is_some(),
        check_trees: false,
        read_policy: ReadPolicy::All,
        effort: Effort::None,
        writers: WriterPolicy::default(),
        // What is missing or damaged is no error then.
        kind: SnapshotKind::PreRestore,
    };
    let (read_policy, effort, earlier) = (options.read_policy, options.effort, &earlier);
    let patience = Patience::new(progress, options.writers.max_block);
    let frames = &DecodedFrames::default();
    let mut capturing =
        Capturing { repository, writer: &mut writer, progress, read_policy, effort, earlier, patience, frames };
    let mut unread_sources = Vec::new();
    let outcomes = [
        create::capture_db(&mut capturing, &options).map(|_| ()),
        registry::capture(&mut capturing, &sources.registry).map(|_| ()),
        create::capture_chroma(&mut capturing, &options).map(|_| ()),
    ];
    for outcome in outcomes {
        match outcome {
            Ok(()) => {}
            Err(Error::Interrupted) => return Err(Error::Interrupted),
            Err(cause) => unread_sources.push(cause.to_string()),
        }
    }
    progress.phase(Phase::Checking, None);
    let stored_bytes = writer.finish()?.stored_bytes();
    Ok(Retaken { stored_bytes, unread_sources })
}
