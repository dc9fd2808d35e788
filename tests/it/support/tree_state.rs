//! Pictures of whole directories, to be held against each other.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags};
use walkdir::WalkDir;

/// What one name leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Thing {
    /// Equal content, wherever the holes are.
    File {
        length: u64,
        hash: String,
    },
    /// Equal tables and rows, whatever the bytes.
    Database {
        dump_hash: String,
    },
    Directory,
    Link {
        target: PathBuf,
    },
    Special,
}

/// A name with its attributes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    pub thing: Thing,
    pub mode: u32,
    /// Seconds and nanoseconds; a link's is not compared, nor that of the picture's root.
    pub modified: (i64, i64),
    pub owner: (u32, u32),
}

/// A picture of a directory (or of one file): every name below it, relative.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreeState(pub BTreeMap<PathBuf, Item>);

impl TreeState {
    /// Byte for byte.
    pub fn of(path: &Path) -> Self {
        Self::taken(path, |_| false)
    }

    /// With SQLite files told by their tables and rows, and without their sidecars.
    pub fn logical(path: &Path) -> Self {
        let mut state = Self::taken(path, is_database);
        let is_sidecar = |name: &Path| {
            let name = name.to_string_lossy();
            ["-wal", "-shm", "-journal"].iter().any(|suffix| name.ends_with(suffix))
        };
        state.0.retain(|name, _| !is_sidecar(name));
        state
    }

    fn taken(root: &Path, as_database: impl Fn(&Path) -> bool) -> Self {
        let mut items = BTreeMap::new();
        for entry in WalkDir::new(root).sort_by_file_name() {
            let entry = entry.unwrap();
            let metadata = fs::symlink_metadata(entry.path()).unwrap();
            let kind = metadata.file_type();
            let thing = if kind.is_symlink() {
                Thing::Link { target: fs::read_link(entry.path()).unwrap() }
            } else if kind.is_dir() {
                Thing::Directory
            } else if !kind.is_file() {
                Thing::Special
            } else if as_database(entry.path()) {
                Thing::Database { dump_hash: hash(dump(entry.path()).as_bytes()) }
            } else {
                Thing::File { length: metadata.len(), hash: hash(&fs::read(entry.path()).unwrap()) }
            };
            let modified = match thing {
                Thing::Link { .. } => (0, 0),
                _ if entry.depth() == 0 => (0, 0),
                _ => (metadata.mtime(), metadata.mtime_nsec()),
            };
            let owner = (metadata.uid(), metadata.gid());
            let name = entry.path().strip_prefix(root).unwrap().to_path_buf();
            items.insert(name, Item { thing, mode: metadata.mode() & 0o7777, modified, owner });
        }
        Self(items)
    }

    /// Without times of change.
    pub fn without_times(mut self) -> Self {
        self.0.values_mut().for_each(|item| item.modified = (0, 0));
        self
    }

    /// Without modes, times and owners.
    pub fn without_attributes(mut self) -> Self {
        self.0.values_mut().for_each(|item| (item.mode, item.modified, item.owner) = (0, (0, 0), (0, 0)));
        self
    }

    /// Without the times of directories, which change whenever somebody lists a file in them.
    pub fn without_directory_times(mut self) -> Self {
        let directories = self.0.values_mut().filter(|item| item.thing == Thing::Directory);
        directories.for_each(|item| item.modified = (0, 0));
        self
    }

    /// What differs, name by name; empty if nothing does.
    pub fn differences(&self, expected: &Self) -> String {
        let mut differences = String::new();
        for name in self.0.keys().chain(expected.0.keys().filter(|name| !self.0.contains_key(*name))) {
            let (is, should) = (self.0.get(name), expected.0.get(name));
            if is != should {
                writeln!(differences, "{name:?}\n  is        {is:?}\n  should be {should:?}").unwrap();
            }
        }
        differences
    }

    /// Fails with the names that differ.
    #[track_caller]
    pub fn assert_same(&self, expected: &Self, what: &str) {
        let differences = self.differences(expected);
        assert!(differences.is_empty(), "{what}:\n{differences}");
    }
}

/// The BLAKE3 of some bytes, in hexadecimal.
pub fn hash(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

/// Whether a file begins as a SQLite database does.
pub fn is_database(path: &Path) -> bool {
    fs::read(path).is_ok_and(|bytes| bytes.starts_with(b"SQLite format 3\0"))
}

/// All tables and rows of a database as text; works on a copy, so that the files stay as they are.
pub fn dump(path: &Path) -> String {
    let copy = tempfile::tempdir().unwrap();
    let main = copy.path().join("copy.db");
    fs::copy(path, &main).unwrap();
    for suffix in ["-wal", "-journal"] {
        let sidecar = PathBuf::from(format!("{}{suffix}", path.display()));
        if sidecar.exists() {
            fs::copy(sidecar, copy.path().join(format!("copy.db{suffix}"))).unwrap();
        }
    }
    let connection = Connection::open_with_flags(&main, OpenFlags::SQLITE_OPEN_READ_WRITE).unwrap();
    let mut text = String::new();
    let mut tables = Vec::new();
    let mut schema = connection.prepare("SELECT type, name, sql FROM sqlite_schema ORDER BY name").unwrap();
    let mut rows = schema.query([]).unwrap();
    while let Some(row) = rows.next().unwrap() {
        let (kind, name, sql): (String, String, Option<String>) =
            (row.get(0).unwrap(), row.get(1).unwrap(), row.get(2).unwrap());
        writeln!(text, "{kind} {name}: {sql:?}").unwrap();
        if kind == "table" {
            tables.push(name);
        }
    }
    for table in tables {
        let mut statement = connection.prepare(&format!("SELECT * FROM \"{table}\" ORDER BY 1")).unwrap();
        let columns = statement.column_count();
        let mut rows = statement.query([]).unwrap();
        while let Some(row) = rows.next().unwrap() {
            let values: Vec<String> = (0..columns).map(|column| value(row.get_ref(column).unwrap())).collect();
            writeln!(text, "{table}: {}", values.join(" | ")).unwrap();
        }
    }
    text
}

fn value(value: ValueRef<'_>) -> String {
    match value {
        ValueRef::Null => "null".into(),
        ValueRef::Integer(number) => number.to_string(),
        ValueRef::Real(number) => format!("{number:?}"),
        ValueRef::Text(text) => format!("{:?}", String::from_utf8_lossy(text)),
        ValueRef::Blob(bytes) => hash(bytes),
    }
}
