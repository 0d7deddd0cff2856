//! Owners over a cluster of processes: they spread, they leave who is killed, held still, drained or ended, and nobody decides twice.
//!
//! `FEATUREOPS_EXPERIMENTS` makes the first story smaller or larger. Times are printed; what is asserted of them is wide, since a test
//! machine may be busy: `featureops bench owners` measures.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a real process lives in real time, and a test may fail loudly"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use featureops::rpc::cluster_service_client::ClusterServiceClient;
use featureops_proto::v1::{
    Arm, AutonomyLevel, Cluster, CreateExperimentRequest, Decision, EvaluateRequest, Experiment, Exposure,
    Flag, GetClusterRequest, ListDecisionsRequest, Metric, Outcome, ReplayDecisionRequest,
    ReportExposuresRequest, ReportOutcomesRequest, SetFlagRequest, SetMetricRequest, StartExperimentRequest,
    TailAuditRequest, ValueType, member::Mark, metric,
};
use featureops_tests::client::Client;
use featureops_tests::line::{COMMAND_PATIENCE, within};
use featureops_tests::load::ENVIRONMENT;
use featureops_tests::site::{Node, Site};
use featureops_tests::{check, count, http, runtime};
use tokio::task::JoinSet;
use tonic::Code;

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(60);
const WRITERS: u64 = 24;
const PER_METRIC: u64 = 50;

struct Nodes {
    sites: Vec<Site>,
    nodes: BTreeMap<u64, Node>,
}

impl Nodes {
    /// So many voters; the first one founds and leads.
    async fn start(many: u64) -> Self {
        let peers: Vec<String> = (0..many).map(|_| format!("127.0.0.1:{}", Site::another_port())).collect();
        let sites: Vec<Site> = (1..=many)
            .map(|node| {
                let site = Site::new()
                    .with("FEATUREOPS_NODE", node.to_string())
                    .with("FEATUREOPS_PEER_LISTEN", &peers[node as usize - 1]);
                if node == 1 { site } else { site.with("FEATUREOPS_JOIN", peers.join(",")) }
            })
            .collect();
        let mut nodes = Self { sites, nodes: BTreeMap::new() };
        for node in 1..=many {
            nodes.power(node).await;
            if node > 1 {
                nodes.patiently(&["cluster", "promote", &node.to_string()]).await;
            }
        }
        nodes.until("all are up", |cluster| up(cluster).len() as u64 == many).await;
        nodes
    }

    fn site(&self, node: u64) -> &Site {
        &self.sites[node as usize - 1]
    }

    async fn power(&mut self, node: u64) {
        let started = self.site(node).start_unready().await;
        self.nodes.insert(node, started.unwrap_or_else(|ended| panic!("node {node}: {ended}")));
    }

    /// Asks any node, until it is done.
    async fn patiently(&self, arguments: &[&str]) -> String {
        let begin = Instant::now();
        loop {
            match self.site(*self.nodes.keys().next().unwrap()).ask(arguments) {
                Ok(text) => return text,
                Err(why) => assert!(begin.elapsed() < PATIENCE, "{arguments:?}: {why}"),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn cluster(&self, node: u64) -> Option<Cluster> {
        let mut client = ClusterServiceClient::new(Client::new(self.site(node).port).channel);
        client.get_cluster(GetClusterRequest::default()).await.ok().map(tonic::Response::into_inner)
    }

    /// Waits until the nodes that run, all of them, see it so; what the last one saw, and how long it took.
    async fn until(&self, what: &str, seen: impl Fn(&Cluster) -> bool) -> (Cluster, Duration) {
        self.until_among(&self.nodes.keys().copied().collect::<Vec<_>>(), what, seen).await
    }

    async fn until_among(
        &self,
        among: &[u64],
        what: &str,
        seen: impl Fn(&Cluster) -> bool,
    ) -> (Cluster, Duration) {
        let begin = Instant::now();
        loop {
            let mut last = None;
            let mut all = true;
            for node in among {
                let cluster = self.cluster(*node).await;
                all &= cluster.as_ref().is_some_and(&seen);
                last = cluster.or(last);
            }
            match last {
                Some(last) if all => return (last, begin.elapsed()),
                last => assert!(begin.elapsed() < PATIENCE, "not in time: {what}; seen: {last:#?}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until `among` run every owner and nobody else is said to own any.
    async fn owned_among(&self, among: &[u64]) -> (Cluster, Duration) {
        let begin = Instant::now();
        loop {
            let seen = |cluster: &Cluster| {
                let elsewhere = cluster.members.iter().filter(|member| !among.contains(&member.node));
                cluster.unowned == 0 && elsewhere.map(|member| member.owners).sum::<u32>() == 0
            };
            let (cluster, _) = self.until_among(among, "owners are among the living", seen).await;
            let mut running = 0;
            for node in among {
                running += self.cluster(*node).await.map_or(0, |cluster| cluster.owners_running);
            }
            if running == cluster.experiments {
                return (cluster, begin.elapsed());
            }
            assert!(begin.elapsed() < PATIENCE, "{running} of {} run", cluster.experiments);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn up(cluster: &Cluster) -> BTreeSet<u64> {
    let up = cluster.members.iter().filter(|member| member.mark() == Mark::Up);
    up.map(|member| member.node).collect()
}

fn owners(cluster: &Cluster) -> BTreeMap<u64, u32> {
    cluster.members.iter().map(|member| (member.node, member.owners)).collect()
}

/// Metrics, and so many flags with an experiment each, that run.
async fn experiments(client: &Client, many: u64) {
    // 64 experiments may share a metric.
    for number in 0..many.div_ceil(PER_METRIC) {
        let metric = Metric {
            name: format!("{ENVIRONMENT}/metrics/bought-{number}"),
            kind: metric::Kind::Proportion.into(),
            direction: metric::Direction::HigherIsBetter.into(),
            ..Metric::default()
        };
        let request = SetMetricRequest { metric: Some(metric), ..SetMetricRequest::default() };
        client.metrics.clone().set_metric(request).await.unwrap();
    }
    let mut tasks = JoinSet::new();
    for writer in 0..WRITERS.min(many) {
        let client = client.clone();
        tasks.spawn(async move {
            for number in (writer..many).step_by(WRITERS as usize) {
                experiment(&client, number).await;
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
}

async fn experiment(client: &Client, number: u64) {
    let key = &format!("e-{number}");
    let flag = Flag {
        name: format!("{ENVIRONMENT}/flags/{key}"),
        r#type: ValueType::Boolean.into(),
        variants: [("off".to_owned(), false.into()), ("on".to_owned(), true.into())].into(),
        default_variant: Some("off".into()),
        safe_variant: Some("off".into()),
        ..Flag::default()
    };
    let request = SetFlagRequest { flag: Some(flag), ..SetFlagRequest::default() };
    client.flags.clone().set_flag(request).await.unwrap();
    let name = format!("{ENVIRONMENT}/experiments/{key}");
    let arm = |variant: &str| Arm { variant: variant.into(), established: true };
    let experiment = Experiment {
        name: name.clone(),
        flag: key.into(),
        arms: vec![arm("off"), arm("on")],
        primary_metric: format!("bought-{}", number / PER_METRIC),
        cool_down_seconds: Some(0),
        ..Experiment::default()
    };
    let request = CreateExperimentRequest { experiment: Some(experiment), ..Default::default() };
    client.experiments.clone().create_experiment(request).await.unwrap();
    let autonomy = AutonomyLevel::A4Bounded.into();
    let request = StartExperimentRequest { name, autonomy, ..StartExperimentRequest::default() };
    client.experiments.clone().start_experiment(request).await.unwrap();
}

#[test]
fn owners_spread_over_five_nodes_and_leave_a_killed_one_and_a_killed_leader() {
    let many = count("FEATUREOPS_EXPERIMENTS", 1_000);
    runtime().block_on(async {
        let mut five = Nodes::start(5).await;
        experiments(&Client::new(five.site(1).port), many).await;
        let (cluster, _) = five.owned_among(&[1, 2, 3, 4, 5]).await;
        let mean = many as f64 / 5.0;
        let most = f64::from(*owners(&cluster).values().max().unwrap());
        println!(
            "{many} experiments, the most of a node over the mean {:.2}: {:?}",
            most / mean,
            owners(&cluster)
        );
        assert!(many < 500 || most < 1.3 * mean, "{:?}", owners(&cluster));

        let leader = cluster.leader;
        let follower = (1..=5).find(|node| *node != leader).unwrap();
        for (what, victim) in [("a follower", follower), ("the leader", leader)] {
            let before = owners(&five.until("spread", |seen| seen.misplaced == 0).await.0);
            five.nodes.remove(&victim).unwrap().kill();
            let living: Vec<u64> = five.nodes.keys().copied().collect();
            let (cluster, taken) = five.owned_among(&living).await;
            println!("{what} killed: {} owners run elsewhere after {taken:.1?}", before[&victim]);
            let after = owners(&cluster);
            let came: u32 = living.iter().map(|node| after[node] - before[node]).sum();
            assert_eq!(came, before[&victim], "nobody else's moved: {before:?}, {after:?}");
            // It finds fault with the member that is away, and none with the owners.
            let site = five.site(living[0]);
            let mut doctor = site.command();
            doctor.args(["doctor", "--server", &format!("http://127.0.0.1:{}", site.port)]);
            let ended = within(doctor, COMMAND_PATIENCE);
            assert!(!ended.status.success());
            let text = String::from_utf8_lossy(&ended.stdout);
            let line = text.lines().find(|line| line.starts_with("placement")).unwrap();
            assert!(line.contains("ok") && line.contains("on 4 members that are up"), "{line}");
            // Back, and up after a while: its share comes back to it and to nobody else, by and by.
            five.power(victim).await;
            five.until("up again", |seen| up(seen).len() == 5).await;
            five.until("spread again", |seen| seen.misplaced == 0 && owners(seen) == before).await;
            five.owned_among(&[1, 2, 3, 4, 5]).await;
        }
        let verified = check::audit_end(&Client::new(five.site(3).port)).await.unwrap();
        assert!(verified > 0);
    });
}

/// Facts of one experiment whose arms are nearly alike: there is always something to decide.
struct Visitors {
    client: Client,
    sequence: u64,
}

impl Visitors {
    async fn come(&mut self) {
        self.sequence += 1;
        let units: Vec<u64> = (0..60).map(|unit| self.sequence * 100 + unit).collect();
        let exposures = units.iter().map(|unit| Exposure {
            experiment: "e-0".into(),
            unit: format!("unit-{unit}"),
            variant: if unit % 2 == 0 { "off".into() } else { "on".into() },
            ..Exposure::default()
        });
        let request = ReportExposuresRequest {
            environment: ENVIRONMENT.into(),
            producer: "visitors-seen".into(),
            sequence: self.sequence,
            exposures: exposures.collect(),
        };
        self.client.facts.clone().report_exposures(request).await.unwrap();
        // Now the one arm is better and now the other.
        let better = (self.sequence / 8) % 2;
        let bought = units.iter().filter(|unit| **unit % 10 < if **unit % 2 == better { 6 } else { 2 });
        let outcomes = bought.map(|unit| Outcome {
            metric: "bought-0".into(),
            unit: format!("unit-{unit}"),
            value: Some(1.0),
            ..Outcome::default()
        });
        let request = ReportOutcomesRequest {
            environment: ENVIRONMENT.into(),
            producer: "visitors-bought".into(),
            sequence: self.sequence,
            outcomes: outcomes.collect(),
        };
        self.client.facts.clone().report_outcomes(request).await.unwrap();
    }

    async fn decisions(&self) -> Vec<Decision> {
        let request = ListDecisionsRequest {
            parent: ENVIRONMENT.into(),
            flag: "e-0".into(),
            page_size: 200,
            ..ListDecisionsRequest::default()
        };
        self.client.decisions.clone().list_decisions(request).await.unwrap().into_inner().decisions
    }

    /// Lets visitors come until there are so many decisions.
    async fn until(&mut self, many: usize) -> usize {
        let begin = Instant::now();
        loop {
            self.come().await;
            let made = self.decisions().await.len();
            if made >= many {
                return made;
            }
            assert!(begin.elapsed() < PATIENCE, "{made} decisions, {many} are waited for");
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
    }
}

#[test]
fn an_owner_on_a_follower_decides_and_one_that_was_held_still_decides_nothing_more() {
    runtime().block_on(async {
        let three = Nodes::start(3).await;
        let client = Client::new(three.site(1).port);
        experiments(&client, 1).await;
        let (cluster, _) = three.owned_among(&[1, 2, 3]).await;
        let owner = *owners(&cluster).iter().find(|(_, owners)| **owners == 1).unwrap().0;
        assert_ne!(owner, cluster.leader, "the first experiment is not the leader's");
        let others: Vec<u64> = [1, 2, 3].into_iter().filter(|node| *node != owner).collect();
        let mut visitors = Visitors { client: Client::new(three.site(others[0]).port), sequence: 0 };
        let made = visitors.until(3).await;

        // Held still for longer than any lease, while others decide.
        three.nodes[&owner].hold(true);
        let (_, taken) = three.owned_among(&others).await;
        println!("held still: its owner runs elsewhere after {taken:.1?}");
        let more = visitors.until(made + 3).await;
        three.nodes[&owner].hold(false);
        let (cluster, _) =
            three.until("it knows", |seen| owners(seen)[&owner] == 0 || up(seen).len() == 3).await;
        assert!(owners(&cluster).values().sum::<u32>() == 1);
        let last = visitors.until(more + 2).await;
        // Up again after its time, and its owner with it.
        three.until("back", |seen| up(seen).len() == 3 && owners(seen)[&owner] == 1).await;
        visitors.until(last + 2).await;

        // One at a time, at most one a second by the log's clock, each made on what its replay says.
        let decisions = visitors.decisions().await;
        let times: Vec<f64> = decisions
            .iter()
            .map(|decision| decision.time.as_ref().unwrap())
            .map(|time| time.seconds as f64 + f64::from(time.nanos) / 1e9)
            .collect();
        assert!(times.windows(2).all(|pair| (pair[0] - pair[1]).abs() >= 0.999), "{times:?}");
        let names: BTreeSet<&String> = decisions.iter().map(|decision| &decision.name).collect();
        assert_eq!(names.len(), decisions.len());
        for decision in &decisions {
            let request = ReplayDecisionRequest { name: decision.name.clone() };
            let replayed = client.decisions.clone().replay_decision(request).await.unwrap().into_inner();
            assert!(replayed.same, "{}: {}", decision.name, replayed.unavailable);
        }
        for node in 1..=3 {
            check::audit_end(&three.site(node).client()).await.unwrap();
        }
        let audit = three.site(1).ask(&["audit", "list", "-o", "json"]).unwrap();
        println!(
            "{} decisions, {} refused for their epoch",
            decisions.len(),
            audit.matches("FENCED").count()
        );
    });
}

#[test]
fn a_drained_node_gives_up_owners_lead_and_streams_and_one_that_ends_says_so() {
    runtime().block_on(async {
        let mut three = Nodes::start(3).await;
        let client = Client::new(three.site(1).port);
        experiments(&client, 40).await;
        let (cluster, _) = three.owned_among(&[1, 2, 3]).await;
        let leader = cluster.leader;
        let own = Client::new(three.site(leader).port);
        let tail = TailAuditRequest::default;
        let mut stream = own.administration.clone().tail_audit(tail()).await.unwrap().into_inner();

        // A rehearsal changes nothing; a drain waits until it is done, and says so.
        let named = leader.to_string();
        three.patiently(&["cluster", "drain", &named, "--validate-only"]).await;
        assert!(three.cluster(leader).await.unwrap().members.iter().all(|member| !member.draining));
        let said = three.site(leader).ask(&["cluster", "drain", &named]).unwrap();
        assert!(said.contains(&format!("node {leader} owns nothing and does not lead")), "{said}");
        let (cluster, _) = three.until("drained", |seen| owners(seen)[&leader] == 0).await;
        assert!(cluster.leader != leader && cluster.leader != 0);
        let member = cluster.members.iter().find(|member| member.node == leader).unwrap();
        assert!(member.draining && member.drained_by.is_some() && member.mark() == Mark::Up);
        let ended = loop {
            match stream.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("the stream ended without a word"),
                Err(status) => break status,
            }
        };
        assert_eq!(ended.code(), Code::Unavailable, "{ended}");
        // It answers all the same, those who come back too, and wants no new clients.
        let request = EvaluateRequest {
            environment: ENVIRONMENT.into(),
            flag: "e-0".into(),
            ..EvaluateRequest::default()
        };
        own.evaluation.clone().evaluate(request).await.unwrap();
        let mut again = own.administration.clone().tail_audit(tail()).await.unwrap().into_inner();
        let waits = tokio::time::timeout(Duration::from_millis(1_500), async {
            while let Ok(Some(_)) = again.message().await {}
        });
        assert!(waits.await.is_err(), "a stream that was opened since stays");
        let ready = http::get(three.site(leader).port, "/readyz").await.unwrap();
        assert_eq!(ready.status, 503);

        // Not the last one.
        let others: Vec<u64> = [1, 2, 3].into_iter().filter(|node| *node != leader).collect();
        three.patiently(&["cluster", "drain", &others[0].to_string()]).await;
        let why = three.site(leader).ask(&["cluster", "drain", &others[1].to_string()]).unwrap_err();
        assert!(why.contains("no other voter is up"), "{why}");
        for node in [leader, others[0]] {
            three.patiently(&["cluster", "drain", &node.to_string(), "--undo"]).await;
        }
        let found = three.patiently(&["cluster", "rebalance"]).await;
        assert!(found.contains("owners moved"), "{found}");
        three.until("spread", |seen| seen.misplaced == 0).await;
        assert_eq!(http::get(three.site(leader).port, "/readyz").await.unwrap().status, 200);

        // Ten times the weight, about ten times the owners; said first, and done at once.
        three.patiently(&["cluster", "weight", &named, "1000"]).await;
        let would = three.patiently(&["cluster", "rebalance", "--validate-only"]).await;
        assert!(would.contains("owners would move"), "{would}");
        three.patiently(&["cluster", "rebalance"]).await;
        let (cluster, _) = three.until("weighted", |seen| seen.misplaced == 0).await;
        assert!(owners(&cluster)[&leader] > 25, "{:?}", owners(&cluster));

        // Ended by a signal it says so: its owners are elsewhere when it is gone, without two seconds of silence.
        let ended = three.nodes.remove(&leader).unwrap().drain().await.unwrap();
        assert!(ended.success());
        let (cluster, taken) = three.owned_among(&others).await;
        println!("after an end by a signal the owners run elsewhere after {taken:.1?}");
        let member = cluster.members.iter().find(|member| member.node == leader).unwrap();
        assert_eq!(member.mark(), Mark::Left);
        three.power(leader).await;
        three.until("back", |seen| up(seen).len() == 3 && owners(seen)[&leader] > 25).await;

        // Gone for good: no mark, no owner.
        three.nodes.remove(&leader).unwrap().kill();
        three.patiently(&["cluster", "remove", &named]).await;
        let (cluster, _) = three.owned_among(&others).await;
        assert!(cluster.members.iter().all(|member| member.node != leader));
    });
}
