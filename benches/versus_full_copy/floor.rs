//! The floor for an increment: `zstd -3 --long --patch-from` of the old file, file by file.
//!
//! No tool that keeps history can be expected below it: it holds the whole old file in memory, shares nothing between
//! files and verifies nothing.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use super::states;

/// Bytes it takes to store `next` when `previous` is at hand; `None` without zstd on the PATH.
pub(crate) fn bytes(previous: &Path, next: &Path) -> Option<u64> {
    let mut total = 0;
    for file in states::files(next) {
        let (old, new) = (previous.join(&file), next.join(&file));
        let mut command = Command::new("zstd");
        command.args(["-q", "-3", "-c"]).arg(&new);
        if old.exists() {
            if fs::read(&old).unwrap() == fs::read(&new).unwrap() {
                continue;
            }
            command.args(["--long=30", "--memory=2048MB"]).arg(format!("--patch-from={}", old.display()));
        }
        let output = command.stderr(Stdio::null()).output().ok().filter(|output| output.status.success())?;
        total += output.stdout.len() as u64;
    }
    Some(total)
}
