//! The receipt: proof of an assignment, in 32 characters, that a caller may send back.
//!
//! ```text
//!   body, 16 bytes, most significant bit first                                              tag, 8 bytes
//!   version 4 | key id 4 | experiment 32 | arm 5 | generation 5 | minute 21 | propensity 14 | position 43 | SipHash-2-4
//! ```
//!
//! The tag covers the body and the unit, and the unit is not in the body: a receipt says nothing about who holds it,
//! and verifies for nobody else. There is a tag because a receipt sent back selects a variant. As text it is URL-safe
//! base64; 24 bytes fill 32 characters exactly, so there is one text for a receipt and no padding to disagree about.

use std::fmt;
use std::hash::Hasher as _;

use siphasher::sip::SipHasher24;

use crate::minute::MINUTE_BITS;

const VERSION: u8 = 1;
const BODY_BYTES: usize = 16;
const BYTES: usize = 24;
const CHARACTERS: usize = 32;
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Widths after version and key id, in order.
const EXPERIMENT_BITS: u32 = 32;
const ARM_BITS: u32 = 5;
const GENERATION_BITS: u32 = 5;
const PROPENSITY_BITS: u32 = 14;
const POSITION_BITS: u32 = 43;

/// A key that receipts are sealed with. Replicated; two are live at a time.
#[derive(Clone, PartialEq, Eq)]
pub struct Key {
    id: u8,
    bytes: [u8; 16],
    /// Receipts given from a later state are not accepted: another cluster may seal with this key, too.
    until: u64,
}

impl Key {
    /// A key with an id from 0 to 15.
    #[must_use]
    pub const fn new(id: u8, bytes: [u8; 16]) -> Option<Self> {
        if id < 16 { Some(Self { id, bytes, until: u64::MAX }) } else { None }
    }

    /// A key as the log carries it.
    #[must_use]
    pub fn from_bytes(id: u32, bytes: &[u8]) -> Option<Self> {
        Self::new(u8::try_from(id).ok()?, bytes.try_into().ok()?)
    }

    /// The same for receipts that were given from states up to a position only.
    #[must_use]
    pub const fn until(self, position: u64) -> Self {
        Self { until: position, ..self }
    }

    /// The id, 0 to 15.
    #[must_use]
    pub const fn id(&self) -> u8 {
        self.id
    }

    fn tag(&self, body: &[u8; BODY_BYTES], unit: &[u8]) -> u64 {
        let mut hasher = SipHasher24::new_with_key(&self.bytes);
        // The body has a fixed length, so body and unit cannot be cut differently.
        hasher.write(body);
        hasher.write(unit);
        hasher.finish()
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.id)
    }
}

/// What a receipt says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    /// The experiment's number in the cluster.
    pub experiment: u32,
    /// The arm's index, 0 to 31.
    pub arm: u8,
    /// The generation it was given in, 1 to 32.
    pub generation: u32,
    /// When it was given: [`crate::minute::of_unix_ms`].
    pub minute: u32,
    /// The arm's share of traffic when it was given, 0 to 10,000.
    pub propensity_basis_points: u32,
    /// The position of the state it was given from.
    pub position: u64,
}

/// A receipt that verified for a unit. Made only by [`Receipt::open`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VerifiedReceipt(Receipt);

impl VerifiedReceipt {
    /// What it says.
    #[must_use]
    pub const fn fields(&self) -> &Receipt {
        &self.0
    }
}

/// Why a receipt was not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReceiptError {
    /// Not 32 URL-safe base64 characters of a version that is known.
    Form,
    /// Sealed with a key that is not live any more, or never was.
    UnknownKey,
    /// Changed, or given to another unit.
    BadTag,
    /// Given by the cluster that this one was restored from, after the state that was taken over.
    OtherCluster,
    /// The context has no unit that it could be verified for.
    NoUnit,
}

impl fmt::Display for ReceiptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Form => "receipt is not 32 characters of url-safe base64 in a known version",
            Self::UnknownKey => "receipt was sealed with a key that is not live",
            Self::BadTag => "receipt was changed or belongs to another unit",
            Self::OtherCluster => {
                "receipt was given by the cluster before, after the backup that this one was restored from"
            }
            Self::NoUnit => "receipt cannot be verified without a targetingKey",
        })
    }
}

impl std::error::Error for ReceiptError {}

/// A sealed receipt's 32 characters.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SealedReceipt([u8; CHARACTERS]);

impl SealedReceipt {
    /// The characters.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // Always ASCII; an empty receipt would only mean that none is sent.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// The characters as bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; CHARACTERS] {
        &self.0
    }
}

impl fmt::Debug for SealedReceipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for SealedReceipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Receipt {
    /// Seals the receipt for a unit. Allocates nothing.
    ///
    /// None when a field does not fit its width: then there is no receipt, rather than one that says something else.
    #[must_use]
    pub fn seal(&self, key: &Key, unit: &[u8]) -> Option<SealedReceipt> {
        let body = self.body(key)?;
        let mut bytes = [0; BYTES];
        let (front, back) = bytes.split_at_mut(BODY_BYTES);
        front.copy_from_slice(&body);
        back.copy_from_slice(&key.tag(&body, unit).to_be_bytes());
        Some(SealedReceipt(encode(&bytes)))
    }

    /// Opens a receipt that was sealed for `unit` with one of `keys`. Takes any bytes.
    ///
    /// # Errors
    /// When the text has another form, its key is not among `keys`, or the tag is not that of body and unit.
    pub fn open(text: &[u8], unit: &[u8], keys: &[Key]) -> Result<VerifiedReceipt, ReceiptError> {
        let bytes = decode(text).ok_or(ReceiptError::Form)?;
        let (body, tag) = bytes.split_first_chunk::<BODY_BYTES>().ok_or(ReceiptError::Form)?;
        let tag: &[u8; 8] = tag.try_into().map_err(|_| ReceiptError::Form)?;
        let (version, id, receipt) = Self::of_body(*body).ok_or(ReceiptError::Form)?;
        if version != VERSION {
            return Err(ReceiptError::Form);
        }
        let key = keys.iter().find(|key| key.id == id).ok_or(ReceiptError::UnknownKey)?;
        // One comparison of two words: it takes the same time wherever they differ.
        if key.tag(body, unit) ^ u64::from_be_bytes(*tag) != 0 {
            return Err(ReceiptError::BadTag);
        }
        if receipt.position > key.until {
            return Err(ReceiptError::OtherCluster);
        }
        Ok(VerifiedReceipt(receipt))
    }

    fn body(&self, key: &Key) -> Option<[u8; BODY_BYTES]> {
        let mut bits = u128::from(VERSION << 4 | key.id);
        for (value, width) in [
            (u64::from(self.experiment), EXPERIMENT_BITS),
            (u64::from(self.arm), ARM_BITS),
            // Counted from 1, so that 32 generations fit 5 bits.
            (u64::from(self.generation.checked_sub(1)?), GENERATION_BITS),
            (u64::from(self.minute), MINUTE_BITS),
            (u64::from(self.propensity_basis_points), PROPENSITY_BITS),
            (self.position, POSITION_BITS),
        ] {
            if value >> width != 0 {
                return None;
            }
            bits = bits << width | u128::from(value);
        }
        Some(bits.to_be_bytes())
    }

    fn of_body(body: [u8; BODY_BYTES]) -> Option<(u8, u8, Self)> {
        let mut bits = u128::from_be_bytes(body);
        let mut take = |width: u32| {
            let value = (bits & ((1 << width) - 1)) as u64;
            bits >>= width;
            value
        };
        let position = take(POSITION_BITS);
        let propensity_basis_points = u32::try_from(take(PROPENSITY_BITS)).ok()?;
        let minute = u32::try_from(take(MINUTE_BITS)).ok()?;
        let generation = u32::try_from(take(GENERATION_BITS)).ok()? + 1;
        let arm = u8::try_from(take(ARM_BITS)).ok()?;
        let experiment = u32::try_from(take(EXPERIMENT_BITS)).ok()?;
        let id = u8::try_from(take(4)).ok()?;
        let version = u8::try_from(take(4)).ok()?;
        Some((version, id, Self { experiment, arm, generation, minute, propensity_basis_points, position }))
    }
}

fn encode(bytes: &[u8; BYTES]) -> [u8; CHARACTERS] {
    let mut text = [0; CHARACTERS];
    let (triples, _) = bytes.as_chunks::<3>();
    let (quads, _) = text.as_chunks_mut::<4>();
    for (&[a, b, c], quad) in triples.iter().zip(quads) {
        let word = u32::from_be_bytes([0, a, b, c]);
        *quad = [18, 12, 6, 0].map(|shift| {
            // Six bits always have a character.
            ALPHABET.get((word >> shift & 63) as usize).copied().unwrap_or(b'A')
        });
    }
    text
}

fn decode(text: &[u8]) -> Option<[u8; BYTES]> {
    let text: &[u8; CHARACTERS] = text.try_into().ok()?;
    let mut bytes = [0; BYTES];
    let (quads, _) = text.as_chunks::<4>();
    let (triples, _) = bytes.as_chunks_mut::<3>();
    for (quad, triple) in quads.iter().zip(triples) {
        let mut word = 0;
        for &character in quad {
            word = word << 6 | u32::from(six_bits(character)?);
        }
        let [_, a, b, c] = word.to_be_bytes();
        *triple = [a, b, c];
    }
    Some(bytes)
}

const fn six_bits(character: u8) -> Option<u8> {
    match character {
        b'A'..=b'Z' => Some(character - b'A'),
        b'a'..=b'z' => Some(character - b'a' + 26),
        b'0'..=b'9' => Some(character - b'0' + 52),
        b'-' => Some(62),
        b'_' => Some(63),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A later release may mean something else by the same bits: even well sealed, another version is not read.
    #[test]
    fn another_version_is_not_read() {
        let key = Key::new(2, [7; 16]).unwrap();
        let receipt = Receipt {
            experiment: 1,
            arm: 1,
            generation: 1,
            minute: 1,
            propensity_basis_points: 1,
            position: 1,
        };
        for version in 0..16u8 {
            let mut body = receipt.body(&key).unwrap();
            body[0] = version << 4 | key.id;
            let mut bytes = [0; BYTES];
            bytes[..BODY_BYTES].copy_from_slice(&body);
            bytes[BODY_BYTES..].copy_from_slice(&key.tag(&body, b"ada").to_be_bytes());
            let opened = Receipt::open(&encode(&bytes), b"ada", std::slice::from_ref(&key));
            assert_eq!(opened.is_ok(), version == VERSION, "{version}");
        }
    }
}
