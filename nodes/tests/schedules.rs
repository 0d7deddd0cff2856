//! Schedules over a real node: what is scheduled happens by itself, also after a restart, and refusals name the way out.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may fail loudly"
)]

mod world;

use std::time::{Duration, SystemTime};

use featureops::rpc::schedule_service_client::ScheduleServiceClient;
use featureops_proto::v1::condition::Operator;
use featureops_proto::v1::rule::Serve;
use featureops_proto::v1::schedule::{Action, State};
use featureops_proto::v1::{
    CancelScheduleRequest, CreateScheduleRequest, Flag, GetScheduleRequest, ListSchedulesRequest,
    Prerequisite, Rule, Schedule, ScheduledChange,
};
use prost_types::{FieldMask, Timestamp};
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use world::{World, checkout, condition, evaluate, reached, set};

fn schedules(world: &World) -> ScheduleServiceClient<Channel> {
    ScheduleServiceClient::new(world.channel.clone())
}

#[allow(
    clippy::disallowed_methods,
    reason = "the node has the machine's clock, so what it is asked has it too"
)]
fn after(ms: u64) -> Option<Timestamp> {
    Some(Timestamp::from(SystemTime::now() + Duration::from_millis(ms)))
}

fn name(id: &str) -> String {
    format!("environments/test/schedules/{id}")
}

fn change(id: &str, at: Option<Timestamp>, flag: Flag, path: &str) -> CreateScheduleRequest {
    let update_mask = Some(FieldMask { paths: vec![path.to_owned()] });
    let schedule = Schedule {
        name: name(id),
        flag: "checkout".to_owned(),
        time: at,
        action: Some(Action::Change(ScheduledChange { flag: Some(flag), update_mask })),
        ..Schedule::default()
    };
    CreateScheduleRequest { schedule: Some(schedule), ..CreateScheduleRequest::default() }
}

fn default(variant: &str) -> Flag {
    Flag { default_variant: Some(variant.to_owned()), ..Flag::default() }
}

fn field(status: &Status) -> String {
    status.get_details_bad_request().unwrap().field_violations[0].field.clone()
}

async fn get(world: &World, id: &str) -> Schedule {
    schedules(world).get_schedule(GetScheduleRequest { name: name(id) }).await.unwrap().into_inner()
}

/// Waits until the schedule is over.
async fn over(world: &World, id: &str) -> Schedule {
    reached(&format!("{id} is not over"), async || {
        let schedule = get(world, id).await;
        (schedule.state() != State::Pending).then_some(schedule)
    })
    .await
}

async fn variant(world: &World) -> Option<String> {
    world.evaluation().evaluate(evaluate("checkout", "ada")).await.unwrap().into_inner().variant
}

#[tokio::test]
async fn a_change_happens_by_itself_once_its_time_has_come() {
    let world = World::start().await;
    world.flags().set_flag(set(checkout())).await.unwrap();
    let at = after(1_500);
    let created = schedules(&world).create_schedule(change("s", at, default("on"), "default_variant")).await;
    let created = created.unwrap().into_inner();
    assert_eq!((created.state(), created.author.as_ref().unwrap().id.as_str()), (State::Pending, "local"));
    // What is written meanwhile stays: only the named field is scheduled.
    let edited = Flag { description: "edited".to_owned(), ..checkout() };
    world.flags().set_flag(set(edited)).await.unwrap();
    assert_eq!(variant(&world).await.as_deref(), Some("off"));

    let done = over(&world, "s").await;
    assert_eq!((done.state(), done.flag_version), (State::Done, 3), "{}", done.reason);
    let finished = done.finish_time.unwrap();
    assert!(
        (finished.seconds, finished.nanos)
            >= at.map(|at| (at.seconds, at.nanos / 1_000_000 * 1_000_000)).unwrap()
    );
    // What is done is published a moment later.
    reached("still not served", async || (variant(&world).await.as_deref() == Some("on")).then_some(()))
        .await;
    let flag = world.flags().get_flag(featureops_proto::v1::GetFlagRequest { name: checkout().name }).await;
    assert_eq!(flag.unwrap().into_inner().description, "edited");

    // What cannot be then fails, and says why: its variant was taken away.
    let request = change("late", after(1_200), default("off"), "default_variant");
    schedules(&world).create_schedule(request).await.unwrap();
    let mut smaller =
        Flag { default_variant: Some("on".into()), safe_variant: Some("on".into()), ..checkout() };
    smaller.variants.remove("off");
    world.flags().set_flag(set(smaller)).await.unwrap();
    let failed = over(&world, "late").await;
    assert_eq!(failed.state(), State::Failed);
    assert!(failed.reason.contains("default_variant") && failed.reason.contains("off"), "{}", failed.reason);
    assert_eq!(variant(&world).await.as_deref(), Some("on"));
    world.node.shutdown().await;
}

#[tokio::test]
async fn a_node_that_was_away_does_what_is_overdue() {
    let world = World::start().await;
    world.flags().set_flag(set(checkout())).await.unwrap();
    let request = change("s", after(700), default("on"), "default_variant");
    schedules(&world).create_schedule(request).await.unwrap();
    let World { node, folder, .. } = world;
    node.shutdown().await;
    tokio::time::sleep(Duration::from_millis(900)).await;
    let world = World::start_in(folder).await;
    assert_eq!(over(&world, "s").await.state(), State::Done);
    world.node.shutdown().await;
}

#[tokio::test]
async fn refused_listed_and_cancelled() {
    let world = World::start().await;
    world.flags().set_flag(set(checkout())).await.unwrap();
    let hour = after(3_600_000);
    let refusals = [
        (change("s", hour, default("onn"), "default_variant"), "schedule.change.flag.default_variant"),
        (change("s", hour, default("on"), "defaultVariant"), "update_mask.paths[0]"),
        (
            change("s", Some(Timestamp { seconds: 1, nanos: 0 }), default("on"), "default_variant"),
            "schedule.time",
        ),
        (change("s", None, default("on"), "default_variant"), "schedule.time"),
    ];
    for (request, path) in refusals {
        let status = schedules(&world).create_schedule(request).await.unwrap_err();
        assert_eq!((status.code(), field(&status).as_str()), (Code::InvalidArgument, path), "{status:?}");
    }
    let rehearsed =
        CreateScheduleRequest { validate_only: true, ..change("s", hour, default("on"), "default_variant") };
    schedules(&world).create_schedule(rehearsed.clone()).await.unwrap();
    let none = schedules(&world).get_schedule(GetScheduleRequest { name: name("s") }).await.unwrap_err();
    assert_eq!(none.code(), Code::NotFound);

    let request = CreateScheduleRequest { validate_only: false, request_id: "r-1".to_owned(), ..rehearsed };
    let created = schedules(&world).create_schedule(request.clone()).await.unwrap().into_inner();
    assert_eq!(schedules(&world).create_schedule(request).await.unwrap().into_inner(), created, "once");
    // A second rests on the first, so what the first brings may be in it.
    let variants = Flag {
        variants: [("on", true), ("off", false), ("beta", true)]
            .map(|(n, v)| (n.to_owned(), v.into()))
            .into(),
        ..Flag::default()
    };
    schedules(&world).create_schedule(change("t", hour, variants, "variants")).await.unwrap();
    schedules(&world).create_schedule(change("u", hour, default("beta"), "default_variant")).await.unwrap();
    let mut request =
        ListSchedulesRequest { parent: "environments/test".into(), page_size: 2, ..Default::default() };
    let first = schedules(&world).list_schedules(request.clone()).await.unwrap().into_inner();
    request.page_token = first.next_page_token;
    let second = schedules(&world).list_schedules(request.clone()).await.unwrap().into_inner();
    assert_eq!((first.schedules.len(), second.schedules.len(), second.next_page_token.as_str()), (2, 1, ""));

    let wrong = CancelScheduleRequest { name: name("s"), etag: "s9".into(), ..Default::default() };
    assert_eq!(schedules(&world).cancel_schedule(wrong).await.unwrap_err().code(), Code::Aborted);
    let cancel = CancelScheduleRequest { name: name("s"), etag: created.etag, ..Default::default() };
    let cancelled = schedules(&world).cancel_schedule(cancel).await.unwrap().into_inner();
    assert_eq!(cancelled.state(), State::Cancelled);
    let count = async |flag: &str, show_finished| {
        let flag = flag.to_owned();
        let request = ListSchedulesRequest {
            flag,
            show_finished,
            page_token: String::new(),
            page_size: 9,
            ..request.clone()
        };
        schedules(&world).list_schedules(request).await.unwrap().into_inner().schedules.len()
    };
    assert_eq!((count("", false).await, count("", true).await, count("other", true).await), (2, 3, 0));
    world.node.shutdown().await;
}

#[tokio::test]
async fn a_change_that_names_what_is_not_there_is_refused_when_it_is_scheduled() {
    let world = World::start().await;
    world.flags().set_flag(set(checkout())).await.unwrap();
    let cart = Flag { name: "environments/test/flags/cart".to_owned(), ..checkout() };
    world.flags().set_flag(set(cart)).await.unwrap();
    let hour = after(3_600_000);
    let needs = |flag: &str, variant: &str| Flag {
        prerequisites: vec![Prerequisite { flag: flag.to_owned(), variants: vec![variant.to_owned()] }],
        ..Flag::default()
    };
    let asks = Flag {
        rules: vec![Rule {
            id: "r".to_owned(),
            conditions: vec![condition("", Operator::InSegment, "nobody")],
            serve: Some(Serve::Variant("on".to_owned())),
        }],
        ..Flag::default()
    };
    let refusals = [
        (change("s", hour, asks, "rules"), "rules[0].conditions[0].values[0]"),
        (change("s", hour, needs("nothing", "on"), "prerequisites"), "prerequisites[0].flag"),
        (change("s", hour, needs("cart", "beta"), "prerequisites"), "prerequisites[0].variants[0]"),
        (change("s", hour, needs("checkout", "on"), "prerequisites"), "prerequisites[0].flag"),
    ];
    let refused = async |request: CreateScheduleRequest, path: &str| {
        let status = schedules(&world).create_schedule(request).await.unwrap_err();
        let expected = format!("schedule.change.flag.{path}");
        assert_eq!((status.code(), field(&status)), (Code::InvalidArgument, expected), "{status:?}");
    };
    for (request, path) in refusals {
        // A rehearsal says the same.
        let rehearsal = CreateScheduleRequest { validate_only: true, ..request.clone() };
        refused(rehearsal, path).await;
        refused(request, path).await;
    }
    schedules(&world).create_schedule(change("s", hour, needs("cart", "on"), "prerequisites")).await.unwrap();
    // The flag's own schedules before it count, those of the same time by their names; others do not.
    let variants = [("on", true), ("off", false), ("beta", true)];
    let variants =
        Flag { variants: variants.map(|(n, v)| (n.to_owned(), v.into())).into(), ..Flag::default() };
    schedules(&world).create_schedule(change("m", hour, variants, "variants")).await.unwrap();
    refused(change("l", hour, default("beta"), "default_variant"), "default_variant").await;
    refused(change("n", hour, default("gamma"), "default_variant"), "default_variant").await;
    schedules(&world).create_schedule(change("n", hour, default("beta"), "default_variant")).await.unwrap();
    world.node.shutdown().await;
}
