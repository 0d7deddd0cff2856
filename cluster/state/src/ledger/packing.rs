//! Rows at rest, bit by bit: what a large shard's part of a snapshot holds.
//!
//! ```text
//!   header   rows, Rice parameter k, least minute, bits of a minute, kinds: the distinct (seen, arm, generation, crossed)
//!   a row    hash less the one before, less 1: quotient by 2^k in ones and a zero, then k bits | minute | number of its kind
//! ```
//!
//! Hashes are uniform, so their gaps are geometric and the Rice code (Golomb 1966; Rice 1979) is within .6 bits of the entropy:
//! at a million units 37.7 bits a gap, where whole bytes take 48. A row takes 6.9 bytes there instead of 11. All gaps
//! together are below 2^48, so however the hashes lie, the ones are at most two a row.

use prost::encoding::{decode_varint, encode_varint};

use super::rows::{HASH_BITS, MAX_MINUTE, Row};

/// Rows from which a shard is packed; smaller ones stay as earlier releases wrote them.
pub const PACKED_FROM: usize = 256;

/// Packs rows that rise by hash.
pub fn pack(rows: &[Row]) -> Vec<u8> {
    let mut kinds: Vec<u32> = rows.iter().map(kind_of).collect();
    kinds.sort_unstable();
    kinds.dedup();
    let least = rows.iter().map(|row| row.minute).min().unwrap_or(0);
    let most = rows.iter().map(|row| row.minute).max().unwrap_or(0);
    let rice = HASH_BITS.saturating_sub(bits_for(rows.len() as u64)).max(1);
    let (minute_bits, kind_bits) = (bits_for(u64::from(most - least)), index_bits(kinds.len()));
    let mut bytes = Vec::with_capacity(rows.len() * 7 + 64);
    for value in [rows.len() as u64, u64::from(rice), u64::from(least), u64::from(minute_bits)] {
        encode_varint(value, &mut bytes);
    }
    encode_varint(kinds.len() as u64, &mut bytes);
    for kind in &kinds {
        encode_varint(u64::from(*kind), &mut bytes);
    }
    let mut bits = Writer { bytes, word: 0, held: 0 };
    let mut next = 0;
    for row in rows {
        let gap = row.hash - next;
        next = row.hash + 1;
        for _ in 0..gap >> rice {
            bits.put(1, 1);
        }
        bits.put(0, 1);
        bits.put(gap & ((1 << rice) - 1), rice);
        bits.put(u64::from(row.minute - least), minute_bits);
        let kind = kinds.binary_search(&kind_of(row)).unwrap_or_default();
        bits.put(kind as u64, kind_bits);
    }
    bits.finish()
}

/// Reads them back; `None` when the bytes are cut short or say what no row can be.
pub fn unpack(mut bytes: &[u8]) -> Option<Vec<Row>> {
    let count = usize::try_from(decode_varint(&mut bytes).ok()?).ok()?;
    let rice = u32::try_from(decode_varint(&mut bytes).ok()?).ok()?;
    let least = u32::try_from(decode_varint(&mut bytes).ok()?).ok()?;
    let minute_bits = u32::try_from(decode_varint(&mut bytes).ok()?).ok()?;
    let kind_count = usize::try_from(decode_varint(&mut bytes).ok()?).ok()?;
    let sane = (1..HASH_BITS).contains(&rice) && minute_bits <= 21 && least <= MAX_MINUTE;
    // A row takes at least its k bits, and a kind a byte.
    if !sane || kind_count > bytes.len() || count.checked_mul(rice as usize)? > bytes.len().checked_mul(8)? {
        return None;
    }
    let mut kinds = Vec::with_capacity(kind_count);
    for _ in 0..kind_count {
        kinds.push(u32::try_from(decode_varint(&mut bytes).ok()?).ok()?);
    }
    let kind_bits = index_bits(kinds.len());
    let mut bits = Reader { bytes, word: 0, held: 0 };
    let mut rows = Vec::with_capacity(count);
    let mut next = 0u64;
    for _ in 0..count {
        let mut quotient = 0u64;
        while bits.take(1)? == 1 {
            quotient += 1;
        }
        let gap = quotient.checked_mul(1 << rice)?.checked_add(bits.take(rice)?)?;
        let hash = next.checked_add(gap).filter(|hash| hash >> HASH_BITS == 0)?;
        next = hash + 1;
        let minute = least + bits.take(minute_bits)? as u32;
        let kind = *kinds.get(usize::try_from(bits.take(kind_bits)?).ok()?)?;
        rows.push(Row {
            hash,
            seen: u16::try_from(kind >> 11).ok()?,
            minute: (1..=MAX_MINUTE).contains(&minute).then_some(minute)?,
            arm: ((kind >> 6) & 31) as u8,
            generation: ((kind >> 1) & 31) as u8 + 1,
            crossed: kind & 1 == 1,
        });
    }
    // What is left are the last byte's unused bits.
    (bits.bytes.is_empty() && bits.held < 8 && bits.word == 0).then_some(rows)
}

fn kind_of(row: &Row) -> u32 {
    (u32::from(row.seen) << 11)
        | (u32::from(row.arm & 31) << 6)
        | ((u32::from(row.generation).wrapping_sub(1) & 31) << 1)
        | u32::from(row.crossed)
}

/// Bits that hold a value.
const fn bits_for(value: u64) -> u32 {
    u64::BITS - value.leading_zeros()
}

/// Bits that tell so many things apart.
const fn index_bits(count: usize) -> u32 {
    bits_for((count as u64).saturating_sub(1))
}

struct Writer {
    bytes: Vec<u8>,
    word: u64,
    held: u32,
}

impl Writer {
    /// At most 48 bits, lowest first.
    fn put(&mut self, value: u64, bits: u32) {
        self.word |= value << self.held;
        self.held += bits;
        while self.held >= 8 {
            self.bytes.push(self.word as u8);
            self.word >>= 8;
            self.held -= 8;
        }
    }

    fn finish(mut self) -> Vec<u8> {
        if self.held > 0 {
            self.bytes.push(self.word as u8);
        }
        self.bytes
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    word: u64,
    held: u32,
}

impl Reader<'_> {
    /// At most 48 bits.
    fn take(&mut self, bits: u32) -> Option<u64> {
        while self.held < bits {
            let (byte, rest) = self.bytes.split_first()?;
            self.word |= u64::from(*byte) << self.held;
            self.held += 8;
            self.bytes = rest;
        }
        let value = self.word & ((1 << bits) - 1);
        self.word >>= bits;
        self.held -= bits;
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rows() -> impl Strategy<Value = Vec<Row>> {
        let hash =
            prop_oneof![0u64..1 << HASH_BITS, 0u64..300, ((1 << HASH_BITS) - 300)..(1u64 << HASH_BITS)];
        let rest = (0u16..9, prop_oneof![1u32..40, 1u32..=MAX_MINUTE], 0u8..32, 1u8..=32, any::<bool>());
        proptest::collection::btree_map(hash, rest, 0..400).prop_map(|rows| {
            rows.into_iter()
                .map(|(hash, (seen, minute, arm, generation, crossed))| Row {
                    hash,
                    seen,
                    minute,
                    arm,
                    generation,
                    crossed,
                })
                .collect()
        })
    }

    proptest! {
        #[test]
        fn what_is_packed_is_read_again_and_cut_bytes_are_not(rows in rows(), cut in 1usize..9) {
            let bytes = pack(&rows);
            prop_assert_eq!(unpack(&bytes), Some(rows.clone()));
            if !rows.is_empty() {
                prop_assert_eq!(unpack(&bytes[..bytes.len().saturating_sub(cut)]), None);
            }
            let longer: Vec<u8> = bytes.into_iter().chain([7]).collect();
            prop_assert_eq!(unpack(&longer), None);
        }

        #[test]
        fn any_bytes_are_refused_or_read(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = unpack(&bytes);
        }
    }

    #[test]
    fn a_million_units_take_seven_bytes_each() {
        // One of their 256 shards: two arms, two weeks of minutes.
        let mut rows: Vec<Row> = (0..3_906_u64)
            .map(|number| {
                let mixed = (number + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ (number << 13);
                let hash = mixed.wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 16;
                let minute = 1 + (mixed >> 40) as u32 % 20_160;
                Row {
                    hash,
                    seen: (mixed >> 9 & 1) as u16,
                    minute,
                    arm: (mixed & 1) as u8,
                    generation: 1,
                    crossed: false,
                }
            })
            .collect();
        rows.sort_unstable_by_key(|row| row.hash);
        let each = pack(&rows).len() as f64 / rows.len() as f64;
        assert!(each < 7.2, "{each}");
    }
}
