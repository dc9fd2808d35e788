//! Copies of the whole state: as the service's own backup makes them, and plainly.
//!
//! Both are made durable file by file within the measured time.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rusqlite::Connection;
use rusqlite::backup::Backup;

use super::contender::Contender;
use super::measure::{Run, then_sync, try_measure};
use super::states;

/// The argument by which the bench takes a full copy in a process of its own.
pub(crate) const TAKE_FULL_COPY: &str = "--full-copy";
pub(crate) const FULL_COPY: &str = "full copy (python3)";
pub(crate) const LEAN_COPY: &str = "full copy (no interpreter)";
pub(crate) const PLAIN_COPY: &str = "cp -a + sync";

/// What the service does: an interpreter, the backup API, a copy of the tree, an integrity check.
const SCRIPT: &str = "
import os, shutil, sqlite3, sys
live, target = sys.argv[1:]
os.makedirs(target + '/db'), os.makedirs(target + '/config')
source, copy = sqlite3.connect(live + '/data/db/atocore.db'), sqlite3.connect(target + '/db/atocore.db')
with copy: source.backup(copy)
copy.close(), source.close()
shutil.copy2(live + '/config/project-registry.json', target + '/config/project-registry.json')
shutil.copytree(live + '/data/chroma', target + '/chroma')
check = sqlite3.connect(target + '/db/atocore.db')
assert check.execute('PRAGMA integrity_check').fetchone()[0] == 'ok'
";

/// The main database by SQLite's backup API, the registry and the Chroma tree as files, then an integrity check of the
/// copied database.
#[derive(Debug)]
pub(crate) struct FullCopy {
    name: &'static str,
    repository: PathBuf,
}

impl FullCopy {
    /// As the service does it.
    pub(crate) fn of_the_service() -> Self {
        Self { name: FULL_COPY, repository: PathBuf::new() }
    }

    /// The same steps without the time that an interpreter takes to start.
    pub(crate) fn without_interpreter() -> Self {
        Self { name: LEAN_COPY, repository: PathBuf::new() }
    }
}

impl Contender for FullCopy {
    fn name(&self) -> String {
        self.name.into()
    }

    fn begin(&mut self, home: &Path) -> bool {
        self.repository = home.join("snapshots");
        true
    }

    fn create(&mut self, live: &Path, state: &str) -> Option<Run> {
        let target = self.repository.join(state);
        let mut command = if self.name == FULL_COPY {
            let mut python = Command::new("python3");
            python.args(["-c", SCRIPT]);
            python
        } else {
            let mut bench = Command::new(std::env::current_exe().unwrap());
            bench.arg(TAKE_FULL_COPY);
            bench
        };
        command.arg(live).arg(&target);
        Some(then_sync(try_measure(&command)?, &target))
    }

    fn restore(&mut self, state: &str, target: &Path) -> Option<Run> {
        let snapshot = self.repository.join(state);
        let data = target.join("data");
        fs::create_dir_all(&data).unwrap();
        let script = "cp -a \"$1/db\" \"$1/chroma\" \"$2/data/\" && cp -a \"$1/config\" \"$2/\"";
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh"]).arg(snapshot).arg(target);
        Some(then_sync(try_measure(&command)?, target))
    }

    fn repository(&self) -> &Path {
        &self.repository
    }
}

/// The steps of [`SCRIPT`], in a measured process of the bench.
pub(crate) fn take_full_copy(live: &Path, target: &Path) {
    fs::create_dir_all(target.join("db")).unwrap();
    fs::create_dir_all(target.join("config")).unwrap();
    let copied = target.join("db/atocore.db");
    {
        let source = Connection::open(live.join("data/db/atocore.db")).unwrap();
        let mut copy = Connection::open(&copied).unwrap();
        Backup::new(&source, &mut copy).unwrap().run_to_completion(i32::MAX, Duration::ZERO, None).unwrap();
    }
    let registry = "config/project-registry.json";
    fs::copy(live.join(registry), target.join(registry)).unwrap();
    states::copy(&live.join("data/chroma"), &target.join("chroma"));
    let check = Connection::open(&copied).unwrap();
    let verdict: String = check.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(verdict, "ok");
}

/// `cp -a`: no backup API, nothing hashed, nothing checked.
#[derive(Debug, Default)]
pub(crate) struct PlainCopy {
    repository: PathBuf,
}

impl Contender for PlainCopy {
    fn name(&self) -> String {
        PLAIN_COPY.into()
    }

    fn begin(&mut self, home: &Path) -> bool {
        self.repository = home.join("copies");
        fs::create_dir_all(&self.repository).unwrap();
        true
    }

    fn create(&mut self, live: &Path, state: &str) -> Option<Run> {
        let target = self.repository.join(state);
        Some(then_sync(try_measure(Command::new("cp").arg("-a").arg(live).arg(&target))?, &target))
    }

    fn restore(&mut self, state: &str, target: &Path) -> Option<Run> {
        fs::create_dir_all(target).unwrap();
        let files = self.repository.join(state).join(".");
        Some(then_sync(try_measure(Command::new("cp").arg("-a").arg(files).arg(target))?, target))
    }

    fn repository(&self) -> &Path {
        &self.repository
    }
}
