//! Analysis for people: every arm against control, for every metric, over all generations, at equal strata.
//!
//! The folder beside holds the analysis of any experiment from sums that add up: `arm` -> `effect` -> one of `frequentist`,
//! `sequential`, `group`, `bayes`; `multiplicity` over many; `power` before and midway; `bounded` for tiny samples; `peeking` measures them all.

pub mod arm;
pub mod bayes;
pub mod bounded;
pub mod distribution;
pub mod effect;
pub mod frequentist;
pub mod group;
pub mod multiplicity;
pub mod peeking;
pub mod power;
pub mod sequential;

use featureops_proto::v1;

use crate::confidence::{Interval, interval, planned_for_pair};
use crate::contrast::{Contrast, adjust};
use crate::error::InputError;
use crate::moments::{Both, Scope, both};

/// Error of an interval: it holds at every look, for one arm and one metric.
pub const ALPHA: f64 = 0.05;

/// An arm against control under one metric.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// Index of the arm.
    pub arm: usize,
    /// The arm's variant.
    pub variant: String,
    /// The metric's key.
    pub metric: String,
    /// primary, guardrail or secondary.
    pub role: v1::Role,
    /// Estimates.
    pub contrast: Contrast,
    /// Anytime-valid interval of the difference.
    pub lower: f64,
    /// Its upper end.
    pub upper: f64,
    /// What the experiment's covariates did to the numbers above; absent when it declares none.
    pub adjustment: Option<Adjustment>,
}

/// The same contrast without covariates, and what they took.
#[derive(Debug, Clone, PartialEq)]
pub struct Adjustment {
    /// Without them.
    pub contrast: Contrast,
    /// Anytime-valid interval without them.
    pub interval: Interval,
    /// By covariate, 0 where it was dropped; none while there is too little data, and then the plain contrast decides.
    pub theta: Vec<(String, f64)>,
    /// 1 - adjusted variance / plain variance.
    pub variance_reduction: f64,
}

impl Line {
    /// As the API shows it.
    #[must_use]
    pub fn status(&self) -> v1::ContrastStatus {
        v1::ContrastStatus {
            variant: self.variant.clone(),
            metric: self.metric.clone(),
            difference: self.contrast.difference,
            standard_error: self.contrast.standard_error(),
            lower: self.lower,
            upper: self.upper,
            relative: self.contrast.relative(),
            role: match self.role {
                v1::Role::Primary => "primary",
                v1::Role::Guardrail => "guardrail",
                v1::Role::Secondary | v1::Role::Unspecified => "secondary",
            }
            .to_owned(),
            adjustment: self.adjustment.as_ref().map(Adjustment::status),
        }
    }
}

impl Adjustment {
    fn status(&self) -> v1::AdjustmentStatus {
        let effect = |(attribute, theta): &(String, f64)| v1::CovariateEffect {
            attribute: attribute.clone(),
            theta: *theta,
        };
        v1::AdjustmentStatus {
            difference: self.contrast.difference,
            standard_error: self.contrast.standard_error(),
            lower: self.interval.lower,
            upper: self.interval.upper,
            relative: self.contrast.relative(),
            decides: if self.theta.is_empty() { "unadjusted" } else { "adjusted" }.to_owned(),
            covariates: self.theta.iter().map(effect).collect(),
            variance_reduction: self.variance_reduction,
        }
    }
}

/// All lines, metrics in order, arms in order; an arm that shares no stratum with control has none.
///
/// # Errors
/// When the inputs contradict themselves.
pub fn contrasts(inputs: &v1::DecisionInputs, alpha: f64) -> Result<Vec<Line>, InputError> {
    let planned = planned_for_pair(inputs.planned_units, inputs.arms.len());
    let mut lines = Vec::new();
    for metric in &inputs.metrics {
        let Both { plain, adjusted } = both(inputs, metric, Scope::Everything)?;
        let theta = adjusted.as_ref().map(|(_, theta)| theta.clone()).unwrap_or_default();
        let Some(unadjusted) = adjust(&plain)? else { continue };
        let adjusted = match adjusted {
            Some((table, _)) => adjust(&table)?,
            None => None,
        };
        let adjusted = adjusted.as_ref().unwrap_or(&unadjusted);
        for (arm, input) in inputs.arms.iter().enumerate().skip(1) {
            let Some(contrast) = adjusted.contrast(arm) else { continue };
            let adjustment = unadjusted.contrast(arm).filter(|_| !inputs.covariates.is_empty());
            let adjustment = adjustment.map(|plain| Adjustment {
                contrast: plain,
                interval: interval(&plain, planned, alpha),
                theta: inputs.covariates.iter().map(|c| c.attribute.clone()).zip(theta.clone()).collect(),
                variance_reduction: if plain.variance > 0.0 {
                    1.0 - contrast.variance / plain.variance
                } else {
                    0.0
                },
            });
            let interval = interval(&contrast, planned, alpha);
            lines.push(Line {
                arm,
                variant: input.variant.clone(),
                metric: metric.metric.clone(),
                role: metric.role(),
                contrast,
                lower: interval.lower,
                upper: interval.upper,
                adjustment,
            });
        }
    }
    Ok(lines)
}
