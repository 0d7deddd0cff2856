//! P1: a ramp's decisions go from step to step, and what takes an approval had one.

use featureops_proto::v1::decision::{Action, Status};
use featureops_proto::v1::{Decision, principal};

use super::Finding;
use crate::history::Seen;
use crate::plan::Plan;

/// P1.
pub fn steps(_: &Plan, seen: &Seen) -> Finding {
    let mut finding = Finding::default();
    let decisions = seen.settled.iter().flat_map(|(_, settled)| &settled.decisions);
    for decision in decisions.filter(|decision| decision.policy == "ramp/1") {
        let name = &decision.name;
        let Some(inputs) = &decision.inputs else { continue };
        let [_, weight] = *decision.weights_before.as_slice() else { continue };
        let next = inputs.ramp_steps.iter().find(|step| step.basis_points > weight);
        let step = inputs.ramp_steps.iter().rev().find(|step| step.basis_points <= weight);
        let held_ms = inputs.log_time_ms.saturating_sub(inputs.allocated_ms);
        let hold_ms = step.map_or(0, |step| step.hold_seconds.saturating_mul(1_000));
        finding.case(held_ms >= hold_ms, || format!("{name}: held {held_ms} ms of {hold_ms}"));
        match (decision.action(), next) {
            (Action::Reallocate, Some(next)) => {
                let after = decision.weights_after.get(1).copied();
                finding.case(after == Some(next.basis_points), || {
                    format!("{name}: from {weight} to {after:?}, the next step is {}", next.basis_points)
                });
                finding.case(!next.approval || !was_applied(decision) || by_a_person(decision), || {
                    format!("{name}: a step that takes an approval was applied without one")
                });
            }
            (Action::Promote, None) => {
                finding.case(!was_applied(decision) || by_a_person(decision), || {
                    format!("{name}: promoted without a person")
                });
            }
            (action, next) => {
                finding.case(false, || format!("{name}: {} with {next:?} to come", action.as_str_name()));
            }
        }
    }
    finding
}

fn was_applied(decision: &Decision) -> bool {
    matches!(decision.status(), Status::Applied | Status::Reverted)
}

fn by_a_person(decision: &Decision) -> bool {
    let resolved_by = decision.resolved_by.as_ref();
    resolved_by.is_some_and(|principal| principal.kind() == principal::Kind::Human)
}
