//! Why inputs cannot be decided on: data that contradicts itself is named, never repaired.

use std::fmt;

/// Inputs no decision can rest on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InputError {
    /// Fewer than 2 or more than 32 arms.
    Arms(usize),
    /// A list has not the length its neighbours have.
    Shape(&'static str),
    /// Moments that no data can have, as `n Q < S^2` or more conversions than units.
    Moments(&'static str),
    /// Floor, cap, weights or prior outside their range.
    Range(&'static str),
    /// No metric of the needed role, or of a kind that is not known.
    Metric(&'static str),
    /// The arms' design cannot be solved in floating point.
    Degenerate,
}

impl fmt::Display for InputError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Arms(count) => write!(formatter, "an experiment has 2 to 32 arms, not {count}"),
            Self::Shape(what) => write!(formatter, "lengths differ: {what}"),
            Self::Moments(what) => write!(formatter, "moments contradict themselves: {what}"),
            Self::Range(what) => write!(formatter, "out of range: {what}"),
            Self::Metric(what) => write!(formatter, "metric: {what}"),
            Self::Degenerate => write!(formatter, "the strata do not determine the arms' contrasts"),
        }
    }
}

impl std::error::Error for InputError {}
