//! Streams of flagd's and OFREP's clients: no change missed, at most one message a second, an end that clients understand.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test"
)]

mod world;

use std::collections::BTreeMap;
use std::time::Duration;

use featureops::flagd::evaluation::v1;
use featureops::flagd::evaluation::v1::service_client::ServiceClient as V1;
use featureops::flagd::evaluation::v2::service_client::ServiceClient as V2;
use featureops::flagd::evaluation::v2::{EventStreamRequest, EventStreamResponse, ResolveBooleanRequest};
use featureops::flagd::sync::v1::flag_sync_service_client::FlagSyncServiceClient;
use featureops::flagd::sync::v1::{
    FetchAllFlagsRequest, GetMetadataRequest, SyncFlagsRequest, SyncFlagsResponse,
};
use featureops_proto::v1::{ArchiveFlagRequest, Flag};
use prost_types::value::Kind;
use serde_json::Value as Json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, timeout};
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};
use world::{World, checkout, context, set};

const PATIENCE: Duration = Duration::from_secs(10);

fn flag(id: &str) -> Flag {
    Flag { name: format!("environments/production/flags/{id}"), ..checkout() }
}

fn switched(id: &str, on: bool) -> Flag {
    let default_variant = Some(if on { "on" } else { "off" }.to_owned());
    Flag { default_variant, ..flag(id) }
}

async fn next<T>(stream: &mut Streaming<T>) -> Result<T, Status> {
    timeout(PATIENCE, stream.message()).await.expect("in time").map(|message| message.expect("not yet over"))
}

async fn events(channel: &Channel) -> Streaming<EventStreamResponse> {
    let opened = V2::new(channel.clone()).event_stream(EventStreamRequest {}).await;
    opened.unwrap().into_inner()
}

/// Key to what happened.
fn changes(event: &EventStreamResponse) -> BTreeMap<String, String> {
    assert_eq!(event.r#type, "configuration_change");
    let Some(Kind::StructValue(flags)) = &event.data.as_ref().unwrap().fields["flags"].kind else {
        panic!("{event:?}")
    };
    let word = |value: &prost_types::Value| match &value.kind {
        Some(Kind::StructValue(change)) => match &change.fields["type"].kind {
            Some(Kind::StringValue(word)) => word.clone(),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    };
    flags.fields.iter().map(|(key, value)| (key.clone(), word(value))).collect()
}

fn expected(changes: &[(&str, &str)]) -> BTreeMap<String, String> {
    changes.iter().map(|(key, word)| ((*key).to_owned(), (*word).to_owned())).collect()
}

#[tokio::test]
async fn a_client_is_ready_at_once_and_hears_every_change() {
    let world = World::start().await;
    let mut stream = events(&world.channel).await;
    assert_eq!(next(&mut stream).await.unwrap().r#type, "provider_ready");
    world.flags().set_flag(set(flag("a"))).await.unwrap();
    assert_eq!(changes(&next(&mut stream).await.unwrap()), expected(&[("a", "write")]));
    let told = Instant::now();
    world.flags().set_flag(set(switched("a", true))).await.unwrap();
    world.flags().set_flag(set(flag("b"))).await.unwrap();
    assert_eq!(changes(&next(&mut stream).await.unwrap()), expected(&[("a", "update"), ("b", "write")]));
    assert!(told.elapsed() > Duration::from_millis(500), "at most one message a second");
    // What no client sees is no change, and neither is another environment's flag.
    let described = Flag { description: "new".into(), ..switched("a", true) };
    world.flags().set_flag(set(described)).await.unwrap();
    world.flags().set_flag(set(checkout())).await.unwrap();
    let archive = ArchiveFlagRequest { name: flag("b").name, ..Default::default() };
    world.flags().archive_flag(archive).await.unwrap();
    assert_eq!(changes(&next(&mut stream).await.unwrap()), expected(&[("b", "delete")]));
    // Both versions, and only what the selector sees.
    let mut request = tonic::Request::new(v1::EventStreamRequest {});
    request.metadata_mut().insert("flagd-selector", "test".parse().unwrap());
    let mut other = V1::new(world.channel.clone()).event_stream(request).await.unwrap().into_inner();
    assert_eq!(next(&mut other).await.unwrap().r#type, "provider_ready");
    let recent = next(&mut other).await.unwrap();
    let Some(Kind::StructValue(flags)) = &recent.data.unwrap().fields["flags"].kind else { panic!() };
    assert_eq!(flags.fields.keys().collect::<Vec<_>>(), ["checkout"]);
    let mut request = tonic::Request::new(EventStreamRequest {});
    request.metadata_mut().insert("flagd-selector", "env=x".parse().unwrap());
    let refused = V2::new(world.channel.clone()).event_stream(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn of_two_hundred_rapid_changes_none_is_missed() {
    let world = World::start().await;
    for n in 0..20 {
        world.flags().set_flag(set(flag(&format!("f{n}")))).await.unwrap();
    }
    let mut stream = events(&world.channel).await;
    assert_eq!(next(&mut stream).await.unwrap().r#type, "provider_ready");
    // A client that connects hears what changed before it came: it may have been here before.
    assert_eq!(changes(&next(&mut stream).await.unwrap()).len(), 20);

    // As a client with a cache: it asks what it does not hold, and drops what it hears of.
    let writer = {
        let mut flags = world.flags();
        tokio::spawn(async move {
            for n in 0..200_usize {
                flags.set_flag(set(switched(&format!("f{}", n % 20), (n / 20) % 2 == 0))).await.unwrap();
            }
            flags.set_flag(set(flag("last"))).await.unwrap();
        })
    };
    let mut client = V2::new(world.channel.clone());
    let mut cache: BTreeMap<String, Option<bool>> = BTreeMap::new();
    let (mut messages, began) = (0, Instant::now());
    loop {
        for n in 0..20 {
            let key = format!("f{n}");
            if cache.contains_key(&key) {
                continue;
            }
            let request = ResolveBooleanRequest { flag_key: key.clone(), context: Some(context(&[])) };
            let answer = client.resolve_boolean(request).await.unwrap().into_inner();
            assert_eq!(answer.reason, "STATIC");
            let _ = cache.insert(key, answer.value);
        }
        let heard = changes(&next(&mut stream).await.unwrap());
        messages += 1;
        cache.retain(|key, _| !heard.contains_key(key));
        if heard.contains_key("last") {
            break;
        }
    }
    writer.await.unwrap();
    assert!(messages <= 2 + began.elapsed().as_secs(), "{messages} messages in {:?}", began.elapsed());
    // What is still in the cache is what is served.
    for (key, held) in cache {
        let request =
            featureops::flagd::evaluation::v2::ResolveBooleanRequest { flag_key: key.clone(), context: None };
        let answer = client.resolve_boolean(request).await.unwrap().into_inner();
        assert_eq!(held, answer.value, "{key}");
    }
}

#[tokio::test]
async fn a_drain_says_goodbye_and_who_comes_back_hears_what_it_may_have_missed() {
    let world = World::start().await;
    world.flags().set_flag(set(flag("a"))).await.unwrap();
    let mut stream = events(&world.channel).await;
    assert_eq!(next(&mut stream).await.unwrap().r#type, "provider_ready");
    assert_eq!(changes(&next(&mut stream).await.unwrap()), expected(&[("a", "update")]));
    let mut sync = documents(&world.channel, "").await;
    next(&mut sync).await.unwrap();
    let restart = tokio::spawn(world.restart());
    assert_eq!(next(&mut stream).await.unwrap().r#type, "provider_shutdown");
    assert_eq!(next(&mut stream).await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(next(&mut sync).await.unwrap_err().code(), Code::Unavailable);
    let world = restart.await.unwrap();
    let mut stream = events(&world.channel).await;
    assert_eq!(next(&mut stream).await.unwrap().r#type, "provider_ready");
    assert_eq!(changes(&next(&mut stream).await.unwrap()), expected(&[("a", "update")]));
}

#[tokio::test]
async fn silence_is_broken_and_pings_are_answered() {
    let world = World::start().await;
    let address = world.node.local_addr();
    // Much more often than any client does, and while no call is under way.
    let busy = tonic::transport::Endpoint::from_shared(format!("http://{address}")).unwrap();
    let busy = busy
        .http2_keep_alive_interval(Duration::from_millis(200))
        .keep_alive_timeout(Duration::from_secs(2))
        .keep_alive_while_idle(true)
        .connect()
        .await
        .unwrap();
    let mut stream = events(&world.channel).await;
    assert_eq!(next(&mut stream).await.unwrap().r#type, "provider_ready");
    let quiet = Instant::now();
    let alive = timeout(Duration::from_secs(25), stream.message()).await.expect("a sign of life");
    assert_eq!(alive.unwrap().unwrap().r#type, "keep_alive");
    assert!(quiet.elapsed() > Duration::from_secs(19));
    let taken = &world.node.observation().connections_taken;
    let before = taken.load(std::sync::atomic::Ordering::Relaxed);
    let mut stream = events(&busy).await;
    assert_eq!(next(&mut stream).await.unwrap().r#type, "provider_ready");
    let after = taken.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!(before, after, "the idle connection was kept for a hundred pings");
}

#[tokio::test]
async fn a_stream_ends_at_its_deadline() {
    let world =
        World::start_set(|config| config.fronts.stream_deadline = Some(Duration::from_millis(300))).await;
    let mut stream = events(&world.channel).await;
    assert_eq!(next(&mut stream).await.unwrap().r#type, "provider_ready");
    let ended = next(&mut stream).await.unwrap_err();
    assert_eq!(ended.code(), Code::DeadlineExceeded);
    assert_eq!(ended.message(), "stream closed due to server-side timeout");
    let mut sync = documents(&world.channel, "").await;
    next(&mut sync).await.unwrap();
    assert_eq!(next(&mut sync).await.unwrap_err().code(), Code::DeadlineExceeded);
}

async fn documents(channel: &Channel, selector: &str) -> Streaming<SyncFlagsResponse> {
    let request = SyncFlagsRequest { provider_id: "test".into(), selector: selector.into() };
    FlagSyncServiceClient::new(channel.clone()).sync_flags(request).await.unwrap().into_inner()
}

fn flags(document: &SyncFlagsResponse) -> BTreeMap<String, Json> {
    let document: Json = serde_json::from_str(&document.flag_configuration).unwrap();
    let flags = document["flags"].as_object().unwrap();
    flags.iter().map(|(key, flag)| (key.clone(), flag.clone())).collect()
}

#[tokio::test]
async fn the_whole_set_comes_at_once_and_at_every_change() {
    let world = World::start_set(|config| {
        config.fronts.environments = vec!["base".to_owned(), "production".to_owned()];
        config.fronts.context_values = [("region".to_owned(), "eu".to_owned())].into();
    })
    .await;
    let base = |id: &str| Flag { name: format!("environments/base/flags/{id}"), ..switched(id, true) };
    for flag in [base("both"), base("below"), flag("both"), checkout()] {
        world.flags().set_flag(set(flag)).await.unwrap();
    }
    let mut sync = documents(&world.channel, "").await;
    let first = next(&mut sync).await.unwrap();
    assert_eq!(first.sync_context, Some(context(&[("region", "eu")])));
    let seen = flags(&first);
    assert_eq!(seen.keys().collect::<Vec<_>>(), ["below", "both"]);
    // Of equal keys the later environment's.
    assert_eq!((&seen["both"]["defaultVariant"], &seen["both"]["state"]), (&"off".into(), &"ENABLED".into()));
    let mut selected = documents(&world.channel, "source=base").await;
    assert_eq!(flags(&next(&mut selected).await.unwrap())["both"]["defaultVariant"], "on");

    for n in 0..50 {
        world.flags().set_flag(set(switched("both", n % 2 == 0))).await.unwrap();
    }
    world.flags().set_flag(set(flag("last"))).await.unwrap();
    let mut messages = 0;
    loop {
        let seen = flags(&next(&mut sync).await.unwrap());
        messages += 1;
        if seen.contains_key("last") {
            assert_eq!(seen["both"]["defaultVariant"], "off");
            assert_eq!(seen.len(), 3, "always the whole set");
            break;
        }
    }
    assert!(messages <= 4, "{messages}");
    // Nothing that this client sees has changed.
    assert!(timeout(Duration::from_secs(2), selected.message()).await.is_err());

    let mut client = FlagSyncServiceClient::new(world.channel.clone());
    let asked = FetchAllFlagsRequest { provider_id: "test".into(), selector: "base".into() };
    let mut asked = tonic::Request::new(asked);
    let all = client.fetch_all_flags(asked.get_ref().clone()).await.unwrap().into_inner();
    let document: Json = serde_json::from_str(&all.flag_configuration).unwrap();
    assert_eq!(document["flags"].as_object().unwrap().len(), 2);
    // The header wins over the field.
    asked.metadata_mut().insert("flagd-selector", "production".parse().unwrap());
    let all = client.fetch_all_flags(asked).await.unwrap().into_inner();
    assert!(all.flag_configuration.contains("\"last\""));
    let bad = FetchAllFlagsRequest { selector: "x=y".into(), ..Default::default() };
    assert_eq!(client.fetch_all_flags(bad).await.unwrap_err().code(), Code::InvalidArgument);
    let nothing = FetchAllFlagsRequest { selector: "nowhere".into(), ..Default::default() };
    let nothing = client.fetch_all_flags(nothing).await.unwrap().into_inner();
    assert_eq!(nothing.flag_configuration, r#"{"flags":{}}"#);
    let metadata = client.get_metadata(GetMetadataRequest {}).await.unwrap().into_inner();
    assert_eq!(metadata.metadata, Some(context(&[("region", "eu")])));
}

#[tokio::test]
async fn metadata_of_sync_can_be_turned_off() {
    let world = World::start_set(|config| config.fronts.disable_sync_metadata = true).await;
    let mut client = FlagSyncServiceClient::new(world.channel.clone());
    let refused = client.get_metadata(GetMetadataRequest {}).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented);
}

/// A stream of server-sent events, read frame by frame.
struct Events {
    stream: tokio::net::TcpStream,
    text: String,
}

impl Events {
    async fn open(world: &World, path: &str, headers: &str) -> Self {
        let mut stream = tokio::net::TcpStream::connect(world.node.local_addr()).await.unwrap();
        let head = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut events = Self { stream, text: String::new() };
        let head = events.until("\r\n\r\n").await.unwrap();
        assert!(head.contains("200 OK") && head.contains("text/event-stream"), "{head}");
        events
    }

    async fn until(&mut self, end: &str) -> Option<String> {
        loop {
            if let Some(at) = self.text.find(end) {
                let rest = self.text.split_off(at + end.len());
                return Some(std::mem::replace(&mut self.text, rest));
            }
            let mut bytes = [0; 4_096];
            let read = timeout(PATIENCE, self.stream.read(&mut bytes)).await.expect("in time").unwrap();
            if read == 0 {
                return None;
            }
            self.text.push_str(&String::from_utf8_lossy(&bytes[..read]));
        }
    }

    /// The id and the data of a frame; chunk sizes stand between frames and are passed over.
    async fn frame(&mut self) -> Option<(String, Option<Json>)> {
        let frame = self.until("\n\n").await?;
        let field = |name: &str| frame.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
        Some((field("id: ")?, field("data: ").map(|data| serde_json::from_str(&data).unwrap())))
    }
}

#[tokio::test]
async fn a_browser_is_told_to_ask_again_and_replays_what_it_missed() {
    let world = World::start().await;
    world.flags().set_flag(set(flag("a"))).await.unwrap();
    let mut stream = Events::open(&world, "/ofrep/v1/events", "").await;
    let (first, nothing) = stream.frame().await.unwrap();
    assert_eq!(nothing, None, "who was never here has just asked");
    world.flags().set_flag(set(switched("a", true))).await.unwrap();
    let (second, data) = stream.frame().await.unwrap();
    let data = data.unwrap();
    assert_eq!((&data["type"], &data["etag"]), (&"refetchEvaluation".into(), &second.as_str().into()));
    assert!(first != second && data["lastModified"].as_i64().unwrap() > 1_700_000_000);

    let known = format!("last-event-id: {second}\r\n");
    let (id, nothing) = Events::open(&world, "/ofrep/v1/events", &known).await.frame().await.unwrap();
    assert_eq!((&id, nothing), (&second, None));
    let missed = format!("last-event-id: {first}\r\n");
    let (id, data) = Events::open(&world, "/ofrep/v1/events", &missed).await.frame().await.unwrap();
    assert!(id == second && data.is_some());
    // Another selection has another version, and a selector that cannot be read is refused.
    let (other, _) =
        Events::open(&world, "/ofrep/v1/events?selector=source%3Dx", "").await.frame().await.unwrap();
    assert_ne!(other, second);
    assert_eq!(world.get("/ofrep/v1/events?selector=x%3Dy").await.0, 400);
    // The version is what a refetch may name, also after a restart.
    let query = format!("?flagConfigEtag={second}");
    let ask = |world: &World, tag: &str| {
        let head = format!(
            "POST /ofrep/v1/evaluate/flags{query} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
             if-none-match: {tag}\r\ncontent-length: 0\r\n\r\n"
        );
        let address = world.node.local_addr();
        async move { world::http(address, head).await }
    };
    let (_, text) = ask(&world, "x").await;
    let tag = text.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap().to_owned();
    assert_eq!(ask(&world, &tag).await.0, 304);
    let restart = tokio::spawn(world.restart());
    assert_eq!(stream.frame().await, None, "the stream ends with the node");
    let world = restart.await.unwrap();
    assert_eq!(ask(&world, &tag).await.0, 304);
}

#[tokio::test]
async fn a_thousand_streams_hear_of_a_change() {
    let world = World::start_set(|config| config.limits.streams_per_connection = 1_024).await;
    let mut streams = Vec::new();
    for _ in 0..1_000 {
        let mut stream = events(&world.channel).await;
        assert_eq!(next(&mut stream).await.unwrap().r#type, "provider_ready");
        streams.push(stream);
    }
    world.flags().set_flag(set(flag("a"))).await.unwrap();
    for stream in &mut streams {
        assert_eq!(changes(&next(stream).await.unwrap()), expected(&[("a", "write")]));
    }
    let ended = timeout(Duration::from_secs(8), world.node.shutdown()).await;
    ended.expect("a thousand streams do not hold up the drain");
}
