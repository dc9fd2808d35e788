//! The payload of a delta record: instructions, then the literal bytes they use: format-spec.md §9.
//!
//! A delta rebuilds a blob from copies out of its bases and from literals. Most copies continue at the place where the
//! copy before them, moved along by what was written since, would stand: they need no offset.
//! Invariant: instructions never read outside a base nor write past the declared length; hostile input is an error.

use std::cmp::Ordering;

use super::Malformed;
use super::limits::BLOB_BYTES;

/// One step in rebuilding a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Instruction {
    /// The next `length` literal bytes.
    Literal {
        /// Bytes.
        length: u32,
    },
    /// `length` bytes from the current base, at the output position plus the current displacement.
    CopyAlong {
        /// Bytes.
        length: u32,
    },
    /// `length` bytes from base number `base` at `offset`; makes both current.
    CopyFrom {
        /// Bytes.
        length: u32,
        /// Number of the base in the record's list.
        base: u32,
        /// Offset in the base, in bytes.
        offset: u32,
    },
}

const TAG_LITERAL: u32 = 0;
const TAG_COPY_ALONG: u32 = 1;
const TAG_COPY_FROM: u32 = 2;
const LENGTH_LIMIT: u32 = BLOB_BYTES as u32;

/// The payload of a delta record with these instructions and literal bytes.
pub fn encode(instructions: &[Instruction], literals: &[u8]) -> Vec<u8> {
    let mut code = Vec::with_capacity(instructions.len() * 3);
    for instruction in instructions {
        match *instruction {
            Instruction::Literal { length } => push_number(&mut code, length << 2 | TAG_LITERAL),
            Instruction::CopyAlong { length } => push_number(&mut code, length << 2 | TAG_COPY_ALONG),
            Instruction::CopyFrom { length, base, offset } => {
                push_number(&mut code, length << 2 | TAG_COPY_FROM);
                push_number(&mut code, base);
                push_number(&mut code, offset);
            }
        }
    }
    let mut payload = Vec::with_capacity(code.len() + literals.len() + 3);
    push_number(&mut payload, code.len() as u32);
    payload.extend_from_slice(&code);
    payload.extend_from_slice(literals);
    payload
}

/// Rebuilds the blob of `length` bytes that `payload` makes of `bases`.
///
/// # Errors
/// [`Malformed`] for anything that does not yield exactly `length` bytes from bytes that exist.
pub fn apply(payload: &[u8], bases: &[&[u8]], length: usize) -> Result<Vec<u8>, Malformed> {
    if length > BLOB_BYTES {
        return Err(Malformed::Limit("blob length"));
    }
    let mut rest = payload;
    let code_length = take_number(&mut rest)? as usize;
    let (mut code, mut literals) = rest.split_at_checked(code_length).ok_or(Malformed::Truncated)?;
    let mut output = Vec::with_capacity(length);
    let mut current = CopyCursor { base: 0, displacement: 0 };
    while !code.is_empty() {
        let instruction = take_instruction(&mut code)?;
        let bytes = match instruction {
            Instruction::Literal { length } => {
                let (taken, left) = literals.split_at_checked(length as usize).ok_or(Malformed::Truncated)?;
                literals = left;
                taken
            }
            Instruction::CopyAlong { length } => current.read(bases, output.len(), length)?,
            Instruction::CopyFrom { length, base, offset } => {
                current = CopyCursor { base, displacement: i64::from(offset) - output.len() as i64 };
                current.read(bases, output.len(), length)?
            }
        };
        if output.len() + bytes.len() > length {
            return Err(Malformed::Limit("delta's output"));
        }
        output.extend_from_slice(bytes);
    }
    match (output.len() == length, literals.is_empty()) {
        (true, true) => Ok(output),
        (false, _) => Err(Malformed::Truncated),
        (true, false) => Err(Malformed::Trailing),
    }
}

/// A stretch of a delta's result that is copied from a base.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopiedRun {
    /// Where it begins in the result, in bytes.
    pub at: u32,
    /// Bytes.
    pub length: u32,
    /// Number of the base.
    pub base: u32,
    /// Where it begins in the base, in bytes.
    pub offset: u32,
}

/// Where a stretch of a delta's result comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// From this offset in the payload itself, in bytes.
    Payload(u32),
    /// From base number `base` at `offset`, in bytes.
    Base {
        /// Number of the base.
        base: u32,
        /// Where it begins in the base.
        offset: u32,
    },
}

/// A stretch of a delta's result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResultRun {
    /// Where it begins in the result, in bytes.
    pub at: u32,
    /// Bytes.
    pub length: u32,
    /// Where they come from.
    pub origin: Origin,
}

impl ResultRun {
    /// The first byte of the result behind it.
    pub fn end(&self) -> u32 {
        self.at + self.length
    }
}

/// The stretches that a payload's result consists of, without a gap. Whether the bases have such places is not known
/// here.
///
/// # Errors
/// [`Malformed`] for instructions that cannot be read, that lead beyond the longest blob, or that do not use exactly
/// the literals that are there.
pub fn runs(payload: &[u8]) -> Result<Vec<ResultRun>, Malformed> {
    let mut rest = payload;
    let code_length = take_number(&mut rest)? as usize;
    let (mut code, literals) = rest.split_at_checked(code_length).ok_or(Malformed::Truncated)?;
    let mut literal = payload.len() - literals.len();
    let (mut runs, mut written) = (Vec::new(), 0_u32);
    let mut current = CopyCursor { base: 0, displacement: 0 };
    while !code.is_empty() {
        let (length, origin) = match take_instruction(&mut code)? {
            Instruction::Literal { length } => {
                let offset = literal as u32;
                literal += length as usize;
                (length, Origin::Payload(offset))
            }
            Instruction::CopyAlong { length } => {
                let offset = u32::try_from(i64::from(written) + current.displacement)
                    .map_err(|_| Malformed::invalid("a copy reads outside its base"))?;
                (length, Origin::Base { base: current.base, offset })
            }
            Instruction::CopyFrom { length, base, offset } => {
                current = CopyCursor { base, displacement: i64::from(offset) - i64::from(written) };
                (length, Origin::Base { base, offset })
            }
        };
        runs.push(ResultRun { at: written, length, origin });
        written += length;
        if written > LENGTH_LIMIT {
            return Err(Malformed::Limit("delta's output"));
        }
    }
    match literal.cmp(&payload.len()) {
        Ordering::Less => Err(Malformed::Trailing),
        Ordering::Equal => Ok(runs),
        Ordering::Greater => Err(Malformed::Truncated),
    }
}

/// The copies of a payload, ascending by their places in the result.
///
/// # Errors
/// As [`runs`].
pub fn copies(payload: &[u8]) -> Result<Vec<CopiedRun>, Malformed> {
    let copied = |ResultRun { at, length, origin }| match origin {
        Origin::Payload(_) => None,
        Origin::Base { base, offset } => Some(CopiedRun { at, length, base, offset }),
    };
    Ok(runs(payload)?.into_iter().filter_map(copied).collect())
}

struct CopyCursor {
    base: u32,
    displacement: i64,
}

impl CopyCursor {
    fn read<'a>(&self, bases: &[&'a [u8]], written: usize, length: u32) -> Result<&'a [u8], Malformed> {
        let base = bases.get(self.base as usize).ok_or(Malformed::Limit("base number"))?;
        usize::try_from(written as i64 + self.displacement)
            .ok()
            .and_then(|start| base.get(start..start.checked_add(length as usize)?))
            .ok_or_else(|| Malformed::invalid("a copy reads outside its base"))
    }
}

fn take_instruction(code: &mut &[u8]) -> Result<Instruction, Malformed> {
    let number = take_number(code)?;
    let length = number >> 2;
    if length == 0 || length > LENGTH_LIMIT {
        return Err(Malformed::Limit("instruction's length"));
    }
    match number & 3 {
        TAG_LITERAL => Ok(Instruction::Literal { length }),
        TAG_COPY_ALONG => Ok(Instruction::CopyAlong { length }),
        TAG_COPY_FROM => Ok(Instruction::CopyFrom { length, base: take_number(code)?, offset: take_number(code)? }),
        _ => Err(Malformed::invalid("an instruction has the reserved tag 3")),
    }
}

/// Appends an unsigned LEB128 number: format-spec.md §2.4.
pub(super) fn push_number(bytes: &mut Vec<u8>, mut number: u32) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

/// Takes an unsigned LEB128 number of at most 32 bits in its shortest form.
fn take_number(bytes: &mut &[u8]) -> Result<u32, Malformed> {
    let mut number = 0_u32;
    for position in 0..5 {
        let (&byte, rest) = bytes.split_first().ok_or(Malformed::Truncated)?;
        *bytes = rest;
        let bits = u32::from(byte & 0x7f);
        if position == 4 && bits > 0x0f {
            break;
        }
        number |= bits << (7 * position);
        if byte & 0x80 == 0 {
            if byte == 0 && position > 0 {
                return Err(Malformed::invalid("a number is not in its shortest form"));
            }
            return Ok(number);
        }
    }
    Err(Malformed::Limit("number"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rebuilds_from_copies_along_copies_from_elsewhere_and_literals() {
        let bases: [&[u8]; 2] = [b"0123456789", b"abcdefghij"];
        let instructions = [
            Instruction::CopyAlong { length: 3 },
            Instruction::Literal { length: 2 },
            Instruction::CopyAlong { length: 2 },
            Instruction::CopyFrom { length: 3, base: 1, offset: 1 },
            Instruction::Literal { length: 1 },
            Instruction::CopyAlong { length: 2 },
        ];
        let payload = encode(&instructions, b"XYZ");
        assert_eq!(apply(&payload, &bases, 13).unwrap(), b"012XY56bcdZfg");
        let copy = |at, length, base, offset| CopiedRun { at, length, base, offset };
        let expected = [copy(0, 3, 0, 0), copy(5, 2, 0, 5), copy(7, 3, 1, 1), copy(11, 2, 1, 5)];
        assert_eq!(copies(&payload).unwrap(), expected);
    }

    #[test]
    fn numbers_take_their_shortest_form_and_32_bits() {
        for number in [0, 1, 127, 128, 16_383, 16_384, u32::MAX] {
            let mut bytes = Vec::new();
            push_number(&mut bytes, number);
            assert_eq!(take_number(&mut bytes.as_slice()), Ok(number));
        }
        assert!(take_number(&mut [0x80, 0x00].as_slice()).is_err());
        assert!(take_number(&mut [0xff, 0xff, 0xff, 0xff, 0x10].as_slice()).is_err());
        assert!(take_number(&mut [0x80; 6].as_slice()).is_err());
    }

    #[test]
    fn every_way_out_of_bounds_is_an_error() {
        let base: &[u8] = b"0123456789";
        for (instructions, literals, length) in [
            (vec![Instruction::CopyAlong { length: 11 }], &b""[..], 11),
            (vec![Instruction::CopyFrom { length: 1, base: 1, offset: 0 }], b"", 1),
            (vec![Instruction::CopyFrom { length: 1, base: 0, offset: 10 }], b"", 1),
            (vec![Instruction::Literal { length: 2 }], b"x", 2),
            (vec![Instruction::Literal { length: 1 }], b"xy", 1),
            (vec![Instruction::Literal { length: 2 }], b"xy", 1),
            (vec![Instruction::Literal { length: 1 }], b"x", 2),
            (vec![], b"", BLOB_BYTES + 1),
        ] {
            assert!(apply(&encode(&instructions, literals), &[base], length).is_err(), "{instructions:?}");
        }
    }

    proptest! {
        #[test]
        fn hostile_payloads_never_exceed_the_declared_length(payload in prop::collection::vec(any::<u8>(), 0..200), length in 0_usize..5000) {
            let base = vec![7; 3000];
            if let Ok(output) = apply(&payload, &[&base], length) {
                prop_assert_eq!(output.len(), length);
                prop_assert!(copies(&payload).is_ok());
            }
        }
    }
}
