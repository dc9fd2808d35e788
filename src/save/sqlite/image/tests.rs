//! Images with an earlier version, beside those that are written in full.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use rusqlite::Connection;
use tempfile::TempDir;

use super::super::{DamagedSource, DatabaseContent, ImageOptions, capture_image, read_live};
use super::*;
use crate::disk::sqlite::{BlockLimit, CheckOutcome, integrity_check};
use crate::progress::Silent;
use crate::save::Effort;
use crate::save::capturing::Patience;
use crate::save::capturing::tests::with_capturing;
use crate::save::database::{self, CheckImage, DatabaseRequest, PendingDatabase};
use crate::save::file::{self, ReadOutcome};
use crate::save::tree::in_tree;
use crate::store::{LockWait, packs};

const OPTIONS: ImageOptions = ImageOptions {
    deadline: Duration::from_secs(20),
    block: BlockLimit { most: None, since: None },
    damaged: DamagedSource::TakeRaw,
    method: CopyMethod::Pages,
};

/// A live database of about 10 MB and a repository.
struct Place {
    directory: TempDir,
    repository: Repository,
}

impl Place {
    fn new(journal: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let repository = Repository::open_or_create(&directory.path().join("repo"), LockWait(Duration::ZERO)).unwrap();
        let place = Self { directory, repository };
        let rows = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500)
            INSERT INTO t SELECT i, randomblob(20000) FROM n;";
        place.change(&format!("PRAGMA journal_mode = {journal}; CREATE TABLE t(id INTEGER PRIMARY KEY, x); {rows}"));
        place
    }

    /// The same once more.
    fn copy(&self) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let copied = Command::new("cp").arg("-a").arg(self.directory.path().join(".")).arg(directory.path()).status();
        assert!(copied.unwrap().success());
        let repository = Repository::open_or_create(&directory.path().join("repo"), LockWait(Duration::ZERO)).unwrap();
        Self { directory, repository }
    }

    fn live(&self) -> PathBuf {
        self.directory.path().join("live.db")
    }

    fn change(&self, sql: &str) {
        Connection::open(self.live()).unwrap().execute_batch(sql).unwrap();
    }

    fn capture(&self, earlier: Option<PreviousImage>) -> DatabaseImage {
        let scratch = self.repository.scratch().unwrap();
        let captured = capture_image(&self.live(), scratch, OPTIONS, earlier.as_ref(), &mut |_| Ok(())).unwrap();
        let DatabaseContent::Image(image) = captured.content else { panic!() };
        image
    }

    /// An image that lacks what is still as in this version, if all of that is there.
    fn capture_after(&self, content: Content) -> DatabaseImage {
        self.capture(PreviousImage::of(&self.repository, content, Patience::new(&Silent, None)).unwrap())
    }

    fn store(&self, image: &DatabaseImage) -> ReadOutcome {
        self.store_against(image, None)
    }

    fn store_against(&self, image: &DatabaseImage, previous: Option<Content>) -> ReadOutcome {
        let opened = File::open(&image.file).unwrap();
        let length = opened.metadata().unwrap().len();
        with_capturing(&self.repository, Effort::Normal, |capturing| {
            let stored = match &image.chunks {
                Some(chunks) => file::store_identified(capturing, &opened, &image.file, length, chunks),
                None => file::store(capturing, &opened, &image.file, length, previous),
            };
            stored.unwrap()
        })
    }

    /// Stores the database as it is now.
    fn store_first(&self) -> Content {
        let ReadOutcome::Stored(stored) = self.store(&self.capture(None)) else { panic!() };
        stored.content
    }

    /// The bytes of the live database as they are captured without an earlier version.
    fn content(&self) -> Vec<u8> {
        fs::read(self.capture(None).file).unwrap()
    }

    fn assert_holds(&self, bytes: &[u8]) {
        let mut reader = BlobReader::new(&self.repository);
        for chunk in bytes.chunks(CHUNK_SIZE) {
            assert_eq!(&*reader.chunk(&BlobId::of_chunk(chunk)).unwrap().unwrap(), chunk);
        }
    }

    fn stored_bytes(&self) -> u64 {
        packs::list(self.repository.storage()).unwrap().iter().map(|pack| pack.size).sum()
    }
}

fn ids(image: &DatabaseImage) -> Vec<BlobId> {
    let mut all = Vec::new();
    let take = |ids: Vec<BlobId>| {
        all.extend(ids);
        Ok(Steadiness::Same)
    };
    image.chunks.as_ref().unwrap().each(take).unwrap();
    all
}

fn left_out(image: &DatabaseImage) -> Vec<usize> {
    let Some(chunks) = &image.chunks else { return Vec::new() };
    (0..chunks.left_out.len()).filter(|slot| chunks.is_left_out(*slot as u64)).collect()
}

#[test]
fn exactly_what_did_not_change_is_left_out_but_for_the_probes() {
    for journal in ["DELETE", "WAL"] {
        let place = Place::new(journal);
        let before = place.content();
        let first = place.store_first();
        place.change("UPDATE t SET x = randomblob(20000) WHERE id = 77; INSERT INTO t VALUES (900, 'end')");
        let content = place.content();
        let image = place.capture_after(first);
        assert_eq!(ids(&image), content.chunks(CHUNK_SIZE).map(BlobId::of_chunk).collect::<Vec<_>>());
        let bytes = fs::read(&image.file).unwrap();
        assert_eq!(bytes.len(), content.len());
        let lacks = left_out(&image);
        assert!(lacks.len() > 100, "{lacks:?}");
        for (slot, (written, expected)) in bytes.chunks(CHUNK_SIZE).zip(content.chunks(CHUNK_SIZE)).enumerate() {
            let is_same = before.chunks(CHUNK_SIZE).nth(slot) == Some(expected);
            assert_eq!(lacks.contains(&slot), is_same && !is_probed(slot as u64), "{journal}: slot {slot}");
            assert!(lacks.contains(&slot) || written == expected, "{journal}: slot {slot}");
        }
        let ReadOutcome::Stored(second) = place.store(&image) else { panic!() };
        assert_eq!(second.content.length, content.len() as u64);
        place.assert_holds(&content);
    }
}

#[test]
fn an_image_that_lacks_chunks_is_stored_in_the_same_bytes_as_a_full_one() {
    let place = Place::new("DELETE");
    let first = place.store_first();
    // What is copied stands in chunks that stay as they are.
    place.change("CREATE TABLE u AS SELECT x FROM t WHERE id BETWEEN 200 AND 300");
    let content = place.content();
    let costs = [true, false].map(|lacks| {
        let place = place.copy();
        let before = place.stored_bytes();
        let image = if lacks { place.capture_after(first) } else { place.capture(None) };
        assert_eq!(!left_out(&image).is_empty(), lacks);
        assert!(matches!(place.store_against(&image, Some(first)), ReadOutcome::Stored(_)));
        place.assert_holds(&content);
        place.stored_bytes() - before
    });
    assert_eq!(costs[0], costs[1]);
    assert!(costs[0] < 60_000, "{} bytes for 2 MB that the file has already", costs[0]);
}

#[test]
fn nothing_is_left_out_once_a_chunk_is_lost_and_what_is_lost_meanwhile_is_noticed() {
    let place = Place::new("DELETE");
    let first = place.store_first();
    place.change("UPDATE t SET x = 'another' WHERE id = 77");
    let content = place.content();
    let image = place.capture_after(first);
    let lacking = left_out(&image)[0];
    let lost = BlobId::of_chunk(content.chunks(CHUNK_SIZE).nth(lacking).unwrap());
    place.repository.index().distrust(&[lost.prefix()]).unwrap();
    assert_eq!(place.store(&image), ReadOutcome::Changed, "it was stored without what it lacks");
    let image = place.capture_after(first);
    assert_eq!(left_out(&image), [0; 0]);
    assert!(matches!(place.store_against(&image, Some(first)), ReadOutcome::Stored(_)));
    place.assert_holds(&content);
}

#[test]
fn only_large_images_that_sqlite_does_not_check_lack_anything() {
    let place = Place::new("DELETE");
    let first = place.store_first();
    place.change("UPDATE t SET x = 'another' WHERE id = 77");
    for (check, written_in_full, lacks) in
        [(CheckImage::Later, 0, true), (CheckImage::Later, 1 << 30, false), (CheckImage::Now, 0, false)]
    {
        let live = place.live();
        let request = DatabaseRequest { check, written_in_full, ..in_tree(&live, b"live.db", check) };
        let captured =
            database::capture(&place.repository, &request, Patience::new(&Silent, None), Some(first), &mut |_| Ok(()));
        let PendingDatabase::Captured { captured, .. } = captured.unwrap() else { panic!() };
        let DatabaseContent::Image(image) = captured.content else { panic!() };
        assert_eq!(!left_out(&image).is_empty(), lacks, "{check:?} {written_in_full}");
        let passes = integrity_check(&image.file) == CheckOutcome::Ok;
        assert_eq!(passes, !lacks, "{check:?} {written_in_full}");
    }
}

#[test]
fn what_is_asked_while_writers_wait_takes_no_longer_than_they_may() {
    let place = Place::new("DELETE");
    let earlier = PreviousImage::of(&place.repository, place.store_first(), Patience::new(&Silent, None)).unwrap();
    let block = BlockLimit { most: Some(Duration::from_millis(100)), since: None };
    let forever = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n";
    let mut witness = |connection: &Connection| connection.query_row(forever, [], |_| Ok(()));
    let scratch = place.repository.scratch().unwrap();
    let options = ImageOptions { block, ..OPTIONS };
    let refused = capture_image(&place.live(), scratch, options, earlier.as_ref(), &mut witness).map(drop);
    let refused_live = read_live(&place.live(), options.deadline, block, witness).map(drop);
    for refused in [refused, refused_live] {
        let Err(Error::Changing(advice)) = refused else { panic!("{refused:?}") };
        assert!(advice.contains("--max-block"), "{advice}");
    }
    assert_eq!(fs::read_dir(scratch).unwrap().filter(|entry| is_image(entry.as_ref().unwrap())).count(), 0);
}

fn is_image(entry: &fs::DirEntry) -> bool {
    entry.file_name().to_string_lossy().starts_with("image-")
}
