//! What can happen to a disk: changes, which a crash may undo, and syncs, after which it may not.

/// A file, directory or link, whatever its names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub usize);

/// What a node is when it is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeKind {
    /// An empty file.
    File,
    /// An empty directory.
    Directory,
    /// A symlink that holds this.
    Link(Vec<u8>),
}

/// A time as `utimensat` takes it: seconds and nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Time {
    pub seconds: i64,
    pub nanoseconds: i64,
}

/// One thing that a file system may or may not have on its medium.
#[derive(Clone, Debug)]
pub enum Change {
    /// A node without a name.
    Make {
        node: NodeId,
        kind: NodeKind,
        mode: u32,
    },
    Write {
        node: NodeId,
        offset: u64,
        bytes: Vec<u8>,
    },
    SetLength {
        node: NodeId,
        length: u64,
    },
    /// Zeros within the length that the file has.
    Punch {
        node: NodeId,
        offset: u64,
        length: u64,
    },
    SetMode {
        node: NodeId,
        mode: u32,
    },
    SetTime {
        node: NodeId,
        time: Time,
    },
    /// A name for a node.
    Enter {
        directory: NodeId,
        name: Vec<u8>,
        node: NodeId,
    },
    Remove {
        directory: NodeId,
        name: Vec<u8>,
    },
    /// Another name for a node, in place of the old one and of whatever had it: one step.
    Move {
        node: NodeId,
        from: (NodeId, Vec<u8>),
        to: (NodeId, Vec<u8>),
    },
}

/// What a sync makes durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Data, names and attributes of a node (`fsync`).
    Whole,
    /// Data and length of a node (`fdatasync`).
    Data,
    /// All that was done to the file system of a node (`syncfs`).
    Everything,
}

impl Change {
    /// Whether a sync of this node makes the change durable. A sync of a file does not keep its names, one of a
    /// directory does not keep what is in its files.
    pub fn is_kept_by(&self, synced: NodeId, extent: Extent) -> bool {
        match self {
            Self::Make { .. } => true,
            // That depends on where the nodes are.
            _ if extent == Extent::Everything => false,
            Self::Write { node, .. } | Self::SetLength { node, .. } | Self::Punch { node, .. } => *node == synced,
            Self::SetMode { node, .. } | Self::SetTime { node, .. } => *node == synced && extent == Extent::Whole,
            Self::Enter { directory, .. } | Self::Remove { directory, .. } => *directory == synced,
            Self::Move { from, to, .. } => from.0 == synced || to.0 == synced,
        }
    }

    /// The node that changes.
    pub fn subject(&self) -> NodeId {
        match self {
            Self::Make { node, .. }
            | Self::Write { node, .. }
            | Self::SetLength { node, .. }
            | Self::Punch { node, .. }
            | Self::SetMode { node, .. }
            | Self::SetTime { node, .. } => *node,
            Self::Enter { directory, .. } | Self::Remove { directory, .. } => *directory,
            Self::Move { to, .. } => to.0,
        }
    }

    /// Whether names change.
    pub fn is_of_names(&self) -> bool {
        matches!(self, Self::Enter { .. } | Self::Remove { .. } | Self::Move { .. })
    }
}

/// One moment of a recording.
#[derive(Clone, Debug)]
pub enum Event {
    Changed(Change),
    /// A sync of a node returned that began when this many events had happened: changes before them are durable.
    Synced {
        node: NodeId,
        extent: Extent,
        covers: usize,
    },
    /// The process wrote to its standard output: whoever reads it believes it.
    Acknowledged,
}
