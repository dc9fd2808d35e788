//! Other backup tools, with their own defaults, as far as they are on the PATH.
//!
//! Each reads the live directory itself: none of them has a backup API for the main database. casync makes nothing
//! durable, so that is done for it within the measured time; the others do it themselves.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::contender::Contender;
use super::measure::{Run, then_sync, then_sync_file_system, try_measure};

/// A tool that may be on the PATH.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Program {
    Restic,
    Rustic,
    Borg,
    Bupstash,
    Casync,
}

impl Program {
    const ALL: [Self; 5] = [Self::Restic, Self::Rustic, Self::Borg, Self::Bupstash, Self::Casync];

    fn name(self) -> &'static str {
        match self {
            Self::Restic => "restic",
            Self::Rustic => "rustic",
            Self::Borg => "borg",
            Self::Bupstash => "bupstash",
            Self::Casync => "casync",
        }
    }

    /// The first line of what it says of its version; `None` if it is not there.
    fn version(self) -> Option<String> {
        let argument = if self == Self::Restic { "version" } else { "--version" };
        let output = Command::new(self.name()).arg(argument).output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.lines().next().map(|line| line.split(" compiled").next().unwrap_or(line).to_owned())
    }
}

/// The peers on the PATH, and their versions.
pub(crate) fn on_the_path() -> Vec<(Peer, String)> {
    let peer = |program| Peer { program, home: PathBuf::new(), repository: PathBuf::new() };
    let found = |program: Program| Some((peer(program), program.version()?));
    Program::ALL.into_iter().filter_map(found).collect()
}

/// Whether a contender is one of the tools that vecsnap is to be faster than. casync only stores files: no locks, no
/// snapshots that could be listed or deleted.
pub(crate) fn is_rival(name: &str) -> bool {
    [Program::Restic, Program::Rustic, Program::Borg, Program::Bupstash].iter().any(|program| program.name() == name)
}

/// Whether a contender is any of these tools.
pub(crate) fn is_peer(name: &str) -> bool {
    Program::ALL.iter().any(|program| program.name() == name)
}

/// One of them with a repository.
#[derive(Debug)]
pub(crate) struct Peer {
    program: Program,
    /// Caches and keys stand here, beside the repository.
    home: PathBuf,
    repository: PathBuf,
}

impl Peer {
    /// A command of the tool's, in a directory.
    fn command(&self, directory: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.program.name());
        command.args(arguments).current_dir(directory);
        let home = |name: &str| self.home.join(name);
        let repository = &self.repository;
        match self.program {
            Program::Restic => command
                .env("RESTIC_REPOSITORY", repository)
                .env("RESTIC_PASSWORD", "bench")
                .env("RESTIC_CACHE_DIR", home("cache")),
            Program::Rustic => command
                .env("RUSTIC_REPOSITORY", repository)
                .env("RUSTIC_PASSWORD", "bench")
                .env("RUSTIC_NO_PROGRESS", "true")
                .env("XDG_CACHE_HOME", home("cache")),
            Program::Borg => command
                .env("BORG_REPO", repository)
                .env("BORG_BASE_DIR", home("base"))
                .env("BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK", "yes"),
            Program::Bupstash => command
                .env("BUPSTASH_REPOSITORY", repository)
                .env("BUPSTASH_KEY", home("key"))
                .env("XDG_CACHE_HOME", home("cache")),
            Program::Casync => &mut command,
        };
        command
    }

    fn path(&self, name: &str) -> String {
        self.home.join(name).to_string_lossy().into_owned()
    }
}

impl Contender for Peer {
    fn name(&self) -> String {
        self.program.name().into()
    }

    fn begin(&mut self, home: &Path) -> bool {
        self.home = home.to_path_buf();
        self.repository = home.join("repository");
        let key = self.path("key");
        let steps: &[&[&str]] = match self.program {
            Program::Restic | Program::Rustic => &[&["init"]],
            Program::Borg => &[&["init", "--encryption", "none"]],
            Program::Bupstash => &[&["init"], &["new-key", "-o", &key]],
            Program::Casync => return fs::create_dir_all(&self.repository).is_ok(),
        };
        steps.iter().all(|step| {
            let status = self.command(home, step).stdout(Stdio::null()).stderr(Stdio::null()).status();
            status.is_ok_and(|status| status.success())
        })
    }

    fn create(&mut self, live: &Path, state: &str) -> Option<Run> {
        let named = format!("name={state}");
        let (archive, index, store) = (
            format!("::{state}"),
            self.path(&format!("repository/{state}.caidx")),
            self.path("repository/chunks.castr"),
        );
        let store = format!("--store={store}");
        let arguments: &[&str] = match self.program {
            Program::Restic => &["backup", "--quiet", "--tag", state, "."],
            Program::Rustic => &["backup", "--tag", state, "."],
            Program::Borg => &["create", &archive, "."],
            Program::Bupstash => &["put", "--quiet", &named, "."],
            Program::Casync => &["make", &store, &index, "."],
        };
        let run = try_measure(&self.command(live, arguments))?;
        Some(if self.program == Program::Casync { then_sync_file_system(run, self.repository()) } else { run })
    }

    fn restore(&mut self, state: &str, target: &Path) -> Option<Run> {
        fs::create_dir_all(target).unwrap();
        let named = format!("name={state}");
        let (archive, index, store) = (
            format!("::{state}"),
            self.path(&format!("repository/{state}.caidx")),
            self.path("repository/chunks.castr"),
        );
        let store = format!("--store={store}");
        let to = target.to_string_lossy();
        let arguments: &[&str] = match self.program {
            Program::Restic => &["restore", "latest", "--quiet", "--tag", state, "--target", &to],
            Program::Rustic => &["restore", "latest", "--filter-tags", state, &to],
            Program::Borg => &["extract", &archive],
            Program::Bupstash => &["restore", "--quiet", "--into", &to, &named],
            Program::Casync => &["extract", &store, &index, &to],
        };
        Some(then_sync(try_measure(&self.command(target, arguments))?, target))
    }

    fn repository(&self) -> &Path {
        &self.repository
    }
}
