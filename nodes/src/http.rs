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
use std::sync::atomic::Ordering;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use featureops_proto::v1::{Decision, RaiseAlarmRequest, decision};
use featureops_proto::{Collection, Name};
use serde::{Deserialize, Serialize};
use tonic::metadata::MetadataMap;
use tonic::server::NamedService;
use tonic::service::Routes;
use tonic::{Code, Status};
use tonic_health::server::HealthReporter;
use tonic_types::StatusExt as _;

use crate::caller;
use crate::doctor;
use crate::flagd::evaluation::{v1, v2};
use crate::flagd::sync::v1::flag_sync_service_server::FlagSyncServiceServer;
use crate::front::{Front, Straight};
use crate::fronts::evaluation_v1::EvaluationV1;
use crate::fronts::evaluation_v2::EvaluationV2;
use crate::fronts::sync::Sync;
use crate::fronts::{REQUEST_BYTES_MAX, ofrep};
use crate::host::Host;
use crate::observation::Exposition;
use crate::refusal;
use crate::rpc::administration_service_server::AdministrationServiceServer;
use crate::rpc::decision_service_server::DecisionServiceServer;
use crate::rpc::environment_service_server::EnvironmentServiceServer;
use crate::rpc::evaluation_service_server::EvaluationServiceServer;
use crate::rpc::experiment_service_server::ExperimentServiceServer;
use crate::rpc::fact_service_server::FactServiceServer;
use crate::rpc::flag_service_server::FlagServiceServer;
use crate::rpc::metric_service_server::MetricServiceServer;
use crate::services::administration::{Administration, raise_alarm};
use crate::services::decision::Decisions;
use crate::services::environment::Environments;
use crate::services::evaluation::Evaluations;
use crate::services::experiment::Experiments;
use crate::services::facts::Facts;
use crate::services::flag::Flags;
use crate::services::health::Healths;
use crate::services::metric::Metrics;

/// Bytes of a webhook's body.
const ALARM_BYTES_MAX: usize = 64 << 10;
/// Bytes of one message about evaluation: a context and two names.
const EVALUATION_BYTES_MAX: usize = 256 << 10;
/// Bytes of one message about metrics, experiments, decisions and administration.
const SMALL_BYTES_MAX: usize = 1 << 20;
/// Bytes of one message that asks for a set of flags: a name and a selector.
const SYNC_BYTES_MAX: usize = 64 << 10;
/// Newest decisions counted by `/metrics`.
const DECISIONS_COUNTED_MAX: usize = 10_000;
/// Names by which gRPC health is asked.
const SERVICES: &[&str] = &[
    "",
    <EvaluationServiceServer<Evaluations> as NamedService>::NAME,
    <FactServiceServer<Facts> as NamedService>::NAME,
    <FlagServiceServer<Flags> as NamedService>::NAME,
    <EnvironmentServiceServer<Environments> as NamedService>::NAME,
    <MetricServiceServer<Metrics> as NamedService>::NAME,
    <ExperimentServiceServer<Experiments> as NamedService>::NAME,
    <DecisionServiceServer<Decisions> as NamedService>::NAME,
    <AdministrationServiceServer<Administration> as NamedService>::NAME,
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
    let alive = || {
        tonic_health::pb::health_server::HealthServer::new(Healths {
            host: Arc::clone(host),
            statuses: tonic_health::server::HealthService::from_health_reporter(health.clone()),
        })
    };
    let grpc = |mut routes: tonic::service::RoutesBuilder| {
        routes.add_service(alive());
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

fn front(
    host: &Arc<Host>,
    health: &HealthReporter,
    flagd: Straight,
    sync: FlagSyncServiceServer<Sync>,
) -> Result<Front, String> {
    let bytes = host.limits.request_bytes;
    // Only facts, flags and sets of flags are large; nothing else has a reason to be.
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
        .add_service(MetricServiceServer::new(Metrics(host.clone())).max_decoding_message_size(small))
        .add_service(ExperimentServiceServer::new(Experiments(host.clone())).max_decoding_message_size(small))
        .add_service(DecisionServiceServer::new(Decisions(host.clone())).max_decoding_message_size(small))
        .add_service(
            AdministrationServiceServer::new(Administration(host.clone())).max_decoding_message_size(small),
        )
        .add_service(tonic_health::pb::health_server::HealthServer::new(Healths {
            host: Arc::clone(host),
            statuses: tonic_health::server::HealthService::from_health_reporter(health.clone()),
        }))
        .add_service(sync)
        .add_service(reflection().build_v1().map_err(|error| error.to_string())?)
        .add_service(reflection().build_v1alpha().map_err(|error| error.to_string())?);
    if let (Some(v1), Some(v2)) = (&flagd.v1, &flagd.v2) {
        grpc.add_service(v1.clone()).add_service(v2.clone());
    }
    let grpc = grpc.routes().into_axum_router().reset_fallback().layer(tonic_web::GrpcWebLayer::new());
    let plain = Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/v1/alarms", post(alarm).layer(DefaultBodyLimit::max(ALARM_BYTES_MAX)))
        .with_state(Arc::clone(host));
    let router = grpc.merge(plain).merge(ofrep::routes(host)).fallback(nothing_here);
    Ok(Front::new(Arc::clone(host), Straight { own: Some(evaluation), ..flagd }, router))
}

/// Whether a caller speaks gRPC, and expects refusals so.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// gRPC itself, whose trailers are HTTP's. gRPC-web writes them into its body.
pub(crate) fn is_native_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    let rest = kind.and_then(|kind| kind.strip_prefix(b"application/grpc"));
    rest.is_some_and(|rest| !rest.starts_with(b"-web"))
}

/// A method that no service has.
pub(crate) fn unknown_method(path: &str) -> axum::http::Response<tonic::body::Body> {
    let message = format!("method '{}' is not known to this release", refusal::clip(path));
    Status::unimplemented(message).into_http()
}

async fn nothing_here(uri: Uri, headers: HeaderMap) -> Response {
    if is_grpc(&headers) {
        return unknown_method(uri.path()).map(Body::new);
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

/// The node in Prometheus text. Labels come from fixed lists only.
fn exposition(host: &Host) -> String {
    let mut text = Exposition::default();
    let (observation, health) = (&host.observation, host.replica.health());
    let read = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    text.labelled(
        "evaluations_total",
        "counter",
        "evaluations by reason",
        "reason",
        observation.evaluations(),
    );
    text.labelled("facts_total", "counter", "events by verdict", "verdict", observation.facts());
    text.labelled("proposals_total", "counter", "commands by outcome", "outcome", observation.proposals());
    let implied = &observation.exposures_implied;
    text.value("exposures_implied_total", "counter", "exposures implied by evaluations", read(implied));
    let lost = &observation.exposures_lost;
    text.value("exposures_lost_total", "counter", "implied exposures that were lost", read(lost));
    text.value(
        "exposures_waiting",
        "gauge",
        "implied exposures waiting for the log",
        host.exposures.waiting(),
    );
    text.value("request_bytes_in_flight", "gauge", "bytes that requests in flight hold", host.budget.held());
    text.value("connections", "gauge", "connections served now", read(&observation.connections));
    text.value("connections_total", "counter", "connections taken", read(&observation.connections_taken));
    text.value("applied_position", "gauge", "position of the last applied entry", health.applied);
    text.value("log_last_index", "gauge", "index of the last log entry", health.last_log.unwrap_or_default());
    text.value("raft_term", "gauge", "term of the log", health.term);
    text.value("raft_leads", "gauge", "1 while this node leads", u8::from(health.leads));
    text.value("fold_halted", "gauge", "1 when the fold stopped", u8::from(health.halted.is_some()));
    let log_time_ms = host.replica.read(featureops_state::State::log_time_ms);
    let lag_ms = host.clock.unix_ms().saturating_sub(log_time_ms).max(0);
    text.value("log_time_lag_milliseconds", "gauge", "age of log time by this node's clock", lag_ms);
    let publisher = &host.publisher;
    text.value(
        "published_position",
        "gauge",
        "position evaluations rest on",
        publisher.load().snapshot.position(),
    );
    text.value(
        "publish_lag_milliseconds",
        "gauge",
        "from applied to published, last time",
        publisher.lag_ms(),
    );
    text.value("publications_total", "counter", "snapshots published", publisher.publications());
    let running = publisher.load().registry.running();
    text.value("experiments_running", "gauge", "running experiments", running);
    text.value("owners_running", "gauge", "owners that run on this node", host.owners.running());
    let mut decisions = std::collections::BTreeMap::new();
    let mut newest_ms = 0;
    let mut count = |decision: &Decision| {
        let key = (decision.action().as_str_name(), decision.status().as_str_name());
        *decisions.entry(key).or_insert(0u64) += 1;
        if decision.action() == decision::Action::Reallocate
            && decision.status() == decision::Status::Applied
            && let (Some(time), Some(inputs)) = (&decision.time, &decision.inputs)
        {
            let applied_ms =
                time.seconds.saturating_mul(1_000).saturating_add(i64::from(time.nanos / 1_000_000));
            newest_ms = newest_ms.max(applied_ms.saturating_sub(inputs.log_time_ms));
        }
    };
    host.replica.read(|state| state.newest_decisions(DECISIONS_COUNTED_MAX).for_each(&mut count));
    let decisions = decisions.iter().map(|((action, status), count)| (*action, *status, *count));
    let labels = ("action", "status");
    text.labelled_twice("decisions", "gauge", "kept decisions by action and status", labels, decisions);
    text.value(
        "reallocation_lag_milliseconds",
        "gauge",
        "log time from inputs to reallocation, longest kept",
        newest_ms,
    );
    if host.observe_process {
        text.value("process_resident_bytes", "gauge", "memory the process holds", doctor::resident_bytes());
    }
    text.text()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Alarm {
    environment: String,
    flag: String,
    source: String,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    request_id: String,
}

#[derive(Serialize)]
struct Raised {
    decision: String,
    tripped: bool,
}

#[derive(Serialize)]
struct Refused {
    code: String,
    message: String,
}

/// The webhook of an outside monitor. serde_json bounds the depth at 128 levels, the route the bytes.
async fn alarm(
    State(host): State<Arc<Host>>,
    mut headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    // A browser cannot send this type across sites without asking first, so no web page can raise an alarm here.
    let is_json = headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
    if !is_json {
        let message = "send content-type: application/json".to_owned();
        return refused(StatusCode::UNSUPPORTED_MEDIA_TYPE, "INVALID_ARGUMENT".to_owned(), message);
    }
    let body = match body {
        Ok(body) => body,
        Err(rejection) if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => {
            let message = format!("body: has more than {ALARM_BYTES_MAX} bytes");
            return refused(StatusCode::PAYLOAD_TOO_LARGE, "TOO_LARGE".to_owned(), message);
        }
        Err(rejection) => {
            let message = format!("body: {}", rejection.body_text());
            return refused(rejection.status(), "INVALID_ARGUMENT".to_owned(), message);
        }
    };
    let alarm: Alarm = match serde_json::from_slice(&body) {
        Ok(alarm) => alarm,
        Err(error) => {
            let message =
                format!("body: {error}; send {{\"environment\", \"flag\", \"source\", \"reason\"}}");
            return refused(StatusCode::BAD_REQUEST, "INVALID_ARGUMENT".to_owned(), message);
        }
    };
    let request = RaiseAlarmRequest {
        name: Name::format(&alarm.environment, Collection::Flags, &alarm.flag),
        source: alarm.source,
        reason: alarm.reason,
        request_id: alarm.request_id,
    };
    headers.entry(caller::HEADER).or_insert(HeaderValue::from_static(caller::WEBHOOK));
    match raise_alarm(&host, &MetadataMap::from_headers(headers), request).await {
        Ok(raised) => json(StatusCode::OK, &Raised { decision: raised.decision, tripped: raised.tripped }),
        Err(status) => {
            let code = status.get_details_error_info().map_or_else(String::new, |info| info.reason);
            refused(http_status(status.code()), code, status.message().to_owned())
        }
    }
}

/// A refusal in JSON.
pub(crate) fn refused(status: StatusCode, code: String, message: String) -> Response {
    json(status, &Refused { code, message })
}

fn json(status: StatusCode, body: &impl Serialize) -> Response {
    let body = serde_json::to_vec(body).unwrap_or_default();
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

fn http_status(code: Code) -> StatusCode {
    match code {
        Code::Ok => StatusCode::OK,
        Code::InvalidArgument | Code::OutOfRange => StatusCode::BAD_REQUEST,
        Code::FailedPrecondition | Code::Aborted | Code::AlreadyExists => StatusCode::CONFLICT,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}
