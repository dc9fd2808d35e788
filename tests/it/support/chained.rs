//! Small repositories with chains made by hand, and what the program says of them.

use std::time::Duration;

use vecsnap::format::limits::CHUNK_SIZE;
use vecsnap::format::manifest::{SnapshotKind, SourceKind};
use vecsnap::format::pack::BlobKind;
use vecsnap::id::BlobId;
use vecsnap::store::{Access, BlobFault, BlobReader, LockWait, Repository};

use super::handmade::{HandmadeRepository, Item, Source};
use super::{Outcome, Vecsnap, noise};

/// A hostile repository may cost this much and no more.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A repository in the making; its directory goes with it.
pub struct Made {
    directory: tempfile::TempDir,
    pub repository: HandmadeRepository,
}

impl Made {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let repository = HandmadeRepository::new(directory.path().join("made"));
        Self { directory, repository }
    }

    /// A snapshot with a database and one file of these bytes.
    pub fn snapshot(&mut self, stamp: &str, data: &[u8]) {
        let tree = vec![("", 0o700, Item::Directory), ("data", 0o600, Item::file(data))];
        let db = Source::captured("db", SourceKind::Sqlite, vec![("atocore.db", 0o600, Item::file(b""))]);
        let sources = [db, Source::captured("chroma", SourceKind::Tree, tree)];
        self.repository.snapshot(stamp, SnapshotKind::Ordinary, &sources);
    }

    pub fn run(&self, arguments: &[&str]) -> Outcome {
        Vecsnap::new().args(["--json", "--repo"]).arg(self.repository.root()).args(arguments).run()
    }

    pub fn open(&self) -> Repository {
        Repository::open(&self.repository.root(), Access::Read, LockWait(PATIENCE)).unwrap().unwrap()
    }

    /// The chunk, by a reader that knows nothing yet.
    pub fn read(&self, chunk: &[u8]) -> Result<Vec<u8>, BlobFault> {
        let repository = self.open();
        let mut reader = BlobReader::new(&repository);
        reader.chunk(&BlobId::of_chunk(chunk)).unwrap().map(|bytes| bytes.to_vec())
    }

    /// The file of a snapshot, restored elsewhere.
    pub fn restored(&self, stamp: &str) -> Vec<u8> {
        let out = tempfile::tempdir_in(self.directory.path()).unwrap();
        self.run(&["restore", stamp, "--to", out.path().to_str().unwrap()]).exits(0);
        std::fs::read(out.path().join("chroma/data")).unwrap()
    }

    /// The errors of a validation that finds some.
    pub fn errors(&self, arguments: &[&str]) -> Vec<String> {
        let document = self.run(&[&["validate"], arguments].concat()).exits(3).json();
        document["errors"].as_array().unwrap().iter().map(|error| error.as_str().unwrap().to_owned()).collect()
    }
}

/// Versions of a chunk that differ in their last eight bytes.
pub fn version(number: usize) -> Vec<u8> {
    let mut chunk = noise::bytes("the first version", CHUNK_SIZE);
    chunk[CHUNK_SIZE - 8..].copy_from_slice(&(number as u64).to_le_bytes());
    chunk
}

/// Writes version 0 whole and each further one as a delta against the one before, ten to a pack.
pub fn write_chain(repository: &mut HandmadeRepository, depth: usize) -> Vec<Vec<u8>> {
    let versions: Vec<_> = (0..=depth).map(version).collect();
    repository.whole(BlobKind::Chunk, &versions[0]);
    for (number, pair) in (1..).zip(versions.windows(2)) {
        if number % 10 == 0 {
            repository.end_pack();
        }
        repository.delta_in_place(&pair[1], &pair[0]);
    }
    repository.end_pack();
    versions
}
