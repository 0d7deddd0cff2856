//! MurmurHash3 x86_32 with seed 0, fed in pieces.
//!
//! The published `fractional` arithmetic hashes the flag's key followed by the targeting key. Feeding the two one
//! after the other gives the hash of their concatenation without building it; a compiled flag keeps the state after
//! its own key, so that an evaluation hashes only the unit.

const C1: u32 = 0xcc9e_2d51;
const C2: u32 = 0x1b87_3593;

/// The state between two pieces: the mixed words, and up to three bytes that do not fill a word yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Murmur3 {
    state: u32,
    tail: u32,
    tail_bits: u32,
    length: u32,
}

impl Murmur3 {
    /// The state before any byte, with seed 0.
    #[must_use]
    pub const fn new() -> Self {
        Self { state: 0, tail: 0, tail_bits: 0, length: 0 }
    }

    /// The state after `bytes`.
    #[must_use]
    pub fn with(mut self, mut bytes: &[u8]) -> Self {
        // The algorithm counts the length modulo 2^32.
        self.length = self.length.wrapping_add(bytes.len() as u32);
        while self.tail_bits != 0 {
            let Some((&byte, rest)) = bytes.split_first() else { return self };
            self.push(byte);
            bytes = rest;
        }
        let (words, rest) = bytes.as_chunks::<4>();
        for word in words {
            self.mix(u32::from_le_bytes(*word));
        }
        for &byte in rest {
            self.push(byte);
        }
        self
    }

    /// The hash of all bytes fed so far.
    #[must_use]
    pub fn finish(self) -> u32 {
        let mut hash = self.state;
        if self.tail_bits != 0 {
            hash ^= scramble(self.tail);
        }
        hash ^= self.length;
        hash ^= hash >> 16;
        hash = hash.wrapping_mul(0x85eb_ca6b);
        hash ^= hash >> 13;
        hash = hash.wrapping_mul(0xc2b2_ae35);
        hash ^ (hash >> 16)
    }

    fn push(&mut self, byte: u8) {
        self.tail |= u32::from(byte) << self.tail_bits;
        self.tail_bits += 8;
        if self.tail_bits == 32 {
            let word = self.tail;
            self.tail = 0;
            self.tail_bits = 0;
            self.mix(word);
        }
    }

    fn mix(&mut self, word: u32) {
        self.state ^= scramble(word);
        self.state = self.state.rotate_left(13).wrapping_mul(5).wrapping_add(0xe654_6b64);
    }
}

fn scramble(word: u32) -> u32 {
    word.wrapping_mul(C1).rotate_left(15).wrapping_mul(C2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_vectors_of_seed_0() {
        for (text, hash) in [
            ("", 0),
            ("test", 0xba6b_d213),
            ("Hello, world!", 0xc036_3e43),
            ("The quick brown fox jumps over the lazy dog", 0x2e4f_f723),
            ("abc", 0xb3dd_93fa),
            ("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", 0xee92_5b90),
        ] {
            assert_eq!(Murmur3::new().with(text.as_bytes()).finish(), hash, "{text}");
        }
        // A word of zeros is not nothing, and bytes above 127 are unsigned.
        assert_eq!(Murmur3::new().with(&[0; 4]).finish(), 0x2362_f9de);
        assert_eq!(Murmur3::new().with(&[0; 1]).finish(), 0x514e_28b7);
        assert_eq!(Murmur3::new().with(&[0xff; 4]).finish(), 0x7629_3b50);
        assert_eq!(Murmur3::new().with(&[0x21, 0x43, 0x65, 0x87]).finish(), 0xf55b_516b);
        assert_eq!(Murmur3::new().with(&[0x21, 0x43, 0x65]).finish(), 0x7e4a_8634);
    }

    /// By a second implementation, written apart from this one: the length counts beyond a byte.
    #[test]
    fn a_long_key() {
        assert_eq!(Murmur3::new().with(&[b'a'; 1_001]).finish(), 0xa48d_8425);
    }

    #[test]
    fn pieces_hash_as_their_concatenation_wherever_it_is_cut() {
        let bytes: Vec<u8> = (0..41u8).map(|n| n.wrapping_mul(73)).collect();
        for length in 0..=bytes.len() {
            let whole = Murmur3::new().with(&bytes[..length]).finish();
            for first in 0..=length {
                for second in first..=length {
                    let pieces = Murmur3::new()
                        .with(&bytes[..first])
                        .with(&bytes[first..second])
                        .with(&bytes[second..length]);
                    assert_eq!(pieces.finish(), whole, "{length} cut at {first} and {second}");
                }
            }
        }
    }
}
