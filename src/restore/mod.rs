//! From the store back to files: a snapshot becomes the present state again, in place.
//!
//! [`restore()`] tells the whole story (`in_place`). Invariant: before the first write everything that will be written
//! has been read and hashed, and the state that will be overwritten is in a snapshot of its own; from the first write
//! to the last an intent says what is being done, so that an interruption at any point is noticed, and finished or
//! undone. Restartable, not atomic: in between, every database says "file is not a database" rather than half of
//! something.

mod apply;
mod attributes;
mod awaited;
mod blocks;
mod difference;
mod export;
mod fold;
pub mod gate;
mod guard;
mod history;
mod in_place;
mod job;
mod losses;
mod permission;
mod plan;
pub mod report;
mod room;
mod scan;
mod settled;
mod target;
pub mod verify;
mod wanted;

pub use attributes::OwnerPolicy;
pub use export::{ExportReport, directory_of, export};
pub use gate::{InvalidPolicy, SuspectPolicy};
pub use guard::OthersPolicy;
pub use history::ways_back;
pub use in_place::{PreSnapshot, RestoreOptions, rehearse, restore};
pub use job::{ChromaChoice, Goal};
pub use losses::{Unreadable, UnreadableBytes};
pub use plan::{HardLinkPolicy, Totals};
pub use report::{Integrity, PlannedSource, Rehearsal, RestoreReport};
