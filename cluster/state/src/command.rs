//! The door of the fold: bytes become one command, or the reason why they cannot.

use std::fmt;

use featureops_proto::log::{CompiledAgainst, Entry, OwnerStamp, entry};
use featureops_proto::v1::Principal;
use prost::Message as _;

/// Largest entry: a snapshot of facts from one coalescing window, or one flag definition, with room to spare.
pub const MAX_ENTRY_BYTES: usize = 8 << 20;
/// Longest request id, in bytes.
pub const MAX_REQUEST_ID_BYTES: usize = 128;

/// A decoded entry.
#[derive(Debug, Clone, PartialEq)]
pub struct Command {
    /// Who proposed it.
    pub principal: Principal,
    /// Empty: none.
    pub request_id: String,
    /// Present on an owner's commands.
    pub owner: Option<OwnerStamp>,
    /// Present where the door compiled flags.
    pub compiled_against: Option<CompiledAgainst>,
    /// Of what the client meant, if it is to be compared.
    pub sent_hash: Option<u64>,
    /// What to do.
    pub kind: entry::Command,
}

/// Why an entry could not be decoded. Replicas must agree on every entry, so this stops the fold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DecodeError {
    /// Larger than [`MAX_ENTRY_BYTES`].
    TooLarge(usize),
    /// Not a log message.
    Malformed(String),
    /// A command this version does not know.
    UnknownCommand,
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge(bytes) => write!(f, "entry has {bytes} bytes, more than {MAX_ENTRY_BYTES}"),
            Self::Malformed(why) => write!(f, "entry is not a log message: {why}"),
            Self::UnknownCommand => {
                f.write_str("entry holds a command that this version does not know: upgrade this node")
            }
        }
    }
}

impl std::error::Error for DecodeError {}

impl Command {
    /// Decodes an entry. Nesting is bounded by prost's recursion limit of 100.
    ///
    /// # Errors
    /// [`DecodeError`] when the bytes are too many, malformed, or hold no known command.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        if bytes.len() > MAX_ENTRY_BYTES {
            return Err(DecodeError::TooLarge(bytes.len()));
        }
        let entry = Entry::decode(bytes).map_err(|error| DecodeError::Malformed(error.to_string()))?;
        let kind = entry.command.ok_or(DecodeError::UnknownCommand)?;
        Ok(Self {
            principal: entry.principal.unwrap_or_default(),
            request_id: entry.request_id,
            owner: entry.owner,
            compiled_against: entry.compiled_against,
            sent_hash: entry.sent_hash,
            kind,
        })
    }
}
