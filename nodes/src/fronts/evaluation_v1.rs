//! `flagd.evaluation.v1`: one flag a question, or all. It knows no answer without a value: where v2 leaves it unset, this
//! one says NOT_FOUND, and for a disabled flag the type's zero with an empty variant.

use std::sync::Arc;

use arc_swap::Guard;
use featureops_evaluation::{CompiledFlag, Evaluation};
use featureops_proto::v1::ValueType;
use prost_types::value::Kind;
use prost_types::{Struct, Value};
use tonic::{Request, Response, Status};

use crate::flagd::evaluation::v1::{
    AnyFlag, EventStreamRequest, EventStreamResponse, ResolveAllRequest, ResolveAllResponse,
    ResolveBooleanRequest, ResolveBooleanResponse, ResolveFloatRequest, ResolveFloatResponse,
    ResolveIntRequest, ResolveIntResponse, ResolveObjectRequest, ResolveObjectResponse, ResolveStringRequest,
    ResolveStringResponse, any_flag, service_server::Service,
};
use crate::fronts::events::{self, Event};
use crate::fronts::outcome::{self, Failure, Outcome, bad_selector};
use crate::fronts::values::{as_boolean, as_float, as_integer, as_object, as_text};
use crate::fronts::{Resolved, ask, resolve_all};
use crate::host::Host;
use crate::services::Streamed;

/// The service.
#[derive(Clone)]
pub struct EvaluationV1(pub Arc<Host>);

impl EvaluationV1 {
    fn ask<Q, T>(
        &self,
        request: Request<Q>,
        split: impl FnOnce(Q) -> (String, Option<Struct>),
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Result<Resolved<T>, Status> {
        let (metadata, extensions, message) = request.into_parts();
        let (key, context) = split(message);
        let resolved = ask(&self.0, metadata.as_ref(), &extensions, &key, context, read)?;
        if resolved.served.is_none() && !resolved.disabled {
            return Err(self.0.fronts.status(Failure::NotFound));
        }
        Ok(resolved)
    }
}

macro_rules! answer {
    ($self:ident, $request:ident, $read:expr, $response:ident) => {{
        let resolved = $self.ask($request, |asked| (asked.flag_key, asked.context), $read)?;
        let (value, variant) = resolved.served.unwrap_or_default();
        let (reason, metadata) = (resolved.reason.to_owned(), resolved.metadata);
        Ok(Response::new($response { value, reason, variant, metadata }))
    }};
}

#[tonic::async_trait]
impl Service for EvaluationV1 {
    async fn resolve_all(
        &self,
        request: Request<ResolveAllRequest>,
    ) -> Result<Response<ResolveAllResponse>, Status> {
        let (headers, extensions, message) = request.into_parts();
        let fronts = &self.0.fronts;
        let scope = fronts.scope(headers.as_ref(), &extensions, "").map_err(|fault| bad_selector(&fault))?;
        let attributes = fronts.overlay.over(message.context, headers.as_ref());
        let published = Guard::into_inner(self.0.publisher.load());
        let selection = scope.select(&published);
        let asked = (&attributes, &extensions);
        let flags = resolve_all(&self.0, &published, &selection, asked, any_flag).await?;
        Ok(Response::new(ResolveAllResponse { flags, metadata: selection.metadata(&scope) }))
    }

    async fn resolve_boolean(
        &self,
        request: Request<ResolveBooleanRequest>,
    ) -> Result<Response<ResolveBooleanResponse>, Status> {
        answer!(self, request, as_boolean, ResolveBooleanResponse)
    }

    async fn resolve_string(
        &self,
        request: Request<ResolveStringRequest>,
    ) -> Result<Response<ResolveStringResponse>, Status> {
        answer!(self, request, as_text, ResolveStringResponse)
    }

    async fn resolve_float(
        &self,
        request: Request<ResolveFloatRequest>,
    ) -> Result<Response<ResolveFloatResponse>, Status> {
        answer!(self, request, as_float, ResolveFloatResponse)
    }

    async fn resolve_int(
        &self,
        request: Request<ResolveIntRequest>,
    ) -> Result<Response<ResolveIntResponse>, Status> {
        answer!(self, request, as_integer, ResolveIntResponse)
    }

    async fn resolve_object(
        &self,
        request: Request<ResolveObjectRequest>,
    ) -> Result<Response<ResolveObjectResponse>, Status> {
        let resolved = self.ask(request, |asked| (asked.flag_key, asked.context), as_object)?;
        let (value, variant) = resolved.served.unwrap_or_default();
        let (reason, metadata) = (resolved.reason.to_owned(), resolved.metadata);
        Ok(Response::new(ResolveObjectResponse { value: Some(value), reason, variant, metadata }))
    }

    type EventStreamStream = Streamed<EventStreamResponse>;

    async fn event_stream(
        &self,
        request: Request<EventStreamRequest>,
    ) -> Result<Response<Self::EventStreamStream>, Status> {
        let (metadata, extensions, _) = request.into_parts();
        events::stream(&self.0, metadata.as_ref(), &extensions).map(Response::new)
    }
}

/// A flag among all. What has no value is left out: there is no way to say so here. An error has its reason and no value.
fn any_flag(flag: &CompiledFlag, evaluation: &Evaluation<'_>, metadata: Option<Struct>) -> Option<AnyFlag> {
    let (variant, value) = match Outcome::of(evaluation) {
        Outcome::Served(variant, value) => (variant, Some(any_value(value)?)),
        Outcome::Disabled => ("", zero(flag.value_type())),
        Outcome::Failed(failure) => {
            tracing::debug!(flag = flag.key(), ?failure, "a flag of all has no answer");
            ("", None)
        }
        Outcome::CodeDefault => return None,
    };
    let reason = outcome::reason(evaluation.reason).to_owned();
    Some(AnyFlag { reason, variant: variant.to_owned(), value, metadata })
}

fn any_value(value: &Value) -> Option<any_flag::Value> {
    match value.kind.as_ref()? {
        Kind::BoolValue(truth) => Some(any_flag::Value::BoolValue(*truth)),
        Kind::StringValue(text) => Some(any_flag::Value::StringValue(text.clone())),
        Kind::NumberValue(number) => Some(any_flag::Value::DoubleValue(*number)),
        Kind::StructValue(object) => Some(any_flag::Value::ObjectValue(object.clone())),
        Kind::NullValue(_) | Kind::ListValue(_) => None,
    }
}

fn zero(value_type: ValueType) -> Option<any_flag::Value> {
    match value_type {
        ValueType::Boolean => Some(any_flag::Value::BoolValue(false)),
        ValueType::String => Some(any_flag::Value::StringValue(String::new())),
        ValueType::Number => Some(any_flag::Value::DoubleValue(0.0)),
        ValueType::Object => Some(any_flag::Value::ObjectValue(Struct::default())),
        ValueType::Unspecified => None,
    }
}

impl From<Event> for EventStreamResponse {
    fn from(event: Event) -> Self {
        Self { r#type: event.name.to_owned(), data: event.data }
    }
}
