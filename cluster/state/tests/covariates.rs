//! Covariates and capped metrics against a naive model that keeps every unit with its whole story: their moments and products
//! before and after folds, halvings and erasures, and what may be declared.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may fail loudly"
)]

mod driver;

use std::collections::BTreeMap;

use driver::{Driver, batch, refusal};
use featureops_proto::log::{self, CovariateFact, ExposureFact, OutcomeFact, ReceiptFact, SetBudgets, entry};
use featureops_proto::v1::{self, Covariate, Verdict, metric};
use featureops_state::State;
use proptest::prelude::*;

const WINDOW: u32 = 60;
const YOUNG_MS: i64 = 60_000;
/// Of the metric `spend`, at its scale of two decimal places.
const CAP: i128 = 300;
/// Slots: conversion, revenue, spend (capped), clicks, and two covariates.
const SLOTS: usize = 6;
const METRICS: [&str; 4] = ["conversion", "revenue", "spend", "clicks"];

fn set_metric(name: &str, kind: metric::Kind, cap: Option<f64>) -> entry::Command {
    entry::Command::SetMetric(log::SetMetric {
        metric: Some(v1::Metric {
            name: format!("environments/production/metrics/{name}"),
            kind: kind as i32,
            direction: metric::Direction::HigherIsBetter as i32,
            decimal_scale: Some(2),
            attribution_window_seconds: 3_600,
            cap,
            ..v1::Metric::default()
        }),
        etag: String::new(),
    })
}

fn experiment(covariates: &[&str]) -> v1::Experiment {
    let arm = |variant: &str| v1::Arm { variant: variant.to_owned(), established: true };
    let covariate = |name: &&str| Covariate { attribute: (*name).to_owned(), decimal_scale: Some(0) };
    v1::Experiment {
        name: "environments/production/experiments/e".to_owned(),
        flag: "checkout".to_owned(),
        arms: vec![arm("off"), arm("on")],
        primary_metric: "conversion".to_owned(),
        guardrails: vec![v1::Guardrail { metric: "revenue".to_owned(), ..v1::Guardrail::default() }],
        secondary_metrics: vec!["spend".to_owned(), "revenue_per_click".to_owned()],
        covariates: covariates.iter().map(covariate).collect(),
        ..v1::Experiment::default()
    }
}

fn create(d: &mut Driver, experiment: v1::Experiment) -> log::Reply {
    d.command(entry::Command::CreateExperiment(log::CreateExperiment { experiment: Some(experiment) }))
}

/// A running experiment of all four metrics and a ratio.
fn running(covariates: &[&str]) -> (Driver, u32) {
    let mut d = Driver::new();
    d.furnish();
    d.done(set_metric("spend", metric::Kind::Mean, Some(3.0)));
    driver::done(create(&mut d, experiment(covariates)));
    let number = d.state.experiment("production", "e").unwrap().number;
    d.start("e", v1::AutonomyLevel::A4Bounded);
    d.tick(500);
    (d, number)
}

fn told(values: &[Option<i64>]) -> Vec<CovariateFact> {
    values.iter().map(|value| CovariateFact { value: *value }).collect()
}

#[derive(Clone, Debug)]
struct Stay {
    arm: u32,
    minute: u32,
    seen: bool,
    revenue: i128,
    /// Not capped.
    spend: i128,
    clicks: i128,
    covariates: [i128; 2],
    marked_ms: Option<i64>,
}

impl Stay {
    fn values(&self) -> [i128; SLOTS] {
        let [first, second] = self.covariates;
        [i128::from(self.seen), self.revenue, self.spend.min(CAP), self.clicks, first, second]
    }
}

#[derive(Default, Clone)]
struct Unit {
    stays: Vec<Stay>,
    twice: bool,
}

/// What a cluster keeps of a unit that was erased after the fold.
struct Ghost {
    unit: u64,
    arm: u32,
    minute: u32,
    values: [i128; SLOTS],
}

#[derive(Default)]
struct Model {
    units: BTreeMap<u64, Unit>,
    ghosts: Vec<Ghost>,
    missing: [u64; 2],
}

impl Model {
    fn expose(
        &mut self,
        unit: u64,
        (arm, minute): (u32, u32),
        told: [Option<i64>; 2],
        folded: bool,
        now_ms: i64,
    ) {
        let known = self.units.entry(unit).or_default();
        let values = told.map(|value| i128::from(value.unwrap_or(0)));
        let stay = |covariates, marked_ms| Stay {
            arm,
            minute,
            seen: false,
            revenue: 0,
            spend: 0,
            clicks: 0,
            covariates,
            marked_ms,
        };
        let miss = |missing: &mut [u64; 2]| {
            for (count, told) in missing.iter_mut().zip(told) {
                *count += u64::from(told.is_none());
            }
        };
        match known.stays.as_mut_slice() {
            [] => {
                known.stays.push(stay(values, None));
                miss(&mut self.missing);
            }
            [only] if only.arm == arm => {
                // What a receipt told first is completed by the exposure, within its minute.
                if only.marked_ms.take().is_some_and(|since| now_ms - since < YOUNG_MS) {
                    only.covariates = values;
                    for (count, told) in self.missing.iter_mut().zip(told) {
                        *count -= u64::from(told.is_some());
                    }
                }
            }
            [.., last] if last.arm == arm => {}
            [only] => {
                let first = only.covariates;
                known.stays.push(stay(if folded { values } else { first }, None));
            }
            [first, last, ..] => known.twice |= !(first.arm == arm && minute <= last.minute),
        }
    }

    /// Whether it counts.
    fn counts(&self, unit: u64, minute: u32) -> bool {
        self.units.get(&unit).is_some_and(|known| {
            let last = known.stays.last();
            !known.twice && last.is_some_and(|s| (s.minute..=s.minute + WINDOW).contains(&minute))
        })
    }

    fn outcome(&mut self, unit: u64, metric: &str, value: i64) {
        let stay = self.units.get_mut(&unit).unwrap().stays.last_mut().unwrap();
        match metric {
            "conversion" => stay.seen |= value != 0,
            "revenue" => stay.revenue += i128::from(value),
            "spend" => stay.spend += i128::from(value),
            _ => stay.clicks += 1,
        }
    }

    fn stays(&self) -> impl Iterator<Item = (u64, &Stay)> {
        self.units.iter().flat_map(|(unit, known)| known.stays.iter().map(move |stay| (*unit, stay)))
    }

    fn capped(&self) -> usize {
        self.stays().filter(|(_, stay)| stay.spend != 0).count()
    }
}

#[derive(Debug, Clone)]
enum Step {
    Expose { unit: u64, arm: u32, back: u32, told: [Option<i64>; 2] },
    Outcome { unit: u64, metric: usize, value: i64, receipt: Option<u32> },
    Erase { unit: u64 },
    Tick { seconds: i64 },
}

fn step() -> impl Strategy<Value = Step> {
    let unit = 0u64..24;
    let told = || proptest::option::weighted(0.8, -40i64..40);
    prop_oneof![
        4 => (unit.clone(), 0u32..2, 0u32..90, told(), told())
            .prop_map(|(unit, arm, back, a, b)| Step::Expose { unit, arm, back, told: [a, b] }),
        8 => (unit.clone(), 0usize..4, -300i64..500, proptest::option::weighted(0.2, 0u32..2))
            .prop_map(|(unit, metric, value, receipt)| Step::Outcome { unit, metric, value, receipt }),
        1 => unit.prop_map(|unit| Step::Erase { unit }),
        2 => (1i64..4_000).prop_map(|seconds| Step::Tick { seconds }),
    ]
}

/// Spread over few clusters, so that some have several units and each halving of the hash space lets some go.
fn hash(unit: u64) -> u64 {
    let cluster = [0, 1, 9, 20, 33, 63][unit as usize % 6];
    (cluster << 58) | ((unit + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 6)
}

fn is_out(unit: u64, kept: u64) -> bool {
    hash(unit) >> 56 >= kept
}

#[derive(Debug, Clone, Copy, Default)]
struct Small {
    units: u64,
    sums: u64,
    capped: u64,
}

struct End {
    driver: Driver,
    kept: u64,
    folded: bool,
    ghosts: usize,
}

fn run(steps: &[Step], small: Small) -> Result<End, TestCaseError> {
    let (mut d, number) = running(&["before", "visits"]);
    d.done(entry::Command::SetBudgets(SetBudgets {
        budgets: Some(v1::Budgets {
            experiment_units: small.units,
            experiment_sums: small.sums,
            experiment_capped: small.capped,
            ..v1::Budgets::default()
        }),
        ..SetBudgets::default()
    }));
    let numbers = METRICS.map(|name| d.metric(name));
    let mut model = Model::default();
    let mut kept = 256;
    let folded = |d: &Driver| d.state.experiment_view("production", "e").unwrap().folded;
    for (at, step) in steps.iter().enumerate() {
        let mut facts = batch("p", at as u64 + 1);
        let was_folded = folded(&d);
        let halve = |model: &mut Model, kept: &mut u64| {
            *kept /= 2;
            model.units.retain(|unit, _| !is_out(*unit, *kept));
            model.ghosts.retain(|ghost| !is_out(ghost.unit, *kept));
        };
        let known = |model: &Model, unit| model.units.get(&unit).is_some_and(|u| !u.stays.is_empty());
        // Room for one unit more; whether it may be recorded.
        let room = |model: &mut Model, kept: &mut u64, unit: u64| {
            let full = |model: &Model| {
                let held = model.units.values().filter(|u| !u.stays.is_empty()).count() as u64;
                !known(model, unit) && small.units > 0 && held >= small.units
            };
            while !is_out(unit, *kept) && full(model) && *kept > 16 {
                halve(model, kept);
            }
            !is_out(unit, *kept) && !full(model)
        };
        match *step {
            Step::Tick { seconds } => {
                d.tick(seconds * 1_000);
                let now = d.now_ms;
                for stay in model.units.values_mut().flat_map(|unit| &mut unit.stays) {
                    stay.marked_ms = stay.marked_ms.filter(|since| now - since < YOUNG_MS);
                }
            }
            Step::Expose { unit, arm, back, told: values } => {
                let minute = d.minute() - back;
                facts.exposures.push(ExposureFact {
                    experiment: number,
                    arm,
                    unit_hash: hash(unit),
                    minute,
                    covariates: told(&values),
                    ..ExposureFact::default()
                });
                d.ingest(vec![facts]);
                if room(&mut model, &mut kept, unit) {
                    model.expose(unit, (arm, minute), values, was_folded, d.now_ms);
                }
            }
            Step::Outcome { unit, metric, value, receipt } => {
                let minute = d.minute();
                // By receipt only where nobody knows the unit: it is what makes it known.
                let receipt = receipt.filter(|_| !known(&model, unit));
                if receipt.is_none() && !known(&model, unit) {
                    continue;
                }
                facts.outcomes.push(OutcomeFact {
                    metric: numbers[metric],
                    unit_hash: hash(unit),
                    value,
                    minute,
                    receipt: receipt.map(|arm| ReceiptFact {
                        experiment: number,
                        arm,
                        generation: 1,
                        minute,
                    }),
                    ..OutcomeFact::default()
                });
                d.ingest(vec![facts]);
                if let Some(arm) = receipt {
                    if !room(&mut model, &mut kept, unit) {
                        continue;
                    }
                    model.expose(unit, (arm, minute), [None, None], was_folded, d.now_ms);
                    model.units.get_mut(&unit).unwrap().stays[0].marked_ms = Some(d.now_ms);
                }
                if !model.counts(unit, minute) {
                    continue;
                }
                let spend = |model: &Model| model.units[&unit].stays.last().map_or(0, |stay| stay.spend);
                let is_new = METRICS[metric] == "spend" && value != 0 && spend(&model) == 0;
                let full =
                    |model: &Model| is_new && small.capped > 0 && model.capped() as u64 >= small.capped;
                while !is_out(unit, kept) && full(&model) && kept > 16 {
                    halve(&mut model, &mut kept);
                }
                if !is_out(unit, kept) && !full(&model) {
                    model.outcome(unit, METRICS[metric], value);
                }
            }
            Step::Erase { unit } => {
                d.done(entry::Command::EraseUnit(log::EraseUnit {
                    parent: "environments/-".to_owned(),
                    unit_key_id: 7,
                    unit_hash: hash(unit),
                }));
                for stay in model.units.remove(&unit).into_iter().flat_map(|known| known.stays) {
                    if was_folded {
                        let [_, revenue, _, clicks, first, second] = stay.values();
                        let values = [0, revenue, 0, clicks, first, second];
                        model.ghosts.push(Ghost { unit, arm: stay.arm, minute: stay.minute, values });
                    }
                }
            }
        }
    }
    let view = d.state.experiment_view("production", "e").unwrap();
    let get = |v: &Option<v1::Int128>| v.as_ref().map_or(0, v1::Int128::get);
    let pairs: Vec<(usize, usize)> =
        view.inputs.pairs.iter().map(|pair| (pair.first as usize, pair.second as usize)).collect();
    prop_assert_eq!(pairs.len(), 12);
    for stratum in &view.strata {
        let span = stratum.start_minute..stratum.start_minute + stratum.minutes;
        for (arm, cell) in (0u32..).zip(&stratum.arms) {
            // By unit: each a cluster of its own, before the fold.
            let mut groups = BTreeMap::<u64, (i128, [i128; SLOTS])>::new();
            let mut own = [(0, 0); SLOTS];
            let mut units = 0;
            let stays = model.stays().filter(|(_, s)| s.arm == arm && span.contains(&s.minute));
            for (unit, stay) in stays {
                let group = groups.entry(if view.folded { hash(unit) >> 58 } else { unit }).or_default();
                (units, group.0) = (units + 1, group.0 + 1);
                for ((sum, own), value) in group.1.iter_mut().zip(&mut own).zip(stay.values()) {
                    *sum += value;
                    *own = (own.0 + value, own.1 + value * value);
                }
            }
            for ghost in model.ghosts.iter().filter(|g| g.arm == arm && span.contains(&g.minute)) {
                let group = groups.entry(hash(ghost.unit) >> 58).or_default();
                for ((sum, own), value) in group.1.iter_mut().zip(&mut own).zip(ghost.values) {
                    *sum += value;
                    own.0 += value;
                }
            }
            let sum = |of: &dyn Fn(i128, &[i128; SLOTS]) -> i128| -> i128 {
                groups.values().map(|(n, sums)| of(*n, sums)).sum()
            };
            prop_assert_eq!(cell.units, units);
            for (slot, moments) in cell.slots.iter().enumerate() {
                prop_assert_eq!(get(&moments.sum), own[slot].0, "slot {} arm {}", slot, arm);
                // A proportion and a capped metric keep the squares of units.
                let exact = !view.folded || matches!(slot, 0 | 2);
                let squares = if exact { own[slot].1 } else { sum(&|_, s| s[slot] * s[slot]) };
                prop_assert_eq!(get(&moments.squares), squares, "squares of slot {} arm {}", slot, arm);
                let with_units = if view.folded { sum(&|n, s| n * s[slot]) } else { 0 };
                prop_assert_eq!(get(&moments.with_units), with_units, "slot {} with units", slot);
            }
            for (cross, (a, b)) in cell.cross.iter().zip(&pairs) {
                prop_assert_eq!(cross.get(), sum(&|_, s| s[*a] * s[*b]), "pair {} {} arm {}", a, b, arm);
            }
            if view.folded {
                prop_assert_eq!(cell.units_squared as i128, sum(&|n, _| n * n));
            }
        }
    }
    let missing: Vec<u64> = view.covariates.iter().map(|covariate| covariate.missing_units).collect();
    prop_assert_eq!(missing, model.missing);
    prop_assert_eq!(view.capped as usize, model.capped());
    prop_assert_eq!(view.kept, kept as f64 / 256.0);
    d.state.check().unwrap();

    // The log replays to the same digest, also over a snapshot at any of these places in it.
    let mut again = State::new();
    let snapshots = [d.log.len() / 3, d.log.len() / 2, d.log.len() - 2];
    for (at, entry) in d.log.iter().enumerate() {
        again.apply(at as u64 + 1, entry, &mut Vec::new()).unwrap();
        if snapshots.contains(&at) {
            again = State::from_sections(&again.sections()).unwrap();
        }
    }
    prop_assert_eq!(again.digest(), d.state.digest());
    Ok(End { kept, folded: view.folded, ghosts: model.ghosts.len(), driver: d })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn products_equal_the_naive_model(steps in proptest::collection::vec(step(), 1..160)) {
        let end = run(&steps, Small::default())?;
        prop_assert!(!end.folded && end.kept == 256);
    }

    #[test]
    fn after_folds_halvings_and_erasures_they_equal_a_recomputation(
        steps in proptest::collection::vec(step(), 1..160),
        units in prop_oneof![Just(0u64), 6u64..20],
        sums in 1u64..40,
        capped in prop_oneof![Just(0u64), 2u64..9],
    ) {
        run(&steps, Small { units, sums, capped })?;
    }
}

/// All of it in one story, so that the tests above cannot be empty ones; and a snapshot at every place in its log.
#[test]
fn folded_halved_and_erased_with_a_snapshot_anywhere() {
    let steps: Vec<Step> = (0..120u64)
        .map(|at| match at % 8 {
            0 | 3 => {
                let told = [Some(at as i64 - 30), (at % 3 > 0).then_some(7)];
                Step::Expose { unit: at / 3 % 24, arm: (at / 5 % 2) as u32, back: (at % 7) as u32, told }
            }
            6 => Step::Tick { seconds: 700 },
            7 if at > 90 => Step::Erase { unit: at / 3 % 24 },
            _ => Step::Outcome { unit: at / 3 % 24, metric: at as usize % 4, value: 170, receipt: Some(1) },
        })
        .collect();
    let end = run(&steps, Small { units: 0, sums: 12, capped: 5 }).unwrap();
    assert!(end.folded && end.kept < 256 && end.ghosts > 0, "{} {} {}", end.folded, end.kept, end.ghosts);
    for place in 0..end.driver.log.len() {
        let mut again = State::new();
        for (at, entry) in end.driver.log.iter().enumerate() {
            again.apply(at as u64 + 1, entry, &mut Vec::new()).unwrap();
            if at == place {
                again = State::from_sections(&again.sections()).unwrap();
            }
        }
        assert_eq!(again.digest(), end.driver.state.digest(), "over a snapshot at {place}");
    }
}

#[test]
fn missing_is_told_from_zero_and_absurd_values_are_missing() {
    let (mut d, number) = running(&["before", "visits"]);
    let facts = [
        told(&[Some(0), None]),
        Vec::new(),
        told(&[Some(1)]),
        told(&[Some(i64::MAX), Some(1 << 53)]),
        told(&[Some(-(1 << 53)), Some(i64::MIN)]),
    ];
    for (unit, covariates) in (0u64..).zip(facts) {
        let mut facts = batch("p", unit + 1);
        let fact =
            ExposureFact { experiment: number, unit_hash: hash(unit), covariates, ..Default::default() };
        facts.exposures.push(fact);
        assert_eq!(d.ingest(vec![facts])[0].counted, 1);
    }
    let view = d.state.experiment_view("production", "e").unwrap();
    let missing: Vec<_> =
        view.covariates.iter().map(|c| (c.attribute.as_str(), c.decimal_scale, c.missing_units)).collect();
    assert_eq!(missing, [("before", 0, 3), ("visits", 0, 4)]);
    let view = d.state.owner_view(number);
    assert!(view.is_none_or(|view| view.inputs.covariates.len() == 2 && view.inputs.covariates[0].slot == 4));
}

#[test]
fn what_cannot_be_declared_says_why() {
    let mut d = Driver::new();
    d.furnish();
    d.done(set_metric("spend", metric::Kind::Mean, Some(3.0)));
    let long = "x".repeat(65);
    for (names, field) in [
        (&["a", "b", "c", "d", "e"][..], "experiment.covariates"),
        (&["a", "a"], "experiment.covariates[1].attribute"),
        (&[""], "experiment.covariates[0].attribute"),
        (&["targetingKey"], "experiment.covariates[0].attribute"),
        (&[long.as_str()], "experiment.covariates[0].attribute"),
    ] {
        let refusal = refusal(create(&mut d, experiment(names)));
        assert_eq!((refusal.code.as_str(), refusal.field.as_str()), ("INVALID_ARGUMENT", field));
    }
    let mut deep = experiment(&["a"]);
    deep.covariates[0].decimal_scale = Some(10);
    assert_eq!(refusal(create(&mut d, deep)).field, "experiment.covariates[0].decimal_scale");
    // Thirteen metrics beside four covariates: 4 x 13 + 6 among each other, and a square for each proportion.
    let mut wide = experiment(&["a", "b", "c", "d"]);
    for at in 0..10 {
        let name = format!("more-{at}");
        d.done(set_metric(&name, metric::Kind::Proportion, None));
        wide.secondary_metrics.push(name);
    }
    let refused = refusal(create(&mut d, wide.clone()));
    assert_eq!((refused.code.as_str(), refused.field.as_str()), ("LIMIT_REACHED", "experiment.covariates"));
    wide.covariates.truncate(2);
    driver::done(create(&mut d, wide));
}

#[test]
fn a_cap_is_fixed_while_it_counts_and_never_in_a_ratio() {
    use metric::Kind;
    let (mut d, _) = running(&[]);
    let refused = |d: &mut Driver, command| {
        let refusal = refusal(d.command(command));
        (refusal.code, refusal.field)
    };
    let pair = |code: &str, field: &str| (code.to_owned(), field.to_owned());
    for (kind, cap) in [
        (Kind::Proportion, 3.0),
        (Kind::Mean, 0.0),
        (Kind::Mean, 0.001),
        (Kind::Mean, f64::NAN),
        (Kind::Count, 1e300),
    ] {
        let field = pair("INVALID_ARGUMENT", "metric.cap");
        assert_eq!(refused(&mut d, set_metric("x", kind, Some(cap))), field, "{cap}");
    }
    for changed in [None, Some(4.0)] {
        let moved = refused(&mut d, set_metric("spend", Kind::Mean, changed));
        assert_eq!(moved, pair("WRONG_STATE", "metric"));
    }
    d.done(set_metric("spend", Kind::Mean, Some(3.001)));
    assert_eq!(
        refused(&mut d, set_metric("clicks", Kind::Count, Some(3.0))),
        pair("INVALID_ARGUMENT", "metric.cap")
    );
    let mut ratio = set_metric("ratio", Kind::Ratio, None);
    if let entry::Command::SetMetric(set) = &mut ratio {
        let metric = set.metric.as_mut().unwrap();
        (metric.numerator, metric.denominator) = ("spend".to_owned(), "clicks".to_owned());
    }
    assert_eq!(refused(&mut d, ratio), pair("INVALID_ARGUMENT", "metric.numerator"));
}

/// Where the smallest part of the hash space is full of capped sums, and only there, an outcome is refused.
#[test]
fn full_of_capped_sums_units_leave_and_none_is_refused_before_the_last_part() {
    let (mut d, number) = running(&[]);
    let budgets = v1::Budgets { experiment_capped: 4, ..v1::Budgets::default() };
    d.done(entry::Command::SetBudgets(SetBudgets { budgets: Some(budgets), ..SetBudgets::default() }));
    let metric = d.metric("spend");
    let mut verdicts = BTreeMap::<i32, u32>::new();
    for unit in 0..40u64 {
        let (unit_hash, mut facts) = (unit << 58 | unit, batch("p", unit + 1));
        facts.exposures.push(ExposureFact { experiment: number, unit_hash, ..ExposureFact::default() });
        facts.outcomes.push(OutcomeFact { index: 1, metric, unit_hash, value: 5, ..OutcomeFact::default() });
        for verdict in &d.ingest(vec![facts])[0].verdicts {
            *verdicts.entry(verdict.verdict).or_default() += 1;
        }
    }
    let view = d.state.experiment_view("production", "e").unwrap();
    assert_eq!((view.capped, view.kept), (4, 16.0 / 256.0));
    assert_eq!(verdicts.keys().copied().collect::<Vec<_>>(), [Verdict::Thinned as i32]);
    for unit in 40..42u64 {
        let (unit_hash, mut facts) = (unit, batch("p", unit + 1));
        facts.exposures.push(ExposureFact { experiment: number, unit_hash, ..ExposureFact::default() });
        facts.outcomes.push(OutcomeFact { index: 1, metric, unit_hash, value: 5, ..OutcomeFact::default() });
        assert_eq!(d.ingest(vec![facts])[0].verdicts[0].verdict, Verdict::NoRoom as i32);
    }
    d.state.check().unwrap();
}
