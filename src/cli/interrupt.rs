//! SIGINT, SIGTERM and SIGHUP: the first asks the operation to stop where stopping is safe, the second ends the
//! process.
//!
//! SIGHUP comes when a terminal or a connection is closed, as a rule twice, from the shell and from the kernel: it
//! asks, and ends nothing. Under `nohup` it is ignored, and stays so.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;

use super::exit::Exit;
use crate::error::{Error, Result};

/// Watches for these signals from now on; the flag becomes true with the first one.
///
/// # Errors
/// [`Error::Failed`] when the operating system refuses a handler.
pub fn watch() -> Result<Arc<AtomicBool>> {
    let interrupted = Arc::new(AtomicBool::new(false));
    let unwatched =
        |signal| move |cause| Error::Failed(format!("cannot watch for signal {signal}: {cause}; start vecsnap again"));
    for signal in [SIGINT, SIGTERM] {
        // In this order: the exit looks at the flag before this very signal sets it.
        flag::register_conditional_shutdown(signal, Exit::Interrupted.code().into(), Arc::clone(&interrupted))
            .and_then(|_| flag::register(signal, Arc::clone(&interrupted)))
            .map_err(unwatched(signal))?;
    }
    if !is_ignored(SIGHUP) {
        flag::register(SIGHUP, Arc::clone(&interrupted)).map_err(unwatched(SIGHUP))?;
    }
    Ok(interrupted)
}

/// Whether whoever started this process had the signal ignored.
fn is_ignored(signal: i32) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    ignored >> (signal - 1) & 1 == 1
}

#[cfg(test)]
mod tests {
    use std::process::{Command, exit};
    use std::sync::atomic::Ordering;

    use signal_hook::low_level::raise;

    use super::*;

    const CHILD: &str = "VECSNAP_TEST_RAISES_SIGNALS";
    const FIRST_AND_SECOND: &str =
        "cli::interrupt::tests::the_first_signal_sets_the_flag_and_the_second_exits_with_130";
    const LOST: &str = "cli::interrupt::tests::a_lost_connection_asks_to_stop_however_often_it_is_told";
    const NOHUP: &str = "cli::interrupt::tests::a_lost_connection_stops_nothing_under_nohup";

    /// Signals end the process that runs the test, so the test runs itself once more as a child.
    fn run_again(name: &str, signal: i32, before: &str) -> Option<i32> {
        let program = std::env::current_exe().unwrap();
        let run = format!("{before} exec '{}' {name} --exact --test-threads=1", program.display());
        Command::new("sh").args(["-c", &run]).env(CHILD, signal.to_string()).output().unwrap().status.code()
    }

    fn raised() -> Option<i32> {
        Some(std::env::var(CHILD).ok()?.parse().unwrap())
    }

    #[test]
    fn the_first_signal_sets_the_flag_and_the_second_exits_with_130() {
        if let Some(first) = raised() {
            let interrupted = watch().unwrap();
            assert!(!interrupted.load(Ordering::SeqCst));
            raise(first).unwrap();
            let seen = interrupted.load(Ordering::SeqCst);
            raise(SIGTERM).unwrap();
            exit(if seen { 1 } else { 2 });
        }
        for first in [SIGINT, SIGTERM] {
            assert_eq!(run_again(FIRST_AND_SECOND, first, ""), Some(130), "signal {first}");
        }
    }

    #[test]
    fn a_lost_connection_asks_to_stop_however_often_it_is_told() {
        if let Some(signal) = raised() {
            let (ignored, interrupted) = (is_ignored(signal), watch().unwrap());
            raise(signal).unwrap();
            raise(signal).unwrap();
            // Whoever runs the tests may have the signal ignored.
            exit(if interrupted.load(Ordering::SeqCst) != ignored { 2 } else { 1 });
        }
        assert_eq!(run_again(LOST, SIGHUP, ""), Some(2));
    }

    #[test]
    fn a_lost_connection_stops_nothing_under_nohup() {
        if let Some(signal) = raised() {
            let interrupted = watch().unwrap();
            raise(signal).unwrap();
            raise(signal).unwrap();
            exit(if interrupted.load(Ordering::SeqCst) { 1 } else { 2 });
        }
        assert_eq!(run_again(NOHUP, SIGHUP, "trap '' HUP;"), Some(2));
    }
}
