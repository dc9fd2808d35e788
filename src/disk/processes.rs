//! Which files other processes have open or mapped, as `/proc` tells (proc(5)).
//!
//! Invariant: what could not be looked at is reported, never passed over in silence: [`OpenFiles::unseen`] names the
//! processes that do not let this user look, and [`OpenFiles::view`] says whether there may be others that `/proc` does
//! not even show. This process itself is left out, and so is what holds no files (kernel threads, zombies). A file is
//! known by device and inode, so bind mounts, hard links and other roots do not hide it.

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, StatxFlags, makedev, statx};

use super::stat::{FileIdentity, FileStat};

/// What `/proc/self/ns/pid` leads to in the namespace that holds all processes (`PID_NS_INIT_INO` in `linux/nsfs.h`).
const INITIAL_NAMESPACE: &str = "pid:[4026531836]";
/// Set among a process's flags in `/proc/<pid>/stat` for threads of the kernel (`PF_KTHREAD` in `linux/sched.h`).
const KERNEL_THREAD: u64 = 0x0020_0000;

/// A process, named so that an operator finds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its number, as this process sees it.
    pub id: u32,
    /// What it calls itself, at most 15 bytes.
    pub name: String,
}

impl Process {
    /// The process with this number.
    pub fn with_id(id: u32) -> Self {
        let name = fs::read(process_file(id, "comm")).unwrap_or_default();
        Self { id, name: String::from_utf8_lossy(name.trim_ascii_end()).escape_debug().to_string() }
    }
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} ({})", self.id, self.name)
    }
}

/// How far `/proc` shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// All processes of the machine.
    Machine,
    /// Those of a container (a PID namespace of its own) alone.
    Container,
    /// Those of this user alone (`hidepid`), or none at all.
    Hidden,
}

/// A file mapped into memory, as `/proc/<pid>/maps` tells.
#[derive(Debug)]
struct Mapping {
    device: u64,
    path: PathBuf,
    process: u32,
}

/// Which files other processes had open at one moment. Memory grows with the number of open files.
#[derive(Debug)]
pub struct OpenFiles {
    open: HashMap<FileIdentity, Vec<u32>>,
    mapped: HashMap<u64, Vec<Mapping>>,
    /// Processes that do not let this user look.
    pub unseen: Vec<Process>,
    /// How far `/proc` shows.
    pub view: View,
}

impl OpenFiles {
    /// Looks at all processes but this one.
    pub fn look() -> Self {
        let mut found = Self { open: HashMap::new(), mapped: HashMap::new(), unseen: Vec::new(), view: view() };
        // What this process is called there, which need not be how it calls itself.
        let own = fs::read_link("/proc/self").unwrap_or_default();
        let Ok(entries) = fs::read_dir("/proc") else { return found };
        for name in entries.filter_map(|entry| Some(entry.ok()?.file_name())) {
            let Some(id) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
            if own.as_os_str() == name {
                continue;
            }
            let looked = found.look_at_descriptors(id).and_then(|()| found.look_at_mappings(id));
            match looked {
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied && may_hold_files(id) => {
                    found.unseen.push(Process::with_id(id));
                }
                // It has ended meanwhile.
                Ok(()) | Err(_) => {}
            }
        }
        found
    }

    /// The processes that have this file, which is at `path`, open or mapped.
    pub fn holders(&self, file: &FileStat, path: &Path) -> Vec<Process> {
        let mut ids = self.open.get(&file.identity()).cloned().unwrap_or_default();
        let mapped = self.mapped.get(&file.inode).into_iter().flatten();
        // Some file systems (btrfs, overlayfs) tell another device here than everywhere else.
        ids.extend(mapped.filter(|map| map.device == file.device || map.path == path).map(|map| map.process));
        ids.sort_unstable();
        ids.dedup();
        ids.into_iter().map(Process::with_id).collect()
    }

    fn look_at_descriptors(&mut self, process: u32) -> io::Result<()> {
        for descriptor in fs::read_dir(process_file(process, "fd"))? {
            let path = descriptor?.path();
            // What a server that does not answer holds must not hold this process up.
            let flags = AtFlags::STATX_DONT_SYNC;
            let Ok(file) = statx(CWD, &path, flags, StatxFlags::TYPE | StatxFlags::INO) else { continue };
            if rustix::fs::FileType::from_raw_mode(file.stx_mode.into()).is_file() {
                let device = makedev(file.stx_dev_major, file.stx_dev_minor);
                let holders = self.open.entry(FileIdentity { device, inode: file.stx_ino }).or_default();
                if holders.last() != Some(&process) {
                    holders.push(process);
                }
            }
        }
        Ok(())
    }

    fn look_at_mappings(&mut self, process: u32) -> io::Result<()> {
        let listing = fs::read(process_file(process, "maps"))?;
        for Mapped { device, inode, path } in listing.split(|byte| *byte == b'\n').filter_map(parse_mapping) {
            let mappings = self.mapped.entry(inode).or_default();
            let is_last = |map: &Mapping| map.process == process && map.device == device;
            if !mappings.last().is_some_and(is_last) {
                mappings.push(Mapping { device, path: path.to_path_buf(), process });
            }
        }
        Ok(())
    }
}

/// One line of `maps`.
struct Mapped<'a> {
    device: u64,
    inode: u64,
    path: &'a Path,
}

/// Reads `7f00-7f01 rw-s 00000000 fe:01 4711      /srv/a b`; `None` for memory that belongs to no file.
fn parse_mapping(line: &[u8]) -> Option<Mapped<'_>> {
    let mut fields = line.splitn(6, |byte| *byte == b' ');
    let text = |field: &'_ [u8]| std::str::from_utf8(field).ok().map(str::to_owned);
    let device = text(fields.nth(3)?)?;
    let inode = text(fields.next()?)?.parse().ok().filter(|inode| *inode != 0)?;
    let (major, minor) = device.split_once(':')?;
    let device = makedev(u32::from_str_radix(major, 16).ok()?, u32::from_str_radix(minor, 16).ok()?);
    let path = Path::new(std::ffi::OsStr::from_bytes(fields.next()?.trim_ascii_start()));
    Some(Mapped { device, inode, path })
}

/// Whether a process can have files open at all: threads of the kernel and what has ended cannot.
fn may_hold_files(process: u32) -> bool {
    let Ok(stat) = fs::read_to_string(process_file(process, "stat")) else { return false };
    // The name may hold anything, also blanks and brackets.
    let Some((_, fields)) = stat.rsplit_once(')') else { return true };
    let mut fields = fields.split_ascii_whitespace();
    let ended = matches!(fields.next(), Some("Z" | "X"));
    let flags = fields.nth(5).and_then(|flags| flags.parse::<u64>().ok()).unwrap_or(0);
    !ended && flags & KERNEL_THREAD == 0
}

fn view() -> View {
    let namespace = fs::read_link("/proc/self/ns/pid");
    match namespace {
        // Where there is a first process that is not shown, others are not either.
        _ if !Path::new("/proc/1").exists() => View::Hidden,
        Ok(namespace) if namespace.as_os_str() == INITIAL_NAMESPACE => View::Machine,
        _ => View::Container,
    }
}

fn process_file(process: u32, file: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{process}/{file}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command, Stdio};

    struct Holder(Child);

    impl Drop for Holder {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[test]
    fn a_file_that_another_process_has_open_is_found_by_whatever_name() {
        let root = tempfile::tempdir().unwrap();
        let (file, other, link) = (root.path().join("file"), root.path().join("other"), root.path().join("link"));
        fs::write(&file, b"x").unwrap();
        fs::write(&other, b"x").unwrap();
        fs::hard_link(&file, &link).unwrap();
        let _own = fs::File::open(&other).unwrap();
        let mut sleep = Command::new("sleep");
        sleep.arg("60").stdin(Stdio::from(fs::File::open(&link).unwrap()));
        let holder = Holder(sleep.spawn().unwrap());
        // It keeps the file open for the child as long as it lives.
        drop(sleep);
        let found = OpenFiles::look();
        let stat = |path: &Path| super::super::stat::stat(path).unwrap().unwrap();
        let holders = found.holders(&stat(&file), &file);
        assert_eq!(holders.iter().map(|process| process.id).collect::<Vec<_>>(), [holder.0.id()]);
        assert_eq!(found.holders(&stat(&other), &other), [], "this process itself does not count");
    }

    #[test]
    fn lines_of_maps_are_read_whatever_the_path() {
        let read =
            |line: &str| parse_mapping(line.as_bytes()).map(|map| (map.device, map.inode, map.path.to_path_buf()));
        let line = "7f0a-7f0b rw-s 00000000 fe:1f 4711                       /srv/a b.db-shm";
        assert_eq!(read(line), Some((makedev(0xfe, 0x1f), 4711, "/srv/a b.db-shm".into())));
        assert_eq!(read("7ffc-7ffd rw-p 00000000 00:00 0                          [stack]"), None);
        assert_eq!(read(""), None);
    }

    #[test]
    fn the_kernel_s_threads_hold_no_files_and_this_process_may() {
        assert!(may_hold_files(std::process::id()));
        let threads = Process::with_id(2);
        assert!(threads.name != "kthreadd" || !may_hold_files(2));
    }
}
