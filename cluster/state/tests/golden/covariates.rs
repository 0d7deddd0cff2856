//! Covariates and caps: what is proposed, what decisions and snapshots keep of them.

use featureops_proto::log::{self, Entry, LedgerRecord, SlotRecord, entry};
use featureops_proto::v1;
use featureops_state::{Command, State};

use crate::driver::{Driver, batch};
use crate::{Golden, text};

fn covariate(attribute: &str, decimal_scale: Option<u32>) -> v1::Covariate {
    v1::Covariate { attribute: text(attribute), decimal_scale }
}

fn told(values: &[Option<i64>]) -> Vec<log::CovariateFact> {
    values.iter().map(|value| log::CovariateFact { value: *value }).collect()
}

fn capped(name: &str) -> v1::Metric {
    v1::Metric {
        name: format!("environments/production/metrics/{name}"),
        kind: v1::metric::Kind::Mean as i32,
        direction: v1::metric::Direction::HigherIsBetter as i32,
        decimal_scale: Some(2),
        cap: Some(199.5),
        ..v1::Metric::default()
    }
}

fn entries() -> Vec<(&'static str, entry::Command)> {
    use entry::Command as C;
    let experiment = v1::Experiment {
        name: text("environments/production/experiments/checkout-button"),
        flag: text("checkout"),
        covariates: vec![covariate("spend", Some(2)), covariate("visits", None)],
        ..v1::Experiment::default()
    };
    let exposure = log::ExposureFact {
        experiment: 3,
        arm: 1,
        unit_hash: 0xabcd,
        minute: 29_671_200,
        covariates: told(&[Some(-1_250), None, Some(0)]),
        ..log::ExposureFact::default()
    };
    let batch = log::Batch {
        environment: text("production"),
        producer: text("web-1"),
        sequence: 42,
        exposures: vec![exposure],
        ..log::Batch::default()
    };
    let budgets = v1::Budgets { experiment_capped: 65_536, ..v1::Budgets::default() };
    vec![
        ("create_experiment", C::CreateExperiment(log::CreateExperiment { experiment: Some(experiment) })),
        ("ingest", C::Ingest(log::Ingest { batches: vec![batch] })),
        ("set_metric", C::SetMetric(log::SetMetric { metric: Some(capped("spend")), etag: text("m3") })),
        (
            "set_budgets",
            C::SetBudgets(log::SetBudgets { budgets: Some(budgets), ..log::SetBudgets::default() }),
        ),
    ]
}

fn inputs() -> v1::DecisionInputs {
    v1::DecisionInputs {
        metrics: vec![v1::MetricInput { metric: text("spend"), capped: true, ..v1::MetricInput::default() }],
        covariates: vec![v1::CovariateInput { attribute: text("visits"), decimal_scale: 6, slot: 4 }],
        pairs: vec![v1::PairInput { first: 4, second: 1 }],
        ..v1::DecisionInputs::default()
    }
}

#[test]
fn every_message_reads_and_writes_its_golden_bytes() {
    let mut golden = Golden::open("covariates");
    for (name, command) in entries() {
        let bytes = golden.keeps(name, &Entry { command: Some(command.clone()), ..Entry::default() });
        assert_eq!(Command::decode(&bytes).unwrap().kind, command, "{name}: meaning changed");
    }
    golden.keeps("decision_inputs", &inputs());
    golden.keeps("slot", &SlotRecord { metric: 4, kind: v1::metric::Kind::Mean as i32, cap: 19_950 });
    let ledger = LedgerRecord { experiment: 3, covariates_missing: vec![0, 12], ..LedgerRecord::default() };
    golden.keeps("ledger", &ledger);
    golden.has_nothing_else();
}

/// Before and after the fold.
#[test]
fn a_state_with_them_is_read_and_written_again_as_its_golden_bytes() {
    let mut driver = Driver::new();
    driver.furnish();
    driver.done(entry::Command::SetMetric(log::SetMetric {
        metric: Some(capped("spend")),
        etag: String::new(),
    }));
    let arms = ["off", "on"].map(|variant| v1::Arm { variant: text(variant), established: true });
    let experiment = v1::Experiment {
        name: text("environments/production/experiments/e"),
        flag: text("checkout"),
        arms: arms.to_vec(),
        primary_metric: text("conversion"),
        secondary_metrics: vec![text("revenue"), text("spend")],
        covariates: vec![covariate("before", Some(0)), covariate("visits", None)],
        ..v1::Experiment::default()
    };
    driver.done(entry::Command::CreateExperiment(log::CreateExperiment { experiment: Some(experiment) }));
    driver.start("e", v1::AutonomyLevel::A4Bounded);
    driver.tick(500);
    let metrics = ["conversion", "revenue", "spend"].map(|name| driver.metric(name));
    let mut golden = Golden::open("sections/covariates");
    for (place, sequence) in [("before", 1), ("after", 2)] {
        let mut facts = batch("shop", sequence);
        let exposure = |arm: u32, unit_hash: u64, values: &[Option<i64>]| log::ExposureFact {
            experiment: 1,
            arm,
            unit_hash: unit_hash << 56,
            covariates: told(values),
            ..log::ExposureFact::default()
        };
        facts.exposures = vec![
            exposure(0, 5 + sequence, &[Some(40), None]),
            exposure(1, 9 + sequence, &[Some(0), Some(2_000_000)]),
            exposure(sequence as u32 % 2, 20, &[Some(-3), Some(1)]),
        ];
        for (unit, metric, value) in [(5, 0, 1), (5, 1, 700), (9, 2, 30_000), (9, 2, -200), (20, 1, -9)] {
            let unit_hash = (if unit == 20 { unit } else { unit + sequence }) << 56;
            let metric = metrics[metric];
            facts.outcomes.push(log::OutcomeFact { metric, unit_hash, value, ..log::OutcomeFact::default() });
        }
        driver.ingest(vec![facts]);
        if place == "after" {
            let budgets = v1::Budgets { experiment_sums: 1, ..v1::Budgets::default() };
            driver.done(entry::Command::SetBudgets(log::SetBudgets {
                budgets: Some(budgets),
                ..log::SetBudgets::default()
            }));
            driver.ingest(vec![batch("shop", 3)]);
            assert!(driver.state.experiment_view("production", "e").unwrap().folded);
        }
        let written = driver.state.sections();
        let ours =
            |name: &str| ["ledger/", "clusters/", "experiments"].iter().any(|ours| name.starts_with(ours));
        for section in written.iter().filter(|section| ours(&section.name)) {
            let name = format!("{place}.{}", section.name.replace('/', "."));
            let kept = golden.bytes(&name, || section.bytes.clone());
            assert_eq!(kept, section.bytes, "{name}: bytes changed");
        }
        assert_eq!(State::from_sections(&written).unwrap().sections(), written);
    }
    golden.has_nothing_else();
}
