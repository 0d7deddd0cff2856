//! Anytime-valid intervals and evidence: they hold at every look at once, so nobody needs to promise when to look.
//!
//! All of them are the normal mixture (Robbins 1970; Howard et al. 2021, propositions 5 and 6; for estimated variances
//! asymptotically, Waudby-Smith et al., arXiv 2103.06476, theorem 2.2). In terms of an estimate with standard error `se`:
//!
//! - `ratio` r = information so far / mixture's own, constant c(alpha) x units / planned units; it must grow with the
//!   information only, so for contrasts it is counted in `effective_units`, not in units of arms that starve;
//! - two-sided radius: se sqrt((1 + 1/r) ln((1 + r) / alpha^2));
//! - one-sided evidence against "no effect", an e-value: e = 2 (1+r)^(-1/2) exp(z^2 r / (2 (1+r))) Phi(z sqrt(r / (1+r))).
//!
//! P(any look excludes the truth) <= alpha once samples are large enough for the central limit; hence minimum units.

use crate::contrast::Contrast;
use crate::special::ln_normal_cdf;

/// c(alpha) = 2 ln(1/alpha) + ln(1 + 2 ln(1/alpha)): the ratio at the planned size, where intervals are near their tightest.
#[must_use]
pub fn ratio_at_plan(alpha: f64) -> f64 {
    let twice = -2.0 * libm::log(alpha.clamp(1e-300, 0.999_999));
    twice + libm::log1p(twice)
}

/// r after `units` of `planned` for a two-sided interval at `alpha`. A one-sided use takes 2 alpha.
#[must_use]
pub fn ratio(units: f64, planned: f64, alpha: f64) -> f64 {
    if units > 0.0 && planned > 0.0 { units / planned * ratio_at_plan(alpha) } else { 0.0 }
}

/// Radius of the two-sided sequence, in standard errors. Infinite without information.
#[must_use]
pub fn two_sided_radius(ratio: f64, alpha: f64) -> f64 {
    if ratio.is_nan() || ratio <= 0.0 {
        return f64::INFINITY;
    }
    libm::sqrt((1.0 + 1.0 / ratio) * (libm::log1p(ratio) - 2.0 * libm::log(alpha)))
}

/// ln e of the one-sided normal mixture at z standard errors in the direction tested.
#[must_use]
pub fn one_sided_evidence(ratio: f64, z: f64) -> f64 {
    if ratio.is_nan() || ratio <= 0.0 || z.is_nan() {
        return 0.0;
    }
    let share = ratio / (1.0 + ratio);
    let z = z.clamp(-1e9, 1e9);
    core::f64::consts::LN_2 - 0.5 * libm::log1p(ratio)
        + 0.5 * z * z * share
        + ln_normal_cdf(z * libm::sqrt(share))
}

/// A two-sided anytime-valid interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    /// Lower end; minus infinity without information.
    pub lower: f64,
    /// Upper end.
    pub upper: f64,
}

/// Units planned for a pair of arms, of those planned for all.
#[must_use]
pub fn planned_for_pair(planned_units: u64, arms: usize) -> f64 {
    let planned = if planned_units == 0 { 20_000.0 } else { planned_units as f64 };
    planned * 2.0 / arms.max(2) as f64
}

/// The interval of a contrast, holding at every look with probability at least 1 - alpha.
#[must_use]
pub fn interval(contrast: &Contrast, planned: f64, alpha: f64) -> Interval {
    let radius =
        contrast.standard_error() * two_sided_radius(ratio(contrast.effective_units, planned, alpha), alpha);
    if radius.is_nan() {
        // No spread and no information: nothing is excluded.
        return Interval { lower: f64::NEG_INFINITY, upper: f64::INFINITY };
    }
    Interval { lower: contrast.difference - radius, upper: contrast.difference + radius }
}

/// ln e against "the arm is not better than control by more than 0 in this direction", `direction` = 1 or -1.
///
/// z uses the larger of the contrast's variance and that under no effect: a rare outcome's estimated variance falls
/// together with its mean, and the plain z would exclude 0 too often on that side.
#[must_use]
pub fn evidence(contrast: &Contrast, direction: f64, planned: f64, alpha: f64) -> f64 {
    let variance = contrast.variance.max(contrast.null_variance);
    if variance.is_nan() || variance <= 0.0 {
        return 0.0;
    }
    let z = direction * contrast.difference / libm::sqrt(variance);
    one_sided_evidence(ratio(contrast.effective_units, planned, 2.0 * alpha), z)
}
