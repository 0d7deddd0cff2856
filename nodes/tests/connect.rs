//! flagd's evaluation as Connect's JSON, and which web pages may ask: byte for byte over HTTP.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may fail loudly"
)]

mod world;

use featureops_proto::v1::{Flag, ValueType};
use prost_types::{Struct, Value, value::Kind};
use serde_json::{Value as Json, json};
use world::{World, body, set};

fn flag(id: &str, value_type: ValueType, value: Value) -> Flag {
    Flag {
        name: format!("environments/production/flags/{id}"),
        r#type: value_type.into(),
        variants: [("it".to_owned(), value)].into(),
        default_variant: Some("it".to_owned()),
        ..Flag::default()
    }
}

async fn furnished(cors: &[&str]) -> World {
    let origins = cors.iter().map(|origin| (*origin).to_owned()).collect();
    let world = World::start_set(|config| config.fronts.cors_origins = origins).await;
    let fields = [("a".to_owned(), Value::from(1.0))].into();
    let object = Value { kind: Some(Kind::StructValue(Struct { fields })) };
    for flag in [
        flag("boolean", ValueType::Boolean, false.into()),
        flag("text", ValueType::String, "x".into()),
        flag("whole", ValueType::Number, 7.0.into()),
        flag("half", ValueType::Number, 0.5.into()),
        flag("object", ValueType::Object, object),
        Flag { disabled: true, ..flag("off", ValueType::Boolean, true.into()) },
        Flag { default_variant: None, ..flag("bare", ValueType::Boolean, true.into()) },
        Flag {
            targeting: r#"{"if":[{"==":[{"var":"plan"},"pro"]},"it"]}"#.to_owned(),
            default_variant: None,
            ..flag("asks", ValueType::Boolean, true.into())
        },
    ] {
        world.flags().set_flag(set(flag)).await.unwrap();
    }
    world
}

async fn asked(world: &World, version: &str, method: &str, asked: Json) -> (u16, Json) {
    let path = format!("/flagd.evaluation.{version}.Service/{method}");
    let (status, text) = world.post(&path, "application/json", asked.to_string().as_bytes()).await;
    (status, body(&text))
}

#[tokio::test]
async fn every_method_answers_in_json_and_writes_what_is_not_set() {
    let world = furnished(&[]).await;
    for version in ["v1", "v2"] {
        for (method, key, value) in [
            ("ResolveBoolean", "boolean", json!(false)),
            ("ResolveString", "text", json!("x")),
            ("ResolveFloat", "whole", json!(7)),
            ("ResolveFloat", "half", json!(0.5)),
            ("ResolveInt", "whole", json!("7")),
            ("ResolveObject", "object", json!({ "a": 1 })),
        ] {
            let expected = json!({ "value": value, "reason": "STATIC", "variant": "it", "metadata": {} });
            // Both spellings, and what is not known.
            let camel = json!({ "flagKey": key, "context": {}, "unknown": [1] });
            assert_eq!(
                asked(&world, version, method, camel).await,
                (200, expected.clone()),
                "{version} {key}"
            );
            let snake = json!({ "flag_key": key, "context": null });
            assert_eq!(asked(&world, version, method, snake).await, (200, expected), "{version} {key}");
        }
        let question = json!({ "flagKey": "asks", "context": { "plan": "pro" } });
        let (_, answer) = asked(&world, version, "ResolveBoolean", question).await;
        assert_eq!(answer["reason"], "TARGETING_MATCH", "{version}");
    }
    // What has no value: v1 says the type's zero, v2 leaves it unset.
    let off = json!({ "flagKey": "off" });
    let zero = json!({ "value": false, "reason": "DISABLED", "variant": "", "metadata": {} });
    assert_eq!(asked(&world, "v1", "ResolveBoolean", off.clone()).await, (200, zero));
    let unset = json!({ "reason": "DISABLED", "metadata": {} });
    assert_eq!(asked(&world, "v2", "ResolveBoolean", off).await, (200, unset));
    let bare = json!({ "flagKey": "bare" });
    assert_eq!(asked(&world, "v1", "ResolveBoolean", bare.clone()).await.0, 404);
    assert_eq!(
        asked(&world, "v2", "ResolveBoolean", bare).await.1,
        json!({ "reason": "DEFAULT", "metadata": {} })
    );

    let (status, all) = asked(&world, "v1", "ResolveAll", json!({})).await;
    assert_eq!((status, all["flags"].as_object().unwrap().len(), &all["metadata"]), (200, 6, &json!({})));
    let of = |key: &str, field: &str, value: Json| {
        let expected = json!({ "reason": "STATIC", "variant": "it", field: value, "metadata": {} });
        assert_eq!(all["flags"][key], expected);
    };
    of("boolean", "boolValue", json!(false));
    of("text", "stringValue", json!("x"));
    of("whole", "doubleValue", json!(7));
    of("object", "objectValue", json!({ "a": 1 }));
    world.node.shutdown().await;
}

#[tokio::test]
async fn errors_are_connects() {
    let world = furnished(&[]).await;
    let fault = |code: &str, message: &str| json!({ "code": code, "message": message });
    let nothing = json!({ "flagKey": "nothing" });
    let found = asked(&world, "v2", "ResolveBoolean", nothing).await;
    assert_eq!(found, (404, fault("not_found", "Flag not found")));
    let found = asked(&world, "v1", "ResolveInt", json!({ "flagKey": "half" })).await;
    assert_eq!(found, (400, fault("invalid_argument", "Type mismatch error")));
    for odd in [json!([]), json!({ "flagKey": 7 }), json!({ "flagKey": "text", "context": "x" })] {
        let (status, told) = asked(&world, "v1", "ResolveString", odd).await;
        assert_eq!((status, &told["code"]), (400, &json!("invalid_argument")), "{told}");
    }
    for (version, method) in [("v2", "ResolveAll"), ("v1", "EventStream"), ("v1", "Nothing")] {
        let (status, told) = asked(&world, version, method, json!({})).await;
        assert_eq!((status, &told["code"]), (501, &json!("unimplemented")), "{told}");
    }
    let large = format!(r#"{{"flagKey":"text","context":{{"a":"{}"}}}}"#, "x".repeat(1_000_000));
    let path = "/flagd.evaluation.v1.Service/ResolveString";
    let (status, text) = world.post(path, "application/json", large.as_bytes()).await;
    assert_eq!((status, &body(&text)["code"]), (429, &json!("resource_exhausted")));
    for broken in ["", "{", "x"] {
        assert_eq!(
            world.post(path, "application/json; charset=utf-8", broken.as_bytes()).await.0,
            400,
            "{broken}"
        );
    }
    let packed = format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-encoding: gzip\r\ncontent-length: 2\r\n\r\n{{}}"
    );
    assert_eq!(world.http(packed).await.0, 501);
    world.node.shutdown().await;
}

/// An exchange from a page of this origin: status, and what the page may.
async fn from_page(world: &World, method: &str, path: &str, origin: &str, more: &str) -> (u16, String) {
    let (length, content) = if method == "POST" { (2, "{}") } else { (0, "") };
    world
        .http(format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\norigin: {origin}\r\n{more}content-length: {length}\r\n\r\n{content}"
        ))
        .await
}

const SHOP: &str = "https://shop.example";
const PREFLIGHT: &str =
    "access-control-request-method: POST\r\naccess-control-request-headers: content-type, flagd-selector\r\n";
const JSON: &str = "content-type: application/json\r\n";
const OPEN: [&str; 3] = [
    "/ofrep/v1/evaluate/flags",
    "/flagd.evaluation.v1.Service/ResolveBoolean",
    "/flagd.evaluation.v2.Service/ResolveBoolean",
];

fn header<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

#[tokio::test]
async fn a_page_may_ask_only_where_and_if_its_origin_is_named() {
    let world = furnished(&[SHOP]).await;
    for path in OPEN {
        let (status, told) = from_page(&world, "OPTIONS", path, SHOP, PREFLIGHT).await;
        assert_eq!((status, header(&told, "access-control-allow-origin")), (204, Some(SHOP)), "{told}");
        assert_eq!(
            (header(&told, "access-control-allow-methods"), header(&told, "vary")),
            (Some("GET, POST"), Some("origin"))
        );
        let allowed = header(&told, "access-control-allow-headers").unwrap();
        for sent in
            ["content-type", "flagd-selector", "connect-protocol-version", "x-grpc-web", "if-none-match"]
        {
            assert!(allowed.split(", ").any(|name| name == sent), "{sent}: {allowed}");
        }
        let (_, told) = from_page(&world, "POST", path, SHOP, JSON).await;
        assert_eq!(header(&told, "access-control-allow-origin"), Some(SHOP), "{told}");
        assert!(header(&told, "access-control-expose-headers").unwrap().contains("etag"));
        for method in ["OPTIONS", "POST"] {
            let more = if method == "POST" { JSON } else { PREFLIGHT };
            let (_, told) = from_page(&world, method, path, "https://other.example", more).await;
            assert_eq!(header(&told, "access-control-allow-origin"), None, "{told}");
            // A cache must not hand the named page what this one was told.
            assert_eq!(header(&told, "vary"), Some("origin"), "{told}");
        }
    }
    // gRPC-web, whose answer is read with its headers.
    let web = "content-type: application/grpc-web+proto\r\n";
    let (_, told) = from_page(&world, "POST", OPEN[1], SHOP, web).await;
    assert_eq!(header(&told, "access-control-allow-origin"), Some(SHOP), "{told}");
    // What is no evaluation is for no page.
    for path in ["/featureops.v1.FlagService/SetFlag", "/metrics", "/v1/alarms"] {
        let (status, told) = from_page(&world, "OPTIONS", path, SHOP, PREFLIGHT).await;
        assert!(status >= 400 && header(&told, "access-control-allow-origin").is_none(), "{told}");
    }
    // A name that is not the node's is refused, whoever asks.
    let foreign = format!(
        "OPTIONS {} HTTP/1.1\r\nhost: node.example\r\nconnection: close\r\norigin: {SHOP}\r\n{PREFLIGHT}\r\n",
        OPEN[0]
    );
    assert_eq!(world.http(foreign).await.0, 403);
    world.node.shutdown().await;
}

#[tokio::test]
async fn no_page_may_ask_unless_it_is_set_and_any_page_if_all_are() {
    let world = furnished(&[]).await;
    for path in OPEN {
        let (status, told) = from_page(&world, "OPTIONS", path, SHOP, PREFLIGHT).await;
        assert!(status == 405 && header(&told, "access-control-allow-origin").is_none(), "{told}");
    }
    world.node.shutdown().await;
    let world = furnished(&["*"]).await;
    let (status, told) = from_page(&world, "OPTIONS", OPEN[0], SHOP, PREFLIGHT).await;
    assert_eq!((status, header(&told, "access-control-allow-origin")), (204, Some("*")), "{told}");
    world.node.shutdown().await;
}

#[tokio::test]
async fn another_content_type_is_told_which_one_to_send() {
    let world = furnished(&[]).await;
    let path = "/flagd.evaluation.v1.Service/ResolveBoolean";
    let asked = json!({ "flagKey": "banner", "context": {} }).to_string();
    for kind in
        ["text/plain", "application/jsonx", "application/x-www-form-urlencoded", "application/connect+json"]
    {
        let (status, told) = world.post(path, kind, asked.as_bytes()).await;
        assert_eq!(status, 415, "{kind}: {told}");
        assert!(told.contains(r#""message":"send content-type: application/json""#), "{kind}: {told}");
        assert_eq!(header(&told, "content-type"), Some("application/json"), "{told}");
        for path in ["/ofrep/v1/evaluate/flags/banner", "/v1/alarms"] {
            let (status, told) = world.post(path, kind, asked.as_bytes()).await;
            assert_eq!(status, 415, "{path} {kind}: {told}");
        }
    }
    for kind in ["application/json", "Application/JSON; charset=utf-8"] {
        assert_ne!(world.post(path, kind, asked.as_bytes()).await.0, 415, "{kind}");
        assert_ne!(world.post("/v1/alarms", kind, b"{}").await.0, 415, "{kind}");
    }
    world.node.shutdown().await;
}
