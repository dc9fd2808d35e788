//! Which state going back leads to, and where it is refused.

use chrono::Utc;

use super::*;
use crate::format::manifest::Manifest;
use crate::save::LiveSources;

#[test]
fn going_back_from_a_restore_without_a_way_back_is_refused_and_the_older_state_named() {
    let runtime = Runtime::new();
    let stamp = runtime.create();
    runtime.change();
    let changed = runtime.picture();
    let way_back = runtime.restore(Goal::Snapshot(stamp)).unwrap().pre_restore_snapshot.unwrap();
    let skip = RestoreOptions { pre_snapshot: PreSnapshot::Skip, ..runtime.options(Goal::Snapshot(stamp)) };
    restore(&runtime.repository(), &skip, &Silent).unwrap();
    let before = runtime.picture();
    let refused = runtime.restore(Goal::Undo).unwrap_err();
    let told = refused.to_string();
    assert!(matches!(refused, Error::Refused(_)) && told.contains(&format!("`vecsnap restore {way_back} ")), "{told}");
    assert!(rehearse(&runtime.repository(), &runtime.options(Goal::Undo), &Silent).is_err());
    assert_same(&runtime.picture(), &before);
    // Without the record nothing is known but that snapshot.
    let record = runtime.at("backup").join(layout::RESTORES);
    let lines = fs::read_to_string(&record).unwrap();
    assert_eq!(lines.lines().count(), 2, "{lines}");
    fs::remove_file(&record).unwrap();
    assert_eq!(runtime.restore(Goal::Undo).unwrap().stamp, way_back);
    assert_same(&runtime.picture(), &changed);
}

#[test]
fn going_back_is_refused_where_the_state_before_is_gone_and_only_older_ones_are_there() {
    let runtime = Runtime::new();
    let stamp = runtime.create();
    runtime.change();
    let older = runtime.restore(Goal::Snapshot(stamp)).unwrap().pre_restore_snapshot.unwrap();
    let gone = runtime.restore(Goal::Snapshot(stamp)).unwrap().pre_restore_snapshot.unwrap();
    let directory = layout::snapshot_directory(&runtime.at("backup"), &gone.to_string());
    fs::rename(&directory, runtime.at("elsewhere")).unwrap();
    let refused = runtime.restore(Goal::Undo).unwrap_err().to_string();
    assert!(
        refused.contains(&gone.to_string()) && refused.contains(&format!("`vecsnap restore {older} ")),
        "{refused}"
    );
    fs::rename(runtime.at("elsewhere"), directory).unwrap();
    assert_eq!(runtime.restore(Goal::Undo).unwrap().stamp, gone);
}

#[test]
fn what_came_after_a_restore_that_was_undone_is_not_thrown_away_by_undoing_it_again() {
    let runtime = Runtime::new();
    let stamp = runtime.create();
    runtime.change();
    let way_back = runtime.restore(Goal::Snapshot(stamp)).unwrap().pre_restore_snapshot.unwrap();
    runtime.restore(Goal::Undo).unwrap();
    fs::write(runtime.at("registry.json"), b"{\"days\": \"of work\"}").unwrap();
    let worked = runtime.picture();
    let refused = runtime.restore(Goal::Undo).unwrap_err();
    let told = refused.to_string();
    assert!(matches!(refused, Error::Refused(_)) && told.contains(&format!("`vecsnap restore {way_back} ")), "{told}");
    assert_same(&runtime.picture(), &worked);
    // The next restore can be undone again.
    let next = runtime.restore(Goal::Snapshot(stamp)).unwrap().pre_restore_snapshot.unwrap();
    assert_eq!(runtime.restore(Goal::Undo).unwrap().stamp, next);
    assert_same(&runtime.picture(), &worked);
}

#[test]
fn the_state_before_is_put_back_nowhere_but_where_the_restore_wrote() {
    let runtime = Runtime::new();
    let stamp = runtime.create();
    let live = runtime.picture();
    // A restore into another place, where nothing was: to undo it is to remove all that is there.
    fs::create_dir(runtime.at("staging")).unwrap();
    let staging = |path: &str| runtime.at("staging").join(path);
    let elsewhere = LiveSources { db: staging("a.db"), registry: staging("r.json"), chroma: Some(staging("chroma")) };
    let to_elsewhere = |goal| RestoreOptions { targets: elsewhere.clone(), ..runtime.options(goal) };
    restore(&runtime.repository(), &to_elsewhere(Goal::Snapshot(stamp)), &Silent).unwrap();
    let one_elsewhere = LiveSources { registry: runtime.at("registry.json"), ..elsewhere.clone() };
    for targets in [runtime.live(), one_elsewhere] {
        let undo = RestoreOptions { targets, ..runtime.options(Goal::Undo) };
        let refused = restore(&runtime.repository(), &undo, &Silent).unwrap_err();
        let told = refused.to_string();
        assert!(matches!(refused, Error::Refused(_)) && told.contains("give the same paths again"), "{told}");
        assert_same(&runtime.picture(), &live);
        assert!(staging("a.db").exists());
    }
    // Neither without the record of it.
    let record = runtime.at("backup").join(layout::RESTORES);
    fs::rename(&record, runtime.at("aside")).unwrap();
    assert!(matches!(runtime.restore(Goal::Undo), Err(Error::Refused(_))));
    assert_same(&runtime.picture(), &live);
    fs::rename(runtime.at("aside"), &record).unwrap();
    // A link to the same place is the same place.
    symlink("staging", runtime.at("link")).unwrap();
    let linked = |path: &str| runtime.at("link").join(path);
    let same = LiveSources { db: linked("a.db"), registry: linked("r.json"), chroma: Some(linked("chroma")) };
    let undo = RestoreOptions { targets: same, ..runtime.options(Goal::Undo) };
    restore(&runtime.repository(), &undo, &Silent).unwrap();
    assert!(!staging("a.db").exists() && !staging("r.json").exists());
    assert_same(&runtime.picture(), &live);
}

#[test]
fn a_link_that_leads_elsewhere_by_now_is_another_place() {
    let runtime = Runtime::new();
    let stamp = runtime.create();
    fs::rename(runtime.at("db"), runtime.at("v1")).unwrap();
    symlink("v1", runtime.at("db")).unwrap();
    runtime.restore(Goal::Snapshot(stamp)).unwrap();
    fs::create_dir(runtime.at("v2")).unwrap();
    fs::copy(runtime.at("v1/a.db"), runtime.at("v2/a.db")).unwrap();
    fs::remove_file(runtime.at("db")).unwrap();
    symlink("v2", runtime.at("db")).unwrap();
    let refused = runtime.restore(Goal::Undo).unwrap_err().to_string();
    assert!(refused.contains("v1/a.db") && refused.contains("v2/a.db"), "{refused}");
}

#[test]
fn what_was_left_out_of_an_undoing_can_be_undone_later_and_nothing_else() {
    let runtime = Runtime::new();
    let stamp = runtime.create();
    runtime.change();
    let changed = runtime.picture();
    let way_back = runtime.restore(Goal::Snapshot(stamp)).unwrap().pre_restore_snapshot.unwrap();
    let without = RestoreOptions { chroma: ChromaChoice::Skip, ..runtime.options(Goal::Undo) };
    restore(&runtime.repository(), &without, &Silent).unwrap();
    fs::write(runtime.at("registry.json"), b"{\"after\": 1}").unwrap();
    let rest = runtime.restore(Goal::Undo).unwrap();
    assert_eq!((rest.stamp, rest.db_restored, rest.chroma_restored), (way_back, false, true));
    assert_eq!(fs::read(runtime.at("registry.json")).unwrap(), b"{\"after\": 1}");
    let of_chroma = |(path, _): &(&std::path::PathBuf, _)| path.starts_with(runtime.at("chroma"));
    let now = runtime.picture();
    assert!(now.iter().filter(of_chroma).all(|(path, seen)| seen.bytes == changed[path].bytes));
    assert!(matches!(runtime.restore(Goal::Undo), Err(Error::Refused(_))));
}

#[test]
fn only_what_a_finished_restore_kept_is_the_state_before() {
    let runtime = Runtime::new();
    let stamp = runtime.create();
    let way_back = runtime.restore(Goal::Snapshot(stamp)).unwrap().pre_restore_snapshot.unwrap();
    let repository = runtime.repository();
    let ahead: Stamp = "29990101T000000Z".parse().unwrap();
    let manifest = |stamp| Manifest::new(repository.header().clone(), stamp, SnapshotKind::PreRestore, 0);
    let state_before = |stamps: &[Stamp]| {
        let manifests: Vec<_> = stamps.iter().copied().map(manifest).collect();
        history::state_before(&repository, &manifests).unwrap().stamp
    };
    assert_eq!(state_before(&[way_back, ahead]), way_back);
    // Of what was kept since, nobody knows whether that restore wrote anything.
    std::thread::sleep(std::time::Duration::from_millis(2100));
    let since = Stamp::of(Utc::now());
    let both: Vec<_> = [way_back, since].map(manifest).to_vec();
    let refused = history::state_before(&repository, &both).unwrap_err().to_string();
    assert!(refused.contains(&way_back.to_string()) && refused.contains(&since.to_string()), "{refused}");
    assert_eq!(history::ways_back(&repository, &both).unwrap(), [way_back, since]);
    fs::remove_file(runtime.at("backup").join(layout::RESTORES)).unwrap();
    assert_eq!(state_before(&[way_back, ahead]), way_back);
    assert_eq!(state_before(&[ahead]), ahead, "with nothing else, it is the state before");
}
