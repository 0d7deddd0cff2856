//! Tokens: under which name somebody acts, and what that name may do. The secret is nowhere here, only its hash.

use std::collections::BTreeMap;
use std::sync::Arc;

use featureops_proto::log::TokenRecord;
use featureops_proto::v1::Token;
use featureops_proto::v1::token::Role;
use featureops_proto::{timestamp_if_set, unix_ms};

use crate::State;

/// Tokens there can be, expired ones among them.
pub const MAX_TOKENS: usize = 4_096;
/// Environments that one token names.
pub const MAX_TOKEN_ENVIRONMENTS: usize = 16;
/// Bytes of a token's description.
pub const MAX_TOKEN_DESCRIPTION_BYTES: usize = 512;
/// Bytes of a secret's hash: SHA-256.
pub const SECRET_HASH_BYTES: usize = 32;
/// Hexadecimal digits of the secret's public part.
pub const KEY_ID_DIGITS: usize = 16;

/// By name.
pub type Tokens = BTreeMap<String, Arc<TokenRecord>>;

/// The name of a token.
pub fn token_name(id: &str) -> String {
    format!("tokens/{id}")
}

/// Log time from which on it is refused; `None`: never.
#[must_use]
pub fn expire_ms(definition: &Token) -> Option<i64> {
    definition.expire_time.as_ref().map(unix_ms)
}

/// An admin of everything, for ever: whoever has it can make every other token.
pub fn is_whole_admin(record: &TokenRecord) -> bool {
    let Some(definition) = &record.definition else { return false };
    definition.roles.contains(&(Role::Admin as i32))
        && definition.environments.is_empty()
        && definition.flag_prefix.is_empty()
        && definition.expire_time.is_none()
}

/// Why a token lets no node into the cluster.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum JoinRefused<'a> {
    /// There is none of this key.
    Unknown,
    /// It is for something else.
    Role(&'a TokenRecord),
    /// Its time is over.
    Expired(&'a TokenRecord),
}

impl State {
    /// The token of a key, if it lets a node into the cluster now. Its secret's hash is for the caller to compare.
    ///
    /// # Errors
    /// It does not.
    pub fn join_token(&self, key_id: &str) -> Result<&TokenRecord, JoinRefused<'_>> {
        let found = self.tokens.values().find(|record| record.key_id == key_id);
        let (record, definition) = found
            .and_then(|record| Some((record.as_ref(), record.definition.as_ref()?)))
            .ok_or(JoinRefused::Unknown)?;
        if !definition.roles.contains(&(Role::Join as i32)) {
            return Err(JoinRefused::Role(record));
        }
        if self.is_expired(definition) {
            return Err(JoinRefused::Expired(record));
        }
        Ok(record)
    }

    /// Every token as it is kept, by name.
    pub fn token_records(&self) -> impl Iterator<Item = &Arc<TokenRecord>> {
        self.tokens.values()
    }

    /// Whether there are any: then whoever acts needs one.
    #[must_use]
    pub fn has_tokens(&self) -> bool {
        !self.tokens.is_empty()
    }

    /// A token with its output fields; when it was last used is the node's to say.
    #[must_use]
    pub fn token(&self, id: &str) -> Option<Token> {
        self.tokens.get(id).map(|record| self.token_message(record))
    }

    /// Tokens whose id is above `after`, by id.
    #[must_use]
    pub fn tokens(&self, after: &str, limit: usize) -> Vec<Token> {
        use std::ops::Bound::{Excluded, Unbounded};
        let above = self.tokens.range::<str, _>((Excluded(after), Unbounded));
        above.take(limit).map(|(_, record)| self.token_message(record)).collect()
    }

    pub(crate) fn is_expired(&self, definition: &Token) -> bool {
        expire_ms(definition).is_some_and(|end_ms| end_ms <= self.clock.now_ms())
    }

    fn token_message(&self, record: &TokenRecord) -> Token {
        let definition = record.definition.clone().unwrap_or_default();
        Token {
            name: token_name(&record.token),
            author: record.author.clone(),
            create_time: timestamp_if_set(record.create_ms),
            expired: self.is_expired(&definition),
            key_id: record.key_id.clone(),
            ..definition
        }
    }
}
