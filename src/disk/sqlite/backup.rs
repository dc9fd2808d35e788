//! Copying a pinned database through the online backup API, page by page into a second database.
//!
//! Invariant: the image has the content of the pinned state; in its header, the counters of changes are its own, so
//! that equal content gives equal bytes. <https://www.sqlite.org/backup.html>

use std::io::ErrorKind;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, ErrorCode, ffi};

use super::connection::{SqliteAccess, open};
use super::image::SourceTrouble;
use crate::error::Error;

/// Pages copied between two looks at the clock.
const PAGES_PER_STEP: i32 = 512;

/// How long to sleep when the database is locked.
const POLL: Duration = Duration::from_millis(5);

/// Copies the pinned state into the file `image`, which is empty.
pub(super) fn copy(source: &Connection, path: &Path, image: &Path, deadline: Instant) -> Result<(), SourceTrouble> {
    let trouble = |error: rusqlite::Error| match error.sqlite_error_code() {
        // The image is what finds no room, not the source.
        Some(ErrorCode::DiskFull) => Error::io("write", image)(ErrorKind::StorageFull.into()).into(),
        // Nor is the source ever written.
        _ if is_of_writing(&error) => Error::sqlite("write", image)(error).into(),
        _ => SourceTrouble::of(error, "copy", path),
    };
    let mut destination = open(image, SqliteAccess::ReadWrite).map_err(Error::sqlite("create", image))?;
    destination
        .execute_batch("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA locking_mode = EXCLUSIVE;")
        .map_err(Error::sqlite("prepare", image))?;
    let backup = Backup::new(source, &mut destination).map_err(trouble)?;
    loop {
        match backup.step(PAGES_PER_STEP).map_err(trouble)? {
            StepResult::Done => break,
            StepResult::Busy | StepResult::Locked => thread::sleep(POLL),
            _ => {}
        }
        if Instant::now() >= deadline {
            return Err(SourceTrouble::Deadline);
        }
    }
    drop(backup);
    Ok(destination.close().map_err(|(_, error)| Error::sqlite("finish", image)(error))?)
}

fn is_of_writing(error: &rusqlite::Error) -> bool {
    let writing = [ffi::SQLITE_IOERR_WRITE, ffi::SQLITE_IOERR_TRUNCATE, ffi::SQLITE_IOERR_FSYNC];
    error.sqlite_error().is_some_and(|error| writing.contains(&error.extended_code))
}
