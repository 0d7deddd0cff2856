//! Covariates and caps over the wire: contexts and reported exposures carry the numbers, the status shows what they took.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test"
)]

mod world;

use std::time::Duration;

use featureops_proto::v1::{
    Covariate, EvaluateRequest, Experiment, ExperimentStatus, Exposure, GetExperimentStatusRequest, Metric,
    ReportExposuresRequest, SetMetricRequest, metric,
};
use prost_types::{Struct, Value};
use world::{World, checkout, evaluate, experiment, metric, outcome, outcomes, set};

const UNITS: u32 = 400;

async fn status(world: &World) -> ExperimentStatus {
    let request = GetExperimentStatusRequest { name: "environments/test/experiments/button".into() };
    world.experiments().get_experiment_status(request).await.unwrap().into_inner()
}

async fn units_reach(world: &World, wanted: u64) -> ExperimentStatus {
    for _ in 0..1_000 {
        if status(world).await.exposed_units == wanted {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let status = status(world).await;
    assert_eq!(status.exposed_units, wanted);
    status
}

fn covariate(attribute: &str) -> Covariate {
    Covariate { attribute: attribute.into(), decimal_scale: Some(2) }
}

/// What the unit was worth before: 0 to 19.5.
fn before(unit: u32) -> f64 {
    f64::from(unit * 7 % 40) / 2.0
}

#[tokio::test]
async fn an_evaluations_context_carries_the_covariate_and_the_status_shows_what_it_took() {
    let world = World::start().await;
    world.flags().set_flag(set(checkout())).await.unwrap();
    world.metrics().set_metric(metric("revenue", metric::Kind::Mean)).await.unwrap();
    let covariates = vec![covariate("spent"), covariate("visits")];
    world.create(Experiment { covariates, ..experiment("button", "checkout") }).await;
    world.start_experiment("button").await;

    let mut arms = [0.0, 0.0];
    let mut facts = Vec::new();
    for unit in 0..UNITS {
        let name = format!("unit-{unit}");
        let mut fields: std::collections::BTreeMap<String, Value> =
            [("targetingKey".to_owned(), Value::from(name.as_str()))].into();
        // Of the last tenth nothing is known, and one in twenty tells what is no number.
        if unit < UNITS * 9 / 10 {
            let visits = if unit % 20 == 0 { Value::from("many") } else { Value::from(f64::from(unit % 3)) };
            fields.extend([("spent".to_owned(), Value::from(before(unit))), ("visits".to_owned(), visits)]);
        }
        let context = Some(Struct { fields });
        let asked = EvaluateRequest { context, ..evaluate("checkout", &name) };
        let answer = world.evaluation().evaluate(asked).await.unwrap().into_inner();
        arms[usize::from(answer.variant() == "on")] += 1.0;
        let noise = f64::from(unit * 13 % 17) / 4.0;
        facts.push(outcome(&name, if unit < UNITS * 9 / 10 { before(unit) } else { 9.0 } + noise));
    }
    assert!(arms[0] > 100.0 && arms[1] > 100.0, "{arms:?}");
    let missing = u64::from(UNITS / 10);
    let exposed = units_reach(&world, u64::from(UNITS)).await;
    let told: Vec<(&str, u64)> =
        exposed.covariates.iter().map(|c| (c.attribute.as_str(), c.missing_units)).collect();
    let unusable = u64::from(UNITS * 9 / 10 / 20);
    assert_eq!(told, [("spent", missing), ("visits", missing + unusable)]);
    assert_eq!(world.metric("featureops_covariates_unusable_total").await, unusable as usize);
    world.facts().report_outcomes(outcomes("shop", 1, facts)).await.unwrap();

    let shown = status(&world).await;
    let contrast = &shown.contrasts[0];
    let plain = contrast.adjustment.as_ref().unwrap();
    assert_eq!((plain.decides.as_str(), plain.covariates.len()), ("adjusted", 2));
    assert_eq!(plain.covariates[0].attribute, "spent");
    assert!(plain.variance_reduction > 0.5, "{plain:?}");
    assert!(contrast.standard_error < 0.8 * plain.standard_error, "{contrast:?}");
    assert!(contrast.upper - contrast.lower < plain.upper - plain.lower);

    // Over a restart the log tells the same.
    let world = world.restart().await;
    assert_eq!(units_reach(&world, u64::from(UNITS)).await.contrasts, shown.contrasts);
}

#[tokio::test]
async fn reported_exposures_bring_covariates_too_and_a_cap_bounds_a_units_sum() {
    let world = World::start().await;
    world.flags().set_flag(set(checkout())).await.unwrap();
    let mut capped = metric("revenue", metric::Kind::Mean);
    let definition = capped.metric.as_mut().unwrap();
    definition.cap = Some(10.5);
    world.metrics().set_metric(capped.clone()).await.unwrap();
    world
        .create(Experiment { covariates: vec![covariate("spent")], ..experiment("button", "checkout") })
        .await;
    world.start_experiment("button").await;

    let exposure = |(unit, told): (&str, Option<f64>)| Exposure {
        experiment: "button".into(),
        unit: unit.into(),
        variant: "on".into(),
        attributes: told.map(|told| ("spent".to_owned(), Value::from(told))).into_iter().collect(),
        ..Exposure::default()
    };
    let exposures = [("ada", Some(3.25)), ("bob", None), ("eve", Some(0.0)), ("joe", Some(f64::NAN))]
        .map(exposure)
        .to_vec();
    let report =
        ReportExposuresRequest { environment: "test".into(), producer: "app".into(), sequence: 1, exposures };
    world.facts().report_exposures(report).await.unwrap();
    let spent = [outcome("ada", 8.0), outcome("ada", 8.0), outcome("bob", 4.0), outcome("eve", -20.0)];
    world.facts().report_outcomes(outcomes("shop", 1, spent.to_vec())).await.unwrap();
    let shown = units_reach(&world, 4).await;
    assert_eq!(shown.covariates[0].missing_units, 2);
    assert_eq!(shown.arms[1].metrics[0].total, 10.5 + 4.0 - 20.0, "one-sided");
    assert_eq!(shown.capped_entries, 3);
    assert_eq!(world.metric("featureops_covariates_unusable_total").await, 1);

    // As fixed as the scale while an experiment counts it.
    let moved = Metric { cap: Some(11.0), ..capped.metric.clone().unwrap() };
    let refused =
        world.metrics().set_metric(SetMetricRequest { metric: Some(moved), ..capped.clone() }).await;
    assert!(refused.unwrap_err().message().contains("cap"));
    let ratio = Metric {
        kind: metric::Kind::Ratio.into(),
        numerator: "revenue".into(),
        denominator: "revenue".into(),
        cap: None,
        ..metric("ratio", metric::Kind::Ratio).metric.unwrap()
    };
    let refused = world.metrics().set_metric(SetMetricRequest { metric: Some(ratio), ..capped }).await;
    assert!(refused.unwrap_err().message().contains("cap"));
}
