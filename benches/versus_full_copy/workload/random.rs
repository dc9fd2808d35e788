//! Numbers and words that look random and are the same in every run.

/// A SplitMix generator; good enough for made-up data and for nothing else.
#[derive(Debug)]
pub(super) struct Random(u64);

const LETTERS: [u8; 16] = *b"etaoinshrdlucmfw";
/// How many words the made-up language has.
const WORDS: u32 = 8_000;

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `limit`, which is not 0.
    pub(super) fn below(&mut self, limit: u32) -> u32 {
        (((self.next() >> 32) * u64::from(limit)) >> 32) as u32
    }

    /// About normally distributed, with mean 0 and deviation 1: the sum of four even ones.
    pub(super) fn normal(&mut self) -> f32 {
        let bits = self.next();
        let sum: f32 = [0, 16, 32, 48].iter().map(|shift| f32::from((bits >> shift) as u16)).sum();
        (sum / 65_536.0 - 2.0) * 1.732
    }

    /// Words, frequent ones more often than rare ones, as in any text.
    pub(super) fn text(&mut self) -> String {
        let mut text = String::new();
        for _ in 0..30 + self.below(60) {
            let even = f64::from(self.below(1 << 20) + 1) / f64::from(1_u32 << 20);
            let rank = (even.powf(-0.9) * 4.0) as u32 % WORDS;
            let mut letters = Self::new(u64::from(rank)).next();
            for _ in 0..2 + letters % 8 {
                letters = letters.rotate_right(5);
                text.push(char::from(LETTERS[(letters & 15) as usize]));
            }
            text.push(' ');
        }
        text
    }
}
