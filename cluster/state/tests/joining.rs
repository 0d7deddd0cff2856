//! Outcomes that many experiments share: however many come in one entry, each ledger ends alike.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may fail loudly"
)]

mod driver;

use driver::{Driver, batch, boolean_flag};
use featureops_proto::log::{self, ExposureFact, OutcomeFact, entry};
use featureops_proto::v1::{self, AutonomyLevel, Budgets};
use prost::Message as _;

const EXPERIMENTS: usize = 6;
const UNITS: u64 = 1_500;

/// A few numbers that look like chance.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (self.0 >> 33) % bound
    }
}

/// Spread as real hashes are.
fn hash(unit: u64) -> u64 {
    let mixed = (unit + 1).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (mixed ^ (mixed >> 31)).wrapping_mul(0x94d0_49bb_1331_11eb)
}

/// Experiments that share their metrics, one with a sample, one with a covariate, none with all units.
fn shared() -> (Driver, Vec<u32>) {
    let mut driver = Driver::new();
    driver.furnish();
    let mut numbers = Vec::new();
    for at in 0..EXPERIMENTS {
        let flag = boolean_flag(&format!("f{at}"));
        driver.done(entry::Command::SetFlag(log::SetFlag { flag: Some(flag), etag: String::new() }));
        let name = format!("e{at}");
        let arm = |variant: &str| v1::Arm { variant: variant.to_owned(), established: true };
        driver.done(entry::Command::CreateExperiment(log::CreateExperiment {
            experiment: Some(v1::Experiment {
                name: format!("environments/production/experiments/{name}"),
                flag: format!("f{at}"),
                arms: vec![arm("off"), arm("on")],
                primary_metric: "conversion".to_owned(),
                guardrails: vec![v1::Guardrail { metric: "revenue".to_owned(), ..v1::Guardrail::default() }],
                secondary_metrics: vec!["revenue_per_click".to_owned()],
                dimensions: if at == 1 { vec!["country".to_owned()] } else { Vec::new() },
                covariates: if at == 2 {
                    vec![v1::Covariate { attribute: "age".to_owned(), ..v1::Covariate::default() }]
                } else {
                    Vec::new()
                },
                ..v1::Experiment::default()
            }),
        }));
        driver.start(&name, AutonomyLevel::A4Bounded);
        numbers.push(driver.state.experiment("production", &name).unwrap().number);
    }
    driver.tick(600_000);
    let mut chance = Numbers(1);
    let mut sequence = 0;
    for (at, number) in numbers.iter().enumerate() {
        for turn in 0..2 {
            let mut facts = batch("x", {
                sequence += 1;
                sequence
            });
            for unit in 0..UNITS {
                // The second time a few cross, and fewer cross back.
                if (turn == 0 && unit % 7 != at as u64) || (turn == 1 && chance.below(20) == 0) {
                    facts.exposures.push(ExposureFact {
                        index: unit as u32,
                        experiment: *number,
                        arm: ((unit + turn) % 2) as u32,
                        unit_hash: hash(unit),
                        minute: driver.minute() - 5 + turn as u32 * 2,
                        dimensions: if at == 1 { vec![format!("c{}", unit % 5)] } else { Vec::new() },
                        covariates: if at == 2 {
                            vec![log::CovariateFact { value: Some((unit % 60) as i64) }]
                        } else {
                            Vec::new()
                        },
                        ..ExposureFact::default()
                    });
                }
            }
            driver.ingest(vec![facts]);
        }
    }
    (driver, numbers)
}

/// Of three metrics, of units known and unknown, early and late, some of them nothing.
fn outcomes(driver: &Driver, chance: &mut Numbers) -> Vec<OutcomeFact> {
    let metrics = ["conversion", "revenue", "clicks"].map(|name| driver.metric(name));
    (0..1_200)
        .map(|index| OutcomeFact {
            index,
            metric: metrics[chance.below(3) as usize],
            unit_hash: hash(chance.below(UNITS + 200)),
            value: chance.below(400) as i64 - 100,
            minute: driver.minute() - chance.below(8) as u32,
            ..OutcomeFact::default()
        })
        .collect()
}

fn report(driver: &mut Driver, sequence: &mut u64, outcomes: &[OutcomeFact]) -> Vec<(u32, i32)> {
    *sequence += 1;
    let mut facts = batch("y", *sequence);
    facts.outcomes = outcomes.to_vec();
    driver.ingest(vec![facts]).remove(0).verdicts.iter().map(|v| (v.index, v.verdict)).collect()
}

/// Names and bytes; without the positions in the log at which moments were frozen.
fn ledgers(driver: &Driver) -> Vec<(String, Vec<u8>)> {
    let kinds = ["ledger/", "clusters/", "series/", "sample/"];
    let mut sections = Vec::new();
    for section in driver.state.sections() {
        let mut bytes = section.bytes;
        if section.name.starts_with("ledger/") && section.name.matches('/').count() == 1 {
            let mut record = log::LedgerRecord::decode_length_delimited(bytes.as_slice()).unwrap();
            record.frozen.iter_mut().for_each(|frozen| frozen.position = 0);
            bytes = record.encode_to_vec();
        }
        if kinds.iter().any(|kind| section.name.starts_with(kind)) {
            sections.push((section.name, bytes));
        }
    }
    sections
}

#[test]
fn a_run_in_the_order_of_the_tables_is_what_its_outcomes_are_one_by_one() {
    let ((mut together, numbers), (mut single, _)) = (shared(), shared());
    let mut chance = Numbers(2);
    let (mut first, mut second) = (0, 0);
    for round in 0..3 {
        let outcomes = outcomes(&together, &mut chance);
        let all = report(&mut together, &mut first, &outcomes);
        // Too few at a time to be sorted.
        let parts: Vec<_> =
            outcomes.chunks(100).flat_map(|part| report(&mut single, &mut second, part)).collect();
        assert_eq!(all, parts, "round {round}");
        assert!(all.len() > 200 && all.len() < 1_000, "{}", all.len());
        let sections = ledgers(&together);
        for (one, other) in sections.iter().zip(&ledgers(&single)) {
            assert!(one == other, "round {round}: {} differs from {}", one.0, other.0);
        }
        assert!(sections.iter().any(|section| section.0.starts_with("clusters/")) == (round > 0));
        assert!(sections.iter().any(|section| section.0.starts_with("sample/")));
        // From the second round on their sums are folded, in the third a part of the units has left.
        let budgets = Budgets {
            experiment_sums: 1,
            experiment_units: if round == 1 { 800 } else { 0 },
            ..Budgets::default()
        };
        for driver in [&mut together, &mut single] {
            driver.done(entry::Command::SetBudgets(log::SetBudgets {
                budgets: Some(budgets),
                thin: true,
                etag: String::new(),
            }));
            // One experiment folds an entry.
            for turn in 0..EXPERIMENTS as u64 {
                let (metric, unit_hash) = (driver.metric("revenue"), hash(20));
                let one = OutcomeFact { metric, unit_hash, value: 5, ..OutcomeFact::default() };
                report(driver, &mut { 1_000 + round * 100 + turn }, &[one]);
            }
            driver.tick(60_000);
            driver.state.check().unwrap();
        }
    }
    let view = together.state.experiment_view("production", "e0").unwrap();
    assert!(view.folded && view.kept < 1.0 && numbers.len() == EXPERIMENTS);
}

/// Where one experiment has thinned a unit out and another may still see it, the answer is that it waits; where none may, the worst is told.
#[test]
fn what_one_experiment_does_not_count_by_design_hides_nothing_of_another() {
    let (mut driver, _) = shared();
    let budgets = Budgets { experiment_units: 400, ..Budgets::default() };
    driver.done(entry::Command::SetBudgets(log::SetBudgets {
        budgets: Some(budgets),
        thin: true,
        etag: String::new(),
    }));
    let gone = (0..UNITS).find(|unit| hash(*unit) >> 56 > 200).unwrap();
    let metric = driver.metric("revenue");
    let of =
        |unit: u64| vec![OutcomeFact { metric, unit_hash: hash(unit), value: 3, ..OutcomeFact::default() }];
    let said = report(&mut driver, &mut 1, &of(gone));
    assert_eq!(said, [(0, v1::Verdict::Thinned as i32)], "thinned everywhere");
    // One more that has all of its hash space, and has yet to see the unit.
    driver.done(entry::Command::SetBudgets(log::SetBudgets {
        budgets: Some(Budgets::default()),
        thin: false,
        etag: String::new(),
    }));
    let flag = boolean_flag("late");
    driver.done(entry::Command::SetFlag(log::SetFlag { flag: Some(flag), etag: String::new() }));
    let arm = |variant: &str| v1::Arm { variant: variant.to_owned(), established: true };
    driver.done(entry::Command::CreateExperiment(log::CreateExperiment {
        experiment: Some(v1::Experiment {
            name: "environments/production/experiments/late".to_owned(),
            flag: "late".to_owned(),
            arms: vec![arm("off"), arm("on")],
            primary_metric: "revenue".to_owned(),
            ..v1::Experiment::default()
        }),
    }));
    driver.start("late", AutonomyLevel::A4Bounded);
    let said = report(&mut driver, &mut 2, &of(gone));
    assert_eq!(said, [(0, v1::Verdict::Waiting as i32)]);
}

#[test]
fn a_metric_is_in_an_experiment_once() {
    let mut driver = Driver::new();
    driver.furnish();
    let arm = |variant: &str| v1::Arm { variant: variant.to_owned(), established: true };
    let reply = driver.command(entry::Command::CreateExperiment(log::CreateExperiment {
        experiment: Some(v1::Experiment {
            name: "environments/production/experiments/twice".to_owned(),
            flag: "checkout".to_owned(),
            arms: vec![arm("off"), arm("on")],
            primary_metric: "revenue".to_owned(),
            guardrails: vec![v1::Guardrail { metric: "revenue".to_owned(), ..v1::Guardrail::default() }],
            ..v1::Experiment::default()
        }),
    }));
    let refusal = driver::refusal(reply);
    assert_eq!((refusal.field.as_str(), refusal.value.as_str()), ("experiment.guardrails.metric", "revenue"));
    assert!(refusal.message.contains("as primary_metric already"), "{}", refusal.message);
}
