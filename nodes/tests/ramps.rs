//! A stepped ramp over a real node: it climbs by itself, asks where it must, and is done when a person promotes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may fail loudly"
)]

mod world;

use std::time::Duration;

use featureops::rpc::decision_service_client::DecisionServiceClient;
use featureops_proto::v1::experiment::{Policy, State};
use featureops_proto::v1::{
    ApproveDecisionRequest, Arm, AutonomyLevel, CreateExperimentRequest, Decision, Experiment,
    ExperimentStatus, Exposure, FactBatch, GetExperimentStatusRequest, ListDecisionsRequest, RampStep,
    ReplayDecisionRequest, StartExperimentRequest, decision, metric,
};
use world::{World, checkout, set};

const EXPERIMENT: &str = "environments/test/experiments/button";

async fn started() -> World {
    let world = World::start().await;
    world.flags().set_flag(set(checkout())).await.unwrap();
    world.metrics().set_metric(world::metric("revenue", metric::Kind::Mean)).await.unwrap();
    let arm = |variant: &str, established| Arm { variant: variant.into(), established };
    let step = |basis_points, minimum_units, approval| RampStep {
        basis_points,
        hold_seconds: 1,
        minimum_units,
        approval,
    };
    let experiment = Experiment {
        name: EXPERIMENT.into(),
        flag: "checkout".into(),
        arms: vec![arm("off", true), arm("on", false)],
        primary_metric: "revenue".into(),
        policy: Policy::Ramp.into(),
        ramp_steps: vec![step(1_000, 0, false), step(2_500, 40, false), step(5_000, 0, true)],
        cool_down_seconds: Some(0),
        ..Experiment::default()
    };
    let create = CreateExperimentRequest { experiment: Some(experiment), ..Default::default() };
    world.experiments().create_experiment(create).await.unwrap();
    let start = StartExperimentRequest {
        name: EXPERIMENT.into(),
        autonomy: AutonomyLevel::A4Bounded.into(),
        ..Default::default()
    };
    world.experiments().start_experiment(start).await.unwrap();
    world
}

async fn status(world: &World) -> ExperimentStatus {
    let request = GetExperimentStatusRequest { name: EXPERIMENT.into() };
    world.experiments().get_experiment_status(request).await.unwrap().into_inner()
}

/// Exposes units of the treatment.
async fn expose(world: &World, sequence: u64, units: std::ops::Range<u64>) {
    let exposure = |unit| Exposure {
        experiment: "button".into(),
        unit: format!("user-{unit}"),
        variant: "on".into(),
        ..Exposure::default()
    };
    let batch = FactBatch {
        environment: "test".into(),
        producer: "story".into(),
        sequence,
        exposures: units.map(exposure).collect(),
        ..FactBatch::default()
    };
    let answer = world.facts().stream_facts(tokio_stream::iter([batch])).await.unwrap().into_inner();
    assert_eq!(answer.refused_batches, 0, "{answer:?}");
}

async fn reaches(world: &World, weight: u32) -> ExperimentStatus {
    for _ in 0..400 {
        let status = status(world).await;
        if status.arms[1].weight_basis_points == weight {
            return status;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("{weight} basis points are not reached in ten seconds: {:?}", status(world).await);
}

async fn proposed(world: &World) -> Decision {
    let request = ListDecisionsRequest {
        parent: "environments/test".into(),
        flag: "checkout".into(),
        status: decision::Status::Proposed.into(),
        ..Default::default()
    };
    for _ in 0..400 {
        let client = &mut DecisionServiceClient::new(world.channel.clone());
        let listed = client.list_decisions(request.clone()).await.unwrap().into_inner();
        if let Some(found) = listed.decisions.into_iter().next() {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("nothing is proposed in ten seconds");
}

async fn approve(world: &World, name: &str) {
    let request = ApproveDecisionRequest { name: name.to_owned(), note: "go".into(), ..Default::default() };
    DecisionServiceClient::new(world.channel.clone()).approve_decision(request).await.unwrap();
}

#[tokio::test]
async fn it_climbs_asks_and_is_promoted() {
    let world = started().await;
    let ramp = reaches(&world, 1_000).await.ramp.unwrap();
    assert_eq!((ramp.step, ramp.steps, ramp.next_basis_points, ramp.approval), (1, 3, 2_500, false));
    // Held for a second, and nobody has seen it yet.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let waiting = status(&world).await;
    assert_eq!(waiting.arms[1].weight_basis_points, 1_000);
    let waits = waiting.ramp.unwrap().waits_for;
    assert!(waits.iter().any(|wait| wait.contains("0 exposed units of 1")), "{waits:?}");

    expose(&world, 1, 0..10).await;
    let second = reaches(&world, 2_500).await;
    assert_eq!(second.ramp.unwrap().step, 2);
    let applied = second.last_decision;
    let client = &mut DecisionServiceClient::new(world.channel.clone());
    let replay = ReplayDecisionRequest { name: applied };
    let replayed = client.replay_decision(replay).await.unwrap().into_inner();
    assert!(replayed.same, "{}", replayed.unavailable);
    assert_eq!(replayed.recorded.unwrap().policy, "ramp/1");

    // A successor of the owner goes on.
    let world = world.restart().await;
    expose(&world, 2, 10..60).await;
    let asked = proposed(&world).await;
    assert_eq!(
        (asked.action(), asked.weights_after.as_slice()),
        (decision::Action::Reallocate, &[5_000, 5_000][..])
    );
    let ramp = status(&world).await.ramp.unwrap();
    assert_eq!((ramp.step, ramp.waits_for), (2, vec!["a person's approval".to_owned()]));
    approve(&world, &asked.name).await;
    reaches(&world, 5_000).await;

    // The hold ends with no further fact.
    let promotion = proposed(&world).await;
    assert_eq!((promotion.action(), promotion.variant.as_str()), (decision::Action::Promote, "on"));
    approve(&world, &promotion.name).await;
    assert_eq!(status(&world).await.experiment.unwrap().state(), State::Stopped);
    world.node.shutdown().await;
}
