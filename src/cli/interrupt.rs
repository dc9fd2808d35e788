//! SIGINT and SIGTERM: the first asks the operation to stop where stopping is safe, the second ends the process.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use super::exit::Exit;
use crate::error::{Error, Result};

/// Watches for both signals from now on; the flag becomes true with the first one.
///
/// # Errors
/// [`Error::Failed`] when the operating system refuses a handler.
pub fn watch() -> Result<Arc<AtomicBool>> {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // In this order: the exit looks at the flag before this very signal sets it.
        flag::register_conditional_shutdown(signal, Exit::Interrupted.code().into(), Arc::clone(&interrupted))
            .and_then(|_| flag::register(signal, Arc::clone(&interrupted)))
            .map_err(|cause| {
                Error::Failed(format!("cannot watch for signal {signal}: {cause}; start vecsnap again"))
            })?;
    }
    Ok(interrupted)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, exit};
    use std::sync::atomic::Ordering;

    use signal_hook::low_level::raise;

    use super::*;

    const CHILD: &str = "VECSNAP_TEST_RAISES_SIGNALS";

    /// Signals end the process that runs the test, so the test runs itself once more as a child.
    #[test]
    fn the_first_signal_sets_the_flag_and_the_second_exits_with_130() {
        if std::env::var_os(CHILD).is_some() {
            let interrupted = watch().unwrap();
            assert!(!interrupted.load(Ordering::SeqCst));
            raise(SIGINT).unwrap();
            let seen = interrupted.load(Ordering::SeqCst);
            raise(SIGTERM).unwrap();
            exit(if seen { 1 } else { 2 });
        }
        let name = "cli::interrupt::tests::the_first_signal_sets_the_flag_and_the_second_exits_with_130";
        let child = Command::new(std::env::current_exe().unwrap())
            .args([name, "--exact", "--test-threads=1"])
            .env(CHILD, "1")
            .output()
            .unwrap();
        assert_eq!(child.status.code(), Some(130), "{child:?}");
    }
}
