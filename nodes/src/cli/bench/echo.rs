//! The limit of an evaluation: a gRPC server of the same messages that decides nothing and answers a constant.
//!
//! It is tonic as it comes: no layers, no limits, no deadline, no health. Requests are decoded and answers encoded as they
//! are for a node, so what is left between the two is the node's own work.

use std::net::SocketAddr;
use std::sync::Arc;

use featureops_proto::v1::{
    EvaluateAllRequest, EvaluateAllResponse, EvaluateRequest, EvaluateResponse, ExplainRequest,
    ExplainResponse,
};
use tokio::task::JoinHandle;
use tokio_stream::StreamExt as _;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

use crate::cli::failure::Failure;
use crate::rpc::evaluation_service_server::{EvaluationService, EvaluationServiceServer};
use crate::services::Streamed;

/// A running echo, ended with this value.
pub struct Echo {
    address: SocketAddr,
    serving: JoinHandle<()>,
}

impl Echo {
    /// Answers evaluations with `answer`.
    pub async fn of_evaluations(answer: EvaluateResponse) -> Result<Self, Failure> {
        Self::start(Routes::new(EvaluationServiceServer::new(Constant(Arc::new(answer))))).await
    }

    /// Serves on a free port of loopback.
    pub async fn start(routes: Routes) -> Result<Self, Failure> {
        let unserved = |error: std::io::Error| Failure::internal(format!("the echo did not start: {error}"));
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.map_err(unserved)?;
        let address = listener.local_addr().map_err(unserved)?;
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let serving = tokio::spawn(async move {
            if let Err(error) = Server::builder().add_routes(routes).serve_with_incoming(incoming).await {
                tracing::error!(error = %error, "the echo ended");
            }
        });
        Ok(Self { address, serving })
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

struct Constant(Arc<EvaluateResponse>);

#[tonic::async_trait]
impl EvaluationService for Constant {
    async fn evaluate(
        &self,
        _request: Request<EvaluateRequest>,
    ) -> Result<Response<EvaluateResponse>, Status> {
        Ok(Response::new(EvaluateResponse::clone(&self.0)))
    }

    async fn evaluate_all(
        &self,
        _request: Request<EvaluateAllRequest>,
    ) -> Result<Response<EvaluateAllResponse>, Status> {
        Err(Status::unimplemented("the echo answers single evaluations"))
    }

    type EvaluateStreamStream = Streamed<EvaluateResponse>;

    async fn evaluate_stream(
        &self,
        request: Request<Streaming<EvaluateRequest>>,
    ) -> Result<Response<Self::EvaluateStreamStream>, Status> {
        let answer = Arc::clone(&self.0);
        let answers =
            request.into_inner().map(move |request| request.map(|_| EvaluateResponse::clone(&answer)));
        Ok(Response::new(Box::pin(answers)))
    }

    async fn explain(&self, _request: Request<ExplainRequest>) -> Result<Response<ExplainResponse>, Status> {
        Err(Status::unimplemented("the echo answers single evaluations"))
    }
}
