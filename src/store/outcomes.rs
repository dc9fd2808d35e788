//! Files of outcomes in a repository: one JSON object a line, appended and never rewritten (format-spec.md §14).
//!
//! They are information: nothing depends on them, they are not written where the repository cannot be, and a reader
//! passes over a line that does not parse. A record goes out in one write, durably; one that a crash tore is ended by
//! the next.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use rustix::fs::OFlags;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Repository;
use crate::disk::{Storage, durable};
use crate::error::{Error, Result};

/// How much of a file's end is read to find its last records.
const TAIL: u64 = 4 * 1024 * 1024;

/// Appends a record to the file of this name.
///
/// # Errors
/// I/O errors; [`is_read_only`] tells those of a repository that cannot be written.
pub fn append(repository: &Repository, name: &str, record: &impl Serialize) -> Result<()> {
    let path = repository.root().join(name);
    let line = serde_json::to_vec(record)
        .map_err(|error| Error::Failed(format!("an outcome for {} cannot be told as JSON: {error}", path.display())))?;
    let mut options = OpenOptions::new();
    // A link there may lead to anybody's file.
    let options = options.read(true).append(true).create(true).mode(durable::FILE_MODE);
    let file = options.custom_flags(OFlags::NOFOLLOW.bits().cast_signed()).open(&path);
    let mut file = file.map_err(Error::io("open", &path))?;
    let torn = is_torn(&file).map_err(Error::io("read", &path))?;
    let bytes = [if torn { &b"\n"[..] } else { b"" }, &line, b"\n"].concat();
    file.write_all(&bytes).and_then(|()| file.sync_all()).map_err(Error::io("append to", &path))?;
    durable::sync_directory(repository.root())
}

/// Whether a crash cut the last line off.
fn is_torn(file: &File) -> std::io::Result<bool> {
    let mut last = [0];
    match file.metadata()?.len().checked_sub(1) {
        Some(at) => file.read_exact_at(&mut last, at).map(|()| last != *b"\n"),
        None => Ok(false),
    }
}

/// Whether an error of [`append`] only says that the repository cannot be written.
pub fn is_read_only(error: &Error) -> bool {
    let kinds = [ErrorKind::PermissionDenied, ErrorKind::ReadOnlyFilesystem];
    matches!(error, Error::Io { source, .. } if kinds.contains(&source.kind()))
}

/// The last record in the file of this name that parses; `None` if there is none.
///
/// # Errors
/// I/O errors.
pub fn last<T: DeserializeOwned>(storage: &dyn Storage, name: &str) -> Result<Option<T>> {
    Ok(latest(storage, name)?.pop())
}

/// The records at the end of the file of this name, in their order, those that parse: as many as stand in 4 MiB.
///
/// # Errors
/// I/O errors.
pub fn latest<T: DeserializeOwned>(storage: &dyn Storage, name: &str) -> Result<Vec<T>> {
    let Some(size) = storage.size(name)? else { return Ok(Vec::new()) };
    let from = size.saturating_sub(TAIL);
    let tail = storage.read_range(name, from, usize::try_from(size - from).unwrap_or_default())?;
    Ok(tail.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect())
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use super::*;
    use crate::store::LockWait;
    use serde_json::{Value, json};

    fn create(root: &Path) -> Repository {
        Repository::open_or_create(root, LockWait(Duration::ZERO)).unwrap()
    }

    #[test]
    fn nothing_is_appended_through_a_link() {
        let directory = tempfile::tempdir().unwrap();
        let repository = create(directory.path());
        let elsewhere = directory.path().join("somebody's");
        std::fs::write(&elsewhere, "own").unwrap();
        std::os::unix::fs::symlink(&elsewhere, directory.path().join("x.jsonl")).unwrap();
        assert!(append(&repository, "x.jsonl", &json!({})).is_err());
        assert_eq!(std::fs::read_to_string(&elsewhere).unwrap(), "own");
    }

    #[test]
    fn the_last_whole_record_counts_and_a_torn_one_hurts_no_other() {
        let directory = tempfile::tempdir().unwrap();
        let repository = create(directory.path());
        let newest = || last::<Value>(repository.storage(), "x.jsonl").unwrap();
        assert_eq!(newest(), None);
        append(&repository, "x.jsonl", &json!({ "number": 1 })).unwrap();
        append(&repository, "x.jsonl", &json!({ "number": 2 })).unwrap();
        assert_eq!(newest(), Some(json!({ "number": 2 })));
        let path = directory.path().join("x.jsonl");
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"{\"number\": 3, \"err").unwrap();
        assert_eq!(newest(), Some(json!({ "number": 2 })));
        append(&repository, "x.jsonl", &json!({ "number": 4 })).unwrap();
        assert_eq!(newest(), Some(json!({ "number": 4 })));
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 4);
    }
}
