//! What a traced process does to a disk: its system calls become changes of nodes.
//!
//! A call that changes the disk and is not known here fails the test, and so does a recording after which the model and
//! the real directory differ.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::change::{Change, Event, Extent, NodeId, NodeKind, Time};
use super::disk::Disk;
use super::system_call::{Moment, SystemCall};
use super::volume::ROOT;

/// The calls that are asked of strace.
pub const TRACED: &str = "openat,openat2,open,creat,close,close_range,dup,dup2,dup3,fcntl,lseek,write,pwrite64,writev,\
    pwritev,pwritev2,ftruncate,truncate,fallocate,rename,renameat,renameat2,link,linkat,unlink,unlinkat,rmdir,mkdir,\
    mkdirat,mknodat,symlink,symlinkat,fsync,fdatasync,sync_file_range,syncfs,sync,copy_file_range,sendfile,splice,chmod,\
    fchmod,fchmodat,utimensat,chdir,fchdir,chown,fchown,fchownat,lchown";

const STANDARD_OUTPUT: i64 = 1;

/// A file as a process has it open; several descriptors may share it.
struct OpenFile {
    node: NodeId,
    position: u64,
    append: bool,
}

/// One process, from its start to its end.
pub struct Process<'d> {
    disk: &'d mut Disk,
    root: PathBuf,
    descriptors: HashMap<i64, usize>,
    files: Vec<OpenFile>,
    /// How many events had happened when a sync of this descriptor began.
    syncs: HashMap<i64, usize>,
}

/// A name in a directory of the disk; `None` for the root itself.
struct Place {
    directory: NodeId,
    name: Option<Vec<u8>>,
}

impl<'d> Process<'d> {
    /// A process that sees the disk at `root`, an absolute path without links.
    pub fn new(disk: &'d mut Disk, root: &Path) -> Self {
        Self { disk, root: root.to_path_buf(), descriptors: HashMap::new(), files: Vec::new(), syncs: HashMap::new() }
    }

    /// Lets it do everything.
    pub fn run(&mut self, moments: &[Moment]) {
        for moment in moments {
            match moment {
                Moment::Began(call) => self.begin(call),
                Moment::Ended(call) if call.result >= 0 => self.end(call),
                Moment::Ended(_) => {}
            }
        }
    }

    fn begin(&mut self, call: &SystemCall) {
        match call.name.as_str() {
            // From here on another thread may get the number.
            "close" => {
                self.descriptors.remove(&call.number(0));
            }
            "fsync" | "fdatasync" | "syncfs" => {
                self.syncs.insert(call.number(0), self.disk.moment());
            }
            _ => {}
        }
    }

    fn end(&mut self, call: &SystemCall) {
        match call.name.as_str() {
            "close" | "fchown" | "chown" | "lchown" | "fchownat" | "sync_file_range" => {}
            "openat" | "openat2" => self.open(call),
            "dup" => self.duplicate(call.number(0), call.result),
            "fcntl" if call.text(1).starts_with("F_DUPFD") => self.duplicate(call.number(0), call.result),
            "fcntl" => {}
            "lseek" => {
                if let Some(file) = self.file(call.number(0)) {
                    self.files[file].position = call.result.unsigned_abs();
                }
            }
            "write" => self.write(call),
            "pwrite64" => self.write_at(call.number(0), call.number(3).unsigned_abs(), call),
            "ftruncate" => {
                if let Some(node) = self.node_of(call.number(0)) {
                    self.happen(Change::SetLength { node, length: call.number(1).unsigned_abs() });
                }
            }
            "fallocate" => self.allocate(call),
            "rename" => self.rename(&self.place("AT_FDCWD", call.bytes(0)), &self.place("AT_FDCWD", call.bytes(1))),
            "renameat" | "renameat2" => {
                self.rename(&self.place(call.text(0), call.bytes(1)), &self.place(call.text(2), call.bytes(3)));
            }
            "linkat" => self.link(call),
            "unlink" | "rmdir" => self.remove("AT_FDCWD", call.bytes(0)),
            "unlinkat" => self.remove(call.text(0), call.bytes(1)),
            "mkdir" => self.make("AT_FDCWD", call.bytes(0), NodeKind::Directory, call.number(1)),
            "mkdirat" => self.make(call.text(0), call.bytes(1), NodeKind::Directory, call.number(2)),
            "symlinkat" => self.make(call.text(1), call.bytes(2), NodeKind::Link(call.bytes(0).to_vec()), 0o777),
            "symlink" => self.make("AT_FDCWD", call.bytes(1), NodeKind::Link(call.bytes(0).to_vec()), 0o777),
            "fsync" => self.sync(call, Extent::Whole),
            "fdatasync" => self.sync(call, Extent::Data),
            "syncfs" => self.sync(call, Extent::Everything),
            "copy_file_range" => self.copy(call),
            "chmod" => self.set_mode(self.resolve("AT_FDCWD", call.bytes(0)), call.number(1)),
            "fchmodat" => self.set_mode(self.resolve(call.text(0), call.bytes(1)), call.number(2)),
            "fchmod" => self.set_mode(self.node_of(call.number(0)), call.number(1)),
            "utimensat" => self.set_time(call),
            _ => panic!("what {call:?} does to a disk is not modelled"),
        }
    }

    fn happen(&mut self, change: Change) {
        self.disk.happen(Event::Changed(change));
    }

    fn file(&self, descriptor: i64) -> Option<usize> {
        self.descriptors.get(&descriptor).copied()
    }

    fn node_of(&self, descriptor: i64) -> Option<NodeId> {
        self.file(descriptor).map(|file| self.files[file].node)
    }

    fn duplicate(&mut self, from: i64, to: i64) {
        match self.file(from) {
            Some(file) => self.descriptors.insert(to, file),
            None => self.descriptors.remove(&to),
        };
    }

    fn open(&mut self, call: &SystemCall) {
        let flags = call.text(2);
        let mode = if call.name == "openat" && call.arguments.len() > 3 { call.number(3) } else { 0 };
        let found = self.resolve(call.text(0), call.bytes(1));
        let node = if flags.contains("O_TMPFILE") {
            found.map(|_| self.made(NodeKind::File, mode))
        } else if found.is_none() && flags.contains("O_CREAT") {
            let place = self.place(call.text(0), call.bytes(1));
            place.map(|place| self.enter(place, NodeKind::File, mode))
        } else {
            found
        };
        self.descriptors.remove(&call.result);
        let Some(node) = node else { return };
        if flags.contains("O_TRUNC") {
            self.happen(Change::SetLength { node, length: 0 });
        }
        self.files.push(OpenFile { node, position: 0, append: flags.contains("O_APPEND") });
        self.descriptors.insert(call.result, self.files.len() - 1);
    }

    fn write(&mut self, call: &SystemCall) {
        let descriptor = call.number(0);
        if descriptor == STANDARD_OUTPUT {
            return self.disk.happen(Event::Acknowledged);
        }
        let Some(file) = self.file(descriptor) else { return };
        let OpenFile { node, position, append } = self.files[file];
        let offset = if append { self.disk.now().bytes(node).len() as u64 } else { position };
        self.files[file].position = offset + call.result.unsigned_abs();
        self.write_at(descriptor, offset, call);
    }

    fn write_at(&mut self, descriptor: i64, offset: u64, call: &SystemCall) {
        if let Some(node) = self.node_of(descriptor) {
            let bytes = call.bytes(1)[..usize::try_from(call.result).unwrap()].to_vec();
            self.happen(Change::Write { node, offset, bytes });
        }
    }

    fn copy(&mut self, call: &SystemCall) {
        assert_eq!((call.text(1), call.text(3)), ("NULL", "NULL"), "{call:?} is not modelled");
        let (Some(from), Some(to)) = (self.file(call.number(0)), self.file(call.number(2))) else {
            panic!("{call:?} copies onto or off the simulated disk");
        };
        let length = usize::try_from(call.result).unwrap();
        let start = usize::try_from(self.files[from].position).unwrap();
        let bytes = self.disk.now().bytes(self.files[from].node)[start..start + length].to_vec();
        let (node, offset) = (self.files[to].node, self.files[to].position);
        self.files[from].position += length as u64;
        self.files[to].position += length as u64;
        self.happen(Change::Write { node, offset, bytes });
    }

    fn allocate(&mut self, call: &SystemCall) {
        let Some(node) = self.node_of(call.number(0)) else { return };
        let (how, offset, length) = (call.text(1), call.number(2).unsigned_abs(), call.number(3).unsigned_abs());
        if how.contains("PUNCH_HOLE") {
            self.happen(Change::Punch { node, offset, length });
        } else {
            assert_eq!(how, "0", "{call:?} is not modelled");
            let length = (offset + length).max(self.disk.now().bytes(node).len() as u64);
            self.happen(Change::SetLength { node, length });
        }
    }

    fn rename(&mut self, from: &Option<Place>, to: &Option<Place>) {
        let (from, to) = match (from, to) {
            (None, None) => return,
            (Some(from), Some(to)) => (from, to),
            _ => panic!("renamed onto or off the simulated disk"),
        };
        let (from, to) = ((from.directory, from.name.clone().unwrap()), (to.directory, to.name.clone().unwrap()));
        let node = self.disk.now().entry(from.0, &from.1).unwrap();
        self.happen(Change::Move { node, from, to });
    }

    fn link(&mut self, call: &SystemCall) {
        let Some(Place { directory, name }) = self.place(call.text(2), call.bytes(3)) else { return };
        let node = self.resolve(call.text(0), call.bytes(1)).expect("what is linked is on the disk");
        self.happen(Change::Enter { directory, name: name.unwrap(), node });
    }

    fn remove(&mut self, directory: &str, path: &[u8]) {
        if let Some(Place { directory, name }) = self.place(directory, path) {
            self.happen(Change::Remove { directory, name: name.unwrap() });
        }
    }

    fn make(&mut self, directory: &str, path: &[u8], kind: NodeKind, mode: i64) {
        if let Some(place) = self.place(directory, path) {
            self.enter(place, kind, mode);
        }
    }

    fn enter(&mut self, place: Place, kind: NodeKind, mode: i64) -> NodeId {
        let node = self.made(kind, mode);
        self.happen(Change::Enter { directory: place.directory, name: place.name.unwrap(), node });
        node
    }

    fn made(&mut self, kind: NodeKind, mode: i64) -> NodeId {
        let node = self.disk.now().next_id();
        self.happen(Change::Make { node, kind, mode: mode as u32 & 0o7777 });
        node
    }

    fn sync(&mut self, call: &SystemCall, extent: Extent) {
        let covers = self.syncs.remove(&call.number(0)).unwrap();
        if let Some(node) = self.node_of(call.number(0)) {
            self.disk.happen(Event::Synced { node, extent, covers });
        }
    }

    fn set_mode(&mut self, node: Option<NodeId>, mode: i64) {
        if let Some(node) = node {
            self.happen(Change::SetMode { node, mode: mode as u32 & 0o7777 });
        }
    }

    fn set_time(&mut self, call: &SystemCall) {
        let node = match call.text(0) {
            "AT_FDCWD" => self.resolve("AT_FDCWD", call.bytes(1)),
            descriptor if call.arguments[1] == super::system_call::Argument::Text("NULL".into()) => {
                self.node_of(descriptor.parse().unwrap())
            }
            directory => self.resolve(directory, call.bytes(1)),
        };
        let Some(node) = node else { return };
        // Such as `[UTIME_OMIT, {tv_sec=1, tv_nsec=2} /* … */]`.
        let modified = call.text(2).rsplit_once("{tv_sec=").expect("a time of modification").1;
        let (seconds, rest) = modified.split_once(", tv_nsec=").unwrap();
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        let time = Time { seconds: seconds.parse().unwrap(), nanoseconds: digits.parse().unwrap() };
        self.happen(Change::SetTime { node, time });
    }

    /// What a path leads to; `None` if it is not on the disk or leads to nothing. Links are not followed.
    fn resolve(&self, directory: &str, path: &[u8]) -> Option<NodeId> {
        if let Some(descriptor) = path.strip_prefix(b"/proc/self/fd/") {
            return self.node_of(std::str::from_utf8(descriptor).unwrap().parse().unwrap());
        }
        let place = self.place(directory, path)?;
        match place.name {
            None => Some(place.directory),
            Some(name) => self.disk.now().entry(place.directory, &name),
        }
    }

    /// The last directory and the last name of a path; `None` if it is not on the disk.
    fn place(&self, directory: &str, path: &[u8]) -> Option<Place> {
        use std::os::unix::ffi::OsStrExt;
        let (start, rest) = if path.first() == Some(&b'/') {
            let path = Path::new(std::ffi::OsStr::from_bytes(path));
            (ROOT, path.strip_prefix(&self.root).ok()?.as_os_str().as_bytes())
        } else {
            assert_ne!(directory, "AT_FDCWD", "{} leads wherever", path.escape_ascii());
            (self.node_of(directory.parse().unwrap())?, path)
        };
        let mut names = rest.split(|byte| *byte == b'/').filter(|name| !name.is_empty() && *name != b".").peekable();
        let mut place = Place { directory: start, name: None };
        while let Some(name) = names.next() {
            assert_ne!(name, b"..", "{} is not modelled", path.escape_ascii());
            if names.peek().is_some() {
                place.directory = self.disk.now().entry(place.directory, name)?;
            } else {
                place.name = Some(name.to_vec());
            }
        }
        Some(place)
    }
}
