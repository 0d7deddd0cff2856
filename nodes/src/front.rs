//! What every request passes before it is served: by which name, within which time, within which memory; and which way it goes.
//!
//! ```text
//!   connection ── Front ──┬─ evaluation, as gRPC ──> its service, straight: a router would cost several times the evaluation
//!                         │  (ours, and flagd's two; these also as JSON)
//!                         └─ everything else ──────> the router (gRPC, gRPC-web, plain HTTP)
//! ```

use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Router;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use hyper::body::Incoming;
use opentelemetry::trace::FutureExt as _;
use tokio::time::Instant;
use tonic::Status;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic_types::StatusExt as _;
use tower::{Service as _, ServiceExt as _};

use crate::access::grant::Grant;
use crate::access::{self, Admitted, Now, rules};
use crate::budget::{Account, Connection};
use crate::flagd::evaluation::{v1, v2};
use crate::freshness;
use crate::fronts::evaluation_v1::EvaluationV1;
use crate::fronts::evaluation_v2::EvaluationV2;
use crate::fronts::selector::Called;
use crate::fronts::sse::EVENTS;
use crate::fronts::{connect, cors, ofrep};
use crate::host::Host;
use crate::meter::{Form, Metered, meter};
use crate::outgoing::{Lasting, Outgoing};
use crate::refusal;
use crate::reply::{is_grpc, refused, unknown_method};
use crate::rpc::evaluation_service_server::EvaluationServiceServer;
use crate::services::evaluation::Evaluations;
use crate::telemetry;
use crate::tls::Tls;
use crate::webhook;

/// Methods whose answer may take as long as the caller wants: they stream, one way or both.
const STREAMING: &[&str] = &[
    "/featureops.v1.AdministrationService/TailAudit",
    "/featureops.v1.BackupService/StreamBackup",
    "/featureops.v1.EvaluationService/EvaluateStream",
    "/featureops.v1.ExperimentService/WatchExperimentStatus",
    "/featureops.v1.FactService/StreamFacts",
    "/grpc.health.v1.Health/Watch",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    "/flagd.evaluation.v1.Service/EventStream",
    "/flagd.evaluation.v2.Service/EventStream",
    "/flagd.sync.v1.FlagSyncService/SyncFlags",
    EVENTS,
];

/// Those of them whose caller streams.
const CALLER_STREAMS: &[&str] = &[
    "/featureops.v1.EvaluationService/EvaluateStream",
    STREAM_FACTS,
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
];

/// Methods that bring much at once, and may wait while others go first.
const BULK: &[&str] = &[
    "/featureops.v1.EnvironmentService/ImportFlags",
    "/featureops.v1.FactService/ReportExposures",
    "/featureops.v1.FactService/ReportOutcomes",
    "/featureops.v1.SegmentService/UpdateSegmentUnits",
    STREAM_FACTS,
];

/// Its answer takes as long as a backup does, and is worth nothing unless it is whole.
const STREAM_BACKUP: &str = "/featureops.v1.BackupService/StreamBackup";

/// Methods that hold more than their request: batches that wait for the log, and answers about all flags while they are made.
const HOLDING: &[&str] = &[
    STREAM_FACTS,
    "/featureops.v1.EvaluationService/EvaluateAll",
    "/flagd.evaluation.v1.Service/ResolveAll",
    "/ofrep/v1/evaluate/flags",
    "/ofrep/v1/evaluate/flags/",
];
const STREAM_FACTS: &str = "/featureops.v1.FactService/StreamFacts";

/// gRPC's codes in a response's headers, as flagd's clients know a request that is too large.
const OUT_OF_RANGE: HeaderValue = HeaderValue::from_static("11");
const RESOURCE_EXHAUSTED: HeaderValue = HeaderValue::from_static("8");
const UNIMPLEMENTED: HeaderValue = HeaderValue::from_static("12");

/// The evaluation services that are reached without the router.
#[derive(Clone, Default)]
pub struct Straight {
    /// Ours.
    pub own: Option<EvaluationServiceServer<Evaluations>>,
    /// flagd's.
    pub v1: Option<v1::service_server::ServiceServer<EvaluationV1>>,
    /// flagd's newer one.
    pub v2: Option<v2::service_server::ServiceServer<EvaluationV2>>,
}

/// The way in, one clone a connection.
#[derive(Clone)]
pub struct Front {
    host: Arc<Host>,
    straight: Straight,
    router: Router,
    connection: Arc<Connection>,
    /// Who connected.
    peer: Option<IpAddr>,
    /// What their certificate lets them see, where certificates choose.
    certified: Option<Called>,
}

impl Front {
    /// What goes straight also stands in the router, for gRPC-web and HTTP/1.1.
    pub fn new(host: Arc<Host>, straight: Straight, router: Router) -> Self {
        let connection = Connection::new(&host.budget);
        Self { host, straight, router, connection, peer: None, certified: None }
    }

    /// The way in of one more connection.
    #[must_use]
    pub fn connected(&self, peer: IpAddr) -> Self {
        Self { connection: Connection::new(&self.host.budget), peer: Some(peer), ..self.clone() }
    }

    /// The same for whoever showed a certificate of these names; none: they showed none.
    #[must_use]
    pub fn certified(mut self, names: &[String]) -> Self {
        self.certified = self.host.fronts.views.certified(names);
        self
    }

    /// The environments that the certificate chooses, else the name that was called.
    fn chosen<B>(&self, request: &Request<B>) -> Option<Called> {
        let by_name = || called(request).and_then(|name| self.host.fronts.views.called(name));
        self.certified.clone().or_else(by_name)
    }

    /// The certificates of whoever listens here; absent: plain text.
    #[must_use]
    pub fn tls(&self) -> Option<&Arc<Tls>> {
        self.host.tls.as_ref()
    }

    async fn answer(self, mut request: Request<Incoming>, account: Arc<Account>) -> Response<Outgoing> {
        let streams = streams(request.uri().path());
        let allowed = allowed(request.headers(), streams, self.host.limits.request_timeout);
        // Of a stream the caller's deadline holds to its end; of all else the answer is made at once.
        let until = allowed.filter(|_| streams).and_then(|allowed| Instant::now().checked_add(allowed));
        let origins = &self.host.fronts.settings.cors_origins;
        let page = cors::admitted(origins, &request);
        let varies = cors::varies(origins, request.uri().path());
        let mut lasts: Option<Lasting> = None;
        let mut response =
            if page.is_some() && cors::is_preflight(&request) && self.foreign(&request).is_none() {
                cors::preflight()
            } else {
                match self.admit(&mut request) {
                    Err(refusal) => *refusal,
                    Ok(grant) => {
                        lasts = match grant {
                            _ if !streams => None,
                            None => Some(open(&self.host, request.uri().path())),
                            Some(grant) if grant.principal().is_some() => Some(standing(&self.host, grant)),
                            Some(_) => None,
                        };
                        let answered = self.answer_within(allowed, streams, request, &account);
                        match lasts.take() {
                            None => answered.await,
                            Some(mut until) => tokio::select! {
                                response = answered => {
                                    lasts = Some(until);
                                    response
                                }
                                status = &mut until => status.into_http(),
                            },
                        }
                    }
                }
            };
        if varies {
            // Whoever asks: a cache must not hand one page what another one was told.
            response.headers_mut().append(header::VARY, HeaderValue::from_static("origin"));
        }
        if let Some(origin) = page {
            cors::open(response.headers_mut(), origin);
        }
        Outgoing::of(response, account, until, lasts)
    }

    /// Lets a request in, in whose name it comes put into its extensions; or says why not.
    fn admit(&self, request: &mut Request<Incoming>) -> Result<Option<Arc<Grant>>, Box<Response<Body>>> {
        let (uri, headers) = (request.uri(), request.headers());
        let rule = rules::of(uri.path());
        let now = Now { log_ms: self.host.log_time_ms(), monotonic_ms: self.host.clock.monotonic_ms() };
        let admitted = self.host.access.admit(rule, uri, headers, self.peer, now);
        let grant = match admitted {
            Err(status) => {
                self.host.observation.turned_away.fetch_add(1, Ordering::Relaxed);
                return Err(Box::new(turned_away(&status, uri.path(), headers)));
            }
            Ok(Admitted::Open) => None,
            Ok(Admitted::Granted(grant)) => Some(grant),
        };
        if grant.as_ref().is_none_or(|grant| grant.principal().is_none())
            && let Some(foreign) = self.foreign(request)
        {
            return Err(Box::new(foreign));
        }
        // What no rule is for is not there, whoever asks.
        if rule.is_none() && grant.is_some() {
            let path = request.uri().path();
            let gone = match is_grpc(request.headers()) || is_method(path) {
                true => unknown_method(path),
                false => refused(StatusCode::NOT_FOUND, "NOT_FOUND".to_owned(), "not found".to_owned())
                    .map(Body::new),
            };
            return Err(Box::new(gone));
        }
        let Some(grant) = grant else { return Ok(None) };
        let path = request.uri().path();
        if path.starts_with("/flagd.") || path.starts_with("/ofrep/") {
            let checked = self.host.fronts.views.check(self.chosen(request).as_ref(), &grant);
            checked.map_err(|status| Box::new(turned_away(&status, path, request.headers())))?;
        }
        access::hide(request.headers_mut());
        request.extensions_mut().insert(Arc::clone(&grant));
        Ok(Some(grant))
    }

    async fn answer_within(
        self,
        allowed: Option<Duration>,
        streams: bool,
        mut request: Request<Incoming>,
        account: &Arc<Account>,
    ) -> Response<Body> {
        if self.host.fronts.views.named()
            && let Some(called) = self.chosen(&request)
        {
            request.extensions_mut().insert(called);
        }
        let (grpc, longest) = (is_grpc(request.headers()), self.host.limits.request_timeout);
        if HOLDING.contains(&request.uri().path()) {
            request.extensions_mut().insert(Arc::clone(account));
        }
        let in_text = streams && is_web_text(request.headers());
        if in_text && CALLER_STREAMS.contains(&request.uri().path()) {
            return one_message_in_text(request.headers());
        }
        let (parts, body) = request.into_parts();
        // Text has no frames that could be followed: what may come in it is one message.
        let form = match (streams, in_text) {
            (false, _) => Form::Whole,
            (true, false) => Form::Messages(longest),
            (true, true) => Form::Slow(longest),
        };
        let body = meter(body, account, form);
        let response = self.route(Request::from_parts(parts, body));
        let response = match allowed {
            None => response.await,
            // It has passed, whatever could still be answered at once.
            Some(Duration::ZERO) => late(Duration::ZERO, grpc),
            Some(allowed) => match tokio::time::timeout(allowed, response).await {
                Ok(response) => response,
                Err(_) => late(allowed, grpc),
            },
        };
        account.let_go();
        response
    }

    /// What the connection holds.
    #[must_use]
    pub const fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    async fn route(mut self, request: Request<Metered<Incoming>>) -> Response<Body> {
        let Straight { own, v1, v2 } = &mut self.straight;
        let answered = match (plain_evaluation(&request), own, v1, v2) {
            (Some(Plain::Own), Some(own), _, _) => own.call(request).await,
            (Some(Plain::V1), _, Some(v1), _) => v1.call(request).await.map(as_flagd),
            (Some(Plain::V2), _, _, Some(v2)) => v2.call(request).await.map(as_flagd),
            (None, _, Some(_), _) if connect::is_asked(&request) => {
                let request = request.map(axum::body::Body::new);
                return connect::answer(self.host, request).await.map(Body::new);
            }
            (None, _, Some(_), _) if connect::is_of_other_type(&request) => {
                return connect::other_type().map(Body::new);
            }
            _ => return self.through_router(request).await,
        };
        match answered {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }

    async fn through_router(self, request: Request<Metered<Incoming>>) -> Response<Body> {
        let uri = request.uri().clone();
        if request.method() != Method::POST && is_method(uri.path()) {
            return only_post();
        }
        let request = request.map(axum::body::Body::new);
        let current = freshness::reach(&self.host, uri.path()).await;
        let Ok(mut response) = self.router.oneshot(request).await;
        if !current {
            let (name, value) = freshness::STALE;
            response.headers_mut().insert(name, value);
        }
        // A service says no more of a method that it does not have.
        let headers = response.headers();
        if headers.get("grpc-status").is_some_and(|code| *code == UNIMPLEMENTED)
            && headers.get("grpc-message").is_none_or(HeaderValue::is_empty)
        {
            return unknown_method(uri.path());
        }
        response.map(Body::new)
    }

    /// Refuses names that are not loopback: a web page whose own name was made to lead here would otherwise speak to the
    /// node as its visitor, where nobody needs a token that it lacked.
    fn foreign(&self, request: &Request<Incoming>) -> Option<Response<Body>> {
        if !self.host.loopback_only {
            return None;
        }
        let authority = request.uri().authority();
        let named = request.headers().get_all(header::HOST).iter().map(|host| host.to_str().unwrap_or("?"));
        // A name that chooses environments was given to the node by whoever runs it.
        let views = &self.host.fronts.views;
        let is_own = |name: &Authority| is_loopback(name) || views.called(name.as_str()).is_some();
        // No name at all comes from no browser.
        let foreign = match authority.filter(|authority| !is_own(authority)) {
            Some(authority) => authority.as_str(),
            None => named
                .into_iter()
                .find(|name| !name.parse::<Authority>().is_ok_and(|authority| is_own(&authority)))?,
        };
        let status = refusal::foreign_host(foreign);
        Some(match is_grpc(request.headers()) {
            true => status.into_http(),
            false => refused(StatusCode::FORBIDDEN, "FOREIGN_HOST".to_owned(), status.message().to_owned())
                .map(Body::new),
        })
    }
}

impl hyper::service::Service<Request<Incoming>> for Front {
    type Response = Response<Outgoing>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        // Asked for only when traces are exported: nobody else pays for it.
        let trace = if self.host.exports_traces { telemetry::callers_trace(request.headers()) } else { None };
        let account = Account::open(&self.connection, BULK.contains(&request.uri().path()));
        if request.uri().path() == STREAM_BACKUP {
            account.keep();
        }
        if request.version() == Version::HTTP_2 {
            self.connection.call(Arc::clone(&account));
        }
        let answer = self.clone().answer(request, account);
        match trace {
            None => Box::pin(async move { Ok(answer.await) }),
            Some(trace) => Box::pin(async move { Ok(answer.with_context(trace).await) }),
        }
    }
}

/// Ends with why once what was granted stands no more: a stream may last for days, a token's end must not wait for it.
fn standing(host: &Arc<Host>, grant: Arc<Grant>) -> Lasting {
    let host = Arc::clone(host);
    Box::pin(async move {
        host.access.revoked(&grant, || host.log_time_ms()).await;
        let message = format!("token '{}' was revoked or has expired", grant.id());
        refusal::unauthenticated("TOKEN_UNKNOWN", message)
    })
}

/// Ends with why once a caller without a token is not let in any more: whoever came before the first one was made must show one, too.
fn open(host: &Arc<Host>, path: &str) -> Lasting {
    let (host, rule) = (Arc::clone(host), rules::of(path));
    Box::pin(async move {
        host.access.closed(rule).await;
        access::no_token()
    })
}

/// A refusal in the form that the caller speaks.
fn turned_away(status: &Status, path: &str, headers: &HeaderMap) -> Response<Body> {
    if is_grpc(headers) {
        return status.clone().into_http();
    }
    let mut response =
        if path.starts_with("/ofrep/") { ofrep::turned_away(status) } else { webhook::plain(status) };
    let headers = response.headers_mut();
    if status.code() == tonic::Code::Unauthenticated {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if let Some(wait) = status.get_details_retry_info().and_then(|info| info.retry_delay) {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(wait.as_millis().div_ceil(1_000) as u64));
    }
    response.map(Body::new)
}

/// A service that is reached without the router.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Plain {
    Own,
    V1,
    V2,
}

/// Evaluation over HTTP/2 as gRPC. gRPC-web names itself in the content type and goes through the router.
fn plain_evaluation<B>(request: &Request<B>) -> Option<Plain> {
    // What is not one of these goes through the router, which says so.
    let resolves = |method: &str| method.starts_with("Resolve") || method == "EventStream";
    const OWN: &str = <EvaluationServiceServer<Evaluations> as NamedService>::NAME;
    const V1: &str = <v1::service_server::ServiceServer<EvaluationV1> as NamedService>::NAME;
    const V2: &str = <v2::service_server::ServiceServer<EvaluationV2> as NamedService>::NAME;
    let kind = request.headers().get(header::CONTENT_TYPE).map(HeaderValue::as_bytes)?;
    if request.version() != Version::HTTP_2
        || request.method() != Method::POST
        || !matches!(kind, b"application/grpc" | b"application/grpc+proto")
    {
        return None;
    }
    match request.uri().path().strip_prefix('/')?.split_once('/')? {
        (OWN, "Evaluate" | "EvaluateAll" | "EvaluateStream" | "Explain") => Some(Plain::Own),
        (V1, method) if resolves(method) => Some(Plain::V1),
        (V2, method) if resolves(method) => Some(Plain::V2),
        _ => None,
    }
}

/// A gRPC method's path: its service has a package.
fn is_method(path: &str) -> bool {
    path.split('/').nth(1).is_some_and(|service| service.contains('.'))
}

fn only_post() -> Response<Body> {
    let message = "a method of gRPC is asked by POST".to_owned();
    let mut response = refused(StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED".to_owned(), message);
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
    response.map(Body::new)
}

/// A message that is too large is RESOURCE_EXHAUSTED to flagd's clients.
fn as_flagd(mut response: Response<Body>) -> Response<Body> {
    if let Some(status) = response.headers_mut().get_mut("grpc-status")
        && *status == OUT_OF_RANGE
    {
        *status = RESOURCE_EXHAUSTED;
    }
    response
}

fn is_web_text(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc-web-text"))
}

/// A caller that would stream in base64, which gRPC-web does not know.
fn one_message_in_text(headers: &HeaderMap) -> Response<Body> {
    let message = "grpc-web-text cannot stream to the node: send application/grpc-web+proto or gRPC, or one message a call";
    let mut response = Status::unimplemented(message).into_http();
    if let Some(kind) = headers.get(header::CONTENT_TYPE) {
        response.headers_mut().insert(header::CONTENT_TYPE, kind.clone());
    }
    response
}

/// The name by which the node was called.
fn called<B>(request: &Request<B>) -> Option<&str> {
    let named = || request.headers().get(header::HOST)?.to_str().ok();
    request.uri().authority().map(Authority::as_str).or_else(named)
}

/// The time a request has: its own deadline (`grpc-timeout`), and the node's for methods that do not stream.
fn allowed(headers: &HeaderMap, streams: bool, longest: Duration) -> Option<Duration> {
    let wished = headers.get("grpc-timeout").and_then(timeout_of);
    match (wished, streams) {
        (wished, true) => wished,
        (None, false) => Some(longest),
        (Some(wished), false) => Some(wished.min(longest)),
    }
}

fn late(allowed: Duration, grpc: bool) -> Response<Body> {
    let message = format!(
        "no answer within {} ms; a write may still take effect: repeat it with the same request_id",
        allowed.as_millis()
    );
    match grpc {
        true => Status::deadline_exceeded(message).into_http(),
        false => refused(StatusCode::REQUEST_TIMEOUT, "DEADLINE_EXCEEDED".to_owned(), message).map(Body::new),
    }
}

/// `localhost`, `127.0.0.0/8` or `[::1]`, with a port or without.
fn is_loopback(authority: &Authority) -> bool {
    let host = authority.host();
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    host.eq_ignore_ascii_case("localhost")
        || address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn streams(path: &str) -> bool {
    STREAMING.contains(&path)
}

/// `8 digits at most, then H, M, S, m, u or n`, as gRPC says it.
fn timeout_of(value: &HeaderValue) -> Option<Duration> {
    let text = value.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let amount: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(amount.saturating_mul(3_600)),
        "M" => Duration::from_secs(amount.saturating_mul(60)),
        "S" => Duration::from_secs(amount),
        "m" => Duration::from_millis(amount),
        "u" => Duration::from_micros(amount),
        "n" => Duration::from_nanos(amount),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    #[test]
    fn only_loopback_names_are_the_nodes_own() {
        let is_loopback = |name: &str| name.parse::<Authority>().is_ok_and(|name| is_loopback(&name));
        for own in ["localhost", "LocalHost:7400", "127.0.0.1:7400", "127.9.9.9", "[::1]:7400", "[::1]"] {
            assert!(is_loopback(own), "{own}");
        }
        for foreign in [
            "node",
            "evil.example:7400",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "10.0.0.1",
            "0.0.0.0",
            "[::]",
            "",
            "?",
        ] {
            assert!(!is_loopback(foreign), "{foreign}");
        }
    }

    #[test]
    fn a_deadline_is_read_as_grpc_writes_it() {
        let of = |text: &'static str| timeout_of(&HeaderValue::from_static(text));
        assert_eq!(of("5S"), Some(Duration::from_secs(5)));
        assert_eq!(of("250m"), Some(Duration::from_millis(250)));
        assert_eq!(of("99999999H"), Some(Duration::from_secs(99_999_999 * 3_600)));
        for odd in ["", "S", "5", "-5S", "123456789S", "5x", "5 S"] {
            assert_eq!(of(odd), None, "{odd}");
        }
    }

    #[test]
    fn every_method_that_streams_is_known_to() {
        let descriptors = prost_types::FileDescriptorSet::decode(featureops_proto::DESCRIPTORS).unwrap();
        let mut methods = 0;
        for file in &descriptors.file {
            for service in &file.service {
                for method in &service.method {
                    let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                    assert_eq!(
                        streams(&path),
                        method.client_streaming() || method.server_streaming(),
                        "{path}"
                    );
                    assert_eq!(CALLER_STREAMS.contains(&path.as_str()), method.client_streaming(), "{path}");
                    methods += 1;
                }
            }
        }
        assert!(methods > 30);
    }

    #[test]
    fn only_grpc_over_http2_goes_straight_to_evaluation() {
        let request = |version, path: &str, kind: &str| {
            let request = Request::post(path).version(version).header("content-type", kind);
            plain_evaluation(&request.body(()).unwrap())
        };
        let path = "/featureops.v1.EvaluationService/Evaluate";
        assert_eq!(request(Version::HTTP_2, path, "application/grpc"), Some(Plain::Own));
        assert_eq!(request(Version::HTTP_2, path, "application/grpc+proto"), Some(Plain::Own));
        let flagd = |version| format!("/flagd.evaluation.{version}.Service/ResolveInt");
        assert_eq!(request(Version::HTTP_2, &flagd("v1"), "application/grpc"), Some(Plain::V1));
        assert_eq!(request(Version::HTTP_2, &flagd("v2"), "application/grpc"), Some(Plain::V2));
        assert_eq!(request(Version::HTTP_11, path, "application/grpc"), None);
        assert_eq!(request(Version::HTTP_2, path, "application/grpc-web+proto"), None);
        let get = Request::get(path).version(Version::HTTP_2).header("content-type", "application/grpc");
        assert_eq!(plain_evaluation(&get.body(()).unwrap()), None);
        let known = [featureops_proto::DESCRIPTORS, crate::flagd::DESCRIPTORS]
            .map(|bytes| prost_types::FileDescriptorSet::decode(bytes).unwrap());
        let mut straight = 0;
        for file in known.iter().flat_map(|set| &set.file) {
            for service in &file.service {
                let name = format!("{}.{}", file.package(), service.name());
                let is_evaluation =
                    name.ends_with(".EvaluationService") || name.starts_with("flagd.evaluation.");
                for method in service.method.iter().filter(|_| is_evaluation) {
                    let path = format!("/{name}/{}", method.name());
                    assert!(request(Version::HTTP_2, &path, "application/grpc").is_some(), "{path}");
                    straight += 1;
                }
            }
        }
        assert!(straight > 15, "{straight}");
        let unknown = "/featureops.v1.EvaluationService/Guess";
        for other in ["/featureops.v1.FlagService/GetFlag", "/readyz", &flagd("v3"), unknown] {
            assert_eq!(request(Version::HTTP_2, other, "application/grpc"), None, "{other}");
        }
    }
}
