//! Looks at any time: the asymptotic confidence sequence with its tuning, and the mixture sequential probability ratio test.
//!
//! With V = variance of the estimate, n units, r = n rho^2 and rho^2 = c(alpha) / N*, where N* is the size at which the
//! sequence is to be tightest (Waudby-Smith et al., arXiv 2103.06476v7):
//!
//! - two-sided radius sqrt(V) sqrt((1 + 1/r) (ln(1 + r) - 2 ln alpha)), equation 14; p = 1 / e with
//!   e = exp(z^2 r / (2 (1 + r))) / sqrt(1 + r), equation 155;
//! - one-sided radius sqrt(V) sqrt(2 (1 + 1/r) ln(1 + sqrt(1 + r) / (2 alpha))), equation 134, rho at 2 alpha; p is the
//!   smallest error whose interval excludes 0 at that rho.

use super::effect::Effect;
use super::frequentist::{Side, Test};
use crate::confidence::{ratio, two_sided_radius};

/// Where the search for a one-sided p begins and ends: below it says "at most this".
const P_MIN: f64 = 1e-5;
/// A one-sided interval exists for errors below one half.
const P_MAX: f64 = 0.4999;
/// How near 0 the interval's end must come for its error to count as p, in the effect's unit.
const END_TOLERANCE: f64 = 1e-6;

/// Radius of the one-sided sequence in standard errors; infinite without information.
#[must_use]
pub fn one_sided_radius(ratio: f64, alpha: f64) -> f64 {
    if ratio.is_nan() || ratio <= 0.0 {
        return f64::INFINITY;
    }
    let root = libm::sqrt(1.0 + ratio);
    libm::sqrt(2.0 * (1.0 + 1.0 / ratio) * libm::log1p(root / (2.0 * alpha)))
}

/// The confidence sequence at this look, tuned for `planned` units of both arms.
#[must_use]
pub fn confidence_sequence(effect: &Effect, planned: f64, alpha: f64, side: Side) -> Test {
    let error = effect.standard_error();
    let z = effect.estimate / error;
    if side == Side::Both {
        let r = ratio(effect.units, planned, alpha);
        let radius = error * two_sided_radius(r, alpha);
        let ln_e = 0.5 * z * z * r / (1.0 + r) - 0.5 * libm::log1p(r);
        return Test {
            lower: effect.estimate - radius,
            upper: effect.estimate + radius,
            ln_p: (-ln_e).min(0.0),
        };
    }
    let r = ratio(effect.units, planned, 2.0 * alpha);
    let radius = error * one_sided_radius(r, alpha);
    let toward = if side == Side::Greater { effect.estimate } else { -effect.estimate };
    let ln_p = libm::log(one_sided_p(|alpha| toward - error * one_sided_radius(r, alpha)));
    if side == Side::Greater {
        Test { lower: effect.estimate - radius, upper: f64::INFINITY, ln_p }
    } else {
        Test { lower: f64::NEG_INFINITY, upper: effect.estimate + radius, ln_p }
    }
}

/// The error at which `end` of the interval passes 0, by bisection; it grows with the error.
fn one_sided_p(end: impl Fn(f64) -> f64) -> f64 {
    let (mut low, mut high) = (P_MIN, P_MAX);
    if end(low) > 0.0 {
        return low;
    }
    if end(high) < 0.0 {
        return high;
    }
    let mut middle = 0.5 * (low + high);
    for _ in 0..100 {
        let at = end(middle);
        if at < 0.0 {
            low = middle;
        } else {
            high = middle;
        }
        middle = 0.5 * (low + high);
        if at.abs() < END_TOLERANCE {
            break;
        }
    }
    middle
}

/// Mixture sequential probability ratio test with a normal mixture of variance `tau_square` over effects (Robbins 1970; Johari et
/// al. 2017, eq. 7): 1 / p = sqrt(V / (V + tau^2)) exp(tau^2 d^2 / (2 V (V + tau^2))), and the interval that inverts it.
#[must_use]
pub fn mixture_ratio_test(effect: &Effect, tau_square: f64, alpha: f64) -> Test {
    let variance = effect.variance;
    let whole = variance + tau_square;
    let ln_spread = libm::log(whole / variance);
    let ln_e = -0.5 * ln_spread + tau_square * effect.estimate * effect.estimate / (2.0 * variance * whole);
    let radius = libm::sqrt(variance * whole / tau_square * (ln_spread - 2.0 * libm::log(alpha)));
    Test { lower: effect.estimate - radius, upper: effect.estimate + radius, ln_p: (-ln_e).min(0.0) }
}
