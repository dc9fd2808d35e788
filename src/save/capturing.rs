//! What every capture shares: the store it writes to, what came before, and for how long it may go on.
//!
//! Invariants: without deltas (`--effort none`) no previous version is opened; who holds writers off says since when,
//! and is told to give up once they have waited for as long as they may. That the bound is asked for everywhere through
//! [`Patience`] keeps it one rule, however many files and threads a capture has.

use std::time::{Duration, Instant};

use super::effort::Effort;
use super::previous::{EarlierSnapshots, Previous, ReadPolicy, TABLE_CACHE};
use crate::disk::sqlite::BlockLimit;
use crate::error::{Error, Result};
use crate::format::content::Content;
use crate::progress::Progress;
use crate::store::file_table::TableWriter;
use crate::store::{BlobReader, BlobWriter, BulkReader, DecodedFrames, PreviousContent, Repository};

/// Decoded frames kept for reading previous contents, in bytes.
const VERSION_CACHE: usize = 24 * 1024 * 1024;

/// Everything a capture needs beside the source.
pub(super) struct Capturing<'a> {
    pub(super) repository: &'a Repository,
    pub(super) writer: &'a mut BlobWriter,
    pub(super) progress: &'a dyn Progress,
    pub(super) read_policy: ReadPolicy,
    pub(super) effort: Effort,
    pub(super) earlier: &'a EarlierSnapshots<'a>,
    pub(super) patience: Patience<'a>,
    /// What was decoded for one file and serves the next.
    pub(super) frames: &'a DecodedFrames,
}

impl<'a> Capturing<'a> {
    /// The previous version of a source.
    pub(super) fn previous(&self, name: &str) -> Result<Option<Previous<'a>>> {
        let record = self.earlier.record(name)?;
        Ok(record.map(|record| Previous::of(self.repository, record, self.read_policy)))
    }

    /// A writer for the table of a source, which is stored against the previous one where deltas are wanted.
    pub(super) fn table(&self, name: &str) -> Result<TableWriter<'a>> {
        if self.effort == Effort::None {
            return Ok(TableWriter::default());
        }
        let record = self.earlier.record(name)?;
        let reader = || BlobReader::with_frame_cache(self.repository, TABLE_CACHE);
        Ok(TableWriter::after(record.map(|record| PreviousContent::of(reader(), record.table))))
    }

    /// A reader of what stood in previous versions.
    pub(super) fn bulk_reader(&self) -> BulkReader<'a> {
        BulkReader::sharing(self.repository, self.frames)
    }

    /// A previous content to store the next one against, where deltas are wanted.
    pub(super) fn version(&self, content: Content) -> Option<PreviousContent<'a>> {
        (self.effort != Effort::None).then(|| PreviousContent::of(self.version_reader(), content))
    }

    /// A reader for one previous content.
    pub(super) fn version_reader(&self) -> BlobReader<'a> {
        BlobReader::with_frame_cache(self.repository, VERSION_CACHE)
    }
}

/// For how long a capture may go on: until the operator stops it, and no longer than writers may be held off.
#[derive(Clone, Copy)]
pub(super) struct Patience<'a> {
    progress: &'a dyn Progress,
    /// For how long writers may be held off.
    pub(super) block: BlockLimit,
}

impl<'a> Patience<'a> {
    pub(super) fn new(progress: &'a dyn Progress, max_block: Option<Duration>) -> Self {
        Self { progress, block: BlockLimit { most: max_block, since: None } }
    }

    /// Since this moment writers are held off; `None` once they are not.
    pub(super) fn hold_writers(&mut self, since: Option<Instant>) {
        self.block.since = since;
    }

    /// Gives up, where the operator asked to stop or writers have been held off for as long as they may.
    ///
    /// # Errors
    /// [`Error::Interrupted`]; [`Error::Changing`] with advice.
    pub(super) fn check(&self) -> Result<()> {
        self.progress.check()?;
        match self.block.since.and_then(|since| self.block.end(since)) {
            Some(let_go) if Instant::now() >= let_go => Err(Error::Changing(format!(
                "reading its files would have held its writers off for longer than {} s; take one snapshot without \
                 --freeze first, so that the next one reads only what changed since, or raise --max-block",
                self.block.most.unwrap_or_default().as_secs_f64()
            ))),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
pub(in crate::save) mod tests {
    use super::*;
    use crate::progress::Silent;

    /// Captures into a repository as if nothing had been captured before, and stores what came of it.
    pub(in crate::save) fn with_capturing<T>(
        repository: &Repository,
        effort: Effort,
        use_it: impl FnOnce(&mut Capturing<'_>) -> T,
    ) -> T {
        let mut writer = BlobWriter::begin(repository, effort.metadata(), effort.thoroughness()).unwrap();
        let earlier = EarlierSnapshots::none(repository);
        let patience = Patience::new(&Silent, None);
        let (read_policy, earlier) = (ReadPolicy::All, &earlier);
        let writer_ref = &mut writer;
        let used = use_it(&mut Capturing {
            repository,
            writer: writer_ref,
            progress: &Silent,
            read_policy,
            effort,
            earlier,
            patience,
            frames: &DecodedFrames::default(),
        });
        writer.finish().unwrap();
        used
    }

    #[test]
    fn patience_ends_when_writers_have_waited_for_long_enough_and_not_once_they_are_let_go() {
        let mut patience = Patience::new(&Silent, Some(Duration::from_millis(5)));
        let since = Instant::now();
        assert!(patience.check().is_ok());
        patience.hold_writers(Some(since));
        std::thread::sleep(Duration::from_millis(6));
        let Err(Error::Changing(advice)) = patience.check() else { panic!() };
        assert!(advice.contains("--max-block") && advice.contains("0.005 s"), "{advice}");
        patience.hold_writers(None);
        assert!(patience.check().is_ok());
    }
}
