//! Guardrails: when an arm harms, by enough and beyond doubt, it is stopped.
//!
//! The literal rule "stop at a 5 % drop" stops a harmless variant in more than half of all experiments. Here three things must
//! hold at once for a guardrail metric and an arm: both arms have the minimum of units; the harm is beyond the limit,
//! relative to control, at equal strata; and one-sided anytime-valid evidence excludes "no harm". The .05 of false
//! trips is shared over arms and guardrails, so it holds for the experiment and for every look.

use featureops_proto::v1;

use crate::confidence::{evidence, planned_for_pair};
use crate::contrast::{Contrast, adjust};
use crate::error::InputError;
use crate::moments::{Scope, table};

/// Name and version in the records.
pub const POLICY: &str = "guardrail/1";
/// False trips of an experiment without harm, over all looks, arms and guardrails.
pub const ALPHA: f64 = 0.05;
/// Limit of relative harm when the guardrail states none.
pub const LIMIT_BASIS_POINTS: u32 = 500;
/// Units of both arms when the guardrail states none.
pub const UNITS_MIN: u64 = 1_000;

/// One arm under one guardrail.
#[derive(Debug, Clone, PartialEq)]
pub struct Judgement {
    /// Index of the arm.
    pub arm: usize,
    /// Its variant.
    pub variant: String,
    /// The guardrail's metric.
    pub metric: String,
    /// Arm less control, within strata.
    pub contrast: Contrast,
    /// Relative to control, positive is harm; infinite when control's mean is 0.
    pub harm: f64,
    /// Harm beyond it is too much.
    pub limit: f64,
    /// ln e against "no harm".
    pub ln_evidence: f64,
    /// ln(1 / share of alpha): evidence beyond it excludes "no harm".
    pub ln_threshold: f64,
    /// Share of alpha.
    pub alpha: f64,
    /// Both arms have the minimum of units.
    pub enough_units: bool,
    /// That minimum.
    pub units_min: u64,
    /// Whether a smaller value of the metric is better.
    pub lower_is_better: bool,
}

impl Judgement {
    /// Whether the arm is to be stopped.
    #[must_use]
    pub fn trips(&self) -> bool {
        self.enough_units && self.harm > self.limit && self.ln_evidence >= self.ln_threshold
    }
}

/// Every arm under every guardrail, where a contrast exists. Guardrails in order, arms in order.
///
/// # Errors
/// When the inputs contradict themselves.
pub fn judge(inputs: &v1::DecisionInputs) -> Result<Vec<Judgement>, InputError> {
    let guardrails = || inputs.metrics.iter().filter(|metric| metric.role == v1::Role::Guardrail as i32);
    let arms = inputs.arms.len();
    let comparisons = guardrails().count().saturating_mul(arms.saturating_sub(1)).max(1);
    let alpha = ALPHA / comparisons as f64;
    let planned = planned_for_pair(inputs.planned_units, arms);
    let mut judgements = Vec::new();
    for metric in guardrails() {
        let table = table(inputs, metric, Scope::Generation)?;
        let Some(adjusted) = adjust(&table)? else { continue };
        let limit_basis_points =
            if metric.limit_basis_points == 0 { LIMIT_BASIS_POINTS } else { metric.limit_basis_points };
        let units_min = if metric.minimum_units == 0 { UNITS_MIN } else { metric.minimum_units };
        let control_units = adjusted.arms.first().map_or(0.0, |arm| arm.units);
        for (arm, (input, own)) in inputs.arms.iter().zip(&adjusted.arms).enumerate().skip(1) {
            let Some(contrast) = adjusted.contrast(arm) else { continue };
            let direction = if metric.lower_is_better { 1.0 } else { -1.0 };
            let harmful = direction * contrast.difference;
            let harm = match contrast.relative() {
                Some(relative) => direction * relative,
                // Any harm is beyond any share of nothing.
                None if harmful > 0.0 => f64::INFINITY,
                None => 0.0,
            };
            judgements.push(Judgement {
                arm,
                variant: input.variant.clone(),
                metric: metric.metric.clone(),
                contrast,
                harm,
                limit: f64::from(limit_basis_points) / 10_000.0,
                ln_evidence: evidence(&contrast, direction, planned, alpha),
                ln_threshold: -libm::log(alpha),
                alpha,
                enough_units: own.units >= units_min as f64 && control_units >= units_min as f64,
                units_min,
                lower_is_better: metric.lower_is_better,
            });
        }
    }
    Ok(judgements)
}

/// The arm to stop, if any: the one with most evidence, ties to the first.
///
/// # Errors
/// When the inputs contradict themselves.
pub fn trip(inputs: &v1::DecisionInputs) -> Result<Option<Judgement>, InputError> {
    let mut worst: Option<Judgement> = None;
    for judgement in judge(inputs)? {
        if judgement.trips() && worst.as_ref().is_none_or(|worst| judgement.ln_evidence > worst.ln_evidence) {
            worst = Some(judgement);
        }
    }
    Ok(worst)
}
