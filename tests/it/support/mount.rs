//! Mounting for real, in a mount namespace that ends with its process.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

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

/// A mount namespace that lives as long as its value, to mount in and to run commands in.
pub struct Mounts {
    /// A process that does nothing in there until its stdin ends.
    holder: Child,
    enter: Vec<String>,
}

impl Mounts {
    /// A new namespace, or `None` as [`namespace`].
    #[track_caller]
    pub fn new() -> Option<Self> {
        let mut command = namespace()?;
        let mut holder = command
            .args(["sh", "-c", "echo ready; exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // From then on it is in its namespace.
        let mut line = String::new();
        BufReader::new(holder.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n", "the namespace was not made");
        let mut enter = vec!["nsenter".to_owned(), "-t".into(), holder.id().to_string(), "-m".into()];
        if fs::metadata("/proc/self").unwrap().uid() != 0 {
            enter.extend(["-U".to_owned(), "--preserve-credentials".into()]);
        }
        Some(Self { holder, enter })
    }

    /// A program with its first arguments that runs what follows them in there.
    pub fn enter(&self) -> &[String] {
        &self.enter
    }

    /// Runs a script in there, which must succeed.
    #[track_caller]
    pub fn run(&self, script: &str, arguments: &[&Path]) -> String {
        let mut command = Command::new(&self.enter[0]);
        succeed(command.args(&self.enter[1..]).args(["sh", "-euc", script, "sh"]).args(arguments))
    }

    /// What is at a path in there, as a path out here.
    pub fn seen(&self, path: &Path) -> PathBuf {
        Path::new("/proc").join(self.holder.id().to_string()).join("root").join(path.strip_prefix("/").unwrap())
    }
}

impl Drop for Mounts {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
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
