//! H5: every evaluation that reaches a node is answered with a declared variant, and a node's versions never go back.

use std::collections::BTreeMap;

use featureops_proto::v1::EvaluationError;

use super::Finding;
use crate::history::{Evaluated, Seen};
use crate::plan::Plan;
use crate::workload::{ARMS, SAFE};

/// H5.
pub fn total(_: &Plan, seen: &Seen) -> Finding {
    let mut finding = Finding::default();
    for failed in &seen.failed_evaluations {
        finding.case(false, || failed.clone());
    }
    for evaluated in &seen.evaluations {
        let answer = &evaluated.answer;
        let declared = answer.variant.as_deref().is_some_and(|variant| variant == SAFE || ARMS.contains(&variant));
        let unknown_yet = answer.error() == EvaluationError::FlagNotFound;
        finding.case(declared || unknown_yet, || {
            format!("{} {}: {:?} {}", evaluated.flag, evaluated.unit, answer.variant, answer.error_message)
        });
    }
    finding
}

/// H5, versions: an answer asked for after another one came is of no older version, within one life of one node.
pub fn versions(plan: &Plan, seen: &Seen) -> Finding {
    let mut finding = Finding::default();
    // Which machine answered is not recorded: comparable only where there is one.
    if plan.machines > 1 {
        return finding;
    }
    let mut groups: BTreeMap<(&str, u64), Vec<&Evaluated>> = BTreeMap::new();
    for evaluated in seen.evaluations.iter().filter(|evaluated| evaluated.life > 0) {
        groups.entry((&evaluated.flag, evaluated.life)).or_default().push(evaluated);
    }
    for ((flag, life), mut group) in groups {
        group.sort_by_key(|evaluated| evaluated.answered);
        let mut asked = group.clone();
        asked.sort_by_key(|evaluated| evaluated.asked);
        let mut answered = group.iter().peekable();
        let mut newest = 0;
        for evaluated in asked {
            while let Some(before) = answered.next_if(|before| before.answered < evaluated.asked) {
                newest = newest.max(before.answer.flag_version);
            }
            let version = evaluated.answer.flag_version;
            finding.case(version >= newest, || {
                format!("{flag} in life {life} went back from version {newest} to {version}")
            });
        }
    }
    finding
}
