//! One case for each decoder: mutate, seal again so that the inner decoder is reached, decode, and hold what is
//! promised of whatever is accepted.

use std::hint::black_box;

use vecsnap::format::compression::{self, Codec};
use vecsnap::format::envelope::{self, Kind};
use vecsnap::format::header::RepositoryDocument;
use vecsnap::format::intent::Intent;
use vecsnap::format::limits::{
    BLOB_BYTES, CHUNK_SIZE, FOOTER_BYTES, FRAME_BYTES, HEADER_BYTES, MANIFEST_BYTES, NODE_SLOTS, TABLE_ENTRY_BYTES,
};
use vecsnap::format::list_node::ListNode;
use vecsnap::format::manifest::Manifest;
use vecsnap::format::metadata::{SnapshotMetadata, is_vecsnap};
use vecsnap::format::pack::{self, END_BYTES, Footer, FooterPlace};
use vecsnap::format::table::{Entry, EntryDecoder, EntryKind};
use vecsnap::format::{delta, limits};
use vecsnap::id::{BlobId, PackId, RepositoryId, Stamp};

use super::corpus::Corpus;
use super::mutate::mutate;
use crate::support::random::Random;

/// Whether a decoder took its input.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    Accepted,
    Refused,
}

/// A decoder under attack.
pub(super) struct Decoder {
    pub(super) name: &'static str,
    /// Memory that it may take at most for one input, in bytes.
    pub(super) memory: usize,
    pub(super) case: fn(&Corpus, &mut Random) -> Answer,
}

/// All of them. What they may allocate follows from the limits of the format: the decoded payload, what is made of it,
/// and its bytes made anew for comparison.
pub(super) const DECODERS: [Decoder; 12] = [
    Decoder { name: "envelope", memory: 4 * MANIFEST_BYTES, case: envelope_case },
    Decoder { name: "header", memory: 1 << 20, case: header },
    Decoder { name: "manifest", memory: 6 * MANIFEST_BYTES, case: manifest },
    Decoder { name: "footer", memory: 3 * FOOTER_BYTES, case: footer },
    Decoder { name: "table", memory: 16 * TABLE_ENTRY_BYTES, case: table },
    Decoder { name: "list_node", memory: 8 * BLOB_BYTES, case: list_node },
    Decoder { name: "delta", memory: 16 * BLOB_BYTES, case: delta_case },
    Decoder { name: "frame", memory: 2 * FRAME_BYTES, case: frame },
    Decoder { name: "repository_json", memory: 1 << 20, case: repository_json },
    Decoder { name: "intent", memory: 1 << 20, case: intent },
    Decoder { name: "metadata", memory: 1 << 20, case: metadata },
    Decoder { name: "names", memory: 1 << 20, case: names },
];

fn answer<T, E>(outcome: &Result<T, E>) -> Answer {
    if outcome.is_ok() { Answer::Accepted } else { Answer::Refused }
}

fn mutated(from: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut bytes = random.pick(from).clone();
    mutate(&mut bytes, from, random);
    bytes
}

/// Seals a payload; mostly raw, which is quicker, and now and then hurts the envelope too, with or without a right
/// checksum.
fn sealed(kind: Kind, payload: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = envelope::seal(kind, payload, random.one_in(16).then_some(1));
    if random.one_in(16) {
        let others = [bytes.clone()];
        mutate(&mut bytes, &others, random);
        if random.one_in(2) {
            mend_checksum(&mut bytes);
        }
    }
    bytes
}

fn mend_checksum(bytes: &mut [u8]) {
    if let Some(end) = bytes.len().checked_sub(envelope::CHECKSUM_BYTES) {
        let checksum = *blake3::hash(&bytes[..end]).as_bytes();
        bytes[end..].copy_from_slice(&checksum);
    }
}

fn envelope_case(corpus: &Corpus, random: &mut Random) -> Answer {
    let mut bytes = mutated(&corpus.envelopes, random);
    if random.one_in(2) && bytes.len() >= 32 {
        let stored = bytes.len().saturating_sub(envelope::HEAD_BYTES + envelope::CHECKSUM_BYTES) as u64;
        bytes[24..32].copy_from_slice(&stored.to_le_bytes());
    }
    mend_checksum(&mut bytes);
    let opened = envelope::open(Kind::Manifest, &bytes, MANIFEST_BYTES);
    if let Ok(payload) = &opened {
        assert!(payload.len() <= MANIFEST_BYTES);
        let again = envelope::seal(Kind::Manifest, payload, None);
        assert!(envelope::open(Kind::Manifest, &again, MANIFEST_BYTES).as_ref() == Ok(payload));
    }
    answer(&opened)
}

fn header(corpus: &Corpus, random: &mut Random) -> Answer {
    let payload = mutated(&corpus.headers, random);
    let bytes = sealed(Kind::PackHeader, &payload, random);
    let decoded = pack::decode_header(&bytes);
    if let Ok(header) = &decoded {
        let again = pack::encode_header(header).unwrap();
        let payload = envelope::open_prefix(Kind::PackHeader, &bytes, HEADER_BYTES).unwrap().payload;
        assert!(envelope::open(Kind::PackHeader, &again, HEADER_BYTES) == Ok(payload), "not canonical");
    }
    answer(&decoded)
}

fn manifest(corpus: &Corpus, random: &mut Random) -> Answer {
    let payload = mutated(&corpus.manifests, random);
    let bytes = sealed(Kind::Manifest, &payload, random);
    let decoded = Manifest::decode(&bytes);
    if let Ok(manifest) = &decoded {
        let payload = envelope::open(Kind::Manifest, &bytes, MANIFEST_BYTES).unwrap();
        let again = envelope::open(Kind::Manifest, &manifest.encode().unwrap(), MANIFEST_BYTES);
        assert!(again == Ok(payload), "not canonical");
        for source in &manifest.sources {
            assert!(is_component(source.name.as_bytes()), "{:?}", source.name);
            assert!(source.table.length <= i64::MAX as u64 && source.started.nanoseconds < 1_000_000_000);
        }
    }
    answer(&decoded)
}

fn footer(corpus: &Corpus, random: &mut Random) -> Answer {
    let chosen = random.pick(&corpus.footers);
    let mut payload = chosen.payload.clone();
    let others = [random.pick(&corpus.footers).payload.clone()];
    mutate(&mut payload, &others, random);
    let bytes = sealed(Kind::PackFooter, &payload, random);
    let mut end = [chosen.offset.to_le_bytes(), (bytes.len() as u64).to_le_bytes(), *b"vecsnapE"].concat();
    if random.one_in(8) {
        mutate(&mut end, &others, random);
    }
    let pack_length = chosen.offset + bytes.len() as u64 + END_BYTES as u64;
    if let Ok(place) = FooterPlace::decode(&end, pack_length) {
        assert!(place.offset + place.length + END_BYTES as u64 == pack_length);
    }
    let decoded = Footer::decode(&bytes, chosen.offset);
    if let Ok(footer) = &decoded {
        let payload = envelope::open(Kind::PackFooter, &bytes, FOOTER_BYTES).unwrap();
        let again = footer.encode(chosen.offset).unwrap();
        let again = envelope::open(Kind::PackFooter, &again[..again.len() - END_BYTES], FOOTER_BYTES);
        assert!(again == Ok(payload), "not canonical");
        check_footer(footer, chosen.offset);
    }
    answer(&decoded)
}

/// What readers rely on (format-spec.md §6.6).
fn check_footer(footer: &Footer, end: u64) {
    assert!(footer.records.len() <= limits::PACK_RECORDS && footer.frames.len() <= limits::PACK_FRAMES);
    let mut stored_end = footer.frames.first().map_or(end, |frame| frame.offset);
    for (number, frame) in footer.frames.iter().enumerate() {
        assert!(frame.offset == stored_end && frame.codec().is_ok());
        stored_end += u64::from(frame.stored_length);
        let own = || footer.records.iter().filter(|record| record.frame as usize == number);
        let filled: u64 = own().map(|record| u64::from(record.payload_length)).sum();
        assert!(
            filled == u64::from(frame.raw_length)
                && filled <= FRAME_BYTES as u64
                && own().count() == frame.records as usize
        );
    }
    assert!(stored_end == end);
    assert!(footer.records.iter().all(|record| (1..=BLOB_BYTES as u32).contains(&record.length)));
}

fn table(corpus: &Corpus, random: &mut Random) -> Answer {
    let bytes = mutated(&corpus.tables, random);
    let step = if random.one_in(4) { 1 + random.below(50) } else { CHUNK_SIZE };
    let mut decoder = EntryDecoder::default();
    let mut again = Vec::with_capacity(bytes.len());
    let mut directories: Vec<Vec<u8>> = vec![Vec::new()];
    for piece in bytes.chunks(step) {
        decoder.feed(piece);
        loop {
            match decoder.take() {
                Ok(Some(entry)) => {
                    check_entry(&entry, &directories);
                    if entry.kind == EntryKind::Directory {
                        directories.push(entry.path.clone());
                    }
                    again.extend(entry.encode().unwrap());
                }
                Ok(None) => break,
                Err(_) => return Answer::Refused,
            }
        }
    }
    assert!(bytes.starts_with(&again), "not canonical");
    if decoder.finish().is_err() {
        return Answer::Refused;
    }
    assert!(again == bytes, "not canonical");
    Answer::Accepted
}

/// What a restore relies on: every path stays below the source, in directories that the table holds.
fn check_entry(entry: &Entry, directories: &[Vec<u8>]) {
    let path = &entry.path;
    if path.is_empty() {
        assert!(entry.kind == EntryKind::Directory);
    } else {
        assert!(path.split(|byte| *byte == b'/').all(is_component), "{}", path.escape_ascii());
        let parent = path.iter().rposition(|byte| *byte == b'/').map_or(&[][..], |slash| &path[..slash]);
        assert!(directories.iter().any(|directory| directory == parent), "{}", path.escape_ascii());
    }
    assert!(entry.mode <= 0o7777 && entry.modified.nanoseconds < 1_000_000_000);
    match &entry.kind {
        EntryKind::File(file) => {
            assert!(file.content.check().is_ok());
            let stats = [Some(file.stats.file), file.stats.wal, file.stats.journal];
            let times = stats.into_iter().flatten().flat_map(|stat| [stat.modified, stat.changed]);
            times.for_each(|time| assert!(time.nanoseconds < 1_000_000_000));
        }
        EntryKind::Symlink(target) => assert!(!target.is_empty() && target.len() <= 4096 && !target.contains(&0)),
        EntryKind::Directory => {}
    }
}

fn is_component(name: &[u8]) -> bool {
    (1..=255).contains(&name.len()) && name != b"." && name != b".." && !name.contains(&0) && !name.contains(&b'/')
}

fn list_node(corpus: &Corpus, random: &mut Random) -> Answer {
    let bytes = mutated(&corpus.nodes, random);
    let decoded = ListNode::decode(&bytes);
    if let Ok(node) = &decoded {
        assert!(node.encode().unwrap() == bytes, "not canonical");
        assert!((1..=7).contains(&node.depth) && (1..=NODE_SLOTS).contains(&node.slots.len()));
    }
    answer(&decoded)
}

fn delta_case(corpus: &Corpus, random: &mut Random) -> Answer {
    let payload = mutated(&corpus.deltas, random);
    let bases: Vec<Vec<u8>> = (0..random.below(4)).map(|_| vec![7; random.below(BLOB_BYTES + 1)]).collect();
    let bases: Vec<&[u8]> = bases.iter().map(Vec::as_slice).collect();
    let runs = delta::runs(&payload);
    let copies = delta::copies(&payload);
    assert!(runs.is_ok() == copies.is_ok());
    let total = runs.as_ref().map_or(0, |runs| runs.last().map_or(0, |run| run.end() as usize));
    let length = if random.one_in(8) { random.below(BLOB_BYTES + 2) } else { total };
    let applied = delta::apply(&payload, &bases, length);
    if let Ok(output) = &applied {
        assert!(output.len() == length && length <= BLOB_BYTES);
        let mut at = 0;
        for run in runs.expect("what can be applied can be followed") {
            assert!(run.at == at);
            at = run.end();
            let (start, end) = (run.at as usize, run.end() as usize);
            let from = match run.origin {
                delta::Origin::Payload(offset) => &payload[offset as usize..],
                delta::Origin::Base { base, offset } => &bases[base as usize][offset as usize..],
            };
            assert!(output[start..end] == from[..end - start], "two ways to follow a delta differ");
        }
        assert!(at as usize == length);
    }
    answer(&applied)
}

fn frame(corpus: &Corpus, random: &mut Random) -> Answer {
    let chosen = random.pick(&corpus.frames);
    let mut stored = chosen.stored.clone();
    let others = [random.pick(&corpus.frames).stored.clone()];
    mutate(&mut stored, &others, random);
    // What the frame states itself is what a hostile footer would declare.
    let stated = zstd::zstd_safe::get_frame_content_size(&stored).ok().flatten().unwrap_or(0);
    let declared = match random.below(4) {
        0 => chosen.raw_length,
        _ => usize::try_from(stated).unwrap_or(usize::MAX).min(FRAME_BYTES),
    };
    let codec = match random.below(20) {
        0 => Codec::Raw,
        1..10 => Codec::ZstdOfPlanes,
        _ => Codec::Zstd,
    };
    let decoded = compression::decompress(codec, &stored, declared);
    if let Ok(raw) = &decoded {
        assert!(raw.len() == declared);
    }
    answer(&decoded)
}

fn repository_json(corpus: &Corpus, random: &mut Random) -> Answer {
    let bytes = mutated(&corpus.documents, random);
    let parsed = RepositoryDocument::parse(&bytes);
    if let Ok(header) = &parsed {
        let again = serde_json::to_vec(&RepositoryDocument::new(header, String::new())).unwrap();
        assert!(RepositoryDocument::parse(&again).as_ref() == Ok(header));
    }
    answer(&parsed)
}

fn intent(corpus: &Corpus, random: &mut Random) -> Answer {
    let parsed = Intent::parse(&mutated(&corpus.intents, random));
    if let Ok(intent) = &parsed {
        assert!(Intent::parse(&serde_json::to_vec(intent).unwrap()).as_ref() == Ok(intent));
        black_box(intent.is_undo());
    }
    answer(&parsed)
}

fn metadata(corpus: &Corpus, random: &mut Random) -> Answer {
    let value = serde_json::from_slice::<serde_json::Value>(&mutated(&corpus.metadata, random));
    if let Ok(value) = &value {
        black_box(is_vecsnap(value));
        if let Ok(metadata) = serde_json::from_value::<SnapshotMetadata>(value.clone()) {
            let again = serde_json::from_value::<SnapshotMetadata>(serde_json::to_value(&metadata).unwrap());
            assert!(again.unwrap() == metadata);
        }
    }
    answer(&value)
}

fn names(corpus: &Corpus, random: &mut Random) -> Answer {
    let bytes = mutated(&corpus.names, random);
    let Ok(text) = std::str::from_utf8(&bytes) else { return Answer::Refused };
    let stamp = text.parse::<Stamp>();
    if let Ok(stamp) = &stamp {
        assert!(stamp.to_string() == text && Stamp::from_seconds(stamp.seconds()) == Some(*stamp));
        assert!(stamp.next() >= *stamp);
    }
    let ids = [
        text.parse::<BlobId>().map(|id| id.to_string()).ok(),
        text.parse::<PackId>().map(|id| id.to_string()).ok(),
        text.parse::<RepositoryId>().map(|id| id.to_string()).ok(),
    ];
    ids.iter().flatten().for_each(|id| assert!(id == text));
    if stamp.is_ok() || ids.iter().any(Option::is_some) { Answer::Accepted } else { Answer::Refused }
}
