//! A machine that fails the node: a full disk, and clocks an hour off. A clear word, nothing lost, and it goes on.
//!
//! Both come from the library in `tests/mirror`, loaded into the node's process alone: no privileges are needed, and the
//! machine that runs the test keeps its disk and its time.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a real process lives in real time, and a test may fail loudly"
)]

use std::time::{Duration, Instant};

use featureops_proto::v1::{EvaluateRequest, GetNodeHealthRequest, NodeHealth, SetFlagRequest};
use featureops_tests::client::Client;
use featureops_tests::load::{ENVIRONMENT, EXPERIMENT, Known, Load, prepare};
use featureops_tests::mirror::Mirror;
use featureops_tests::site::{Node, Site};
use featureops_tests::{check, http, runtime};

const HOUR_MS: i64 = 3_600_000;
/// What a node may take to refuse writes on a full disk, and to say so: a sync fails within milliseconds, and this is what a
/// busy machine needs. Longer, and the node hangs on its disk.
const NOTICE_MAX: Duration = Duration::from_secs(10);

async fn filled(site: &Site) -> (Node, Client, Known) {
    let node = site.start().await.unwrap_or_else(|ended| panic!("start: {ended}"));
    let client = site.client();
    prepare(&client).await.unwrap();
    let known = load(&client, 300).await;
    (node, client, known)
}

/// Load for a moment. One a node: its units have the same names each time.
async fn load(client: &Client, milliseconds: u64) -> Known {
    let load = Load::start(client, 2);
    tokio::time::sleep(Duration::from_millis(milliseconds)).await;
    load.end().await
}

async fn evaluates(client: &Client) {
    let request = EvaluateRequest {
        environment: ENVIRONMENT.into(),
        flag: EXPERIMENT.into(),
        no_exposure: true,
        ..EvaluateRequest::default()
    };
    let answer = client.evaluation.clone().evaluate(request).await.unwrap().into_inner();
    assert!(answer.variant.is_some(), "{answer:?}");
}

async fn set_probe(client: &Client, bytes: usize, validate_only: bool) -> Result<(), tonic::Status> {
    let flag = featureops_proto::v1::Flag {
        name: format!("{ENVIRONMENT}/flags/probe"),
        r#type: featureops_proto::v1::ValueType::String.into(),
        variants: [("on".to_owned(), "1".repeat(bytes).into())].into(),
        ..featureops_proto::v1::Flag::default()
    };
    let request = SetFlagRequest { flag: Some(flag), validate_only, ..SetFlagRequest::default() };
    client.flags.clone().set_flag(request).await.map(drop)
}

async fn write_flag(client: &Client) -> Result<(), tonic::Status> {
    set_probe(client, 1, false).await
}

async fn write_long_flag(client: &Client, bytes: usize) -> Result<(), tonic::Status> {
    set_probe(client, bytes, false).await
}

async fn rehearse_flag(client: &Client) -> Result<(), tonic::Status> {
    set_probe(client, 1, true).await
}

async fn health(client: &Client) -> NodeHealth {
    client.administration.clone().get_node_health(GetNodeHealthRequest {}).await.unwrap().into_inner()
}

async fn whole(client: &Client, known: &Known, after: &str) {
    let faults = check::settled(client, known).await;
    assert!(faults.is_empty(), "after {after}: {faults:#?}");
}

/// Writes until one is refused.
async fn refuses(client: &Client) -> tonic::Status {
    let begin = Instant::now();
    let refused = loop {
        match write_flag(client).await {
            Err(status) => break status,
            Ok(()) => assert!(begin.elapsed() < NOTICE_MAX, "writes go on without a disk"),
        }
    };
    assert!(begin.elapsed() < NOTICE_MAX, "the refusal took {:?}", begin.elapsed());
    refused
}

#[test]
fn a_full_disk() {
    runtime().block_on(async {
        let mut site = Site::new();
        let mirror = Mirror::around(&mut site);
        let (mut node, client, known) = filled(&site).await;

        mirror.fill_disk(true);
        let refused = refuses(&client).await;
        assert!(refused.message().len() > 10, "{refused}");
        // It says what is wrong, and goes on answering from memory.
        let begin = Instant::now();
        let ready = loop {
            let ready = http::get(site.port, "/readyz?verbose").await.unwrap();
            if ready.status == 503 {
                break ready;
            }
            assert!(begin.elapsed() < NOTICE_MAX, "still ready without a disk: {}", ready.body);
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        assert!(ready.body.contains("disk") && !ready.body.contains("restore"), "{}", ready.body);
        println!("refused with: {refused}\n{}", ready.body);
        says_one_thing(&ready.body);
        evaluates(&client).await;
        // A rehearsal does not promise what nobody can do now, and neither text takes back what the other says.
        for refused in [rehearse_flag(&client).await.unwrap_err(), write_flag(&client).await.unwrap_err()] {
            assert_eq!(refused.code(), tonic::Code::Unavailable, "{refused}");
            let said = refused.message();
            assert!(said.contains("nothing was written") && said.contains("by itself"), "{said}");
            assert!(!said.contains("unknown whether") && !said.contains("leader"), "{said}");
        }
        assert!(node.runs(), "the process ended: {}", node.output());
        assert!(write_flag(&client).await.is_err(), "a write was acknowledged on a failed disk");

        // There is room again: the same process takes writes, and what it had acknowledged is all there.
        mirror.fill_disk(false);
        writes_again(&client).await;
        assert!(node.runs(), "the process ended: {}", node.output());
        whole(&client, &known, "a full disk").await;
        becomes_ready(&site).await;
        // Again, and this time power fails while it is full.
        mirror.fill_disk(true);
        refuses(&client).await;
        node.kill();

        // A start without room serves what it has, says so, and takes writes as soon as there is room.
        let mut node =
            site.start_unready().await.unwrap_or_else(|ended| panic!("a start without room: {ended}"));
        evaluates(&client).await;
        let refused = write_flag(&client).await.unwrap_err();
        let said = http::get(site.port, "/readyz?verbose").await.unwrap();
        assert!(said.status == 503 && said.body.contains("disk"), "{}", said.body);
        // Nothing is lost, so nobody is to be sent to the backups.
        assert!(!said.body.contains("disk loss") && !said.body.contains("restore"), "{}", said.body);
        println!("a start without room: {refused}\n{}", said.body);
        says_one_thing(&said.body);
        mirror.fill_disk(false);
        writes_again(&client).await;
        assert!(node.runs(), "the process ended: {}", node.output());
        whole(&client, &known, "a start on a full disk").await;
        becomes_ready(&site).await;
        node.kill();
        let node = site.start().await.unwrap_or_else(|ended| panic!("start after that: {ended}"));
        whole(&client, &known, "a start after that").await;
        drop(node);

        // A first start without room has nothing to serve, and ends with a word.
        let mut empty = Site::new();
        let mirror = Mirror::around(&mut empty);
        std::fs::create_dir_all(&empty.data).unwrap();
        mirror.fill_disk(true);
        let ended = empty.start_unready().await.map(Node::kill).unwrap_err();
        assert!(ended.status.is_some() && ended.output.contains("make room"), "{ended}");
    });
}

/// Waits for a write to be taken, as long as a node may take to open its disk again.
async fn writes_again(client: &Client) {
    let begin = Instant::now();
    while let Err(status) = write_flag(client).await {
        assert!(begin.elapsed() < Duration::from_secs(20), "still no write: {status}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn becomes_ready(site: &Site) {
    let begin = Instant::now();
    loop {
        let ready = http::get(site.port, "/readyz?verbose").await.unwrap();
        if ready.status == 200 {
            return;
        }
        assert!(begin.elapsed() < Duration::from_secs(10), "not ready with room: {}", ready.body);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A full disk is one fault: the leader is not lost, and the log has not ended for good.
fn says_one_thing(ready: &str) {
    let faults: Vec<&str> = ready.lines().filter(|line| line.starts_with("[-]")).collect();
    assert!(faults.iter().any(|line| line.starts_with("[-] disk: ")), "{ready}");
    assert!(!ready.contains("[-] leader") && !ready.contains("no leader is known"), "{ready}");
}

#[test]
fn a_bound_on_the_length_of_files_is_a_full_disk() {
    runtime().block_on(async {
        let mut site = Site::new();
        site.limit_files(Some(4_096));
        let (mut node, client, known) = filled(&site).await;
        let mut refused = None;
        for _ in 0..400 {
            if let Err(status) = write_long_flag(&client, 60_000).await {
                refused = Some(status);
                break;
            }
        }
        let refused = refused.expect("24 MB went into files of 2 MiB");
        println!("refused with: {refused}");
        evaluates(&client).await;
        // The node looks at its disk a moment later, opens it again, and meets the bound again.
        let begin = Instant::now();
        while http::get(site.port, "/readyz?verbose").await.unwrap().status != 503 {
            assert!(begin.elapsed() < NOTICE_MAX, "ready with files that are full");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(node.runs(), "the process ended: {}", node.output());
        evaluates(&client).await;
        node.kill();

        // Without the bound everything is there.
        site.limit_files(None);
        let node = site.start().await.unwrap_or_else(|ended| panic!("start without the bound: {ended}"));
        whole(&client, &known, "files that were full").await;
        write_flag(&client).await.unwrap();
        drop(node);
    });
}

#[test]
fn clocks_an_hour_off() {
    runtime().block_on(async {
        let mut site = Site::new();
        let mirror = Mirror::around(&mut site);
        let (mut node, client, known) = filled(&site).await;

        for (hours, word) in [(1, "ahead"), (-1, "behind")] {
            // While it runs: nothing expires, nothing is refused, and the doctor has seen it.
            mirror.move_clock(hours * HOUR_MS);
            tokio::time::sleep(Duration::from_millis(1_500)).await;
            whole(&client, &known, &format!("the clock went an hour {word}")).await;
            write_flag(&client).await.unwrap();
            evaluates(&client).await;
            let health = health(&client).await;
            assert!(health.ready, "an hour {word}: {health:?}");
            let clock = health.checks.iter().find(|check| check.name == "clock").unwrap();
            assert!(
                !clock.ok && clock.detail.contains(word) && clock.remedy.contains("restart"),
                "{clock:?}"
            );
            let time = health.checks.iter().find(|check| check.name == "log time").unwrap();
            // Log time follows the time that passed. In the second round it waits besides for the hour that the start ahead
            // had put it ahead, and says so.
            assert_eq!(time.ok, hours > 0, "an hour {word}: {time:?}");
            assert!(time.ok || time.detail.contains("ahead of"), "an hour {word}: {time:?}");
            let ready = http::get(site.port, "/readyz?verbose").await.unwrap();
            assert!(ready.body.contains("[-] clock: the wall clock is"), "{}", ready.body);
            println!("an hour {word}: {}", clock.detail);

            // Over a restart the step is accepted, and nothing is lost by it either.
            node.kill();
            node = site.start().await.unwrap_or_else(|ended| panic!("start an hour {word}: {ended}"));
            whole(&client, &known, &format!("a start an hour {word}")).await;
            write_flag(&client).await.unwrap();
            mirror.move_clock(0);
            tokio::time::sleep(Duration::from_millis(1_200)).await;
            whole(&client, &known, &format!("the clock came back from an hour {word}")).await;
            write_flag(&client).await.unwrap();
            node.kill();
            node = site.start().await.unwrap_or_else(|ended| panic!("start with the right time: {ended}"));
            whole(&client, &known, "a start with the right time").await;
        }
        assert!(node.runs());
    });
}

#[test]
fn facts_count_while_the_clock_is_off() {
    runtime().block_on(async {
        for hours in [1, -1] {
            let mut site = Site::new();
            let mirror = Mirror::around(&mut site);
            let node = site.start().await.unwrap_or_else(|ended| panic!("start: {ended}"));
            let client = site.client();
            prepare(&client).await.unwrap();
            mirror.move_clock(hours * HOUR_MS);
            let known = load(&client, 1_200).await;
            whole(&client, &known, &format!("facts with the clock {hours} hours off")).await;
            assert!(known.acknowledged.units[0] > 0);
            node.kill();
            let node = site.start().await.unwrap_or_else(|ended| panic!("restart: {ended}"));
            whole(&client, &known, "a restart").await;
            drop(node);
        }
    });
}
