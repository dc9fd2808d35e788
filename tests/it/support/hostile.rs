//! Repositories that somebody made to do harm: tables, lists, packs and manifests that no writer of this format makes,
//! with right checksums, and every command run over them in bounded memory and time.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use vecsnap::format::content::{Content, Root};
use vecsnap::format::envelope::{self, Kind};
use vecsnap::format::limits::MANIFEST_BYTES;
use vecsnap::format::manifest::{Consistency, Manifest, SnapshotKind, SourceKind, SourceRecord, SourceState, Verdict};
use vecsnap::format::table::{Capture, Entry, EntryKind, FileEntry, SourceStats, Stat, Time};
use vecsnap::id::BlobId;

use super::command::binary;
use super::handmade::{HandmadeRepository, Item, Source, metadata};
use super::{TreeState, noise};

pub const STAMP: &str = "20260406T180000Z";
/// No command may take longer over a repository of a few kilobytes.
const PATIENCE: Duration = Duration::from_secs(90);
/// Address space of a command, in KiB: far above what it needs, far below what a bomb holds.
const ADDRESS_SPACE: u64 = 3 << 20;

/// What may come into being outside.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum ThroughLinks {
    Nothing,
    /// New names, in a directory that a link of the repository leads to; what was there stays as it is.
    NewNames,
}

/// A hostile repository, live files that it must not get at but through a restore, and a place beside them.
pub struct Hostile {
    directory: tempfile::TempDir,
    pub repository: HandmadeRepository,
}

impl Hostile {
    pub fn new() -> Self {
        let directory = tempfile::TempDir::with_prefix("vecsnap-it-hostile-").unwrap();
        let path = directory.path();
        for (file, bytes) in
            [("outside/precious", "precious"), ("data/db/atocore.db", ""), ("config/registry.json", "{}")]
        {
            fs::create_dir_all(path.join(file).parent().unwrap()).unwrap();
            fs::write(path.join(file), bytes).unwrap();
        }
        fs::create_dir_all(path.join("data/chroma")).unwrap();
        fs::create_dir_all(path.join("scratch")).unwrap();
        fs::write(path.join("data/chroma/here before"), "here before").unwrap();
        let repository = HandmadeRepository::new(path.join("made"));
        Self { directory, repository }
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    pub fn root(&self) -> PathBuf {
        self.repository.root()
    }

    /// Commits a snapshot with a sound database and a tree with this table.
    pub fn snapshot(&mut self, table: &[u8]) {
        let chroma = self.record("chroma", SourceKind::Tree, table);
        self.snapshot_of(vec![chroma], |_| {});
    }

    /// A source with this table.
    pub fn record(&mut self, name: &str, kind: SourceKind, table: &[u8]) -> SourceRecord {
        let table = self.repository.content(table, |_| false);
        SourceRecord {
            name: name.into(),
            kind,
            state: SourceState::Captured,
            path: b"/srv/service".to_vec(),
            table,
            files: 1,
            bytes: 1,
            started: Time { seconds: 0, nanoseconds: 0 },
            verdict: Verdict::Unchecked,
            consistency: Consistency::Unproven,
            writer_blocked_microseconds: 0,
        }
    }

    /// Commits a snapshot with these sources beside a sound database (unless there is one), and other bytes in its
    /// manifest.
    pub fn snapshot_of(&mut self, records: Vec<SourceRecord>, change: impl FnOnce(&mut Vec<u8>)) {
        let mut manifest: Manifest = self.repository.manifest(STAMP, SnapshotKind::Ordinary);
        if records.iter().all(|record| record.name != "db") {
            let items = vec![("atocore.db", 0o600, Item::captured(Vec::new(), Capture::SqliteImage))];
            let db = Source::captured("db", SourceKind::Sqlite, items);
            manifest.sources.push(self.repository.source(&db, &mut String::new()));
        }
        manifest.sources.extend(records);
        let description = metadata(&manifest, STAMP, &[]);
        let sealed = manifest.encode().unwrap();
        let mut payload = envelope::open(Kind::Manifest, &sealed, MANIFEST_BYTES).unwrap();
        change(&mut payload);
        self.repository.commit(STAMP, &description, &envelope::seal(Kind::Manifest, &payload, Some(3)));
    }

    /// Runs every command over the repository and holds that each ends by itself, soon, in bounded memory, with an exit
    /// code of `codes` and no panic, and that nothing beside its targets was touched.
    #[track_caller]
    pub fn survives(&self, what: &str, codes: &[i32]) {
        self.survives_with(what, codes, ThroughLinks::Nothing);
    }

    /// The same, where a directory of the repository may be a link that its owner made.
    #[track_caller]
    pub fn survives_with(&self, what: &str, codes: &[i32], through_links: ThroughLinks) {
        let picture = || TreeState::of(&self.path().join("outside")).without_directory_times();
        let outside = picture();
        let place = |name: &str| self.path().join(name).display().to_string();
        let (to, also_to, scratch) = (place("to"), place("also-to"), place("scratch"));
        let confirmed = "--confirm-service-stopped";
        let calls: [&[&str]; 16] = [
            &["list"],
            &["show", STAMP],
            &["status"],
            &["stats"],
            &["validate", STAMP, "--quick"],
            &["validate", STAMP],
            &["validate", "--all"],
            &["drill", STAMP, "--scratch", &scratch],
            &["restore", STAMP, "--to", &to],
            &["restore", STAMP, "--to", &also_to, "--accept-invalid"],
            &["restore", STAMP, "--dry-run"],
            &["restore", STAMP, confirmed],
            &["restore", STAMP, confirmed, "--accept-invalid"],
            &["cleanup", "--confirm"],
            &["repair", "--confirm"],
            &["create", "--chroma"],
        ];
        for call in calls {
            let began = Instant::now();
            let mut shell = Command::new("timeout");
            shell.arg(PATIENCE.as_secs().to_string()).args(["sh", "-c", "ulimit -v $LIMIT; exec \"$@\"", "sh"]);
            shell.arg(binary()).arg("--json").args(call).env("LIMIT", ADDRESS_SPACE.to_string());
            shell.env("ATOCORE_BACKUP_DIR", self.root()).env("ATOCORE_DATA_DIR", self.path().join("data"));
            shell.env("ATOCORE_PROJECT_REGISTRY_PATH", self.path().join("config/registry.json"));
            shell.env("RUST_BACKTRACE", "0").env("TMPDIR", self.path().join("scratch"));
            let output = shell.output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            let told = format!("{what}: {call:?} after {:?}: {:?}\n{said}", began.elapsed(), output.status);
            assert!(output.status.code().is_some_and(|code| codes.contains(&code)), "{told}");
            assert!(!said.contains("panicked"), "{told}");
            let mut now = picture();
            if through_links == ThroughLinks::NewNames {
                now.0.retain(|name, _| outside.0.contains_key(name));
            }
            now.assert_same(&outside, &told);
            let beside: Vec<String> = fs::read_dir(self.path())
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .filter(|name| {
                    !["outside", "data", "config", "scratch", "made", "to", "also-to"].contains(&name.as_str())
                })
                .collect();
            assert_eq!(beside, Vec::<String>::new(), "{told}");
        }
    }
}

/// An entry of a table; paths and targets are put in afterwards by [`bytes_of`], so that they may be anything.
pub fn entry(path: &[u8], kind: EntryKind, mode: u32) -> Entry {
    let modified = Time { seconds: 1_775_498_400, nanoseconds: 0 };
    Entry { path: path.to_vec(), kind, mode, uid: 0, gid: 0, modified, extensions: Vec::new() }
}

/// The kind of a file with this content.
pub fn file(content: Content) -> EntryKind {
    let moment = Time { seconds: 1_775_498_400, nanoseconds: 0 };
    let stat = Stat { inode: 1, size: content.length, modified: moment, changed: moment };
    let stats = SourceStats { file: stat, wal: None, journal: None };
    EntryKind::File(FileEntry { content, capture: Capture::Plain, sparse: false, stats })
}

/// A small file with bytes of its own.
pub fn small(repository: &mut HandmadeRepository, name: &str) -> EntryKind {
    file(repository.content(&noise::bytes(name, 100), |_| false))
}

/// The content of a file of one chunk, whatever that is.
pub fn one_chunk(length: u64, id: BlobId) -> Content {
    Content { length, root: Root::Chunk(id) }
}

/// Entries as they stand in a table, without any check: a path that the encoder would refuse is written over a harmless
/// one of the same length.
pub fn bytes_of(entries: &[Entry]) -> Vec<u8> {
    let mut table = Vec::new();
    for entry in entries {
        table.extend(entry.encode().unwrap_or_else(|_| {
            let harmless = Entry { path: vec![b'h'; entry.path.len().max(1)], ..entry.clone() };
            let mut bytes = harmless.encode().unwrap();
            bytes.splice(12..12 + harmless.path.len(), entry.path.iter().copied());
            bytes[4..12].copy_from_slice(&(entry.path.len() as u64).to_le_bytes());
            let length = bytes.len() as u32 - 4;
            bytes[..4].copy_from_slice(&length.to_le_bytes());
            bytes
        }));
    }
    table
}
