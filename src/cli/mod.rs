//! The command line: arguments in, one result document out, one exit code.
//!
//! Everything that knows a terminal lives here and nowhere else: clap, progress bars, colours, JSON and text, signals.
//! Invariant: the result of a command is the only thing that ever goes to stdout; progress, warnings and errors go to
//! stderr. The rooms below take plain option structs, so that the same operations can later be served over HTTP.

pub mod arguments;
pub mod cleanup;
pub mod completions;
pub mod create;
pub mod demo;
pub mod drill;
pub mod exit;
pub mod init;
pub mod interrupt;
pub mod json;
pub mod list;
pub mod logging;
pub mod man;
pub mod output;
pub mod paths;
pub mod progress;
pub mod repair;
pub mod restore;
pub mod run;
pub mod session;
pub mod show;
pub mod stamp;
pub mod stats;
pub mod status;
pub mod text;
pub mod validate;
pub mod validate_all;
