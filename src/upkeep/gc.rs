//! Garbage collection: which packs can go, and making them go.
//!
//! Invariants: a pack is removed only when every blob that a snapshot reaches has been given a record in a pack that
//! stays, with records for all bases that it needs and without a cycle (format-spec.md §18.3); what packs hold is taken
//! from their footers alone; a pack whose footer cannot be read is never touched. Where a second copy is what makes a
//! pack superfluous, that copy has been read and hashed first. A doubt costs space, never data: the pack stays.

mod catalogue;
mod mark;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::io;

use crate::error::{Error, Result};
use crate::format::manifest::Manifest;
use crate::progress::{Phase, Progress};
use crate::store::packs::{self, PackFile};
use crate::store::{BlobReader, BlobWriter, Repository, layout};

use catalogue::{Catalogue, CataloguedPack, Fate};

/// A pack is rewritten when copying what is needed of it takes less than this part of its bytes: below one half, each
/// rewriting frees at least as much as it writes.
const SPARSE_PERCENT: u64 = 50;

/// A garbage collection under way.
pub(super) struct Collection {
    catalogue: Catalogue,
    /// Packs that cannot be read, each with the cause.
    unreadable: Vec<String>,
    /// The packs there were at the beginning.
    found: BTreeSet<PackFile>,
    /// Bytes of the packs that this collection added.
    written: u64,
}

/// How a rewriting ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rewriting {
    /// What is needed of sparse packs is stored elsewhere.
    Done,
    /// There was no room for it: sparse packs stay, and what was written for them is dead.
    NoRoom,
}

impl Collection {
    /// Reads the footers of all packs.
    pub(super) fn begin(repository: &Repository, progress: &dyn Progress) -> Result<Self> {
        progress.phase(Phase::Marking, None);
        let catalogue = Catalogue::new()?;
        let mut collection = Self { catalogue, unreadable: Vec::new(), found: BTreeSet::new(), written: 0 };
        for pack in packs::list(repository.storage())? {
            progress.check()?;
            collection.add_pack(repository, &pack, Fate::Stays)?;
            collection.found.insert(pack);
        }
        Ok(collection)
    }

    fn add_pack(&mut self, repository: &Repository, pack: &PackFile, fate: Fate) -> Result<()> {
        match packs::read_footer(repository.storage(), repository.header(), pack) {
            Ok(footer) => self.catalogue.together(|catalogue| catalogue.add_pack(pack, &footer, fate)),
            Err(error @ (Error::Damaged { .. } | Error::Io { .. })) => {
                self.unreadable.push(error.to_string());
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Packs that cannot be read and were left alone, each with the cause.
    pub(super) fn unreadable(&self) -> &[String] {
        &self.unreadable
    }

    /// Marks all that a snapshot reaches; the text is why that cannot be known, and nothing may then be removed.
    pub(super) fn mark(
        &mut self,
        reader: &mut BlobReader<'_>,
        manifest: &Manifest,
        progress: &dyn Progress,
    ) -> Result<Result<(), String>> {
        self.catalogue.together(|catalogue| mark::mark(manifest, catalogue, reader, progress))
    }

    /// Decides which packs go and which are rewritten.
    pub(super) fn plan(&mut self, repository: &Repository, progress: &dyn Progress) -> Result<()> {
        self.catalogue.choose()?;
        self.catalogue.decide_fates(SPARSE_PERCENT)?;
        let lost = self.catalogue.lost()?;
        if lost > 0 {
            tracing::warn!(
                blobs = lost,
                "snapshots need blobs that no readable pack holds; `vecsnap validate` names the files"
            );
        }
        self.prove_second_copies(repository, progress)
    }

    /// Bytes that carrying the plan out frees, as far as can be told without doing it.
    pub(super) fn estimate(&self) -> Result<u64> {
        let bytes = |packs: Vec<CataloguedPack>| {
            packs.iter().map(|pack| pack.file.size - pack.live.min(pack.file.size)).sum::<u64>()
        };
        Ok(bytes(self.catalogue.packs(Fate::Dead)?) + bytes(self.catalogue.packs(Fate::Sparse)?))
    }

    /// Reads the copies that make dead packs superfluous, and lets such a pack stay if one of them is damaged.
    fn prove_second_copies(&mut self, repository: &Repository, progress: &dyn Progress) -> Result<()> {
        let mut any = false;
        self.catalogue.each_superseded(|_| {
            any = true;
            Ok(())
        })?;
        if !any {
            return Ok(());
        }
        let staying: Vec<_> = self.catalogue.packs(Fate::Stays)?.iter().map(|pack| pack.file).collect();
        let rest = repository.with_only(&staying)?;
        let mut reader = BlobReader::new(&rest);
        let mut doubtful = BTreeSet::new();
        self.catalogue.each_superseded(|blob| {
            progress.check()?;
            if !doubtful.contains(&blob.pack) && reader.blob(&blob.id, blob.kind)?.is_err() {
                doubtful.insert(blob.pack);
            }
            Ok(())
        })?;
        doubtful.into_iter().try_for_each(|pack| self.catalogue.set_fate(pack, Fate::Stays))
    }

    /// Stores what is needed of sparse packs in new ones, which are checked and published on return.
    pub(super) fn rewrite(&mut self, repository: &Repository, progress: &dyn Progress) -> Result<Rewriting> {
        let sparse = self.catalogue.packs(Fate::Sparse)?;
        if sparse.is_empty() {
            return Ok(Rewriting::Done);
        }
        progress.phase(Phase::Cleaning, Some(sparse.iter().map(|pack| pack.live).sum()));
        match self.copy_needed(repository, progress) {
            Ok(copied) => {
                for pack in &copied.packs {
                    self.written += if self.found.contains(pack) { 0 } else { pack.size };
                    self.add_pack(repository, pack, Fate::Stays)?;
                }
                for pack in sparse {
                    let fate = if copied.damaged.contains(&pack.key) { Fate::Stays } else { Fate::Dead };
                    self.catalogue.set_fate(pack.key, fate)?;
                }
                Ok(Rewriting::Done)
            }
            Err(error) if is_out_of_room(&error) => {
                self.keep_sparse()?;
                Ok(Rewriting::NoRoom)
            }
            Err(error) => Err(error),
        }
    }

    fn keep_sparse(&self) -> Result<()> {
        let sparse = self.catalogue.packs(Fate::Sparse)?;
        sparse.iter().try_for_each(|pack| self.catalogue.set_fate(pack.key, Fate::Stays))
    }

    fn copy_needed(&mut self, repository: &Repository, progress: &dyn Progress) -> Result<Copied> {
        let mut reader = BlobReader::new(repository);
        let mut writer = BlobWriter::begin_rewriting(repository)?;
        let mut damaged = BTreeSet::new();
        self.catalogue.each_rescue(|blob| {
            progress.check()?;
            match reader.blob(&blob.id, blob.kind)? {
                Ok(bytes) => {
                    writer.put_blob(&bytes, blob.kind, blob.purpose)?;
                    progress.advance(bytes.len() as u64);
                }
                Err(fault) => {
                    tracing::warn!(blob = %blob.id, ?fault, "a needed blob cannot be read; its pack stays as it is");
                    damaged.insert(blob.pack);
                }
            }
            Ok(())
        })?;
        Ok(Copied { packs: writer.finish()?.packs, damaged })
    }

    /// Proves that everything reached has a closed choice of records, free of cycles, in packs that stay; packs without
    /// which it has none stay too.
    pub(super) fn settle(&mut self) -> Result<()> {
        self.catalogue.pardon_late()?;
        loop {
            self.catalogue.choose()?;
            if self.catalogue.pardon()? == 0 {
                return Ok(());
            }
        }
    }

    /// Takes note of packs that were published meanwhile (after a rewriting without room they may be what it wrote), and
    /// proves everything anew if there are any, or if more was marked.
    pub(super) fn settle_again(&mut self, repository: &Repository, rewriting: Rewriting) -> Result<()> {
        let fate = match rewriting {
            Rewriting::Done => Fate::Stays,
            Rewriting::NoRoom => Fate::Dead,
        };
        let mut changed = self.catalogue.is_surprised();
        for pack in packs::list(repository.storage())? {
            if !self.found.contains(&pack) && !self.catalogue.knows_pack(&pack.id)? {
                self.add_pack(repository, &pack, fate)?;
                changed = true;
            }
        }
        if changed { self.settle() } else { Ok(()) }
    }

    /// Removes the dead packs and returns by how many bytes the repository shrank. Nobody else may be using it.
    pub(super) fn sweep(&mut self, repository: &Repository) -> Result<u64> {
        let dead: Vec<_> = self.catalogue.packs(Fate::Dead)?.iter().map(|pack| pack.file).collect();
        let ids: Vec<_> = dead.iter().map(|pack| pack.id).collect();
        if let Err(cause) = repository.index().forget(&ids) {
            tracing::debug!(%cause, "rows of removed packs stay in the index and are passed over");
        }
        let mut directories = BTreeSet::new();
        for pack in &dead {
            let name = layout::pack(&pack.id);
            repository.storage().delete(&name)?;
            directories.extend(name.rsplit_once('/').map(|(directory, _)| directory.to_owned()));
        }
        for directory in &directories {
            repository.storage().sync_directory(directory)?;
        }
        let freed: u64 = dead.iter().filter(|pack| self.found.contains(pack)).map(|pack| pack.size).sum();
        Ok(freed.saturating_sub(self.written))
    }
}

/// What a rewriting wrote, and the packs of which it could not read all that is needed.
struct Copied {
    packs: Vec<PackFile>,
    damaged: BTreeSet<i64>,
}

fn is_out_of_room(error: &Error) -> bool {
    let full = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded];
    matches!(error, Error::Io { source, .. } if full.contains(&source.kind()))
}
