//! What every request passes before it is served: by which name, within which time, within which memory; and which way it goes.
//!
//! ```text
//!   connection ── Front ──┬─ evaluation, as gRPC ──> its service, straight: a router would cost several times the evaluation
//!                         └─ everything else ──────> the router (gRPC, gRPC-web, plain HTTP)
//! ```

use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version, header};
use hyper::body::Incoming;
use opentelemetry::trace::FutureExt as _;
use tonic::Status;
use tonic::body::Body;
use tonic::server::NamedService;
use tower::{Service as _, ServiceExt as _};

use crate::budget::{Metered, meter};
use crate::host::Host;
use crate::http::{is_grpc, refused};
use crate::refusal;
use crate::rpc::evaluation_service_server::EvaluationServiceServer;
use crate::services::evaluation::Evaluations;
use crate::telemetry;

/// Methods whose answer may take as long as the caller wants: they stream, one way or both.
const STREAMING: &[&str] = &[
    "/featureops.v1.AdministrationService/TailAudit",
    "/featureops.v1.EvaluationService/EvaluateStream",
    "/featureops.v1.ExperimentService/WatchExperimentStatus",
    "/featureops.v1.FactService/StreamFacts",
    "/grpc.health.v1.Health/Watch",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
];

/// The way in, one clone a connection.
#[derive(Clone)]
pub struct Front {
    host: Arc<Host>,
    evaluation: EvaluationServiceServer<Evaluations>,
    router: Router,
}

impl Front {
    /// `evaluation` also stands in the router, for gRPC-web and HTTP/1.1.
    pub const fn new(
        host: Arc<Host>,
        evaluation: EvaluationServiceServer<Evaluations>,
        router: Router,
    ) -> Self {
        Self { host, evaluation, router }
    }

    async fn answer(self, request: Request<Incoming>) -> Response<Body> {
        if let Some(refusal) = self.foreign(&request) {
            return refusal;
        }
        let (grpc, streams) = (is_grpc(request.headers()), streams(request.uri().path()));
        let allowed = allowed(request.headers(), streams, self.host.limits.request_timeout);
        let (parts, body) = request.into_parts();
        let (body, held) = meter(body, &self.host.budget, streams);
        let response = self.route(Request::from_parts(parts, body));
        let response = match allowed {
            None => response.await,
            Some(allowed) => match tokio::time::timeout(allowed, response).await {
                Ok(response) => response,
                Err(_) => late(allowed, grpc),
            },
        };
        drop(held);
        response
    }

    async fn route(mut self, request: Request<Metered<Incoming>>) -> Response<Body> {
        let answered = if is_plain_evaluation(&request) {
            self.evaluation.call(request).await
        } else {
            let request = request.map(axum::body::Body::new);
            self.router.oneshot(request).await.map(|response| response.map(Body::new))
        };
        match answered {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }

    /// Refuses names that are not loopback: a web page whose own name was made to lead here would otherwise speak to the
    /// node as its visitor, and there are no tokens that it lacked.
    fn foreign(&self, request: &Request<Incoming>) -> Option<Response<Body>> {
        if !self.host.loopback_only {
            return None;
        }
        let authority = request.uri().authority();
        let named = request.headers().get_all(header::HOST).iter().map(|host| host.to_str().unwrap_or("?"));
        // No name at all comes from no browser.
        let foreign = match authority.filter(|authority| !is_loopback(authority)) {
            Some(authority) => authority.as_str(),
            None => named
                .into_iter()
                .find(|name| !name.parse::<Authority>().is_ok_and(|authority| is_loopback(&authority)))?,
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
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        // Asked for only when traces are exported: nobody else pays for it.
        let trace = if self.host.exports_traces { telemetry::callers_trace(request.headers()) } else { None };
        let answer = self.clone().answer(request);
        match trace {
            None => Box::pin(async move { Ok(answer.await) }),
            Some(trace) => Box::pin(async move { Ok(answer.with_context(trace).await) }),
        }
    }
}

/// Evaluation over HTTP/2 as gRPC. gRPC-web names itself in the content type and goes through the router.
fn is_plain_evaluation<B>(request: &Request<B>) -> bool {
    let service = request.uri().path().strip_prefix('/').and_then(|path| path.split('/').next());
    let kind = request.headers().get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    request.version() == Version::HTTP_2
        && service == Some(<EvaluationServiceServer<Evaluations> as NamedService>::NAME)
        && kind.is_some_and(|kind| kind == b"application/grpc" || kind == b"application/grpc+proto")
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
                    methods += 1;
                }
            }
        }
        assert!(methods > 30);
    }

    #[test]
    fn only_grpc_over_http2_goes_straight_to_evaluation() {
        let request = |version, path: &str, kind: &str| {
            let request = Request::builder().version(version).uri(path).header("content-type", kind);
            is_plain_evaluation(&request.body(()).unwrap())
        };
        let path = "/featureops.v1.EvaluationService/Evaluate";
        assert!(request(Version::HTTP_2, path, "application/grpc"));
        assert!(request(Version::HTTP_2, path, "application/grpc+proto"));
        assert!(!request(Version::HTTP_11, path, "application/grpc"));
        assert!(!request(Version::HTTP_2, path, "application/grpc-web+proto"));
        assert!(!request(Version::HTTP_2, "/featureops.v1.FlagService/GetFlag", "application/grpc"));
        assert!(!request(Version::HTTP_2, "/readyz", "application/grpc"));
    }
}
