//! An export that comes back as an import changes nothing: flags of every kind, an experiment's weights among them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may fail loudly"
)]

mod world;

use featureops::rpc::environment_service_client::EnvironmentServiceClient;
use featureops::rpc::layer_service_client::LayerServiceClient;
use featureops::rpc::segment_service_client::SegmentServiceClient;
use featureops_proto::v1::{
    Condition, Environment, ExportFlagsRequest, Flag, GetFlagRequest, ImportFlagsRequest,
    ImportFlagsResponse, Layer, Prerequisite, Ramp, Reason, Rule, Segment, SegmentClause,
    SetAllocationRequest, SetEnvironmentRequest, SetLayerRequest, SetSegmentRequest, Split, TripFlagRequest,
    WeightedVariant, condition::Operator, metric, rule::Serve,
};
use prost_types::Timestamp;
use serde_json::{Value as Json, json};
use world::{World, checkout, condition, evaluate, experiment, set};

fn flag(id: &str) -> Flag {
    Flag { name: format!("environments/test/flags/{id}"), ..checkout() }
}

fn rule(id: &str, conditions: Vec<Condition>, serve: Serve) -> Rule {
    Rule { id: id.to_owned(), conditions, serve: Some(serve) }
}

fn on() -> Serve {
    Serve::Variant("on".to_owned())
}

/// Flags of every kind, by id. Those with `held` in it will be in an experiment.
fn kinds() -> Vec<(&'static str, Flag)> {
    let germans = || condition("country", Operator::Equals, "DE");
    let weighted = |variant: &str, weight_basis_points| WeightedVariant {
        variant: variant.to_owned(),
        weight_basis_points,
    };
    let split = Split {
        variants: vec![weighted("on", 3_000), weighted("off", 7_000)],
        sticky: true,
        ..Split::default()
    };
    let ramp = Ramp {
        variant: "on".to_owned(),
        otherwise: "off".to_owned(),
        start_time: Some(Timestamp { seconds: 1_780_000_000, nanos: 0 }),
        end_time: Some(Timestamp { seconds: 1_790_000_000, nanos: 0 }),
        start_basis_points: 100,
        ..Ramp::default()
    };
    let prerequisite = Prerequisite { flag: "rules".to_owned(), variants: vec!["on".to_owned()] };
    let forced = [("qa-1".to_owned(), "on".to_owned())].into();
    vec![
        ("plain", flag("")),
        ("rules", Flag { rules: vec![rule("r", vec![germans()], on())], ..flag("") }),
        ("always", Flag { rules: vec![rule("r", vec![], on())], ..flag("") }),
        (
            "segment",
            Flag {
                rules: vec![rule("r", vec![condition("", Operator::InSegment, "beta")], on())],
                ..flag("")
            },
        ),
        ("sticky", Flag { rules: vec![rule("r", vec![], Serve::Split(split))], ..flag("") }),
        ("ramp", Flag { rules: vec![rule("r", vec![], Serve::Ramp(ramp))], ..flag("") }),
        ("forced", Flag { forced, ..flag("") }),
        ("resting", Flag { prerequisites: vec![prerequisite.clone()], ..flag("") }),
        ("targeting", Flag { targeting: r#"{"if":[{"$ref":"germans"},"on"]}"#.to_owned(), ..flag("") }),
        ("off", Flag { disabled: true, ..flag("") }),
        ("tripped", Flag { rules: vec![rule("r", vec![germans()], on())], ..flag("") }),
        ("held", flag("")),
        ("held-rules", Flag { rules: vec![rule("r", vec![germans()], on())], ..flag("") }),
        ("held-layer", flag("")),
        ("held-targeting", Flag { targeting: r#"{"if":[{"$ref":"germans"},"on"]}"#.to_owned(), ..flag("") }),
        (
            "held-resting",
            Flag {
                prerequisites: vec![prerequisite],
                forced: [("qa-2".to_owned(), "off".to_owned())].into(),
                ..flag("")
            },
        ),
    ]
}

async fn export(world: &World) -> String {
    let request = ExportFlagsRequest { parent: "environments/test".to_owned() };
    let mut client = EnvironmentServiceClient::new(world.channel.clone());
    client.export_flags(request).await.unwrap().into_inner().document
}

async fn import(world: &World, document: &str, prune: bool) -> ImportFlagsResponse {
    let request = ImportFlagsRequest {
        parent: "environments/test".to_owned(),
        document: document.to_owned(),
        prune,
        ..ImportFlagsRequest::default()
    };
    EnvironmentServiceClient::new(world.channel.clone()).import_flags(request).await.unwrap().into_inner()
}

async fn get(world: &World, id: &str) -> Flag {
    let name = format!("environments/test/flags/{id}");
    world.flags().get_flag(GetFlagRequest { name }).await.unwrap().into_inner()
}

async fn furnished() -> World {
    let world = World::start().await;
    world.metrics().set_metric(world::metric("revenue", metric::Kind::Mean)).await.unwrap();
    let clauses = vec![SegmentClause { conditions: vec![condition("plan", Operator::Equals, "pro")] }];
    let name = "environments/test/segments/beta".to_owned();
    let segment = Some(Segment { name, clauses, ..Segment::default() });
    let request = SetSegmentRequest { segment, ..SetSegmentRequest::default() };
    SegmentServiceClient::new(world.channel.clone()).set_segment(request).await.unwrap();
    let layer = Some(Layer { name: "environments/test/layers/page".to_owned(), ..Layer::default() });
    let request = SetLayerRequest { layer, ..SetLayerRequest::default() };
    LayerServiceClient::new(world.channel.clone()).set_layer(request).await.unwrap();
    let germans = r#"{"==":[{"var":"country"},"DE"]}"#.to_owned();
    let environment = Some(Environment {
        name: "environments/test".to_owned(),
        evaluators: [("germans".to_owned(), germans)].into(),
        ..Environment::default()
    });
    let request = SetEnvironmentRequest { environment, ..SetEnvironmentRequest::default() };
    EnvironmentServiceClient::new(world.channel.clone()).set_environment(request).await.unwrap();
    for (id, kind) in kinds() {
        world.flags().set_flag(set(Flag { name: flag(id).name, ..kind })).await.unwrap();
        if id.starts_with("held") {
            run(&world, id).await;
        }
    }
    let trip = TripFlagRequest { name: flag("tripped").name, ..TripFlagRequest::default() };
    world.administration().trip_flag(trip).await.unwrap();
    world
}

async fn run(world: &World, id: &str) {
    let mut experiment = experiment(id, id);
    if id == "held-layer" {
        (experiment.layer, experiment.layer_share_basis_points) = ("page".to_owned(), 5_000);
    }
    world.create(experiment).await;
    world.start_experiment(id).await;
}

async fn weigh(world: &World, id: &str, weights: [u32; 2]) {
    let request = SetAllocationRequest {
        name: format!("environments/test/experiments/{id}"),
        weights_basis_points: weights.to_vec(),
        ..SetAllocationRequest::default()
    };
    world.experiments().set_allocation(request).await.unwrap();
}

#[tokio::test]
async fn an_export_that_is_imported_again_changes_no_flag() {
    let world = furnished().await;
    let document = export(&world).await;
    let mut before = Vec::new();
    for (id, _) in kinds() {
        before.push(get(&world, id).await);
    }
    for prune in [false, true] {
        let done = import(&world, &document, prune).await;
        assert_eq!((done.changed.as_slice(), done.archived.as_slice()), (&[][..], &[][..]));
        assert_eq!((done.unchanged as usize, done.warnings), (before.len(), vec![]));
    }
    // Its weights move while the document lies on a disk.
    for (id, _) in kinds().iter().filter(|(id, _)| id.starts_with("held")) {
        weigh(&world, id, [3_000, 7_000]).await;
    }
    let done = import(&world, &document, true).await;
    assert_eq!((done.changed.as_slice(), done.unchanged as usize), (&[][..], before.len()));
    let paths: Vec<&str> = done.warnings.iter().map(|warning| warning.path.as_str()).collect();
    let held = ["held", "held-layer", "held-resting", "held-rules", "held-targeting"];
    assert_eq!(paths, held.map(|id| format!("flags.{id}")));
    assert!(done.warnings[0].message.contains("the flag stays as it is"), "{:?}", done.warnings[0]);
    for before in before {
        let after = world.flags().get_flag(GetFlagRequest { name: before.name.clone() }).await.unwrap();
        assert_eq!((after.into_inner().etag, &before.etag), (before.etag.clone(), &before.etag));
    }
    let answer = world.evaluation().evaluate(evaluate("held", "user-1")).await.unwrap().into_inner();
    assert_eq!(answer.reason(), Reason::Split);
    assert!(!answer.receipt.is_empty(), "units still enter the experiment");
}

#[tokio::test]
async fn an_import_in_front_of_an_allocation_says_so() {
    let world = furnished().await;
    let mut document: Json = serde_json::from_str(&export(&world).await).unwrap();
    document["flags"]["held"]["targeting"] = json!({ "fractional": [["off", 50], ["on", 50]] });
    document["flags"]["held-rules"]["targeting"] = json!({ "if": [{ "var": "vip" }, "on"] });
    document["flags"]["plain"]["targeting"] = json!({ "if": [true, "on"] });
    let done = import(&world, &document.to_string(), false).await;
    assert_eq!(done.changed, ["held", "held-rules", "plain"]);
    let [warning] = done.warnings.as_slice() else { panic!("{:?}", done.warnings) };
    assert_eq!(warning.path, "flags.held.targeting");
    assert!(warning.message.contains("no unit enters the running experiment"), "{}", warning.message);
    let answer = world.evaluation().evaluate(evaluate("held-rules", "user-1")).await.unwrap().into_inner();
    assert!(!answer.receipt.is_empty(), "null leaves the unit to the experiment");
}
