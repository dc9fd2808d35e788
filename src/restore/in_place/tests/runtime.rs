//! A made-up runtime, what it looks like, and a restore that is interrupted.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rusqlite::Connection;
use tempfile::TempDir;

use super::*;
use crate::progress::Silent;
use crate::store::LockWait;

pub(super) const WAIT: LockWait = LockWait(Duration::from_secs(5));

pub(super) struct Runtime {
    directory: TempDir,
}

impl Runtime {
    pub(super) fn new() -> Self {
        let runtime = Self { directory: tempfile::tempdir().unwrap() };
        fs::create_dir_all(runtime.at("db")).unwrap();
        let connection = Connection::open(runtime.at("db/a.db")).unwrap();
        connection.execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY, x)").unwrap();
        fill(&connection, 0..2000);
        fs::write(runtime.at("registry.json"), b"{\"projects\": []}").unwrap();
        fs::create_dir_all(runtime.at("chroma/segment/empty")).unwrap();
        let store = Connection::open(runtime.at("chroma/chroma.sqlite3")).unwrap();
        store.execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY, x)").unwrap();
        fill(&store, 0..1000);
        fs::write(runtime.at("chroma/segment/data_level0.bin"), noise(1, 700_000)).unwrap();
        fs::write(runtime.at("chroma/segment/length.bin"), noise(2, 100)).unwrap();
        symlink("segment/length.bin", runtime.at("chroma/link")).unwrap();
        let sparse = fs::File::create(runtime.at("chroma/sparse.bin")).unwrap();
        sparse.set_len(4 << 20).unwrap();
        sparse.write_all_at(&noise(3, 5000), 2 << 20).unwrap();
        fs::set_permissions(runtime.at("chroma/segment/length.bin"), fs::Permissions::from_mode(0o640)).unwrap();
        runtime
    }

    pub(super) fn at(&self, path: &str) -> PathBuf {
        self.directory.path().join(path)
    }

    pub(super) fn live(&self) -> LiveSources {
        LiveSources { db: self.at("db/a.db"), registry: self.at("registry.json"), chroma: Some(self.at("chroma")) }
    }

    pub(super) fn repository(&self) -> Repository {
        Repository::open_or_create(&self.at("backup"), WAIT).unwrap()
    }

    pub(super) fn create(&self) -> Stamp {
        let options = CreateOptions {
            sources: self.live(),
            include_chroma: true,
            check_trees: false,
            read_policy: ReadPolicy::All,
            effort: Effort::default(),
            writers: Default::default(),
            kind: SnapshotKind::Ordinary,
        };
        save::create(&self.repository(), &options, &Silent).unwrap().stamp
    }

    pub(super) fn options(&self, goal: Goal) -> RestoreOptions {
        RestoreOptions {
            goal,
            targets: self.live(),
            chroma: ChromaChoice::AsCaptured,
            pre_snapshot: PreSnapshot::Take,
            owner: OwnerPolicy::Restore,
            hard_links: HardLinkPolicy::Refuse,
            others: OthersPolicy::Refuse,
            suspect: Default::default(),
            invalid: Default::default(),
        }
    }

    pub(super) fn restore(&self, goal: Goal) -> Result<RestoreReport> {
        restore(&self.repository(), &self.options(goal), &Silent)
    }

    /// Everything that a restore brings back, by path.
    pub(super) fn picture(&self) -> BTreeMap<PathBuf, Seen> {
        let mut seen = BTreeMap::new();
        for top in ["db/a.db", "registry.json", "chroma"] {
            for entry in walkdir::WalkDir::new(self.at(top)) {
                let Ok(entry) = entry else { continue };
                let data = entry.metadata().unwrap();
                let bytes = match data.file_type() {
                    kind if kind.is_file() => without_counters(fs::read(entry.path()).unwrap()),
                    kind if kind.is_symlink() => {
                        fs::read_link(entry.path()).unwrap().into_os_string().into_encoded_bytes()
                    }
                    _ => Vec::new(),
                };
                let mtime = (data.mtime(), data.mtime_nsec());
                let path = entry.path().strip_prefix(self.directory.path()).unwrap().to_path_buf();
                seen.insert(path, Seen { mode: data.mode(), mtime, bytes });
            }
        }
        seen
    }

    /// Changes, adds and removes something everywhere.
    pub(super) fn change(&self) {
        fill(&Connection::open(self.at("db/a.db")).unwrap(), 2000..2600);
        Connection::open(self.at("chroma/chroma.sqlite3"))
            .unwrap()
            .execute_batch("UPDATE t SET x = 'changed' WHERE id % 50 = 0")
            .unwrap();
        fs::write(self.at("registry.json"), b"{\"projects\": [1, 2, 3]}").unwrap();
        let data = fs::File::options().write(true).open(self.at("chroma/segment/data_level0.bin")).unwrap();
        for at in [0_u64, 70_000, 200_000] {
            data.write_all_at(&noise(9, 100), at).unwrap();
        }
        fs::remove_file(self.at("chroma/segment/length.bin")).unwrap();
        fs::create_dir_all(self.at("chroma/new/deep")).unwrap();
        fs::write(self.at("chroma/new/deep/file"), noise(4, 9000)).unwrap();
        fs::remove_dir(self.at("chroma/segment/empty")).unwrap();
        fs::write(self.at("chroma/segment/empty"), b"a file now").unwrap();
        fs::remove_file(self.at("chroma/link")).unwrap();
        symlink("elsewhere", self.at("chroma/link")).unwrap();
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) mode: u32,
    pub(super) mtime: (i64, i64),
    pub(super) bytes: Vec<u8>,
}

#[track_caller]
pub(super) fn assert_same(left: &BTreeMap<PathBuf, Seen>, right: &BTreeMap<PathBuf, Seen>) {
    let names = |picture: &BTreeMap<PathBuf, Seen>| picture.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(left), names(right));
    for (path, seen) in left {
        let other = &right[path];
        assert!(seen.bytes == other.bytes, "bytes of {path:?}");
        assert_eq!((seen.mode, seen.mtime), (other.mode, other.mtime), "{path:?}");
    }
}

pub(super) fn fill(connection: &Connection, ids: std::ops::Range<u32>) {
    connection.execute_batch("BEGIN").unwrap();
    for id in ids {
        let text = blake3::hash(&id.to_le_bytes()).to_hex().repeat(3);
        connection.execute("INSERT INTO t VALUES(?, ?)", (id, text)).unwrap();
    }
    connection.execute_batch("COMMIT").unwrap();
}

pub(super) fn noise(seed: u32, length: usize) -> Vec<u8> {
    let blocks = (0_u32..).flat_map(|n| *blake3::hash(&[seed.to_le_bytes(), n.to_le_bytes()].concat()).as_bytes());
    blocks.take(length).collect()
}

/// Copying a database with SQLite counts as a change of it:
/// <https://www.sqlite.org/fileformat2.html#file_change_counter>.
pub(super) fn without_counters(mut bytes: Vec<u8>) -> Vec<u8> {
    if bytes.starts_with(b"SQLite format 3\0") {
        for counter in [24..28, 40..44, 92..100] {
            bytes[counter].fill(0);
        }
    }
    bytes
}

/// Blocks of 4 KiB in which two files differ.
pub(super) fn differing_blocks(left: &[u8], right: &[u8]) -> u64 {
    let block = |bytes: &[u8], number: usize| bytes.chunks(4096).nth(number).map(<[u8]>::to_vec);
    let count = left.len().max(right.len()).div_ceil(4096);
    (0..count).filter(|number| block(left, *number) != block(right, *number)).count() as u64
}

/// Counts what is reported of each phase against what was announced.
#[derive(Default)]
pub(super) struct Counts(Mutex<Vec<Counted>>);

/// What was reported of one phase.
#[derive(Debug, Clone, Copy)]
pub(super) struct Counted {
    pub(super) phase: Phase,
    pub(super) announced: Option<u64>,
    pub(super) reported: u64,
}

impl Counts {
    pub(super) fn phases(&self) -> Vec<Counted> {
        self.0.lock().clone()
    }
}

impl Progress for Counts {
    fn phase(&self, phase: Phase, total: Option<u64>) {
        self.0.lock().push(Counted { phase, announced: total, reported: 0 });
    }
    fn advance(&self, bytes: u64) {
        self.0.lock().last_mut().unwrap().reported += bytes;
    }
    fn finish(&self) {}
    fn interrupted(&self) -> bool {
        false
    }
}

/// Interrupts at the n-th check of the phase in which targets are written.
pub(super) struct StopsWhileWriting {
    left: AtomicI64,
    writing: std::sync::atomic::AtomicBool,
}

impl StopsWhileWriting {
    pub(super) fn after(checks: i64) -> Self {
        Self { left: AtomicI64::new(checks), writing: false.into() }
    }
}

impl Progress for StopsWhileWriting {
    fn phase(&self, phase: Phase, _total: Option<u64>) {
        match phase {
            Phase::Writing => self.writing.store(true, Ordering::SeqCst),
            // What was written is read again before the databases are made good.
            Phase::Verifying => {}
            _ => self.writing.store(false, Ordering::SeqCst),
        }
    }
    fn advance(&self, _bytes: u64) {}
    fn finish(&self) {}
    fn interrupted(&self) -> bool {
        self.writing.load(Ordering::SeqCst) && self.left.fetch_sub(1, Ordering::SeqCst) <= 0
    }
}
