//! The cluster's identity and its receipt keys.

use featureops_proto::ErrorCode;
use featureops_proto::log::{Done, Initialize, ReceiptKey, Refusal, RotateReceiptKey};

use super::{Context, Outcome, refuse};
use crate::State;
use crate::effect::Effect;

/// Receipt keys that verify at once: the newest seals.
const LIVE_KEYS: usize = 2;
/// Bytes of a SipHash key.
const KEY_BYTES: usize = 16;
/// A receipt has four bits for the key's id.
const MAX_KEY_ID: u32 = 15;

impl State {
    pub(super) fn initialize(
        &mut self,
        c: &Initialize,
        effects: &mut Vec<Effect>,
    ) -> Result<Outcome, Refusal> {
        if self.initialized {
            let message =
                "the cluster has its identity; start this node with an empty data folder to make another";
            return refuse(ErrorCode::AlreadyExists, "cluster", &self.cluster, message);
        }
        let key = checked_key(c.receipt_key.as_ref())?;
        if c.cluster.is_empty() || c.cluster.len() > 128 {
            return refuse(ErrorCode::InvalidArgument, "cluster", &c.cluster, "1 to 128 bytes");
        }
        self.initialized = true;
        self.cluster.clone_from(&c.cluster);
        self.unit_key_id = c.unit_key_id;
        self.receipt_keys = vec![key];
        self.feature_level = c.feature_level;
        effects.push(Effect::Initialized);
        Ok(Outcome {
            done: Done { name: c.cluster.clone(), took_effect: true, ..Done::default() },
            ..Outcome::default()
        })
    }

    pub(super) fn rotate_receipt_key(
        &mut self,
        ctx: &Context,
        c: &RotateReceiptKey,
        effects: &mut Vec<Effect>,
    ) -> Result<Outcome, Refusal> {
        ctx.require_human("rotating the receipt key")?;
        let key = checked_key(c.key.as_ref())?;
        if self.receipt_keys.iter().any(|known| known.id == key.id) {
            return refuse(
                ErrorCode::AlreadyExists,
                "key.id",
                key.id,
                "give the new key an id that no live key has",
            );
        }
        let id = key.id;
        if let Some(restored) = self.restored.as_mut().filter(|restored| restored.receipt_key_id == Some(id))
        {
            // The key of the cluster before left at an earlier rotation: its id is this one's now.
            restored.receipt_key_id = None;
        }
        self.receipt_keys.insert(0, key);
        self.receipt_keys.truncate(LIVE_KEYS);
        effects.push(Effect::Initialized);
        Ok(Outcome { detail: format!("key {id}"), ..Outcome::default() })
    }
}

pub fn checked_key(key: Option<&ReceiptKey>) -> Result<ReceiptKey, Refusal> {
    match key {
        Some(key) if key.key.len() == KEY_BYTES && key.id <= MAX_KEY_ID => Ok(key.clone()),
        Some(key) => refuse(
            ErrorCode::InvalidArgument,
            "receipt_key",
            format!("id {} with {} bytes", key.id, key.key.len()),
            format!("id 0 to {MAX_KEY_ID}, {KEY_BYTES} bytes"),
        ),
        None => refuse(ErrorCode::InvalidArgument, "receipt_key", "", "missing"),
    }
}
