//! Properties, and a second, naive model for each formula: brute-force integration, draws, and least squares on rows.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test may fail loudly, and its second model is meant to use other mathematics"
)]

mod harness;

use featureops_decision::best::{Posterior, probability_best};
use featureops_decision::chance::Chance;
use featureops_decision::contrast::{Adjusted, adjust};
use featureops_decision::moments::{Cell, Scope, Table, table};
use featureops_decision::policy::thompson::{self, Verdict};
use featureops_decision::policy::weights::Bounds;
use featureops_decision::sample_ratio::{Shares, p_value};
use featureops_proto::v1;
use harness::{close, metric, proportions, slot};
use proptest::prelude::*;
use statrs::distribution::{Beta, Continuous, ContinuousCDF, Normal};

fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

// ---- P(best) ----

/// Midpoint rule with 20,000 nodes over everything, the library's densities and distribution functions.
fn brute_force(posteriors: &[Posterior]) -> Vec<f64> {
    let density = |posterior: &Posterior, x: f64| match *posterior {
        Posterior::Beta { alpha, beta } => Beta::new(alpha, beta).unwrap().pdf(x),
        Posterior::Normal { mean, sd } => Normal::new(mean, sd).unwrap().pdf(x),
    };
    let below = |posterior: &Posterior, x: f64| match *posterior {
        Posterior::Beta { alpha, beta } => Beta::new(alpha, beta).unwrap().cdf(x),
        Posterior::Normal { mean, sd } => Normal::new(mean, sd).unwrap().cdf(x),
    };
    posteriors
        .iter()
        .enumerate()
        .map(|(arm, own)| {
            let (mut low, mut high) = (own.mean() - 12.0 * own.sd(), own.mean() + 12.0 * own.sd());
            if matches!(own, Posterior::Beta { .. }) {
                low = low.max(0.0);
                high = (own.mean() + 30.0 * own.sd()).min(1.0);
            }
            let nodes = 20_000;
            let step = (high - low) / f64::from(nodes);
            (0..nodes)
                .map(|node| {
                    let x = low + step * (f64::from(node) + 0.5);
                    let others: f64 = posteriors
                        .iter()
                        .enumerate()
                        .filter(|(other, _)| *other != arm)
                        .map(|(_, other)| below(other, x))
                        .product();
                    step * density(own, x) * others
                })
                .sum()
        })
        .collect()
}

proptest! {
    #![proptest_config(cases(24))]

    #[test]
    fn beta_probabilities_equal_brute_force(
        arms in prop::collection::vec((0_u32..4_000, 0.0..0.3_f64), 2..5)
    ) {
        let posteriors: Vec<Posterior> = arms
            .iter()
            .map(|(units, rate)| {
                let successes = (f64::from(*units) * rate).floor();
                Posterior::Beta { alpha: 1.0 + successes, beta: 1.0 + f64::from(*units) - successes }
            })
            .collect();
        let ours = probability_best(&posteriors, false).unwrap();
        for (ours, naive) in ours.iter().zip(brute_force(&posteriors)) {
            prop_assert!(close(*ours, naive, 0.0, 1e-6), "{ours} against {naive}");
        }
    }

    #[test]
    fn normal_probabilities_equal_brute_force(
        arms in prop::collection::vec((-2.0..2.0_f64, 0.01..3.0_f64), 2..6)
    ) {
        let posteriors: Vec<Posterior> =
            arms.iter().map(|(mean, sd)| Posterior::Normal { mean: *mean, sd: *sd }).collect();
        let ours = probability_best(&posteriors, false).unwrap();
        for (ours, naive) in ours.iter().zip(brute_force(&posteriors)) {
            prop_assert!(close(*ours, naive, 0.0, 1e-6), "{ours} against {naive}");
        }
    }
}

proptest! {
    #![proptest_config(cases(256))]

    #[test]
    fn probabilities_sum_to_one_and_mirror(
        arms in prop::collection::vec((0_u64..10_000_000, 0.0..=1.0_f64), 2..=32)
    ) {
        let posterior = |units: u64, rate: f64| {
            let successes = (units as f64 * rate).floor();
            Posterior::Beta { alpha: 1.0 + successes, beta: 1.0 + units as f64 - successes }
        };
        let plain: Vec<Posterior> = arms.iter().map(|(units, rate)| posterior(*units, *rate)).collect();
        let mirrored: Vec<Posterior> = plain
            .iter()
            .map(|arm| match *arm {
                Posterior::Beta { alpha, beta } => Posterior::Beta { alpha: beta, beta: alpha },
                normal => normal,
            })
            .collect();
        let most = probability_best(&plain, false).unwrap();
        let least = probability_best(&mirrored, true).unwrap();
        prop_assert!(close(most.iter().sum(), 1.0, 1e-12, 0.0));
        for (most, least) in most.iter().zip(&least) {
            prop_assert!(most.is_finite() && (0.0..=1.0).contains(most));
            prop_assert!(close(*most, *least, 0.0, 1e-9));
        }
    }
}

#[test]
fn extremes_stay_finite_and_fair() {
    let beta = |alpha: f64, beta: f64| Posterior::Beta { alpha, beta };
    let point = |mean: f64| Posterior::Normal { mean, sd: 0.0 };
    for (arms, expected) in [
        (vec![beta(1.0, 1.0); 32], vec![1.0 / 32.0; 32]),
        (vec![beta(1.0, 10_000_001.0), beta(10_000_001.0, 1.0)], vec![0.0, 1.0]),
        (vec![beta(1.0, 10_000_001.0); 3], vec![1.0 / 3.0; 3]),
        (vec![beta(10_000_001.0, 1.0); 3], vec![1.0 / 3.0; 3]),
        (vec![beta(1e6, 9e6), beta(1.0, 1.0)], vec![0.1, 0.9]),
        (vec![beta(1e11, 9e11), beta(1e11, 9e11)], vec![0.5, 0.5]),
        (vec![point(3.0), point(3.0)], vec![0.5, 0.5]),
        (vec![point(3.0), point(4.0), point(-1e12)], vec![0.0, 1.0, 0.0]),
        (vec![point(0.0), point(0.0)], vec![0.5, 0.5]),
        (vec![point(0.0), Posterior::Normal { mean: 0.0, sd: 1.0 }], vec![0.5, 0.5]),
    ] {
        let ours = probability_best(&arms, false).unwrap();
        for (ours, expected) in ours.iter().zip(&expected) {
            assert!(close(*ours, *expected, 0.0, 2e-6), "{ours} against {expected} in {arms:?}");
        }
    }
    assert!(probability_best(&[], false).is_none());
    assert!(probability_best(&[beta(f64::NAN, 1.0), beta(1.0, 1.0)], false).is_none());
    assert!(probability_best(&[beta(0.5, 1.0), beta(1.0, 1.0)], false).is_none());
}

// ---- weights ----

proptest! {
    #![proptest_config(cases(256))]

    #[test]
    fn weights_sum_and_keep_every_bound(
        shares in prop::collection::vec(0.0..1.0_f64, 2..=32),
        established in prop::collection::vec(any::<bool>(), 32),
        floor in 0_u32..=10_000,
        cap in 0_u32..=10_000,
    ) {
        prop_assume!(shares.iter().sum::<f64>() > 0.0);
        let bounds = Bounds::new(floor, cap, established[..shares.len()].to_vec()).unwrap();
        let weights = bounds.weights(&shares).unwrap();
        prop_assert!(bounds.hold(&weights), "{weights:?}");
    }

    #[test]
    fn without_bounds_rounding_moves_less_than_one_basis_point(
        shares in prop::collection::vec(0.001..1.0_f64, 2..=32),
    ) {
        let bounds = Bounds::new(0, 10_000, vec![true; shares.len()]).unwrap();
        let sum: f64 = shares.iter().sum();
        for (weight, share) in bounds.weights(&shares).unwrap().iter().zip(&shares) {
            prop_assert!((f64::from(*weight) - 10_000.0 * share / sum).abs() < 1.0);
        }
    }
}

// ---- contrasts ----

/// Least squares on rows by the normal equations with Gauss elimination: arm 0 and the strata's own means as columns.
fn naive_effects(rows: &[(usize, usize, f64, f64)], arms: usize, strata: usize) -> Vec<f64> {
    let size = strata + arms - 1;
    let mut system = vec![vec![0.0; size + 1]; size];
    for (stratum, arm, value, weight) in rows {
        let mut x = vec![0.0; size];
        x[*stratum] = 1.0;
        if *arm > 0 {
            x[strata + arm - 1] = 1.0;
        }
        for row in 0..size {
            for column in 0..size {
                system[row][column] += weight * x[row] * x[column];
            }
            system[row][size] += weight * x[row] * value;
        }
    }
    for pivot in 0..size {
        let best =
            (pivot..size).max_by(|a, b| system[*a][pivot].abs().total_cmp(&system[*b][pivot].abs())).unwrap();
        system.swap(pivot, best);
        let chosen = system[pivot].clone();
        for (_, row) in system.iter_mut().enumerate().filter(|(row, _)| *row != pivot) {
            let factor = row[pivot] / chosen[pivot];
            for (value, chosen) in row.iter_mut().zip(&chosen) {
                *value -= factor * chosen;
            }
        }
    }
    (0..arms - 1).map(|arm| system[strata + arm][size] / system[strata + arm][strata + arm]).collect()
}

/// Cells of rows, with the stratum weights the method defines.
fn cells_of(rows: &[(usize, usize, f64)], arms: usize, strata: usize) -> (Table, Vec<f64>) {
    let mut table = Table { arms, strata: vec![vec![Cell::default(); arms]; strata], proportion: false };
    let group = |stratum: usize, arm: Option<usize>| -> Vec<f64> {
        rows.iter()
            .filter(|row| row.0 == stratum && arm.is_none_or(|arm| arm == row.1))
            .map(|row| row.2)
            .collect()
    };
    let moments = |values: &[f64]| {
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        (mean, values.iter().map(|value| (value - mean) * (value - mean)).sum::<f64>())
    };
    let mut pooled = 0.0;
    for stratum in 0..strata {
        pooled += moments(&group(stratum, None)).1;
        for arm in 0..arms {
            let values = group(stratum, Some(arm));
            if !values.is_empty() {
                let (mean, squares) = moments(&values);
                table.strata[stratum][arm] =
                    Cell { units: values.len() as f64, mean, squares, clusters: 0.0 };
            }
        }
    }
    let pooled = pooled / rows.len() as f64;
    let weights = (0..strata)
        .map(|stratum| {
            let values = group(stratum, None);
            (values.len() as f64 + 400.0) / (moments(&values).1 + 400.0 * pooled)
        })
        .collect();
    (table, weights)
}

proptest! {
    #![proptest_config(cases(64))]

    #[test]
    fn effects_equal_least_squares_on_rows(
        seed in any::<u64>(), arms in 2_usize..5, strata in 2_usize..7, count in 60_usize..200
    ) {
        let mut chance = Chance::from_seed(seed);
        // Every arm appears in the first stratum, so that all are linked.
        let mut rows: Vec<(usize, usize, f64)> = (0..arms).map(|arm| (0, arm, chance.unit())).collect();
        rows.extend((0..strata).map(|stratum| (stratum, 0, chance.unit())));
        for _ in 0..count {
            let stratum = (chance.unit() * strata as f64) as usize;
            let arm = (chance.unit() * chance.unit() * arms as f64) as usize;
            rows.push((stratum, arm, stratum as f64 + 0.3 * arm as f64 + chance.unit() * (1.0 + stratum as f64)));
        }
        let (table, weights) = cells_of(&rows, arms, strata);
        let adjusted = adjust(&table).unwrap().unwrap();
        let weighted: Vec<_> = rows.iter().map(|(s, a, value)| (*s, *a, *value, weights[*s])).collect();
        for (arm, naive) in naive_effects(&weighted, arms, strata).into_iter().enumerate() {
            let ours = adjusted.contrast(arm + 1).unwrap().difference;
            prop_assert!(close(ours, naive, 1e-9, 1e-9), "{ours} against {naive}");
        }
    }

    #[test]
    fn quasi_variances_are_the_best_fit_to_the_contrasts_they_stand_for(
        cells in prop::collection::vec(prop::collection::vec((200_u64..2_000, 0.05..0.3_f64), 4), 2..12)
    ) {
        // The cells with `first` as the reference arm: the variance of every pair of arms can be asked for.
        let from = |first: usize| {
            let counted = |(units, rate): &(u64, f64)| (*units, (*units as f64 * rate) as u64);
            let turned = |row: &Vec<_>| (0..4).map(|arm| counted(&row[(first + arm) % 4])).collect();
            adjusted(&proportions(&cells.iter().map(turned).collect::<Vec<_>>()))
        };
        let adjusted = from(0);
        let variances: Vec<Vec<f64>> = (0..4)
            .map(|first| {
                let adjusted = from(first);
                let to = |arm: usize| adjusted.contrast((arm + 4 - first) % 4).map_or(0.0, |pair| pair.variance);
                (0..4).map(to).collect()
            })
            .collect();
        let variance = |left: usize, right: usize| variances[left][right];
        let misfit = |q: &[f64]| -> f64 {
            (0..4)
                .flat_map(|left| (0..left).map(move |right| (left, right)))
                .map(|(left, right)| ((q[left] + q[right]) / variance(left, right) - 1.0).powi(2))
                .sum()
        };
        let q: Vec<f64> = adjusted.arms.iter().map(|arm| arm.variance).collect();
        for arm in 0..4 {
            // An approximation: one number an arm for six covariances. Cells may differ 60-fold here.
            prop_assert!(arm == 0 || close(q[0] + q[arm], variance(arm, 0), 0.5, 0.0));
            // And the best there is: no nearby numbers fit all pairs better.
            for factor in [0.98, 1.02] {
                let mut other = q.clone();
                other[arm] *= factor;
                prop_assert!(misfit(&other) >= misfit(&q));
            }
        }
    }
}

fn adjusted(inputs: &v1::DecisionInputs) -> Adjusted {
    adjust(&table(inputs, &inputs.metrics[0], Scope::Generation).unwrap()).unwrap().unwrap()
}

/// The standard error against the spread over repeated experiments: swing by hour, changing allocation, unequal rates.
#[test]
fn the_sandwich_is_the_spread_over_repetitions() {
    let runs = 4_000;
    let mut chance = Chance::from_seed(5);
    let mut estimates = [Vec::new(), Vec::new()];
    let mut variances = [0.0, 0.0];
    for _ in 0..runs {
        let strata: Vec<Vec<(u64, u64)>> = (0..12)
            .map(|hour| {
                let base = 0.1 * (1.0 + 0.5 * (f64::from(hour) * 0.52).sin());
                [
                    (40 + 20 * u64::from(hour as u32 % 5), 1.0),
                    (160 - 10 * u64::from(hour as u32), 0.7),
                    (60, 1.3),
                ]
                .iter()
                .map(|(units, factor)| {
                    (*units, (0..*units).filter(|_| chance.unit() < base * factor).count() as u64)
                })
                .collect()
            })
            .collect();
        let adjusted = adjusted(&proportions(&strata));
        for arm in 0..2 {
            let contrast = adjusted.contrast(arm + 1).unwrap();
            estimates[arm].push(contrast.difference);
            variances[arm] += contrast.variance / f64::from(runs);
        }
    }
    for (estimates, claimed) in estimates.iter().zip(variances) {
        let mean = estimates.iter().sum::<f64>() / f64::from(runs);
        let spread =
            estimates.iter().map(|value| (value - mean) * (value - mean)).sum::<f64>() / f64::from(runs);
        println!("claimed over observed variance: {:.3}", claimed / spread);
        assert!((0.93..1.07).contains(&(claimed / spread)), "{claimed} against {spread}");
    }
}

/// Ratios under an allocation that moves with the hour's ratio: pooled they differ by construction, within strata not.
#[test]
fn a_ratio_is_compared_within_hours() {
    let arm = |units: i128, clicks: i128, views: i128| v1::ArmMoments {
        units: units as u64,
        slots: vec![
            slot(units * clicks, units * (clicks * clicks + 1)),
            slot(units * views, units * (views * views + 2)),
        ],
        cross: vec![v1::Int128::new(units * (clicks * views + 1))],
        ..v1::ArmMoments::default()
    };
    let mut inputs = proportions(&[vec![(0, 0), (0, 0)], vec![(0, 0), (0, 0)]]);
    inputs.metrics = vec![v1::MetricInput {
        denominator_slot: 1,
        ..metric(v1::metric::Kind::Ratio, v1::Role::Primary, 0)
    }];
    inputs.strata[0].arms = vec![arm(9_000, 1, 10), arm(1_000, 1, 10)];
    inputs.strata[1].arms = vec![arm(1_000, 3, 10), arm(9_000, 3, 10)];
    let contrast = adjusted(&inputs).contrast(1).unwrap();
    assert!(contrast.difference.abs() < 1e-12, "{}", contrast.difference);
    assert!(contrast.variance > 0.0);
    // An effect of the same size in both hours comes out as itself.
    inputs.strata[0].arms[1] = arm(1_000, 2, 10);
    inputs.strata[1].arms[1] = arm(9_000, 4, 10);
    let contrast = adjusted(&inputs).contrast(1).unwrap();
    assert!(close(contrast.difference, 0.1, 1e-9, 0.0), "{}", contrast.difference);
}

#[test]
fn an_arm_that_shares_no_hour_with_control_has_no_contrast() {
    let adjusted =
        adjusted(&proportions(&[vec![(100, 10), (100, 12), (0, 0)], vec![(0, 0), (0, 0), (300, 90)]]));
    assert!(adjusted.contrast(1).is_some() && adjusted.contrast(2).is_none());
    assert!(close(adjusted.arms[2].mean, 0.3, 1e-12, 0.0));
}

#[test]
fn a_large_mean_keeps_its_spread() {
    // 2^53 plus or minus one: in floating point the sum of squares would lose the variance.
    let big = 1_i128 << 53;
    let units = 1_000_i128;
    let cell = v1::ArmMoments {
        units: units as u64,
        slots: vec![slot(units * big, units * (big * big + 1))],
        ..v1::ArmMoments::default()
    };
    let mut inputs = proportions(&[vec![(0, 0), (0, 0)]]);
    inputs.metrics = vec![metric(v1::metric::Kind::Mean, v1::Role::Primary, 0)];
    inputs.strata[0].arms = vec![cell.clone(), cell];
    let table = table(&inputs, &inputs.metrics[0], Scope::Generation).unwrap();
    assert!(close(table.strata[0][0].squares, 1_000.0, 1e-12, 0.0));
}

// ---- learner's record ----

#[test]
fn window_and_discount_are_honoured() {
    let mut inputs = proportions(&[vec![(1_000, 100), (1_000, 400)], vec![(1_000, 100), (1_000, 100)]]);
    let best = |inputs: &v1::DecisionInputs| thompson::beliefs(inputs).unwrap().unwrap().0[1];
    assert!(best(&inputs) > 0.999);
    let second = inputs.strata[1].start_minute;
    inputs.learner = Some(v1::LearnerRecord { window_start_minute: second, ..v1::LearnerRecord::default() });
    assert!(close(best(&inputs), 0.5, 0.0, 1e-6));
    inputs.log_time_ms = i64::from(second + 60) * 60_000;
    inputs.learner = Some(v1::LearnerRecord { discount_millionths: 1, ..v1::LearnerRecord::default() });
    assert!(best(&inputs) < 0.6, "an hour at a millionth is forgotten: {}", best(&inputs));
    inputs.learner =
        Some(v1::LearnerRecord { prior_beta_millionths: 500_000, ..v1::LearnerRecord::default() });
    assert!(thompson::beliefs(&inputs).is_err());
}

#[test]
fn the_policy_stays_when_it_should() {
    use featureops_decision::policy::thompson::Stay;
    let stay = |inputs: &v1::DecisionInputs| match thompson::decide(inputs).unwrap() {
        Verdict::Stay(stay, _) => stay,
        Verdict::Move(allocation) => panic!("{allocation:?}"),
    };
    assert_eq!(stay(&proportions(&[vec![(500, 50), (500, 50)]])), Stay::TooSmall);
    assert_eq!(stay(&proportions(&[])), Stay::NoData);
}

// ---- sample ratio ----

#[test]
fn sample_ratio_counts_only_arms_with_weight() {
    let three = p_value(&[Shares { units: &[5_000, 5_200, 0], expected: &[1.0, 1.0, 0.0] }]).unwrap();
    let two = p_value(&[Shares { units: &[5_000, 5_200], expected: &[1.0, 1.0] }]).unwrap();
    assert!(close(three, two, 1e-12, 0.0));
    assert_eq!(p_value(&[Shares { units: &[5, 1], expected: &[1.0, 0.0] }]), Some(0.0));
}

#[test]
fn sample_ratio_follows_changing_weights() {
    // Each stratum keeps its own shares; pooled against the last weights it would be a gross mismatch.
    let strata = [
        Shares { units: &[5_030, 4_970], expected: &[5_000.0, 5_000.0] },
        Shares { units: &[990, 9_010], expected: &[1_000.0, 9_000.0] },
    ];
    assert!(p_value(&strata).unwrap() > 0.1);
    let pooled = p_value(&[Shares { units: &[6_020, 13_980], expected: &[1_000.0, 9_000.0] }]).unwrap();
    assert!(pooled < 1e-12);
}
