//! Sums: one i64 per (unit, arm) for one metric, kept only when it is not zero.

/// A unit's sum may not pass this, so that its square stays far from the edge of an i128.
pub const MAX_SUM: i64 = 1 << 57;

/// Open-addressed table from (unit hash, arm) to a sum.
#[derive(Debug, Clone, Default)]
pub struct Entries {
    // hash 48 | 0000 0001 | arm; 0 = no entry
    keys: Vec<u64>,
    values: Vec<i64>,
    len: usize,
}

impl Entries {
    /// Places in use, among them sums that came back to zero.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Bytes of the table.
    pub fn bytes(&self) -> usize {
        self.keys.capacity() * 8 + self.values.capacity() * 8
    }

    /// The sum; zero when there is none.
    pub fn get(&self, hash: u64, arm: u8) -> i64 {
        self.find(key(hash, arm)).ok().and_then(|at| self.values.get(at)).copied().unwrap_or(0)
    }

    /// Writes a sum.
    pub fn put(&mut self, hash: u64, arm: u8, value: i64) {
        let key = key(hash, arm);
        let mut place = self.find(key);
        if place.is_err() {
            if value == 0 {
                return;
            }
            if (self.len + 1) * 5 > self.keys.len() * 4 {
                self.grow();
                place = self.find(key);
            }
            self.len += 1;
        }
        let (Ok(at) | Err(at)) = place;
        if let (Some(k), Some(v)) = (self.keys.get_mut(at), self.values.get_mut(at)) {
            *k = key;
            *v = value;
        }
    }

    /// Takes a sum out. Returns it; zero when there was none.
    pub fn remove(&mut self, hash: u64, arm: u8) -> i64 {
        let Ok(mut hole) = self.find(key(hash, arm)) else { return 0 };
        let sum = self.values.get(hole).copied().unwrap_or(0);
        let mask = self.keys.len().wrapping_sub(1);
        let mut at = hole;
        self.len -= 1;
        // As for rows: what a probe would pass the hole for moves up.
        loop {
            at = (at + 1) & mask;
            let (Some(key), Some(value)) = (self.keys.get(at).copied(), self.values.get(at).copied()) else {
                break;
            };
            if key == 0 {
                break;
            }
            let home = (key >> 16) as usize & mask;
            if at.wrapping_sub(home) & mask >= at.wrapping_sub(hole) & mask {
                if let (Some(k), Some(v)) = (self.keys.get_mut(hole), self.values.get_mut(hole)) {
                    *k = key;
                    *v = value;
                }
                hole = at;
            }
        }
        if let (Some(k), Some(v)) = (self.keys.get_mut(hole), self.values.get_mut(hole)) {
            *k = 0;
            *v = 0;
        }
        sum
    }

    /// All sums that are not zero, by rising (hash, arm).
    pub fn sorted(&self) -> Vec<(u64, u8, i64)> {
        let mut all: Vec<(u64, u8, i64)> = self
            .keys
            .iter()
            .zip(&self.values)
            .filter(|(key, value)| **key != 0 && **value != 0)
            .map(|(key, value)| (key >> 16, (key & 31) as u8, *value))
            .collect();
        all.sort_unstable();
        all
    }

    fn find(&self, key: u64) -> Result<usize, usize> {
        let mask = self.keys.len().wrapping_sub(1);
        let mut at = (key >> 16) as usize & mask;
        for _ in 0..self.keys.len() {
            match self.keys.get(at) {
                Some(0) | None => return Err(at),
                Some(found) if *found == key => return Ok(at),
                Some(_) => at = (at + 1) & mask,
            }
        }
        Err(at)
    }

    fn grow(&mut self) {
        let capacity = (self.keys.len() * 2).max(8);
        let keys = std::mem::replace(&mut self.keys, vec![0; capacity]);
        let values = std::mem::replace(&mut self.values, vec![0; capacity]);
        for (key, value) in keys.into_iter().zip(values) {
            if key != 0
                && let Err(at) = self.find(key)
                && let (Some(k), Some(v)) = (self.keys.get_mut(at), self.values.get_mut(at))
            {
                *k = key;
                *v = value;
            }
        }
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
                if value == 2 {
                    prop_assert_eq!(table.remove(hash, arm), model.remove(&(hash, arm)).unwrap_or(0));
                    prop_assert_eq!(table.get(hash, arm), 0);
                    continue;
                }
                table.put(hash, arm, value);
                model.insert((hash, arm), value);
                prop_assert_eq!(table.get(hash, arm), value);
            }
            let expected: Vec<_> =
                model.into_iter().filter(|(_, v)| *v != 0).map(|((h, a), v)| (h, a, v)).collect();
            prop_assert_eq!(table.sorted(), expected);
        }
    }
}
