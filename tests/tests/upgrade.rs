//! A rolling upgrade of three processes under load: the level is raised when every member knows it and not before, nothing
//! acknowledged is lost, no evaluation fails on a node that runs, and who does not know the level stays out.
//!
//! The older release is this one with `feature_level_max`: it says and takes what an older one would. What it takes it applies as
//! this one does: that is the promise of a level, and every release keeps it by choosing by the level whatever it changes.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a real process lives in real time, and a test may fail loudly"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use featureops_proto::v1::EvaluateRequest;
use featureops_tests::client::Client;
use featureops_tests::load::{ENVIRONMENT, EXPERIMENT, Load, prepare};
use featureops_tests::site::{Node, Site};
use featureops_tests::{check, runtime};
use serde_json::Value;
use tokio::task::JoinSet;

const PATIENCE: Duration = Duration::from_secs(40);
const OLD: &str = "FEATUREOPS_FEATURE_LEVEL_MAX";

async fn patiently(site: &Site, arguments: &[&str]) -> String {
    let begin = Instant::now();
    loop {
        match site.ask(arguments) {
            Ok(text) => return text,
            Err(why) => assert!(begin.elapsed() < PATIENCE, "{arguments:?}: {why}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn leader(sites: &[Site], without: Option<usize>) -> usize {
    let begin = Instant::now();
    loop {
        let asked: Vec<&Site> =
            sites.iter().enumerate().filter(|(at, _)| Some(*at) != without).map(|(_, site)| site).collect();
        let named: Vec<String> = asked
            .iter()
            .map(|site| {
                let text = site.ask(&["cluster", "status", "-o", "json"]).unwrap_or_default();
                let status: Value = serde_json::from_str(&text).unwrap_or_default();
                status["leader"].as_str().unwrap_or("0").to_owned()
            })
            .collect();
        let first: usize = named[0].parse().unwrap();
        if first != 0 && Some(first - 1) != without && named.iter().all(|name| *name == named[0]) {
            return first - 1;
        }
        assert!(begin.elapsed() < PATIENCE, "{named:?}");
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
}

struct Watch {
    excused: Arc<[AtomicBool; 3]>,
    counted: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    tasks: JoinSet<Vec<String>>,
}

impl Watch {
    fn start(sites: &[Site]) -> Self {
        let (excused, counted, stop): (Arc<[AtomicBool; 3]>, Arc<AtomicU64>, Arc<AtomicBool>) =
            (Arc::default(), Arc::default(), Arc::default());
        let mut tasks = JoinSet::new();
        for (at, site) in sites.iter().take(3).enumerate() {
            let (port, excused, counted, stop) =
                (site.port, Arc::clone(&excused), Arc::clone(&counted), Arc::clone(&stop));
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
                    match answer {
                        Ok(_) => drop(counted.fetch_add(1, Ordering::SeqCst)),
                        Err(status) if !before && !excused[at].load(Ordering::SeqCst) => {
                            faults.push(format!("node {}: {status}", at + 1));
                        }
                        Err(_) => {}
                    }
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                faults
            });
        }
        Self { excused, counted, stop, tasks }
    }

    async fn end(mut self) -> (Vec<String>, u64) {
        self.stop.store(true, Ordering::SeqCst);
        let mut faults = Vec::new();
        while let Some(ended) = self.tasks.join_next().await {
            faults.extend(ended.unwrap());
        }
        (faults, self.counted.load(Ordering::SeqCst))
    }
}

fn plan(site: &Site) -> Value {
    serde_json::from_str(&site.ask(&["upgrade", "plan", "-o", "json"]).unwrap()).unwrap()
}

#[test]
fn three_nodes_roll_from_one_level_to_the_next_under_load() {
    runtime().block_on(async {
        let peers: Vec<String> = (0..4).map(|_| format!("127.0.0.1:{}", Site::another_port())).collect();
        let mut sites: Vec<Site> = (1..=4_usize)
            .map(|node| {
                let site = Site::new()
                    .with(OLD, "1")
                    .with("FEATUREOPS_NODE", node.to_string())
                    .with("FEATUREOPS_PEER_LISTEN", &peers[node - 1])
                    .with("FEATUREOPS_SNAPSHOT_EVERY_ENTRIES", "500");
                if node == 1 { site } else { site.with("FEATUREOPS_JOIN", peers[..3].join(",")) }
            })
            .collect();
        let mut nodes: Vec<Option<Node>> = Vec::new();
        for at in 0..3 {
            nodes.push(Some(
                sites[at].start().await.unwrap_or_else(|ended| panic!("node {}: {ended}", at + 1)),
            ));
            if at > 0 {
                patiently(&sites[0], &["cluster", "promote", &(at + 1).to_string()]).await;
            }
        }
        prepare(&sites[0].client()).await.unwrap();
        for site in &sites[..3] {
            patiently(site, &["flag", "get", EXPERIMENT, "--environment", "production"]).await;
        }
        let planned = plan(&sites[1]);
        assert_eq!(
            (&planned["featureLevel"], &planned["featureLevelMax"]),
            (&1.into(), &1.into()),
            "{planned:#}"
        );
        let file = sites[0].beside("first.fobackup");
        let folder = file.to_str().unwrap().to_owned();
        patiently(&sites[0], &["backup", "create", &folder]).await;
        let audit = sites[0].ask(&["audit", "list", "-o", "json"]).unwrap();
        let noted = audit.matches("FEATURE_LEVEL_TOO_LOW").count();
        assert_eq!(noted, 1, "the note of the backup waits for its level: {audit}");

        let watch = Watch::start(&sites);
        let ports: Vec<u16> = sites[..3].iter().map(|site| site.port).collect();
        let load = Load::start(&Client::of_any(&ports), 3);
        let mut left: Vec<usize> = vec![0, 1, 2];
        while !left.is_empty() {
            tokio::time::sleep(Duration::from_millis(500)).await;
            // Who follows first, the leader last.
            let leads = leader(&sites[..3], None).await;
            let at = left.iter().copied().find(|at| *at != leads).unwrap_or(leads);
            let why = sites[2].ask(&["upgrade", "raise", "--to", "2"]).unwrap_err();
            assert!(why.contains("not every member knows feature level 2"), "{why}");
            for old in &left {
                assert!(why.contains(&format!("node {} ", old + 1)), "{why}");
            }
            if left.len() < 3 {
                let planned = plan(&sites[leads]);
                assert_eq!(planned["steps"].as_array().unwrap().len(), left.len(), "{planned:#}");
            }
            if at == leads {
                let next = ((at + 1) % 3 + 1).to_string();
                patiently(&sites[at], &["cluster", "transfer-leader", &next]).await;
            }
            watch.excused[at].store(true, Ordering::SeqCst);
            assert!(nodes[at].take().unwrap().drain().await.unwrap().success());
            sites[at].set(OLD, "2");
            nodes[at] =
                Some(sites[at].start().await.unwrap_or_else(|ended| panic!("node {}: {ended}", at + 1)));
            leader(&sites[..3], None).await;
            watch.excused[at].store(false, Ordering::SeqCst);
            left.retain(|old| *old != at);
        }
        let planned = plan(&sites[0]);
        assert!(planned["steps"][0].as_str().unwrap().contains("raise --to 2"), "{planned:#}");
        sites[1].ask(&["upgrade", "raise", "--to", "2", "--dry-run"]).unwrap();
        assert_eq!(plan(&sites[0])["featureLevel"], 1);
        patiently(&sites[1], &["upgrade", "raise", "--to", "2"]).await;
        patiently(&sites[2], &["backup", "create", sites[0].beside("second.fobackup").to_str().unwrap()])
            .await;
        let known = load.end().await;
        let (faults, evaluated) = watch.end().await;
        assert!(
            faults.is_empty(),
            "{} evaluations failed: {:#?}",
            faults.len(),
            &faults[..faults.len().min(5)]
        );
        assert!(evaluated > 300, "{evaluated}");
        for site in &sites[..3] {
            let faults = check::settled(&site.client(), &known).await;
            assert!(faults.is_empty(), "node at {}: {faults:#?}", site.port);
            let planned = plan(site);
            assert_eq!(planned["featureLevel"], 2, "{planned:#}");
            assert!(planned["steps"].as_array().is_none_or(Vec::is_empty), "{planned:#}");
            let audit = site.ask(&["audit", "list", "--limit", "300", "-o", "json"]).unwrap();
            assert!(audit.contains("cluster.raise_level") && audit.contains("from 1 to 2"));
            assert!(audit.contains("sha256"), "the second backup is noted");
        }

        // Who knows less: does not join, and does not come back.
        let late = sites[3].start_unready().await.unwrap();
        let begin = Instant::now();
        loop {
            let status = sites[3].ask(&["cluster", "status"]).unwrap();
            if status.contains("is at feature level 2, and this build") {
                break;
            }
            assert!(begin.elapsed() < PATIENCE, "{status}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let why = sites[0].ask(&["cluster", "add-learner", "4", &peers[3]]).unwrap_err();
        assert!(why.contains("node 4") && why.contains("knows feature levels up to 1"), "{why}");
        drop(late);
        for at in [2, 0] {
            assert!(nodes[at].take().unwrap().drain().await.unwrap().success());
            sites[at].set(OLD, "1");
            let ended = sites[at].start_unready().await.unwrap_err();
            assert!(ended.output.contains("the cluster is at feature level 2"), "{ended}");
            sites[at].set(OLD, "2");
            nodes[at] =
                Some(sites[at].start().await.unwrap_or_else(|ended| panic!("node {}: {ended}", at + 1)));
        }
        println!("{:?} acknowledged, {evaluated} evaluations", known.acknowledged);
    });
}
