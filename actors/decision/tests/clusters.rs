//! Moments of hash clusters beside those of single units: the same means, intervals that cover as often, and nearly the
//! same standard errors.
//!
//! Two arms over strata in which behaviour swings by half and, where the allocation learns, so do the arms' shares. The second
//! model here keeps every unit's values, and makes both kinds of moments from them. FEATUREOPS_LONG: five times the runs.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test may fail loudly, and its second model is meant to use other mathematics"
)]

mod harness;

use featureops_decision::chance::Chance;
use featureops_decision::contrast::{Contrast, adjust};
use featureops_decision::moments::{Scope, table};
use featureops_decision::policy::thompson::{self, Verdict};
use featureops_proto::v1;
use featureops_proto::v1::metric::Kind;
use harness::{close, metric, on_two_threads, proportions, slot};

const CLUSTERS: usize = 64;
/// Slots: converted, revenue, clicks, views; pair: clicks and views.
const SLOTS: usize = 4;

/// One arm of one stratum, unit by unit.
#[derive(Default, Clone)]
struct Units(Vec<(usize, [i128; SLOTS])>);

impl Units {
    fn by_unit(&self) -> v1::ArmMoments {
        let sum = |of: &dyn Fn(&[i128; SLOTS]) -> i128| self.0.iter().map(|(_, values)| of(values)).sum();
        v1::ArmMoments {
            units: self.0.len() as u64,
            slots: (0..SLOTS).map(|at| slot(sum(&|v| v[at]), sum(&|v| v[at] * v[at]))).collect(),
            cross: vec![v1::Int128::new(sum(&|v| v[2] * v[3]))],
            ..v1::ArmMoments::default()
        }
    }

    /// As the ledger has them after its fold: a proportion by unit, sums by cluster.
    fn by_cluster(&self) -> v1::ArmMoments {
        let mut clusters = vec![(0_i128, [0_i128; SLOTS]); CLUSTERS];
        for (cluster, values) in &self.0 {
            clusters[*cluster].0 += 1;
            for (sum, value) in clusters[*cluster].1.iter_mut().zip(values) {
                *sum += value;
            }
        }
        let own = self.by_unit();
        let sum = |of: &dyn Fn(i128, &[i128; SLOTS]) -> i128| -> i128 {
            clusters.iter().map(|(units, sums)| of(*units, sums)).sum()
        };
        let folded = |at: usize| v1::SlotMoments {
            with_units: Some(v1::Int128::new(sum(&|n, s| n * s[at]))),
            squares: Some(v1::Int128::new(sum(&|_, s| s[at] * s[at]))),
            ..own.slots[at]
        };
        v1::ArmMoments {
            slots: std::iter::once(own.slots[0]).chain((1..SLOTS).map(folded)).collect(),
            cross: vec![v1::Int128::new(sum(&|_, s| s[2] * s[3]))],
            clusters: clusters.iter().filter(|(units, _)| *units > 0).count() as u64,
            units_squared: sum(&|n, _| n * n) as u64,
            ..own
        }
    }
}

fn normal(chance: &mut Chance) -> f64 {
    let (a, b) = (chance.unit().max(1e-300), chance.unit());
    (-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos()
}

#[derive(Clone, Copy)]
struct World {
    strata: usize,
    units: usize,
    learns: bool,
    /// Added to each unit's revenue in the second arm.
    shift: f64,
}

/// Converted, lognormal revenue, clicks and views of one unit.
fn values(chance: &mut Chance, swing: f64, shift: f64) -> [i128; SLOTS] {
    let converted = i128::from(chance.unit() < 0.1 * swing);
    let revenue = ((swing * normal(chance).exp() + shift) * 1e6).round() as i128;
    // A unit's own inclination makes its views alike: n is units, not views.
    let (inclination, mut views, mut clicks) = (0.2 + 0.6 * chance.unit(), 1_i128, 0_i128);
    while chance.unit() < 0.7 && views < 40 {
        views += 1;
    }
    for _ in 0..views {
        clicks += i128::from(chance.unit() < inclination * swing / 2.0);
    }
    [converted, revenue, clicks, views]
}

/// Moments by unit and by cluster of one run.
fn run(world: World, seed: u64) -> [v1::DecisionInputs; 2] {
    let mut chance = Chance::from_seed(0xc105_7e25 + seed);
    let mut inputs = proportions(&vec![vec![(0, 0), (0, 0)]; world.strata]);
    inputs.metrics = vec![
        v1::MetricInput { decimal_scale: 6, ..metric(Kind::Mean, v1::Role::Primary, 1) },
        metric(Kind::Proportion, v1::Role::Secondary, 0),
        v1::MetricInput { denominator_slot: 3, ..metric(Kind::Ratio, v1::Role::Secondary, 2) },
    ];
    let mut folded = inputs.clone();
    let start = chance.unit();
    for at in 0..world.strata {
        let day = std::f64::consts::TAU * (at as f64 / 24.0 + start);
        let swing = 1.0 + 0.5 * day.sin();
        let mut arms = vec![Units::default(); 2];
        let share = f64::from(inputs.weights[1]) / 10_000.0;
        for _ in 0..world.units {
            let arm = usize::from(chance.unit() < share);
            let cluster = (chance.unit() * CLUSTERS as f64) as usize;
            let shift = if arm == 1 { world.shift } else { 0.0 };
            arms[arm].0.push((cluster, values(&mut chance, swing, shift)));
        }
        inputs.strata[at].arms = arms.iter().map(Units::by_unit).collect();
        folded.strata[at].arms = arms.iter().map(Units::by_cluster).collect();
        if world.learns {
            let mut so_far = inputs.clone();
            so_far.strata.truncate(at + 1);
            if let Verdict::Move(allocation) = thompson::decide(&so_far).unwrap() {
                // Some traffic is always left to either arm, as bounds do: without it there is nothing to compare.
                let weight = allocation.weights[1].clamp(1_500, 8_500);
                inputs.weights = vec![10_000 - weight, weight];
            }
        }
    }
    [inputs, folded]
}

fn contrast(inputs: &v1::DecisionInputs, metric: usize) -> Contrast {
    let table = table(inputs, &inputs.metrics[metric], Scope::Generation).unwrap();
    adjust(&table).unwrap().unwrap().contrast(1).unwrap()
}

fn runs(usual: u64) -> u64 {
    if std::env::var_os("FEATUREOPS_LONG").is_some() { usual * 5 } else { usual }
}

/// Per metric and kind of moments: the share of 95 % intervals that hold the truth.
fn coverage(world: World, runs: u64) -> [[f64; 2]; 3] {
    let truths = [world.shift, 0.0, 0.0];
    let all = on_two_threads(runs, |seed| {
        let both = run(world, seed);
        let mut held = [[false; 2]; 3];
        for (metric, truth) in truths.iter().enumerate() {
            for (inputs, held) in both.iter().zip(&mut held[metric]) {
                let contrast = contrast(inputs, metric);
                *held = (contrast.difference - truth).abs() <= 1.96 * contrast.standard_error();
            }
        }
        held
    });
    let mut shares = [[0.0; 2]; 3];
    for held in &all {
        for (shares, held) in shares.iter_mut().flatten().zip(held.iter().flatten()) {
            *shares += f64::from(*held) / runs as f64;
        }
    }
    println!(
        "learns {}, {} strata, {} units: by unit and by cluster, mean {:?}, proportion {:?}, ratio {:?} ({runs} runs)",
        world.learns, world.strata, world.units, shares[0], shares[1], shares[2]
    );
    shares
}

/// Within .95 +- .01; the usual number of runs adds an error of its own, two of which are let through.
fn all_cover(shares: [[f64; 2]; 3]) {
    let slack = if std::env::var_os("FEATUREOPS_LONG").is_some() { 0.01 } else { 0.02 };
    let (least, most) = (0.95 - slack, 0.95 + slack);
    assert!(shares.iter().flatten().all(|share| (least..=most).contains(share)), "{shares:?}");
}

#[test]
fn intervals_cover_before_and_after_the_fold() {
    let world = World { strata: 12, units: 1_000, learns: false, shift: 0.1 };
    all_cover(coverage(world, runs(2_000)));
}

#[test]
fn intervals_cover_before_and_after_the_fold_while_the_allocation_learns() {
    let world = World { strata: 12, units: 1_000, learns: true, shift: 0.1 };
    all_cover(coverage(world, runs(2_000)));
}

/// A fold within the experiment's first hour leaves 64 clusters an arm, and thinning a part of them.
#[test]
fn intervals_cover_with_one_stratum_of_clusters() {
    let world = World { strata: 1, units: 8_000, learns: false, shift: 0.0 };
    all_cover(coverage(world, runs(2_000)));
}

#[test]
fn standard_errors_of_clusters_are_those_of_units() {
    let world = World { strata: 64, units: 2_500, learns: false, shift: 0.0 };
    let count = runs(60);
    let ratios = on_two_threads(count, |seed| {
        let [units, clusters] = run(world, seed);
        [0, 2].map(|metric| {
            let (unit, cluster) = (contrast(&units, metric), contrast(&clusters, metric));
            assert!(close(unit.mean, cluster.mean, 1e-2, 0.0));
            cluster.standard_error() / unit.standard_error()
        })
    });
    for (at, name) in ["mean", "ratio"].iter().enumerate() {
        let mean = ratios.iter().map(|pair| pair[at]).sum::<f64>() / count as f64;
        let spread = ratios.iter().map(|pair| (pair[at] - mean).powi(2)).sum::<f64>() / (count - 1) as f64;
        println!("{name}: standard error by cluster over by unit, mean {mean:.4}, sd {:.4}", spread.sqrt());
        assert!((mean - 1.0).abs() < 0.01 && spread.sqrt() <= 0.01, "{name}: {mean} {}", spread.sqrt());
    }
}

/// What the test of coverage must notice: clusters' squares read as if they were units'.
#[test]
fn squares_of_clusters_read_as_those_of_units_do_not_cover() {
    let world = World { strata: 1, units: 2_000, learns: false, shift: 0.0 };
    let covered = on_two_threads(100, |seed| {
        let [_, mut clusters] = run(world, seed);
        for arm in &mut clusters.strata[0].arms {
            arm.clusters = 0;
        }
        let contrast = contrast(&clusters, 0);
        contrast.difference.abs() <= 1.96 * contrast.standard_error()
    });
    assert!(covered.iter().all(|covered| *covered), "sums over 30 units have 30 times the spread");
}

/// Every unit its own cluster: the same numbers, but for what few degrees of freedom add.
#[test]
fn clusters_of_one_unit_are_units() {
    let [units, _] = run(World { strata: 1, units: 900, learns: false, shift: 0.0 }, 7);
    let mut ones = units.clone();
    let mut freedom = Vec::new();
    for arm in &mut ones.strata[0].arms {
        (arm.clusters, arm.units_squared) = (arm.units, arm.units);
        for slot in &mut arm.slots {
            slot.with_units = slot.sum;
        }
        freedom.push(arm.units as f64 - 1.0);
    }
    for metric in [0, 2] {
        let read = |inputs: &v1::DecisionInputs| {
            table(inputs, &inputs.metrics[metric], Scope::Generation).unwrap().strata[0].clone()
        };
        for ((one, unit), freedom) in read(&ones).iter().zip(&read(&units)).zip(&freedom) {
            assert!(close(one.mean, unit.mean, 1e-12, 0.0));
            assert!(close(one.squares, unit.squares * (1.0 + 5.0 / freedom), 1e-9, 0.0));
        }
    }
}

#[test]
fn clusters_that_contradict_their_units_are_refused() {
    let [_, mut folded] = run(World { strata: 1, units: 500, learns: false, shift: 0.0 }, 7);
    for (clusters, units_squared) in [(501, 4_000), (60, 10), (60, u64::MAX)] {
        let arm = &mut folded.strata[0].arms[0];
        (arm.clusters, arm.units_squared) = (clusters, units_squared);
        assert!(table(&folded, &folded.metrics[0], Scope::Generation).is_err(), "{clusters} {units_squared}");
    }
}
