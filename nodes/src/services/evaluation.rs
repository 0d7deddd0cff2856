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

use featureops_evaluation::limits::MAX_CONTEXT_BYTES;
use featureops_evaluation::{Context, Evaluation, Receipt, evaluate, evaluate_all, explain, minute};
use featureops_proto::v1::{
    EvaluateAllRequest, EvaluateAllResponse, EvaluateRequest, EvaluateResponse, EvaluationError,
    ExplainRequest, ExplainResponse, Reason, ValueType,
};
use prost::Message as _;
use prost_types::Struct;
use tokio_stream::StreamExt as _;
use tonic::{Request, Response, Status, Streaming};

use crate::door::{UNIT_BYTES_MAX, unix_minute};
use crate::exposures::Exposed;
use crate::host::Host;
use crate::publisher::Published;
use crate::refusal::{self, clip};
use crate::rpc::evaluation_service_server::EvaluationService;
use crate::services::{Streamed, until_drain};

/// Longest key of a flag, in bytes.
const KEY_BYTES_MAX: usize = 128;

/// The service.
#[derive(Clone)]
pub struct Evaluations(pub Arc<Host>);

/// One request's view: what is published, and now.
struct View<'a> {
    host: &'a Host,
    published: &'a Published,
    environment: &'a str,
    now_ms: i64,
    /// The time that exposures and receipts are stamped with: never ahead of the log's, by which outcomes without a time
    /// are stamped. Else, for half a second around each minute, an outcome would seem to come before its exposure.
    stamp_ms: i64,
}

impl<'a> View<'a> {
    fn new(host: &'a Host, published: &'a Published, environment: &'a str) -> Self {
        let environment = environment.strip_prefix("environments/").unwrap_or(environment);
        let (now_ms, log_time_ms) = (host.clock.unix_ms(), published.snapshot.log_time_ms());
        let stamp_ms = if log_time_ms > 0 { now_ms.min(log_time_ms) } else { now_ms };
        Self { host, published, environment, now_ms, stamp_ms }
    }

    /// The caller's context, with its receipt if that verifies. One that does not is as if it had not been sent.
    fn context(&self, attributes: &'a Struct) -> Context<'a> {
        let mut context = Context::new(attributes);
        if let Some(text) = context.receipt_text() {
            let _ = context.open_receipt(text.as_bytes(), &self.published.receipt_keys);
        }
        context
    }

    fn response(&self, flag: &str, context: &Context<'_>, evaluation: &Evaluation<'_>) -> EvaluateResponse {
        self.host.observation.evaluated(evaluation.reason);
        EvaluateResponse {
            receipt: self.receipt(context, evaluation).unwrap_or_default(),
            error_message: match evaluation.error {
                None => String::new(),
                Some(error) => message(error, flag, self.environment),
            },
            state_age_ms: self.published.snapshot.age_ms(self.now_ms),
            flag: echo(flag),
            ..EvaluateResponse::from(evaluation)
        }
    }

    fn receipt(&self, context: &Context<'_>, evaluation: &Evaluation<'_>) -> Option<String> {
        let assignment = evaluation.assignment?;
        let (unit, key) = (context.unit()?, self.published.receipt_keys.first()?);
        // One that was honoured goes back as it came: its minute is that of the first exposure.
        let receipt = match context.receipt() {
            Some(held) if assignment.from_receipt => *held.fields(),
            _ => Receipt {
                experiment: assignment.experiment,
                arm: u8::try_from(assignment.arm).ok()?,
                generation: assignment.generation,
                minute: minute::of_unix_ms(self.stamp_ms),
                propensity_basis_points: assignment.propensity_basis_points,
                position: self.published.snapshot.position(),
            },
        };
        receipt.seal(key, unit.as_bytes()).map(|sealed| sealed.to_string())
    }

    /// Tells the log that the unit was shown the arm.
    fn expose(&self, context: &Context<'_>, evaluation: &Evaluation<'_>) {
        let (Some(assignment), Some(unit), Some(key)) =
            (evaluation.assignment, context.unit(), &self.host.unit_key)
        else {
            return;
        };
        // A unit that no outcome could name is no denominator either.
        if unit.len() > UNIT_BYTES_MAX {
            return;
        }
        let exposed = Exposed {
            experiment: assignment.experiment,
            generation: assignment.generation,
            arm: assignment.arm,
            unit_hash: key.hash(unit.as_bytes()),
        };
        self.host.exposures.imply(self.environment, exposed, unix_minute(self.stamp_ms));
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
    fn evaluate(&self, request: &EvaluateRequest) -> Result<EvaluateResponse, Status> {
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
        let evaluation =
            evaluate(snapshot, view.environment, &request.flag, &context, view.now_ms).expecting(expected);
        if !request.no_exposure {
            view.expose(&context, &evaluation);
        }
        Ok(view.response(&request.flag, &context, &evaluation))
    }
}

#[tonic::async_trait]
impl EvaluationService for Evaluations {
    async fn evaluate(
        &self,
        request: Request<EvaluateRequest>,
    ) -> Result<Response<EvaluateResponse>, Status> {
        Self::evaluate(self, request.get_ref()).map(Response::new)
    }

    async fn evaluate_all(
        &self,
        request: Request<EvaluateAllRequest>,
    ) -> Result<Response<EvaluateAllResponse>, Status> {
        let request = request.into_inner();
        bounded(request.context.as_ref())?;
        let published = self.0.publisher.load();
        let view = View::new(&self.0, &published, &request.environment);
        let nothing = Struct::default();
        let context = view.context(request.context.as_ref().unwrap_or(&nothing));
        let evaluations = evaluate_all(&published.snapshot, view.environment, &context, view.now_ms);
        let evaluations = evaluations
            .map(|(flag, evaluation)| {
                let bulk_exposes = evaluation
                    .assignment
                    .and_then(|assignment| published.registry.experiment_by_number(assignment.experiment))
                    .is_some_and(|experiment| experiment.bulk_exposes);
                if bulk_exposes && !request.no_exposure {
                    view.expose(&context, &evaluation);
                }
                view.response(flag.key(), &context, &evaluation)
            })
            .collect();
        Ok(Response::new(EvaluateAllResponse { evaluations }))
    }

    type EvaluateStreamStream = Streamed<EvaluateResponse>;

    async fn evaluate_stream(
        &self,
        request: Request<Streaming<EvaluateRequest>>,
    ) -> Result<Response<Self::EvaluateStreamStream>, Status> {
        let service = self.clone();
        let answers = request.into_inner().map(move |request| {
            let request = request?;
            // A fault of one request is its own answer; the stream goes on.
            Ok(Self::evaluate(&service, &request).unwrap_or_else(|status| EvaluateResponse {
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
        let request = request.into_inner();
        bounded(request.context.as_ref())?;
        let published = self.0.publisher.load();
        let view = View::new(&self.0, &published, &request.environment);
        let nothing = Struct::default();
        let context = view.context(request.context.as_ref().unwrap_or(&nothing));
        let explanation =
            explain(&published.snapshot, view.environment, &request.flag, &context, view.now_ms);
        let evaluation = explanation.evaluation;
        Ok(Response::new(ExplainResponse {
            evaluation: Some(view.response(&request.flag, &context, &evaluation)),
            bucket: evaluation.bucket.map(u32::from),
            steps: explanation.steps,
        }))
    }
}
