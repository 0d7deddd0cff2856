//! Evaluations a second over gRPC, beside a bare echo of the same bytes.
//!
//! ```text
//!   4 connections, 64 in flight:   node (known units) | echo | node (every unit new) | … rounds
//!   4 streams, a window of 64:     node | echo | … rounds
//! ```
//!
//! Client and servers share the machine and the runtime, so the figures are what both together can do here; the ratio is
//! what the node costs. A known unit's exposure is in the log already; a new unit's is implied, and written meanwhile.

use std::time::Duration;

use featureops_proto::v1::experiment::Policy;
use featureops_proto::v1::{EvaluateRequest, EvaluateResponse};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::transport::Channel;

use super::echo::Echo;
use super::flight::{self, Caller, IN_FLIGHT, Run, Slices};
use super::report::{Bar, Figure, median};
use super::world::{
    ENVIRONMENT, World, connect, context_of, define_metrics, failed, one_of, settled_units, start_experiment,
};
use super::{Plan, processor_seconds};
use crate::cli::failure::Failure;
use crate::rpc::evaluation_service_client::EvaluationServiceClient;

const FLAG: &str = "evaluated";
const CONNECTIONS: usize = 4;
const STREAMS: usize = 4;
const WINDOW: usize = 64;
const ROUNDS: usize = 7;
/// Units that come back.
const KNOWN_UNITS: u64 = 4_096;

pub async fn measure(plan: &Plan) -> Result<Vec<Figure>, Failure> {
    let world = World::start(&plan.data).await?;
    let node = world.connect(CONNECTIONS).await?;
    let control = one_of(&node, 0)?;
    define_metrics(&control).await?;
    // Fixed: a reallocation in the middle of the run would make rounds differ.
    start_experiment(&control, FLAG, Policy::Fixed).await?;

    let answer = sample(&control).await?;
    let echo = Echo::of_evaluations(answer.clone()).await?;
    let bare = connect(echo.address(), CONNECTIONS).await?;

    let known = Units::Known;
    let warm = Duration::from_millis(300);
    for channels in [&node, &bare] {
        unary(channels, known, warm).await?;
        streamed(channels, warm).await?;
    }
    let known_units = settled_units(&control, FLAG).await?;

    let slice = plan.slice(3 * ROUNDS as u32);
    let (mut ours, mut echoes, mut new) = (Slices::default(), Slices::default(), Slices::default());
    let mut next_unit = KNOWN_UNITS;
    for _ in 0..ROUNDS {
        ours.add(unary(&node, known, slice).await?);
        echoes.add(unary(&bare, known, slice).await?);
        let run = unary(&node, Units::New(next_unit), slice).await?;
        next_unit += run.calls;
        new.add(run);
        // What it left to be written must not fall on the next round.
        settled_units(&control, FLAG).await?;
    }
    let written = settled_units(&control, FLAG).await?.saturating_sub(known_units);
    let shown = next_unit - KNOWN_UNITS;

    let slice = plan.slice(2 * ROUNDS as u32);
    let (mut ours_streamed, mut echoes_streamed) = (Slices::default(), Slices::default());
    for _ in 0..ROUNDS {
        ours_streamed.add(streamed(&node, slice).await?);
        echoes_streamed.add(streamed(&bare, slice).await?);
    }
    drop(echo);
    world.stop().await;

    let bytes = prost::Message::encoded_len(&answer);
    let latency = |slices: &Slices| {
        format!("p50 {:.2} ms, p99 {:.2} ms", median(&slices.p50_ms), median(&slices.p99_ms))
    };
    // What the ratio would be on a machine that does nothing else.
    let cost = |ours: &Slices, echo: &Slices| {
        let (ours, echo) = (ours.processor_us(), echo.processor_us());
        format!("processor time of a call, client included: {ours:.1} us, echo {echo:.1} us")
    };
    Ok(vec![
        Figure::beside("evaluate", "/s", &ours.rates, "bare gRPC echo", &echoes.rates)
            .bar(Bar::Share(0.85))
            .note(format!(
                "{CONNECTIONS} connections, {IN_FLIGHT} in flight, answers of {bytes} bytes; {}; echo {}; {}",
                latency(&ours),
                latency(&echoes),
                cost(&ours, &echoes)
            )),
        Figure::beside("evaluate, every unit new", "/s", &new.rates, "bare gRPC echo", &echoes.rates)
            .note(format!("{written} of {shown} implied exposures are in the log; {}", latency(&new))),
        Figure::beside(
            "evaluate stream",
            "/s",
            &ours_streamed.rates,
            "bare gRPC echo stream",
            &echoes_streamed.rates,
        )
        .note(format!(
            "{STREAMS} streams, a window of {WINDOW} each; {}",
            cost(&ours_streamed, &echoes_streamed)
        )),
    ])
}

/// One real answer, after which the echo's are modelled.
async fn sample(channel: &Channel) -> Result<EvaluateResponse, Failure> {
    let request = request(&unit(0));
    let answer = EvaluationServiceClient::new(channel.clone()).evaluate(request).await.map_err(failed)?;
    let answer = answer.into_inner();
    if answer.receipt.is_empty() {
        return Err(Failure::internal("the experiment's flag was served without a receipt"));
    }
    Ok(answer)
}

fn unit(number: u64) -> String {
    format!("unit-{number:010}")
}

fn request(unit: &str) -> EvaluateRequest {
    EvaluateRequest {
        environment: ENVIRONMENT.to_owned(),
        flag: FLAG.to_owned(),
        context: Some(context_of(unit)),
        ..EvaluateRequest::default()
    }
}

/// Which units ask.
#[derive(Debug, Clone, Copy)]
enum Units {
    Known,
    /// From this one on, each once.
    New(u64),
}

impl Units {
    fn unit(self, turn: u64) -> String {
        match self {
            Self::Known => unit(turn % KNOWN_UNITS),
            Self::New(first) => unit(first + turn),
        }
    }
}

/// Asks for the flag.
struct Asking(EvaluationServiceClient<Channel>, Units);

impl Caller for Asking {
    async fn call(&mut self, turn: u64) -> Result<(), Status> {
        self.0.evaluate(request(&self.1.unit(turn))).await.map(drop)
    }
}

async fn unary(channels: &[Channel], units: Units, slice: Duration) -> Result<Run, Failure> {
    flight::unary(channels, slice, |channel| Asking(EvaluationServiceClient::new(channel), units)).await
}

/// Answers a second over streams that keep a window full.
async fn streamed(channels: &[Channel], slice: Duration) -> Result<Run, Failure> {
    let (began, processor_before) = (Instant::now(), processor_seconds());
    let until = began + slice;
    let mut tasks = JoinSet::new();
    for stream in 0..STREAMS {
        let mut client = EvaluationServiceClient::new(one_of(channels, stream)?);
        tasks.spawn(async move {
            let (requests, receiver) = mpsc::channel(WINDOW);
            let mut turn = stream as u64 * 1_000;
            let mut ask = async |count: usize| {
                for _ in 0..count {
                    turn += 1;
                    let _ = requests.send(request(&Units::Known.unit(turn))).await;
                }
            };
            ask(WINDOW).await;
            let mut answers = client.evaluate_stream(ReceiverStream::new(receiver)).await?.into_inner();
            let mut count = 0u64;
            while Instant::now() < until {
                let Some(_) = answers.message().await? else { break };
                count += 1;
                ask(1).await;
            }
            Ok(count)
        });
    }
    let mut count = 0;
    while let Some(joined) = tasks.join_next().await {
        let task: Result<u64, Status> =
            joined.map_err(|error| Failure::internal(format!("a stream ended early: {error}")))?;
        count += task.map_err(failed)?;
    }
    Ok(Run {
        calls: count,
        rate: count as f64 / began.elapsed().as_secs_f64(),
        p50_ms: 0.0,
        p99_ms: 0.0,
        processor_seconds: processor_seconds() - processor_before,
    })
}
