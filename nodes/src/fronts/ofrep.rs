//! OFREP 0.3: one flag or all over HTTP, and how a client learns of changes.
//!
//! ```text
//!   POST /ofrep/v1/evaluate/flags/{key}[/]    one answer, or its error with the status of the outcome table
//!   POST /ofrep/v1/evaluate/flags[/]          all, by key; ETag over the very bytes, 304 for who has them
//!   GET  /ofrep/v1/events[?selector=..]       server-sent events: see `sse`
//! ```
//!
//! The tag covers the answer, not the configuration: the same flags answer another context otherwise, and a 304 would keep
//! the former user's values. A client that was told of a configuration this node does not have (yet) gets no 304 either.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::Guard;
use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use featureops_evaluation::{CompiledFlag, Evaluation};
use percent_encoding::percent_decode_str;
use prost_types::value::Kind;
use prost_types::{Struct, Value};
use serde::Serialize;
use tokio_stream::StreamExt as _;
use xxhash_rust::xxh3::xxh3_128;

use crate::fronts::json::{Json, Object, object};
use crate::fronts::outcome::{self, Failure, Outcome, selector_fault};
use crate::fronts::selector::Scope;
use crate::fronts::sse::{self, EVENTS, INACTIVITY_DELAY_S, Version};
use crate::fronts::{REQUEST_BYTES_MAX, resolve, resolve_all};
use crate::host::Host;
use crate::reply::{self, json};

/// Seconds after which a client that was turned away may come again.
const RETRY_AFTER_S: HeaderValue = HeaderValue::from_static("1");
/// Bytes of a key that is looked up.
const KEY_BYTES_MAX: usize = 1_024;

/// The routes.
pub fn routes(host: &Arc<Host>) -> Router {
    Router::new()
        .route("/ofrep/v1/evaluate/flags", post(all))
        .route("/ofrep/v1/evaluate/flags/", post(all))
        .route("/ofrep/v1/evaluate/flags/{key}", post(one))
        .route("/ofrep/v1/evaluate/flags/{key}/", post(one))
        .route(EVENTS, get(sse::events))
        .with_state(Arc::clone(host))
}

/// An error, of one flag or of the whole request.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Fault<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_code: Option<&'a str>,
    error_details: String,
}

/// An answer. What has no value has no variant.
#[derive(Serialize)]
struct Success<'a> {
    key: &'a str,
    reason: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    variant: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<Json<'a>>,
    metadata: Object<'a>,
}

/// All answers. Flags that are written already stay as they are.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Bulk {
    flags: Vec<Box<serde_json::value::RawValue>>,
    metadata: serde_json::Value,
    event_streams: [EventStream; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct EventStream {
    r#type: &'static str,
    endpoint: Endpoint,
    inactivity_delay_sec: u64,
}

/// Without an origin: the one that the client already speaks to.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Endpoint {
    request_uri: String,
}

/// A request that was read.
struct Asked {
    scope: Scope,
    attributes: Struct,
}

async fn one(State(host): State<Arc<Host>>, Path(key): Path<String>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let asked = match asked(&host, &parts, body).await {
        Ok(asked) => asked,
        Err(refusal) => return refusal.response(Some(&key)),
    };
    let failed = |failure: Failure| {
        let (status, code, details) = failure.ofrep(&key);
        Refusal { status, code: Some(code), details }.response(Some(&key))
    };
    if key.len() > KEY_BYTES_MAX {
        return failed(Failure::NotFound);
    }
    match resolve(&host, &asked.scope, &key, &asked.attributes, present) {
        Ok(resolved) => {
            let success = Success {
                key: &key,
                reason: resolved.reason,
                variant: resolved.served.as_ref().map(|(_, variant)| variant.as_str()),
                value: resolved.served.as_ref().map(|(value, _)| Json(value)),
                metadata: Object(resolved.metadata.as_ref()),
            };
            json(StatusCode::OK, &success)
        }
        Err(failure) => failed(failure),
    }
}

async fn all(State(host): State<Arc<Host>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let asked = match asked(&host, &parts, body).await {
        Ok(asked) => asked,
        Err(refusal) => return refusal.response(None),
    };
    let published = Guard::into_inner(host.publisher.load());
    let selection = asked.scope.select(&published);
    let written = |flag: &CompiledFlag, evaluation: &Evaluation<'_>, metadata: Option<Struct>| {
        let served = match Outcome::of(evaluation) {
            Outcome::Served(_, value) if !is_present(value) => Err(Failure::General),
            Outcome::Served(variant, value) => Ok(Some((variant, value))),
            Outcome::CodeDefault | Outcome::Disabled => Ok(None),
            Outcome::Failed(failure) => Err(failure),
        };
        match served {
            Ok(served) => serde_json::value::to_raw_value(&Success {
                key: flag.key(),
                reason: outcome::reason(evaluation.reason),
                variant: served.map(|(variant, _)| variant),
                value: served.map(|(_, value)| Json(value)),
                metadata: Object(metadata.as_ref()),
            }),
            Err(failure) => {
                let (_, code, error_details) = failure.ofrep(flag.key());
                let fault = Fault { key: Some(flag.key()), error_code: Some(code), error_details };
                serde_json::value::to_raw_value(&fault)
            }
        }
        .ok()
    };
    let attributes = (&asked.attributes, &parts.extensions);
    let flags = match resolve_all(&host, &published, &selection, attributes, written).await {
        Ok(flags) => flags,
        Err(full) => {
            let details = full.message().to_owned();
            let status = StatusCode::TOO_MANY_REQUESTS;
            return Refusal { status, code: Some("GENERAL"), details }.response(None);
        }
    };
    let metadata = selection.metadata(&asked.scope);
    let bulk = Bulk {
        flags: flags.into_values().collect(),
        metadata: serde_json::to_value(Object(metadata.as_ref())).unwrap_or_default(),
        event_streams: [EventStream {
            r#type: "sse",
            endpoint: Endpoint { request_uri: sse::uri(&asked.scope) },
            inactivity_delay_sec: INACTIVITY_DELAY_S,
        }],
    };
    let bytes = serde_json::to_vec(&bulk).unwrap_or_default();
    let tag = format!("\"{:032x}\"", xxh3_128(&bytes));
    let fresh = || Version::of(&published, &asked.scope).satisfies(&query(&parts));
    let mut response = if has(&parts.headers, &tag) && fresh() {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        (StatusCode::OK, [(header::CONTENT_TYPE, "application/json")], bytes).into_response()
    };
    // Hexadecimal digits and quotes.
    if let Ok(tag) = HeaderValue::try_from(tag) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response
}

/// Null is no value that a client could take.
fn present(value: &Value) -> Option<Value> {
    is_present(value).then(|| value.clone())
}

const fn is_present(value: &Value) -> bool {
    !matches!(value.kind, None | Some(Kind::NullValue(_)))
}

/// Whether the client has the answer of this tag already.
#[must_use]
pub fn has(headers: &HeaderMap, tag: &str) -> bool {
    let listed = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let mut tags = listed.flat_map(|list| list.split(',')).map(str::trim);
    let bare = tag.trim_matches('"');
    tags.any(|listed| listed == "*" || listed.strip_prefix("W/").unwrap_or(listed).trim_matches('"') == bare)
}

/// A query, decoded; of a repeated name the last.
pub fn query(parts: &Parts) -> BTreeMap<String, String> {
    let query = parts.uri.query().unwrap_or_default();
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (decoded(name), decoded(value))).collect()
}

fn decoded(text: &str) -> String {
    percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned()
}

/// Why a request was turned down.
pub struct Refusal {
    status: StatusCode,
    code: Option<&'static str>,
    details: String,
}

impl Refusal {
    /// A selector that cannot be read.
    #[must_use]
    pub fn selector(fault: &str) -> Self {
        Self { status: StatusCode::BAD_REQUEST, code: Some("GENERAL"), details: selector_fault(fault) }
    }

    fn context(details: &str) -> Self {
        Self { status: StatusCode::BAD_REQUEST, code: Some("INVALID_CONTEXT"), details: details.to_owned() }
    }

    /// As gRPC says it.
    pub(super) fn status(self) -> tonic::Status {
        match self.status {
            StatusCode::TOO_MANY_REQUESTS | StatusCode::PAYLOAD_TOO_LARGE => {
                tonic::Status::resource_exhausted(self.details)
            }
            _ => tonic::Status::invalid_argument(self.details),
        }
    }

    /// As it is sent; `key` is the flag's, if it was about one.
    #[must_use]
    pub fn response(self, key: Option<&str>) -> Response {
        let key = key.filter(|_| self.code.is_some());
        let fault = Fault { key, error_code: self.code, error_details: self.details };
        let mut response = json(self.status, &fault);
        if matches!(self.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            response.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER_S);
        }
        response
    }
}

/// A caller that may not evaluate here, or not so often.
#[must_use]
pub fn turned_away(status: &tonic::Status) -> Response {
    let http = match status.code() {
        tonic::Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        tonic::Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        tonic::Code::InvalidArgument => StatusCode::BAD_REQUEST,
        _ => StatusCode::FORBIDDEN,
    };
    Refusal { status: http, code: None, details: status.message().to_owned() }.response(None)
}

async fn asked(host: &Host, parts: &Parts, body: Body) -> Result<Asked, Refusal> {
    let scope = host.fronts.scope(&parts.headers, &parts.extensions, "");
    let scope = scope.map_err(|fault| Refusal::selector(&fault))?;
    check_type(&parts.headers)?;
    let body = read(body).await?;
    let context = context(&body)?;
    Ok(Asked { scope, attributes: host.fronts.overlay.over(context, &parts.headers) })
}

/// An evaluation may imply an exposure. A web page cannot send JSON to another site without asking first, so that no page
/// makes a visitor's browser report some; what no browser sends may come without a type.
fn check_type(headers: &HeaderMap) -> Result<(), Refusal> {
    let is_said = headers.contains_key(header::CONTENT_TYPE);
    if reply::is_json(headers) || !is_said && !headers.contains_key(header::ORIGIN) {
        return Ok(());
    }
    let details = reply::SEND_JSON.to_owned();
    Err(Refusal { status: StatusCode::UNSUPPORTED_MEDIA_TYPE, code: Some("GENERAL"), details })
}

/// A body, within the bound.
pub(super) async fn read(body: Body) -> Result<Vec<u8>, Refusal> {
    let mut frames = body.into_data_stream();
    let mut bytes = Vec::new();
    while let Some(frame) = frames.next().await {
        let frame = frame.map_err(|error| match tonic::Status::try_from_error(error.into_inner()) {
            // The node holds as many bytes of requests as it may.
            Ok(status) => Refusal {
                status: StatusCode::TOO_MANY_REQUESTS,
                code: None,
                details: status.message().to_owned(),
            },
            Err(error) => Refusal {
                status: StatusCode::BAD_REQUEST,
                code: Some("GENERAL"),
                details: format!("the body was not read: {error}"),
            },
        })?;
        if bytes.len() + frame.len() > REQUEST_BYTES_MAX {
            return Err(Refusal {
                status: StatusCode::PAYLOAD_TOO_LARGE,
                code: None,
                details: format!(
                    "the body has more than {REQUEST_BYTES_MAX} bytes: send the attributes that rules look at"
                ),
            });
        }
        bytes.extend_from_slice(&frame);
    }
    Ok(bytes)
}

/// The context in a body. No body is none, and neither is null. serde_json bounds the depth at 128 levels.
///
/// # Errors
/// It is no JSON object, or its context is none.
pub fn context(body: &[u8]) -> Result<Option<Struct>, Refusal> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(None);
    }
    let invalid = || Refusal::context("Provider context is not valid");
    let body: serde_json::Value = serde_json::from_slice(body).map_err(|_| invalid())?;
    let serde_json::Value::Object(mut body) = body else { return Err(invalid()) };
    match body.remove("context") {
        None | Some(serde_json::Value::Null) => Ok(None),
        Some(serde_json::Value::Object(fields)) => Ok(Some(object(fields))),
        Some(_) => Err(invalid()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_found_in_any_form() {
        let has = |text: &'static str| {
            let headers = HeaderMap::from_iter([(header::IF_NONE_MATCH, HeaderValue::from_static(text))]);
            has(&headers, "\"ab12\"")
        };
        for known in ["\"ab12\"", "W/\"ab12\"", "ab12", "\"x\", \"ab12\"", "*"] {
            assert!(has(known), "{known}");
        }
        assert!(!has("\"ab\"") && !has(""));
    }

    #[test]
    fn no_page_of_another_site_asks() {
        let checked = |pairs: &[(header::HeaderName, &'static str)]| {
            let pairs = pairs.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value)));
            check_type(&HeaderMap::from_iter(pairs)).is_ok()
        };
        assert!(checked(&[]) && checked(&[(header::CONTENT_TYPE, "Application/JSON; charset=utf-8")]));
        for other in
            ["application/jsonx", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"]
        {
            assert!(!checked(&[(header::CONTENT_TYPE, other)]), "{other}");
        }
        assert!(!checked(&[(header::ORIGIN, "http://elsewhere")]));
    }

    #[test]
    fn a_context_is_an_object_or_nothing() {
        for nothing in ["", "  ", "{}", r#"{"context":null}"#] {
            assert!(context(nothing.as_bytes()).ok().unwrap().is_none(), "{nothing}");
        }
        assert!(context(br#"{"context":{"a":1}}"#).ok().unwrap().is_some());
        let deep = format!("{{\"context\":{}", "{\"a\":".repeat(100_000));
        for bad in ["x", "[]", r#"{"context":"x"}"#, r#"{"context":[]}"#, r#"{"context":"#, &deep] {
            assert!(context(bad.as_bytes()).is_err());
        }
    }

    #[test]
    fn a_query_is_decoded() {
        assert_eq!(decoded("a%2Fb+c%3d%zz%"), "a/b c=%zz%");
    }
}
