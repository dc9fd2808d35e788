//! What Chroma's database knows of its vector segments.
//!
//! A change goes into `embeddings_queue` and `embeddings` first. Once enough of them wait, a segment writes its HNSW
//! files and then notes in `max_seq_id` how far they reach: its watermark. What all segments of a collection have is
//! purged from the queue, but for the row of the watermark itself. So a store whose files are older than its watermark,
//! or whose queue begins after it, has lost what lies between. Only these few columns are read, and a database without
//! them is no store that is known here.

use std::collections::{BTreeMap, HashMap};

use rusqlite::types::Value;
use rusqlite::{Connection, ErrorCode, OptionalExtension, Row, params};

/// How far the files of each segment reach, by the segment's id; segments that were never persisted are absent.
pub(super) type Watermarks = BTreeMap<String, u64>;

/// One vector segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SegmentRecord {
    /// Its collection.
    pub(super) collection: String,
    /// How far its files reach; `None` if it was never persisted.
    pub(super) watermark: Option<u64>,
    /// Embeddings that the collection has.
    pub(super) embeddings: u64,
    /// What came after the watermark; `None` where that cannot be counted.
    pub(super) after: Option<AfterWatermark>,
}

/// What a collection was given after the watermark of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct AfterWatermark {
    /// Changes that the queue holds.
    pub(super) queued: u64,
    /// Embeddings that the queue does not hold any more.
    pub(super) purged: u64,
}

impl SegmentRecord {
    /// The watermark as the database compares it; -1 without one.
    fn last_persisted(&self) -> i64 {
        self.watermark.map_or(-1, |watermark| i64::try_from(watermark).unwrap_or(i64::MAX))
    }

    /// How many vectors are neither among the `elements` of the segment's files nor in the queue: a lower bound, never
    /// too many. Each row of the queue may be another embedding.
    pub(super) fn lost_vectors(&self, elements: u64) -> u64 {
        let Some(AfterWatermark { queued, purged }) = self.after else { return 0 };
        self.embeddings.saturating_sub(elements).saturating_sub(queued).max(purged)
    }
}

/// All vector segments, by id.
pub(super) type Records = BTreeMap<String, SegmentRecord>;

/// Reads the watermarks; `None` if this is no Chroma database.
pub(super) fn watermarks(connection: &Connection) -> rusqlite::Result<Option<Watermarks>> {
    if !has_tables(connection, &["segments", "max_seq_id"])? {
        return Ok(None);
    }
    let mut query = connection.prepare("SELECT segment_id, seq_id FROM max_seq_id")?;
    let rows = query.query_map([], |row| Ok((row.get::<_, String>(0)?, sequence(row.get(1)?))))?;
    let known = rows.filter_map(|row| row.map(|(id, watermark)| Some((id, watermark?))).transpose());
    known.collect::<rusqlite::Result<_>>().map(Some)
}

/// Reads the vector segments; `None` if this is no Chroma database.
pub(super) fn records(connection: &Connection) -> rusqlite::Result<Option<Records>> {
    let Some(watermarks) = watermarks(connection)? else { return Ok(None) };
    let embeddings = if has_tables(connection, &["embeddings", "embeddings_queue"])? {
        embeddings(connection)?
    } else {
        BTreeMap::new()
    };
    let mut query = connection.prepare("SELECT id, coalesce(collection, '') FROM segments WHERE scope = 'VECTOR'")?;
    let rows = query.query_map([], |row| {
        let (id, collection): (String, String) = (row.get(0)?, row.get(1)?);
        let watermark = watermarks.get(&id).copied();
        let embeddings = embeddings.get(&collection).copied().unwrap_or(0);
        Ok((id, SegmentRecord { collection, watermark, embeddings, after: None }))
    })?;
    let mut records: Records = rows.collect::<rusqlite::Result<_>>()?;
    match count_after_watermarks(connection, &mut records) {
        Err(cause) if !is_interruption(&cause) => {
            tracing::debug!(%cause, "the queue of the store cannot be counted");
            records.values_mut().for_each(|record| record.after = None);
        }
        outcome => outcome?,
    }
    Ok(Some(records))
}

/// Whether the question took longer than it may.
pub(super) fn is_interruption(cause: &rusqlite::Error) -> bool {
    cause.sqlite_error_code() == Some(ErrorCode::OperationInterrupted)
}

/// How many embeddings each collection has.
fn embeddings(connection: &Connection) -> rusqlite::Result<BTreeMap<String, u64>> {
    let mut query = connection.prepare(
        "SELECT s.collection, e.count
         FROM (SELECT segment_id, count(*) AS count FROM embeddings GROUP BY segment_id) e
         JOIN segments s ON s.id = e.segment_id WHERE s.scope = 'METADATA' AND s.collection IS NOT NULL",
    )?;
    query.query_map([], |row| Ok((row.get(0)?, count(row, 1)?)))?.collect()
}

/// Counts what came after the watermark of each segment, if there are tables for it. The queue is read once for all.
fn count_after_watermarks(connection: &Connection, records: &mut Records) -> rusqlite::Result<()> {
    if !has_tables(connection, &["embeddings", "embeddings_queue"])? {
        return Ok(());
    }
    let mut by_collection: HashMap<String, Vec<&mut SegmentRecord>> = HashMap::new();
    let mut least = i64::MAX;
    for record in records.values_mut() {
        least = least.min(record.last_persisted());
        let purged = purged(connection, record.last_persisted(), &record.collection)?;
        record.after = Some(AfterWatermark { queued: 0, purged });
        by_collection.entry(record.collection.clone()).or_default().push(record);
    }
    let mut query = connection.prepare("SELECT seq_id, topic FROM embeddings_queue WHERE seq_id > ?1")?;
    let mut rows = query.query([least])?;
    while let Some(row) = rows.next()? {
        let number: i64 = row.get(0)?;
        let Ok(topic) = row.get_ref(1)?.as_str() else { continue };
        // A topic is a URL that ends in the collection.
        let collection = topic.rsplit_once('/').map_or(topic, |(_, last)| last);
        for record in by_collection.get_mut(collection).into_iter().flatten() {
            let is_after = number > record.last_persisted();
            if let Some(after) = record.after.as_mut().filter(|_| is_after) {
                after.queued += 1;
            }
        }
    }
    Ok(())
}

/// Embeddings that came after the watermark and that the queue does not hold any more.
fn purged(connection: &Connection, after: i64, collection: &str) -> rusqlite::Result<u64> {
    let at_watermark =
        connection.query_row("SELECT 1 FROM embeddings_queue WHERE seq_id = ?1", [after], |_| Ok(())).optional()?;
    if at_watermark.is_some() {
        return Ok(0);
    }
    connection.query_row(
        "SELECT count(*) FROM embeddings e JOIN segments s ON s.id = e.segment_id
         WHERE s.collection = ?2 AND s.scope = 'METADATA' AND typeof(e.seq_id) = 'integer' AND e.seq_id > ?1
           AND NOT EXISTS (SELECT 1 FROM embeddings_queue q WHERE q.seq_id = e.seq_id)",
        params![after, collection],
        |row| count(row, 0),
    )
}

/// A count, which SQL never lets be negative.
fn count(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    Ok(row.get::<_, i64>(column)?.try_into().unwrap_or(0))
}

fn has_tables(connection: &Connection, names: &[&str]) -> rusqlite::Result<bool> {
    let mut query = connection.prepare("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?1")?;
    for name in names {
        if !query.exists([name])? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// A sequence number: an integer, or in older stores up to 8 bytes of one, the highest first.
fn sequence(value: Value) -> Option<u64> {
    match value {
        Value::Integer(number) => u64::try_from(number).ok(),
        Value::Blob(bytes) if bytes.len() <= 8 => {
            Some(bytes.iter().fold(0, |number, &byte| number << 8 | u64::from(byte)))
        }
        _ => None,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The tables that are read, as Chroma 1.5 has them, and one collection.
    pub(in crate::save::chroma) const SCHEMA: &str = "
        CREATE TABLE segments(id TEXT PRIMARY KEY, type TEXT NOT NULL, scope TEXT NOT NULL, collection TEXT NOT NULL);
        CREATE TABLE max_seq_id(segment_id TEXT PRIMARY KEY, seq_id INTEGER);
        CREATE TABLE embeddings(id INTEGER PRIMARY KEY, segment_id TEXT NOT NULL, embedding_id TEXT NOT NULL,
            seq_id BLOB NOT NULL, UNIQUE(segment_id, embedding_id));
        CREATE TABLE embeddings_queue(seq_id INTEGER PRIMARY KEY, operation INTEGER NOT NULL, topic TEXT NOT NULL,
            id TEXT NOT NULL, vector BLOB);
        INSERT INTO segments VALUES('vectors', 'urn:chroma:segment/vector/hnsw-local-persisted', 'VECTOR', 'c'),
            ('metadata', 'urn:chroma:segment/metadata/sqlite', 'METADATA', 'c');";

    /// A store with so many embeddings, whose files reach to the watermark and whose queue begins at `queue`.
    fn store(embeddings: u32, watermark: Option<u32>, queue: u32) -> Connection {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(SCHEMA).unwrap();
        for number in 1..=embeddings {
            let id = format!("doc-{number}");
            connection.execute("INSERT INTO embeddings VALUES(?1, 'metadata', ?2, ?1)", params![number, id]).unwrap();
            if number >= queue {
                let row = params![number, id];
                connection
                    .execute("INSERT INTO embeddings_queue VALUES(?1, 0, 'persistent://d/c', ?2, NULL)", row)
                    .unwrap();
            }
        }
        connection.execute("INSERT INTO max_seq_id VALUES('metadata', ?1)", [embeddings]).unwrap();
        if let Some(watermark) = watermark {
            connection.execute("INSERT INTO max_seq_id VALUES('vectors', ?1)", [watermark]).unwrap();
        }
        connection
    }

    fn lost(connection: &Connection, elements: u64) -> u64 {
        records(connection).unwrap().unwrap()["vectors"].lost_vectors(elements)
    }

    #[test]
    fn what_the_files_or_the_queue_have_is_not_lost() {
        for (connection, elements) in [
            (store(100, Some(100), 100), 100),
            (store(130, Some(100), 100), 100),
            (store(130, Some(100), 1), 100),
            (store(30, None, 1), 0),
            (store(0, None, 1), 0),
        ] {
            assert_eq!(lost(&connection, elements), 0);
        }
        let deleted = store(130, Some(100), 100);
        deleted.execute_batch("DELETE FROM embeddings WHERE id < 50").unwrap();
        assert_eq!(lost(&deleted, 100), 0);
    }

    #[test]
    fn a_queue_purged_beyond_the_watermark_has_lost_what_lies_between() {
        assert_eq!(lost(&store(130, Some(100), 111), 100), 10);
        assert_eq!(lost(&store(30, None, 11), 0), 10);
    }

    #[test]
    fn files_behind_their_watermark_have_lost_what_lies_between() {
        assert_eq!(lost(&store(130, Some(120), 120), 100), 20);
    }

    #[test]
    fn of_several_collections_each_has_its_own_queue() {
        let connection = store(130, Some(100), 100);
        connection
            .execute_batch(
                "INSERT INTO segments VALUES('others', 'urn:chroma:segment/vector/hnsw-local-persisted', 'VECTOR', 'd'),
                     ('metadata of others', 'urn:chroma:segment/metadata/sqlite', 'METADATA', 'd');
                 INSERT INTO embeddings SELECT id + 1000, 'metadata of others', embedding_id, id + 1000 FROM embeddings;
                 INSERT INTO embeddings_queue SELECT seq_id + 1000, 0, 'persistent://d/d', id, NULL FROM embeddings_queue
                     WHERE seq_id < 110;
                 INSERT INTO max_seq_id VALUES('others', 1100)",
            )
            .unwrap();
        let records = records(&connection).unwrap().unwrap();
        assert_eq!(records["vectors"].after, Some(AfterWatermark { queued: 30, purged: 0 }));
        assert_eq!(records["others"].after, Some(AfterWatermark { queued: 9, purged: 0 }));
        assert_eq!((records["vectors"].lost_vectors(100), records["others"].lost_vectors(100)), (0, 21));
    }

    #[test]
    fn sequence_numbers_of_older_stores_are_bytes() {
        assert_eq!(sequence(Value::Blob(vec![0, 0, 0, 0, 0, 0, 1, 2])), Some(258));
        assert_eq!(sequence(Value::Integer(-1)), None);
        assert_eq!(sequence(Value::Null), None);
    }

    #[test]
    fn another_database_is_no_store() {
        let connection = Connection::open_in_memory().unwrap();
        assert_eq!(watermarks(&connection).unwrap(), None);
        assert_eq!(records(&connection).unwrap(), None);
    }
}
