//! O1 and O2: what the owners did, by the flag versions they did it on.

use std::collections::BTreeMap;

use featureops_proto::v1::{self, decision::Action, decision::Status, principal::Kind};

use super::Finding;
use super::history_of_flag::changes;
use crate::history::Seen;
use crate::plan::Plan;

/// Decisions that took effect, oldest first, per machine.
fn applied(settled: &crate::history::Settled) -> Vec<&v1::Decision> {
    let took = |decision: &&v1::Decision| {
        matches!(decision.status(), Status::Applied | Status::Reverted) && decision.flag_version_after > 0
    };
    let mut decisions: Vec<_> = settled.decisions.iter().filter(took).collect();
    decisions
        .sort_by(|one, two| (&one.flag, one.flag_version_after).cmp(&(&two.flag, two.flag_version_after)));
    decisions
}

/// O1: no two changes of a flag at one version, and each made on a version before its own.
pub fn rising(_: &Plan, seen: &Seen) -> Finding {
    let mut finding = Finding::default();
    for (machine, settled) in &seen.settled {
        for pair in applied(settled).windows(2) {
            let [before, after] = pair else { continue };
            if before.flag == after.flag {
                finding.case(before.flag_version_after < after.flag_version_after, || {
                    format!("machine {machine}: {} and {} made one version", before.name, after.name)
                });
            }
        }
        for decision in applied(settled) {
            let by_system = decision.principal.as_ref().is_some_and(|who| who.kind() == Kind::System);
            let human = decision.principal.as_ref().is_some_and(|who| who.kind() == Kind::Human);
            finding.case(by_system || human, || format!("{} has no principal that may act", decision.name));
        }
    }
    finding
}

/// O2: a reallocation is applied on the very version it was decided on, so that no trip and no person came between. One that a
/// person approved is that person's act, made on what was shown: what is served must not have changed since.
pub fn fresh(_: &Plan, seen: &Seen) -> Finding {
    let mut finding = Finding::default();
    for (_, settled) in &seen.settled {
        for decision in applied(settled) {
            if decision.action() != Action::Reallocate {
                continue;
            }
            let (before, after) = (decision.flag_version_before, decision.flag_version_after);
            let key = decision.flag.rsplit('/').next().unwrap_or_default();
            let changes = changes(seen, key);
            let serves = |change: &str| {
                matches!(change, "trip" | "resume" | "start" | "stop" | "reallocate" | "revert decision")
            };
            let between =
                |(version, change): (&u64, &&str)| *version > before && *version < after && serves(change);
            let approved = decision.resolved_by.is_some() && !changes.iter().any(between);
            finding.case(after == before.saturating_add(1) || (approved && after > before), || {
                format!("{} was decided on version {before} and made version {after}", decision.name)
            });
        }
    }
    finding
}

/// O1 by the log: what was decided under an epoch is over when a later one decides, and within an epoch each number comes once.
pub fn epochs(_: &Plan, seen: &Seen) -> Finding {
    let mut finding = Finding::default();
    let mut newest: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    let stamped = seen.refolded.first().map(|(_, log)| log.stamped.as_slice()).unwrap_or_default();
    for stamped in stamped.iter().filter(|stamped| stamped.accepted) {
        let stamp = (stamped.epoch, stamped.sequence);
        let before = newest.entry(&stamped.experiment).or_insert((0, 0));
        let known = *before;
        // An equal one is a repeat, and is answered as it was.
        let current = stamped.current;
        finding.case(stamp >= known && current.is_none_or(|current| current == stamped.epoch), || {
            let (experiment, position) = (&stamped.experiment, stamped.position);
            format!(
                "{experiment}: decided at {position} under {stamp:?} (epoch, sequence), after {known:?}; the epoch was {current:?}"
            )
        });
        *before = known.max(stamp);
    }
    finding
}
