//! Replay: the same inputs, the same bytes; or a plain statement that this build cannot tell.
//!
//! What `apply` writes into the record (name, status, bounds that held, weights before and applied, inverse, level, principal,
//! time, versions) is the log's own and is taken from the record as it stands.

use std::fmt;

use featureops_proto::{ALARM_POLICY, v1};

use crate::ENGINE;
use crate::error::InputError;
use crate::policy::ramp;
use crate::policy::thompson::{self, Verdict};
use crate::{guardrail, record, winner};

/// Why a recorded decision cannot be recomputed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unavailable {
    /// An outside monitor's alarm made it, on evidence that no record holds.
    Alarm,
    /// The record has no inputs, or has lost its moments: only the newest of a flag keep them.
    NoInputs,
    /// Another version of the mathematics made it.
    Engine(String),
    /// A policy or version this build does not have.
    Policy(String),
    /// The inputs are refused today.
    Inputs(InputError),
    /// From these inputs the policy takes no such action: the record and the inputs do not belong together.
    NoAction,
}

impl fmt::Display for Unavailable {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Alarm => write!(formatter, "an alarm made it: its evidence is the monitor's"),
            Self::NoInputs => write!(formatter, "the record holds no moments any more"),
            Self::Engine(version) => write!(formatter, "engine {version} is gone; this is {ENGINE}"),
            Self::Policy(policy) => write!(formatter, "policy {policy} is gone"),
            Self::Inputs(error) => write!(formatter, "inputs: {error}"),
            Self::NoAction => write!(formatter, "the policy takes no action on these inputs"),
        }
    }
}

impl std::error::Error for Unavailable {}

impl From<InputError> for Unavailable {
    fn from(error: InputError) -> Self {
        Self::Inputs(error)
    }
}

/// Recomputes the deciding fields from the recorded inputs; all other fields are the record's own.
///
/// # Errors
/// When an alarm made it, when the policy, its version or the engine is gone, or the inputs do not lead to an action at all.
pub fn replay(recorded: &v1::Decision) -> Result<v1::Decision, Unavailable> {
    // First: an alarm's record never had inputs, so it has lost none.
    if recorded.policy == ALARM_POLICY {
        return Err(Unavailable::Alarm);
    }
    let inputs = recorded.inputs.as_ref().ok_or(Unavailable::NoInputs)?;
    if inputs.strata.is_empty() {
        return Err(Unavailable::NoInputs);
    }
    if recorded.engine != ENGINE {
        return Err(Unavailable::Engine(recorded.engine.clone()));
    }
    let recomputed = match recorded.policy.as_str() {
        thompson::POLICY => match thompson::decide(inputs)? {
            Verdict::Move(allocation) => record::reallocation(inputs, &allocation)?,
            Verdict::Stay(..) => return Err(Unavailable::NoAction),
        },
        ramp::POLICY => match ramp::decide(inputs)? {
            ramp::Verdict::Go(climb) => ramp::record(inputs, &climb)?,
            ramp::Verdict::Wait(_) => return Err(Unavailable::NoAction),
        },
        guardrail::POLICY => record::trip(inputs, &guardrail::trip(inputs)?.ok_or(Unavailable::NoAction)?),
        winner::POLICY => record::promotion(inputs, &winner::winner(inputs)?.ok_or(Unavailable::NoAction)?)?,
        other => return Err(Unavailable::Policy(other.to_owned())),
    };
    Ok(v1::Decision {
        action: recomputed.action,
        generation: recomputed.generation,
        policy: recomputed.policy,
        engine: recomputed.engine,
        inputs: recomputed.inputs,
        weights_after: recomputed.weights_after,
        statistics: recomputed.statistics,
        thresholds: recomputed.thresholds,
        alternatives: recomputed.alternatives,
        expected_effect: recomputed.expected_effect,
        traffic_moved_basis_points: recomputed.traffic_moved_basis_points,
        narrative: recomputed.narrative,
        variant: recomputed.variant,
        reason: recomputed.reason,
        ..recorded.clone()
    })
}
