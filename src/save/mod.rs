//! From sources to the store: how each kind of source is read so that what is stored is the state of one moment.
//!
//! Invariant: no byte and no name of a source changes, and locks are held as any reader of it would, or as `--freeze`
//! asks; what could not be captured is said, never left out silently. [`create::create`] tells the whole story. To be
//! read next: `database` and `sqlite` (one database), `tree` and `chroma` (many files at one moment), `file` and
//! `reading` (one file), `increment` (a file against its previous version) with `comparing`, `haystack`, `unchanged`,
//! `bases` and `delta_record`.

mod ahead;
mod capturing;
pub mod chroma;
pub mod create;
pub mod database;
mod effort;
mod file;
mod increment;
mod previous;
mod reading;
mod registry;
pub mod report;
pub mod retake;
pub mod sources;
mod sqlite;
pub mod tree;
mod walk;
pub mod writers;

pub use create::{CreateOptions, create};
pub use effort::Effort;
pub use previous::ReadPolicy;
pub use report::CreateReport;
pub use sources::LiveSources;
pub use writers::{Freeze, IngestLock, WriterPolicy};
