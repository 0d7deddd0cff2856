//! Power loss, twenty times under load: each next life begins with what was synced, and nothing else.
//!
//! The same load and the same check as in `kill.rs`. And the alarm is tried: with the syncs of the log taken away the node
//! itself must notice; with those of the mark file taken away too, nobody but the check can, and it must.

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
use featureops_tests::mirror::Mirror;
use featureops_tests::site::Site;
use featureops_tests::{check, count, runtime};

fn site() -> (Site, Mirror) {
    let mut site = Site::new().with("FEATUREOPS_SNAPSHOT_EVERY_ENTRIES", "200");
    let mirror = Mirror::around(&mut site);
    mirror.keep(&mut site);
    (site, mirror)
}

#[test]
fn acknowledged_survives_the_power() {
    let (kills, seed) = (count("FEATUREOPS_POWER_LOSSES", 20), count("FEATUREOPS_SEED", 1));
    println!("FEATUREOPS_POWER_LOSSES={kills} FEATUREOPS_SEED={seed}");
    let mut chance = Chance::new(seed);
    runtime().block_on(async {
        let (mut site, mirror) = site();
        let mut node = site.start().await.unwrap_or_else(|ended| panic!("first start: {ended}"));
        let client = site.client();
        prepare(&client).await.unwrap();
        let load = Load::start(&client, 3);
        let begin = Instant::now();
        let mut audit = 0;
        for loss in 1..=kills {
            tokio::time::sleep(Duration::from_millis(150 + chance.below(500))).await;
            node.kill();
            mirror.lose_power(&site);
            // Every other life on a disk that takes POSIX by its word about names.
            mirror.strict(&mut site, loss % 2 == 1);
            node = site.start().await.unwrap_or_else(|ended| panic!("start after loss {loss}: {ended}"));
            let mut before = load.known();
            before.audit = audit;
            let faults = check::faults(&client, &before, || load.known()).await;
            assert!(faults.is_empty(), "after loss {loss}: {faults:#?}");
            audit = check::audit_end(&client).await.unwrap();
        }
        let known = load.end().await;
        let faults = check::settled(&client, &known).await;
        assert!(faults.is_empty(), "at the end: {faults:#?}");
        println!("{kills} losses in {:.1?}; acknowledged: {:?}", begin.elapsed(), known.acknowledged);
        drop(node);
    });
}

/// One life with syncs taken away, one loss; what the next start says, as the check would put it.
async fn faults_without(ignored: &[&str]) -> Vec<String> {
    let (mut site, mirror) = site();
    mirror.ignore(&mut site, ignored);
    let node = site.start().await.unwrap_or_else(|ended| panic!("first start: {ended}"));
    let client = site.client();
    prepare(&client).await.unwrap();
    let load = Load::start(&client, 3);
    // The log keeps 1,000 entries behind a snapshot: by now it was purged, and the snapshot is all there is of the rest.
    check::applied(site.port, 1_800, Duration::from_secs(60)).await;
    // The answers that still arrive are acknowledged by then; those that do not stay unknown.
    let known = load.end().await;
    assert!(known.acknowledged.units[0] > 0, "nothing was acknowledged: the test proves nothing");
    node.kill();
    mirror.lose_power(&site);
    match site.start().await {
        Err(ended) => vec![format!("lost: refused: {ended}")],
        Ok(_node) => check::settled(&client, &known).await,
    }
}

#[test]
fn a_log_that_is_never_synced_is_noticed_by_the_node() {
    let faults = runtime().block_on(faults_without(&["log"]));
    assert!(
        faults.iter().any(|fault| fault.contains("refused") && fault.contains("restore")),
        "the node started: {faults:#?}"
    );
}

#[test]
fn a_log_and_marks_that_are_never_synced_are_noticed_by_the_check() {
    let faults = runtime().block_on(faults_without(&["log", "marks"]));
    assert!(faults.iter().any(|fault| fault.starts_with("lost:")), "the check cannot fail: {faults:#?}");
}

#[test]
fn snapshots_that_are_never_synced_are_noticed() {
    let faults = runtime().block_on(faults_without(&["values"]));
    assert!(
        faults.iter().any(|fault| fault.contains("refused") && fault.contains("restore")),
        "the purged part of the log is gone with its snapshot, and nobody said so: {faults:#?}"
    );
}
