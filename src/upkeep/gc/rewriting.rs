//! Storing survivors anew: whole records and deltas as they are, or on other bases.
//!
//! Invariant: every blob that is stored has been read and hashed, and every delta applied, so that damage is never
//! copied; a blob that cannot be had leaves its pack where it is. Chunks of files come first, then tables and list
//! nodes, whose ids of chunks have places in the pack by then.

use std::collections::BTreeSet;

use super::catalogue::{Catalogue, Group, Rewrite};
use super::rebased::{self, RebasedOn, Subject};
use crate::error::Result;
use crate::format::pack::BaseDistance;
use crate::progress::Progress;
use crate::store::chain::ChainFacts;
use crate::store::packs::PackFile;
use crate::store::{Base, BlobReader, BlobWriter, FrameGroup, RecordedDelta, Repository, Stored};

/// Decoded frames kept at one time: whole records are read in the order of packs, and a few frames are enough; those of
/// deltas that are needed again go to a temporary file.
const FRAME_CACHE_BYTES: usize = 8 << 20;

/// What a rewriting wrote, and the packs of which it could not read all that is needed.
pub(super) struct Rewritten {
    pub(super) packs: Vec<PackFile>,
    pub(super) damaged: BTreeSet<i64>,
}

/// Stores everything anew that the catalogue has planned, in packs that are checked and published on return.
pub(super) fn rewrite(catalogue: &Catalogue, repository: &Repository, progress: &dyn Progress) -> Result<Rewritten> {
    let writer = BlobWriter::begin_rewriting(repository)?;
    let reader = BlobReader::with_frame_cache(repository, FRAME_CACHE_BYTES);
    let mut rewriter = Rewriter { catalogue, reader, writer };
    let mut damaged = BTreeSet::new();
    catalogue.each_rewrite(|rewrite| {
        progress.check()?;
        if rewriter.store(&rewrite)? == Outcome::Damaged {
            damaged.insert(rewrite.pack);
        }
        Ok(())
    })?;
    Ok(Rewritten { packs: rewriter.writer.finish()?.packs, damaged })
}

/// Whether a blob could be stored anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Stored,
    Damaged,
}

struct Rewriter<'a> {
    catalogue: &'a Catalogue,
    reader: BlobReader<'a>,
    writer: BlobWriter,
}

/// A record so far, and what it may be built upon from now on.
struct OldRecord {
    delta: RecordedDelta,
    offered: Vec<Option<RebasedOn>>,
    stays: bool,
}

impl Rewriter<'_> {
    fn store(&mut self, rewrite: &Rewrite) -> Result<Outcome> {
        let content = match self.reader.blob(&rewrite.id, rewrite.kind)? {
            Ok(content) => content,
            Err(fault) => {
                tracing::warn!(blob = %rewrite.id, %fault, "a needed blob cannot be read; its pack stays as it is");
                return Ok(Outcome::Damaged);
            }
        };
        let record = self.old_record(rewrite)?;
        if rewrite.group == Group::Metadata {
            self.writer.put_metadata(rewrite.kind, &content, || Ok(record.and_then(first_base)))?;
        } else if self.writer.reserve(rewrite.id) == Stored::New {
            let company = if rewrite.group == Group::Bulk { FrameGroup::Bulk } else { FrameGroup::Increment };
            let delta = record.and_then(|record| {
                let subject = Subject { id: rewrite.id, content: &content, old: &record.delta };
                let copied = if record.stays { rebased::copy(&subject, &record.offered) } else { None };
                copied.or_else(|| rebased::encode(&subject, &record.offered))
            });
            match delta {
                Some(delta) => self.writer.put_delta(delta)?,
                None => self.writer.put_whole(rewrite.id, &content, company)?,
            }
        }
        Ok(Outcome::Stored)
    }

    /// The record of a blob that is stored as a delta, with its bases or what takes their places.
    fn old_record(&mut self, rewrite: &Rewrite) -> Result<Option<OldRecord>> {
        let Some(delta) = self.reader.recorded_delta(&rewrite.id, &rewrite.place)? else { return Ok(None) };
        let mut bases: Vec<_> = delta.bases.iter().copied().map(Some).collect();
        let replacements = self.catalogue.replacements(&rewrite.id)?;
        for replacement in &replacements {
            if let Some(base) = bases.get_mut(replacement.position as usize) {
                *base = replacement.base;
            }
        }
        let mut offered = Vec::with_capacity(bases.len());
        for base in bases {
            offered.push(match base {
                Some(id) => self.reader.base(&id)?.map(|bytes| RebasedOn { id, bytes }),
                None => None,
            });
        }
        Ok(Some(OldRecord { delta, offered, stays: replacements.is_empty() }))
    }
}

/// What a table chunk or list node is stored against.
fn first_base(record: OldRecord) -> Option<Base> {
    let RebasedOn { id, bytes } = record.offered.into_iter().next()??;
    let same = record.delta.bases.first() == Some(&id);
    let distance = if same { record.delta.distance } else { BaseDistance::One };
    Some(Base { id, bytes, distance, facts: ChainFacts::whole(id) })
}
