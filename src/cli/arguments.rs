//! The whole command line as one definition: parsing, `--help`, completions and man pages come from here.
//!
//! Options that every command takes stand before or after the command. Without a command, `create` runs and its options
//! stand alone (`vecsnap --chroma`). What clap rejects exits with 2. The confirmation of a restore is not clap's to
//! demand: leaving it out is a refusal (exit 5), not a misspelt call. Environment variables are read in `cli::paths`,
//! because one of them yields two paths and an empty one counts as unset.

mod upkeep;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{ArgAction, Args, ColorChoice, CommandFactory, Parser, Subcommand, ValueEnum, ValueHint};
use clap_complete::Shell;

use super::stamp::StampArgument;
use crate::error::{Error, Result};
use crate::save::Effort;

pub use upkeep::{
    CleanupArguments, KeepArguments, Percent, RepairArguments, StatsArguments, StatusArguments, ValidateArguments,
};

/// A parsed call: which command runs, with which options.
#[derive(Clone, Debug, PartialEq)]
pub struct Invocation {
    /// The options of every command.
    pub globals: GlobalArguments,
    /// The command; `create` when none was named.
    pub command: Command,
}

/// Parses a whole command line, program name first.
///
/// # Errors
/// What clap reports; `--help` and `--version` are "errors" too, with exit code 0.
pub fn parse(line: impl IntoIterator<Item = impl Into<OsString> + Clone>) -> Result<Invocation, clap::Error> {
    let Arguments { create, globals, command } = Arguments::try_parse_from(line)?;
    let command = match command {
        None => Command::Create(create),
        Some(Command::Create(own)) => Command::Create(own.or(create)),
        Some(other) if create == CreateArguments::default() => other,
        Some(_) => {
            let message = "options of `create` cannot stand before another command; put them after it";
            return Err(Arguments::command().error(ErrorKind::ArgumentConflict, message));
        }
    };
    Ok(Invocation { globals, command })
}

/// Incremental snapshots of live SQLite databases, small files and Chroma vector stores, restored in place
#[derive(Clone, Debug, Parser)]
#[command(
    name = "vecsnap",
    version,
    after_help = "Without a command, `create` runs.\n\nExamples:\n  \
        vecsnap demo                             the whole loop on made-up data\n  \
        vecsnap --chroma --quiet                 a snapshot with Chroma, for cron\n  \
        vecsnap list --json | jq -r '.backups[-1].stamp'\n\n\
        Exit codes: 0 done, 1 failed, 2 bad usage, 3 snapshot not valid, 4 a tree kept changing,\n\
        5 refused, 6 repository busy, 7 repository damaged, 130 interrupted."
)]
pub struct Arguments {
    #[command(flatten)]
    create: CreateArguments,
    #[command(flatten)]
    globals: GlobalArguments,
    #[command(subcommand)]
    command: Option<Command>,
}

/// Options that every command takes.
#[derive(Args, Clone, Debug, PartialEq)]
#[command(next_help_heading = "Options of every command")]
pub struct GlobalArguments {
    /// Print the result as JSON, also on a terminal
    #[arg(long, global = true)]
    pub json: bool,

    /// Print nothing on success, and only errors on stderr
    #[arg(long, short, global = true, conflicts_with = "verbose")]
    pub quiet: bool,

    /// Tell what is done; twice for every detail
    #[arg(long, short, global = true, action = ArgAction::Count)]
    pub verbose: u8,

    /// How long to wait for a busy repository before giving up with exit code 6
    #[arg(long, global = true, value_name = "SECONDS", default_value = "60", value_parser = seconds, allow_negative_numbers = true)]
    pub lock_wait: Duration,

    /// Colours in warnings and errors
    #[arg(long, global = true, value_name = "WHEN", default_value_t = ColorChoice::Auto)]
    pub color: ColorChoice,

    /// Where snapshots live and what they are taken of.
    #[command(flatten)]
    pub locations: LocationArguments,
}

/// Where things are; each may come from the environment instead.
#[derive(Args, Clone, Debug, Default, PartialEq)]
#[command(next_help_heading = "Places")]
pub struct LocationArguments {
    /// The repository [env: ATOCORE_BACKUP_DIR]
    #[arg(long, global = true, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub repo: Option<PathBuf>,

    /// The SQLite database [env: ATOCORE_DATA_DIR, in it db/atocore.db]
    #[arg(long, global = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub db: Option<PathBuf>,

    /// The project registry [env: ATOCORE_PROJECT_REGISTRY_PATH]
    #[arg(long, global = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub registry: Option<PathBuf>,

    /// The directory of the Chroma vector store [env: ATOCORE_DATA_DIR, in it chroma]
    #[arg(long, global = true, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub chroma_dir: Option<PathBuf>,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Subcommand)]
pub enum Command {
    /// Take a snapshot (the default)
    #[command(after_help = "Example:\n  vecsnap create --chroma --json")]
    Create(CreateArguments),
    /// List all snapshots, oldest first
    #[command(after_help = "Example:\n  vecsnap list --json | jq -r '.backups[].stamp'")]
    List,
    /// Show what one snapshot holds
    #[command(after_help = "Example:\n  vecsnap show latest")]
    Show(ShowArguments),
    /// Prove that a snapshot can be restored
    #[command(after_help = "Examples:\n  \
        vecsnap validate latest --json\n  \
        vecsnap validate --all --sample 5%")]
    Validate(ValidateArguments),
    /// Put a snapshot back in place, or write it elsewhere
    #[command(after_help = "Examples:\n  \
        vecsnap restore 20260406T180000Z --confirm-service-stopped --json\n  \
        vecsnap restore latest --dry-run\n  \
        vecsnap restore latest --to /tmp/look\n  \
        vecsnap restore --undo --confirm-service-stopped")]
    Restore(RestoreArguments),
    /// Delete old snapshots and free their space; a dry run without --confirm
    #[command(after_help = "Without --keep options: the newest snapshot of each of the newest 7 days, 4 Sundays and \
        6 firsts of a month stay, counted in UTC among those that have snapshots.\n\nExamples:\n  \
        vecsnap cleanup\n  \
        vecsnap cleanup --keep-daily 14 --keep-monthly 12 --confirm")]
    Cleanup(CleanupArguments),
    /// Tell what the repository costs, and what cleanup would free
    #[command(
        after_help = "The --keep options say which cleanup is meant; without them, one with the default rules.\n\n\
        Example:\n  vecsnap stats --json | jq '.by_snapshot[] | {stamp, added_bytes, only_bytes}'"
    )]
    Stats(StatsArguments),
    /// Tell how things stand: ages, verdicts, what is unfinished, room
    #[command(
        after_help = "Example, the dead-man check for cron:\n  vecsnap status --max-age 26h --quiet >/dev/null || mail-the-operator"
    )]
    Status(StatusArguments),
    /// Put back what damage took, as far as it can be had; a dry run without --confirm
    #[command(
        after_help = "Reads everything. What damaged packs still give is stored anew, they go to damaged/, and lost contents are \
        looked for in the live sources. No snapshot is deleted.\n\nExamples:\n  \
        vecsnap repair --json\n  \
        vecsnap repair --confirm --json | jq '.invalid_snapshots'"
    )]
    Repair(RepairArguments),
    /// Make an empty repository; the first `create` does it too
    #[command(after_help = "Example:\n  vecsnap init --repo /srv/backup")]
    Init,
    /// Restore into a scratch directory and prove the result
    #[command(after_help = "Example:\n  vecsnap drill --scratch /var/tmp --json")]
    Drill(DrillArguments),
    /// Show the whole loop on made-up data; touches nothing else
    #[command(after_help = "Example:\n  vecsnap demo")]
    Demo(DemoArguments),
    /// Print the completion script of a shell
    #[command(after_help = "Example:\n  vecsnap completions bash > /etc/bash_completion.d/vecsnap")]
    Completions(CompletionsArguments),
    /// Print the manual page of vecsnap or of one of its commands
    #[command(after_help = "Example:\n  vecsnap man restore | man -l -")]
    Man(ManArguments),
}

/// Options of `create`.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
#[command(next_help_heading = "Options of create")]
pub struct CreateArguments {
    /// Capture the Chroma vector store too
    #[arg(long)]
    pub chroma: bool,

    /// Check the integrity of every SQLite image now, not only of the database
    #[arg(long)]
    pub check: bool,

    /// Read every file, also those whose size and times are those of the previous snapshot
    #[arg(long)]
    pub force_read: bool,

    /// Hold the writers of Chroma off while its files are read
    #[arg(long)]
    pub freeze: bool,

    /// Hold no writer off for longer than this; a source that would take longer is left out, with exit code 4 [default:
    /// 4]
    #[arg(long, value_name = "SECONDS", value_parser = seconds_and_parts, allow_negative_numbers = true)]
    pub max_block: Option<Duration>,

    /// Lock this file while sources are read, as a service that cooperates does while it ingests
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub ingest_lock: Option<PathBuf>,

    /// How much time to spend to store less of what changed
    #[arg(long, value_name = "EFFORT", default_value = "normal")]
    pub effort: EffortArgument,
}

/// A value of `--effort`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum EffortArgument {
    /// Store changed chunks of 64 KiB whole
    None,
    /// Store what changed in place
    Fast,
    /// Look also for content that moved
    #[default]
    Normal,
    /// Look for content that moved everywhere, and compress harder
    Max,
}

impl From<EffortArgument> for Effort {
    fn from(effort: EffortArgument) -> Self {
        match effort {
            EffortArgument::None => Effort::None,
            EffortArgument::Fast => Effort::Fast,
            EffortArgument::Normal => Effort::Normal,
            EffortArgument::Max => Effort::Max,
        }
    }
}

impl CreateArguments {
    /// What either of the two asks for.
    fn or(self, other: Self) -> Self {
        Self {
            chroma: self.chroma || other.chroma,
            check: self.check || other.check,
            force_read: self.force_read || other.force_read,
            freeze: self.freeze || other.freeze,
            max_block: self.max_block.or(other.max_block),
            ingest_lock: self.ingest_lock.or(other.ingest_lock),
            effort: if self.effort == EffortArgument::default() { other.effort } else { self.effort },
        }
    }
}

/// Options of `show`.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct ShowArguments {
    /// The snapshot: its stamp, or `latest`
    pub stamp: StampArgument,
}

/// Options of `restore`.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct RestoreArguments {
    /// The snapshot: its stamp, or `latest`
    #[arg(required_unless_present_any = ["resume", "undo"], conflicts_with_all = ["resume", "undo"])]
    pub stamp: Option<StampArgument>,

    /// Confirm that the service is stopped; a restore under a running service corrupts its data
    #[arg(long)]
    pub confirm_service_stopped: bool,

    /// Take no snapshot of the present state first; then there is no way back
    #[arg(long)]
    pub no_pre_snapshot: bool,

    /// Restore the Chroma vector store (default: if the snapshot holds it)
    #[arg(long, conflicts_with = "no_chroma")]
    pub chroma: bool,

    /// Leave the Chroma vector store as it is
    #[arg(long)]
    pub no_chroma: bool,

    /// Print what would be written and removed; touches nothing, needs no confirmation
    #[arg(long)]
    pub dry_run: bool,

    /// Write the snapshot as plain files into this empty directory instead; needs no confirmation
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    #[arg(conflicts_with_all = ["resume", "undo", "dry_run", "chroma", "no_chroma", "no_pre_snapshot", "break_links", "force"])]
    pub to: Option<PathBuf>,

    /// Do not restore the owner of files
    #[arg(long)]
    pub no_owner: bool,

    /// Give a target with several hard links a file of its own instead of refusing
    #[arg(long)]
    pub break_links: bool,

    /// Overwrite files even if other processes have them open; those then work on corrupt data
    #[arg(long)]
    pub force: bool,

    /// Restore a snapshot whose vector store is known to have lost vectors
    #[arg(long)]
    pub accept_suspect: bool,

    /// Restore what can be read of a snapshot that is not valid, and name the rest, which becomes zeros; exit code 3
    #[arg(long)]
    pub accept_invalid: bool,

    /// Finish the restore that was interrupted
    #[arg(long, conflicts_with = "undo")]
    pub resume: bool,

    /// Put the state before the last restore back, if that restore kept it
    #[arg(long)]
    pub undo: bool,
}

impl RestoreArguments {
    /// Checks that whatever overwrites live files was confirmed.
    ///
    /// # Errors
    /// [`Error::Refused`] when live files would be written without `--confirm-service-stopped`.
    pub fn check_confirmation(&self) -> Result<()> {
        if self.confirm_service_stopped || self.dry_run || self.to.is_some() {
            return Ok(());
        }
        Err(Error::Refused(
            "restore refused: confirm_service_stopped is missing, and restoring under a running service corrupts its data; \
             stop the service, then repeat the call with --confirm-service-stopped"
                .into(),
        ))
    }
}

/// Options of `drill`.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct DrillArguments {
    /// The snapshot (default: the newest, and the newest with Chroma)
    pub stamp: Option<StampArgument>,

    /// Where to restore to for the test (default: the directory for temporary files)
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub scratch: Option<PathBuf>,
}

/// Options of `demo`.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct DemoArguments {
    /// Where to make the data (default: the directory for temporary files)
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub scratch: Option<PathBuf>,

    /// Leave the made-up data and the repository there to look at
    #[arg(long)]
    pub keep: bool,
}

/// Options of `completions`.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct CompletionsArguments {
    /// The shell
    pub shell: Shell,
}

/// Options of `man`.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct ManArguments {
    /// The command (default: vecsnap as a whole)
    pub command: Option<String>,
}

/// Parses a number of seconds that need not be whole.
fn seconds_and_parts(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    seconds.ok_or_else(|| "give a number of seconds, such as 4 or 0.5".into())
}

/// Parses a whole number of seconds.
fn seconds(text: &str) -> Result<Duration, String> {
    text.parse().map(Duration::from_secs).map_err(|_| "give a whole number of seconds, such as 60".into())
}

#[cfg(test)]
#[path = "arguments_tests.rs"]
mod tests;
