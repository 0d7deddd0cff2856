//! The analysis of experiments against closed forms and published tables, each cited where it stands.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test may fail loudly, and its second model is meant to use other mathematics"
)]

use featureops_decision::analysis::arm::{Arm, ArmError, Part};
use featureops_decision::analysis::bayes::{Prior, posterior};
use featureops_decision::analysis::bounded::{betting, empirical_bernstein, rate_interval};
use featureops_decision::analysis::distribution::{
    ln_incomplete_beta, ln_incomplete_gamma, ln_student_tail, normal_quantile, normal_upper_quantile_ln,
    student_upper_quantile,
};
use featureops_decision::analysis::effect::{Scale, Undefined, effect, effect_with, post_stratified};
use featureops_decision::analysis::frequentist::{Side, non_inferior, welch};
use featureops_decision::analysis::group::{DesignError, Spending, boundaries, constant_boundary, crossing};
use featureops_decision::analysis::multiplicity::{Correction, correct, e_benjamini_hochberg};
use featureops_decision::analysis::power::{
    Formula, Goal, Midway, assurance, duration, power_for_means, units_for_means, units_for_proportions,
};
use featureops_decision::analysis::sequential::confidence_sequence;
use featureops_decision::chance::Chance;
use featureops_decision::special::ln_normal_cdf;
use statrs::distribution::{ContinuousCDF, StudentsT};

fn close(ours: f64, theirs: f64, tolerance: f64) {
    assert!((ours - theirs).abs() <= tolerance, "{ours} against {theirs}");
}

fn sample(values: &[f64]) -> Arm {
    Arm::Single(Part::mean_of(
        values.len() as f64,
        values.iter().sum(),
        values.iter().map(|value| value * value).sum(),
    ))
}

#[test]
fn student_has_its_closed_forms_and_agrees_with_an_independent_library() {
    for t in [0.1_f64, 1.0, 3.0, 50.0, 1e6] {
        // One degree of freedom is Cauchy's distribution; two have an algebraic tail (Abramowitz & Stegun 26.7.3, 26.7.4).
        close(ln_student_tail(t, 1.0).exp(), (1.0 / t).atan() / std::f64::consts::PI, 1e-14);
        let root = (2.0 + t * t).sqrt();
        close(ln_student_tail(t, 2.0).exp(), 1.0 / (root * (root + t)), 1e-14);
    }
    for freedom in [3.0, 17.8, 120.0, 999.0, 1_001.0, 90_000.0] {
        let theirs = StudentsT::new(0.0, 1.0, freedom).unwrap();
        for t in [-2.0, 0.0, 0.5, 1.9, 4.0] {
            close(ln_student_tail(t, freedom).exp(), theirs.sf(t), 1e-9);
        }
        for tail in [0.4, 0.05, 0.025, 1e-6] {
            let t = student_upper_quantile(tail, freedom);
            close(ln_student_tail(t, freedom), f64::ln(tail), 2e-11);
        }
    }
    // Fisher & Yates, table III.
    close(student_upper_quantile(0.025, 10.0), 2.228, 5e-4);
    close(student_upper_quantile(0.005, 30.0), 2.750, 5e-4);
    close(student_upper_quantile(0.025, 1.0), 12.706, 5e-4);
}

#[test]
fn tails_never_print_as_nothing() {
    let big = |sum: f64| Arm::Single(Part::proportion(1e7, sum));
    let found = effect(&big(1e6), &big(3e6), Scale::Absolute).unwrap();
    let test = welch(&found, 0.0, 0.05, Side::Both);
    assert!(test.p_value() > 0.0 && test.ln_p < -100_000.0, "{test:?}");
    for ln_tail in [-0.1, -0.7, -3.0, -40.0, -800.0, -1e6] {
        close(ln_normal_cdf(-normal_upper_quantile_ln(ln_tail)) / ln_tail, 1.0, 1e-12);
    }
    close(normal_quantile(0.975), 1.959_963_984_540_054, 1e-14);
}

#[test]
fn incomplete_functions_have_their_closed_forms() {
    for x in [1e-9, 0.2, 0.7, 0.999_f64] {
        close(ln_incomplete_beta(1.0, 5.0, x, 1.0 - x), f64::ln(-f64::exp_m1(5.0 * f64::ln_1p(-x))), 1e-12);
        close(ln_incomplete_beta(3.0, 1.0, x, 1.0 - x), 3.0 * x.ln(), 1e-12);
    }
    for x in [1e-9, 0.5, 4.0, 30.0_f64] {
        close(ln_incomplete_gamma(1.0, x), f64::ln(-f64::exp_m1(-x)), 1e-12);
        close(ln_incomplete_gamma(2.0, x).exp(), 1.0 - (1.0 + x) * (-x).exp(), 1e-14);
    }
}

/// Student's sleep data (1908): Welch's t = -1.8608, 17.776 degrees of freedom, p = .07939, 95 % interval -3.3654832 to
/// .2054832, as every textbook has them.
#[test]
fn welch_on_students_sleep_data() {
    let one = sample(&[0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]);
    let two = sample(&[1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]);
    let found = effect(&two, &one, Scale::Absolute).unwrap();
    close(found.estimate / found.standard_error(), -1.8608, 5e-5);
    close(found.freedom, 17.776, 5e-4);
    let test = welch(&found, 0.0, 0.05, Side::Both);
    close(test.p_value(), 0.079_39, 5e-6);
    close(test.lower, -3.365_483_2, 1e-6);
    close(test.upper, 0.205_483_2, 1e-6);
    // Two one-sided tests share the two-sided one.
    let (less, greater) = (welch(&found, 0.0, 0.025, Side::Less), welch(&found, 0.0, 0.025, Side::Greater));
    close(less.p_value() * 2.0, test.p_value(), 1e-12);
    close(less.p_value() + greater.p_value(), 1.0, 1e-12);
    close(less.upper, test.upper, 1e-12);
    // Not worse by more than 4 hours: surely. By 1 hour: nobody knows.
    assert!(non_inferior(&found, 4.0, 0.05, true).p_value() < 0.05);
    assert!(non_inferior(&found, 1.0, 0.05, true).p_value() > 0.05);
    close(non_inferior(&found, 0.0, 0.025, false).p_value(), less.p_value(), 1e-12);
}

#[test]
fn what_has_no_effect_says_so_by_name() {
    let rate = |n: f64, sum: f64| Arm::Single(Part::proportion(n, sum));
    let zero = Undefined::ZeroNegativeVariance;
    assert_eq!(effect(&rate(0.0, 0.0), &rate(10.0, 5.0), Scale::Absolute), Err(zero));
    assert_eq!(effect(&rate(10.0, 10.0), &rate(10.0, 5.0), Scale::Relative), Err(zero));
    let centred = sample(&[-1.0, 1.0]);
    assert_eq!(effect(&centred, &rate(10.0, 5.0), Scale::Relative), Err(Undefined::BaselineVariationZero));
    assert_eq!(rate(10.0, 11.0).check(), Err(ArmError::Proportion));
    assert_eq!(rate(1.5, 1.0).check(), Err(ArmError::Count("n")));
    assert_eq!(sample(&[f64::INFINITY, 1.0]).check(), Err(ArmError::NotFinite("sum")));
}

#[test]
fn a_ratio_over_ones_is_its_mean_and_a_covariate_without_relation_changes_nothing() {
    let values = [3.0, 5.0, 1.0, 8.0, 2.0, 2.5];
    let Arm::Single(part) = sample(&values) else { unreachable!() };
    let ones = Part::mean_of(6.0, 6.0, 6.0);
    let ratio = Arm::Ratio { numerator: part, denominator: ones, products: part.sum };
    close(ratio.plain_mean(), part.mean(), 1e-15);
    close(ratio.variance(0.0), part.variance(), 1e-12);
    let adjusted = Arm::Adjusted { post: part, pre: part, products: part.sum_squares };
    // A covariate that is the metric itself takes everything.
    let found = effect(&adjusted, &adjusted, Scale::Absolute);
    assert!(found.is_err() || found.unwrap().variance.abs() < 1e-12);
    close(
        effect_with(&adjusted, &adjusted, Scale::Absolute, 0.0).unwrap().variance,
        2.0 * part.variance() / 6.0,
        1e-12,
    );
}

#[test]
fn one_stratum_is_no_stratum_and_thin_ones_are_not_lost() {
    let pair = (Arm::Single(Part::proportion(100.0, 30.0)), Arm::Single(Part::proportion(120.0, 50.0)));
    for scale in [Scale::Absolute, Scale::Relative] {
        assert_eq!(post_stratified(&[pair], scale), effect(&pair.0, &pair.1, scale));
        // Equal strata: the same estimate and, but for Bessel, half the variance of one.
        let two = post_stratified(&[pair, pair], scale).unwrap();
        let one = effect(&pair.0, &pair.1, scale).unwrap();
        close(two.estimate, one.estimate, 1e-12);
        close(two.variance, one.variance / 2.0, 1e-12);
    }
    let thin = (Arm::Single(Part::proportion(3.0, 0.0)), Arm::Single(Part::proportion(0.0, 0.0)));
    let with = post_stratified(&[pair, thin, pair], Scale::Absolute).unwrap();
    close(with.units, 443.0, 0.0);
    assert!(post_stratified(&[], Scale::Absolute).is_err());
}

/// Jennison & Turnbull (2000), tables 2.1 and 2.3, two-sided .05.
#[test]
fn constants_of_pocock_and_of_obrien_and_fleming() {
    for (looks, pocock, fleming) in
        [(1, 1.960, 1.960), (2, 2.178, 1.977), (3, 2.289, 2.004), (5, 2.413, 2.040), (10, 2.555, 2.087)]
    {
        close(constant_boundary(looks, 0.05, 0.0), pocock, 1.5e-3);
        close(constant_boundary(looks, 0.05, 0.5), fleming, 1.5e-3);
    }
    // Armitage, McPherson & Rowe (1969), table 2: error of five looks at 1.96 each.
    close(crossing(5, |_| 1.96), 0.142, 5e-4);
    close(crossing(10, |_| 1.96), 0.193, 5e-4);
}

/// Lan & DeMets' O'Brien-Fleming type, five equal looks, .025 on each side (Reboussin et al. 2000, table 1).
#[test]
fn spending_boundaries() {
    let shares = [0.2, 0.4, 0.6, 0.8, 1.0];
    let bounds = boundaries(&shares, 0.05, Spending::OBrienFleming).unwrap();
    for (ours, table) in bounds.iter().zip([4.8769, 3.3569, 2.6803, 2.2898, 2.0310]) {
        close(*ours, table, 2e-4);
    }
    // One look is the fixed test, whatever is spent how.
    for spending in [Spending::OBrienFleming, Spending::Pocock, Spending::Power(2.0)] {
        close(boundaries(&[1.0], 0.05, spending).unwrap()[0], 1.959_964, 1e-6);
    }
    // Boundaries spend what they promise.
    let bounds = boundaries(&shares, 0.05, Spending::Power(3.0)).unwrap();
    close(crossing(5, |share| bounds[(share * 5.0).round() as usize - 1]), 0.05, 1e-6);
    assert_eq!(boundaries(&[0.5, 0.4], 0.05, Spending::Pocock), Err(DesignError::Shares));
    assert_eq!(boundaries(&[], 0.05, Spending::Pocock), Err(DesignError::Looks));
    assert_eq!(boundaries(&[1.0], 1.0, Spending::Pocock), Err(DesignError::Alpha));
}

/// Benjamini & Hochberg (1995), section 4.1: 15 p-values, of which their procedure rejects four and Bonferroni's three.
#[test]
fn many_tests_at_once() {
    let p = [
        0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.3240, 0.4262, 0.5719,
        0.6528, 0.7590, 1.0000,
    ];
    let believed = |correction| correct(&p, 0.05, correction).reject.iter().filter(|reject| **reject).count();
    assert_eq!(believed(Correction::BenjaminiHochberg), 4);
    assert_eq!(believed(Correction::Bonferroni), 3);
    assert_eq!(believed(Correction::Holm), 3);
    assert_eq!(believed(Correction::BenjaminiYekutieli), 3);
    assert_eq!(correct(&[], 0.05, Correction::Holm).reject.len(), 0);
    assert_eq!(correct(&[f64::NAN, 0.01], 0.05, Correction::Holm).reject, [false, true]);
    assert_eq!(e_benjamini_hochberg(&[40.0, 40.0], 0.05), [true, true]);
    assert_eq!(e_benjamini_hochberg(&[39.0, 1.0], 0.05), [false, false]);
}

/// Cohen (1988), table 2.4.1: 393, 64 and 26 units each for d = .2, .5, .8 at .05 and power .8.
#[test]
fn sizes_of_the_textbook() {
    let goal = Goal { alpha: 0.05, power: 0.8, ratio: 1.0 };
    for (d, units) in [(0.2, 393.4), (0.5, 63.77), (0.8, 25.52)] {
        close(units_for_means(d, goal).unwrap(), units, 0.01);
        close(power_for_means(d, units_for_means(d, goal).unwrap(), goal), 0.8, 1e-10);
    }
    // Fleiss, Levin & Paik (2003): pooled lies above unpooled for equal arms; they meet as the effect vanishes.
    let size = |formula| units_for_proportions(0.5, 0.51, goal, formula).unwrap();
    assert!(size(Formula::Pooled) > size(Formula::Unpooled));
    close(size(Formula::Pooled) / size(Formula::Unpooled), 1.0, 2e-4);
    assert!(units_for_proportions(0.5, 1.1, goal, Formula::Pooled).is_err());
    assert!(units_for_proportions(0.5, 0.5, goal, Formula::CohenH).is_err());
    assert!(units_for_means(0.2, Goal { alpha: 1.0, ..goal }).is_err());
    // Assurance: a flat belief around no effect succeeds one time in two; a certain one has the plain power.
    close(assurance(0.0, 1e6, 1.0, 0.05), 0.5, 1e-5);
    close(assurance(2.801_585, 0.0, 1.0, 0.05), 0.8, 1e-6);
}

#[test]
fn midway_power_is_that_of_the_design() {
    let midway =
        Midway { variance: 1e-4, units: 1_000.0, size: 0.02, alpha: 0.05, tests: 1.0, sequential: None };
    let factor = midway.factor_for(0.8).unwrap();
    // (z.975 + z.8)^2 standard errors squared.
    close((1.0 + factor) * 4.0, 7.848_879_7, 1e-4);
    close(midway.power(factor), 0.8, 1e-12);
    assert!(Midway { sequential: Some(5_000.0), ..midway }.factor_for(0.8).unwrap() > factor);
    assert_eq!(Midway { size: 1.0, ..midway }.factor_for(0.8), Ok(0.0));
    assert!(Midway { size: 1e-9, ..midway }.factor_for(0.8).is_err());
}

#[test]
fn beliefs_add_their_precisions() {
    let arm = |sum: f64| Arm::Single(Part::proportion(1_000.0, sum));
    let lift = effect(&arm(100.0), &arm(120.0), Scale::Relative).unwrap();
    let flat = posterior(&lift, None, 0.05);
    close(flat.mean, 0.2, 1e-12);
    // One loss less the other is the effect itself.
    close(flat.risk_control - flat.risk_treatment, 0.2, 1e-12);
    let firm = posterior(&lift, Some(Prior { mean: 0.0, sd: 1e-6 }), 0.05);
    close(firm.mean, 0.0, 1e-9);
    let equal = posterior(&lift, Some(Prior { mean: 0.0, sd: lift.standard_error() }), 0.05);
    close(equal.mean, 0.1, 1e-12);
    close(equal.sd, lift.standard_error() / 2.0_f64.sqrt(), 1e-12);
}

/// Intervals of each kind around a lift of a tenth, of proportions, ratios and adjusted means: .95 within three standard errors.
#[test]
fn fixed_intervals_cover_what_they_promise() {
    let mut chance = Chance::from_seed(20_261);
    let runs = 4_000;
    let (mut ratios, mut adjusted, mut strata) = (0, 0, 0);
    let mut normal = || {
        let radius = (-2.0 * (1.0 - chance.unit()).ln()).sqrt();
        radius * (std::f64::consts::TAU * chance.unit()).cos()
    };
    for _ in 0..runs {
        let mut arm = |lift: f64, n: usize| {
            let (mut y, mut x) = (Part::default(), Part::default());
            let (mut products, mut clicks) = (0.0, Part::default());
            let mut cross = 0.0;
            for _ in 0..n {
                let before = normal();
                let after = (5.0 + before + 0.5 * normal()) * (1.0 + lift);
                let views = 2.0 + 0.3 * normal();
                let part = |value: f64| Part::mean_of(1.0, value, value * value);
                (y, x) = (y.plus(&part(after)), x.plus(&part(before)));
                products += after * before;
                clicks = clicks.plus(&part(views));
                cross += after * views;
            }
            (
                Arm::Adjusted { post: y, pre: x, products },
                Arm::Ratio { numerator: y, denominator: clicks, products: cross },
                Arm::Single(y),
            )
        };
        let (control, treatment, more, other) = (arm(0.0, 150), arm(0.1, 200), arm(0.0, 100), arm(0.1, 90));
        let covers = |found: Result<_, Undefined>| {
            let test = welch(&found.unwrap(), 0.0, 0.05, Side::Both);
            u32::from(test.lower <= 0.1 && 0.1 <= test.upper)
        };
        adjusted += covers(effect(&control.0, &treatment.0, Scale::Relative));
        ratios += covers(effect(&control.1, &treatment.1, Scale::Relative));
        strata += covers(post_stratified(&[(control.2, treatment.2), (more.2, other.2)], Scale::Relative));
    }
    for (name, count) in [("adjusted", adjusted), ("ratio", ratios), ("post-stratified", strata)] {
        let covered = f64::from(count) / f64::from(runs);
        println!("{name}: {covered}");
        close(covered, 0.95, 0.012);
    }
}

/// Durations: intervals of 90 % over Poisson-like days hold 85 to 95 %.
#[test]
fn durations_hold_what_they_promise() {
    let mut chance = Chance::from_seed(7);
    let (mut within, runs) = (0, 4_000);
    let mut day = || 1_000.0 + 300.0 * ((0..12).map(|_| chance.unit()).sum::<f64>() - 6.0);
    for _ in 0..runs {
        let seen: Vec<f64> = (0..7).map(|_| day()).collect();
        let (_, low, high) = duration(14_000.0, &seen, 0.1).unwrap();
        let (mut sum, mut days) = (0.0, 0.0);
        while sum < 14_000.0 {
            let next = day();
            let part = f64::min(1.0, (14_000.0 - sum) / next);
            (sum, days) = (sum + next, days + part);
        }
        within += u32::from(low <= days && days <= high);
    }
    let covered = f64::from(within) / f64::from(runs);
    println!("duration: {covered}");
    close(covered, 0.9, 0.05);
    assert_eq!(duration(10.0, &[], 0.1), None);
    assert_eq!(duration(10.0, &[5.0], 0.1), Some((2.0, 0.0, f64::INFINITY)));
}

/// A rate of 1 % after every one of 1,500 trials: an exact sequence misses it at some look in at most 5 % of runs.
#[test]
fn sequences_for_tiny_samples_hold_at_every_look() {
    let (runs, mut missed) = (400, 0);
    for run in 0..runs {
        let mut chance = Chance::from_seed(run);
        let mut successes = 0.0;
        let mut out = false;
        for trial in 1..=1_500_u32 {
            successes += f64::from(u8::from(chance.unit() < 0.01));
            if trial % 10 == 0 {
                let (lower, upper) = rate_interval(successes, f64::from(trial), 1_000.0, 0.05);
                out |= 0.01 < lower || 0.01 > upper;
            }
        }
        missed += u32::from(out);
    }
    println!("rate: {missed} of {runs}");
    assert!(f64::from(missed) <= 0.05 * runs as f64 + 3.0 * (0.0475 * runs as f64).sqrt());
    let mut chance = Chance::from_seed(3);
    let values: Vec<f64> = (0..400).map(|_| f64::from(u8::from(chance.unit() < 0.3))).collect();
    for (lower, upper) in [betting(&values, 0.05, 200), empirical_bernstein(&values, 0.05)] {
        assert!(lower < 0.3 && 0.3 < upper && upper - lower < 0.3, "{lower} {upper}");
    }
    assert_eq!(rate_interval(0.0, 0.0, 100.0, 0.05), (0.0, 1.0));
}

#[test]
fn a_sequence_is_wider_than_one_look_and_tightest_where_it_was_tuned() {
    let arm = |n: f64, rate: f64| Arm::Single(Part::proportion(n, n * rate));
    let found = effect(&arm(5_000.0, 0.1), &arm(5_000.0, 0.12), Scale::Absolute).unwrap();
    let width = |planned: f64| {
        let test = confidence_sequence(&found, planned, 0.05, Side::Both);
        test.upper - test.lower
    };
    let fixed = welch(&found, 0.0, 0.05, Side::Both);
    assert!(width(10_000.0) > fixed.upper - fixed.lower);
    assert!(width(10_000.0) < width(1_000.0) && width(10_000.0) < width(100_000.0));
}
