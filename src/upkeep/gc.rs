//! Garbage collection: which packs can go, and making them go.
//!
//! Invariants: a pack is removed only when every blob that a snapshot reaches has been given a record in a pack that
//! stays, with records for all bases that it needs and without a cycle (format-spec.md §18.3); what packs hold is taken
//! from their footers alone; a pack whose footer cannot be read is never touched, nor is any other one as long as it
//! may hold the bases of what is in there. Where a second copy is what makes a pack superfluous, that copy has been
//! read and hashed first. A doubt costs space, never data: the pack stays. The story, which `upkeep::cleanup` tells
//! with its locks: begin, mark, plan (choose records, decide fates, find new bases), rewrite, settle (the proof),
//! sweep.

mod catalogue;
mod fates;
mod mark;
mod rebased;
mod rewriting;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use crate::error::Result;
use crate::format::manifest::Manifest;
use crate::progress::{Phase, Progress, Silent};
use crate::store::packs::{self, PackFile};
use crate::store::{BlobReader, Repository, layout};

use catalogue::Catalogue;
use fates::{Effect, Fate, Hope};

/// A garbage collection under way.
pub(super) struct Collection {
    catalogue: Catalogue,
    /// Packs that cannot be read, each with the cause.
    unreadable: Vec<String>,
    /// The packs there were at the beginning.
    found: BTreeSet<PackFile>,
    stored: StoredAnew,
}

/// Bytes that a collection stored anew, or would.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct StoredAnew {
    /// All of them: those of the packs that it added.
    pub(super) bytes: u64,
    /// Those of records on other bases than before, or whole, because a base went.
    pub(super) rebased: u64,
}

/// What a collection would do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Estimate {
    /// Bytes by which packs would shrink.
    pub(super) freed: u64,
    pub(super) stored: StoredAnew,
}

/// What a sweep removed.
#[derive(Debug, Default)]
pub(super) struct Swept {
    /// Of the packs that were there at the beginning.
    pub(super) bytes: u64,
    /// What could not be removed, or not durably, each with the cause.
    pub(super) errors: Vec<String>,
}

/// How a rewriting ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rewriting {
    /// What is needed of opened packs is stored elsewhere.
    Done,
    /// There was no room for it: opened packs stay, and what was written for them is dead.
    NoRoom,
}

impl Collection {
    /// Reads the footers of all packs.
    pub(super) fn begin(repository: &Repository, progress: &dyn Progress) -> Result<Self> {
        progress.phase(Phase::Marking, None);
        let catalogue = Catalogue::new()?;
        let mut collection =
            Self { catalogue, unreadable: Vec::new(), found: BTreeSet::new(), stored: StoredAnew::default() };
        collection.found = packs::list(repository.storage())?.into_iter().collect();
        let packs: Vec<_> = collection.found.iter().copied().collect();
        collection.add_packs(repository, &packs, Fate::Stays, progress)?;
        Ok(collection)
    }

    fn add_packs(
        &mut self,
        repository: &Repository,
        packs: &[PackFile],
        fate: Fate,
        progress: &dyn Progress,
    ) -> Result<()> {
        for pack in packs {
            progress.check()?;
            self.add_pack(repository, pack, fate)?;
        }
        self.catalogue.together(|catalogue| catalogue.sort_in())
    }

    fn add_pack(&mut self, repository: &Repository, pack: &PackFile, fate: Fate) -> Result<()> {
        match packs::read_footer(repository.storage(), repository.header(), pack) {
            Ok(footer) => self.catalogue.together(|catalogue| catalogue.add_pack(pack, &footer, fate)),
            Err(error) if error.is_of_one_file() => {
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

    /// Decides which packs go, which are opened, and what of these is stored anew on which bases.
    pub(super) fn plan(&mut self, repository: &Repository, progress: &dyn Progress) -> Result<()> {
        self.catalogue.choose()?;
        self.catalogue.close_marking();
        let lost = self.catalogue.lost()?;
        if lost > 0 {
            tracing::warn!(
                blobs = lost,
                "snapshots need blobs that no readable pack holds; `vecsnap validate` names the files"
            );
        }
        if self.keep_what_may_be_needed()? {
            return Ok(());
        }
        self.decide(Hope::Rebasing)?;
        if !self.opening()?.pays() {
            self.decide(Hope::Garbage)?;
        }
        if self.catalogue.decide_merging()? {
            self.catalogue.plan_rewrites()?;
        }
        self.prove_second_copies(repository, progress)
    }

    fn decide(&mut self, hope: Hope) -> Result<()> {
        self.catalogue.decide_fates(hope)?;
        self.catalogue.plan_rewrites()?;
        while self.catalogue.open_left_behind()? {
            self.catalogue.plan_rewrites()?;
        }
        Ok(())
    }

    /// What opening packs does according to the plan.
    fn opening(&self) -> Result<Effect> {
        let size: u64 = self.catalogue.packs(Fate::Opened)?.iter().map(|pack| pack.file.size).sum();
        let (written, rebased) = (self.catalogue.rewritten_bytes()?, self.catalogue.rebased_bytes()?);
        Ok(Effect { written, rebased, freed: size.saturating_sub(written) })
    }

    /// A blob without a record may have one in a pack that cannot be read now, as a delta on bases that nothing else
    /// needs: then every pack stays. Returns whether that is so.
    fn keep_what_may_be_needed(&self) -> Result<bool> {
        let in_doubt = !self.unreadable.is_empty() && self.catalogue.lost()? > 0;
        if in_doubt {
            self.catalogue.keep_all()?;
        }
        Ok(in_doubt)
    }

    /// What carrying the plan out does, as far as can be told without doing it.
    pub(super) fn estimate(&self) -> Result<Estimate> {
        let dead = self.catalogue.packs(Fate::Dead)?;
        let opened = self.catalogue.packs(Fate::Opened)?;
        let gone: u64 = dead.iter().chain(&opened).map(|pack| pack.file.size).sum();
        let stored = StoredAnew { bytes: self.catalogue.rewritten_bytes()?, rebased: self.catalogue.rebased_bytes()? };
        Ok(Estimate { freed: gone.saturating_sub(stored.bytes), stored })
    }

    /// What was stored anew.
    pub(super) fn stored_anew(&self) -> StoredAnew {
        self.stored
    }

    /// Reads the copies that make packs superfluous, and lets such a pack stay if one of them is damaged.
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

    /// Stores what survives of opened packs in new ones, which are checked and published on return.
    pub(super) fn rewrite(&mut self, repository: &Repository, progress: &dyn Progress) -> Result<Rewriting> {
        let opened = self.catalogue.packs(Fate::Opened)?;
        let bytes = self.catalogue.rewritten_bytes()?;
        if opened.is_empty() && bytes == 0 {
            return Ok(Rewriting::Done);
        }
        if repository.scratch().is_err() {
            self.keep_opened()?;
            return Ok(Rewriting::NoRoom);
        }
        progress.phase(Phase::Cleaning, Some(bytes));
        match rewriting::rewrite(&self.catalogue, repository, progress) {
            Ok(rewritten) => {
                for pack in opened {
                    let fate = if rewritten.damaged.contains(&pack.key) { Fate::Stays } else { Fate::Dead };
                    self.catalogue.set_fate(pack.key, fate)?;
                }
                let new = rewritten.packs.iter().filter(|pack| !self.found.contains(pack));
                self.stored.bytes += new.map(|pack| pack.size).sum::<u64>();
                let last = self.catalogue.last_key()?;
                self.add_packs(repository, &rewritten.packs, Fate::Stays, progress)?;
                self.stored.rebased += self.catalogue.rebased_bytes_after(last)?;
                Ok(Rewriting::Done)
            }
            Err(error) if error.is_out_of_room() => {
                self.keep_opened()?;
                Ok(Rewriting::NoRoom)
            }
            Err(error) => Err(error),
        }
    }

    fn keep_opened(&self) -> Result<()> {
        let opened = self.catalogue.packs(Fate::Opened)?;
        opened.iter().try_for_each(|pack| self.catalogue.set_fate(pack.key, Fate::Stays))
    }

    /// Proves that everything reached has a closed choice of records, free of cycles, in packs that stay; packs without
    /// which it has none stay too.
    pub(super) fn settle(&mut self) -> Result<()> {
        self.catalogue.pardon_late()?;
        loop {
            self.catalogue.choose()?;
            if self.catalogue.pardon()? == 0 {
                return self.keep_what_may_be_needed().map(|_| ());
            }
        }
    }

    /// Takes note of packs that were published meanwhile (after a rewriting without room they may be what it wrote),
    /// and proves everything anew if there are any, or if more was marked.
    pub(super) fn settle_again(&mut self, repository: &Repository, rewriting: Rewriting) -> Result<()> {
        let fate = match rewriting {
            Rewriting::Done => Fate::Stays,
            Rewriting::NoRoom => Fate::Dead,
        };
        let mut new = Vec::new();
        for pack in packs::list(repository.storage())? {
            if !self.found.contains(&pack) && !self.catalogue.knows_pack(&pack.id)? {
                new.push(pack);
            }
        }
        self.add_packs(repository, &new, fate, &Silent)?;
        if self.catalogue.is_surprised() || !new.is_empty() { self.settle() } else { Ok(()) }
    }

    /// The packs that nobody needs any more.
    pub(super) fn dead(&self) -> Result<Vec<PackFile>> {
        Ok(self.catalogue.packs(Fate::Dead)?.iter().map(|pack| pack.file).collect())
    }

    /// Removes dead packs; one that cannot be removed stays for the next cleanup. Nobody else may be using the
    /// repository.
    pub(super) fn sweep(&self, repository: &Repository, dead: &[PackFile]) -> Swept {
        let ids: Vec<_> = dead.iter().map(|pack| pack.id).collect();
        if let Err(cause) = repository.index().forget(&ids) {
            tracing::debug!(%cause, "rows of removed packs stay in the index and are passed over");
        }
        let mut swept = Swept::default();
        let mut directories = BTreeSet::new();
        for pack in dead {
            let name = layout::pack(&pack.id);
            match repository.storage().delete(&name) {
                Ok(()) => {
                    swept.bytes += if self.found.contains(pack) { pack.size } else { 0 };
                    directories.extend(name.rsplit_once('/').map(|(directory, _)| directory.to_owned()));
                }
                Err(cause) => swept.errors.push(format!("{name}: {cause}")),
            }
        }
        for directory in &directories {
            if let Err(cause) = repository.storage().sync_directory(directory) {
                swept.errors.push(format!("{directory}: {cause}"));
            }
        }
        swept
    }
}
