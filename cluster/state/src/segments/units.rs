//! A segment's list: the keyed hashes of its units, sorted, in shards by their first bits.
//!
//! ```text
//!   shards (a power of two) ── 00.. ─> [rising hashes]   what a change touches is copied, the rest is shared
//!                           ── 01.. ─> [rising hashes]   with State's copies and with what is published
//! ```
//!
//! A hash takes 8 bytes and its share of a shard's head. Hashes are evenly spread, so shards are about equally long; their
//! number follows the length of the list, and means nothing: two lists of equal hashes are equal.

use std::sync::Arc;

/// Hashes of a shard, before there are twice as many shards.
const SHARD_UNITS: u64 = 4_096;
/// Hashes of a shard, before there are half as many: far below the half, so that no number is set and taken back in turn.
const SHARD_UNITS_MIN: u64 = 1_024;
/// Hashes of one part at rest.
const PART_UNITS: u64 = 65_536;

/// A list as it is shared with readers: as many shards as a power of two, each rising, by the hashes' first bits.
pub type Shards = Arc<[Arc<[u64]>]>;

/// A segment's list. Cloning shares all of it.
#[derive(Debug, Clone)]
pub struct Units {
    shards: Shards,
    len: u64,
}

/// A list after a change, and what the change did.
#[derive(Debug)]
pub struct Changed {
    pub units: Units,
    pub added: u32,
    pub removed: u32,
}

impl Default for Units {
    fn default() -> Self {
        Self { shards: Arc::new([Arc::new([])]), len: 0 }
    }
}

impl PartialEq for Units {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.iter().eq(other.iter())
    }
}

impl Units {
    /// A list of these hashes, which rise.
    pub fn of(rising: &[u64]) -> Self {
        let len = rising.len() as u64;
        let bits = bits_for(len, 0);
        Self { shards: split(rising, bits), len }
    }

    /// Units on the list.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Shared with readers.
    pub fn shards(&self) -> Shards {
        Arc::clone(&self.shards)
    }

    /// All hashes, rising.
    pub fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        self.shards.iter().flat_map(|shard| shard.iter().copied())
    }

    /// The list with these added and those removed; both rise, and none is in both. Copies the shards that they touch.
    pub fn changed(&self, add: &[u64], remove: &[u64]) -> Changed {
        let bits = self.shards.len().trailing_zeros();
        let (mut add, mut remove) = (add, remove);
        let (mut added, mut removed) = (0u32, 0u32);
        let mut shards = Vec::with_capacity(self.shards.len());
        for (at, shard) in self.shards.iter().enumerate() {
            let (here, rest) = add.split_at(add.partition_point(|hash| shard_of(*hash, bits) <= at));
            let (gone, left) = remove.split_at(remove.partition_point(|hash| shard_of(*hash, bits) <= at));
            (add, remove) = (rest, left);
            if here.is_empty() && gone.is_empty() {
                shards.push(Arc::clone(shard));
                continue;
            }
            let merged = merge(shard, here, gone);
            added += merged.added;
            removed += merged.removed;
            let touched = merged.added > 0 || merged.removed > 0;
            shards.push(if touched { merged.hashes.into() } else { Arc::clone(shard) });
        }
        let len = self.len + u64::from(added) - u64::from(removed);
        let units = Self { shards: shards.into(), len };
        let wanted = bits_for(len, bits);
        let units = if wanted == bits {
            units
        } else {
            let rising: Vec<u64> = units.iter().collect();
            Self { shards: split(&rising, wanted), len }
        };
        Changed { units, added, removed }
    }

    /// The list at rest: parts by the hashes' first bits, as delta varints. Follows from the hashes alone.
    pub fn parts(&self) -> Vec<(usize, Vec<u8>)> {
        use prost::encoding::encode_varint;
        let mut bits = 0;
        while self.len >> bits > PART_UNITS {
            bits += 1;
        }
        let mut parts: Vec<(usize, Vec<u8>)> = Vec::new();
        let mut last = 0;
        for hash in self.iter() {
            let part = shard_of(hash, bits);
            match parts.last_mut() {
                Some((at, bytes)) if *at == part => encode_varint(hash - last, bytes),
                _ => {
                    let mut bytes = Vec::new();
                    encode_varint(hash, &mut bytes);
                    parts.push((part, bytes));
                }
            }
            last = hash;
        }
        parts
    }
}

/// The hashes of a part at rest; `None` when it is cut short or does not rise.
pub fn hashes_of(part: &[u8]) -> Option<Vec<u64>> {
    use prost::encoding::decode_varint;
    let mut bytes = part;
    let mut hashes: Vec<u64> = Vec::new();
    while !bytes.is_empty() {
        let delta = decode_varint(&mut bytes).ok()?;
        let hash = match hashes.last() {
            Some(_) if delta == 0 => return None,
            Some(last) => last.checked_add(delta)?,
            None => delta,
        };
        hashes.push(hash);
    }
    Some(hashes)
}

fn shard_of(hash: u64, bits: u32) -> usize {
    // At most 16 bits are asked for; no bits leave one shard.
    hash.checked_shr(64 - bits).map_or(0, |at| at as usize)
}

/// How many bits choose a shard, from how many do now.
fn bits_for(len: u64, now: u32) -> u32 {
    let mut bits = now;
    while len >> bits > SHARD_UNITS {
        bits += 1;
    }
    while bits > 0 && len >> bits < SHARD_UNITS_MIN {
        bits -= 1;
    }
    bits
}

fn split(rising: &[u64], bits: u32) -> Shards {
    let mut rest = rising;
    (0..1usize << bits)
        .map(|at| {
            let (here, more) = rest.split_at(rest.partition_point(|hash| shard_of(*hash, bits) <= at));
            rest = more;
            Arc::from(here)
        })
        .collect()
}

struct Merged {
    hashes: Vec<u64>,
    added: u32,
    removed: u32,
}

fn merge(held: &[u64], add: &[u64], remove: &[u64]) -> Merged {
    let mut hashes = Vec::with_capacity(held.len() + add.len());
    let (mut added, mut removed) = (0, 0);
    let (mut add, mut remove) = (add.iter().copied().peekable(), remove.iter().copied().peekable());
    for hash in held.iter().copied() {
        while let Some(new) = add.next_if(|new| *new < hash) {
            hashes.push(new);
            added += 1;
        }
        // Held already.
        while add.next_if_eq(&hash).is_some() {}
        while remove.next_if(|gone| *gone < hash).is_some() {}
        if remove.next_if_eq(&hash).is_some() {
            removed += 1;
        } else {
            hashes.push(hash);
        }
    }
    for new in add {
        hashes.push(new);
        added += 1;
    }
    Merged { hashes, added, removed }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::{btree_set, vec};
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// Spread over the whole space, and often equal.
    fn hashes() -> impl Strategy<Value = BTreeSet<u64>> {
        btree_set((0u64..300).prop_map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15)), 0..120)
    }

    proptest! {
        #[test]
        fn a_list_equals_a_set_and_reads_back_from_its_parts(changes in vec((hashes(), hashes()), 1..12)) {
            let (mut units, mut model) = (Units::default(), BTreeSet::new());
            for (add, remove) in changes {
                let add: Vec<u64> = add.difference(&remove).copied().collect();
                let remove: Vec<u64> = remove.iter().copied().collect();
                let before = model.len();
                model.extend(add.iter().copied());
                let grown = model.len();
                model.retain(|hash| remove.binary_search(hash).is_err());
                let changed = units.changed(&add, &remove);
                prop_assert_eq!(changed.added as usize, grown - before);
                prop_assert_eq!(changed.removed as usize, grown - model.len());
                units = changed.units;
                prop_assert!(units.iter().eq(model.iter().copied()));
                prop_assert_eq!(units.len() as usize, model.len());
            }
            let mut back = Vec::new();
            for (_, part) in units.parts() {
                back.extend(hashes_of(&part).unwrap());
            }
            prop_assert_eq!(Units::of(&back), units);
        }
    }

    #[test]
    fn shards_follow_the_length_there_and_back() {
        let rising: Vec<u64> = (0..100_000u64).map(|n| n << 47).collect();
        let mut units = Units::default();
        for chunk in rising.chunks(10_000) {
            units = units.changed(chunk, &[]).units;
        }
        assert_eq!((units.shards.len(), units.len()), (32, 100_000));
        assert!(units.shards.iter().all(|shard| shard.len() <= SHARD_UNITS as usize));
        assert_eq!(units.parts().len(), 2);
        // One unit copies one shard.
        let other = units.changed(&[3], &[]).units;
        let same = units.shards.iter().zip(other.shards.iter()).filter(|(a, b)| Arc::ptr_eq(a, b)).count();
        assert_eq!(same, 31);
        // What is there already copies none.
        let again = units.changed(&rising[..5_000], &[7]);
        assert_eq!((again.added, again.removed), (0, 0));
        assert!(units.shards.iter().zip(again.units.shards.iter()).all(|(a, b)| Arc::ptr_eq(a, b)));
        let few = units.changed(&[], &rising[10..]).units;
        assert_eq!((few.shards.len(), few.len()), (1, 10));
    }

    #[test]
    fn parts_that_are_cut_short_or_do_not_rise_are_refused() {
        assert_eq!(hashes_of(&[5, 1, 3]), Some(vec![5, 6, 9]));
        assert_eq!(hashes_of(&[5, 0]), None);
        assert_eq!(hashes_of(&[5, 0x80]), None);
        let overflow = [[0xff; 9].as_slice(), &[1, 1]].concat();
        assert_eq!(hashes_of(&overflow), None);
    }
}
