//! The binary is killed at its n-th system call, for n = 1, 2, 3 … until a run ends: what was acknowledged stays, what
//! was not is absent or complete, no lock outlives its process, and the next command goes on.

use crate::support::seed::Seed;
use crate::support::stage::{Operation, Stage};
use crate::support::tracer::{Counted, Fault};

/// How many points the quick tier takes of each operation.
const SAMPLE: usize = 3;

#[track_caller]
fn check_killed(stage: &Stage, number: usize) -> bool {
    let (outcome, calls) = stage.run(Counted::Changes, Some((number, Fault::Kill)));
    if outcome.code.is_some() {
        outcome.exits(0);
        return false;
    }
    let what = format!("{:?} killed at call {number}, {}", stage.operation, calls.last().unwrap());
    stage.check_snapshots(&what);
    stage.check_recovery(&what);
    true
}

fn sample(operation: Operation) {
    let stage = Stage::new(operation);
    let (outcome, calls) = stage.run(Counted::Changes, None);
    outcome.exits(0);
    stage.check_snapshots("unharmed");
    let seed = Seed::from_environment();
    for number in seed.sample(&format!("{operation:?}"), calls.len(), SAMPLE) {
        check_killed(&stage, number + 1);
    }
}

/// Kills at every call.
fn all(operation: Operation) {
    let stage = Stage::new(operation);
    let points = (1..).take_while(|number| check_killed(&stage, *number)).count();
    eprintln!("{operation:?}: {points} kill points");
    assert!(points > 20, "{operation:?}: only {points} calls were met");
}

macro_rules! operations {
    ($($operation:ident: $quick:ident, $long:ident;)*) => {
        $(
            #[test]
            fn $quick() {
                sample(Operation::$operation);
            }

            #[test]
            #[ignore = "kills at every system call: minutes"]
            fn $long() {
                all(Operation::$operation);
            }
        )*
    };
}

operations! {
    FirstCreate: a_killed_first_create, a_first_create_killed_at_every_call;
    Create: a_killed_create, a_create_killed_at_every_call;
    Restore: a_killed_restore, a_restore_killed_at_every_call;
    RestoreWithWayBack: a_killed_restore_with_a_way_back, a_restore_with_a_way_back_killed_at_every_call;
    Resume: a_killed_resume, a_resume_killed_at_every_call;
    Undo: a_killed_undo, an_undo_killed_at_every_call;
    Cleanup: a_killed_cleanup, a_cleanup_killed_at_every_call;
    Repair: a_killed_repair, a_repair_killed_at_every_call;
}
