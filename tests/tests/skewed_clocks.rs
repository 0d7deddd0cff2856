//! Three processes, one of them with a clock an hour off, ahead and behind, as a follower and as the leader. Log time stays with the
//! clocks of the others: it neither jumps nor stands, no schedule is carried out early and none an hour late, facts count by their
//! own times, nothing acknowledged is lost, and the doctor names the node.
//!
//! The clock is wrong from the node's start on, so that nothing in the node itself says so: only its peers can know. Where clocks move
//! while a node runs, `bad_machine.rs` has the story.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a real process lives in real time, and a test may fail loudly"
)]

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use featureops_proto::v1::{
    Exposure, GetNodeHealthRequest, Outcome, ReportExposuresRequest, ReportFactsResponse,
    ReportOutcomesRequest, Verdict,
};
use featureops_tests::client::{Client, answered};
use featureops_tests::line::{COMMAND_PATIENCE, text, within};
use featureops_tests::load::{ENVIRONMENT, Load, prepare};
use featureops_tests::mirror::Mirror;
use featureops_tests::several::{Several, Watch};
use featureops_tests::{check, runtime};
use prost_types::Timestamp;

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(60);
const HOUR_MS: i64 = 3_600_000;
/// What log time may be ahead of the others' clocks, and what it may take to see it.
const AHEAD_MS_MAX: i64 = 5_000 + 1_000;
/// A schedule lies so far ahead by the true clock: beyond what log time may be.
const SCHEDULED_S: u64 = 8;
/// The node whose clock is off.
const VICTIM: u64 = 3;

fn now_ms() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

/// Log time as a node has it, in milliseconds.
async fn log_time_ms(client: &Client) -> i64 {
    let ask = || {
        let mut administration = client.administration.clone();
        async move { administration.get_node_health(GetNodeHealthRequest {}).await }
    };
    let time = answered(PATIENCE, ask).await.unwrap().log_time.unwrap();
    time.seconds * 1_000 + i64::from(time.nanos) / 1_000_000
}

/// Facts with times of their own.
struct Teller {
    client: Client,
    sequence: u64,
}

impl Teller {
    /// A new unit sees an arm now, and buys after so many milliseconds; the answers to both.
    async fn tell(&mut self, after_ms: i64) -> [ReportFactsResponse; 2] {
        let unit = format!("teller-{}", self.sequence);
        let time = |ms: i64| {
            Some(Timestamp {
                seconds: ms.div_euclid(1_000),
                nanos: (ms.rem_euclid(1_000) * 1_000_000) as i32,
            })
        };
        let seen_ms = now_ms();
        self.sequence += 1;
        let request = ReportExposuresRequest {
            environment: ENVIRONMENT.into(),
            producer: "teller".into(),
            sequence: self.sequence,
            exposures: vec![Exposure {
                experiment: "told".into(),
                unit: unit.clone(),
                variant: "off".into(),
                event_time: time(seen_ms),
                ..Exposure::default()
            }],
        };
        let ask = || {
            let (mut facts, request) = (self.client.facts.clone(), request.clone());
            async move { facts.report_exposures(request).await }
        };
        let seen = answered(PATIENCE, ask).await.unwrap();
        self.sequence += 1;
        let request = ReportOutcomesRequest {
            environment: ENVIRONMENT.into(),
            producer: "teller".into(),
            sequence: self.sequence,
            outcomes: vec![Outcome {
                metric: "bought".into(),
                unit,
                event_time: time(seen_ms + after_ms),
                ..Outcome::default()
            }],
        };
        let ask = || {
            let (mut facts, request) = (self.client.facts.clone(), request.clone());
            async move { facts.report_outcomes(request).await }
        };
        [seen, answered(PATIENCE, ask).await.unwrap()]
    }
}

/// What the doctor of a node says of the members' clocks.
fn doctor(several: &Several, node: u64) -> String {
    let site = several.site(node);
    let mut command = site.command();
    command.args(["doctor", "--server", &format!("http://127.0.0.1:{}", site.port)]);
    let told = text(&within(command, COMMAND_PATIENCE).stdout);
    told.lines().filter(|line| line.contains("clock")).collect::<Vec<_>>().join("\n")
}

/// Makes it lead.
async fn leads(several: &Several, node: u64) {
    let begin = Instant::now();
    while several.leader(None).await != node {
        assert!(begin.elapsed() < PATIENCE, "node {node} does not lead");
        let _ = several.site(1).ask(&["cluster", "transfer-leader", &node.to_string()]);
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

/// Log time is near the true one on each node now, and passes the moment of the call: it does not stand.
async fn time_goes_on(several: &Several, what: &str) {
    let begin = Instant::now();
    let asked_ms = now_ms();
    for node in several.nodes.keys() {
        let client = several.site(*node).client();
        let mut last_ms = i64::MIN;
        loop {
            let held_ms = log_time_ms(&client).await;
            let ahead_ms = held_ms - now_ms();
            assert!(ahead_ms < AHEAD_MS_MAX, "{what}, node {node}: log time is {ahead_ms} ms ahead");
            assert!(held_ms >= last_ms, "{what}, node {node}: log time went back");
            last_ms = held_ms;
            if held_ms > asked_ms {
                break;
            }
            assert!(
                begin.elapsed() < PATIENCE,
                "{what}, node {node}: after {PATIENCE:?} log time is still {} ms before its beginning",
                asked_ms - held_ms
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    println!("{what}: log time passed the moment after {:.1?}", begin.elapsed());
}

/// The state of a schedule.
async fn schedule(several: &Several, id: &str) -> String {
    let told = several.patiently(&["schedule", "get", id, "-o", "json"]).await;
    let held: serde_json::Value = serde_json::from_str(&told).unwrap();
    held["state"].as_str().unwrap_or_default().to_owned()
}

/// A change of the flag `timed`, so many seconds from now by the true clock.
async fn scheduled(several: &Several, id: &str, seconds: u64) {
    let at = format!("+{seconds}s");
    several.patiently(&["schedule", "create", "timed", "--at", &at, "--id", id, "--description", id]).await;
}

#[test]
fn a_node_an_hour_off_follows_and_leads_and_log_time_stays_with_the_others() {
    runtime().block_on(async {
        let mut trio = Several::default();
        let mut mirror = None;
        for node in 1..=3 {
            let prepare = |site: &mut _| {
                if node == VICTIM {
                    mirror = Some(Mirror::around(site));
                }
            };
            trio.grow(prepare).await;
        }
        let mirror = mirror.unwrap();
        prepare(&trio.site(1).client()).await.unwrap();
        for flag in ["timed", "told"] {
            let variants =
                ["--variant", "on=true", "--variant", "off=false", "--default", "off", "--safe", "off"];
            trio.patiently(&[&["flag", "set", flag, "--type", "boolean"], &variants[..]].concat()).await;
        }
        // An experiment of its own: the load's counts are the load's alone.
        trio.patiently(&["metric", "set", "bought", "--kind", "count", "--direction", "higher"]).await;
        let told = ["--flag", "told", "--arm", "off", "--arm", "on", "--primary-metric", "bought"];
        trio.patiently(&[&["experiment", "create", "told"], &told[..]].concat()).await;
        trio.patiently(&["experiment", "start", "told"]).await;
        scheduled(&trio, "late", 1_800).await;
        let watch = Watch::start(&trio);
        let load = Load::start(&Client::of_any(&trio.ports()), 2);
        let mut teller = Teller { client: trio.site(VICTIM).client(), sequence: 0 };
        let mut audit = 0;

        for (hours, word) in [(1, "ahead"), (-1, "behind")] {
            let what = |role: &str| format!("{role}, an hour {word}");
            watch.excuse(VICTIM, true);
            trio.nodes.remove(&VICTIM).unwrap().kill();
            mirror.move_clock(hours * HOUR_MS);
            trio.power(VICTIM).await;
            leads(&trio, 1).await;
            watch.excuse(VICTIM, false);

            for (role, leader) in [("a follower", 1), ("the leader", VICTIM)] {
                let what = &what(role);
                leads(&trio, leader).await;
                // It is named by whoever is right, and says itself that it differs from them.
                let begin = Instant::now();
                loop {
                    let told = doctor(&trio, 1);
                    if told.contains(&format!("node {VICTIM}'s clock is")) && told.contains(word) {
                        assert!(!told.contains("node 2's clock"), "{what}: {told}");
                        break;
                    }
                    assert!(begin.elapsed() < PATIENCE, "{what}: the doctor says {told}");
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
                let own = doctor(&trio, VICTIM);
                assert!(
                    own.contains("node 1's clock is") && own.contains("node 2's clock is"),
                    "{what}: {own}"
                );

                time_goes_on(&trio, what).await;
                // Through the node that is wrong: what happened now counts, and what cannot have happened yet is told so.
                let [seen, bought] = teller.tell(1_000).await;
                assert_eq!((seen.counted, bought.counted), (1, 1), "{what}: {seen:?} {bought:?}");
                let [seen, bought] = teller.tell(HOUR_MS).await;
                assert_eq!((seen.counted, bought.counted), (1, 0), "{what}: {seen:?} {bought:?}");
                let verdict = &bought.verdicts[0];
                assert!(
                    verdict.verdict() == Verdict::Early && verdict.detail.contains("check the clock"),
                    "{what}: {bought:?}"
                );

                let id = format!("{}-{hours}", if leader == VICTIM { "leads" } else { "follows" })
                    .replace("--", "-m");
                scheduled(&trio, &id, SCHEDULED_S).await;
                let begin = Instant::now();
                while schedule(&trio, &id).await != "DONE" {
                    assert!(begin.elapsed() < PATIENCE, "{what}: {} is not carried out", id);
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
                println!(
                    "{what}: a schedule of {SCHEDULED_S} s was carried out after {:.1?}",
                    begin.elapsed()
                );
                assert_eq!(schedule(&trio, "late").await, "PENDING", "{what}: half an hour early");

                for node in trio.nodes.keys() {
                    let mut before = load.known();
                    before.audit = audit;
                    let faults = check::faults(&trio.site(*node).client(), &before, || load.known()).await;
                    assert!(faults.is_empty(), "{what}, node {node}: {faults:#?}");
                }
                audit = check::audit_end(&trio.site(1).client()).await.unwrap();
            }
        }

        // While it leads its clock is mended, and is an hour ahead a moment later.
        for (hours, what) in [(0, "mended while it leads"), (1, "an hour ahead while it leads")] {
            mirror.move_clock(hours * HOUR_MS);
            tokio::time::sleep(Duration::from_millis(1_200)).await;
            time_goes_on(&trio, what).await;
        }

        // Right again, over a restart.
        watch.excuse(VICTIM, true);
        trio.nodes.remove(&VICTIM).unwrap().kill();
        mirror.move_clock(0);
        trio.power(VICTIM).await;
        trio.leader(None).await;
        watch.excuse(VICTIM, false);
        time_goes_on(&trio, "right again").await;
        let known = load.end().await;
        for node in trio.nodes.keys() {
            let faults = check::settled(&trio.site(*node).client(), &known).await;
            assert!(faults.is_empty(), "at the end, node {node}: {faults:#?}");
        }
        let (faults, evaluated) = watch.end().await;
        assert!(
            faults.is_empty(),
            "{} evaluations failed: {:#?}",
            faults.len(),
            &faults[..faults.len().min(5)]
        );
        trio.same_digest().await;
        println!(
            "{:?} acknowledged, {} flag versions, evaluated {evaluated:?}",
            known.acknowledged,
            known.flags.values().map(BTreeMap::len).sum::<usize>()
        );
    });
}
