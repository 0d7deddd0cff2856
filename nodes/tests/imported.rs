//! The rows of the outcome table that only a document can bring in: rules that cannot be read, variants that are not there,
//! values without a type, hostile weights; over every front.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test"
)]

mod world;

use featureops::flagd::evaluation::v1::service_client::ServiceClient as V1;
use featureops::flagd::evaluation::v1::{ResolveAllRequest, ResolveIntRequest, ResolveObjectRequest};
use featureops::flagd::evaluation::v2::service_client::ServiceClient as V2;
use featureops::flagd::evaluation::{v1, v2};
use featureops::rpc::environment_service_client::EnvironmentServiceClient;
use featureops_proto::v1::ImportFlagsRequest;
use serde_json::{Value as Json, json};
use tonic::Code;
use world::{World, context, ofrep};

fn document() -> Json {
    let boolean = |targeting: Json| {
        json!({
            "state": "ENABLED", "variants": {"on": true, "off": false}, "defaultVariant": "on", "targeting": targeting
        })
    };
    json!({
        "metadata": {"flagSetId": "imported", "version": 7},
        "flags": {
            "throws": boolean(json!({"no-such-operator": [1]})),
            "dangles": boolean(json!({"$ref": "nobody"})),
            "strays": boolean(json!({"if": [true, "nowhere"]})),
            "heavy": boolean(json!({"fractional": [["on", 2_147_483_648_u64], ["off", 1]]})),
            "spoofed": boolean(json!({"if": [{"==": [{"var": "$flagd.flagKey"}, "spoofed"]}, "off", null]})),
            "empty": boolean(json!({})),
            "mixed": {
                "state": "ENABLED",
                "variants": {"yes": true, "no": "no", "nothing": null, "many": [1]},
                "defaultVariant": "nothing",
                "targeting": {"var": "wanted"}
            }
        }
    })
}

async fn imported(strict: bool) -> World {
    let world = World::start_set(|config| config.fronts.strict_errors = strict).await;
    let request = ImportFlagsRequest {
        parent: "environments/production".into(),
        document: document().to_string(),
        ..ImportFlagsRequest::default()
    };
    EnvironmentServiceClient::new(world.channel.clone()).import_flags(request).await.unwrap();
    world
}

#[tokio::test]
async fn what_cannot_be_evaluated_says_so_as_each_protocol_does() {
    for strict in [false, true] {
        let world = imported(strict).await;
        let (mut old, mut new) = (V1::new(world.channel.clone()), V2::new(world.channel.clone()));
        let general = if strict { Code::Unknown } else { Code::Internal };
        for (key, code, message) in [
            ("throws", Code::DataLoss, "Error parsing input or configuration"),
            ("dangles", Code::DataLoss, "Error parsing input or configuration"),
            ("strays", general, "General error"),
        ] {
            // The rule comes before the type, in every method.
            let asked = || (key.to_owned(), Some(context(&[("targetingKey", "ada")])));
            macro_rules! said {
                ($($client:ident $proto:ident $method:ident $request:ident),+) => {
                    $({
                        let (flag_key, context) = asked();
                        let request = $proto::$request { flag_key, context };
                        let status = $client.$method(request).await.unwrap_err();
                        assert_eq!((status.code(), status.message()), (code, message), "{key}");
                    })+
                };
            }
            said!(
                old v1 resolve_boolean ResolveBooleanRequest, old v1 resolve_string ResolveStringRequest,
                old v1 resolve_float ResolveFloatRequest, old v1 resolve_int ResolveIntRequest,
                old v1 resolve_object ResolveObjectRequest,
                new v2 resolve_boolean ResolveBooleanRequest, new v2 resolve_string ResolveStringRequest,
                new v2 resolve_float ResolveFloatRequest, new v2 resolve_int ResolveIntRequest,
                new v2 resolve_object ResolveObjectRequest
            );
        }
    }
}

#[tokio::test]
async fn the_same_over_ofrep_and_all_at_once() {
    let world = imported(false).await;
    let fault = |key: &str| match key {
        "strays" => ("GENERAL", "error processing the flag for evaluation".to_owned()),
        key => ("PARSE_ERROR", format!("error parsing the flag `{key}`")),
    };
    let (status, bulk) = ofrep(&world, "", json!({"targetingKey": "ada"})).await;
    assert_eq!((status, &bulk["metadata"]), (200, &json!({"flagSetId": "imported", "version": 7})));
    let bulk = bulk["flags"].as_array().unwrap();
    let keys: Vec<&str> = bulk.iter().map(|flag| flag["key"].as_str().unwrap()).collect();
    assert_eq!(keys, ["dangles", "empty", "heavy", "mixed", "spoofed", "strays", "throws"]);
    for key in ["throws", "dangles", "strays"] {
        let (code, details) = fault(key);
        let expected = json!({"key": key, "errorCode": code, "errorDetails": details});
        assert_eq!(ofrep(&world, key, json!({})).await, (400, expected.clone()));
        assert!(bulk.contains(&expected), "{key}: {bulk:?}");
    }
    // Null is no value.
    let (status, said) = ofrep(&world, "mixed", json!({})).await;
    assert_eq!((status, &said["errorCode"]), (400, &json!("GENERAL")));
    for (wanted, value) in [("yes", json!(true)), ("no", json!("no")), ("many", json!([1]))] {
        let (status, said) = ofrep(&world, "mixed", json!({"wanted": wanted})).await;
        assert_eq!((status, &said["value"], &said["variant"]), (200, &value, &json!(wanted)));
        assert_eq!(said["metadata"], json!({"flagSetId": "imported", "version": 7}));
    }
    let mut client = V1::new(world.channel.clone());
    let all = client.resolve_all(ResolveAllRequest { context: None }).await.unwrap().into_inner();
    let reasons: Vec<(&str, &str)> =
        all.flags.iter().map(|(key, flag)| (key.as_str(), flag.reason.as_str())).collect();
    let expected = [
        ("dangles", "ERROR"),
        ("empty", "STATIC"),
        ("heavy", "DEFAULT"),
        ("spoofed", "TARGETING_MATCH"),
        ("strays", "ERROR"),
        ("throws", "ERROR"),
    ];
    assert_eq!(reasons, expected);
    assert_eq!(all.metadata.unwrap().fields["flagSetId"], "imported".into());
}

#[tokio::test]
async fn hostile_contexts_and_weights_change_nothing() {
    let world = imported(false).await;
    let mut client = V2::new(world.channel.clone());
    let own = context(&[("$flagd", "mine"), ("targetingKey", "ada")]);
    for (key, reason, variant) in
        [("spoofed", "TARGETING_MATCH", "off"), ("heavy", "DEFAULT", "on"), ("empty", "STATIC", "on")]
    {
        let request = v2::ResolveBooleanRequest { flag_key: key.into(), context: Some(own.clone()) };
        let answer = client.resolve_boolean(request).await.unwrap().into_inner();
        assert_eq!((answer.reason.as_str(), answer.variant.as_deref()), (reason, Some(variant)), "{key}");
    }
    // A flag of several types is of the type of what it serves.
    let mut old = V1::new(world.channel.clone());
    for wanted in ["yes", "no", "nothing", "many"] {
        let context = Some(context(&[("wanted", wanted)]));
        let request = ResolveIntRequest { flag_key: "mixed".into(), context: context.clone() };
        assert_eq!(old.resolve_int(request).await.unwrap_err().code(), Code::InvalidArgument, "{wanted}");
        let request = ResolveObjectRequest { flag_key: "mixed".into(), context };
        assert_eq!(old.resolve_object(request).await.unwrap_err().code(), Code::InvalidArgument, "{wanted}");
    }
}
