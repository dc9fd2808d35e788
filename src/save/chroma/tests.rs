//! Stores made by hand, at rest and on the move, captured through the whole of a create.

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use rusqlite::Connection;
use tempfile::TempDir;

use super::records::tests::SCHEMA;
use super::segment::tests::write;
use super::store_database::Answer;
use super::*;
use crate::format::manifest::{SnapshotKind, SourceRecord, SourceState};
use crate::progress::{Phase, Progress, Silent};
use crate::save::capturing::tests::with_capturing;
use crate::save::database::CheckImage;
use crate::save::{CreateOptions, CreateReport, Effort, LiveSources, ReadPolicy, WriterPolicy, create};
use crate::store::file_table::TableReader;
use crate::store::pieces::{Piece, Pieces};
use crate::store::{BlobReader, LockWait, Repository};

const SEGMENT: &str = "vectors";

struct Service {
    directory: TempDir,
    repository: Repository,
}

impl Service {
    /// A store with one segment whose files have so many elements.
    fn new(elements: u32) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let at = |path: &str| directory.path().join(path);
        fs::create_dir_all(at("chroma")).unwrap();
        Connection::open(at("app.db")).unwrap().execute_batch("CREATE TABLE t(x)").unwrap();
        let connection = Connection::open(at("chroma/chroma.sqlite3")).unwrap();
        connection.execute_batch(SCHEMA).unwrap();
        connection.execute("INSERT INTO max_seq_id VALUES('vectors', ?1)", [elements]).unwrap();
        drop(connection);
        let repository = Repository::open_or_create(&at("repo"), LockWait(Duration::from_secs(5))).unwrap();
        let service = Self { directory, repository };
        write(&service.segment(SEGMENT), elements.into());
        service
    }

    fn chroma(&self) -> PathBuf {
        self.directory.path().join("chroma")
    }

    fn segment(&self, name: &str) -> PathBuf {
        self.chroma().join(name)
    }

    fn connect(&self) -> Connection {
        let connection = Connection::open(self.chroma().join("chroma.sqlite3")).unwrap();
        connection.busy_timeout(Duration::from_secs(20)).unwrap();
        connection
    }

    /// Adds vectors as Chroma persists them: first the files, then how far they reach.
    fn persist(&self, elements: u32) {
        write(&self.segment(SEGMENT), elements.into());
        self.connect().execute("UPDATE max_seq_id SET seq_id = ?1 WHERE segment_id = 'vectors'", [elements]).unwrap();
    }

    fn options(&self, writers: WriterPolicy) -> CreateOptions {
        let at = |path: &str| self.directory.path().join(path);
        CreateOptions {
            sources: LiveSources { db: at("app.db"), registry: at("none.json"), chroma: Some(self.chroma()) },
            include_chroma: true,
            check_trees: false,
            read_policy: ReadPolicy::Changed,
            effort: Effort::Fast,
            writers,
            kind: SnapshotKind::Ordinary,
        }
    }

    fn create(&self) -> CreateReport {
        create(&self.repository, &self.options(WriterPolicy::default()), &Silent).unwrap()
    }

    fn frozen(&self, max_block: Option<Duration>) -> CreateReport {
        let writers = WriterPolicy { freeze: Freeze::Yes, max_block, ingest_lock: None };
        create(&self.repository, &self.options(writers), &Silent).unwrap()
    }

    /// How many elements the captured files have, and how far the captured database says that they reach.
    fn captured(&self, report: &CreateReport) -> (u64, u64) {
        let to = TempDir::new_in(self.directory.path()).unwrap();
        fs::create_dir(to.path().join(SEGMENT)).unwrap();
        let mut reader = BlobReader::new(&self.repository);
        let mut table = TableReader::of(&chroma(report).table);
        while let Some(entry) = table.next(&mut reader, |_| ()).unwrap().unwrap() {
            if let EntryKind::File(file) = &entry.kind {
                let mut bytes = vec![0; file.content.length as usize];
                let mut pieces = Pieces::of(&file.content);
                while let Some(piece) = pieces.next(&mut reader, |_| ()).unwrap() {
                    let Piece::Chunk { id, offset, length } = piece else { continue };
                    let place = offset as usize..offset as usize + length;
                    bytes[place].copy_from_slice(&reader.chunk(&id).unwrap().unwrap());
                }
                fs::write(to.path().join(OsStr::from_bytes(&entry.path)), bytes).unwrap();
            }
        }
        let SegmentFiles::Index { elements, suspicions } = segment::examine(&to.path().join(SEGMENT), SEGMENT).unwrap()
        else {
            panic!("no index")
        };
        assert_eq!(suspicions, []);
        let database = Connection::open(to.path().join("chroma.sqlite3")).unwrap();
        let watermarks = records::watermarks(&database).unwrap().unwrap();
        (elements, watermarks[SEGMENT])
    }
}

fn chroma(report: &CreateReport) -> &SourceRecord {
    report.manifest.source(CHROMA).unwrap()
}

#[test]
fn a_store_at_rest_is_proven_and_stays_so_unread() {
    let service = Service::new(40);
    let first = service.create();
    assert_eq!(chroma(&first).consistency, Consistency::Proven);
    assert_eq!(chroma(&first).files, 6);
    assert!(first.validated, "{:?}", first.validation_errors);
    thread::sleep(Duration::from_millis(3100));
    let settled = service.create();
    let again = service.create();
    assert_eq!(chroma(&again).table, chroma(&settled).table);
    assert_eq!((chroma(&again).consistency.clone(), again.chunks_new), (Consistency::Proven, 0));
}

#[test]
fn dropped_collections_and_segments_never_persisted_are_normal() {
    let service = Service::new(40);
    write(&service.segment("dropped"), 3);
    fs::write(service.segment("dropped").join("data_level0.bin"), b"torn").unwrap();
    fs::create_dir(service.segment("empty")).unwrap();
    service.connect().execute_batch("INSERT INTO segments VALUES('young', 'hnsw', 'VECTOR', 'd')").unwrap();
    assert_eq!(chroma(&service.create()).consistency, Consistency::Proven);
}

#[test]
fn an_index_that_a_query_began_is_normal_and_one_that_lost_its_list_of_ids_is_not() {
    let service = Service::new(40);
    service.connect().execute_batch("INSERT INTO segments VALUES('queried', 'hnsw', 'VECTOR', 'd')").unwrap();
    write(&service.segment("queried"), 0);
    fs::remove_file(service.segment("queried").join("index_metadata.pickle")).unwrap();
    let begun = service.create();
    assert_eq!((chroma(&begun).consistency.clone(), begun.validated), (Consistency::Proven, true));
    service.connect().execute_batch("INSERT INTO max_seq_id VALUES('queried', 7)").unwrap();
    let reasons = vec!["missing: queried/index_metadata.pickle does not exist".to_owned()];
    assert_eq!(chroma(&service.create()).consistency, Consistency::Suspect(reasons));
}

#[test]
fn files_that_disagree_are_captured_and_suspected_until_they_agree_again() {
    let service = Service::new(40);
    fs::write(service.segment(SEGMENT).join("length.bin"), b"torn").unwrap();
    for _ in 0..2 {
        let torn = service.create();
        let Consistency::Suspect(reasons) = &chroma(&torn).consistency else { panic!("{torn:?}") };
        assert!(reasons.len() == 1 && reasons[0].starts_with("wrong_size: vectors/length.bin "), "{reasons:?}");
        assert_eq!(torn.validation_errors, [format!("chroma_inconsistent: {}", reasons[0])]);
        assert_eq!(torn.metadata.chroma_consistency.as_deref(), Some("suspect"));
    }
    // The database does not change, so that only the files tell that a new verdict is due.
    write(&service.segment(SEGMENT), 40);
    assert_eq!(chroma(&service.create()).consistency, Consistency::Proven);
}

#[test]
fn files_that_went_while_the_database_stayed_as_it_was_are_missed() {
    let service = Service::new(40);
    let rows = (1..=40).map(|n| format!("INSERT INTO embeddings VALUES({n}, 'metadata', 'd{n}', {n});"));
    service.connect().execute_batch(&rows.collect::<String>()).unwrap();
    service.create();
    thread::sleep(Duration::from_millis(3100));
    assert_eq!(chroma(&service.create()).consistency, Consistency::Proven);
    // Nothing is left to read that was not known before.
    fs::remove_file(service.segment(SEGMENT).join("index_metadata.pickle")).unwrap();
    let torn = service.create();
    let reasons = vec!["missing: vectors/index_metadata.pickle does not exist".to_owned()];
    assert_eq!(chroma(&torn).consistency, Consistency::Suspect(reasons));
    fs::remove_dir_all(service.segment(SEGMENT)).unwrap();
    let hollow = service.create();
    let Consistency::Suspect(reasons) = &chroma(&hollow).consistency else { panic!("{hollow:?}") };
    assert!(is_loss(&reasons[0]) && reasons[0].contains(" 40 vectors"), "{reasons:?}");
}

#[test]
fn a_database_that_came_does_not_stand_for_a_file_that_went() {
    let service = Service::new(40);
    service.create();
    thread::sleep(Duration::from_millis(3100));
    service.create();
    fs::remove_file(service.segment(SEGMENT).join("index_metadata.pickle")).unwrap();
    Connection::open(service.chroma().join("other.db")).unwrap().execute_batch("CREATE TABLE t(x)").unwrap();
    let torn = service.create();
    assert_eq!(chroma(&torn).files, 6);
    assert!(matches!(chroma(&torn).consistency, Consistency::Suspect(_)), "{torn:?}");
}

#[test]
fn a_store_whose_database_went_is_suspected_until_it_is_back_and_a_tree_that_was_none_is_not() {
    let service = Service::new(40);
    let database = service.chroma().join("chroma.sqlite3");
    let aside = service.directory.path().join("aside.sqlite3");
    assert_eq!(chroma(&service.create()).consistency, Consistency::Proven);
    fs::rename(&database, &aside).unwrap();
    let lose: [&dyn Fn(); 4] =
        [&|| (), &|| fs::write(&database, b"").unwrap(), &|| fs::write(&database, [7; 5000]).unwrap(), &|| {
            std::os::unix::fs::symlink(&aside, &database).unwrap()
        }];
    for lose in lose {
        let _ = fs::remove_file(&database);
        lose();
        let torn = service.create();
        let Consistency::Suspect(reasons) = &chroma(&torn).consistency else { panic!("{torn:?}") };
        assert!(reasons.len() == 1 && is_loss(&reasons[0]) && !torn.validated, "{reasons:?}");
    }
    // Also after a snapshot of a tree that was no store.
    fs::remove_file(&database).unwrap();
    Connection::open(&database).unwrap().execute_batch("CREATE TABLE t(x)").unwrap();
    assert_eq!(chroma(&service.create()).consistency, Consistency::Unproven);
    fs::write(&database, b"").unwrap();
    assert!(matches!(chroma(&service.create()).consistency, Consistency::Suspect(_)));
    fs::remove_file(&database).unwrap();
    fs::rename(&aside, &database).unwrap();
    assert_eq!(chroma(&service.create()).consistency, Consistency::Proven);

    // Nor need it ever have been sound.
    let torn = Service::new(40);
    fs::write(torn.segment(SEGMENT).join("length.bin"), b"torn").unwrap();
    torn.create();
    fs::remove_file(torn.chroma().join("chroma.sqlite3")).unwrap();
    let Consistency::Suspect(reasons) = chroma(&torn.create()).consistency.clone() else { panic!() };
    assert!(is_loss(&reasons[0]), "{reasons:?}");

    let plain = Service::new(40);
    fs::remove_file(plain.chroma().join("chroma.sqlite3")).unwrap();
    for _ in 0..2 {
        assert_eq!(chroma(&plain.create()).consistency, Consistency::Unproven, "it never was a store");
    }
}

#[test]
fn files_behind_a_purged_queue_are_a_loss() {
    let service = Service::new(40);
    let rows: String =
        (1..=50).map(|n| format!("INSERT INTO embeddings VALUES({n}, 'metadata', 'd{n}', {n});")).collect();
    service.connect().execute_batch(&rows).unwrap();
    let report = service.create();
    let Consistency::Suspect(reasons) = &chroma(&report).consistency else { panic!("{report:?}") };
    assert!(is_loss(&reasons[0]) && reasons[0].contains(" 10 vectors"), "{reasons:?}");
}

#[test]
fn a_tree_without_the_tables_of_chroma_is_captured_as_any_tree() {
    let service = Service::new(40);
    service.connect().execute_batch("DROP TABLE max_seq_id").unwrap();
    let report = service.create();
    assert_eq!((chroma(&report).state, &chroma(&report).consistency), (SourceState::Captured, &Consistency::Unproven));
}

#[test]
fn what_is_persisted_all_the_time_is_captured_of_one_moment_or_not_at_all() {
    let service = Service::new(1);
    let stop = AtomicBool::new(false);
    let reports: Vec<_> = thread::scope(|scope| {
        scope.spawn(|| {
            for elements in (2..400).take_while(|_| !stop.load(Ordering::SeqCst)) {
                service.persist(elements);
                thread::sleep(Duration::from_millis(if elements % 4 == 0 { 450 } else { 20 }));
            }
        });
        let reports = (0..6).map(|_| service.create()).collect();
        stop.store(true, Ordering::SeqCst);
        reports
    });
    let whole: Vec<_> = reports.iter().filter(|report| chroma(report).state == SourceState::Captured).collect();
    assert!(!whole.is_empty());
    for report in whole {
        assert_eq!(chroma(report).consistency, Consistency::Proven);
        let (elements, watermark) = service.captured(report);
        assert_eq!(elements, watermark);
    }
    assert!(reports.iter().any(|report| chroma(report).files > 0 && service.captured(report).0 > 1));
}

/// Writes a file of a segment whenever something was read.
struct Restless<'a>(&'a Service);

impl Progress for Restless<'_> {
    fn phase(&self, _: Phase, _: Option<u64>) {}

    fn advance(&self, _: u64) {
        fs::write(self.0.segment(SEGMENT).join("link_lists.bin"), b"again").unwrap();
    }

    fn finish(&self) {}

    fn interrupted(&self) -> bool {
        false
    }
}

#[test]
fn a_store_that_never_stands_still_is_left_out_and_the_rest_published() {
    let service = Service::new(2);
    let report = create(&service.repository, &service.options(WriterPolicy::default()), &Restless(&service)).unwrap();
    assert_eq!(chroma(&report).state, SourceState::Changing);
    assert!(report.left_out().is_some() && report.metadata.db_size_bytes > 0);
    assert!(report.metadata.vector_store_note.contains("kept changing"), "{}", report.metadata.vector_store_note);
    assert_eq!(report.metadata.chroma_consistency, None);
}

/// Counts the bytes that are read, and moves one segment when the other has been.
struct Meddler<'a> {
    service: &'a Service,
    bytes: AtomicU64,
    meddled: AtomicBool,
}

impl Progress for Meddler<'_> {
    fn phase(&self, _: Phase, _: Option<u64>) {}

    fn advance(&self, bytes: u64) {
        let before = self.bytes.fetch_add(bytes, Ordering::SeqCst);
        if before + bytes > 1_000_000 && !self.meddled.swap(true, Ordering::SeqCst) {
            write(&self.service.segment("zzz"), 9);
        }
    }

    fn finish(&self) {}

    fn interrupted(&self) -> bool {
        false
    }
}

#[test]
fn only_the_segment_that_moved_is_read_again() {
    let service = Service::new(1000);
    write(&service.segment("zzz"), 7);
    let meddler = Meddler { service: &service, bytes: AtomicU64::new(0), meddled: AtomicBool::new(false) };
    let report = create(&service.repository, &service.options(WriterPolicy::default()), &meddler).unwrap();
    assert_eq!(chroma(&report).state, SourceState::Captured);
    let (read, stored) = (meddler.bytes.into_inner(), report.logical_bytes());
    assert!(read < stored + 100_000, "{read} bytes were read to capture {stored}");
}

#[test]
fn frozen_writers_wait_until_the_files_are_read_and_that_is_reported() {
    let service = Service::new(40);
    let stop = AtomicBool::new(false);
    let (reports, longest) = thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let connection = service.connect();
            let mut longest = Duration::ZERO;
            let mut number = 100;
            while !stop.load(Ordering::SeqCst) {
                let began = Instant::now();
                let row = "INSERT INTO embeddings_queue VALUES(?1, 0, 'persistent://d/c', 'x', NULL)";
                connection.execute(row, [number]).unwrap();
                (longest, number) = (longest.max(began.elapsed()), number + 1);
                thread::sleep(Duration::from_millis(5));
            }
            longest
        });
        let reports: Vec<_> = (0..3).map(|_| service.frozen(Some(Duration::from_secs(20)))).collect();
        stop.store(true, Ordering::SeqCst);
        (reports, writer.join().unwrap())
    });
    for report in &reports {
        assert_eq!((chroma(report).state, &chroma(report).consistency), (SourceState::Captured, &Consistency::Proven));
    }
    let reported = reports.iter().map(|report| chroma(report).writer_blocked_microseconds).max().unwrap();
    assert!(reported > 0 && longest < Duration::from_secs(20), "{longest:?} {reported}");
}

#[test]
fn a_freeze_that_would_take_too_long_leaves_the_store_out_with_advice() {
    let service = Service::new(40);
    service.connect().pragma_update(None, "journal_mode", "wal").unwrap();
    let report = service.frozen(Some(Duration::ZERO));
    let note = &report.metadata.vector_store_note;
    assert!(
        chroma(&report).state == SourceState::Changing && note.contains("--freeze") && note.contains("--max-block"),
        "{note}"
    );
    assert!(chroma(&report).writer_blocked_microseconds > 0, "writers waited all the same");
    assert_eq!(service.frozen(None).left_out(), None);
}

#[test]
fn a_database_without_the_tables_of_a_store_is_asked_and_not_copied() {
    let service = Service::new(40);
    let database = StoreDatabase::at(service.chroma().join("chroma.sqlite3"));
    assert!(matches!(database.live(BlockLimit::default(), records::watermarks).unwrap(), Answer::Store(_)));
    service.connect().execute_batch("DROP TABLE max_seq_id").unwrap();
    assert_eq!(database.live(BlockLimit::default(), records::watermarks).unwrap(), Answer::NoStore);
    with_capturing(&service.repository, Effort::Fast, |capturing| {
        let scratch = service.repository.scratch().unwrap();
        let touched = || fs::metadata(scratch).unwrap().modified().unwrap();
        let before = touched();
        thread::sleep(Duration::from_millis(20));
        let options = TreeOptions { check: CheckImage::Later, freeze: Freeze::No };
        assert!(store(capturing, &service.chroma(), options).unwrap().is_none());
        assert_eq!(touched(), before, "an image was made");
    });
    assert_eq!(chroma(&service.create()).consistency, Consistency::Unproven, "captured as any other tree");
}
