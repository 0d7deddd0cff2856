//! Distributions of analysis: quantiles and tails, in log space where a tail may be smaller than any float.
//!
//! Errors are relative; each is tested against closed forms, published tables or an independent library.

use crate::special::{ln_beta, ln_normal_cdf, normal_cdf};

/// ln sqrt(2 pi).
const HALF_LN_TWO_PI: f64 = 0.918_938_533_204_672_8;
/// Terms of a series or continued fraction before it is given up; a shape s needs about 10 sqrt(s).
const TERMS_MAX: u32 = 1_000_000;

/// Density of the standard normal distribution.
#[must_use]
pub fn normal_density(z: f64) -> f64 {
    libm::exp(-0.5 * z * z - HALF_LN_TWO_PI)
}

/// z with P(Z > z) = exp(`ln_tail`), for tails of any smallness; error below 1e-13.
///
/// Newton's method on ln P(Z > z) (concave, so it converges from the left) after Abramowitz & Stegun 26.2.23.
#[must_use]
pub fn normal_upper_quantile_ln(ln_tail: f64) -> f64 {
    if ln_tail.is_nan() || ln_tail >= 0.0 {
        return f64::NEG_INFINITY;
    }
    if ln_tail > -core::f64::consts::LN_2 {
        // The other half: 1 - tail is the smaller one.
        return -normal_upper_quantile_ln(libm::log(-libm::expm1(ln_tail)));
    }
    let t = libm::sqrt(-2.0 * ln_tail);
    let mut z = t
        - (2.515_517 + t * (0.802_853 + t * 0.010_328))
            / (1.0 + t * (1.432_788 + t * (0.189_269 + t * 0.001_308)));
    for _ in 0..20 {
        let ln_at = ln_normal_cdf(-z);
        let slope = libm::exp(-0.5 * z * z - HALF_LN_TWO_PI - ln_at);
        let step = (ln_at - ln_tail) / slope;
        z += step;
        if step.abs() <= 1e-15 * (1.0 + z.abs()) {
            break;
        }
    }
    z
}

/// z with P(Z <= z) = `probability`; infinite at 0 and 1.
#[must_use]
pub fn normal_quantile(probability: f64) -> f64 {
    if probability <= 0.0 {
        return f64::NEG_INFINITY;
    }
    if probability >= 1.0 {
        return f64::INFINITY;
    }
    -normal_upper_quantile_ln(libm::log(probability))
}

/// The continued fraction of the incomplete beta function by Lentz's method (Press et al., section 6.4).
fn beta_fraction(a: f64, b: f64, x: f64) -> f64 {
    const TINY: f64 = 1e-300;
    let floor = |value: f64| if value.abs() < TINY { TINY } else { value };
    let mut c = 1.0;
    let mut d = 1.0 / floor(1.0 - (a + b) * x / (a + 1.0));
    let mut fraction = d;
    for step in 1..=TERMS_MAX {
        let m = f64::from(step);
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        d = 1.0 / floor(1.0 + even * d);
        c = floor(1.0 + even / c);
        fraction *= d * c;
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        d = 1.0 / floor(1.0 + odd * d);
        c = floor(1.0 + odd / c);
        fraction *= d * c;
        if (d * c - 1.0).abs() < 1e-15 {
            break;
        }
    }
    fraction
}

/// ln I_x(a, b), the regularised incomplete beta function, given x and 1 - x apart so that neither loses digits.
#[must_use]
pub fn ln_incomplete_beta(a: f64, b: f64, x: f64, complement: f64) -> f64 {
    if x <= 0.0 {
        return f64::NEG_INFINITY;
    }
    if complement <= 0.0 {
        return 0.0;
    }
    let ln_x = if x < 0.5 { libm::log(x) } else { libm::log1p(-complement) };
    let ln_complement = if complement < 0.5 { libm::log(complement) } else { libm::log1p(-x) };
    let ln_front = a * ln_x + b * ln_complement - ln_beta(a, b);
    if x < (a + 1.0) / (a + b + 2.0) {
        return (ln_front - libm::log(a) + libm::log(beta_fraction(a, b, x))).min(0.0);
    }
    let rest = ln_front - libm::log(b) + libm::log(beta_fraction(b, a, complement));
    libm::log1p(-libm::exp(rest.min(0.0)))
}

/// ln P(a, x), the regularised lower incomplete gamma function.
#[must_use]
pub fn ln_incomplete_gamma(a: f64, x: f64) -> f64 {
    if x <= 0.0 {
        return f64::NEG_INFINITY;
    }
    let ln_front = a * libm::log(x) - x - libm::lgamma(a);
    if x < a + 1.0 {
        let (mut term, mut sum, mut at) = (1.0 / a, 1.0 / a, a);
        for _ in 0..TERMS_MAX {
            at += 1.0;
            term *= x / at;
            sum += term;
            if term < sum * 1e-17 {
                break;
            }
        }
        return (ln_front + libm::log(sum)).min(0.0);
    }
    let mut b = x + 1.0 - a;
    let mut c = 1e300;
    let mut d = 1.0 / b;
    let mut fraction = d;
    for step in 1..=TERMS_MAX {
        let m = f64::from(step);
        let numerator = -m * (m - a);
        b += 2.0;
        d = 1.0 / (numerator * d + b);
        c = b + numerator / c;
        fraction *= d * c;
        if (d * c - 1.0).abs() < 1e-16 {
            break;
        }
    }
    libm::log1p(-libm::exp(ln_front + libm::log(fraction)).min(1.0))
}

/// ln P(T > t) of Student's distribution with `freedom` degrees of freedom; normal where they are infinite.
#[must_use]
pub fn ln_student_tail(t: f64, freedom: f64) -> f64 {
    if t.is_nan() {
        return f64::NAN;
    }
    if t < 0.0 {
        return libm::log1p(-libm::exp(ln_student_tail(-t, freedom)));
    }
    if freedom.is_infinite() || freedom > 1e12 {
        return ln_normal_cdf(-t);
    }
    let square = t * t;
    let ln_both =
        ln_incomplete_beta(freedom / 2.0, 0.5, freedom / (freedom + square), square / (freedom + square));
    ln_both - core::f64::consts::LN_2
}

/// t with P(T > t) = `tail`, 0 < tail < 1.
///
/// From 1,000 degrees of freedom by Cornish and Fisher's expansion (Abramowitz & Stegun 26.7.5; what is left out is below
/// 1e-12 for tails down to 1e-9); below by bisection of the tail.
#[must_use]
pub fn student_upper_quantile(tail: f64, freedom: f64) -> f64 {
    let z = -normal_quantile(tail);
    if freedom.is_infinite() || !z.is_finite() {
        return z;
    }
    if tail > 0.5 {
        return -student_upper_quantile(1.0 - tail, freedom);
    }
    if freedom >= 1_000.0 && z < 6.0 {
        let s = z * z;
        let g1 = (s + 1.0) * z / 4.0;
        let g2 = ((5.0 * s + 16.0) * s + 3.0) * z / 96.0;
        let g3 = (((3.0 * s + 19.0) * s + 17.0) * s - 15.0) * z / 384.0;
        let g4 = ((((79.0 * s + 776.0) * s + 1482.0) * s - 1920.0) * s - 945.0) * z / 92_160.0;
        return z + (g1 + (g2 + (g3 + g4 / freedom) / freedom) / freedom) / freedom;
    }
    let goal = libm::log(tail);
    let (mut low, mut high) = (0.0, z.max(1.0));
    for _ in 0..1_100 {
        if ln_student_tail(high, freedom) <= goal {
            break;
        }
        low = high;
        high *= 2.0;
    }
    for _ in 0..200 {
        let middle = 0.5 * (low + high);
        if ln_student_tail(middle, freedom) > goal {
            low = middle;
        } else {
            high = middle;
        }
        if high - low <= 1e-15 * high {
            break;
        }
    }
    0.5 * (low + high)
}

/// P(T > t) of the noncentral t distribution, `shift` = noncentrality: the normal tail averaged over the estimated standard
/// deviation s = sqrt(chi-square / freedom), by Simpson's rule on 800 intervals (Johnson, Kotz & Balakrishnan, 31.1).
#[must_use]
pub fn noncentral_student_tail(t: f64, freedom: f64, shift: f64) -> f64 {
    const INTERVALS: u32 = 800;
    if freedom > 1e9 {
        return normal_cdf(shift - t);
    }
    let half = freedom / 2.0;
    let ln_constant = core::f64::consts::LN_2 + half * libm::log(half) - libm::lgamma(half);
    let spread = 12.0 / libm::sqrt(2.0 * freedom);
    let (low, high) = ((1.0 - spread).max(1e-12), 1.0 + spread);
    let width = (high - low) / f64::from(INTERVALS);
    let mut sum = 0.0;
    let mut mass = 0.0;
    for node in 0..=INTERVALS {
        let s = low + f64::from(node) * width;
        let weight = if node == 0 || node == INTERVALS {
            1.0
        } else if node % 2 == 1 {
            4.0
        } else {
            2.0
        };
        let density = weight * libm::exp(ln_constant + (freedom - 1.0) * libm::log(s) - half * s * s);
        mass += density;
        sum += density * normal_cdf(shift - t * s);
    }
    // Dividing by the rule's own mass takes away what it and ln Gamma of a large argument err by.
    sum / mass
}
