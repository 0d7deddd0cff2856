//! Durable facts a second over gRPC, beside the bare log engine.
//!
//! ```text
//!   4 producers x 4 batches in flight x 1,000 outcomes:   by unit | by receipt | streamed | bare engine | … rounds
//!   the first two again, with 10 and 50 experiments that share the metric: see `shared`
//! ```
//!
//! A fact counts here when its batch was acknowledged as counted: durable in the log, applied, and joined to its unit's
//! exposure. The bare engine writes commands as long as such a batch's, as many at once as the node does, through the same
//! group commit, and nothing else: no gRPC, no raft, no fold.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use featureops_cluster::Options;
use featureops_cluster::storage::folder::Folder;
use featureops_cluster::storage::{Disk, LogEntry, LogLane, LogPosition, Storage as _};
use featureops_proto::log::{Batch, Entry, Ingest, OutcomeFact, ReceiptFact, entry};
use featureops_proto::v1::experiment::Policy;
use featureops_proto::v1::{EvaluateRequest, FactBatch, Outcome, ReportOutcomesRequest};
use prost::Message as _;
use tempfile::TempDir;
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use super::report::{Bar, Figure};
use super::world::{
    ENVIRONMENT, REVENUE, World, context_of, define_metrics, failed, folder, one_of, settled_units,
    start_experiment,
};
use super::{Plan, shared};
use crate::cli::failure::Failure;
use crate::rpc::evaluation_service_client::EvaluationServiceClient;
use crate::rpc::fact_service_client::FactServiceClient;

/// Gives the receipts.
pub const EXPERIMENT: &str = "reported";
const PRODUCERS: usize = 4;
const BATCHES_IN_FLIGHT: usize = 4;
const BATCH: usize = 1_000;
/// Units with an exposure, fewer than a node holds waiting for its log.
pub const UNITS: usize = 40_000;
const ROUNDS: usize = 5;

pub async fn measure(plan: &Plan) -> Result<Vec<Figure>, Failure> {
    let world = World::start(&plan.data).await?;
    let channels = world.connect(PRODUCERS).await?;
    let control = one_of(&channels, 0)?;
    define_metrics(&control).await?;
    start_experiment(&control, EXPERIMENT, Policy::Fixed).await?;
    let receipts = expose(&control).await?;
    let exposed = settled_units(&control, EXPERIMENT).await?;
    if exposed < UNITS as u64 {
        return Err(Failure::internal(format!("{exposed} of {UNITS} exposures arrived in the log")));
    }

    let by_unit = Producers::new("unit", outcomes(&receipts, false));
    let by_receipt = Producers::new("receipt", outcomes(&receipts, true));
    let streams = Producers::new("stream", outcomes(&receipts, false));
    let engine = Engine::open(&plan.data)?;

    let slice = plan.slice(4 * ROUNDS as u32);
    let warm = Duration::from_millis(300);
    by_unit.unary(&channels, warm).await?;
    engine.write(command_bytes(false), warm).await?;
    let (mut unit, mut receipt, mut stream, mut bare) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        unit.push(by_unit.unary(&channels, slice).await?);
        receipt.push(by_receipt.unary(&channels, slice).await?);
        stream.push(streams.streamed(&channels, slice).await?);
        bare.push(engine.write(command_bytes(false), slice).await?);
    }
    let shared = shared::measure(&channels, &by_unit, &by_receipt, &engine, slice).await?;
    drop(engine);
    world.stop().await;

    let bytes = |receipts| command_bytes(receipts) as f64 / BATCH as f64;
    let name = "bare log engine";
    let bar = Bar::AtLeast(100_000.0);
    let mut figures = vec![
        Figure::beside("facts by unit", "/s", &unit, name, &bare).bar(bar).note(format!(
            "{PRODUCERS} producers, {BATCHES_IN_FLIGHT} batches of {BATCH} each in flight, {UNITS} units exposed \
             before; {:.1} bytes a fact in the log, {:.1} with a receipt",
            bytes(false),
            bytes(true)
        )),
        Figure::beside("facts by receipt", "/s", &receipt, name, &bare).bar(bar),
        Figure::beside("facts streamed", "/s", &stream, name, &bare).bar(bar),
    ];
    figures.extend(shared);
    Ok(figures)
}

/// The name of a unit.
pub fn unit(number: usize) -> String {
    format!("unit-{number:010}")
}

/// Shows every unit its arm, and keeps the receipts.
pub async fn expose(channel: &Channel) -> Result<Vec<String>, Failure> {
    let requests = tokio_stream::iter((0..UNITS).map(|number| EvaluateRequest {
        environment: ENVIRONMENT.to_owned(),
        flag: EXPERIMENT.to_owned(),
        context: Some(context_of(&unit(number))),
        ..EvaluateRequest::default()
    }));
    let mut client = EvaluationServiceClient::new(channel.clone());
    let mut answers = client.evaluate_stream(requests).await.map_err(failed)?.into_inner();
    let mut receipts = Vec::with_capacity(UNITS);
    while let Some(answer) = answers.next().await {
        receipts.push(answer.map_err(failed)?.receipt);
    }
    Ok(receipts)
}

/// Batches made beforehand, over all units.
pub fn outcomes(receipts: &[String], with_receipts: bool) -> Vec<Vec<Outcome>> {
    let numbered: Vec<(usize, &String)> = receipts.iter().enumerate().collect();
    let batch = |units: &[(usize, &String)]| {
        let outcome = |(number, receipt): &(usize, &String)| Outcome {
            metric: REVENUE.to_owned(),
            unit: unit(*number),
            value: Some(1.25),
            receipt: if with_receipts { String::clone(receipt) } else { String::new() },
            ..Outcome::default()
        };
        units.iter().map(outcome).collect()
    };
    numbered.chunks(BATCH).map(batch).collect()
}

/// Bytes of the command that a batch becomes in the log.
pub fn command_bytes(with_receipts: bool) -> usize {
    let minute = 29_000_000;
    let receipt = ReceiptFact { experiment: 1, arm: 1, generation: 1, minute };
    let outcome = |index: u32| OutcomeFact {
        index,
        metric: 2,
        unit_hash: u64::MAX,
        value: 1_250_000,
        minute: 0,
        receipt: with_receipts.then_some(receipt),
        bad_receipt: false,
    };
    let batch = Batch {
        environment: "bench".to_owned(),
        producer: "bench-unit-0".to_owned(),
        sequence: 1_000,
        content_hash: u64::MAX,
        outcomes: (0..BATCH as u32).map(outcome).collect(),
        unit_key_id: u64::MAX,
        ..Batch::default()
    };
    let ingest = entry::Command::Ingest(Ingest { batches: vec![batch] });
    Entry { command: Some(ingest), ..Entry::default() }.encoded_len()
}

/// Who reports: each producer numbers its batches by itself.
pub struct Producers {
    kind: &'static str,
    batches: Arc<Vec<Vec<Outcome>>>,
    sequences: Vec<Arc<AtomicU64>>,
}

impl Producers {
    /// None reported yet.
    pub fn new(kind: &'static str, batches: Vec<Vec<Outcome>>) -> Self {
        Self { kind, batches: Arc::new(batches), sequences: (0..PRODUCERS).map(|_| Arc::default()).collect() }
    }

    /// What a producer says next.
    fn next(&self, number: usize) -> impl Fn() -> (String, u64, Vec<Outcome>) + Send + use<> {
        let producer = format!("bench-{}-{number}", self.kind);
        let sequence = self.sequences.get(number).map(Arc::clone).unwrap_or_default();
        let batches = Arc::clone(&self.batches);
        move || {
            let sequence = sequence.fetch_add(1, Ordering::Relaxed) + 1;
            // Producers begin at different units.
            let place = (sequence as usize + number * batches.len() / PRODUCERS) % batches.len().max(1);
            (producer.clone(), sequence, batches.get(place).cloned().unwrap_or_default())
        }
    }

    /// Facts counted a second by single calls.
    pub async fn unary(&self, channels: &[Channel], slice: Duration) -> Result<f64, Failure> {
        let began = Instant::now();
        let until = began + slice;
        let mut tasks = JoinSet::new();
        for task in 0..PRODUCERS * BATCHES_IN_FLIGHT {
            let mut client = FactServiceClient::new(one_of(channels, task)?);
            let next = self.next(task % PRODUCERS);
            tasks.spawn(async move {
                let mut counted = 0;
                while Instant::now() < until {
                    let (producer, sequence, outcomes) = next();
                    let environment = ENVIRONMENT.to_owned();
                    let request = ReportOutcomesRequest { environment, producer, sequence, outcomes };
                    counted += u64::from(client.report_outcomes(request).await?.into_inner().counted);
                }
                Ok(counted)
            });
        }
        rate(tasks, began).await
    }

    /// Facts counted a second by one stream a producer, its answer included.
    async fn streamed(&self, channels: &[Channel], slice: Duration) -> Result<f64, Failure> {
        let began = Instant::now();
        let until = began + slice;
        let mut tasks = JoinSet::new();
        for number in 0..PRODUCERS {
            let mut client = FactServiceClient::new(one_of(channels, number)?);
            let next = self.next(number);
            tasks.spawn(async move {
                let (batches, receiver) = mpsc::channel(BATCHES_IN_FLIGHT);
                let sending = tokio::spawn(async move {
                    while Instant::now() < until {
                        let (producer, sequence, outcomes) = next();
                        let environment = ENVIRONMENT.to_owned();
                        let exposures = Vec::new();
                        let batch = FactBatch { environment, producer, sequence, exposures, outcomes };
                        if batches.send(batch).await.is_err() {
                            return;
                        }
                    }
                });
                let answer = client.stream_facts(ReceiverStream::new(receiver)).await?.into_inner();
                sending.abort();
                Ok(answer.counted)
            });
        }
        rate(tasks, began).await
    }
}

/// Facts a second over all tasks.
async fn rate(mut tasks: JoinSet<Result<u64, tonic::Status>>, began: Instant) -> Result<f64, Failure> {
    let mut counted = 0;
    while let Some(joined) = tasks.join_next().await {
        let task = joined.map_err(|error| Failure::internal(format!("a producer ended early: {error}")))?;
        counted += task.map_err(failed)?;
    }
    Ok(counted as f64 / began.elapsed().as_secs_f64())
}

/// The log engine with its group commit, alone.
pub struct Engine {
    lane: LogLane,
    disk: Disk,
    next: Arc<Mutex<u64>>,
    // Last: removed when nothing writes there any more.
    _folder: TempDir,
}

impl Engine {
    /// In a folder of its own.
    pub fn open(data: &Path) -> Result<Self, Failure> {
        let folder = folder(data)?;
        let storage = Folder::new(folder.path());
        let disk = storage.open(1, 1).map_err(|error| Failure::internal(error.to_string()))?;
        let (lane, running) = LogLane::open(Arc::clone(&disk.log), Arc::clone(&disk.marks));
        storage
            .spawn("bench-log", running)
            .map_err(|error| Failure::internal(format!("no thread for the log: {error}")))?;
        Ok(Self { lane, disk, next: Arc::default(), _folder: folder })
    }

    /// Facts a second in entries of `bytes`, as many in flight as the node has fact commands.
    pub async fn write(&self, bytes: usize, slice: Duration) -> Result<f64, Failure> {
        let began = Instant::now();
        let until = began + slice;
        let payload = bytes::Bytes::from(vec![0x5a; bytes]);
        let mut tasks = JoinSet::new();
        for _ in 0..Options::new(1, "").fact_commands_max {
            let (lane, log, next) = (self.lane.clone(), Arc::clone(&self.disk.log), Arc::clone(&self.next));
            let payload = payload.clone();
            tasks.spawn(async move {
                let mut facts = 0;
                while Instant::now() < until {
                    let (done, durable) = oneshot::channel();
                    {
                        let mut next = next.lock().await;
                        let position = LogPosition::new(1, *next);
                        *next += 1;
                        log.append(vec![LogEntry { position, payload: payload.clone() }])?;
                        lane.appended(position, Box::new(move |result| drop(done.send(result)))).await?;
                    }
                    durable.await.map_err(std::io::Error::other)??;
                    facts += BATCH as u64;
                }
                Ok::<_, std::io::Error>(facts)
            });
        }
        let mut facts = 0;
        while let Some(joined) = tasks.join_next().await {
            let task = joined.map_err(|error| Failure::internal(error.to_string()))?;
            facts += task.map_err(|error| Failure::internal(format!("the bare engine failed: {error}")))?;
        }
        Ok(facts as f64 / began.elapsed().as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fact_takes_about_twenty_bytes_in_the_log() {
        assert!((15..=30).contains(&(command_bytes(false) / BATCH)));
        assert!(command_bytes(true) > command_bytes(false));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_bare_engine_writes() {
        let folder = tempfile::tempdir().unwrap();
        let engine = Engine::open(folder.path()).unwrap();
        assert!(engine.write(1_000, Duration::from_millis(20)).await.unwrap() > 0.0);
    }
}
