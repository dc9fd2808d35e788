//! Nobody else may have a target open while it is overwritten: a service would mix what it remembers with what it
//! finds.
//!
//! Three sources of knowledge, none of which is enough alone: `/proc` names process and file, but shows a container
//! only its own processes; SQLite's locks are seen everywhere, but an idle service may hold none; a write lease notices
//! every opener on the machine, but names nobody and is granted only on one's own files. Invariant: the guard refuses
//! before anything is touched, both before the long work of verifying and right before the first write; from then on
//! locks of our own keep SQLite out. What it could not find out it says.

use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use crate::disk::lease::{self, Openers};
use crate::disk::processes::{OpenFiles, Process, View};
use crate::disk::record_lock::{self, DatabaseLock, DatabaseLocking, LockHolder};
use crate::disk::stat::{FileKind, FileStat};
use crate::disk::target::TargetRoot;
use crate::error::{Error, Result};

use super::attributes::is_denied;
use super::job::{Job, Task};
use super::plan::{Change, Plan};
use super::target::Target;

/// Whoever merely passes by (an indexer, a process about to start its program) is looked for so often, and that long
/// after one another, before it counts.
const LOOKS: u32 = 3;
const PAUSE: Duration = Duration::from_millis(100);
/// Uses and processes that a message names; the rest is counted.
const MOST_NAMED: usize = 3;

/// What to do about processes that have a target open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OthersPolicy {
    /// Refuse.
    Refuse,
    /// Warn and go on.
    Warn,
}

/// Refuses targets that other processes use, and says what could not be found out.
///
/// # Errors
/// [`Error::Refused`] naming process and file; I/O errors.
pub(super) fn check(job: &Job, others: OthersPolicy) -> Result<()> {
    let survey = look_until_free(job)?;
    survey.tell_blind_spots();
    survey.refuse(others)
}

/// Says who would have a restore refused, for a rehearsal.
///
/// # Errors
/// I/O errors.
pub(super) fn foretell(job: &Job) -> Result<()> {
    if let Some(found) = Survey::of(job)?.describe_uses() {
        tracing::warn!("{found}; as long as that is so, a restore would be refused");
    }
    Ok(())
}

/// Looks again, right before the first write, and locks every database that will be overwritten: as long as the locks
/// live, SQLite in other processes finds it busy.
///
/// # Errors
/// As [`check`].
pub(super) fn lock_out(job: &Job, plans: &[Plan], others: OthersPolicy) -> Result<Vec<DatabaseLock>> {
    if others == OthersPolicy::Refuse {
        look_until_free(job)?.refuse(others)?;
    }
    let mut locks = Vec::new();
    for (task, plan) in job.tasks.iter().zip(plans) {
        let Some(root) = task.target.open()? else { continue };
        for step in plan.databases().filter(|step| step.change != Change::Create) {
            let path = root.path_of(&step.name);
            let file = match root.open_file(&step.name) {
                Err(error) if is_denied(&error) => root.read_file(&step.name)?,
                file => file?,
            };
            match DatabaseLock::take(file)? {
                DatabaseLocking::Held(lock) => locks.push(lock),
                DatabaseLocking::InUse => {
                    let by = User::Locking(LockHolder::Unnamed);
                    Survey { uses: vec![Use { path, by }], ..Survey::default() }.refuse(others)?;
                }
                DatabaseLocking::Unsupported => {
                    tracing::warn!(path = %path.display(), "its file system has no locks that would keep SQLite out during the restore");
                }
            }
        }
    }
    Ok(locks)
}

/// Who uses a file.
#[derive(Debug)]
enum User {
    /// These have it open.
    Holding(Vec<Process>),
    /// This one holds a lock on it.
    Locking(LockHolder),
    /// Somebody has it open.
    Somebody,
}

#[derive(Debug)]
struct Use {
    path: PathBuf,
    by: User,
}

impl Use {
    fn describe(&self) -> String {
        let path = self.path.display();
        match &self.by {
            User::Holding(processes) => format!("{} has {path} open", name_some(processes)),
            User::Locking(LockHolder::Process(process)) => format!("{process} holds a lock on {path}"),
            User::Locking(LockHolder::Unnamed) => {
                format!("a process that cannot be seen from here holds a lock on {path}")
            }
            User::Somebody => {
                format!("a process that cannot be seen from here, perhaps in another container, has {path} open")
            }
        }
    }
}

/// What one look found.
#[derive(Debug, Default)]
struct Survey {
    uses: Vec<Use>,
    /// A file of which only `/proc` and SQLite's locks could tell, and how many there are.
    unproven: Option<PathBuf>,
    unproven_files: u64,
    /// A file that other machines may have open.
    remote: Option<PathBuf>,
    /// What `/proc` did not show.
    unseen: Vec<Process>,
    view: Option<View>,
}

fn look_until_free(job: &Job) -> Result<Survey> {
    let mut survey = Survey::of(job)?;
    for _ in 1..LOOKS {
        if survey.uses.is_empty() {
            break;
        }
        thread::sleep(PAUSE);
        survey = Survey::of(job)?;
    }
    Ok(survey)
}

impl Survey {
    fn of(job: &Job) -> Result<Self> {
        let open = OpenFiles::look();
        let mut survey = Self::default();
        for task in &job.tasks {
            if let Some(root) = task.target.open()? {
                survey.look_at_target(task, &root, &open)?;
            }
        }
        (survey.unseen, survey.view) = (open.unseen, Some(open.view));
        Ok(survey)
    }

    fn look_at_target(&mut self, task: &Task, root: &TargetRoot, open: &OpenFiles) -> Result<()> {
        let name = &task.target.name;
        if name.is_empty() {
            return self.look_at_directory(root, name, open);
        }
        for name in std::iter::once(name.clone()).chain(Target::sidecars(name)) {
            if let Some(stat) = root.stat(&name)? {
                self.look_at_entry(root, &name, &stat, open)?;
            }
        }
        Ok(())
    }

    fn look_at_directory(&mut self, root: &TargetRoot, name: &[u8], open: &OpenFiles) -> Result<()> {
        for entry in root.list(name)? {
            let below = if name.is_empty() { entry.name } else { [name, b"/", &entry.name].concat() };
            self.look_at_entry(root, &below, &entry.stat, open)?;
        }
        Ok(())
    }

    fn look_at_entry(&mut self, root: &TargetRoot, name: &[u8], stat: &FileStat, open: &OpenFiles) -> Result<()> {
        match stat.kind {
            FileKind::Directory => return self.look_at_directory(root, name, open),
            FileKind::Symlink | FileKind::Special => return Ok(()),
            FileKind::File => {}
        }
        let path = root.path_of(name);
        let holders = open.holders(stat, &path);
        if !holders.is_empty() {
            self.uses.push(Use { path, by: User::Holding(holders) });
            return Ok(());
        }
        let Ok(file) = root.read_file(name) else {
            self.unproven_files += 1;
            self.unproven.get_or_insert(path);
            return Ok(());
        };
        if let Some(holder) = record_lock::holder(file.file()).map_err(Error::io("query the locks of", &path))? {
            self.uses.push(Use { path, by: User::Locking(holder) });
            return Ok(());
        }
        match lease::openers(file.file()) {
            Openers::None => {}
            Openers::Some => self.uses.push(Use { path, by: User::Somebody }),
            Openers::Unknown => {
                self.unproven_files += 1;
                self.unproven.get_or_insert(path);
            }
            Openers::Remote => {
                self.remote.get_or_insert(path);
            }
        }
        Ok(())
    }

    /// Ends a restore under which a service would go on, or warns of it.
    fn refuse(&self, others: OthersPolicy) -> Result<()> {
        let Some(found) = self.describe_uses() else { return Ok(()) };
        match others {
            OthersPolicy::Refuse => Err(Error::Refused(format!(
                "{found}; stop what uses them and try again, or overwrite them all the same with --force (nothing was changed)"
            ))),
            OthersPolicy::Warn => {
                tracing::warn!(
                    event = "restore_guard_overridden",
                    "{found}; the restore goes on as told by --force, and what these processes do next may corrupt the data"
                );
                Ok(())
            }
        }
    }

    /// Who uses what; `None` if nobody does.
    fn describe_uses(&self) -> Option<String> {
        let named: Vec<_> = self.uses.iter().take(MOST_NAMED).map(Use::describe).collect();
        let more = match self.uses.len().saturating_sub(MOST_NAMED) {
            0 => String::new(),
            more => format!(", and {more} more files are in use"),
        };
        (!named.is_empty()).then(|| format!("{}{more}", named.join("; ")))
    }

    /// Says what neither `/proc` nor the kernel's leases tell here.
    fn tell_blind_spots(&self) {
        if let Some(path) = &self.remote {
            tracing::warn!(path = %path.display(), "it lies on a network file system, so processes of other machines that have it open cannot be seen; make sure that the service is stopped");
        }
        let Some(path) = &self.unproven else {
            if !self.unseen.is_empty() {
                tracing::info!(
                    processes = self.unseen.len(),
                    "some processes could not be looked at; the kernel confirms that nobody has a target open"
                );
            }
            return;
        };
        let (path, files) = (path.display(), self.unproven_files);
        let rests = format!(
            "and the kernel does not tell who has {path} open ({files} such files), so the guard rests on SQLite's locks, \
             which an idle service may not hold; make sure that it is stopped"
        );
        match self.view {
            Some(View::Machine) if self.unseen.is_empty() => {}
            Some(View::Container) => {
                tracing::warn!("inside a container /proc shows only the container's own processes, {rests}");
            }
            Some(View::Hidden) | None => tracing::warn!("/proc does not show the processes of other users, {rests}"),
            Some(View::Machine) => {
                let unseen = name_some(&self.unseen);
                tracing::warn!("this user may not see what files {unseen} has open, {rests}, or run vecsnap as root");
            }
        }
    }
}

/// The first few processes by name, the others by number.
fn name_some(processes: &[Process]) -> String {
    let named: Vec<_> = processes.iter().take(MOST_NAMED).map(Process::to_string).collect();
    match processes.len().saturating_sub(MOST_NAMED) {
        0 => named.join(" and "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}
