//! `vecsnap drill`: the proof, before it is needed, that a restore works.

use serde_json::{Value, json};

use super::arguments::DrillArguments;
use super::exit::Exit;
use super::session::{Done, Session};
use crate::error::{Error, Result};
use crate::restore::gate;
use crate::store::{Access, Repository, layout};
use crate::upkeep::drill::{Drill, drill};

/// Drills and shows the outcomes.
///
/// # Errors
/// Those of [`drill`]; a drill that fails is no error but [`Exit::NotValid`].
pub fn run(session: &Session<'_>, arguments: &DrillArguments) -> Result<Exit> {
    let root = session.repository()?;
    let repository = Repository::open(&root, Access::Read, session.lock_wait())?.ok_or_else(|| {
        let root = root.display();
        Error::NotValid(format!(
            "there is no repository at {root}, so there is nothing to drill; check --repo or ATOCORE_BACKUP_DIR"
        ))
    })?;
    let named = match &arguments.stamp {
        None => None,
        Some(argument) => {
            let name = argument.resolve(repository.storage())?.unwrap_or_else(|| argument.to_string());
            Some(gate::resolve(&repository, &name)?)
        }
    };
    let scratch = session.scratch_parent(arguments.scratch.as_deref())?;
    session.locations().sources().map_or(Ok(()), |live| live.check_outside_tree(&scratch))?;
    let drills = drill(&repository, named, &scratch, session.progress)?;
    let passed = drills.iter().all(|drill| drill.ok);
    let exit = if passed { Exit::Done } else { Exit::NotValid };
    let outcome = if passed { "passed" } else { "failed" };
    let done = Done {
        what: format!("the drill {outcome}"),
        next: format!("the last line of {} tells of it", root.join(layout::DRILLS).display()),
    };
    session.print_done(&document(&drills), exit, done)?;
    Ok(exit)
}

fn document(drills: &[Drill]) -> Value {
    json!({ "ok": drills.iter().all(|drill| drill.ok), "drills": drills })
}
