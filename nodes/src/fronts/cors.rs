//! Web pages of other sites: which of them may evaluate from a browser, by flagd's evaluation services and by OFREP.
//!
//! Nobody else's page may, unless its origin is named: evaluation may need no token, and may imply an exposure.
//! Writes, facts and everything else stay closed to pages whatever is named.

use axum::http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use tonic::body::Body;

/// What these clients send beside what a browser always may.
const ALLOWED: HeaderValue = HeaderValue::from_static(
    "authorization, cache-control, connect-protocol-version, connect-timeout-ms, content-type, flagd-selector, grpc-timeout, \
     if-none-match, last-event-id, traceparent, tracestate, x-api-key, x-grpc-web, x-user-agent",
);
/// What these clients read beside what a page always may.
const EXPOSED: HeaderValue =
    HeaderValue::from_static("etag, grpc-message, grpc-status, grpc-status-details-bin, retry-after");
const METHODS: HeaderValue = HeaderValue::from_static("GET, POST");
/// Seconds for which a browser need not ask again: as long as any keeps it.
const MAX_AGE_S: HeaderValue = HeaderValue::from_static("7200");
const ANY: HeaderValue = HeaderValue::from_static("*");

/// The origin that a page's request is answered to, if it is one of those named here.
pub fn admitted<B>(origins: &[String], request: &Request<B>) -> Option<HeaderValue> {
    if !varies(origins, request.uri().path()) {
        return None;
    }
    let origin = request.headers().get(header::ORIGIN)?;
    if origins.iter().any(|named| named == "*") {
        return Some(ANY);
    }
    let text = origin.to_str().ok()?;
    origins.iter().any(|named| named.eq_ignore_ascii_case(text)).then(|| origin.clone())
}

/// Whether answers of a path depend on the page that asks.
pub fn varies(origins: &[String], path: &str) -> bool {
    !origins.is_empty() && is_open(path)
}

/// Whether a path is one that pages may be let in to.
fn is_open(path: &str) -> bool {
    ["/ofrep/v1/", "/flagd.evaluation.v1.Service/", "/flagd.evaluation.v2.Service/"]
        .iter()
        .any(|open| path.starts_with(open))
}

/// Whether a browser asks what a page may do before it lets it.
pub fn is_preflight<B>(request: &Request<B>) -> bool {
    request.method() == Method::OPTIONS
        && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

/// What such a page may do.
pub fn preflight() -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, METHODS);
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, ALLOWED);
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, MAX_AGE_S);
    response
}

/// Lets the page of this origin read an answer.
pub fn open(headers: &mut HeaderMap, origin: HeaderValue) {
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
}
