//! Every request that changes something can be repeated under its id, and can be rehearsed: then it changes nothing.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may fail loudly"
)]

mod world;

use featureops::rpc::administration_service_client::AdministrationServiceClient;
use featureops::rpc::decision_service_client::DecisionServiceClient;
use featureops_proto::v1::{
    ApproveDecisionRequest, AutonomyLevel, AutonomyLevels, Budgets, GetBudgetsRequest, GetFlagRequest,
    GetOversightRequest, ListAuditRequest, ListDecisionsRequest, Oversight, RaiseAlarmRequest,
    RejectDecisionRequest, ResumeFlagRequest, RevertDecisionRequest, SetBudgetsRequest,
    SetFlagAutonomyRequest, SetOversightRequest, TripFlagRequest, decision,
};
use prost_types::{FileDescriptorSet, MethodDescriptorProto};
use tonic_types::StatusExt as _;
use world::{World, checkout};

/// What a method that changes nothing begins with. Facts name their batches, and a rehearsed fact would be none.
const READS: &[&str] = &[
    "Get", "List", "Tail", "Export", "Explain", "Evaluate", "Replay", "Verify", "Report", "Stream", "Test",
    "Watch",
];

#[test]
fn every_request_that_changes_something_has_an_id_and_can_be_rehearsed() {
    let set: FileDescriptorSet = prost::Message::decode(featureops_proto::DESCRIPTORS).unwrap();
    let files: Vec<_> = set.file.iter().filter(|file| file.package() == "featureops.v1").collect();
    let messages: std::collections::BTreeMap<_, _> =
        files.iter().flat_map(|file| &file.message_type).map(|message| (message.name(), message)).collect();
    // Who is a member is raft's, not the fold's: a change is made once, and its repeat is refused by what it finds.
    let services =
        files.iter().flat_map(|file| &file.service).filter(|service| service.name() != "ClusterService");
    let methods = services.flat_map(|service| &service.method);
    let reads = |method: &&MethodDescriptorProto| READS.iter().any(|verb| method.name().starts_with(verb));
    let mut seen = 0;
    for method in methods.filter(|method| !reads(method)) {
        let input = method.input_type().trim_start_matches(".featureops.v1.");
        let has = |name: &str| messages[input].field.iter().any(|field| field.name() == name);
        assert!(has("request_id"), "{input} has no request_id");
        assert!(has("validate_only"), "{input} has no validate_only");
        seen += 1;
    }
    assert!(seen >= 20, "only {seen} methods change something");
}

/// What a person would notice of the node.
async fn shown(world: &World) -> String {
    let flag = world.flags().get_flag(GetFlagRequest { name: checkout().name }).await.unwrap().into_inner();
    let mut administration = world.administration();
    let name = "environments/test/oversight".to_owned();
    let oversight = administration.get_oversight(GetOversightRequest { name }).await.unwrap().into_inner();
    let audit = administration.list_audit(ListAuditRequest::default()).await.unwrap().into_inner();
    let parent = "environments/test".to_owned();
    let list = ListDecisionsRequest { parent, ..ListDecisionsRequest::default() };
    let decisions =
        DecisionServiceClient::new(world.channel.clone()).list_decisions(list).await.unwrap().into_inner();
    // The clock goes on by itself, and the owner may look again.
    let audit: Vec<_> = audit.records.iter().filter(|record| record.action.starts_with("flag.")).collect();
    format!("{:?} {:?} {oversight:?} {} {}", flag.trip, flag.autonomy, audit.len(), decisions.decisions.len())
}

macro_rules! rehearse {
    ($world:ident, $client:ident, $method:ident, $request:expr) => {{
        let before = shown(&$world).await;
        let mut request = $request;
        request.validate_only = true;
        request.request_id = concat!("rehearsal-of-", stringify!($method)).to_owned();
        let would = $client.$method(request.clone()).await.unwrap().into_inner();
        assert_eq!(shown(&$world).await, before, concat!(stringify!($method), " changed something"));
        would
    }};
}

#[tokio::test]
async fn a_rehearsal_says_what_would_be_and_changes_nothing() {
    let world = World::start().await;
    world.run_experiment().await;
    let name = checkout().name;
    let reason = "a drill".to_owned();
    let mut administration: AdministrationServiceClient<_> = world.administration();

    let trip = TripFlagRequest { name: name.clone(), reason: reason.clone(), ..TripFlagRequest::default() };
    assert!(rehearse!(world, administration, trip_flag, trip.clone()).trip.is_some());
    let levels = AutonomyLevels {
        growth: AutonomyLevel::A4Bounded.into(),
        protection: AutonomyLevel::A2Recommend.into(),
    };
    let autonomy = SetFlagAutonomyRequest {
        name: name.clone(),
        autonomy: Some(levels),
        ..SetFlagAutonomyRequest::default()
    };
    assert_eq!(rehearse!(world, administration, set_flag_autonomy, autonomy.clone()).autonomy, Some(levels));
    let oversight = Oversight {
        name: "environments/test/oversight".into(),
        new_arm_budget_basis_points: Some(100),
        ..Oversight::default()
    };
    let set = SetOversightRequest { oversight: Some(oversight), ..SetOversightRequest::default() };
    assert_eq!(rehearse!(world, administration, set_oversight, set).new_arm_budget_basis_points, Some(100));
    let budgets = Budgets { experiment_units: 2_000_000, ..Budgets::default() };
    let set = SetBudgetsRequest { budgets: Some(budgets), ..SetBudgetsRequest::default() };
    assert_eq!(rehearse!(world, administration, set_budgets, set.clone()).set, Some(budgets));
    let read = administration.get_budgets(GetBudgetsRequest {}).await.unwrap().into_inner();
    assert_eq!((read.set, read.budgets.unwrap().experiment_units), (None, 16 << 20));
    administration.set_budgets(set).await.unwrap();
    let read = administration.get_budgets(GetBudgetsRequest {}).await.unwrap().into_inner();
    assert_eq!(read.budgets.unwrap(), Budgets { experiment_units: 2_000_000, ..read.budgets.unwrap() });
    // A rehearsal under an id that was used says whether the write would be taken for a repeat.
    let budgets = |experiment_units, request_id: &str, validate_only| SetBudgetsRequest {
        budgets: Some(Budgets { experiment_units, ..Budgets::default() }),
        request_id: request_id.to_owned(),
        validate_only,
        ..SetBudgetsRequest::default()
    };
    administration.set_budgets(budgets(3_000_000, "used", false)).await.unwrap();
    for validate_only in [true, false] {
        let refused =
            administration.set_budgets(budgets(4_000_000, "used", validate_only)).await.unwrap_err();
        let reason = refused.get_details_error_info().unwrap().reason;
        assert_eq!(reason, "CONTENT_MISMATCH", "validate_only {validate_only}: {refused:?}");
        administration.set_budgets(budgets(3_000_000, "used", validate_only)).await.unwrap();
    }
    administration.set_budgets(budgets(4_000_000, "free", true)).await.unwrap();
    administration.set_budgets(budgets(2_000_000, "back", false)).await.unwrap();
    let alarm = RaiseAlarmRequest {
        name: name.clone(),
        source: "monitor".into(),
        reason: reason.clone(),
        ..RaiseAlarmRequest::default()
    };
    assert!(rehearse!(world, administration, raise_alarm, alarm.clone()).tripped);

    // A decision that waits for a person: an alarm on a flag that may not be tripped by itself.
    administration.set_flag_autonomy(autonomy).await.unwrap();
    // Not by the person who approves it.
    let mut by_monitor = tonic::Request::new(alarm);
    by_monitor.metadata_mut().insert("featureops-principal", "agent:monitor".parse().unwrap());
    let waiting = administration.raise_alarm(by_monitor).await.unwrap().into_inner();
    assert!(!waiting.tripped);
    let mut decisions = DecisionServiceClient::new(world.channel.clone());
    let decision = waiting.decision;
    let approve = ApproveDecisionRequest { name: decision.clone(), ..ApproveDecisionRequest::default() };
    let approved = rehearse!(world, decisions, approve_decision, approve.clone());
    assert_eq!(approved.status(), decision::Status::Applied);
    let reject = RejectDecisionRequest { name: decision.clone(), ..RejectDecisionRequest::default() };
    let rejected = rehearse!(world, decisions, reject_decision, reject);
    assert_eq!(rejected.status(), decision::Status::Rejected);
    decisions.approve_decision(approve).await.unwrap();
    let revert = RevertDecisionRequest { name: decision, ..RevertDecisionRequest::default() };
    let reverted = rehearse!(world, decisions, revert_decision, revert);
    assert_eq!(reverted.status(), decision::Status::Reverted);
    let resume = ResumeFlagRequest { name, reason, ..ResumeFlagRequest::default() };
    assert!(rehearse!(world, administration, resume_flag, resume).trip.is_none());
}
