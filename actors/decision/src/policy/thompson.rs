//! `thompson/1`: Thompson sampling by probability matching, a little sharpened. Each arm's weight follows its exact
//! probability of being best.
//!
//! Chapelle & Li 2011 draw one sample a unit; here the allocation is published for everybody, so the probability itself
//! is the weight (Scott 2010), to the power 5/4: matching is asymptotically right and early on too patient, above all when
//! outcomes come in batches. On near ties the power costs tail, because an arm that only chance put ahead is followed
//! further; 3/2 would gain less than it risks. Its regret: `cargo test -p featureops-decision --test regret -- --nocapture`.
//! One hundredth of all traffic is shared equally, so that no arm is ever starved of evidence; bounds come next; a change
//! of less than 50 basis points is not worth a flip of anybody's variant.
//!
//! Proportions: Beta(prior + successes, prior + failures). With several strata the adjusted mean m and its quasi-variance
//! v stand for m (1 - m) / v units. Means, counts and ratios: normal, with a unit-information prior at the mean
//! of all units (Kass & Wasserman 1995), so that an arm without units is uncertain and not infinite.

use featureops_proto::v1;

use crate::best::{Posterior, probability_best};
use crate::contrast::{Adjusted, adjust};
use crate::error::InputError;
use crate::moments::{Scope, Table, metric_of, table};
use crate::policy::weights::{Bounds, WHOLE};

/// Name and version in the records.
pub const POLICY: &str = "thompson/1";
/// Share of all traffic that is given equally.
pub const EXPLORATION: f64 = 0.01;
/// Power to which P(best) is raised before it becomes a share.
pub const SHARPNESS: f64 = 1.25;
/// A smaller change is not made.
pub const MOVE_MIN_BASIS_POINTS: u32 = 50;
/// Units with which an arm's variance is shrunk to that of all arms (normal posteriors).
const VARIANCE_SHRINKAGE_UNITS: f64 = 10.0;

/// What the policy makes of its inputs.
#[derive(Debug, Clone, PartialEq)]
pub struct Allocation {
    /// P(best) per arm.
    pub p_best: Vec<f64>,
    /// Belief about each arm's mean.
    pub posteriors: Vec<Posterior>,
    /// P(best) as weights, before sharpening, exploration and bounds.
    pub unbounded: Vec<u32>,
    /// What the policy wants: sums to 10,000 and keeps the bounds.
    pub weights: Vec<u32>,
    /// Basis points that would change arm.
    pub moved: u32,
}

/// Why the policy leaves the weights as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stay {
    /// The experiment's weights are fixed.
    FixedPolicy,
    /// The primary metric has no data, or nothing in it varies.
    NoData,
    /// Less than 50 basis points would move.
    TooSmall,
}

/// Move, or stay and why. The allocation is there whenever it could be computed.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// Serve these weights.
    Move(Allocation),
    /// Keep those in force.
    Stay(Stay, Option<Allocation>),
}

/// Decides on the frozen inputs alone.
///
/// # Errors
/// When the inputs contradict themselves; never panics.
pub fn decide(inputs: &v1::DecisionInputs) -> Result<Verdict, InputError> {
    if inputs.policy() == v1::experiment::Policy::Fixed {
        return Ok(Verdict::Stay(Stay::FixedPolicy, None));
    }
    let bounds = bounds_of(inputs)?;
    let in_force: u64 = inputs.weights.iter().map(|weight| u64::from(*weight)).sum();
    if inputs.weights.len() != inputs.arms.len() || in_force != u64::from(WHOLE) {
        return Err(InputError::Range("the weights in force"));
    }
    let Some((p_best, posteriors)) = beliefs(inputs)? else {
        return Ok(Verdict::Stay(Stay::NoData, None));
    };
    let even = EXPLORATION / p_best.len() as f64;
    let sharp: Vec<f64> = p_best.iter().map(|best| libm::pow(*best, SHARPNESS)).collect();
    let sum: f64 = sharp.iter().sum();
    let shares: Vec<f64> = sharp.iter().map(|share| (1.0 - EXPLORATION) * share / sum + even).collect();
    let weights = bounds.weights(&shares)?;
    let free = Bounds::new(0, WHOLE, vec![true; p_best.len()])?;
    let unbounded = free.weights(&p_best)?;
    let moved = moved(&inputs.weights, &weights);
    let allocation = Allocation { p_best, posteriors, unbounded, weights, moved };
    if moved < MOVE_MIN_BASIS_POINTS {
        return Ok(Verdict::Stay(Stay::TooSmall, Some(allocation)));
    }
    Ok(Verdict::Move(allocation))
}

/// The bounds the inputs state.
///
/// # Errors
/// When they cannot be kept at all.
pub fn bounds_of(inputs: &v1::DecisionInputs) -> Result<Bounds, InputError> {
    if !(2..=crate::moments::ARMS_MAX).contains(&inputs.arms.len()) {
        return Err(InputError::Arms(inputs.arms.len()));
    }
    let established = inputs.arms.iter().map(|arm| arm.established).collect();
    Bounds::new(inputs.control_floor_basis_points, inputs.new_arm_cap_basis_points, established)
}

/// Basis points that change arm between two vectors of weights.
#[must_use]
pub fn moved(before: &[u32], after: &[u32]) -> u32 {
    before.iter().zip(after).map(|(before, after)| after.saturating_sub(*before)).sum()
}

/// P(best), and the posteriors it follows from, in the order of the arms.
pub type Beliefs = (Vec<f64>, Vec<Posterior>);

/// What is believed under the primary metric; `None` without data.
///
/// # Errors
/// When the inputs contradict themselves.
pub fn beliefs(inputs: &v1::DecisionInputs) -> Result<Option<Beliefs>, InputError> {
    let metric = metric_of(inputs, v1::Role::Primary)?;
    let table = table(inputs, metric, Scope::Learner)?;
    let Some(posteriors) = posteriors(&table, inputs.learner.as_ref())? else { return Ok(None) };
    let p_best = probability_best(&posteriors, metric.lower_is_better).ok_or(InputError::Degenerate)?;
    Ok(Some((p_best, posteriors)))
}

fn posteriors(
    table: &Table,
    learner: Option<&v1::LearnerRecord>,
) -> Result<Option<Vec<Posterior>>, InputError> {
    if table.proportion {
        let (alpha, beta) = prior(learner)?;
        if let [cells] = table.strata.as_slice() {
            // One stratum: the conjugate posterior itself.
            return Ok(Some(
                cells
                    .iter()
                    .map(|cell| {
                        let successes = cell.units * cell.mean;
                        Posterior::Beta {
                            alpha: alpha + successes,
                            beta: beta + (cell.units - successes).max(0.0),
                        }
                    })
                    .collect(),
            ));
        }
        let Some(adjusted) = adjust(table)? else { return Ok(None) };
        return Ok(Some(adjusted.arms.iter().map(|arm| stratified_beta(arm, alpha, beta)).collect()));
    }
    let Some(adjusted) = adjust(table)? else { return Ok(None) };
    if adjusted.unit_variance <= 0.0 || !adjusted.unit_variance.is_finite() {
        return Ok(None);
    }
    Ok(Some(adjusted.arms.iter().map(|arm| normal(&adjusted, arm)).collect()))
}

/// Pseudo-observations of a proportion. 0 is what an absent field reads as: one success, one failure.
fn prior(learner: Option<&v1::LearnerRecord>) -> Result<(f64, f64), InputError> {
    let read = |millionths: u64| if millionths == 0 { 1.0 } else { millionths as f64 / 1e6 };
    let (alpha, beta) = learner.map_or((1.0, 1.0), |learner| {
        (read(learner.prior_alpha_millionths), read(learner.prior_beta_millionths))
    });
    // Below 1 the density is infinite at an end of the unit interval, which no quadrature on a grid survives.
    if alpha < 1.0 || beta < 1.0 || alpha + beta > 1e9 {
        return Err(InputError::Range("prior pseudo-observations below 1"));
    }
    Ok((alpha, beta))
}

fn stratified_beta(arm: &crate::contrast::AdjustedArm, alpha: f64, beta: f64) -> Posterior {
    if arm.units <= 0.0 {
        return Posterior::Beta { alpha, beta };
    }
    let mean = arm.mean.clamp(0.0, 1.0);
    // Off the ends, where the variance of a share would be 0 and the units infinite.
    let inner = (mean * arm.units + 1.0) / (arm.units + 2.0);
    let worth = if arm.variance > 0.0 { inner * (1.0 - inner) / arm.variance } else { arm.units };
    // Strata explain a part of the variance, never half of it; beyond that the quasi-variance is at fault.
    let units = worth.min(2.0 * arm.units);
    Posterior::Beta { alpha: alpha + mean * units, beta: beta + (1.0 - mean) * units }
}

fn normal(adjusted: &Adjusted, arm: &crate::contrast::AdjustedArm) -> Posterior {
    let unit = adjusted.unit_variance;
    if arm.units <= 0.0 || !arm.variance.is_finite() {
        return Posterior::Normal { mean: adjusted.mean, sd: libm::sqrt(unit) };
    }
    let freedom = (arm.units - 1.0).max(0.0);
    // A handful of equal values (most units spend nothing) must not look like certainty.
    let variance = (freedom * arm.variance + VARIANCE_SHRINKAGE_UNITS * unit / arm.units)
        / (freedom + VARIANCE_SHRINKAGE_UNITS);
    let (data, prior) = (1.0 / variance, 1.0 / unit);
    Posterior::Normal {
        mean: (data * arm.mean + prior * adjusted.mean) / (data + prior),
        sd: libm::sqrt(1.0 / (data + prior)),
    }
}
