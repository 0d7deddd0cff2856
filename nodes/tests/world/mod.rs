//! A real node on a temporary folder and a real loopback port, and the calls the stories make.
#![allow(dead_code, reason = "each story uses a part")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use featureops::config::NodeConfig;
use featureops::node::Node;
use featureops::rpc::administration_service_client::AdministrationServiceClient;
use featureops::rpc::evaluation_service_client::EvaluationServiceClient;
use featureops::rpc::experiment_service_client::ExperimentServiceClient;
use featureops::rpc::fact_service_client::FactServiceClient;
use featureops::rpc::flag_service_client::FlagServiceClient;
use featureops::rpc::metric_service_client::MetricServiceClient;
use featureops_cluster::Environment;
use featureops_proto::v1::{
    Arm, Condition, CreateExperimentRequest, EvaluateRequest, Experiment, Flag, Metric, Outcome,
    ReportOutcomesRequest, SetFlagRequest, SetMetricRequest, StartExperimentRequest, ValueType, condition,
    metric,
};
use prost_types::{Struct, Value};
use serde_json::{Value as Json, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tonic::transport::Channel;

pub struct World {
    pub node: Node,
    pub folder: TempDir,
    pub channel: Channel,
}

impl World {
    pub async fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap()).await
    }

    pub async fn start_in(folder: TempDir) -> Self {
        let node = start(&folder).await.unwrap();
        let channel = channel(node.local_addr()).await;
        Self { node, folder, channel }
    }

    /// A node with settings of its own, flagd's ports among them.
    pub async fn start_set(set: impl FnOnce(&mut NodeConfig)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let node = start_set(&folder, set).await.unwrap();
        let channel = channel(node.local_addr()).await;
        Self { node, folder, channel }
    }

    pub async fn restart(self) -> Self {
        let Self { node, folder, .. } = self;
        node.shutdown().await;
        Self::start_in(folder).await
    }

    pub fn flags(&self) -> FlagServiceClient<Channel> {
        FlagServiceClient::new(self.channel.clone())
    }

    pub fn metrics(&self) -> MetricServiceClient<Channel> {
        MetricServiceClient::new(self.channel.clone())
    }

    pub fn experiments(&self) -> ExperimentServiceClient<Channel> {
        ExperimentServiceClient::new(self.channel.clone())
    }

    pub fn evaluation(&self) -> EvaluationServiceClient<Channel> {
        EvaluationServiceClient::new(self.channel.clone())
    }

    pub fn facts(&self) -> FactServiceClient<Channel> {
        FactServiceClient::new(self.channel.clone())
    }

    pub fn administration(&self) -> AdministrationServiceClient<Channel> {
        AdministrationServiceClient::new(self.channel.clone())
    }

    /// A flag, a metric and a running experiment on them.
    pub async fn run_experiment(&self) {
        self.flags().set_flag(set(checkout())).await.unwrap();
        self.metrics().set_metric(metric("revenue", metric::Kind::Mean)).await.unwrap();
        self.create_experiment("revenue").await;
        self.start_experiment("button").await;
    }

    pub async fn start_experiment(&self, id: &str) {
        let name = format!("environments/test/experiments/{id}");
        let start = StartExperimentRequest { name, ..Default::default() };
        self.experiments().start_experiment(start).await.unwrap();
    }

    /// A draft with two established arms and no cool-down.
    pub async fn create_experiment(&self, primary_metric: &str) {
        let experiment =
            Experiment { primary_metric: primary_metric.into(), ..experiment("button", "checkout") };
        self.create(experiment).await;
    }

    pub async fn create(&self, experiment: Experiment) {
        let create = CreateExperimentRequest { experiment: Some(experiment), ..Default::default() };
        self.experiments().create_experiment(create).await.unwrap();
    }

    /// One HTTP/1.1 exchange: status, headers and body as text.
    pub async fn http(&self, request: impl AsRef<[u8]>) -> (u16, String) {
        http(self.node.local_addr(), request).await
    }

    pub async fn get(&self, path: &str) -> (u16, String) {
        self.http(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")).await
    }

    /// One number of /metrics.
    pub async fn metric(&self, name: &str) -> usize {
        let (_, text) = self.get("/metrics").await;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("{name} is no metric")).trim().parse().unwrap()
    }

    pub async fn post(&self, path: &str, kind: &str, body: &[u8]) -> (u16, String) {
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        self.http([head.as_bytes(), body].concat()).await
    }
}

/// Two established arms on a flag, about `revenue`, and no cool-down.
pub fn experiment(id: &str, flag: &str) -> Experiment {
    let arm = |variant: &str| Arm { variant: variant.into(), established: true };
    Experiment {
        name: format!("environments/test/experiments/{id}"),
        flag: flag.into(),
        arms: vec![arm("off"), arm("on")],
        primary_metric: "revenue".into(),
        cool_down_seconds: Some(0),
        ..Experiment::default()
    }
}

/// Asks until there is an answer, ten seconds at most.
pub async fn reached<T>(what: &str, ask: impl AsyncFn() -> Option<T>) -> T {
    for _ in 0..1_000 {
        if let Some(answer) = ask().await {
            return answer;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what} after ten seconds");
}

/// A condition with one text.
pub fn condition(attribute: &str, operator: condition::Operator, value: &str) -> Condition {
    Condition { attribute: attribute.into(), operator: operator.into(), values: vec![Value::from(value)] }
}

/// One HTTP/1.1 exchange: status, headers and body as text.
pub async fn http(address: SocketAddr, request: impl AsRef<[u8]>) -> (u16, String) {
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    // A server may answer and hang up before it was sent everything.
    let _ = stream.write_all(request.as_ref()).await;
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes).await;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let status = text.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    (status, text)
}

/// An evaluation by OFREP; of all flags without a key.
pub async fn ofrep(world: &World, key: &str, context: Json) -> (u16, Json) {
    let slash = if key.is_empty() { "" } else { "/" };
    let path = format!("/ofrep/v1/evaluate/flags{slash}{key}");
    let asked = json!({ "context": context }).to_string();
    let (status, text) = world.post(&path, "application/json", asked.as_bytes()).await;
    (status, body(&text))
}

/// The JSON of an answer; null without any.
pub fn body(text: &str) -> Json {
    let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    serde_json::from_str(body).unwrap_or(Json::Null)
}

pub async fn start(folder: &TempDir) -> Result<Node, featureops::node::StartError> {
    start_set(folder, |_| {}).await
}

pub async fn start_set(
    folder: &TempDir,
    set: impl FnOnce(&mut NodeConfig),
) -> Result<Node, featureops::node::StartError> {
    // Silent, unless RUST_LOG asks.
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
    let data = folder.path().join("data");
    let mut config =
        NodeConfig { data: data.clone(), listen: "127.0.0.1:0".parse().unwrap(), ..NodeConfig::default() };
    set(&mut config);
    Node::start(Environment::production(data), config).await
}

pub async fn channel(address: SocketAddr) -> Channel {
    Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap()
}

/// Two boolean variants, safe and default `off`.
pub fn checkout() -> Flag {
    let variants = [("on", true), ("off", false)];
    Flag {
        name: "environments/test/flags/checkout".into(),
        r#type: ValueType::Boolean.into(),
        variants: variants.map(|(name, value)| (name.to_owned(), Value::from(value))).into_iter().collect(),
        default_variant: Some("off".into()),
        safe_variant: Some("off".into()),
        ..Flag::default()
    }
}

pub fn set(flag: Flag) -> SetFlagRequest {
    SetFlagRequest { flag: Some(flag), ..SetFlagRequest::default() }
}

pub fn metric(id: &str, kind: metric::Kind) -> SetMetricRequest {
    let metric = Metric {
        name: format!("environments/test/metrics/{id}"),
        kind: kind.into(),
        direction: metric::Direction::HigherIsBetter.into(),
        ..Metric::default()
    };
    SetMetricRequest { metric: Some(metric), ..SetMetricRequest::default() }
}

pub fn context(fields: &[(&str, &str)]) -> Struct {
    let fields: BTreeMap<String, Value> =
        fields.iter().map(|(key, value)| ((*key).to_owned(), Value::from(*value))).collect();
    Struct { fields }
}

pub fn evaluate(flag: &str, unit: &str) -> EvaluateRequest {
    EvaluateRequest {
        environment: "test".into(),
        flag: flag.into(),
        context: Some(context(&[("targetingKey", unit)])),
        ..EvaluateRequest::default()
    }
}

pub fn outcome(unit: &str, value: f64) -> Outcome {
    Outcome { metric: "revenue".into(), unit: unit.into(), value: Some(value), ..Outcome::default() }
}

pub fn outcomes(producer: &str, sequence: u64, outcomes: Vec<Outcome>) -> ReportOutcomesRequest {
    ReportOutcomesRequest { environment: "test".into(), producer: producer.into(), sequence, outcomes }
}
