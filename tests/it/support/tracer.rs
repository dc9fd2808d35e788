//! Runs the binary and strikes at its n-th system call: kills it there, makes the call fail, or lets it lie.
//!
//! The calls of all threads are counted together, in the order in which they begin, and only those that concern the
//! files below one directory: so n = 1, 2, 3, … meets every step of a run. strace counts each name in each thread by
//! itself, which never meets the fifth write of a thread if another one wrote five times before it.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::syscalls::{Flags, Place, Syscall};

/// No traced run takes this long; one that does hangs, and is killed.
const PATIENCE: Duration = Duration::from_secs(300);

/// `ptrace_syscall_info.op` where a call begins.
const ENTRY: u8 = libc::PTRACE_SYSCALL_INFO_ENTRY;

/// What happens at the call that was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The process is killed before the call does anything.
    Kill,
    /// The call does nothing and fails.
    Error(Errno),
    /// The call does nothing and says that it succeeded.
    Lie,
    /// None: the call only waits for what is done before it.
    Pause,
    /// Of what the call writes, one bit in the middle reaches the medium as the other one.
    Rot,
}

/// Which calls count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counted {
    /// Those that change files, names or attributes, or make them durable.
    Changes,
    /// Those of them that make something durable.
    Syncs,
    /// Those that only look.
    Looks,
}

/// A call that counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    pub name: &'static str,
    pub path: PathBuf,
}

impl std::fmt::Display for Call {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}({})", self.name, self.path.display())
    }
}

/// What to strike at.
#[derive(Clone, Copy)]
pub struct Aim<'a> {
    /// Calls count that concern what is below.
    pub below: &'a Path,
    pub counted: Counted,
    /// Of these only such calls count.
    pub only: Option<&'a dyn Fn(&Call) -> bool>,
    /// The number of the call, from 1, and its fate.
    pub strike: Option<(usize, Fault)>,
    /// What is done right before, while the call waits.
    pub before: Option<&'a dyn Fn()>,
}

/// What a traced run did.
#[derive(Debug)]
pub struct Traced {
    /// All calls that counted, in the order in which they began.
    pub calls: Vec<Call>,
    /// `None` if a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// Runs a command to its end.
pub fn run(command: &Command, aim: &Aim<'_>) -> Traced {
    let output = tempfile::tempdir().unwrap();
    let place = |name: &str| output.path().join(name);
    // The shell waits until it is traced and then becomes the command.
    let mut shell = Command::new("sh");
    shell.args(["-c", "read -r go && exec \"$@\"", "sh"]).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell.stdin(Stdio::piped()).stdout(File::create(place("stdout")).unwrap());
    let mut child = shell.stderr(File::create(place("stderr")).unwrap()).spawn().unwrap();
    let process = Pid::from_raw(i32::try_from(child.id()).unwrap());
    let options = Options::PTRACE_O_TRACESYSGOOD
        | Options::PTRACE_O_TRACECLONE
        | Options::PTRACE_O_TRACEEXEC
        | Options::PTRACE_O_EXITKILL;
    ptrace::seize(process, options).expect("processes may be traced; in a container that needs CAP_SYS_PTRACE");
    child.stdin.take().unwrap().write_all(b"go\n").unwrap();

    let (over, watched) = mpsc::channel::<()>();
    let watch = thread::spawn(move || {
        if watched.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
            let _ = kill(process, Signal::SIGKILL);
        }
    });
    let mut tracer = Tracer { process, aim, calls: Vec::new(), answers: HashMap::new(), rotten: HashMap::new() };
    let code = tracer.follow();
    // It was waited for already, as a traced process.
    let _ = child.wait();
    drop(over);
    watch.join().unwrap();
    let text = |name| fs::read_to_string(place(name)).unwrap();
    Traced { calls: tracer.calls, code, stdout: text("stdout"), stderr: text("stderr") }
}

struct Tracer<'a> {
    process: Pid,
    aim: &'a Aim<'a>,
    calls: Vec<Call>,
    /// What the calls under way that were struck will return, by thread.
    answers: HashMap<Pid, u64>,
    /// Bytes of the process that are other ones during a call, by thread.
    rotten: HashMap<Pid, u64>,
}

impl Tracer<'_> {
    /// Returns the exit code, or `None` if a signal ended the process.
    fn follow(&mut self) -> Option<i32> {
        // Other tests of this process have children too; those are of other threads.
        let flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
        loop {
            let signal = match waitpid(None, Some(flags)).unwrap() {
                WaitStatus::Exited(pid, code) if pid == self.process => return Some(code),
                WaitStatus::Signaled(pid, ..) if pid == self.process => return None,
                WaitStatus::PtraceSyscall(thread) => {
                    self.stopped(thread);
                    (thread, None)
                }
                WaitStatus::PtraceEvent(thread, ..) => (thread, None),
                WaitStatus::Stopped(thread, signal) => (thread, Some(signal)),
                _ => continue,
            };
            // A thread that was killed meanwhile is gone.
            let _ = ptrace::syscall(signal.0, signal.1);
        }
    }

    fn stopped(&mut self, thread: Pid) {
        let Ok(info) = ptrace::syscall_info(thread) else { return };
        let Ok(mut registers) = ptrace::getregs(thread) else { return };
        if info.op != ENTRY {
            if let Some(answer) = self.answers.remove(&thread) {
                registers.rax = answer;
                let _ = ptrace::setregs(thread, registers);
            }
            if let Some(place) = self.rotten.remove(&thread) {
                flip(thread, place);
            }
            return;
        }
        let arguments = [registers.rdi, registers.rsi, registers.rdx, registers.r10];
        let Some(call) = self.counts(thread, registers.orig_rax, arguments) else { return };
        self.calls.push(call);
        let Some((_, fault)) = self.aim.strike.filter(|(number, _)| *number == self.calls.len()) else { return };
        if let Some(before) = self.aim.before {
            before();
        }
        let errno = match fault {
            Fault::Kill => return kill(self.process, Signal::SIGKILL).unwrap(),
            Fault::Error(errno) => errno as i64,
            Fault::Lie => 0,
            Fault::Pause => return,
            Fault::Rot => {
                let place = registers.rsi + registers.rdx / 2;
                flip(thread, place);
                self.rotten.insert(thread, place);
                return;
            }
        };
        self.answers.insert(thread, (-errno) as u64);
        // There is no such call, so the kernel does nothing.
        registers.orig_rax = u64::MAX;
        ptrace::setregs(thread, registers).unwrap();
    }

    fn counts(&self, thread: Pid, number: u64, arguments: [u64; 4]) -> Option<Call> {
        let syscall = Syscall::of(i64::try_from(number).ok()?)?;
        let argument = |index: usize| arguments[index];
        let counted = match syscall.flags {
            Some(Flags::In(index)) => syscall.counted_with(argument(index)),
            Some(Flags::At(index)) => syscall.counted_with(word_at(thread, argument(index))?),
            None => syscall.counted,
        };
        let asked = self.aim.counted;
        if counted != asked && !(asked == Counted::Changes && counted == Counted::Syncs) {
            return None;
        }
        let of_thread = |rest: String| PathBuf::from(format!("/proc/{thread}/{rest}"));
        let opened = |descriptor: u64| fs::read_link(of_thread(format!("fd/{}", descriptor as i32))).ok();
        let directory = |descriptor: u64| match descriptor as i32 {
            libc::AT_FDCWD => fs::read_link(of_thread("cwd".into())).ok(),
            _ => opened(descriptor),
        };
        let path = match syscall.place {
            Place::Descriptor(index) => opened(argument(index))?,
            Place::Path(index) => directory(libc::AT_FDCWD as u64)?.join(text_at(thread, argument(index))?),
            Place::At(index) => match text_at(thread, argument(index + 1)) {
                Some(name) if !name.as_os_str().is_empty() => directory(argument(index))?.join(name),
                _ => opened(argument(index))?,
            },
        };
        let call = Call { name: syscall.name, path };
        let is_meant = || self.aim.only.is_none_or(|is_meant| is_meant(&call));
        (call.path.starts_with(self.aim.below) && is_meant()).then_some(call)
    }
}

/// Flips a bit of the process's memory.
fn flip(thread: Pid, address: u64) {
    let memory = File::options().read(true).write(true).open(format!("/proc/{thread}/mem")).unwrap();
    let mut byte = [0];
    memory.read_exact_at(&mut byte, address).unwrap();
    memory.write_all_at(&[byte[0] ^ 1], address).unwrap();
}

fn word_at(thread: Pid, address: u64) -> Option<u64> {
    let mut bytes = [0; 8];
    File::open(format!("/proc/{thread}/mem")).ok()?.read_exact_at(&mut bytes, address).ok()?;
    Some(u64::from_ne_bytes(bytes))
}

/// The path that stands at an address of the process.
fn text_at(thread: Pid, address: u64) -> Option<PathBuf> {
    let memory = File::open(format!("/proc/{thread}/mem")).ok()?;
    let mut text = Vec::new();
    // Never across the end of a page, behind which there may be nothing.
    while text.len() < 4096 {
        let from = address.checked_add(text.len() as u64)?;
        let mut bytes = vec![0; 256.min(4096 - (from % 4096) as usize)];
        memory.read_exact_at(&mut bytes, from).ok()?;
        if let Some(end) = bytes.iter().position(|byte| *byte == 0) {
            text.extend(&bytes[..end]);
            return String::from_utf8(text).ok().map(PathBuf::from);
        }
        text.extend(bytes);
    }
    None
}
