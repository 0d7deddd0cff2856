//! Experiments: read, listed, created, started, paused, stopped, allocated by hand, watched.

use std::sync::Arc;
use std::time::Duration;

use featureops_proto::log::{self, Done, entry};
use featureops_proto::v1::{
    AutonomyLevel, CreateExperimentRequest, Experiment, ExperimentStatus, GetExperimentRequest,
    GetExperimentStatusRequest, ListExperimentsRequest, ListExperimentsResponse, PauseExperimentRequest,
    SetAllocationRequest, SetLayerShareRequest, StartExperimentRequest, StopExperimentRequest, experiment,
};
use featureops_proto::{Collection, Name, environment_of, id_of};
use featureops_state::State;
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::access::grant::granted;
use crate::host::{Host, Write};
use crate::page::Page;
use crate::refusal;
use crate::rpc::experiment_service_server::ExperimentService;
use crate::sent::{Sent, sent};
use crate::services::{Streamed, name, required, until_drain};
use crate::status;

/// Arms of an experiment.
const ARMS_MAX: usize = 32;
/// Shortest time between two statuses of one watch.
const WATCH_INTERVAL: Duration = Duration::from_millis(500);

/// The service.
pub struct Experiments(pub Arc<Host>);

fn named_experiment(state: &State, done: &Done) -> Option<Experiment> {
    let name = Name::parse(&done.name, Collection::Experiments).ok()?;
    state.experiment(name.environment, name.id)
}

impl Experiments {
    async fn write(
        &self,
        from: &Sent,
        request_id: &str,
        validate_only: bool,
        command: entry::Command,
    ) -> Result<Response<Experiment>, Status> {
        let write = Write { from, request_id, validate_only, command };
        self.0.write(write, named_experiment).await.map(Response::new)
    }
}

#[tonic::async_trait]
impl ExperimentService for Experiments {
    async fn get_experiment(
        &self,
        request: Request<GetExperimentRequest>,
    ) -> Result<Response<Experiment>, Status> {
        let request = request.into_inner();
        let name = name(&request.name, Collection::Experiments, "name")?;
        let experiment = self.0.replica.read(|state| state.experiment(name.environment, name.id));
        experiment.map(Response::new).ok_or_else(|| refusal::not_found("name", &request.name))
    }

    async fn list_experiments(
        &self,
        request: Request<ListExperimentsRequest>,
    ) -> Result<Response<ListExperimentsResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        let environment = environment_of(&request.parent).map_err(refusal::bad_name("parent"))?;
        let page = Page::of(request.page_size, &request.page_token, &["experiments", environment])?;
        let read =
            |after: &str, limit| self.0.replica.read(|state| state.experiments(environment, after, limit));
        let (mut experiments, next_page_token) =
            page.read(read, |experiment| id_of(&experiment.name, Collection::Experiments).to_owned());
        if let Some(grant) = granted(&extensions) {
            experiments.retain(|experiment| grant.covers_flag(&experiment.flag));
        }
        Ok(Response::new(ListExperimentsResponse { experiments, next_page_token }))
    }

    async fn create_experiment(
        &self,
        request: Request<CreateExperimentRequest>,
    ) -> Result<Response<Experiment>, Status> {
        let (from, request) = sent(request);
        let mut experiment = required(request.experiment, "experiment")?;
        name(&experiment.name, Collection::Experiments, "experiment.name")?;
        if experiment::Policy::try_from(experiment.policy).is_err() {
            let policy = experiment.policy;
            return Err(refusal::invalid(
                "experiment.policy",
                policy,
                "is no policy; send THOMPSON, FIXED or RAMP",
            ));
        }
        if experiment.seed == 0 {
            // Drawn here, once: the log carries it, so every replica and every replay has the same.
            experiment.seed = self.0.entropy.next_u64().max(1);
        }
        let command = entry::Command::CreateExperiment(log::CreateExperiment {
            experiment: Some(definition(experiment)),
        });
        self.write(&from, &request.request_id, request.validate_only, command).await
    }

    async fn start_experiment(
        &self,
        request: Request<StartExperimentRequest>,
    ) -> Result<Response<Experiment>, Status> {
        let (from, request) = sent(request);
        name(&request.name, Collection::Experiments, "name")?;
        if AutonomyLevel::try_from(request.autonomy).is_err() {
            let level = request.autonomy;
            return Err(refusal::invalid(
                "autonomy",
                level,
                "is no autonomy level; send A0_OFF to A5_AUTOPILOT",
            ));
        }
        let command = entry::Command::StartExperiment(log::StartExperiment {
            name: request.name,
            autonomy: request.autonomy,
            etag: request.etag,
        });
        self.write(&from, &request.request_id, request.validate_only, command).await
    }

    async fn pause_experiment(
        &self,
        request: Request<PauseExperimentRequest>,
    ) -> Result<Response<Experiment>, Status> {
        let (from, request) = sent(request);
        name(&request.name, Collection::Experiments, "name")?;
        let command =
            entry::Command::PauseExperiment(log::PauseExperiment { name: request.name, etag: request.etag });
        self.write(&from, &request.request_id, request.validate_only, command).await
    }

    async fn stop_experiment(
        &self,
        request: Request<StopExperimentRequest>,
    ) -> Result<Response<Experiment>, Status> {
        let (from, request) = sent(request);
        name(&request.name, Collection::Experiments, "name")?;
        let command = entry::Command::StopExperiment(log::StopExperiment {
            name: request.name,
            serve: request.serve,
            etag: request.etag,
        });
        self.write(&from, &request.request_id, request.validate_only, command).await
    }

    async fn set_allocation(
        &self,
        request: Request<SetAllocationRequest>,
    ) -> Result<Response<Experiment>, Status> {
        let (from, request) = sent(request);
        name(&request.name, Collection::Experiments, "name")?;
        let weights = request.weights_basis_points;
        let sum: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
        if weights.len() > ARMS_MAX || sum != 10_000 {
            return Err(refusal::invalid(
                "weights_basis_points",
                sum,
                format!(
                    "is the sum of {} weights; send one per arm, at most {ARMS_MAX}, that sum to 10,000",
                    weights.len()
                ),
            ));
        }
        let command = entry::Command::SetAllocation(log::SetAllocation {
            name: request.name,
            weights_basis_points: weights,
            etag: request.etag,
        });
        self.write(&from, &request.request_id, request.validate_only, command).await
    }

    async fn set_layer_share(
        &self,
        request: Request<SetLayerShareRequest>,
    ) -> Result<Response<Experiment>, Status> {
        let (from, request) = sent(request);
        name(&request.name, Collection::Experiments, "name")?;
        let command = entry::Command::SetLayerShare(log::SetLayerShare {
            name: request.name,
            basis_points: request.basis_points,
            etag: request.etag,
        });
        self.write(&from, &request.request_id, request.validate_only, command).await
    }

    async fn get_experiment_status(
        &self,
        request: Request<GetExperimentStatusRequest>,
    ) -> Result<Response<ExperimentStatus>, Status> {
        let request = request.into_inner();
        let name = name(&request.name, Collection::Experiments, "name")?;
        let status = status::of(&self.0.replica, name.environment, name.id);
        status.map(Response::new).ok_or_else(|| refusal::not_found("name", &request.name))
    }

    type WatchExperimentStatusStream = Streamed<ExperimentStatus>;

    async fn watch_experiment_status(
        &self,
        request: Request<GetExperimentStatusRequest>,
    ) -> Result<Response<Self::WatchExperimentStatusStream>, Status> {
        let request = request.into_inner();
        let parsed = name(&request.name, Collection::Experiments, "name")?;
        let (environment, id) = (parsed.environment.to_owned(), parsed.id.to_owned());
        let host = Arc::clone(&self.0);
        if host.replica.read(|state| state.experiment(&environment, &id)).is_none() {
            return Err(refusal::not_found("name", &request.name));
        }
        // Latest wins: a slow reader misses statuses in between, never the newest.
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(async move {
            let mut shown = Vec::new();
            while let Some(status) = status::of(&host.replica, &environment, &id) {
                // Log time and position move by themselves; only a change of the rest is news.
                let quiet = ExperimentStatus { log_time: None, position: String::new(), ..status.clone() };
                let bytes = quiet.encode_to_vec();
                if bytes != shown {
                    shown = bytes;
                    if sender.send(Ok(status)).await.is_err() {
                        return;
                    }
                }
                tokio::select! {
                    () = sender.closed() => return,
                    () = tokio::time::sleep(WATCH_INTERVAL) => {}
                }
            }
        });
        Ok(Response::new(until_drain(&self.0, ReceiverStream::new(receiver), None)))
    }
}

/// What a person defines of an experiment; all that the log adds is left out.
pub fn definition(experiment: Experiment) -> Experiment {
    Experiment {
        state: 0,
        number: 0,
        allocation: None,
        create_time: None,
        start_time: None,
        end_time: None,
        etag: String::new(),
        cool_down_until: None,
        ..experiment
    }
}
