//! Deciding what to do: from observations to a list of steps. Pure; touches nothing.
//!
//! Invariant: whatever the target holds, the steps lead from it to exactly what the snapshot holds, and existing files
//! of the right kind keep their inodes. Memory grows with what must change, not with what is there.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::attributes::{Attributes, OwnerPolicy};
use super::blocks::HEADER_REWRITTEN;
use super::difference::Difference;
use super::losses::{LostRange, Unreadable};
use super::scan::{Observation, Present};
use super::target::Target;
use super::wanted::Range;
use crate::disk::stat::{FileKind, FileStat};
use crate::error::{Error, Result};
use crate::format::content::Content;
use crate::format::table::{Capture, Entry, EntryKind, FileEntry};

/// Removed names listed in a plan; the rest is counted.
const MOST_NAMES: usize = 100;

/// What to do about a target that has several hard links.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HardLinkPolicy {
    /// Refuse: writing in place would change the operator's other copy.
    Refuse,
    /// Give the target a file of its own.
    Break,
}

/// Whether a name is made or was there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Existence {
    /// It is made.
    Create,
    /// It is there.
    Keep,
}

/// A directory that the snapshot holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DirectoryStep {
    /// Its name; empty for the target's own directory.
    pub(super) name: Vec<u8>,
    /// Whether it is made.
    pub(super) existence: Existence,
    /// What it has in the end.
    pub(super) attributes: Attributes,
}

/// Whether SQLite would read a half-written file as a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FileRole {
    /// Any file.
    Plain,
    /// A SQLite database: its header is spoiled first and made good last.
    Database,
}

/// What is done to the bytes of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    /// The file is made, with all its bytes.
    Create,
    /// The file stays, and what differs is written.
    Overwrite(Difference),
}

/// A file that does not yet have what the snapshot holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FileStep {
    /// Its name.
    pub(super) name: Vec<u8>,
    /// What it shall hold.
    pub(super) content: Content,
    /// Whether blocks of zeros may stay holes.
    pub(super) sparse: bool,
    /// Whether it is a database.
    pub(super) role: FileRole,
    /// What is done to its bytes.
    pub(super) change: Change,
    /// What it has in the end.
    pub(super) attributes: Attributes,
    /// What becomes zeros, since it cannot be read; ascending.
    pub(super) lost: Vec<LostRange>,
    /// Whether the header of this database stays as it is: it is right, and the repository could not give it back.
    pub(super) keeps_header: bool,
}

impl FileStep {
    /// Whether the file is a database whose header is spoiled first and made good last.
    pub(super) fn rewrites_header(&self) -> bool {
        self.role == FileRole::Database && !self.keeps_header
    }

    /// The runs that become zeros.
    pub(super) fn lost_ranges(&self) -> Vec<Range> {
        self.lost.iter().map(|lost| lost.range).collect()
    }

    /// The runs of slots that are written; `None` for all.
    pub(super) fn slots(&self) -> Option<&[Range]> {
        match &self.change {
            Change::Create => None,
            Change::Overwrite(difference) => Some(&difference.slots),
        }
    }
}

/// A symlink that does not yet have what the snapshot holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LinkStep {
    /// Its name.
    pub(super) name: Vec<u8>,
    /// What it shall hold.
    pub(super) link: Vec<u8>,
    /// Whether it is made.
    pub(super) existence: Existence,
    /// What it has in the end.
    pub(super) attributes: Attributes,
}

/// A plan in numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Totals {
    /// Files and links that are made.
    pub created: u64,
    /// Files that are there and differ in bytes.
    pub overwritten: u64,
    /// Files and links whose content is right already.
    pub unchanged: u64,
    /// Files and links that are removed.
    pub removed: u64,
    /// The first of them, and directories that are removed.
    pub removed_names: Vec<Vec<u8>>,
    /// Bytes that are written into files, at most: of a chunk that differs, only the 4 KiB blocks that do.
    pub bytes_to_write_at_most: u64,
    /// Bytes that the target takes more than before, at most.
    pub bytes_added: u64,
    /// Bytes that removed names give back, at most.
    pub bytes_freed: u64,
    /// Bytes that files give back that become shorter, at most.
    pub bytes_cut: u64,
    /// Bytes of the present state that the snapshot does not hold, at most.
    pub bytes_replaced: u64,
    /// Bytes of the largest database that is there.
    pub largest_database: u64,
}

impl Totals {
    /// Counts a file that stays, of which so many bytes differ from a content of this length.
    fn add_overwritten(&mut self, stat: &FileStat, differing: u64, length: u64) {
        let (longer, shorter) = (length.saturating_sub(stat.size), stat.size.saturating_sub(length));
        // What lies behind the wanted end is lost too.
        let replaced = differing.min(stat.size).saturating_add(shorter);
        self.overwritten += 1;
        self.bytes_to_write_at_most = self.bytes_to_write_at_most.saturating_add(differing);
        self.bytes_added = self.bytes_added.saturating_add(differing.min(longer));
        self.bytes_cut = self.bytes_cut.saturating_add(shorter.min(stat.allocated));
        self.bytes_replaced = self.bytes_replaced.saturating_add(replaced);
    }
}

/// Where a file table ends because it cannot be read on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CutTable {
    /// The last name that is known.
    pub(super) last: Option<Vec<u8>>,
    /// Why.
    pub(super) cause: String,
}

impl CutTable {
    fn at(&self, target: &Target) -> Unreadable {
        let (path, cause) = (target.path(), &self.cause);
        let cause = match &self.last {
            Some(last) => {
                let last = String::from_utf8_lossy(last).escape_debug().to_string();
                format!("{cause}; what stands there after '{last}' was left as it is")
            }
            None => format!("{cause}; it was left as it is"),
        };
        Unreadable { path, bytes: None, cause }
    }
}

/// All that is done to one target, in the order of its parts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// Sidecars of databases that the snapshot holds without.
    pub(super) sidecars: Vec<Vec<u8>>,
    /// Names that are removed with all below them.
    pub(super) removals: Vec<Vec<u8>>,
    /// All directories, those above first.
    pub(super) directories: Vec<DirectoryStep>,
    /// Files to make or change, and all databases.
    pub(super) files: Vec<FileStep>,
    /// Links to make or change.
    pub(super) links: Vec<LinkStep>,
    /// The numbers.
    pub(super) totals: Totals,
    /// Where the table of the source ends because it cannot be read on.
    pub(super) cut: Option<CutTable>,
}

impl Plan {
    /// Whether something of the source can be restored.
    pub(super) fn restores_something(&self) -> bool {
        self.cut.as_ref().is_none_or(|cut| cut.last.is_some())
    }

    /// All that cannot be read, with the paths that it has at the target.
    pub(super) fn unreadable(&self, target: &Target) -> Vec<Unreadable> {
        let of_step = |step: &FileStep| {
            let path = target.directory.join(OsStr::from_bytes(&step.name));
            step.lost.iter().map(|lost| lost.at(path.clone())).collect::<Vec<_>>()
        };
        let of_table = self.cut.iter().map(|cut| cut.at(target));
        self.files.iter().flat_map(of_step).chain(of_table).collect()
    }

    /// The databases that it makes or overwrites.
    pub(super) fn databases(&self) -> impl Iterator<Item = &FileStep> {
        self.files.iter().filter(|step| step.role == FileRole::Database)
    }
}

/// Takes observations and makes the plan.
#[derive(Debug)]
pub(super) struct Planner {
    /// For messages.
    directory: PathBuf,
    owner: OwnerPolicy,
    hard_links: HardLinkPolicy,
    plan: Plan,
    databases: Vec<Vec<u8>>,
    /// The name that was removed last: what comes below it goes with it.
    removed: Option<Vec<u8>>,
}

impl Planner {
    /// An empty plan for a target in this directory.
    pub(super) fn new(directory: PathBuf, owner: OwnerPolicy, hard_links: HardLinkPolicy) -> Self {
        Self { directory, owner, hard_links, plan: Plan::default(), databases: Vec::new(), removed: None }
    }

    /// Takes the next observation, in the order of a table.
    ///
    /// # Errors
    /// [`Error::Refused`] for a file with several hard links, unless they are to be broken.
    pub(super) fn take(&mut self, observation: Observation) -> Result<()> {
        match observation {
            Observation::Extra { name, stat } => self.extra(name, &stat),
            Observation::Wanted { entry, present, new_bytes } => {
                let attributes = Attributes::of(&entry);
                let Entry { path: name, kind, .. } = entry;
                match kind {
                    EntryKind::Directory => self.directory(name, attributes, present),
                    EntryKind::File(file) => self.file(name, &file, attributes, present, new_bytes)?,
                    EntryKind::Symlink(link) => self.link(name, link, attributes, present),
                }
            }
        }
        Ok(())
    }

    /// The plan.
    pub(super) fn finish(self) -> Plan {
        self.plan
    }

    fn extra(&mut self, name: Vec<u8>, stat: &FileStat) {
        let of_database = self.databases.iter().any(|main| Target::sidecars(main).any(|sidecar| sidecar == name));
        if of_database && stat.kind == FileKind::File {
            self.count_removal(&name, stat);
            self.plan.sidecars.push(name);
        } else {
            self.remove(name, stat);
        }
    }

    fn directory(&mut self, name: Vec<u8>, attributes: Attributes, present: Option<Present>) {
        let existence = match present {
            Some(present) if present.stat.kind == FileKind::Directory => Existence::Keep,
            other => self.make_room(&name, other),
        };
        self.plan.directories.push(DirectoryStep { name, existence, attributes });
    }

    fn file(
        &mut self,
        name: Vec<u8>,
        file: &FileEntry,
        attributes: Attributes,
        present: Option<Present>,
        new_bytes: u64,
    ) -> Result<()> {
        let role = role_of(&name, file);
        if role == FileRole::Database {
            self.databases.push(name.clone());
        }
        let (stat, difference) = match present {
            Some(Present { stat, difference, .. }) if stat.kind == FileKind::File => {
                if role == FileRole::Database {
                    self.plan.totals.largest_database = self.plan.totals.largest_database.max(stat.size);
                }
                if stat.links > 1 && self.hard_links == HardLinkPolicy::Break {
                    self.remove(name.clone(), &stat);
                    self.create(name, file, role, attributes, file.content.length);
                    return Ok(());
                }
                self.refuse_links(&name, &stat)?;
                (stat, difference)
            }
            other => {
                self.make_room(&name, other);
                self.create(name, file, role, attributes, new_bytes);
                return Ok(());
            }
        };
        let differs = !difference.is_none();
        match differs {
            true => self.plan.totals.add_overwritten(&stat, difference.bytes(), file.content.length),
            false => self.plan.totals.unchanged += 1,
        }
        if differs || role == FileRole::Database || attributes.differ(&stat, self.owner) {
            let change = Change::Overwrite(difference);
            self.push_file(name, file, role, change, attributes);
        }
        Ok(())
    }

    fn create(&mut self, name: Vec<u8>, file: &FileEntry, role: FileRole, attributes: Attributes, bytes: u64) {
        self.plan.totals.created += 1;
        self.plan.totals.bytes_to_write_at_most = self.plan.totals.bytes_to_write_at_most.saturating_add(bytes);
        self.plan.totals.bytes_added = self.plan.totals.bytes_added.saturating_add(bytes);
        self.push_file(name, file, role, Change::Create, attributes);
    }

    fn push_file(&mut self, name: Vec<u8>, file: &FileEntry, role: FileRole, change: Change, attributes: Attributes) {
        if role == FileRole::Database {
            self.plan.totals.bytes_to_write_at_most =
                self.plan.totals.bytes_to_write_at_most.saturating_add(HEADER_REWRITTEN);
        }
        let FileEntry { content, sparse, .. } = *file;
        let (lost, keeps_header) = (Vec::new(), false);
        self.plan.files.push(FileStep { name, content, sparse, role, change, attributes, lost, keeps_header });
    }

    fn link(&mut self, name: Vec<u8>, link: Vec<u8>, attributes: Attributes, present: Option<Present>) {
        let existence = match present {
            Some(present) if present.link.as_ref() == Some(&link) => {
                self.plan.totals.unchanged += 1;
                if !attributes.differ(&present.stat, self.owner) {
                    return;
                }
                Existence::Keep
            }
            other => {
                self.plan.totals.created += 1;
                self.make_room(&name, other)
            }
        };
        self.plan.links.push(LinkStep { name, link, existence, attributes });
    }

    /// Removes what stands where something of another kind is wanted.
    fn make_room(&mut self, name: &[u8], present: Option<Present>) -> Existence {
        if let Some(present) = present {
            self.remove(name.to_vec(), &present.stat);
        }
        Existence::Create
    }

    fn remove(&mut self, name: Vec<u8>, stat: &FileStat) {
        self.count_removal(&name, stat);
        let goes_with =
            |removed: &Vec<u8>| name.strip_prefix(removed.as_slice()).is_some_and(|rest| rest.first() == Some(&b'/'));
        if !self.removed.as_ref().is_some_and(goes_with) {
            self.plan.removals.push(name.clone());
            self.removed = Some(name);
        }
    }

    fn count_removal(&mut self, name: &[u8], stat: &FileStat) {
        let totals = &mut self.plan.totals;
        if stat.kind != FileKind::Directory {
            totals.removed += 1;
        }
        if stat.kind == FileKind::File {
            totals.bytes_freed = totals.bytes_freed.saturating_add(if stat.links > 1 { 0 } else { stat.allocated });
            totals.bytes_replaced =
                totals.bytes_replaced.saturating_add(stat.size.min(stat.allocated.saturating_add(4096)));
        }
        if totals.removed_names.len() < MOST_NAMES {
            totals.removed_names.push(name.to_vec());
        }
    }

    fn refuse_links(&self, name: &[u8], stat: &FileStat) -> Result<()> {
        if stat.links <= 1 {
            return Ok(());
        }
        Err(Error::Refused(format!(
            "{} has {} hard links, and restoring it in place would change them all; \
             repeat with --break-links to give it a file of its own",
            self.directory.join(OsStr::from_bytes(name)).display(),
            stat.links
        )))
    }
}

/// A sidecar that was captured raw is plain bytes; all else that SQLite was asked about is a database.
fn role_of(name: &[u8], file: &FileEntry) -> FileRole {
    match file.capture {
        Capture::Plain => FileRole::Plain,
        Capture::SqliteImage => FileRole::Database,
        Capture::RawSqlite if Target::sidecars(b"").any(|suffix| name.ends_with(&suffix)) => FileRole::Plain,
        Capture::RawSqlite => FileRole::Database,
    }
}

#[cfg(test)]
mod tests;
