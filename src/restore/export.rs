//! Writing a snapshot as plain files into an empty directory, in the layout of the tool that vecsnap replaced.
//!
//! Invariant: nothing that exists is overwritten; a file is there with all its bytes or not at all, or, if that is
//! accepted, with zeros for what could not be read; that is named in either case. No verdict on the content stops it,
//! since this is how a damaged snapshot is looked at.

#[cfg(test)]
mod tests;
mod unfinished;

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::disk::durable;
use crate::disk::target::TargetRoot;
use crate::error::{Error, Result};
use crate::format::manifest::{CHROMA, DB, Manifest, REGISTRY, SourceKind, SourceRecord, bytes_of};
use crate::format::metadata::SnapshotMetadata;
use crate::format::table::{Entry, EntryKind, FileEntry};
use crate::id::Stamp;
use crate::progress::{Phase, Progress};
use crate::save::report;
use crate::store::file_table::TableReader;
use crate::store::{BlobReader, Repository, layout};

use super::attributes::{Attributes, AttributesSet, OwnerPolicy, warn_of_denials};
use super::gate::{self, InvalidPolicy};
use super::losses::Unreadable;
use super::room;
use super::target;
use super::wanted::{Wanted, for_each_piece};
use unfinished::{UnfinishedFile, UnfinishedFiles};

const UNFINISHED_DIRECTORY: u32 = 0o700;
/// Permission bits of the directories that hold single files.
const PLAIN_DIRECTORY: u32 = 0o755;

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportReport {
    /// The snapshot.
    pub stamp: Stamp,
    /// The directory.
    pub directory: PathBuf,
    /// The description that lies in it, with paths into it.
    pub metadata: SnapshotMetadata,
    /// Regular files written.
    pub files: u64,
    /// Bytes written into them.
    pub bytes_written: u64,
    /// What could not be read.
    pub unreadable: Vec<Unreadable>,
    /// How long it took.
    pub duration: Duration,
}

/// Writes the snapshot into a directory, which is made if it does not exist.
///
/// # Errors
/// [`Error::Refused`] if the directory is not empty; [`Error::Usage`] if it is in the repository; [`Error::NotValid`]
/// without a usable manifest; I/O errors of the directory. What cannot be read from the repository is in the report.
pub fn export(
    repository: &Repository,
    stamp: Stamp,
    directory: &Path,
    owner: OwnerPolicy,
    invalid: InvalidPolicy,
    progress: &dyn Progress,
) -> Result<ExportReport> {
    let began = Instant::now();
    let manifest = gate::read_manifest(repository, stamp)?;
    let directory = std::path::absolute(directory).map_err(Error::io("resolve", directory))?;
    check_outside(&directory, repository)?;
    let root = open_empty(&directory)?;
    progress.phase(Phase::Writing, Some(bytes_of(&manifest.sources)));
    let mut exporter = Exporter {
        root: &root,
        owner,
        invalid,
        progress,
        reader: BlobReader::new(repository),
        unfinished: UnfinishedFiles::below(&root, repository, progress),
        files: 0,
        not_permitted: 0,
        unreadable: Vec::new(),
    };
    let mut captured = manifest.sources.iter().filter(|source| source.is_captured());
    if let Err(error) = captured.try_for_each(|source| exporter.source(source)) {
        exporter.unfinished.remove();
        return Err(error);
    }
    let Exporter { unfinished, files, not_permitted, unreadable, .. } = exporter;
    let bytes_written = unfinished.bytes_written();
    warn_of_denials(not_permitted);
    let metadata = write_metadata(&manifest, stamp, &directory)?;
    root.sync_directory(b"")?;
    Ok(ExportReport { stamp, directory, metadata, files, bytes_written, unreadable, duration: began.elapsed() })
}

/// Plain files do not belong among those of a repository, where they would be taken for its own.
fn check_outside(directory: &Path, repository: &Repository) -> Result<()> {
    if !target::resolve(directory)?.starts_with(target::resolve(repository.root())?) {
        return Ok(());
    }
    Err(Error::Usage(format!(
        "{} lies in the repository {}; name a directory outside",
        directory.display(),
        repository.root().display()
    )))
}

fn open_empty(directory: &Path) -> Result<TargetRoot> {
    let root = TargetRoot::open_or_create(directory, UNFINISHED_DIRECTORY)?;
    if root.list(b"")?.is_empty() {
        return Ok(root);
    }
    Err(Error::Refused(format!("{} is not empty; name an empty or a new directory", directory.display())))
}

/// The directory of a source in the old layout.
pub fn directory_of(source: &SourceRecord) -> &[u8] {
    match source.name.as_str() {
        DB => b"db",
        REGISTRY => b"config",
        CHROMA => b"chroma",
        other => other.as_bytes(),
    }
}

struct Exporter<'a, 'r> {
    root: &'a TargetRoot,
    owner: OwnerPolicy,
    invalid: InvalidPolicy,
    progress: &'a dyn Progress,
    /// For tables and list nodes, and for chunks that cannot be read in bulk.
    reader: BlobReader<'r>,
    unfinished: UnfinishedFiles<'a, 'r>,
    files: u64,
    not_permitted: u64,
    unreadable: Vec<Unreadable>,
}

impl<'r> Exporter<'_, 'r> {
    fn source(&mut self, source: &SourceRecord) -> Result<()> {
        let below = directory_of(source);
        let mode = if source.kind == SourceKind::Tree { UNFINISHED_DIRECTORY } else { PLAIN_DIRECTORY };
        self.root.create_directory(below, mode)?;
        let mut table = TableReader::of(&source.table);
        let mut directories = vec![below.to_vec()];
        let mut attributes = Vec::new();
        loop {
            let entry = match table.next(&mut self.reader, |_| ())? {
                Ok(Some(entry)) => entry,
                Ok(None) => break,
                Err(fault) => {
                    self.lose(below, format!("{fault}; this and all files after it are missing"));
                    break;
                }
            };
            let name = if entry.path.is_empty() { below.to_vec() } else { [below, b"/", &entry.path].concat() };
            let wanted = Attributes::of(&entry);
            if entry.kind == EntryKind::Directory {
                if !entry.path.is_empty() {
                    self.root.create_directory(&name, UNFINISHED_DIRECTORY)?;
                    directories.push(name.clone());
                }
                attributes.push((name, wanted));
            } else {
                self.entry(&name, &entry, wanted)?;
            }
        }
        self.finish_files()?;
        directories.iter().rev().try_for_each(|directory| self.root.sync_directory(directory))?;
        attributes.iter().rev().try_for_each(|(name, wanted)| self.set_attributes(name, wanted))
    }

    fn entry(&mut self, name: &[u8], entry: &Entry, wanted: Attributes) -> Result<()> {
        self.progress.check()?;
        match &entry.kind {
            EntryKind::Directory => Ok(()),
            EntryKind::Symlink(link) => {
                self.root.create_symlink(name, link)?;
                self.set_attributes(name, &wanted)
            }
            EntryKind::File(file) => self.file(name, file, wanted),
        }
    }

    fn file(&mut self, name: &[u8], file: &FileEntry, attributes: Attributes) -> Result<()> {
        let Self { root, progress, reader, unfinished, .. } = self;
        room::check_file(root.path(), name, &file.content, reader, *progress)?;
        unfinished.begin(name, file, attributes)?;
        for_each_piece(&file.content, reader, |reader, piece| match piece {
            Wanted::Slot(slot) => unfinished.want(slot, reader),
            Wanted::Hole(_) => Ok(()),
            Wanted::Hidden(hidden) => {
                unfinished.lose(hidden);
                Ok(())
            }
        })?;
        if unfinished.are_many() { self.finish_files() } else { Ok(()) }
    }

    /// Gives all files that were begun their bytes, attributes and durability, or removes them again.
    fn finish_files(&mut self) -> Result<()> {
        let mut files = self.unfinished.fill(&mut self.reader)?.into_iter();
        while let Some(mut file) = files.next() {
            if let Err(error) = self.finish(&mut file) {
                self.unfinished.take_back(std::iter::once(file).chain(files));
                return Err(error);
            }
        }
        Ok(())
    }

    fn finish(&mut self, file: &mut UnfinishedFile) -> Result<()> {
        self.progress.check()?;
        match file.fault() {
            Some(fault) if self.invalid == InvalidPolicy::Refuse => {
                self.root.remove_file(&file.name)?;
                self.lose(&file.name, fault);
                return Ok(());
            }
            _ => {}
        }
        self.set_attributes(&file.name, &file.attributes)?;
        file.target.sync()?;
        let path = self.root.path_of(&file.name);
        self.unreadable.extend(file.lost_ranges().iter().map(|lost| lost.at(path.clone())));
        self.files += 1;
        Ok(())
    }

    fn set_attributes(&mut self, name: &[u8], wanted: &Attributes) -> Result<()> {
        let outcome = wanted.set(self.root, name, self.owner)?;
        self.not_permitted += u64::from(outcome == AttributesSet::NotPermitted);
        Ok(())
    }

    fn lose(&mut self, name: &[u8], cause: String) {
        self.unreadable.push(Unreadable { path: self.root.path_of(name), bytes: None, cause });
    }
}

/// Writes the description, with every path leading into the directory.
fn write_metadata(manifest: &Manifest, stamp: Stamp, directory: &Path) -> Result<SnapshotMetadata> {
    let mut metadata = report::metadata(manifest, directory, stamp);
    let named = layout::snapshot_directory(directory, &stamp.to_string());
    let moved = |path: &str| match Path::new(OsStr::from_bytes(path.as_bytes())).strip_prefix(&named) {
        Ok(rest) if !rest.as_os_str().is_empty() => directory.join(rest).display().to_string(),
        Ok(_) => directory.display().to_string(),
        Err(_) => path.to_owned(),
    };
    for path in [
        &mut metadata.backup_root,
        &mut metadata.db_snapshot_path,
        &mut metadata.registry_snapshot_path,
        &mut metadata.chroma_snapshot_path,
    ] {
        *path = moved(path);
    }
    let path = directory.join(layout::METADATA);
    let mut bytes =
        serde_json::to_vec_pretty(&metadata).map_err(|fault| Error::io("write", &path)(io::Error::other(fault)))?;
    bytes.push(b'\n');
    durable::write_new_file(&path, &bytes)?;
    Ok(metadata)
}
