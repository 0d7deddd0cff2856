//! What looking again and again does to each method: simulated experiments, stopped at the first look that rejects.
//!
//! Chance is handed in, so a table is repeatable from its seed. Used by tests, which fail when a method does not hold, and by the
//! benchmark that prints the table.

use super::arm::{Arm, Part};
use super::bayes::{Prior, posterior};
use super::distribution::normal_quantile;
use super::effect::{Effect, Scale, effect};
use super::frequentist::Side;
use super::group::{Spending, boundaries, constant_boundary};
use super::sequential::{confidence_sequence, mixture_ratio_test};
use crate::chance::Chance;

/// What units do.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Outcome {
    /// Convert with these chances in control and treatment.
    Rates(f64, f64),
    /// Spend exp(sigma Z): a heavy tail, the same in both arms.
    LogNormal(f64),
    /// Normal with this shift in the treatment, and a covariate of this correlation to adjust by.
    Covariate {
        /// Shift in standard deviations.
        shift: f64,
        /// Correlation of metric and covariate.
        correlation: f64,
    },
}

/// An experiment that is looked at again and again.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scenario {
    /// Looks.
    pub looks: usize,
    /// Units that come to each arm between two looks.
    pub step: u32,
    /// What they do.
    pub outcome: Outcome,
    /// Standard deviation of the belief about the relative lift, and of the mixtures (times the base rate).
    pub prior_sd: f64,
}

/// How often a method rejected.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// The method.
    pub method: String,
    /// Share of runs that rejected at any look.
    pub any_look: f64,
    /// Share that rejected at the last look.
    pub final_look: f64,
    /// Share of runs whose interval missed the true difference at any look; `None` for methods without an interval.
    pub missed: Option<f64>,
    /// Looks taken on average, stopping at the first rejection.
    pub mean_looks: f64,
}

type Decide = Box<dyn Fn(usize, &Effect) -> (bool, Option<(f64, f64)>)>;

struct Tally {
    method: String,
    decide: Decide,
    any: u32,
    last: u32,
    missed: u32,
    looks: u64,
    interval: bool,
}

/// A pair of independent normal values (Box & Muller 1958).
fn normals(chance: &mut Chance) -> (f64, f64) {
    let radius = libm::sqrt(-2.0 * libm::log(1.0 - chance.unit()));
    let angle = core::f64::consts::TAU * chance.unit();
    (radius * libm::cos(angle), radius * libm::sin(angle))
}

/// How many of `trials` with chance `rate` succeed; two trials a draw.
fn successes(chance: &mut Chance, trials: u32, rate: f64) -> f64 {
    let below = (rate.clamp(0.0, 1.0) * 4_294_967_296.0) as u64;
    let mut count = 0_u64;
    for _ in 0..trials / 2 {
        let bits = chance.bits();
        count += u64::from((bits & 0xffff_ffff) < below) + u64::from((bits >> 32) < below);
    }
    if trials % 2 == 1 {
        count += u64::from((chance.bits() >> 32) < below);
    }
    count as f64
}

fn grow(arm: &mut Arm, chance: &mut Chance, step: u32, outcome: Outcome, treated: bool) {
    let more = match outcome {
        Outcome::Rates(control, treatment) => {
            let rate = if treated { treatment } else { control };
            Arm::Single(Part::proportion(f64::from(step), successes(chance, step, rate)))
        }
        Outcome::LogNormal(sigma) => {
            let (mut sum, mut squares) = (0.0, 0.0);
            for _ in 0..step.div_ceil(2) {
                let (one, two) = normals(chance);
                for z in [one, two] {
                    let value = libm::exp(sigma * z);
                    sum += value;
                    squares += value * value;
                }
            }
            Arm::Single(Part::mean_of(f64::from(step.div_ceil(2) * 2), sum, squares))
        }
        Outcome::Covariate { shift, correlation } => {
            let rest = libm::sqrt(1.0 - correlation * correlation);
            let base = 10.0 + if treated { shift } else { 0.0 };
            let (mut y, mut yy, mut x, mut xx, mut xy) = (0.0, 0.0, 0.0, 0.0, 0.0);
            for _ in 0..step {
                let (before, own) = normals(chance);
                let after = base + correlation * before + rest * own;
                y += after;
                yy += after * after;
                x += before;
                xx += before * before;
                xy += after * before;
            }
            let n = f64::from(step);
            Arm::Adjusted { post: Part::mean_of(n, y, yy), pre: Part::mean_of(n, x, xx), products: xy }
        }
    };
    if let Some(sum) = arm.plus(&more) {
        *arm = sum;
    }
}

fn tally(method: impl Into<String>, interval: bool, decide: Decide) -> Tally {
    Tally { method: method.into(), decide, any: 0, last: 0, missed: 0, looks: 0, interval }
}

/// Error of every method here.
pub const ALPHA: f64 = 0.05;

fn methods(scenario: &Scenario) -> Vec<Tally> {
    let looks = scenario.looks;
    let within = |bound: f64, found: &Effect| {
        let radius = bound * found.standard_error();
        let (lower, upper) = (found.estimate - radius, found.estimate + radius);
        (lower > 0.0 || upper < 0.0, Some((lower, upper)))
    };
    let fixed = normal_quantile(1.0 - ALPHA / 2.0);
    let shared = normal_quantile(1.0 - ALPHA / (2.0 * looks as f64));
    let horizon = 2.0 * f64::from(scenario.step) * looks as f64;
    let sequence = |planned: f64| -> Decide {
        Box::new(move |_, found| {
            let test = confidence_sequence(found, planned, ALPHA, Side::Both);
            (test.lower > 0.0 || test.upper < 0.0, Some((test.lower, test.upper)))
        })
    };
    let spending = |spending: Spending| -> Decide {
        let shares: Vec<f64> = (1..=looks).map(|look| look as f64 / looks as f64).collect();
        let bounds = boundaries(&shares, ALPHA, spending).unwrap_or_default();
        Box::new(move |look, found| within(bounds.get(look).copied().unwrap_or(f64::INFINITY), found))
    };
    let mut all = vec![
        tally("naive_z", true, Box::new(move |_, found| within(fixed, found))),
        tally("bonferroni_looks", true, Box::new(move |_, found| within(shared, found))),
        tally("asymp_cs_N*=5000", true, sequence(5_000.0)),
        tally("asymp_cs_N*=horizon", true, sequence(horizon)),
    ];
    for (name, edge) in [("bayes_flat_ctw>.95_or<.05", 0.95), ("bayes_flat_ctw>.975_or<.025", 0.975)] {
        all.push(tally(
            name,
            false,
            Box::new(move |_, found| {
                let win = posterior(found, None, ALPHA).chance_to_win;
                (win > edge || win < 1.0 - edge, None)
            }),
        ));
    }
    if let Outcome::Rates(base, _) = scenario.outcome {
        let sd = scenario.prior_sd;
        let tau = base * sd;
        all.push(tally(
            "msprt_tau=MDE",
            true,
            Box::new(move |_, found| {
                let test = mixture_ratio_test(found, tau * tau, ALPHA);
                (test.lower > 0.0 || test.upper < 0.0, Some((test.lower, test.upper)))
            }),
        ));
        all.push(tally(
            "bayes_prior_ctw>.975_or<.025",
            false,
            Box::new(move |_, found| {
                let win = posterior(found, Some(Prior { mean: 0.0, sd }), ALPHA).chance_to_win;
                (!(0.025..=0.975).contains(&win), None)
            }),
        ));
        all.push(tally(
            "bayes_factor>20",
            false,
            Box::new(move |_, found| {
                let own = sd * found.baseline;
                (mixture_ratio_test(found, own * own, ALPHA).ln_p < -libm::log(20.0), None)
            }),
        ));
    }
    for (name, power) in [("group_seq_pocock", 0.0), ("group_seq_obrien_fleming", 0.5)] {
        // The recursion's kernels narrow as looks come close: past 100 the spending functions below say the same.
        if looks <= 100 {
            let constant = constant_boundary(looks, ALPHA, power);
            all.push(tally(
                name,
                true,
                Box::new(move |look, found| {
                    let share = (look + 1) as f64 / looks as f64;
                    within(constant * libm::pow(share, -power), found)
                }),
            ));
        }
    }
    all.push(tally("spending_obrien_fleming", true, spending(Spending::OBrienFleming)));
    all.push(tally("spending_power_2", true, spending(Spending::Power(2.0))));
    all
}

/// Simulates `runs` experiments.
#[must_use]
pub fn simulate(scenario: &Scenario, runs: u32, chance: &mut Chance) -> Vec<Row> {
    let mut tallies = methods(scenario);
    let truth = match scenario.outcome {
        Outcome::Rates(control, treatment) => treatment - control,
        Outcome::LogNormal(_) => 0.0,
        Outcome::Covariate { shift, .. } => shift,
    };
    let empty = match scenario.outcome {
        Outcome::Rates(..) => Arm::Single(Part::proportion(0.0, 0.0)),
        Outcome::LogNormal(_) => Arm::Single(Part::default()),
        Outcome::Covariate { .. } => {
            Arm::Adjusted { post: Part::default(), pre: Part::default(), products: 0.0 }
        }
    };
    for _ in 0..runs {
        let (mut control, mut treatment) = (empty, empty);
        // (rejected at look, missed, rejects now) for each method.
        let mut states = vec![(None::<usize>, false, false); tallies.len()];
        for look in 0..scenario.looks {
            grow(&mut control, chance, scenario.step, scenario.outcome, false);
            grow(&mut treatment, chance, scenario.step, scenario.outcome, true);
            let Ok(found) = effect(&control, &treatment, Scale::Absolute) else { continue };
            for (state, tally) in states.iter_mut().zip(&tallies) {
                let (rejects, interval) = (tally.decide)(look, &found);
                state.2 = rejects;
                if rejects {
                    state.0.get_or_insert(look + 1);
                }
                state.1 |= interval.is_some_and(|(lower, upper)| truth < lower || truth > upper);
            }
        }
        for ((first, missed, last), tally) in states.into_iter().zip(&mut tallies) {
            tally.any += u32::from(first.is_some());
            tally.last += u32::from(last);
            tally.missed += u32::from(missed);
            tally.looks += first.unwrap_or(scenario.looks) as u64;
        }
    }
    let share = |count: u32| f64::from(count) / f64::from(runs.max(1));
    tallies
        .into_iter()
        .map(|tally| Row {
            any_look: share(tally.any),
            final_look: share(tally.last),
            missed: tally.interval.then(|| share(tally.missed)),
            mean_looks: tally.looks as f64 / f64::from(runs.max(1)),
            method: tally.method,
        })
        .collect()
}
