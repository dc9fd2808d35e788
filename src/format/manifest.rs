//! The manifest, whose presence is a snapshot's commit: format-spec.md §11.
//!
//! It holds one record a source, each with the root of that source's file table, and little else: it stays below 2 KiB
//! however large the sources are. Invariant: source names are unique; what is recorded as a path is information and
//! never locates data, so that a moved repository stays valid.

use bincode::{Decode, Encode};

use super::Malformed;
use super::codec;
use super::content::Content;
use super::envelope::{self, Kind};
use super::header::RepositoryHeader;
use super::limits::{EXTENSIONS, MANIFEST_BYTES, PATH_BYTES, SOURCES};
use super::table::{self, Time};
use crate::id::Stamp;

/// The source that is the service's SQLite database.
pub const DB: &str = "db";
/// The source that is the service's registry file.
pub const REGISTRY: &str = "registry";
/// The source that is the service's Chroma vector store.
pub const CHROMA: &str = "chroma";

/// A field of a later version that readers of this one pass over.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Extension {
    /// What it is.
    pub tag: u32,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// Refuses extensions that are too many or whose tags do not ascend.
///
/// # Errors
/// [`Malformed::Limit`] or [`Malformed::Invalid`].
pub fn check_extensions(extensions: &[Extension]) -> Result<(), Malformed> {
    if extensions.len() > EXTENSIONS {
        return Err(Malformed::Limit("number of extensions"));
    }
    if extensions.iter().zip(extensions.iter().skip(1)).any(|(left, right)| left.tag >= right.tag) {
        return Err(Malformed::invalid("its extensions do not ascend by their tags"));
    }
    Ok(())
}

/// Why a snapshot was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub enum SnapshotKind {
    /// `create` took it.
    Ordinary,
    /// A restore took it before its first write.
    PreRestore,
}

/// What a source is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub enum SourceKind {
    /// One SQLite database.
    Sqlite,
    /// One file.
    File,
    /// A directory tree.
    Tree,
}

/// What became of a source in this snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub enum SourceState {
    /// Captured.
    Captured,
    /// Captured as raw bytes, since it was too damaged for the backup API.
    CapturedRaw,
    /// It did not exist.
    Absent,
    /// It was not asked for.
    NotRequested,
    /// It kept changing and was left out.
    Changing,
}

/// What `PRAGMA integrity_check` said of a source's database.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Verdict {
    /// It was not asked.
    Unchecked,
    /// It found nothing.
    Ok,
    /// It found damage.
    Failed(String),
    /// It could not run.
    Unknown(String),
    /// The file does not open as a database.
    OpenFailed(String),
}

/// Whether the files of a tree are provably of one moment.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Consistency {
    /// Nothing was proved.
    Unproven,
    /// It was proved.
    Proven,
    /// There are reasons for doubt.
    Suspect(Vec<String>),
}

/// One source of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct SourceRecord {
    /// [`DB`], [`REGISTRY`] or [`CHROMA`].
    pub name: String,
    /// What it is.
    pub kind: SourceKind,
    /// What became of it.
    pub state: SourceState,
    /// Where it was, as bytes of an absolute path; information only.
    pub path: Vec<u8>,
    /// Its file table; empty where nothing was captured.
    pub table: Content,
    /// Regular files captured.
    pub files: u64,
    /// Their bytes, holes included.
    pub bytes: u64,
    /// When its first stat was taken.
    pub started: Time,
    /// What the check of its database said.
    pub verdict: Verdict,
    /// Whether its files are of one moment.
    pub consistency: Consistency,
    /// Microseconds for which writers had to wait.
    pub writer_blocked_microseconds: u64,
}

impl SourceRecord {
    fn check(&self) -> Result<(), Malformed> {
        self.table.check()?;
        self.started.check()?;
        table::check_path(self.name.as_bytes())?;
        if self.name.is_empty() || self.name.contains('/') {
            return Err(Malformed::invalid("a source's name is empty or no single component of a path"));
        }
        if self.path.len() > PATH_BYTES {
            return Err(Malformed::Limit("path length"));
        }
        if !self.is_captured() && self.table != Content::EMPTY {
            return Err(Malformed::invalid("a source that was not captured has a table"));
        }
        Ok(())
    }

    /// Whether the snapshot holds the source as it should be, as far as that was looked into.
    pub fn is_sound(&self) -> bool {
        self.state == SourceState::Captured && !matches!(self.verdict, Verdict::Failed(_) | Verdict::OpenFailed(_))
    }

    /// Reasons for doubt whether the captured files go with one another.
    pub fn doubts(&self) -> &[String] {
        match &self.consistency {
            Consistency::Suspect(reasons) if self.is_captured() => reasons,
            _ => &[],
        }
    }

    /// Whether the snapshot holds the source.
    pub fn is_captured(&self) -> bool {
        matches!(self.state, SourceState::Captured | SourceState::CapturedRaw)
    }
}

/// Bytes of all these sources. A manifest may claim any number, so the sum ends at the greatest there is.
pub fn bytes_of<'a>(sources: impl IntoIterator<Item = &'a SourceRecord>) -> u64 {
    sources.into_iter().map(|source| source.bytes).fold(0, u64::saturating_add)
}

/// One snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Manifest {
    /// The repository it belongs to.
    pub header: RepositoryHeader,
    stamp_seconds: i64,
    /// Why it was taken.
    pub kind: SnapshotKind,
    /// Microseconds since 1970, UTC, at which the create began.
    pub created_microseconds: i64,
    /// The program that wrote it, with its version; information only.
    pub program: String,
    /// The host that it ran on; information only.
    pub host: String,
    parent_seconds: Option<i64>,
    /// The sources, in the order they were captured.
    pub sources: Vec<SourceRecord>,
    /// What later versions add; unknown ones are ignored.
    pub extensions: Vec<Extension>,
}

impl Manifest {
    /// A manifest without sources.
    pub fn new(header: RepositoryHeader, stamp: Stamp, kind: SnapshotKind, created_microseconds: i64) -> Self {
        Self {
            header,
            stamp_seconds: stamp.seconds(),
            kind,
            created_microseconds,
            program: concat!("vecsnap ", env!("CARGO_PKG_VERSION")).into(),
            host: String::new(),
            parent_seconds: None,
            sources: Vec::new(),
            extensions: Vec::new(),
        }
    }

    /// The stamp it was published under.
    pub fn stamp(&self) -> Option<Stamp> {
        Stamp::from_seconds(self.stamp_seconds)
    }

    /// Gives it another stamp, when the first one was taken.
    pub fn set_stamp(&mut self, stamp: Stamp) {
        self.stamp_seconds = stamp.seconds();
    }

    /// The snapshot whose sources this one was compared with.
    pub fn parent(&self) -> Option<Stamp> {
        self.parent_seconds.and_then(Stamp::from_seconds)
    }

    /// Names the snapshot whose sources this one was compared with.
    pub fn set_parent(&mut self, parent: Option<Stamp>) {
        self.parent_seconds = parent.map(Stamp::seconds);
    }

    /// The record of the source with this name.
    pub fn source(&self, name: &str) -> Option<&SourceRecord> {
        self.sources.iter().find(|source| source.name == name)
    }

    /// What is wrong with a source of it that was captured as raw bytes. Before a restore, those are the way back and
    /// nothing is wrong.
    pub fn fault_of_raw(&self, source: &SourceRecord) -> Option<&'static str> {
        (source.state == SourceState::CapturedRaw && self.kind == SnapshotKind::Ordinary)
            .then_some("it was captured as raw bytes, since SQLite cannot read it")
    }

    /// The bytes of the manifest file.
    ///
    /// # Errors
    /// [`Malformed`] for a manifest that the format forbids.
    pub fn encode(&self) -> Result<Vec<u8>, Malformed> {
        self.check()?;
        Ok(envelope::seal(Kind::Manifest, &codec::encode(self)?, Some(3)))
    }

    /// The manifest with these bytes.
    ///
    /// # Errors
    /// [`Malformed`] for everything but an undamaged manifest of this version.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let payload = envelope::open(Kind::Manifest, bytes, MANIFEST_BYTES)?;
        let manifest: Self = codec::decode::<_, MANIFEST_BYTES>(&payload)?;
        manifest.check()?;
        Ok(manifest)
    }

    fn check(&self) -> Result<(), Malformed> {
        self.header.check()?;
        check_extensions(&self.extensions)?;
        if self.stamp().is_none() || self.parent().is_some() != self.parent_seconds.is_some() {
            return Err(Malformed::invalid("its stamp is no moment of the years 0 to 9999"));
        }
        if self.sources.len() > SOURCES {
            return Err(Malformed::Limit("number of sources"));
        }
        for (number, source) in self.sources.iter().enumerate() {
            source.check()?;
            if self.sources.iter().take(number).any(|other| other.name == source.name) {
                return Err(Malformed::invalid("its sources have not each a name of their own"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::RepositoryId;

    fn manifest() -> Manifest {
        let header = RepositoryHeader::new(RepositoryId::from_bytes([9; 16]));
        let mut manifest = Manifest::new(header, "20260406T180000Z".parse().unwrap(), SnapshotKind::Ordinary, 1);
        manifest.set_parent(Some("20260406T170000Z".parse().unwrap()));
        for (name, kind) in [("db", SourceKind::Sqlite), ("registry", SourceKind::File), ("chroma", SourceKind::Tree)] {
            manifest.sources.push(SourceRecord {
                name: name.into(),
                kind,
                state: SourceState::Absent,
                path: format!("/var/lib/service/data/{name}").into(),
                table: Content::EMPTY,
                files: 0,
                bytes: 0,
                started: Time { seconds: 1, nanoseconds: 2 },
                verdict: Verdict::Unchecked,
                consistency: Consistency::Unproven,
                writer_blocked_microseconds: 0,
            });
        }
        manifest
    }

    #[test]
    fn decodes_what_it_encodes_in_less_than_two_kibibytes() {
        let manifest = manifest();
        let bytes = manifest.encode().unwrap();
        assert!(bytes.len() < 2048, "{} bytes", bytes.len());
        assert_eq!(Manifest::decode(&bytes).unwrap(), manifest);
    }

    #[test]
    fn names_that_could_leave_a_directory_are_refused() {
        for name in ["", ".", "..", "a/b", "/etc", "a\0b"] {
            let mut hostile = manifest();
            hostile.sources[0].name = name.into();
            assert!(hostile.encode().is_err(), "{name:?}");
        }
    }

    #[test]
    fn extensions_ascend_and_are_few() {
        let extension = |tag| Extension { tag, bytes: vec![1] };
        let mut later = manifest();
        later.extensions = vec![extension(3), extension(7)];
        assert_eq!(Manifest::decode(&later.encode().unwrap()).unwrap(), later);
        later.extensions = vec![extension(7), extension(7)];
        assert!(later.encode().is_err());
        later.extensions = (0..65).map(extension).collect();
        assert!(later.encode().is_err());
    }

    #[test]
    fn doubled_names_and_tables_of_absent_sources_are_refused() {
        let mut doubled = manifest();
        doubled.sources[1].name = "db".into();
        assert!(doubled.encode().is_err());
        let mut impossible = manifest();
        impossible.sources[0].table.length = 5;
        assert!(impossible.encode().is_err());
    }
}
