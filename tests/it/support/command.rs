//! Calls of the binary, with nothing of the caller's environment that it would listen to.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use super::mount::Mounts;
#[cfg(target_arch = "x86_64")]
use super::tracer::{self, Aim, Call, Traced};

/// No call of a test takes this long; one that does hangs.
const PATIENCE: Duration = Duration::from_secs(120);

const LISTENED_TO: [&str; 7] = [
    "ATOCORE_BACKUP_DIR",
    "ATOCORE_DATA_DIR",
    "ATOCORE_PROJECT_REGISTRY_PATH",
    "RUST_LOG",
    "RUST_BACKTRACE",
    "NO_COLOR",
    "CLICOLOR_FORCE",
];

/// The binary that is tested.
pub fn binary() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_vecsnap"))
}

/// One call of the binary, to be completed and run.
pub struct Vecsnap {
    command: assert_cmd::Command,
    line: String,
}

impl Vecsnap {
    /// A call without arguments in a clean environment.
    pub fn new() -> Self {
        Self::of(assert_cmd::Command::new(binary()))
    }

    fn of(mut command: assert_cmd::Command) -> Self {
        LISTENED_TO.iter().for_each(|name| {
            command.env_remove(name);
        });
        command.timeout(PATIENCE);
        Self { command, line: "vecsnap".into() }
    }

    /// The same call by a process that permissions hold back even if it is root's.
    pub fn held_by_permissions(self) -> Self {
        if fs::metadata("/proc/self").unwrap().uid() != 0 {
            return self;
        }
        self.run_by(&["setpriv", "--bounding-set=-dac_override,-dac_read_search"])
    }

    /// The same call in a namespace.
    pub fn within(self, mounts: &Mounts) -> Self {
        self.run_by(mounts.enter())
    }

    /// The same call, begun by another program.
    pub fn run_by(self, program: &[impl AsRef<OsStr>]) -> Self {
        let mut call = Self::of(assert_cmd::Command::new(&program[0]));
        call.command.args(&program[1..]).arg(binary()).args(self.command.get_args());
        call.command.envs(self.command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        Self { line: self.line, ..call }
    }

    /// The same call under strace, which writes these system calls of it into a file.
    pub fn recorded(self, calls: &str, output: &Path) -> Self {
        let mut call = Self::of(assert_cmd::Command::new("strace"));
        let whole = ["-f", "-qq", "-xx", "--seccomp-bpf", "-s", "16777216", "-e", "signal=none", "-e"];
        call.command.args(whole).arg(format!("trace={calls}")).arg("-o").arg(output).arg(binary());
        call.command.args(self.command.get_args());
        call.command.envs(self.command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        Self { line: self.line, ..call }
    }

    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.line.push(' ');
        self.line.push_str(&argument.as_ref().to_string_lossy());
        self.command.arg(argument);
        self
    }

    pub fn args(self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        arguments.into_iter().fold(self, |call, argument| call.arg(argument))
    }

    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    pub fn current_dir(mut self, directory: &Path) -> Self {
        self.command.current_dir(directory);
        self
    }

    pub fn run(mut self) -> Outcome {
        let output = self.command.output().expect("the binary can be started");
        Outcome {
            line: self.line,
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).expect("stdout is UTF-8"),
            stderr: String::from_utf8(output.stderr).expect("stderr is UTF-8"),
        }
    }

    /// Runs the call and strikes at one of its system calls.
    #[cfg(target_arch = "x86_64")]
    pub fn traced(self, aim: &Aim<'_>) -> (Outcome, Vec<Call>) {
        let mut command = Command::new(self.command.get_program());
        command.args(self.command.get_args());
        for (name, value) in self.command.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        let Traced { calls, code, stdout, stderr } = tracer::run(&command, aim);
        (Outcome { line: self.line, code, stdout, stderr }, calls)
    }

    /// Runs a call that must succeed, and returns its document.
    pub fn json(self) -> Value {
        self.run().exits(0).json()
    }
}

/// What a call left behind.
#[derive(Debug)]
pub struct Outcome {
    line: String,
    /// `None` if a signal or the end of the tests' patience killed it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Outcome {
    /// Holds the exit code, and that whatever happened was said without a panic or a backtrace.
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "exit code of {self}");
        assert!(!self.stderr.contains("panicked at"), "a panic from {self}");
        self
    }

    /// Holds that stderr mentions all of these.
    #[track_caller]
    pub fn says(self, words: &[&str]) -> Self {
        for word in words {
            assert!(self.stderr.contains(word), "stderr does not mention {word:?}: {self}");
        }
        self
    }

    /// Holds that stdout is empty.
    #[track_caller]
    pub fn prints_nothing(self) -> Self {
        assert_eq!(self.stdout, "", "{self}");
        self
    }

    /// The document on stdout.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("no JSON document ({error}) from {self}"))
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { line, code, stdout, stderr } = self;
        write!(f, "`{line}`, which exited with {code:?}\n--- stdout\n{stdout}\n--- stderr\n{stderr}")
    }
}

/// The names of a document's fields, in order.
#[track_caller]
pub fn keys(document: &Value) -> Vec<&str> {
    document.as_object().unwrap_or_else(|| panic!("no object: {document}")).keys().map(String::as_str).collect()
}
