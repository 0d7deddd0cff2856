//! Flags promoted from one environment into another, over a real node.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may fail loudly"
)]

mod world;

use featureops::rpc::environment_service_client::EnvironmentServiceClient;
use featureops_proto::v1::{
    ArchiveFlagRequest, Environment, Flag, GetFlagRequest, ListAuditRequest, Prerequisite,
    PromoteFlagsRequest, PromoteFlagsResponse, SetEnvironmentRequest, TripFlagRequest,
};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use world::{World, checkout, evaluate, set};

fn of(environment: &str, id: &str) -> Flag {
    Flag { name: format!("environments/{environment}/flags/{id}"), ..checkout() }
}

fn request(flags: &[&str]) -> PromoteFlagsRequest {
    PromoteFlagsRequest {
        from: "environments/dev".into(),
        to: "environments/test".into(),
        flags: flags.iter().map(|id| (*id).to_owned()).collect(),
        ..PromoteFlagsRequest::default()
    }
}

async fn promote(world: &World, request: PromoteFlagsRequest) -> Result<PromoteFlagsResponse, Status> {
    let mut client = EnvironmentServiceClient::new(world.channel.clone());
    client.promote_flags(request).await.map(tonic::Response::into_inner)
}

async fn flag(world: &World, environment: &str, id: &str) -> Flag {
    let name = of(environment, id).name;
    world.flags().get_flag(GetFlagRequest { name }).await.unwrap().into_inner()
}

fn told(done: &PromoteFlagsResponse) -> Vec<(String, bool, String)> {
    let told = done.differences.iter();
    told.map(|difference| (difference.flag.clone(), difference.created, difference.fields.join(" ")))
        .collect()
}

#[tokio::test]
async fn flags_come_as_they_are_elsewhere_with_the_differences_named() {
    let world = World::start().await;
    let resting = Flag {
        prerequisites: vec![Prerequisite { flag: "cart".into(), variants: vec!["on".into()] }],
        default_variant: Some("on".into()),
        forced: [("qa-dev".to_owned(), "on".to_owned())].into(),
        ..of("dev", "checkout")
    };
    for flag in [of("dev", "cart"), of("dev", "same"), resting, of("test", "same"), of("test", "old")] {
        world.flags().set_flag(set(flag)).await.unwrap();
    }
    let there = Flag { forced: [("qa-test".to_owned(), "off".to_owned())].into(), ..of("test", "checkout") };
    world.flags().set_flag(set(there)).await.unwrap();
    let trip =
        TripFlagRequest { name: of("test", "checkout").name, reason: "no".into(), ..Default::default() };
    world.administration().trip_flag(trip).await.unwrap();

    // One that rests on another does not come without it.
    let refused = promote(&world, request(&["checkout"])).await.unwrap_err();
    let violations = refused.get_details_bad_request().unwrap().field_violations;
    assert_eq!(violations[0].field, "flags.checkout.prerequisites");
    assert!(refused.message().contains("promote it too"), "{refused}");

    let all = PromoteFlagsRequest { prune: true, request_id: "p-1".into(), ..request(&[]) };
    let would = promote(&world, PromoteFlagsRequest { validate_only: true, ..all.clone() }).await.unwrap();
    assert!(world.flags().get_flag(GetFlagRequest { name: of("test", "cart").name }).await.is_err());
    let done = promote(&world, all.clone()).await.unwrap();
    assert_eq!(done, would);
    assert_eq!(done.changed, ["cart", "checkout"]);
    assert_eq!((done.archived.as_slice(), done.unchanged), (["old".to_owned()].as_slice(), 1));
    let differences = [
        ("cart".to_owned(), true, "type variants default_variant safe_variant".to_owned()),
        ("checkout".to_owned(), false, "default_variant prerequisites".to_owned()),
    ];
    assert_eq!(told(&done), differences);
    let held = flag(&world, "test", "checkout").await;
    assert_eq!(held.forced.keys().collect::<Vec<_>>(), ["qa-test"]);
    assert_eq!((held.default_variant.as_deref(), held.trip.is_some()), (Some("on"), true));
    let answer = world.evaluation().evaluate(evaluate("cart", "ada")).await.unwrap().into_inner();
    assert_eq!(answer.variant.as_deref(), Some("off"));

    // The same once more is the same answer; under another id it is no change at all.
    let again = promote(&world, all.clone()).await.unwrap();
    assert_eq!((again.changed, again.archived), (done.changed, done.archived));
    let nothing = promote(&world, PromoteFlagsRequest { request_id: "p-2".into(), ..all }).await.unwrap();
    assert_eq!((nothing.changed.len(), nothing.unchanged, nothing.differences.len()), (0, 3, 0));
    let audit = world.administration().list_audit(ListAuditRequest::default()).await.unwrap().into_inner();
    assert!(audit.records.iter().any(|record| {
        record.action == "flag.promote" && record.detail.starts_with("from environments/dev: 2 changed")
    }));
}

#[tokio::test]
async fn what_could_not_work_there_is_refused_and_nothing_comes() {
    let world = World::start().await;
    let shared = Environment {
        name: "environments/dev".into(),
        evaluators: [("staff".to_owned(), r#"{"==":[1,1]}"#.to_owned())].into(),
        ..Environment::default()
    };
    let mut environments = EnvironmentServiceClient::new(world.channel.clone());
    let write = SetEnvironmentRequest { environment: Some(shared), ..SetEnvironmentRequest::default() };
    environments.set_environment(write).await.unwrap();
    let resting = Flag { targeting: r#"{"if":[{"$ref":"staff"},"on"]}"#.into(), ..of("dev", "resting") };
    world.flags().set_flag(set(resting)).await.unwrap();
    world.flags().set_flag(set(of("dev", "plain"))).await.unwrap();
    let refused = promote(&world, request(&[])).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("does not compile in environments/test"), "{refused}");
    assert!(world.flags().get_flag(GetFlagRequest { name: of("test", "plain").name }).await.is_err());
    promote(&world, request(&["plain"])).await.unwrap();

    world.run_experiment().await;
    world
        .flags()
        .set_flag(set(Flag { default_variant: Some("on".into()), ..of("dev", "checkout") }))
        .await
        .unwrap();
    let refused = promote(&world, request(&["checkout"])).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    assert!(refused.message().contains("experiment") && refused.message().contains("stop"), "{refused}");
    world.flags().set_flag(set(of("dev", "checkout"))).await.unwrap();
    let same = promote(&world, request(&["checkout"])).await.unwrap();
    assert_eq!((same.changed.len(), same.unchanged), (0, 1));

    let archive = ArchiveFlagRequest { name: of("dev", "plain").name, ..ArchiveFlagRequest::default() };
    world.flags().archive_flag(archive).await.unwrap();
    for (bad, code) in [
        (request(&["plain"]), Code::NotFound),
        (request(&["never"]), Code::NotFound),
        (PromoteFlagsRequest { to: "environments/dev".into(), ..request(&[]) }, Code::InvalidArgument),
        (PromoteFlagsRequest { from: "dev".into(), ..request(&[]) }, Code::InvalidArgument),
        (
            PromoteFlagsRequest { from: "environments/empty".into(), prune: true, ..request(&[]) },
            Code::NotFound,
        ),
        (PromoteFlagsRequest { prune: true, ..request(&["checkout"]) }, Code::InvalidArgument),
    ] {
        assert_eq!(promote(&world, bad.clone()).await.unwrap_err().code(), code, "{bad:?}");
    }
}
