//! Several nodes as one cluster, and a watch that evaluates on each of them all the time.
//!
//! ```text
//!   Several::start(3): the first founds, the others join by the command line's own words, and vote
//!      grow ── a further one joins and votes        shrink ── one is removed and ended
//!      power / nodes.remove(..).kill() / hold / drain       leader ── by the word of all that run
//!   Watch: evaluates on every node; a failure counts unless the test has excused the node at that moment
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use featureops::rpc::cluster_service_client::ClusterServiceClient;
use featureops_proto::v1::{EvaluateRequest, GetClusterRequest};
use serde_json::Value;
use tokio::task::JoinSet;

use crate::client::Client;
use crate::load::{ENVIRONMENT, EXPERIMENT};
use crate::site::{Node, Site};

/// Longest wait for anything.
pub const PATIENCE: Duration = Duration::from_secs(40);
/// Between two evaluations on one node.
const PACE: Duration = Duration::from_millis(5);

/// Nodes by their numbers.
#[derive(Debug, Default)]
pub struct Several {
    /// Of all that were ever there.
    pub sites: BTreeMap<u64, Site>,
    /// Those that run.
    pub nodes: BTreeMap<u64, Node>,
    /// Where each listens for the others.
    peers: BTreeMap<u64, String>,
}

impl Several {
    /// So many voters.
    ///
    /// # Panics
    /// One does not start, or is not taken in.
    pub async fn start(count: u64) -> Self {
        let mut several = Self::default();
        for _ in 0..count {
            several.grow(|_| {}).await;
        }
        several
    }

    /// One more voter, whose site `prepare` may change before it starts; its number.
    ///
    /// # Panics
    /// It does not start, or is not taken in.
    pub async fn grow(&mut self, prepare: impl FnOnce(&mut Site)) -> u64 {
        let node = self.join(prepare).await;
        if node > 1 {
            self.patiently(&["cluster", "promote", &node.to_string()]).await;
        }
        node
    }

    /// One more node, which joins and does not vote; the very first one founds. Its number.
    ///
    /// # Panics
    /// It does not start.
    pub async fn join(&mut self, prepare: impl FnOnce(&mut Site)) -> u64 {
        let node = self.sites.keys().last().map_or(1, |last| last + 1);
        let others: Vec<String> = self.nodes.keys().map(|other| self.peers[other].clone()).collect();
        let peer = format!("127.0.0.1:{}", Site::another_port());
        let mut site = Site::new()
            .with("FEATUREOPS_NODE", node.to_string())
            .with("FEATUREOPS_PEER_LISTEN", peer)
            .with("FEATUREOPS_SNAPSHOT_EVERY_ENTRIES", "500");
        if !others.is_empty() {
            site.set("FEATUREOPS_JOIN", others.join(","));
        }
        prepare(&mut site);
        // Elsewhere than on loopback, if it was prepared so.
        let listens = site.variable("FEATUREOPS_PEER_LISTEN").unwrap().to_str().unwrap().to_owned();
        self.sites.insert(node, site);
        self.peers.insert(node, listens);
        self.power(node).await;
        node
    }

    /// Takes a node out of the cluster for good, and ends its process.
    ///
    /// # Panics
    /// The cluster does not let it go.
    pub async fn shrink(&mut self, node: u64) {
        let by = *self.nodes.keys().find(|other| **other != node).unwrap();
        self.patiently_by(by, &["cluster", "remove", &node.to_string()]).await;
        if let Some(running) = self.nodes.remove(&node) {
            running.kill();
        }
    }

    /// The site of a node.
    #[must_use]
    pub fn site(&self, node: u64) -> &Site {
        &self.sites[&node]
    }

    /// Starts a node that does not run.
    ///
    /// # Panics
    /// It does not become ready.
    pub async fn power(&mut self, node: u64) {
        let started = self.site(node).start().await.unwrap_or_else(|ended| panic!("node {node}: {ended}"));
        self.nodes.insert(node, started);
    }

    /// Asks the first node that runs, until it is done.
    ///
    /// # Panics
    /// It is not, within [`PATIENCE`].
    pub async fn patiently(&self, arguments: &[&str]) -> String {
        self.patiently_by(*self.nodes.keys().next().unwrap(), arguments).await
    }

    async fn patiently_by(&self, node: u64, arguments: &[&str]) -> String {
        let begin = Instant::now();
        loop {
            match self.site(node).ask(arguments) {
                Ok(text) => return text,
                Err(why) => assert!(begin.elapsed() < PATIENCE, "{arguments:?}: {why}"),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// `cluster status` as a node says it.
    ///
    /// # Panics
    /// It does not answer.
    #[must_use]
    pub fn cluster(&self, node: u64) -> Value {
        let text = self.site(node).ask(&["cluster", "status", "-o", "json"]).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    /// The leader by the word of the nodes that run, all but `without`.
    ///
    /// # Panics
    /// They do not agree within [`PATIENCE`].
    pub async fn leader(&self, without: Option<u64>) -> u64 {
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

    /// Where those serve that run.
    #[must_use]
    pub fn ports(&self) -> Vec<u16> {
        self.nodes.keys().map(|node| self.site(*node).port).collect()
    }

    /// Waits until all that run are at one position with one digest; ticks go on, so it is asked until they meet.
    ///
    /// # Panics
    /// Two have one position and two digests, or they do not meet within [`PATIENCE`].
    pub async fn same_digest(&self) {
        let begin = Instant::now();
        loop {
            let mut found = Vec::new();
            for port in self.ports() {
                found.push(digest(port).await);
            }
            if found.iter().all(|digest| *digest == found[0]) {
                assert!(!found[0].1.is_empty());
                return;
            }
            for (at, one) in found.iter().enumerate() {
                for other in &found[at + 1..] {
                    assert!(one.0 != other.0 || one.1 == other.1, "one position, two digests: {found:?}");
                }
            }
            assert!(begin.elapsed() < PATIENCE, "{found:?}");
        }
    }
}

/// A position, and the state's digest there.
async fn digest(port: u16) -> (u64, String) {
    let mut client = ClusterServiceClient::new(Client::new(port).channel);
    let answer = client.get_cluster(GetClusterRequest { digest: true }).await.unwrap().into_inner();
    (answer.digest_position, answer.digest)
}

#[derive(Debug, Default)]
struct Seen {
    excused: AtomicBool,
    gone: AtomicBool,
    evaluated: AtomicU64,
    faults: Mutex<Vec<String>>,
}

/// Evaluates on every node all the time; which of them are excused at the moment the test says.
#[derive(Debug, Default)]
pub struct Watch {
    seen: BTreeMap<u64, Arc<Seen>>,
    tasks: JoinSet<()>,
}

impl Watch {
    /// Over all that run.
    #[must_use]
    pub fn start(several: &Several) -> Self {
        let mut watch = Self::default();
        for node in several.nodes.keys() {
            watch.add(*node, several.site(*node).port);
        }
        watch
    }

    /// One more.
    ///
    /// # Panics
    /// Never, but for a thread that panicked with the list of faults.
    pub fn add(&mut self, node: u64, port: u16) {
        let seen = Arc::new(Seen::default());
        self.seen.insert(node, Arc::clone(&seen));
        self.tasks.spawn(async move {
            let client = Client::new(port);
            while !seen.gone.load(Ordering::SeqCst) {
                let before = seen.excused.load(Ordering::SeqCst);
                let request = EvaluateRequest {
                    environment: ENVIRONMENT.into(),
                    flag: EXPERIMENT.into(),
                    ..EvaluateRequest::default()
                };
                let answer = client.evaluation.clone().evaluate(request).await;
                let excused = before || seen.excused.load(Ordering::SeqCst);
                match answer {
                    Ok(_) => drop(seen.evaluated.fetch_add(1, Ordering::SeqCst)),
                    Err(status) if !excused => {
                        seen.faults.lock().unwrap().push(format!("node {node}: {status}"))
                    }
                    Err(_) => {}
                }
                tokio::time::sleep(PACE).await;
            }
        });
    }

    /// Failures of this node count, or do not, from now on.
    pub fn excuse(&self, node: u64, excused: bool) {
        self.seen[&node].excused.store(excused, Ordering::SeqCst);
    }

    /// It is not asked any more.
    pub fn leave(&self, node: u64) {
        self.excuse(node, true);
        self.seen[&node].gone.store(true, Ordering::SeqCst);
    }

    /// What failed, and how often each node answered.
    ///
    /// # Panics
    /// A task did.
    pub async fn end(mut self) -> (Vec<String>, BTreeMap<u64, u64>) {
        for seen in self.seen.values() {
            seen.gone.store(true, Ordering::SeqCst);
        }
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
        let faults = self.seen.values().flat_map(|seen| seen.faults.lock().unwrap().clone()).collect();
        let evaluated = self.seen.iter().map(|(node, seen)| (*node, seen.evaluated.load(Ordering::SeqCst)));
        (faults, evaluated.collect())
    }
}
