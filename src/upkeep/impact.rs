//! What else damage hurts: the other snapshots, and their files, that need the same blobs.
//!
//! A base that is lost hurts whatever is a delta against it, in any snapshot, and validation looks at one snapshot at a
//! time. Invariant: a file is named exactly if all records of one of its blobs need a blob that is known to be lost, by
//! the packs' footers; contents are not read, so damage that nobody met yet is not told. Memory is bounded: see
//! `ledger`.

use super::ledger::Ledger;
use crate::error::Result;
use crate::format::content::{Content, Root};
use crate::format::manifest::{Manifest, SourceRecord};
use crate::format::table::EntryKind;
use crate::id::{BlobId, BlobPrefix};
use crate::progress::{Phase, Progress};
use crate::restore::verify::file_name;
use crate::store::file_table::TableReader;
use crate::store::pieces::{Descent, Piece, Pieces};
use crate::store::{BlobReader, Repository, packs, snapshots};

/// Files named for each snapshot; the rest is counted.
const MOST_FILES: usize = 100;

/// A snapshot that damage hurts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HurtSnapshot {
    /// Its name.
    pub name: String,
    /// Its files that cannot be read whole, each as source, `/`, path; a source's name alone where its table is hurt.
    pub files: Vec<String>,
    /// Further ones.
    pub more_files: u64,
}

impl HurtSnapshot {
    fn push(&mut self, file: String) {
        if self.files.len() < MOST_FILES {
            self.files.push(file);
        } else {
            self.more_files += 1;
        }
    }

    fn is_hurt(&self) -> bool {
        !self.files.is_empty()
    }
}

/// The snapshots but for `known` that need one of the blobs `lost`, oldest first. Those without a readable manifest are
/// left out.
///
/// # Errors
/// I/O errors; an interruption.
pub fn others_hurt(
    repository: &Repository,
    known: &str,
    lost: &[BlobPrefix],
    progress: &dyn Progress,
) -> Result<Vec<HurtSnapshot>> {
    let mut hurt = all_hurt(repository, lost, progress)?;
    hurt.retain(|snapshot| snapshot.name != known);
    Ok(hurt)
}

/// The snapshots that need one of the blobs `lost`, oldest first. Those without a readable manifest are left out.
///
/// # Errors
/// I/O errors; an interruption.
pub fn all_hurt(repository: &Repository, lost: &[BlobPrefix], progress: &dyn Progress) -> Result<Vec<HurtSnapshot>> {
    progress.phase(Phase::Marking, None);
    let mut ledger = Ledger::new()?;
    for pack in packs::list(repository.storage())? {
        ledger.take(repository, &pack, progress)?;
    }
    ledger.strike_out(lost)?;
    ledger.resolve_chains()?;
    ledger.together(|ledger| {
        let mut look = Look { ledger, reader: BlobReader::new(repository), progress };
        let mut hurt = Vec::new();
        for manifest in snapshots::manifests(repository)? {
            let name = manifest.stamp().map(|stamp| stamp.to_string()).unwrap_or_default();
            hurt.extend(Some(look.at(&manifest, name)?).filter(HurtSnapshot::is_hurt));
        }
        Ok(hurt)
    })
}

/// A look at snapshot after snapshot.
struct Look<'a> {
    ledger: &'a Ledger,
    reader: BlobReader<'a>,
    progress: &'a dyn Progress,
}

impl Look<'_> {
    fn at(&mut self, manifest: &Manifest, name: String) -> Result<HurtSnapshot> {
        let mut hurt = HurtSnapshot { name, files: Vec::new(), more_files: 0 };
        for source in manifest.sources.iter().filter(|source| source.is_captured()) {
            self.at_source(source, &mut hurt)?;
        }
        Ok(hurt)
    }

    fn at_source(&mut self, source: &SourceRecord, hurt: &mut HurtSnapshot) -> Result<()> {
        let mut table = TableReader::of(&source.table);
        loop {
            match table.next(&mut self.reader, |_| ())? {
                Ok(Some(entry)) => {
                    if let EntryKind::File(file) = &entry.kind
                        && !self.is_sound(&file.content)?
                    {
                        hurt.push(file_name(&source.name, &entry));
                    }
                }
                Ok(None) => return Ok(()),
                Err(_) => {
                    hurt.push(source.name.clone());
                    return Ok(());
                }
            }
        }
    }

    /// Whether records lead to all blobs of a content. What was found sound is not looked at again.
    fn is_sound(&mut self, content: &Content) -> Result<bool> {
        if let Root::Node { id, .. } = content.root
            && self.ledger.is_passed(&id)?
        {
            return Ok(true);
        }
        let Self { ledger, reader, progress } = self;
        let mut pieces = Pieces::of(content);
        let mut nodes: Vec<BlobId> = Vec::new();
        let mut descend = |node: &BlobId| {
            if ledger.is_passed(node)? {
                return Ok(Descent::Past);
            }
            nodes.push(*node);
            Ok(Descent::Below)
        };
        while let Some(piece) = pieces.next_below(reader, &mut descend)? {
            progress.check()?;
            match piece {
                Piece::Chunk { id, .. } if !ledger.leads_to(&id)? => return Ok(false),
                Piece::Hidden { .. } => return Ok(false),
                Piece::Chunk { length, .. } => progress.advance(length as u64),
                Piece::Hole { .. } => {}
            }
        }
        nodes.iter().try_for_each(|node| ledger.pass(node).map(|_| ()))?;
        Ok(true)
    }
}
