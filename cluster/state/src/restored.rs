//! A state that founds another cluster: what of the one before stays, and what must end.
//!
//! ```text
//!   stays    flags, experiments, ledgers, producers' windows, requests, tokens, audit chain, log time
//!   ends     membership (the new node is alone), owners (every epoch rises, nobody owns), the key that seals receipts
//!   bounded  receipts of the cluster before: those given from a state up to the one taken over count, later ones do not
//! ```
//!
//! The cluster before may go on: what it gives out after that position speaks of numbers that this one may give to others.
//! This is no command of the log: no running cluster can be told that it was restored.

use featureops_proto::ErrorCode;
use featureops_proto::log::{MembersRecord, ReceiptKey, Refusal, RestoredRecord};
use featureops_proto::v1::{Principal, principal};

use crate::State;
use crate::apply::{Context, checked_key};

/// Receipt keys that verify at once: the new one, and that of the cluster before.
const LIVE_KEYS: usize = 2;

/// What a cluster is restored with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restoration {
    /// The new cluster's id.
    pub cluster: String,
    /// By which it seals receipts: with an id of no live key ([`State::free_receipt_key_id`]).
    pub receipt_key: ReceiptKey,
    /// The release that made the backup.
    pub release: String,
    /// The position of its record in the audit: behind the state's.
    pub position: u64,
}

impl State {
    /// Whence this cluster came, if it was restored.
    #[must_use]
    pub fn restored(&self) -> Option<&RestoredRecord> {
        self.restored.as_ref()
    }

    /// Id of the cluster, as it was given when it was founded.
    #[must_use]
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// An id that no live receipt key has.
    #[must_use]
    pub fn free_receipt_key_id(&self) -> u32 {
        let newest = self.receipt_keys.first().map_or(0, |key| key.id);
        (1..=16)
            .map(|step| (newest + step) % 16)
            .find(|id| self.receipt_keys.iter().all(|key| key.id != *id))
            .unwrap_or_default()
    }

    /// The position up to which receipts under a key are this cluster's; `None`: all of them.
    #[must_use]
    pub fn receipts_until(&self, key_id: u32) -> Option<u64> {
        let restored = self.restored.as_ref()?;
        (restored.receipt_key_id == Some(key_id)).then_some(restored.position)
    }

    /// Makes this the first state of another cluster.
    ///
    /// # Errors
    /// The state has no identity, the new one is the same, or the key's form or id is wrong; nothing was changed.
    pub fn restore_as(&mut self, new: &Restoration) -> Result<(), Refusal> {
        let refuse = |field: &str, value: &str, message: &str| {
            Err(Refusal::new(ErrorCode::InvalidArgument, field, value, message))
        };
        if !self.initialized {
            return refuse("cluster", "", "the state has no identity: there is nothing to restore");
        }
        if new.cluster.is_empty() || new.cluster.len() > 128 || new.cluster == self.cluster {
            return refuse(
                "cluster",
                &new.cluster,
                "1 to 128 bytes, and another id than the cluster before had",
            );
        }
        if new.position <= self.position {
            return refuse("position", &new.position.to_string(), "is not behind the state's");
        }
        let key = checked_key(Some(&new.receipt_key))?;
        if self.receipt_keys.iter().any(|known| known.id == key.id) {
            return refuse("receipt_key.id", &key.id.to_string(), "is that of a live key");
        }
        let digest = self.digest();
        let from = RestoredRecord {
            from_cluster: std::mem::replace(&mut self.cluster, new.cluster.clone()),
            position: self.position,
            receipt_key_id: self.receipt_keys.first().map(|key| key.id),
        };
        self.receipt_keys.insert(0, key);
        self.receipt_keys.truncate(LIVE_KEYS);
        self.members = MembersRecord::default();
        self.liveness.clear();
        self.feature_level = self.feature_level_max();
        let owned: Vec<u32> =
            self.experiments.values().filter(|held| held.owner.is_some()).map(|held| held.number).collect();
        for number in owned {
            let Some(owner) = self.experiment_mut(number).and_then(|record| record.owner.as_mut()) else {
                continue;
            };
            // Nobody's, and above whatever the owners of the cluster before still have under way.
            owner.epoch += 1;
            owner.node = 0;
            owner.last_sequence = 0;
            owner.last_reply = None;
            if let Some(ledger) = self.ledgers.get_mut(&number) {
                ledger.dirty = true;
            }
        }
        self.before.clear();
        let ctx = Context {
            position: new.position,
            now_ms: self.clock.now_ms(),
            principal: Principal {
                kind: principal::Kind::System.into(),
                id: "restore".to_owned(),
                verified: true,
            },
            owner: None,
        };
        let detail = format!(
            "restored from cluster {} at position {}, digest {digest:016x}, backup of release {}",
            from.from_cluster, from.position, new.release
        );
        self.position = new.position;
        self.restored = Some(from);
        self.record(&ctx, "cluster.restore", new.cluster.clone(), detail, String::new(), &mut Vec::new());
        Ok(())
    }
}
