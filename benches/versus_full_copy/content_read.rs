//! How much of the live files' content a command reads: what strace sees of system calls on files below a directory.

use std::path::Path;
use std::process::{Command, Stdio};

const READS: &str = "trace=read,readv,pread64,preadv,preadv2,sendfile,copy_file_range,mmap";

/// Bytes that a command reads of files below `live`, mapped ones counted whole; `None` without strace on the PATH.
pub(crate) fn bytes(command: &Command, live: &Path, scratch: &Path) -> Option<u64> {
    let trace = scratch.join("trace");
    let mut traced = Command::new("strace");
    traced.args(["-f", "-y", "-e", READS, "-o"]).arg(&trace).arg(command.get_program()).args(command.get_args());
    let status = traced.stdout(Stdio::null()).stderr(Stdio::null()).status().ok()?;
    assert!(status.success(), "{command:?} failed under strace");
    let live = format!("<{}/", live.display());
    let lines = std::fs::read_to_string(&trace).unwrap();
    Some(lines.lines().filter(|line| line.contains(&live)).map(bytes_of_call).sum())
}

/// `PID pread64(3</live/file>, ""..., 4096, 0) = 4096`, or `PID mmap(NULL, 4096, PROT_READ, MAP_SHARED, 3</live/file>,
/// 0) = 0x…`.
fn bytes_of_call(line: &str) -> u64 {
    let returned = line.rsplit_once(" = ").map_or("", |(_, returned)| returned);
    match returned.parse() {
        Ok(bytes) => bytes,
        Err(_) if returned.starts_with("0x") => {
            line.split(", ").nth(1).and_then(|bytes| bytes.parse().ok()).unwrap_or(0)
        }
        Err(_) => 0,
    }
}
