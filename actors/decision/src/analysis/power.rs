//! How many units, how much power, how much longer, and how likely success is.

use super::distribution::{noncentral_student_tail, normal_quantile, student_upper_quantile};
use crate::confidence::{ratio, two_sided_radius};
use crate::special::normal_cdf;

/// Which textbook formula for two proportions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Formula {
    /// Both variances at their own means (Fleiss, Levin & Paik 2003, eq. 4.14 without continuity).
    Unpooled,
    /// The critical value at the pooled mean (Fleiss, Levin & Paik 2003, eq. 4.14).
    Pooled,
    /// Arcsine effect size h (Cohen 1988, section 6.2), both rejection regions counted.
    CohenH,
}

/// What a design must say.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Goal {
    /// Two-sided error.
    pub alpha: f64,
    /// Chance to find the effect.
    pub power: f64,
    /// Units of the treatment for each unit of control.
    pub ratio: f64,
}

/// Why no size can be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GoalError {
    /// A value outside its range.
    Range(&'static str),
    /// No size up to 1e15 reaches the power.
    Unreachable,
}

impl core::fmt::Display for GoalError {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Range(what) => write!(formatter, "{what}"),
            Self::Unreachable => write!(formatter, "no size up to 1e15 units reaches this power"),
        }
    }
}

impl std::error::Error for GoalError {}

/// Units of control at most.
const UNITS_MAX: f64 = 1e15;

impl Goal {
    fn check(&self) -> Result<(), GoalError> {
        let inside = |value: f64| value > 0.0 && value < 1.0;
        if !inside(self.alpha) {
            return Err(GoalError::Range("alpha must lie between 0 and 1"));
        }
        if !inside(self.power) || self.power <= self.alpha {
            return Err(GoalError::Range("power must lie between alpha and 1"));
        }
        if !(self.ratio > 0.0 && self.ratio.is_finite()) {
            return Err(GoalError::Range("ratio of treatment to control must be positive"));
        }
        Ok(())
    }
}

/// The smallest size with `power(size)` at least `goal`, for a power that grows with it; relative error 1e-13.
fn smallest(goal: f64, floor: f64, power: impl Fn(f64) -> f64) -> Result<f64, GoalError> {
    let (mut low, mut high) = (floor, floor.max(1.0) * 2.0);
    while power(high) < goal {
        low = high;
        high *= 2.0;
        if high > UNITS_MAX {
            return Err(GoalError::Unreachable);
        }
    }
    for _ in 0..200 {
        let middle = 0.5 * (low + high);
        if power(middle) < goal {
            low = middle;
        } else {
            high = middle;
        }
        if high - low <= 1e-13 * high {
            break;
        }
    }
    Ok(0.5 * (low + high))
}

/// Units of control to tell two proportions apart; not rounded.
///
/// # Errors
/// A value outside its range.
pub fn units_for_proportions(
    control: f64,
    treatment: f64,
    goal: Goal,
    formula: Formula,
) -> Result<f64, GoalError> {
    goal.check()?;
    let inside = |value: f64| value > 0.0 && value < 1.0;
    if !inside(control) || !inside(treatment) {
        return Err(GoalError::Range("both proportions must lie between 0 and 1; a smaller effect may help"));
    }
    if control == treatment {
        return Err(GoalError::Range("the two proportions are equal: no size tells them apart"));
    }
    let k = goal.ratio;
    let (z_alpha, z_power) = (normal_quantile(1.0 - goal.alpha / 2.0), normal_quantile(goal.power));
    let spread = |p: f64| p * (1.0 - p);
    let square = (treatment - control) * (treatment - control);
    let own = libm::sqrt(spread(control) + spread(treatment) / k);
    match formula {
        Formula::Unpooled => Ok((z_alpha + z_power) * (z_alpha + z_power) * own * own / square),
        Formula::Pooled => {
            let pooled = (control + k * treatment) / (1.0 + k);
            let sum = z_alpha * libm::sqrt(spread(pooled) * (1.0 + 1.0 / k)) + z_power * own;
            Ok(sum * sum / square)
        }
        Formula::CohenH => {
            let arc = |p: f64| 2.0 * libm::asin(libm::sqrt(p));
            let h = (arc(treatment) - arc(control)).abs();
            smallest(goal.power, 0.0, |units| {
                let shift = h * libm::sqrt(units * k / (1.0 + k));
                normal_cdf(shift - z_alpha) + normal_cdf(-shift - z_alpha)
            })
        }
    }
}

/// Power of the two-sided t-test for a standardised difference `d` with `units` of control.
#[must_use]
pub fn power_for_means(d: f64, units: f64, goal: Goal) -> f64 {
    let freedom = units * (1.0 + goal.ratio) - 2.0;
    if freedom <= 0.0 {
        return 0.0;
    }
    let shift = d.abs() * libm::sqrt(units * goal.ratio / (1.0 + goal.ratio));
    let critical = student_upper_quantile(goal.alpha / 2.0, freedom);
    noncentral_student_tail(critical, freedom, shift) + noncentral_student_tail(critical, freedom, -shift)
}

/// Units of control for a difference of `d` standard deviations, by the noncentral t (Cohen 1988, section 2.4); not rounded.
///
/// # Errors
/// A value outside its range.
pub fn units_for_means(d: f64, goal: Goal) -> Result<f64, GoalError> {
    goal.check()?;
    if !(d.abs() > 0.0 && d.is_finite()) {
        return Err(GoalError::Range("the difference must not be 0"));
    }
    smallest(goal.power, 2.0 / (1.0 + goal.ratio), |units| power_for_means(d, units, goal))
}

/// Power of a test whose estimate has standard error `error`, for an effect of `size`.
#[must_use]
pub fn power_at(size: f64, error: f64, radius: f64) -> f64 {
    normal_cdf((size.abs() - radius) / error) + normal_cdf(-(size.abs() + radius) / error)
}

/// A running experiment, as its power sees it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Midway {
    /// Variance of the effect now.
    pub variance: f64,
    /// Units of both arms now.
    pub units: f64,
    /// The effect to be found, in the effect's own unit.
    pub size: f64,
    /// Error of all tests together; shared evenly (Bonferroni).
    pub alpha: f64,
    /// (Arms less control) x metrics.
    pub tests: f64,
    /// Looks at any time, tuned for so many units; one look at the end without.
    pub sequential: Option<f64>,
}

impl Midway {
    /// Power once `factor` times today's units came on top. The variance shrinks as units grow; the sequence's interval is that of
    /// all units then.
    #[must_use]
    pub fn power(&self, factor: f64) -> f64 {
        let alpha = self.alpha / self.tests.max(1.0);
        let error = libm::sqrt(self.variance / (1.0 + factor));
        let radius = match self.sequential {
            None => normal_quantile(1.0 - alpha / 2.0) * error,
            Some(planned) => {
                error * two_sided_radius(ratio(self.units * (1.0 + factor), planned, alpha), alpha)
            }
        };
        power_at(self.size, error, radius)
    }

    /// By how many times today's units must come on top for `power`; 0 when it is there already.
    ///
    /// # Errors
    /// No size up to 2^27 times today's reaches it, or a value is outside its range.
    pub fn factor_for(&self, power: f64) -> Result<f64, GoalError> {
        if !(power > 0.0 && power < 1.0) {
            return Err(GoalError::Range("power must lie between 0 and 1"));
        }
        if !(self.variance > 0.0 && self.size != 0.0) {
            return Err(GoalError::Range("the effect and its variance must not be 0"));
        }
        if self.power(0.0) > power {
            return Ok(0.0);
        }
        let (mut low, mut high) = (0.0, 1.0);
        while self.power(high) < power {
            low = high;
            high *= 2.0;
            if high > 134_217_728.0 {
                return Err(GoalError::Unreachable);
            }
        }
        for _ in 0..100 {
            let middle = 0.5 * (low + high);
            if self.power(middle) < power {
                low = middle;
            } else {
                high = middle;
            }
        }
        Ok(0.5 * (low + high))
    }
}

/// Assurance: power averaged over a normal belief about the effect (O'Hagan, Stevens & Campbell 2005, eq. 3), here in closed form
/// for success = "significant and in the right direction": the estimate to come is normal with the prior's mean and the sum of
/// both variances.
#[must_use]
pub fn assurance(prior_mean: f64, prior_sd: f64, error: f64, alpha: f64) -> f64 {
    let radius = normal_quantile(1.0 - alpha / 2.0) * error;
    normal_cdf((prior_mean - radius) / libm::sqrt(error * error + prior_sd * prior_sd))
}

/// How many days `units` take with `daily` arrivals seen on past days: mean and interval of error `alpha`.
///
/// The arrivals to come are the past days' mean, give or take its own error and their own spread (prediction interval, Student's
/// t). Needs two days; with one day the interval is unbounded.
#[must_use]
pub fn duration(units: f64, daily: &[f64], alpha: f64) -> Option<(f64, f64, f64)> {
    let days = daily.len() as f64;
    let mean = daily.iter().sum::<f64>() / days;
    let positive = |value: f64| value > 0.0;
    if daily.is_empty() || !positive(mean) || !positive(units) {
        return None;
    }
    let expected = units / mean;
    if daily.len() < 2 {
        return Some((expected, 0.0, f64::INFINITY));
    }
    let variance = daily.iter().map(|day| (day - mean) * (day - mean)).sum::<f64>() / (days - 1.0);
    let t = student_upper_quantile(alpha / 2.0, days - 1.0);
    // Arrivals within d days: d mean +- t s sqrt(d + d^2 / days); each end is where that line meets the units.
    let solve = |sign: f64| {
        let arrived = |d: f64| d * mean + sign * t * libm::sqrt(variance * (d + d * d / days));
        let (mut low, mut high) = (0.0, expected.max(1.0));
        for _ in 0..60 {
            if arrived(high) >= units {
                break;
            }
            low = high;
            high *= 2.0;
        }
        if arrived(high) < units {
            return f64::INFINITY;
        }
        for _ in 0..100 {
            let middle = 0.5 * (low + high);
            if arrived(middle) < units {
                low = middle;
            } else {
                high = middle;
            }
        }
        0.5 * (low + high)
    };
    Some((expected, solve(1.0), solve(-1.0)))
}
