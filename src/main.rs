//! The `vecsnap` program: see the library of the same name.

use std::process::ExitCode;

fn main() -> ExitCode {
    vecsnap::cli::run::run(std::env::args_os()).into()
}
