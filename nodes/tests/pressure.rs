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

use featureops_proto::v1::TripFlagRequest;
use raw::Peer;
use tokio::time::timeout;
use tonic::Code;
use world::{World, checkout, evaluate, set};

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
