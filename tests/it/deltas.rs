//! Deltas as properties: whatever is encoded comes back, and whatever is not a delta is an error within its declared
//! length.

use std::time::Duration;

use proptest::prelude::*;
use proptest::sample::Index;
use vecsnap::chunk::delta::{Encoder, differences};
use vecsnap::format::delta::{Instruction, apply, encode};
use vecsnap::format::limits::BLOB_BYTES;
use vecsnap::id::BlobId;
use vecsnap::store::{Access, BlobFault, BlobReader, LockWait, Repository};

use crate::support::handmade::HandmadeRepository;

/// One step in making a blob up.
#[derive(Debug, Clone)]
enum Step {
    Literal(Vec<u8>),
    /// Continue in the current base, if it goes on that far.
    Along(usize),
    From(Index, Index, usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        prop::collection::vec(any::<u8>(), 1..40).prop_map(Step::Literal),
        (1_usize..60).prop_map(Step::Along),
        (any::<Index>(), any::<Index>(), 1_usize..60)
            .prop_map(|(base, offset, length)| Step::From(base, offset, length)),
    ]
}

fn bases() -> impl Strategy<Value = Vec<Vec<u8>>> {
    prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..5)
}

/// A delta with what it must lead to, worked out without the program's own decoder.
#[derive(Debug, Clone)]
struct Delta {
    bases: Vec<Vec<u8>>,
    payload: Vec<u8>,
    content: Vec<u8>,
}

impl Delta {
    fn of(bases: Vec<Vec<u8>>, steps: &[Step]) -> Self {
        let (mut content, mut literals, mut code) = (Vec::new(), Vec::new(), Vec::new());
        // Where the base's next byte would be, as a distance from the end of the content.
        let (mut current, mut distance) = (0, 0_i64);
        for step in steps {
            match step {
                Step::Literal(bytes) => {
                    content.extend(bytes);
                    literals.extend(bytes);
                    code.push(Instruction::Literal { length: bytes.len() as u32 });
                }
                Step::Along(length) => {
                    let start = usize::try_from(content.len() as i64 + distance).ok();
                    let base: Option<&Vec<u8>> = bases.get(current);
                    let Some(bytes) = base.zip(start).and_then(|(base, at)| base.get(at..at + length)) else {
                        continue;
                    };
                    content.extend(bytes);
                    code.push(Instruction::CopyAlong { length: *length as u32 });
                }
                Step::From(base, offset, length) => {
                    if bases.is_empty() {
                        continue;
                    }
                    let number = base.index(bases.len());
                    let offset = offset.index(bases[number].len() + 1);
                    let Some(bytes) = bases[number].get(offset..offset + length) else { continue };
                    (current, distance) = (number, offset as i64 - content.len() as i64);
                    content.extend(bytes);
                    let (base, offset, length) = (number as u32, offset as u32, *length as u32);
                    code.push(Instruction::CopyFrom { length, base, offset });
                }
            }
        }
        Self { payload: encode(&code, &literals), bases, content }
    }

    fn apply(&self, payload: &[u8], length: usize) -> Option<Vec<u8>> {
        apply(payload, &self.bases.iter().map(Vec::as_slice).collect::<Vec<_>>(), length).ok()
    }
}

fn delta() -> impl Strategy<Value = Delta> {
    (bases(), prop::collection::vec(step(), 0..30)).prop_map(|(bases, steps)| Delta::of(bases, &steps))
}

/// A way to spoil a payload.
#[derive(Debug, Clone)]
enum Wound {
    Replace(Index, u8),
    Insert(Index, Vec<u8>),
    Remove(Index, usize),
    Truncate(Index),
}

fn wound() -> impl Strategy<Value = Wound> {
    prop_oneof![
        (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Wound::Replace(at, byte)),
        (any::<Index>(), prop::collection::vec(any::<u8>(), 1..8)).prop_map(|(at, bytes)| Wound::Insert(at, bytes)),
        (any::<Index>(), 1_usize..8).prop_map(|(at, length)| Wound::Remove(at, length)),
        any::<Index>().prop_map(Wound::Truncate),
    ]
}

fn wounded(mut payload: Vec<u8>, wounds: &[Wound]) -> Vec<u8> {
    for wound in wounds {
        let at = |index: &Index, payload: &[u8]| index.index(payload.len() + 1);
        match wound {
            Wound::Replace(index, byte) => {
                let at = at(index, &payload);
                payload.splice(at..(at + 1).min(payload.len()), [*byte]);
            }
            Wound::Insert(index, bytes) => {
                let at = at(index, &payload);
                payload.splice(at..at, bytes.iter().copied());
            }
            Wound::Remove(index, length) => {
                let at = at(index, &payload);
                payload.drain(at..(at + length).min(payload.len()));
            }
            Wound::Truncate(index) => payload.truncate(at(index, &payload)),
        }
    }
    payload
}

/// The blob as a delta in place against the base, as `create --effort fast` makes it.
fn encoded_in_place(base: &[u8], content: &[u8]) -> Vec<u8> {
    let mut encoder = Encoder::default();
    for run in differences(base, content) {
        let at = encoder.written();
        encoder.copy(0, at as u32, (run.start - at) as u32);
        encoder.literal(&content[run.start..run.end()]);
    }
    let at = encoder.written();
    encoder.copy(0, at as u32, (content.len() - at) as u32);
    encoder.finish()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn what_instructions_say_is_what_comes_back(delta in delta()) {
        prop_assert_eq!(delta.apply(&delta.payload, delta.content.len()), Some(delta.content.clone()));
        // Of no other length.
        prop_assert_eq!(delta.apply(&delta.payload, delta.content.len() + 1), None);
        if let Some(shorter) = delta.content.len().checked_sub(1) {
            prop_assert_eq!(delta.apply(&delta.payload, shorter), None);
        }
    }

    #[test]
    fn any_content_comes_back_from_its_difference_to_any_base(
        base in prop::collection::vec(any::<u8>(), 0..3000),
        unrelated in prop::collection::vec(any::<u8>(), 0..3000),
        edits in prop::collection::vec((any::<Index>(), prop::collection::vec(any::<u8>(), 1..50)), 0..8),
        length in 0_usize..4000,
    ) {
        let mut edited = base.clone();
        for (at, bytes) in &edits {
            let at = at.index(edited.len() + 1);
            edited.splice(at..(at + bytes.len() / 2).min(edited.len()), bytes.iter().copied());
        }
        let mut resized = base.clone();
        resized.resize(length, 9);
        for content in [unrelated, edited, resized, base.clone(), Vec::new()] {
            let payload = encoded_in_place(&base, &content);
            prop_assert_eq!(apply(&payload, &[&base], content.len()).unwrap(), content);
        }
    }

    #[test]
    fn a_spoilt_delta_is_an_error_or_has_its_declared_length(
        delta in delta(),
        wounds in prop::collection::vec(wound(), 1..6),
        length in 0_usize..3000,
    ) {
        let payload = wounded(delta.payload.clone(), &wounds);
        for declared in [delta.content.len(), length, BLOB_BYTES] {
            if let Some(bytes) = delta.apply(&payload, declared) {
                prop_assert_eq!(bytes.len(), declared);
            }
        }
        // Nothing is made room for that no blob may have.
        prop_assert_eq!(delta.apply(&payload, BLOB_BYTES + 1), None);
        prop_assert_eq!(delta.apply(&payload, usize::MAX), None);
    }

    #[test]
    fn arbitrary_bytes_are_an_error_or_have_their_declared_length(
        payload in prop::collection::vec(any::<u8>(), 0..300),
        bases in bases(),
        length in 0_usize..70_000,
    ) {
        let bases: Vec<&[u8]> = bases.iter().map(Vec::as_slice).collect();
        if let Ok(bytes) = apply(&payload, &bases, length) {
            prop_assert_eq!(bytes.len(), length);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn a_pack_with_spoilt_deltas_never_passes_for_the_blob(
        delta in delta().prop_filter("a blob has bytes", |delta| !delta.content.is_empty()),
        wounds in prop::collection::vec(wound(), 1..6),
    ) {
        let directory = tempfile::tempdir().unwrap();
        let mut made = HandmadeRepository::new(directory.path().join("made"));
        let bases: Vec<&[u8]> = delta.bases.iter().map(Vec::as_slice).filter(|base| !base.is_empty()).collect();
        for base in &bases {
            made.whole(vecsnap::format::pack::BlobKind::Chunk, base);
        }
        let payload = wounded(delta.payload.clone(), &wounds);
        prop_assume!(!payload.is_empty());
        let id = made.claimed_delta(&delta.content, &bases, payload);
        made.end_pack();
        let repository = Repository::open(&made.root(), Access::Read, LockWait(Duration::from_secs(5))).unwrap().unwrap();
        match BlobReader::new(&repository).chunk(&id).unwrap() {
            Ok(bytes) => prop_assert_eq!(BlobId::of_chunk(&bytes), id),
            Err(BlobFault::Corrupt(cause)) => prop_assert!(cause.contains(&id.to_string()), "{}", cause),
            Err(BlobFault::Missing) => prop_assert!(false, "it is recorded"),
        }
    }
}
