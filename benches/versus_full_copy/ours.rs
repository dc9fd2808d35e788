//! The built vecsnap binary, run as an operator runs it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::contender::Contender;
use super::measure::{Run, measure};

/// The name of vecsnap as it is by default.
pub(crate) const DEFAULT: &str = "vecsnap";

/// A repository of vecsnap's.
#[derive(Debug, Default)]
pub(crate) struct Vecsnap {
    /// `--effort`.
    effort: &'static str,
    repository: PathBuf,
    stamps: BTreeMap<String, String>,
}

impl Vecsnap {
    pub(crate) fn with_effort(effort: &'static str) -> Self {
        Self { effort, ..Self::default() }
    }

    /// A repository that is not there yet.
    pub(crate) fn at(repository: PathBuf) -> Self {
        Self { effort: "normal", repository, ..Self::default() }
    }

    /// A command on the repository, with `live` as the place of the sources.
    pub(crate) fn command(&self, live: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vecsnap"));
        command.args(arguments).args(["--json", "--quiet", "--repo"]).arg(&self.repository);
        command.arg("--db").arg(live.join("data/db/atocore.db"));
        command.arg("--registry").arg(live.join("config/project-registry.json"));
        command.arg("--chroma-dir").arg(live.join("data/chroma"));
        command
    }

    /// The stamp of a state's snapshot.
    pub(crate) fn stamp(&self, state: &str) -> &str {
        self.stamps.get(state).map_or("latest", String::as_str)
    }

    /// A create that must succeed: nobody writes meanwhile, so that the copy of a database of any size may take its
    /// time.
    pub(crate) fn must_create(&mut self, live: &Path, state: &str) -> Run {
        let arguments = ["create", "--chroma", "--effort", self.effort, "--max-block", "3600"];
        let run = measure(&self.command(live, &arguments));
        let stamp = run.field("stamp").and_then(|stamp| Some(stamp.as_str()?.to_owned())).unwrap();
        self.stamps.insert(state.into(), stamp);
        run
    }

    /// A restore in place that must succeed.
    pub(crate) fn must_restore(&self, state: &str, target: &Path) -> Run {
        let arguments = ["restore", self.stamp(state), "--confirm-service-stopped", "--no-pre-snapshot"];
        measure(&self.command(target, &arguments))
    }
}

impl Contender for Vecsnap {
    fn name(&self) -> String {
        if self.effort == "normal" { DEFAULT.into() } else { format!("{DEFAULT} --effort {}", self.effort) }
    }

    fn begin(&mut self, home: &Path) -> bool {
        self.repository = home.join("repository");
        self.stamps.clear();
        true
    }

    fn create(&mut self, live: &Path, state: &str) -> Option<Run> {
        Some(self.must_create(live, state))
    }

    fn restore(&mut self, state: &str, target: &Path) -> Option<Run> {
        Some(self.must_restore(state, target))
    }

    fn repository(&self) -> &Path {
        &self.repository
    }
}
