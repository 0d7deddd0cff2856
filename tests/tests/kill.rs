//! kill -9, fifty times under load: what was acknowledged is there, exactly once, after every one.
//!
//! Three producers and a writer of flags never stop; each repeats under the same name what got no answer. After every
//! restart the node must hold at least what was acknowledged and at most what was sent; when all have their answers, it
//! must hold exactly that. `FEATUREOPS_KILLS` and `FEATUREOPS_SEED` make it longer or other.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a real process lives in real time, and a test may fail loudly"
)]

use std::time::{Duration, Instant};

use featureops_tests::chance::Chance;
use featureops_tests::load::{Load, prepare};
use featureops_tests::site::Site;
use featureops_tests::{check, count, runtime};

#[test]
fn acknowledged_once_means_there_once() {
    let (kills, seed) = (count("FEATUREOPS_KILLS", 50), count("FEATUREOPS_SEED", 1));
    println!("FEATUREOPS_KILLS={kills} FEATUREOPS_SEED={seed}");
    let mut chance = Chance::new(seed);
    runtime().block_on(async {
        // Snapshots and purges among the kills, every few lives.
        let site = Site::new().with("FEATUREOPS_SNAPSHOT_EVERY_ENTRIES", "500");
        let mut node = site.start().await.unwrap_or_else(|ended| panic!("first start: {ended}"));
        let client = site.client();
        prepare(&client).await.unwrap();
        let load = Load::start(&client, 3);
        let begin = Instant::now();
        let (mut audit, mut starting) = (0, Duration::ZERO);
        for kill in 1..=kills {
            tokio::time::sleep(Duration::from_millis(50 + chance.below(250))).await;
            node.kill();
            let restart = Instant::now();
            node = site.start().await.unwrap_or_else(|ended| panic!("start after kill {kill}: {ended}"));
            starting += restart.elapsed();
            let mut before = load.known();
            before.audit = audit;
            let faults = check::faults(&client, &before, || load.known()).await;
            assert!(faults.is_empty(), "after kill {kill}: {faults:#?}");
            audit = check::audit_end(&client).await.unwrap();
        }
        let known = load.end().await;
        let faults = check::settled(&client, &known).await;
        assert!(faults.is_empty(), "at the end: {faults:#?}");
        let batches = known.acknowledged.units[0] / 8;
        assert!(batches > kills, "only {batches} exposure batches: the test proves nothing");
        println!(
            "{kills} kills in {:.1?}, of which starting {starting:.1?}; acknowledged: {:?}, {} flag versions",
            begin.elapsed(),
            known.acknowledged,
            known.flags.values().map(std::collections::BTreeMap::len).sum::<usize>()
        );
        let status = node.drain().await.unwrap_or_else(|ended| panic!("drain: {ended}"));
        assert!(status.success(), "drain ended with {status}");
    });
}
