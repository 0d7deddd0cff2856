//! Peers that hold what they were given: memory, streams, places. Others must not notice.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test"
)]

mod raw;
mod world;

use std::time::Duration;

use featureops_proto::v1::{
    Condition, EvaluateAllRequest, FactBatch, Flag, ListFlagVersionsRequest, ListFlagsRequest, Rule,
    StreamFactsResponse, TripFlagRequest, ValueType, condition, metric, rule,
};
use prost::Message as _;
use prost_types::Value;
use raw::{Peer, Stream, framed, rest};
use tokio::time::{Instant, timeout};
use tonic::Code;
use world::{World, checkout, evaluate, metric, outcome, set};

const PATIENCE: Duration = Duration::from_secs(20);
const STREAM_FACTS: &str = "/featureops.v1.FactService/StreamFacts";

/// All but the last byte of the largest message.
fn most_of_a_message() -> Vec<u8> {
    let length = 4_u32 << 20;
    [&[0][..], &length.to_be_bytes(), &vec![0x0a; length as usize - 1]].concat()
}

async fn is_served(world: &World) {
    world.evaluation().evaluate(evaluate("checkout", &"u".repeat(20_000))).await.unwrap();
    let name = "environments/test/flags/none".to_owned();
    let trip = TripFlagRequest { name, reason: "x".repeat(2_000), ..Default::default() };
    assert_eq!(world.administration().trip_flag(trip).await.unwrap_err().code(), Code::NotFound);
}

async fn held(world: &World) -> usize {
    world.metric("featureops_request_bytes_in_flight").await
}

#[tokio::test]
async fn messages_that_stay_half_sent_deny_nobody_and_end() {
    let world = World::start_set(|config| {
        config.limits.request_bytes_in_flight = 16 << 20;
        config.limits.request_timeout = Duration::from_secs(3);
    })
    .await;
    world.flags().set_flag(set(checkout())).await.unwrap();
    let mut streams = Vec::new();
    for _ in 0..4 {
        let mut peer = Peer::connect(&world).await;
        for _ in 0..3 {
            let mut stream = peer.open(STREAM_FACTS).await;
            stream.send(most_of_a_message());
            streams.push(stream);
        }
        streams.push(peer.open(STREAM_FACTS).await);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let most = held(&world).await;
    assert!((4 << 20..=12 << 20).contains(&most), "{most} bytes are held");
    is_served(&world).await;
    let mut ended = [0; 2];
    for (at, stream) in streams.iter_mut().enumerate() {
        if at % 4 == 3 {
            // It holds nothing, and may stay.
            assert!(timeout(Duration::from_millis(10), stream.status()).await.is_err());
            continue;
        }
        match timeout(PATIENCE, stream.status()).await.expect("in time") {
            Some(4) => ended[0] += 1,
            Some(8) => ended[1] += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(ended[0] > 0 && ended[1] > 0, "{ended:?}");
    assert_eq!(held(&world).await, 0);
}

fn one_event(stream: u64, sequence: u64) -> FactBatch {
    let outcomes = vec![outcome(&format!("u{sequence}"), 1.0)];
    let (environment, producer) = ("test".into(), format!("p{stream}"));
    FactBatch { environment, producer, sequence, outcomes, ..FactBatch::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_event_a_message_at_full_speed_is_taken() {
    let world = World::start().await;
    world.metrics().set_metric(metric("revenue", metric::Kind::Mean)).await.unwrap();
    // As clients do it.
    let batches = tokio_stream::iter((1..=60_000).map(|sequence| one_event(0, sequence)));
    let total = world.facts().stream_facts(batches).await.unwrap().into_inner();
    assert_eq!((total.batches, total.refused_batches), (60_000, 0), "{total:?}");
    // And each in a frame of its own, on several streams of a connection.
    let mut peer = Peer::connect(&world).await;
    let mut streams = Vec::new();
    for stream in 1..=5 {
        let mut opened = peer.open(STREAM_FACTS).await;
        for sequence in 1..=6_000 {
            opened.send(framed(&one_event(stream, sequence).encode_to_vec()));
        }
        opened.end();
        streams.push(opened);
    }
    for mut stream in streams {
        let body = stream.head().await.expect("the connection lives").into_body();
        let (bytes, status) = rest(body).await.unwrap();
        let total = StreamFactsResponse::decode(&bytes[5..]).unwrap();
        assert_eq!((status, total.batches, total.refused_batches), (Some(0), 6_000, 0), "{total:?}");
    }
    assert!(!peer.connection.is_finished());
}

/// A flag of about 200 KB.
fn heavy(id: usize) -> Flag {
    let variants = ["on", "off"].map(|name| (name.to_owned(), Value::from(name.repeat(40_000)))).into();
    let name = format!("environments/test/flags/heavy-{id:03}");
    Flag { name, r#type: ValueType::String.into(), variants, ..checkout() }
}

fn list(page_token: String) -> ListFlagsRequest {
    let parent = "environments/test".to_owned();
    ListFlagsRequest { parent, page_size: 1_000, page_token, ..Default::default() }
}

const LIST_FLAGS: &str = "/featureops.v1.FlagService/ListFlags";
const EVALUATE: &str = "/featureops.v1.EvaluationService/Evaluate";

async fn asked(peer: &mut Peer, path: &str, message: &[u8]) -> Stream {
    let mut stream = peer.open(path).await;
    stream.send_last(message);
    stream
}

#[tokio::test]
async fn a_page_ends_at_a_mebibyte_and_the_walk_sees_all() {
    let world = World::start().await;
    for id in 0..12 {
        world.flags().set_flag(set(heavy(id))).await.unwrap();
    }
    world.flags().set_flag(set(Flag { description: "new".into(), ..heavy(0) })).await.unwrap();
    let (mut token, mut seen) = (String::new(), Vec::new());
    loop {
        let page = world.flags().list_flags(list(token)).await.unwrap().into_inner();
        assert!(!page.flags.is_empty() && page.encoded_len() < (1 << 20) + 1_000, "{}", page.encoded_len());
        seen.extend(page.flags.into_iter().map(|flag| flag.name));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(seen, (0..12).map(|id| heavy(id).name).collect::<Vec<_>>());
    let versions = ListFlagVersionsRequest { name: heavy(0).name, ..Default::default() };
    let versions = world.flags().list_flag_versions(versions).await.unwrap().into_inner().versions;
    assert_eq!(versions.iter().map(|version| version.flag_version).collect::<Vec<_>>(), [2, 1]);
}

#[tokio::test]
async fn answers_that_nobody_takes_are_bounded_and_dropped() {
    let world = World::start_set(|config| {
        config.limits.request_bytes_in_flight = 16 << 20;
        config.limits.request_timeout = Duration::from_secs(2);
    })
    .await;
    world.flags().set_flag(set(checkout())).await.unwrap();
    for id in 0..8 {
        world.flags().set_flag(set(heavy(id))).await.unwrap();
    }
    for window in [0, 1, 20_000] {
        let mut peer =
            Peer::connect_with(&world, h2::client::Builder::new().initial_window_size(window)).await;
        let message = list(String::new()).encode_to_vec();
        let mut streams = Vec::new();
        for _ in 0..40 {
            streams.push(asked(&mut peer, LIST_FLAGS, &message).await);
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        let most = held(&world).await;
        assert!((4 << 20..=8 << 20).contains(&most), "{most} bytes are held");
        is_served(&world).await;
        let mut ended = [0; 2];
        for stream in &mut streams {
            let body = timeout(PATIENCE, stream.head()).await.unwrap().unwrap().into_body();
            // Nothing is taken: the head says nothing of the rest.
            match timeout(PATIENCE, last_word(body)).await.expect("in time") {
                None => ended[0] += 1,
                Some(8) => ended[1] += 1,
                other => panic!("{other:?}"),
            }
        }
        assert!(ended[0] >= 4 && ended[1] > 0, "{ended:?}");
        assert_eq!(held(&world).await, 0);
    }
}

/// What a response ends with, to a peer that opens no window; none after a reset.
async fn last_word(mut body: h2::RecvStream) -> Option<i32> {
    while let Some(data) = body.data().await {
        data.ok()?;
    }
    raw::status_of(&body.trailers().await.ok()??)
}

#[tokio::test]
async fn the_rest_of_small_answers_holds_no_connection_and_a_slow_reader_gets_all() {
    let world = World::start_set(|config| config.limits.request_timeout = Duration::from_secs(1)).await;
    world.flags().set_flag(set(checkout())).await.unwrap();
    for id in 0..4 {
        world.flags().set_flag(set(heavy(id))).await.unwrap();
    }
    // Answers of which one byte may be sent: their tasks are done.
    let mut peer = Peer::connect_with(&world, h2::client::Builder::new().initial_window_size(1)).await;
    for _ in 0..100 {
        asked(&mut peer, EVALUATE, &evaluate("checkout", "ada").encode_to_vec()).await;
    }
    // And one that takes 32 KiB now and then, longer than any of this takes.
    let mut slow = Peer::connect_with(&world, h2::client::Builder::new().initial_window_size(32 << 10)).await;
    let mut answer = asked(&mut slow, LIST_FLAGS, &list(String::new()).encode_to_vec()).await;
    let mut body = answer.head().await.unwrap().into_body();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(held(&world).await > 100);
    let mut taken = 0;
    while let Some(data) = body.data().await {
        let data = data.expect("a slow reader is no silent one");
        taken += data.len();
        tokio::time::sleep(Duration::from_millis(150)).await;
        body.flow_control().release_capacity(data.len()).unwrap();
    }
    assert!(taken > 600_000, "{taken}");
    assert_eq!(raw::status_of(&body.trailers().await.unwrap().unwrap()), Some(0));
    assert!(timeout(PATIENCE, &mut peer.connection).await.is_ok(), "the connection is over");
    assert_eq!(held(&world).await, 0);
    is_served(&world).await;
}

const WEB_TEXT: &str = "application/grpc-web-text";

/// Base64, as gRPC-web's text form sends a message.
fn in_text(message: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let group = |bytes: &[u8]| {
        let bits = (0..3).fold(0_u32, |bits, at| bits << 8 | u32::from(bytes.get(at).copied().unwrap_or(0)));
        let letters = (0..4).map(move |at| char::from(LETTERS[(bits >> (18 - 6 * at)) as usize & 63]));
        let kept = bytes.len() + 1;
        letters.take(kept).chain(std::iter::repeat_n('=', 4 - kept)).collect::<String>()
    };
    framed(message).chunks(3).map(group).collect()
}

#[tokio::test]
async fn a_stream_in_text_is_refused_and_one_message_in_text_is_not_held_beyond_its_answer() {
    let world = World::start_set(|config| config.limits.request_timeout = Duration::from_secs(1)).await;
    world.flags().set_flag(set(checkout())).await.unwrap();
    for path in ["/featureops.v1.EvaluationService/EvaluateStream", STREAM_FACTS] {
        let (status, text) = world.post(path, WEB_TEXT, in_text(&[]).as_bytes()).await;
        assert!(status == 200 && text.contains("grpc-status: 12"), "{text}");
        assert!(text.contains("grpc-web+proto"), "{text}");
    }
    let message = evaluate("checkout", "ada").encode_to_vec();
    let (status, text) = world.post(EVALUATE, WEB_TEXT, in_text(&message).as_bytes()).await;
    assert!(status == 200 && text.contains("grpc-status:0"), "{text}");
    // A message to a method that answers with a stream: held as a whole, and not for longer than it may take to come.
    let mut peer = Peer::connect(&world).await;
    let tail = "/featureops.v1.AdministrationService/TailAudit";
    let mut half = peer.open_with(tail, &[("content-type", WEB_TEXT)]).await;
    half.send(in_text(&[7; 200_000])[..40_000].to_owned());
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!((40_000..90_000).contains(&held(&world).await), "{}", held(&world).await);
    let ended = timeout(PATIENCE, half.head()).await.expect("in time").map(|head| head.into_body());
    if let Ok(body) = ended {
        let _ = timeout(PATIENCE, rest(body)).await.expect("in time");
    }
    assert_eq!(held(&world).await, 0);
}

#[tokio::test]
async fn a_deadline_also_ends_a_stream_that_has_begun_to_answer() {
    let world = World::start().await;
    world.flags().set_flag(set(checkout())).await.unwrap();
    let mut peer = Peer::connect(&world).await;
    let path = "/featureops.v1.EvaluationService/EvaluateStream";
    let began = Instant::now();
    let mut stream = peer.open_with(path, &[("grpc-timeout", "700m")]).await;
    stream.send(framed(&evaluate("checkout", "ada").encode_to_vec()));
    let body = stream.head().await.unwrap().into_body();
    let (bytes, status) = timeout(PATIENCE, rest(body)).await.expect("in time").unwrap();
    assert!(bytes.len() > 5, "it answered before");
    assert_eq!(status, Some(Code::DeadlineExceeded as i32));
    assert!(began.elapsed() >= Duration::from_millis(650), "{:?}", began.elapsed());
    // Without one it goes on.
    let mut stream = peer.open(path).await;
    stream.send(framed(&evaluate("checkout", "ada").encode_to_vec()));
    let body = stream.head().await.unwrap().into_body();
    assert!(timeout(Duration::from_secs(1), rest(body)).await.is_err());
}

/// Conditions that read all of a long text, and do not hold.
fn laborious(id: usize) -> Flag {
    let condition = |n: usize| Condition {
        attribute: "text".into(),
        operator: condition::Operator::Contains.into(),
        values: vec![Value::from(format!("{n:03}y"))],
    };
    let rule = |n: usize| Rule {
        id: format!("r{n}"),
        conditions: vec![condition(n)],
        serve: Some(rule::Serve::Variant("on".into())),
    };
    let rules = (0..256).map(rule).collect();
    Flag { name: format!("environments/test/flags/slow-{id:03}"), rules, ..checkout() }
}

/// Flags at first, doubled until all of them take [`LABOUR_MIN`]: a quarter of it is a deadline that one walk misses.
const FLAGS_LABORIOUS_MIN: usize = 60;
const FLAGS_LABORIOUS_MAX: usize = 960;
const LABOUR_MIN: Duration = Duration::from_millis(60);

#[tokio::test]
async fn evaluating_all_flags_keeps_no_one_waiting_and_hears_its_deadline() {
    let world = World::start().await;
    world.flags().set_flag(set(checkout())).await.unwrap();
    let text = "0".repeat(60_000);
    let context = world::context(&[("targetingKey", "ada"), ("text", &text)]);
    let request = || EvaluateAllRequest {
        environment: "test".into(),
        context: Some(context.clone()),
        ..EvaluateAllRequest::default()
    };
    // As many flags as are a labour for this machine; the text is already as long as a context may be.
    let (mut flags, mut wanted) = (0, FLAGS_LABORIOUS_MIN);
    let alone = loop {
        for id in flags..wanted {
            world.flags().set_flag(set(laborious(id))).await.unwrap();
        }
        flags = wanted;
        let began = Instant::now();
        let all = world.evaluation().evaluate_all(request()).await.unwrap().into_inner().evaluations;
        let alone = began.elapsed();
        assert!(all.len() == flags + 1 && all.iter().all(|one| one.variant.as_deref() == Some("off")));
        if alone > LABOUR_MIN {
            break alone;
        }
        wanted = flags * 2;
        assert!(wanted <= FLAGS_LABORIOUS_MAX, "{flags} flags in {alone:?} are no labour");
    };
    let mut busy = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (mut client, request) = (world.evaluation(), request());
        busy.spawn(async move { client.evaluate_all(request).await.map(drop) });
    }
    tokio::task::yield_now().await;
    let mut between = 0;
    let mut other = featureops::rpc::evaluation_service_client::EvaluationServiceClient::new(
        world::channel(world.node.local_addr()).await,
    );
    while busy.try_join_next().is_none() {
        other.evaluate(evaluate("checkout", "ada")).await.unwrap();
        between += 1;
    }
    assert!(between > 3, "{between} were served while eight walked over {flags} flags");
    busy.shutdown().await;
    let mut late = tonic::Request::new(request());
    late.set_timeout(alone / 4);
    let refused = world.evaluation().evaluate_all(late).await.unwrap_err();
    assert!(matches!(refused.code(), Code::DeadlineExceeded | Code::Cancelled), "{refused:?}");
    // flagd's clients and OFREP's take the same walk.
    let body = format!("{{\"context\":{{\"text\":\"{text}\"}}}}");
    let bulk = format!(
        "POST /ofrep/v1/evaluate/flags HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nflagd-selector: test\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut bulk = std::pin::pin!(world.http(bulk));
    let mut between = 0;
    loop {
        tokio::select! {
            biased;
            (status, text) = &mut bulk => {
                assert!(status == 200 && text.contains("slow-059"), "{text}");
                break;
            }
            answer = other.evaluate(evaluate("checkout", "ada")) => {
                answer.unwrap();
                between += 1;
            }
        }
    }
    assert!(between > 2, "{between} were served meanwhile");
}

#[tokio::test]
async fn an_idle_connection_makes_room_politely_and_a_busy_one_stays() {
    let idle = Duration::from_millis(600);
    let world = World::start_set(|config| {
        config.limits.connections = 4;
        config.limits.connection_idle = idle;
    })
    .await;
    world.flags().set_flag(set(checkout())).await.unwrap();
    // The world's own, one with a stream, one that is idle, and one that has just been used.
    let mut busy = Peer::connect(&world).await;
    let mut tail = busy.open("/featureops.v1.AdministrationService/TailAudit").await;
    tail.send_last(&[]);
    tail.head().await.unwrap();
    let mut idlest = Peer::connect(&world).await;
    let message = evaluate("checkout", "ada").encode_to_vec();
    let used = Instant::now();
    assert_eq!(asked(&mut idlest, EVALUATE, &message).await.status().await, Some(0));
    tokio::time::sleep(Duration::from_millis(100)).await;
    world.flags().set_flag(set(checkout())).await.unwrap();
    let mut recent = Peer::connect(&world).await;
    let newcomer = async {
        let answer = timeout(PATIENCE, world.get("/livez")).await;
        (answer, used.elapsed())
    };
    let ((answer, waited), ()) = tokio::join!(newcomer, async {
        for _ in 0..12 {
            assert_eq!(asked(&mut recent, EVALUATE, &message).await.status().await, Some(0));
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    assert_eq!(answer.expect("a place in time").0, 200);
    // From before the last use of the one that went to the newcomer's answer: no machine is slow enough to make it less.
    assert!(waited >= idle, "nobody was idle that long, {waited:?} after the idlest's last use");
    let goodbye = timeout(PATIENCE, &mut idlest.connection).await.expect("it was closed").unwrap();
    assert!(goodbye.is_ok(), "{goodbye:?}");
    assert!(!busy.connection.is_finished() && !recent.connection.is_finished());
}
