//! One look at a size fixed beforehand: Welch's t-test on an effect, one- or two-sided, and against a margin.

use super::distribution::{ln_student_tail, student_upper_quantile};
use super::effect::Effect;

/// Which effects count against "no effect".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Either direction.
    Both,
    /// Treatment above control.
    Greater,
    /// Treatment below control.
    Less,
}

/// A test's result.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Test {
    /// Lower end of the interval.
    pub lower: f64,
    /// Upper end.
    pub upper: f64,
    /// ln p: also where p is smaller than any float.
    pub ln_p: f64,
}

impl Test {
    /// p; the smallest positive float where it would be 0, because no finite sample has p = 0.
    #[must_use]
    pub fn p_value(&self) -> f64 {
        p_of(self.ln_p)
    }
}

/// exp(`ln_p`), never 0.
#[must_use]
pub fn p_of(ln_p: f64) -> f64 {
    if ln_p.is_nan() { 1.0 } else { libm::exp(ln_p.min(0.0)).max(f64::MIN_POSITIVE) }
}

/// Welch's test of an effect against `null`, with the interval of error `alpha`.
#[must_use]
pub fn welch(effect: &Effect, null: f64, alpha: f64, side: Side) -> Test {
    let error = effect.standard_error();
    let t = (effect.estimate - null) / error;
    let radius = |tail: f64| student_upper_quantile(tail, effect.freedom) * error;
    match side {
        Side::Both => {
            let radius = radius(alpha / 2.0);
            let ln_p = (core::f64::consts::LN_2 + ln_student_tail(t.abs(), effect.freedom)).min(0.0);
            Test { lower: effect.estimate - radius, upper: effect.estimate + radius, ln_p }
        }
        Side::Greater => Test {
            lower: effect.estimate - radius(alpha),
            upper: f64::INFINITY,
            ln_p: ln_student_tail(t, effect.freedom),
        },
        Side::Less => Test {
            lower: f64::NEG_INFINITY,
            upper: effect.estimate + radius(alpha),
            ln_p: ln_student_tail(-t, effect.freedom),
        },
    }
}

/// Non-inferiority: is the treatment worse than control by less than `margin` > 0? `higher_is_better` tells what worse is
/// (Wellek 2010, section 2.1). A small p says yes.
#[must_use]
pub fn non_inferior(effect: &Effect, margin: f64, alpha: f64, higher_is_better: bool) -> Test {
    if higher_is_better {
        welch(effect, -margin.abs(), alpha, Side::Greater)
    } else {
        welch(effect, margin.abs(), alpha, Side::Less)
    }
}
