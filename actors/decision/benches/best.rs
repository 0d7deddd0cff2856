//! Microseconds per P(best) of three and of ten arms.
//!
//! `cargo bench -p featureops-decision --bench best` prints the median of 15 rounds. A plain loop: what is measured is
//! far above the clock's resolution.
#![allow(clippy::disallowed_methods, reason = "a measurement reads the clock; nothing under test does")]
#![allow(clippy::indexing_slicing, reason = "a benchmark may stop on a wrong setup")]

use std::hint::black_box;
use std::time::Instant;

use featureops_decision::best::{Posterior, probability_best};

const ROUNDS: usize = 15;
const CALLS: u32 = 2_000;

/// (units, rate) an arm.
fn report(arms: &[(f64, f64)]) {
    let posteriors: Vec<Posterior> = arms
        .iter()
        .map(|(units, rate)| Posterior::Beta { alpha: 1.0 + units * rate, beta: 1.0 + units * (1.0 - rate) })
        .collect();
    let mut rounds: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            for _ in 0..CALLS {
                black_box(probability_best(black_box(&posteriors), false));
            }
            start.elapsed().as_secs_f64() * 1e6 / f64::from(CALLS)
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    println!("{:>2} arms {:>8.1} us", arms.len(), rounds[ROUNDS / 2]);
}

fn main() {
    report(&[(1_000.0, 0.04), (1_000.0, 0.05), (1_000.0, 0.06)]);
    let ten: Vec<(f64, f64)> =
        (0..10).map(|arm| (500.0 + 20.0 * f64::from(arm), 0.05 + 0.002 * f64::from(arm))).collect();
    report(&ten);
}
