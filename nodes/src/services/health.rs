//! gRPC health, as orchestrators ask it. A watch ends with the node: it is told so, and does not hold up the drain.

use std::sync::Arc;

use tonic::{Request, Response, Status};
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::Health;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tonic_health::server::HealthService;

use crate::host::Host;
use crate::services::{Streamed, until_drain};

/// The service.
pub struct Healths {
    /// The node's.
    pub host: Arc<Host>,
    /// Holds the statuses.
    pub statuses: HealthService,
}

#[tonic::async_trait]
impl Health for Healths {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        self.statuses.check(request).await
    }

    type WatchStream = Streamed<HealthCheckResponse>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let statuses = self.statuses.watch(request).await?.into_inner();
        let last = HealthCheckResponse { status: ServingStatus::NotServing as i32 };
        Ok(Response::new(until_drain(&self.host, statuses, Some(last))))
    }
}
