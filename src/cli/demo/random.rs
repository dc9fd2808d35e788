//! Numbers and words that look random and are the same in every run.

/// A xorshift generator (Marsaglia, 64 bits); good enough for made-up data and for nothing else.
pub(super) struct Random(u64);

/// How many words the made-up language has.
const WORDS: u64 = 4096;
const SYLLABLES: [&str; 16] =
    ["al", "be", "co", "da", "en", "fi", "go", "ha", "in", "ke", "lo", "mi", "no", "ra", "se", "tu"];

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `limit`, which is not 0.
    pub(super) fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 16) % limit
    }

    /// A member of the list, if it has any.
    pub(super) fn pick<T: Copy>(&mut self, list: &[T]) -> Option<T> {
        let length = u64::try_from(list.len()).ok().filter(|length| *length > 0)?;
        list.get(usize::try_from(self.below(length)).ok()?).copied()
    }

    /// A coordinate of a vector, between -1 and 1.
    pub(super) fn coordinate(&mut self) -> f32 {
        let bits = (self.next() >> 40) as f32;
        bits / f32::from(1_u16 << 15) / f32::from(1_u16 << 8) - 1.0
    }

    /// So many words, frequent ones more often than rare ones, as in any text.
    pub(super) fn text(&mut self, words: u64) -> String {
        let mut text = String::new();
        for _ in 0..words {
            let rank = self.below(WORDS) * self.below(WORDS) / WORDS;
            for syllable in [rank & 15, (rank >> 4) & 15, rank >> 8] {
                let index = usize::try_from(syllable).unwrap_or_default();
                text.push_str(SYLLABLES.get(index).copied().unwrap_or_default());
            }
            text.push(' ');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_words_and_another_gives_others() {
        let text = |seed| Random::new(seed).text(50);
        assert_eq!(text(1), text(1));
        assert_ne!(text(1), text(2));
        assert_eq!(text(1).split_whitespace().count(), 50);
    }

    #[test]
    fn coordinates_spread_over_both_signs() {
        let mut random = Random::new(3);
        let drawn: Vec<f32> = (0..1000).map(|_| random.coordinate()).collect();
        assert!(drawn.iter().all(|x| (-1.0..=1.0).contains(x)));
        assert!(drawn.iter().any(|x| *x < -0.8) && drawn.iter().any(|x| *x > 0.8));
    }
}
