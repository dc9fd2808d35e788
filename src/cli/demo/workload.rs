//! A made-up service: a database in WAL mode, a registry, and a vector store of the shape that Chroma leaves.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, Transaction, params};
use serde_json::json;

use super::random::Random;
use super::vectors::{self, Segment};
use crate::error::{Error, Result};
use crate::progress::{Phase, Progress};
use crate::save::LiveSources;

const VECTORS: u32 = 20_000;
const MEMORIES: u32 = 4_000;
const DOCUMENT_WORDS: u64 = 150;
const MEMORY_WORDS: u64 = 60;
/// Bytes of a word with its blank, about.
const WORD_BYTES: u64 = 7;
const SEGMENT: &str = "1f6c2a0e-5b7d-4c39-9e41-0d8a7b3c6f52";

/// The made-up service in a directory.
pub(super) struct Workload {
    directory: PathBuf,
    random: Random,
}

impl Workload {
    /// Writes the data of the service.
    pub(super) fn make(directory: &Path, progress: &dyn Progress) -> Result<Self> {
        progress.phase(Phase::Preparing, Some(expected_bytes()));
        let mut workload = Self { directory: directory.to_path_buf(), random: Random::new(1) };
        let sources = workload.sources();
        for parent in [sources.db.parent(), sources.registry.parent(), sources.chroma.as_deref()] {
            let parent = parent.unwrap_or(directory);
            fs::create_dir_all(parent).map_err(Error::io("create the directory", parent))?;
        }
        write_registry(&sources.registry, 12)?;
        workload.segment().make(VECTORS, &mut workload.random, progress)?;
        workload.make_documents(progress)?;
        workload.make_memories(progress)?;
        progress.finish();
        Ok(workload)
    }

    /// Where the sources are.
    pub(super) fn sources(&self) -> LiveSources {
        LiveSources {
            db: self.directory.join("data/db/atocore.db"),
            registry: self.directory.join("config/project-registry.json"),
            chroma: Some(self.chroma()),
        }
    }

    fn chroma(&self) -> PathBuf {
        self.directory.join("data/chroma")
    }

    /// The directories that hold the sources and nothing else.
    pub(super) fn directories(&self) -> [PathBuf; 2] {
        [self.directory.join("data"), self.directory.join("config")]
    }

    fn segment(&self) -> Segment {
        Segment::at(self.chroma().join(SEGMENT))
    }

    fn documents(&self) -> PathBuf {
        self.chroma().join("chroma.sqlite3")
    }

    fn make_documents(&mut self, progress: &dyn Progress) -> Result<()> {
        let schema = "CREATE TABLE max_seq_id(segment_id TEXT PRIMARY KEY, seq_id BLOB NOT NULL);
             CREATE TABLE embeddings(id INTEGER PRIMARY KEY, embedding_id TEXT NOT NULL, document TEXT NOT NULL);
             CREATE UNIQUE INDEX embeddings_id ON embeddings(embedding_id);";
        let path = self.documents();
        let random = &mut self.random;
        in_transaction(&path, schema, |rows| {
            rows.execute("INSERT INTO max_seq_id VALUES (?, ?)", params![SEGMENT, VECTORS])?;
            insert_documents(rows, 0..VECTORS, random, progress)
        })
    }

    fn make_memories(&mut self, progress: &dyn Progress) -> Result<()> {
        let schema = "PRAGMA journal_mode=WAL;
             CREATE TABLE memories(id INTEGER PRIMARY KEY, project TEXT NOT NULL, content TEXT NOT NULL);
             CREATE INDEX memories_project ON memories(project);";
        let random = &mut self.random;
        in_transaction(&self.directory.join("data/db/atocore.db"), schema, |rows| {
            let mut insert = rows.prepare("INSERT INTO memories(project, content) VALUES (?, ?)")?;
            for number in 0..MEMORIES {
                insert.execute(params![format!("p{:02}", number % 12), random.text(MEMORY_WORDS)])?;
                progress.advance(MEMORY_WORDS * WORD_BYTES);
            }
            Ok(())
        })
    }

    /// Changes 1 % of everything, as a day of use does: vectors on a few topics, their texts, rows here and there, a
    /// project.
    pub(super) fn change(&mut self, progress: &dyn Progress) -> Result<()> {
        let added = VECTORS / 100;
        self.segment().append(VECTORS, added, &mut self.random)?;
        let (documents, random) = (self.documents(), &mut self.random);
        in_transaction(&documents, "", |rows| {
            rows.execute("UPDATE max_seq_id SET seq_id = ?", [VECTORS + added])?;
            insert_documents(rows, VECTORS..VECTORS + added, random, progress)
        })?;
        in_transaction(&self.directory.join("data/db/atocore.db"), "", |rows| {
            let mut update = rows.prepare("UPDATE memories SET content = ? WHERE id = ?")?;
            for nth in 0..MEMORIES / 100 {
                let scattered = 1 + nth * 97 % MEMORIES;
                update.execute(params![random.text(MEMORY_WORDS), scattered])?;
            }
            Ok(())
        })?;
        write_registry(&self.sources().registry, 13)
    }

    /// Hurts every source: garbage in both databases and in the vectors, a file lost, a stranger in the tree.
    pub(super) fn damage(&mut self) -> Result<()> {
        let level0 = self.segment().file("data_level0.bin");
        for (path, places) in [(level0, 40_u64), (self.documents(), 10), (self.sources().db, 5)] {
            let file = OpenOptions::new().write(true).open(&path).map_err(Error::io("open", &path))?;
            let length = file.metadata().map_err(Error::io("read", &path))?.len();
            for _ in 0..places {
                let garbage = self.random.next().to_le_bytes();
                let place = self.random.below(length.saturating_sub(8).max(1));
                file.write_all_at(&garbage, place).map_err(Error::io("write", &path))?;
            }
        }
        let lost = self.segment().file("length.bin");
        fs::remove_file(&lost).map_err(Error::io("remove", &lost))?;
        let stranger = self.chroma().join("left-over.tmp");
        fs::write(&stranger, "a stranger").map_err(Error::io("write", &stranger))?;
        let registry = self.sources().registry;
        fs::write(&registry, "{ \"projects\": [").map_err(Error::io("write", &registry))
    }
}

fn expected_bytes() -> u64 {
    vectors::segment_bytes(VECTORS)
        + u64::from(VECTORS) * DOCUMENT_WORDS * WORD_BYTES
        + u64::from(MEMORIES) * MEMORY_WORDS * WORD_BYTES
}

fn in_transaction(
    path: &Path,
    schema: &str,
    work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<()>,
) -> Result<()> {
    let attempt = || {
        let mut connection = Connection::open(path)?;
        connection.pragma_update(None, "synchronous", "OFF")?;
        connection.execute_batch(schema)?;
        let transaction = connection.transaction()?;
        work(&transaction)?;
        transaction.commit()
    };
    attempt().map_err(Error::sqlite("write", path))
}

fn insert_documents(
    rows: &Transaction<'_>,
    numbers: std::ops::Range<u32>,
    random: &mut Random,
    progress: &dyn Progress,
) -> rusqlite::Result<()> {
    let mut insert = rows.prepare("INSERT INTO embeddings VALUES (?, ?, ?)")?;
    for number in numbers {
        insert.execute(params![number, format!("doc-{number:08}"), random.text(DOCUMENT_WORDS)])?;
        progress.advance(DOCUMENT_WORDS * WORD_BYTES);
    }
    Ok(())
}

fn write_registry(path: &Path, projects: u32) -> Result<()> {
    let entry = |number: u32| json!({ "id": format!("p{number:02}"), "aliases": [], "ingest_roots": ["vault"] });
    let registry = json!({ "projects": (0..projects).map(entry).collect::<Vec<_>>() });
    fs::write(path, format!("{registry:#}\n")).map_err(Error::io("write", path))
}
