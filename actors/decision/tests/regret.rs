//! Cumulative regret of the default policy when the weights are recomputed after every outcome, in one stratum.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test may fail loudly, and its second model is meant to use other mathematics"
)]

mod harness;

use featureops_decision::chance::Chance;
use featureops_decision::policy::thompson::{self, Verdict};
use harness::{mean_and_p95, on_two_threads, proportions};

/// Expected regret of one run: sum over units of (best rate - rate of the arm served).
fn regret(rates: &[f64], units: u64, batch: u64, seed: u64) -> f64 {
    let mut chance = Chance::from_seed(seed);
    let mut inputs = proportions(&[vec![(0, 0); rates.len()]]);
    let best = rates.iter().copied().fold(0.0, f64::max);
    let mut regret = 0.0;
    for unit in 1..=units {
        let bucket = (chance.unit() * 10_000.0) as u32;
        let mut reach = 0;
        let arm = inputs.weights.iter().position(|weight| {
            reach += weight;
            bucket < reach
        });
        let arm = arm.unwrap();
        regret += best - rates[arm];
        let moments = &mut inputs.strata[0].arms[arm];
        moments.units += 1;
        if chance.unit() < rates[arm] {
            let sum = moments.slots[0].sum.as_mut().unwrap();
            sum.low += 1;
        }
        if unit % batch == 0
            && let Verdict::Move(allocation) = thompson::decide(&inputs).unwrap()
        {
            inputs.weights = allocation.weights;
        }
    }
    regret
}

fn report(name: &str, rates: &[f64], units: u64, batch: u64, seeds: u64) -> f64 {
    let all = on_two_threads(seeds, |seed| regret(rates, units, batch, 1_000 + seed));
    let (mean, p95) = mean_and_p95(&all);
    println!("{name}: mean regret {mean:.1}, p95 {p95:.1}, {seeds} seeds");
    mean
}

const TEN: [f64; 10] = [0.06, 0.055, 0.05, 0.05, 0.045, 0.045, 0.04, 0.04, 0.035, 0.03];

#[test]
fn three_arms() {
    assert!(report("three arms, every outcome", &[0.04, 0.05, 0.06], 20_000, 1, 200) <= 47.0);
}

#[test]
fn three_arms_in_batches_of_a_thousand() {
    assert!(report("three arms, batches of 1,000", &[0.04, 0.05, 0.06], 20_000, 1_000, 2_000) <= 44.0);
}

#[test]
fn ten_arms() {
    assert!(report("ten arms, every outcome", &TEN, 50_000, 1, 100) <= 218.0);
}
