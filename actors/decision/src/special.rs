//! Special functions on the pure-Rust `libm`: the same bits on every CPU.
//!
//! Only what the decision path needs. Errors are relative unless said otherwise; arguments outside a domain give the
//! nearest limit, never NaN, so that a caller need not guard every call.

use std::f64::consts::SQRT_2;

/// ln sqrt(2 pi).
const HALF_LN_TWO_PI: f64 = 0.918_938_533_204_672_8;

/// P(Z <= z) of the standard normal distribution, error below 1e-15 absolute.
#[must_use]
pub fn normal_cdf(z: f64) -> f64 {
    0.5 * libm::erfc(-z / SQRT_2)
}

/// ln P(Z <= z), also where the probability itself underflows.
#[must_use]
pub fn ln_normal_cdf(z: f64) -> f64 {
    if z > -30.0 {
        return libm::log(normal_cdf(z));
    }
    // Abramowitz & Stegun 26.2.12: the error is below the last term, 15 / z^6 < 3e-8.
    let inverse = 1.0 / (z * z);
    -0.5 * z * z - HALF_LN_TWO_PI - libm::log(-z) + libm::log1p(-inverse + 3.0 * inverse * inverse)
}

/// What Stirling's formula lacks, ln Gamma(x) - [(x - 1/2) ln x - x + ln sqrt(2 pi)], for x >= 10; error below 1e-15 absolute.
fn stirling_error(x: f64) -> f64 {
    let inverse = 1.0 / (x * x);
    (1.0 / 12.0
        - inverse * (1.0 / 360.0 - inverse * (1.0 / 1260.0 - inverse * (1.0 / 1680.0 - inverse / 1188.0))))
        / x
}

/// ln B(a, b) for a, b > 0, without the cancellation of three large ln Gamma (DiDonato & Morris 1992, section 9).
#[must_use]
pub fn ln_beta(a: f64, b: f64) -> f64 {
    let (small, large) = if a <= b { (a, b) } else { (b, a) };
    if large < 10.0 {
        return libm::lgamma(small) + libm::lgamma(large) - libm::lgamma(small + large);
    }
    let tail = stirling_error(large) - stirling_error(small + large);
    if small < 10.0 {
        return libm::lgamma(small) + tail + small - small * libm::log(small + large)
            + (large - 0.5) * libm::log1p(-small / (small + large));
    }
    let ratio = small / large;
    -0.5 * libm::log(large)
        + HALF_LN_TWO_PI
        + stirling_error(small)
        + tail
        + (small - 0.5) * libm::log(ratio / (1.0 + ratio))
        - large * libm::log1p(ratio)
}

/// P(X > x) of the chi-square distribution: Q(freedom / 2, x / 2), by series below the mean and continued fraction above.
#[must_use]
pub fn chi_square_tail(x: f64, freedom: u32) -> f64 {
    let shape = f64::from(freedom) / 2.0;
    let half = x / 2.0;
    if half.is_nan() || half <= 0.0 || shape <= 0.0 {
        return 1.0;
    }
    if half.is_infinite() {
        return 0.0;
    }
    let front = libm::exp(shape * libm::log(half) - half - libm::lgamma(shape));
    if half < shape + 1.0 {
        let mut term = 1.0 / shape;
        let mut sum = term;
        let mut at = shape;
        for _ in 0..10_000 {
            at += 1.0;
            term *= half / at;
            sum += term;
            if term < sum * 1e-17 {
                break;
            }
        }
        return (1.0 - front * sum).clamp(0.0, 1.0);
    }
    let mut b = half + 1.0 - shape;
    let mut c = 1e300;
    let mut d = 1.0 / b;
    let mut fraction = d;
    for step in 1..=10_000_u32 {
        let m = f64::from(step);
        let a = -m * (m - shape);
        b += 2.0;
        d = 1.0 / (a * d + b);
        c = b + a / c;
        let change = d * c;
        fraction *= change;
        if (change - 1.0).abs() < 1e-16 {
            break;
        }
    }
    (front * fraction).clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use statrs::distribution::{ChiSquared, ContinuousCDF, Normal};

    fn close(ours: f64, theirs: f64, tolerance: f64) {
        assert!((ours - theirs).abs() <= tolerance * (1e-300 + theirs.abs()), "{ours} against {theirs}");
    }

    #[test]
    fn agrees_with_an_independent_library() {
        let normal = Normal::standard();
        for z in [-8.0, -3.0, -0.1, 0.0, 1.3, 5.0] {
            close(normal_cdf(z), normal.cdf(z), 1e-9);
        }
        // Both formulas; the second begins at -30.
        for z in [-35.0, -31.0, -29.0, -7.0, -4.3, -1.96, -0.5, 0.0, 1.96, 4.3] {
            close(ln_normal_cdf(z), libm::log(normal.cdf(z)), 1e-9);
        }
        // An error of the logarithm is one of the density, in relation to it.
        for (a, b) in [(1.0, 1.0), (1.0, 1001.0), (3.5, 2.25), (400.0, 9600.0), (12.0, 5.0)] {
            let (ours, theirs) = (ln_beta(a, b), statrs::function::beta::ln_beta(a, b));
            assert!((ours - theirs).abs() <= 1e-9, "ln B({a}, {b}): {ours} against {theirs}");
        }
        for freedom in [1, 2, 5, 31] {
            let chi = ChiSquared::new(f64::from(freedom)).unwrap();
            for x in [0.01, 0.9, 3.84, 16.7, 80.0] {
                close(chi_square_tail(x, freedom), chi.sf(x), 1e-8);
            }
        }
    }

    #[test]
    fn the_log_of_the_normal_tail_is_continuous_where_the_formula_changes() {
        close(ln_normal_cdf(-30.0 + 1e-9), ln_normal_cdf(-30.0 - 1e-9), 1e-9);
        assert!(ln_normal_cdf(-1e6).is_finite());
    }
}
