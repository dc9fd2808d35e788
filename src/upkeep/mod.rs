//! Keeping the repository in order over the years: which snapshots stay, and what they are still worth.

pub mod cleanup;
pub mod drill;
mod gc;
pub mod impact;
mod ledger;
pub mod repair;
pub mod retention;
pub mod stats;
pub mod status;
pub mod validate;
