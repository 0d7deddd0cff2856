//! Proof that a call comes from a member: a message authentication code under a key that only members have.
//!
//! ```text
//!   founded ──> key (32 bytes, kept beside the unit key) ──entrusted──> whoever is let in
//!   every call but Hello and asking to join: Caller { cluster, node, incarnation, level, whom it means, proof }
//! ```
//!
//! The code is HMAC-SHA-256 (RFC 2104) over the caller's other fields, so a proof is good for the one node that is meant by
//! it and in no other's name. It is no nonce: who reads along may show it again to the same node, and only TLS keeps
//! them from reading along. It never enters the log.
//!
//! A node without a key asks nobody for a proof: so it was before there were keys, and so it is until it is let in.

use std::fmt;
use std::io;
use std::sync::Arc;

use featureops_proto::peer::Caller;
use parking_lot::RwLock;
use ring::hmac;

use crate::environment::{Entropy, Environment};

/// Bytes of a peer key.
pub const PEER_KEY_BYTES: usize = 32;
/// What the code is for: a key that is used elsewhere by mistake proves nothing here.
const PROOF_OF: &[u8] = b"featureops peer proof 1";
const ID_OF: &[u8] = b"featureops peer key id 1";

/// The key by which members know each other. It has no `Debug` that tells it.
#[derive(Clone, PartialEq, Eq)]
pub struct PeerKey([u8; PEER_KEY_BYTES]);

impl fmt::Debug for PeerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PeerKey({:016x})", self.id())
    }
}

impl PeerKey {
    /// The key of these bytes.
    #[must_use]
    pub const fn new(bytes: [u8; PEER_KEY_BYTES]) -> Self {
        Self(bytes)
    }

    /// Draws one.
    ///
    /// # Errors
    /// There is no chance that nobody can guess.
    pub fn draw(entropy: &dyn Entropy) -> io::Result<Self> {
        let mut bytes = [0; PEER_KEY_BYTES];
        entropy.fill_secret(&mut bytes)?;
        Ok(Self(bytes))
    }

    /// Its bytes, for whoever keeps it.
    #[must_use]
    pub const fn bytes(&self) -> &[u8; PEER_KEY_BYTES] {
        &self.0
    }

    fn hmac(&self) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, &self.0)
    }

    /// Its name: says nothing of it, and is never 0.
    #[must_use]
    pub fn id(&self) -> u64 {
        let tag = hmac::sign(&self.hmac(), ID_OF);
        let first = tag.as_ref().first_chunk::<8>().copied().unwrap_or_default();
        u64::from_be_bytes(first).max(1)
    }

    /// The proof of a caller, 32 bytes.
    #[must_use]
    pub fn proof(&self, caller: &Caller) -> Vec<u8> {
        hmac::sign(&self.hmac(), &proven(caller)).as_ref().to_vec()
    }

    /// Whether a caller's proof is of this key, in a time that does not tell how much of it is.
    #[must_use]
    pub fn proves(&self, caller: &Caller) -> bool {
        hmac::verify(&self.hmac(), &proven(caller), &caller.proof).is_ok()
    }
}

/// What is proven: every field, each at its place.
fn proven(caller: &Caller) -> Vec<u8> {
    let Caller { cluster, node, incarnation, level, to_node, to_incarnation, proof: _ } = caller;
    let mut bytes = PROOF_OF.to_vec();
    for field in [*cluster, *node, *incarnation, u64::from(*level), *to_node, *to_incarnation] {
        bytes.extend_from_slice(&field.to_be_bytes());
    }
    bytes
}

/// Where a node keeps its peer key. Production keeps it in a file; tests keep it as a disk would.
pub trait PeerKeyStore: Send + Sync + 'static {
    /// The key, if one was kept.
    ///
    /// # Errors
    /// It cannot be read, is no key, or is open to other people of the machine.
    fn read_peer_key(&self) -> io::Result<Option<PeerKey>>;

    /// Keeps a key, durably, in the place of one that is there.
    ///
    /// # Errors
    /// It cannot be written; then what was there is there still.
    fn keep_peer_key(&self, key: &PeerKey) -> io::Result<()>;
}

/// A store as an option of a node.
#[derive(Clone)]
pub struct PeerKeys(pub Arc<dyn PeerKeyStore>);

impl fmt::Debug for PeerKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PeerKeys")
    }
}

/// The key as it is held now; clones hold the same.
#[derive(Clone, Default)]
pub(crate) struct Keyring {
    store: Option<PeerKeys>,
    held: Arc<RwLock<Option<PeerKey>>>,
}

impl Keyring {
    /// With what the store has.
    pub(crate) fn open(store: Option<PeerKeys>) -> io::Result<Self> {
        let held = store.as_ref().map(|store| store.0.read_peer_key()).transpose()?.flatten();
        Ok(Self { store, held: Arc::new(RwLock::new(held)) })
    }

    /// Whether a key can be kept here at all.
    pub(crate) const fn has_store(&self) -> bool {
        self.store.is_some()
    }

    pub(crate) fn key(&self) -> Option<PeerKey> {
        self.held.read().clone()
    }

    /// Keeps a key, and proves by it from now on.
    pub(crate) async fn keep(&self, environment: &Environment, key: PeerKey) -> io::Result<()> {
        let Some(PeerKeys(store)) = self.store.clone() else {
            return Err(io::Error::other("this node keeps no peer key"));
        };
        let held = Arc::clone(&self.held);
        let kept = environment.run(move || {
            store.keep_peer_key(&key)?;
            *held.write() = Some(key);
            Ok(())
        });
        kept.await.unwrap_or_else(|| Err(io::Error::other("the peer key's store ended")))
    }

    /// Makes one where there is none: for whoever founds a cluster.
    pub(crate) async fn make(&self, environment: &Environment) -> io::Result<()> {
        if !self.has_store() || self.key().is_some() {
            return Ok(());
        }
        let key = PeerKey::draw(environment.entropy.as_ref())?;
        self.keep(environment, key).await
    }

    /// Takes one that a person put into the store meanwhile.
    pub(crate) async fn look(&self, environment: &Environment) {
        let Some(PeerKeys(store)) = self.store.clone() else { return };
        match environment.run(move || store.read_peer_key()).await {
            Some(Ok(Some(key))) => {
                let mut held = self.held.write();
                if held.is_none() {
                    tracing::info!("a peer key was put here");
                    *held = Some(key);
                }
            }
            Some(Err(error)) => tracing::warn!(error = %error, "the peer key cannot be read"),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller() -> Caller {
        Caller {
            cluster: 7,
            node: 1,
            incarnation: 10,
            level: 2,
            to_node: 2,
            to_incarnation: 20,
            ..Caller::default()
        }
    }

    #[test]
    fn a_proof_is_of_one_caller_one_target_and_one_key() {
        let key = PeerKey::new([3; PEER_KEY_BYTES]);
        let mut good = caller();
        good.proof = key.proof(&good);
        assert!(key.proves(&good) && good.proof.len() == 32);
        assert!(!PeerKey::new([4; PEER_KEY_BYTES]).proves(&good));
        for other in [
            Caller { cluster: 8, ..good.clone() },
            Caller { node: 3, ..good.clone() },
            Caller { incarnation: 11, ..good.clone() },
            Caller { level: 1, ..good.clone() },
            Caller { to_node: 3, ..good.clone() },
            Caller { to_incarnation: 21, ..good.clone() },
            Caller { proof: good.proof.iter().take(31).copied().collect(), ..good.clone() },
            Caller { proof: Vec::new(), ..good.clone() },
        ] {
            assert!(!key.proves(&other), "{other:?}");
        }
    }

    #[test]
    fn a_key_is_told_by_its_name_only() {
        let key = PeerKey::new([3; PEER_KEY_BYTES]);
        assert_eq!(format!("{key:?}"), format!("PeerKey({:016x})", key.id()));
        assert_ne!(key.id(), PeerKey::new([4; PEER_KEY_BYTES]).id());
    }

    /// RFC 4231, test case 1: what signs here is HMAC-SHA-256.
    #[test]
    fn the_code_is_hmac_sha_256() {
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &[0x0b; 20]), b"Hi There");
        assert!(tag.as_ref().starts_with(&[0xb0, 0x34, 0x4c, 0x61, 0xd8, 0xdb, 0x38, 0x53]));
    }
}
