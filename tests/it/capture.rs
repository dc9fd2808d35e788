//! What create tells of how it captured: proven, suspect, raw, or left out; and what restore makes of it.

use std::fs::{self, File};

use serde_json::{Value, json};

use crate::support::{Journal, Runtime};

const CONFIRMED: &str = "--confirm-service-stopped";

/// What a document says of a source.
fn source<'d>(document: &'d Value, name: &str) -> &'d Value {
    document["sources"].as_array().unwrap().iter().find(|source| source["name"] == name).unwrap()
}

#[test]
fn a_proven_store_is_told_as_such_by_create_list_and_show() {
    let runtime = Runtime::new();
    let created = runtime.vecsnap(&["create", "--chroma", "--json"]).json();
    for name in ["db", "registry", "chroma"] {
        assert_eq!(source(&created, name)["consistency"], "proven", "{created:#}");
    }
    assert!(source(&created, "chroma")["writer_blocked_s"].as_f64().unwrap() > 0.0);
    let shown = runtime.vecsnap(&["show", "latest", "--json"]).json();
    assert_eq!(source(&shown, "chroma")["consistency"], "proven");
    let listed = runtime.vecsnap(&["list", "--json"]).json();
    assert_eq!(listed["backups"][0]["metadata"]["chroma_consistency"], "proven");
}

#[test]
fn a_store_of_two_moments_is_kept_suspected_and_restored_with_a_warning() {
    let runtime = Runtime::new();
    runtime.store().write_header(299);
    let created = runtime.vecsnap(&["create", "--chroma", "--json"]).run().exits(3).says(&["wrong_size"]).json();
    assert_eq!((&created["validated"], &source(&created, "chroma")["consistency"]), (&json!(false), &json!("suspect")));
    assert_eq!(source(&created, "chroma")["consistency_doubts"].as_array().unwrap().len(), 3, "{created:#}");
    let stamp = created["stamp"].as_str().unwrap();
    let validated = runtime.vecsnap(&["validate", stamp, "--json"]).run().exits(3).json();
    assert_eq!((&validated["chroma_ok"], &validated["db_ok"]), (&json!(false), &json!(true)));
    let error = validated["errors"][0].as_str().unwrap();
    assert!(error.starts_with("chroma_inconsistent: wrong_size: "), "{error}");
    let listed = runtime.vecsnap(&["list", "--json"]).json();
    assert_eq!(listed["backups"][0]["metadata"]["chroma_consistency"], "suspect");
    runtime
        .vecsnap(&["restore", stamp, CONFIRMED, "--no-pre-snapshot"])
        .run()
        .exits(0)
        .says(&["in spite of this doubt"]);
}

#[test]
fn a_store_behind_its_purged_queue_is_restored_only_by_one_who_accepts_that() {
    let runtime = Runtime::new();
    // As after a restore of files older than the database: its queue holds nothing that they lack.
    let store = rusqlite::Connection::open(runtime.store().database()).unwrap();
    store
        .execute_batch(
            "CREATE TABLE embeddings_queue(seq_id INTEGER PRIMARY KEY, topic TEXT NOT NULL, id TEXT NOT NULL);
             INSERT INTO segments VALUES('meta', 'urn:chroma:segment/metadata/sqlite', 'METADATA', 'documents');
             UPDATE embeddings SET segment_id = 'meta';
             INSERT INTO embeddings SELECT id + 300, 'meta', 'more-' || id, id + 300, '' FROM embeddings WHERE id < 7;
             INSERT INTO max_seq_id VALUES('meta', 306); UPDATE max_seq_id SET seq_id = 306;",
        )
        .unwrap();
    drop(store);
    let created = runtime.vecsnap(&["create", "--chroma", "--json"]).run().exits(3).json();
    let doubt = source(&created, "chroma")["consistency_doubts"][0].as_str().unwrap();
    assert!(doubt.starts_with("behind_queue: ") && doubt.contains(" 7 vectors"), "{doubt}");
    let stamp = created["stamp"].as_str().unwrap();
    let before = runtime.live_state();
    let refused = ["behind_queue", "--accept-suspect"];
    runtime.vecsnap(&["restore", stamp, CONFIRMED]).run().exits(3).prints_nothing().says(&refused);
    runtime.vecsnap(&["restore", stamp, "--dry-run"]).run().exits(3).says(&refused);
    runtime.live_state().assert_same(&before, "a refused restore");
    runtime.vecsnap(&["restore", stamp, CONFIRMED, "--no-chroma", "--no-pre-snapshot"]).run().exits(0);
    runtime.export(stamp);
    runtime.restore(stamp, &["--accept-suspect"]);
    runtime.vecsnap(&["restore", "--undo", CONFIRMED]).run().exits(0);
}

#[test]
fn a_damaged_database_is_kept_as_raw_bytes_and_another_kind_of_file_is_refused() {
    let runtime = Runtime::with_journal(Journal::Rollback);
    let mut bytes = fs::read(runtime.db()).unwrap();
    bytes[16..100].fill(0xEE);
    fs::write(runtime.db(), &bytes).unwrap();
    let created = runtime.vecsnap(&["create", "--json"]).run().exits(3).says(&["captured as raw bytes"]).json();
    assert_eq!((&created["validated"], &source(&created, "db")["state"]), (&json!(false), &json!("captured_raw")));
    assert!(created["validation_errors"][0].as_str().unwrap().starts_with("db_inconsistent: "), "{created:#}");
    assert_eq!(source(&created, "registry")["state"], "captured");
    let drill = runtime.vecsnap(&["drill", "--json"]).run().exits(3).json();
    assert!(drill["drills"][0]["errors"][0].as_str().unwrap().starts_with("db_inconsistent: "), "{drill:#}");
    let exported = runtime.export(created["stamp"].as_str().unwrap());
    assert_eq!(fs::read(exported.db()).unwrap(), bytes);

    fs::write(runtime.db(), "{}").unwrap();
    let refused = runtime.vecsnap(&["create", "--json"]).run().exits(1).prints_nothing();
    refused.says(&["atocore.db", "starts with \"{}\""]);
}

#[test]
fn writers_are_held_off_no_longer_than_allowed() {
    let runtime = Runtime::new();
    let large = "CREATE TABLE large(x); INSERT INTO large VALUES(zeroblob(8000000))";
    rusqlite::Connection::open(runtime.store().database()).unwrap().execute_batch(large).unwrap();
    let created = runtime.vecsnap(&["create", "--chroma", "--max-block", "0", "--json"]).run().exits(4).json();
    assert_eq!(
        (&source(&created, "db")["state"], &source(&created, "chroma")["state"]),
        (&json!("captured"), &json!("changing"))
    );
    assert_eq!((&created["chroma_snapshot_path"], &created["validated"]), (&json!(""), &json!(true)));
    let note = created["vector_store_note"].as_str().unwrap();
    assert!(note.contains("--max-block") && note.contains("WAL"), "{note}");

    runtime.connect().execute_batch(large).unwrap();
    let before = runtime.snapshots();
    runtime
        .vecsnap(&["create", "--max-block", "0"])
        .run()
        .exits(4)
        .prints_nothing()
        .says(&["--max-block", "atocore.db"]);
    assert_eq!(runtime.snapshots(), before, "a snapshot without the database is none");
    runtime.create(&["--chroma", "--freeze", "--max-block", "60"]);
    runtime.vecsnap(&["create", "--freeze"]).run().exits(2).says(&["--chroma"]);
}

#[test]
fn the_ingestion_lock_is_made_taken_and_waited_for() {
    let runtime = Runtime::new();
    let lock = runtime.path().join("ingest.lock");
    let call = || runtime.vecsnap(&["create", "--chroma", "--lock-wait", "1", "--ingest-lock"]).arg(&lock);
    call().run().exits(0);
    let service = File::open(&lock).unwrap();
    service.lock().unwrap();
    call().run().exits(6).says(&["ingest.lock"]);
    service.unlock().unwrap();
    call().run().exits(0);
    assert!(service.try_lock().is_ok(), "the lock outlived the create");
}
