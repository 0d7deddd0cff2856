//! What no client should send, and what a node answers to it: an error that names the fault, and then the next request.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test"
)]

mod raw;
mod world;

use axum::body::Body;
use featureops_proto::v1::{Flag, SetMetricRequest, StartExperimentRequest, ValueType};
use prost::Message as _;
use prost_types::{ListValue, Struct, Value, value::Kind};
use tonic::Code;
use tower::ServiceExt as _;
use world::{World, checkout, evaluate, metric, outcome, outcomes, set};

/// Posts raw bytes as one gRPC message over HTTP/2 and reads the status from headers or trailers.
async fn raw(world: &World, path: &str, message: &[u8], declared: usize) -> Option<i32> {
    let mut body = vec![0];
    body.extend_from_slice(&u32::try_from(declared).unwrap().to_be_bytes());
    body.extend_from_slice(message);
    let request = axum::http::Request::post(format!("http://{}{path}", world.node.local_addr()))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(tonic::body::Body::new(Body::from(body)))
        .unwrap();
    let response = world.channel.clone().oneshot(request).await.ok()?;
    let status = |headers: &axum::http::HeaderMap| headers.get("grpc-status")?.to_str().ok()?.parse().ok();
    if let Some(code) = status(response.headers()) {
        return Some(code);
    }
    let mut body = std::pin::pin!(response.into_body());
    loop {
        let frame =
            std::future::poll_fn(|cx| axum::body::HttpBody::poll_frame(body.as_mut(), cx)).await?.ok()?;
        if let Some(trailers) = frame.trailers_ref() {
            return status(trailers);
        }
    }
}

async fn is_alive(world: &World) {
    assert_eq!(world.get("/livez").await.0, 200);
    world.flags().set_flag(set(checkout())).await.unwrap();
}

#[tokio::test]
async fn truncated_and_foreign_bytes_are_refused() {
    let world = World::start().await;
    let whole = set(checkout()).encode_to_vec();
    for path in [
        "/featureops.v1.FlagService/SetFlag",
        "/featureops.v1.EvaluationService/Evaluate",
        "/featureops.v1.FactService/ReportOutcomes",
    ] {
        for cut in (1..whole.len()).step_by(7) {
            let code = raw(&world, path, &whole[..cut], cut).await;
            assert!(code.is_some(), "{path} {cut}");
        }
        // More declared than sent, noise, and nothing at all.
        assert_ne!(raw(&world, path, &whole, whole.len() + 9).await, Some(0));
        let noise: Vec<u8> = (0..4_096u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        assert_ne!(raw(&world, path, &noise, noise.len()).await, Some(0));
    }
    assert_eq!(
        raw(&world, "/featureops.v1.FlagService/Nothing", &[], 0).await,
        Some(Code::Unimplemented as i32)
    );
    assert_eq!(raw(&world, "/no.such.Service/Nothing", &[], 0).await, Some(Code::Unimplemented as i32));
    is_alive(&world).await;
}

#[tokio::test]
async fn ten_mebibytes_are_refused_and_the_bound_is_named() {
    let world = World::start().await;
    let mut flag = checkout();
    flag.description = "x".repeat(10 << 20);
    let refused = world.flags().set_flag(set(flag)).await.unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange);
    assert!(refused.message().contains("4194304"), "{}", refused.message());
    let (status, _) = world.post("/v1/alarms", "application/json", &vec![b' '; (64 << 10) + 1]).await;
    assert_eq!(status, 413);
    let (_, text) = world.post("/v1/alarms", "application/json", &vec![b' '; (64 << 10) + 1]).await;
    assert!(
        text.contains("application/json") && text.contains("TOO_LARGE") && text.contains("65536"),
        "{text}"
    );
    // The answer may be lost to a client that goes on sending: it then sees a reset, and nothing was raised.
    let (status, _) = world.post("/v1/alarms", "application/json", &vec![b' '; 10 << 20]).await;
    assert!(status == 413 || status == 0, "{status}");
    is_alive(&world).await;
}

fn nested(depth: usize) -> Value {
    let mut value = Value::from("deep");
    for level in 0..depth {
        let kind = if level % 2 == 0 {
            Kind::ListValue(ListValue { values: vec![value] })
        } else {
            Kind::StructValue(Struct { fields: [("x".to_owned(), value)].into() })
        };
        value = Value { kind: Some(kind) };
    }
    value
}

#[tokio::test]
async fn deep_values_are_refused_before_they_cost_anything() {
    let world = World::start().await;
    for depth in [20, 200] {
        let mut request = evaluate("checkout", "ada");
        request.context.as_mut().unwrap().fields.insert("deep".into(), nested(depth));
        let outcome = world.evaluation().evaluate(request).await;
        assert_eq!(outcome.is_ok(), depth == 20, "{outcome:?}");
    }
    // A level more or less of an object decides, and nothing else about it.
    let object = |depth| {
        let root = Value {
            kind: Some(Kind::StructValue(Struct { fields: [("x".to_owned(), nested(depth))].into() })),
        };
        let variants = ["on", "off"].map(|name| (name.to_owned(), root.clone())).into();
        let name = "environments/test/flags/deep".to_owned();
        set(Flag { name, r#type: ValueType::Object.into(), variants, ..checkout() })
    };
    // A scalar in `depth` levels, in the root: depth + 2 of at most 32.
    world.flags().set_flag(object(20)).await.unwrap();
    world.flags().set_flag(object(30)).await.unwrap();
    let refused = world.flags().set_flag(object(31)).await.unwrap_err();
    assert!(refused.message().contains("at most 32 levels"), "{}", refused.message());
    assert!(world.flags().set_flag(object(200)).await.is_err());
    let stood = world.evaluation().evaluate(evaluate("deep", "ada")).await.unwrap().into_inner();
    assert_eq!(stood.flag_version, 2);
    let deep = format!("{{\"environment\":{}1{}}}", "[".repeat(5_000), "]".repeat(5_000));
    let (status, text) = world.post("/v1/alarms", "application/json", deep.as_bytes()).await;
    assert!(status == 400 && text.contains("INVALID_ARGUMENT"), "{text}");
    is_alive(&world).await;
}

#[tokio::test]
async fn unknown_enum_values_and_long_names_are_named_in_the_answer() {
    let world = World::start().await;
    world.run_experiment().await;
    let mut request: SetMetricRequest = metric("clicks", featureops_proto::v1::metric::Kind::Count);
    request.metric.as_mut().unwrap().kind = 99;
    request.metric.as_mut().unwrap().decimal_scale = Some(10);
    let refused = world.metrics().set_metric(request).await.unwrap_err();
    assert!(refused.message().starts_with("metric.kind: '99'"), "{}", refused.message());

    let name = "environments/test/experiments/button".to_owned();
    let start = StartExperimentRequest { name, autonomy: -3, ..Default::default() };
    let refused = world.experiments().start_experiment(start).await.unwrap_err();
    assert!(refused.message().starts_with("autonomy: '-3'"), "{}", refused.message());

    let mut flag = checkout();
    flag.r#type = 42;
    assert_eq!(world.flags().set_flag(set(flag)).await.unwrap_err().code(), Code::InvalidArgument);
    let mut flag = checkout();
    flag.name = format!("environments/test/flags/{}", "x".repeat(100_000));
    let refused = world.flags().set_flag(set(flag)).await.unwrap_err();
    assert!(refused.code() == Code::InvalidArgument && refused.message().len() < 400);

    let long = "k".repeat(100_000);
    let answer = world.evaluation().evaluate(evaluate(&long, "ada")).await.unwrap().into_inner();
    assert!(answer.flag.len() < 200 && answer.variant.is_none());
    let refused = world.evaluation().evaluate(evaluate("checkout", &long)).await.unwrap_err();
    assert!(refused.message().starts_with("context: '1000"), "{}", refused.message());
    // The longest key there may be comes back whole.
    let longest = "k".repeat(128);
    let answer = world.evaluation().evaluate(evaluate(&longest, "ada")).await.unwrap().into_inner();
    assert_eq!(answer.flag, longest);
    // A fault inside something long is still one that a client can read.
    let mut flag = checkout();
    flag.variants.insert("v".repeat(20_000), Value::from(f64::NAN));
    let refused = world.flags().set_flag(set(flag)).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    assert!(refused.message().starts_with("flag.variants[vvv"), "{}", refused.message());
    let producer = outcomes(&long, 1, vec![outcome("ada", 1.0)]);
    let refused = world.facts().report_outcomes(producer).await.unwrap_err();
    assert!(refused.message().starts_with("producer: "), "{}", refused.message());
    let many = outcomes("shop", 1, vec![outcome("ada", 1.0); 4_097]);
    let refused = world.facts().report_outcomes(many).await.unwrap_err();
    assert!(refused.message().contains("4097"), "{}", refused.message());
    is_alive(&world).await;
}

#[tokio::test]
async fn the_straight_way_is_as_strict_as_the_router() {
    let world = World::start().await;
    world.run_experiment().await;
    let message = evaluate("checkout", "ada").encode_to_vec();
    let mut peer = raw::Peer::connect(&world).await;
    for service in
        ["featureops.v1.EvaluationService", "flagd.evaluation.v1.Service", "featureops.v1.FlagService"]
    {
        let path = format!("/{service}/Guess");
        let mut stream = peer.open(&path).await;
        stream.send_last(&message);
        let head = stream.head().await.unwrap();
        assert_eq!(raw::status_of(head.headers()), Some(Code::Unimplemented as i32));
        let said = head.headers()["grpc-message"].to_str().unwrap();
        assert!(said.contains("Guess"), "{said}");
    }
    let path = "/featureops.v1.EvaluationService/Evaluate";
    for method in ["GET", "PUT", "DELETE"] {
        let mut stream = peer.ask(method, path, &[], false).await;
        stream.send_last(&message);
        let head = stream.head().await.unwrap();
        assert_eq!((head.status().as_u16(), &head.headers()["allow"]), (405, &"POST".parse().unwrap()));
    }
    for (wished, code) in [("0m", Code::DeadlineExceeded), ("0H", Code::DeadlineExceeded), ("9S", Code::Ok)] {
        let mut stream = peer.open_with(path, &[("grpc-timeout", wished)]).await;
        stream.send_last(&message);
        assert_eq!(stream.status().await, Some(code as i32), "{wished}");
    }
}

#[tokio::test]
async fn a_unit_that_no_fact_could_name_is_in_no_experiment() {
    let world = World::start().await;
    world.run_experiment().await;
    for (bytes, is_in) in [(1_024, true), (1_025, false)] {
        let unit = "u".repeat(bytes);
        let answer = world.evaluation().evaluate(evaluate("checkout", &unit)).await.unwrap().into_inner();
        assert_eq!(answer.propensity_basis_points.is_some(), is_in, "{answer:?}");
        assert_eq!(!answer.receipt.is_empty(), is_in);
        let reported = outcomes("shop", bytes as u64, vec![outcome(&unit, 1.0)]);
        let reply = world.facts().report_outcomes(reported).await.unwrap().into_inner();
        assert!(is_in || reply.counted == 0, "{reply:?}");
    }
    assert_eq!(world.metric("featureops_exposures_implied_total").await, 1);
}

#[tokio::test]
async fn bytes_that_are_no_http_end_the_connection_and_nothing_else() {
    let world = World::start().await;
    for junk in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc"[..],
        b"\r\n\r\n\r\n",
        &[0; 2_000],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nnonsense",
    ] {
        // Half-close, as a client that gives up does.
        let mut stream = tokio::net::TcpStream::connect(world.node.local_addr()).await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stream, junk).await.unwrap();
        tokio::io::AsyncWriteExt::shutdown(&mut stream).await.unwrap();
        let mut sink = Vec::new();
        let read = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut sink);
        let _ =
            tokio::time::timeout(std::time::Duration::from_secs(15), read).await.expect("the node hung up");
    }
    let long = format!("GET /livez HTTP/1.1\r\nhost: localhost\r\nx: {}\r\n\r\n", "y".repeat(100_000));
    let (status, _) = world.http(long).await;
    assert!(status == 431 || status == 0, "{status}");
    is_alive(&world).await;
}
