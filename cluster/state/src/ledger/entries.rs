//! Sums: one i64 per (unit, arm) for one metric, kept only while it is not zero.

use super::ordered::{Ordered, Place, Slot};

/// A unit's sum may not pass this, so that its square stays far from the edge of an i128.
pub const MAX_SUM: i64 = 1 << 57;

/// A sum as it is kept.
#[derive(Debug, Clone, Copy)]
struct Packed {
    // hash 48 | 0000 0001 | arm; 0 = no entry
    key: u64,
    value: i64,
}

impl Slot for Packed {
    const EMPTY: Self = Self { key: 0, value: 0 };

    fn is_used(&self) -> bool {
        self.key != 0
    }

    fn order(&self) -> u64 {
        self.key
    }

    fn place(order: u64) -> u32 {
        (order >> 32) as u32
    }
}

/// Table from (unit hash, arm) to a sum, in their order.
#[derive(Debug, Clone, Default)]
pub struct Entries(Ordered<Packed>);

impl Entries {
    /// Sums held; none of them is zero.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Bytes of the table.
    pub fn bytes(&self) -> usize {
        self.0.bytes()
    }

    /// The sum; zero when there is none.
    pub fn get(&self, hash: u64, arm: u8) -> i64 {
        self.0.get(key(hash, arm)).map_or(0, |packed| packed.value)
    }

    /// Brings the unit's sums near the processor.
    pub fn touch(&self, hash: u64) {
        self.0.touch(key(hash, 0));
    }

    /// The same of units whose hashes rise.
    pub fn touch_all(&self, hashes: impl DoubleEndedIterator<Item = u64> + ExactSizeIterator + Clone) {
        self.0.touch_all(hashes.map(|hash| key(hash, 0)));
    }

    /// Brings what leads to the sums near the processor.
    pub fn reach(&self) {
        self.0.reach();
    }

    /// The sum, and its place for a [`Self::put_at`] that follows at once.
    pub fn find(&self, hash: u64, arm: u8) -> (i64, Place) {
        let place = self.0.find(key(hash, arm));
        (self.0.at(place).map_or(0, |packed| packed.value), place)
    }

    /// Writes a sum; zero takes it out.
    pub fn put(&mut self, hash: u64, arm: u8, value: i64) {
        self.put_at(self.0.find(key(hash, arm)), hash, arm, value);
    }

    /// As [`Self::put`], in the place just found.
    pub fn put_at(&mut self, place: Place, hash: u64, arm: u8, value: i64) {
        let key = key(hash, arm);
        if value == 0 {
            self.0.remove(key);
        } else {
            self.0.put_at(place, Packed { key, value });
        }
    }

    /// Takes a sum out; zero when there is none.
    pub fn remove(&mut self, hash: u64, arm: u8) -> i64 {
        self.0.remove(key(hash, arm)).map_or(0, |packed| packed.value)
    }

    /// All sums by rising (hash, arm).
    pub fn iter(&self) -> impl Iterator<Item = (u64, u8, i64)> {
        self.0.iter().map(|packed| (packed.key >> 16, (packed.key & 31) as u8, packed.value))
    }
}

fn key(hash: u64, arm: u8) -> u64 {
    (hash << 16) | (1 << 8) | u64::from(arm & 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn the_table_equals_a_map(
            writes in proptest::collection::vec((0u64..60, 0u8..32, -3i64..3), 0..500)
        ) {
            let mut table = Entries::default();
            let mut model = BTreeMap::new();
            for (hash, arm, value) in writes {
                let hash = (hash << 40) | (hash % 5);
                if value == -3 {
                    prop_assert_eq!(table.remove(hash, arm), model.remove(&(hash, arm)).unwrap_or(0));
                    continue;
                }
                table.put(hash, arm, value);
                model.insert((hash, arm), value);
                prop_assert_eq!(table.get(hash, arm), value);
            }
            let expected: Vec<_> =
                model.into_iter().filter(|(_, v)| *v != 0).map(|((h, a), v)| (h, a, v)).collect();
            prop_assert_eq!(table.len(), expected.len());
            prop_assert_eq!(table.iter().collect::<Vec<_>>(), expected);
        }
    }
}
