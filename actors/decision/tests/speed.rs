//! P(best) costs microseconds: the bound here is loose, the figure is printed.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test may fail loudly, and its second model is meant to use other mathematics"
)]

use featureops_decision::best::{Posterior, probability_best};
use std::hint::black_box;
use std::time::Instant;

fn micros(arms: &[(f64, f64)]) -> f64 {
    let posteriors: Vec<Posterior> = arms
        .iter()
        .map(|(units, p)| Posterior::Beta { alpha: 1.0 + units * p, beta: 1.0 + units * (1.0 - p) })
        .collect();
    let mut best = f64::INFINITY;
    for _ in 0..20 {
        let start = Instant::now();
        for _ in 0..200 {
            black_box(probability_best(black_box(&posteriors), false));
        }
        best = best.min(start.elapsed().as_secs_f64() * 1e6 / 200.0);
    }
    best
}

#[test]
fn exact_probabilities_are_cheap() {
    let three = micros(&[(1_000.0, 0.04), (1_000.0, 0.05), (1_000.0, 0.06)]);
    let ten: Vec<(f64, f64)> =
        (0..10).map(|arm| (500.0 + 20.0 * f64::from(arm), 0.05 + 0.002 * f64::from(arm))).collect();
    let ten = micros(&ten);
    println!("three arms {three:.1} us, ten arms {ten:.1} us");
    assert!(three < 50.0 && ten < 250.0, "three arms {three} us, ten arms {ten} us");
}
