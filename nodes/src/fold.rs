//! The product's state as the cluster's fold: `cluster` replicates any fold, `cluster/state` is this one, and the node
//! is where the two meet.
//!
//! At rest a state is its sections, one after the other: name and bytes, each with its length before it. The snapshot
//! store checks sums; here only lengths are checked, so that damaged bytes are an error and never a panic.

use featureops_cluster::fold::{Fold, Violation};
use featureops_proto::log::Reply;
use featureops_state::{Effect, Section, State};

/// Sections of one state.
const SECTIONS_MAX: usize = 100_000 * 300;

/// The replicated state.
#[derive(Clone, Default)]
pub struct Folded(pub State);

impl Fold for Folded {
    type Effect = Effect;

    fn apply(&mut self, position: u64, entry: &[u8], effects: &mut Vec<Effect>) -> Result<Reply, Violation> {
        let span = tracing::debug_span!("apply", position).entered();
        let applied = self.0.apply(position, entry, effects);
        drop(span);
        applied.map_err(|violation| Violation {
            invariant: violation.invariant.name().to_owned(),
            detail: violation.detail,
        })
    }

    fn encode(&self) -> Vec<u8> {
        let sections = self.0.sections();
        let length = sections.iter().map(|section| section.name.len() + section.bytes.len() + 16).sum();
        let mut bytes = Vec::with_capacity(length);
        for section in sections {
            for part in [section.name.as_bytes(), &section.bytes] {
                bytes.extend_from_slice(&(part.len() as u64).to_le_bytes());
                bytes.extend_from_slice(part);
            }
        }
        bytes
    }

    fn decode(bytes: &[u8]) -> Result<Self, String> {
        let mut sections = Vec::new();
        let mut rest = bytes;
        while !rest.is_empty() {
            if sections.len() >= SECTIONS_MAX {
                return Err(format!("more than {SECTIONS_MAX} sections"));
            }
            let name = String::from_utf8(take(&mut rest)?.to_vec()).map_err(|error| error.to_string())?;
            sections.push(Section { name, bytes: take(&mut rest)?.to_vec() });
        }
        State::from_sections(&sections).map(Self).map_err(|error| error.to_string())
    }
}

fn take<'b>(rest: &mut &'b [u8]) -> Result<&'b [u8], String> {
    let cut = || "the snapshot ends inside a section".to_owned();
    let (length, after) = rest.split_first_chunk::<8>().ok_or_else(cut)?;
    let length = usize::try_from(u64::from_le_bytes(*length)).map_err(|_| cut())?;
    let (part, after) = after.split_at_checked(length).ok_or_else(cut)?;
    *rest = after;
    Ok(part)
}

#[cfg(test)]
mod tests {
    use super::*;
    use featureops_proto::log::{Entry, Initialize, Tick, entry};
    use prost::Message as _;

    #[test]
    fn a_state_is_read_back_as_it_was_and_damage_is_an_error() {
        let mut folded = Folded::default();
        let commands = [
            entry::Command::Initialize(Initialize { cluster: "c".into(), unit_key_id: 7, receipt_key: None }),
            entry::Command::Tick(Tick { now_ms: 1_800_000_000_000, after_restart: true }),
        ];
        for (position, command) in (1..).zip(commands) {
            let entry = Entry { command: Some(command), ..Entry::default() }.encode_to_vec();
            let _ = folded.apply(position, &entry, &mut Vec::new());
        }
        let bytes = folded.encode();
        let back = Folded::decode(&bytes).unwrap();
        assert_eq!((back.0.digest(), back.0.position()), (folded.0.digest(), folded.0.position()));
        for cut in [1, 7, 9, bytes.len() / 2, bytes.len() - 1] {
            assert!(Folded::decode(&bytes[..cut]).is_err(), "{cut}");
        }
        assert!(Folded::decode(&[0xff; 64]).is_err());
    }
}
