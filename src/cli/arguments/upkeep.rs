//! What the command line says of looking after a repository: validate, cleanup, stats, status, repair.

use std::time::Duration;

use clap::Args;

use super::StampArgument;
use crate::error::Result;
use crate::upkeep::retention::{KeepCounts, Rules};

/// Options of `validate`.
#[derive(Args, Clone, Debug, PartialEq)]
pub struct ValidateArguments {
    /// The snapshot: its stamp, or `latest`
    #[arg(required_unless_present_any = ["all", "sample"], conflicts_with = "all")]
    pub stamp: Option<StampArgument>,

    /// Validate every snapshot, reading what several share once
    #[arg(long)]
    pub all: bool,

    /// With --all, read only a random part of the contents, such as 5%, and all tables
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    #[arg(requires = "all", conflicts_with_all = ["quick", "stamp"])]
    pub sample: Option<Percent>,

    /// Draw the same sample as the run that printed this seed
    #[arg(long, value_name = "N", requires = "sample")]
    pub seed: Option<u64>,

    /// Only check that the manifest is sound and everything it needs is there; reads no content
    #[arg(long)]
    pub quick: bool,

    /// Check SQLite images again that passed before
    #[arg(long, conflicts_with = "quick")]
    pub recheck: bool,
}

/// Options of `cleanup`.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct CleanupArguments {
    /// Really delete
    #[arg(long)]
    pub confirm: bool,

    /// Only tell what would be deleted (the default)
    #[arg(long, conflicts_with = "confirm")]
    pub dry_run: bool,

    /// Which snapshots stay instead of the default ones.
    #[command(flatten)]
    pub keep: KeepArguments,
}

/// Options of `stats`.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
pub struct StatsArguments {
    /// Which snapshots the cleanup in question keeps.
    #[command(flatten)]
    pub keep: KeepArguments,
}

/// Options of `status`.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
pub struct StatusArguments {
    /// Fail (exit code 1) if the last sound snapshot is older, say 26h, 90m or 2d
    #[arg(long, value_name = "AGE", value_parser = age, allow_negative_numbers = true)]
    pub max_age: Option<Duration>,
}

/// The `--keep` options; any of them replaces the default rules.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
#[command(next_help_heading = "What stays instead of the default")]
pub struct KeepArguments {
    /// The newest N snapshots
    #[arg(long, value_name = "N", value_parser = count, allow_negative_numbers = true)]
    pub keep_last: Option<u32>,

    /// The newest of each of the newest N hours that have snapshots
    #[arg(long, value_name = "N", value_parser = count, allow_negative_numbers = true)]
    pub keep_hourly: Option<u32>,

    /// The newest of each of the newest N days that have snapshots
    #[arg(long, value_name = "N", value_parser = count, allow_negative_numbers = true)]
    pub keep_daily: Option<u32>,

    /// The newest of each of the newest N ISO weeks that have snapshots
    #[arg(long, value_name = "N", value_parser = count, allow_negative_numbers = true)]
    pub keep_weekly: Option<u32>,

    /// The newest of each of the newest N months that have snapshots
    #[arg(long, value_name = "N", value_parser = count, allow_negative_numbers = true)]
    pub keep_monthly: Option<u32>,
}

impl KeepArguments {
    /// The retention rules that these options ask for.
    ///
    /// # Errors
    /// [`crate::error::Error::Usage`] when they would keep nothing.
    pub fn rules(&self) -> Result<Rules> {
        Rules::of(&KeepCounts {
            last: self.keep_last,
            hourly: self.keep_hourly,
            daily: self.keep_daily,
            weekly: self.keep_weekly,
            monthly: self.keep_monthly,
        })
    }
}

/// Options of `repair`.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct RepairArguments {
    /// Really repair
    #[arg(long)]
    pub confirm: bool,

    /// Only tell what would be repaired (the default)
    #[arg(long, conflicts_with = "confirm")]
    pub dry_run: bool,
}

/// A share in percent, above 0 and at most 100.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Percent(pub f64);

/// Parses a share such as `5%` or `0.5`.
fn percent(text: &str) -> Result<Percent, String> {
    let number = text.strip_suffix('%').unwrap_or(text).parse().ok();
    let share = number.filter(|number| *number > 0.0 && *number <= 100.0);
    share.map(Percent).ok_or_else(|| "give a share above 0% and of at most 100%, such as 5%".into())
}

/// Parses a number of snapshots.
fn count(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| format!("give a whole number of snapshots from 0 to {}, such as 7", u32::MAX))
}

/// Parses an age such as `26h`.
fn age(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|_| "give an age with its unit, such as 26h, 90m or 2d".into())
}
