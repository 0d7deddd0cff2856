//! Facts: exposures and outcomes, by batch or by stream.

use std::collections::BTreeMap;
use std::sync::Arc;

use featureops_proto::v1::{
    FactBatch, RefusedBatch, ReportExposuresRequest, ReportFactsResponse, ReportOutcomesRequest,
    StreamFactsResponse, Verdict,
};
use prost::Message as _;
use tokio::task::JoinSet;
use tokio_stream::StreamExt as _;
use tonic::{Request, Response, Status, Streaming};
use tonic_types::StatusExt as _;

use crate::access::grant::{check, granted};
use crate::budget::Account;
use crate::door::{Door, answer};
use crate::host::Host;
use crate::refusal::{self, clip};
use crate::rpc::fact_service_server::FactService;

/// Batches of one stream that wait for the log at once.
const STREAM_IN_FLIGHT_MAX: usize = 64;
/// Refused batches that a stream's answer names.
const REFUSED_MAX: usize = 100;

/// The service.
#[derive(Clone)]
pub struct Facts(pub Arc<Host>);

impl Facts {
    /// Takes a batch to its verdicts.
    ///
    /// # Errors
    /// The batch was refused as a whole, or there was no answer.
    pub async fn take(&self, batch: FactBatch) -> Result<ReportFactsResponse, Status> {
        let host = &self.0;
        host.accepts_writes()?;
        let unit_key = host.unit_key()?;
        let admitted = {
            let published = host.publisher.load();
            Door {
                published: &published,
                unit_key,
                unusable: &host.observation.covariates_unusable,
                now_ms: host.clock.unix_ms(),
            }
            .admit(&batch)?
        };
        let events = batch.exposures.len() + batch.outcomes.len();
        drop(batch);
        // A batch of nothing is answered here, so that whoever sends such under ever new names takes no place from others.
        let nothing = admitted.exposures.is_empty() && admitted.outcomes.is_empty();
        let answered = nothing.then(|| host.replica.read(|state| state.unrecorded(&admitted))).flatten();
        let reply = match answered {
            Some(reply) => reply,
            None => host.replica.record(admitted).await?,
        };
        if let Some(refusal) = &reply.refusal {
            return Err(refusal::refused(refusal));
        }
        let answered = answer(events, reply);
        if answered.duplicate {
            host.observation.judged(Verdict::Duplicate.into(), events as u64);
        } else {
            host.observation.judged(Verdict::Counted.into(), u64::from(answered.counted));
            for verdict in &answered.verdicts {
                host.observation.judged(verdict.verdict, 1);
            }
        }
        Ok(answered)
    }
}

#[tonic::async_trait]
impl FactService for Facts {
    async fn report_exposures(
        &self,
        request: Request<ReportExposuresRequest>,
    ) -> Result<Response<ReportFactsResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        check(granted(&extensions), &request.environment, "")?;
        let ReportExposuresRequest { environment, producer, sequence, exposures } = request;
        let batch = FactBatch { environment, producer, sequence, exposures, outcomes: Vec::new() };
        self.take(batch).await.map(Response::new)
    }

    async fn report_outcomes(
        &self,
        request: Request<ReportOutcomesRequest>,
    ) -> Result<Response<ReportFactsResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        check(granted(&extensions), &request.environment, "")?;
        let ReportOutcomesRequest { environment, producer, sequence, outcomes } = request;
        if outcomes.is_empty() {
            // Named here: of an empty batch the door cannot say which kind was meant.
            return Err(refusal::invalid("outcomes", "", "is empty: send 1 to 4096 events"));
        }
        let batch = FactBatch { environment, producer, sequence, exposures: Vec::new(), outcomes };
        self.take(batch).await.map(Response::new)
    }

    async fn stream_facts(
        &self,
        request: Request<Streaming<FactBatch>>,
    ) -> Result<Response<StreamFactsResponse>, Status> {
        let account = request.extensions().get::<Arc<Account>>().cloned();
        let account =
            account.ok_or_else(|| Status::internal("a stream of facts came without its account"))?;
        let grant = granted(request.extensions()).cloned();
        let mut batches = request.into_inner();
        let mut total = Total::default();
        let mut in_flight = JoinSet::new();
        let mut drained = std::pin::pin!(self.0.drained());
        loop {
            let next = tokio::select! {
                biased;
                // What is in hand gets its answer from the log; what the client had yet to send it sends elsewhere.
                () = drained.as_mut() => {
                    total.unknown = Some(refusal::draining());
                    break;
                }
                next = batches.next() => next,
            };
            let Some(batch) = next else { break };
            // A broken stream has no answer: its batches are unknown, and dropping the set cancels only the waiting.
            let batch = batch?;
            while in_flight.len() >= STREAM_IN_FLIGHT_MAX {
                total.join(in_flight.join_next().await);
            }
            total.batches += 1;
            let (facts, producer, sequence) = (self.clone(), batch.producer.clone(), batch.sequence);
            if let Err(beyond) = check(grant.as_ref(), &batch.environment, "") {
                total.refuse(&producer, sequence, &beyond);
                continue;
            }
            let held = loop {
                match account.hold(batch.encoded_len()) {
                    Err(_) if !in_flight.is_empty() => total.join(in_flight.join_next().await),
                    held => break held,
                }
            };
            let held = match held {
                Ok(held) => held,
                Err(full) => {
                    total.refuse(&producer, sequence, &full.into());
                    continue;
                }
            };
            in_flight.spawn(async move {
                let answer = facts.take(batch).await;
                drop(held);
                (producer, sequence, answer)
            });
        }
        while let Some(joined) = in_flight.join_next().await {
            total.join(Some(joined));
        }
        // One batch without an answer makes the whole stream's answer a lie; the client repeats what it has not seen.
        match total.unknown {
            Some(status) => Err(status),
            None => Ok(Response::new(total.response())),
        }
    }
}

type Joined = Result<(String, u64, Result<ReportFactsResponse, Status>), tokio::task::JoinError>;

/// What a stream came to.
#[derive(Default)]
struct Total {
    position: String,
    batches: u64,
    counted: u64,
    verdicts: BTreeMap<String, u64>,
    refused: Vec<RefusedBatch>,
    refused_batches: u64,
    unknown: Option<Status>,
}

impl Total {
    fn join(&mut self, joined: Option<Joined>) {
        match joined {
            None => {}
            Some(Err(error)) => {
                self.unknown = Some(Status::unknown(format!("a batch was not answered: {error}")))
            }
            Some(Ok((_, _, Ok(answered)))) => self.add(answered),
            Some(Ok((producer, sequence, Err(status)))) => match status.code() {
                tonic::Code::Unknown | tonic::Code::Unavailable | tonic::Code::DeadlineExceeded => {
                    self.unknown = Some(status);
                }
                _ => self.refuse(&producer, sequence, &status),
            },
        }
    }

    fn add(&mut self, answered: ReportFactsResponse) {
        // Hexadecimal without leading zeros: the longer is the later, then the greater.
        let later = (answered.position.len(), &answered.position) > (self.position.len(), &self.position);
        if later {
            self.position.clone_from(&answered.position);
        }
        if !answered.duplicate {
            self.counted += u64::from(answered.counted);
            self.note(Verdict::Counted, u64::from(answered.counted));
        } else {
            self.note(Verdict::Duplicate, u64::from(answered.counted));
        }
        for verdict in answered.verdicts {
            self.note(Verdict::try_from(verdict.verdict).unwrap_or_default(), 1);
        }
    }

    fn note(&mut self, verdict: Verdict, events: u64) {
        if events > 0 {
            *self.verdicts.entry(verdict.as_str_name().to_owned()).or_default() += events;
        }
    }

    fn refuse(&mut self, producer: &str, sequence: u64, status: &Status) {
        self.refused_batches += 1;
        if self.refused.len() < REFUSED_MAX {
            let code = status.get_details_error_info().map(|info| info.reason).unwrap_or_default();
            self.refused.push(RefusedBatch {
                producer: clip(producer),
                sequence,
                code,
                message: status.message().to_owned(),
            });
        }
    }

    fn response(self) -> StreamFactsResponse {
        StreamFactsResponse {
            position: self.position,
            batches: self.batches,
            counted: self.counted,
            verdicts: self.verdicts,
            refused: self.refused,
            refused_batches: self.refused_batches,
        }
    }
}
