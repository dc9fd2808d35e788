//! What a service's data is, told independently of anything that vecsnap does: a hash for every file.
//!
//! A database is hashed row by row, since two files with the same rows may differ in bytes that mean nothing.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags};
use walkdir::WalkDir;

use crate::error::{Error, Result};
use crate::progress::Progress;

/// The hash of every file below some directories, with the bytes that they have together.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Proof {
    files: BTreeMap<PathBuf, blake3::Hash>,
}

impl Proof {
    /// Hashes what is there now.
    pub(super) fn of(directories: &[PathBuf], progress: &dyn Progress) -> Result<Self> {
        let mut files = BTreeMap::new();
        for path in files_below(directories)? {
            progress.check()?;
            let hash = if is_database(&path) { hash_rows(&path) } else { hash_bytes(&path) }?;
            files.insert(path, hash);
        }
        Ok(Self { files })
    }

    pub(super) fn count(&self) -> usize {
        self.files.len()
    }

    /// The files that are not in both, or differ.
    pub(super) fn differences(&self, other: &Self) -> Vec<PathBuf> {
        let names = self.files.keys().chain(other.files.keys().filter(|name| !self.files.contains_key(*name)));
        names.filter(|name| self.files.get(*name) != other.files.get(*name)).cloned().collect()
    }
}

/// Bytes of all files below the directories.
pub(super) fn size_of(directories: &[PathBuf]) -> Result<u64> {
    let size = |path: &PathBuf| fs::metadata(path).map(|file| file.len()).map_err(Error::io("read", path));
    files_below(directories)?.iter().map(size).sum()
}

fn files_below(directories: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for directory in directories {
        for entry in WalkDir::new(directory) {
            let entry = entry.map_err(|error| Error::io("read", directory)(error.into()))?;
            if entry.file_type().is_file() {
                files.push(entry.into_path());
            }
        }
    }
    // What SQLite keeps beside a database while it is open is no file of its own.
    files.retain(|path| !path.to_string_lossy().ends_with("-wal") && !path.to_string_lossy().ends_with("-shm"));
    Ok(files)
}

fn is_database(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "db" || extension == "sqlite3")
}

fn hash_bytes(path: &Path) -> Result<blake3::Hash> {
    let mut hasher = blake3::Hasher::new();
    let file = File::open(path).map_err(Error::io("open", path))?;
    hasher.update_reader(file).map_err(Error::io("read", path))?;
    Ok(hasher.finalize())
}

fn hash_rows(path: &Path) -> Result<blake3::Hash> {
    let attempt = || {
        let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        let mut hasher = blake3::Hasher::new();
        let mut schema = connection.prepare("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")?;
        let tables: Vec<String> = schema.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
        for table in tables {
            hash_field(&mut hasher, 0, table.as_bytes());
            let mut statement = connection.prepare(&format!("SELECT * FROM \"{table}\" ORDER BY rowid"))?;
            let columns = statement.column_count();
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                for column in 0..columns {
                    match row.get_ref(column)? {
                        ValueRef::Null => hash_field(&mut hasher, 1, b""),
                        ValueRef::Integer(number) => hash_field(&mut hasher, 2, &number.to_le_bytes()),
                        ValueRef::Real(number) => hash_field(&mut hasher, 3, &number.to_le_bytes()),
                        ValueRef::Text(text) => hash_field(&mut hasher, 4, text),
                        ValueRef::Blob(bytes) => hash_field(&mut hasher, 5, bytes),
                    }
                }
            }
        }
        Ok(hasher.finalize())
    };
    attempt().map_err(Error::sqlite("read", path))
}

/// Hashes a value with its type and length, so that no two sequences of values look alike.
fn hash_field(hasher: &mut blake3::Hasher, kind: u8, bytes: &[u8]) {
    hasher.update(&[kind]).update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;

    #[test]
    fn every_changed_lost_and_added_file_is_named() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        let proof = || Proof::of(&[root.path().to_path_buf()], &Silent).unwrap();
        let connection = Connection::open(at("a.db")).unwrap();
        connection.execute_batch("CREATE TABLE t(x); INSERT INTO t VALUES (1)").unwrap();
        for name in ["same", "changed", "lost"] {
            fs::write(at(name), name).unwrap();
        }
        let before = proof();
        assert_eq!(before.count(), 4);
        assert!(proof().differences(&before).is_empty());

        connection.execute_batch("UPDATE t SET x = '1'").unwrap();
        fs::write(at("changed"), "chanGed").unwrap();
        fs::remove_file(at("lost")).unwrap();
        fs::write(at("added"), "").unwrap();
        let mut differences = proof().differences(&before);
        differences.sort();
        assert_eq!(differences, [at("a.db"), at("added"), at("changed"), at("lost")]);
    }
}
