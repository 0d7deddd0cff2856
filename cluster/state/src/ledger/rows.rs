//! Unit rows: 12 bytes each, open addressing with linear probing.
//!
//! ```text
//!   key  u64   hash 48 | seen bits 16
//!   tail u32   minute 21 | arm 5 | generation 5 | crossed 1      0 = no row (a minute is never 0)
//! ```

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

/// A table of rows keyed by hash.
#[derive(Debug, Clone, Default)]
pub struct Rows {
    keys: Vec<u64>,
    tails: Vec<u32>,
    len: usize,
}

impl Rows {
    /// Rows held.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Bytes of the table.
    pub fn bytes(&self) -> usize {
        self.keys.capacity() * 8 + self.tails.capacity() * 4
    }

    /// The row of a hash.
    pub fn get(&self, hash: u64) -> Option<Row> {
        let at = self.find(hash).ok()?;
        Some(unpack(*self.keys.get(at)?, *self.tails.get(at)?))
    }

    /// Writes a row, replacing one of the same hash.
    pub fn put(&mut self, row: Row) {
        if (self.len + 1) * 5 > self.keys.len() * 4 {
            self.grow();
        }
        let (key, tail) = pack(row);
        let (at, added) = match self.find(row.hash) {
            Ok(at) => (at, 0),
            Err(at) => (at, 1),
        };
        if let (Some(k), Some(t)) = (self.keys.get_mut(at), self.tails.get_mut(at)) {
            *k = key;
            *t = tail;
            self.len += added;
        }
    }

    /// Takes the row of a hash out.
    pub fn remove(&mut self, hash: u64) -> Option<Row> {
        let row = self.get(hash)?;
        let mut hole = self.find(hash).ok()?;
        let mask = self.keys.len().wrapping_sub(1);
        let mut at = hole;
        self.len -= 1;
        // Those behind it in the same run move up where their probe passed the hole; then no probe ends too early.
        loop {
            at = (at + 1) & mask;
            let (Some(key), Some(tail)) = (self.keys.get(at).copied(), self.tails.get(at).copied()) else {
                break;
            };
            if tail == 0 {
                break;
            }
            let home = (key >> 16) as usize & mask;
            if at.wrapping_sub(home) & mask >= at.wrapping_sub(hole) & mask {
                if let (Some(k), Some(t)) = (self.keys.get_mut(hole), self.tails.get_mut(hole)) {
                    *k = key;
                    *t = tail;
                }
                hole = at;
            }
        }
        if let (Some(k), Some(t)) = (self.keys.get_mut(hole), self.tails.get_mut(hole)) {
            *k = 0;
            *t = 0;
        }
        Some(row)
    }

    /// All rows by rising hash: the form that snapshots and digests use.
    pub fn sorted(&self) -> Vec<Row> {
        let mut rows: Vec<Row> = self
            .keys
            .iter()
            .zip(&self.tails)
            .filter(|(_, tail)| **tail != 0)
            .map(|(k, t)| unpack(*k, *t))
            .collect();
        rows.sort_unstable_by_key(|row| row.hash);
        rows
    }

    /// Where the hash's row is, or where it would go.
    fn find(&self, hash: u64) -> Result<usize, usize> {
        let mask = self.keys.len().wrapping_sub(1);
        let mut at = hash as usize & mask;
        // Load stays at or below 4/5, so an empty place ends every probe.
        for _ in 0..self.keys.len() {
            match (self.keys.get(at), self.tails.get(at)) {
                (Some(_), Some(0)) | (None, _) | (_, None) => return Err(at),
                (Some(key), Some(_)) if key >> 16 == hash => return Ok(at),
                _ => at = (at + 1) & mask,
            }
        }
        Err(at)
    }

    fn grow(&mut self) {
        let capacity = (self.keys.len() * 2).max(8);
        let keys = std::mem::replace(&mut self.keys, vec![0; capacity]);
        let tails = std::mem::replace(&mut self.tails, vec![0; capacity]);
        for (key, tail) in keys.into_iter().zip(tails) {
            if tail != 0
                && let Err(at) = self.find(key >> 16)
                && let (Some(k), Some(t)) = (self.keys.get_mut(at), self.tails.get_mut(at))
            {
                *k = key;
                *t = tail;
            }
        }
    }
}

fn pack(row: Row) -> (u64, u32) {
    let tail = (row.minute.clamp(1, MAX_MINUTE) << 11)
        | (u32::from(row.arm & 31) << 6)
        | ((u32::from(row.generation).wrapping_sub(1) & 31) << 1)
        | u32::from(row.crossed);
    ((row.hash << 16) | u64::from(row.seen), tail)
}

fn unpack(key: u64, tail: u32) -> Row {
    Row {
        hash: key >> 16,
        seen: key as u16,
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
            prop_assert_eq!(table.sorted(), model.values().copied().collect::<Vec<_>>());
            prop_assert_eq!(table.get(0xffff_ffff), None);
        }
    }
}
