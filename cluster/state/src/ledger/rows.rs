//! Unit rows: 12 bytes each, in a table kept in the order of their hashes.
//!
//! ```text
//!   key  48 + 16   hash | seen bits
//!   tail 32        minute 21 | arm 5 | generation 5 | crossed 1      0 = no row (a minute is never 0)
//! ```

use super::ordered::{Ordered, Slot};

/// What the ledger knows of one exposed unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// Of the unit, 48 bits.
    pub hash: u64,
    /// One bit a proportion metric: the unit converted in its present arm.
    pub seen: u16,
    /// Of the present arm's first exposure, since the ledger's base; 1 or more.
    pub minute: u32,
    /// Present arm.
    pub arm: u8,
    /// Generation of the present arm's first exposure, 1 to 32.
    pub generation: u8,
    /// The unit was first seen in another arm.
    pub crossed: bool,
}

/// Largest minute a row can hold: four years.
pub const MAX_MINUTE: u32 = (1 << 21) - 1;
/// Bits of the unit hash a row keeps.
pub const HASH_BITS: u32 = 48;

/// A row as it is kept: three words, so that none is lost to alignment.
#[derive(Debug, Clone, Copy)]
struct Packed {
    high: u32,
    low: u32,
    tail: u32,
}

impl Slot for Packed {
    const EMPTY: Self = Self { high: 0, low: 0, tail: 0 };

    fn is_used(&self) -> bool {
        self.tail != 0
    }

    fn order(&self) -> u64 {
        (u64::from(self.high) << 16) | u64::from(self.low >> 16)
    }

    fn place(order: u64) -> u32 {
        (order >> (HASH_BITS - 32)) as u32
    }
}

/// A table of rows keyed by hash.
#[derive(Debug, Clone, Default)]
pub struct Rows(Ordered<Packed>);

impl Rows {
    /// Rows held.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Bytes of the table.
    pub fn bytes(&self) -> usize {
        self.0.bytes()
    }

    /// The row of a hash.
    pub fn get(&self, hash: u64) -> Option<Row> {
        self.0.get(hash).map(unpack)
    }

    /// Brings the row of a hash near the processor.
    pub fn touch(&self, hash: u64) {
        self.0.touch(hash);
    }

    /// The same of hashes that rise.
    pub fn touch_all(&self, hashes: impl DoubleEndedIterator<Item = u64> + ExactSizeIterator + Clone) {
        self.0.touch_all(hashes);
    }

    /// Brings what leads to the rows near the processor.
    pub fn reach(&self) {
        self.0.reach();
    }

    /// Writes a row, replacing one of the same hash.
    pub fn put(&mut self, row: Row) {
        self.0.put(pack(row));
    }

    /// Takes a row out.
    pub fn remove(&mut self, hash: u64) -> Option<Row> {
        self.0.remove(hash).map(|packed| unpack(&packed))
    }

    /// All rows by rising hash: the form that snapshots and digests use.
    pub fn iter(&self) -> impl Iterator<Item = Row> {
        self.0.iter().map(unpack)
    }

    /// Of rows that rise by hash; `None` when they do not.
    pub fn of(rows: &[Row]) -> Option<Self> {
        let rise = rows.windows(2).all(|pair| matches!(pair, [a, b] if a.hash < b.hash));
        let in_range = rows.last().is_none_or(|last| last.hash >> HASH_BITS == 0);
        (rise && in_range).then(|| Self(Ordered::of(rows.iter().map(|row| pack(*row)))))
    }
}

fn pack(row: Row) -> Packed {
    let key = (row.hash << 16) | u64::from(row.seen);
    let tail = (row.minute.clamp(1, MAX_MINUTE) << 11)
        | (u32::from(row.arm & 31) << 6)
        | ((u32::from(row.generation).wrapping_sub(1) & 31) << 1)
        | u32::from(row.crossed);
    Packed { high: (key >> 32) as u32, low: key as u32, tail }
}

fn unpack(packed: &Packed) -> Row {
    let tail = packed.tail;
    Row {
        hash: packed.order(),
        seen: packed.low as u16,
        minute: tail >> 11,
        arm: ((tail >> 6) & 31) as u8,
        generation: ((tail >> 1) & 31) as u8 + 1,
        crossed: tail & 1 == 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn row() -> impl Strategy<Value = Row> {
        (0u64..200, any::<u16>(), 1u32..=MAX_MINUTE, 0u8..32, 1u8..=32, any::<bool>()).prop_map(
            |(hash, seen, minute, arm, generation, crossed)| Row {
                // Few low bits, so that probes collide.
                hash: (hash << 40) | (hash % 7),
                seen,
                minute,
                arm,
                generation,
                crossed,
            },
        )
    }

    proptest! {
        #[test]
        fn the_table_equals_a_map(rows in proptest::collection::vec((row(), any::<u8>()), 0..400)) {
            let mut table = Rows::default();
            let mut model = BTreeMap::new();
            for (row, act) in rows {
                if act < 64 {
                    prop_assert_eq!(table.remove(row.hash), model.remove(&row.hash));
                    prop_assert_eq!(table.get(row.hash), None);
                    continue;
                }
                table.put(row);
                model.insert(row.hash, row);
                prop_assert_eq!(table.get(row.hash), Some(row));
            }
            prop_assert_eq!(table.len(), model.len());
            let sorted: Vec<Row> = model.values().copied().collect();
            prop_assert_eq!(table.iter().collect::<Vec<_>>(), sorted.clone());
            prop_assert_eq!(table.get(0xffff_ffff), None);
            prop_assert_eq!(Rows::of(&sorted).unwrap().iter().collect::<Vec<_>>(), sorted.clone());
            for row in sorted {
                prop_assert_eq!(table.remove(row.hash), Some(row));
            }
            prop_assert_eq!(table.len(), 0);
        }
    }
}
