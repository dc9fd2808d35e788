//! The content of a disk at one moment: nodes and their names.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fs::{self, FileTimes, Permissions};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::change::{Change, NodeId, NodeKind, Time};

/// The directory that the volume is of.
pub const ROOT: NodeId = NodeId(0);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Content {
    File(Vec<u8>),
    Directory(BTreeMap<Vec<u8>, NodeId>),
    Link(Vec<u8>),
}

#[derive(Clone, Debug)]
struct Node {
    content: Content,
    mode: u32,
    /// When the content changed last, if that is known.
    modified: Option<Time>,
}

/// A tree of files that changes can be applied to.
#[derive(Clone, Debug)]
pub struct Volume {
    nodes: Vec<Option<Node>>,
}

impl Volume {
    /// What is below a directory now. Files with several names stay one file.
    pub fn load(root: &Path) -> Self {
        let mut volume = Self { nodes: Vec::new() };
        volume.load_node(root, &mut HashMap::new());
        volume
    }

    fn load_node(&mut self, path: &Path, known: &mut HashMap<u64, NodeId>) -> NodeId {
        let metadata = fs::symlink_metadata(path).unwrap();
        if let Some(known) = known.get(&metadata.ino()) {
            return *known;
        }
        let id = self.next_id();
        known.insert(metadata.ino(), id);
        self.nodes.push(None);
        let content = if metadata.is_dir() {
            let entries = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name());
            let mut names: Vec<_> = entries.map(OsStringExt::into_vec).collect();
            names.sort();
            let load = |name: Vec<u8>| (name.clone(), self.load_node(&path.join(OsStr::from_bytes(&name)), known));
            Content::Directory(names.into_iter().map(load).collect())
        } else if metadata.is_symlink() {
            Content::Link(fs::read_link(path).unwrap().into_os_string().into_vec())
        } else {
            assert!(metadata.is_file(), "{} cannot be on a simulated disk", path.display());
            Content::File(fs::read(path).unwrap())
        };
        let modified = Some(Time { seconds: metadata.mtime(), nanoseconds: metadata.mtime_nsec() });
        self.nodes[id.0] = Some(Node { content, mode: metadata.mode() & 0o7777, modified });
        id
    }

    /// The number of the node that is made next.
    pub fn next_id(&self) -> NodeId {
        NodeId(self.nodes.len())
    }

    fn node(&self, id: NodeId) -> &Node {
        self.nodes[id.0].as_ref().unwrap()
    }

    fn node_mut(&mut self, id: NodeId) -> &mut Node {
        self.nodes[id.0].as_mut().unwrap()
    }

    /// What a name in a directory leads to.
    pub fn entry(&self, directory: NodeId, name: &[u8]) -> Option<NodeId> {
        match &self.node(directory).content {
            Content::Directory(entries) => entries.get(name).copied(),
            other => panic!("looked for {:?} in {other:?}", name.escape_ascii().to_string()),
        }
    }

    /// The names in a directory, with what they lead to; none for a file or link.
    pub fn entries(&self, node: NodeId) -> impl Iterator<Item = (&[u8], NodeId)> {
        let entries = match &self.node(node).content {
            Content::Directory(entries) => Some(entries),
            _ => None,
        };
        entries.into_iter().flatten().map(|(name, node)| (name.as_slice(), *node))
    }

    /// The bytes of a file.
    pub fn bytes(&self, file: NodeId) -> &[u8] {
        match &self.node(file).content {
            Content::File(bytes) => bytes,
            other => panic!("{other:?} is no file"),
        }
    }

    fn bytes_mut(&mut self, file: NodeId) -> &mut Vec<u8> {
        let node = self.node_mut(file);
        node.modified = None;
        match &mut node.content {
            Content::File(bytes) => bytes,
            other => panic!("{other:?} is no file"),
        }
    }

    fn entries_mut(&mut self, directory: NodeId) -> &mut BTreeMap<Vec<u8>, NodeId> {
        match &mut self.node_mut(directory).content {
            Content::Directory(entries) => entries,
            other => panic!("{other:?} is no directory"),
        }
    }

    /// Applies a change. One that makes no sense, since another that came before it was lost, changes as little as it
    /// can.
    pub fn apply(&mut self, change: &Change) {
        match change {
            Change::Make { node, kind, mode } => {
                let content = match kind {
                    NodeKind::File => Content::File(Vec::new()),
                    NodeKind::Directory => Content::Directory(BTreeMap::new()),
                    NodeKind::Link(target) => Content::Link(target.clone()),
                };
                assert_eq!(*node, self.next_id());
                self.nodes.push(Some(Node { content, mode: *mode, modified: None }));
            }
            Change::Write { node, offset, bytes } => {
                let (start, end) = (usize::try_from(*offset).unwrap(), usize::try_from(*offset).unwrap() + bytes.len());
                let file = self.bytes_mut(*node);
                file.resize(file.len().max(end), 0);
                file[start..end].copy_from_slice(bytes);
            }
            Change::SetLength { node, length } => self.bytes_mut(*node).resize(usize::try_from(*length).unwrap(), 0),
            Change::Punch { node, offset, length } => {
                let file = self.bytes_mut(*node);
                let clamp = |place: u64| usize::try_from(place).unwrap_or(usize::MAX).min(file.len());
                let (start, end) = (clamp(*offset), clamp(offset.saturating_add(*length)));
                file[start..end].fill(0);
            }
            Change::SetMode { node, mode } => self.node_mut(*node).mode = *mode,
            Change::SetTime { node, time } => self.node_mut(*node).modified = Some(*time),
            Change::Enter { directory, name, node } => {
                self.entries_mut(*directory).insert(name.clone(), *node);
            }
            // A directory goes with whatever names in it were still on the medium: it was empty when it was removed.
            Change::Remove { directory, name } => {
                self.entries_mut(*directory).remove(name);
            }
            Change::Move { node, from, to } => {
                if self.entry(from.0, &from.1) == Some(*node) {
                    self.entries_mut(from.0).remove(&from.1);
                }
                self.entries_mut(to.0).insert(to.1.clone(), *node);
            }
        }
    }

    /// Makes a directory hold this and nothing else.
    pub fn write_to(&self, root: &Path) {
        fs::create_dir_all(root).unwrap();
        for entry in fs::read_dir(root).unwrap() {
            let entry = entry.unwrap();
            let remove = if entry.file_type().unwrap().is_dir() { fs::remove_dir_all } else { fs::remove_file };
            remove(entry.path()).unwrap();
        }
        self.write_node(ROOT, root, &mut HashMap::new());
    }

    fn write_node(&self, id: NodeId, path: &Path, written: &mut HashMap<NodeId, PathBuf>) {
        let node = self.node(id);
        match &node.content {
            Content::Directory(entries) => {
                if id != ROOT {
                    fs::create_dir(path).unwrap();
                }
                for (name, child) in entries {
                    self.write_node(*child, &path.join(OsStr::from_bytes(name)), written);
                }
                fs::set_permissions(path, Permissions::from_mode(node.mode)).unwrap();
            }
            Content::Link(target) => symlink(OsStr::from_bytes(target), path).unwrap(),
            Content::File(bytes) => {
                if let Some(other) = written.get(&id) {
                    return fs::hard_link(other, path).unwrap();
                }
                written.insert(id, path.to_path_buf());
                fs::write(path, bytes).unwrap();
                fs::set_permissions(path, Permissions::from_mode(node.mode)).unwrap();
                if let Some(Time { seconds, nanoseconds }) = node.modified {
                    let since = Duration::new(seconds.try_into().unwrap(), nanoseconds.try_into().unwrap());
                    let times = FileTimes::new().set_modified(SystemTime::UNIX_EPOCH + since);
                    fs::File::open(path).unwrap().set_times(times).unwrap();
                }
            }
        }
    }

    /// Every name with what it leads to, without times: equal for volumes that look alike.
    pub fn picture(&self) -> BTreeMap<PathBuf, (u32, String)> {
        let mut picture = BTreeMap::new();
        self.picture_node(ROOT, PathBuf::new(), &mut picture);
        picture
    }

    fn picture_node(&self, id: NodeId, path: PathBuf, picture: &mut BTreeMap<PathBuf, (u32, String)>) {
        let node = self.node(id);
        let content = match &node.content {
            Content::File(bytes) => format!("{} bytes, {}", bytes.len(), blake3::hash(bytes).to_hex()),
            Content::Link(target) => format!("-> {}", target.escape_ascii()),
            Content::Directory(entries) => {
                for (name, child) in entries {
                    self.picture_node(*child, path.join(OsStr::from_bytes(name)), picture);
                }
                "directory".into()
            }
        };
        let mode = if matches!(node.content, Content::Link(_)) { 0o777 } else { node.mode };
        picture.insert(path, (mode, content));
    }
}
