//! Analysis for people: every arm against control, for every metric, over all generations, at equal strata.

use featureops_proto::v1;

use crate::confidence::{interval, planned_for_pair};
use crate::contrast::{Contrast, adjust};
use crate::error::InputError;
use crate::moments::{Scope, table};

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
        let Some(adjusted) = adjust(&table(inputs, metric, Scope::Everything)?)? else { continue };
        for (arm, input) in inputs.arms.iter().enumerate().skip(1) {
            let Some(contrast) = adjusted.contrast(arm) else { continue };
            let interval = interval(&contrast, planned, alpha);
            lines.push(Line {
                arm,
                variant: input.variant.clone(),
                metric: metric.metric.clone(),
                role: metric.role(),
                contrast,
                lower: interval.lower,
                upper: interval.upper,
            });
        }
    }
    Ok(lines)
}
