//! The ledger's promises over several processes: a batch whose answer was lost is told to another node and counts once; sums fold
//! in the middle of a failover and every node holds the same; and owners that move while they decide decide once.
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

use featureops::rpc::cluster_service_client::ClusterServiceClient;
use featureops_proto::v1::{
    Arm, CreateExperimentRequest, Decision, Experiment, Exposure, Flag, GetClusterRequest,
    GetExperimentStatusRequest, GetFlagRequest, Guardrail, ListDecisionsRequest, Metric, Outcome,
    ReplayDecisionRequest, ReportExposuresRequest, ReportFactsResponse, ReportOutcomesRequest,
    SetFlagRequest, SetMetricRequest, StartExperimentRequest, ValueType, decision, experiment, metric,
};
use featureops_tests::chance::Chance;
use featureops_tests::client::{Client, answered, repeatable};
use featureops_tests::load::{ARMS, ENVIRONMENT, EXPERIMENT, Load, prepare};
use featureops_tests::several::{Several, Watch};
use featureops_tests::{check, count, runtime};
use tokio::task::JoinSet;

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);

/// Sends a batch of exposures once.
async fn expose(
    client: &Client,
    batch: &ReportExposuresRequest,
) -> Result<ReportFactsResponse, tonic::Status> {
    client.facts.clone().report_exposures(batch.clone()).await.map(tonic::Response::into_inner)
}

/// The same until there is an answer.
async fn exposed(client: &Client, batch: &ReportExposuresRequest) -> ReportFactsResponse {
    answered(PATIENCE, || {
        let (mut facts, batch) = (client.facts.clone(), batch.clone());
        async move { facts.report_exposures(batch).await }
    })
    .await
    .unwrap()
}

/// Units of one batch, one half in each arm.
const UNITS: u64 = 16;
/// Batches that are under way together, each of a producer of its own.
const BATCHES: u64 = 12;

#[test]
fn a_batch_whose_answer_was_lost_is_told_to_another_node_and_counts_once() {
    let (rounds, seed) = (count("FEATUREOPS_ROUNDS", 6), count("FEATUREOPS_SEED", 1));
    println!("FEATUREOPS_ROUNDS={rounds} FEATUREOPS_SEED={seed}");
    let mut chance = Chance::new(seed);
    runtime().block_on(async {
        let mut trio = Several::start(3).await;
        prepare(&trio.site(1).client()).await.unwrap();
        let (mut lost, mut known_before) = (0, 0);
        for round in 1..=rounds {
            let leader = trio.leader(None).await;
            let others: Vec<u64> = (1..=3).filter(|node| *node != leader).collect();
            // Whoever is in trouble: the leader, or the follower that has taken the batches.
            let (first, trouble) = match round % 3 {
                1 => (leader, leader),
                2 => (others[0], leader),
                _ => (others[0], others[0]),
            };
            let second = others[1];
            let (one, another) = (trio.site(first).client(), trio.site(second).client());
            let batches: Vec<ReportExposuresRequest> = (0..BATCHES)
                .map(|batch| ReportExposuresRequest {
                    environment: ENVIRONMENT.into(),
                    producer: format!("producer-{batch}"),
                    sequence: round,
                    exposures: (0..UNITS)
                        .map(|unit| Exposure {
                            experiment: EXPERIMENT.into(),
                            unit: format!("{round}-{batch}-{unit}"),
                            variant: ARMS[(unit % 2) as usize].into(),
                            ..Exposure::default()
                        })
                        .collect(),
                })
                .collect();
            let mut tasks = JoinSet::new();
            for (at, batch) in batches.iter().cloned().enumerate() {
                let (one, wait_ms) = (one.clone(), chance.below(60));
                tasks.spawn(async move {
                    tokio::time::sleep(Duration::from_millis(wait_ms)).await;
                    let sent = tokio::time::timeout(Duration::from_secs(1), expose(&one, &batch)).await;
                    (at, sent.ok())
                });
            }
            tokio::time::sleep(Duration::from_millis(5 + chance.below(60))).await;
            // Held still it may have written what it never answered, and goes on with it later.
            let held = round % 2 == 0;
            if held {
                trio.nodes[&trouble].hold(true);
            } else {
                trio.nodes.remove(&trouble).unwrap().kill();
            }
            let mut unanswered = Vec::new();
            while let Some(ended) = tasks.join_next().await {
                match ended.unwrap() {
                    (_, Some(Ok(answer))) => assert_eq!(u64::from(answer.counted), UNITS),
                    (at, Some(Err(status))) => {
                        assert!(repeatable(&status), "{status}");
                        unanswered.push(at);
                    }
                    (at, None) => unanswered.push(at),
                }
            }
            lost += unanswered.len();
            // All are told to another node, those that were answered too; what it says is what the first would have said.
            for (at, batch) in batches.iter().enumerate() {
                let answer = exposed(&another, batch).await;
                assert_eq!(u64::from(answer.counted), UNITS, "{answer:?}");
                assert!(
                    answer.duplicate || unanswered.contains(&at),
                    "acknowledged and not there: {answer:?}"
                );
                known_before += u64::from(answer.duplicate && unanswered.contains(&at));
            }
            if held {
                trio.nodes[&trouble].hold(false);
            } else {
                trio.power(trouble).await;
            }
            trio.leader(None).await;
            // And once more to the first.
            for batch in &batches {
                let answer = exposed(&one, batch).await;
                assert!(answer.duplicate && u64::from(answer.counted) == UNITS, "{answer:?}");
            }
        }
        let units = rounds * BATCHES * UNITS / 2;
        for node in trio.nodes.keys() {
            let held = check::counted(&trio.site(*node).client()).await.unwrap();
            assert_eq!(held.units, [units, units], "node {node}");
        }
        trio.same_digest().await;
        println!(
            "{lost} batches got no answer; {known_before} of them were counted all the same, and not again"
        );
        assert!(lost > 0, "every batch was answered: the test proves nothing");
    });
}

async fn folded(several: &Several, node: u64) -> (bool, u64) {
    let client = several.site(node).client();
    let name = format!("{ENVIRONMENT}/experiments/{EXPERIMENT}");
    let ask = || {
        let (mut experiments, name) = (client.experiments.clone(), name.clone());
        async move { experiments.get_experiment_status(GetExperimentStatusRequest { name }).await }
    };
    let status = answered(PATIENCE, ask).await.unwrap();
    (status.folded, status.entries)
}

#[test]
fn sums_fold_while_nodes_fail_and_every_node_holds_the_same() {
    const SUMS: u64 = 3_000;
    runtime().block_on(async {
        let mut trio = Several::default();
        for _ in 0..3 {
            // So that each life begins with another snapshot: before the fold, and after it.
            trio.grow(|site| site.set("FEATUREOPS_SNAPSHOT_EVERY_ENTRIES", "200")).await;
        }
        prepare(&trio.site(1).client()).await.unwrap();
        trio.patiently(&["budget", "set", "--experiment-sums", &SUMS.to_string()]).await;
        let watch = Watch::start(&trio);
        let load = Load::start(&Client::of_any(&trio.ports()), 2);
        let wait = async |several: &Several, node: u64, come: &dyn Fn((bool, u64)) -> bool| {
            let begin = Instant::now();
            loop {
                let now = folded(several, node).await;
                if come(now) {
                    return now;
                }
                assert!(begin.elapsed() < PATIENCE, "{now:?}");
                tokio::time::sleep(POLL).await;
            }
        };
        let leader = trio.leader(None).await;
        let follower = (1..=3).find(|node| *node != leader).unwrap();
        let third = 6 - leader - follower;
        // A follower misses the fold, and the leader is killed before it.
        let before = wait(&trio, third, &|(folded, sums)| folded || sums > SUMS / 2).await;
        assert!(!before.0, "folded before anybody failed");
        watch.excuse(follower, true);
        trio.nodes.remove(&follower).unwrap().kill();
        wait(&trio, third, &|(folded, _)| folded).await;
        watch.excuse(leader, true);
        trio.nodes.remove(&leader).unwrap().kill();
        trio.power(follower).await;
        watch.excuse(follower, false);
        trio.leader(Some(leader)).await;
        trio.power(leader).await;
        watch.excuse(leader, false);
        // One that was never there: it gets what is folded.
        let fourth = trio.grow(|_| {}).await;
        assert!(wait(&trio, fourth, &|(folded, _)| folded).await.0);
        let known = load.end().await;
        for node in trio.nodes.keys() {
            let faults = check::settled(&trio.site(*node).client(), &known).await;
            assert!(faults.is_empty(), "node {node}: {faults:#?}");
            assert!(folded(&trio, *node).await.0);
        }
        trio.same_digest().await;
        let (faults, _) = watch.end().await;
        assert!(
            faults.is_empty(),
            "{} evaluations failed: {:#?}",
            faults.len(),
            &faults[..faults.len().min(5)]
        );
        // And everybody again from what lies on the disks.
        for node in 1..=4 {
            trio.nodes.remove(&node).unwrap().kill();
        }
        for node in 1..=4 {
            let started = trio.site(node).start_unready().await.unwrap_or_else(|ended| panic!("{ended}"));
            trio.nodes.insert(node, started);
        }
        trio.leader(None).await;
        for node in 1..=4 {
            wait(&trio, node, &|(folded, _)| folded).await;
        }
        trio.same_digest().await;
        let faults = check::settled(&trio.site(fourth).client(), &known).await;
        assert!(faults.is_empty(), "after a start of all: {faults:#?}");
        println!("{:?} acknowledged, {before:?} before the kills", known.acknowledged);
    });
}

/// Experiments that are harmed together.
const HARMED: u64 = 8;
/// Units of each arm, and those of the treatment that have an error.
const SEEN: u64 = 150;
const ERRORS: u64 = 100;

/// The flag, its experiment with a guardrail, and its units, all well so far.
async fn guarded(client: &Client, key: &str) {
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
    let experiment = Experiment {
        name: name.clone(),
        flag: key.into(),
        arms: ["off", "on"].map(|arm| Arm { variant: arm.into(), established: true }).to_vec(),
        primary_metric: "bought".into(),
        guardrails: vec![Guardrail { metric: "errors".into(), minimum_units: 100, ..Guardrail::default() }],
        policy: experiment::Policy::Fixed.into(),
        ..Experiment::default()
    };
    let request = CreateExperimentRequest { experiment: Some(experiment), ..Default::default() };
    client.experiments.clone().create_experiment(request).await.unwrap();
    let request = StartExperimentRequest { name, ..StartExperimentRequest::default() };
    client.experiments.clone().start_experiment(request).await.unwrap();
    let exposures = (0..2 * SEEN).map(|unit| Exposure {
        experiment: key.into(),
        unit: format!("{key}-{unit}"),
        variant: if unit % 2 == 0 { "off".into() } else { "on".into() },
        ..Exposure::default()
    });
    let batch = ReportExposuresRequest {
        environment: ENVIRONMENT.into(),
        producer: key.into(),
        sequence: 1,
        exposures: exposures.collect(),
    };
    assert_eq!(u64::from(exposed(client, &batch).await.counted), 2 * SEEN);
}

/// The treatment fails.
async fn harm(client: &Client, key: &str) {
    let outcomes = (0..ERRORS).map(|unit| Outcome {
        metric: "errors".into(),
        unit: format!("{key}-{}", 2 * unit + 1),
        ..Outcome::default()
    });
    let batch = ReportOutcomesRequest {
        environment: ENVIRONMENT.into(),
        producer: key.into(),
        sequence: 2,
        outcomes: outcomes.collect(),
    };
    let told = answered(PATIENCE, || {
        let (mut facts, batch) = (client.facts.clone(), batch.clone());
        async move { facts.report_outcomes(batch).await }
    });
    assert_eq!(u64::from(told.await.unwrap().counted), ERRORS);
}

async fn decisions(client: &Client, flag: &str) -> Vec<Decision> {
    let request = ListDecisionsRequest {
        parent: ENVIRONMENT.into(),
        flag: flag.into(),
        page_size: 200,
        ..ListDecisionsRequest::default()
    };
    let ask = || {
        let (mut decisions, request) = (client.decisions.clone(), request.clone());
        async move { decisions.list_decisions(request).await }
    };
    answered(PATIENCE, ask).await.unwrap().decisions
}

/// Waits until so many owners run on the nodes that do; who has tripped needs none.
async fn owners_run(several: &Several, experiments: u64) -> BTreeMap<u64, u32> {
    let begin = Instant::now();
    loop {
        let mut running = BTreeMap::new();
        for node in several.nodes.keys() {
            let mut cluster = ClusterServiceClient::new(several.site(*node).client().channel);
            if let Ok(seen) = cluster.get_cluster(GetClusterRequest::default()).await {
                running.insert(*node, seen.into_inner().owners_running);
            }
        }
        if running.values().map(|owners| u64::from(*owners)).sum::<u64>() == experiments {
            return running;
        }
        assert!(begin.elapsed() < PATIENCE, "{running:?} owners run of {experiments}");
        tokio::time::sleep(POLL).await;
    }
}

#[test]
fn owners_that_move_while_they_decide_decide_once_and_on_all_that_was_told() {
    let (rounds, seed) = (count("FEATUREOPS_ROUNDS", 3), count("FEATUREOPS_SEED", 1));
    let mut chance = Chance::new(seed);
    runtime().block_on(async {
        let mut trio = Several::start(3).await;
        for (key, direction) in
            [("bought", metric::Direction::HigherIsBetter), ("errors", metric::Direction::LowerIsBetter)]
        {
            let metric = Metric {
                name: format!("{ENVIRONMENT}/metrics/{key}"),
                kind: metric::Kind::Proportion.into(),
                direction: direction.into(),
                ..Metric::default()
            };
            let request = SetMetricRequest { metric: Some(metric), ..SetMetricRequest::default() };
            trio.site(1).client().metrics.clone().set_metric(request).await.unwrap();
        }
        let mut tripped = Vec::new();
        for round in 1..=rounds {
            let keys: Vec<String> = (0..HARMED).map(|number| format!("r-{round}-{number}")).collect();
            let leader = trio.leader(None).await;
            let victim = if round % 2 == 1 { leader } else { (1..=3).find(|node| *node != leader).unwrap() };
            let client = trio.site((1..=3).find(|node| *node != victim).unwrap()).client();
            for key in &keys {
                guarded(&client, key).await;
            }
            let running = owners_run(&trio, HARMED).await;
            let mut tasks = JoinSet::new();
            for key in keys.clone() {
                let client = client.clone();
                tasks.spawn(async move { harm(&client, &key).await });
            }
            // A tick freezes what a decision rests on twice a second: somewhere between the facts and the trips.
            tokio::time::sleep(Duration::from_millis(chance.below(700))).await;
            let held = round % 3 == 0;
            if held {
                trio.nodes[&victim].hold(true);
            } else {
                trio.nodes.remove(&victim).unwrap().kill();
            }
            while let Some(ended) = tasks.join_next().await {
                ended.unwrap();
            }
            let begin = Instant::now();
            for key in &keys {
                while decisions(&client, key).await.is_empty() {
                    assert!(begin.elapsed() < PATIENCE, "{key}: no trip");
                    tokio::time::sleep(POLL).await;
                }
            }
            println!(
                "round {round}: {running:?} owners, node {victim} away; tripped after {:.1?}",
                begin.elapsed()
            );
            if held {
                // What it was about to say it says now, under an epoch that is over.
                trio.nodes[&victim].hold(false);
            } else {
                trio.power(victim).await;
            }
            trio.leader(None).await;
            tripped.extend(keys);
        }
        // Whoever would say it once more has had the time to.
        tokio::time::sleep(Duration::from_secs(2)).await;
        for node in trio.nodes.keys() {
            let client = trio.site(*node).client();
            for key in &tripped {
                let made = decisions(&client, key).await;
                assert_eq!(made.len(), 1, "node {node}, {key}: {made:#?}");
                let trip = &made[0];
                assert_eq!(trip.action(), decision::Action::Trip, "{key}: {trip:?}");
                let inputs = trip.inputs.as_ref().unwrap();
                let units =
                    |arm: usize| inputs.strata.iter().map(|stratum| stratum.arms[arm].units).sum::<u64>();
                assert_eq!([units(0), units(1)], [SEEN, SEEN], "{key}: it rests on all that was told");
                let request = ReplayDecisionRequest { name: trip.name.clone() };
                let replayed = client.decisions.clone().replay_decision(request).await.unwrap().into_inner();
                assert!(replayed.same, "node {node}, {}: {}", trip.name, replayed.unavailable);
                let name = format!("{ENVIRONMENT}/flags/{key}");
                let flag = client.flags.clone().get_flag(GetFlagRequest { name }).await.unwrap().into_inner();
                assert!(flag.trip.is_some(), "node {node}, {key}: {flag:?}");
            }
            check::audit_end(&client).await.unwrap();
        }
        trio.same_digest().await;
        println!("{} trips, each once", tripped.len());
    });
}
