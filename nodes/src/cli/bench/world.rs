//! What measurements stand on: a node in a temporary folder, connections to it, and what it is asked about.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use featureops_cluster::Environment;
use featureops_proto::v1::{self, AutonomyLevel};
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};

use crate::cli::failure::Failure;
use crate::config::NodeConfig;
use crate::node::Node;
use crate::rpc::experiment_service_client::ExperimentServiceClient;
use crate::rpc::flag_service_client::FlagServiceClient;
use crate::rpc::metric_service_client::MetricServiceClient;

/// The environment of everything that is measured.
pub const ENVIRONMENT: &str = "environments/bench";
/// Control and the arm beside it.
pub const ARMS: [&str; 2] = ["control", "treatment"];
/// The share of units with a success.
pub const CONVERSION: &str = "conversion";
/// A sum per unit.
pub const REVENUE: &str = "revenue";
/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A node of this process and the folder it writes to, removed with it.
pub struct World {
    node: Node,
    _folder: TempDir,
}

impl World {
    /// Starts a node as `serve` would, on a free port.
    pub async fn start(data: &Path) -> Result<Self, Failure> {
        let folder = folder(data)?;
        let config = NodeConfig {
            data: folder.path().to_owned(),
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            ..NodeConfig::default()
        };
        let node = Node::start(Environment::production(folder.path()), config)
            .await
            .map_err(|error| Failure::internal(format!("the node did not start: {error}")))?;
        Ok(Self { node, _folder: folder })
    }

    /// Connections to the node.
    pub async fn connect(&self, connections: usize) -> Result<Vec<Channel>, Failure> {
        connect(self.node.local_addr(), connections).await
    }

    /// Drains the node.
    pub async fn stop(self) {
        self.node.shutdown().await;
    }
}

/// A folder that is removed when it is dropped.
pub fn folder(data: &Path) -> Result<TempDir, Failure> {
    tempfile::Builder::new()
        .prefix("featureops-bench-")
        .tempdir_in(data)
        .map_err(|error| Failure::internal(format!("no folder in {}: {error}", data.display())))
}

/// Connections to whoever listens there.
pub async fn connect(address: SocketAddr, connections: usize) -> Result<Vec<Channel>, Failure> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|error| Failure::internal(error.to_string()))?
        .connect_timeout(CONNECT_TIMEOUT);
    let mut channels = Vec::with_capacity(connections);
    for _ in 0..connections {
        let channel = endpoint.connect().await;
        channels.push(
            channel.map_err(|error| Failure::internal(format!("no connection to {address}: {error}")))?,
        );
    }
    Ok(channels)
}

/// One of several connections.
pub fn one_of(channels: &[Channel], turn: usize) -> Result<Channel, Failure> {
    let place = turn.checked_rem(channels.len()).unwrap_or(0);
    channels.get(place).cloned().ok_or_else(|| Failure::internal("there is no connection"))
}

/// The failure of a call.
pub fn failed(status: tonic::Status) -> Failure {
    Failure::from_status(&status)
}

/// A unit's context.
pub fn context_of(unit: &str) -> prost_types::Struct {
    prost_types::Struct { fields: [("targetingKey".to_owned(), unit.into())].into() }
}

/// The metrics that experiments here use.
pub async fn define_metrics(channel: &Channel) -> Result<(), Failure> {
    use v1::metric::{Direction, Kind};
    for (key, kind) in [(CONVERSION, Kind::Proportion), (REVENUE, Kind::Mean)] {
        let metric = v1::Metric {
            name: format!("{ENVIRONMENT}/metrics/{key}"),
            kind: kind.into(),
            direction: Direction::HigherIsBetter.into(),
            ..v1::Metric::default()
        };
        let request = v1::SetMetricRequest { metric: Some(metric), ..v1::SetMetricRequest::default() };
        MetricServiceClient::new(channel.clone()).set_metric(request).await.map_err(failed)?;
    }
    Ok(())
}

/// A flag of two variants and a running experiment of the same name on it, which may reallocate by itself.
pub async fn start_experiment(
    channel: &Channel,
    key: &str,
    policy: v1::experiment::Policy,
) -> Result<(), Failure> {
    let flag = v1::Flag {
        name: format!("{ENVIRONMENT}/flags/{key}"),
        r#type: v1::ValueType::String.into(),
        variants: ARMS.iter().map(|arm| ((*arm).to_owned(), (*arm).into())).collect(),
        default_variant: ARMS.first().map(|arm| (*arm).to_owned()),
        safe_variant: ARMS.first().map(|arm| (*arm).to_owned()),
        ..v1::Flag::default()
    };
    let request = v1::SetFlagRequest { flag: Some(flag), ..v1::SetFlagRequest::default() };
    FlagServiceClient::new(channel.clone()).set_flag(request).await.map_err(failed)?;
    let name = format!("{ENVIRONMENT}/experiments/{key}");
    let experiment = v1::Experiment {
        name: name.clone(),
        flag: key.to_owned(),
        arms: ARMS.iter().map(|arm| v1::Arm { variant: (*arm).to_owned(), established: true }).collect(),
        primary_metric: CONVERSION.to_owned(),
        secondary_metrics: vec![REVENUE.to_owned()],
        policy: policy.into(),
        cool_down_seconds: Some(0),
        seed: 1,
        ..v1::Experiment::default()
    };
    let mut experiments = ExperimentServiceClient::new(channel.clone());
    let request = v1::CreateExperimentRequest {
        experiment: Some(experiment),
        ..v1::CreateExperimentRequest::default()
    };
    experiments.create_experiment(request).await.map_err(failed)?;
    let request = v1::StartExperimentRequest {
        name,
        autonomy: AutonomyLevel::A4Bounded.into(),
        ..v1::StartExperimentRequest::default()
    };
    experiments.start_experiment(request).await.map_err(failed)?;
    Ok(())
}

/// Distinct units whose exposure is in the log.
pub async fn exposed_units(channel: &Channel, key: &str) -> Result<u64, Failure> {
    let request = v1::GetExperimentStatusRequest { name: format!("{ENVIRONMENT}/experiments/{key}") };
    let status = ExperimentServiceClient::new(channel.clone()).get_experiment_status(request).await;
    Ok(status.map_err(failed)?.into_inner().exposed_units)
}

/// Waits until no more exposures arrive, and says how many units there are. At most ten seconds.
pub async fn settled_units(channel: &Channel, key: &str) -> Result<u64, Failure> {
    let mut seen = exposed_units(channel, key).await?;
    for _ in 0..50 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let now = exposed_units(channel, key).await?;
        if now == seen {
            break;
        }
        seen = now;
    }
    Ok(seen)
}
