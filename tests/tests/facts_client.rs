//! The client for facts over a node that is killed again and again: every fact it took is counted exactly once.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a real process lives in real time, and a test may fail loudly"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use featureops_client::{Event, Facts, Fate, NotTaken, Settings};
use featureops_proto::v1::{Exposure, Outcome, Verdict};
use featureops_tests::load::{ARMS, Counts, EXPERIMENT, prepare};
use featureops_tests::site::Site;
use featureops_tests::{check, runtime};

const UNITS: u64 = 3_000;

fn exposure(unit: u64) -> Event {
    Event::Exposure(Exposure {
        experiment: EXPERIMENT.into(),
        unit: format!("unit-{unit}"),
        variant: ARMS[usize::try_from(unit % 2).unwrap()].into(),
        ..Exposure::default()
    })
}

fn order(unit: u64) -> Event {
    Event::Outcome(Outcome {
        metric: "orders".into(),
        unit: format!("unit-{unit}"),
        value: Some(1.0),
        ..Outcome::default()
    })
}

#[test]
fn every_fact_is_counted_once_over_a_node_that_is_killed() {
    runtime().block_on(async {
        let site = Site::new();
        let mut node = site.start().await.unwrap_or_else(|ended| panic!("start: {ended}"));
        prepare(&site.client()).await.unwrap();
        let heard = Arc::new(AtomicU64::new(0));
        let hear = {
            let heard = Arc::clone(&heard);
            Box::new(move |event: &Event, fate: &Fate| {
                heard.fetch_add(1, Ordering::Relaxed);
                let fine = matches!(fate, Fate::Told { verdict: Verdict::Counted | Verdict::Waiting, .. });
                assert!(fine, "{event:?}: {fate:?}");
            })
        };
        let settings = Settings {
            batch_events: 16,
            timeout: Duration::from_secs(3),
            backoff: (Duration::from_millis(10), Duration::from_millis(200)),
            ..Settings::new(format!("http://127.0.0.1:{}", site.port), "production", "test")
        };
        let facts = Facts::start(settings, hear).unwrap();
        for unit in 0..UNITS {
            for event in [exposure(unit), order(unit)] {
                facts.send_when_room(event).await.unwrap();
            }
            if unit % 1_000 == 500 {
                tokio::time::sleep(Duration::from_millis(30)).await;
                node.kill();
                node = site.start().await.unwrap_or_else(|ended| panic!("restart: {ended}"));
            }
        }
        let counts = facts.close(Duration::from_secs(60)).await;
        assert_eq!((counts.taken, counts.counted), (2 * UNITS, 2 * UNITS), "{counts:?}");
        assert_eq!(heard.load(Ordering::Relaxed), 2 * UNITS);
        println!("{counts:?}");
        let held = check::counted(&site.client()).await.unwrap();
        let expected = Counts { units: [UNITS / 2; 2], orders: [UNITS / 2; 2], ..Counts::default() };
        assert_eq!(held, expected);
        drop(node);
    });
}

#[test]
fn without_a_node_nothing_waits_and_what_is_lost_is_said() {
    runtime().block_on(async {
        let heard = Arc::new(AtomicU64::new(0));
        let hear = {
            let heard = Arc::clone(&heard);
            Box::new(move |_: &Event, fate: &Fate| {
                assert_eq!(*fate, Fate::Unanswered);
                heard.fetch_add(1, Ordering::Relaxed);
            })
        };
        let settings = Settings {
            batch_events: 4,
            batches_in_flight: 1,
            queue_events: 8,
            ..Settings::new("http://127.0.0.1:1", "production", "test")
        };
        let facts = Facts::start(settings, hear).unwrap();
        let mut dropped = 0;
        for unit in 0..100 {
            match facts.send(order(unit)) {
                Ok(()) => {}
                Err(NotTaken::Full(event)) => {
                    assert_eq!(*event, order(unit));
                    dropped += 1;
                }
                Err(NotTaken::Closed(_)) => panic!("closed"),
            }
            tokio::task::yield_now().await;
        }
        assert!(dropped > 70, "{dropped}");
        assert!(!facts.flush(Duration::from_millis(100)).await);
        let counts = facts.close(Duration::from_millis(200)).await;
        assert_eq!((counts.taken, counts.dropped), (100 - dropped, dropped));
        assert_eq!((counts.unanswered, heard.load(Ordering::Relaxed)), (counts.taken, counts.taken));
    });
}
