//! Bad input against a running node, through sockets and gRPC: a clear answer, nothing lost, still serving.
//!
//! Every test has a node of its own with facts and flags in it, and ends by asking that node for all of them. An answer is
//! clear when it is one: an HTTP status or a gRPC code within its time, with words, and never words of the code's insides.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a real process lives in real time, and a test may fail loudly"
)]

use std::time::Duration;

use featureops_proto::v1::{
    CreateExperimentRequest, Experiment, Exposure, Flag, Metric, Outcome, ReportExposuresRequest,
    ReportOutcomesRequest, SetFlagRequest, SetMetricRequest, Verdict,
};
use featureops_tests::load::{ENVIRONMENT, EXPERIMENT, Known, Load, prepare};
use featureops_tests::site::{Node, Site};
use featureops_tests::{check, client::Client, http, raw, runtime};
use prost::Message as _;
use tonic::{Code, Status};

const SET_FLAG: &str = "/featureops.v1.FlagService/SetFlag";
const EVALUATE: &str = "/featureops.v1.EvaluationService/Evaluate";

/// A node that holds something to lose.
struct Victim {
    node: Node,
    site: Site,
    client: Client,
    known: Known,
}

impl Victim {
    async fn new() -> Self {
        let site = Site::new();
        let node = site.start().await.unwrap_or_else(|ended| panic!("start: {ended}"));
        let client = site.client();
        prepare(&client).await.unwrap();
        let load = Load::start(&client, 1);
        tokio::time::sleep(Duration::from_millis(200)).await;
        let known = load.end().await;
        Self { node, site, client, known }
    }

    /// The same process still serves, and holds what it held.
    async fn unharmed(&mut self, after: &str) {
        assert!(self.node.runs(), "after {after} the process ended: {}", self.node.output());
        let ready = http::get(self.site.port, "/readyz").await.unwrap();
        assert_eq!(ready.status, 200, "after {after}: {}", ready.body);
        let faults = check::settled(&self.client, &self.known).await;
        assert!(faults.is_empty(), "after {after}: {faults:#?}");
        assert!(!self.node.output().contains("panicked"), "after {after}: {}", self.node.output());
    }

    /// The last word: it goes, and comes back with everything.
    async fn end(mut self) {
        self.unharmed("everything").await;
        self.node.kill();
        let node = self.site.start().await.unwrap_or_else(|ended| panic!("restart: {ended}"));
        let faults = check::settled(&self.client, &self.known).await;
        assert!(faults.is_empty(), "after a restart: {faults:#?}");
        drop(node);
    }
}

fn clear<T: std::fmt::Debug>(answer: Result<T, Status>, codes: &[Code], what: &str) -> String {
    let status = answer.err().unwrap_or_else(|| panic!("{what} was accepted"));
    assert!(codes.contains(&status.code()), "{what}: {status}");
    assert!(!status.message().is_empty(), "{what}: {:?} without a word", status.code());
    assert!(status.message().len() < 2_000, "{what}: {} bytes of message", status.message().len());
    status.message().to_owned()
}

fn flag(key: &str) -> Flag {
    Flag {
        name: format!("{ENVIRONMENT}/flags/{key}"),
        r#type: featureops_proto::v1::ValueType::String.into(),
        variants: [("on".to_owned(), "1".into())].into(),
        default_variant: Some("on".into()),
        ..Flag::default()
    }
}

async fn set(client: &Client, flag: Flag) -> Result<Flag, Status> {
    let request = SetFlagRequest { flag: Some(flag), ..SetFlagRequest::default() };
    Ok(client.flags.clone().set_flag(request).await?.into_inner())
}

const MALFORMED: &[Code] =
    &[Code::InvalidArgument, Code::Internal, Code::OutOfRange, Code::ResourceExhausted];

#[test]
fn broken_messages() {
    runtime().block_on(async {
        let mut victim = Victim::new().await;
        let channel = victim.client.channel.clone();
        let whole = SetFlagRequest { flag: Some(flag("cut")), ..SetFlagRequest::default() }.encode_to_vec();
        for length in 0..whole.len() {
            // Inside the flag the outer length no longer fits: never a valid message.
            let answer = raw::call(&channel, SET_FLAG, whole[..length].to_vec()).await;
            let said = clear(answer, MALFORMED, &format!("a flag cut at byte {length}"));
            assert!(!said.contains("src/"), "{said}");
        }
        victim.unharmed("truncated messages").await;

        for (what, bytes) in [
            ("10 MiB of zeros", vec![0; 10 << 20]),
            (
                "10 MiB in a name",
                SetFlagRequest {
                    flag: Some(Flag { description: "x".repeat(10 << 20), ..flag("large") }),
                    ..SetFlagRequest::default()
                }
                .encode_to_vec(),
            ),
            ("a length beyond the end", vec![0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f]),
            ("an endless varint", vec![0xff; 64]),
            ("a group that never ends", vec![0x0b; 4_096]),
        ] {
            // A body over the bound may be cut off while it is still being sent.
            let mut codes = MALFORMED.to_vec();
            codes.extend([Code::Unavailable, Code::Unknown, Code::Cancelled]);
            clear(raw::call(&channel, SET_FLAG, bytes).await, &codes, what);
            victim.unharmed(what).await;
        }
        // gRPC's own answer to this has a code and no words.
        let status = raw::call(&channel, "/featureops.v1.FlagService/DropAll", vec![]).await.unwrap_err();
        assert_eq!(status.code(), Code::Unimplemented, "{status}");
        victim.end().await;
    });
}

#[test]
fn broken_connections() {
    runtime().block_on(async {
        let mut victim = Victim::new().await;
        let port = victim.site.port;
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        let web = |body: &[u8]| {
            let mut bytes = format!(
                "POST {SET_FLAG} HTTP/1.1\r\nhost: x\r\ncontent-type: application/grpc-web+proto\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
                body.len()
            )
            .into_bytes();
            bytes.extend_from_slice(body);
            bytes
        };
        for (what, bytes) in [
            ("nothing that is HTTP", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec()),
            ("zeros", vec![0; 100_000]),
            ("a method without an end", vec![b'A'; 200_000]),
            ("a header without an end", [b"GET /readyz HTTP/1.1\r\nx: ".to_vec(), vec![b'x'; 300_000]].concat()),
            ("ten thousand headers", [b"GET /readyz HTTP/1.1\r\n".to_vec(), b"a: b\r\n".repeat(10_000)].concat()),
            ("a body that never comes", format!("POST {SET_FLAG} HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\nabc").into_bytes()),
            ("a negative length", format!("POST {SET_FLAG} HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n").into_bytes()),
            ("an HTTP/2 frame of 16 MiB", [preface.as_slice(), &[0xff, 0xff, 0xff, 4, 0, 0, 0, 0, 0]].concat()),
            ("HTTP/2 frames of chance", [preface.as_slice(), &[0xa5; 4_096]].concat()),
            ("a gRPC-web frame longer than its body", web(&[0, 0xff, 0xff, 0xff, 0xff, 1, 2, 3])),
            ("a gRPC-web frame that says it is compressed", web(&[1, 0, 0, 0, 2, 1, 2])),
            ("half a gRPC-web frame's head", web(&[0, 0])),
        ] {
            // What comes back may be nothing: to hang up on nonsense is an answer.
            drop(http::exchange(port, &bytes, Duration::from_secs(1)).await);
            victim.unharmed(what).await;
        }
        // Connections that say nothing hold a place each, and nobody else's.
        let mut silent = Vec::new();
        for _ in 0..200 {
            silent.push(tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap());
        }
        victim.unharmed("200 silent connections").await;
        drop(silent);
        victim.end().await;
    });
}

#[test]
fn unknown_enums_and_numbers_that_are_none() {
    runtime().block_on(async {
        let mut victim = Victim::new().await;
        let client = victim.client.clone();
        let invalid = &[Code::InvalidArgument];
        clear(set(&client, Flag { r#type: 99, ..flag("enum") }).await, invalid, "a flag of type 99");
        clear(set(&client, Flag { r#type: -1, ..flag("enum") }).await, invalid, "a flag of type -1");
        let metric = Metric { name: format!("{ENVIRONMENT}/metrics/m"), kind: 99, ..Metric::default() };
        let request = SetMetricRequest { metric: Some(metric), ..SetMetricRequest::default() };
        clear(client.metrics.clone().set_metric(request).await, invalid, "a metric of kind 99");
        let experiment = Experiment {
            name: format!("{ENVIRONMENT}/experiments/e"),
            flag: EXPERIMENT.into(),
            policy: 77,
            ..Experiment::default()
        };
        let request =
            CreateExperimentRequest { experiment: Some(experiment), ..CreateExperimentRequest::default() };
        clear(client.experiments.clone().create_experiment(request).await, invalid, "policy 77");
        victim.unharmed("unknown enums").await;

        for number in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e300] {
            let mut flag = flag("number");
            flag.r#type = featureops_proto::v1::ValueType::Number.into();
            flag.variants = [("on".to_owned(), number.into())].into();
            // 1e300 is finite and would not read back equal.
            clear(set(&client, flag).await, invalid, &format!("a flag with the value {number}"));
        }
        victim.unharmed("numbers in flags").await;

        let outcomes = [f64::NAN, f64::INFINITY, 1e30, -1e30, 90_071_992_547_410.0]
            .map(|value| Outcome {
                metric: "revenue".into(),
                unit: "shop-0-0".into(),
                value: Some(value),
                ..Outcome::default()
            })
            .to_vec();
        let request = ReportOutcomesRequest {
            environment: ENVIRONMENT.into(),
            producer: "hostile".into(),
            sequence: 1,
            outcomes,
        };
        let answer = client.facts.clone().report_outcomes(request).await.unwrap().into_inner();
        let verdicts: Vec<Verdict> = answer.verdicts.iter().map(|event| event.verdict()).collect();
        let expected = [
            Verdict::NonFinite,
            Verdict::NonFinite,
            Verdict::OutOfScale,
            Verdict::OutOfScale,
            Verdict::OutOfScale,
        ];
        assert_eq!((answer.counted, verdicts.as_slice()), (0, expected.as_slice()));
        assert!(answer.verdicts.iter().all(|event| !event.detail.is_empty()), "{answer:?}");
        victim.end().await;
    });
}

#[test]
fn depth() {
    runtime().block_on(async {
        let mut victim = Victim::new().await;
        let channel = victim.client.channel.clone();
        let context = |levels: usize| {
            [
                raw::field(1, ENVIRONMENT.as_bytes()),
                raw::field(2, EXPERIMENT.as_bytes()),
                raw::field(3, &raw::deep_struct(levels)),
            ]
            .concat()
        };
        raw::call(&channel, EVALUATE, context(8)).await.expect("a context as people write it");
        for levels in [40, 200, 3_000] {
            // Total: a context that is read is answered, one that is not is refused.
            let answer = raw::call(&channel, EVALUATE, context(levels)).await;
            if let Err(status) = answer {
                clear::<()>(Err(status), MALFORMED, &format!("a context {levels} deep"));
            } else {
                assert!(levels < 100, "a context {levels} deep was read");
            }
            victim.unharmed("a deep context").await;
        }
        let variant = |levels: usize| {
            let value = raw::field(5, &raw::deep_struct(levels));
            let entry = [raw::field(1, b"on"), raw::field(2, &value)].concat();
            let name = raw::field(1, format!("{ENVIRONMENT}/flags/deep").as_bytes());
            raw::field(1, &[name, vec![0x10, 4], raw::field(3, &entry)].concat())
        };
        for levels in [40, 200, 3_000] {
            if let Err(status) = raw::call(&channel, SET_FLAG, variant(levels)).await {
                clear::<()>(Err(status), MALFORMED, &format!("a value {levels} deep"));
            } else {
                assert!(levels < 100, "a value {levels} deep was stored");
            }
            victim.unharmed("a deep value").await;
        }
        let port = victim.site.port;
        let alarm = |body: Vec<u8>| async move {
            http::request(port, "POST", "/v1/alarms", "content-type: application/json\r\n", &body)
                .await
                .unwrap()
        };
        for (what, body, status) in [
            ("20,000 arrays", b"[".repeat(20_000), 400),
            ("5,000 objects", b"{\"a\":".repeat(5_000), 400),
            ("a deep field", [b"{\"environment\":".to_vec(), b"[".repeat(10_000)].concat(), 400),
            (
                "an unknown field",
                b"{\"environment\":\"production\",\"flag\":\"f\",\"source\":\"s\",\"x\":1}".to_vec(),
                400,
            ),
            ("no JSON", vec![0xff; 100], 400),
            ("nothing", vec![], 400),
            (
                "a flag that is not there",
                b"{\"environment\":\"production\",\"flag\":\"none\",\"source\":\"s\"}".to_vec(),
                404,
            ),
            ("10 MiB", vec![b' '; 10 << 20], 413),
        ] {
            let answer = alarm(body).await;
            assert_eq!(answer.status, status, "{what}: {}", answer.body);
            assert!(!answer.body.trim().is_empty(), "{what}: no word");
            victim.unharmed(what).await;
        }
        victim.end().await;
    });
}

#[test]
fn long_keys() {
    runtime().block_on(async {
        let mut victim = Victim::new().await;
        let client = victim.client.clone();
        let long = "k".repeat(100_000);
        let invalid = &[Code::InvalidArgument];
        clear(set(&client, flag(&long)).await, invalid, "a flag's key");
        // A definition as a whole has at most a MiB.
        let description = "d".repeat(2 << 20);
        clear(set(&client, Flag { description, ..flag("d") }).await, invalid, "2 MiB of description");
        let variants = [(long.clone(), "1".into())].into();
        clear(
            set(&client, Flag { variants, default_variant: None, ..flag("v") }).await,
            invalid,
            "a variant",
        );
        let request =
            SetFlagRequest { flag: Some(flag("r")), request_id: long.clone(), ..SetFlagRequest::default() };
        clear(client.flags.clone().set_flag(request).await, invalid, "a request id");
        victim.unharmed("long names of flags").await;

        let exposure = |unit: &str, variant: &str, attributes| Exposure {
            experiment: EXPERIMENT.into(),
            unit: unit.into(),
            variant: variant.into(),
            attributes,
            ..Exposure::default()
        };
        let attributes = [(long.clone(), 1.0.into())].into();
        let exposures = vec![
            exposure(&long, "control", Default::default()),
            exposure("u", &long, Default::default()),
            exposure("u", "control", attributes),
            Exposure {
                experiment: long.clone(),
                unit: "u".into(),
                variant: "v".into(),
                ..Exposure::default()
            },
            exposure("", "control", Default::default()),
            exposure("u", "nowhere", Default::default()),
        ];
        let mut request = ReportExposuresRequest {
            environment: ENVIRONMENT.into(),
            producer: "hostile".into(),
            sequence: 1,
            exposures,
        };
        let answer = client.facts.clone().report_exposures(request.clone()).await.unwrap().into_inner();
        let verdicts: Vec<Verdict> = answer.verdicts.iter().map(|event| event.verdict()).collect();
        use Verdict::{MissingUnit, Oversized, UnknownVariant};
        assert_eq!(verdicts, [Oversized, Oversized, Oversized, Oversized, MissingUnit, UnknownVariant]);
        request.producer = long.clone();
        clear(client.facts.clone().report_exposures(request.clone()).await, invalid, "a producer");
        request.producer = "hostile".into();
        request.sequence = 2;
        request.exposures = vec![exposure("u", "control", Default::default()); 4_097];
        clear(client.facts.clone().report_exposures(request.clone()).await, invalid, "4,097 events");
        request.exposures.clear();
        clear(client.facts.clone().report_exposures(request).await, invalid, "no events");
        victim.end().await;
    });
}

#[test]
fn sequences() {
    runtime().block_on(async {
        let mut victim = Victim::new().await;
        let facts = victim.client.facts.clone();
        let report = |producer: &str, sequence: u64, unit: &str| {
            let request = ReportOutcomesRequest {
                environment: ENVIRONMENT.into(),
                producer: producer.into(),
                sequence,
                // So old that nothing here may count; yet only the log can say so, and remembers that it did.
                outcomes: vec![Outcome {
                    metric: "orders".into(),
                    unit: unit.into(),
                    event_time: Some(prost_types::Timestamp { seconds: 60, nanos: 0 }),
                    ..Outcome::default()
                }],
            };
            let mut facts = facts.clone();
            async move { facts.report_outcomes(request).await.map(tonic::Response::into_inner) }
        };
        let range = &[Code::OutOfRange];
        clear(report("p", 0, "u").await, &[Code::InvalidArgument], "sequence 0");
        report("p", 10_000, "u").await.expect("a producer begins where it likes");
        clear(report("p", 10_000 - 4_096, "u").await, range, "a sequence from before the window");
        report("p", 10_000 - 4_095, "u").await.expect("the oldest of the window");
        clear(report("p", 10_000 + 4_097, "u").await, range, "a sequence after the window");
        clear(report("p", u64::MAX, "u").await, range, "the last sequence there is");
        clear(report("q", u64::MAX, "u").await, range, "a new producer at the last sequence there is");
        assert!(report("p", 10_000, "u").await.unwrap().duplicate, "a repetition is told that it is one");
        let said = clear(report("p", 10_000, "other").await, &[Code::InvalidArgument], "other bytes");
        assert!(said.contains("sequence"), "{said}");
        report("p", 10_000 + 4_096, "u").await.expect("the newest that is allowed");
        clear(report("p", 10_000, "u").await, range, "what has left the window");
        victim.unharmed("sequences").await;
        victim.end().await;
    });
}
