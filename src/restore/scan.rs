//! Looking at a target beside the table of the snapshot: what is wanted, what is there, and what is too much.
//!
//! Both are walked in the same order at the same time, so memory does not grow with the tree. Invariant: nothing is
//! changed, no link in the tree is followed, and a mount point inside it is refused, since what is mounted there
//! belongs to somebody else.

use super::difference::{Difference, compare};
use super::gate::InvalidPolicy;
use super::plan::CutTable;
use super::room;
use super::target::Target;
use super::wanted::{Wanted, for_each_piece};
use crate::disk::stat::{FileKind, FileStat};
use crate::disk::target::{TargetEntry, TargetRoot};
use crate::error::{Error, Result};
use crate::format::content::Content;
use crate::format::manifest::{SourceKind, SourceRecord};
use crate::format::table::{Entry, EntryKind, compare_paths};
use crate::progress::Progress;
use crate::store::BlobReader;
use crate::store::file_table::TableReader;

/// One name, as the snapshot wants it or as only the target has it.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "one lives at a time")]
pub(super) enum Observation {
    /// The snapshot holds it.
    Wanted {
        /// What it shall be; its path is the name in the target's directory.
        entry: Entry,
        /// What is there now.
        present: Option<Present>,
        /// For a file that is not there yet: its bytes without holes.
        new_bytes: u64,
    },
    /// Only the target has it.
    Extra {
        /// Its name in the target's directory.
        name: Vec<u8>,
        /// What it is.
        stat: FileStat,
    },
}

/// What stands at a name.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Present {
    /// Its state.
    pub(super) stat: FileStat,
    /// What it holds, if it is a symlink.
    pub(super) link: Option<Vec<u8>>,
    /// Where it differs, if both are regular files.
    pub(super) difference: Difference,
}

/// Looks at one target.
pub(super) struct Scan<'s, 'r> {
    pub(super) target: &'s Target,
    /// Its directory; none if it does not exist.
    pub(super) root: Option<&'s TargetRoot>,
    pub(super) reader: &'s mut BlobReader<'r>,
    /// Whether what cannot be read is passed over.
    pub(super) accept: InvalidPolicy,
    pub(super) progress: &'s dyn Progress,
}

/// Takes observations in order.
pub(super) type Take<'t> = &'t mut dyn FnMut(Observation) -> Result<()>;

impl Scan<'_, '_> {
    /// Compares the target with the source in the snapshot. Where the table cannot be read on, and that is accepted, it
    /// stops: what is too much from there on cannot be known either.
    ///
    /// # Errors
    /// [`Error::Refused`] for a mount point inside a tree; [`Error::NotValid`] for a table that cannot be read or does
    /// not fit; I/O errors.
    pub(super) fn compare(mut self, record: &SourceRecord, take: Take<'_>) -> Result<Option<CutTable>> {
        match self.target.kind {
            SourceKind::Tree => self.compare_tree(record, take),
            SourceKind::Sqlite | SourceKind::File => self.compare_files(record, take),
        }
    }

    /// Observes everything that is there as too much.
    ///
    /// # Errors
    /// As [`Scan::compare`].
    pub(super) fn all_extra(self, take: Take<'_>) -> Result<()> {
        let Some(root) = self.root else { return Ok(()) };
        if self.target.kind == SourceKind::Tree {
            let mut walk = Walk::of(root);
            while let Some(found) = walk.next()? {
                if !found.name.is_empty() {
                    refuse_mount(root, &found.name)?;
                    take(Observation::Extra { name: found.name, stat: found.stat })?;
                }
            }
            return Ok(());
        }
        let names = std::iter::once(self.target.name.clone()).chain(Target::sidecars(&self.target.name));
        extras(root, names, take)
    }

    fn compare_tree(&mut self, record: &SourceRecord, take: Take<'_>) -> Result<Option<CutTable>> {
        let mut table = TableReader::of(&record.table);
        let mut walk = self.root.map(Walk::of);
        let mut last = None;
        let mut wanted = match self.next_entry(record, &mut table)? {
            Next::Entry(entry) => Some(entry),
            Next::End => None,
            Next::Cut(cause) => return Ok(Some(CutTable { last, cause })),
        };
        let mut found = next_found(&mut walk)?;
        loop {
            self.progress.check()?;
            let order = match (&wanted, &found) {
                (None, None) => return Ok(None),
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
                (Some(entry), Some(found)) => compare_paths(&entry.path, &found.name),
            };
            if let (true, Some(root), Some(found)) = (order.is_ge(), self.root, &found)
                && !found.name.is_empty()
            {
                refuse_mount(root, &found.name)?;
            }
            let there = if order.is_ge() { found.take() } else { None };
            if order.is_le() {
                if let Some(entry) = wanted.take() {
                    last = Some(entry.path.clone());
                    take(self.observe(entry, there.map(|found| found.stat))?)?;
                }
                wanted = match self.next_entry(record, &mut table)? {
                    Next::Entry(entry) => Some(entry),
                    Next::End => None,
                    Next::Cut(cause) => return Ok(Some(CutTable { last, cause })),
                };
            } else if let Some(extra) = there.filter(|extra| !extra.name.is_empty()) {
                take(Observation::Extra { name: extra.name, stat: extra.stat })?;
            }
            if order.is_ge() {
                found = next_found(&mut walk)?;
            }
        }
    }

    /// A single file, and for a database captured raw its sidecars; they take the name that the target has.
    fn compare_files(&mut self, record: &SourceRecord, take: Take<'_>) -> Result<Option<CutTable>> {
        let mut table = TableReader::of(&record.table);
        let mut captured_name: Option<Vec<u8>> = None;
        let mut sidecars: Vec<Vec<u8>> =
            if record.kind == SourceKind::Sqlite { Target::sidecars(&self.target.name).collect() } else { Vec::new() };
        let mut cut = None;
        loop {
            let mut entry = match self.next_entry(record, &mut table)? {
                Next::Entry(entry) => entry,
                Next::End => break,
                Next::Cut(cause) => {
                    cut = Some(CutTable { last: captured_name.clone(), cause });
                    break;
                }
            };
            let first = captured_name.is_none();
            let suffix = entry.path.strip_prefix(captured_name.get_or_insert_with(|| entry.path.clone()).as_slice());
            let name = [&self.target.name, suffix.unwrap_or(b"/")].concat();
            let known = first || sidecars.contains(&name);
            if !known || !matches!(entry.kind, EntryKind::File(_)) {
                return Err(malformed(record, "it holds more than a single file"));
            }
            sidecars.retain(|sidecar| *sidecar != name);
            entry.path = name;
            let stat = self.root.map_or(Ok(None), |root| root.stat(&entry.path))?;
            take(self.observe(entry, stat)?)?;
        }
        // Of a file that was not restored, what lies beside it stays too.
        if captured_name.is_some() || cut.is_none() {
            self.root.map_or(Ok(()), |root| extras(root, sidecars, take))?;
        }
        Ok(cut)
    }

    fn observe(&mut self, entry: Entry, stat: Option<FileStat>) -> Result<Observation> {
        if let EntryKind::File(file) = &entry.kind {
            room::check_file(&self.target.directory, &entry.path, &file.content, self.reader, self.progress)?;
        }
        let Some((root, stat)) = self.root.zip(stat) else {
            let new_bytes = self.data_bytes(&entry)?;
            return Ok(Observation::Wanted { entry, present: None, new_bytes });
        };
        let mut present = Present { stat, link: None, difference: Difference::default() };
        let mut new_bytes = 0;
        match (stat.kind, &entry.kind) {
            (FileKind::File, EntryKind::File(file)) => {
                let current = root.read_file(&entry.path)?;
                present.difference = compare(&current, &file.content, self.reader, self.accept, self.progress)?;
            }
            (FileKind::Symlink, _) => present.link = Some(root.read_link(&entry.path)?),
            _ => {}
        }
        if stat.kind != FileKind::File {
            new_bytes = self.data_bytes(&entry)?;
        }
        Ok(Observation::Wanted { entry, present: Some(present), new_bytes })
    }

    fn data_bytes(&mut self, entry: &Entry) -> Result<u64> {
        match &entry.kind {
            EntryKind::File(file) => {
                let bytes = data_bytes(&file.content, self.reader, self.accept)?;
                self.progress.advance(file.content.length);
                Ok(bytes)
            }
            EntryKind::Directory | EntryKind::Symlink(_) => Ok(0),
        }
    }

    fn next_entry(&mut self, record: &SourceRecord, table: &mut TableReader) -> Result<Next> {
        Ok(match table.next(self.reader, |_| ())? {
            Ok(Some(entry)) => Next::Entry(entry),
            Ok(None) => Next::End,
            Err(fault) if self.accept == InvalidPolicy::Accept => Next::Cut(fault.to_string()),
            Err(fault) => return Err(malformed(record, &fault.to_string())),
        })
    }
}

/// What comes next in a table.
#[expect(clippy::large_enum_variant, reason = "one lives at a time")]
enum Next {
    Entry(Entry),
    End,
    /// It cannot be read on, and why.
    Cut(String),
}

fn data_bytes(content: &Content, reader: &mut BlobReader<'_>, accept: InvalidPolicy) -> Result<u64> {
    let mut bytes = 0;
    for_each_piece(content, reader, |reader, piece| {
        match piece {
            Wanted::Slot(slot) => bytes += slot.length as u64,
            Wanted::Hidden(hidden) if accept == InvalidPolicy::Refuse => return Err(hidden.into_error(reader)),
            Wanted::Hidden(_) | Wanted::Hole(_) => {}
        }
        Ok(())
    })?;
    Ok(bytes)
}

fn extras(root: &TargetRoot, names: impl IntoIterator<Item = Vec<u8>>, take: Take<'_>) -> Result<()> {
    for name in names {
        if let Some(stat) = root.stat(&name)? {
            take(Observation::Extra { name, stat })?;
        }
    }
    Ok(())
}

fn malformed(record: &SourceRecord, fault: &str) -> Error {
    Error::NotValid(format!("the snapshot cannot be restored: the table of '{}': {fault}", record.name))
}

fn refuse_mount(root: &TargetRoot, name: &[u8]) -> Result<()> {
    if !root.is_mount_point(name)? {
        return Ok(());
    }
    Err(Error::Refused(format!(
        "something is mounted at {}, inside a tree that would be restored; unmount it first",
        root.path_of(name).display()
    )))
}

/// Everything in a directory, in the order of a table; itself first.
struct Walk<'a> {
    root: &'a TargetRoot,
    /// The directories being listed, outermost first.
    listings: Vec<(Vec<u8>, std::vec::IntoIter<TargetEntry>)>,
    /// The directory that came last: it is listed once the caller has looked at it.
    entered: Option<Vec<u8>>,
    begun: bool,
}

struct Found {
    name: Vec<u8>,
    stat: FileStat,
}

impl<'a> Walk<'a> {
    fn of(root: &'a TargetRoot) -> Self {
        Self { root, listings: Vec::new(), entered: None, begun: false }
    }

    fn next(&mut self) -> Result<Option<Found>> {
        if !self.begun {
            self.begun = true;
            self.entered = Some(Vec::new());
            return Ok(self.root.stat(b"")?.map(|stat| Found { name: Vec::new(), stat }));
        }
        if let Some(directory) = self.entered.take() {
            let listing = self.root.list(&directory)?;
            self.listings.push((directory, listing.into_iter()));
        }
        while let Some((directory, listing)) = self.listings.last_mut() {
            match listing.next() {
                Some(TargetEntry { name, stat }) => {
                    let name = if directory.is_empty() { name } else { [directory.as_slice(), b"/", &name].concat() };
                    if stat.kind == FileKind::Directory {
                        self.entered = Some(name.clone());
                    }
                    return Ok(Some(Found { name, stat }));
                }
                None => {
                    self.listings.pop();
                }
            }
        }
        Ok(None)
    }
}

fn next_found(walk: &mut Option<Walk<'_>>) -> Result<Option<Found>> {
    walk.as_mut().map_or(Ok(None), Walk::next)
}
