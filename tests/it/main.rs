//! The integration tests: one binary, this root is its index.

mod retention;
