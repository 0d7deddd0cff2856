//! Segments, from a client's call to evaluations, streams and exports: through one node, over the wire.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may fail loudly"
)]

mod world;

use featureops::flagd::sync::v1::FetchAllFlagsRequest;
use featureops::flagd::sync::v1::flag_sync_service_client::FlagSyncServiceClient;
use featureops::rpc::environment_service_client::EnvironmentServiceClient;
use featureops::rpc::segment_service_client::SegmentServiceClient;
use featureops_proto::v1::{
    Condition, DeleteSegmentRequest, ExplainRequest, ExportFlagsRequest, Flag, GetSegmentRequest,
    ListSegmentsRequest, Reason, Rule, Segment, SegmentClause, SetSegmentRequest, TestSegmentRequest,
    UpdateSegmentUnitsRequest, condition::Operator, rule::Serve,
};
use tonic::Code;
use tonic::transport::Channel;
use tonic_types::StatusExt as _;
use world::{World, checkout, condition, context, evaluate, set};

fn name(id: &str) -> String {
    format!("environments/test/segments/{id}")
}

fn define(id: &str, conditions: Vec<Condition>) -> SetSegmentRequest {
    let clauses = if conditions.is_empty() { vec![] } else { vec![SegmentClause { conditions }] };
    let segment = Some(Segment { name: name(id), clauses, ..Segment::default() });
    SetSegmentRequest { segment, ..SetSegmentRequest::default() }
}

fn units(id: &str, add: &[&str], remove: &[&str]) -> UpdateSegmentUnitsRequest {
    let texts = |units: &[&str]| units.iter().map(|unit| (*unit).to_owned()).collect();
    UpdateSegmentUnitsRequest { name: name(id), add: texts(add), remove: texts(remove), ..Default::default() }
}

/// The flag of the world, "on" for a segment.
fn asking(segment: &str) -> Flag {
    let rule = Rule {
        id: "r".into(),
        conditions: vec![condition("", Operator::InSegment, segment)],
        serve: Some(Serve::Variant("on".into())),
    };
    Flag { rules: vec![rule], ..checkout() }
}

fn segments(world: &World) -> SegmentServiceClient<Channel> {
    SegmentServiceClient::new(world.channel.clone())
}

async fn served(world: &World, unit: &str) -> (String, Reason) {
    let answer = world.evaluation().evaluate(evaluate("checkout", unit)).await.unwrap().into_inner();
    (answer.variant.clone().unwrap_or_default(), answer.reason())
}

#[tokio::test]
async fn a_segment_is_served_from_its_write_on_and_after_a_restart() {
    let world = World::start().await;
    let mut client = segments(&world);
    // What is not there cannot be asked about.
    let refused = world.flags().set_flag(set(asking("beta"))).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("flag.rules[0].conditions[0].values[0]"), "{}", refused.message());

    client.set_segment(define("staff", vec![condition("country", Operator::Equals, "DE")])).await.unwrap();
    let beta = define("beta", vec![condition("", Operator::InSegment, "staff")]);
    let rehearsed =
        client.set_segment(SetSegmentRequest { validate_only: true, ..beta.clone() }).await.unwrap();
    assert_eq!(rehearsed.into_inner().segment_version, 1);
    assert_eq!(
        client.get_segment(GetSegmentRequest { name: name("beta") }).await.unwrap_err().code(),
        Code::NotFound
    );
    let written = client.set_segment(beta.clone()).await.unwrap().into_inner();
    assert_eq!((written.segment_version, written.unit_count), (1, 0));
    world.flags().set_flag(set(asking("beta"))).await.unwrap();
    assert_eq!(served(&world, "ada").await, ("off".into(), Reason::Default));

    let told =
        client.update_segment_units(units("beta", &["ada", "bob", "ada"], &[])).await.unwrap().into_inner();
    assert_eq!((told.added, told.removed, told.unit_count), (2, 0, 2));
    assert_eq!(served(&world, "ada").await, ("on".into(), Reason::TargetingMatch));
    assert_eq!(served(&world, "eve").await.0, "off");
    // One request id, one change, whatever came in between.
    let named = UpdateSegmentUnitsRequest { request_id: "r-1".into(), ..units("beta", &["eve"], &["bob"]) };
    for _ in 0..2 {
        let told = client.update_segment_units(named.clone()).await.unwrap().into_inner();
        assert_eq!((told.added, told.removed, told.unit_count), (1, 1, 2));
        client.update_segment_units(units("beta", &[], &["mallory"])).await.unwrap();
    }
    assert_eq!((served(&world, "bob").await.0, served(&world, "eve").await.0), ("off".into(), "on".into()));
    let only_said = UpdateSegmentUnitsRequest { validate_only: true, ..units("beta", &["bob"], &[]) };
    assert_eq!(client.update_segment_units(only_said).await.unwrap().into_inner().unit_count, 3);

    let read = client.get_segment(GetSegmentRequest { name: name("beta") }).await.unwrap().into_inner();
    assert_eq!(
        (read.unit_count, read.used_by_flags, read.etag),
        (2, vec!["checkout".to_owned()], written.etag)
    );
    let stale = SetSegmentRequest { etag: "s0".into(), ..beta };
    assert_eq!(client.set_segment(stale).await.unwrap_err().code(), Code::Aborted);
    let page =
        ListSegmentsRequest { parent: "environments/test".into(), page_size: 1, page_token: String::new() };
    let first = client.list_segments(page.clone()).await.unwrap().into_inner();
    assert_eq!(first.segments[0].name, name("beta"));
    let second = ListSegmentsRequest { page_token: first.next_page_token, ..page };
    assert_eq!(
        client.list_segments(second).await.unwrap().into_inner().segments[0].used_by_segments,
        ["beta"]
    );

    let delete = |id: &str| DeleteSegmentRequest { name: name(id), ..DeleteSegmentRequest::default() };
    let kept = client.delete_segment(delete("beta")).await.unwrap_err();
    assert_eq!(kept.code(), Code::FailedPrecondition);
    assert!(kept.message().contains("flag checkout asks about it"), "{}", kept.message());

    let world = world.restart().await;
    assert_eq!((served(&world, "bob").await.0, served(&world, "eve").await.0), ("off".into(), "on".into()));
    let mut client = segments(&world);
    world.flags().set_flag(set(checkout())).await.unwrap();
    client.delete_segment(delete("beta")).await.unwrap();
    let gone = TestSegmentRequest { name: name("beta"), context: None };
    assert_eq!(client.test_segment(gone).await.unwrap_err().code(), Code::NotFound);
    world.node.shutdown().await;
}

#[tokio::test]
async fn why_a_unit_is_in_it_and_what_clients_on_their_own_see() {
    let world = World::start().await;
    let mut client = segments(&world);
    client.set_segment(define("staff", vec![condition("country", Operator::Equals, "DE")])).await.unwrap();
    client.update_segment_units(units("staff", &["ada"], &[])).await.unwrap();
    world.flags().set_flag(set(asking("staff"))).await.unwrap();

    let mut ask = async |fields: &[(&str, &str)]| {
        let request = TestSegmentRequest { name: name("staff"), context: Some(context(fields)) };
        let answer = client.test_segment(request).await.unwrap().into_inner();
        (answer.contained, answer.steps.last().unwrap().finding.clone())
    };
    assert_eq!(ask(&[("targetingKey", "ada")]).await, (true, "in it: the unit is on its list".into()));
    assert_eq!(ask(&[("country", "DE")]).await, (true, "in it: clause 0 holds".into()));
    assert!(ask(&[("targetingKey", "bob")]).await.1.contains("its list of 1 is without the unit"));
    let explain = ExplainRequest {
        environment: "test".into(),
        flag: "checkout".into(),
        context: Some(context(&[("targetingKey", "ada")])),
    };
    let steps = world.evaluation().explain(explain).await.unwrap().into_inner().steps;
    assert!(steps.iter().any(|step| step.subject == "segment staff" && step.matched), "{steps:?}");

    let document = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
    let expected = serde_json::json!({"if": [{"===": [{"var": "country"}, "DE"]}, "on"]});
    let export = ExportFlagsRequest { parent: "environments/test".into() };
    let mut environments = EnvironmentServiceClient::new(world.channel.clone());
    let exported = environments.export_flags(export).await.unwrap().into_inner();
    assert_eq!(document(&exported.document)["flags"]["checkout"]["targeting"], expected);
    assert_eq!(exported.warnings[0].path, "flags.checkout");
    assert!(exported.warnings[0].message.contains("list of segment staff"), "{:?}", exported.warnings);
    let mut sync = FlagSyncServiceClient::new(world.channel.clone());
    let request =
        || FetchAllFlagsRequest { selector: "source=test".into(), ..FetchAllFlagsRequest::default() };
    let fetched = sync.fetch_all_flags(request()).await.unwrap().into_inner().flag_configuration;
    assert_eq!(document(&fetched)["flags"]["checkout"]["targeting"], expected);
    // Only the segment changes, and the document with it.
    client.set_segment(define("staff", vec![condition("country", Operator::Equals, "FR")])).await.unwrap();
    let fetched = sync.fetch_all_flags(request()).await.unwrap().into_inner().flag_configuration;
    let condition = &document(&fetched)["flags"]["checkout"]["targeting"]["if"][0];
    assert_eq!(condition, &serde_json::json!({"===": [{"var": "country"}, "FR"]}));
    world.node.shutdown().await;
}

#[tokio::test]
async fn what_cannot_be_is_refused_with_field_and_way_out() {
    let world = World::start().await;
    let mut client = segments(&world);
    client.set_segment(define("a", vec![])).await.unwrap();
    let field = |status: &tonic::Status| {
        let details = status.get_error_details();
        details.error_info().and_then(|info| info.metadata.get("field").cloned()).unwrap_or_default()
    };
    let many: Vec<String> = (0..10_001).map(|n| format!("u{n}")).collect();
    let long = "x".repeat(1_025);
    let cases = [
        (units("a", &[], &[]), "add"),
        (units("a", &["u", ""], &[]), "add[1]"),
        (units("a", &[], &[&long]), "remove[0]"),
        (units("a", &["u"], &["v", "u"]), "remove[1]"),
        (UpdateSegmentUnitsRequest { add: many, ..units("a", &[], &[]) }, "add"),
    ];
    for (request, expected) in cases {
        let status = client.update_segment_units(request).await.unwrap_err();
        assert_eq!((status.code(), field(&status).as_str()), (Code::InvalidArgument, expected), "{status:?}");
        assert!(!status.message().contains("xxx"), "a unit is shown back");
    }
    let circle =
        client.set_segment(define("a", vec![condition("", Operator::InSegment, "a")])).await.unwrap_err();
    assert!(circle.message().contains("a -> a"), "{}", circle.message());
    let broken =
        client.set_segment(define("a", vec![condition("age", Operator::Less, "x")])).await.unwrap_err();
    assert_eq!(field(&broken), "segment.clauses[0].conditions[0].values[0]");
    world.node.shutdown().await;
}
