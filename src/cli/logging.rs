//! Log events as single lines on stderr.
//!
//! By default warnings and errors; errors alone with `--quiet`; with `--verbose` what is done, and twice every detail,
//! then with the time. Lines are written between two drawings of the progress bar, never into it.

use std::io::{self, IsTerminal, Write};

use clap::ColorChoice;
use indicatif::MultiProgress;
use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;

use super::arguments::GlobalArguments;
use crate::error::{Error, Result};

/// Starts logging for the rest of the process; `screen` is that of the progress bars.
///
/// # Errors
/// [`Error::Failed`] when logging was started before.
pub fn start(globals: &GlobalArguments, screen: MultiProgress) -> Result<()> {
    let stderr = BetweenBars { screen, out: io::stderr };
    let colours = Colours::of(globals.color);
    let started = match Detail::of(globals) {
        Detail::Plain(level) => tracing::subscriber::set_global_default(plain(level, colours, stderr)),
        Detail::Timed(level) => tracing::subscriber::set_global_default(timed(level, colours, stderr)),
    };
    started.map_err(|cause| Error::Failed(format!("cannot start logging: {cause}")))
}

/// Which events are shown, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Detail {
    Plain(LevelFilter),
    /// With the time of each event.
    Timed(LevelFilter),
}

impl Detail {
    fn of(globals: &GlobalArguments) -> Self {
        match globals.verbose {
            _ if globals.quiet => Detail::Plain(LevelFilter::ERROR),
            0 => Detail::Plain(LevelFilter::WARN),
            1 => Detail::Timed(LevelFilter::INFO),
            _ => Detail::Timed(LevelFilter::DEBUG),
        }
    }
}

/// Whether lines on stderr are coloured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colours {
    /// They are.
    On,
    /// They are not.
    Off,
}

impl Colours {
    /// As the operator chose, or as stderr is.
    pub fn of(choice: ColorChoice) -> Self {
        match choice {
            ColorChoice::Always => Colours::On,
            ColorChoice::Auto if io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none() => Colours::On,
            ColorChoice::Auto | ColorChoice::Never => Colours::Off,
        }
    }
}

fn plain<W>(level: LevelFilter, colours: Colours, writer: W) -> impl Subscriber
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let lines = tracing_subscriber::fmt().compact().with_target(false).without_time();
    lines.with_max_level(level).with_ansi(colours == Colours::On).with_writer(writer).finish()
}

fn timed<W>(level: LevelFilter, colours: Colours, writer: W) -> impl Subscriber
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let lines = tracing_subscriber::fmt().compact().with_target(false);
    lines.with_max_level(level).with_ansi(colours == Colours::On).with_writer(writer).finish()
}

/// Writes to `out` while the bars of `screen` are taken away.
struct BetweenBars<Out> {
    screen: MultiProgress,
    out: Out,
}

impl<'a, Out, W> MakeWriter<'a> for BetweenBars<Out>
where
    Out: Fn() -> W + 'a,
    W: Write,
{
    type Writer = Line<'a, Out>;

    fn make_writer(&'a self) -> Self::Writer {
        Line { screen: &self.screen, out: &self.out }
    }
}

/// One event on its way out; it arrives in a single write. That it cannot arrive, say because stderr is a log on a
/// medium that is full, stops nothing.
struct Line<'a, Out> {
    screen: &'a MultiProgress,
    out: &'a Out,
}

impl<Out: Fn() -> W, W: Write> Write for Line<'_, Out> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        // Whoever logs would say on stderr that stderr cannot be written, and panic over that.
        let _ = self.screen.suspend(|| (self.out)().write_all(line));
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use indicatif::{ProgressBar, ProgressDrawTarget, TermLike};
    use tracing::subscriber::with_default;

    use super::*;
    use crate::cli::arguments;

    #[derive(Clone, Debug, Default)]
    struct Memory(Arc<Mutex<Vec<u8>>>);

    impl Write for Memory {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Memory {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    /// A screen that notes down what is drawn on it.
    #[rustfmt::skip]
    impl TermLike for Memory {
        fn width(&self) -> u16 { 80 }
        fn move_cursor_up(&self, _: usize) -> io::Result<()> { Ok(()) }
        fn move_cursor_down(&self, _: usize) -> io::Result<()> { Ok(()) }
        fn move_cursor_right(&self, _: usize) -> io::Result<()> { Ok(()) }
        fn move_cursor_left(&self, _: usize) -> io::Result<()> { Ok(()) }
        fn write_line(&self, line: &str) -> io::Result<()> { self.write_str(line) }
        fn write_str(&self, text: &str) -> io::Result<()> { self.clone().write_all(text.trim().as_bytes()) }
        fn clear_line(&self) -> io::Result<()> { self.write_str("<cleared>") }
        fn flush(&self) -> io::Result<()> { Ok(()) }
    }

    /// What a call with these options logs for one event of each level.
    fn logged(line: &str) -> Vec<String> {
        let memory = Memory::default();
        let out = memory.clone();
        let screen = MultiProgress::with_draw_target(ProgressDrawTarget::hidden());
        let writer = BetweenBars { screen, out: move || out.clone() };
        let events = || {
            tracing::error!("it broke");
            tracing::warn!(event = "chroma_snapshot_skipped_missing", path = %"/data/chroma", "no Chroma directory");
            tracing::info!("it is done");
            tracing::debug!("a detail");
        };
        match Detail::of(&arguments::parse(line.split(' ')).unwrap().globals) {
            Detail::Plain(level) => with_default(plain(level, Colours::Off, writer), events),
            Detail::Timed(level) => with_default(timed(level, Colours::Off, writer), events),
        }
        memory.text().lines().map(str::to_owned).collect()
    }

    #[test]
    fn the_options_decide_how_much_is_told_in_single_lines_without_colours() {
        let error = "ERROR it broke";
        let warning = " WARN no Chroma directory event=\"chroma_snapshot_skipped_missing\" path=/data/chroma";
        assert_eq!(logged("vecsnap --quiet"), [error]);
        assert_eq!(logged("vecsnap"), [error, warning]);
        assert_eq!(logged("vecsnap -v").len(), 3);
        assert_eq!(logged("vecsnap -vv").len(), 4);
    }

    #[test]
    fn verbose_lines_begin_with_the_time() {
        for line in logged("vecsnap -v") {
            let year = line.get(..4).and_then(|year| year.parse::<u32>().ok());
            assert!(year.is_some_and(|year| year >= 2024), "{line}");
        }
    }

    #[test]
    fn a_line_takes_the_bar_away_and_brings_it_back() {
        let memory = Memory::default();
        let screen = MultiProgress::with_draw_target(ProgressDrawTarget::term_like(Box::new(memory.clone())));
        let bar = screen.add(ProgressBar::new(10));
        bar.set_style(indicatif::ProgressStyle::with_template("BAR").unwrap());
        bar.tick();
        let out = memory.clone();
        let writer = BetweenBars { screen, out: move || out.clone() };
        with_default(plain(LevelFilter::WARN, Colours::Off, writer), || tracing::warn!("look"));
        let text = memory.text();
        let (before, after) = text.split_once("WARN look\n").unwrap();
        assert!(before.trim_end().ends_with("BAR<cleared>"), "{text}");
        assert!(after.starts_with("BAR"), "{text}");
    }
}
