//! Stepped ramps: what `apply` asks of them, whoever proposes. A ramp climbs one step at a time, none before its time, and one
//! that takes an approval never without.
//!
//! The step in force follows from the weights, so a person who sets them needs to say nothing else: the highest step that the
//! treatment's weight reaches. Its hold begins with every change of the weights.

use featureops_proto::ErrorCode;
use featureops_proto::log::{ExperimentRecord, Refusal};
use featureops_proto::v1::decision::{Action, Status};
use featureops_proto::v1::experiment::Policy;
use featureops_proto::v1::{Decision, Experiment, RampStep};

use crate::State;
use crate::allocation::{BUCKETS, runs_of, weights_of};
use crate::apply::{Context, refuse};
use crate::experiments::DEFAULT_NEW_ARM_CAP;

/// Steps of one ramp.
pub const MAX_STEPS: usize = 32;
/// Longest hold of a step: 366 days.
const MAX_HOLD_SECONDS: i64 = 366 * 24 * 60 * 60;

/// Whether the steps are a ramp's, and nothing but a ramp has any.
pub fn check(given: &Experiment) -> Result<(), Refusal> {
    let bad = |field: &str, value: String, message: &str| {
        refuse(ErrorCode::InvalidArgument, &format!("experiment.{field}"), value, message)
    };
    let steps = &given.ramp_steps;
    if given.policy() != Policy::Ramp {
        if steps.is_empty() {
            return Ok(());
        }
        return bad("ramp_steps", steps.len().to_string(), "only policy RAMP has steps");
    }
    let [_, treatment] = given.arms.as_slice() else {
        return bad("arms", given.arms.len().to_string(), "a ramp has two arms: control, and what climbs");
    };
    if steps.is_empty() || steps.len() > MAX_STEPS {
        return bad("ramp_steps", steps.len().to_string(), "a ramp has 1 to 32 steps");
    }
    let mut below = 0;
    for (at, step) in steps.iter().enumerate() {
        if step.basis_points <= below || step.basis_points > BUCKETS {
            let message = "steps rise: each is above the one before it and at most 10000";
            return bad(&format!("ramp_steps[{at}].basis_points"), step.basis_points.to_string(), message);
        }
        if !(0..=MAX_HOLD_SECONDS).contains(&step.hold_seconds) {
            let message = "0 to 31622400 (366 days)";
            return bad(&format!("ramp_steps[{at}].hold_seconds"), step.hold_seconds.to_string(), message);
        }
        below = step.basis_points;
    }
    let last = steps.len() - 1;
    if below > BUCKETS.saturating_sub(given.control_floor_basis_points) {
        let message = "leaves control less than its floor; lower the floor, or end below it";
        return bad(&format!("ramp_steps[{last}].basis_points"), below.to_string(), message);
    }
    if given.new_arm_cap_basis_points.is_some_and(|cap| below > cap) && !treatment.established {
        let message = "is above new_arm_cap_basis_points; leave that out, or end below it";
        return bad(&format!("ramp_steps[{last}].basis_points"), below.to_string(), message);
    }
    Ok(())
}

/// Starting is what brings the first step about, so who starts must be who may approve it.
pub fn check_start(ctx: &Context, definition: &Experiment) -> Result<(), Refusal> {
    match definition.ramp_steps.first() {
        Some(first) if first.approval => {
            ctx.require_human("starting a ramp whose first step takes an approval")
        }
        _ => Ok(()),
    }
}

/// A ramp that may give a new arm more than a cap that nobody stated would.
pub fn is_loose(given: &Experiment) -> bool {
    let new = given.arms.get(1).is_some_and(|arm| !arm.established);
    new && given.new_arm_cap_basis_points.is_none()
        && highest(given).is_some_and(|highest| highest > DEFAULT_NEW_ARM_CAP)
}

/// Weights of the first step; `None`: not a ramp.
pub fn first_weights(definition: &Experiment) -> Option<Vec<u32>> {
    let first = steps(definition)?.first()?;
    Some(weights(first))
}

/// The highest step's weight; `None`: not a ramp.
pub fn highest(definition: &Experiment) -> Option<u32> {
    steps(definition)?.last().map(|step| step.basis_points)
}

/// Whether the hold of the step in force ends after one moment and by another: its owner looks then, also when no fact comes.
pub fn hold_ends_within(record: &ExperimentRecord, after_ms: i64, by_ms: i64) -> bool {
    let Some(definition) = record.definition.as_ref().filter(|d| steps(d).is_some()) else { return false };
    let until_ms = held_until_ms(record, definition);
    after_ms < until_ms && until_ms <= by_ms
}

/// What becomes of a step that takes an approval.
pub fn at_most(status: Status, approval: bool) -> Status {
    if approval && status == Status::Applied { Status::Proposed } else { status }
}

fn steps(definition: &Experiment) -> Option<&[RampStep]> {
    (definition.policy() == Policy::Ramp).then_some(definition.ramp_steps.as_slice())
}

fn weights(step: &RampStep) -> Vec<u32> {
    vec![BUCKETS.saturating_sub(step.basis_points), step.basis_points]
}

fn treatment_weight(record: &ExperimentRecord) -> u32 {
    weights_of(&record.runs, 2).get(1).copied().unwrap_or(0)
}

fn held_until_ms(record: &ExperimentRecord, definition: &Experiment) -> i64 {
    let weight = treatment_weight(record);
    let current = definition.ramp_steps.iter().rev().find(|step| step.basis_points <= weight);
    let hold_ms = current.map_or(0, |step| step.hold_seconds.saturating_mul(1_000));
    record.allocated_ms.saturating_add(hold_ms)
}

impl State {
    /// A ramp's decision goes to exactly the next step, or promotes after the last, and not before the step in force was held.
    /// Says whether a person must approve it.
    pub(crate) fn check_ramp(&self, record: &ExperimentRecord, decision: &Decision) -> Result<bool, Refusal> {
        let Some(definition) = record.definition.as_ref() else { return Ok(false) };
        let Some(steps) = steps(definition).filter(|_| decision.action() != Action::Trip) else {
            return Ok(false);
        };
        let weight = treatment_weight(record);
        let next = steps.iter().find(|step| step.basis_points > weight);
        let approval = match (decision.action(), next) {
            (Action::Reallocate, Some(next)) => {
                let wanted = weights(next);
                if decision.weights_after != wanted {
                    let message = format!("the ramp's next step is {wanted:?}");
                    let value = format!("{:?}", decision.weights_after);
                    return refuse(ErrorCode::WrongState, "decision.weights_after", value, message);
                }
                next.approval
            }
            (Action::Reallocate, None) => {
                let message = "the ramp's last step is in force; a person promotes, or sets the allocation";
                return refuse(ErrorCode::WrongState, "decision.weights_after", weight, message);
            }
            (_, Some(next)) => {
                let message = format!("the ramp's step of {} basis points comes first", next.basis_points);
                return refuse(ErrorCode::WrongState, "decision.action", weight, message);
            }
            (_, None) => true,
        };
        let until_ms = held_until_ms(record, definition);
        let now_ms = self.log_time_ms();
        if now_ms < until_ms {
            let message =
                format!("the step in force is held until {until_ms} ms of log time, it is {now_ms}");
            return refuse(ErrorCode::WrongState, "decision", weight, message);
        }
        Ok(approval)
    }

    /// The weights of a ramp changed: its step is held from now on.
    pub(crate) fn ramp_allocated(&mut self, number: u32) {
        let now_ms = self.log_time_ms();
        if self.ramp(number).is_some()
            && let Some(record) = self.experiment_mut(number)
        {
            record.allocated_ms = now_ms;
        }
    }

    /// A new generation begins with the first step; with less, if less was served.
    pub(crate) fn ramp_begins_again(&mut self, number: u32) {
        let Some((record, definition)) = self.ramp(number) else { return };
        let first = first_weights(definition)
            .filter(|first| first.get(1).is_some_and(|first| *first < treatment_weight(record)));
        if let (Some(first), Some(record)) = (first, self.experiment_mut(number)) {
            record.runs = runs_of(&first);
        }
        self.ramp_allocated(number);
    }

    fn ramp(&self, number: u32) -> Option<(&ExperimentRecord, &Experiment)> {
        let record = self.experiments.get(&number)?;
        let definition = record.definition.as_ref().filter(|d| steps(d).is_some())?;
        Some((record, definition))
    }
}
