//! Progress bars on stderr, and the operator's wish to stop.
//!
//! One bar at a time, one per phase, gone when its phase is over, so that the screen ends up with the result alone.
//! Bars are drawn only for a person: stderr is a terminal and `--quiet` is not given.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use parking_lot::Mutex;

use crate::progress::{Phase, Progress};

const WITH_TOTAL: &str = "{msg:18} {bar:30} {binary_bytes:>11} of {binary_total_bytes}, {eta} left";
const WITHOUT_TOTAL: &str = "{msg:18} {spinner} {binary_bytes:>11}";

/// Whether bars are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visibility {
    /// Drawn on stderr.
    Drawn,
    /// Not drawn.
    Hidden,
}

/// The [`Progress`] of the command line.
pub struct Bars {
    screen: MultiProgress,
    current: Mutex<Option<ProgressBar>>,
    interrupted: Arc<AtomicBool>,
}

impl Bars {
    /// No bar yet; `interrupted` is the flag of [`super::interrupt::watch`].
    pub fn new(visibility: Visibility, interrupted: Arc<AtomicBool>) -> Self {
        let target = match visibility {
            Visibility::Drawn => ProgressDrawTarget::stderr(),
            Visibility::Hidden => ProgressDrawTarget::hidden(),
        };
        Self { screen: MultiProgress::with_draw_target(target), current: Mutex::new(None), interrupted }
    }

    /// A handle by which others write to stderr without tearing a bar.
    pub fn screen(&self) -> MultiProgress {
        self.screen.clone()
    }
}

impl Progress for Bars {
    fn phase(&self, phase: Phase, total: Option<u64>) {
        let (bar, template) = match total {
            Some(bytes) => (ProgressBar::new(bytes), WITH_TOTAL),
            None => (ProgressBar::no_length(), WITHOUT_TOTAL),
        };
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = self.screen.add(bar.with_style(style).with_message(phase.name()));
        if let Some(previous) = self.current.lock().replace(bar) {
            previous.finish_and_clear();
        }
    }

    fn advance(&self, bytes: u64) {
        if let Some(bar) = self.current.lock().as_ref() {
            bar.inc(bytes);
        }
    }

    fn finish(&self) {
        if let Some(bar) = self.current.lock().take() {
            bar.finish_and_clear();
        }
    }

    fn interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    fn hidden() -> Bars {
        Bars::new(Visibility::Hidden, Arc::default())
    }

    #[test]
    fn a_phase_counts_from_nothing_and_ends_with_the_next_or_with_the_operation() {
        let bars = hidden();
        bars.advance(7);
        bars.phase(Phase::Reading, Some(100));
        bars.advance(40);
        bars.advance(2);
        let reading = bars.current.lock().clone().unwrap();
        assert_eq!((reading.position(), reading.length(), reading.message()), (42, Some(100), "Reading".to_owned()));

        bars.phase(Phase::Checking, None);
        assert!(reading.is_finished());
        let checking = bars.current.lock().clone().unwrap();
        assert_eq!((checking.position(), checking.length()), (0, None));

        bars.finish();
        assert!(checking.is_finished());
        assert!(bars.current.lock().is_none());
    }

    #[test]
    fn a_signal_reaches_the_operation() {
        let flag = Arc::new(AtomicBool::new(false));
        let bars = Bars::new(Visibility::Hidden, Arc::clone(&flag));
        assert!(bars.check().is_ok());
        flag.store(true, Ordering::SeqCst);
        assert!(matches!(bars.check(), Err(Error::Interrupted)));
    }

    #[test]
    fn both_layouts_of_a_bar_are_well_formed() {
        for template in [WITH_TOTAL, WITHOUT_TOTAL] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
    }
}
