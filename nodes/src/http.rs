//! Everything on one port: gRPC, gRPC-web, and the plain HTTP of operators and monitors.
//!
//! ```text
//!   /featureops.v1.*/..  /grpc.*/..      gRPC (HTTP/2) and gRPC-web (HTTP/1.1 too)
//!   /livez  /readyz[?verbose]            for orchestrators
//!   /metrics                             Prometheus text
//!   /v1/alarms                           webhook of an outside monitor
//!   /flagd.*/..  /ofrep/v1/..            existing OpenFeature clients (see `fronts`)
//! ```
//!
//! With `flagd_ports` what flagd serves is also where its clients look for it, and nothing else is there.

use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tonic::server::NamedService;
use tonic::service::Routes;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};

use crate::access::scope;
use crate::doctor;
use crate::exposition::exposition;
use crate::flagd::evaluation::{v1, v2};
use crate::flagd::sync::v1::flag_sync_service_server::FlagSyncServiceServer;
use crate::front::{Front, Straight};
use crate::fronts::evaluation_v1::EvaluationV1;
use crate::fronts::evaluation_v2::EvaluationV2;
use crate::fronts::sync::Sync;
use crate::fronts::{REQUEST_BYTES_MAX, ofrep};
use crate::host::Host;
use crate::reply::{is_grpc, unknown_method};
use crate::rpc::administration_service_server::AdministrationServiceServer;
use crate::rpc::backup_service_server::BackupServiceServer;
use crate::rpc::cluster_service_server::ClusterServiceServer;
use crate::rpc::decision_service_server::DecisionServiceServer;
use crate::rpc::environment_service_server::EnvironmentServiceServer;
use crate::rpc::evaluation_service_server::EvaluationServiceServer;
use crate::rpc::experiment_service_server::ExperimentServiceServer;
use crate::rpc::fact_service_server::FactServiceServer;
use crate::rpc::flag_service_server::FlagServiceServer;
use crate::rpc::layer_service_server::LayerServiceServer;
use crate::rpc::ledger_service_server::LedgerServiceServer;
use crate::rpc::metric_service_server::MetricServiceServer;
use crate::rpc::schedule_service_server::ScheduleServiceServer;
use crate::rpc::segment_service_server::SegmentServiceServer;
use crate::rpc::token_service_server::TokenServiceServer;
use crate::rpc::upgrade_service_server::UpgradeServiceServer;
use crate::services::administration::Administration;
use crate::services::backup::Backups;
use crate::services::cluster::Clusters;
use crate::services::decision::Decisions;
use crate::services::environment::Environments;
use crate::services::evaluation::Evaluations;
use crate::services::experiment::Experiments;
use crate::services::facts::Facts;
use crate::services::flag::Flags;
use crate::services::health::Healths;
use crate::services::layer::Layers;
use crate::services::ledger::Ledgers;
use crate::services::metric::Metrics;
use crate::services::schedule::Schedules;
use crate::services::segment::Segments;
use crate::services::token::Tokens;
use crate::services::upgrade::Upgrades;
use crate::webhook;

/// Bytes of one message about evaluation: a context and two names.
const EVALUATION_BYTES_MAX: usize = 256 << 10;
/// Bytes of one message about metrics, experiments, layers, schedules, decisions, ledgers and administration.
const SMALL_BYTES_MAX: usize = 1 << 20;
/// Bytes of one message that asks for a set of flags: a name and a selector.
const SYNC_BYTES_MAX: usize = 64 << 10;
/// Names by which gRPC health is asked.
const SERVICES: &[&str] = &[
    "",
    <EvaluationServiceServer<Evaluations> as NamedService>::NAME,
    <FactServiceServer<Facts> as NamedService>::NAME,
    <FlagServiceServer<Flags> as NamedService>::NAME,
    <EnvironmentServiceServer<Environments> as NamedService>::NAME,
    <SegmentServiceServer<Segments> as NamedService>::NAME,
    <MetricServiceServer<Metrics> as NamedService>::NAME,
    <ExperimentServiceServer<Experiments> as NamedService>::NAME,
    <LayerServiceServer<Layers> as NamedService>::NAME,
    <LedgerServiceServer<Ledgers> as NamedService>::NAME,
    <DecisionServiceServer<Decisions> as NamedService>::NAME,
    <ScheduleServiceServer<Schedules> as NamedService>::NAME,
    <AdministrationServiceServer<Administration> as NamedService>::NAME,
    <TokenServiceServer<Tokens> as NamedService>::NAME,
    <ClusterServiceServer<Clusters> as NamedService>::NAME,
    <BackupServiceServer<Backups> as NamedService>::NAME,
    <UpgradeServiceServer<Upgrades> as NamedService>::NAME,
    <v1::service_server::ServiceServer<EvaluationV1> as NamedService>::NAME,
    <v2::service_server::ServiceServer<EvaluationV2> as NamedService>::NAME,
    <FlagSyncServiceServer<Sync> as NamedService>::NAME,
];

/// Tells gRPC health whether this node serves.
pub async fn set_serving(health: &HealthReporter, serves: bool) {
    use tonic_health::ServingStatus::{NotServing, Serving};
    for service in SERVICES {
        health.set_service_status(service, if serves { Serving } else { NotServing }).await;
    }
}

/// The ways into a node.
pub struct Ways {
    /// Everything, on the main port.
    pub main: Front,
    /// flagd's ports, in the order of [`crate::fronts::settings::Ports::all`]: each what its clients look for there.
    pub flagd: [Front; 4],
}

/// The ways into a node.
///
/// # Errors
/// The descriptors of the API cannot be read.
pub fn ways(host: &Arc<Host>, health: &HealthReporter) -> Result<Ways, String> {
    let v1 = v1::service_server::ServiceServer::new(EvaluationV1(Arc::clone(host)));
    let v2 = v2::service_server::ServiceServer::new(EvaluationV2(Arc::clone(host)));
    let v1 = v1.max_decoding_message_size(REQUEST_BYTES_MAX);
    let v2 = v2.max_decoding_message_size(REQUEST_BYTES_MAX);
    let flagd = Straight { own: None, v1: Some(v1.clone()), v2: Some(v2.clone()) };
    let sync =
        || FlagSyncServiceServer::new(Sync(Arc::clone(host))).max_decoding_message_size(SYNC_BYTES_MAX);
    let grpc = |mut routes: tonic::service::RoutesBuilder| {
        routes.add_service(alive(host, health));
        let router = routes.routes().into_axum_router().reset_fallback();
        router.layer(tonic_web::GrpcWebLayer::new())
    };
    let only = |straight: Straight, router: Router| {
        Front::new(Arc::clone(host), straight, router.fallback(nothing_here))
    };
    let mut evaluation = Routes::builder();
    evaluation.add_service(v1.clone()).add_service(v2.clone());
    let mut syncing = Routes::builder();
    syncing.add_service(sync());
    let management = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz_as_flagd))
        .route("/metrics", get(metrics))
        .with_state(Arc::clone(host));
    let ports = [
        only(flagd.clone(), grpc(evaluation)),
        only(Straight::default(), grpc(Routes::builder()).merge(management)),
        only(Straight::default(), grpc(syncing)),
        only(Straight::default(), ofrep::routes(host)),
    ];
    Ok(Ways { main: front(host, health, flagd, sync())?, flagd: ports })
}

fn alive(host: &Arc<Host>, health: &HealthReporter) -> HealthServer<Healths> {
    let statuses = HealthService::from_health_reporter(health.clone());
    HealthServer::new(Healths { host: Arc::clone(host), statuses })
}

fn front(
    host: &Arc<Host>,
    health: &HealthReporter,
    flagd: Straight,
    sync: FlagSyncServiceServer<Sync>,
) -> Result<Front, String> {
    let bytes = host.limits.request_bytes;
    // Only facts, flags, sets of flags and lists of units are large; nothing else has a reason to be.
    let (evaluation, small) = (bytes.min(EVALUATION_BYTES_MAX), bytes.min(SMALL_BYTES_MAX));
    let descriptors = featureops_proto::DESCRIPTORS;
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(descriptors)
            .register_encoded_file_descriptor_set(crate::flagd::DESCRIPTORS)
    };
    let mut grpc = Routes::builder();
    let evaluation =
        EvaluationServiceServer::new(Evaluations(host.clone())).max_decoding_message_size(evaluation);
    grpc.add_service(evaluation.clone())
        .add_service(FactServiceServer::new(Facts(host.clone())).max_decoding_message_size(bytes))
        .add_service(FlagServiceServer::new(Flags(host.clone())).max_decoding_message_size(bytes))
        .add_service(
            EnvironmentServiceServer::new(Environments(host.clone())).max_decoding_message_size(bytes),
        )
        .add_service(SegmentServiceServer::new(Segments(host.clone())).max_decoding_message_size(bytes))
        .add_service(MetricServiceServer::new(Metrics(host.clone())).max_decoding_message_size(small))
        .add_service(ExperimentServiceServer::new(Experiments(host.clone())).max_decoding_message_size(small))
        .add_service(LayerServiceServer::new(Layers(host.clone())).max_decoding_message_size(small))
        .add_service(LedgerServiceServer::new(Ledgers(host.clone())).max_decoding_message_size(small))
        .add_service(DecisionServiceServer::new(Decisions(host.clone())).max_decoding_message_size(small))
        .add_service(ScheduleServiceServer::new(Schedules(host.clone())).max_decoding_message_size(small))
        .add_service(
            AdministrationServiceServer::new(Administration(host.clone())).max_decoding_message_size(small),
        )
        .add_service(TokenServiceServer::new(Tokens(host.clone())).max_decoding_message_size(small))
        .add_service(ClusterServiceServer::new(Clusters(host.clone())).max_decoding_message_size(small))
        .add_service(BackupServiceServer::new(Backups(host.clone())).max_decoding_message_size(small))
        .add_service(UpgradeServiceServer::new(Upgrades(host.clone())).max_decoding_message_size(small))
        .add_service(alive(host, health))
        .add_service(sync)
        .add_service(reflection().build_v1().map_err(|error| error.to_string())?)
        .add_service(reflection().build_v1alpha().map_err(|error| error.to_string())?);
    if let (Some(v1), Some(v2)) = (&flagd.v1, &flagd.v2) {
        grpc.add_service(v1.clone()).add_service(v2.clone());
    }
    let grpc = grpc.routes().into_axum_router().reset_fallback();
    // Inside of gRPC-web: whatever dialect it came in, a request is looked at as gRPC.
    let scoped = axum::middleware::from_fn_with_state(Arc::clone(host), scope::check);
    let grpc = grpc.layer(scoped).layer(tonic_web::GrpcWebLayer::new());
    let plain = Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/v1/alarms", post(webhook::alarm).layer(DefaultBodyLimit::max(webhook::BYTES_MAX)))
        .with_state(Arc::clone(host));
    let router = grpc.merge(plain).merge(ofrep::routes(host)).fallback(nothing_here);
    Ok(Front::new(Arc::clone(host), Straight { own: Some(evaluation), ..flagd }, router))
}

async fn nothing_here(uri: Uri, headers: HeaderMap) -> Response {
    if is_grpc(&headers) {
        return unknown_method(uri.path()).map(axum::body::Body::new);
    }
    (
        StatusCode::NOT_FOUND,
        "not found; there are /livez, /readyz?verbose, /metrics, /v1/alarms, /ofrep/v1 and gRPC\n",
    )
        .into_response()
}

async fn readyz(State(host): State<Arc<Host>>, uri: Uri) -> Response {
    let health = doctor::examine(&host);
    let status = if health.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let verbose = uri.query().is_some_and(|query| query.split('&').any(|part| part.starts_with("verbose")));
    let mut text = String::new();
    for check in &health.checks {
        if verbose && check.ok {
            text.push_str(&format!("[+] {}: {}\n", check.name, check.detail));
        } else if !check.ok && (verbose || !health.ready) {
            text.push_str(&format!("[-] {}: {}\n    way out: {}\n", check.name, check.detail, check.remedy));
        }
    }
    text.push_str(if health.ready { "ready\n" } else { "not ready\n" });
    (status, text).into_response()
}

/// As flagd says it.
async fn readyz_as_flagd(State(host): State<Arc<Host>>) -> StatusCode {
    if doctor::is_ready(&host) { StatusCode::OK } else { StatusCode::PRECONDITION_FAILED }
}

async fn metrics(State(host): State<Arc<Host>>) -> Response {
    let text = exposition(&host);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}
