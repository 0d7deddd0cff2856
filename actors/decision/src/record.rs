//! From a verdict to the record that is kept: every deciding field of a `Decision`, a function of its inputs alone.
//!
//! A number has a name; a sentence names the numbers it rests on; replay compares the bytes of both. Fields that belong to
//! the moment (status, sequence, principal, time, inverse) are the owner's to fill and are not touched here.

use featureops_proto::v1;

use crate::ENGINE;
use crate::confidence::{interval, planned_for_pair};
use crate::contrast::{Adjusted, adjust};
use crate::covariates;
use crate::error::InputError;
use crate::guardrail::{self, Judgement};
use crate::moments::{Scope, metric_of, table};
use crate::number::{number, ten_digits};
use crate::policy::thompson::{self, Allocation};
use crate::policy::weights::WHOLE;
use crate::winner::{self, Winner};

/// Error of the displayed intervals, shared over the arms.
const INTERVAL_ALPHA: f64 = 0.05;

/// The record of a reallocation.
///
/// # Errors
/// When the inputs contradict themselves.
pub fn reallocation(
    inputs: &v1::DecisionInputs,
    allocation: &Allocation,
) -> Result<v1::Decision, InputError> {
    let primary = metric_of(inputs, v1::Role::Primary)?;
    let adjusted = adjust(&table(inputs, primary, Scope::Generation)?)?;
    let mut statistics = Vec::new();
    for ((arm, p_best), posterior) in inputs.arms.iter().zip(&allocation.p_best).zip(&allocation.posteriors) {
        statistics.push(number(format!("p_best.{}", arm.variant), *p_best));
        statistics.push(number(format!("mean.{}", arm.variant), posterior.mean()));
        statistics.push(number(format!("sd.{}", arm.variant), posterior.sd()));
    }
    contrasts(inputs, adjusted.as_ref(), INTERVAL_ALPHA, &mut statistics);

    let value = |weights: &[u32]| {
        weights
            .iter()
            .zip(&allocation.posteriors)
            .map(|(weight, posterior)| f64::from(*weight) * posterior.mean())
            .sum::<f64>()
            / f64::from(WHOLE)
    };
    let (before, after) = (value(&inputs.weights), value(&allocation.weights));
    let expected_effect = (before != 0.0).then(|| number("expected_effect", (after - before) / before.abs()));
    let moved = number("traffic_moved_basis_points", f64::from(allocation.moved));
    statistics.push(moved.clone());

    let mut decision = v1::Decision {
        action: v1::decision::Action::Reallocate as i32,
        policy: thompson::POLICY.to_owned(),
        weights_before: inputs.weights.clone(),
        weights_after: allocation.weights.clone(),
        thresholds: vec![
            number("exploration", thompson::EXPLORATION),
            number("sharpness", thompson::SHARPNESS),
            number("move_min_basis_points", f64::from(thompson::MOVE_MIN_BASIS_POINTS)),
            number("interval_alpha", share(INTERVAL_ALPHA, inputs)),
        ],
        alternatives: vec![
            v1::Alternative {
                weights: allocation.unbounded.clone(),
                reason: "P(best) itself, before sharpening, exploration and bounds".to_owned(),
            },
            v1::Alternative {
                weights: inputs.weights.clone(),
                reason: format!(
                    "stay: {} of traffic stands elsewhere than its probability of being best",
                    basis_points(allocation.moved)
                ),
            },
        ],
        expected_effect,
        traffic_moved_basis_points: allocation.moved,
        bounds: bounds(inputs),
        narrative: reallocation_story(inputs, primary, allocation),
        reason: "probability of being best changed".to_owned(),
        ..common(inputs)
    };
    decision.statistics = statistics;
    Ok(decision)
}

/// The record of a trip by a guardrail.
#[must_use]
pub fn trip(inputs: &v1::DecisionInputs, judgement: &Judgement) -> v1::Decision {
    let contrast = &judgement.contrast;
    let variant = &judgement.variant;
    let names = ["harm", "difference", "standard_error", "control_mean", "arm_mean", "ln_evidence"]
        .map(|name| format!("{name}.{variant}"));
    let values = [
        judgement.harm,
        contrast.difference,
        contrast.standard_error(),
        contrast.control,
        contrast.mean,
        judgement.ln_evidence,
    ];
    let mut statistics: Vec<v1::Number> =
        names.iter().zip(values).map(|(name, value)| number(name.as_str(), value)).collect();
    statistics.push(number(format!("effective_units.{variant}"), contrast.effective_units));
    statistics.push(number(format!("information.{variant}"), 1.0 / contrast.variance));
    let metric = inputs
        .metrics
        .iter()
        .find(|metric| metric.metric == judgement.metric && metric.role == v1::Role::Guardrail as i32);
    statistics.extend(metric.into_iter().flat_map(|metric| covariates::numbers(inputs, metric)));
    let worse = if judgement.lower_is_better { "above" } else { "below" };
    let mut narrative = vec![
        sentence(
            format!(
                "{} of {variant} is {} % {worse} control in the same hours: {} against {}.",
                judgement.metric,
                ten_digits(judgement.harm * 100.0),
                ten_digits(contrast.mean),
                ten_digits(contrast.control)
            ),
            &[&format!("harm.{variant}"), &format!("arm_mean.{variant}"), &format!("control_mean.{variant}")],
        ),
        sentence(format!("The limit of harm is {} %.", ten_digits(judgement.limit * 100.0)), &["limit"]),
        sentence(
            format!(
                "Evidence against no harm, valid at every look, is e^{}; e^{} is needed.",
                ten_digits(judgement.ln_evidence),
                ten_digits(judgement.ln_threshold)
            ),
            &[&format!("ln_evidence.{variant}"), "ln_evidence_min"],
        ),
    ];
    narrative.extend(metric.and_then(|metric| covariates::sentence(inputs, metric)));
    v1::Decision {
        action: v1::decision::Action::Trip as i32,
        policy: guardrail::POLICY.to_owned(),
        statistics,
        thresholds: vec![
            number("limit", judgement.limit),
            number("alpha", judgement.alpha),
            number("ln_evidence_min", judgement.ln_threshold),
            number("units_min", judgement.units_min as f64),
        ],
        alternatives: vec![v1::Alternative {
            weights: inputs.weights.clone(),
            reason: "serve on: the guardrail's harm would go on".to_owned(),
        }],
        traffic_moved_basis_points: treated(inputs),
        bounds: vec!["a tripped flag serves its safe variant until a person resumes it".to_owned()],
        narrative,
        variant: variant.clone(),
        reason: format!("guardrail {}", judgement.metric),
        ..common(inputs)
    }
}

/// The record of a proposal to promote.
///
/// # Errors
/// When the inputs contradict themselves.
pub fn promotion(inputs: &v1::DecisionInputs, winner: &Winner) -> Result<v1::Decision, InputError> {
    let primary = metric_of(inputs, v1::Role::Primary)?;
    let adjusted = adjust(&table(inputs, primary, Scope::Generation)?)?;
    let variant = &winner.variant;
    let mut statistics = vec![
        number(format!("p_best.{variant}"), winner.p_best),
        number(format!("ln_evidence.{variant}"), winner.ln_evidence),
        number(format!("control_mean.{variant}"), winner.contrast.control),
        number(format!("arm_mean.{variant}"), winner.contrast.mean),
    ];
    contrasts(inputs, adjusted.as_ref(), winner::ALPHA, &mut statistics);
    let expected_effect = winner.contrast.relative().map(|relative| number("expected_effect", relative));
    let mut narrative = vec![
        sentence(
            format!("{variant} is best with probability {}.", ten_digits(winner.p_best)),
            &[&format!("p_best.{variant}")],
        ),
        sentence(
            format!(
                "{} is {} against {} of control in the same hours.",
                primary.metric,
                ten_digits(winner.contrast.mean),
                ten_digits(winner.contrast.control)
            ),
            &[&format!("arm_mean.{variant}"), &format!("control_mean.{variant}")],
        ),
        sentence(
            format!(
                "Evidence of an improvement, valid at every look, is e^{}; e^{} is needed.",
                ten_digits(winner.ln_evidence),
                ten_digits(winner.ln_threshold)
            ),
            &[&format!("ln_evidence.{variant}"), "ln_evidence_min"],
        ),
    ];
    narrative.extend(covariates::story(inputs));
    narrative.push(sentence("A person promotes.".to_owned(), &[]));
    Ok(v1::Decision {
        action: v1::decision::Action::Promote as i32,
        policy: winner::POLICY.to_owned(),
        weights_before: inputs.weights.clone(),
        statistics,
        thresholds: vec![
            number("p_best_min", winner::P_BEST_MIN),
            number("alpha", winner.alpha),
            number("ln_evidence_min", winner.ln_threshold),
            number("units_min", winner.units_min as f64),
        ],
        alternatives: vec![v1::Alternative {
            weights: inputs.weights.clone(),
            reason: "keep learning: evidence would grow, traffic on the other arms would go on".to_owned(),
        }],
        expected_effect,
        traffic_moved_basis_points: WHOLE
            .saturating_sub(inputs.weights.get(winner.arm).copied().unwrap_or(0)),
        bounds: vec!["proposed only: a person promotes".to_owned()],
        narrative,
        variant: variant.clone(),
        reason: "best arm, established against control".to_owned(),
        ..common(inputs)
    })
}

pub(crate) fn common(inputs: &v1::DecisionInputs) -> v1::Decision {
    v1::Decision {
        generation: inputs.generation,
        engine: ENGINE.to_owned(),
        inputs: Some(inputs.clone()),
        ..v1::Decision::default()
    }
}

/// Traffic that a trip takes off treatments.
fn treated(inputs: &v1::DecisionInputs) -> u32 {
    WHOLE.saturating_sub(inputs.weights.first().copied().unwrap_or(0))
}

fn share(alpha: f64, inputs: &v1::DecisionInputs) -> f64 {
    alpha / inputs.arms.len().saturating_sub(1).max(1) as f64
}

/// Units, and every arm's contrast against control under the primary metric.
pub(crate) fn contrasts(
    inputs: &v1::DecisionInputs,
    adjusted: Option<&Adjusted>,
    alpha: f64,
    numbers: &mut Vec<v1::Number>,
) {
    let Some(adjusted) = adjusted else { return };
    numbers.push(number("strata", adjusted.strata as f64));
    let planned = planned_for_pair(inputs.planned_units, inputs.arms.len());
    for (arm, (input, own)) in inputs.arms.iter().zip(&adjusted.arms).enumerate() {
        let variant = &input.variant;
        numbers.push(number(format!("units.{variant}"), own.units));
        if let Some(contrast) = adjusted.contrast(arm) {
            let interval = interval(&contrast, planned, share(alpha, inputs));
            numbers.push(number(format!("difference.{variant}"), contrast.difference));
            numbers.push(number(format!("standard_error.{variant}"), contrast.standard_error()));
            numbers.push(number(format!("lower.{variant}"), interval.lower));
            numbers.push(number(format!("upper.{variant}"), interval.upper));
            numbers.push(number(format!("effective_units.{variant}"), contrast.effective_units));
            numbers.push(number(format!("information.{variant}"), 1.0 / contrast.variance));
        }
    }
    if let Ok(primary) = metric_of(inputs, v1::Role::Primary) {
        numbers.extend(covariates::numbers(inputs, primary));
    }
}

pub(crate) fn bounds(inputs: &v1::DecisionInputs) -> Vec<String> {
    vec![
        "weights sum to 10000 basis points".to_owned(),
        format!("control at or above {}", basis_points(inputs.control_floor_basis_points)),
        format!("new arms together at or below {}", basis_points(inputs.new_arm_cap_basis_points)),
    ]
}

fn reallocation_story(
    inputs: &v1::DecisionInputs,
    primary: &v1::MetricInput,
    allocation: &Allocation,
) -> Vec<v1::Sentence> {
    let mut story = Vec::new();
    let best = inputs
        .arms
        .iter()
        .zip(&allocation.p_best)
        .zip(&allocation.posteriors)
        .reduce(|best, next| if *next.0.1 > *best.0.1 { next } else { best });
    if let Some(((arm, p_best), posterior)) = best {
        let variant = &arm.variant;
        let direction = if primary.lower_is_better { "lowest" } else { "highest" };
        story.push(sentence(
            format!(
                "{variant} has the {direction} {} with probability {}.",
                primary.metric,
                ten_digits(*p_best)
            ),
            &[&format!("p_best.{variant}")],
        ));
        story.push(sentence(
            format!(
                "Its {} is estimated at {}, standard deviation {}.",
                primary.metric,
                ten_digits(posterior.mean()),
                ten_digits(posterior.sd())
            ),
            &[&format!("mean.{variant}"), &format!("sd.{variant}")],
        ));
    }
    story.extend(covariates::story(inputs));
    story.push(sentence(
        format!("{} of traffic change arm.", basis_points(allocation.moved)),
        &["traffic_moved_basis_points"],
    ));
    story
}

fn basis_points(count: u32) -> String {
    format!("{count} basis points")
}

pub(crate) fn sentence(text: String, numbers: &[&str]) -> v1::Sentence {
    v1::Sentence { text, numbers: numbers.iter().map(|name| (*name).to_owned()).collect() }
}
