//! What every command file gets: the options of every command, and where to report.

use std::ffi::OsString;

use serde_json::Value;

use super::arguments::GlobalArguments;
use super::exit::Exit;
use super::output::{self, Form, Stdout};
use super::paths::Locations;
use crate::error::Result;
use crate::progress::Progress;
use crate::store::LockWait;

/// One run of the program, as its command sees it.
pub struct Session<'a> {
    /// The options of every command.
    pub globals: &'a GlobalArguments,
    /// Where the command reports how far it is, and learns that it should stop.
    pub progress: &'a dyn Progress,
}

impl<'a> Session<'a> {
    /// Where the repository and the sources are.
    pub fn locations(&self) -> Locations<'a, fn(&str) -> Option<OsString>> {
        Locations::of_this_process(&self.globals.locations)
    }

    /// How long to wait for a busy repository.
    pub fn lock_wait(&self) -> LockWait {
        LockWait(self.globals.lock_wait)
    }

    /// The form in which a result that goes with this exit is shown.
    pub fn form(&self, exit: Exit) -> Form {
        Form::choose(self.globals, Stdout::of_this_process(), exit)
    }

    /// Ends the progress bars and shows the result document.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) when stdout cannot be written.
    pub fn print(&self, document: &Value, exit: Exit) -> Result<()> {
        self.progress.finish();
        output::print(document, self.form(exit))
    }
}
