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
#[allow(dead_code, reason = "until the tests that use it have come")]
mod support;

// How the code is built.
mod layers;

// The repository format.
mod golden;

// Which snapshots stay.
mod retention;

// What a restore does when it is stopped, and when it must not begin.
mod restore_interrupted;
mod restore_refusals;
