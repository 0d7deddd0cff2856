//! Processes that are one cluster: facts and flags go in anywhere while its leader is killed, held still, and ended; while
//! it grows from three nodes to five and shrinks to three, a disk fills and a node is replaced. What was acknowledged is
//! there once, on every node, and evaluation never fails on a node that runs.
//!
//! `FEATUREOPS_ROUNDS` and `FEATUREOPS_SEED` make it longer or other.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a real process lives in real time, and a test may fail loudly"
)]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use featureops_proto::v1::EvaluateRequest;
use featureops_tests::chance::Chance;
use featureops_tests::client::Client;
use featureops_tests::load::{ENVIRONMENT, EXPERIMENT, Known, Load, prepare};
use featureops_tests::mirror::Mirror;
use featureops_tests::several::{PATIENCE, Several, Watch};
use featureops_tests::{check, count, http, runtime};

/// What each node counts against what the callers know, while the load goes on; the audit's end for the next time.
async fn all_agree(several: &Several, load: &Load, audit: u64, when: &str) -> u64 {
    for node in several.nodes.keys() {
        let site = several.site(*node);
        let mut before = load.known();
        before.audit = audit;
        let faults = check::faults(&site.client(), &before, || load.known()).await;
        assert!(faults.is_empty(), "{when}, node {node}: {faults:#?}");
    }
    let first = *several.nodes.keys().next().unwrap();
    check::audit_end(&several.site(first).client()).await.unwrap()
}

/// At the end: exact counts, whole audits and one digest everywhere, and nobody's evaluation failed.
async fn all_settle(several: &Several, load: Load, watch: Watch) -> (Known, BTreeMap<u64, u64>) {
    let known = load.end().await;
    for node in several.nodes.keys() {
        let faults = check::settled(&several.site(*node).client(), &known).await;
        assert!(faults.is_empty(), "at the end, node {node}: {faults:#?}");
    }
    let (faults, evaluated) = watch.end().await;
    assert!(faults.is_empty(), "{} evaluations failed: {:#?}", faults.len(), &faults[..faults.len().min(5)]);
    assert!(evaluated.values().all(|count| *count > 20), "{evaluated:?}");
    several.same_digest().await;
    (known, evaluated)
}

#[test]
fn a_leader_is_killed_held_and_ended_and_nothing_acknowledged_is_lost_or_doubled() {
    let (rounds, seed) = (count("FEATUREOPS_ROUNDS", 6), count("FEATUREOPS_SEED", 1));
    println!("FEATUREOPS_ROUNDS={rounds} FEATUREOPS_SEED={seed}");
    let mut chance = Chance::new(seed);
    runtime().block_on(async {
        let mut trio = Several::start(3).await;
        let any = Client::of_any(&trio.ports());
        prepare(&trio.site(3).client()).await.unwrap();
        for site in trio.sites.values() {
            site.ask(&["flag", "get", EXPERIMENT, "--environment", "production"]).unwrap();
        }
        let watch = Watch::start(&trio);
        let load = Load::start(&any, 3);
        let (mut slowest, mut audit) = (Duration::ZERO, 0);
        for round in 1..=rounds {
            tokio::time::sleep(Duration::from_millis(500 + chance.below(1_000))).await;
            let old = trio.leader(None).await;
            watch.excuse(old, true);
            let begin = Instant::now();
            match round % 3 {
                1 => trio.nodes.remove(&old).unwrap().kill(),
                2 => trio.nodes[&old].hold(true),
                _ => {
                    let status = trio.nodes.remove(&old).unwrap().drain().await.unwrap();
                    assert!(status.success());
                }
            }
            trio.leader(Some(old)).await;
            slowest = slowest.max(begin.elapsed());
            if round % 3 == 2 {
                // Longer than any lease: what it comes back with is old.
                tokio::time::sleep(Duration::from_millis(2_500)).await;
                trio.nodes[&old].hold(false);
            } else {
                trio.power(old).await;
            }
            trio.leader(None).await;
            watch.excuse(old, false);
            audit = all_agree(&trio, &load, audit, &format!("round {round}")).await;
        }
        let (known, evaluated) = all_settle(&trio, load, watch).await;
        let batches = known.acknowledged.units[0] / 8;
        assert!(batches > rounds, "only {batches} exposure batches: the test proves nothing");
        println!(
            "{rounds} rounds, slowest to another leader {slowest:.1?} (asking included), {:?} acknowledged, {} flag versions, evaluated {evaluated:?}",
            known.acknowledged,
            known.flags.values().map(BTreeMap::len).sum::<usize>()
        );
    });
}

#[test]
fn a_leader_that_is_killed_and_back_at_once_leaves_one_log() {
    let (rounds, seed) = (count("FEATUREOPS_ROUNDS", 12), count("FEATUREOPS_SEED", 1));
    println!("FEATUREOPS_ROUNDS={rounds} FEATUREOPS_SEED={seed}");
    let mut chance = Chance::new(seed);
    runtime().block_on(async {
        let mut trio = Several::start(3).await;
        prepare(&trio.site(3).client()).await.unwrap();
        for site in trio.sites.values() {
            site.ask(&["flag", "get", EXPERIMENT, "--environment", "production"]).unwrap();
        }
        let watch = Watch::start(&trio);
        let load = Load::start(&Client::of_any(&trio.ports()), 6);
        for _ in 0..rounds {
            tokio::time::sleep(Duration::from_millis(200 + chance.below(600))).await;
            let leader = trio.leader(None).await;
            watch.excuse(leader, true);
            trio.nodes.remove(&leader).unwrap().kill();
            // Before anybody stands for election: what the others hold of it under its term, it may not have itself. Were it to
            // lead on in that term, it would write something else in the same place, and nobody could tell the two apart.
            trio.power(leader).await;
            watch.excuse(leader, false);
        }
        trio.leader(None).await;
        let (known, evaluated) = all_settle(&trio, load, watch).await;
        println!("{:?} acknowledged, evaluated {evaluated:?}", known.acknowledged);
    });
}

#[test]
fn a_cluster_grows_to_five_loses_leaders_and_a_disk_replaces_a_node_and_shrinks_again_under_load() {
    runtime().block_on(async {
        let mut many = Several::start(3).await;
        prepare(&many.site(1).client()).await.unwrap();
        let mut watch = Watch::start(&many);
        // Those three take the load to the end, whatever becomes of them meanwhile.
        let load = Load::start(&Client::of_any(&many.ports()), 3);
        let mut audit = 0;

        // Three become five; the fifth has a disk that will be full.
        let mut mirror = None;
        for number in 4..=5_u64 {
            let node = many
                .grow(|site| {
                    if number == 5 {
                        mirror = Some(Mirror::around(site))
                    }
                })
                .await;
            assert_eq!(node, number);
            many.site(node).ask(&["flag", "get", EXPERIMENT, "--environment", "production"]).unwrap();
            watch.add(node, many.site(node).port);
        }
        audit = all_agree(&many, &load, audit, "five").await;

        // Two of five are away at once: the leader killed, the next one held still for longer than a lease.
        let killed = many.leader(None).await;
        watch.excuse(killed, true);
        many.nodes.remove(&killed).unwrap().kill();
        let held = many.leader(Some(killed)).await;
        watch.excuse(held, true);
        many.nodes[&held].hold(true);
        many.leader(Some(held)).await;
        tokio::time::sleep(Duration::from_millis(2_500)).await;
        many.nodes[&held].hold(false);
        many.power(killed).await;
        many.leader(None).await;
        for node in [killed, held] {
            watch.excuse(node, false);
        }
        audit = all_agree(&many, &load, audit, "two of five were away").await;

        // The fifth's disk fills: it is no more ready and goes on evaluating; then there is room again.
        let mirror = mirror.unwrap();
        mirror.fill_disk(true);
        let begin = Instant::now();
        while http::get(many.site(5).port, "/readyz").await.unwrap().status == 200 {
            assert!(begin.elapsed() < PATIENCE, "ready without a disk");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        many.leader(Some(5)).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        mirror.fill_disk(false);
        let begin = Instant::now();
        while http::get(many.site(5).port, "/readyz").await.unwrap().status != 200 {
            assert!(begin.elapsed() < PATIENCE, "not ready again");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        audit = all_agree(&many, &load, audit, "a disk was full").await;

        // The fourth is gone for good: a sixth takes its place.
        watch.leave(4);
        many.nodes.remove(&4).unwrap().kill();
        let sixth = many.join(|_| {}).await;
        watch.add(sixth, many.site(sixth).port);
        many.patiently(&["cluster", "replace", "4", "6"]).await;
        let members = many.cluster(1)["members"].as_array().unwrap().len();
        assert_eq!(members, 5);
        audit = all_agree(&many, &load, audit, "a node was replaced").await;

        // Five become three, and the leader is among those that go.
        if many.leader(None).await != 5 {
            many.patiently(&["cluster", "transfer-leader", "5"]).await;
        }
        for node in [5, 6] {
            watch.leave(node);
            many.shrink(node).await;
        }
        many.leader(None).await;
        all_agree(&many, &load, audit, "three again").await;
        let (known, evaluated) = all_settle(&many, load, watch).await;
        println!("{:?} acknowledged, evaluated {evaluated:?}", known.acknowledged);
    });
}

#[test]
fn a_node_in_a_minority_evaluates_reads_with_a_word_of_warning_and_writes_nothing() {
    runtime().block_on(async {
        let mut trio = Several::start(3).await;
        prepare(&trio.site(1).client()).await.unwrap();
        for node in [1, 2] {
            trio.nodes.remove(&node).unwrap().kill();
        }
        let client = trio.site(3).client();
        let request = EvaluateRequest {
            environment: ENVIRONMENT.into(),
            flag: EXPERIMENT.into(),
            ..EvaluateRequest::default()
        };
        client.evaluation.clone().evaluate(request).await.unwrap();
        let name = format!("{ENVIRONMENT}/flags/{EXPERIMENT}");
        let request = featureops_proto::v1::GetFlagRequest { name };
        let answer = client.flags.clone().get_flag(request).await.unwrap();
        assert_eq!(answer.metadata().get("featureops-stale").unwrap(), "true");
        let refused = trio.site(3).ask(&["trip", EXPERIMENT, "--reason", "x", "--environment", "production"]);
        assert!(refused.is_err(), "{refused:?}");
        trio.power(1).await;
        trio.leader(None).await;
        trio.patiently(&["trip", EXPERIMENT, "--reason", "x", "--environment", "production"]).await;
        // Whoever is gone for good is removed, and a new one joins in its place.
        let why = trio.site(3).ask(&["cluster", "remove", "1"]).unwrap_err();
        assert!(why.contains("node 1 would leave the voters 2, 3"), "{why}");
        trio.patiently(&["cluster", "remove", "2"]).await;
        let status = trio.cluster(1);
        assert_eq!(status["members"].as_array().unwrap().len(), 2, "{status:#}");
    });
}
