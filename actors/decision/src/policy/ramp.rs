//! `ramp/1`: the treatment's weight climbs by steps that people chose; what is decided is when, and whether at all.
//!
//! ```text
//!   the step in force: the highest that the treatment's weight reaches
//!     held by log time ── enough exposed units ── no guardrail looks worse than its limit ── the cap has room
//!       ─> REALLOCATE to the next step       one that takes an approval is proposed, at any level
//!       ─> PROMOTE, after the last           a person promotes
//! ```
//!
//! A guardrail trips on evidence beyond doubt. A climb asks for less: where the point in the middle of a guardrail's
//! anytime-valid interval lies beyond the limit of harm, more traffic waits until it does not.

use featureops_proto::v1;

use crate::contrast::adjust;
use crate::error::InputError;
use crate::guardrail;
use crate::moments::{Scope, metric_of, table};
use crate::number::{number, ten_digits};
use crate::policy::weights::WHOLE;
use crate::record::{bounds, common, contrasts, sentence};

/// Name and version in the records.
pub const POLICY: &str = "ramp/1";
/// Error of the displayed intervals.
const INTERVAL_ALPHA: f64 = 0.05;

/// Where a ramp stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Standing {
    /// Index of the step in force; `None`: below the first.
    pub step: Option<usize>,
    /// Index of the next; `None`: the last is in force.
    pub next: Option<usize>,
    /// Log time until which the step is held.
    pub hold_until_ms: i64,
    /// Log time for which it was held.
    pub held_ms: i64,
    /// Exposed units of the treatment in the generation.
    pub units: u64,
    /// Units the step asks for.
    pub units_min: u64,
    /// What comes next takes a person.
    pub approval: bool,
}

/// What a ramp waits for.
#[derive(Debug, Clone, PartialEq)]
pub enum Wait {
    /// The step is held by log time.
    Hold {
        /// Unix milliseconds.
        until_ms: i64,
    },
    /// Units of the treatment.
    Units {
        /// Exposed so far.
        units: u64,
        /// Asked for.
        units_min: u64,
    },
    /// A guardrail's metric looks worse than its limit.
    Guardrail {
        /// The metric.
        metric: String,
        /// Relative harm, its estimate.
        harm: f64,
        /// The limit.
        limit: f64,
    },
    /// The cap on new arms, or the environment's budget.
    Cap {
        /// What the next step asks for, in basis points.
        wanted: u32,
        /// What there is.
        cap: u32,
    },
}

impl Wait {
    /// Whether it is more than a matter of time and traffic, so that people should hear of it.
    #[must_use]
    pub const fn stands_in_the_way(&self) -> bool {
        matches!(self, Self::Guardrail { .. } | Self::Cap { .. })
    }

    /// A sentence for people.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::Hold { until_ms } => {
                format!("the step is held until {}", featureops_proto::timestamp(*until_ms))
            }
            Self::Units { units, units_min } => {
                format!("the treatment has {units} exposed units of {units_min} that the step asks for")
            }
            Self::Guardrail { metric, harm, limit } => format!(
                "guardrail {metric}: harm is estimated at {} %, beyond its limit of {} %, though not beyond doubt",
                ten_digits(harm * 100.0),
                ten_digits(limit * 100.0)
            ),
            Self::Cap { wanted, cap } => {
                format!(
                    "the next step is {wanted} basis points, new arms may have {cap}: raise the budget, or promote"
                )
            }
        }
    }
}

/// A step that may be taken now.
#[derive(Debug, Clone, PartialEq)]
pub struct Climb {
    /// Where it stands.
    pub standing: Standing,
    /// The next step's weights; `None`: the last was held, promote.
    pub weights: Option<Vec<u32>>,
    /// Every guardrail, as it was judged.
    pub judgements: Vec<guardrail::Judgement>,
}

/// Go, or wait and for what.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// Take the next step.
    Go(Box<Climb>),
    /// Stay.
    Wait(Vec<Wait>),
}

/// Where the ramp stands at the frozen position.
///
/// # Errors
/// When the inputs are no ramp's.
pub fn standing(inputs: &v1::DecisionInputs) -> Result<Standing, InputError> {
    let [_, weight] = *inputs.weights.as_slice() else { return Err(InputError::Shape("weights of a ramp")) };
    let steps = &inputs.ramp_steps;
    if inputs.policy() != v1::experiment::Policy::Ramp || steps.is_empty() {
        return Err(InputError::Shape("steps of a ramp"));
    }
    let step = steps.iter().rposition(|step| step.basis_points <= weight);
    let next = steps.iter().position(|step| step.basis_points > weight);
    let current = step.and_then(|step| steps.get(step));
    let hold_ms = current.map_or(0, |step| step.hold_seconds.saturating_mul(1_000));
    let units = inputs.strata.iter().filter_map(|stratum| stratum.arms.get(1)).map(|arm| arm.units);
    Ok(Standing {
        step,
        next,
        hold_until_ms: inputs.allocated_ms.saturating_add(hold_ms),
        held_ms: inputs.log_time_ms.saturating_sub(inputs.allocated_ms),
        units: units.fold(0, u64::saturating_add),
        // A step that nobody has seen has shown nothing.
        units_min: current.map_or(0, |step| step.minimum_units.max(1)),
        approval: next.and_then(|next| steps.get(next)).is_none_or(|step| step.approval),
    })
}

/// Decides on the frozen inputs alone.
///
/// # Errors
/// When the inputs contradict themselves; never panics.
pub fn decide(inputs: &v1::DecisionInputs) -> Result<Verdict, InputError> {
    let standing = standing(inputs)?;
    let judgements = guardrail::judge(inputs)?;
    let next = standing.next.and_then(|next| inputs.ramp_steps.get(next));
    let mut waits = Vec::new();
    if inputs.log_time_ms < standing.hold_until_ms {
        waits.push(Wait::Hold { until_ms: standing.hold_until_ms });
    }
    if standing.units < standing.units_min || inputs.strata.is_empty() {
        waits.push(Wait::Units { units: standing.units, units_min: standing.units_min.max(1) });
    }
    for judgement in judgements.iter().filter(|judgement| judgement.harm > judgement.limit) {
        waits.push(Wait::Guardrail {
            metric: judgement.metric.clone(),
            harm: judgement.harm,
            limit: judgement.limit,
        });
    }
    let established = inputs.arms.get(1).is_some_and(|arm| arm.established);
    if let Some(next) = next
        && !established
        && next.basis_points > inputs.new_arm_cap_basis_points
    {
        waits.push(Wait::Cap { wanted: next.basis_points, cap: inputs.new_arm_cap_basis_points });
    }
    if !waits.is_empty() {
        return Ok(Verdict::Wait(waits));
    }
    let weights = next.map(|next| vec![WHOLE.saturating_sub(next.basis_points), next.basis_points]);
    Ok(Verdict::Go(Box::new(Climb { standing, weights, judgements })))
}

/// The record of a step, or of a proposal to promote.
///
/// # Errors
/// When the inputs contradict themselves.
pub fn record(inputs: &v1::DecisionInputs, climb: &Climb) -> Result<v1::Decision, InputError> {
    let standing = &climb.standing;
    let variant = inputs.arms.get(1).map(|arm| arm.variant.clone()).unwrap_or_default();
    let primary = metric_of(inputs, v1::Role::Primary)?;
    let adjusted = adjust(&table(inputs, primary, Scope::Generation)?)?;
    let seconds = |ms: i64| (ms / 1_000) as f64;
    let step = standing.step.map_or(0, |step| step + 1);
    let hold_min = standing.step.and_then(|step| inputs.ramp_steps.get(step)).map_or(0, |s| s.hold_seconds);
    let mut statistics = vec![
        number("step", step as f64),
        number("held_seconds", seconds(standing.held_ms)),
        number(format!("exposed_units.{variant}"), standing.units as f64),
    ];
    for judgement in &climb.judgements {
        statistics.push(number(format!("harm.{}", judgement.metric), judgement.harm));
    }
    contrasts(inputs, adjusted.as_ref(), INTERVAL_ALPHA, &mut statistics);
    let mut thresholds = vec![
        number("steps", inputs.ramp_steps.len() as f64),
        number("held_seconds_min", hold_min as f64),
        number("units_min", standing.units_min as f64),
    ];
    for judgement in &climb.judgements {
        thresholds.push(number(format!("limit.{}", judgement.metric), judgement.limit));
    }
    let before = inputs.weights.get(1).copied().unwrap_or(0);
    let mut narrative = vec![
        sentence(
            format!(
                "{variant} had {before} basis points for {} seconds; {hold_min} were asked for.",
                ten_digits(seconds(standing.held_ms))
            ),
            &["held_seconds", "held_seconds_min"],
        ),
        sentence(
            format!("{} of its units were exposed; {} were asked for.", standing.units, standing.units_min),
            &[&format!("exposed_units.{variant}"), "units_min"],
        ),
    ];
    for judgement in &climb.judgements {
        let metric = &judgement.metric;
        narrative.push(sentence(
            format!(
                "Harm to {metric} is estimated at {} %, its limit is {} %.",
                ten_digits(judgement.harm * 100.0),
                ten_digits(judgement.limit * 100.0)
            ),
            &[&format!("harm.{metric}"), &format!("limit.{metric}")],
        ));
    }
    let stay = v1::Alternative {
        weights: inputs.weights.clone(),
        reason: "stay: nothing that the step asks for is missing".to_owned(),
    };
    let base = v1::Decision {
        policy: POLICY.to_owned(),
        weights_before: inputs.weights.clone(),
        thresholds,
        alternatives: vec![stay],
        ..common(inputs)
    };
    let decision = match &climb.weights {
        Some(weights) => {
            let after = weights.get(1).copied().unwrap_or(0);
            let moved = after.saturating_sub(before);
            statistics.push(number("traffic_moved_basis_points", f64::from(moved)));
            narrative.push(sentence(
                format!("It gets {after} basis points; {moved} change arm."),
                &["traffic_moved_basis_points"],
            ));
            if standing.approval {
                narrative.push(sentence("This step takes a person's approval.".to_owned(), &[]));
            }
            v1::Decision {
                action: v1::decision::Action::Reallocate as i32,
                weights_after: weights.clone(),
                traffic_moved_basis_points: moved,
                bounds: bounds(inputs),
                reason: format!("step {} of {}", step + 1, inputs.ramp_steps.len()),
                ..base
            }
        }
        None => {
            narrative.push(sentence("The last step was held. A person promotes.".to_owned(), &[]));
            v1::Decision {
                action: v1::decision::Action::Promote as i32,
                traffic_moved_basis_points: WHOLE.saturating_sub(before),
                bounds: vec!["proposed only: a person promotes".to_owned()],
                variant: variant.clone(),
                reason: "the ramp's last step was held".to_owned(),
                ..base
            }
        }
    };
    Ok(v1::Decision { statistics, narrative, ..decision })
}
