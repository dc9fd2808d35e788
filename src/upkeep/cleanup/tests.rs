//! Cleanups of small repositories: what survives is whole, what is dead gives its space back.

use std::path::PathBuf;

use super::*;
use crate::format::intent::Intent;
use crate::progress::Silent;
use crate::restore::verify::fixture::{Source, WAIT, create, noise, open, snapshot};
use crate::restore::verify::{Depth, VerifyOptions, verify};
use crate::store::verdicts::Recheck;
use crate::store::{BlobWriter, MetadataRecords, packs};
use crate::upkeep::retention::KeepCounts;

const OLD: &str = "20260101T000000Z";
const MIDDLE: &str = "20260102T000000Z";
const NEW: &str = "20260103T000000Z";

fn keep(last: u32) -> Rules {
    Rules::of(&KeepCounts { last: Some(last), ..KeepCounts::default() }).unwrap()
}

fn clean(root: &Path, last: u32, mode: CleanupMode) -> CleanupReport {
    cleanup(root, &keep(last), mode, WAIT, &Silent).unwrap()
}

fn pack_bytes(root: &Path) -> u64 {
    packs::list(open(root, Access::Read).storage()).unwrap().iter().map(|pack| pack.size).sum()
}

/// Bytes of all that the repository holds, its index aside.
fn repository_bytes(root: &Path) -> u64 {
    let files = walkdir::WalkDir::new(root).into_iter().map(Result::unwrap).filter(|entry| entry.file_type().is_file());
    let counted = files.filter(|entry| !entry.file_name().to_string_lossy().starts_with("index.sqlite"));
    counted.map(|entry| entry.metadata().unwrap().len()).sum()
}

fn names(root: &Path) -> Vec<String> {
    snapshots::list(open(root, Access::Read).storage()).unwrap().into_iter().map(|listing| listing.name).collect()
}

/// Fails unless every snapshot left can be read in full, sources missing by design aside.
fn assert_survivors_are_whole(root: &Path) {
    // From the packs alone: the index must not be what makes them readable.
    let _ = fs::remove_file(root.join(layout::INDEX));
    let repository = open(root, Access::Read);
    for manifest in snapshots::manifests(&repository).unwrap() {
        let options = VerifyOptions { depth: Depth::Full, recheck: Recheck::IfUnknown };
        let verification = verify(&repository, &manifest, options, &Silent).unwrap();
        assert_eq!(verification.errors(), ["db_snapshot_missing"], "{:?}", manifest.stamp());
    }
}

fn three_snapshots() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let repository = create(root.path());
    let shared = noise(0, 300_000);
    for (number, stamp) in [(1, OLD), (2, MIDDLE), (3, NEW)] {
        let own = noise(number, 2_000_000);
        snapshot(&repository, stamp, &[Source { name: "chroma", files: &[("own", &own), ("shared", &shared)] }]);
    }
    root
}

#[test]
fn what_goes_gives_its_space_back_and_what_stays_is_whole() {
    let root = three_snapshots();
    let before = repository_bytes(root.path());
    let told = clean(root.path(), 1, CleanupMode::DryRun);
    assert_eq!((repository_bytes(root.path()), names(root.path()).len()), (before, 3), "a dry run changed something");
    let done = clean(root.path(), 1, CleanupMode::Delete);
    assert_eq!((done.kept, done.deleted.len(), done.errors.len()), (1, 2, 0), "{done:?}");
    assert_eq!((told.kept, told.deleted), (1, done.deleted));
    assert_eq!(names(root.path()), [NEW]);
    let after = repository_bytes(root.path());
    assert_eq!(done.freed_bytes, before - after);
    // Own content of two snapshots is gone; of the pack with the shared content only that is left.
    assert!((2_300_000..2_400_000).contains(&after), "{after}");
    assert!(
        told.freed_bytes.abs_diff(done.freed_bytes) < done.freed_bytes / 50,
        "{} {}",
        told.freed_bytes,
        done.freed_bytes
    );
    assert_survivors_are_whole(root.path());
    let again = clean(root.path(), 1, CleanupMode::Delete);
    assert_eq!((again.kept, again.deleted.len(), again.freed_bytes), (1, 0, 0), "{again:?}");
    assert_eq!(fs::read_dir(root.path().join(layout::TMP)).unwrap().count(), 0);
}

#[test]
fn packs_of_creates_that_crashed_are_reclaimed_and_so_are_their_scratch_directories() {
    let root = three_snapshots();
    let before = pack_bytes(root.path());
    let repository = open(root.path(), Access::Write);
    let mut writer =
        BlobWriter::begin(&repository, MetadataRecords::Whole, crate::chunk::compress::Thoroughness::Thorough).unwrap();
    noise(9, 500_000).chunks(65_536).for_each(|chunk| {
        writer.put_chunk(chunk).unwrap();
    });
    writer.finish().unwrap();
    drop(repository);
    let abandoned = root.path().join(layout::TMP).join("Abandoned123");
    fs::create_dir(&abandoned).unwrap();
    fs::write(abandoned.join("owner.lock"), b"").unwrap();
    let orphan = pack_bytes(root.path()) - before;
    let told = clean(root.path(), 9, CleanupMode::DryRun).freed_bytes;
    assert!(abandoned.exists());
    let freed = clean(root.path(), 9, CleanupMode::Delete).freed_bytes;
    // Merging small packs saves a little as well.
    assert!(freed >= orphan && freed < orphan + 10_000, "{freed} {orphan}");
    assert!(told.abs_diff(freed) < 10_000, "{told} {freed}");
    assert_eq!(pack_bytes(root.path()), before + orphan - freed);
    assert!(!abandoned.exists());
    assert_survivors_are_whole(root.path());
}

#[test]
fn nothing_is_deleted_while_it_is_unknown_what_a_snapshot_needs() {
    let damages: [fn(&Path) -> PathBuf; 2] = [
        |root| root.join("snapshots").join(NEW).join("manifest"),
        // The pack that holds the table of the snapshot that stays.
        |root| {
            let repository = open(root, Access::Read);
            let stamp = NEW.parse().unwrap();
            let manifest = snapshots::read_manifest(&repository, stamp).unwrap().unwrap();
            let crate::format::content::Root::Chunk(id) = manifest.sources[0].table.root else { panic!() };
            root.join(layout::pack(&repository.index().places(&id).unwrap()[0].pack.id))
        },
    ];
    for damage in damages {
        let root = three_snapshots();
        let path = damage(root.path());
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        let before = pack_bytes(root.path());
        for mode in [CleanupMode::DryRun, CleanupMode::Delete] {
            let report = clean(root.path(), 1, mode);
            assert!(report.errors[0].starts_with(&format!("{NEW}: ")), "{:?}", report.errors);
            assert_eq!((report.deleted.len(), report.freed_bytes), (0, 0));
        }
        assert_eq!((pack_bytes(root.path()), names(root.path()).len()), (before, 3));
    }
}

#[test]
fn an_unreadable_pack_that_no_table_needs_is_named_and_left_alone() {
    let root = three_snapshots();
    let stray = root.path().join("packs/ab").join(format!("{}.pack", "ab".repeat(32)));
    fs::create_dir_all(stray.parent().unwrap()).unwrap();
    fs::write(&stray, b"no pack at all, but of its name").unwrap();
    let report = clean(root.path(), 1, CleanupMode::Delete);
    assert!(report.errors.len() == 1 && report.errors[0].contains(stray.to_str().unwrap()), "{:?}", report.errors);
    assert!(stray.exists());
    assert_eq!(report.deleted.len(), 2);
    assert_survivors_are_whole(root.path());
}

#[test]
fn full_copies_and_other_directories_are_neither_touched_nor_counted_and_renamed_snapshots_keep_their_blobs() {
    let root = three_snapshots();
    let snapshots = root.path().join("snapshots");
    let copy = snapshots.join("20250101T000000Z");
    fs::create_dir_all(copy.join("db")).unwrap();
    fs::write(copy.join("db/atocore.db"), b"x").unwrap();
    fs::rename(snapshots.join(OLD), snapshots.join("before-upgrade")).unwrap();
    let report = clean(root.path(), 1, CleanupMode::Delete);
    assert_eq!((report.kept, report.deleted.len()), (1, 1));
    assert_eq!(report.unparseable, ["before-upgrade"]);
    assert!(copy.join("db/atocore.db").exists());
    fs::rename(snapshots.join("before-upgrade"), snapshots.join(OLD)).unwrap();
    assert_eq!(names(root.path()), ["20250101T000000Z", OLD, NEW]);
    assert_survivors_are_whole(root.path());
}

#[test]
fn no_repository_and_no_snapshots_are_zeros_and_nothing_is_made() {
    let root = tempfile::tempdir().unwrap();
    let missing = root.path().join("repo");
    for mode in [CleanupMode::DryRun, CleanupMode::Delete] {
        let report = clean(&missing, 1, mode);
        assert_eq!((report.kept, report.deleted.len(), report.freed_bytes), (0, 0, 0));
    }
    assert!(!missing.exists());
}

#[test]
fn an_unfinished_restore_and_another_cleanup_are_respected() {
    let root = three_snapshots();
    let repository = open(root.path(), Access::Write);
    let other = repository.lock_cleanup().unwrap();
    let outcome = cleanup(root.path(), &keep(1), CleanupMode::Delete, WAIT, &Silent);
    assert!(matches!(outcome, Err(Error::Busy(_))), "{outcome:?}");
    drop(other);
    let intent = Intent {
        format_version: 1,
        stamp: OLD.into(),
        pre_restore_snapshot: None,
        started_at: String::new(),
        targets: Vec::new(),
    };
    intents::publish(&repository, &intent).unwrap();
    drop(repository);
    let outcome = cleanup(root.path(), &keep(1), CleanupMode::Delete, WAIT, &Silent);
    assert!(matches!(&outcome, Err(Error::Refused(text)) if text.contains("--resume")), "{outcome:?}");
    assert_eq!(names(root.path()).len(), 3);
}

#[test]
fn a_reader_holds_the_deletions_off() {
    let root = three_snapshots();
    let _reader = open(root.path(), Access::Read);
    let wait = LockWait(std::time::Duration::from_millis(50));
    let outcome = cleanup(root.path(), &keep(1), CleanupMode::Delete, wait, &Silent);
    assert!(matches!(outcome, Err(Error::Busy(_))), "{outcome:?}");
    assert_eq!(names(root.path()).len(), 3);
}

#[test]
fn a_snapshot_that_was_moved_out_without_room_goes_with_the_next_cleanup_and_nothing_else_in_tmp_does() {
    let root = three_snapshots();
    let tmp = root.path().join(layout::TMP);
    let moved_out = tmp.join("20260407T060000Z");
    let others = [tmp.join("20260407T070000Z"), tmp.join("work")];
    for directory in others.iter().chain([&moved_out]) {
        fs::create_dir_all(directory).unwrap();
        fs::write(directory.join(layout::MANIFEST), b"x").unwrap();
    }
    fs::write(moved_out.join(layout::METADATA), b"x").unwrap();
    fs::write(others[0].join("notes"), b"x").unwrap();
    clean(root.path(), 9, CleanupMode::DryRun);
    assert!(moved_out.exists());
    clean(root.path(), 9, CleanupMode::Delete);
    assert!(!moved_out.exists() && others[0].join("notes").exists());
    assert!(others.iter().all(|directory| directory.join(layout::MANIFEST).exists()));
}

#[test]
fn a_second_pass_tells_what_the_first_one_had_to_leave() {
    let stamps: Vec<Stamp> = [OLD, MIDDLE].map(|stamp| stamp.parse().unwrap()).into();
    let report = |kept, deleted, freed_bytes| CleanupReport {
        kept,
        deleted,
        freed_bytes,
        ..CleanupReport::empty(CleanupMode::Delete)
    };
    let mut first = Attempt { report: report(3, Vec::new(), 10), rewriting: Rewriting::NoRoom };
    first.add_second(Attempt { report: report(1, stamps.clone(), 20), rewriting: Rewriting::Done });
    assert_eq!(first.report, report(1, stamps, 30));
}
