//! Where and how the result document of a command is shown.

use std::io::{self, IsTerminal, Write};

use serde_json::Value;

use super::arguments::GlobalArguments;
use super::exit::Exit;
use super::{json, text};
use crate::error::{Error, Result};

/// How a result document is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// JSON for scripts.
    Json,
    /// Text for a person at a terminal.
    Text,
    /// Nothing, so that cron stays silent.
    Nothing,
}

/// What stdout is connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stdout {
    /// A person reads along.
    Terminal,
    /// A pipe or a file.
    Redirected,
}

impl Stdout {
    /// What stdout of this process is connected to.
    pub fn of_this_process() -> Self {
        if io::stdout().is_terminal() { Stdout::Terminal } else { Stdout::Redirected }
    }
}

impl Form {
    /// The form for these options: `--json` always wins, and only a success is silenced by `--quiet`.
    pub fn choose(globals: &GlobalArguments, stdout: Stdout, exit: Exit) -> Self {
        match stdout {
            _ if globals.json => Form::Json,
            _ if globals.quiet && exit == Exit::Done => Form::Nothing,
            Stdout::Terminal => Form::Text,
            Stdout::Redirected => Form::Json,
        }
    }
}

/// Shows the document on stdout; a reader that went away early (`| head`) is no error.
///
/// # Errors
/// [`Error::Io`] when stdout cannot be written.
pub fn print(document: &Value, form: Form) -> Result<()> {
    let mut bytes = Vec::new();
    match form {
        Form::Json => json::write(document, &mut bytes).map_err(Error::io("write", "stdout"))?,
        Form::Text => bytes.extend(text::render(document).bytes()),
        Form::Nothing => {}
    }
    print_bytes(&bytes)
}

/// Writes bytes that are a result by themselves, such as a man page, to stdout.
///
/// # Errors
/// [`Error::Io`] when stdout cannot be written.
pub fn print_bytes(bytes: &[u8]) -> Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Error::io("write", "stdout")(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::arguments;

    fn form(line: &str, stdout: Stdout, exit: Exit) -> Form {
        Form::choose(&arguments::parse(line.split(' ')).unwrap().globals, stdout, exit)
    }

    #[test]
    fn scripts_get_json_people_get_text_and_quiet_silences_only_success() {
        use Stdout::{Redirected, Terminal};
        let table = [
            ("vecsnap list", Terminal, Exit::Done, Form::Text),
            ("vecsnap list", Redirected, Exit::Done, Form::Json),
            ("vecsnap list --json", Terminal, Exit::Done, Form::Json),
            ("vecsnap --quiet --json list", Redirected, Exit::Done, Form::Json),
            ("vecsnap --quiet list", Redirected, Exit::Done, Form::Nothing),
            ("vecsnap --quiet list", Terminal, Exit::Done, Form::Nothing),
            ("vecsnap --quiet list", Redirected, Exit::NotValid, Form::Json),
            ("vecsnap --quiet list", Terminal, Exit::Failed, Form::Text),
        ];
        for (line, stdout, exit, expected) in table {
            assert_eq!(form(line, stdout, exit), expected, "{line} {stdout:?} {exit:?}");
        }
    }
}
