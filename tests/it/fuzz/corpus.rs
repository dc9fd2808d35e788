//! What is mutated: every structure of the golden repositories, decoded as far as its checksums go.

use std::fs;
use std::path::{Path, PathBuf};

use vecsnap::format::compression;
use vecsnap::format::content::Root;
use vecsnap::format::envelope::{self, Kind};
use vecsnap::format::limits::{FOOTER_BYTES, HEADER_BYTES, MANIFEST_BYTES};
use vecsnap::format::manifest::Manifest;
use vecsnap::format::pack::{BlobKind, Encoding};

use crate::support::damage::files_below;
use crate::support::packs::Pack;

/// Structures by kind, each at least once.
#[derive(Default)]
pub(super) struct Corpus {
    pub(super) documents: Vec<Vec<u8>>,
    pub(super) intents: Vec<Vec<u8>>,
    pub(super) metadata: Vec<Vec<u8>>,
    pub(super) envelopes: Vec<Vec<u8>>,
    pub(super) headers: Vec<Vec<u8>>,
    pub(super) manifests: Vec<Vec<u8>>,
    pub(super) footers: Vec<Footer>,
    pub(super) tables: Vec<Vec<u8>>,
    pub(super) nodes: Vec<Vec<u8>>,
    pub(super) deltas: Vec<Vec<u8>>,
    pub(super) frames: Vec<Frame>,
    pub(super) names: Vec<Vec<u8>>,
}

/// The payload of a footer, and where it begins in its pack.
pub(super) struct Footer {
    pub(super) payload: Vec<u8>,
    pub(super) offset: u64,
}

/// A compressed frame.
pub(super) struct Frame {
    pub(super) stored: Vec<u8>,
    pub(super) raw_length: usize,
}

impl Corpus {
    pub(super) fn read() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/v1");
        let mut corpus = Self::default();
        corpus.intents.push(INTENT.into());
        for name in ["20260406T180000Z", "00010101T000000Z", &"7369787465656e20".repeat(4), &"0f".repeat(16)] {
            corpus.names.push(name.into());
        }
        for fixture in fs::read_dir(root).unwrap() {
            corpus.repository(&fixture.unwrap().path().join("repository"));
        }
        corpus
    }

    fn repository(&mut self, repository: &Path) {
        self.documents.push(fs::read(repository.join("repository.json")).unwrap());
        let snapshots = files_below(&repository.join("snapshots"));
        let named = |name: &str| -> Vec<PathBuf> {
            snapshots.iter().filter(|path| path.file_name().unwrap() == name).cloned().collect()
        };
        self.metadata.extend(named("backup-metadata.json").iter().map(|path| fs::read(path).unwrap()));
        let mut tables = Vec::new();
        for path in named("manifest") {
            let bytes = fs::read(path).unwrap();
            let roots = Manifest::decode(&bytes).unwrap().sources.into_iter().map(|source| source.table.root);
            tables.extend(roots.filter_map(|root| if let Root::Chunk(id) = root { Some(id) } else { None }));
            self.manifests.push(envelope::open(Kind::Manifest, &bytes, MANIFEST_BYTES).unwrap());
            self.envelopes.push(bytes);
        }
        for pack in Pack::all(repository) {
            let bytes = fs::read(&pack.path).unwrap();
            self.headers.push(envelope::open_prefix(Kind::PackHeader, &bytes, HEADER_BYTES).unwrap().payload);
            let footer = &bytes[pack.footer_place.offset as usize..][..pack.footer_place.length as usize];
            let payload = envelope::open(Kind::PackFooter, footer, FOOTER_BYTES).unwrap();
            self.footers.push(Footer { payload, offset: pack.footer_place.offset });
            let raw: Vec<Vec<u8>> = pack
                .footer
                .frames
                .iter()
                .map(|frame| {
                    let stored = bytes[frame.offset as usize..][..frame.stored_length as usize].to_vec();
                    let raw_length = frame.raw_length as usize;
                    let raw = compression::decompress(frame.codec().unwrap(), &stored, raw_length).unwrap();
                    if stored.len() < 50_000 {
                        self.frames.push(Frame { stored, raw_length });
                    }
                    raw
                })
                .collect();
            for record in &pack.footer.records {
                let payload = &raw[record.frame as usize][record.offset as usize..][..record.payload_length as usize];
                match (&record.encoding, record.kind) {
                    (Encoding::Delta { .. }, _) => self.deltas.push(payload.to_vec()),
                    (Encoding::Whole, BlobKind::ListNode) => self.nodes.push(payload.to_vec()),
                    (Encoding::Whole, BlobKind::Chunk) if tables.contains(&record.id) => {
                        self.tables.push(payload.to_vec())
                    }
                    (Encoding::Whole, BlobKind::Chunk) => {}
                }
            }
        }
    }
}

const INTENT: &str = r#"{
  "format_version": 1,
  "stamp": "20260406T180000Z",
  "pre_restore_snapshot": "20260407T080000Z",
  "started_at": "2026-04-07T08:00:01.000000+00:00",
  "targets": [{ "source": "db", "path": "/srv/a.db", "path_hex": "2f7372762f612e6462" }]
}"#;
