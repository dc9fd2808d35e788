//! Crashes after every operation: whatever a loss of power leaves of a create, a cleanup, a repair or a restore, every
//! acknowledged snapshot is whole, and work goes on.
//!
//! The quick tier tries a slice of the crashes; the long one is
//! `cargo test --release --test it crashes -- --ignored --nocapture`. `VECSNAP_SEED` draws others, `VECSNAP_CRASH`
//! repeats one: docs/testing.md.

mod campaign;
mod cleanups;
mod creates;
mod found;
mod recording;
mod recoveries;
mod repairs;
mod replacements;
mod repository;
mod restores;
mod targets;
