//! Repositories made by hand, record by record, through the encoders of `vecsnap::format` alone, so that they hold what
//! no version of the program may ever write by itself: a chunk with two records, a circle of deltas, a chain of any
//! depth.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use vecsnap::format::compression::{self, Codec};
use vecsnap::format::content::{Content, Root, slots_below};
use vecsnap::format::delta::{self, Instruction};
use vecsnap::format::header::{RepositoryDocument, RepositoryHeader};
use vecsnap::format::limits::{CHUNK_SIZE, NODE_SLOTS};
use vecsnap::format::list_node::ListNode;
use vecsnap::format::manifest::{Consistency, Manifest, SnapshotKind, SourceKind, SourceRecord, SourceState, Verdict};
use vecsnap::format::pack::{self, BaseDistance, BlobKind, Encoding, Footer, Frame, Record};
use vecsnap::format::planes;
use vecsnap::format::table::{Capture, Entry, EntryKind, FileEntry, OrderCheck, SourceStats, Stat, Time};
use vecsnap::id::{BlobId, PackId, RepositoryId, Stamp};

/// 2026-04-06T18:00:00Z.
const MOMENT: i64 = 1_775_498_400;

/// What a record under construction holds.
struct Pending {
    kind: BlobKind,
    id: BlobId,
    length: usize,
    encoding: Encoding,
    payload: Vec<u8>,
}

/// A pack under construction.
pub struct PackWriter {
    bytes: Vec<u8>,
    footer: Footer,
    pending: Vec<Pending>,
}

/// A repository under construction.
pub struct HandmadeRepository {
    directory: PathBuf,
    header: RepositoryHeader,
    known: BTreeSet<BlobId>,
    pack: PackWriter,
}

/// What stands at a path of a source.
pub enum Item {
    Directory,
    Symlink(&'static str),
    /// Bytes at offsets of a file of this length; what lies between is holes where `sparse`, else zeros.
    File {
        length: usize,
        extents: Vec<(usize, Vec<u8>)>,
        sparse: bool,
        capture: Capture,
    },
}

impl Item {
    pub fn file(bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = bytes.into();
        Self::File { length: bytes.len(), extents: vec![(0, bytes)], sparse: false, capture: Capture::Plain }
    }

    pub fn captured(bytes: Vec<u8>, capture: Capture) -> Self {
        Self::File { length: bytes.len(), extents: vec![(0, bytes)], sparse: false, capture }
    }

    pub fn sparse(length: usize, extents: Vec<(usize, Vec<u8>)>) -> Self {
        Self::File { length, extents, sparse: true, capture: Capture::Plain }
    }
}

/// One source of a snapshot under construction: its paths in the order of a table, with their modes.
pub struct Source {
    pub name: &'static str,
    pub kind: SourceKind,
    pub state: SourceState,
    pub items: Vec<(&'static str, u32, Item)>,
}

impl Source {
    pub fn missing(name: &'static str, kind: SourceKind, state: SourceState) -> Self {
        Self { name, kind, state, items: Vec::new() }
    }

    pub fn captured(name: &'static str, kind: SourceKind, items: Vec<(&'static str, u32, Item)>) -> Self {
        Self { name, kind, state: SourceState::Captured, items }
    }
}

impl PackWriter {
    fn new(header: &RepositoryHeader) -> Self {
        Self { bytes: pack::encode_header(header).unwrap(), footer: Footer::default(), pending: Vec::new() }
    }

    /// Where the id of a blob stands in the pack's id table.
    fn table_offset(&self, id: BlobId) -> u32 {
        let ids = self.footer.records.iter().map(|record| record.id).chain(self.pending.iter().map(|record| record.id));
        32 * ids.into_iter().position(|other| other == id).unwrap() as u32
    }
}

impl HandmadeRepository {
    /// An empty repository in `<directory>/repository`; its id follows from the directory's name.
    pub fn new(directory: PathBuf) -> Self {
        let mut id = [0; 16];
        id.copy_from_slice(&blake3::hash(directory.file_name().unwrap().as_encoded_bytes()).as_bytes()[..16]);
        let header = RepositoryHeader::new(RepositoryId::from_bytes(id));
        let document = RepositoryDocument::new(&header, "2026-04-06T18:00:00.000000+00:00".into());
        fs::create_dir_all(directory.join("repository")).unwrap();
        let json = serde_json::to_string_pretty(&document).unwrap() + "\n";
        fs::write(directory.join("repository/repository.json"), json).unwrap();
        Self { directory, pack: PackWriter::new(&header), header, known: BTreeSet::new() }
    }

    /// Where the repository is.
    pub fn root(&self) -> PathBuf {
        self.directory.join("repository")
    }

    /// Adds a record that holds the blob whole.
    pub fn whole(&mut self, kind: BlobKind, content: &[u8]) -> BlobId {
        self.push(kind, content, Encoding::Whole, content.to_vec())
    }

    /// Adds a record that claims to hold this chunk whole, whatever its bytes are.
    pub fn claimed_whole(&mut self, id: BlobId, bytes: &[u8]) {
        let (length, payload) = (bytes.len(), bytes.to_vec());
        self.pack.pending.push(Pending { kind: BlobKind::Chunk, id, length, encoding: Encoding::Whole, payload });
    }

    /// Adds a chunk as a delta against these blobs.
    pub fn delta(&mut self, content: &[u8], bases: &[&[u8]], code: &[Instruction], literals: &[u8]) -> BlobId {
        self.delta_over(BaseDistance::One, content, bases, code, literals)
    }

    /// Adds a chunk as a delta against these blobs, with the hint how far back the first of them is.
    fn delta_over(
        &mut self,
        distance: BaseDistance,
        content: &[u8],
        bases: &[&[u8]],
        code: &[Instruction],
        literals: &[u8],
    ) -> BlobId {
        let payload = delta::encode(code, literals);
        assert_eq!(delta::apply(&payload, bases, content.len()).unwrap(), content);
        let bases = bases.iter().map(|base| BlobId::of_chunk(base).prefix()).collect();
        self.push(BlobKind::Chunk, content, Encoding::Delta { bases, id_table: false, distance }, payload)
    }

    /// Adds a record that claims to be a delta that leads to this chunk, whatever its payload says.
    pub fn claimed_delta(&mut self, content: &[u8], bases: &[&[u8]], payload: Vec<u8>) -> BlobId {
        let bases = bases.iter().map(|base| BlobId::of_chunk(base).prefix()).collect();
        let encoding = Encoding::Delta { bases, id_table: false, distance: BaseDistance::One };
        self.push(BlobKind::Chunk, content, encoding, payload)
    }

    /// Adds a chunk as a delta against one of the same length, by the places where they differ.
    pub fn delta_in_place(&mut self, content: &[u8], base: &[u8]) -> BlobId {
        self.delta_in_place_over(BaseDistance::One, content, base)
    }

    /// The same, with the hint how far back the base is.
    pub fn delta_in_place_over(&mut self, distance: BaseDistance, content: &[u8], base: &[u8]) -> BlobId {
        let (code, literals) = difference(base, content);
        self.delta_over(distance, content, &[base], &code, &literals)
    }

    /// Adds the list node of a file in which one slot changed, as a delta against an earlier node and the id table.
    pub fn delta_node(&mut self, distance: BaseDistance, before: &ListNode, slot: usize, child: BlobId) -> ListNode {
        let mut after = before.clone();
        after.slots[slot] = Some(child);
        let (base, content) = (before.encode().unwrap(), after.encode().unwrap());
        let place = (1 + 4 + 8 + 8 + 32 * slot) as u32;
        let rest = content.len() as u32 - place - 32;
        let mut code = vec![
            Instruction::CopyAlong { length: place },
            Instruction::CopyFrom { length: 32, base: 1, offset: self.pack.table_offset(child) },
        ];
        if rest > 0 {
            code.push(Instruction::CopyFrom { length: rest, base: 0, offset: place + 32 });
        }
        let bases = vec![BlobId::of_list_node(&base).prefix()];
        let payload = delta::encode(&code, b"");
        self.push(BlobKind::ListNode, &content, Encoding::Delta { bases, id_table: true, distance }, payload);
        after
    }

    fn push(&mut self, kind: BlobKind, content: &[u8], encoding: Encoding, payload: Vec<u8>) -> BlobId {
        let id = kind.id_of(content);
        self.known.insert(id);
        self.pack.pending.push(Pending { kind, id, length: content.len(), encoding, payload });
        id
    }

    /// Adds bytes to the pack that belong to nothing.
    pub fn stray(&mut self, bytes: &[u8]) {
        self.pack.bytes.extend_from_slice(bytes);
    }

    /// Ends the frame that holds the records added since the last one.
    pub fn end_frame(&mut self, codec: Codec) {
        let pending = std::mem::take(&mut self.pack.pending);
        let raw: Vec<u8> = pending.iter().flat_map(|record| record.payload.iter().copied()).collect();
        let stored = match codec {
            Codec::Raw => raw.clone(),
            Codec::Zstd => zstd::bulk::compress(&raw, 19).unwrap(),
            Codec::ZstdOfPlanes => {
                let mut planes = raw.clone();
                planes::split(&mut planes);
                zstd::bulk::compress(&planes, 19).unwrap()
            }
        };
        assert_eq!(compression::decompress(codec, &stored, raw.len()).unwrap(), raw);
        let place = self.pack.bytes.len() as u64;
        let number = self.pack.footer.frames.len() as u32;
        let counts = (stored.len() as u32, raw.len() as u32, pending.len() as u32);
        self.pack.footer.frames.push(Frame::new(place, counts.0, counts.1, counts.2, codec));
        self.pack.bytes.extend_from_slice(&stored);
        let mut offset = 0;
        for Pending { kind, id, length, encoding, payload } in pending {
            let (length, payload_length) = (length as u32, payload.len() as u32);
            let record = Record { id, kind, length, frame: number, offset, payload_length, encoding };
            self.pack.footer.records.push(record);
            offset += payload_length;
        }
    }

    /// Ends the pack, writes it and returns where it is.
    pub fn end_pack(&mut self) -> PathBuf {
        if !self.pack.pending.is_empty() {
            self.end_frame(Codec::Zstd);
        }
        let mut pack = std::mem::replace(&mut self.pack, PackWriter::new(&self.header));
        pack.bytes.extend(pack.footer.encode(pack.bytes.len() as u64).unwrap());
        let id = PackId::of_hasher(blake3::Hasher::new().update(&pack.bytes)).to_string();
        let directory = self.directory.join("repository/packs").join(&id[..2]);
        fs::create_dir_all(&directory).unwrap();
        let path = directory.join(format!("{id}.pack"));
        fs::write(&path, pack.bytes).unwrap();
        path
    }

    /// Adds what the content needs and the repository does not have yet, all whole.
    pub fn content(&mut self, item: &[u8], is_hole: impl Fn(usize) -> bool) -> Content {
        let mut slots: Vec<Option<BlobId>> = Vec::new();
        for (number, chunk) in item.chunks(CHUNK_SIZE).enumerate() {
            let hole = item.len() > CHUNK_SIZE && is_hole(number);
            slots.push((!hole).then(|| self.ensure(BlobKind::Chunk, chunk)));
        }
        let length = item.len() as u64;
        let depth = Content::depth_for(slots.len() as u64);
        for level in 1..=depth {
            let nodes = slots.chunks(NODE_SLOTS).map(<[_]>::to_vec).collect::<Vec<_>>();
            slots = nodes
                .into_iter()
                .map(|slots| {
                    let hole = level < depth && slots.iter().all(Option::is_none);
                    let node = ListNode { depth: level, slots }.encode().unwrap();
                    (!hole).then(|| self.ensure(BlobKind::ListNode, &node))
                })
                .collect();
        }
        assert!(slots_below(depth) >= Content::slots(length));
        let root = match (slots.first().copied().flatten(), depth) {
            (None, _) => Root::Empty,
            (Some(id), 0) => Root::Chunk(id),
            (Some(id), depth) => Root::Node { depth, id },
        };
        let content = Content { length, root };
        content.check().unwrap();
        content
    }

    fn ensure(&mut self, kind: BlobKind, content: &[u8]) -> BlobId {
        let id = kind.id_of(content);
        if self.known.contains(&id) { id } else { self.whole(kind, content) }
    }

    /// Adds the source's files and its table, and notes in `expected` what a reader must find.
    pub fn source(&mut self, source: &Source, expected: &mut String) -> SourceRecord {
        let mut table = Vec::new();
        let mut order = OrderCheck::default();
        let (mut files, mut bytes) = (0, 0);
        for (number, (path, mode, item)) in source.items.iter().enumerate() {
            let modified = Time { seconds: MOMENT - number as i64, nanoseconds: 123_456_789 };
            let (kind, line) = match item {
                Item::Directory => (EntryKind::Directory, "directory\t0\t-".to_owned()),
                Item::Symlink(target) => {
                    (EntryKind::Symlink(target.as_bytes().to_vec()), format!("symlink\t0\t{target}"))
                }
                Item::File { length, extents, sparse, capture } => {
                    let mut whole = vec![0; *length];
                    for (offset, bytes) in extents {
                        whole[*offset..offset + bytes.len()].copy_from_slice(bytes);
                    }
                    let touched = |slot: usize| {
                        let slot = slot * CHUNK_SIZE..(slot + 1) * CHUNK_SIZE;
                        extents.iter().any(|(at, bytes)| *at < slot.end && at + bytes.len() > slot.start)
                    };
                    let content = self.content(&whole, |slot| *sparse && !touched(slot));
                    files += 1;
                    bytes += content.length;
                    let stat = Stat { inode: 1_000 + number as u64, size: content.length, modified, changed: modified };
                    let stats = SourceStats { file: stat, wal: None, journal: None };
                    let entry = FileEntry { content, capture: *capture, sparse: *sparse, stats };
                    (EntryKind::File(entry), format!("file\t{length}\t{}", blake3::hash(&whole).to_hex()))
                }
            };
            let path_in_tree = if path.is_empty() { source.name.to_owned() } else { format!("{}/{path}", source.name) };
            expected.push_str(&format!("{path_in_tree}\t{mode:04o}\t{line}\n"));
            let entry = Entry {
                path: path.as_bytes().to_vec(),
                kind,
                mode: *mode,
                uid: 0,
                gid: 0,
                modified,
                extensions: Vec::new(),
            };
            order.accept(&entry).unwrap();
            table.extend(entry.encode().unwrap());
        }
        let checked = source.kind == SourceKind::Sqlite && source.state == SourceState::Captured;
        SourceRecord {
            name: source.name.into(),
            kind: source.kind,
            state: source.state,
            path: format!("/srv/service/{}", source.name).into(),
            table: self.content(&table, |_| false),
            files,
            bytes,
            started: Time { seconds: MOMENT, nanoseconds: 0 },
            verdict: if checked { Verdict::Ok } else { Verdict::Unchecked },
            consistency: Consistency::Unproven,
            writer_blocked_microseconds: 0,
        }
    }

    /// Adds all that the snapshot still needs, ends the pack, and commits the snapshot.
    pub fn snapshot(&mut self, stamp: &str, kind: SnapshotKind, sources: &[Source]) {
        let mut manifest = self.manifest(stamp, kind);
        let mut expected = String::new();
        for source in sources {
            let record = self.source(source, &mut expected);
            manifest.sources.push(record);
        }
        let bytes = manifest.encode().unwrap();
        self.commit(stamp, &metadata(&manifest, stamp, sources), &bytes);
        fs::write(self.directory.join(format!("{stamp}.tree")), expected).unwrap();
    }

    /// A manifest without sources.
    pub fn manifest(&self, stamp: &str, kind: SnapshotKind) -> Manifest {
        let moment: Stamp = stamp.parse().unwrap();
        let mut manifest = Manifest::new(self.header.clone(), moment, kind, moment.seconds() * 1_000_000 + 123_456);
        manifest.program = "written by hand".into();
        manifest
    }

    /// Ends the pack if anything is in it, and writes the files of a snapshot as they are given.
    pub fn commit(&mut self, stamp: &str, metadata: &str, manifest: &[u8]) {
        if !self.pack.pending.is_empty() {
            self.end_pack();
        }
        let directory = self.directory.join("repository/snapshots").join(stamp);
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("backup-metadata.json"), metadata).unwrap();
        fs::write(directory.join("manifest"), manifest).unwrap();
    }
}

/// What stands in `backup-metadata.json`.
pub fn metadata(manifest: &Manifest, stamp: &str, sources: &[Source]) -> String {
    let root = format!("/srv/backup/snapshots/{stamp}");
    let captured = |name: &str| manifest.source(name).filter(|source| source.is_captured());
    let place = |name: &str, directory: &str| {
        let file = sources.iter().find(|source| source.name == name).and_then(|source| source.items.first());
        let file = file.map(|(path, ..)| Path::new(&root).join(directory).join(path));
        let place = file.filter(|_| captured(name).is_some()).unwrap_or_default();
        place.display().to_string().trim_end_matches('/').to_owned()
    };
    let chroma = captured("chroma");
    let note = match chroma {
        Some(_) => "Chroma snapshot included: a copy of the whole directory",
        None => "Chroma hot backup is not included; it was not asked for",
    };
    let document = serde_json::json!({
        "created_at": manifest.stamp().unwrap().time().format("%Y-%m-%dT%H:%M:%S.123456+00:00").to_string(),
        "backup_root": root,
        "db_snapshot_path": place("db", "db"),
        "db_size_bytes": captured("db").map_or(0, |source| source.bytes),
        "registry_snapshot_path": place("registry", "config"),
        "chroma_snapshot_path": place("chroma", "chroma"),
        "chroma_snapshot_bytes": chroma.map_or(0, |source| source.bytes),
        "chroma_snapshot_files": chroma.map_or(0, |source| source.files),
        "chroma_snapshot_included": chroma.is_some(),
        "vector_store_note": note,
        "stamp": stamp,
        "format": "vecsnap",
        "format_version": 1,
        "kind": if manifest.kind == SnapshotKind::Ordinary { "ordinary" } else { "pre-restore" },
    });
    serde_json::to_string_pretty(&document).unwrap() + "\n"
}

/// What leads from one chunk to the next of the same length, by the places where they differ.
pub fn difference(before: &[u8], after: &[u8]) -> (Vec<Instruction>, Vec<u8>) {
    let mut code = Vec::new();
    let mut literals = Vec::new();
    let mut at = 0;
    while at < after.len() {
        let equal = before[at..].iter().zip(&after[at..]).take_while(|(old, new)| old == new).count();
        let different =
            before[at + equal..].iter().zip(&after[at + equal..]).take_while(|(old, new)| old != new).count();
        if equal > 0 {
            code.push(Instruction::CopyAlong { length: equal as u32 });
        }
        if different > 0 {
            code.push(Instruction::Literal { length: different as u32 });
            literals.extend_from_slice(&after[at + equal..at + equal + different]);
        }
        at += equal + different;
    }
    (code, literals)
}
