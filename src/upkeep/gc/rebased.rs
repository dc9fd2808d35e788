//! A delta record made anew on other bases; nothing is read or written here.
//!
//! What changed in place against the new first base is found again; where the old record copied from a base that is
//! still one, or has been replaced, the bytes that are equal there are copied again; the rest is literal. Invariant: a
//! record that leaves here has been applied to its bases, and the result hashed to the blob's id.

use std::sync::Arc;

use crate::chunk::delta::{Encoder, differences, pays};
use crate::format::delta::{CopiedRun, apply, copies};
use crate::format::limits::DELTA_BASES;
use crate::format::pack::{BaseDistance, BlobKind};
use crate::id::BlobId;
use crate::store::{DeltaRecord, RecordedDelta};

/// Shortest stretch that is copied.
const SHORT_COPY: usize = 32;

/// A base that a record may have.
#[derive(Debug, Clone)]
pub(super) struct RebasedOn {
    pub(super) id: BlobId,
    pub(super) bytes: Arc<[u8]>,
}

/// A blob to be recorded anew.
pub(super) struct Subject<'a> {
    pub(super) id: BlobId,
    pub(super) content: &'a [u8],
    /// The record so far.
    pub(super) old: &'a RecordedDelta,
}

/// The bases that the new record has so far.
struct Bases<'a> {
    offered: &'a [Option<RebasedOn>],
    used: Vec<&'a RebasedOn>,
}

impl<'a> Bases<'a> {
    /// The number in the new record of the base with this number in the old one.
    fn admit(&mut self, number: usize) -> Option<u32> {
        let base = self.offered.get(number)?.as_ref()?;
        if let Some(known) = self.used.iter().position(|used| used.id == base.id) {
            return Some(known as u32);
        }
        if self.used.len() >= DELTA_BASES {
            return None;
        }
        self.used.push(base);
        Some(self.used.len() as u32 - 1)
    }
}

/// The record of a chunk on these bases, which stand in for those of its old record by number; `None` where the chunk
/// had better be stored whole.
pub(super) fn encode(subject: &Subject<'_>, offered: &[Option<RebasedOn>]) -> Option<DeltaRecord> {
    let Subject { id, content, old } = subject;
    let mut bases = Bases { offered, used: Vec::new() };
    let first = bases.admit(0).and(bases.used.first().copied());
    let old_copies = copies(&old.payload).ok()?;
    let mut encoder = Encoder::default();
    for run in differences(first.map_or(&[], |base| &base.bytes), content) {
        let at = encoder.written();
        encoder.copy(0, at as u32, (run.start - at) as u32);
        for copy in old_copies.iter().filter(|copy| overlaps(copy, run.start, run.end())) {
            copy_equal(&mut encoder, content, &mut bases, &clipped(copy, run.start, run.end()));
        }
        encoder.literal(content.get(encoder.written()..run.end())?);
    }
    let at = encoder.written();
    encoder.copy(0, at as u32, (content.len() - at) as u32);
    let payload = encoder.finish();
    let bytes: Vec<&[u8]> = bases.used.iter().map(|base| &*base.bytes).collect();
    let proven = apply(&payload, &bytes, content.len()).is_ok_and(|made| BlobKind::Chunk.id_of(&made) == *id);
    let same_first = first.map(|base| base.id) == old.bases.first().copied();
    (proven && !bytes.is_empty() && pays(payload.len(), bytes.len(), content.len())).then(|| DeltaRecord {
        id: *id,
        length: content.len() as u32,
        payload,
        bases: bases.used.iter().map(|base| base.id.prefix()).collect(),
        distance: if same_first { old.distance } else { BaseDistance::One },
    })
}

/// The record of a chunk as it is; `None` if it does not lead to the chunk.
pub(super) fn copy(subject: &Subject<'_>, offered: &[Option<RebasedOn>]) -> Option<DeltaRecord> {
    let Subject { id, content, old } = subject;
    let bytes: Option<Vec<&[u8]>> = offered.iter().map(|base| base.as_ref().map(|base| &*base.bytes)).collect();
    let made = apply(&old.payload, &bytes?, content.len()).ok()?;
    (BlobKind::Chunk.id_of(&made) == *id).then(|| DeltaRecord {
        id: *id,
        length: content.len() as u32,
        payload: old.payload.clone(),
        bases: old.bases.iter().map(BlobId::prefix).collect(),
        distance: old.distance,
    })
}

fn overlaps(copy: &CopiedRun, start: usize, end: usize) -> bool {
    (copy.at as usize) < end && start < copy.at as usize + copy.length as usize
}

/// The part of a copy between two places of the result.
fn clipped(copy: &CopiedRun, start: usize, end: usize) -> CopiedRun {
    let skipped = (start as u32).saturating_sub(copy.at);
    let (at, stop) = (copy.at + skipped, (copy.at + copy.length).min(end as u32));
    CopiedRun { at, length: stop - at, base: copy.base, offset: copy.offset + skipped }
}

/// Copies the long stretches that are equal in the base that now has the copy's number.
fn copy_equal(encoder: &mut Encoder, content: &[u8], bases: &mut Bases<'_>, copy: &CopiedRun) {
    let number = copy.base as usize;
    let Some(base) = bases.offered.get(number).and_then(Option::as_ref) else { return };
    let (at, length, offset) = (copy.at as usize, copy.length as usize, copy.offset as usize);
    let there = base.bytes.get(offset..base.bytes.len().min(offset + length)).unwrap_or_default();
    let Some(here) = content.get(at..at + length) else { return };
    let mut equal_from = 0;
    let unequal = differences(there, here);
    for (stop, next) in unequal.iter().map(|run| (run.start, run.end())).chain([(length, length)]) {
        if stop - equal_from >= SHORT_COPY
            && let Some(literal) = content.get(encoder.written()..at + equal_from)
            && let Some(admitted) = bases.admit(number)
        {
            encoder.literal(literal);
            encoder.copy(admitted, (offset + equal_from) as u32, (stop - equal_from) as u32);
        }
        equal_from = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::delta::{Instruction, encode as encode_payload};
    use crate::upkeep::gc::tests::noise;

    fn base(bytes: &[u8]) -> Option<RebasedOn> {
        Some(RebasedOn { id: BlobId::of_chunk(bytes), bytes: bytes.into() })
    }

    /// A chunk whose middle 2,000 bytes were copied from a second base, and its record.
    fn moved() -> (Vec<u8>, Vec<u8>, Vec<u8>, RecordedDelta) {
        let (first, second) = (noise(1, 65_536), noise(2, 65_536));
        let content = [&first[..10_000], &second[500..2_500], &first[12_000..]].concat();
        let payload = encode_payload(
            &[
                Instruction::CopyAlong { length: 10_000 },
                Instruction::CopyFrom { length: 2_000, base: 1, offset: 500 },
                Instruction::CopyFrom { length: 53_536, base: 0, offset: 12_000 },
            ],
            &[],
        );
        let bases = vec![BlobId::of_chunk(&first), BlobId::of_chunk(&second)];
        (content, first, second, RecordedDelta { payload, bases, distance: BaseDistance::Stride })
    }

    #[test]
    fn copies_from_bases_that_stay_and_from_equal_bytes_of_others_are_kept() {
        let (content, first, mut second, old) = moved();
        let subject = Subject { id: BlobId::of_chunk(&content), content: &content, old: &old };
        let mut ancestor = first.clone();
        ancestor[40_000..40_010].copy_from_slice(b"otherwise!");
        let record = encode(&subject, &[base(&ancestor), base(&second)]).unwrap();
        assert!(record.payload.len() < 40, "{} bytes", record.payload.len());
        assert_eq!(record.distance, BaseDistance::One, "the first base is another one");
        assert_eq!(record.bases.len(), 2);
        second[1_500] ^= 1;
        let record = encode(&subject, &[base(&first), base(&second)]).unwrap();
        assert!(record.payload.len() < 40, "{} bytes", record.payload.len());
        assert_eq!(record.distance, BaseDistance::Stride);
        let record = encode(&subject, &[base(&ancestor), None]).unwrap();
        assert!((2_000..2_060).contains(&record.payload.len()), "{} bytes", record.payload.len());
        assert_eq!(record.bases, [BlobId::of_chunk(&ancestor).prefix()]);
    }

    #[test]
    fn what_shares_nothing_with_its_bases_is_stored_whole() {
        let (content, _, second, old) = moved();
        let subject = Subject { id: BlobId::of_chunk(&content), content: &content, old: &old };
        assert_eq!(encode(&subject, &[None, None]), None);
        assert_eq!(encode(&subject, &[base(&noise(3, 65_536)), base(&second)]), None);
    }

    #[test]
    fn a_record_is_copied_as_it_is_only_if_it_leads_to_the_chunk() {
        let (content, first, second, old) = moved();
        let subject = Subject { id: BlobId::of_chunk(&content), content: &content, old: &old };
        assert_eq!(copy(&subject, &[base(&first), base(&second)]).unwrap().payload, old.payload);
        assert_eq!(copy(&subject, &[base(&second), base(&first)]), None);
    }
}
