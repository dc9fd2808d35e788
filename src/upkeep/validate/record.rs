//! What is kept of validations, so that `status` can tell of the last one: `validations.jsonl`, format-spec.md §14.3.

use std::time::Instant;

use chrono::{SecondsFormat, Utc};
use serde::{Deserialize, Serialize};

use crate::store::{Repository, layout, outcomes};

/// Errors that a record keeps; there may be one for every chunk.
const MOST_ERRORS: usize = 5;

/// How much a validation read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ValidationExtent {
    /// Everything.
    Full,
    /// No content.
    Quick,
    /// A random sample.
    Sample,
}

/// The outcome of one validation, as `validations.jsonl` keeps it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ValidationRecord {
    /// When it began, RFC 3339, UTC.
    pub at: String,
    /// The snapshot; all of them if none is named.
    pub stamp: Option<String>,
    /// How much it read.
    pub extent: ValidationExtent,
    /// Whether everything was valid, as far as it looked.
    pub ok: bool,
    /// The first errors.
    pub errors: Vec<String>,
    /// Of a validation of all snapshots, those that were found not valid.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub invalid: Vec<String>,
    /// How long it took, in seconds.
    pub duration_s: f64,
}

/// What was validated.
#[derive(Debug, Clone)]
pub enum Validated<'v> {
    /// The snapshot of this name.
    One(&'v str),
    /// All of them.
    All {
        /// Those that were found not valid.
        invalid: Vec<String>,
    },
}

/// A validation that has begun.
#[derive(Debug, Clone)]
pub struct Begun {
    at: String,
    clock: Instant,
}

impl Begun {
    /// Begins one now.
    pub fn now() -> Self {
        Self { at: Utc::now().to_rfc3339_opts(SecondsFormat::Micros, false), clock: Instant::now() }
    }

    /// Keeps its outcome, if the repository can be written; that it could not be kept is no failure of the validation.
    pub fn keep(self, repository: &Repository, subject: Validated<'_>, extent: ValidationExtent, errors: &[String]) {
        let (stamp, invalid) = match subject {
            Validated::One(name) => (Some(name.to_owned()), Vec::new()),
            Validated::All { invalid } => (None, invalid),
        };
        let record = ValidationRecord {
            at: self.at,
            stamp,
            extent,
            ok: errors.is_empty(),
            errors: errors.iter().take(MOST_ERRORS).cloned().collect(),
            invalid,
            duration_s: (self.clock.elapsed().as_secs_f64() * 1000.0).round() / 1000.0,
        };
        match outcomes::append(repository, layout::VALIDATIONS, &record) {
            Err(cause) if outcomes::is_read_only(&cause) => tracing::debug!(%cause, "the outcome is not kept"),
            Err(cause) => tracing::warn!(%cause, "the outcome of the validation could not be kept"),
            Ok(()) => {}
        }
    }
}
