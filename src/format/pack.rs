//! Packs: header, frames, footer, end: format-spec.md §6.
//!
//! A frame is one compressed run of record payloads; the footer says which records stand in which frame, and its id
//! table is what the index is rebuilt from. Invariant: a decoded [`Footer`] is consistent in itself: frames follow each
//! other without a gap up to the footer, and the records of each frame fill it.
//! Why columns: equal columns compress to almost nothing, so a record costs little more than its id.

use bincode::{Decode, Encode};

use super::Malformed;
use super::codec;
use super::compression::Codec;
use super::envelope::{self, Kind};
use super::header::RepositoryHeader;
use super::limits::{
    BLOB_BYTES, DELTA_BASES, FOOTER_BYTES, FRAME_BYTES, HEADER_BYTES, PACK_BYTES, PACK_FRAMES, PACK_RECORDS,
};
use crate::id::{BlobId, BlobPrefix};

/// Bytes at the very end of a pack.
pub const END_BYTES: usize = 24;
const END_MAGIC: &[u8; 8] = b"vecsnapE";
const FOOTER_LEVEL: i32 = 3;

/// Which namespace of ids a blob lives in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BlobKind {
    /// Bytes of a file or of a file table.
    Chunk,
    /// A list node.
    ListNode,
}

impl BlobKind {
    /// The id of a blob of this kind with this content.
    pub fn id_of(self, content: &[u8]) -> BlobId {
        match self {
            Self::Chunk => BlobId::of_chunk(content),
            Self::ListNode => BlobId::of_list_node(content),
        }
    }
}

/// How a record's payload leads to the blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Encoding {
    /// The payload is the blob.
    Whole,
    /// The payload is a delta: format-spec.md §9.
    Delta {
        /// Prefixes of the ids of the bases, in the order of their numbers.
        bases: Vec<BlobPrefix>,
        /// Whether the pack's own id table follows as one more base.
        id_table: bool,
        /// How far back the first base is; for writers.
        distance: BaseDistance,
    },
}

/// How many versions of a chunk lie between a delta and its first base: a hint for the chain policy of writers, without
/// meaning for readers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum BaseDistance {
    /// The first base is the version before, or nothing is known.
    #[default]
    One,
    /// The first base is 32 versions before, or stood elsewhere.
    Stride,
}

/// One record of a pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The blob it holds.
    pub id: BlobId,
    /// The namespace of the id.
    pub kind: BlobKind,
    /// Bytes of the blob.
    pub length: u32,
    /// Number of its frame in the pack.
    pub frame: u32,
    /// Where its payload begins in the decoded frame, in bytes.
    pub offset: u32,
    /// Bytes of its payload.
    pub payload_length: u32,
    /// How the payload leads to the blob.
    pub encoding: Encoding,
}

/// One frame of a pack.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Encode, Decode)]
pub struct Frame {
    /// Where its stored bytes begin in the pack.
    pub offset: u64,
    /// FooterColumns bytes.
    pub stored_length: u32,
    /// Decoded bytes.
    pub raw_length: u32,
    /// Records in it.
    pub records: u32,
    codec: u8,
    protection: u8,
}

impl Frame {
    /// A frame without protection.
    pub fn new(offset: u64, stored_length: u32, raw_length: u32, records: u32, codec: Codec) -> Self {
        Self { offset, stored_length, raw_length, records, codec: codec as u8, protection: 0 }
    }

    /// How its bytes are stored.
    ///
    /// # Errors
    /// [`Malformed::Invalid`] for a codec that this build does not know.
    pub fn codec(&self) -> Result<Codec, Malformed> {
        Codec::from_byte(self.codec)
    }
}

/// Reserved place of a parity section; absent in version 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
struct ParitySection {
    offset: u64,
    length: u64,
}

#[derive(Encode, Decode)]
struct FooterColumns {
    frames: Vec<Frame>,
    ids: Vec<BlobId>,
    flags: Vec<u8>,
    lengths: Vec<u32>,
    payload_lengths: Vec<u32>,
    base_counts: Vec<u8>,
    bases: Vec<BlobPrefix>,
    parity: Option<ParitySection>,
}

const FLAG_NODE: u8 = 1;
const FLAG_DELTA: u8 = 2;
const FLAG_ID_TABLE: u8 = 4;
const FLAG_STRIDE: u8 = 8;

/// What a pack holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Footer {
    /// The frames, ascending by offset.
    pub frames: Vec<Frame>,
    /// The records, in the order of frames and, within one, of payloads.
    pub records: Vec<Record>,
}

impl Footer {
    /// The bytes that follow the frames: the footer's envelope and the pack's end. `offset` is where they begin.
    ///
    /// # Errors
    /// [`Malformed::Limit`] if the pack would break a limit.
    pub fn encode(&self, offset: u64) -> Result<Vec<u8>, Malformed> {
        let mut stored = FooterColumns {
            frames: self.frames.clone(),
            ids: Vec::with_capacity(self.records.len()),
            flags: Vec::with_capacity(self.records.len()),
            lengths: Vec::with_capacity(self.records.len()),
            payload_lengths: Vec::with_capacity(self.records.len()),
            base_counts: Vec::new(),
            bases: Vec::new(),
            parity: None,
        };
        for record in &self.records {
            let mut flags = if record.kind == BlobKind::ListNode { FLAG_NODE } else { 0 };
            if let Encoding::Delta { bases, id_table, distance } = &record.encoding {
                flags |= FLAG_DELTA | if *id_table { FLAG_ID_TABLE } else { 0 };
                flags |= if *distance == BaseDistance::Stride { FLAG_STRIDE } else { 0 };
                stored.base_counts.push(bases.len() as u8);
                stored.bases.extend_from_slice(bases);
            }
            stored.ids.push(record.id);
            stored.flags.push(flags);
            stored.lengths.push(record.length);
            stored.payload_lengths.push(record.payload_length);
        }
        let payload = codec::encode(&stored)?;
        if payload.len() > FOOTER_BYTES {
            return Err(Malformed::Limit("footer"));
        }
        let mut bytes = envelope::seal(Kind::PackFooter, &payload, Some(FOOTER_LEVEL));
        let length = bytes.len() as u64;
        bytes.extend_from_slice(&offset.to_le_bytes());
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(END_MAGIC);
        Ok(bytes)
    }

    /// The footer in the envelope `bytes`, of a pack whose footer begins at `offset`.
    ///
    /// # Errors
    /// [`Malformed`] for anything inconsistent.
    pub fn decode(bytes: &[u8], offset: u64) -> Result<Self, Malformed> {
        let payload = envelope::open(Kind::PackFooter, bytes, FOOTER_BYTES)?;
        let stored: FooterColumns = codec::decode::<_, FOOTER_BYTES>(&payload)?;
        check_frames(&stored.frames, offset)?;
        if stored.parity.is_some() {
            return Err(Malformed::Feature("parity".into()));
        }
        let count = stored.ids.len();
        if count > PACK_RECORDS {
            return Err(Malformed::Limit("number of records"));
        }
        if [stored.flags.len(), stored.lengths.len(), stored.payload_lengths.len()] != [count; 3] {
            return Err(Malformed::invalid("its columns are not of one length"));
        }
        let records = place_records(&stored)?;
        Ok(Self { frames: stored.frames, records })
    }

    /// The pack's id table, as a delta may copy from it: all ids, one after the other.
    pub fn id_table(&self) -> Vec<u8> {
        self.records.iter().flat_map(|record| *record.id.as_bytes()).collect()
    }
}

/// Where a pack's footer stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FooterPlace {
    /// First byte of the envelope.
    pub offset: u64,
    /// Bytes of the envelope.
    pub length: u64,
}

impl FooterPlace {
    /// Reads the last [`END_BYTES`] of a pack of `pack_length` bytes.
    ///
    /// # Errors
    /// [`Malformed`] if they do not point at a footer that ends where they begin.
    pub fn decode(end: &[u8], pack_length: u64) -> Result<Self, Malformed> {
        let (offset, rest) = end.split_first_chunk::<8>().ok_or(Malformed::Truncated)?;
        let (length, magic) = rest.split_first_chunk::<8>().ok_or(Malformed::Truncated)?;
        if magic != END_MAGIC {
            return Err(Malformed::Magic);
        }
        let greatest = (envelope::HEAD_BYTES + FOOTER_BYTES + envelope::CHECKSUM_BYTES) as u64;
        let place = Self { offset: u64::from_le_bytes(*offset), length: u64::from_le_bytes(*length) };
        let expected = pack_length.checked_sub(END_BYTES as u64);
        if pack_length > PACK_BYTES || place.offset.checked_add(place.length) != expected {
            return Err(Malformed::invalid("its end does not point at its footer"));
        }
        if place.length > greatest {
            return Err(Malformed::Limit("footer"));
        }
        Ok(place)
    }
}

/// The bytes a pack begins with.
///
/// # Errors
/// [`Malformed::Limit`] if the header breaks a limit.
pub fn encode_header(header: &RepositoryHeader) -> Result<Vec<u8>, Malformed> {
    Ok(envelope::seal(Kind::PackHeader, &codec::encode(header)?, None))
}

/// The header at the start of a pack's first bytes.
///
/// # Errors
/// [`Malformed`], also for features that this build does not know.
pub fn decode_header(bytes: &[u8]) -> Result<RepositoryHeader, Malformed> {
    let opened = envelope::open_prefix(Kind::PackHeader, bytes, HEADER_BYTES)?;
    let header: RepositoryHeader = codec::decode::<_, HEADER_BYTES>(&opened.payload)?;
    header.check()?;
    Ok(header)
}

/// Refuses a pack, whose first bytes these are, if its frames do not begin where its header ends.
///
/// # Errors
/// [`Malformed`].
pub fn check_begin(bytes: &[u8], footer: &Footer, place: FooterPlace) -> Result<(), Malformed> {
    let header = envelope::open_prefix(Kind::PackHeader, bytes, HEADER_BYTES)?;
    let begin = footer.frames.first().map_or(place.offset, |frame| frame.offset);
    if begin == header.length as u64 {
        return Ok(());
    }
    Err(Malformed::invalid("its frames do not begin where its header ends"))
}

fn check_frames(frames: &[Frame], end: u64) -> Result<(), Malformed> {
    if frames.len() > PACK_FRAMES {
        return Err(Malformed::Limit("number of frames"));
    }
    let mut free = frames.first().map_or(end, |frame| frame.offset);
    for frame in frames {
        frame.codec()?;
        if frame.protection != 0 {
            return Err(Malformed::invalid("a frame has a protection that this build does not know"));
        }
        if frame.raw_length as usize > FRAME_BYTES || frame.stored_length as usize > FRAME_BYTES {
            return Err(Malformed::Limit("frame length"));
        }
        if frame.records == 0 {
            return Err(Malformed::invalid("a frame has no records"));
        }
        if frame.offset != free {
            return Err(Malformed::invalid("its frames do not follow each other without a gap"));
        }
        free = frame.offset.saturating_add(frame.stored_length.into());
    }
    if free == end { Ok(()) } else { Err(Malformed::invalid("its frames do not end where its footer begins")) }
}

fn place_records(stored: &FooterColumns) -> Result<Vec<Record>, Malformed> {
    let mut columns = stored.ids.iter().zip(&stored.flags).zip(stored.lengths.iter().zip(&stored.payload_lengths));
    let mut base_counts = stored.base_counts.iter();
    let mut bases = stored.bases.as_slice();
    let mut records = Vec::with_capacity(stored.ids.len());
    for (number, frame) in (0_u32..).zip(&stored.frames) {
        let mut offset = 0_u32;
        for _ in 0..frame.records {
            let ((id, flags), (&length, &payload_length)) =
                columns.next().ok_or_else(|| Malformed::invalid("its frames claim more records than it has"))?;
            let encoding = take_encoding(*flags, &mut base_counts, &mut bases)?;
            if length == 0 || payload_length == 0 {
                return Err(Malformed::invalid("a record is empty"));
            }
            if length as usize > BLOB_BYTES || (encoding == Encoding::Whole && length != payload_length) {
                return Err(Malformed::Limit("record length"));
            }
            let kind = if flags & FLAG_NODE == 0 { BlobKind::Chunk } else { BlobKind::ListNode };
            records.push(Record { id: *id, kind, length, frame: number, offset, payload_length, encoding });
            offset = offset
                .checked_add(payload_length)
                .filter(|&end| end <= frame.raw_length)
                .ok_or_else(|| Malformed::invalid("a record lies outside its frame"))?;
        }
        if offset != frame.raw_length {
            return Err(Malformed::invalid("a frame's records do not fill it"));
        }
    }
    if columns.next().is_some() || base_counts.next().is_some() || !bases.is_empty() {
        return Err(Malformed::invalid("it has records or bases that belong to no frame or record"));
    }
    Ok(records)
}

fn take_encoding(
    flags: u8,
    base_counts: &mut std::slice::Iter<'_, u8>,
    bases: &mut &[BlobPrefix],
) -> Result<Encoding, Malformed> {
    let only_of_deltas = FLAG_ID_TABLE | FLAG_STRIDE;
    if flags & !(FLAG_NODE | FLAG_DELTA | only_of_deltas) != 0
        || (flags & FLAG_DELTA == 0 && flags & only_of_deltas != 0)
    {
        return Err(Malformed::invalid("a record has flags that version 1 does not define"));
    }
    if flags & FLAG_DELTA == 0 {
        return Ok(Encoding::Whole);
    }
    let count = usize::from(*base_counts.next().ok_or_else(|| Malformed::invalid("a delta has no base count"))?);
    let (own, rest) = bases.split_at_checked(count).ok_or_else(|| Malformed::invalid("a delta lacks bases"))?;
    if count > DELTA_BASES {
        return Err(Malformed::Limit("number of bases"));
    }
    *bases = rest;
    let distance = if flags & FLAG_STRIDE == 0 { BaseDistance::One } else { BaseDistance::Stride };
    Ok(Encoding::Delta { bases: own.to_vec(), id_table: flags & FLAG_ID_TABLE != 0, distance })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn footer() -> Footer {
        let record = |number: u8, frame, offset, payload_length, encoding| Record {
            id: BlobId::of_chunk(&[number]),
            kind: if number == 2 { BlobKind::ListNode } else { BlobKind::Chunk },
            length: if encoding == Encoding::Whole { payload_length } else { 100 },
            frame,
            offset,
            payload_length,
            encoding,
        };
        let bases = vec![BlobId::of_chunk(b"a base").prefix(), BlobId::of_chunk(b"another").prefix()];
        Footer {
            frames: vec![Frame::new(100, 50, 70, 2, Codec::Zstd), Frame::new(150, 9, 9, 1, Codec::Raw)],
            records: vec![
                record(0, 0, 0, 60, Encoding::Whole),
                record(1, 0, 60, 10, Encoding::Delta { bases, id_table: true, distance: BaseDistance::One }),
                record(
                    2,
                    1,
                    0,
                    9,
                    Encoding::Delta { bases: Vec::new(), id_table: false, distance: BaseDistance::Stride },
                ),
            ],
        }
    }

    #[test]
    fn decodes_what_it_encodes_and_the_end_points_at_the_footer() {
        let footer = footer();
        let bytes = footer.encode(159).unwrap();
        let (envelope, end) = bytes.split_at(bytes.len() - END_BYTES);
        let place = FooterPlace::decode(end, 159 + bytes.len() as u64).unwrap();
        assert_eq!(place, FooterPlace { offset: 159, length: envelope.len() as u64 });
        assert_eq!(Footer::decode(envelope, 159).unwrap(), footer);
        assert!(FooterPlace::decode(end, 160 + bytes.len() as u64).is_err());
        assert!(Footer::decode(envelope, 158).is_err(), "a frame reaches into the footer");
    }

    #[test]
    fn inconsistent_footers_are_refused() {
        let broken: [fn(&mut Footer); 10] = [
            |footer| footer.frames[1].offset = 151,
            |footer| footer.frames[1].records = 0,
            |footer| footer.records[2].length = 0,
            |footer| footer.frames[1].offset = 149,
            |footer| footer.frames[0].records = 3,
            |footer| footer.frames[0].records = 1,
            |footer| footer.frames[0].raw_length = 71,
            |footer| footer.frames[0].codec = 9,
            |footer| footer.frames[0].protection = 1,
            |footer| footer.records[0].length = 61,
        ];
        for (number, breaks) in broken.iter().enumerate() {
            let mut footer = footer();
            breaks(&mut footer);
            let bytes = footer.encode(159).unwrap();
            assert!(Footer::decode(&bytes[..bytes.len() - END_BYTES], 159).is_err(), "case {number}");
        }
    }

    #[test]
    fn the_id_table_is_all_ids_in_order() {
        let table = footer().id_table();
        assert_eq!(table.len(), 96);
        assert_eq!(&table[32..64], BlobId::of_chunk(&[1]).as_bytes());
    }

    #[test]
    fn a_header_reads_back_from_the_start_of_a_pack() {
        let header = RepositoryHeader::new(crate::id::RepositoryId::from_bytes([3; 16]));
        let mut bytes = encode_header(&header).unwrap();
        bytes.extend_from_slice(b"frames follow");
        assert_eq!(decode_header(&bytes).unwrap(), header);
    }

    #[test]
    fn frames_begin_where_the_header_ends() {
        let header = RepositoryHeader::new(crate::id::RepositoryId::from_bytes([3; 16]));
        let bytes = encode_header(&header).unwrap();
        let end = bytes.len() as u64;
        for (gap, fits) in [(0, true), (1, false)] {
            let place = FooterPlace { offset: end + gap, length: 0 };
            assert_eq!(check_begin(&bytes, &Footer::default(), place).is_ok(), fits, "no frames");
            let frames = vec![Frame::new(end + gap, 9, 9, 1, Codec::Raw)];
            let footer = Footer { frames, records: Vec::new() };
            let place = FooterPlace { offset: end + gap + 9, length: 0 };
            assert_eq!(check_begin(&bytes, &footer, place).is_ok(), fits);
        }
    }
}
