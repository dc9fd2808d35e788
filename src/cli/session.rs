//! What every command file gets: the options of every command, and where to report.

use std::ffi::OsString;
use std::path::{Path, PathBuf, absolute};

use serde_json::Value;

use super::arguments::GlobalArguments;
use super::exit::Exit;
use super::output::{self, Form, Stdout};
use super::paths::Locations;
use crate::disk::stat::{self, FileKind};
use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::store::LockWait;

/// What stays true where its report cannot be written, as parts of a sentence.
pub struct Done {
    /// What was done: `snapshot 20260406T180000Z is published`.
    pub what: String,
    /// Where the operator learns more: `` `vecsnap show 20260406T180000Z` shows it ``.
    pub next: String,
}

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

    /// The directory of the repository, which need not exist.
    ///
    /// # Errors
    /// [`Error::Usage`] when it is not named; [`Error::Failed`] when no directory can be there.
    pub fn repository(&self) -> Result<PathBuf> {
        let root = self.locations().repository()?;
        let mut found = None;
        for path in root.ancestors() {
            found = stat::stat(path)?.map(|found| (path, found.kind));
            if found.is_some() {
                break;
            }
        }
        match found {
            Some((path, kind)) if kind != FileKind::Directory => Err(Error::Failed(format!(
                "the repository cannot be at {}, since {} is not a directory; check --repo or ATOCORE_BACKUP_DIR",
                root.display(),
                if path == root { "that".into() } else { path.display().to_string() }
            ))),
            _ => Ok(root),
        }
    }

    /// The directory in which a command makes its scratch directory: the one given, or that for temporary files.
    ///
    /// # Errors
    /// [`Error::Failed`] when it is no directory.
    pub fn scratch_parent(&self, given: Option<&Path>) -> Result<PathBuf> {
        let parent = given.map_or_else(std::env::temp_dir, Path::to_path_buf);
        let parent = absolute(&parent).map_err(Error::io("find the present directory for", &parent))?;
        match stat::stat(&parent)?.map(|found| found.kind) {
            Some(FileKind::Directory) => Ok(parent),
            found => Err(Error::Failed(format!(
                "{} {}; name a directory for temporary files with --scratch or TMPDIR",
                parent.display(),
                if found.is_some() { "is not a directory" } else { "does not exist" }
            ))),
        }
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
    /// [`Error::Io`] when stdout cannot be written.
    pub fn print(&self, document: &Value, exit: Exit) -> Result<()> {
        self.progress.finish();
        output::print(document, self.form(exit))
    }

    /// [`Session::print`] for a command that changed something: who cannot read the report must not take it for undone.
    ///
    /// # Errors
    /// [`Error::Failed`], which says what was done, when stdout cannot be written.
    pub fn print_done(&self, document: &Value, exit: Exit, done: Done) -> Result<()> {
        self.print(document, exit).map_err(|error| match error {
            Error::Io { source, .. } => {
                let Done { what, next } = done;
                Error::Failed(format!("{what}; only the report could not be written to stdout: {source}; {next}"))
            }
            other => other,
        })
    }
}
