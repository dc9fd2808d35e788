//! One run of the program: from the command line to the exit code.

use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use super::arguments::{self, Command, Invocation};
use super::exit::Exit;
use super::logging::Colours;
use super::progress::{Bars, Visibility};
use super::session::Session;
use super::{
    cleanup, completions, create, demo, drill, init, interrupt, list, logging, man, output, repair, restore, show,
    stats, status, validate,
};
use crate::error::{Error, Result};
use crate::progress::Progress;

/// Runs the command that the arguments name and returns how it ended; errors are one sentence on stderr.
pub fn run(line: impl IntoIterator<Item = OsString>) -> Exit {
    let invocation = match arguments::parse(line) {
        Ok(invocation) => invocation,
        Err(answer) => {
            let exit = if answer.exit_code() == 0 { Exit::Done } else { Exit::Usage };
            return print_answer(&answer).map_or_else(|error| fail(&error, Colours::Off), |()| exit);
        }
    };
    let outcome = start(&invocation);
    outcome.unwrap_or_else(|error| fail(&error, Colours::of(invocation.globals.color)))
}

fn fail(error: &Error, colours: Colours) -> Exit {
    // Nothing is left to do where stderr is gone.
    let _ = writeln!(io::stderr(), "{}", told(error, colours));
    Exit::from(error)
}

/// The sentence on stderr. Names of files may hold what a terminal would obey.
fn told(error: &Error, colours: Colours) -> String {
    let begin = match colours {
        Colours::On => "\u{1b}[31merror:\u{1b}[0m ",
        Colours::Off => "error: ",
    };
    let mut told = begin.to_owned();
    for character in error.to_string().chars() {
        match character {
            '\n' => told.push(character),
            _ if character.is_control() => told.extend(character.escape_default()),
            _ => told.push(character),
        }
    }
    told
}

/// Prints help to stdout, or what is wrong with the call to stderr; a reader that went away early is no error.
fn print_answer(answer: &clap::Error) -> Result<()> {
    match answer.print() {
        Err(cause) if cause.kind() != io::ErrorKind::BrokenPipe && !answer.use_stderr() => {
            Err(Error::io("write", "stdout")(cause))
        }
        _ => Ok(()),
    }
}

fn start(invocation: &Invocation) -> Result<Exit> {
    check_clock()?;
    let interrupted = interrupt::watch()?;
    let drawn = io::stderr().is_terminal() && !invocation.globals.quiet;
    let bars = Bars::new(if drawn { Visibility::Drawn } else { Visibility::Hidden }, interrupted);
    logging::start(&invocation.globals, bars.screen())?;
    let session = Session { globals: &invocation.globals, progress: &bars };
    let outcome = dispatch(&session, &invocation.command);
    bars.finish();
    outcome
}

/// Stamps begin in 1970, and chrono panics at a moment before.
fn check_clock() -> Result<()> {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(_) => Ok(()),
        Err(_) => Err(Error::Failed("the clock of this machine shows a time before 1970; set it and try again".into())),
    }
}

fn dispatch(session: &Session<'_>, command: &Command) -> Result<Exit> {
    match command {
        Command::Create(arguments) => create::run(session, arguments),
        Command::List => list::run(session),
        Command::Show(arguments) => show::run(session, arguments),
        Command::Validate(arguments) => validate::run(session, arguments),
        Command::Cleanup(arguments) => cleanup::run(session, arguments),
        Command::Stats(arguments) => stats::run(session, arguments),
        Command::Status(arguments) => status::run(session, arguments),
        Command::Repair(arguments) => repair::run(session, arguments),
        Command::Drill(arguments) => drill::run(session, arguments),
        Command::Init => init::run(session),
        Command::Restore(arguments) => restore::run(session, arguments),
        Command::Demo(arguments) => demo::run(session, arguments),
        Command::Completions(arguments) => output::print_bytes(&completions::script(arguments)).map(|()| Exit::Done),
        Command::Man(arguments) => output::print_bytes(&man::page(arguments)?).map(|()| Exit::Done),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_coloured_word_and_a_sentence_that_no_terminal_obeys() {
        let error = Error::Failed("cannot open /a\u{1b}[31mb\tc: größer\nsecond".into());
        assert_eq!(told(&error, Colours::Off), "error: cannot open /a\\u{1b}[31mb\\tc: größer\nsecond");
        assert!(told(&error, Colours::On).starts_with("\u{1b}[31merror:\u{1b}[0m cannot open /a\\u{1b}[31mb"));
    }
}
