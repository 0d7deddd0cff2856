//! Environments over a real node: set, listed, refused, and filled by documents.

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
    ArchiveFlagRequest, Environment, EvaluateRequest, EvaluationError, ExportFlagsRequest, Flag,
    FractionalVersion, GetEnvironmentRequest, GetFlagRequest, ImportFlagsRequest, ListEnvironmentsRequest,
    RevertFlagRequest, SetEnvironmentRequest, SetFlagRequest,
};
use prost_types::{Struct, Value, value::Kind};
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use world::{World, checkout, context, evaluate, set};

const NAME: &str = "environments/test";

fn environments(world: &World) -> EnvironmentServiceClient<Channel> {
    EnvironmentServiceClient::new(world.channel.clone())
}

fn environment() -> Environment {
    Environment { name: NAME.to_owned(), ..Environment::default() }
}

fn write(environment: Environment) -> SetEnvironmentRequest {
    SetEnvironmentRequest { environment: Some(environment), ..SetEnvironmentRequest::default() }
}

fn import(document: &str) -> ImportFlagsRequest {
    ImportFlagsRequest {
        parent: NAME.to_owned(),
        document: document.to_owned(),
        ..ImportFlagsRequest::default()
    }
}

fn field(status: &Status) -> String {
    status.get_details_bad_request().unwrap().field_violations[0].field.clone()
}

const DOCUMENT: &str = r#"{
  "metadata": {"flagSetId": "shop"},
  "$evaluators": {"staff": {"ends_with": [{"var": "email"}, "@example.com"]}},
  "flags": {
    "banner": {
      "state": "ENABLED",
      "variants": {"on": true, "off": false},
      "defaultVariant": "off",
      "targeting": {"if": [{"$ref": "staff"}, "on"]},
      "metadata": {"team": "web"}
    },
    "color": {"state": "ENABLED", "variants": {"blue": "b"}, "defaultVariant": "blue"}
  }
}"#;

#[tokio::test]
async fn an_environment_is_read_set_and_listed() {
    let world = World::start().await;
    let get = GetEnvironmentRequest { name: NAME.to_owned() };
    let never = environments(&world).get_environment(get.clone()).await.unwrap().into_inner();
    assert_eq!((never.environment_version, never.etag.as_str()), (0, "n0"));
    let wanted = Environment {
        source: "flags.json".to_owned(),
        metadata: Some(Struct { fields: [("flagSetId".to_owned(), Value::from("shop"))].into() }),
        fractional: FractionalVersion::FractionalVersion3.into(),
        evaluators: [("staff".to_owned(), r#"{"==":[1,1]}"#.to_owned())].into(),
        ..environment()
    };
    let rehearsed = SetEnvironmentRequest { validate_only: true, ..write(wanted.clone()) };
    let would = environments(&world).set_environment(rehearsed).await.unwrap().into_inner();
    assert_eq!(would.environment_version, 1);
    assert_eq!(environments(&world).get_environment(get.clone()).await.unwrap().into_inner(), never);

    let held = environments(&world).set_environment(write(wanted.clone())).await.unwrap().into_inner();
    assert_eq!((held.environment_version, held.source.as_str()), (1, "flags.json"));
    world.flags().set_flag(set(checkout())).await.unwrap();
    let answer = world.evaluation().evaluate(evaluate("checkout", "ada")).await.unwrap().into_inner();
    assert_eq!(answer.variant.as_deref(), Some("off"));

    let stale = SetEnvironmentRequest { etag: "n0".to_owned(), ..write(wanted) };
    assert_eq!(environments(&world).set_environment(stale).await.unwrap_err().code(), Code::Aborted);
    for id in ["a", "b", "c"] {
        let other = Environment { name: format!("environments/{id}"), ..Environment::default() };
        environments(&world).set_environment(write(other)).await.unwrap();
    }
    let mut request = ListEnvironmentsRequest { page_size: 3, ..ListEnvironmentsRequest::default() };
    let first = environments(&world).list_environments(request.clone()).await.unwrap().into_inner();
    request.page_token = first.next_page_token;
    let second = environments(&world).list_environments(request).await.unwrap().into_inner();
    let names: Vec<_> = first.environments.iter().chain(&second.environments).map(|e| &e.name).collect();
    assert_eq!(names, ["environments/a", "environments/b", "environments/c", NAME]);
    assert!(second.next_page_token.is_empty());

    // All of it is there after a start.
    let world = world.restart().await;
    let again = environments(&world).get_environment(get).await.unwrap().into_inner();
    assert_eq!(again, held);
}

#[tokio::test]
async fn what_clients_could_not_use_is_refused_with_its_path() {
    let world = World::start().await;
    let list = Value { kind: Some(Kind::ListValue(prost_types::ListValue::default())) };
    for (wrong, path) in [
        (
            Environment { evaluators: [("e".to_owned(), "{".to_owned())].into(), ..environment() },
            "environment.evaluators.e",
        ),
        (
            Environment {
                metadata: Some(Struct { fields: [("k".to_owned(), list)].into() }),
                ..environment()
            },
            "environment.metadata.k",
        ),
        (Environment { name: "test".to_owned(), ..Environment::default() }, "environment.name"),
        (Environment { fractional: 7, ..environment() }, "environment.fractional"),
    ] {
        let refused = environments(&world).set_environment(write(wrong)).await.unwrap_err();
        assert_eq!((refused.code(), field(&refused).as_str()), (Code::InvalidArgument, path));
    }
}

#[tokio::test]
async fn a_document_comes_in_whole_and_goes_out_as_it_came() {
    let world = World::start().await;
    let done = environments(&world).import_flags(import(DOCUMENT)).await.unwrap().into_inner();
    assert_eq!(
        (done.changed.as_slice(), done.unchanged),
        (["banner".to_owned(), "color".to_owned()].as_slice(), 0)
    );
    assert_eq!(done.environment.unwrap().evaluators.len(), 1);
    let again = environments(&world).import_flags(import(DOCUMENT)).await.unwrap().into_inner();
    assert_eq!((again.changed.len(), again.unchanged), (0, 2));
    assert_eq!(again.environment.unwrap().environment_version, 1);

    let export = ExportFlagsRequest { parent: NAME.to_owned() };
    let document = environments(&world).export_flags(export).await.unwrap().into_inner().document;
    let json = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
    assert_eq!(json(&document), json(DOCUMENT));

    let bad = DOCUMENT.replace("\"defaultVariant\": \"blue\"", "\"defaultVariant\": \"red\"");
    let refused = environments(&world).import_flags(import(&bad)).await.unwrap_err();
    assert_eq!(
        (refused.code(), field(&refused).as_str()),
        (Code::InvalidArgument, "flags.color.defaultVariant")
    );

    let less = DOCUMENT.replace("\"color\"", "\"colour\"");
    let pruning = ImportFlagsRequest { prune: true, validate_only: true, ..import(&less) };
    let would = environments(&world).import_flags(pruning.clone()).await.unwrap().into_inner();
    assert_eq!((would.changed, would.archived), (vec!["colour".to_owned()], vec!["color".to_owned()]));
    world.run_experiment().await;
    let pruning = ImportFlagsRequest { validate_only: false, ..pruning };
    let done = environments(&world).import_flags(pruning).await.unwrap().into_inner();
    assert_eq!(done.archived, ["color"]);
    assert_eq!(done.warnings.last().unwrap().path, "flags.checkout", "an experiment holds it");

    let third = Environment { fractional: FractionalVersion::FractionalVersion3.into(), ..environment() };
    let refused = environments(&world).set_environment(write(third)).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "an experiment runs");
}

fn targeted(targeting: &str) -> Flag {
    Flag { targeting: targeting.to_owned(), ..checkout() }
}

#[tokio::test]
async fn two_doors_a_person_is_refused_what_an_import_is_warned_about() {
    let world = World::start().await;
    let document = r#"{"flags": {"checkout": {"state": "ENABLED", "variants": {"on": true, "off": false},
        "defaultVariant": "off", "targeting": {"if": [{"nonsense": []}, "on"]}}}}"#;
    let done = environments(&world).import_flags(import(document)).await.unwrap().into_inner();
    assert!(
        done.warnings.iter().any(|w| w.path.starts_with("flags.checkout.targeting")),
        "{:?}",
        done.warnings
    );
    let get = GetFlagRequest { name: checkout().name };
    let held = world.flags().get_flag(get.clone()).await.unwrap().into_inner();
    assert!(held.imported && held.warnings.len() == 1, "{:?}", held.warnings);
    let answer = world.evaluation().evaluate(evaluate("checkout", "ada")).await.unwrap().into_inner();
    assert_eq!(answer.error(), EvaluationError::ParseError);

    // Written by hand it must compile, whatever it was before; a partial write is one too.
    let mask = prost_types::FieldMask { paths: vec!["description".to_owned()] };
    let partial = SetFlagRequest { update_mask: Some(mask), ..set(checkout()) };
    let refused = world.flags().set_flag(partial).await.unwrap_err();
    assert!(field(&refused).starts_with("flag.targeting"), "{refused:?}");

    let refers = r#"{"if": [{"$ref": "staff"}, "on", "off"]}"#;
    let refused = world.flags().set_flag(set(targeted(refers))).await.unwrap_err();
    assert!(field(&refused).starts_with("flag.targeting"), "no such shared rule: {refused:?}");
    let rules = [("staff".to_owned(), r#"{"==": [{"var": "role"}, "staff"]}"#.to_owned())].into();
    let staff = Environment { evaluators: rules, ..environment() };
    environments(&world).set_environment(write(staff)).await.unwrap();
    let written = world.flags().set_flag(set(targeted(refers))).await.unwrap().into_inner();
    assert!(!written.imported);
    let staff_only = EvaluateRequest {
        context: Some(context(&[("targetingKey", "ada"), ("role", "staff")])),
        ..evaluate("checkout", "ada")
    };
    let answer = world.evaluation().evaluate(staff_only.clone()).await.unwrap().into_inner();
    assert_eq!(answer.variant.as_deref(), Some("on"));

    // The shared rule cannot go while a native flag rests on it, neither by hand nor by a document.
    let refused = environments(&world).set_environment(write(environment())).await.unwrap_err();
    assert!(field(&refused).starts_with("flags.checkout.targeting"), "{refused:?}");
    let without = r#"{"$evaluators": {}, "flags": {}}"#;
    let refused = environments(&world).import_flags(import(without)).await.unwrap_err();
    assert!(field(&refused).starts_with("flags.checkout.targeting"), "{refused:?}");

    // Another rule under the name is seen by the flag at once.
    let rules = [("staff".to_owned(), "false".to_owned())].into();
    let nobody = Environment { evaluators: rules, ..environment() };
    environments(&world).set_environment(write(nobody)).await.unwrap();
    let answer = world.evaluation().evaluate(staff_only).await.unwrap().into_inner();
    assert_eq!(answer.variant.as_deref(), Some("off"));

    // Once nothing refers to it, it can go; and then the version that did cannot come back.
    world.flags().set_flag(set(checkout())).await.unwrap();
    environments(&world).set_environment(write(environment())).await.unwrap();
    let back = RevertFlagRequest { name: get.name, to_version: 2, ..RevertFlagRequest::default() };
    let refused = world.flags().revert_flag(back.clone()).await.unwrap_err();
    assert!(field(&refused).starts_with("flag.targeting"), "{refused:?}");
    let imported = RevertFlagRequest { to_version: 1, ..back };
    assert!(world.flags().revert_flag(imported).await.unwrap().into_inner().imported);
}

#[tokio::test]
async fn a_flag_and_what_it_shares_written_at_one_moment_leave_no_flag_that_does_not_compile() {
    let world = World::start().await;
    let shared = Environment {
        evaluators: [("staff".to_owned(), r#"{"==":[1,1]}"#.to_owned())].into(),
        ..environment()
    };
    let resting = |round: usize| {
        let flag = Flag {
            name: format!("{NAME}/flags/f{round}"),
            targeting: r#"{"if":[{"$ref":"staff"},"on"]}"#.to_owned(),
            rules: Vec::new(),
            ..checkout()
        };
        set(flag)
    };
    let (mut flags_won, mut environments_won) = (0, 0);
    for round in 0..40 {
        environments(&world).set_environment(write(shared.clone())).await.unwrap();
        let (mut flags, mut other) = (world.flags(), environments(&world));
        let (flag, emptied) =
            tokio::join!(flags.set_flag(resting(round)), other.set_environment(write(environment())));
        // Either is refused for what the other did, and says what it is; neither is told to try again.
        match (&flag, &emptied) {
            (Ok(_), Err(status)) => {
                assert_eq!(status.code(), Code::InvalidArgument, "{status}");
                flags_won += 1;
                let name = format!("{NAME}/flags/f{round}");
                let archive = ArchiveFlagRequest { name, ..ArchiveFlagRequest::default() };
                world.flags().archive_flag(archive).await.unwrap();
            }
            (Err(status), Ok(_)) => {
                assert_eq!(status.code(), Code::InvalidArgument, "{status}");
                environments_won += 1;
            }
            other => panic!("round {round}: {other:?}"),
        }
    }
    assert_eq!(flags_won + environments_won, 40);
    println!("the flag came first {flags_won} times, the environment {environments_won} times");
}
