//! The product's fold at the seam: `featureops-state`, with its snapshot sections laid end to end.
//!
//! The snapshot store checks sums; here lengths are checked, so that damaged bytes are an error and never a panic.

use featureops_proto::log::entry::Command;
use featureops_proto::log::{ClusterMember, Entry, NoteMembers, Reply};
use featureops_proto::v1::{Principal, principal::Kind};
use featureops_state::{Effect, JoinRefused, Section, State};
use prost::Message as _;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use crate::fold::{Fold, Violation};

/// First bytes of an encoded state; the number grows with the layout, not with the sections' messages.
pub const LAYOUT: &[u8; 8] = b"fostate1";
/// Longest name of a section, in bytes.
const NAME_BYTES_MAX: usize = 256;
/// Sections of one state: a few, and up to 257 per experiment.
const SECTIONS_MAX: usize = 64 << 20;
/// What every token begins with, before its public part, `_` and the secret.
const TOKEN_PREFIX: &str = "fo_";

impl Fold for State {
    type Effect = Effect;

    fn apply(&mut self, position: u64, entry: &[u8], effects: &mut Vec<Effect>) -> Result<Reply, Violation> {
        let _span = tracing::debug_span!("apply", position).entered();
        State::apply(self, position, entry, effects).map_err(|violation| Violation {
            invariant: violation.invariant.name().to_owned(),
            detail: violation.detail,
        })
    }

    fn inspect(entry: &[u8]) -> Result<(), String> {
        State::inspect(entry)
    }

    fn admits(&self, token: &str) -> Result<String, String> {
        if !self.has_tokens() {
            return Ok(String::new());
        }
        const WAY_OUT: &str = "an admin makes one with 'featureops token create NAME --role join --expires +1h', and the node is \
                               started with --join-token FILE";
        if token.is_empty() {
            return Err(format!("this cluster has tokens, and the node that joins showed none: {WAY_OUT}"));
        }
        let key_id =
            token.strip_prefix(TOKEN_PREFIX).and_then(|rest| rest.split_once('_')).map(|(key_id, _)| key_id);
        let held = self.join_token(key_id.unwrap_or_default());
        let shown = Sha256::digest(token.as_bytes());
        let refused = match held {
            // Only whoever has the secret is told more.
            Ok(record) | Err(JoinRefused::Role(record) | JoinRefused::Expired(record))
                if !bool::from(record.secret_hash.as_slice().ct_eq(shown.as_slice())) =>
            {
                "this cluster knows no such token: it was revoked, or mistyped, or is another cluster's"
                    .to_owned()
            }
            Err(JoinRefused::Unknown) => {
                "this cluster knows no such token: it was revoked, or mistyped, or is another cluster's"
                    .to_owned()
            }
            Ok(record) => return Ok(record.token.clone()),
            Err(JoinRefused::Role(record)) => format!("token '{}' has no role join", record.token),
            Err(JoinRefused::Expired(record)) => format!("token '{}' has expired", record.token),
        };
        Err(format!("{refused}; {WAY_OUT}"))
    }

    fn admission(token: &str, index: u64, members: Vec<ClusterMember>) -> Option<Vec<u8>> {
        let principal = Principal { kind: Kind::Human.into(), id: token.to_owned(), verified: true };
        let note = NoteMembers { index, members, ..NoteMembers::default() };
        let entry = Entry {
            principal: Some(principal),
            command: Some(Command::NoteMembers(note)),
            ..Entry::default()
        };
        Some(entry.encode_to_vec())
    }

    fn encode(&self) -> Vec<u8> {
        // Room that is not used costs no memory; growing by doubling would, twice over.
        let mut bytes = Vec::with_capacity(self.size_hint().saturating_add(LAYOUT.len()));
        bytes.extend_from_slice(LAYOUT);
        self.each_section(|section| {
            for part in [section.name.as_bytes(), &section.bytes] {
                bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
                bytes.extend_from_slice(part);
            }
        });
        bytes
    }

    fn decode(bytes: &[u8]) -> Result<Self, String> {
        let mut rest = bytes.strip_prefix(LAYOUT).ok_or("it is of a layout this version does not know")?;
        let mut sections = Vec::new();
        while !rest.is_empty() {
            if sections.len() == SECTIONS_MAX {
                return Err(format!("it has more than {SECTIONS_MAX} sections"));
            }
            let name = take(&mut rest).ok_or("a section's name is cut")?;
            if name.len() > NAME_BYTES_MAX {
                return Err(format!(
                    "a section's name of {} bytes is over the bound of {NAME_BYTES_MAX}",
                    name.len()
                ));
            }
            let name =
                String::from_utf8(name.to_vec()).map_err(|error| format!("a section's name: {error}"))?;
            let bytes = take(&mut rest).ok_or_else(|| format!("section `{name}` is cut"))?.to_vec();
            sections.push(Section { name, bytes });
        }
        State::from_sections(&sections).map_err(|error| error.to_string())
    }

    fn adopt(&mut self, before: &Self) -> Result<(), String> {
        self.limit_as(before)
    }

    fn feature_level(&self) -> u32 {
        Self::feature_level(self)
    }

    fn feature_level_max(&self) -> u32 {
        Self::feature_level_max(self)
    }
}

/// Takes one part with its length off the front.
fn take<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, after) = rest.split_first_chunk::<8>()?;
    let length = usize::try_from(u64::from_be_bytes(*length)).ok()?;
    let (part, after) = after.split_at_checked(length)?;
    *rest = after;
    Some(part)
}

#[cfg(test)]
mod tests {
    use super::*;
    use featureops_proto::log::{Initialize, ReceiptKey, Tick};

    fn state() -> State {
        let mut state = State::new();
        let initialize = Initialize {
            cluster: "c".to_owned(),
            unit_key_id: 7,
            receipt_key: Some(ReceiptKey { id: 1, key: vec![1; 16] }),
            now_ms: 0,
            feature_level: 0,
        };
        let commands = [
            Command::Initialize(initialize),
            Command::Tick(Tick { now_ms: 1_800_000_000_000, after_restart: true }),
        ];
        for (position, command) in (3..).zip(commands) {
            let entry = Entry { command: Some(command), ..Entry::default() };
            Fold::apply(&mut state, position, &entry.encode_to_vec(), &mut Vec::new()).unwrap();
        }
        state
    }

    #[test]
    fn a_state_comes_back_with_the_same_digest() {
        let state = state();
        let back = <State as Fold>::decode(&Fold::encode(&state)).unwrap();
        assert_eq!(back.digest(), state.digest());
        assert_eq!((back.position(), back.log_time_ms()), (state.position(), state.log_time_ms()));
    }

    #[test]
    fn cut_bytes_are_refused_at_every_length() {
        let bytes = Fold::encode(&state());
        for length in 0..bytes.len() {
            assert!(<State as Fold>::decode(&bytes[..length]).is_err(), "{length} of {} bytes", bytes.len());
        }
    }
}
