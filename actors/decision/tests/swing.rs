//! The hard case: behaviour swings by half over the day while the allocation learns, and everything is looked at all the time.
//!
//! 14 days of 30,000 units and three days of 50,000, hourly strata merged into at most 64 as the fold merges them, a
//! decision every 20 minutes. FEATUREOPS_RUNS sets the number of runs (400).
//! Harmless arms must not trip and must not win; a planted drop must be caught; pooled moments must fail the same check,
//! or the check could not.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test may fail loudly, and its second model is meant to use other mathematics"
)]

mod harness;

use featureops_decision::chance::Chance;
use featureops_decision::contrast::adjust;
use featureops_decision::moments::{Scope, table};
use featureops_decision::policy::thompson::{self, Verdict};
use featureops_decision::{confidence, guardrail, winner};
use featureops_proto::v1;
use harness::{metric, on_two_threads, proportions, slot};

const HOURS: u32 = 14 * 24;
const STEPS_PER_HOUR: u32 = 3;
const STRATA_MAX: usize = 64;

/// One simulated experiment.
#[derive(Clone, Copy)]
struct World {
    arms: usize,
    units_per_step: u32,
    base: f64,
    /// Share of the base rate by which it swings over the day.
    swing: f64,
    /// Factor on the rate of the last arm.
    factor: f64,
    /// Added to the rate of the last arm.
    shift: f64,
    thompson: bool,
    pooled: bool,
    merge: Merge,
    steps: u32,
    /// Conversions are values of a mean, and their sums are folded into clusters.
    folded: bool,
}

const AA: World = World {
    arms: 2,
    units_per_step: 30,
    base: 0.10,
    swing: 0.5,
    factor: 1.0,
    shift: 0.0,
    thompson: true,
    pooled: false,
    merge: Merge::MostAlike,
    steps: HOURS * STEPS_PER_HOUR,
    folded: false,
};

/// What happened over all looks of one run.
#[derive(Default, Clone, Copy)]
struct Seen {
    tripped_at_units: Option<u64>,
    won: bool,
    missed: bool,
}

fn add(arm: &mut v1::ArmMoments, converted: bool) {
    arm.units += 1;
    if converted {
        let slot = &mut arm.slots[0];
        slot.sum.as_mut().unwrap().low += 1;
        slot.squares.as_mut().unwrap().low += 1;
    }
}

const CLUSTERS: usize = 64;

/// Units and sum of each cluster of one arm in one stratum.
type Clusters = [(i128, i128); CLUSTERS];

/// The arm's moments as the ledger has them after its fold.
fn folded(clusters: &Clusters) -> v1::ArmMoments {
    let sum = |of: &dyn Fn(i128, i128) -> i128| -> i128 { clusters.iter().map(|(n, s)| of(*n, *s)).sum() };
    let moments = v1::SlotMoments {
        with_units: Some(v1::Int128::new(sum(&|n, s| n * s))),
        ..slot(sum(&|_, s| s), sum(&|_, s| s * s))
    };
    v1::ArmMoments {
        units: sum(&|n, _| n) as u64,
        slots: vec![moments],
        clusters: clusters.iter().filter(|(n, _)| *n > 0).count() as u64,
        units_squared: sum(&|n, _| n * n) as u64,
        ..v1::ArmMoments::default()
    }
}

/// How neighbours are chosen for merging.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Merge {
    /// As the fold does it (`cluster/state`, `ledger/strata.rs`), to the integer: the pair whose arms' shares of units
    /// differ least, weighted by units, the oldest of equals.
    MostAlike,
    /// What the fold's choice is compared with: the oldest among the shortest pairs.
    Shortest,
}

/// What pooling the two would confound, in the fold's units.
fn apart(left: &v1::Stratum, right: &v1::Stratum) -> u128 {
    let units = |stratum: &v1::Stratum| stratum.arms.iter().map(|arm| u128::from(arm.units)).sum::<u128>();
    let (n, m) = (units(left), units(right));
    let arms = left.arms.iter().zip(&right.arms);
    let squares: u128 =
        arms.map(|(a, b)| (u128::from(a.units) * m).abs_diff(u128::from(b.units) * n).pow(2)).sum();
    ((squares / (n * m)) << 20) / (n + m)
}

/// Never merges the newest: that hour is still open.
fn merge(strata: &mut Vec<v1::Stratum>, clusters: &mut Vec<Vec<Clusters>>, by: Merge) {
    while strata.len() > STRATA_MAX {
        let cost = |at: usize| match by {
            Merge::MostAlike => apart(&strata[at], &strata[at + 1]),
            Merge::Shortest => u128::from(strata[at].minutes + strata[at + 1].minutes),
        };
        let at = (0..strata.len() - 2).min_by_key(|at| (cost(*at), *at)).unwrap();
        let next = strata.remove(at + 1);
        let into = &mut strata[at];
        into.minutes += next.minutes;
        for (into, next) in into.arms.iter_mut().zip(&next.arms) {
            into.units += next.units;
            let read = |arm: &v1::ArmMoments| arm.slots[0].sum.unwrap().get();
            let sum = read(into) + read(next);
            into.slots[0] = slot(sum, sum);
        }
        if !clusters.is_empty() {
            let next = clusters.remove(at + 1);
            for ((into, next), moments) in clusters[at].iter_mut().zip(next).zip(&mut strata[at].arms) {
                for (into, next) in into.iter_mut().zip(next) {
                    *into = (into.0 + next.0, into.1 + next.1);
                }
                *moments = folded(into);
            }
        }
    }
}

fn run(world: World, seed: u64, stop_at_trip: bool) -> Seen {
    let mut chance = Chance::from_seed(0x5eed_0000 + seed);
    let mut inputs = proportions(&[vec![(0, 0); world.arms]]);
    inputs.metrics.push(v1::MetricInput {
        metric: "guard".to_owned(),
        limit_basis_points: 500,
        ..metric(v1::metric::Kind::Proportion, v1::Role::Guardrail, 0)
    });
    inputs.planned_units = 30_000;
    if world.folded {
        for metric in &mut inputs.metrics {
            metric.kind = v1::metric::Kind::Mean as i32;
        }
    }
    let mut clusters: Vec<Vec<Clusters>> = Vec::new();
    let empty = inputs.strata.remove(0);
    let mut seen = Seen::default();
    // The day's hour at which the experiment starts matters as little as chance makes it.
    let start = chance.unit();
    for step in 0..world.steps {
        if step % STEPS_PER_HOUR == 0 && !(world.pooled && step > 0) {
            let mut stratum = empty.clone();
            stratum.start_minute = 28_000_000 + 20 * step;
            inputs.strata.push(stratum);
            if world.folded {
                clusters.push(vec![[(0, 0); CLUSTERS]; world.arms]);
            }
            merge(&mut inputs.strata, &mut clusters, world.merge);
        }
        let day = f64::from(step) / f64::from(24 * STEPS_PER_HOUR) + start;
        let base = world.base * (1.0 + world.swing * (std::f64::consts::TAU * day).sin());
        for _ in 0..world.units_per_step {
            let bucket = (chance.unit() * 10_000.0) as u32;
            let mut reach = 0;
            let arm = inputs
                .weights
                .iter()
                .position(|weight| {
                    reach += weight;
                    bucket < reach
                })
                .unwrap();
            let planted = arm + 1 == world.arms;
            let rate = if planted { base * world.factor + world.shift } else { base };
            let converted = chance.unit() < rate;
            add(&mut inputs.strata.last_mut().unwrap().arms[arm], converted);
            if let Some(stratum) = clusters.last_mut() {
                let cluster = &mut stratum[arm][(chance.unit() * CLUSTERS as f64) as usize];
                *cluster = (cluster.0 + 1, cluster.1 + i128::from(converted));
            }
        }
        if let Some(stratum) = clusters.last() {
            inputs.strata.last_mut().unwrap().arms = stratum.iter().map(folded).collect();
        }
        inputs.log_time_ms += 1_200_000;
        if seen.tripped_at_units.is_none()
            && let Some(judgement) = guardrail::trip(&inputs).unwrap()
        {
            assert!(judgement.harm > 0.05);
            let units = inputs.strata.iter().map(|stratum| stratum.arms[judgement.arm].units).sum();
            seen.tripped_at_units = Some(units);
            if stop_at_trip {
                return seen;
            }
        }
        if !stop_at_trip {
            seen.won |= winner::winner(&inputs).unwrap().is_some();
            let all =
                adjust(&table(&inputs, &inputs.metrics[0], Scope::Generation).unwrap()).unwrap().unwrap();
            if let Some(contrast) = all.contrast(world.arms - 1) {
                let planned = confidence::planned_for_pair(inputs.planned_units, world.arms);
                let interval = confidence::interval(&contrast, planned, 0.05);
                let enough = all.arms.iter().all(|arm| arm.units >= 500.0);
                seen.missed |= enough && !(interval.lower <= world.shift && world.shift <= interval.upper);
            }
        }
        if world.thompson
            && let Verdict::Move(allocation) = thompson::decide(&inputs).unwrap()
        {
            inputs.weights = allocation.weights;
        }
    }
    seen
}

/// Shares of runs with (a trip, a winner, an interval that missed the truth).
fn rates(world: World, runs: u64) -> (f64, f64, f64) {
    let all = on_two_threads(runs, |seed| run(world, seed, false));
    let share = |count: usize| count as f64 / runs as f64;
    let rates = (
        share(all.iter().filter(|seen| seen.tripped_at_units.is_some()).count()),
        share(all.iter().filter(|seen| seen.won).count()),
        share(all.iter().filter(|seen| seen.missed).count()),
    );
    println!(
        "{} arms, {} units, thompson {}, pooled {}, folded {}, merge {:?}, shift {}: false trips {:.4}, winners {:.4}, intervals that missed {:.4} ({runs} runs)",
        world.arms,
        world.units_per_step * world.steps,
        world.thompson,
        world.pooled,
        world.folded,
        world.merge,
        world.shift,
        rates.0,
        rates.1,
        rates.2
    );
    rates
}

fn runs() -> u64 {
    std::env::var("FEATUREOPS_RUNS").ok().and_then(|text| text.parse().ok()).unwrap_or(400)
}

#[test]
fn harmless_arms_neither_trip_nor_win_two_arms() {
    let (trips, winners, missed) = rates(AA, runs());
    assert!(trips <= 0.05 && winners <= 0.05 && missed <= 0.05);
}

#[test]
fn harmless_arms_neither_trip_nor_win_three_arms() {
    let (trips, winners, missed) = rates(World { arms: 3, ..AA }, runs());
    assert!(trips <= 0.05 && winners <= 0.05 && missed <= 0.05);
}

/// Equal shares throughout: nothing starves, so evidence grows as fast as it can, and wrongly so as often as it can.
#[test]
fn harmless_arms_neither_trip_nor_win_at_equal_shares() {
    let (trips, winners, missed) = rates(World { thompson: false, ..AA }, runs());
    assert!(trips <= 0.05 && winners <= 0.05 && missed <= 0.05);
}

/// Fifty thousand units in three days: the allocation moves fastest while the day swings most.
const FAST: World = World { units_per_step: 230, steps: 3 * 24 * STEPS_PER_HOUR, ..AA };

#[test]
fn harmless_arms_neither_trip_nor_win_in_three_fast_days() {
    for arms in [2, 3] {
        let (trips, winners, missed) = rates(World { arms, ..FAST }, runs());
        assert!(trips <= 0.05 && winners <= 0.05 && missed <= 0.05);
    }
}

/// The same, once the sums are folded into clusters.
#[test]
fn harmless_arms_neither_trip_nor_win_after_the_fold() {
    for thompson in [true, false] {
        let (trips, winners, missed) = rates(World { thompson, folded: true, ..FAST }, runs());
        assert!(trips <= 0.05 && winners <= 0.05 && missed <= 0.05);
    }
    if std::env::var_os("FEATUREOPS_LONG").is_some() {
        for world in [AA, World { arms: 3, ..FAST }] {
            let (trips, winners, missed) = rates(World { folded: true, ..world }, runs());
            assert!(trips <= 0.05 && winners <= 0.05 && missed <= 0.05);
        }
    }
}

/// A quarter of a million units in two weeks: intervals are narrow enough to show what merged hours confound. Merging the
/// shortest neighbours instead of the most alike lets more of it through. Long: only with FEATUREOPS_LONG.
#[test]
fn many_units_show_what_merged_hours_hide() {
    if std::env::var_os("FEATUREOPS_LONG").is_none() {
        println!("skipped: FEATUREOPS_LONG is not set");
        return;
    }
    let world = World { units_per_step: 250, ..AA };
    let (trips, winners, missed) = rates(world, runs());
    assert!(trips <= 0.05 && winners <= 0.05 && missed <= 0.05);
    let shortest = rates(World { merge: Merge::Shortest, ..world }, runs());
    assert!(shortest.0 > trips && shortest.2 > missed, "the fold's choice of hours gains nothing");
}

#[test]
fn pooled_moments_fail_the_same_check() {
    let (trips, winners, missed) = rates(World { pooled: true, ..FAST }, 100);
    assert!(
        trips > 0.25 && winners > 0.2 && missed > 0.5,
        "the check cannot fail: {trips} {winners} {missed}"
    );
}

#[test]
fn intervals_hold_at_every_look_around_a_real_effect() {
    let (_, _, missed) = rates(World { thompson: false, shift: 0.02, ..AA }, runs());
    assert!(missed <= 0.05);
}

#[test]
fn a_drop_of_a_fifth_is_caught() {
    let world = World { factor: 0.8, thompson: false, units_per_step: 60, steps: 50_000 / 60, ..AA };
    let all = on_two_threads(runs(), |seed| run(world, seed, true));
    let caught = all.iter().filter(|seen| seen.tripped_at_units.is_some_and(|units| units <= 25_000)).count();
    let mut units: Vec<u64> = all.iter().filter_map(|seen| seen.tripped_at_units).collect();
    units.sort_unstable();
    println!("caught {caught} of {}, median units per arm {:?}", all.len(), units.get(units.len() / 2));
    assert!(caught as f64 >= 0.99 * all.len() as f64);
}
