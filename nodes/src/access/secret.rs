//! A token's secret: `fo_`, 16 hexadecimal digits that may be shown, `_`, and 256 bits that only its holder has.
//!
//! The cluster keeps SHA-256 of the whole text. A hash without salt and without rounds is right here and wrong for passwords: nobody
//! can try 2^256 secrets, so there is nothing to slow down.

use std::fmt::Write as _;
use std::io;

use featureops_cluster::environment::Entropy;
use featureops_state::{KEY_ID_DIGITS, SECRET_HASH_BYTES};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

/// What every token begins with: searches for leaked secrets find it.
pub const PREFIX: &str = "fo_";
/// Random bytes of a secret.
const SECRET_BYTES: usize = 32;

/// A secret that was just made. It has no `Debug`: it is shown once, to whoever asked for it.
pub struct Made {
    /// The whole text.
    pub text: String,
    /// Its public part.
    pub key_id: String,
    /// Of the whole text.
    pub hash: Vec<u8>,
}

/// Makes a secret.
///
/// # Errors
/// There is no chance that nobody can guess.
pub fn make(entropy: &dyn Entropy) -> io::Result<Made> {
    let mut bytes = [0; KEY_ID_DIGITS / 2 + SECRET_BYTES];
    entropy.fill_secret(&mut bytes)?;
    let hex = |bytes: &[u8]| {
        bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
    };
    let (public, secret) = bytes.split_at(KEY_ID_DIGITS / 2);
    let key_id = hex(public);
    let text = format!("{PREFIX}{key_id}_{}", hex(secret));
    let hash = hash(&text).to_vec();
    Ok(Made { text, key_id, hash })
}

/// Key id and hash of what may be a token; `None`: it has another form.
#[must_use]
pub fn read(text: &str) -> Option<(&str, [u8; SECRET_HASH_BYTES])> {
    let (key_id, secret) = text.strip_prefix(PREFIX)?.split_once('_')?;
    let is_hex = |part: &str, digits: usize| {
        part.len() == digits && part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    (is_hex(key_id, KEY_ID_DIGITS) && is_hex(secret, 2 * SECRET_BYTES)).then(|| (key_id, hash(text)))
}

fn hash(text: &str) -> [u8; SECRET_HASH_BYTES] {
    Sha256::digest(text.as_bytes()).into()
}

/// Whether two hashes are the same, in a time that does not tell how much of them is.
#[must_use]
pub fn same(kept: &[u8], shown: &[u8]) -> bool {
    kept.ct_eq(shown).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Counting(std::sync::atomic::AtomicU8);

    impl Entropy for Counting {
        fn fill(&self, bytes: &mut [u8]) {
            bytes.fill_with(|| self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
        }
    }

    #[test]
    fn what_is_made_is_read_back_and_nothing_else_is() {
        let entropy = Counting(0.into());
        let (one, two) = (make(&entropy).unwrap(), make(&entropy).unwrap());
        assert_ne!(one.text, two.text);
        let (key_id, hash) = read(&one.text).unwrap();
        assert_eq!((key_id, hash.len()), (one.key_id.as_str(), SECRET_HASH_BYTES));
        assert!(same(&one.hash, &hash) && !same(&two.hash, &hash) && !same(&[], &hash));
        for other in ["", "fo_", "fo__", &one.text[1..], &format!("{}0", one.text), &one.text.to_uppercase()]
        {
            assert!(read(other).is_none(), "{other}");
        }
    }
}
