//! The effect of a treatment: difference or relative lift, its variance and degrees of freedom.
//!
//! The relative lift is (b - a) / a with a's plain mean below, and its variance is the delta method's,
//! Var(b) / a^2 + Var(a) b^2 / a^4 (Fieller 1954; Deng et al. 2018, eq. 4). With a covariate the adjusted difference stands over
//! the plain mean, and the covariance of the two is part of the variance. Degrees of freedom are Welch and Satterthwaite's.

use super::arm::{Arm, Part, covariance, pooled_theta};

/// What the effect is counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scale {
    /// Share of control's mean.
    Relative,
    /// The metric's own unit.
    Absolute,
}

/// Why there is no effect to speak of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Undefined {
    /// An arm without units, or whose metric does not vary: nothing says how far chance moves it.
    ZeroNegativeVariance,
    /// Control's mean is 0: no share of it can be formed.
    BaselineVariationZero,
}

impl Undefined {
    /// The name that the results carry.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ZeroNegativeVariance => "ZERO_NEGATIVE_VARIANCE",
            Self::BaselineVariationZero => "BASELINE_VARIATION_ZERO",
        }
    }

    /// What it means and what can be done.
    #[must_use]
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::ZeroNegativeVariance => {
                "an arm has no units or its metric never varies, so chance has no measure; wait for data or check the column"
            }
            Self::BaselineVariationZero => {
                "control's mean is 0, so there is no relative lift; read the absolute one"
            }
        }
    }
}

/// An estimated effect.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Effect {
    /// Difference, or relative lift.
    pub estimate: f64,
    /// Its variance.
    pub variance: f64,
    /// Degrees of freedom.
    pub freedom: f64,
    /// Units of both arms.
    pub units: f64,
    /// Control's plain mean.
    pub baseline: f64,
    /// Counted in.
    pub scale: Scale,
    /// What the covariate was multiplied by.
    pub theta: f64,
}

impl Effect {
    /// Standard error.
    #[must_use]
    pub fn standard_error(&self) -> f64 {
        libm::sqrt(self.variance)
    }
}

/// (Var(a)/n + Var(b)/n)^2 over its parts: Welch (1947).
fn welch_freedom(a: f64, units_a: f64, b: f64, units_b: f64) -> f64 {
    let (own, other) = (a / units_a, b / units_b);
    let sum = own + other;
    let below = own * own / (units_a - 1.0) + other * other / (units_b - 1.0);
    if below > 0.0 { sum * sum / below } else { f64::INFINITY }
}

/// Control's share in the variance of an adjusted relative lift, times control's squared mean: the plain mean below and the
/// adjusted one above move together.
fn adjusted_control(post: &Part, pre: &Part, products: f64, other: f64, theta: f64) -> f64 {
    let ratio = other / post.mean();
    (post.variance() * ratio * ratio - 2.0 * theta * covariance(post, pre, products) * ratio
        + theta * theta * pre.variance())
        / post.n
}

/// The effect of `treatment` over `control`.
///
/// # Errors
/// When an arm does not vary, or a share of nothing is asked for.
pub fn effect(control: &Arm, treatment: &Arm, scale: Scale) -> Result<Effect, Undefined> {
    effect_with(control, treatment, scale, pooled_theta(control, treatment))
}

/// The same with a given theta, as one over all strata.
///
/// # Errors
/// As [`effect`].
pub fn effect_with(control: &Arm, treatment: &Arm, scale: Scale, theta: f64) -> Result<Effect, Undefined> {
    let (var_a, var_b) = (control.variance(theta), treatment.variance(theta));
    let (n_a, n_b) = (control.units(), treatment.units());
    // `not greater` also catches what is no number.
    let varies = |variance: f64| variance > 0.0;
    if !varies(var_a) || !varies(var_b) || n_a < 1.0 || n_b < 1.0 {
        return Err(Undefined::ZeroNegativeVariance);
    }
    let baseline = control.plain_mean();
    let difference = treatment.mean(theta) - control.mean(theta);
    let freedom = welch_freedom(var_a, n_a, var_b, n_b);
    let units = n_a + n_b;
    if scale == Scale::Absolute {
        let variance = var_a / n_a + var_b / n_b;
        return Ok(Effect { estimate: difference, variance, freedom, units, baseline, scale, theta });
    }
    if baseline == 0.0 {
        return Err(Undefined::BaselineVariationZero);
    }
    let square = baseline * baseline;
    let ratio = treatment.plain_mean() / baseline;
    let control_share = match control {
        Arm::Adjusted { post, pre, products } => {
            adjusted_control(post, pre, *products, treatment.plain_mean(), theta) / square
        }
        _ => var_a / n_a * ratio * ratio / square,
    };
    let variance = var_b / (n_b * square) + control_share;
    Ok(Effect { estimate: difference / baseline, variance, freedom, units, baseline, scale, theta })
}

/// Post-stratification: the strata's differences weighted by their share of all units, with the variance that belongs to it
/// (Miratrix, Sekhon & Yu 2013, eq. 4). Strata in which an arm does not vary or is empty are pooled into one, so that no unit is
/// lost. Relative lift: over the likewise weighted mean of control, variances and covariance by the delta method.
///
/// # Errors
/// As [`effect`], when no stratum is left.
pub fn post_stratified(strata: &[(Arm, Arm)], scale: Scale) -> Result<Effect, Undefined> {
    let mut whole: Option<(Arm, Arm)> = None;
    let mut kept: Vec<(Arm, Arm)> = Vec::with_capacity(strata.len());
    let mut thin: Option<(Arm, Arm)> = None;
    let join = |sum: Option<(Arm, Arm)>, (control, treatment): &(Arm, Arm)| match sum {
        Some((a, b)) => a.plus(control).zip(b.plus(treatment)),
        None => Some((*control, *treatment)),
    };
    for stratum in strata {
        whole = join(whole, stratum);
        if effect_with(&stratum.0, &stratum.1, Scale::Absolute, 0.0).is_ok() {
            kept.push(*stratum);
        } else {
            thin = join(thin, stratum);
        }
    }
    let Some((all_a, all_b)) = whole else { return Err(Undefined::ZeroNegativeVariance) };
    let theta = pooled_theta(&all_a, &all_b);
    if let Some((a, b)) = thin {
        if effect_with(&a, &b, Scale::Absolute, theta).is_ok() {
            kept.push((a, b));
        } else if let Some((first_a, first_b)) = kept.first_mut() {
            // Too thin even together: they join the first stratum rather than vanish.
            if let Some((sum_a, sum_b)) = first_a.plus(&a).zip(first_b.plus(&b)) {
                (*first_a, *first_b) = (sum_a, sum_b);
            }
        }
    }
    if kept.len() <= 1 {
        return effect_with(&all_a, &all_b, scale, theta);
    }
    let units: f64 = kept.iter().map(|(a, b)| a.units() + b.units()).sum();
    let (mut difference, mut baseline, mut lift) = (0.0, 0.0, 0.0);
    let (mut var_a, mut var_b, mut below) = (0.0, 0.0, 0.0);
    for (a, b) in &kept {
        let share = (a.units() + b.units()) / units;
        difference += share * (b.mean(theta) - a.mean(theta));
        baseline += share * a.plain_mean();
        lift += share * b.plain_mean();
        let (own, other) = (a.variance(theta) / a.units(), b.variance(theta) / b.units());
        var_a += share * share * own;
        var_b += share * share * other;
        let square = share * share * share * share;
        below +=
            square * (own * own / (a.units() - 1.0).max(1.0) + other * other / (b.units() - 1.0).max(1.0));
    }
    let sum = var_a + var_b;
    let freedom = if below > 0.0 { sum * sum / below } else { f64::INFINITY };
    let effect = Effect { estimate: difference, variance: sum, freedom, units, baseline, scale, theta };
    if scale == Scale::Absolute {
        return Ok(effect);
    }
    if baseline == 0.0 {
        return Err(Undefined::BaselineVariationZero);
    }
    let square = baseline * baseline;
    let ratio = lift / baseline;
    let mut variance = var_b / square;
    for (a, b) in &kept {
        let share = (a.units() + b.units()) / units;
        variance += share * share / square
            * match a {
                Arm::Adjusted { post, pre, products } => {
                    (post.variance() * ratio * ratio - 2.0 * theta * covariance(post, pre, *products) * ratio
                        + theta * theta * pre.variance())
                        / post.n
                }
                _ => a.variance(theta) / a.units() * ratio * ratio,
            };
    }
    Ok(Effect { estimate: difference / baseline, variance, ..effect })
}
