//! A client of a node: the generated stubs over one channel that reconnects by itself.

use std::time::Duration;

use featureops::rpc::administration_service_client::AdministrationServiceClient;
use featureops::rpc::decision_service_client::DecisionServiceClient;
use featureops::rpc::evaluation_service_client::EvaluationServiceClient;
use featureops::rpc::experiment_service_client::ExperimentServiceClient;
use featureops::rpc::fact_service_client::FactServiceClient;
use featureops::rpc::flag_service_client::FlagServiceClient;
use featureops::rpc::metric_service_client::MetricServiceClient;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

/// Longest wait for one answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(8);
/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause between two attempts.
const PAUSE: Duration = Duration::from_millis(10);

/// The services of one node.
#[derive(Debug, Clone)]
pub struct Client {
    /// The channel, for a call that none of the stubs below makes.
    pub channel: Channel,
    /// Flags.
    pub flags: FlagServiceClient<Channel>,
    /// Metrics.
    pub metrics: MetricServiceClient<Channel>,
    /// Experiments.
    pub experiments: ExperimentServiceClient<Channel>,
    /// Decisions.
    pub decisions: DecisionServiceClient<Channel>,
    /// Facts.
    pub facts: FactServiceClient<Channel>,
    /// Evaluation.
    pub evaluation: EvaluationServiceClient<Channel>,
    /// Administration.
    pub administration: AdministrationServiceClient<Channel>,
}

impl Client {
    /// A client of the node at `port`. Call inside a runtime.
    ///
    /// # Panics
    /// Never: the address is well formed.
    #[must_use]
    pub fn new(port: u16) -> Self {
        Self::over(endpoint(port).connect_lazy())
    }

    /// A client of several nodes: each call goes to any of them. Call inside a runtime.
    #[must_use]
    pub fn of_any(ports: &[u16]) -> Self {
        Self::over(Channel::balance_list(ports.iter().map(|port| endpoint(*port))))
    }

    fn over(channel: Channel) -> Self {
        Self {
            flags: FlagServiceClient::new(channel.clone()),
            metrics: MetricServiceClient::new(channel.clone()),
            experiments: ExperimentServiceClient::new(channel.clone()),
            decisions: DecisionServiceClient::new(channel.clone()),
            facts: FactServiceClient::new(channel.clone()),
            evaluation: EvaluationServiceClient::new(channel.clone()),
            administration: AdministrationServiceClient::new(channel.clone()),
            channel,
        }
    }
}

fn endpoint(port: u16) -> Endpoint {
    let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{port}")).unwrap();
    endpoint.connect_timeout(CONNECT_TIMEOUT).timeout(REQUEST_TIMEOUT)
}

/// Whether an error leaves it open, or says that nothing was done and a repetition may help.
#[must_use]
pub fn repeatable(status: &Status) -> bool {
    !matches!(
        status.code(),
        Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::FailedPrecondition
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unimplemented
    )
}

/// Repeats a request until it has an answer.
///
/// # Errors
/// The answer is a refusal, or there was none within `patience`.
pub async fn answered<T, W>(patience: Duration, mut ask: impl FnMut() -> W) -> Result<T, Status>
where
    W: Future<Output = Result<tonic::Response<T>, Status>>,
{
    let begin = std::time::Instant::now();
    loop {
        match ask().await {
            Ok(answer) => return Ok(answer.into_inner()),
            Err(status) if repeatable(&status) && begin.elapsed() < patience => {
                tokio::time::sleep(PAUSE).await;
            }
            Err(status) => return Err(status),
        }
    }
}
