//! What was found out about contents and is kept: verdicts, and that all blobs of a content are there.
//!
//! Invariants: a verdict belongs to bytes, so it holds for as long as the index lives; that a content is whole holds
//! until a pack goes or a blob is found unreadable, which removes all such marks. Whoever looks blob after blob up and
//! then marks says since when: if anything can have been lost meanwhile, nothing is marked. Both spare work only:
//! whatever is not known is found out again.

use rusqlite::{OptionalExtension, TransactionBehavior, params};

use super::{Index, Inner};
use crate::error::{Error, Result};
use crate::format::codec;
use crate::format::content::Content;
use crate::format::manifest::Verdict;

/// What a kept verdict answers about a content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// Whether the image passes SQLite's integrity check.
    Integrity,
    /// Whether the file is JSON.
    Json,
}

impl Question {
    /// The key of the answer: no encoded content is the beginning of another one.
    fn key(self, content: &Content) -> Result<Vec<u8>> {
        let mut key = codec::encode(content).map_err(|fault| Error::Failed(format!("a content: {fault}")))?;
        if self == Self::Json {
            key.extend(b"json");
        }
        Ok(key)
    }
}

/// What had been lost of what the index knew, at one moment: where two are equal, nothing was lost in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LossMark {
    /// In this process.
    own: u64,
    /// SQLite's `data_version`: another one after any change by another process, so after a loss too.
    others: i64,
}

impl Index {
    /// What was lost so far, for [`Index::mark_whole`].
    ///
    /// # Errors
    /// [`Error::Sqlite`] if the index cannot be read.
    pub fn loss_mark(&self) -> Result<LossMark> {
        self.inner.lock().losses().map_err(self.failed("read"))
    }

    /// Whether all blobs of this content were known to be in packs, none of which has gone since.
    pub fn is_whole(&self, content: &Content) -> bool {
        let Ok(key) = codec::encode(content) else { return false };
        let inner = self.inner.lock();
        let query = inner.connection.prepare_cached("SELECT 1 FROM whole WHERE content = ?");
        query.and_then(|mut query| query.exists([key])).unwrap_or(false)
    }

    /// Records that all blobs of these contents are known to be in packs, as was found out or brought about since a
    /// moment; nothing where anything may have been lost since then.
    ///
    /// # Errors
    /// [`Error::Sqlite`] if it cannot be written; it is then found out again next time.
    pub fn mark_whole(&self, contents: &[Content], since: LossMark) -> Result<()> {
        let unencodable = |fault| Error::Failed(format!("a content: {fault}"));
        let keys: Vec<Vec<u8>> =
            contents.iter().map(codec::encode).collect::<std::result::Result<_, _>>().map_err(unencodable)?;
        if keys.is_empty() {
            return Ok(());
        }
        self.inner.lock().mark_whole(&keys, since).map_err(self.failed("write"))
    }

    /// The recorded verdict on this content.
    pub fn verdict(&self, question: Question, content: &Content) -> Option<Verdict> {
        let key = question.key(content).ok()?;
        let inner = self.inner.lock();
        let mut query = inner.connection.prepare_cached("SELECT verdict FROM verdicts WHERE content = ?").ok()?;
        let bytes: Vec<u8> = query.query_row([key], |row| row.get(0)).optional().ok().flatten()?;
        codec::decode::<Verdict, 65_536>(&bytes).ok()
    }

    /// Records a verdict on a content, for as long as the index lives.
    ///
    /// # Errors
    /// [`Error::Sqlite`] if it cannot be written; it is then checked again next time.
    pub fn record_verdict(&self, question: Question, content: &Content, verdict: &Verdict) -> Result<()> {
        let key = question.key(content)?;
        let value = codec::encode(verdict).map_err(|fault| Error::Failed(format!("a verdict: {fault}")))?;
        let inner = self.inner.lock();
        inner
            .connection
            .execute("INSERT OR REPLACE INTO verdicts VALUES(?, ?)", params![key, value])
            .map(|_| ())
            .map_err(self.failed("write"))
    }
}

impl Inner {
    fn losses(&self) -> rusqlite::Result<LossMark> {
        let others = self.connection.pragma_query_value(None, "data_version", |row| row.get(0))?;
        Ok(LossMark { own: self.losses, others })
    }

    fn mark_whole(&mut self, keys: &[Vec<u8>], since: LossMark) -> rusqlite::Result<()> {
        let own = self.losses;
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let others = transaction.pragma_query_value(None, "data_version", |row| row.get(0))?;
        if since != (LossMark { own, others }) {
            return Ok(());
        }
        {
            let mut insert = transaction.prepare_cached("INSERT OR IGNORE INTO whole VALUES(?)")?;
            for key in keys {
                insert.execute([key])?;
            }
        }
        transaction.commit()
    }
}
