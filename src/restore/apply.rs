//! Carrying a plan out: the only part of a restore that writes into a target.
//!
//! The order: what is too much goes, directories, files, links, then attributes, directories last and from the inside
//! out, since everything before changes their times. Every file is durable before the next one is begun, every
//! directory in which names changed before the databases become readable. Between any two steps the operator may
//! interrupt; the intent then stands, and running the same plan again from the new state leads to the same end.

use std::collections::BTreeSet;

use crate::disk::target::{TargetFile, TargetRoot};
use crate::error::Result;
use crate::progress::Progress;
use crate::store::BlobReader;

use super::attributes::{Attributes, AttributesSet, OwnerPolicy, is_denied};
use super::blocks::{BlockWriter, Written, is_as_wanted, not_as_written};
use super::plan::{Change, Existence, FileRole, FileStep, Plan};

/// Permission bits of what is not finished yet.
const UNFINISHED_FILE: u32 = 0o600;
const UNFINISHED_DIRECTORY: u32 = 0o700;

/// What was done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Applied {
    /// Into files.
    pub(super) written: Written,
    /// Names whose owner, mode or time could not be set.
    pub(super) not_permitted: u64,
}

impl Applied {
    /// Counts what was done elsewhere too.
    pub(super) fn add(&mut self, other: Applied) {
        self.written.add(other.written);
        self.not_permitted += other.not_permitted;
    }
}

/// Carries out one plan below one directory.
pub(super) struct Applier<'a, 'r> {
    root: &'a TargetRoot,
    plan: &'a Plan,
    owner: OwnerPolicy,
    progress: &'a dyn Progress,
    blocks: BlockWriter<'a, 'r>,
    /// Directories in which names were made or removed.
    touched: BTreeSet<Vec<u8>>,
    not_permitted: u64,
}

impl<'a, 'r> Applier<'a, 'r> {
    pub(super) fn new(
        root: &'a TargetRoot,
        plan: &'a Plan,
        owner: OwnerPolicy,
        reader: &'a mut BlobReader<'r>,
        progress: &'a dyn Progress,
    ) -> Self {
        let blocks = BlockWriter { reader, progress, written: Written::default() };
        Self { root, plan, owner, progress, blocks, touched: BTreeSet::new(), not_permitted: 0 }
    }

    /// What was done so far.
    pub(super) fn applied(&self) -> Applied {
        Applied { written: self.blocks.written, not_permitted: self.not_permitted }
    }

    /// Makes every database that is there unreadable for SQLite until [`finish_databases`](Self::finish_databases).
    pub(super) fn spoil_databases(&mut self) -> Result<()> {
        for step in self.plan.databases().filter(|step| step.change != Change::Create && step.rewrites_header()) {
            let file = self.open_for_writing(&step.name)?;
            self.blocks.spoil_header(&file)?;
            file.sync()?;
        }
        Ok(())
    }

    /// Everything but the first blocks and the attributes of databases, and the attributes of directories.
    pub(super) fn apply(&mut self) -> Result<()> {
        for name in &self.plan.sidecars {
            self.remove_sidecar(name)?;
        }
        for name in &self.plan.removals {
            self.progress.check()?;
            self.root.remove_tree(name)?;
            self.touch(name);
        }
        for step in self.plan.directories.iter().filter(|step| step.existence == Existence::Create) {
            self.progress.check()?;
            if !step.name.is_empty() {
                self.root.create_directory(&step.name, UNFINISHED_DIRECTORY)?;
                self.touch(&step.name);
            }
        }
        for step in &self.plan.files {
            self.write_file(step)?;
        }
        for step in &self.plan.links {
            self.progress.check()?;
            if step.existence == Existence::Create {
                self.root.create_symlink(&step.name, &step.link)?;
                self.touch(&step.name);
            }
            self.set_attributes(&step.name, &step.attributes)?;
        }
        self.touched.iter().try_for_each(|directory| self.root.sync_directory(directory))
    }

    /// Reads every written slot again.
    pub(super) fn check_written(&mut self) -> Result<()> {
        for step in &self.plan.files {
            let file = self.root.read_file(&step.name)?;
            if !is_as_wanted(&file, step, self.blocks.reader, self.progress)? {
                return Err(not_as_written(&file));
            }
        }
        Ok(())
    }

    /// Makes the databases readable, and sets what is left of the attributes.
    pub(super) fn finish_databases(&mut self) -> Result<()> {
        for step in self.plan.databases() {
            let file = self.open_for_writing(&step.name)?;
            if step.rewrites_header() {
                self.blocks.write_first_block(&file, step)?;
            }
            self.set_attributes(&step.name, &step.attributes)?;
            file.sync()?;
        }
        for step in self.plan.directories.iter().rev() {
            self.progress.check()?;
            if self.set_attributes(&step.name, &step.attributes)? != AttributesSet::Kept {
                self.root.sync_directory_where_permitted(&step.name)?;
            }
        }
        Ok(())
    }

    fn write_file(&mut self, step: &FileStep) -> Result<()> {
        self.progress.check()?;
        let file = match step.change {
            Change::Create => {
                self.touch(&step.name);
                self.root.create_file(&step.name, UNFINISHED_FILE)?
            }
            Change::Overwrite(ref difference) if difference.is_none() => {
                // Only attributes are wrong, or it is a database, whose turn comes last.
                if step.role == FileRole::Plain
                    && self.set_attributes(&step.name, &step.attributes)? != AttributesSet::Kept
                {
                    match self.root.read_file(&step.name) {
                        Err(error) if is_denied(&error) => {}
                        opened => opened?.sync()?,
                    }
                }
                return Ok(());
            }
            Change::Overwrite(_) => self.open_for_writing(&step.name)?,
        };
        self.blocks.write_content(&file, step)?;
        if step.role == FileRole::Plain {
            self.set_attributes(&step.name, &step.attributes)?;
        }
        file.sync()
    }

    /// A file that its owner may not write is made writable first; its mode comes back in the end.
    fn open_for_writing(&self, name: &[u8]) -> Result<TargetFile> {
        match self.root.open_file(name) {
            Err(error) if is_denied(&error) && self.root.set_mode(name, UNFINISHED_FILE).is_ok() => {
                self.root.open_file(name)
            }
            outcome => outcome,
        }
    }

    /// Removes a sidecar; where that is not possible (a single file may be mounted into a read-only directory) it is at
    /// least emptied, so that SQLite finds nothing in it to replay.
    fn remove_sidecar(&mut self, name: &[u8]) -> Result<()> {
        self.progress.check()?;
        let Err(error) = self.root.remove_file(name) else {
            self.touch(name);
            return Ok(());
        };
        let path = self.root.path_of(name);
        tracing::warn!(event = "restore_sidecar_unlink_failed", path = %path.display(), cause = %error, "a file beside the database cannot be removed; it is emptied instead");
        let file = self.root.open_file(name)?;
        file.set_length(0)?;
        file.sync()
    }

    /// They are durable only once the name is synced; one that this user may not open is left to the kernel.
    fn set_attributes(&mut self, name: &[u8], wanted: &Attributes) -> Result<AttributesSet> {
        let outcome = wanted.set(self.root, name, self.owner)?;
        self.not_permitted += u64::from(outcome == AttributesSet::NotPermitted);
        Ok(outcome)
    }

    fn touch(&mut self, name: &[u8]) {
        let parent = name.iter().rposition(|byte| *byte == b'/').and_then(|slash| name.get(..slash));
        self.touched.insert(parent.unwrap_or_default().to_vec());
    }
}
