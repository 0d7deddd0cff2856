//! `flagd.evaluation.v2`: one flag a question. `value` and `variant` are unset together: then the code default is used.

use std::sync::Arc;

use prost_types::{Struct, Value};
use tonic::{Request, Response, Status};

use crate::flagd::evaluation::v2::{
    EventStreamRequest, EventStreamResponse, ResolveBooleanRequest, ResolveBooleanResponse,
    ResolveFloatRequest, ResolveFloatResponse, ResolveIntRequest, ResolveIntResponse, ResolveObjectRequest,
    ResolveObjectResponse, ResolveStringRequest, ResolveStringResponse, service_server::Service,
};
use crate::fronts::events::{self, Event};
use crate::fronts::values::{as_boolean, as_float, as_integer, as_object, as_text};
use crate::fronts::{Resolved, ask};
use crate::host::Host;
use crate::services::Streamed;

/// The service.
#[derive(Clone)]
pub struct EvaluationV2(pub Arc<Host>);

impl EvaluationV2 {
    fn ask<Q, T>(
        &self,
        request: Request<Q>,
        split: impl FnOnce(Q) -> (String, Option<Struct>),
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Result<Resolved<T>, Status> {
        let (metadata, extensions, message) = request.into_parts();
        let (key, context) = split(message);
        ask(&self.0, metadata.as_ref(), &extensions, &key, context, read)
    }
}

macro_rules! answer {
    ($self:ident, $request:ident, $read:expr, $response:ident) => {{
        let resolved = $self.ask($request, |asked| (asked.flag_key, asked.context), $read)?;
        let (value, variant) = resolved.served.unzip();
        let (reason, metadata) = (resolved.reason.to_owned(), resolved.metadata);
        Ok(Response::new($response { value, reason, variant, metadata }))
    }};
}

#[tonic::async_trait]
impl Service for EvaluationV2 {
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
        answer!(self, request, as_object, ResolveObjectResponse)
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

impl From<Event> for EventStreamResponse {
    fn from(event: Event) -> Self {
        Self { r#type: event.name.to_owned(), data: event.data }
    }
}
