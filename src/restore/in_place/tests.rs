//! Restores of a made-up runtime, through the library.

mod runtime;
mod way_back;

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::Path;

use rusqlite::Connection;

use super::*;
use crate::progress::Silent;
use crate::restore::export;
use crate::store::verdicts::Recheck;
use crate::store::{Access, layout, snapshots};

use runtime::{Counts, Runtime, StopsWhileWriting, WAIT, assert_same, differing_blocks, noise, without_counters};

#[test]
fn everything_comes_back_in_place_and_can_be_undone() {
    let runtime = Runtime::new();
    let before = runtime.picture();
    let stamp = runtime.create();
    runtime.change();
    let changed = runtime.picture();
    let inode = |path: &str| fs::metadata(runtime.at(path)).unwrap().ino();
    let inodes = || ["db/a.db", "registry.json", "chroma", "chroma/segment/data_level0.bin"].map(inode);
    let old_inodes = inodes();

    let report = runtime.restore(Goal::Snapshot(stamp)).unwrap();
    assert!(report.db_restored && report.registry_restored && report.chroma_restored);
    assert_eq!(report.integrity, Integrity::Ok);
    assert_eq!(inodes(), old_inodes);
    assert_same(&runtime.picture(), &before);
    assert!(fs::metadata(runtime.at("chroma/sparse.bin")).unwrap().blocks() * 512 < 1 << 20);

    let undone = runtime.restore(Goal::Undo).unwrap();
    assert_eq!(Some(undone.stamp), report.pre_restore_snapshot);
    assert_eq!(undone.pre_restore_snapshot, None);
    assert_same(&runtime.picture(), &changed);
    let stamps = snapshots::manifests(&runtime.repository()).unwrap().len();
    assert_eq!(stamps, 2, "undoing took a snapshot of its own");
}

#[test]
fn only_blocks_that_differ_are_written() {
    let runtime = Runtime::new();
    let old = runtime.picture();
    let stamp = runtime.create();
    Connection::open(runtime.at("db/a.db")).unwrap().execute_batch("UPDATE t SET x = 'y' WHERE id = 1000").unwrap();
    let data = fs::File::options().write(true).open(runtime.at("chroma/segment/data_level0.bin")).unwrap();
    data.write_all_at(b"changed", 300_000).unwrap();
    drop(data);
    let new = runtime.picture();
    let differ: u64 = old.iter().map(|(path, seen)| differing_blocks(&seen.bytes, &new[path].bytes)).sum();
    assert!(differ >= 2);
    let report = runtime.restore(Goal::Snapshot(stamp)).unwrap();
    let databases = 2;
    let most = (differ as f64 * 1.02) as u64 + 2 * databases;
    assert!(report.blocks_written <= most, "{} blocks written for {differ} that differ", report.blocks_written);
    assert_same(&runtime.picture(), &old);
}

#[test]
fn no_phase_reports_more_than_it_announced() {
    let runtime = Runtime::new();
    let stamp = runtime.create();
    runtime.change();
    let counts = Counts::default();
    restore(&runtime.repository(), &runtime.options(Goal::Snapshot(stamp)), &counts).unwrap();
    let phases = counts.phases();
    assert!(phases.iter().any(|counted| counted.phase == Phase::Writing && counted.reported > 0), "{phases:?}");
    for counted in phases {
        assert!(counted.announced.is_none_or(|announced| counted.reported <= announced), "{counted:?}");
    }
}

#[test]
fn an_interruption_at_any_point_is_noticed_and_can_be_resumed_or_undone() {
    let runtime = Runtime::new();
    let before = runtime.picture();
    let stamp = runtime.create();
    runtime.change();
    let changed = runtime.picture();
    let repository = runtime.repository();
    let way_back = {
        let report = runtime.restore(Goal::Snapshot(stamp)).unwrap();
        runtime.restore(Goal::Undo).unwrap();
        report.pre_restore_snapshot.unwrap()
    };
    let mut interruptions = 0;
    for checks in (0..).step_by(3) {
        // The snapshot of the changed state exists, so none is taken again.
        let options = RestoreOptions { pre_snapshot: PreSnapshot::Skip, ..runtime.options(Goal::Snapshot(stamp)) };
        match restore(&repository, &options, &StopsWhileWriting::after(checks)) {
            Ok(_) => break,
            Err(Error::RestoreInterrupted { .. }) => interruptions += 1,
            Err(error) => panic!("{error}"),
        }
        let again = restore(&repository, &options, &Silent);
        assert!(matches!(&again, Err(Error::Refused(text)) if text.contains("--resume")), "{again:?}");
        assert!(matches!(runtime.restore(Goal::Undo), Err(Error::Refused(_))), "there is no way back to go");
        // Interrupted once more while it is resumed.
        let resume = runtime.options(Goal::Resume);
        let _ = restore(&repository, &resume, &StopsWhileWriting::after(checks / 2));
        if intents::pending(&repository).unwrap().is_some() {
            restore(&repository, &resume, &Silent).unwrap();
        }
        assert_same(&runtime.picture(), &before);
        assert!(matches!(runtime.restore(Goal::Undo), Err(Error::Refused(_))), "that restore has no way back");
        restore(&repository, &RestoreOptions { goal: Goal::Snapshot(way_back), ..options }, &Silent).unwrap();
        assert_same(&runtime.picture(), &changed);
    }
    assert!(interruptions > 10, "only {interruptions} interruptions");
    assert_eq!(snapshots::manifests(&repository).unwrap().last().unwrap().stamp(), Some(way_back));
}

#[test]
fn an_interrupted_restore_and_an_interrupted_undo_are_undone() {
    let runtime = Runtime::new();
    let before = runtime.picture();
    let stamp = runtime.create();
    runtime.change();
    let changed = runtime.picture();
    let repository = runtime.repository();
    let stop = |goal, checks| {
        let outcome = restore(&repository, &runtime.options(goal), &StopsWhileWriting::after(checks));
        assert!(matches!(outcome, Err(Error::RestoreInterrupted { .. })), "{outcome:?}");
    };
    stop(Goal::Snapshot(stamp), 12);
    stop(Goal::Undo, 5);
    runtime.restore(Goal::Resume).unwrap();
    assert_same(&runtime.picture(), &changed);
    stop(Goal::Snapshot(stamp), 20);
    runtime.restore(Goal::Undo).unwrap();
    assert_same(&runtime.picture(), &changed);
    assert!(matches!(runtime.restore(Goal::Resume), Err(Error::Refused(_))), "an intent was left");
    runtime.restore(Goal::Snapshot(stamp)).unwrap();
    assert_same(&runtime.picture(), &before);
}

#[test]
fn while_a_restore_is_unfinished_no_database_can_be_read() {
    let runtime = Runtime::new();
    let stamp = runtime.create();
    runtime.change();
    let repository = runtime.repository();
    let outcome = restore(&repository, &runtime.options(Goal::Snapshot(stamp)), &StopsWhileWriting::after(15));
    assert!(matches!(outcome, Err(Error::RestoreInterrupted { .. })));
    for database in ["db/a.db", "chroma/chroma.sqlite3"] {
        let read =
            Connection::open(runtime.at(database)).unwrap().query_row("SELECT count(*) FROM t", [], |row| row.get(0));
        let read: rusqlite::Result<i64> = read;
        assert!(read.unwrap_err().to_string().contains("not a database"));
    }
    let options = CreateOptions {
        sources: runtime.live(),
        include_chroma: false,
        check_trees: false,
        read_policy: ReadPolicy::All,
        effort: Effort::default(),
        writers: Default::default(),
        kind: SnapshotKind::Ordinary,
    };
    assert!(matches!(save::create(&repository, &options, &Silent), Err(Error::Refused(_))));
    runtime.restore(Goal::Resume).unwrap();
}

#[test]
fn a_wiped_machine_restores_and_undoing_removes_what_was_absent() {
    let runtime = Runtime::new();
    let before = runtime.picture();
    let stamp = runtime.create();
    for gone in ["db", "chroma"] {
        fs::remove_dir_all(runtime.at(gone)).unwrap();
    }
    fs::remove_file(runtime.at("registry.json")).unwrap();
    let report = runtime.restore(Goal::Snapshot(stamp)).unwrap();
    assert_eq!(report.integrity, Integrity::Ok);
    assert_same(&runtime.picture(), &before);
    let undone = runtime.restore(Goal::Undo).unwrap();
    assert_eq!(undone.sources_removed, ["db", "registry", "chroma"]);
    assert!(!runtime.at("db/a.db").exists() && !runtime.at("registry.json").exists());
    assert_eq!(fs::read_dir(runtime.at("chroma")).unwrap().count(), 0);
}

#[test]
fn garbage_in_place_of_the_database_is_kept_and_comes_back_byte_for_byte() {
    let runtime = Runtime::new();
    let before = runtime.picture();
    let stamp = runtime.create();
    fs::write(runtime.at("db/a.db"), noise(7, 50_000)).unwrap();
    fs::write(runtime.at("db/a.db-wal"), noise(8, 5_000)).unwrap();
    fs::write(runtime.at("db/a.db-journal"), noise(9, 700)).unwrap();
    runtime.restore(Goal::Snapshot(stamp)).unwrap();
    assert_same(&runtime.picture(), &before);
    assert_eq!(fs::read_dir(runtime.at("db")).unwrap().count(), 1, "a sidecar was left");
    let undone = runtime.restore(Goal::Undo).unwrap();
    assert_eq!(undone.integrity, Integrity::Raw);
    assert_eq!(fs::read(runtime.at("db/a.db")).unwrap(), noise(7, 50_000));
    assert_eq!(fs::read(runtime.at("db/a.db-wal")).unwrap(), noise(8, 5_000));
    assert_eq!(fs::read(runtime.at("db/a.db-journal")).unwrap(), noise(9, 700));
    runtime.restore(Goal::Snapshot(stamp)).unwrap();
    assert_same(&runtime.picture(), &before);
}

#[test]
fn rows_in_a_log_are_in_the_way_back_and_the_log_is_gone() {
    let runtime = Runtime::new();
    let stamp = runtime.create();
    let left = runtime.at("left.db");
    {
        // What a killed service leaves: committed rows in the log alone.
        let service = Connection::open(runtime.at("db/a.db")).unwrap();
        service
            .execute_batch(
                "PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0; INSERT INTO t VALUES(99999, 'logged')",
            )
            .unwrap();
        for suffix in ["", "-wal"] {
            fs::copy(runtime.at(&format!("db/a.db{suffix}")), format!("{}{suffix}", left.display())).unwrap();
        }
    }
    for suffix in ["", "-wal"] {
        fs::copy(format!("{}{suffix}", left.display()), runtime.at(&format!("db/a.db{suffix}"))).unwrap();
    }
    let rows = || -> i64 {
        let connection = Connection::open(runtime.at("db/a.db")).unwrap();
        connection.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap()
    };
    runtime.restore(Goal::Snapshot(stamp)).unwrap();
    assert_eq!(fs::read_dir(runtime.at("db")).unwrap().count(), 1, "a sidecar was left");
    assert_eq!(rows(), 2000);
    runtime.restore(Goal::Undo).unwrap();
    assert_eq!(rows(), 2001);
}

#[test]
fn hard_links_are_refused_unless_they_are_to_be_broken() {
    let runtime = Runtime::new();
    let before = runtime.picture();
    let stamp = runtime.create();
    runtime.change();
    fs::hard_link(runtime.at("db/a.db"), runtime.at("copy.db")).unwrap();
    let copy = fs::read(runtime.at("copy.db")).unwrap();
    let changed = runtime.picture();
    let refused = runtime.restore(Goal::Snapshot(stamp));
    assert!(matches!(&refused, Err(Error::Refused(text)) if text.contains("--break-links")), "{refused:?}");
    assert_same(&runtime.picture(), &changed);
    let options = RestoreOptions { hard_links: HardLinkPolicy::Break, ..runtime.options(Goal::Snapshot(stamp)) };
    restore(&runtime.repository(), &options, &Silent).unwrap();
    assert_same(&runtime.picture(), &before);
    assert_eq!(fs::read(runtime.at("copy.db")).unwrap(), copy, "the other copy was changed");
}

#[test]
fn an_invalid_snapshot_is_refused_with_the_target_untouched() {
    let runtime = Runtime::new();
    let stamp = runtime.create();
    let packs = walkdir::WalkDir::new(runtime.at("backup/packs")).into_iter().flatten();
    let pack =
        packs.filter(|entry| entry.file_type().is_file()).max_by_key(|entry| entry.metadata().unwrap().len()).unwrap();
    let mut bytes = fs::read(pack.path()).unwrap();
    let middle = bytes.len() / 3;
    bytes[middle] ^= 1;
    fs::write(pack.path(), bytes).unwrap();
    runtime.change();
    let changed = runtime.picture();
    let refused = runtime.restore(Goal::Snapshot(stamp));
    let Err(Error::NotValid(text)) = &refused else { panic!("{refused:?}") };
    assert!(text.starts_with(&format!("backup {stamp} failed validation: chunk_corrupt: ")), "{text}");
    assert_same(&runtime.picture(), &changed);

    let report =
        export(&runtime.repository(), stamp, &runtime.at("out"), OwnerPolicy::Restore, InvalidPolicy::Refuse, &Silent)
            .unwrap();
    assert!(!report.unreadable.is_empty());
    assert!(report.unreadable.iter().all(|file| !file.path.exists()), "part of a file was left");
}

#[test]
fn a_store_that_sqlite_finds_damaged_is_refused_once_that_is_known() {
    let runtime = Runtime::new();
    let path = runtime.at("chroma/chroma.sqlite3");
    fs::File::options().write(true).open(path).unwrap().write_all_at(&[0xAA; 4000], 3 * 4096).unwrap();
    let before = runtime.picture();
    let stamp = runtime.create();
    fs::write(runtime.at("chroma/segment/length.bin"), noise(4, 100)).unwrap();
    runtime.restore(Goal::Snapshot(stamp)).unwrap();
    assert_same(&runtime.picture(), &before);

    let repository = runtime.repository();
    let manifest = gate::read_manifest(&repository, stamp).unwrap();
    let full = verify::VerifyOptions { depth: verify::Depth::Full, recheck: Recheck::IfUnknown };
    assert!(!verify::verify(&repository, &manifest, full, &Silent).unwrap().is_valid());
    let refused = restore(&repository, &runtime.options(Goal::Snapshot(stamp)), &Silent);
    let Err(Error::NotValid(text)) = &refused else { panic!("{refused:?}") };
    assert!(text.contains("chroma_inconsistent: chroma/chroma.sqlite3: "), "{text}");
    assert_same(&runtime.picture(), &before);
}

#[test]
fn links_planted_in_the_target_are_replaced_and_not_followed() {
    let runtime = Runtime::new();
    let before = runtime.picture();
    let stamp = runtime.create();
    fs::rename(runtime.at("chroma/segment"), runtime.at("outside")).unwrap();
    symlink("../outside", runtime.at("chroma/segment")).unwrap();
    fs::write(runtime.at("outside/length.bin"), b"somebody else's").unwrap();
    fs::remove_file(runtime.at("chroma/sparse.bin")).unwrap();
    symlink("../outside/length.bin", runtime.at("chroma/sparse.bin")).unwrap();
    runtime.restore(Goal::Snapshot(stamp)).unwrap();
    assert_same(&runtime.picture(), &before);
    assert_eq!(fs::read(runtime.at("outside/length.bin")).unwrap(), b"somebody else's");
}

#[test]
fn a_rehearsal_tells_what_would_be_done_and_touches_nothing() {
    let runtime = Runtime::new();
    let stamp = runtime.create();
    runtime.change();
    let changed = runtime.picture();
    let repository = Repository::open(&runtime.at("backup"), Access::Read, WAIT).unwrap().unwrap();
    let rehearsal = rehearse(&repository, &runtime.options(Goal::Snapshot(stamp)), &Silent).unwrap();
    assert_same(&runtime.picture(), &changed);
    assert_eq!(snapshots::manifests(&repository).unwrap().len(), 1);
    let chroma = &rehearsal.sources[2];
    assert_eq!((chroma.source.as_str(), &chroma.path), ("chroma", &runtime.at("chroma").canonicalize().unwrap()));
    let totals = &chroma.totals;
    assert_eq!((totals.created, totals.overwritten, totals.removed), (2, 2, 3));
    let removed: Vec<_> = totals.removed_names.iter().map(|name| String::from_utf8_lossy(name)).collect();
    assert_eq!(removed, ["link", "new", "new/deep", "new/deep/file", "segment/empty"]);
}

#[test]
fn without_chroma_it_stays_and_is_not_in_the_way_back() {
    let runtime = Runtime::new();
    let stamp = runtime.create();
    runtime.change();
    let changed = runtime.picture();
    let options = RestoreOptions { chroma: ChromaChoice::Skip, ..runtime.options(Goal::Snapshot(stamp)) };
    let report = restore(&runtime.repository(), &options, &Silent).unwrap();
    assert!(report.db_restored && !report.chroma_restored);
    let now = runtime.picture();
    assert_eq!(now[Path::new("chroma/segment/empty")], changed[Path::new("chroma/segment/empty")]);
    assert_ne!(now[Path::new("db/a.db")].bytes, changed[Path::new("db/a.db")].bytes);
    runtime.restore(Goal::Undo).unwrap();
    assert_same(&runtime.picture(), &changed);
}

#[test]
fn a_resumed_restore_must_be_about_the_same_paths() {
    let runtime = Runtime::new();
    let stamp = runtime.create();
    runtime.change();
    let repository = runtime.repository();
    let outcome = restore(&repository, &runtime.options(Goal::Snapshot(stamp)), &StopsWhileWriting::after(9));
    assert!(matches!(outcome, Err(Error::RestoreInterrupted { .. })));
    let mut elsewhere = runtime.options(Goal::Resume);
    elsewhere.targets.db = runtime.at("db/other.db");
    let refused = restore(&repository, &elsewhere, &Silent);
    let Err(Error::Refused(text)) = &refused else { panic!("{refused:?}") };
    assert!(text.contains("db/a.db") && text.contains("db/other.db"), "{text}");
    runtime.restore(Goal::Resume).unwrap();
}

#[test]
fn a_snapshot_is_written_elsewhere_as_plain_files() {
    let runtime = Runtime::new();
    let before = runtime.picture();
    let stamp = runtime.create();
    let repository = Repository::open(&runtime.at("backup"), Access::Read, WAIT).unwrap().unwrap();
    let report =
        export(&repository, stamp, &runtime.at("out/deep"), OwnerPolicy::Skip, InvalidPolicy::Refuse, &Silent).unwrap();
    assert_eq!(report.unreadable, []);
    let out = runtime.at("out/deep");
    for (path, seen) in &before {
        let written = match path.to_str().unwrap() {
            "registry.json" => out.join("config/registry.json"),
            _ => out.join(path),
        };
        let data = fs::symlink_metadata(&written).unwrap();
        assert_eq!((data.mode(), (data.mtime(), data.mtime_nsec())), (seen.mode, seen.mtime), "{path:?}");
        if data.is_file() {
            assert!(without_counters(fs::read(&written).unwrap()) == seen.bytes, "{path:?}");
        }
    }
    let metadata: serde_json::Value =
        serde_json::from_slice(&fs::read(out.join("backup-metadata.json")).unwrap()).unwrap();
    assert_eq!(metadata["db_snapshot_path"], out.join("db/a.db").to_str().unwrap());
    assert_eq!(metadata["backup_root"], out.to_str().unwrap());
    let again = export(&repository, stamp, &out, OwnerPolicy::Skip, InvalidPolicy::Refuse, &Silent);
    assert!(matches!(again, Err(Error::Refused(_))), "{again:?}");
}

#[test]
fn a_snapshot_is_restored_under_other_names() {
    let runtime = Runtime::new();
    let stamp = runtime.create();
    fs::write(runtime.at("db/a.db"), noise(7, 5000)).unwrap();
    fs::write(runtime.at("db/a.db-wal"), noise(8, 5000)).unwrap();
    let way_back = runtime.restore(Goal::Snapshot(stamp)).unwrap().pre_restore_snapshot.unwrap();
    let mut options = runtime.options(Goal::Snapshot(way_back));
    options.targets = LiveSources {
        db: runtime.at("elsewhere/other.db"),
        registry: runtime.at("elsewhere/other.json"),
        chroma: Some(runtime.at("elsewhere/tree")),
    };
    restore(&runtime.repository(), &options, &Silent).unwrap();
    assert_eq!(fs::read(runtime.at("elsewhere/other.db")).unwrap(), noise(7, 5000));
    assert_eq!(fs::read(runtime.at("elsewhere/other.db-wal")).unwrap(), noise(8, 5000));
    assert_eq!(fs::read(runtime.at("elsewhere/other.json")).unwrap(), fs::read(runtime.at("registry.json")).unwrap());
    assert!(runtime.at("elsewhere/tree/segment/empty").is_dir());
}

#[test]
fn an_unfinished_tree_cannot_be_left_out_when_the_restore_is_resumed() {
    let runtime = Runtime::new();
    let before = runtime.picture();
    let stamp = runtime.create();
    runtime.change();
    let repository = runtime.repository();
    let outcome = restore(&repository, &runtime.options(Goal::Snapshot(stamp)), &StopsWhileWriting::after(9));
    assert!(matches!(outcome, Err(Error::RestoreInterrupted { .. })));
    let without = RestoreOptions { chroma: ChromaChoice::Skip, ..runtime.options(Goal::Resume) };
    assert!(matches!(restore(&repository, &without, &Silent), Err(Error::Refused(_))));
    runtime.restore(Goal::Resume).unwrap();
    assert_same(&runtime.picture(), &before);
}

#[test]
fn a_database_in_use_is_refused_and_no_intent_is_left() {
    let runtime = Runtime::new();
    let stamp = runtime.create();
    runtime.change();
    let service = Connection::open(runtime.at("db/a.db")).unwrap();
    service.execute_batch("PRAGMA journal_mode=WAL; INSERT INTO t VALUES(88888, 'x')").unwrap();
    let refused = runtime.restore(Goal::Snapshot(stamp));
    assert!(matches!(refused, Err(Error::Refused(_))), "{refused:?}");
    assert_eq!(intents::pending(&runtime.repository()).unwrap(), None);
    let rows: i64 = service.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap();
    assert_eq!(rows, 2601);
    drop(service);
    runtime.restore(Goal::Snapshot(stamp)).unwrap();
}
