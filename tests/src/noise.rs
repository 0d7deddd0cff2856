//! A network between producers and a node at which anything may happen to a batch.
//!
//! ```text
//!   events ── cut ──> batches 1, 2, 3 … ── order ──> 1, 3, 4 … 2 … ── deliver ──> answered, once or more
//!                                            │                          │  lost before or after the node has it, sent twice
//!                                            │                          │  at once, sent again, by the other path
//!                                            └ a delayed batch goes     └ kept, and sent again when the act is over
//!                                              within the window
//! ```
//!
//! A producer keeps to its side of the contract and to nothing beyond it: the same batch under the same sequence, and
//! newest - oldest unanswered below 4,096.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use featureops_proto::v1::{
    Exposure, FactBatch, Outcome, ReportExposuresRequest, ReportFactsResponse, ReportOutcomesRequest, Verdict,
};
use prost_types::Timestamp;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tonic::{Code, Response, Status};

use crate::chance::Chance;
use crate::client::{Client, answered, repeatable};
use crate::load::{ENVIRONMENT, EXPERIMENT};
use crate::visits::{Event, What, variant};

/// newest - oldest unanswered stays below it.
const WINDOW: usize = 4_096;
/// Batches of one producer under way.
const IN_FLIGHT: usize = 16;
/// One batch in so many meets each kind of trouble.
const ONE_IN: u64 = 100;
/// One batch in so many is told later than its turn.
const DELAYED_ONE_IN: u64 = 10;
/// Turns by which exposures are late at most. A node holds the last 65,536 outcomes that came before their exposure, of all
/// producers together, and also those that met it since: outcomes whose exposure is later than that are lost, as promised.
const EXPOSURES_DELAY_MAX: usize = 64;
/// Longest time one batch goes without an answer: longer than a node needs to start again.
const PATIENCE: Duration = Duration::from_secs(60);
/// Pause before an unanswered batch is sent again.
const PAUSE: Duration = Duration::from_millis(10);

/// How often each thing happened.
#[derive(Debug, Default)]
pub struct Happened {
    /// Batches with an answer.
    pub answered: AtomicU64,
    /// Sent, as the producer believes, and never arrived.
    pub lost_before: AtomicU64,
    /// Arrived, and the answer did not.
    pub lost_after: AtomicU64,
    /// Sent twice at the same moment.
    pub doubled: AtomicU64,
    /// Sent again right after the answer, as a stream.
    pub repeated: AtomicU64,
    /// Sent again when the act was over: answered as a duplicate, and refused as too old.
    pub late_repeats: [AtomicU64; 2],
    /// Attempts that ended without an answer, most of them at the kill.
    pub broken: AtomicU64,
}

/// The network.
#[derive(Debug, Clone)]
pub struct Noise {
    /// Of the node.
    pub client: Client,
    /// What chance begins with.
    pub seed: u64,
    /// Unix seconds of the visits' beginning.
    pub begin: i64,
    /// A planted fault: what got no answer goes out again as something new.
    pub renames: bool,
    /// What happened.
    pub happened: Arc<Happened>,
}

/// Who reports: batches get their numbers in the order in which they are cut.
#[derive(Debug)]
pub struct Producer {
    /// Its name.
    pub name: String,
    /// Events of its largest batch.
    pub events_max: u64,
    /// The last sequence it used.
    pub last: u64,
}

/// Which answers are there, from the oldest that is not.
#[derive(Debug)]
struct Answers {
    low: usize,
    there: Vec<bool>,
}

fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Noise {
    /// Tells all events of an act, and returns when every batch has its answer.
    ///
    /// # Panics
    /// A batch is refused, or gets no answer within a minute.
    pub async fn tell(&self, producer: &mut Producer, events: &[Event]) {
        let mut chance =
            Chance::new(self.seed ^ producer.last.wrapping_mul(0x9e37_79b9) ^ events.len() as u64);
        let batches = self.cut(&mut chance, producer, events);
        let order = order(&mut chance, &batches);
        let answers = Arc::new(Mutex::new(Answers { low: 0, there: vec![false; batches.len()] }));
        let (moved, room) = (Arc::new(Notify::new()), Arc::new(Semaphore::new(IN_FLIGHT)));
        let mut batches: Vec<Option<FactBatch>> = batches.into_iter().map(Some).collect();
        let mut late: Vec<FactBatch> = Vec::new();
        let mut tasks = JoinSet::new();
        for at in order {
            loop {
                let answered = moved.notified();
                if at < answers.lock().unwrap().low + WINDOW {
                    break;
                }
                let moves = tokio::time::timeout(PATIENCE, answered).await;
                assert!(moves.is_ok(), "{}: the window does not move", producer.name);
            }
            let permit = Arc::clone(&room).acquire_owned().await.unwrap();
            let batch = batches[at].take().unwrap();
            if chance.below(ONE_IN) == 0 {
                late.push(batch.clone());
            }
            let chance = Chance::new(chance.draw());
            let (noise, answers, moved) = (self.clone(), Arc::clone(&answers), Arc::clone(&moved));
            tasks.spawn(async move {
                noise.deliver(chance, batch).await;
                let mut answers = answers.lock().unwrap();
                answers.there[at] = true;
                while answers.there.get(answers.low) == Some(&true) {
                    answers.low += 1;
                }
                drop((permit, answers));
                moved.notify_one();
            });
            while let Some(ended) = tasks.try_join_next() {
                ended.unwrap();
            }
        }
        while let Some(ended) = tasks.join_next().await {
            ended.unwrap();
        }
        for batch in late {
            self.repeat_late(batch).await;
        }
    }

    /// Tells events as one batch, with one producer's usual trouble.
    ///
    /// # Panics
    /// As [`Self::tell`].
    pub async fn tell_at_once(&self, producer: &mut Producer, events: &[Event]) {
        producer.last += 1;
        let mut batch = FactBatch {
            environment: ENVIRONMENT.to_owned(),
            producer: producer.name.clone(),
            sequence: producer.last,
            ..FactBatch::default()
        };
        for event in events {
            self.put(*event, &mut batch);
        }
        self.deliver(Chance::new(self.seed), batch).await;
    }

    fn cut(&self, chance: &mut Chance, producer: &mut Producer, events: &[Event]) -> Vec<FactBatch> {
        let mut batches = Vec::new();
        // Single calls take one kind; exposures and outcomes leave when theirs are enough.
        let mut open: [FactBatch; 2] = Default::default();
        let mut sizes = [1, 1];
        let mut close = |batch: &mut FactBatch| {
            producer.last += 1;
            batch.environment = ENVIRONMENT.to_owned();
            batch.producer.clone_from(&producer.name);
            batch.sequence = producer.last;
            batches.push(std::mem::take(batch));
        };
        for event in events {
            let kind = usize::from(!matches!(event.what, What::Exposure(_)));
            self.put(*event, &mut open[kind]);
            if open[kind].exposures.len() + open[kind].outcomes.len() >= sizes[kind] {
                close(&mut open[kind]);
                sizes[kind] = 1 + chance.below(producer.events_max) as usize;
            }
        }
        for batch in &mut open {
            if batch.exposures.len() + batch.outcomes.len() > 0 {
                close(batch);
            }
        }
        batches
    }

    fn put(&self, event: Event, batch: &mut FactBatch) {
        let unit = format!("{}-{}", if event.stray { "stray" } else { "unit" }, event.unit);
        let event_time = Some(Timestamp { seconds: self.begin + i64::from(event.second), nanos: 0 });
        let (metric, value) = match event.what {
            What::Exposure(arm) => {
                let (experiment, variant) = (EXPERIMENT.to_owned(), variant(arm).to_owned());
                batch.exposures.push(Exposure {
                    experiment,
                    unit,
                    variant,
                    event_time,
                    ..Exposure::default()
                });
                return;
            }
            What::Converted => ("converted", None),
            What::Revenue(cents) => ("revenue", Some(f64::from(cents) / 100.0)),
            What::Views(views) => ("views", Some(f64::from(views))),
            What::Click => ("clicks", None),
            What::Error => ("errors", None),
            What::Unknown => ("never-set", None),
        };
        let metric = metric.to_owned();
        batch.outcomes.push(Outcome { metric, unit, value, event_time, ..Outcome::default() });
    }

    /// One batch, whatever happens to it, until it has an answer.
    async fn deliver(&self, mut chance: Chance, mut batch: FactBatch) {
        let begin = Instant::now();
        loop {
            assert!(begin.elapsed() < PATIENCE, "{}/{} got no answer", batch.producer, batch.sequence);
            let trouble = chance.below(ONE_IN * 4);
            if trouble < 4 {
                add(&self.happened.lost_before);
                continue;
            }
            let answer = if trouble < 8 {
                add(&self.happened.doubled);
                let (one, other) = tokio::join!(self.send(&batch), self.send(&batch));
                one.or(other)
            } else {
                self.send(&batch).await
            };
            match answer {
                Ok(_) if (8..12).contains(&trouble) => {
                    add(&self.happened.lost_after);
                    if self.renames {
                        batch.producer = format!("{}-again-{}", batch.producer, batch.sequence);
                    }
                }
                Ok(()) => {
                    add(&self.happened.answered);
                    if trouble >= ONE_IN * 4 - 4 {
                        add(&self.happened.repeated);
                        // After a kill the answer may be missing; the node then has it all the same.
                        let _ = self.stream(&batch).await;
                    }
                    return;
                }
                Err(status) => {
                    assert!(repeatable(&status), "{}/{}: {status}", batch.producer, batch.sequence);
                    add(&self.happened.broken);
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    async fn send(&self, batch: &FactBatch) -> Result<(), Status> {
        self.call(batch.clone()).await.map(drop)
    }

    async fn call(&self, batch: FactBatch) -> Result<Response<ReportFactsResponse>, Status> {
        let FactBatch { environment, producer, sequence, exposures, outcomes } = batch;
        let mut facts = self.client.facts.clone();
        if outcomes.is_empty() {
            let request = ReportExposuresRequest { environment, producer, sequence, exposures };
            facts.report_exposures(request).await
        } else {
            let request = ReportOutcomesRequest { environment, producer, sequence, outcomes };
            facts.report_outcomes(request).await
        }
    }

    /// The same batch through the other path.
    async fn stream(&self, batch: &FactBatch) -> Result<(), Status> {
        let answer =
            self.client.facts.clone().stream_facts(tokio_stream::iter([batch.clone()])).await?.into_inner();
        match answer.refused.first() {
            None => Ok(()),
            Some(refused) => Err(Status::internal(format!("{}: {}", refused.code, refused.message))),
        }
    }

    /// A batch of an act that is over: known, or too old to be.
    async fn repeat_late(&self, batch: FactBatch) {
        // Another producer may still be telling when the node is killed.
        let answer = answered(PATIENCE, || self.call(batch.clone())).await;
        match answer {
            Ok(answer) => {
                let told_again = answer.verdicts.iter().any(|one| one.verdict() == Verdict::Duplicate);
                assert!(answer.duplicate || self.renames, "{answer:?}");
                assert!(!told_again || answer.counted == 0, "{answer:?}");
                add(&self.happened.late_repeats[0]);
            }
            Err(status) => {
                assert_eq!(status.code(), Code::OutOfRange, "{status}");
                add(&self.happened.late_repeats[1]);
            }
        }
    }
}

/// The order in which batches are sent: some go later than their turn, by less than a window. So the oldest unanswered is less than
/// a window behind whatever is sent.
fn order(chance: &mut Chance, batches: &[FactBatch]) -> Vec<usize> {
    let turn = |(at, batch): (usize, &FactBatch)| {
        let delay_max = if batch.exposures.is_empty() { WINDOW } else { EXPOSURES_DELAY_MAX };
        let delayed = chance.below(DELAYED_ONE_IN) == 0;
        (at + if delayed { chance.below(delay_max as u64) as usize } else { 0 }, at)
    };
    let mut turns: Vec<(usize, usize)> = batches.iter().enumerate().map(turn).collect();
    turns.sort_unstable();
    turns.into_iter().map(|(_, at)| at).collect()
}
