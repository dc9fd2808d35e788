//! A directory of the shape that Chroma 1.5 leaves: its database and one directory of files per persisted segment.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, params};

use super::noise;

/// A level-0 record as hnswlib writes it: the count of links, 32 links, a vector, a label.
const RECORD: usize = 4 + 32 * 4 + DIMENSIONS * 4 + 8;
const DIMENSIONS: usize = 48;
const SEGMENT: &str = "7c0f4a52-93d1-4b0e-8a63-5d1f2ab7c9e0";

/// A vector store at a path.
pub struct VectorStore {
    directory: PathBuf,
}

impl VectorStore {
    /// Makes a store of so many vectors.
    pub fn make(directory: &Path, vectors: u32) -> Self {
        let store = Self::at(directory);
        fs::create_dir_all(store.segment()).unwrap();
        let connection = store.connect();
        connection
            .execute_batch(
                "CREATE TABLE segments(id TEXT PRIMARY KEY, type TEXT NOT NULL, scope TEXT NOT NULL, collection TEXT);
                 CREATE TABLE max_seq_id(segment_id TEXT PRIMARY KEY, seq_id BLOB NOT NULL);
                 CREATE TABLE embeddings(id INTEGER PRIMARY KEY, segment_id TEXT NOT NULL, embedding_id TEXT NOT NULL,
                                         seq_id BLOB NOT NULL, document TEXT);",
            )
            .unwrap();
        connection
            .execute(
                "INSERT INTO segments VALUES (?, 'urn:chroma:segment/vector/hnsw-local-persisted', 'VECTOR', 'documents')",
                [SEGMENT],
            )
            .unwrap();
        connection.execute("INSERT INTO max_seq_id VALUES (?, 0)", [SEGMENT]).unwrap();
        drop(connection);
        fs::write(store.file("link_lists.bin"), noise::bytes("links", 700)).unwrap();
        for name in ["header.bin", "data_level0.bin", "length.bin", "index_metadata.pickle"] {
            fs::write(store.file(name), b"").unwrap();
        }
        store.append(vectors);
        store
    }

    /// A store that is there already.
    pub fn at(directory: &Path) -> Self {
        Self { directory: directory.to_path_buf() }
    }

    pub fn database(&self) -> PathBuf {
        self.directory.join("chroma.sqlite3")
    }

    /// The directory of the only segment.
    pub fn segment(&self) -> PathBuf {
        self.directory.join(SEGMENT)
    }

    /// A file of the segment.
    pub fn file(&self, name: &str) -> PathBuf {
        self.segment().join(name)
    }

    fn connect(&self) -> Connection {
        Connection::open(self.database()).unwrap()
    }

    /// How many vectors the database knows.
    pub fn count(&self) -> u32 {
        self.connect().query_row("SELECT count(*) FROM embeddings", [], |row| row.get(0)).unwrap()
    }

    /// Adds vectors: records at the end, links of neighbours in the middle, rows, and a pickle that grows.
    pub fn append(&self, vectors: u32) {
        let before = self.count();
        let data = OpenOptions::new().write(true).open(self.file("data_level0.bin")).unwrap();
        let lengths = OpenOptions::new().write(true).open(self.file("length.bin")).unwrap();
        let mut connection = self.connect();
        let rows = connection.transaction().unwrap();
        for number in before..before + vectors {
            let place = u64::from(number) * RECORD as u64;
            data.write_all_at(&noise::bytes(&format!("vector {number}"), RECORD), place).unwrap();
            lengths.write_all_at(&1_f32.to_le_bytes(), u64::from(number) * 4).unwrap();
            if number > 0 {
                let neighbour = u64::from(number * 7 % number) * RECORD as u64;
                data.write_all_at(&number.to_le_bytes(), neighbour + 4).unwrap();
            }
            let text = hex::encode(noise::bytes(&format!("text {number}"), 40 + number as usize % 60));
            let values = params![number, SEGMENT, format!("doc-{number:08}"), number, text];
            rows.execute("INSERT INTO embeddings VALUES (?, ?, ?, ?, ?)", values).unwrap();
        }
        let last = before + vectors;
        rows.execute("UPDATE max_seq_id SET seq_id = ?", [last]).unwrap();
        rows.commit().unwrap();
        self.write_header(last);
        let ids = noise::bytes(&format!("pickle {last}"), 20 * last as usize);
        let start = b"\x80\x03}(X\x14\x00\x00\x00total_elements_addedJ";
        fs::write(self.file("index_metadata.pickle"), [start, last.to_le_bytes().as_slice(), &ids].concat()).unwrap();
    }

    /// Writes the header: layout, offset, capacity, elements, bytes of an element, and what goes with them.
    pub fn write_header(&self, elements: u32) {
        let fields = [0, 65_536, elements.into(), RECORD as u64].map(u64::to_le_bytes).concat();
        fs::write(self.file("header.bin"), [&1_u32.to_le_bytes(), fields.as_slice(), &[7; 64]].concat()).unwrap();
    }

    /// Changes the text of one row and a few bytes of one vector.
    pub fn update(&self, number: u32) {
        let data = OpenOptions::new().write(true).open(self.file("data_level0.bin")).unwrap();
        let place = u64::from(number) * RECORD as u64 + 140;
        data.write_all_at(&noise::bytes(&format!("updated {number}"), 16), place).unwrap();
        self.connect().execute("UPDATE embeddings SET document = 'updated' WHERE id = ?", [number]).unwrap();
    }
}
