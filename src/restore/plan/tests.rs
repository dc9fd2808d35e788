//! Plans made from observations alone.

use super::*;
use crate::format::content::Root;
use crate::format::table::{SourceStats, Stat, Time};
use crate::id::BlobId;

const MTIME: Time = Time { seconds: 5, nanoseconds: 6 };

fn planner() -> Planner {
    Planner::new("/target".into(), OwnerPolicy::Restore, HardLinkPolicy::Refuse)
}

fn stat(kind: FileKind, size: u64) -> FileStat {
    FileStat {
        device: 1,
        inode: 2,
        kind,
        size,
        allocated: size,
        mtime: 5_000_000_006,
        ctime: 0,
        mode: 0o640,
        uid: 7,
        gid: 8,
        links: 1,
    }
}

fn present(stat: FileStat, difference: Difference) -> Option<Present> {
    Some(Present { stat, link: None, difference })
}

fn entry(path: &str, kind: EntryKind) -> Entry {
    Entry { path: path.into(), kind, mode: 0o640, uid: 7, gid: 8, modified: MTIME, extensions: Vec::new() }
}

fn file(length: u64, capture: Capture) -> EntryKind {
    let stat = Stat { inode: 1, size: length, modified: MTIME, changed: MTIME };
    let content = Content { length, root: Root::Chunk(BlobId::of_chunk(b"x")) };
    EntryKind::File(FileEntry {
        content,
        capture,
        sparse: false,
        stats: SourceStats { file: stat, wal: None, journal: None },
    })
}

fn wanted(entry: Entry, present: Option<Present>, new_bytes: u64) -> Observation {
    Observation::Wanted { entry, present, new_bytes }
}

fn extra(name: &str, kind: FileKind) -> Observation {
    Observation::Extra { name: name.into(), stat: stat(kind, 100) }
}

fn plan(observations: impl IntoIterator<Item = Observation>) -> Plan {
    let mut planner = planner();
    observations.into_iter().for_each(|observation| planner.take(observation).unwrap());
    planner.finish()
}

fn differs(offset: u64, length: u64) -> Difference {
    Difference { slots: vec![Range { offset, length }], ..Difference::default() }
}

fn names(plan: &Plan) -> Vec<&str> {
    plan.files.iter().map(|step| std::str::from_utf8(&step.name).unwrap()).collect()
}

#[test]
fn a_file_that_is_right_already_is_left_alone() {
    let right =
        wanted(entry("a", file(100, Capture::Plain)), present(stat(FileKind::File, 100), Difference::default()), 0);
    let plan = plan([right]);
    assert_eq!((plan.files.len(), plan.totals.unchanged), (0, 1));
}

#[test]
fn a_wrong_mode_time_or_owner_is_set_without_writing_a_byte() {
    let wrong: [fn(&mut FileStat); 4] =
        [|stat| stat.mode = 0o600, |stat| stat.mtime = 1, |stat| stat.uid = 0, |stat| stat.gid = 0];
    for wrong in wrong {
        let mut found = stat(FileKind::File, 100);
        wrong(&mut found);
        let observe = || wanted(entry("a", file(100, Capture::Plain)), present(found, Difference::default()), 0);
        let plan = plan([observe()]);
        assert_eq!(plan.files[0].change, Change::Overwrite(Difference::default()), "{found:?}");
        assert_eq!(plan.totals.bytes_to_write_at_most, 0);
    }
    let mut skipping = Planner::new("/target".into(), OwnerPolicy::Skip, HardLinkPolicy::Refuse);
    let found = FileStat { uid: 0, ..stat(FileKind::File, 100) };
    skipping.take(wanted(entry("a", file(100, Capture::Plain)), present(found, Difference::default()), 0)).unwrap();
    assert!(skipping.finish().files.is_empty());
}

#[test]
fn databases_are_always_in_the_plan_and_their_sidecars_are_told_from_strangers() {
    let database = |name: &str| {
        let found = present(stat(FileKind::File, 8192), Difference::default());
        wanted(entry(name, file(8192, Capture::SqliteImage)), found, 0)
    };
    let plan = plan([
        database("a.db"),
        extra("a.db-shm", FileKind::File),
        database("a.db-too"),
        extra("a.db-wal", FileKind::File),
        extra("b.db-wal", FileKind::File),
    ]);
    assert_eq!(names(&plan), ["a.db", "a.db-too"]);
    assert!(plan.files.iter().all(|step| step.role == FileRole::Database));
    assert_eq!(plan.sidecars, [b"a.db-shm".to_vec(), b"a.db-wal".to_vec()]);
    assert_eq!(plan.removals, [b"b.db-wal".to_vec()]);
    assert_eq!((plan.totals.removed, plan.totals.largest_database), (3, 8192));
}

#[test]
fn a_raw_main_file_is_a_database_and_its_raw_sidecars_are_not() {
    let raw = |name: &str| wanted(entry(name, file(10, Capture::RawSqlite)), None, 10);
    let plan = plan([raw("a.db"), raw("a.db-journal"), raw("a.db-wal")]);
    let roles: Vec<_> = plan.files.iter().map(|step| step.role).collect();
    assert_eq!(roles, [FileRole::Database, FileRole::Plain, FileRole::Plain]);
}

#[test]
fn what_is_too_much_goes_as_a_whole_and_is_counted_one_by_one() {
    let plan = plan([
        extra("d", FileKind::Directory),
        extra("d/e", FileKind::Directory),
        extra("d/e/f", FileKind::File),
        extra("d.x", FileKind::File),
        extra("s", FileKind::Symlink),
    ]);
    assert_eq!(plan.removals, [b"d".to_vec(), b"d.x".to_vec(), b"s".to_vec()]);
    assert_eq!((plan.totals.removed, plan.totals.removed_names.len()), (3, 5));
    assert_eq!(plan.totals.bytes_freed, 200);
}

#[test]
fn a_name_of_another_kind_makes_room_first() {
    let kinds = [file(10, Capture::Plain), EntryKind::Directory, EntryKind::Symlink(b"x".to_vec())];
    let found = [FileKind::File, FileKind::Directory, FileKind::Symlink, FileKind::Special];
    for kind in &kinds {
        for &there in &found {
            let same = matches!(
                (kind, there),
                (EntryKind::File(_), FileKind::File) | (EntryKind::Directory, FileKind::Directory)
            );
            let plan = plan([wanted(entry("a", kind.clone()), present(stat(there, 10), Difference::default()), 10)]);
            // A symlink that holds something else is replaced by one that holds the right thing.
            assert_eq!(plan.removals.is_empty(), same, "{kind:?} where {there:?} stands");
            let made = plan.totals.created
                + u64::from(plan.directories.iter().any(|step| step.existence == Existence::Create));
            assert_eq!(made, u64::from(!same), "{kind:?} where {there:?} stands");
        }
    }
    let link =
        Present { stat: stat(FileKind::Symlink, 1), link: Some(b"x".to_vec()), difference: Difference::default() };
    let plan = plan([wanted(entry("a", EntryKind::Symlink(b"x".to_vec())), Some(link), 0)]);
    assert_eq!((plan.links.len(), plan.removals.len()), (0, 0));
}

#[test]
fn several_hard_links_are_refused_or_broken() {
    let linked = FileStat { links: 2, ..stat(FileKind::File, 100) };
    let observe = || wanted(entry("a", file(100, Capture::Plain)), present(linked, differs(0, 100)), 0);
    let Err(Error::Refused(text)) = planner().take(observe()) else { panic!("not refused") };
    assert!(text.contains("/target/a") && text.contains("--break-links"), "{text}");
    let mut breaking = Planner::new("/target".into(), OwnerPolicy::Restore, HardLinkPolicy::Break);
    breaking.take(observe()).unwrap();
    let plan = breaking.finish();
    assert_eq!((plan.removals.len(), &plan.files[0].change), (1, &Change::Create));
    assert_eq!((plan.totals.bytes_freed, plan.totals.bytes_added), (0, 100), "the other name keeps the space");
}

#[test]
fn room_is_counted_as_growth_and_what_is_lost_as_what_differs() {
    let grown = wanted(
        entry("a", file(200_000, Capture::Plain)),
        present(stat(FileKind::File, 150_000), differs(131_072, 68_928)),
        0,
    );
    let totals = plan([grown]).totals;
    assert_eq!((totals.bytes_to_write_at_most, totals.bytes_added, totals.bytes_replaced), (68_928, 50_000, 68_928));
    let shrunk = wanted(
        entry("a", file(100, Capture::Plain)),
        present(stat(FileKind::File, 70_000), Difference { resized: true, ..Difference::default() }),
        0,
    );
    let totals = plan([shrunk]).totals;
    assert_eq!((totals.bytes_to_write_at_most, totals.bytes_added, totals.bytes_replaced), (0, 0, 69_900));
    assert_eq!((totals.bytes_freed, totals.bytes_cut), (0, 69_900));
}
