//! Series, samples and erasure over the wire.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test"
)]

mod world;

use std::time::Duration;

use featureops::rpc::ledger_service_client::LedgerServiceClient;
use featureops_proto::v1::get_experiment_series_request::Resolution;
use featureops_proto::v1::{
    EraseUnitRequest, EvaluateRequest, Experiment, ExperimentStatus, Exposure, GetExperimentSampleRequest,
    GetExperimentSeriesRequest, GetExperimentStatusRequest, GetNodeHealthRequest, ListAuditRequest,
    ReportExposuresRequest, metric,
};
use prost_types::Value;
use tonic::transport::Channel;
use tonic::{Code, Request};
use world::{World, checkout, context, evaluate, experiment, metric, outcome, outcomes, set};

const EXPERIMENT: &str = "environments/test/experiments/button";

fn ledgers(world: &World) -> LedgerServiceClient<Channel> {
    LedgerServiceClient::new(world.channel.clone())
}

async fn status(world: &World) -> ExperimentStatus {
    let request = GetExperimentStatusRequest { name: EXPERIMENT.into() };
    world.experiments().get_experiment_status(request).await.unwrap().into_inner()
}

async fn units_reach(world: &World, wanted: u64) -> u64 {
    for _ in 0..500 {
        if status(world).await.exposed_units == wanted {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    status(world).await.exposed_units
}

fn erase(unit: &str) -> EraseUnitRequest {
    EraseUnitRequest { parent: "environments/test".into(), unit: unit.into(), ..EraseUnitRequest::default() }
}

#[tokio::test]
async fn an_erased_unit_is_gone_and_its_next_evaluation_is_an_exposure_again() {
    let world = World::start().await;
    world.run_experiment().await;
    for unit in ["ada", "bob"] {
        world.evaluation().evaluate(evaluate("checkout", unit)).await.unwrap();
    }
    assert_eq!(units_reach(&world, 2).await, 2);
    world.facts().report_outcomes(outcomes("shop", 1, vec![outcome("ada", 19.99)])).await.unwrap();

    let rehearsed = EraseUnitRequest { validate_only: true, ..erase("ada") };
    let would = ledgers(&world).erase_unit(rehearsed).await.unwrap().into_inner();
    assert_eq!((would.experiments, would.stays, would.sums), (1, 1, 1));
    assert_eq!(status(&world).await.exposed_units, 2, "a rehearsal erases nobody");
    let mut by_agent = Request::new(erase("ada"));
    by_agent.metadata_mut().insert("featureops-principal", "agent:bot".parse().unwrap());
    let refused = ledgers(&world).erase_unit(by_agent).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");

    let done = ledgers(&world).erase_unit(erase("ada")).await.unwrap().into_inner();
    assert_eq!((done.experiments, done.stays, done.sums, done.waiting), (1, 1, 1, 0));
    assert!(done.stays_until.len() >= 3 && !done.position.is_empty(), "{done:?}");
    let after = status(&world).await;
    let total: f64 = after.arms.iter().flat_map(|arm| &arm.metrics).map(|metric| metric.total).sum();
    assert_eq!((after.exposed_units, total), (1, 0.0));

    // The node had recorded it; that is forgotten too.
    world.evaluation().evaluate(evaluate("checkout", "ada")).await.unwrap();
    assert_eq!(units_reach(&world, 2).await, 2);

    let audit = world.administration().list_audit(ListAuditRequest::default()).await.unwrap().into_inner();
    let told = audit.records.iter().find(|record| record.action == "unit.erase" && record.refused.is_empty());
    let told = told.unwrap();
    assert_eq!(told.resource, "environments/test");
    assert!(!format!("{told:?}").contains("ada"), "{told:?}");
    let health = world.administration().get_node_health(GetNodeHealthRequest {}).await.unwrap().into_inner();
    let check = |name: &str| health.checks.iter().find(|check| check.name == name).unwrap().clone();
    assert!(check("erasures").ok && check("erasures").detail.contains("the log holds what came before"));
    assert!(check("ledger").ok && check("ledger").detail.starts_with("2 of "), "{:?}", check("ledger"));
}

#[tokio::test]
async fn bad_erasures_and_reads_are_told_which_field() {
    let world = World::start().await;
    world.run_experiment().await;
    let mut client = ledgers(&world);
    for (request, field) in [
        (EraseUnitRequest { parent: "test".into(), ..erase("ada") }, "parent"),
        (erase(""), "unit"),
        (erase(&"x".repeat(100_000)), "unit"),
    ] {
        let status = client.erase_unit(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().starts_with(field) && status.message().len() < 500, "{status:?}");
    }
    let series = |metric: &str, resolution: i32| GetExperimentSeriesRequest {
        name: EXPERIMENT.into(),
        metric: metric.into(),
        resolution,
    };
    for (request, field) in [(series("nothing", 1), "metric"), (series("", 7), "resolution")] {
        let status = client.get_experiment_series(request).await.unwrap_err();
        assert!(status.message().starts_with(field), "{status:?}");
    }
    let name = "environments/test/experiments/none".to_owned();
    let none = GetExperimentSeriesRequest { name, ..series("", 0) };
    assert_eq!(client.get_experiment_series(none).await.unwrap_err().code(), Code::NotFound);
    let sample = |groups| GetExperimentSampleRequest { name: EXPERIMENT.into(), groups };
    for (request, part) in [(sample(1_001), "groups"), (sample(0), "declares no dimensions")] {
        let status = client.get_experiment_sample(request).await.unwrap_err();
        assert!(status.message().contains(part), "{status:?}");
    }
    let hours = client.get_experiment_series(series("revenue", Resolution::Hours.into())).await.unwrap();
    assert_eq!(hours.into_inner().variants, ["off", "on"]);
}

#[tokio::test]
async fn exposures_of_either_way_bring_their_values_of_the_dimensions() {
    let world = World::start().await;
    world.flags().set_flag(set(checkout())).await.unwrap();
    world.metrics().set_metric(metric("revenue", metric::Kind::Mean)).await.unwrap();
    let dimensions = vec!["country".into(), "plan".into()];
    world.create(Experiment { dimensions, ..experiment("button", "checkout") }).await;
    world.start_experiment("button").await;

    let fields = [("targetingKey", "ada"), ("country", "DE"), ("plan", &*"x".repeat(65))];
    let asked = EvaluateRequest { context: Some(context(&fields)), ..evaluate("checkout", "ada") };
    world.evaluation().evaluate(asked).await.unwrap();
    let reported = Exposure {
        experiment: "button".into(),
        unit: "bob".into(),
        variant: "on".into(),
        attributes: [("country".to_owned(), Value::from("DE"))].into(),
        ..Exposure::default()
    };
    let exposures = vec![reported];
    let report =
        ReportExposuresRequest { environment: "test".into(), producer: "app".into(), sequence: 1, exposures };
    world.facts().report_exposures(report).await.unwrap();
    assert_eq!(units_reach(&world, 2).await, 2);

    let request = GetExperimentSampleRequest { name: EXPERIMENT.into(), groups: 0 };
    let sample = ledgers(&world).get_experiment_sample(request).await.unwrap().into_inner();
    assert_eq!(sample.dimensions, ["country", "plan"]);
    assert_eq!(sample.groups.len(), 1, "a value that is too long is as if it were absent: {sample:?}");
    assert_eq!(sample.groups[0].values, ["DE", ""]);
    assert_eq!(sample.groups[0].arms.iter().map(|arm| arm.units).sum::<u64>(), 2);
    let shown = status(&world).await.sample.unwrap();
    assert_eq!((shown.units, shown.dictionary, shown.level), (2, 1, 0));
}
