//! Changing bytes the way that hurts decoders: numbers where counts and lengths stand, runs that vanish, come twice or
//! come from another input, names that lead out of a directory.

use crate::support::random::Random;

/// No input grows beyond this.
const LONGEST: usize = 300_000;

const NAMES: [&[u8]; 10] =
    [b"..", b"/etc/passwd", b"a\0b", b".", b"", b"a//b", b"../../x", b"vecsnapM", b"\xff\xfe", b"x/../y"];

/// Changes `bytes` in one to eight places; `others` gives the runs that come from elsewhere.
pub(super) fn mutate(bytes: &mut Vec<u8>, others: &[Vec<u8>], random: &mut Random) {
    let most = if random.one_in(3) { 8 } else { 2 };
    for _ in 0..=random.below(most) {
        once(bytes, others, random);
        bytes.truncate(LONGEST);
    }
}

fn once(bytes: &mut Vec<u8>, others: &[Vec<u8>], random: &mut Random) {
    match random.below(12) {
        0 => set(bytes, random, |_, random| vec![random.next() as u8]),
        1 => set(bytes, random, |old, random| vec![old[0] ^ (1 << random.below(8))]),
        2 | 3 => set(bytes, random, number::<4>),
        4 | 5 => set(bytes, random, number::<8>),
        6 => {
            let run = run(bytes, random, 64);
            bytes.drain(run);
        }
        7 => {
            let copied = bytes[run(bytes, random, 200)].to_vec();
            let at = random.below(bytes.len() + 1);
            bytes.splice(at..at, copied);
        }
        8 => {
            let other = random.pick(others);
            let taken = other[run(other, random, 400)].to_vec();
            let place = if random.one_in(2) { run(bytes, random, 400) } else { run(bytes, random, 1) };
            bytes.splice(place, taken);
        }
        9 => bytes.truncate(random.below(bytes.len() + 1)),
        10 => {
            let at = random.below(bytes.len() + 1);
            let byte = *random.pick(&[0, 1, 0x7f, 0x80, 0xff]);
            let count = 1 + random.below(40);
            bytes.splice(at..at, std::iter::repeat_n(byte, count));
        }
        _ => {
            let name = *random.pick(&NAMES);
            let at = random.below(bytes.len() + 1);
            let end = (at + name.len()).min(bytes.len());
            bytes.splice(at..end, name.iter().copied());
        }
    }
}

/// Puts other bytes in the place of those at a random place.
fn set(bytes: &mut [u8], random: &mut Random, new: impl FnOnce(&[u8], &mut Random) -> Vec<u8>) {
    if bytes.is_empty() {
        return;
    }
    let at = random.below(bytes.len());
    let new = new(&bytes[at..], random);
    bytes[at..].iter_mut().zip(new).for_each(|(byte, new)| *byte = new);
}

/// A number of N bytes that is likely to be a bound of something, or next to the one that stands there.
fn number<const N: usize>(old: &[u8], random: &mut Random) -> Vec<u8> {
    let mut stands = [0; 8];
    stands.iter_mut().zip(old.iter().take(N)).for_each(|(byte, old)| *byte = *old);
    let stands = u64::from_le_bytes(stands);
    let bounds =
        [0, 1, 2, 7, 64, 65, 127, 128, 255, 256, 4096, 4097, 65_535, 65_536, 65_537, 524_288, 524_289, 1 << 20];
    let great =
        [8 << 20, (8 << 20) + 1, 64 << 20, 256 << 20, 1 << 31, u64::from(u32::MAX), 1 << 40, i64::MAX as u64, u64::MAX];
    let new = match random.below(5) {
        0 => *random.pick(&bounds),
        1 => *random.pick(&great),
        2 => stands.wrapping_add(1),
        3 => stands.wrapping_sub(1),
        _ => stands.wrapping_add(random.next() % 300).wrapping_sub(150),
    };
    new.to_le_bytes()[..N].to_vec()
}

fn run(bytes: &[u8], random: &mut Random, longest: usize) -> std::ops::Range<usize> {
    let start = random.below(bytes.len() + 1);
    let length = random.below(longest).min(bytes.len() - start);
    start..start + length
}
