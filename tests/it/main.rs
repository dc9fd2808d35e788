//! The integration tests: one binary, this root is its index.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "helpers of tests may fail the test just as tests may; clippy.toml only covers the tests themselves"
)]

#[allow(unreachable_pub, reason = "all of it is for the modules below")]
mod support;

// How the code is built.
mod layers;
mod promises;

// The repository format.
mod chains;
mod deltas;
mod fuzz;
mod golden;

// What scripts and operators rely on.
mod contract;
mod reference;
mod retention;
mod streams;

// Capturing under way: live writers, real Chroma, little changes.
mod capture;
mod chroma_real;
mod increments;
mod live_chroma;
mod live_writer;

// Giving space back.
mod cleanup;

// Restoring: into what, from what, out of what trouble, and when not.
mod accept_invalid;
mod bind_mount;
mod property;
mod recovery;
mod restore_guard;
mod restore_interrupted;
mod restore_refusals;
mod restore_room;
mod targets;

// Proving it beforehand, and knowing what it costs.
mod drill;
mod stats;
mod status;

// Attacks on the real binary, at its system calls and by its media.
#[cfg(target_arch = "x86_64")]
mod errors;
#[cfg(target_arch = "x86_64")]
mod full_disk;
#[cfg(target_arch = "x86_64")]
mod kills;
#[cfg(target_arch = "x86_64")]
mod meetings;
#[cfg(target_arch = "x86_64")]
mod power_cuts;
#[cfg(not(target_arch = "x86_64"))]
mod untraced;

// What goes wrong.
mod bad_input;
mod concurrency;
mod crashes;
mod damaged_bases;
mod hostile;
mod index;
mod neighbours;
mod permissions;
mod processes;
mod repair;
mod rot;
mod validate_all;
