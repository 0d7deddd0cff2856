//! Looks at declared shares of a declared size: group sequential boundaries by spending the error.
//!
//! The score S_k = Z_k sqrt(t_k) moves as a Brownian motion; its density over the paths that have not stopped is carried from look
//! to look by quadrature (Armitage, McPherson & Rowe 1969), and every boundary takes what the spending function (Lan & DeMets
//! 1983; Kim & DeMets 1987) allows between two looks. Two-sided and symmetric.

use super::distribution::normal_quantile;
use crate::special::normal_cdf;

/// How error is spent over the share t of the information, a(0) = 0, a(1) = alpha.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Spending {
    /// 2 (1 - Phi(z(1 - a/2) / sqrt(t))) with a = alpha / 2 on each side: close to O'Brien and Fleming's boundaries (Lan & DeMets 1983).
    OBrienFleming,
    /// alpha ln(1 + (e - 1) t): close to Pocock's.
    Pocock,
    /// alpha t^power (Kim & DeMets 1987).
    Power(f64),
}

impl Spending {
    /// Error spent by share `t`.
    #[must_use]
    pub fn spent(self, t: f64, alpha: f64) -> f64 {
        let t = t.clamp(0.0, 1.0);
        if t <= 0.0 {
            return 0.0;
        }
        match self {
            Self::OBrienFleming => 4.0 * normal_cdf(normal_quantile(alpha / 4.0) / libm::sqrt(t)),
            Self::Pocock => alpha * libm::log1p((core::f64::consts::E - 1.0) * t),
            Self::Power(power) => alpha * libm::pow(t, power.max(0.1)),
        }
    }
}

/// Looks of one design; more would say nothing that a confidence sequence does not say better.
pub const LOOKS_MAX: usize = 1_000;
/// Beyond so many standard deviations nothing is integrated: 2 Phi(-8.5) < 2e-17.
const REACH: f64 = 8.5;
/// Quadrature nodes of one look.
const NODES_MAX: usize = 4_001;

/// Why looks make no design.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DesignError {
    /// Shares must rise, each above 0 and the last at most 1.
    Shares,
    /// None, or more than [`LOOKS_MAX`].
    Looks,
    /// alpha must lie in (0, 1).
    Alpha,
}

impl core::fmt::Display for DesignError {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Shares => {
                write!(formatter, "looks are rising shares of the horizon, above 0 and at most 1")
            }
            Self::Looks => write!(formatter, "a design has 1 to {LOOKS_MAX} looks"),
            Self::Alpha => write!(formatter, "alpha must lie between 0 and 1"),
        }
    }
}

impl std::error::Error for DesignError {}

/// Density of the paths that go on, on an even grid around 0.
struct Surviving {
    from: f64,
    step: f64,
    /// Density times Simpson's weight.
    mass: Vec<f64>,
}

impl Surviving {
    /// Chance that a path of these leaves +-`bound` within the next `spread`.
    fn leaving(&self, bound: f64, spread: f64) -> f64 {
        self.at(|score| normal_cdf((score - bound) / spread) + normal_cdf((-bound - score) / spread))
    }

    fn at(&self, value: impl Fn(f64) -> f64) -> f64 {
        self.mass
            .iter()
            .enumerate()
            .map(|(node, mass)| mass * value(self.from + node as f64 * self.step))
            .sum()
    }

    /// On an even grid over +-`bound`, fine enough for kernels of width `spread`.
    fn grid(bound: f64, spread: f64, density: impl Fn(f64) -> f64) -> Self {
        let wanted = (2.0 * bound / (spread / 6.0)).ceil().clamp(200.0, NODES_MAX as f64 - 1.0) as usize;
        let intervals = wanted + wanted % 2;
        let step = 2.0 * bound / intervals as f64;
        let mass = (0..=intervals)
            .map(|node| {
                let weight = if node == 0 || node == intervals {
                    1.0
                } else if node % 2 == 1 {
                    4.0
                } else {
                    2.0
                };
                weight * step / 3.0 * density(-bound + node as f64 * step)
            })
            .collect();
        Self { from: -bound, step, mass }
    }
}

/// Critical |z| at each look; infinite where next to nothing is spent, as at O'Brien and Fleming's first ones.
///
/// # Errors
/// Looks or alpha that make no design.
pub fn boundaries(shares: &[f64], alpha: f64, spending: Spending) -> Result<Vec<f64>, DesignError> {
    if shares.is_empty() || shares.len() > LOOKS_MAX {
        return Err(DesignError::Looks);
    }
    if !(alpha > 0.0 && alpha < 1.0) {
        return Err(DesignError::Alpha);
    }
    let mut bounds = Vec::with_capacity(shares.len());
    let mut surviving: Option<Surviving> = None;
    let (mut before, mut spent) = (0.0, 0.0);
    for (look, &share) in shares.iter().enumerate() {
        if !(share > before && share <= 1.0 + 1e-12) {
            return Err(DesignError::Shares);
        }
        let spread = libm::sqrt(share - before);
        let allowed = (spending.spent(share, alpha) - spent).max(0.0);
        let reach = REACH * libm::sqrt(share);
        let leaving = |bound: f64| match &surviving {
            None => 2.0 * normal_cdf(-bound / spread),
            Some(paths) => paths.leaving(bound, spread),
        };
        let bound = if allowed < 1e-15 {
            f64::INFINITY
        } else {
            let (mut low, mut high) = (0.0, reach);
            for _ in 0..60 {
                let middle = 0.5 * (low + high);
                if leaving(middle) > allowed {
                    low = middle;
                } else {
                    high = middle;
                }
            }
            0.5 * (low + high)
        };
        bounds.push(bound / libm::sqrt(share));
        spent += if bound.is_finite() { allowed } else { 0.0 };
        if let Some(next) = shares.get(look + 1) {
            let inside = bound.min(reach);
            let next_spread = libm::sqrt((next - share).max(1e-12));
            let kernel = |distance: f64| {
                let z = distance / spread;
                if z.abs() > REACH { 0.0 } else { libm::exp(-0.5 * z * z) * 0.398_942_280_401_432_7 / spread }
            };
            surviving = Some(Surviving::grid(inside, next_spread.min(spread), |score| match &surviving {
                None => kernel(score),
                Some(paths) => {
                    // Only nodes the kernel reaches.
                    let first =
                        ((score - REACH * spread - paths.from) / paths.step).floor().max(0.0) as usize;
                    let last =
                        ((score + REACH * spread - paths.from) / paths.step).ceil().max(0.0) as usize + 1;
                    let within = paths.mass.get(first..last.min(paths.mass.len())).unwrap_or_default();
                    let start = paths.from + first as f64 * paths.step;
                    within
                        .iter()
                        .enumerate()
                        .map(|(node, mass)| mass * kernel(score - start - node as f64 * paths.step))
                        .sum()
                }
            }));
        }
        before = share;
    }
    Ok(bounds)
}

/// Pocock's constant: the |z| that, held at each of `looks` equal looks, spends `alpha` in all (Pocock 1977, table 1); with `power`
/// .5 O'Brien and Fleming's C of C sqrt(looks / k) (1979, table 1; Wang & Tsiatis 1987 for what lies between).
#[must_use]
pub fn constant_boundary(looks: usize, alpha: f64, power: f64) -> f64 {
    let looks = looks.clamp(1, LOOKS_MAX);
    let (mut low, mut high) = (0.0, 8.0);
    for _ in 0..32 {
        let middle = 0.5 * (low + high);
        if crossing(looks, |share| middle * libm::pow(share, -power)) > alpha {
            low = middle;
        } else {
            high = middle;
        }
    }
    0.5 * (low + high)
}

/// Chance that |Z| passes `bound`(share) at any of `looks` equal looks without an effect.
#[must_use]
pub fn crossing(looks: usize, bound: impl Fn(f64) -> f64) -> f64 {
    let step = 1.0 / looks as f64;
    let spread = libm::sqrt(step);
    let mut surviving: Option<Surviving> = None;
    let mut crossed = 0.0;
    for look in 1..=looks {
        let share = look as f64 * step;
        let limit = bound(share) * libm::sqrt(share);
        crossed += match &surviving {
            None => 2.0 * normal_cdf(-limit / spread),
            Some(paths) => paths.leaving(limit, spread),
        };
        let inside = limit.min(REACH * libm::sqrt(share));
        let kernel = |distance: f64| {
            let z = distance / spread;
            if z.abs() > REACH { 0.0 } else { libm::exp(-0.5 * z * z) * 0.398_942_280_401_432_7 / spread }
        };
        surviving = Some(Surviving::grid(inside, spread, |score| match &surviving {
            None => kernel(score),
            Some(paths) => paths.at(|from| kernel(score - from)),
        }));
    }
    crossed
}
