//! Opening and making a repository.
//!
//! Invariant: whoever has a [`Repository`] holds its lock, shared or alone, so no pack vanishes meanwhile, and its
//! index knows every pack that exists. One that cannot be written is read with a private index, leaves no trace, and is
//! locked only if its lock file can be opened. Order (docs/architecture.md): lock, packs, index; only then is anything
//! deduplicated against it.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use chrono::{SecondsFormat, Utc};
use rustix::rand::{GetRandomFlags, getrandom};

use super::footers::Footers;
use super::index::Index;
use super::packs::PackFile;
use super::{layout, lost_bases, packs};
use crate::disk::{
    Acquired, FileLock, LocalStorage, LockMode, ObjectKind, Published, ScratchDirectory, Storage, durable, scratch,
};
use crate::error::{Error, Result};
use crate::format::Malformed;
use crate::format::header::{RepositoryDocument, RepositoryHeader};
use crate::format::pack::Footer;
use crate::id::RepositoryId;

const DOCUMENT_LIMIT: u64 = 65_536;
/// Unknown packs from which on it is worth saying that their footers are read.
const MANY_PACKS: usize = 64;

/// What a repository is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Nothing in it changes, except its index where that can be written.
    Read,
    /// Blobs and snapshots are added or removed.
    Write,
}

/// How long to wait for other processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LockWait(pub Duration);

/// An open repository.
#[derive(Debug)]
pub struct Repository {
    root: PathBuf,
    header: RepositoryHeader,
    storage: Arc<dyn Storage>,
    index: Arc<Index>,
    scratch: Option<ScratchDirectory>,
    lock: Option<FileLock>,
    wait: LockWait,
    packs: PackSet,
    footers: Footers,
}

/// Which packs a repository is taken to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PackSet {
    /// All there are.
    All,
    /// Those that its index was made of.
    Given,
}

/// Whether a repository that is written needs a directory for temporary files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ScratchNeed {
    Always,
    IfThereIsRoom,
}

impl std::fmt::Debug for dyn Storage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Storage({})", self.root().display())
    }
}

impl Repository {
    /// Opens the repository at `root`; `None` if there is none yet.
    ///
    /// # Errors
    /// [`Error::Busy`] while a cleanup deletes; [`Error::Damaged`] for a repository that is damaged or of an unknown
    /// version or feature.
    pub fn open(root: &Path, access: Access, wait: LockWait) -> Result<Option<Self>> {
        Self::open_with(root, access, wait, ScratchNeed::Always)
    }

    /// Opens the repository at `root` to take things away, which works without any room too: then it has no scratch
    /// directory, and nothing can be created in it.
    ///
    /// # Errors
    /// Those of [`Repository::open`].
    pub fn open_to_reclaim(root: &Path, wait: LockWait) -> Result<Option<Self>> {
        Self::open_with(root, Access::Write, wait, ScratchNeed::IfThereIsRoom)
    }

    fn open_with(root: &Path, access: Access, wait: LockWait, need: ScratchNeed) -> Result<Option<Self>> {
        let root = std::path::absolute(root).map_err(Error::io("resolve", root))?;
        if read_header(&LocalStorage::new(&root, None))?.is_none() {
            return Ok(None);
        }
        let what = format!("the repository {}", root.display());
        let lock = FileLock::acquire(&root.join(layout::LOCK), LockMode::Shared, wait.0, &what)?;
        let lock = match (lock, access) {
            (Acquired::Held(lock), _) => Some(lock),
            (Acquired::ReadOnly(_), Access::Read) => None,
            (refused, Access::Write) => Some(refused.or_refuse()?),
        };
        let scratch = match access {
            Access::Read => None,
            Access::Write => {
                scratch::remove_abandoned(&root.join(layout::TMP));
                match ScratchDirectory::create(&root.join(layout::TMP)) {
                    Err(error) if need == ScratchNeed::IfThereIsRoom && error.is_out_of_room() => None,
                    made => Some(made?),
                }
            }
        };
        let storage = LocalStorage::new(&root, scratch.as_ref().map(ScratchDirectory::path));
        let Some(header) = read_header(&storage)? else { return Ok(None) };
        let index = open_index(&storage, &header, access)?;
        let (storage, index) = (Arc::new(storage), Arc::new(index));
        Ok(Some(Self {
            root,
            header,
            storage,
            index,
            scratch,
            lock,
            wait,
            packs: PackSet::All,
            footers: Footers::new(),
        }))
    }

    /// Opens the repository at `root` for writing, making it if there is none.
    ///
    /// # Errors
    /// Those of [`Repository::open`], and I/O errors of making it.
    pub fn open_or_create(root: &Path, wait: LockWait) -> Result<Self> {
        create(root)?;
        Self::open(root, Access::Write, wait)?
            .ok_or_else(|| Error::Failed(format!("the repository {} vanished while it was opened", root.display())))
    }

    /// The repository's directory, absolute.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// What all its files say of it.
    pub fn header(&self) -> &RepositoryHeader {
        &self.header
    }

    /// Its immutable objects.
    pub fn storage(&self) -> &dyn Storage {
        &*self.storage
    }

    /// Its index.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// A directory for temporary files of this run, on the file system of the repository.
    ///
    /// # Errors
    /// [`Error::Refused`] if the repository was opened for reading.
    pub fn scratch(&self) -> Result<&Path> {
        self.scratch.as_ref().map(ScratchDirectory::path).ok_or_else(|| {
            Error::Refused(format!("nothing can be created in the repository {} now", self.root.display()))
        })
    }

    /// How long this process waits for others.
    pub fn lock_wait(&self) -> LockWait {
        self.wait
    }

    /// Takes the lock on the live files: shared while they are captured, exclusive while they are restored.
    ///
    /// # Errors
    /// [`Error::Busy`] after the wait.
    pub fn lock_live(&self, mode: LockMode) -> Result<FileLock> {
        let path = self.root.join(layout::LIVE_LOCK);
        FileLock::acquire(&path, mode, self.wait.0, "restoring or capturing the live files")?.or_refuse()
    }

    /// Takes the lock that lets one cleanup run at a time, without waiting.
    ///
    /// # Errors
    /// [`Error::Busy`] while another cleanup runs.
    pub fn lock_cleanup(&self) -> Result<FileLock> {
        let path = self.root.join(layout::CLEANUP_LOCK);
        match FileLock::try_acquire(&path, LockMode::Exclusive)? {
            Some(acquired) => acquired.or_refuse(),
            None => Err(Error::Busy(format!(
                "another cleanup or repair is at work (lock file {}); try again when it is done",
                path.display()
            ))),
        }
    }

    /// Gives the shared lock up and takes it exclusively: nobody reads or writes blobs from now on. Other processes may
    /// have published snapshots and packs in between.
    ///
    /// # Errors
    /// [`Error::Busy`] after the wait; the repository must then be opened again.
    pub fn lock_exclusively(&mut self) -> Result<()> {
        self.lock = None;
        let what = format!("the repository {}", self.root.display());
        let lock = FileLock::acquire(&self.root.join(layout::LOCK), LockMode::Exclusive, self.wait.0, &what)?;
        self.lock = Some(lock.or_refuse()?);
        Ok(())
    }

    /// Reads all footers again, in case rows of the index are missing or wrong.
    ///
    /// # Errors
    /// When packs cannot be listed.
    pub fn reindex(&self) -> Result<()> {
        if self.packs == PackSet::Given {
            return Ok(());
        }
        let existing = packs::list(self.storage())?;
        self.index.reconcile(&existing)?;
        let access = if self.scratch.is_some() { Access::Write } else { Access::Read };
        adopt(&self.index, self.storage(), &self.header, &existing, access)
    }

    /// Has the index distrust what is built on blobs that no pack holds any more.
    ///
    /// # Errors
    /// I/O errors; errors of the index.
    pub fn distrust_lost_bases(&self) -> Result<()> {
        let existing = packs::list(self.storage())?;
        lost_bases::distrust(&self.index, self.storage(), &self.header, &existing)
    }

    /// The same repository as if it had these packs alone, for reading: what can be read there does not need the
    /// others.
    ///
    /// # Errors
    /// [`Error::Damaged`] if one of them cannot be read.
    pub fn with_only(&self, packs: &[PackFile]) -> Result<Self> {
        let index = Index::open_private()?;
        for pack in packs {
            index.adopt(pack, &packs::read_footer(self.storage(), &self.header, pack)?)?;
        }
        Ok(Self {
            root: self.root.clone(),
            header: self.header.clone(),
            storage: self.storage_shared(),
            index: Arc::new(index),
            scratch: None,
            lock: None,
            wait: self.wait,
            packs: PackSet::Given,
            footers: Footers::new(),
        })
    }

    /// The footer of a pack, which may have been read before.
    pub(super) fn footer(&self, pack: &PackFile) -> Result<Arc<Footer>> {
        self.footers.get(self.storage(), &self.header, pack)
    }

    /// Has footers read anew from here on, for who asks whether packs are sound now.
    pub fn forget_footers(&self) {
        self.footers.forget();
    }

    pub(super) fn storage_shared(&self) -> Arc<dyn Storage> {
        Arc::clone(&self.storage)
    }

    pub(super) fn index_shared(&self) -> Arc<Index> {
        Arc::clone(&self.index)
    }
}

/// Makes a repository at `root` unless there is one. What lies there already is left alone, and told of.
///
/// # Errors
/// I/O errors; [`Error::Usage`] for the root directory, and for a directory in another repository;
/// [`Error::Damaged`] if what is there cannot be read.
pub fn create(root: &Path) -> Result<()> {
    let root = std::path::absolute(root).map_err(Error::io("resolve", root))?;
    if read_header(&LocalStorage::new(&root, None))?.is_some() {
        return Ok(());
    }
    if root.canonicalize().is_ok_and(|real| real.parent().is_none()) {
        return Err(Error::Usage(
            "a repository needs a directory of its own, not the root directory; name one with --repo".into(),
        ));
    }
    if !root.exists() && root.components().any(|component| component == Component::ParentDir) {
        return Err(Error::Usage(format!("{} leads through '..'; give a plain path with --repo", root.display())));
    }
    let is_repository = |path: &&Path| path.join(layout::REPOSITORY).is_file() && path.join(layout::PACKS).is_dir();
    if let Some(outer) = directories_above(&root).ancestors().find(is_repository) {
        return Err(Error::Usage(format!(
            "{} lies in the repository {}, whose cleanup may remove it; name a directory of its own with --repo",
            root.display(),
            outer.display()
        )));
    }
    if is_unmounted(&root) {
        tracing::warn!(path = %root.display(), "the directory was there and empty, so a new repository is made in it; if the disk with the old one is not mounted there, mount it and remove this one");
    }
    if let Some(other) = something_else(&root) {
        tracing::warn!(path = %root.display(), other = %other.display(), "the directory of the new repository holds other things already; they are left alone, but one of its own is easier to copy and to keep");
    }
    durable::create_directories(&root, durable::DIRECTORY_MODE)?;
    for directory in [layout::PACKS, layout::SNAPSHOTS, layout::INTENTS, layout::TMP] {
        durable::create_directories(&root.join(directory), durable::DIRECTORY_MODE)?;
    }
    for lock in [layout::LOCK, layout::LIVE_LOCK, layout::CLEANUP_LOCK] {
        // Once the medium is full, there may be no room for them.
        FileLock::try_acquire(&root.join(lock), LockMode::Shared)?;
    }
    let scratch = ScratchDirectory::create(&root.join(layout::TMP))?;
    let storage = LocalStorage::new(&root, Some(scratch.path()));
    let header = RepositoryHeader::new(random_id()?);
    let document = RepositoryDocument::new(&header, Utc::now().to_rfc3339_opts(SecondsFormat::Secs, true));
    let mut bytes = serde_json::to_vec_pretty(&document)
        .map_err(|error| Error::Failed(format!("the repository's description cannot be written: {error}")))?;
    bytes.push(b'\n');
    let mut object = storage.create()?;
    std::io::Write::write_all(&mut object, &bytes).map_err(Error::io("write", root.join(layout::REPOSITORY)))?;
    object.sync()?;
    // Whoever came first has made it; both are then the same repository.
    let (Published::New | Published::AlreadyThere) = object.publish(layout::REPOSITORY)?;
    Ok(())
}

/// The directory that holds this one, or would, without symlinks as far as it exists.
fn directories_above(root: &Path) -> PathBuf {
    let real = std::fs::canonicalize(root).unwrap_or_else(|_| root.to_path_buf());
    let above = real.ancestors().skip(1).find_map(|path| std::fs::canonicalize(path).ok());
    above.unwrap_or_default()
}

/// Whether this directory looks like one on which no disk is mounted: empty, and on the file system of its parent.
fn is_unmounted(root: &Path) -> bool {
    let device = |path: &Path| std::fs::metadata(path).ok().map(|metadata| metadata.dev());
    let is_empty = std::fs::read_dir(root).is_ok_and(|mut entries| entries.next().is_none());
    is_empty && root.parent().is_some_and(|parent| device(parent) == device(root))
}

fn random_id() -> Result<RepositoryId> {
    let mut id = [0; RepositoryId::LEN];
    match getrandom(&mut id, GetRandomFlags::empty()) {
        Ok(RepositoryId::LEN) => Ok(RepositoryId::from_bytes(id)),
        Ok(_) => Err(Error::Failed("the system gave too few random bytes; try again".into())),
        Err(cause) => Err(Error::Failed(format!("the system gave no random bytes: {cause}"))),
    }
}

/// Something in this directory that belongs to no repository.
fn something_else(root: &Path) -> Option<PathBuf> {
    let names = |directory: &Path| std::fs::read_dir(directory).into_iter().flatten().flatten();
    let is_ours = |name: &OsStr| name == "lost+found" || layout::AT_THE_TOP.iter().any(|ours| name == *ours);
    let beside = names(root).find(|entry| !is_ours(&entry.file_name()));
    let in_tmp = || names(&root.join(layout::TMP)).find(|entry| !scratch::is_name(entry.file_name().as_bytes()));
    beside.or_else(in_tmp).map(|entry| entry.path())
}

/// Whether there is a repository, of a version that can be read.
///
/// # Errors
/// [`Error::Damaged`] for one that cannot; I/O errors.
pub fn exists(storage: &dyn Storage) -> Result<bool> {
    Ok(read_header(storage)?.is_some())
}

/// The header that `repository.json` tells; `None` if there is no repository.
fn read_header(storage: &dyn Storage) -> Result<Option<RepositoryHeader>> {
    let path = storage.root().join(layout::REPOSITORY);
    let bytes = match storage.read(layout::REPOSITORY, DOCUMENT_LIMIT) {
        Ok(bytes) => bytes,
        Err(error) if error.is_not_found() => {
            let packs = storage.list(layout::PACKS)?;
            if packs.iter().any(|object| object.kind == ObjectKind::Directory) {
                return Err(Error::damaged(
                    path,
                    "it is missing although there are packs; put it back from a copy of the repository",
                ));
            }
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let header = RepositoryDocument::parse(&bytes).map_err(|fault| {
        let advice = match fault {
            Malformed::Version(_) | Malformed::Feature(_) => "",
            _ => "; put it back from a copy of the repository",
        };
        Error::damaged(&path, format!("this is no description of a repository: {fault}{advice}"))
    })?;
    Ok(Some(header))
}

fn open_index(storage: &LocalStorage, header: &RepositoryHeader, access: Access) -> Result<Index> {
    let existing = packs::list(storage)?;
    let path = storage.root().join(layout::INDEX);
    if access == Access::Write || is_writable(storage.root()) {
        let opened = Index::open(&path).and_then(|index| brought_up_to_date(index, storage, header, &existing, access));
        match opened {
            Ok(index) => return Ok(index),
            Err(cause) => tracing::warn!(%cause, "the index cannot be used; a temporary one takes its place"),
        }
    }
    brought_up_to_date(Index::open_private()?, storage, header, &existing, access)
}

/// The index, knowing every pack that exists and distrusting what lacks bases.
fn brought_up_to_date(
    index: Index,
    storage: &LocalStorage,
    header: &RepositoryHeader,
    existing: &[PackFile],
    access: Access,
) -> Result<Index> {
    let vanished = index.vanished(existing)?;
    let unknown = index.reconcile(existing)?;
    adopt(&index, storage, header, &unknown, access)?;
    let doubtful = if vanished.is_empty() { unknown.as_slice() } else { existing };
    lost_bases::distrust(&index, storage, header, doubtful)?;
    if !vanished.is_empty() {
        index.forget(&vanished)?;
    }
    Ok(index)
}

/// Adopts packs from their footers; one that cannot be read is reported and left out, its blobs count as missing.
fn adopt(
    index: &Index,
    storage: &dyn Storage,
    header: &RepositoryHeader,
    unknown: &[PackFile],
    access: Access,
) -> Result<()> {
    if unknown.is_empty() {
        return Ok(());
    }
    if access == Access::Write {
        sync_names(storage, unknown)?;
    }
    if unknown.len() >= MANY_PACKS {
        tracing::info!(packs = unknown.len(), "the index does not know these packs; reading what they hold");
    }
    index.adopt_all(unknown, |pack| match packs::read_footer(storage, header, pack) {
        Ok(footer) => Ok(Some(footer)),
        Err(error) if error.is_of_one_file() => {
            tracing::warn!(cause = %error, "a pack cannot be read and is left out");
            Ok(None)
        }
        Err(error) => Err(error),
    })
}

/// A pack that was given its name but may not keep it in a crash must not be built upon.
fn sync_names(storage: &dyn Storage, packs: &[PackFile]) -> Result<()> {
    let directories = packs.iter().filter_map(|pack| Some(layout::pack(&pack.id).rsplit_once('/')?.0.to_owned()));
    let directories: BTreeSet<String> = directories.chain([layout::PACKS.to_owned()]).collect();
    directories.iter().try_for_each(|directory| storage.sync_directory(directory))
}

/// Whether this process may write a directory.
pub fn is_writable(directory: &Path) -> bool {
    use rustix::fs::{Access as Permission, AtFlags, CWD, accessat};
    accessat(CWD, directory, Permission::WRITE_OK, AtFlags::EACCESS).is_ok()
}
