//! Inputs that nobody meant, made from inputs that somebody did.

use rand::{Rng, RngCore as _, SeedableRng as _, seq::IndexedRandom as _};
use rand_pcg::Pcg64Mcg;

/// Longest input, in bytes: what is read is refused by its numbers long before it is this long, and longer ones take
/// time from others.
pub const INPUT_BYTES_MAX: usize = 64 * 1024;

/// Most changes of one input: the more there are, the less of it is read at all.
const CHANGES_MAX: u32 = 6;

/// Most times that a piece is repeated.
const COPIES_MAX: usize = 64;

/// Numbers at which arithmetic goes wrong, or a limit of the protocol is.
const EXTREMES: [u64; 14] = [
    0,
    1,
    0x7f,
    0xff,
    0x7fff,
    0xffff,
    0x10_0000,
    0x10_0001,
    0x40_0000,
    0x7fff_ffff,
    0xffff_ffff,
    0x1_0000_0000,
    0x7fff_ffff_ffff_ffff,
    0xffff_ffff_ffff_ffff,
];

/// What text formats, paths and terminals make something special of.
const WORDS: [&[u8]; 40] = [
    b"\n",
    b"\r\n",
    b"\t",
    b" ",
    b"\0",
    b"\"",
    b"'",
    b"\\",
    b"/",
    b"..",
    b".git",
    b"{",
    b"}",
    b"[",
    b"]",
    b"[[",
    b": ",
    b"- ",
    b"#",
    b"=",
    b"%",
    b",",
    b"&a ",
    b"*a",
    b"<<: *a",
    b"!!str ",
    b"---\n",
    b"| ",
    b"$(",
    b"-1",
    b"0x",
    b"1e309",
    b".nan",
    b"99999999999999999999",
    b"9223372036854775808",
    b"null",
    b"true",
    b"\x1b[31m",
    b"\xe2\x80\xae",
    b"\xff\xfe",
];

/// Makes inputs, always the same ones from the same seed.
#[derive(Debug)]
pub struct Mutator {
    random: Pcg64Mcg,
}

impl Mutator {
    /// One that draws from `seed`.
    pub fn new(seed: u64) -> Self {
        let random = Pcg64Mcg::seed_from_u64(seed);
        Self { random }
    }

    /// One of `corpus`, changed a few times; bytes at random where there is none.
    pub fn input(&mut self, corpus: &[Vec<u8>]) -> Vec<u8> {
        let mut input = corpus.choose(&mut self.random).cloned().unwrap_or_default();
        for _ in 0..self.random.random_range(1..=CHANGES_MAX) {
            self.change(&mut input, corpus);
        }
        input.truncate(INPUT_BYTES_MAX);
        input
    }

    fn change(&mut self, input: &mut Vec<u8>, corpus: &[Vec<u8>]) {
        if input.is_empty() {
            input.extend(self.noise());
            return;
        }
        let at = self.random.random_range(0..input.len());
        match self.random.random_range(0..11) {
            0 => input[at] ^= 1 << self.random.random_range(0..8),
            1 => input[at] = self.random.random(),
            2 => input.truncate(at),
            3 => self.overwrite_with_extreme(input, at),
            4 => {
                let number = self.varint();
                let end = (at + self.random.random_range(0..=number.len())).min(input.len());
                input.splice(at..end, number);
            }
            5 => {
                let piece = self.piece(input, at);
                input.drain(at..at + piece.len());
            }
            6 => self.repeat(input, at),
            7 => {
                let piece = self.piece(input, at);
                let to = self.random.random_range(0..=input.len());
                input.splice(to..to, piece);
            }
            8 => {
                let other = corpus.choose(&mut self.random).cloned();
                let other = other.unwrap_or_default();
                let from = self.random.random_range(0..=other.len());
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
            9 => {
                let noise = self.noise();
                input.splice(at..at, noise);
            }
            _ => {
                let word = *WORDS.choose(&mut self.random).expect("there are some");
                let end = match self.random.random() {
                    true => at,
                    false => (at + word.len()).min(input.len()),
                };
                input.splice(at..end, word.iter().copied());
            }
        }
    }

    /// A number where one of the same width may be, in the protocol's order of bytes.
    fn overwrite_with_extreme(&mut self, input: &mut [u8], at: usize) {
        let number = self.extreme().to_le_bytes();
        let width = 1 << self.random.random_range(0..4);
        for (to, byte) in input[at..].iter_mut().zip(&number[..width]) {
            *to = *byte;
        }
    }

    /// A number as the codec writes it: the byte that says how wide it is, and the number.
    fn varint(&mut self) -> Vec<u8> {
        let number = self.extreme().to_le_bytes();
        let (tag, width) = *[(251, 2), (252, 4), (253, 8)]
            .choose(&mut self.random)
            .expect("there are some");
        [&[tag], &number[..width]].concat()
    }

    fn repeat(&mut self, input: &mut Vec<u8>, at: usize) {
        let piece = self.piece(input, at);
        let room = INPUT_BYTES_MAX.saturating_sub(input.len()) / piece.len().max(1);
        let copies = self.random.random_range(1..=COPIES_MAX).min(room);
        input.splice(at..at, piece.repeat(copies));
    }

    /// What is at `at`: mostly a little.
    fn piece(&mut self, input: &[u8], at: usize) -> Vec<u8> {
        let most = input.len() - at;
        let length = match self.random.random_ratio(1, 4) {
            true => self.random.random_range(1..=most),
            false => self.random.random_range(1..=most.min(32)),
        };
        input[at..at + length].to_vec()
    }

    fn noise(&mut self) -> Vec<u8> {
        let mut noise = vec![0; self.random.random_range(1..=16)];
        self.random.fill_bytes(&mut noise);
        noise
    }

    fn extreme(&mut self) -> u64 {
        *EXTREMES.choose(&mut self.random).expect("there are some")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_makes_the_same_inputs_and_another_seed_others() {
        let corpus = [b"some text".to_vec(), vec![0; 100]];
        let inputs = |seed| {
            let mut mutator = Mutator::new(seed);
            (0..100).map(|_| mutator.input(&corpus)).collect::<Vec<_>>()
        };
        assert_eq!(inputs(1), inputs(1));
        assert_ne!(inputs(1), inputs(2));
    }

    #[test]
    fn inputs_stay_short_and_differ_from_what_they_are_made_of() {
        let corpus = [vec![7; INPUT_BYTES_MAX]];
        let mut mutator = Mutator::new(1);
        let mut changed = 0;
        for _ in 0..200 {
            let input = mutator.input(&corpus);
            assert!(input.len() <= INPUT_BYTES_MAX);
            changed += usize::from(input != corpus[0]);
        }
        assert!(changed > 100, "{changed}");
        assert!(!mutator.input(&[]).is_empty());
    }
}
