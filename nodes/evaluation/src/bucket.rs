//! A unit's bucket: the published `fractional` arithmetic, in either generation, with weights that sum to 10,000.
//!
//! The hash is stretched over the buckets by multiplication, not by remainder, so that every client that evaluates the
//! exported rule finds the same bucket.

use featureops_proto::v1::FractionalVersion;

use crate::logic::Generation;
use crate::murmur::Murmur3;

/// Buckets of a flag: one for each basis point.
pub const BUCKETS: u32 = 10_000;

/// The bucket of a unit, 0 to 9,999, given the state after the flag's key.
pub(crate) fn bucket_after(generation: Generation, seed: Murmur3, unit: &str) -> u16 {
    spread(generation.hash_of_unit(seed, unit))
}

/// The bucket of a unit under a flag's key, 0 to 9,999, by the second generation of `fractional`.
#[must_use]
pub fn bucket_of(flag_key: &str, unit: &str) -> u16 {
    bucket_of_version(FractionalVersion::FractionalVersion2, flag_key, unit)
}

/// The bucket of a unit under a flag's key, 0 to 9,999, by the environment's generation of `fractional`.
#[must_use]
pub fn bucket_of_version(version: FractionalVersion, flag_key: &str, unit: &str) -> u16 {
    let generation = Generation::of(version);
    bucket_after(generation, generation.seed(flag_key), unit)
}

pub(crate) fn spread(hash: u32) -> u16 {
    // Below 10,000 because the hash is below 2^32.
    ((u64::from(hash) * u64::from(BUCKETS)) >> 32) as u16
}

/// A stretch of buckets that are served alike; it ends before `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stretch {
    pub(crate) end: u16,
    /// A variant's index in a rule's split, an arm's in an allocation.
    pub(crate) target: u16,
}

/// What a bucket is served: the target of the first stretch that ends beyond it.
pub(crate) fn target_of(stretches: &[Stretch], bucket: u16) -> Option<u16> {
    let at = stretches.partition_point(|stretch| stretch.end <= bucket);
    stretches.get(at).map(|stretch| stretch.target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ends_of_the_hash_fall_into_the_ends_of_the_buckets() {
        assert_eq!(spread(0), 0);
        assert_eq!(spread(u32::MAX), 9_999);
        assert_eq!(spread(1 << 31), 5_000);
        assert_eq!(spread((1 << 31) - 1), 4_999);
    }

    /// What the published suite of the `fractional` operator (its second generation) expects: quarters and halves of
    /// any whole sum fall on the same hashes as quarters and halves of 10,000.
    #[test]
    fn the_published_fractional_expectations() {
        let suits = ["clubs", "diamonds", "hearts", "spades"];
        for (key, unit, suit) in [
            ("fractional-flag", "jack", "hearts"),
            ("fractional-flag", "queen", "spades"),
            ("fractional-flag", "ten", "clubs"),
            ("fractional-flag", "nine", "diamonds"),
            ("fractional-flag", "3", "clubs"),
            ("shared-seed", "seven", "hearts"),
            ("shared-seed", "eight", "diamonds"),
            ("shared-seed", "nine", "clubs"),
            ("shared-seed", "two", "spades"),
        ] {
            assert_eq!(suits[usize::from(bucket_of(key, unit) / 2_500)], suit, "{key} {unit}");
        }
        assert!(bucket_of("fractional-flag-shorthand", "jon@company.com") < 5_000);
        assert!(bucket_of("fractional-flag-shorthand", "jane@company.com") >= 5_000);
        // Units whose hashes are 0, 1, 2^31 - 1, 2^31 and 2^32 - 1.
        for (unit, bucket) in
            [("ejOoVL", 0), ("bY9fO-", 0), ("SI7p-", 4_999), ("6LvT0", 5_000), ("ceQdGm", 9_999)]
        {
            assert_eq!(bucket_of("", unit), bucket, "{unit}");
        }
    }

    #[test]
    fn a_bucket_belongs_to_the_first_stretch_that_ends_beyond_it() {
        let stretches =
            [(0, 7), (3_000, 0), (3_000, 9), (10_000, 1)].map(|(end, target)| Stretch { end, target });
        for (bucket, target) in [(0, 0), (2_999, 0), (3_000, 1), (9_999, 1)] {
            assert_eq!(target_of(&stretches, bucket), Some(target), "{bucket}");
        }
        assert_eq!(target_of(&[], 0), None);
    }

    /// 1,000,000 sequential and 1,000,000 uuid-like units: chi-square over 10,000 buckets, 9,999 degrees of freedom.
    #[test]
    fn units_spread_evenly_over_the_buckets() {
        // Mean 9,999 and standard deviation sqrt(2 * 9,999) = 141.4: beyond 5 of them would be p < 1e-6.
        let (low, high) = (9_999.0 - 5.0 * 141.4, 9_999.0 + 5.0 * 141.4);
        let shapes: [fn(u64) -> String; 2] = [
            |n| format!("user-{n}"),
            |n| {
                let a = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
                format!("{a:016x}-{:016x}", a.rotate_left(29).wrapping_mul(0xbf58_476d_1ce4_e5b9))
            },
        ];
        for (index, shape) in shapes.iter().enumerate() {
            let mut counts = vec![0u32; BUCKETS as usize];
            let units = 1_000_000;
            for n in 0..units {
                counts[usize::from(bucket_of("checkout", &shape(n)))] += 1;
            }
            let expected = units as f64 / f64::from(BUCKETS);
            let chi: f64 = counts.iter().map(|&n| (f64::from(n) - expected).powi(2) / expected).sum();
            assert!(low < chi && chi < high, "shape {index}: {chi}");
        }
    }
}
