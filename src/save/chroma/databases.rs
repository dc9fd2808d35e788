//! The databases of a store: their images, the watermarks before, and the segments that are read meanwhile.
//!
//! Invariant: the watermarks are asked before the image is taken, and the records in the read transaction of which it
//! is the image. Reading ahead is never more than that: what has other stats when its turn comes after the image is
//! read once more.

use std::collections::BTreeMap;
use std::thread;

use rusqlite::Connection;

use super::records::{self, Records};
use super::store_database::Answer;
use super::{Attempt, DATABASE, PendingPath, StoreCapture, StoreParts, is_captured_by_sqlite};
use crate::disk::stat::FileKind;
use crate::error::{Error, Result};
use crate::format::manifest::CHROMA;
use crate::save::capturing::Capturing;
use crate::save::database::{self, Known, PendingDatabase};
use crate::save::previous::Previous;
use crate::save::tree::in_tree;
use crate::save::tree::look::Look;
use crate::save::walk::walk_below;

/// Bytes from which a file keeps all cores busy.
const LARGE: u64 = 16 * 1024 * 1024;

/// What came of one database.
enum OneDatabase {
    Held(PendingDatabase),
    /// It is where that of a store would be, and is none.
    NoStore,
    /// It was there a moment ago.
    Vanished,
}

impl OneDatabase {
    fn of(captured: Result<PendingDatabase>) -> Result<Self> {
        match captured {
            Ok(held) => Ok(Self::Held(held)),
            Err(error) if error.is_not_found() => Ok(Self::Vanished),
            Err(error) => Err(error),
        }
    }
}

impl StoreCapture<'_> {
    /// Captures all databases, with the watermarks of that of the store before and in its image.
    pub(super) fn capture_databases(
        &mut self,
        capturing: &mut Capturing<'_>,
        mut previous: Option<&mut Previous<'_>>,
        look: &Look,
    ) -> Result<Result<StoreParts, Attempt>> {
        let mut parts = StoreParts {
            databases: Vec::new(),
            entries: Vec::new(),
            any_read: false,
            records: None,
            before: None,
            after: None,
            files: BTreeMap::new(),
        };
        let mut is_store = false;
        previous.iter_mut().for_each(|previous| previous.rewind());
        for path in &look.databases {
            let held = match self.capture_database(capturing, previous.as_deref_mut(), path, look, &mut parts)? {
                OneDatabase::Held(held) => held,
                OneDatabase::NoStore => return Ok(Err(Attempt::NoStore)),
                OneDatabase::Vanished => return Ok(Err(Attempt::Moved(String::from_utf8_lossy(path).into_owned()))),
            };
            self.writer_blocked = self.writer_blocked.max(held.writer_blocked());
            if path == DATABASE {
                let is_taken_over = matches!(held, PendingDatabase::TakenOver(_));
                if is_taken_over && self.examine {
                    parts.records = self.database.live(capturing.patience.block, records::records)?.given();
                }
                is_store = parts.records.is_some() || (is_taken_over && self.judged.is_some() && !self.examine);
            }
            parts.databases.push(PendingPath { path: path.clone(), held });
        }
        Ok(if is_store { Ok(parts) } else { Err(Attempt::NoStore) })
    }

    /// Captures one database, and asks that of the store for its watermarks before, and for its records in the image.
    fn capture_database(
        &mut self,
        capturing: &mut Capturing<'_>,
        previous: Option<&mut Previous<'_>>,
        path: &[u8],
        look: &Look,
        parts: &mut StoreParts,
    ) -> Result<OneDatabase> {
        let source = self.absolute(path);
        let request = in_tree(&source, path, self.options.check);
        let previous = match database::compare(capturing, previous, &request) {
            Ok(Known::Unchanged(stored)) => return Ok(OneDatabase::Held(PendingDatabase::TakenOver(stored))),
            Ok(Known::Changed { previous }) => previous,
            Err(error) => return OneDatabase::of(Err(error)),
        };
        let (repository, patience) = (capturing.repository, capturing.patience);
        if path != DATABASE {
            return OneDatabase::of(database::capture(repository, &request, patience, previous, &mut |_| Ok(())));
        }
        let records = &mut parts.records;
        let mut copy = || {
            let captured = database::capture(repository, &request, patience, previous, &mut |connection| {
                *records = records_in(connection)?;
                Ok(())
            });
            // What is not taken through SQLite is not asked either.
            let is_image = captured.as_ref().is_ok_and(PendingDatabase::is_image);
            *records = records.take().filter(|_| is_image);
            captured
        };
        match self.database.live(patience.block, records::watermarks)? {
            Answer::Store(watermarks) => {
                parts.before = Some(watermarks);
                OneDatabase::of(self.read_ahead_during(copy, capturing, look)?)
            }
            Answer::NoStore => Ok(OneDatabase::NoStore),
            // This may be no store, whose files would then be read twice.
            Answer::None => OneDatabase::of(copy()),
        }
    }

    /// Reads the segments while their database is copied, which keeps one core busy. Whatever has other stats when its
    /// turn comes after the image is read again then; the same stats mean that it was at that moment what was read.
    fn read_ahead_during<T: Send>(
        &mut self,
        copy: impl FnOnce() -> Result<T> + Send,
        capturing: &mut Capturing<'_>,
        look: &Look,
    ) -> Result<Result<T>> {
        let stopped = |_| Error::Failed("copying a database stopped unexpectedly; try again".into());
        thread::scope(|scope| {
            let copying = scope.spawn(copy);
            self.read_ahead(capturing, look)?;
            copying.join().map_err(stopped)
        })
    }

    /// Small files come first: they keep no more than the one core busy that the copy leaves.
    fn read_ahead(&mut self, capturing: &mut Capturing<'_>, look: &Look) -> Result<()> {
        let mut previous = capturing.previous(CHROMA)?;
        for sizes in [0..LARGE, LARGE..u64::MAX] {
            previous.iter_mut().for_each(Previous::rewind);
            for directory in look.parts.keys().filter(|part| !part.is_empty()) {
                for found in walk_below(self.root, directory) {
                    let found = found?;
                    let is_due = found.stat.kind == FileKind::File && sizes.contains(&found.stat.size);
                    if is_due && !is_captured_by_sqlite(self.root, &found, &look.databases)? {
                        self.read_once(capturing, previous.as_mut(), &found)?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// The records of a database at the moment of its image; `None` if it is not that of a store that is known here.
fn records_in(connection: &Connection) -> rusqlite::Result<Option<Records>> {
    match records::records(connection) {
        Err(cause) if !records::is_interruption(&cause) => {
            tracing::debug!(%cause, "the database is not that of a Chroma store that is known here");
            Ok(None)
        }
        outcome => outcome,
    }
}
