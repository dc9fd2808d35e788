//! Encoding a blob as a delta: what stayed at its place, what came from elsewhere, and literals: format-spec.md §9.
//!
//! Step 1, [`differences`], runs at the speed of memory: most content changes in place. What it leaves over may be
//! found elsewhere (`chunk::moved`). Invariant: what an [`Encoder`] was told, in order, is what its payload rebuilds.

use crate::format::delta::{self, Instruction};

/// Equal bytes between two differences that are not worth two instructions.
const MIN_EQUAL: usize = 8;
/// Fewer equal bytes than this between longer differences are chance: where all is different, a few bytes are equal
/// here and there, and copying them would tear up what may stand elsewhere in one piece.
const CHANCE: usize = 32;
/// Bytes compared at a time.
const BLOCK: usize = 64;

/// A run of bytes of a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// The first byte.
    pub start: usize,
    /// Its length in bytes, at least 1.
    pub length: usize,
}

impl Run {
    /// The first byte after it.
    pub fn end(&self) -> usize {
        self.start + self.length
    }
}

/// The runs of `new` that differ from `base` at equal offsets, ascending; short equal stretches between them count as
/// different.
pub fn differences(base: &[u8], new: &[u8]) -> Vec<Run> {
    let mut joined: Vec<Run> = Vec::new();
    for run in exact_differences(base, new) {
        match joined.last_mut() {
            Some(last) if run.start - last.end() < CHANCE.min(last.length).min(run.length) => {
                last.length = run.end() - last.start;
            }
            _ => joined.push(run),
        }
    }
    joined
}

fn exact_differences(base: &[u8], new: &[u8]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    let mut add = |start: usize, end: usize| match runs.last_mut() {
        Some(last) if start < last.end() + MIN_EQUAL => last.length = end - last.start,
        _ => runs.push(Run { start, length: end - start }),
    };
    let common = base.len().min(new.len());
    let blocks = base.chunks(BLOCK).zip(new.chunks(BLOCK));
    for (number, (old_block, new_block)) in blocks.enumerate().filter(|(_, (old, new))| old != new) {
        let bytes = old_block.iter().zip(new_block).enumerate().filter(|(_, (old, new))| old != new);
        for (offset, _) in bytes {
            let at = number * BLOCK + offset;
            add(at, at + 1);
        }
    }
    if common < new.len() {
        add(common, new.len());
    }
    runs
}

/// Writes the payload of a delta record from left to right.
#[derive(Debug, Default)]
pub struct Encoder {
    instructions: Vec<Instruction>,
    literals: Vec<u8>,
    written: u32,
    /// The base that copies continue in, and by how much it is displaced against the output.
    base: u32,
    displacement: i64,
}

impl Encoder {
    /// The next bytes are these.
    pub fn literal(&mut self, bytes: &[u8]) {
        let added = bytes.len() as u32;
        if added == 0 {
            return;
        }
        self.literals.extend_from_slice(bytes);
        self.written += added;
        match self.instructions.last_mut() {
            Some(Instruction::Literal { length }) => *length += added,
            _ => self.instructions.push(Instruction::Literal { length: added }),
        }
    }

    /// The next `added` bytes are those of base number `base` from `offset`.
    pub fn copy(&mut self, base: u32, offset: u32, added: u32) {
        if added == 0 {
            return;
        }
        let displacement = i64::from(offset) - i64::from(self.written);
        let along = (base, displacement) == (self.base, self.displacement);
        match self.instructions.last_mut() {
            Some(Instruction::CopyAlong { length } | Instruction::CopyFrom { length, .. }) if along => *length += added,
            _ if along => self.instructions.push(Instruction::CopyAlong { length: added }),
            _ => self.instructions.push(Instruction::CopyFrom { length: added, base, offset }),
        }
        (self.base, self.displacement) = (base, displacement);
        self.written += added;
    }

    /// Bytes written so far.
    pub fn written(&self) -> usize {
        self.written as usize
    }

    /// The payload.
    pub fn finish(self) -> Vec<u8> {
        delta::encode(&self.instructions, &self.literals)
    }
}

/// Whether a payload with this many bases is worth more than the whole blob: it must save a quarter.
pub fn pays(payload: usize, bases: usize, whole: usize) -> bool {
    (payload + bases * crate::id::BlobPrefix::LEN) * 4 < whole * 3
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encode_in_place(base: &[u8], new: &[u8]) -> Vec<u8> {
        let mut encoder = Encoder::default();
        for run in differences(base, new) {
            let at = encoder.written();
            encoder.copy(0, at as u32, (run.start - at) as u32);
            encoder.literal(&new[run.start..run.end()]);
        }
        let at = encoder.written();
        encoder.copy(0, at as u32, (new.len() - at) as u32);
        encoder.finish()
    }

    proptest! {
        #[test]
        fn what_changed_in_place_is_rebuilt(base in prop::collection::vec(0_u8..4, 0..600), edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..20), length in 0_usize..700) {
            let mut new = base.clone();
            new.resize(length, 7);
            for (at, value) in edits {
                if !new.is_empty() {
                    let at = at.index(new.len());
                    new[at] = value;
                }
            }
            let payload = encode_in_place(&base, &new);
            prop_assert_eq!(delta::apply(&payload, &[&base], new.len()).unwrap(), new);
        }

        #[test]
        fn copies_from_anywhere_and_literals_are_rebuilt(steps in prop::collection::vec((0_u32..3, 0_u32..90, 1_u32..10), 1..40)) {
            let bases: Vec<Vec<u8>> = (0..2).map(|base| (0..100).map(|n| n + 100 * base).collect()).collect();
            let (mut encoder, mut expected) = (Encoder::default(), Vec::new());
            for (kind, offset, length) in steps {
                let from = &bases[(kind % 2) as usize][offset as usize..(offset + length) as usize];
                expected.extend_from_slice(from);
                if kind == 2 { encoder.literal(from) } else { encoder.copy(kind, offset, length) }
            }
            let bases: Vec<&[u8]> = bases.iter().map(Vec::as_slice).collect();
            prop_assert_eq!(delta::apply(&encoder.finish(), &bases, expected.len()).unwrap(), expected);
        }
    }

    #[test]
    fn one_changed_byte_of_a_chunk_costs_a_few_bytes() {
        let base = vec![1; 65_536];
        let mut new = base.clone();
        new[40_000] = 2;
        let payload = encode_in_place(&base, &new);
        assert!(payload.len() <= 10, "{} bytes", payload.len());
        assert!(pays(payload.len(), 1, new.len()) && !pays(49_152, 0, 65_536));
    }

    #[test]
    fn a_few_equal_bytes_between_long_differences_are_chance() {
        let base = [0; 300];
        let mut new = [1; 300];
        new[100..120].fill(0);
        new[220..260].fill(0);
        assert_eq!(differences(&base, &new), [Run { start: 0, length: 220 }, Run { start: 260, length: 40 }]);
    }

    #[test]
    fn nearby_differences_are_one_run() {
        let base = [0; 200];
        let mut new = base;
        for at in [10, 17, 26, 199] {
            new[at] = 1;
        }
        let runs = [Run { start: 10, length: 8 }, Run { start: 26, length: 1 }, Run { start: 199, length: 1 }];
        assert_eq!(differences(&base, &new), runs);
    }
}
