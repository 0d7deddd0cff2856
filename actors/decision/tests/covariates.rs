//! Covariates: theta and the estimate against least squares by hand; intervals that cover for means, proportions and ratios, before
//! and after the fold, while behaviour drifts and the allocation learns; and the spread they take away.
//!
//! FEATUREOPS_LONG: five times the runs.
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
use featureops_decision::moments::{Both, Scope, both, table};
use featureops_decision::policy::thompson::{self, Verdict};
use featureops_decision::{analysis, confidence, guardrail, record, replay, winner};
use featureops_proto::v1;
use featureops_proto::v1::metric::Kind;
use harness::{close, metric, on_two_threads, proportions, slot};

const CLUSTERS: usize = 64;
/// Slots: converted, revenue, clicks, views, and the covariates.
const METRICS: usize = 4;

/// One arm of one stratum: sums and products over units and over clusters.
#[derive(Clone)]
struct Sums {
    units: i128,
    sums: Vec<i128>,
    products: Vec<Vec<i128>>,
    clusters: Vec<(i128, Vec<i128>)>,
}

impl Sums {
    fn new(slots: usize) -> Self {
        Self {
            units: 0,
            sums: vec![0; slots],
            products: vec![vec![0; slots]; slots],
            clusters: vec![(0, vec![0; slots]); CLUSTERS],
        }
    }

    fn add(&mut self, cluster: usize, values: &[i128]) {
        self.units += 1;
        self.clusters[cluster].0 += 1;
        for (at, value) in values.iter().enumerate() {
            self.sums[at] += value;
            self.clusters[cluster].1[at] += value;
            for (other, with) in values.iter().enumerate().take(at + 1) {
                self.products[at][other] += value * with;
            }
        }
    }

    /// As the ledger has them, before or after its fold.
    fn moments(&self, pairs: &[v1::PairInput], folded: bool) -> v1::ArmMoments {
        let over = |of: &dyn Fn(i128, &[i128]) -> i128| -> i128 {
            self.clusters.iter().map(|(units, sums)| of(*units, sums)).sum()
        };
        let product = |a: usize, b: usize| {
            if folded { over(&|_, s| s[a] * s[b]) } else { self.products[a.max(b)][a.min(b)] }
        };
        let slots = (0..self.sums.len()).map(|at| {
            // A proportion keeps the squares of its units.
            let squares = if at == 0 { self.products[0][0] } else { product(at, at) };
            let with_units = folded.then(|| v1::Int128::new(over(&|n, s| n * s[at])));
            v1::SlotMoments { with_units, ..slot(self.sums[at], squares) }
        });
        let cross = pairs.iter().map(|p| v1::Int128::new(product(p.first as usize, p.second as usize)));
        let clusters = self.clusters.iter().filter(|(units, _)| *units > 0).count();
        v1::ArmMoments {
            units: self.units as u64,
            slots: slots.collect(),
            cross: cross.collect(),
            clusters: if folded { clusters as u64 } else { 0 },
            units_squared: if folded { over(&|n, _| n * n) as u64 } else { 0 },
        }
    }
}

/// Two arms; a mean, a proportion, and clicks per view; the covariates' scales are 3 decimal places.
fn inputs(strata: usize, covariates: usize) -> v1::DecisionInputs {
    let mut inputs = proportions(&vec![vec![(0, 0), (0, 0)]; strata]);
    inputs.metrics = vec![
        v1::MetricInput { decimal_scale: 6, ..metric(Kind::Mean, v1::Role::Primary, 1) },
        metric(Kind::Proportion, v1::Role::Secondary, 0),
        v1::MetricInput { denominator_slot: 3, ..metric(Kind::Ratio, v1::Role::Secondary, 2) },
    ];
    let covariate = |at: usize| v1::CovariateInput {
        attribute: format!("before-{at}"),
        decimal_scale: 3,
        slot: (METRICS + at) as u32,
    };
    inputs.covariates = (0..covariates).map(covariate).collect();
    let mut pairs = vec![(2, 3), (0, 0)];
    for slot in METRICS..METRICS + covariates {
        pairs.extend((0..slot).map(|other| (slot, other)));
    }
    let pair = |(first, second): (usize, usize)| v1::PairInput { first: first as u32, second: second as u32 };
    inputs.pairs = pairs.into_iter().map(pair).collect();
    inputs
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
    /// Revenue and covariate are lognormal, else normal.
    skewed: bool,
    /// Share of units whose covariate is missing, and so 0, far from its mean.
    missing: f64,
}

const WORLD: World =
    World { strata: 12, units: 1_000, learns: false, shift: 0.1, skewed: true, missing: 0.0 };

/// Correlation of revenue with the covariate where both are normal.
const RHO: f64 = 0.7;

/// Converted, revenue, clicks, views and covariate of one unit: all lean on what the unit was before.
fn values(chance: &mut Chance, world: World, swing: f64, shift: f64) -> [i128; METRICS + 1] {
    let before = normal(chance);
    let own = RHO * before + (1.0 - RHO * RHO).sqrt() * normal(chance);
    let rate = (0.1 * swing * (0.8 * before).exp().min(4.0)).min(0.9);
    let converted = i128::from(chance.unit() < rate);
    let revenue = if world.skewed { swing * own.exp() } else { 5.0 * swing + own };
    // A unit's own inclination makes its views alike: n is units, not views.
    let inclination = 0.25 + 0.25 * before.clamp(-0.9, 2.0);
    let (mut views, mut clicks) = (1_i128, 0_i128);
    while chance.unit() < 0.7 && views < 40 {
        views += 1;
    }
    for _ in 0..views {
        clicks += i128::from(chance.unit() < inclination * swing / 2.0);
    }
    let covariate = if chance.unit() < world.missing {
        0.0
    } else if world.skewed {
        before.exp()
    } else {
        20.0 + 3.0 * before
    };
    let fixed = |value: f64, scale: f64| (value * scale).round() as i128;
    [converted, fixed(revenue + shift, 1e6), clicks, views, fixed(covariate, 1e3)]
}

/// Inputs by unit and by cluster of one run.
fn run(world: World, seed: u64) -> [v1::DecisionInputs; 2] {
    let mut chance = Chance::from_seed(0xc0a7_1a7e + seed);
    let mut by_unit = inputs(world.strata, 1);
    let mut folded = by_unit.clone();
    let start = chance.unit();
    for at in 0..world.strata {
        let day = std::f64::consts::TAU * (at as f64 / 24.0 + start);
        let swing = 1.0 + 0.5 * day.sin();
        let mut arms = vec![Sums::new(METRICS + 1); 2];
        let share = f64::from(by_unit.weights[1]) / 10_000.0;
        for _ in 0..world.units {
            let arm = usize::from(chance.unit() < share);
            let cluster = (chance.unit() * CLUSTERS as f64) as usize;
            let shift = if arm == 1 { world.shift } else { 0.0 };
            arms[arm].add(cluster, &values(&mut chance, world, swing, shift));
        }
        by_unit.strata[at].arms = arms.iter().map(|arm| arm.moments(&by_unit.pairs, false)).collect();
        folded.strata[at].arms = arms.iter().map(|arm| arm.moments(&folded.pairs, true)).collect();
        if world.learns {
            let mut so_far = by_unit.clone();
            so_far.strata.truncate(at + 1);
            if let Verdict::Move(allocation) = thompson::decide(&so_far).unwrap() {
                // Some traffic is always left to either arm, as bounds do: without it there is nothing to compare.
                let weight = allocation.weights[1].clamp(1_500, 8_500);
                by_unit.weights = vec![10_000 - weight, weight];
            }
        }
    }
    [by_unit, folded]
}

/// Without and with the covariates.
fn contrasts(inputs: &v1::DecisionInputs, metric: usize) -> [Contrast; 2] {
    let Both { plain, adjusted } = both(inputs, &inputs.metrics[metric], Scope::Generation).unwrap();
    let adjusted = adjusted.unwrap().0;
    assert_eq!(table(inputs, &inputs.metrics[metric], Scope::Generation).unwrap(), adjusted, "it decides");
    [&plain, &adjusted].map(|table| adjust(table).unwrap().unwrap().contrast(1).unwrap())
}

fn is_long() -> bool {
    std::env::var_os("FEATUREOPS_LONG").is_some()
}

fn runs(usual: u64) -> u64 {
    if is_long() { usual * 5 } else { usual }
}

/// Per metric and kind of moments: the share of 95 % intervals that hold the truth, and how the mean variance of the adjusted
/// contrast, and its own spread over runs, stand to the plain one's.
fn coverage(world: World, runs: u64) -> [[(f64, f64, f64); 2]; 3] {
    let truths = [world.shift, 0.0, 0.0];
    let all = on_two_threads(runs, |seed| {
        let kinds = run(world, seed);
        let read = |metric: usize| [0, 1].map(|kind: usize| contrasts(&kinds[kind], metric));
        [0, 1, 2].map(read)
    });
    let count = runs as f64;
    let mut shown = [[(0.0, 0.0, 0.0); 2]; 3];
    for (metric, truth) in truths.iter().enumerate() {
        for kind in 0..2 {
            let mean = |of: &dyn Fn(&[Contrast; 2]) -> f64| {
                all.iter().map(|run| of(&run[metric][kind])).sum::<f64>() / count
            };
            let held = |c: &Contrast| (c.difference - truth).abs() <= 1.96 * c.standard_error();
            let missed = |c: &Contrast| (c.difference - truth).powi(2);
            shown[metric][kind] = (
                mean(&|c| f64::from(held(&c[1]))),
                mean(&|c| c[1].variance) / mean(&|c| c[0].variance),
                mean(&|c| missed(&c[1])) / mean(&|c| missed(&c[0])),
            );
        }
        println!(
            "{}, learns {}, {} strata, {} units, missing {}: {} by unit and by cluster (coverage, variance, spread): {:.4?} ({runs} runs)",
            if world.skewed { "skewed" } else { "normal" },
            world.learns,
            world.strata,
            world.units,
            world.missing,
            ["mean", "proportion", "ratio"][metric],
            shown[metric]
        );
    }
    shown
}

/// Within .95 +- .01; the usual number of runs adds an error of its own, two of which are let through. The spread is less than
/// without covariates, and what the variance says it is.
fn all_cover(shown: [[(f64, f64, f64); 2]; 3]) {
    let slack = if is_long() { 0.01 } else { 0.02 };
    for (covered, variance, spread) in shown.into_iter().flatten() {
        assert!((covered - 0.95).abs() <= slack, "{shown:?}");
        assert!(variance < 0.97 && spread < 1.0 && (variance / spread - 1.0).abs() < 0.15, "{shown:?}");
    }
}

#[test]
fn intervals_cover_before_and_after_the_fold() {
    all_cover(coverage(WORLD, runs(2_000)));
}

#[test]
fn intervals_cover_before_and_after_the_fold_while_the_allocation_learns() {
    all_cover(coverage(World { learns: true, ..WORLD }, runs(2_000)));
}

/// A fold within the experiment's first hour leaves 64 clusters an arm.
#[test]
fn intervals_cover_with_one_stratum_of_clusters() {
    all_cover(coverage(World { strata: 1, units: 8_000, shift: 0.0, ..WORLD }, runs(2_000)));
}

/// A fifth of the covariates is missing, which says nothing of the unit: the rest still helps.
#[test]
fn intervals_cover_where_covariates_are_missing() {
    all_cover(coverage(World { missing: 0.2, ..WORLD }, runs(1_000)));
}

#[test]
fn a_correlation_of_seven_tenths_takes_half_of_the_variance() {
    let shown = coverage(World { skewed: false, units: 2_000, ..WORLD }, runs(1_000));
    for (covered, variance, spread) in shown[0] {
        assert!((variance - (1.0 - RHO * RHO)).abs() < 0.015, "{variance}");
        assert!((spread - (1.0 - RHO * RHO)).abs() < if is_long() { 0.03 } else { 0.06 }, "{spread}");
        assert!((covered - 0.95).abs() <= 0.02, "{covered}");
    }
}

/// What the tests of coverage must notice: an effect of the variant on the covariate itself.
#[test]
fn a_covariate_that_the_variant_changes_is_noticed() {
    let missed = on_two_threads(100, |seed| {
        let [mut inputs, _] =
            run(World { strata: 1, units: 4_000, shift: 0.0, skewed: false, ..WORLD }, seed);
        let arm = &mut inputs.strata[0].arms[1];
        // Half a unit more in each of the arm's covariates.
        let (units, added) = (i128::from(arm.units), 500);
        let sums: Vec<i128> = arm.slots.iter().map(|slot| slot.sum.unwrap().get()).collect();
        for (at, pair) in inputs.pairs.iter().enumerate().filter(|(_, pair)| pair.first == 4) {
            arm.cross[at] = v1::Int128::new(arm.cross[at].get() + added * sums[pair.second as usize]);
        }
        let squares = arm.slots[4].squares.unwrap().get() + added * (2 * sums[4] + added * units);
        arm.slots[4] = slot(sums[4] + added * units, squares);
        let [_, adjusted] = contrasts(&inputs, 0);
        adjusted.difference.abs() > 1.96 * adjusted.standard_error()
    });
    assert!(missed.iter().filter(|missed| **missed).count() > 90);
}

/// Ordinary least squares by elimination: coefficients and the residuals' sum of squares.
fn least_squares(rows: &[(Vec<f64>, f64)]) -> (Vec<f64>, f64) {
    let size = rows[0].0.len();
    let mut system = vec![vec![0.0; size + 1]; size];
    for (row, y) in rows {
        for (at, left) in row.iter().enumerate() {
            for (into, right) in system[at].iter_mut().zip(row.iter().chain([y])) {
                *into += left * right;
            }
        }
    }
    for pivot in 0..size {
        let best = (pivot..size).max_by(|a, b| system[*a][pivot].abs().total_cmp(&system[*b][pivot].abs()));
        system.swap(pivot, best.unwrap());
        let row = system[pivot].clone();
        for (at, other) in system.iter_mut().enumerate().filter(|(at, _)| *at != pivot) {
            let factor = other[pivot] / row[pivot];
            assert!(at != pivot);
            for (into, from) in other.iter_mut().zip(&row) {
                *into -= factor * from;
            }
        }
    }
    let solved: Vec<f64> = (0..size).map(|at| system[at][size] / system[at][at]).collect();
    let fitted = |row: &[f64]| row.iter().zip(&solved).map(|(x, b)| x * b).sum::<f64>();
    let left = rows.iter().map(|(row, y)| (y - fitted(row)).powi(2)).sum();
    (solved, left)
}

/// Units of three strata with two covariates; returns the inputs and every unit as (stratum, arm, values).
fn plain_world(third: impl Fn(&[i128]) -> i128) -> (v1::DecisionInputs, Vec<(usize, usize, Vec<i128>)>) {
    let mut chance = Chance::from_seed(0x1ea5_7500);
    let mut inputs = inputs(3, 3);
    let mut units = Vec::new();
    for stratum in 0..3 {
        let mut arms = vec![Sums::new(METRICS + 3); 2];
        for _ in 0..300 {
            let arm = usize::from(chance.unit() < 0.3 + 0.2 * stratum as f64);
            let mut values = values(&mut chance, WORLD, 1.0 + stratum as f64, arm as f64 / 4.0).to_vec();
            values.push((1_000.0 * (normal(&mut chance) + values[4] as f64 / 2_000.0)) as i128);
            values.push(third(&values));
            arms[arm].add((chance.unit() * CLUSTERS as f64) as usize, &values);
            units.push((stratum, arm, values));
        }
        inputs.strata[stratum].arms = arms.iter().map(|arm| arm.moments(&inputs.pairs, false)).collect();
    }
    (inputs, units)
}

/// With the arm's means in each stratum free, theta is the slope of least squares, and the cells' squares sum to its residuals'.
/// The third covariate follows from the first two, or is the same for all: it is dropped, and nothing else changes.
#[test]
fn theta_is_that_of_least_squares_and_what_follows_from_others_is_dropped() {
    for third in [(|v: &[i128]| 3 * v[4] - 2 * v[5] + 7) as fn(&[i128]) -> i128, |_| 12] {
        let (inputs, units) = plain_world(third);
        for (metric, read) in
            [(0, (|v: &[i128]| v[1] as f64 / 1e6) as fn(&[i128]) -> f64), (1, |v: &[i128]| v[0] as f64)]
        {
            let row = |(stratum, arm, values): &(usize, usize, Vec<i128>)| {
                let mut row = vec![0.0; 8];
                row[2 * stratum + arm] = 1.0;
                (row[6], row[7]) = (values[4] as f64 / 1e3, values[5] as f64 / 1e3);
                (row, read(values))
            };
            let rows: Vec<(Vec<f64>, f64)> = units.iter().map(row).collect();
            let (solved, left) = least_squares(&rows);
            let (table, theta) =
                both(&inputs, &inputs.metrics[metric], Scope::Generation).unwrap().adjusted.unwrap();
            assert!(close(theta[0], solved[6], 1e-9, 0.0) && close(theta[1], solved[7], 1e-9, 0.0));
            assert_eq!(theta[2], 0.0);
            let squares: f64 = table.strata.iter().flatten().map(|cell| cell.squares).sum();
            // Six means are taken from 900 units, weighed cell by cell; then two slopes.
            let (all, spread) = table.strata.iter().flatten().fold((0.0, 0.0), |(all, spread), cell| {
                (all + cell.units, spread + cell.units * cell.units / (cell.units - 1.0))
            });
            let freedom = all * all / spread;
            let cost = freedom / (freedom - 2.0) * (1.0 + 2.0 / (freedom - 3.0));
            assert!(close(squares, left * cost, 1e-9, 0.0), "{squares} {left}");
            for (at, cells) in table.strata.iter().enumerate() {
                let by_hand = solved[2 * at + 1] - solved[2 * at];
                assert!(close(cells[1].mean - cells[0].mean, by_hand, 1e-9, 1e-12), "stratum {at}");
            }
        }
    }
}

/// A ratio: least squares on the linearised outcome, unit by unit.
#[test]
fn a_ratio_is_adjusted_as_its_linearised_outcome_is() {
    let (mut inputs, units) = plain_world(|v| v[4] * 2);
    inputs.strata.truncate(1);
    let units: Vec<_> = units.into_iter().filter(|(stratum, ..)| *stratum == 0).collect();
    let total = |arm: Option<usize>, at: usize| -> f64 {
        let of = units.iter().filter(|unit| arm.is_none_or(|arm| unit.1 == arm));
        of.map(|unit| unit.2[at] as f64).sum()
    };
    let row = |(_, arm, v): &(usize, usize, Vec<i128>)| {
        let own = total(Some(*arm), 2) / total(Some(*arm), 3);
        let count = units.iter().filter(|unit| unit.1 == *arm).count() as f64;
        let divisor = total(Some(*arm), 3) / count;
        let mut row = vec![0.0; 4];
        row[*arm] = 1.0;
        (row[2], row[3]) = (v[4] as f64 / 1e3, v[5] as f64 / 1e3);
        (row, own + (v[2] as f64 - own * v[3] as f64) / divisor)
    };
    let rows: Vec<(Vec<f64>, f64)> = units.iter().map(row).collect();
    let (solved, _) = least_squares(&rows);
    let (table, theta) = both(&inputs, &inputs.metrics[2], Scope::Generation).unwrap().adjusted.unwrap();
    assert!(close(theta[0], solved[2], 1e-9, 0.0) && close(theta[1], solved[3], 1e-9, 0.0), "{theta:?}");
    let difference = table.strata[0][1].mean - table.strata[0][0].mean;
    assert!(close(difference, solved[1] - solved[0], 1e-9, 0.0), "{difference}");
}

#[test]
fn too_little_data_is_left_alone_and_says_so() {
    let [mut inputs, _] = run(World { strata: 1, units: 40, ..WORLD }, 3);
    let lines = analysis::contrasts(&inputs, 0.05).unwrap();
    let adjustment = lines[0].status().adjustment.unwrap();
    assert_eq!((adjustment.decides.as_str(), adjustment.covariates.len()), ("unadjusted", 0));
    assert_eq!(adjustment.difference, lines[0].contrast.difference);
    inputs.covariates.clear();
    assert!(analysis::contrasts(&inputs, 0.05).unwrap()[0].adjustment.is_none());
}

#[test]
fn analysis_shows_both_intervals_and_which_decides() {
    let [inputs, _] = run(World { skewed: false, units: 4_000, ..WORLD }, 5);
    let line = &analysis::contrasts(&inputs, 0.05).unwrap()[0].status();
    let shown = line.adjustment.as_ref().unwrap();
    assert_eq!(shown.decides, "adjusted");
    assert_eq!(shown.covariates[0].attribute, "before-0");
    assert!(close(shown.covariates[0].theta, RHO / 3.0, 0.05, 0.0), "{shown:?}");
    assert!((shown.variance_reduction - RHO * RHO).abs() < 0.05);
    assert!(line.upper - line.lower < 0.8 * (shown.upper - shown.lower));
}

/// A record says theta and what was gained, and is recomputed byte for byte, from folded moments too.
#[test]
fn a_decision_on_adjusted_moments_is_replayed() {
    for mut inputs in run(World { shift: 0.6, skewed: false, ..WORLD }, 1) {
        inputs.weights = vec![5_000, 5_000];
        let Verdict::Move(allocation) = thompson::decide(&inputs).unwrap() else { panic!("it moves") };
        let decision = record::reallocation(&inputs, &allocation).unwrap();
        let named = |name: &str| decision.statistics.iter().any(|number| number.name == name);
        assert!(named("theta.before-0") && named("variance_reduction.v1"));
        assert!(decision.narrative.iter().any(|sentence| sentence.text.contains("before-0")));
        for sentence in &decision.narrative {
            assert!(sentence.numbers.iter().all(|name| named(name)), "{sentence:?}");
        }
        let again = replay::replay(&decision).unwrap();
        assert_eq!(prost::Message::encode_to_vec(&again), prost::Message::encode_to_vec(&decision));
    }
}

#[test]
fn inputs_that_lack_a_product_are_refused() {
    let [inputs, _] = run(World { strata: 1, units: 500, ..WORLD }, 3);
    let refused = |change: &dyn Fn(&mut v1::DecisionInputs)| {
        let mut inputs = inputs.clone();
        change(&mut inputs);
        table(&inputs, &inputs.metrics[0], Scope::Generation).is_err()
    };
    assert!(refused(&|inputs| inputs.pairs.clear()));
    assert!(refused(&|inputs| inputs.strata[0].arms[0].cross.truncate(2)));
    assert!(refused(&|inputs| inputs.covariates = vec![inputs.covariates[0].clone(); 5]));
    assert!(refused(&|inputs| inputs.covariates[0].slot = 9));
    assert!(refused(&|inputs| inputs.covariates[0].decimal_scale = 19));
    assert!(!refused(&|_| {}));
}

/// A capped metric keeps the squares of its units over the fold, and beside covariates those of its clusters, too.
#[test]
fn a_capped_metric_is_read_by_unit_and_adjusted_by_cluster() {
    let [mut by_unit, mut folded] = run(World { skewed: false, ..WORLD }, 11);
    for inputs in [&mut by_unit, &mut folded] {
        inputs.metrics[0].capped = true;
        inputs.pairs.push(v1::PairInput { first: 1, second: 1 });
    }
    for (units, clusters) in by_unit.strata.iter_mut().zip(&mut folded.strata) {
        for (units, clusters) in units.arms.iter_mut().zip(&mut clusters.arms) {
            let own = units.slots[1].squares.unwrap();
            units.cross.push(own);
            clusters.cross.push(clusters.slots[1].squares.replace(own).unwrap());
        }
    }
    let [plain, adjusted] = contrasts(&by_unit, 0);
    let [plain_folded, adjusted_folded] = contrasts(&folded, 0);
    assert_eq!(plain_folded, plain);
    assert!(close(adjusted_folded.variance, adjusted.variance, 0.05, 0.0));
    assert!((adjusted_folded.difference - adjusted.difference).abs() < 0.3 * adjusted.standard_error());
    folded.pairs.clear();
    folded.covariates.clear();
    let table = table(&folded, &folded.metrics[0], Scope::Generation).unwrap();
    assert!(table.strata.iter().flatten().all(|cell| cell.clusters == 0.0));
}

/// Two days and a half, a look every 20 minutes, behaviour swinging by half while the allocation learns: neither trips nor wins
/// among equals, and intervals that hold at every look.
fn any_look(folded: bool, thompson_learns: bool, seed: u64) -> (bool, bool, bool) {
    let world = World { skewed: true, shift: 0.0, ..WORLD };
    let mut chance = Chance::from_seed(0x100c_5eed + seed);
    let mut inputs = inputs(0, 1);
    inputs.planned_units = 30_000;
    inputs.metrics[0].role = v1::Role::Secondary as i32;
    inputs.metrics[1].role = v1::Role::Primary as i32;
    let mut guard = inputs.metrics[1].clone();
    (guard.role, guard.limit_basis_points) = (v1::Role::Guardrail as i32, 500);
    inputs.metrics.push(guard);
    let mut arms = Vec::new();
    let start = chance.unit();
    let (mut tripped, mut won, mut missed) = (false, false, false);
    for step in 0..180_u32 {
        if step % 3 == 0 {
            let start_minute = 28_000_000 + 20 * step;
            inputs.strata.push(v1::Stratum { generation: 1, start_minute, minutes: 60, arms: Vec::new() });
            arms = vec![Sums::new(METRICS + 1); 2];
        }
        let day = f64::from(step) / 72.0 + start;
        let swing = 1.0 + 0.5 * (std::f64::consts::TAU * day).sin();
        for _ in 0..150 {
            let arm = usize::from(chance.unit() * 10_000.0 < f64::from(inputs.weights[1]));
            let cluster = (chance.unit() * CLUSTERS as f64) as usize;
            arms[arm].add(cluster, &values(&mut chance, world, swing, 0.0));
        }
        inputs.strata.last_mut().unwrap().arms =
            arms.iter().map(|arm| arm.moments(&inputs.pairs, folded)).collect();
        inputs.log_time_ms += 1_200_000;
        tripped |= guardrail::trip(&inputs).unwrap().is_some();
        won |= winner::winner(&inputs).unwrap().is_some();
        for metric in 0..3 {
            let all = adjust(&table(&inputs, &inputs.metrics[metric], Scope::Generation).unwrap());
            let all = all.unwrap().unwrap();
            if let Some(contrast) = all.contrast(1) {
                let planned = confidence::planned_for_pair(inputs.planned_units, 2);
                let interval = confidence::interval(&contrast, planned, 0.05 / 3.0);
                let enough = all.arms.iter().all(|arm| arm.units >= 500.0);
                missed |= enough && !(interval.lower <= 0.0 && 0.0 <= interval.upper);
            }
        }
        if thompson_learns && let Verdict::Move(allocation) = thompson::decide(&inputs).unwrap() {
            inputs.weights = allocation.weights;
        }
    }
    (tripped, won, missed)
}

#[test]
fn adjusted_evidence_holds_at_every_look() {
    let runs = runs(200);
    for (folded, learns) in [(false, true), (true, true), (false, false), (true, false)] {
        let all = on_two_threads(runs, |seed| any_look(folded, learns, seed));
        let share = |of: &dyn Fn(&(bool, bool, bool)) -> bool| {
            all.iter().filter(|seen| of(seen)).count() as f64 / runs as f64
        };
        let rates = (share(&|s| s.0), share(&|s| s.1), share(&|s| s.2));
        println!(
            "folded {folded}, learns {learns}: false trips, winners, intervals that missed {rates:.4?} ({runs} runs)"
        );
        assert!(rates.0 <= 0.05 && rates.1 <= 0.05 && rates.2 <= 0.05, "{rates:?}");
    }
}
