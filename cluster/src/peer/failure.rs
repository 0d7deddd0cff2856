//! Why something has no answer, between nodes.

use featureops_proto::peer::{Failure, failure::Kind};

use crate::fold::{Halted, Violation};
use crate::proposer::ProposeError;

/// What a failure of the leader means to the node that asked it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// Nothing was written, and another node may take it soon.
    Again {
        /// The leader it names.
        leader: Option<u64>,
    },
    /// That is the answer.
    Final(ProposeError),
}

/// As it is sent.
#[must_use]
pub fn write(error: &ProposeError) -> Failure {
    let failure = |kind: Kind| Failure { kind: kind.into(), why: error.to_string(), ..Failure::default() };
    let halted = |kind: Kind, halted: &Halted| Failure {
        position: halted.position,
        invariant: halted.violation.invariant.clone(),
        why: halted.violation.detail.clone(),
        ..failure(kind)
    };
    match error {
        ProposeError::NotLeader { leader } => Failure { leader: *leader, ..failure(Kind::NotLeader) },
        ProposeError::Unknown { why } => Failure { why: why.clone(), ..failure(Kind::Unknown) },
        ProposeError::Overloaded { what, bound } => {
            Failure { why: (*what).to_owned(), bound: *bound as u64, ..failure(Kind::Overloaded) }
        }
        ProposeError::Halted(at) => halted(Kind::Halted, at),
        ProposeError::Violated(at) => halted(Kind::Violated, at),
        ProposeError::NotReady { why } => Failure { why: why.clone(), ..failure(Kind::NotReady) },
        ProposeError::TooLarge { bytes, bytes_max } => {
            Failure { bytes: *bytes as u64, bound: *bytes_max as u64, ..failure(Kind::TooLarge) }
        }
        ProposeError::ShuttingDown | ProposeError::Stopped { .. } | ProposeError::Waiting { .. } => {
            failure(Kind::Unable)
        }
    }
}

/// What it means here.
pub(crate) fn read(failure: Failure) -> Meaning {
    let number = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
    let kind = failure.kind();
    let violation = Violation { invariant: failure.invariant, detail: failure.why.clone() };
    let halted = Halted { position: failure.position, violation };
    Meaning::Final(match kind {
        Kind::NotLeader | Kind::Unable => return Meaning::Again { leader: failure.leader },
        Kind::Overloaded => {
            let known = ["entries", "bytes", "fact batches"];
            let what = known.into_iter().find(|known| *known == failure.why).unwrap_or("requests");
            ProposeError::Overloaded { what, bound: number(failure.bound) }
        }
        Kind::Halted => ProposeError::Halted(halted),
        Kind::Violated => ProposeError::Violated(halted),
        Kind::NotReady => ProposeError::NotReady { why: failure.why },
        Kind::TooLarge => {
            ProposeError::TooLarge { bytes: number(failure.bytes), bytes_max: number(failure.bound) }
        }
        // Of a kind that a later release knows, only that there is one.
        Kind::Unknown | Kind::Unspecified => ProposeError::Unknown { why: failure.why },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_leader_says_is_what_its_follower_says() {
        let halted =
            Halted { position: 7, violation: Violation { invariant: "A1".into(), detail: "sum".into() } };
        for error in [
            ProposeError::Unknown { why: "lost".into() },
            ProposeError::Overloaded { what: "entries", bound: 4_096 },
            ProposeError::Halted(halted.clone()),
            ProposeError::Violated(halted),
            ProposeError::NotReady { why: "soon".into() },
            ProposeError::TooLarge { bytes: 9, bytes_max: 8 },
        ] {
            assert_eq!(read(write(&error)), Meaning::Final(error));
        }
        assert_eq!(
            read(write(&ProposeError::NotLeader { leader: Some(2) })),
            Meaning::Again { leader: Some(2) }
        );
        for error in [ProposeError::ShuttingDown, ProposeError::Waiting { why: "disk".into() }] {
            assert_eq!(read(write(&error)), Meaning::Again { leader: None });
        }
        let later = Failure { kind: 99, why: "new".into(), ..Failure::default() };
        assert_eq!(read(later), Meaning::Final(ProposeError::Unknown { why: "new".into() }));
    }
}
