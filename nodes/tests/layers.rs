//! Layers, holdouts and sticky splits over a real node: who is in which experiment, and who hears of a change.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may fail loudly"
)]

mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use featureops::flagd::sync::v1::SyncFlagsRequest;
use featureops::flagd::sync::v1::flag_sync_service_client::FlagSyncServiceClient;
use featureops::rpc::environment_service_client::EnvironmentServiceClient;
use featureops::rpc::layer_service_client::LayerServiceClient;
use featureops_evaluation::{Context, Snapshot, compile, evaluate as evaluate_here, flagd};
use featureops_proto::v1::{
    DeleteLayerRequest, Environment, EvaluateResponse, Experiment, ExplainRequest, ExportFlagsRequest, Flag,
    GetFlagRequest, GetHoldoutRequest, GetLayerRequest, Holdout, Layer, ListHoldoutsRequest,
    ListLayersRequest, Reason, Rule, SetHoldoutRequest, SetLayerRequest, SetLayerShareRequest, Split,
    StopExperimentRequest, WeightedVariant, metric, rule,
};
use tokio::time::timeout;
use tonic::transport::Channel;
use tonic::{Code, Request};
use tonic_types::StatusExt as _;
use world::{World, checkout, context, evaluate, experiment, set};

const UNITS: usize = 1_000;

fn layers(world: &World) -> LayerServiceClient<Channel> {
    LayerServiceClient::new(world.channel.clone())
}

fn layer(id: &str) -> SetLayerRequest {
    let layer = Layer { name: format!("environments/test/layers/{id}"), ..Layer::default() };
    SetLayerRequest { layer: Some(layer), ..SetLayerRequest::default() }
}

fn holdout(id: &str, basis_points: u32, everywhere: bool) -> SetHoldoutRequest {
    let name = format!("environments/test/holdouts/{id}");
    let holdout = Holdout { name, basis_points, everywhere, ..Holdout::default() };
    SetHoldoutRequest { holdout: Some(holdout), ..SetHoldoutRequest::default() }
}

fn share(id: &str, basis_points: u32) -> SetLayerShareRequest {
    let name = format!("environments/test/experiments/{id}");
    SetLayerShareRequest { name, basis_points, ..SetLayerShareRequest::default() }
}

fn agent<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("featureops-principal", "agent:copilot".parse().unwrap());
    request
}

/// A flag with a running experiment of its id.
async fn run(world: &World, id: &str, change: impl FnOnce(&mut Experiment)) {
    world.flags().set_flag(set(flag(id))).await.unwrap();
    let mut experiment = experiment(id, id);
    change(&mut experiment);
    world.create(experiment).await;
    world.start_experiment(id).await;
}

fn flag(id: &str) -> Flag {
    Flag { name: format!("environments/test/flags/{id}"), ..checkout() }
}

async fn answer(world: &World, flag: &str, unit: &str) -> EvaluateResponse {
    let request = featureops_proto::v1::EvaluateRequest { no_exposure: true, ..evaluate(flag, unit) };
    world.evaluation().evaluate(request).await.unwrap().into_inner()
}

/// Units that a flag's experiment has, of the first ones.
async fn members(world: &World, flag: &str) -> BTreeSet<usize> {
    let mut members = BTreeSet::new();
    for n in 0..UNITS {
        let answer = answer(world, flag, &format!("user-{n}")).await;
        let is_member = answer.propensity_basis_points.is_some();
        assert_eq!(answer.reason(), if is_member { Reason::Split } else { Reason::Default });
        assert_eq!(answer.receipt.is_empty(), !is_member, "no receipt without an arm");
        if is_member {
            members.insert(n);
        } else {
            assert_eq!(answer.variant.as_deref(), Some("off"));
        }
    }
    members
}

/// What a client on its own serves all units.
async fn alone(world: &World, flag: &str) -> BTreeMap<usize, String> {
    let request = ExportFlagsRequest { parent: "environments/test".to_owned() };
    let mut environments = EnvironmentServiceClient::new(world.channel.clone());
    let document = environments.export_flags(request).await.unwrap().into_inner().document;
    let environment = Environment::default();
    let imported = flagd::import(&document, "test", &environment).unwrap();
    assert_eq!(imported.warnings, []);
    let compiled = imported.flags.iter().map(|flag| compile(flag, &environment).unwrap());
    let snapshot = Snapshot::empty().apply(compiled, 1, 0);
    let serve = |n: usize| {
        let attributes = context(&[("targetingKey", &format!("user-{n}"))]);
        evaluate_here(&snapshot, "test", flag, &Context::new(&attributes), 0).variant.unwrap().to_owned()
    };
    (0..UNITS).map(|n| (n, serve(n))).collect()
}

async fn served(world: &World, flag: &str) -> BTreeMap<usize, String> {
    let mut served = BTreeMap::new();
    for n in 0..UNITS {
        served.insert(n, answer(world, flag, &format!("user-{n}")).await.variant.unwrap());
    }
    served
}

#[tokio::test]
async fn experiments_of_a_layer_share_nobody_and_a_share_grows_without_losing_anybody() {
    let world = World::start().await;
    world.metrics().set_metric(world::metric("revenue", metric::Kind::Mean)).await.unwrap();
    layers(&world).set_layer(layer("page")).await.unwrap();
    let placed = |basis_points| {
        move |experiment: &mut Experiment| {
            (experiment.layer, experiment.layer_share_basis_points) = ("page".to_owned(), basis_points);
        }
    };
    run(&world, "button", placed(3_000)).await;
    run(&world, "prices", placed(5_000)).await;
    let (button, prices) = (members(&world, "button").await, members(&world, "prices").await);
    assert!(button.is_disjoint(&prices));
    assert!((200..400).contains(&button.len()) && (400..600).contains(&prices.len()));
    assert_eq!(alone(&world, "button").await, served(&world, "button").await);

    // A stream of flags hears of it, and the version rose.
    let mut sync = FlagSyncServiceClient::new(world.channel.clone());
    let mut request = Request::new(SyncFlagsRequest::default());
    request.metadata_mut().insert("flagd-selector", "test".parse().unwrap());
    let mut stream = sync.sync_flags(request).await.unwrap().into_inner();
    let mut hear = async || {
        let message = timeout(Duration::from_secs(10), stream.message()).await.unwrap().unwrap().unwrap();
        message.flag_configuration
    };
    assert!(hear().await.contains("layer:page:"));
    let refused = world.experiments().set_layer_share(agent(share("button", 4_000))).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    let rehearsed = SetLayerShareRequest { validate_only: true, ..share("button", 4_000) };
    let would = world.experiments().set_layer_share(rehearsed).await.unwrap().into_inner();
    assert_eq!(would.layer_share_basis_points, 4_000);
    let grown = world.experiments().set_layer_share(share("button", 4_000)).await.unwrap().into_inner();
    let slots = grown.allocation.unwrap().slots;
    assert_eq!(
        slots.iter().map(|range| (range.start, range.length)).collect::<Vec<_>>(),
        [(0, 3_000), (8_000, 1_000)]
    );
    assert!(hear().await.contains(r#"["out",5000],["in",1000]"#), "the grown share");
    let more = members(&world, "button").await;
    assert!(more.is_superset(&button) && more.len() > button.len() && more.is_disjoint(&prices));
    assert_eq!(alone(&world, "button").await, served(&world, "button").await);

    let full = world.experiments().set_layer_share(share("button", 5_001)).await.unwrap_err();
    assert_eq!(full.code(), Code::ResourceExhausted, "{full:?}");
    assert!(full.message().contains("1000 of 10000 free"), "{}", full.message());
    let get = || GetLayerRequest { name: "environments/test/layers/page".to_owned() };
    let held = layers(&world).get_layer(get()).await.unwrap().into_inner();
    assert_eq!((held.free_basis_points, held.occupants.len()), (1_000, 2));
    let delete = DeleteLayerRequest { name: get().name, ..DeleteLayerRequest::default() };
    let used = layers(&world).delete_layer(delete.clone()).await.unwrap_err();
    assert_eq!(used.code(), Code::FailedPrecondition);

    // After a restart it is the same, and when they end the layer is free and may go.
    let world = world.restart().await;
    assert_eq!(members(&world, "button").await, more);
    for id in ["button", "prices"] {
        let name = format!("environments/test/experiments/{id}");
        let stop = StopExperimentRequest { name, ..StopExperimentRequest::default() };
        world.experiments().stop_experiment(stop).await.unwrap();
    }
    assert_eq!(layers(&world).get_layer(get()).await.unwrap().into_inner().free_basis_points, 10_000);
    let stale = DeleteLayerRequest { etag: "l1".to_owned(), ..delete.clone() };
    assert_eq!(layers(&world).delete_layer(stale).await.unwrap_err().code(), Code::Aborted);
    layers(&world).delete_layer(delete).await.unwrap();
    assert_eq!(layers(&world).get_layer(get()).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn a_holdout_holds_its_units_out_of_every_experiment_and_only_grows() {
    let world = World::start().await;
    world.metrics().set_metric(world::metric("revenue", metric::Kind::Mean)).await.unwrap();
    layers(&world).set_holdout(holdout("named", 1_000, false)).await.unwrap();
    run(&world, "button", |experiment| experiment.holdouts = vec!["named".to_owned()]).await;
    run(&world, "prices", |_| {}).await;
    let first = members(&world, "button").await;
    assert!((850..950).contains(&first.len()), "{}", first.len());
    assert_eq!(members(&world, "prices").await.len(), UNITS);
    // A receipt keeps its arm within the generation, whatever is held out later.
    let kept = answer(&world, "prices", "user-0").await;

    layers(&world).set_holdout(holdout("everywhere", 2_000, true)).await.unwrap();
    let (button, prices) = (members(&world, "button").await, members(&world, "prices").await);
    assert!(button.is_subset(&prices) && button.is_subset(&first), "held out of both alike");
    assert!((750..850).contains(&prices.len()) && button.len() < prices.len());
    let grown = layers(&world).set_holdout(holdout("everywhere", 10_000, true)).await.unwrap().into_inner();
    let names = ["button", "prices"].map(|id| format!("environments/test/experiments/{id}"));
    assert_eq!(grown.experiments, names);
    assert_eq!(members(&world, "prices").await.len(), 0);
    let mut with_receipt = evaluate("prices", "user-0");
    let receipt = prost_types::Value::from(kept.receipt.clone());
    with_receipt.context.as_mut().unwrap().fields.insert("featureopsReceipt".to_owned(), receipt);
    let answered = world.evaluation().evaluate(with_receipt).await.unwrap().into_inner();
    assert_eq!((answered.variant, answered.reason), (kept.variant, kept.reason));
    assert_eq!(alone(&world, "button").await, served(&world, "button").await);

    let refused = layers(&world).set_holdout(holdout("everywhere", 9_999, true)).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    let explained = ExplainRequest {
        environment: "test".into(),
        flag: "button".into(),
        context: Some(context(&[("targetingKey", "user-0")])),
    };
    let explained = world.evaluation().explain(explained).await.unwrap().into_inner();
    let step = explained.steps.iter().find(|step| step.subject == "holdout everywhere").unwrap();
    assert!(step.finding.ends_with("held out") && !step.matched, "{step:?}");

    // Pages, and a holdout that is not there.
    let list =
        ListHoldoutsRequest { parent: "environments/test".to_owned(), page_size: 1, ..Default::default() };
    let page = layers(&world).list_holdouts(list.clone()).await.unwrap().into_inner();
    assert_eq!(page.holdouts[0].name, "environments/test/holdouts/everywhere");
    let list = ListHoldoutsRequest { page_token: page.next_page_token, ..list };
    let page = layers(&world).list_holdouts(list).await.unwrap().into_inner();
    assert_eq!(
        (page.holdouts[0].name.as_str(), page.next_page_token.as_str()),
        ("environments/test/holdouts/named", "")
    );
    let list = ListLayersRequest { parent: "environments/test".to_owned(), ..Default::default() };
    assert_eq!(layers(&world).list_layers(list).await.unwrap().into_inner().layers, []);
    let missing = GetHoldoutRequest { name: "environments/test/holdouts/none".to_owned() };
    assert_eq!(layers(&world).get_holdout(missing).await.unwrap_err().code(), Code::NotFound);
    let beyond = layers(&world).set_holdout(holdout("beyond", 10_001, false)).await.unwrap_err();
    assert_eq!(beyond.get_details_bad_request().unwrap().field_violations[0].field, "holdout.basis_points");
}

#[tokio::test]
async fn a_sticky_split_keeps_who_has_what_over_its_writes() {
    let world = World::start().await;
    let written = |weights: [u32; 2], sticky| {
        let entry = |(variant, weight): (&str, u32)| WeightedVariant {
            variant: variant.to_owned(),
            weight_basis_points: weight,
        };
        let variants = ["on", "off"].into_iter().zip(weights).map(entry).collect();
        // What a client sends as a map is not its to say.
        let runs = vec![featureops_proto::v1::Run { arm: 9, length: 1 }];
        let serve = Some(rule::Serve::Split(Split { variants, sticky, runs }));
        Flag { rules: vec![Rule { id: "rollout".to_owned(), serve, ..Rule::default() }], ..flag("banner") }
    };
    let on = async |world: &World| -> BTreeSet<usize> {
        let served = served(world, "banner").await;
        served.into_iter().filter(|(_, variant)| variant == "on").map(|(n, _)| n).collect()
    };
    world.flags().set_flag(set(written([1_000, 9_000], true))).await.unwrap();
    let tenth = on(&world).await;
    world.flags().set_flag(set(written([3_000, 7_000], true))).await.unwrap();
    let third = on(&world).await;
    assert!(third.is_superset(&tenth) && third.len() > tenth.len());
    world.flags().set_flag(set(written([2_000, 8_000], true))).await.unwrap();
    let fifth = on(&world).await;
    assert!(fifth.is_subset(&third) && fifth.is_superset(&tenth));
    assert_eq!(alone(&world, "banner").await, served(&world, "banner").await);
    let name = "environments/test/flags/banner".to_owned();
    let held = world.flags().get_flag(GetFlagRequest { name }).await.unwrap().into_inner();
    let Some(rule::Serve::Split(split)) = &held.rules[0].serve else { panic!("{held:?}") };
    assert_eq!(split.runs.iter().map(|run| run.length).sum::<u32>(), 10_000);
    let twice = Flag {
        rules: vec![Rule {
            id: "rollout".to_owned(),
            serve: Some(rule::Serve::Split(Split {
                variants: [5_000, 5_000]
                    .map(|weight| WeightedVariant { variant: "on".to_owned(), weight_basis_points: weight })
                    .into(),
                sticky: true,
                runs: vec![],
            })),
            ..Rule::default()
        }],
        ..flag("banner")
    };
    let refused = world.flags().set_flag(set(twice)).await.unwrap_err();
    let field = &refused.get_details_bad_request().unwrap().field_violations[0].field;
    assert_eq!(field, "flag.rules[0].split.variants[1].variant");
}
