//! flagd's evaluation services as Connect says them in JSON: one question, one answer, over plain HTTP.
//!
//! ```text
//!   POST /flagd.evaluation.v1.Service/ResolveBoolean    {"flagKey": "banner", "context": {"targetingKey": "ada"}}
//!   200  {"value": true, "reason": "STATIC", "variant": "on", "metadata": {}}
//!   404  {"code": "not_found", "message": "Flag not found"}
//! ```
//!
//! What is not set is written all the same, as flagd writes it, but for what v2 leaves unset on purpose; 64-bit integers are
//! texts, as in every JSON of a proto. Fields that are not known are passed over. The services are the same as by gRPC.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderValue, Method, Request, StatusCode, header};
use axum::response::Response;
use prost_types::{Struct, Value};
use serde_json::{Map, Value as Json, json};
use tonic::metadata::MetadataMap;
use tonic::server::NamedService;
use tonic::{Code, Status};

use crate::flagd::evaluation::v1::any_flag;
use crate::flagd::evaluation::v1::service_server::{Service as _, ServiceServer as ServerV1};
use crate::flagd::evaluation::v2::service_server::{Service as _, ServiceServer as ServerV2};
use crate::flagd::evaluation::{v1, v2};
use crate::fronts::evaluation_v1::EvaluationV1;
use crate::fronts::evaluation_v2::EvaluationV2;
use crate::fronts::json::{Json as Written, Object, object};
use crate::fronts::ofrep;
use crate::host::Host;
use crate::reply;

const V1: &str = <ServerV1<EvaluationV1> as NamedService>::NAME;
const V2: &str = <ServerV2<EvaluationV2> as NamedService>::NAME;

/// Whether a request is one of these.
pub fn is_asked<B>(request: &Request<B>) -> bool {
    reply::is_json(request.headers()) && is_method(request)
}

fn is_method<B>(request: &Request<B>) -> bool {
    request.method() == Method::POST && method(request.uri().path()).is_some()
}

/// Whether a request would be one of these, if its body were said to be JSON; what speaks gRPC or gRPC-web is none.
pub fn is_of_other_type<B>(request: &Request<B>) -> bool {
    let headers = request.headers();
    is_method(request) && !reply::is_json(headers) && !reply::is_grpc(headers)
}

/// The answer to such a one.
pub fn other_type() -> Response {
    let body = json!({ "code": "invalid_argument", "message": reply::SEND_JSON });
    let mut response = reply::json(StatusCode::UNSUPPORTED_MEDIA_TYPE, &body);
    let accepted = HeaderValue::from_static("application/json, application/grpc, application/grpc-web");
    response.headers_mut().insert("accept-post", accepted);
    response
}

/// Service and method.
fn method(path: &str) -> Option<(&str, &str)> {
    path.strip_prefix('/')?.split_once('/').filter(|(service, _)| [V1, V2].contains(service))
}

/// Answers one.
pub async fn answer(host: Arc<Host>, request: Request<Body>) -> Response {
    match resolved(host, request).await {
        Ok(answer) => reply::json(StatusCode::OK, &answer),
        Err(status) => {
            let (http, code) = said(status.code());
            reply::json(http, &json!({ "code": code, "message": status.message() }))
        }
    }
}

macro_rules! ask {
    ($service:ident, $method:ident, $asked:expr, $request:path, $write:expr) => {{
        let asked = $asked.with(|flag_key, context| {
            let mut message = <$request>::default();
            (message.flag_key, message.context) = (flag_key, context);
            message
        });
        let told = $service.$method(asked).await?.into_inner();
        (told.value.map_or_written($write), told.variant.into(), told.reason, told.metadata)
    }};
}

/// v1 always has a value, v2 may have none.
trait Told<T> {
    fn map_or_written(self, write: impl FnOnce(T) -> Json) -> Option<Json>;
}

macro_rules! always_told {
    ($($kind:ty),*) => {
        $(impl Told<$kind> for $kind {
            fn map_or_written(self, write: impl FnOnce($kind) -> Json) -> Option<Json> {
                Some(write(self))
            }
        })*
    };
}
always_told!(bool, String, f64, i64);

impl<T> Told<T> for Option<T> {
    fn map_or_written(self, write: impl FnOnce(T) -> Json) -> Option<Json> {
        self.map(write)
    }
}

async fn resolved(host: Arc<Host>, request: Request<Body>) -> Result<Json, Status> {
    let asked = Asked::read(request).await?;
    let path = asked.path.clone();
    let unknown = || Status::unimplemented("no such method, or one that streams: ask by gRPC or gRPC-web");
    let (value, variant, reason, metadata): (Option<Json>, Option<String>, String, Option<Struct>) =
        match method(&path) {
            Some((V1, method)) => {
                let service = EvaluationV1(host);
                match method {
                    "ResolveAll" => return all(&service, asked).await,
                    "ResolveBoolean" => {
                        ask!(service, resolve_boolean, asked, v1::ResolveBooleanRequest, Json::from)
                    }
                    "ResolveString" => {
                        ask!(service, resolve_string, asked, v1::ResolveStringRequest, Json::from)
                    }
                    "ResolveFloat" => ask!(service, resolve_float, asked, v1::ResolveFloatRequest, float),
                    "ResolveInt" => ask!(service, resolve_int, asked, v1::ResolveIntRequest, integer),
                    "ResolveObject" => {
                        ask!(service, resolve_object, asked, v1::ResolveObjectRequest, written_object)
                    }
                    _ => return Err(unknown()),
                }
            }
            Some((V2, method)) => {
                let service = EvaluationV2(host);
                match method {
                    "ResolveBoolean" => {
                        ask!(service, resolve_boolean, asked, v2::ResolveBooleanRequest, Json::from)
                    }
                    "ResolveString" => {
                        ask!(service, resolve_string, asked, v2::ResolveStringRequest, Json::from)
                    }
                    "ResolveFloat" => ask!(service, resolve_float, asked, v2::ResolveFloatRequest, float),
                    "ResolveInt" => ask!(service, resolve_int, asked, v2::ResolveIntRequest, integer),
                    "ResolveObject" => {
                        ask!(service, resolve_object, asked, v2::ResolveObjectRequest, written_object)
                    }
                    _ => return Err(unknown()),
                }
            }
            _ => return Err(unknown()),
        };
    let mut fields = Map::new();
    fields.extend(value.map(|value| ("value".to_owned(), value)));
    fields.insert("reason".to_owned(), reason.into());
    fields.extend(variant.map(|variant| ("variant".to_owned(), variant.into())));
    fields.insert("metadata".to_owned(), written(metadata.as_ref()));
    Ok(Json::Object(fields))
}

async fn all(service: &EvaluationV1, asked: Asked) -> Result<Json, Status> {
    let request = asked.with(|_, context| v1::ResolveAllRequest { context });
    let told = service.resolve_all(request).await?.into_inner();
    let entry = |flag: v1::AnyFlag| {
        let mut fields = Map::new();
        fields.insert("reason".to_owned(), flag.reason.into());
        fields.insert("variant".to_owned(), flag.variant.into());
        fields.extend(flag.value.map(|value| match value {
            any_flag::Value::BoolValue(value) => ("boolValue".to_owned(), value.into()),
            any_flag::Value::StringValue(value) => ("stringValue".to_owned(), value.into()),
            any_flag::Value::DoubleValue(value) => ("doubleValue".to_owned(), float(value)),
            any_flag::Value::ObjectValue(value) => ("objectValue".to_owned(), written_object(value)),
        }));
        fields.insert("metadata".to_owned(), written(flag.metadata.as_ref()));
        Json::Object(fields)
    };
    let flags: Map<String, Json> = told.flags.into_iter().map(|(key, flag)| (key, entry(flag))).collect();
    Ok(json!({ "flags": flags, "metadata": written(told.metadata.as_ref()) }))
}

fn float(value: f64) -> Json {
    serde_json::to_value(Written(&Value::from(value))).unwrap_or_default()
}

fn integer(value: i64) -> Json {
    value.to_string().into()
}

fn written_object(value: Struct) -> Json {
    written(Some(&value))
}

fn written(value: Option<&Struct>) -> Json {
    serde_json::to_value(Object(value)).unwrap_or_default()
}

/// A question that was read.
struct Asked {
    path: String,
    metadata: MetadataMap,
    extensions: axum::http::Extensions,
    flag_key: String,
    context: Option<Struct>,
}

impl Asked {
    async fn read(request: Request<Body>) -> Result<Self, Status> {
        let (parts, body) = request.into_parts();
        let encoding = parts.headers.get(header::CONTENT_ENCODING).map(HeaderValue::as_bytes);
        if encoding.is_some_and(|encoding| encoding != b"identity") {
            return Err(Status::unimplemented("content-encoding: send the body as it is"));
        }
        let body = ofrep::read(body).await.map_err(|refusal| refusal.status())?;
        let invalid =
            |what: &str| Status::invalid_argument(format!("{what}, as {{\"flagKey\": \"banner\"}}"));
        let Ok(Json::Object(mut fields)) = serde_json::from_slice(&body) else {
            return Err(invalid("the body is not a JSON object"));
        };
        // Both spellings are read of every proto in JSON.
        let flag_key = match fields.remove("flagKey").or_else(|| fields.remove("flag_key")) {
            None | Some(Json::Null) => String::new(),
            Some(Json::String(key)) => key,
            Some(_) => return Err(invalid("flagKey must be a text")),
        };
        let context = match fields.remove("context") {
            None | Some(Json::Null) => None,
            Some(Json::Object(fields)) => Some(object(fields)),
            Some(_) => return Err(invalid("context must be an object")),
        };
        let metadata = MetadataMap::from_headers(parts.headers);
        let path = parts.uri.path().to_owned();
        Ok(Self { path, metadata, extensions: parts.extensions, flag_key, context })
    }

    fn with<M>(self, message: impl FnOnce(String, Option<Struct>) -> M) -> tonic::Request<M> {
        let message = message(self.flag_key, self.context);
        tonic::Request::from_parts(self.metadata, self.extensions, message)
    }
}

/// A code as Connect says it, and its status of HTTP.
const fn said(code: Code) -> (StatusCode, &'static str) {
    match code {
        Code::Ok | Code::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
        Code::Cancelled => (StatusCode::REQUEST_TIMEOUT, "canceled"),
        Code::Unknown => (StatusCode::INTERNAL_SERVER_ERROR, "unknown"),
        Code::InvalidArgument => (StatusCode::BAD_REQUEST, "invalid_argument"),
        Code::DeadlineExceeded => (StatusCode::GATEWAY_TIMEOUT, "deadline_exceeded"),
        Code::NotFound => (StatusCode::NOT_FOUND, "not_found"),
        Code::AlreadyExists => (StatusCode::CONFLICT, "already_exists"),
        Code::PermissionDenied => (StatusCode::FORBIDDEN, "permission_denied"),
        Code::ResourceExhausted => (StatusCode::TOO_MANY_REQUESTS, "resource_exhausted"),
        Code::FailedPrecondition => (StatusCode::BAD_REQUEST, "failed_precondition"),
        Code::Aborted => (StatusCode::CONFLICT, "aborted"),
        Code::OutOfRange => (StatusCode::BAD_REQUEST, "out_of_range"),
        Code::Unimplemented => (StatusCode::NOT_IMPLEMENTED, "unimplemented"),
        Code::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
        Code::DataLoss => (StatusCode::INTERNAL_SERVER_ERROR, "data_loss"),
        Code::Unauthenticated => (StatusCode::UNAUTHORIZED, "unauthenticated"),
    }
}
