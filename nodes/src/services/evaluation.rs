//! Evaluation: one load of the published snapshot, one pure walk, one message.
//!
//! ```text
//!   request ── load() ──> evaluate(snapshot, context, now) ──> + receipt (sealed) ──> response
//!                                      └─ an arm was shown: imply the exposure (never waits)
//! ```
//!
//! Total: what cannot be evaluated is an answer with an error in it, so that the caller's code default serves. No lock,
//! no actor and no raft stands in its way; a node that is cut off or whose fold stopped goes on answering.

use std::sync::Arc;

use arc_swap::Guard;
use featureops_evaluation::limits::MAX_CONTEXT_BYTES;
use featureops_evaluation::{Context, Evaluation, evaluate, evaluate_all, explain};
use featureops_proto::v1::{
    EvaluateAllRequest, EvaluateAllResponse, EvaluateRequest, EvaluateResponse, EvaluationError,
    ExplainRequest, ExplainResponse, Reason, ValueType,
};
use prost::Message as _;
use prost_types::Struct;
use tokio_stream::StreamExt as _;
use tonic::{Request, Response, Status, Streaming};

use crate::access::grant::{Grant, check, granted};
use crate::host::Host;
use crate::refusal::{self, clip};
use crate::rpc::evaluation_service_server::EvaluationService;
use crate::services::{Streamed, until_drain};
use crate::slice::Walk;
use crate::view::View;

/// Longest key of a flag, in bytes.
const KEY_BYTES_MAX: usize = 128;

/// The service.
#[derive(Clone)]
pub struct Evaluations(pub Arc<Host>);

/// The answer as a message.
fn response(
    view: &View<'_>,
    flag: &str,
    context: &Context<'_>,
    evaluation: &Evaluation<'_>,
) -> EvaluateResponse {
    view.host().observation.evaluated(evaluation.reason);
    EvaluateResponse {
        receipt: view.receipt(context, evaluation).unwrap_or_default(),
        error_message: match evaluation.error {
            None => String::new(),
            Some(error) => message(error, flag, view.environment()),
        },
        state_age_ms: view.state_age_ms(),
        flag: echo(flag),
        ..EvaluateResponse::from(evaluation)
    }
}

/// The flag's key as it was asked for: whole as long as it can be one, so that a client finds its question; else shortened.
fn echo(flag: &str) -> String {
    if flag.len() <= KEY_BYTES_MAX { flag.to_owned() } else { clip(flag) }
}

/// What an evaluation reads of a context is bounded by the context's size, so the size is.
fn bounded(context: Option<&Struct>) -> Result<(), Status> {
    let bytes = context.map_or(0, Struct::encoded_len);
    if bytes > MAX_CONTEXT_BYTES {
        return Err(refusal::invalid(
            "context",
            bytes,
            format!(
                "bytes encoded, over the bound of {MAX_CONTEXT_BYTES}: send the attributes that rules look at"
            ),
        ));
    }
    Ok(())
}

fn message(error: EvaluationError, flag: &str, environment: &str) -> String {
    match error {
        EvaluationError::FlagNotFound => {
            format!("flag '{}' is not known in environment '{}'", echo(flag), clip(environment))
        }
        EvaluationError::TypeMismatch => format!("flag '{}' has another type than was expected", echo(flag)),
        EvaluationError::ParseError => {
            format!(
                "flag '{}' cannot be evaluated: its targeting cannot be read, or takes too many steps",
                echo(flag)
            )
        }
        EvaluationError::General | EvaluationError::Unspecified => {
            format!("flag '{}' cannot be evaluated: its definition does not compile", echo(flag))
        }
    }
}

impl Evaluations {
    fn evaluate(
        &self,
        request: &EvaluateRequest,
        grant: Option<&Arc<Grant>>,
    ) -> Result<EvaluateResponse, Status> {
        check(grant, &request.environment, &request.flag)?;
        let expected = ValueType::try_from(request.expected_type).map_err(|_| {
            refusal::invalid(
                "expected_type",
                request.expected_type,
                "is no value type; send BOOLEAN, STRING, NUMBER, OBJECT, or nothing for any",
            )
        })?;
        bounded(request.context.as_ref())?;
        let _span = tracing::debug_span!("evaluate", flag = echo(&request.flag)).entered();
        let published = self.0.publisher.load();
        let view = View::new(&self.0, &published, &request.environment);
        let nothing = Struct::default();
        let context = view.context(request.context.as_ref().unwrap_or(&nothing));
        let snapshot = &published.snapshot;
        let evaluation = evaluate(snapshot, view.environment(), &request.flag, &context, view.now_ms())
            .expecting(expected);
        if !request.no_exposure {
            view.expose(&context, &evaluation);
        }
        Ok(response(&view, &request.flag, &context, &evaluation))
    }
}

#[tonic::async_trait]
impl EvaluationService for Evaluations {
    async fn evaluate(
        &self,
        request: Request<EvaluateRequest>,
    ) -> Result<Response<EvaluateResponse>, Status> {
        Self::evaluate(self, request.get_ref(), granted(request.extensions())).map(Response::new)
    }

    async fn evaluate_all(
        &self,
        request: Request<EvaluateAllRequest>,
    ) -> Result<Response<EvaluateAllResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        let grant = granted(&extensions);
        check(grant, &request.environment, "")?;
        bounded(request.context.as_ref())?;
        // One snapshot for all flags, however long they take.
        let published = Guard::into_inner(self.0.publisher.load());
        let view = View::new(&self.0, &published, &request.environment);
        let nothing = Struct::default();
        let attributes = request.context.as_ref().unwrap_or(&nothing);
        let context = view.context(attributes);
        let mut walk = Walk::new(attributes, &extensions);
        let mut evaluations = Vec::new();
        for (flag, evaluation) in
            evaluate_all(&published.snapshot, view.environment(), &context, view.now_ms())
        {
            if grant.is_some_and(|grant| !grant.covers_flag(flag.key())) {
                continue;
            }
            if view.bulk_exposes(&evaluation) && !request.no_exposure {
                view.expose(&context, &evaluation);
            }
            evaluations.push(response(&view, flag.key(), &context, &evaluation));
            walk.passed(flag, &evaluation).await?;
        }
        Ok(Response::new(EvaluateAllResponse { evaluations }))
    }

    type EvaluateStreamStream = Streamed<EvaluateResponse>;

    async fn evaluate_stream(
        &self,
        request: Request<Streaming<EvaluateRequest>>,
    ) -> Result<Response<Self::EvaluateStreamStream>, Status> {
        let (service, grant) = (self.clone(), granted(request.extensions()).cloned());
        let answers = request.into_inner().map(move |request| {
            let request = request?;
            // A fault of one request is its own answer; the stream goes on.
            Ok(Self::evaluate(&service, &request, grant.as_ref()).unwrap_or_else(|status| EvaluateResponse {
                reason: Reason::Error.into(),
                error: EvaluationError::General.into(),
                error_message: status.message().to_owned(),
                flag: echo(&request.flag),
                ..EvaluateResponse::default()
            }))
        });
        Ok(Response::new(until_drain(&self.0, answers, None)))
    }

    async fn explain(&self, request: Request<ExplainRequest>) -> Result<Response<ExplainResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        check(granted(&extensions), &request.environment, &request.flag)?;
        bounded(request.context.as_ref())?;
        let published = self.0.publisher.load();
        let view = View::new(&self.0, &published, &request.environment);
        let nothing = Struct::default();
        let context = view.context(request.context.as_ref().unwrap_or(&nothing));
        let explanation =
            explain(&published.snapshot, view.environment(), &request.flag, &context, view.now_ms());
        let evaluation = explanation.evaluation;
        Ok(Response::new(ExplainResponse {
            evaluation: Some(response(&view, &request.flag, &context, &evaluation)),
            bucket: evaluation.bucket.map(u32::from),
            steps: explanation.steps,
        }))
    }
}
