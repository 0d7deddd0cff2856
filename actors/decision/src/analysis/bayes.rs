//! The effect as a belief: a normal likelihood with a normal prior, or none.
//!
//! Proper priors only where one is named: precision-weighted mean, precisions add (Gelman et al. 2013, eq. 2.10). Not valid under
//! peeking with a flat prior: the narrative says so.

use super::distribution::{normal_density, normal_quantile};
use super::effect::{Effect, Scale};
use crate::special::{ln_normal_cdf, normal_cdf};

/// A belief about the relative lift before the data.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Prior {
    /// Mean of the relative lift.
    pub mean: f64,
    /// Standard deviation of it.
    pub sd: f64,
}

/// A belief about the effect after the data.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Posterior {
    /// Mean.
    pub mean: f64,
    /// Standard deviation.
    pub sd: f64,
    /// Lower end of the central credible interval.
    pub lower: f64,
    /// Upper end.
    pub upper: f64,
    /// P(treatment above control).
    pub chance_to_win: f64,
    /// ln of it, also where it is smaller than any float.
    pub ln_chance_to_win: f64,
    /// E[max(effect, 0)]: what is lost by staying with control.
    pub risk_control: f64,
    /// E[max(-effect, 0)]: what is lost by taking the treatment.
    pub risk_treatment: f64,
}

/// E[max(X, 0)] of a normal X, without the cancellation far below 0 (Abramowitz & Stegun 26.2.12 there).
#[must_use]
pub fn expected_excess(mean: f64, sd: f64) -> f64 {
    if sd <= 0.0 {
        return mean.max(0.0);
    }
    let z = mean / sd;
    if z < -12.0 {
        let inverse = 1.0 / (z * z);
        return sd * normal_density(z) * inverse * (1.0 - inverse * (3.0 - 15.0 * inverse));
    }
    (sd * normal_density(z) + mean * normal_cdf(z)).max(0.0)
}

/// What to believe of an effect, with the central interval of error `alpha`. A prior about the lift is scaled by control's mean
/// where the effect is absolute.
#[must_use]
pub fn posterior(effect: &Effect, prior: Option<Prior>, alpha: f64) -> Posterior {
    let (mean, variance) = match prior {
        None => (effect.estimate, effect.variance),
        Some(prior) => {
            let scale = if effect.scale == Scale::Absolute { effect.baseline } else { 1.0 };
            let (at, own) = (prior.mean * scale, prior.sd * prior.sd * scale * scale);
            if own > 0.0 {
                let precision = 1.0 / own + 1.0 / effect.variance;
                ((at / own + effect.estimate / effect.variance) / precision, 1.0 / precision)
            } else {
                (at, 0.0)
            }
        }
    };
    let sd = libm::sqrt(variance);
    let radius = if sd > 0.0 { -normal_quantile(alpha / 2.0) * sd } else { 0.0 };
    let z = if sd > 0.0 { mean / sd } else { 0.0 };
    Posterior {
        mean,
        sd,
        lower: mean - radius,
        upper: mean + radius,
        chance_to_win: normal_cdf(z),
        ln_chance_to_win: ln_normal_cdf(z),
        risk_control: expected_excess(mean, sd),
        risk_treatment: expected_excess(-mean, sd),
    }
}
