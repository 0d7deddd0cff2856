//! Three processes are one cluster: facts and flags go in anywhere while its leader is killed, held still, and ended; what
//! was acknowledged is there once, on every node, and evaluation never fails on a node that runs.
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
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use featureops::rpc::cluster_service_client::ClusterServiceClient;
use featureops_proto::v1::{EvaluateRequest, GetClusterRequest};
use featureops_tests::chance::Chance;
use featureops_tests::client::Client;
use featureops_tests::load::{ENVIRONMENT, EXPERIMENT, Load, prepare};
use featureops_tests::site::{Node, Site};
use featureops_tests::{check, count, runtime};
use serde_json::Value;
use tokio::task::JoinSet;

const PATIENCE: Duration = Duration::from_secs(40);

struct Trio {
    sites: Vec<Site>,
    nodes: BTreeMap<u64, Node>,
}

impl Trio {
    /// Three nodes: the first founds, the others join by the command line's own words, and vote.
    async fn start() -> Self {
        let peers: Vec<String> = (0..3).map(|_| format!("127.0.0.1:{}", Site::another_port())).collect();
        let sites: Vec<Site> = (1..=3_u64)
            .map(|node| {
                let site = Site::new()
                    .with("FEATUREOPS_NODE", node.to_string())
                    .with("FEATUREOPS_PEER_LISTEN", &peers[node as usize - 1])
                    .with("FEATUREOPS_SNAPSHOT_EVERY_ENTRIES", "500");
                if node == 1 { site } else { site.with("FEATUREOPS_JOIN", peers.join(",")) }
            })
            .collect();
        let mut trio = Self { sites, nodes: BTreeMap::new() };
        for node in 1..=3 {
            trio.power(node).await;
            if node > 1 {
                trio.patiently(&["cluster", "promote", &node.to_string()]).await;
            }
        }
        trio
    }

    fn site(&self, node: u64) -> &Site {
        &self.sites[node as usize - 1]
    }

    async fn power(&mut self, node: u64) {
        let started = self.site(node).start().await.unwrap_or_else(|ended| panic!("node {node}: {ended}"));
        self.nodes.insert(node, started);
    }

    /// Asks any node, until it is done.
    async fn patiently(&self, arguments: &[&str]) -> String {
        let begin = Instant::now();
        loop {
            let site = self.site(*self.nodes.keys().next().unwrap());
            match site.ask(arguments) {
                Ok(text) => return text,
                Err(why) => assert!(begin.elapsed() < PATIENCE, "{arguments:?}: {why}"),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    fn cluster(&self, node: u64) -> Value {
        let text = self.site(node).ask(&["cluster", "status", "-o", "json"]).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    /// The leader by the word of the nodes that run, all but `without`.
    async fn leader(&self, without: Option<u64>) -> u64 {
        let begin = Instant::now();
        loop {
            let asked: Vec<u64> = self.nodes.keys().copied().filter(|node| Some(*node) != without).collect();
            let named: Vec<String> = asked
                .iter()
                .map(|node| self.cluster(*node)["leader"].as_str().unwrap_or("0").to_owned())
                .collect();
            let first = named[0].parse::<u64>().unwrap();
            if first != 0 && Some(first) != without && named.iter().all(|name| *name == named[0]) {
                return first;
            }
            assert!(begin.elapsed() < PATIENCE, "leaders: {named:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn ports(&self) -> Vec<u16> {
        self.sites.iter().map(|site| site.port).collect()
    }
}

/// Evaluates on every node all the time; which of them are excused at the moment the test says.
struct Watch {
    excused: Arc<[AtomicBool; 3]>,
    counted: Arc<[AtomicU64; 3]>,
    stop: Arc<AtomicBool>,
    tasks: JoinSet<Vec<String>>,
}

impl Watch {
    fn start(ports: &[u16]) -> Self {
        let (excused, counted, stop): (Arc<[AtomicBool; 3]>, Arc<[AtomicU64; 3]>, Arc<AtomicBool>) =
            (Arc::default(), Arc::default(), Arc::default());
        let mut tasks = JoinSet::new();
        for (at, port) in ports.iter().copied().enumerate() {
            let (excused, counted, stop) = (Arc::clone(&excused), Arc::clone(&counted), Arc::clone(&stop));
            tasks.spawn(async move {
                let client = Client::new(port);
                let mut faults = Vec::new();
                while !stop.load(Ordering::SeqCst) {
                    let before = excused[at].load(Ordering::SeqCst);
                    let request = EvaluateRequest {
                        environment: ENVIRONMENT.into(),
                        flag: EXPERIMENT.into(),
                        ..EvaluateRequest::default()
                    };
                    let answer = client.evaluation.clone().evaluate(request).await;
                    let excused = before || excused[at].load(Ordering::SeqCst);
                    match answer {
                        Ok(_) => drop(counted[at].fetch_add(1, Ordering::SeqCst)),
                        Err(status) if !excused => faults.push(format!("node {}: {status}", at + 1)),
                        Err(_) => {}
                    }
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                faults
            });
        }
        Self { excused, counted, stop, tasks }
    }

    fn excuse(&self, node: u64, excused: bool) {
        self.excused[node as usize - 1].store(excused, Ordering::SeqCst);
    }

    async fn end(mut self) -> (Vec<String>, [u64; 3]) {
        self.stop.store(true, Ordering::SeqCst);
        let mut faults = Vec::new();
        while let Some(ended) = self.tasks.join_next().await {
            faults.extend(ended.unwrap());
        }
        let counted = [0, 1, 2].map(|at: usize| self.counted[at].load(Ordering::SeqCst));
        (faults, counted)
    }
}

/// A position, and the state's digest there.
async fn digest(port: u16) -> (u64, String) {
    let mut client = ClusterServiceClient::new(Client::new(port).channel);
    let answer = client.get_cluster(GetClusterRequest { digest: true }).await.unwrap().into_inner();
    (answer.digest_position, answer.digest)
}

#[test]
fn a_leader_is_killed_held_and_ended_and_nothing_acknowledged_is_lost_or_doubled() {
    let (rounds, seed) = (count("FEATUREOPS_ROUNDS", 6), count("FEATUREOPS_SEED", 1));
    println!("FEATUREOPS_ROUNDS={rounds} FEATUREOPS_SEED={seed}");
    let mut chance = Chance::new(seed);
    runtime().block_on(async {
        let mut trio = Trio::start().await;
        let any = Client::of_any(&trio.ports());
        prepare(&trio.site(3).client()).await.unwrap();
        for site in &trio.sites {
            site.ask(&["flag", "get", EXPERIMENT, "--environment", "production"]).unwrap();
        }
        let watch = Watch::start(&trio.ports());
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
            for site in &trio.sites {
                let mut before = load.known();
                before.audit = audit;
                let faults = check::faults(&site.client(), &before, || load.known()).await;
                assert!(faults.is_empty(), "round {round}, node at {}: {faults:#?}", site.port);
            }
            audit = check::audit_end(&trio.site(1).client()).await.unwrap();
        }
        let known = load.end().await;
        for site in &trio.sites {
            let faults = check::settled(&site.client(), &known).await;
            assert!(faults.is_empty(), "at the end, node at {}: {faults:#?}", site.port);
        }
        let (faults, evaluated) = watch.end().await;
        assert!(faults.is_empty(), "{} evaluations failed: {:#?}", faults.len(), &faults[..faults.len().min(5)]);
        assert!(evaluated.iter().all(|count| *count > 100), "{evaluated:?}");
        let batches = known.acknowledged.units[0] / 8;
        assert!(batches > rounds, "only {batches} exposure batches: the test proves nothing");

        // The same position, the same digest: ticks go on, so it is asked until the three meet.
        let begin = Instant::now();
        loop {
            let mut found = Vec::new();
            for site in &trio.sites {
                found.push(digest(site.port).await);
            }
            if found.iter().all(|digest| *digest == found[0]) {
                assert!(!found[0].1.is_empty());
                break;
            }
            for (at, one) in found.iter().enumerate() {
                for other in &found[at + 1..] {
                    assert!(one.0 != other.0 || one.1 == other.1, "one position, two digests: {found:?}");
                }
            }
            assert!(begin.elapsed() < PATIENCE, "{found:?}");
        }
        println!(
            "{rounds} rounds, slowest to another leader {slowest:.1?} (asking included), {:?} acknowledged, {} flag versions, evaluated {evaluated:?}",
            known.acknowledged,
            known.flags.values().map(BTreeMap::len).sum::<usize>()
        );
    });
}

#[test]
fn a_node_in_a_minority_evaluates_reads_with_a_word_of_warning_and_writes_nothing() {
    runtime().block_on(async {
        let mut trio = Trio::start().await;
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
