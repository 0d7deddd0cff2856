//! Sequences without "enough units for the central limit": uniform boundaries, and means of values in [0, 1].
//!
//! Boundaries are for a sum with intrinsic time v (Howard, Ramdas, McAuliffe & Sekhon 2021): the chance that it ever passes them is
//! at most alpha. For small samples and tiny rates, where an asymptotic sequence promises nothing.

use super::distribution::ln_incomplete_gamma;
use crate::confidence::{one_sided_evidence, ratio, ratio_at_plan, two_sided_radius};
use crate::special::ln_beta;

/// All mixtures here are tuned at this error, whichever they are used at.
const TUNED_AT: f64 = 0.05;

/// Two-sided normal mixture (proposition 5 with eq. 14), tightest at `v_best`.
#[must_use]
pub fn normal_mixture_two_sided(v: f64, v_best: f64, alpha: f64) -> f64 {
    libm::sqrt(v) * two_sided_radius(ratio(v, v_best, TUNED_AT), alpha)
}

/// ln e of the two-sided normal mixture at sum `s`.
#[must_use]
pub fn ln_normal_mixture(s: f64, v: f64, v_best: f64) -> f64 {
    let rho = v_best / ratio_at_plan(TUNED_AT);
    0.5 * libm::log(rho / (v + rho)) + s * s / (2.0 * (v + rho))
}

/// Where an increasing `evidence` reaches ln(1 / alpha).
fn boundary(alpha: f64, start: f64, evidence: impl Fn(f64) -> f64) -> f64 {
    let goal = -libm::log(alpha);
    let (mut low, mut high) = (0.0, start.max(1e-9));
    for _ in 0..200 {
        if evidence(high) >= goal {
            break;
        }
        low = high;
        high *= 2.0;
    }
    for _ in 0..200 {
        let middle = 0.5 * (low + high);
        if evidence(middle) < goal {
            low = middle;
        } else {
            high = middle;
        }
        if high - low <= 1e-13 * high {
            break;
        }
    }
    0.5 * (low + high)
}

/// One-sided normal mixture (proposition 6).
#[must_use]
pub fn normal_mixture_one_sided(v: f64, v_best: f64, alpha: f64) -> f64 {
    let root = libm::sqrt(v);
    let r = ratio(v, v_best, 2.0 * TUNED_AT);
    boundary(alpha, root, |s| one_sided_evidence(r, s / root))
}

/// Gamma-exponential mixture for sub-exponential sums of scale `c` (proposition 9).
#[must_use]
pub fn gamma_exponential_mixture(v: f64, v_best: f64, alpha: f64, c: f64) -> f64 {
    let rho = v_best / ratio_at_plan(2.0 * TUNED_AT);
    let square = c * c;
    let own = rho / square;
    let leading = own * libm::log(own) - libm::lgamma(own) - ln_incomplete_gamma(own, own);
    let shape = (v + rho) / square;
    let ln_gamma = libm::lgamma(shape);
    boundary(alpha, libm::sqrt(v), |s| {
        let moved = (c * s + v) / square;
        leading + ln_gamma + ln_incomplete_gamma(shape, moved + own) - shape * libm::log(moved + own) + moved
    })
}

/// Riemann's zeta above 1, by Euler and Maclaurin.
fn zeta(s: f64) -> f64 {
    const HEAD: u32 = 30;
    let n = f64::from(HEAD);
    let head: f64 = (1..HEAD).map(|k| libm::pow(f64::from(k), -s)).sum();
    head + libm::pow(n, 1.0 - s) / (s - 1.0) + 0.5 * libm::pow(n, -s) + s / 12.0 * libm::pow(n, -s - 1.0)
        - s * (s + 1.0) * (s + 2.0) / 720.0 * libm::pow(n, -s - 3.0)
}

/// Polynomial stitching (theorem 1 with h(k) = (k + 1)^s zeta(s), s = 1.4, eta = 2) from `v_min` on, sums of scale `c`.
#[must_use]
pub fn poly_stitching(v: f64, v_min: f64, alpha: f64, c: f64) -> f64 {
    const S: f64 = 1.4;
    const ETA: f64 = 2.0;
    let root = libm::pow(ETA, 0.25);
    let k1 = (root + 1.0 / root) / core::f64::consts::SQRT_2;
    let k2 = (libm::sqrt(ETA) + 1.0) / 2.0;
    let v = v.max(v_min);
    let term = S * libm::log(libm::log(ETA * v / v_min))
        + libm::log(zeta(S) / (alpha * libm::pow(libm::log(ETA), S)));
    let lean = k2 * c * term;
    libm::sqrt(k1 * k1 * v * term + lean * lean) + lean
}

/// Anytime-valid interval of a rate after `successes` of `trials` (two-sided beta-binomial mixture, proposition 7, inverted), tightest
/// at `trials_best`. Exact for samples of any size.
#[must_use]
pub fn rate_interval(successes: f64, trials: f64, trials_best: f64, alpha: f64) -> (f64, f64) {
    if trials.is_nan() || trials <= 0.0 {
        return (0.0, 1.0);
    }
    let goal = -libm::log(alpha);
    let evidence = |p: f64| {
        let (g, h) = (p, 1.0 - p);
        let spread = g * h;
        let rho = trials_best * spread / ratio_at_plan(TUNED_AT);
        let r = (rho - spread).max(1e-3 * spread);
        let (v, s) = (spread * trials, successes - trials * p);
        -(v + h * s) / h * libm::log(g) - (v - g * s) / g * libm::log(h)
            + ln_beta((r + v - g * s) / g, (r + v + h * s) / h)
            - ln_beta(r / g, r / h)
    };
    let rate = successes / trials;
    let search = |from: f64, end: f64| {
        // `from` is believed, `end` may be.
        if evidence(end) < goal {
            return end;
        }
        let (mut inside, mut outside) = (from, end);
        for _ in 0..100 {
            let middle = 0.5 * (inside + outside);
            if evidence(middle) < goal {
                inside = middle;
            } else {
                outside = middle;
            }
        }
        0.5 * (inside + outside)
    };
    let inside = rate.clamp(1e-9, 1.0 - 1e-9);
    let lower = if successes <= 0.0 { 0.0 } else { search(inside, 1e-12) };
    let upper = if successes >= trials { 1.0 } else { search(inside, 1.0 - 1e-12) };
    (if lower <= 1e-12 { 0.0 } else { lower }, if upper >= 1.0 - 1e-12 { 1.0 } else { upper })
}

/// Predictable bets: sqrt(2 ln(1/alpha) / (t ln(1 + t) sigma^2)), from what was known before each value (Waudby-Smith & Ramdas
/// 2024, eq. 15).
struct Bets {
    ln_inverse: f64,
    t: f64,
    sum: f64,
    squares: f64,
    variance: f64,
}

impl Bets {
    fn new(alpha: f64) -> Self {
        Self { ln_inverse: -libm::log(alpha), t: 0.0, sum: 0.0, squares: 0.0, variance: 0.25 }
    }

    /// The bet on the next value, `value`, which is known only afterwards.
    fn next(&mut self, value: f64) -> f64 {
        self.t += 1.0;
        let bet = libm::sqrt(2.0 * self.ln_inverse / (self.t * libm::log1p(self.t) * self.variance));
        self.sum += value;
        let mean = (0.5 + self.sum) / (self.t + 1.0);
        self.squares += (value - mean) * (value - mean);
        self.variance = (0.25 + self.squares) / (self.t + 1.0);
        bet
    }
}

fn empirical_bernstein_lower(values: impl Iterator<Item = f64>, alpha: f64) -> f64 {
    let mut bets = Bets::new(alpha);
    let (mut weighted, mut weights, mut cost) = (0.0, 0.0, 0.0);
    let (mut sum, mut mean, mut count) = (0.0, 0.0, 0.0);
    for value in values {
        let bet = bets.next(value).min(0.5);
        weighted += bet * value;
        weights += bet;
        cost += (value - mean) * (value - mean) * (-libm::log1p(-bet) - bet);
        sum += value;
        count += 1.0;
        mean = sum / count;
    }
    if weights > 0.0 { (weighted - libm::log(1.0 / alpha) - cost) / weights } else { 0.0 }
}

/// Predictable-mixture empirical Bernstein sequence for the mean of values in [0, 1] (Waudby-Smith & Ramdas 2024, theorem 2), at the
/// last value.
#[must_use]
pub fn empirical_bernstein(values: &[f64], alpha: f64) -> (f64, f64) {
    let lower = empirical_bernstein_lower(values.iter().copied(), alpha / 2.0);
    let upper = 1.0 - empirical_bernstein_lower(values.iter().map(|value| 1.0 - value), alpha / 2.0);
    (lower.clamp(0.0, 1.0), upper.clamp(0.0, 1.0))
}

/// Hedged capital (Waudby-Smith & Ramdas 2024, theorem 3): the means on a grid of 1 / `breaks` whose bets did not pay, one step wider
/// on both sides because the truth may lie between two of them.
#[must_use]
pub fn betting(values: &[f64], alpha: f64, breaks: u32) -> (f64, f64) {
    let breaks = breaks.clamp(1, 10_000);
    let goal = -libm::log(alpha);
    let step = 1.0 / f64::from(breaks);
    let (mut first, mut last) = (None, 0.0);
    for node in 0..=breaks {
        let mean = f64::from(node) * step;
        let mut bets = Bets::new(alpha / 2.0);
        let (mut up, mut down) = (0.0, 0.0);
        for &value in values {
            let bet = bets.next(value);
            let cap = |side: f64| if side > 0.0 { bet.min(0.5 / side) } else { bet };
            up += libm::log((1.0 + cap(mean) * (value - mean)).max(1e-300));
            down += libm::log((1.0 - cap(1.0 - mean) * (value - mean)).max(1e-300));
        }
        if f64::max(up, down) - core::f64::consts::LN_2 <= goal {
            first.get_or_insert(mean);
            last = mean;
        }
    }
    first.map_or((0.0, 1.0), |first| ((first - step).max(0.0), (last + step).min(1.0)))
}
