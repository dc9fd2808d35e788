//! The integration tests: one binary, this root is its index.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "helpers of tests may fail the test just as tests may; clippy.toml only covers the tests themselves"
)]

mod golden;
mod retention;
