//! The power of the medium is cut at the n-th system call, with everything that was not synced: what was reported as
//! done is there afterwards, what was not is absent or complete, and the next command goes on.
//!
//! Repository and live files lie on one file system in a file; ext4 and XFS drop what is not on the medium, their log
//! included, when they are told to shut down so. Mounting again replays the log, as after a real loss of power.

use std::cell::RefCell;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::support::image::{Image, System};
use crate::support::mount::namespace;
use crate::support::seed::Seed;
use crate::support::stage::{Operation, Stage};
use crate::support::tracer::Counted;

/// How many cuts, evenly spread, the long tier makes for each operation, instead of one at every call.
const CUTS: &str = "VECSNAP_POWER_CUTS";

/// How many points the quick tier takes of each operation.
const SAMPLE: usize = 2;

/// Cuts the power at one call, or right after the end if there are not so many. Returns whether there were.
#[track_caller]
fn check_cut(stage: &mut Stage, image: &Image, number: usize) -> bool {
    stage.runtime.leave();
    let mounts = image.mount();
    let switch = RefCell::new(image.switch(&mounts));
    stage.runtime.enter(mounts);
    let cut = || switch.borrow_mut().cut();
    let (outcome, calls) = stage.kill_at(number, &cut);
    let was_cut = outcome.code.is_none();
    if !was_cut {
        cut();
    }
    image.remount(stage.runtime.mounts());
    let last = calls.last().map(ToString::to_string).unwrap_or_default();
    let what = format!("{:?} with the power cut at call {number}, {last}", stage.operation);
    stage.check_snapshots(&what);
    if !was_cut {
        let outcome = outcome.exits(0);
        stage.check_done(&outcome, &what);
    }
    stage.check_recovery(&what);
    was_cut
}

/// The stage and its image, or `None`, with a note on stderr, where the operator chose to go without.
fn on(system: System, operation: Operation) -> Option<(Stage, Image)> {
    const SKIP: &str = "VECSNAP_SKIP_POWER_CUTS";
    if std::env::var_os(SKIP).is_some_and(|value| !value.is_empty() && value != "0") {
        eprintln!("SKIPPED: {SKIP} is set, so no power was cut");
        return None;
    }
    let is_root = fs::metadata("/proc/self").unwrap().uid() == 0;
    let may_mount = is_root && Path::new("/dev/loop-control").exists();
    assert!(may_mount, "cutting the power needs root and loop devices; set {SKIP}=1 to leave it out");
    namespace()?;
    let stage = Stage::new(operation);
    let image = Image::of(stage.runtime.path(), system);
    Some((stage, image))
}

fn sample(operation: Operation) {
    let Some((mut stage, image)) = on(System::Ext4, operation) else { return };
    // Later ones than there are cut it right after the end.
    for number in Seed::from_environment().sample(&format!("power {operation:?}"), 100, SAMPLE) {
        check_cut(&mut stage, &image, number + 1);
    }
}

/// So many numbers below `end`, evenly spread from one of them on.
fn spread(first: usize, end: usize, count: usize) -> impl Iterator<Item = usize> {
    let count = count.min(end);
    (0..count).map(move |turn| (first + turn * end / count) % end)
}

fn all(system: System) {
    for operation in Operation::ALL {
        let Some((mut stage, image)) = on(system, operation) else { return };
        let calls = stage.run(Counted::Changes, None).1.len();
        let cuts = match std::env::var(CUTS).map(|count| count.parse().expect("a number of cuts")) {
            Ok(count) => {
                let name = format!("power {operation:?} {system:?}");
                let numbers = spread(Seed::from_environment().below(&name, calls as u64) as usize, calls, count);
                numbers.filter(|number| check_cut(&mut stage, &image, number + 1)).count()
            }
            Err(_) => (1..).take_while(|number| check_cut(&mut stage, &image, *number)).count(),
        };
        eprintln!("{operation:?} on {system:?}: the power was cut at {cuts} of {calls} calls");
        assert!(cuts > 0, "{operation:?}: no call was met");
    }
}

#[test]
fn a_create_survives_power_cuts() {
    sample(Operation::Create);
}

#[test]
fn a_restore_survives_power_cuts() {
    sample(Operation::RestoreWithWayBack);
}

#[test]
fn a_cleanup_survives_power_cuts() {
    sample(Operation::Cleanup);
}

#[test]
#[ignore = "cuts the power at every call: a quarter of an hour"]
fn everything_survives_power_cuts_on_ext4() {
    all(System::Ext4);
}

#[test]
#[ignore = "cuts the power at every call: half an hour"]
fn everything_survives_power_cuts_on_xfs() {
    all(System::Xfs);
}
