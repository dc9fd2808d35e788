//! From the store back to files.

pub mod verify;
