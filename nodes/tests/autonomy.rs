//! The loop, end to end over the wire: facts come in, the owner decides, the log applies, evaluations follow, a person reverts.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test"
)]

mod world;

use std::time::Duration;

use featureops::rpc::decision_service_client::DecisionServiceClient;
use featureops_proto::v1::{
    AutonomyLevel, Decision, Experiment, Exposure, FactBatch, GetExperimentRequest, ListDecisionsRequest,
    Outcome, ReplayDecisionRequest, RevertDecisionRequest, StartExperimentRequest, decision,
};
use world::{World, metric, outcome};

const EXPERIMENT: &str = "environments/test/experiments/button";

async fn decisions(world: &World, status: decision::Status) -> Vec<Decision> {
    let request = ListDecisionsRequest {
        parent: "environments/test".into(),
        flag: "checkout".into(),
        status: status.into(),
        ..ListDecisionsRequest::default()
    };
    let client = &mut DecisionServiceClient::new(world.channel.clone());
    client.list_decisions(request).await.unwrap().into_inner().decisions
}

async fn first(world: &World, status: decision::Status) -> Decision {
    for _ in 0..400 {
        if let Some(found) = decisions(world, status).await.pop() {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("no {} decision in ten seconds", status.as_str_name());
}

async fn experiment(world: &World) -> Experiment {
    let request = GetExperimentRequest { name: EXPERIMENT.into() };
    world.experiments().get_experiment(request).await.unwrap().into_inner()
}

/// 2,000 units an arm, 10 % against 12.5 %: enough to move traffic, too little to call a winner.
async fn report(world: &World) {
    let mut sequence = 0;
    for (variant, every) in [("off", 10), ("on", 8)] {
        for part in 0..2 {
            let units: Vec<String> = (0..1_000).map(|unit| format!("{variant}-{part}-{unit}")).collect();
            let exposures = units.iter().map(|unit| Exposure {
                experiment: "button".into(),
                unit: unit.clone(),
                variant: variant.into(),
                ..Exposure::default()
            });
            let converted = units.iter().step_by(every);
            let outcomes =
                converted.map(|unit| Outcome { metric: "bought".into(), ..outcome(unit, 1.0) }).collect();
            sequence += 1;
            let batch = FactBatch {
                environment: "test".into(),
                producer: "story".into(),
                sequence,
                exposures: exposures.collect(),
                outcomes,
            };
            let answer = world.facts().stream_facts(tokio_stream::iter([batch])).await.unwrap().into_inner();
            assert_eq!(answer.refused_batches, 0, "{answer:?}");
        }
    }
}

async fn started(autonomy: AutonomyLevel) -> World {
    let world = World::start().await;
    world.flags().set_flag(world::set(world::checkout())).await.unwrap();
    let proportion = metric("bought", featureops_proto::v1::metric::Kind::Proportion);
    world.metrics().set_metric(proportion).await.unwrap();
    world.create_experiment("bought").await;
    let start =
        StartExperimentRequest { name: EXPERIMENT.into(), autonomy: autonomy.into(), ..Default::default() };
    world.experiments().start_experiment(start).await.unwrap();
    world
}

#[tokio::test]
async fn at_a4_the_owner_moves_traffic_and_a_person_takes_it_back() {
    let world = started(AutonomyLevel::A4Bounded).await;
    let before = experiment(&world).await.allocation.unwrap().weights_basis_points;
    report(&world).await;
    let applied = first(&world, decision::Status::Applied).await;
    assert_eq!(applied.action(), decision::Action::Reallocate);
    assert_eq!(applied.weights_before, before);
    assert!(applied.weights_after[1] > before[1], "{applied:?}");
    assert!(!applied.narrative.is_empty() && applied.inverse.is_some());
    let now = experiment(&world).await.allocation.unwrap();
    assert!(now.allocation_version > 1 && now.weights_basis_points[1] > before[1]);

    let mut client = DecisionServiceClient::new(world.channel.clone());
    let replay = ReplayDecisionRequest { name: applied.name.clone() };
    let replayed = client.replay_decision(replay).await.unwrap().into_inner();
    assert!(replayed.same, "{}", replayed.unavailable);

    // The newest one is reverted: its inverse restores what stood before it.
    let newest = decisions(&world, decision::Status::Applied).await.remove(0);
    let revert =
        RevertDecisionRequest { name: newest.name.clone(), note: "too fast".into(), ..Default::default() };
    let reverted = client.revert_decision(revert).await.unwrap().into_inner();
    assert_eq!(reverted.status(), decision::Status::Reverted);
    assert_eq!(experiment(&world).await.allocation.unwrap().weights_basis_points, newest.weights_before);
}

#[tokio::test]
async fn at_a2_the_owner_proposes_and_after_a_restart_its_successor_goes_on() {
    let world = started(AutonomyLevel::A2Recommend).await;
    let world = world.restart().await;
    let before = experiment(&world).await.allocation.unwrap();
    report(&world).await;
    let proposed = first(&world, decision::Status::Proposed).await;
    assert_eq!(experiment(&world).await.allocation.unwrap(), before);

    let approve = featureops_proto::v1::ApproveDecisionRequest {
        name: proposed.name.clone(),
        note: "go".into(),
        ..Default::default()
    };
    let mut client = DecisionServiceClient::new(world.channel.clone());
    let mut by_agent = tonic::Request::new(approve.clone());
    by_agent.metadata_mut().insert("featureops-principal", "agent:tuner".parse().unwrap());
    let refused = client.approve_decision(by_agent).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::PermissionDenied);
    let approved = client.approve_decision(approve).await.unwrap().into_inner();
    assert_eq!(approved.status(), decision::Status::Applied);
    assert!(experiment(&world).await.allocation.unwrap().allocation_version > before.allocation_version);
}
