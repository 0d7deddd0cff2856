//! What a peer hands over for the log, looked at before it is in it: an entry that cannot be read would stop the fold of every
//! node, and one that no door of this release makes is nobody's to make.

use featureops_proto::log::entry::Command as C;
use featureops_proto::v1::principal::Kind;

use crate::State;
use crate::command::{Command, MAX_REQUEST_ID_BYTES};
use crate::feature_levels::FEATURE_LEVEL;

/// Longest id of a principal, in bytes.
const ID_BYTES_MAX: usize = 128;

impl State {
    /// Refuses an entry that no door would have made: unreadable bytes, the leader's own kinds, a caller without a name, and the
    /// system in the place of a person.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn inspect(entry: &[u8]) -> Result<(), String> {
        let command = Command::decode(entry).map_err(|error| error.to_string())?;
        if matches!(command.kind, C::Tick(_) | C::Ingest(_)) {
            return Err("ticks and facts are the leader's to write".to_owned());
        }
        let level = match &command.kind {
            C::Initialize(c) => c.feature_level,
            C::RaiseLevel(c) => c.feature_level,
            _ => 0,
        };
        if level > FEATURE_LEVEL {
            return Err(format!("feature level {level} is beyond {FEATURE_LEVEL}, which this build knows"));
        }
        if command.request_id.len() > MAX_REQUEST_ID_BYTES {
            let bytes = command.request_id.len();
            return Err(format!("request_id of {bytes} bytes is over the bound of {MAX_REQUEST_ID_BYTES}"));
        }
        let principal = &command.principal;
        let is_named = (1..=ID_BYTES_MAX).contains(&principal.id.len())
            && principal.id.bytes().all(|byte| byte.is_ascii_graphic());
        if principal.kind() == Kind::Unspecified || !is_named {
            return Err(
                "principal: a caller has a kind, and an id of 1 to 128 printable ASCII characters".to_owned()
            );
        }
        if principal.kind() == Kind::System && command.owner.is_none() && is_a_callers(&command.kind) {
            return Err(format!(
                "principal: system:{} does not do this of itself; a caller does",
                principal.id
            ));
        }
        Ok(())
    }
}

/// Whether only a caller of the API does it, or an owner under its stamp: a node by itself never.
const fn is_a_callers(kind: &C) -> bool {
    matches!(
        kind,
        C::SetFlag(_)
            | C::ImportFlags(_)
            | C::ArchiveFlag(_)
            | C::RevertFlag(_)
            | C::SetEnvironment(_)
            | C::SetSegment(_)
            | C::DeleteSegment(_)
            | C::UpdateSegmentUnits(_)
            | C::SetMetric(_)
            | C::SetLayer(_)
            | C::DeleteLayer(_)
            | C::SetHoldout(_)
            | C::DeleteHoldout(_)
            | C::CreateExperiment(_)
            | C::CreateSchedule(_)
            | C::CancelSchedule(_)
            | C::SetOversight(_)
            | C::SetFlagAutonomy(_)
            | C::SetBudgets(_)
            | C::EraseUnit(_)
            | C::RevokeToken(_)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use featureops_proto::log::{self, Entry};
    use featureops_proto::v1::Principal;
    use prost::Message as _;

    fn entry(kind: Kind, id: &str, command: Option<C>) -> Vec<u8> {
        let principal = Some(Principal { kind: kind.into(), id: id.to_owned(), verified: true });
        Entry { principal, command, ..Entry::default() }.encode_to_vec()
    }

    #[test]
    fn what_no_door_makes_is_refused_with_the_reason() {
        let set = || Some(C::SetFlag(log::SetFlag::default()));
        let raise = |feature_level| {
            Some(C::RaiseLevel(log::RaiseLevel { feature_level, ..log::RaiseLevel::default() }))
        };
        let note = || Some(C::NoteMembers(log::NoteMembers::default()));
        for good in [entry(Kind::Human, "ada", set()), entry(Kind::System, "membership", note())] {
            assert_eq!(State::inspect(&good), Ok(()));
        }
        for (bad, part) in [
            (b"garbage".to_vec(), "not a log message"),
            (Vec::new(), "does not know"),
            (entry(Kind::Human, "ada", None), "does not know"),
            (entry(Kind::System, "x", Some(C::Tick(log::Tick::default()))), "leader's"),
            (entry(Kind::System, "x", Some(C::Ingest(log::Ingest::default()))), "leader's"),
            (entry(Kind::Unspecified, "ada", set()), "has a kind"),
            (entry(Kind::Human, "", set()), "has a kind"),
            (entry(Kind::Human, "a b", set()), "has a kind"),
            (entry(Kind::Human, "ada", raise(FEATURE_LEVEL + 1)), "which this build knows"),
            (entry(Kind::System, "x", set()), "a caller does"),
        ] {
            let why = State::inspect(&bad).unwrap_err();
            assert!(why.contains(part), "{why}");
        }
    }
}
