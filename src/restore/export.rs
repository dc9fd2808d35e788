//! Writing a snapshot as plain files into an empty directory, in the layout of the tool that vecsnap replaced.
//!
//! Invariant: nothing that exists is overwritten; a file is there with all its bytes or not at all, or, if that is
//! accepted, with zeros for what could not be read; that is named in either case. No verdict on the content stops it,
//! since this is how a damaged snapshot is looked at.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::disk::durable;
use crate::disk::target::TargetRoot;
use crate::error::{Error, Result};
use crate::format::manifest::{CHROMA, DB, Manifest, REGISTRY, SourceKind, SourceRecord, bytes_of};
use crate::format::metadata::SnapshotMetadata;
use crate::format::table::{Entry, EntryKind, FileEntry};
use crate::id::{BlobId, Stamp};
use crate::progress::{Phase, Progress};
use crate::save::report;
use crate::store::file_table::TableReader;
use crate::store::{BlobReader, BulkReader, PlanCapacity, Repository, StagedBlobs, layout};

use super::attributes::{Attributes, AttributesSet, OwnerPolicy, warn_of_denials};
use super::blocks::{BlockWriter, Written};
use super::gate::{self, InvalidPolicy};
use super::losses::{self, Unreadable};
use super::plan::{Change, FileRole, FileStep};
use super::room;
use super::target;
use super::verify::{Visited, WalkDepth, walk};

/// Chunks asked for in one look at the index.
const STAGED_TOGETHER: usize = 64;
const UNFINISHED_FILE: u32 = 0o600;
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
    let staged = stage_rebuilt(repository, &manifest, progress)?;
    let mut reader = BlobReader::new(repository).with_staged(staged);
    let blocks = BlockWriter { reader: &mut reader, progress, written: Written::default() };
    let mut exporter =
        Exporter { root: &root, owner, invalid, blocks, files: 0, not_permitted: 0, unreadable: Vec::new() };
    for source in manifest.sources.iter().filter(|source| source.is_captured()) {
        exporter.source(source)?;
    }
    let Exporter { blocks, files, not_permitted, unreadable, .. } = exporter;
    let bytes_written = blocks.written.bytes;
    warn_of_denials(not_permitted);
    let metadata = write_metadata(&manifest, stamp, &directory)?;
    root.sync_directory(b"")?;
    Ok(ExportReport { stamp, directory, metadata, files, bytes_written, unreadable, duration: began.elapsed() })
}

/// Rebuilds what is recorded as deltas, in the order of packs: file by file the same bases would be read again and
/// again.
fn stage_rebuilt(repository: &Repository, manifest: &Manifest, progress: &dyn Progress) -> Result<Arc<StagedBlobs>> {
    let mut bulk = BulkReader::keeping(repository, HashSet::new());
    let mut reader = BlobReader::new(repository);
    let read = |bulk: &mut BulkReader<'_>| bulk.read(&|_, _| progress.check()).map(drop);
    let mut stage = |ids: &mut Vec<BlobId>| {
        progress.check()?;
        if bulk.stage(&std::mem::take(ids))? == PlanCapacity::Full { read(&mut bulk) } else { Ok(()) }
    };
    let mut ids = Vec::new();
    for source in manifest.sources.iter().filter(|source| source.is_captured()) {
        walk(source, WalkDepth::DistinctChunks, &mut reader, &mut |_, visited| {
            if let Visited::Chunk { id, .. } = visited {
                ids.push(id);
            }
            if ids.len() >= STAGED_TOGETHER { stage(&mut ids) } else { Ok(()) }
        })?;
    }
    stage(&mut ids)?;
    read(&mut bulk)?;
    Ok(bulk.staged())
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
    blocks: BlockWriter<'a, 'r>,
    files: u64,
    not_permitted: u64,
    unreadable: Vec<Unreadable>,
}

impl Exporter<'_, '_> {
    fn source(&mut self, source: &SourceRecord) -> Result<()> {
        let below = directory_of(source);
        let mode = if source.kind == SourceKind::Tree { UNFINISHED_DIRECTORY } else { PLAIN_DIRECTORY };
        self.root.create_directory(below, mode)?;
        let mut table = TableReader::of(&source.table);
        let mut directories = vec![below.to_vec()];
        let mut attributes = Vec::new();
        loop {
            let entry = match table.next(self.blocks.reader, |_| ())? {
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
                self.entry(&name, &entry, &wanted)?;
            }
        }
        directories.iter().rev().try_for_each(|directory| self.root.sync_directory(directory))?;
        attributes.iter().rev().try_for_each(|(name, wanted)| self.set_attributes(name, wanted))
    }

    fn entry(&mut self, name: &[u8], entry: &Entry, wanted: &Attributes) -> Result<()> {
        match &entry.kind {
            EntryKind::Directory => Ok(()),
            EntryKind::Symlink(link) => {
                self.blocks.progress.check()?;
                self.root.create_symlink(name, link)?;
                self.set_attributes(name, wanted)
            }
            EntryKind::File(file) => match self.file(name, file, *wanted) {
                Ok(()) => Ok(()),
                Err(Error::Damaged { detail, .. }) => {
                    self.root.remove_file(name)?;
                    self.lose(name, detail);
                    Ok(())
                }
                Err(error) => {
                    self.root.remove_file(name)?;
                    Err(error)
                }
            },
        }
    }

    fn file(&mut self, name: &[u8], file: &FileEntry, attributes: Attributes) -> Result<()> {
        let FileEntry { content, sparse, .. } = *file;
        room::check_file(self.root.path(), name, &content, self.blocks.reader, self.blocks.progress)?;
        let change = Change::Create;
        let (role, lost, name_of_step) = (FileRole::Plain, Vec::new(), name.to_vec());
        let mut step =
            FileStep { name: name_of_step, content, sparse, role, change, attributes, lost, keeps_header: false };
        if self.invalid == InvalidPolicy::Accept {
            losses::mark(&mut step, self.blocks.reader, self.blocks.progress)?;
        }
        let target = self.root.create_file(name, UNFINISHED_FILE)?;
        self.blocks.write_content(&target, &step)?;
        self.set_attributes(name, &attributes)?;
        target.sync()?;
        self.unreadable.extend(step.lost.iter().map(|lost| lost.at(self.root.path_of(name))));
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
