//! Rot: whatever happens to whichever bytes of a repository, it is named, nothing damaged is restored, nothing sound is
//! lost, and what cannot matter does not.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::support::wounds::{Place, Wound, places};
use crate::support::{Outcome, Runtime, TreeState, noise};

/// A runtime with three snapshots, the last of which is the present state, and what each holds.
struct Pristine {
    runtime: Runtime,
    contents: BTreeMap<String, Vec<TreeState>>,
}

fn pristine() -> Pristine {
    let runtime = Runtime::new();
    fs::write(runtime.chroma().join("blob"), noise::bytes("blob", 700_000)).unwrap();
    runtime.create(&["--chroma"]);
    runtime.remember("second");
    fs::write(runtime.chroma().join("passing"), noise::bytes("passing", 200_000)).unwrap();
    runtime.store().append(30);
    runtime.create(&["--chroma"]);
    fs::remove_file(runtime.chroma().join("passing")).unwrap();
    runtime.store().update(7);
    runtime.write_registry("p02");
    runtime.create(&["--chroma"]);
    let scratch = runtime.path().join("scratch");
    fs::create_dir(&scratch).unwrap();
    runtime.vecsnap(&["drill", "--scratch"]).arg(&scratch).run().exits(0);
    runtime.vecsnap(&["validate", "latest"]).run().exits(0);
    // So that the lock of cleanups exists too.
    runtime.vecsnap(&["cleanup", "--keep-last", "10", "--confirm"]).run().exits(0);
    let contents = runtime.snapshots().into_iter().map(|stamp| (stamp.clone(), content(&runtime, &stamp))).collect();
    Pristine { runtime, contents }
}

/// What a snapshot holds, times of directories aside.
fn content(runtime: &Runtime, stamp: &str) -> Vec<TreeState> {
    let exported = runtime.export(stamp);
    let below = |name: &str| TreeState::of(&exported.path().join(name)).without_directory_times();
    ["db", "config", "chroma"].map(below).into()
}

fn copy_of(runtime: &Runtime) -> Runtime {
    let copy = Runtime::bare();
    let status = Command::new("cp").arg("-a").arg(runtime.path().join(".")).arg(copy.path()).status();
    assert!(status.unwrap().success());
    copy
}

/// What a wounded repository may and may not do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stake {
    /// Every command goes on as if nothing were.
    Nothing,
    /// Snapshots may be lost, each named.
    Snapshots,
    /// The repository may not be readable at all.
    Everything,
}

fn stake(place: &Place, wound: Wound) -> Stake {
    match place.class {
        "repository.json" => Stake::Everything,
        // What cannot be opened to be locked is a refusal, not damage.
        "lock file" if matches!(wound, Wound::Directory | Wound::LinkToNothing | Wound::LinkToAnother) => {
            Stake::Everything
        }
        class if class.starts_with("index") && wound == Wound::Directory => Stake::Everything,
        "lock file" | "drills.jsonl" | "validations.jsonl" | "restores.jsonl" => Stake::Nothing,
        class if class.starts_with("index") => Stake::Nothing,
        _ => Stake::Snapshots,
    }
}

#[track_caller]
fn in_good_manners(outcome: Outcome, what: &str, codes: &[i32]) -> Outcome {
    assert!(outcome.code.is_some_and(|code| codes.contains(&code)), "{what}: not one of {codes:?}: {outcome}");
    assert!(!outcome.stderr.contains("panicked"), "{what}: {outcome}");
    outcome
}

/// Inflicts the wound on a copy, and holds all that is promised. Returns whether anything was wounded.
fn attack(pristine: &Pristine, place: &Place, wound: Wound) -> bool {
    let runtime = copy_of(&pristine.runtime);
    if wound.inflict(&runtime.repo(), place).is_none() {
        return false;
    }
    let stake = stake(place, wound);
    let what = format!("{wound:?} of {} ({}, {:?})", place.class, place.file.display(), place.bytes);
    let live = runtime.live_state();

    let all = in_good_manners(runtime.vecsnap(&["validate", "--all", "--json"]).run(), &what, &[0, 1, 3, 7]);
    let mut sound = BTreeSet::new();
    for (stamp, expected) in &pristine.contents {
        let validated = in_good_manners(runtime.vecsnap(&["validate", stamp, "--json"]).run(), &what, &[0, 1, 3, 7]);
        if validated.code == Some(0) {
            sound.insert(stamp.as_str());
            let now = content(&runtime, stamp);
            now.iter().zip(expected).for_each(|(now, expected)| now.assert_same(expected, &format!("{what}: {stamp}")));
            continue;
        }
        if validated.code == Some(3) {
            name_their_places(&validated.json(), &what);
        }
        let call = ["restore", stamp, "--confirm-service-stopped"];
        in_good_manners(runtime.vecsnap(&call).run(), &what, &[1, 3, 7]).prints_nothing();
        runtime.live_state().assert_same(&live, &format!("{what}: a refused restore of {stamp}"));
    }
    let whole = sound.len() == pristine.contents.len();
    match stake {
        Stake::Nothing => assert!(whole && all.code == Some(0), "{what} must not matter: {all}"),
        Stake::Snapshots if place.class == "backup-metadata.json" => {}
        Stake::Snapshots => {
            let noticed = all.code == Some(3) || all.code == Some(7) || damaged_packs(&runtime, &what) > 0;
            assert!(noticed, "{what} went unnoticed: {all}");
            assert!(whole || all.code == Some(3), "{what}: {all}");
        }
        Stake::Everything => {}
    }
    if stake == Stake::Snapshots {
        repaired(pristine, &runtime, &sound, &what);
    }
    if stake == Stake::Nothing {
        in_good_manners(runtime.vecsnap(&["create", "--chroma"]).run(), &what, &[0]);
        in_good_manners(runtime.vecsnap(&["validate", "latest"]).run(), &what, &[0]);
    }
    // Nobody but a restore writes the live files.
    runtime.live_state().assert_same(&live, &what);
    true
}

/// Every lost byte is told with its file and place.
fn name_their_places(document: &Value, what: &str) {
    let errors = document["errors"].as_array().unwrap();
    assert!(!errors.is_empty(), "{what}: {document}");
    for error in errors.iter().map(|error| error.as_str().unwrap()) {
        if error.starts_with("chunk_") {
            assert!(error.contains(" at byte ") && error.contains(" bytes)"), "{what}: {error}");
        }
    }
}

fn damaged_packs(runtime: &Runtime, what: &str) -> usize {
    let outcome = in_good_manners(runtime.vecsnap(&["repair", "--json"]).run(), what, &[0, 3, 7]);
    outcome.json()["damaged_packs"].as_array().unwrap().len()
}

/// A repair loses nothing that was sound, and what it calls valid is restored bit for bit.
fn repaired(pristine: &Pristine, runtime: &Runtime, sound: &BTreeSet<&str>, what: &str) {
    let outcome = in_good_manners(runtime.vecsnap(&["repair", "--confirm", "--json"]).run(), what, &[0, 3, 7]);
    for (stamp, expected) in &pristine.contents {
        let code = runtime.vecsnap(&["validate", stamp, "--recheck"]).run().code;
        assert!(code == Some(0) || !sound.contains(stamp.as_str()), "{what}: repair lost {stamp}: {outcome}");
        if code == Some(0) {
            let now = content(runtime, stamp);
            now.iter()
                .zip(expected)
                .for_each(|(now, then)| now.assert_same(then, &format!("{what}: {stamp}, repaired")));
        }
    }
    let what = format!("{what}, repaired");
    in_good_manners(runtime.vecsnap(&["create", "--chroma"]).run(), &what, &[0]);
    in_good_manners(runtime.vecsnap(&["validate", "latest"]).run(), &what, &[0]);
}

#[test]
fn what_builds_on_a_lost_pack_is_stored_again_even_where_no_table_tells_of_it() {
    let pristine = pristine();
    for pack in crate::support::damage::packs(&pristine.runtime.repo()) {
        for index in ["kept", "lost", "unusable"] {
            let runtime = copy_of(&pristine.runtime);
            fs::remove_file(runtime.repo().join(pack.strip_prefix(pristine.runtime.repo()).unwrap())).unwrap();
            let path = runtime.repo().join("index.sqlite");
            if index != "kept" {
                fs::remove_file(&path).unwrap();
            }
            if index == "unusable" {
                fs::create_dir(&path).unwrap();
            }
            let live = runtime.live_state().without_directory_times();
            let stamp = runtime.create(&["--chroma"]);
            runtime.vecsnap(&["validate", &stamp]).run().exits(0);
            runtime.restore(&stamp, &["--no-pre-snapshot"]);
            runtime.live_state().without_directory_times().assert_same(&live, "what was stored after the loss");
        }
    }
}

/// The cases: every wound of every place, but wounds of whole files once for each class of file.
fn cases(repository: &Path) -> Vec<(Place, Wound)> {
    let mut seen = BTreeSet::new();
    let mut cases = Vec::new();
    for place in places(repository) {
        for wound in Wound::ALL {
            let class_of_file = place.class.split(':').next().unwrap().replace("footer", "pack");
            let is_pack = place.file.starts_with("packs");
            let key = if wound.is_of_file() && is_pack { "pack".to_owned() } else { class_of_file };
            if !wound.is_of_file() || seen.insert((key, place.file.clone(), format!("{wound:?}"))) {
                cases.push((place.clone(), wound));
            }
        }
    }
    cases
}

fn attack_all(pristine: &Pristine, cases: Vec<(Place, Wound)>) {
    let mut counts: BTreeMap<&str, u32> = BTreeMap::new();
    let total = cases.len();
    for (place, wound) in cases {
        if attack(pristine, &place, wound) {
            *counts.entry(place.class).or_default() += 1;
        }
    }
    eprintln!("rot: {} wounds of {total} cases: {counts:?}", counts.values().sum::<u32>());
}

#[test]
fn rot_is_named_and_nothing_damaged_is_restored() {
    let pristine = pristine();
    let all = cases(&pristine.runtime.repo());
    let classes: BTreeSet<&str> = all.iter().map(|(place, _)| place.class).collect();
    assert!(classes.len() >= 20, "{classes:?}");
    // Each class once, with a wound that differs from class to class.
    let chosen = classes.iter().enumerate().map(|(number, class)| {
        let of_class: Vec<_> = all.iter().filter(|(place, _)| place.class == *class).collect();
        of_class[number * 7 % of_class.len()].clone()
    });
    attack_all(&pristine, chosen.collect());
}

#[test]
#[ignore = "every wound of every class of bytes: about 400 cases, ten minutes"]
fn long_rot_of_every_class_of_bytes() {
    let pristine = pristine();
    let mut cases = cases(&pristine.runtime.repo());
    if let Ok(only) = std::env::var("VECSNAP_ROT") {
        cases.retain(|(place, wound)| format!("{wound:?} of {}", place.class).contains(&only));
    }
    attack_all(&pristine, cases);
}
