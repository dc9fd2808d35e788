//! Mounting for real, in a mount namespace that ends with its process.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};

const SKIP: &str = "VECSNAP_SKIP_MOUNT";

/// A call of `unshare` in which mounting is permitted, to be completed by a command; `None`, with a note on stderr,
/// where the operator chose to go without.
#[track_caller]
pub fn namespace() -> Option<Command> {
    if std::env::var_os(SKIP).is_some_and(|value| !value.is_empty() && value != "0") {
        eprintln!("SKIPPED: {SKIP} is set, so nothing was mounted");
        return None;
    }
    let is_root = fs::metadata("/proc/self").unwrap().uid() == 0;
    let make = || {
        let mut command = Command::new("unshare");
        command.arg(if is_root { "-m" } else { "-rm" }).stdin(Stdio::null());
        command
    };
    let probe = make().args(["sh", "-c", "mount --bind /tmp /tmp"]).output();
    let cause = match &probe {
        Ok(output) if output.status.success() => return Some(make()),
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        Err(error) => format!("unshare cannot start: {error}"),
    };
    panic!(
        "tests of bind mounts need the right to mount (root with CAP_SYS_ADMIN, or user namespaces) and the commands \
         unshare and mount, but {cause}; set {SKIP}=1 to leave them out"
    );
}

/// Runs a command to its end, which must be a good one, and returns what it printed.
#[track_caller]
pub fn succeed(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{}\n--- stdout\n{out}\n--- stderr\n{err}", output.status);
    out
}
