//! Answers in the form that the caller speaks: gRPC's, or JSON.

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde::Serialize;
use tonic::Status;

use crate::refusal;

#[derive(Serialize)]
struct Refused {
    code: String,
    message: String,
}

/// Whether a caller speaks gRPC, and expects refusals so.
#[must_use]
pub fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// gRPC itself, whose trailers are HTTP's. gRPC-web writes them into its body.
#[must_use]
pub fn is_native_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    let rest = kind.and_then(|kind| kind.strip_prefix(b"application/grpc"));
    rest.is_some_and(|rest| !rest.starts_with(b"-web"))
}

/// Whether a body is said to be JSON: that media type and no other, its parameters and its letters' case aside.
///
/// A web page cannot send this type to another site without asking first.
#[must_use]
pub fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    let kind = kind.and_then(|kind| kind.split(|byte| *byte == b';').next());
    kind.is_some_and(|kind| kind.trim_ascii().eq_ignore_ascii_case(b"application/json"))
}

/// What to say of any other type.
pub const SEND_JSON: &str = "send content-type: application/json";

/// A method that no service has.
#[must_use]
pub fn unknown_method(path: &str) -> axum::http::Response<tonic::body::Body> {
    let message = format!("method '{}' is not known to this release", refusal::clip(path));
    Status::unimplemented(message).into_http()
}

/// A refusal in JSON.
#[must_use]
pub fn refused(status: StatusCode, code: String, message: String) -> Response {
    json(status, &Refused { code, message })
}

/// A body in JSON.
pub fn json(status: StatusCode, body: &impl Serialize) -> Response {
    let body = serde_json::to_vec(body).unwrap_or_default();
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_one_media_type() {
        let said = |kind: &'static str| {
            is_json(&HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(kind))]))
        };
        for kind in [
            "application/json",
            "Application/JSON; charset=utf-8",
            "application/json ;x=y",
            " application/json",
        ] {
            assert!(said(kind), "{kind}");
        }
        for kind in
            ["application/jsonx", "application/json-seq", "text/json", "application/json, text/plain", ""]
        {
            assert!(!said(kind), "{kind}");
        }
        assert!(!is_json(&HeaderMap::new()));
    }
}
