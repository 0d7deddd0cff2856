//! The unit hash: who a unit is, without saying who it is.
//!
//! Targeting keys never enter the log. SipHash-2-4 under the cluster's own 16-byte key turns one into 64 bits that
//! only a holder of the key can recompute; the key's id lets two nodes see that they hash alike without showing the key.

use std::fmt;
use std::hash::Hasher as _;

use siphasher::sip::SipHasher24;
use siphasher::sip128::{Hasher128 as _, SipHasher24 as SipHasher24Wide};

/// The cluster's key for hashing units. Fixed for the life of an experiment.
#[derive(Clone, PartialEq, Eq)]
pub struct UnitKey([u8; 16]);

impl UnitKey {
    /// Takes the 16 bytes.
    #[must_use]
    pub const fn new(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Takes the content of a key file.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// The unit's hash.
    #[must_use]
    pub fn hash(&self, targeting_key: &[u8]) -> u64 {
        let mut hasher = SipHasher24::new_with_key(&self.0);
        hasher.write(targeting_key);
        hasher.finish()
    }

    /// The key's id, safe to show. The 128-bit form of the hash, so that it is no unit's hash.
    #[must_use]
    pub fn id(&self) -> u64 {
        let mut hasher = SipHasher24Wide::new_with_key(&self.0);
        hasher.write(b"featureops unit key");
        hasher.finish128().h1
    }
}

impl fmt::Debug for UnitKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UnitKey({:016x})", self.id())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The reference vectors of SipHash-2-4: key 00 01 .. 0f, messages 00 01 .. of each length.
    #[test]
    fn it_is_siphash_2_4() {
        let key = UnitKey::new(std::array::from_fn(|n| n as u8));
        let message: Vec<u8> = (0..15).collect();
        for (length, hash) in [
            (0, 0x726f_db47_dd0e_0e31),
            (1, 0x74f8_39c5_93dc_67fd),
            (8, 0x93f5_f579_9a93_2462),
            (15, 0xa129_ca61_49be_45e5),
        ] {
            assert_eq!(key.hash(&message[..length]), hash, "{length}");
        }
    }

    /// Whoever reports keys may choose them; a shard is the hash's top byte, and the hash's key is the cluster's secret.
    #[test]
    fn keys_chosen_for_one_shard_are_spread_by_another_key() {
        let shard = |key: &UnitKey, unit: u64| key.hash(unit.to_string().as_bytes()) >> 56;
        let (guessed, real) = (UnitKey::new([1; 16]), UnitKey::new([2; 16]));
        let chosen: Vec<u64> = (0..300_000).filter(|unit| shard(&guessed, *unit) == 171).collect();
        assert!(chosen.len() > 1_000, "{}", chosen.len());
        let mut shards = [0_u32; 256];
        for unit in &chosen {
            shards[shard(&real, *unit) as usize] += 1;
        }
        // About 4.6 each, as of any keys.
        let (fullest, empty) =
            (shards.iter().max().unwrap(), shards.iter().filter(|units| **units == 0).count());
        assert!(*fullest < 20 && empty < 20, "{fullest} in one shard, {empty} without any");
    }

    #[test]
    fn ids_tell_keys_apart_and_do_not_show_them() {
        let (one, other) = (UnitKey::new([1; 16]), UnitKey::new([2; 16]));
        assert_ne!(one.id(), other.id());
        assert_ne!(one.id(), one.hash(b"featureops unit key"));
        assert_eq!(format!("{one:?}"), format!("UnitKey({:016x})", one.id()));
        assert_eq!(UnitKey::from_bytes(&[1; 16]), Some(one));
        assert_eq!(UnitKey::from_bytes(&[1; 15]), None);
    }
}
