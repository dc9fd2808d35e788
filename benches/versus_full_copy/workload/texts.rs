//! The databases: Chroma's, with texts, metadata, a trigram index and a queue; and the service's own.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, Transaction, params};

use super::random::Random;

const CHROMA: &str = "
    CREATE TABLE max_seq_id(segment_id TEXT PRIMARY KEY, seq_id INTEGER);
    CREATE TABLE embeddings(id INTEGER PRIMARY KEY, segment_id TEXT NOT NULL, embedding_id TEXT NOT NULL,
        seq_id INTEGER NOT NULL, UNIQUE (segment_id, embedding_id));
    CREATE TABLE embedding_metadata(id INTEGER REFERENCES embeddings(id), key TEXT NOT NULL, string_value TEXT,
        int_value INTEGER, PRIMARY KEY (id, key));
    CREATE INDEX embedding_metadata_int_value ON embedding_metadata(key, int_value) WHERE int_value IS NOT NULL;
    CREATE INDEX embedding_metadata_string_value ON embedding_metadata(key, string_value)
        WHERE string_value IS NOT NULL;
    CREATE VIRTUAL TABLE embedding_fulltext_search USING fts5(string_value, tokenize='trigram');
    CREATE TABLE embeddings_queue(seq_id INTEGER PRIMARY KEY, id TEXT NOT NULL, vector BLOB, metadata TEXT);";
const SERVICE: &str = "
    PRAGMA journal_mode=WAL;
    CREATE TABLE memories(id TEXT PRIMARY KEY, project TEXT, content TEXT, confidence REAL);
    CREATE INDEX memories_project ON memories(project);";
/// One document in so many is in the service's own database too.
const REMEMBERED: u32 = 10;
const SEGMENT: &str = "1777c032-7852-471f-8f3d-8d8e74fd6d20";

/// Both databases. They are closed between changes, so that no sidecar is left.
#[derive(Debug)]
pub(super) struct Texts {
    chroma: PathBuf,
    service: PathBuf,
    /// Number of the last change in the queue.
    sequence: i64,
}

impl Texts {
    pub(super) fn make(data: &Path) -> Self {
        let texts =
            Self { chroma: data.join("chroma/chroma.sqlite3"), service: data.join("db/atocore.db"), sequence: 0 };
        Connection::open(&texts.chroma).unwrap().execute_batch(CHROMA).unwrap();
        Connection::open(&texts.service).unwrap().execute_batch(SERVICE).unwrap();
        texts
    }

    /// Gives documents new texts and vectors; new ones are added.
    pub(super) fn put(&mut self, documents: impl Iterator<Item = (u32, Vec<f32>)>, random: &mut Random) {
        let mut remembered = Vec::new();
        let first = self.sequence + 1;
        let mut sequence = self.sequence;
        in_transaction(&self.chroma, |rows| {
            for (label, vector) in documents {
                sequence += 1;
                let document = Document { label, project: random.below(12), text: random.text() };
                put_in_queue(rows, sequence, &document, &vector)?;
                forget(rows, label)?;
                put_document(rows, sequence, &document)?;
                if label % REMEMBERED == 0 {
                    remembered.push(document);
                }
            }
            // Chroma empties its queue up to the last change once the index has it.
            rows.execute(
                "DELETE FROM embeddings_queue WHERE seq_id >= ? AND seq_id < ?",
                params![first - 1, sequence],
            )?;
            rows.execute("INSERT OR REPLACE INTO max_seq_id VALUES (?, ?)", params![SEGMENT, sequence])
        });
        self.sequence = sequence;
        in_transaction(&self.service, |rows| {
            let mut insert = rows.prepare("INSERT OR REPLACE INTO memories VALUES (?, ?, ?, ?)")?;
            for document in &remembered {
                let confidence = f64::from(random.below(1000)) / 1000.0;
                insert.execute(params![document.id(), document.project(), document.text, confidence])?;
            }
            Ok(0)
        });
    }

    pub(super) fn delete(&mut self, labels: &[u32]) {
        in_transaction(&self.chroma, |rows| labels.iter().map(|label| forget(rows, *label)).sum());
        in_transaction(&self.service, |rows| {
            let mut delete = rows.prepare("DELETE FROM memories WHERE id = ?")?;
            labels.iter().map(|label| delete.execute([format!("doc-{label:08}")])).sum()
        });
    }
}

struct Document {
    label: u32,
    project: u32,
    text: String,
}

impl Document {
    fn id(&self) -> String {
        format!("doc-{:08}", self.label)
    }

    fn project(&self) -> String {
        format!("p{:02}", self.project)
    }
}

fn put_in_queue(rows: &Transaction<'_>, at: i64, document: &Document, vector: &[f32]) -> rusqlite::Result<usize> {
    let vector: Vec<u8> = vector.iter().flat_map(|coordinate| coordinate.to_le_bytes()).collect();
    let mut insert = rows.prepare_cached("INSERT INTO embeddings_queue VALUES (?, ?, ?, ?)")?;
    insert.execute(params![at, document.id(), vector, document.text])
}

fn put_document(rows: &Transaction<'_>, at: i64, document: &Document) -> rusqlite::Result<()> {
    let id = document.label + 1;
    rows.prepare_cached("INSERT INTO embeddings VALUES (?, ?, ?, ?)")?.execute(params![
        id,
        SEGMENT,
        document.id(),
        at
    ])?;
    let mut insert = rows.prepare_cached("INSERT INTO embedding_metadata VALUES (?, ?, ?, ?)")?;
    insert.execute(params![id, "at", None::<String>, document.label % 5_000])?;
    insert.execute(params![id, "chroma:document", document.text, None::<u32>])?;
    insert.execute(params![id, "project", document.project(), None::<u32>])?;
    let mut index = rows.prepare_cached("INSERT INTO embedding_fulltext_search(rowid, string_value) VALUES (?, ?)")?;
    index.execute(params![id, document.text])?;
    Ok(())
}

/// Removes a document, if it is there.
fn forget(rows: &Transaction<'_>, label: u32) -> rusqlite::Result<usize> {
    let id = label + 1;
    let known = rows.prepare_cached("DELETE FROM embedding_metadata WHERE id = ?")?.execute([id])?;
    if known > 0 {
        rows.prepare_cached("DELETE FROM embeddings WHERE id = ?")?.execute([id])?;
        rows.prepare_cached("DELETE FROM embedding_fulltext_search WHERE rowid = ?")?.execute([id])?;
    }
    Ok(known)
}

fn in_transaction(path: &Path, work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<usize>) {
    let mut connection = Connection::open(path).unwrap();
    connection.pragma_update(None, "synchronous", "OFF").unwrap();
    let transaction = connection.transaction().unwrap();
    work(&transaction).unwrap();
    transaction.commit().unwrap();
}
