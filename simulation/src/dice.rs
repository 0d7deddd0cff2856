//! The world's chance: one seed, and a named stream for every part that draws, so that a new draw in one part
//! does not change what another part does.

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// What a stream's state grows by before each draw.
pub const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// The draw that belongs to a state.
#[must_use]
pub const fn mix(state: u64) -> u64 {
    let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// A stream of draws (`SplitMix64`; Steele, Lea, Flood 2014).
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// The stream `name` of `seed`.
    #[must_use]
    pub fn new(seed: u64, name: &str) -> Self {
        Self(xxh3_64_with_seed(name.as_bytes(), seed))
    }

    /// 64 bits.
    pub const fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
        mix(self.0)
    }

    /// A whole number from `low` to `high`, both possible.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        let width = u128::from(high.saturating_sub(low)).saturating_add(1);
        // Fixed-point scaling; its bias over ranges this small is below any count of seeds.
        let scaled = u128::from(self.bits()).saturating_mul(width) >> 64;
        low.saturating_add(u64::try_from(scaled).unwrap_or(0))
    }

    /// True `percent` times of a hundred.
    pub fn percent(&mut self, percent: u64) -> bool {
        self.between(0, 99) < percent
    }

    /// One of the items; nothing of nothing.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        let last = u64::try_from(items.len()).ok()?.checked_sub(1)?;
        items.get(usize::try_from(self.between(0, last)).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_repeats_and_streams_differ() {
        let draw = |seed, name| {
            let mut dice = Dice::new(seed, name);
            (0..8).map(|_| dice.between(0, 1_000_000)).collect::<Vec<_>>()
        };
        assert_eq!(draw(1, "disk"), draw(1, "disk"));
        assert_ne!(draw(1, "disk"), draw(1, "faults"));
        assert_ne!(draw(1, "disk"), draw(2, "disk"));
    }

    #[test]
    fn a_range_reaches_both_ends_and_nothing_beyond() {
        let mut dice = Dice::new(7, "range");
        let drawn: std::collections::BTreeSet<u64> = (0..200).map(|_| dice.between(3, 6)).collect();
        assert_eq!(drawn.into_iter().collect::<Vec<_>>(), vec![3, 4, 5, 6]);
    }
}
