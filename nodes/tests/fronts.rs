//! flagd's and OFREP's clients: every row of the outcome table in every method of every front, selectors, context, ports.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test"
)]

mod world;

use std::collections::BTreeMap;

use featureops::flagd::evaluation::v1::service_client::ServiceClient as V1;
use featureops::flagd::evaluation::v2::service_client::ServiceClient as V2;
use featureops::flagd::evaluation::{v1, v2};
use featureops::fronts::settings::Ports;
use featureops_proto::v1::{
    ArchiveFlagRequest, Condition, Flag, Rule, ValueType, condition::Operator, rule::Serve,
};
use prost_types::value::Kind;
use prost_types::{Struct, Value};
use serde_json::{Value as Json, json};
use tonic::transport::Channel;
use tonic::{Code, Status};
use world::{World, body, context, ofrep, set};

/// What a front said: value and variant, reason, metadata; or the code of an error.
#[derive(Debug, Clone, PartialEq)]
struct Said {
    served: Option<(Json, String)>,
    reason: String,
}

type Answer = Result<Said, Code>;

fn said(served: Option<(Json, &str)>, reason: &str) -> Answer {
    Ok(Said { served: served.map(|(value, variant)| (value, variant.to_owned())), reason: reason.to_owned() })
}

fn flag(id: &str, value_type: ValueType, variants: &[(&str, Value)], default: Option<&str>) -> Flag {
    Flag {
        name: format!("environments/production/flags/{id}"),
        r#type: value_type.into(),
        variants: variants.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect(),
        default_variant: default.map(str::to_owned),
        ..Flag::default()
    }
}

fn boolean(id: &str) -> Flag {
    flag(id, ValueType::Boolean, &[("on", true.into()), ("off", false.into())], Some("on"))
}

fn object() -> Value {
    let fields = BTreeMap::from([("a".to_owned(), Value::from(1.0))]);
    Value { kind: Some(Kind::StructValue(Struct { fields })) }
}

fn german(flag: Flag, variant: &str) -> Flag {
    let condition = Condition {
        attribute: "country".into(),
        operator: Operator::Equals.into(),
        values: vec!["DE".into()],
    };
    let serve = Some(Serve::Variant(variant.to_owned()));
    let rule = Rule { id: "de".into(), conditions: vec![condition], serve };
    Flag { rules: vec![rule], ..flag }
}

async fn write(world: &World, flags: impl IntoIterator<Item = Flag>) {
    for flag in flags {
        world.flags().set_flag(set(flag)).await.unwrap();
    }
}

/// The flags of the table's rows.
async fn table(world: &World) {
    let plain = [
        boolean("boolean"),
        flag("string", ValueType::String, &[("hi", "hello".into())], Some("hi")),
        flag("float", ValueType::Number, &[("half", 0.5.into())], Some("half")),
        flag("int", ValueType::Number, &[("ten", 10.0.into())], Some("ten")),
        flag("object", ValueType::Object, &[("o", object())], Some("o")),
        flag("largest", ValueType::Number, &[("n", 9_007_199_254_740_991.0.into())], Some("n")),
        flag("codeless", ValueType::Boolean, &[("on", true.into())], None),
        Flag { disabled: true, ..boolean("disabled") },
        german(boolean("targeted"), "off"),
        boolean("archived"),
    ];
    write(world, plain).await;
    let name = "environments/production/flags/archived".to_owned();
    world.flags().archive_flag(ArchiveFlagRequest { name, ..Default::default() }).await.unwrap();
}

struct Clients {
    v1: V1<Channel>,
    v2: V2<Channel>,
}

macro_rules! resolve {
    ($client:expr, $proto:ident, $method:ident, $request:ident, $key:expr, $context:expr, |$given:ident| $value:expr, $variant:expr) => {{
        let request = $proto::$request { flag_key: $key.into(), context: Some($context.clone()) };
        $client.clone().$method(request).await.map(|response| {
            let $given = response.into_inner();
            let variant: Option<String> = $variant(&$given.variant);
            let value: Option<Json> = $value;
            Said { served: value.zip(variant), reason: $given.reason.clone() }
        })
    }};
}

impl Clients {
    async fn new(channel: Channel) -> Self {
        Self { v1: V1::new(channel.clone()), v2: V2::new(channel) }
    }

    /// v1 has no unset: an empty variant stands for it.
    async fn v1(&self, method: &str, key: &str, context: &Struct) -> Result<Said, Status> {
        let variant = |variant: &String| (!variant.is_empty()).then(|| variant.clone());
        match method {
            "Boolean" => {
                resolve!(
                    self.v1,
                    v1,
                    resolve_boolean,
                    ResolveBooleanRequest,
                    key,
                    context,
                    |r| Some(json!(r.value)),
                    variant
                )
            }
            "String" => {
                resolve!(
                    self.v1,
                    v1,
                    resolve_string,
                    ResolveStringRequest,
                    key,
                    context,
                    |r| Some(json!(r.value)),
                    variant
                )
            }
            "Float" => {
                resolve!(
                    self.v1,
                    v1,
                    resolve_float,
                    ResolveFloatRequest,
                    key,
                    context,
                    |r| Some(json!(r.value)),
                    variant
                )
            }
            "Int" => {
                resolve!(
                    self.v1,
                    v1,
                    resolve_int,
                    ResolveIntRequest,
                    key,
                    context,
                    |r| Some(json!(r.value)),
                    variant
                )
            }
            _ => {
                resolve!(
                    self.v1,
                    v1,
                    resolve_object,
                    ResolveObjectRequest,
                    key,
                    context,
                    |r| r.value.as_ref().map(size),
                    variant
                )
            }
        }
    }

    async fn v2(&self, method: &str, key: &str, context: &Struct) -> Result<Said, Status> {
        let variant = |variant: &Option<String>| variant.clone();
        match method {
            "Boolean" => {
                resolve!(
                    self.v2,
                    v2,
                    resolve_boolean,
                    ResolveBooleanRequest,
                    key,
                    context,
                    |r| r.value.map(|v| json!(v)),
                    variant
                )
            }
            "String" => {
                resolve!(
                    self.v2,
                    v2,
                    resolve_string,
                    ResolveStringRequest,
                    key,
                    context,
                    |r| r.value.clone().map(|v| json!(v)),
                    variant
                )
            }
            "Float" => {
                resolve!(
                    self.v2,
                    v2,
                    resolve_float,
                    ResolveFloatRequest,
                    key,
                    context,
                    |r| r.value.map(|v| json!(v)),
                    variant
                )
            }
            "Int" => {
                resolve!(
                    self.v2,
                    v2,
                    resolve_int,
                    ResolveIntRequest,
                    key,
                    context,
                    |r| r.value.map(|v| json!(v)),
                    variant
                )
            }
            _ => {
                resolve!(
                    self.v2,
                    v2,
                    resolve_object,
                    ResolveObjectRequest,
                    key,
                    context,
                    |r| r.value.as_ref().map(size),
                    variant
                )
            }
        }
    }
}

fn size(object: &Struct) -> Json {
    json!(object.fields.len())
}

const METHODS: [&str; 5] = ["Boolean", "String", "Float", "Int", "Object"];

fn header<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let lines = text.split("\r\n\r\n").next()?.lines();
    lines
        .filter_map(|line| line.split_once(": "))
        .find(|(key, _)| key.eq_ignore_ascii_case(name))
        .map(|(_, v)| v)
}

#[tokio::test]
async fn the_outcome_table_row_by_row_in_every_method() {
    let world = World::start().await;
    table(&world).await;
    let clients = Clients::new(world.channel.clone()).await;
    let nobody = context(&[("targetingKey", "ada")]);
    let german = context(&[("targetingKey", "ada"), ("country", "DE")]);
    let own = [
        ("Boolean", "boolean", json!(true), "on"),
        ("String", "string", json!("hello"), "hi"),
        ("Float", "float", json!(0.5), "half"),
        ("Float", "int", json!(10.0), "ten"),
        ("Int", "int", json!(10), "ten"),
        ("Int", "largest", json!(9_007_199_254_740_991_i64), "n"),
        ("Object", "object", json!(1), "o"),
    ];
    for method in METHODS {
        let both = async |key: &str, context: &Struct| -> (Answer, Answer) {
            let (old, new) = (clients.v1(method, key, context).await, clients.v2(method, key, context).await);
            (old.map_err(|status| status.code()), new.map_err(|status| status.code()))
        };
        for key in ["boolean", "string", "float", "int", "object", "largest"] {
            let expected = match own.iter().find(|row| row.0 == method && row.1 == key) {
                Some((_, _, value, variant)) => said(Some((value.clone(), variant)), "STATIC"),
                // A float is also asked of whole numbers; half a thing is never an integer.
                None if method == "Float" && key == "largest" => {
                    said(Some((json!(9_007_199_254_740_991.0), "n")), "STATIC")
                }
                None => Err(Code::InvalidArgument),
            };
            assert_eq!(both(key, &nobody).await, (expected.clone(), expected), "{method} {key}");
        }
        // No value: of whatever type was asked for.
        let (old, new) = both("codeless", &nobody).await;
        assert_eq!((old, new), (Err(Code::NotFound), said(None, "DEFAULT")), "{method}");
        let disabled = both("disabled", &nobody).await;
        assert_eq!(disabled, (said(None, "DISABLED"), said(None, "DISABLED")), "{method}");
        for unknown in ["archived", "nothing", "", "x/y", &"k".repeat(10_000)] {
            let answered = both(unknown, &nobody).await;
            assert_eq!(answered, (Err(Code::NotFound), Err(Code::NotFound)), "{method} {unknown}");
        }
    }
    let matched = said(Some((json!(false), "off")), "TARGETING_MATCH");
    let missed = said(Some((json!(true), "on")), "DEFAULT");
    for (context, expected) in [(&german, matched), (&nobody, missed)] {
        let old = clients.v1("Boolean", "targeted", context).await.map_err(|status| status.code());
        let new = clients.v2("Boolean", "targeted", context).await.map_err(|status| status.code());
        assert_eq!((old, new), (expected.clone(), expected));
    }
    let unknown = clients.v2("Boolean", "nothing", &nobody).await.unwrap_err();
    assert_eq!(unknown.message(), "Flag not found");
    let mismatch = clients.v1("Int", "float", &nobody).await.unwrap_err();
    assert_eq!(mismatch.message(), "Type mismatch error");
}

#[tokio::test]
async fn the_same_rows_over_ofrep_one_by_one_and_all_together() {
    let world = World::start().await;
    table(&world).await;
    let rows = [
        (
            "archived",
            404,
            json!({"key": "archived", "errorCode": "FLAG_NOT_FOUND", "errorDetails": "flag `archived` does not exist"}),
        ),
        (
            "boolean",
            200,
            json!({"key": "boolean", "reason": "STATIC", "variant": "on", "value": true, "metadata": {}}),
        ),
        ("codeless", 200, json!({"key": "codeless", "reason": "DEFAULT", "metadata": {}})),
        ("disabled", 200, json!({"key": "disabled", "reason": "DISABLED", "metadata": {}})),
        (
            "float",
            200,
            json!({"key": "float", "reason": "STATIC", "variant": "half", "value": 0.5, "metadata": {}}),
        ),
        (
            "int",
            200,
            json!({"key": "int", "reason": "STATIC", "variant": "ten", "value": 10, "metadata": {}}),
        ),
        (
            "largest",
            200,
            json!({"key": "largest", "reason": "STATIC", "variant": "n", "value": 9_007_199_254_740_991_i64, "metadata": {}}),
        ),
        (
            "object",
            200,
            json!({"key": "object", "reason": "STATIC", "variant": "o", "value": {"a": 1}, "metadata": {}}),
        ),
        (
            "string",
            200,
            json!({"key": "string", "reason": "STATIC", "variant": "hi", "value": "hello", "metadata": {}}),
        ),
        (
            "targeted",
            200,
            json!({"key": "targeted", "reason": "TARGETING_MATCH", "variant": "off", "value": false, "metadata": {}}),
        ),
    ];
    let german = json!({"targetingKey": "ada", "country": "DE"});
    for (key, status, expected) in &rows {
        for slash in ["", "/"] {
            assert_eq!(
                ofrep(&world, &format!("{key}{slash}"), german.clone()).await,
                (*status, expected.clone())
            );
        }
    }
    for path in ["/ofrep/v1/evaluate/flags", "/ofrep/v1/evaluate/flags/"] {
        let asked = json!({ "context": german }).to_string();
        let (status, text) = world.post(path, "application/json", asked.as_bytes()).await;
        let bulk = body(&text);
        // By key, and without what does not exist.
        let expected: Vec<Json> = rows.iter().filter(|row| row.1 == 200).map(|row| row.2.clone()).collect();
        assert_eq!((status, &bulk["flags"]), (200, &json!(expected)));
        assert_eq!(bulk["metadata"], json!({}));
        assert_eq!(bulk["eventStreams"][0]["type"], "sse");
        assert_eq!(bulk["eventStreams"][0]["endpoint"]["requestUri"], "/ofrep/v1/events");
    }
    let mut all = V1::new(world.channel.clone());
    let request = v1::ResolveAllRequest { context: Some(context(&[("country", "DE")])) };
    let all = all.resolve_all(request).await.unwrap().into_inner();
    let keys: Vec<&str> = all.flags.keys().map(String::as_str).collect();
    let expected = ["boolean", "disabled", "float", "int", "largest", "object", "string", "targeted"];
    assert_eq!(keys, expected);
    assert_eq!(all.flags["targeted"].value, Some(v1::any_flag::Value::BoolValue(false)));
    assert_eq!(
        (all.flags["disabled"].reason.as_str(), all.flags["disabled"].variant.as_str()),
        ("DISABLED", "")
    );
    assert!(all.metadata.is_none());
}

#[tokio::test]
async fn an_answer_is_sent_again_only_when_it_differs() {
    let world = World::start().await;
    table(&world).await;
    let ask = async |context: Json, headers: &str, query: &str| {
        let body = json!({ "context": context }).to_string();
        let head = format!(
            "POST /ofrep/v1/evaluate/flags{query} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{headers}\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        world.http(head).await
    };
    let (status, text) = ask(json!({"country": "DE"}), "", "").await;
    let tag = header(&text, "etag").unwrap().to_owned();
    assert_eq!(status, 200);
    let known = format!("if-none-match: {tag}\r\n");
    let (status, text) = ask(json!({"country": "DE"}), &known, "").await;
    assert_eq!((status, header(&text, "etag"), body(&text)), (304, Some(tag.as_str()), Json::Null));
    // Another context has another answer, whatever the configuration's tag would say.
    let (status, text) = ask(json!({"country": "FR"}), &known, "").await;
    assert!(status == 200 && header(&text, "etag") != Some(&tag));
    // The client was told of a configuration that is not here.
    for query in ["?flagConfigEtag=other", "?flagConfigLastModified=99999999999"] {
        assert_eq!(ask(json!({"country": "DE"}), &known, query).await.0, 200, "{query}");
    }
    assert_eq!(ask(json!({"country": "DE"}), &known, "?flagConfigLastModified=1").await.0, 304);
    write(&world, [Flag { disabled: true, ..boolean("boolean") }]).await;
    assert_eq!(ask(json!({"country": "DE"}), &known, "").await.0, 200);
}

#[tokio::test]
async fn what_is_malformed_is_refused_in_the_protocols_own_words() {
    let world = World::start().await;
    table(&world).await;
    let invalid = |key: Option<&str>| {
        let mut fault =
            json!({"errorCode": "INVALID_CONTEXT", "errorDetails": "Provider context is not valid"});
        if let Some(key) = key {
            fault["key"] = json!(key);
        }
        fault
    };
    let deep = format!("{{\"context\":{}", "{\"a\":".repeat(50_000));
    for bad in ["x", "[1]", r#"{"context":"x"}"#, r#"{"context":{"#, "\u{feff}{}", &deep] {
        for (path, key) in [("", None), ("/boolean", Some("boolean"))] {
            let path = format!("/ofrep/v1/evaluate/flags{path}");
            let (status, text) = world.post(&path, "application/json", bad.as_bytes()).await;
            assert_eq!((status, body(&text)), (400, invalid(key)), "{path}");
        }
    }
    for tolerated in ["", "{}", r#"{"context":null}"#, r#"{"context":{},"more":1}"#] {
        let path = "/ofrep/v1/evaluate/flags/boolean";
        assert_eq!(world.post(path, "application/json", tolerated.as_bytes()).await.0, 200, "{tolerated}");
    }
    let large = json!({"context": {"a": "x".repeat(1_000_000)}}).to_string();
    for path in ["", "/boolean"] {
        let path = format!("/ofrep/v1/evaluate/flags{path}");
        let (status, text) = world.post(&path, "application/json", large.as_bytes()).await;
        assert!(status == 413 && body(&text)["errorDetails"].as_str().unwrap().contains("1000000"), "{text}");
    }
    let clients = Clients::new(world.channel.clone()).await;
    let large = context(&[("a", &"x".repeat(1_000_000))]);
    for method in METHODS {
        for status in
            [clients.v1(method, "boolean", &large).await, clients.v2(method, "boolean", &large).await]
        {
            assert_eq!(status.unwrap_err().code(), Code::ResourceExhausted, "{method}");
        }
    }
    // Just below it is read.
    let context = context(&[("a", &"x".repeat(999_000))]);
    assert!(clients.v2("Boolean", "boolean", &context).await.is_ok());
    assert_eq!(world.get("/ofrep/v1/evaluate/flags/boolean").await.0, 405);
}

fn metadata(entries: &[(&str, &str)]) -> Option<Struct> {
    Some(context(entries))
}

fn in_environment(environment: &str, flag: Flag) -> Flag {
    Flag { name: flag.name.replace("/production/", &format!("/{environment}/")), ..flag }
}

#[tokio::test]
async fn a_selector_chooses_and_of_equal_keys_the_later_environment_wins() {
    let world = World::start_set(|config| {
        config.fronts.environments = vec!["base".to_owned(), "production".to_owned()];
        config.fronts.authorities = [("eu.localhost".to_owned(), vec!["eu".to_owned()])].into();
    })
    .await;
    let named = |id: &str, variant: &str, set: &str| Flag {
        default_variant: Some(variant.to_owned()),
        metadata: metadata(&[("flagSetId", set)]),
        ..boolean(id)
    };
    let plain = |id: &str, variant: &str| Flag { metadata: None, ..named(id, variant, "") };
    write(
        &world,
        [
            in_environment("base", named("both", "off", "blue")),
            in_environment("base", plain("below", "off")),
            named("both", "on", "green"),
            plain("above", "on"),
            in_environment("eu", named("both", "off", "green")),
            in_environment("staging", named("both", "off", "staging")),
        ],
    )
    .await;
    let mut client = V2::new(world.channel.clone());
    let mut ask = async |key: &str, selector: Option<&str>| {
        let message = v2::ResolveBooleanRequest { flag_key: key.into(), context: None };
        let mut request = tonic::Request::new(message);
        if let Some(selector) = selector {
            request.metadata_mut().insert("flagd-selector", selector.parse().unwrap());
        }
        let answered = client.resolve_boolean(request).await;
        answered.map(|answer| (answer.get_ref().value, answer.into_inner().metadata)).map_err(|s| s.code())
    };
    for (key, selector, expected) in [
        ("both", None, Ok(true)),
        ("below", None, Ok(false)),
        ("above", None, Ok(true)),
        ("both", Some("source=base"), Ok(false)),
        ("both", Some("base"), Ok(false)),
        ("above", Some("base"), Err(Code::NotFound)),
        ("both", Some("flagSetId=blue"), Ok(false)),
        ("both", Some("flagSetId=green"), Ok(true)),
        ("both", Some("flagSetId=green,source=base"), Err(Code::NotFound)),
        ("both", Some("flagSetId="), Err(Code::NotFound)),
        ("above", Some("flagSetId="), Ok(true)),
        // Outside of the view: by its source, never by a set that happens to have the name.
        ("both", Some("source=staging"), Ok(false)),
        ("both", Some("flagSetId=staging"), Err(Code::NotFound)),
        ("both", Some("source=nowhere"), Err(Code::NotFound)),
        ("both", Some("environment=base"), Err(Code::InvalidArgument)),
        ("both", Some("source=a,source=b"), Err(Code::InvalidArgument)),
    ] {
        let answered = ask(key, selector).await.map(|(value, _)| value.unwrap());
        assert_eq!(answered, expected, "{key} {selector:?}");
    }
    // The selector stands below what the flag says itself.
    let (_, said) = ask("below", Some("base")).await.unwrap();
    assert_eq!(said, metadata(&[("source", "base")]));
    let (_, said) = ask("above", None).await.unwrap();
    assert_eq!(said, None, "nothing is added of our own");

    let over_http = async |path: &str, extra: &str| {
        let head = format!(
            "POST /ofrep/v1/evaluate/flags{path} HTTP/1.1\r\nconnection: close\r\n{extra}content-length: 0\r\n\r\n"
        );
        let (status, text) = world.http(head).await;
        (status, body(&text))
    };
    let (status, said) = over_http("/both", "host: localhost\r\nFlagd-Selector: source=base\r\n").await;
    assert_eq!((status, &said["value"]), (200, &json!(false)));
    let (status, said) = over_http("/both", "host: localhost\r\nFlagd-Selector: env=base\r\n").await;
    assert_eq!((status, &said["errorCode"]), (400, &json!("GENERAL")));
    assert!(said["errorDetails"].as_str().unwrap().starts_with("invalid selector: 'env'"));
    let (status, said) = over_http("", "host: localhost\r\nFlagd-Selector: base\r\n").await;
    assert_eq!((status, said["flags"].as_array().unwrap().len()), (200, 2));
    assert_eq!(said["metadata"], json!({"source": "base"}));
    assert_eq!(said["eventStreams"][0]["endpoint"]["requestUri"], "/ofrep/v1/events?selector=source%3Dbase");

    // A name has its own environments, and no selector leads out of them.
    let (status, said) = over_http("/both", "host: eu.localhost:8016\r\n").await;
    assert_eq!((status, &said["value"]), (200, &json!(false)));
    assert_eq!(over_http("/above", "host: eu.localhost\r\n").await.0, 404);
    assert_eq!(over_http("/above", "host: eu.localhost\r\nflagd-selector: production\r\n").await.0, 404);
    assert_eq!(over_http("/above", "host: us.localhost\r\n").await.0, 403);
    let address = world.node.local_addr();
    let european = tonic::transport::Endpoint::from_shared(format!("http://{address}")).unwrap();
    let european = european.origin("http://eu.localhost".parse().unwrap()).connect().await.unwrap();
    let message = v2::ResolveBooleanRequest { flag_key: "both".into(), context: None };
    let answer = V2::new(european).resolve_boolean(message).await.unwrap().into_inner();
    assert_eq!(answer.value, Some(false));
}

#[tokio::test]
async fn static_values_and_headers_win_over_the_caller() {
    let world = World::start_set(|config| {
        config.fronts.context_values = [("country".to_owned(), "DE".to_owned())].into();
        config.fronts.context_headers = [("x-country".to_owned(), "country".to_owned())].into();
    })
    .await;
    write(&world, [german(boolean("targeted"), "off")]).await;
    let mut client = V2::new(world.channel.clone());
    let own = context(&[("country", "FR"), ("$flagd", "spoofed")]);
    for (header, expected) in [(None, "TARGETING_MATCH"), (Some("FR"), "DEFAULT")] {
        let message = v2::ResolveBooleanRequest { flag_key: "targeted".into(), context: Some(own.clone()) };
        let mut request = tonic::Request::new(message);
        if let Some(header) = header {
            request.metadata_mut().insert("x-country", header.parse().unwrap());
        }
        assert_eq!(client.resolve_boolean(request).await.unwrap().into_inner().reason, expected);
    }
    let (_, said) = ofrep(&world, "targeted", json!({"country": "FR"})).await;
    assert_eq!(said["reason"], "TARGETING_MATCH");
}

#[tokio::test]
async fn an_experiments_arm_implies_an_exposure_and_carries_its_receipt() {
    let world = World::start_set(|config| config.fronts.environments = vec!["test".to_owned()]).await;
    world.run_experiment().await;
    let exposed = || world.node.observation().exposures_implied.load(std::sync::atomic::Ordering::Relaxed);
    let clients = Clients::new(world.channel.clone()).await;
    let ada = context(&[("targetingKey", "ada")]);
    // A mismatch serves nothing, and all at once show nothing yet.
    clients.v2("Int", "checkout", &ada).await.unwrap_err();
    let mut all = V1::new(world.channel.clone());
    all.resolve_all(v1::ResolveAllRequest { context: Some(ada.clone()) }).await.unwrap();
    world
        .post("/ofrep/v1/evaluate/flags", "application/json", br#"{"context":{"targetingKey":"ada"}}"#)
        .await;
    assert_eq!(exposed(), 0);
    let message = v2::ResolveBooleanRequest { flag_key: "checkout".into(), context: Some(ada.clone()) };
    let answer = V2::new(world.channel.clone()).resolve_boolean(message).await.unwrap().into_inner();
    assert_eq!((answer.reason.as_str(), exposed()), ("SPLIT", 1));
    let Some(Kind::StringValue(receipt)) = &answer.metadata.unwrap().fields["featureopsReceipt"].kind else {
        panic!("no receipt")
    };
    assert_eq!(receipt.len(), 32);
    assert_eq!(clients.v1("Boolean", "checkout", &ada).await.unwrap().reason, "SPLIT");
    let (_, said) = ofrep(&world, "checkout", json!({"targetingKey": "bob"})).await;
    // What ada was shown was shown once.
    assert_eq!((said["reason"].as_str(), exposed()), (Some("SPLIT"), 2));
    assert_eq!(said["metadata"]["featureopsReceipt"].as_str().unwrap().len(), 32);
    // Sent back, it is honoured, and comes back as it was.
    let kept = json!({"targetingKey": "ada", "featureopsReceipt": receipt});
    let (_, said) = ofrep(&world, "checkout", kept).await;
    assert_eq!(said["metadata"]["featureopsReceipt"].as_str(), Some(receipt.as_str()));
}

#[tokio::test]
async fn flagds_ports_serve_what_its_clients_look_for_and_nothing_else() {
    let world = World::start_set(|config| {
        let any = "127.0.0.1:0".parse().unwrap();
        config.fronts.ports = Some(Ports { evaluation: any, management: any, sync: any, ofrep: any });
    })
    .await;
    write(&world, [boolean("boolean")]).await;
    let ports = world.node.flagd_addrs().unwrap();
    let message = v2::ResolveBooleanRequest { flag_key: "boolean".into(), context: None };
    let evaluation = world::channel(ports.evaluation).await;
    assert!(V2::new(evaluation.clone()).resolve_boolean(message.clone()).await.is_ok());
    let mut elsewhere = featureops::rpc::flag_service_client::FlagServiceClient::new(evaluation);
    assert_eq!(elsewhere.set_flag(set(boolean("x"))).await.unwrap_err().code(), Code::Unimplemented);
    let sync = world::channel(ports.sync).await;
    assert_eq!(V2::new(sync).resolve_boolean(message).await.unwrap_err().code(), Code::Unimplemented);
    let get = |address, path: &str| {
        world::http(address, format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"))
    };
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(get(ports.management, path).await.0, 200, "{path}");
        assert_eq!(get(ports.ofrep, path).await.0, 404, "{path}");
    }
    for address in [ports.evaluation, ports.management, ports.sync] {
        let mut health = tonic_health::pb::health_client::HealthClient::new(world::channel(address).await);
        let check = tonic_health::pb::HealthCheckRequest { service: String::new() };
        assert_eq!(health.check(check).await.unwrap().into_inner().status, 1);
    }
    let head = "POST /ofrep/v1/evaluate/flags/boolean HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
                content-length: 0\r\n\r\n";
    assert_eq!(world::http(ports.ofrep, head).await.0, 200);
    let foreign = head.replace("localhost", "evil.example");
    assert_eq!(world::http(ports.ofrep, foreign).await.0, 403);

    let folder = tempfile::tempdir().unwrap();
    let public = |config: &mut featureops::config::NodeConfig| {
        let any = "127.0.0.1:0".parse().unwrap();
        let open = "0.0.0.0:0".parse().unwrap();
        config.fronts.ports = Some(Ports { evaluation: any, management: any, sync: open, ofrep: any });
    };
    let refused = world::start_set(&folder, public).await.err().unwrap();
    assert!(refused.message.starts_with("flagd_ports: '0.0.0.0:0'"), "{refused}");
}
