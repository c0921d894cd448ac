//! A growing set of chunk indexes, and the choice of the rarest of one.

use rand::Rng;

/// How many candidates one choice looks at. It makes a choice cost the same in a snapshot of 160,000
/// chunks as in one of 2,000, where it is a good part of all there is to choose from.
const SAMPLE: u32 = 256;

/// A set of chunk indexes. An index beyond what was ever inserted is not in it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Bitmap {
    words: Vec<u64>,
}

impl Bitmap {
    pub(crate) fn contains(&self, index: u32) -> bool {
        self.word(index / 64) & bit(index) != 0
    }

    /// Whether it was not there before.
    pub(crate) fn insert(&mut self, index: u32) -> bool {
        let word = (index / 64) as usize;
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        let fresh = self.words[word] & bit(index) == 0;
        self.words[word] |= bit(index);
        fresh
    }

    /// Whether it was there.
    pub(super) fn remove(&mut self, index: u32) -> bool {
        let present = self.contains(index);
        if present {
            self.words[(index / 64) as usize] &= !bit(index);
        }
        present
    }

    /// The 64 indexes from `64 * word` on.
    pub(super) fn word(&self, word: u32) -> u64 {
        self.words.get(word as usize).copied().unwrap_or(0)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        (0u32..)
            .zip(&self.words)
            .flat_map(|(word, &bits)| ones(word, bits))
    }
}

/// An index below `64 * words` of those set in `word`, the one with the least `holders` among
/// [`SAMPLE`] of them; equals are told apart at random.
pub(super) fn rarest(
    words: u32,
    word: impl Fn(u32) -> u64,
    holders: impl Fn(u32) -> u32,
    rng: &mut impl Rng,
) -> Option<u32> {
    if words == 0 {
        return None;
    }
    let start = rng.random_range(0..words);
    let salt: u32 = rng.random();
    let mut best: Option<((u32, u32), u32)> = None;
    let mut seen = 0;
    for position in (start..words).chain(0..start) {
        for index in ones(position, word(position)) {
            let key = (holders(index), (index ^ salt).wrapping_mul(0x9e37_79b1));
            if best.is_none_or(|(least, _)| key < least) {
                best = Some((key, index));
            }
            seen += 1;
        }
        if seen >= SAMPLE {
            break;
        }
    }
    best.map(|(_, index)| index)
}

fn bit(index: u32) -> u64 {
    1 << (index % 64)
}

fn ones(word: u32, mut bits: u64) -> impl Iterator<Item = u32> {
    std::iter::from_fn(move || {
        (bits != 0).then(|| {
            let index = word * 64 + bits.trailing_zeros();
            bits &= bits - 1;
            index
        })
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand_pcg::Pcg64Mcg;

    use super::*;

    proptest! {
        #[test]
        fn a_bitmap_is_a_set(steps in proptest::collection::vec((any::<bool>(), 0u32..300), 0..200)) {
            let mut bitmap = Bitmap::default();
            let mut set = BTreeSet::new();
            for (insert, index) in steps {
                if insert {
                    prop_assert_eq!(bitmap.insert(index), set.insert(index));
                } else {
                    prop_assert_eq!(bitmap.remove(index), set.remove(&index));
                }
                prop_assert!(bitmap.contains(index) == insert);
            }
            prop_assert!(bitmap.iter().eq(set.iter().copied()));
        }
    }

    #[test]
    fn the_rarest_is_chosen_and_equals_are_spread() {
        let mut bitmap = Bitmap::default();
        for index in 0..200 {
            bitmap.insert(index);
        }
        let mut rng = Pcg64Mcg::seed_from_u64(1);
        let mut chosen = BTreeSet::new();
        for _ in 0..200 {
            let holders = |index| u32::from(index % 10 != 3);
            let index = rarest(4, |word| bitmap.word(word), holders, &mut rng).unwrap();
            assert_eq!(index % 10, 3);
            chosen.insert(index);
        }
        assert_eq!(chosen.len(), 20);
    }
}
