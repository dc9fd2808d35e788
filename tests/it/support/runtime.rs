//! A made-up runtime of the service in a directory for temporary files, gone with its value.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

use rusqlite::Connection;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::mount::Mounts;
use super::{TreeState, Vecsnap, VectorStore, noise, tree_state};

/// How the database of the runtime is journalled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Journal {
    Rollback,
    Wal,
}

/// Database, registry, vector store and (once there is a snapshot) repository.
pub struct Runtime {
    directory: TempDir,
    /// Where commands run, if not where the tests do.
    mounts: Option<Mounts>,
}

impl Runtime {
    /// With a database in rollback mode that holds the memory `first`, a registry, and 300 vectors.
    pub fn new() -> Self {
        Self::with_journal(Journal::Rollback)
    }

    /// The same, with the database in this mode.
    pub fn with_journal(journal: Journal) -> Self {
        let runtime = Self::bare();
        runtime.make_database(journal);
        runtime.write_registry("p01");
        VectorStore::make(&runtime.chroma(), 300);
        runtime
    }

    /// Only the directory.
    pub fn bare() -> Self {
        Self { directory: TempDir::with_prefix("vecsnap-it-").unwrap(), mounts: None }
    }

    /// Only the directory, in memory where there is such a place: for thousands of runs that need no medium.
    pub fn bare_in_memory() -> Self {
        let memory = Path::new("/dev/shm");
        let place = if memory.is_dir() { memory.to_path_buf() } else { std::env::temp_dir() };
        Self { directory: TempDir::with_prefix_in("vecsnap-it-", place).unwrap(), mounts: None }
    }

    /// Copies everything that there is, to come back to it.
    pub fn save(&self) -> Saved {
        let saved = Saved(Self::bare_in_memory());
        copy_all(&self.seen(self.path()), saved.0.path());
        saved
    }

    /// Brings everything back to how it was.
    pub fn go_back(&self, saved: &Saved) {
        for entry in fs::read_dir(self.seen(self.path())).unwrap() {
            let path = entry.unwrap().path();
            match if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) } {
                // Something is mounted there, here or where commands run; that is empty now.
                Err(error) if [ErrorKind::ResourceBusy, ErrorKind::DirectoryNotEmpty].contains(&error.kind()) => {}
                removed => removed.unwrap(),
            }
        }
        copy_all(saved.0.path(), &self.seen(self.path()));
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// From now on commands run in this namespace, and [`Runtime::seen`] looks into it.
    pub fn enter(&mut self, mounts: Mounts) {
        self.mounts = Some(mounts);
    }

    /// The namespace, which must have been entered.
    pub fn mounts(&self) -> &Mounts {
        self.mounts.as_ref().unwrap()
    }

    /// Goes back to where the tests run.
    pub fn leave(&mut self) {
        self.mounts = None;
    }

    /// A path of the runtime, as it looks where commands run.
    pub fn seen(&self, path: &Path) -> PathBuf {
        self.mounts.as_ref().map_or_else(|| path.to_path_buf(), |mounts| mounts.seen(path))
    }

    pub fn data(&self) -> PathBuf {
        self.path().join("data")
    }

    pub fn db(&self) -> PathBuf {
        self.data().join("db/atocore.db")
    }

    pub fn registry(&self) -> PathBuf {
        self.path().join("config/project-registry.json")
    }

    pub fn chroma(&self) -> PathBuf {
        self.data().join("chroma")
    }

    pub fn repo(&self) -> PathBuf {
        self.path().join("backup")
    }

    /// The directory of a snapshot.
    pub fn snapshot(&self, stamp: &str) -> PathBuf {
        self.repo().join("snapshots").join(stamp)
    }

    /// The names under `snapshots/`, ascending.
    pub fn snapshots(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.seen(&self.repo().join("snapshots"))) else { return Vec::new() };
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// A vector store as it is.
    pub fn store(&self) -> VectorStore {
        VectorStore::at(&self.chroma())
    }

    pub fn make_database(&self, journal: Journal) {
        fs::create_dir_all(self.db().parent().unwrap()).unwrap();
        let connection = self.connect();
        let mode = match journal {
            Journal::Rollback => "delete",
            Journal::Wal => "wal",
        };
        connection.pragma_update(None, "journal_mode", mode).unwrap();
        connection
            .execute_batch(
                "CREATE TABLE memories(id INTEGER PRIMARY KEY, project TEXT NOT NULL, content TEXT NOT NULL);
                 CREATE INDEX memories_project ON memories(project);",
            )
            .unwrap();
        drop(connection);
        self.remember("first");
    }

    /// An open connection to the database; while it lives in WAL mode, so does the log.
    pub fn connect(&self) -> Connection {
        let connection = Connection::open(self.db()).unwrap();
        connection.busy_timeout(std::time::Duration::from_secs(20)).unwrap();
        connection
    }

    /// Adds a row.
    pub fn remember(&self, content: &str) {
        self.connect().execute("INSERT INTO memories(project, content) VALUES ('p01', ?)", [content]).unwrap();
    }

    /// The contents of all rows, in the order of their ids.
    pub fn memories(&self) -> Vec<String> {
        memories_of(&self.db())
    }

    /// Writes a registry that holds one project.
    pub fn write_registry(&self, project: &str) {
        fs::create_dir_all(self.registry().parent().unwrap()).unwrap();
        let registry = json!({ "projects": [{ "id": project, "aliases": [], "ingest_roots": ["vault"] }] });
        fs::write(self.registry(), serde_json::to_vec_pretty(&registry).unwrap()).unwrap();
    }

    /// The id of the registry's only project.
    pub fn registered(&self) -> String {
        let registry: Value = serde_json::from_slice(&fs::read(self.registry()).unwrap()).unwrap();
        registry["projects"][0]["id"].as_str().unwrap().to_owned()
    }

    /// Everything that a restore brings back, SQLite files told by their rows.
    pub fn live_state(&self) -> TreeState {
        let mut state = TreeState::logical(&self.seen(&self.data()));
        state.0.extend(TreeState::logical(&self.seen(&self.path().join("config"))).0.into_iter().map(
            |(name, item)| {
                let name = Path::new("../config").join(name);
                (name, item)
            },
        ));
        // Not part of any source.
        for outside in ["", "db", "../config/"] {
            state.0.remove(Path::new(outside));
        }
        state
    }

    /// A call of the binary with all places given.
    pub fn vecsnap(&self, arguments: &[&str]) -> Vecsnap {
        let call = Vecsnap::new()
            .env("ATOCORE_BACKUP_DIR", self.repo())
            .env("ATOCORE_DATA_DIR", self.data())
            .env("ATOCORE_PROJECT_REGISTRY_PATH", self.registry())
            .args(arguments);
        match &self.mounts {
            Some(mounts) => call.within(mounts),
            None => call,
        }
    }

    /// Takes a snapshot that must succeed, and returns its stamp.
    #[track_caller]
    pub fn create(&self, arguments: &[&str]) -> String {
        let document = self.vecsnap(&["create", "--json"]).args(arguments).run().exits(0).json();
        document["stamp"].as_str().expect("create names its stamp").to_owned()
    }

    /// Restores a snapshot, which must succeed, and returns the document.
    #[track_caller]
    pub fn restore(&self, stamp: &str, arguments: &[&str]) -> Value {
        let call = self.vecsnap(&["restore", stamp, "--confirm-service-stopped", "--json"]);
        call.args(arguments).run().exits(0).json()
    }
}

/// How many small packs are merged into one (docs/decisions.md), and a few more.
const SCATTERED: u32 = 68;

/// Adds small files to a directory of the service, each of which gets into a pack of its own: `create` takes a snapshot
/// and returns its directory, which then goes.
pub fn scatter(directory: &Path, mut create: impl FnMut() -> PathBuf) {
    for number in 0..SCATTERED {
        let name = format!("small-{number:02}");
        fs::write(directory.join(&name), noise::bytes(&name, 20_000)).unwrap();
        fs::remove_dir_all(create()).unwrap();
    }
}

/// A copy of a runtime with its repository.
pub struct Saved(Runtime);

fn copy_all(from: &Path, to: &Path) {
    let copied = Command::new("cp").args(["-a", "--sparse=auto"]).arg(from.join(".")).arg(to).status().unwrap();
    assert!(copied.success(), "cp -a {}", from.display());
}

/// The contents of all memories of a database, in the order of their ids.
pub fn memories_of(database: &Path) -> Vec<String> {
    let dump = tree_state::dump(database);
    let rows = dump.lines().filter_map(|line| line.strip_prefix("memories: "));
    rows.map(|row| row.rsplit(" | ").next().unwrap().trim_matches('"').to_owned()).collect()
}

/// A snapshot as plain files in the old layout, gone with its value.
pub struct Exported {
    directory: TempDir,
}

impl Exported {
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    pub fn db(&self) -> PathBuf {
        self.path().join("db/atocore.db")
    }

    pub fn registry(&self) -> PathBuf {
        self.path().join("config/project-registry.json")
    }

    pub fn chroma(&self) -> PathBuf {
        self.path().join("chroma")
    }
}

impl Runtime {
    /// Writes a snapshot elsewhere as plain files, which must succeed.
    #[track_caller]
    pub fn export(&self, stamp: &str) -> Exported {
        let directory = TempDir::with_prefix("vecsnap-it-export-").unwrap();
        self.vecsnap(&["restore", stamp, "--to"]).arg(directory.path()).run().exits(0);
        Exported { directory }
    }
}
