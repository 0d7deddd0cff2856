//! The demo's visitors: each asks which button to show over one gRPC stream, and what came of it is reported in batches
//! with the receipt the answer carried.

use std::time::Duration;

use featureops_proto::v1;
use prost_types::Struct;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

use super::shop::{BUTTONS, Shop};
use crate::cli::failure::Failure;
use crate::rpc::evaluation_service_client::EvaluationServiceClient;
use crate::rpc::fact_service_client::FactServiceClient;

const ASKED_AT_ONCE: usize = 256;

/// The stream of visitors.
pub struct Traffic {
    channel: Channel,
    shop: Shop,
    rate: u64,
    began: Instant,
    questions: mpsc::Sender<v1::EvaluateRequest>,
    answers: Streaming<v1::EvaluateResponse>,
    visitors: u64,
    exposed: u64,
    bought: u64,
    sequence: u64,
}

impl Traffic {
    /// Opens the stream. `rate` is visitors a second at most; 0 sets no limit.
    pub async fn open(channel: Channel, shop: Shop, rate: u64) -> Result<Self, Failure> {
        let (questions, asked) = mpsc::channel(ASKED_AT_ONCE);
        let answers = EvaluationServiceClient::new(channel.clone())
            .evaluate_stream(ReceiverStream::new(asked))
            .await
            .map_err(|status| Failure::from_status(&status))?
            .into_inner();
        let began = Instant::now();
        Ok(Self {
            channel,
            shop,
            rate,
            began,
            questions,
            answers,
            visitors: 0,
            exposed: 0,
            bought: 0,
            sequence: 0,
        })
    }

    /// Visitors so far.
    pub const fn visitors(&self) -> u64 {
        self.visitors
    }

    /// Visitors that were shown an arm of the experiment.
    pub const fn exposed(&self) -> u64 {
        self.exposed
    }

    /// Those of them that bought.
    pub const fn bought(&self) -> u64 {
        self.bought
    }

    /// The next `count` visitors come, and what they do is reported.
    pub async fn visit(&mut self, count: u64, planted: bool) -> Result<(), Failure> {
        let first = self.visitors;
        let mut outcomes = Vec::new();
        let mut asked = 0;
        let mut answered = 0;
        while answered < count {
            while asked < count && asked - answered < ASKED_AT_ONCE as u64 / 2 {
                let question = question(&self.shop.visitor(first + asked));
                self.questions
                    .send(question)
                    .await
                    .map_err(|_| Failure::internal("the evaluation stream closed"))?;
                asked += 1;
            }
            let answer = self.answers.message().await.map_err(|status| Failure::from_status(&status))?;
            let answer = answer.ok_or_else(|| Failure::internal("the evaluation stream ended"))?;
            self.act(first + answered, &answer, planted, &mut outcomes);
            answered += 1;
        }
        self.visitors += count;
        self.report(outcomes).await?;
        self.keep_pace().await;
        Ok(())
    }

    fn act(
        &mut self,
        number: u64,
        answer: &v1::EvaluateResponse,
        planted: bool,
        outcomes: &mut Vec<v1::Outcome>,
    ) {
        let variant = answer.variant.as_deref().unwrap_or("");
        let Some(button) = BUTTONS.iter().position(|b| b.variant == variant) else { return };
        if answer.receipt.is_empty() {
            // Tripped: the safe variant for everybody, and nobody is part of the experiment.
            return;
        }
        self.exposed += 1;
        let visit = self.shop.visit(number, button, planted);
        self.bought += u64::from(visit.bought);
        let mut report = |metric: &str| {
            outcomes.push(v1::Outcome {
                metric: metric.to_owned(),
                unit: self.shop.visitor(number),
                receipt: answer.receipt.clone(),
                ..v1::Outcome::default()
            });
        };
        if visit.bought {
            report("purchase");
        }
        if visit.failed {
            report("error");
        }
    }

    async fn report(&mut self, outcomes: Vec<v1::Outcome>) -> Result<(), Failure> {
        if outcomes.is_empty() {
            return Ok(());
        }
        self.sequence += 1;
        let request = v1::ReportOutcomesRequest {
            environment: "environments/demo".to_owned(),
            producer: "demo".to_owned(),
            sequence: self.sequence,
            outcomes,
        };
        FactServiceClient::new(self.channel.clone())
            .report_outcomes(request)
            .await
            .map_err(|status| Failure::from_status(&status))?;
        Ok(())
    }

    async fn keep_pace(&self) {
        if let Some(due_ms) = (self.visitors * 1_000).checked_div(self.rate) {
            tokio::time::sleep_until(self.began + Duration::from_millis(due_ms)).await;
        }
    }

    /// The variant a new visitor gets now. Asked without counting as an exposure.
    pub async fn serves(&self) -> Result<String, Failure> {
        let request = v1::EvaluateRequest { no_exposure: true, ..question("somebody-new") };
        let answer = EvaluationServiceClient::new(self.channel.clone())
            .evaluate(request)
            .await
            .map_err(|status| Failure::from_status(&status))?;
        Ok(answer.into_inner().variant.unwrap_or_default())
    }
}

fn question(visitor: &str) -> v1::EvaluateRequest {
    v1::EvaluateRequest {
        environment: "environments/demo".to_owned(),
        flag: "buy-button".to_owned(),
        context: Some(Struct { fields: [("targetingKey".to_owned(), visitor.into())].into() }),
        ..v1::EvaluateRequest::default()
    }
}
