//! `POST /v1/alarms`: an outside monitor asks for a trip, in JSON.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::{Extensions, HeaderMap, HeaderValue, StatusCode};
use axum::response::Response;
use featureops_proto::v1::RaiseAlarmRequest;
use featureops_proto::{Collection, Name};
use serde::{Deserialize, Serialize};
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::access::grant::{check, granted};
use crate::caller;
use crate::host::Host;
use crate::reply::{SEND_JSON, is_json, json, refused};
use crate::sent::Sent;
use crate::services::administration::raise_alarm;

/// Bytes of a body.
pub const BYTES_MAX: usize = 64 << 10;

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

/// The alarm in a body.
///
/// # Errors
/// It is no such JSON object: what is wrong, and what to send.
pub fn read(body: &[u8]) -> Result<RaiseAlarmRequest, String> {
    let alarm: Alarm = serde_json::from_slice(body).map_err(|error| {
        format!("body: {error}; send {{\"environment\", \"flag\", \"source\", \"reason\"}}")
    })?;
    Ok(RaiseAlarmRequest {
        name: Name::format(&alarm.environment, Collection::Flags, &alarm.flag),
        source: alarm.source,
        reason: alarm.reason,
        request_id: alarm.request_id,
        validate_only: false,
    })
}

/// The webhook of an outside monitor. serde_json bounds the depth at 128 levels, the route the bytes.
pub async fn alarm(
    State(host): State<Arc<Host>>,
    extensions: Extensions,
    mut headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    // A browser cannot send this type across sites without asking first, so no web page can raise an alarm here.
    if !is_json(&headers) {
        let message = SEND_JSON.to_owned();
        return refused(StatusCode::UNSUPPORTED_MEDIA_TYPE, "INVALID_ARGUMENT".to_owned(), message);
    }
    let body = match body {
        Ok(body) => body,
        Err(rejection) if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => {
            let message = format!("body: has more than {BYTES_MAX} bytes");
            return refused(StatusCode::PAYLOAD_TOO_LARGE, "TOO_LARGE".to_owned(), message);
        }
        Err(rejection) => {
            let message = format!("body: {}", rejection.body_text());
            return refused(rejection.status(), "INVALID_ARGUMENT".to_owned(), message);
        }
    };
    let request = match read(&body) {
        Ok(request) => request,
        Err(message) => return refused(StatusCode::BAD_REQUEST, "INVALID_ARGUMENT".to_owned(), message),
    };
    headers.entry(caller::HEADER).or_insert(HeaderValue::from_static(caller::WEBHOOK));
    if let Some(grant) = granted(&extensions) {
        let flag = Name::parse(&request.name, Collection::Flags);
        let checked = flag.map_or(Ok(()), |flag| check(Some(grant), flag.environment, flag.id));
        if let Err(status) = checked {
            return plain(&status);
        }
    }
    let from = Sent::of(MetadataMap::from_headers(headers), &extensions, &request);
    match raise_alarm(&host, &from, request).await {
        Ok(raised) => json(StatusCode::OK, &Raised { decision: raised.decision, tripped: raised.tripped }),
        Err(status) => plain(&status),
    }
}

/// A refusal for whoever does not speak gRPC.
pub fn plain(status: &Status) -> Response {
    let code = status.get_details_error_info().map_or_else(String::new, |info| info.reason);
    refused(http_status(status.code()), code, status.message().to_owned())
}

fn http_status(code: Code) -> StatusCode {
    match code {
        Code::Ok => StatusCode::OK,
        Code::InvalidArgument | Code::OutOfRange => StatusCode::BAD_REQUEST,
        Code::FailedPrecondition | Code::Aborted | Code::AlreadyExists => StatusCode::CONFLICT,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}
