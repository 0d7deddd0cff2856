//! Traces and metrics as a collector sees them: they arrive, the last ones too, they continue a caller's trace, and a
//! collector that fails is not felt.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test may fail loudly, and real processes live in real time"
)]

mod collector;

use std::net::TcpListener;
use std::time::{Duration, Instant};

use collector::{Collector, Seen, attribute};
use featureops_proto::v1::{
    EvaluateRequest, Exposure, Metric, ReportExposuresRequest, SetMetricRequest, metric,
};
use featureops_tests::client::Client;
use featureops_tests::load::{ARMS, ENVIRONMENT, EXPERIMENT, prepare};
use featureops_tests::runtime;
use featureops_tests::site::{Node, Site};
use tokio::task::JoinSet;
use tonic::Request;

/// What one request may take beside a collector that fails: less than an exporter waits for an answer, which is 10 s.
const REQUEST_MAX: Duration = Duration::from_secs(2);
/// What a drain may take then: the exporters' last wait, 3 s, and what a busy machine needs.
const DRAIN_MAX: Duration = Duration::from_secs(7);
/// Nothing is due while a test runs.
const NEVER_MS: u64 = 3_600_000;

/// A site whose node exports to `endpoint`, spans and counters as often as the milliseconds say.
fn site(endpoint: &str, every_ms: u64) -> Site {
    Site::new()
        .with("FEATUREOPS_OTLP_ENDPOINT", endpoint)
        .with("OTEL_BSP_SCHEDULE_DELAY", every_ms.to_string())
        .with("OTEL_METRIC_EXPORT_INTERVAL", every_ms.to_string())
}

async fn start(site: &Site) -> Node {
    site.start().await.unwrap_or_else(|ended| panic!("start: {ended}"))
}

async fn drain(node: Node) -> Duration {
    let begin = Instant::now();
    let status = node.drain().await.unwrap_or_else(|ended| panic!("drain: {ended}"));
    assert_eq!(status.code(), Some(0));
    begin.elapsed()
}

/// A request, part of a trace if one is named.
fn within<T>(message: T, traceparent: Option<&str>) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(value) = traceparent {
        request.metadata_mut().insert("traceparent", value.parse().unwrap());
    }
    request
}

async fn evaluate(client: &Client, unit: &str, traceparent: Option<&str>) {
    let context = prost_types::Struct { fields: [("targetingKey".to_owned(), unit.into())].into() };
    let request = EvaluateRequest {
        environment: ENVIRONMENT.to_owned(),
        flag: EXPERIMENT.to_owned(),
        context: Some(context),
        ..EvaluateRequest::default()
    };
    client.evaluation.clone().evaluate(within(request, traceparent)).await.unwrap();
}

async fn expose(client: &Client, sequence: u64, traceparent: Option<&str>) {
    let exposure = Exposure {
        experiment: EXPERIMENT.to_owned(),
        variant: ARMS[0].to_owned(),
        unit: format!("exposed-{sequence}"),
        ..Exposure::default()
    };
    let request = ReportExposuresRequest {
        environment: ENVIRONMENT.to_owned(),
        producer: "shop".to_owned(),
        sequence,
        exposures: vec![exposure],
    };
    let answer = client.facts.clone().report_exposures(within(request, traceparent)).await.unwrap();
    assert_eq!(answer.into_inner().counted, 1);
}

async fn define(client: &Client, metric: &str, traceparent: Option<&str>) {
    let metric = Metric {
        name: format!("{ENVIRONMENT}/metrics/{metric}"),
        kind: metric::Kind::Count.into(),
        direction: metric::Direction::HigherIsBetter.into(),
        ..Metric::default()
    };
    let request = SetMetricRequest { metric: Some(metric), ..SetMetricRequest::default() };
    client.metrics.clone().set_metric(within(request, traceparent)).await.unwrap();
}

/// A flag and an experiment, seven evaluations, two batches of facts.
async fn work(client: &Client) {
    prepare(client).await.unwrap();
    for unit in 0..7 {
        evaluate(client, &format!("unit-{unit}"), None).await;
    }
    for sequence in 1..=2 {
        expose(client, sequence, None).await;
    }
}

/// Whether all that [`work`] did has come: six commands, and implied exposures beside the reported ones.
fn has_all(seen: &Seen) -> bool {
    seen.named("evaluate").count() == 7
        && seen.named("propose").count() == 6
        && seen.named("record").count() >= 2
        && seen.named("apply").count() >= 8
        && seen.total("featureops.evaluations") == 7
        && seen.count("featureops.evaluations", "SPLIT") == 7
        && seen.count("featureops.facts", "COUNTED") >= 2
        && seen.count("featureops.proposals", "done") == 6
        && seen.total("featureops.exposures.implied") == 7
        && seen.total("featureops.connections") >= 1
}

#[test]
fn spans_and_counters_arrive() {
    runtime().block_on(async {
        let collector = Collector::start(None);
        let site = site(&collector.endpoint(), 100);
        let node = start(&site).await;
        work(&site.client()).await;
        collector.until("all that was done", has_all).await;
        collector.read(|seen| {
            assert_eq!(seen.services.keys().collect::<Vec<_>>(), ["featureops"]);
            assert!(seen.counters.contains_key(&("featureops.exposures.lost".to_owned(), String::new())));
            for span in &seen.spans {
                assert!(span.end_time_unix_nano >= span.start_time_unix_nano, "{span:?}");
                let known = ["evaluate", "propose", "record", "apply", "decide"];
                assert!(known.contains(&span.name.as_str()), "{span:?}");
                // The flag is named, a unit never.
                assert!(!format!("{span:?}").contains("unit-"), "{span:?}");
                let flag = if span.name == "evaluate" { EXPERIMENT } else { "" };
                assert_eq!(attribute(&span.attributes, "flag"), flag);
            }
        });
        drop(node);
    });
}

#[test]
fn what_is_left_is_sent_at_the_end() {
    runtime().block_on(async {
        let collector = Collector::start(None);
        let site = site(&collector.endpoint(), NEVER_MS);
        let node = start(&site).await;
        work(&site.client()).await;
        assert!(collector.read(|seen| seen.spans.is_empty() && seen.counters.is_empty()));
        drain(node).await;
        // All of it was taken before the process ended: there is nothing to wait for.
        assert!(collector.read(has_all), "{}", collector.read(Seen::summary));
    });
}

/// More evaluations than the exporters hold spans for, and writes between them; returns their number.
async fn hurry(client: &Client, round: u64) -> i64 {
    let mut callers = JoinSet::new();
    for caller in 0..4_u64 {
        let client = client.clone();
        callers.spawn(async move {
            for turn in 0..750 {
                let begin = Instant::now();
                evaluate(&client, &format!("unit-{round}-{caller}-{turn}"), None).await;
                if turn % 75 == 0 {
                    expose(&client, (round * 4 + caller) * 1_000 + turn + 1, None).await;
                }
                assert!(begin.elapsed() < REQUEST_MAX, "{:?}", begin.elapsed());
            }
        });
    }
    while let Some(ended) = callers.join_next().await {
        ended.unwrap();
    }
    3_000
}

#[test]
fn a_collector_that_is_away_or_hangs_is_not_felt() {
    runtime().block_on(async {
        // Bound and never asked: connections are taken by the kernel, and hear nothing.
        let hangs = TcpListener::bind("127.0.0.1:0").unwrap();
        let away = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        for endpoint in [format!("http://{away}"), format!("http://{}", hangs.local_addr().unwrap())] {
            let site = site(&endpoint, 100);
            let node = start(&site).await;
            prepare(&site.client()).await.unwrap();
            hurry(&site.client(), 0).await;
            let took = drain(node).await;
            assert!(took < DRAIN_MAX, "{endpoint}: the drain took {took:?}");
        }
    });
}

#[test]
fn a_collector_that_dies_is_not_felt_and_is_found_again() {
    runtime().block_on(async {
        let collector = Collector::start(None);
        let site = site(&collector.endpoint(), 100);
        let node = start(&site).await;
        let client = site.client();
        prepare(&client).await.unwrap();
        let mut evaluations = hurry(&client, 0).await;
        collector.until("the first spans", |seen| seen.named("evaluate").count() > 0).await;
        let port = collector.port();
        collector.kill();
        evaluations += hurry(&client, 1).await;
        let collector = Collector::start(Some(port));
        evaluations += hurry(&client, 2).await;
        // Spans of its absence are lost; counts are not.
        let counted = |seen: &Seen| seen.total("featureops.evaluations") == evaluations;
        collector
            .until("spans and all counts", |seen| seen.named("evaluate").count() > 0 && counted(seen))
            .await;
        drain(node).await;
    });
}

#[test]
fn a_callers_trace_goes_on() {
    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    const PARENT: &str = "b7ad6b7169203331";
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    runtime().block_on(async {
        let collector = Collector::start(None);
        let site = site(&collector.endpoint(), NEVER_MS);
        let node = start(&site).await;
        let client = site.client();
        prepare(&client).await.unwrap();
        let sampled = format!("00-{TRACE}-{PARENT}-01");
        let unsampled = format!("00-{TRACE}-{PARENT}-00");
        define(&client, "sampled", Some(&sampled)).await;
        evaluate(&client, "sampled", Some(&sampled)).await;
        expose(&client, 1, Some(&sampled)).await;
        // The caller keeps nothing of this trace, and neither does the node.
        define(&client, "unsampled", Some(&unsampled)).await;
        evaluate(&client, "unsampled", Some(&unsampled)).await;
        // What cannot be read is no trace: the node begins one of its own.
        evaluate(&client, "odd", Some("00-odd")).await;
        evaluate(&client, "none", None).await;
        drain(node).await;
        collector.read(|seen| {
            let within: Vec<&str> = seen
                .spans
                .iter()
                .filter(|span| hex(&span.trace_id) == TRACE)
                .inspect(|span| assert_eq!(hex(&span.parent_span_id), PARENT, "{span:?}"))
                .map(|span| span.name.as_str())
                .collect();
            assert_eq!(within, ["propose", "evaluate", "record"]);
            let own: Vec<_> = seen.named("evaluate").filter(|span| hex(&span.trace_id) != TRACE).collect();
            assert_eq!(own.len(), 2, "{own:?}");
            assert!(own.iter().all(|span| span.parent_span_id.is_empty()), "{own:?}");
            assert_ne!(own[0].trace_id, own[1].trace_id);
        });
    });
}
