//! The sample of an experiment that declares dimensions.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may fail loudly"
)]

mod driver;

use std::collections::BTreeMap;

use driver::{Driver, batch};
use featureops_proto::log::{self, ExposureFact, OutcomeFact, entry};
use featureops_proto::v1::{self, AutonomyLevel};
use featureops_state::State;

fn create(d: &mut Driver, name: &str, flag: &str, dimensions: &[&str]) -> log::Reply {
    let arms = ["off", "on"].map(|variant| v1::Arm { variant: variant.to_owned(), established: true });
    d.command(entry::Command::CreateExperiment(log::CreateExperiment {
        experiment: Some(v1::Experiment {
            name: format!("environments/production/experiments/{name}"),
            flag: flag.to_owned(),
            arms: arms.to_vec(),
            primary_metric: "conversion".to_owned(),
            secondary_metrics: vec!["revenue".to_owned()],
            dimensions: dimensions.iter().map(|name| (*name).to_owned()).collect(),
            ..v1::Experiment::default()
        }),
    }))
}

fn running(d: &mut Driver) -> u32 {
    d.furnish();
    driver::done(create(d, "e", "checkout", &["country", "plan"]));
    d.start("e", AutonomyLevel::A4Bounded);
    d.tick(500);
    d.state.experiment("production", "e").unwrap().number
}

fn hash(unit: u64) -> u64 {
    (unit + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

#[test]
fn sampled_units_have_their_values_and_their_own_sums_in_both_arms() {
    let mut d = Driver::new();
    let experiment = running(&mut d);
    let (conversion, revenue) = (d.metric("conversion"), d.metric("revenue"));
    // country -> arm -> (units, converted, revenue)
    let mut model: BTreeMap<&str, [(u64, i128, i128); 2]> = BTreeMap::new();
    for unit in 0..300u64 {
        let country = ["DE", "FR", ""][unit as usize % 3];
        let mut facts = batch("p", unit + 1);
        let exposure = |arm| ExposureFact {
            experiment,
            arm,
            unit_hash: hash(unit),
            dimensions: vec![country.to_owned(), "pro".to_owned()],
            ..ExposureFact::default()
        };
        let outcome =
            |metric, value| OutcomeFact { metric, unit_hash: hash(unit), value, ..OutcomeFact::default() };
        let arm = (unit % 2) as u32;
        facts.exposures.push(exposure(arm));
        let value = unit as i64 - 150;
        facts.outcomes = vec![outcome(conversion, 1), outcome(conversion, 1), outcome(revenue, value)];
        d.ingest(vec![facts]);
        let arms = model.entry(country).or_default();
        arms[arm as usize].0 += 1;
        arms[arm as usize].1 += 1;
        arms[arm as usize].2 += i128::from(value);
        if unit % 10 == 0 {
            let mut crosses = batch("q", unit + 1);
            crosses.exposures.push(exposure(1 - arm));
            crosses.outcomes = vec![outcome(revenue, 7)];
            d.ingest(vec![crosses]);
            arms[1 - arm as usize].0 += 1;
            arms[1 - arm as usize].2 += 7;
        }
    }
    let view = d.state.sample("production", "e", 100).unwrap();
    assert_eq!((view.status.units, view.status.dictionary, view.status.unknown), (300, 3, 0));
    let read: BTreeMap<String, Vec<(u64, Vec<i128>)>> = view
        .groups
        .iter()
        .map(|group| (group.values.as_ref().unwrap()[0].clone(), group.arms.clone()))
        .collect();
    for (country, arms) in &model {
        let expected: Vec<_> = arms.iter().map(|(units, seen, sum)| (*units, vec![*seen, *sum])).collect();
        assert_eq!(read[*country], expected, "{country}");
    }
    let status = d.state.experiment_view("production", "e").unwrap().sample.unwrap();
    assert_eq!((status.units, status.dimensions.len()), (300, 2));

    let restored = State::from_sections(&d.state.sections()).unwrap();
    assert_eq!(restored.digest(), d.state.digest());
    assert_eq!(restored.sample("production", "e", 100), d.state.sample("production", "e", 100));
    // An erased unit leaves it.
    let erase =
        log::EraseUnit { parent: "environments/production".to_owned(), unit_key_id: 7, unit_hash: hash(4) };
    assert_eq!(d.done(entry::Command::EraseUnit(erase)).erased.unwrap().sampled, 1);
    assert_eq!(d.state.sample("production", "e", 100).unwrap().status.units, 299);
}

#[test]
fn a_unit_known_by_its_receipt_gets_its_values_with_its_exposure() {
    let mut d = Driver::new();
    let experiment = running(&mut d);
    let minute = d.minute();
    let mut facts = batch("p", 1);
    facts.outcomes.push(OutcomeFact {
        metric: d.metric("revenue"),
        unit_hash: 1,
        value: 5,
        minute,
        receipt: Some(log::ReceiptFact { experiment, arm: 1, generation: 1, minute }),
        ..OutcomeFact::default()
    });
    d.ingest(vec![facts]);
    let groups = d.state.sample("production", "e", 9).unwrap().groups;
    assert!(groups[0].unknown && groups[0].values.is_none() && groups[0].arms[1] == (1, vec![0, 5]));
    let mut exposed = batch("p", 2);
    let dimensions = vec!["DE".to_owned(), String::new()];
    exposed.exposures.push(ExposureFact {
        experiment,
        arm: 1,
        unit_hash: 1,
        minute,
        dimensions,
        ..Default::default()
    });
    d.ingest(vec![exposed]);
    let view = d.state.sample("production", "e", 9).unwrap();
    assert_eq!(view.groups[0].values.as_ref().unwrap()[0], "DE");
    assert_eq!((view.status.unknown, view.status.dictionary), (0, 1));
}

#[test]
fn what_may_be_declared_is_bounded_and_so_are_samples() {
    let mut d = Driver::new();
    d.furnish();
    let long = "x".repeat(65);
    let nine: Vec<String> = (0..9).map(|n| format!("d{n}")).collect();
    let nine: Vec<&str> = nine.iter().map(String::as_str).collect();
    for (dimensions, field) in [
        (nine.as_slice(), "experiment.dimensions"),
        (&["a", "a"], "experiment.dimensions[1]"),
        (&[""], "experiment.dimensions[0]"),
        (&["targetingKey"], "experiment.dimensions[0]"),
        (&["a", long.as_str()], "experiment.dimensions[1]"),
    ] {
        let refusal = driver::refusal(create(&mut d, "bad", "checkout", dimensions));
        assert_eq!((refusal.code.as_str(), refusal.field.as_str()), ("INVALID_ARGUMENT", field));
    }
    let flag = d.state.flag("production", "checkout").unwrap();
    // Each with metrics of its own: one may be used by 64 at once.
    for n in 0..66 {
        let metric = d.state.metric("production", "revenue").unwrap();
        let metric = v1::Metric { name: format!("environments/production/metrics/m{n}"), ..metric };
        d.done(entry::Command::SetMetric(log::SetMetric { metric: Some(metric), etag: String::new() }));
        let flag = v1::Flag { name: format!("environments/production/flags/f{n}"), ..flag.clone() };
        d.done(entry::Command::SetFlag(log::SetFlag { flag: Some(flag), etag: String::new() }));
        let arms = ["off", "on"].map(|variant| v1::Arm { variant: variant.to_owned(), established: true });
        d.done(entry::Command::CreateExperiment(log::CreateExperiment {
            experiment: Some(v1::Experiment {
                name: format!("environments/production/experiments/e{n}"),
                flag: format!("f{n}"),
                arms: arms.to_vec(),
                primary_metric: format!("m{n}"),
                // The last one declares none, and starts.
                dimensions: if n == 65 { Vec::new() } else { vec!["country".to_owned()] },
                ..v1::Experiment::default()
            }),
        }));
        let start = entry::Command::StartExperiment(log::StartExperiment {
            name: format!("environments/production/experiments/e{n}"),
            ..log::StartExperiment::default()
        });
        let reply = d.command(start);
        if n == 64 {
            let refusal = driver::refusal(reply);
            assert_eq!(
                (refusal.code.as_str(), refusal.field.as_str()),
                ("LIMIT_REACHED", "experiment.dimensions")
            );
        } else {
            driver::done(reply);
        }
    }
}

#[test]
fn a_state_without_dimensions_has_no_section_of_them() {
    let mut d = Driver::new();
    let experiment = d.running();
    let mut facts = batch("p", 1);
    let dimensions = vec!["DE".to_owned()];
    facts.exposures.push(ExposureFact { experiment, unit_hash: 1, dimensions, ..ExposureFact::default() });
    d.ingest(vec![facts]);
    assert!(!d.state.sections().iter().any(|section| section.name.starts_with("sample/")));
    assert!(d.state.experiment_view("production", "e").unwrap().sample.is_none());
}
