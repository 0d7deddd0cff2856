//! A winner, proposed to people: P(best) alone never promotes.
//!
//! P(best) >= .95 looked at continuously names a winner among equals in a third of experiments. So a proposal also needs
//! one-sided anytime-valid evidence against control within strata, .05 shared over the arms, and the minimum of units in both.

use featureops_proto::v1;

use crate::confidence::{evidence, planned_for_pair};
use crate::contrast::{Contrast, adjust};
use crate::error::InputError;
use crate::moments::{Scope, metric_of, table};
use crate::policy::thompson;

/// Name and version in the records.
pub const POLICY: &str = "winner/1";
/// P(best) that a winner needs.
pub const P_BEST_MIN: f64 = 0.95;
/// False proposals of an experiment without effect, over all looks and arms.
pub const ALPHA: f64 = 0.05;
/// Units of both arms when the primary metric states none.
pub const UNITS_MIN: u64 = 1_000;

/// An arm that could be promoted.
#[derive(Debug, Clone, PartialEq)]
pub struct Winner {
    /// Index of the arm.
    pub arm: usize,
    /// Its variant.
    pub variant: String,
    /// Probability of being best.
    pub p_best: f64,
    /// Arm less control, within strata.
    pub contrast: Contrast,
    /// ln e against "no better than control".
    pub ln_evidence: f64,
    /// ln(1 / share of alpha).
    pub ln_threshold: f64,
    /// Share of alpha.
    pub alpha: f64,
    /// Units both arms needed.
    pub units_min: u64,
}

/// The winner, if the data names one.
///
/// # Errors
/// When the inputs contradict themselves.
pub fn winner(inputs: &v1::DecisionInputs) -> Result<Option<Winner>, InputError> {
    let metric = metric_of(inputs, v1::Role::Primary)?;
    let Some((p_best, _)) = thompson::beliefs(inputs)? else { return Ok(None) };
    let Some((arm, p_best)) =
        p_best.iter().copied().enumerate().skip(1).find(|(_, p_best)| *p_best >= P_BEST_MIN)
    else {
        return Ok(None);
    };
    let Some(adjusted) = adjust(&table(inputs, metric, Scope::Generation)?)? else { return Ok(None) };
    let Some(contrast) = adjusted.contrast(arm) else { return Ok(None) };
    let units_min = if metric.minimum_units == 0 { UNITS_MIN } else { metric.minimum_units };
    let units = |arm: usize| adjusted.arms.get(arm).map_or(0.0, |arm| arm.units);
    let alpha = ALPHA / inputs.arms.len().saturating_sub(1).max(1) as f64;
    let direction = if metric.lower_is_better { -1.0 } else { 1.0 };
    let planned = planned_for_pair(inputs.planned_units, inputs.arms.len());
    let ln_evidence = evidence(&contrast, direction, planned, alpha);
    let ln_threshold = -libm::log(alpha);
    let enough = units(arm) >= units_min as f64 && units(0) >= units_min as f64;
    Ok((enough && ln_evidence >= ln_threshold).then(|| Winner {
        arm,
        variant: inputs.arms.get(arm).map(|arm| arm.variant.clone()).unwrap_or_default(),
        p_best,
        contrast,
        ln_evidence,
        ln_threshold,
        alpha,
        units_min,
    }))
}
