//! Facts of all producers, coalesced: many batches become one command of the log, and each caller gets its own batch's reply.
//!
//! ```text
//!   ingest(batch) --> [bounded queue] --> gather 512 events or 5 ms --> propose Ingest{batches} --> replies, one each
//! ```
//!
//! What waits already is taken too, up to 4,096 events: the fold takes many at once faster than few.
//!
//! The wait happens only while other commands are in flight: a lone batch is written at once. Commands are handed to raft
//! in the order in which they were gathered, so that a producer's batches keep their order.
//!
//! After a start nothing is gathered until the log's time has caught up: facts of an outage, judged by the time before
//! it, would be turned off as far too early.

use std::time::Duration;

use bytes::Bytes;
use featureops_proto::log::{Batch, BatchReply, Entry, Ingest, Reply, entry::Command, reply};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use prost::Message;
use tokio::sync::{mpsc, oneshot, watch};

use crate::fold::Fold;
use crate::proposer::{ProposeError, Proposer};
use crate::storage::ENTRY_BYTES_MAX;
use crate::ticker::LogTime;

/// Longest batch, in encoded bytes; also what one command gathers, so that a command never breaks the entry's bound.
pub const BATCH_BYTES_MAX: usize = ENTRY_BYTES_MAX / 4;

type Answer = Result<BatchReply, ProposeError>;

pub(crate) struct Waiting {
    batch: Batch,
    bytes: usize,
    answer: oneshot::Sender<Answer>,
}

/// Takes facts in.
#[derive(Clone)]
pub(crate) struct Facts {
    queue: mpsc::Sender<Waiting>,
    bound: usize,
}

impl Facts {
    pub(crate) fn new(bound: usize) -> (Self, mpsc::Receiver<Waiting>) {
        let (queue, receiver) = mpsc::channel(bound);
        (Self { queue, bound }, receiver)
    }

    pub(crate) async fn ingest(&self, batch: Batch) -> Answer {
        let bytes = batch.encoded_len();
        if bytes > BATCH_BYTES_MAX {
            return Err(ProposeError::TooLarge { bytes, bytes_max: BATCH_BYTES_MAX });
        }
        let (answer, receiver) = oneshot::channel();
        self.queue.try_send(Waiting { batch, bytes, answer }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => {
                ProposeError::Overloaded { what: "fact batches", bound: self.bound }
            }
            mpsc::error::TrySendError::Closed(_) => ProposeError::ShuttingDown,
        })?;
        let lost =
            || ProposeError::Unknown { why: "the node ended before the facts were answered".to_owned() };
        receiver.await.unwrap_or_else(|_| Err(lost()))
    }
}

/// One command in the making.
#[derive(Default)]
struct Gathered {
    batches: Vec<Batch>,
    answers: Vec<oneshot::Sender<Answer>>,
    events: usize,
    bytes: usize,
}

impl Waiting {
    fn events(&self) -> usize {
        self.batch.exposures.len().saturating_add(self.batch.outcomes.len())
    }
}

impl Gathered {
    fn add(&mut self, waiting: Waiting) {
        self.events = self.events.saturating_add(waiting.events());
        self.bytes = self.bytes.saturating_add(waiting.bytes);
        self.batches.push(waiting.batch);
        self.answers.push(waiting.answer);
    }

    fn full(&self, events_max: usize) -> bool {
        self.events >= events_max || self.bytes >= BATCH_BYTES_MAX || self.batches.len() >= events_max
    }

    /// Together with this one it stays within what the fold takes at once.
    fn has_room_for(&self, waiting: &Waiting, events_max: usize) -> bool {
        self.events.saturating_add(waiting.events()) <= events_max
    }
}

async fn write<F: Fold>(proposer: Proposer<F>, gathered: Gathered) {
    let Gathered { batches, answers, .. } = gathered;
    let count = batches.len();
    let entry = Entry { command: Some(Command::Ingest(Ingest { batches })), ..Entry::default() };
    let outcome = proposer.propose(Bytes::from(entry.encode_to_vec())).await;
    let replies = outcome.and_then(|(position, reply)| split(position, reply, count));
    match replies {
        Ok(replies) => {
            for (answer, reply) in answers.into_iter().zip(replies) {
                drop(answer.send(Ok(reply)));
            }
        }
        Err(error) => {
            for answer in answers {
                drop(answer.send(Err(error.clone())));
            }
        }
    }
}

/// One reply per batch; a refusal of the whole command refuses each.
fn split(position: u64, reply: Reply, count: usize) -> Result<Vec<BatchReply>, ProposeError> {
    match reply.result {
        Some(reply::Result::Ingested(ingested)) if ingested.batches.len() == count => Ok(ingested.batches),
        Some(reply::Result::Refusal(refusal)) => {
            let refused = BatchReply { position, refusal: Some(refusal), ..BatchReply::default() };
            Ok(vec![refused; count])
        }
        _ => Err(ProposeError::Unknown {
            why: format!("{count} batches were answered by another number of replies"),
        }),
    }
}

/// Waits until facts can be judged by the log's time, a bounded time.
async fn caught_up<F: Fold>(
    proposer: &Proposer<F>,
    log_time: &mut watch::Receiver<LogTime>,
    closing: &mut watch::Receiver<bool>,
) -> Result<(), ProposeError> {
    if *log_time.borrow() == LogTime::Current {
        return Ok(());
    }
    proposer.check()?;
    let hold = Duration::from_millis(proposer.options().fact_hold_ms_max);
    tokio::select! {
        biased;
        _ = closing.wait_for(|closing| *closing) => Err(ProposeError::ShuttingDown),
        known = log_time.wait_for(|now| *now == LogTime::Current) => match known {
            Ok(_) => Ok(()),
            Err(_) => Err(ProposeError::ShuttingDown),
        },
        () = tokio::time::sleep(hold) => {
            let why = "facts wait for the first tick since this node started".to_owned();
            Err(ProposeError::NotReady { why })
        }
    }
}

/// Coalesces until the queue or the node ends, then finishes what is in flight.
pub(crate) async fn coalesce<F: Fold>(
    proposer: Proposer<F>,
    mut queue: mpsc::Receiver<Waiting>,
    mut log_time: watch::Receiver<LogTime>,
) {
    let options = proposer.options().clone();
    let mut closing = proposer.closing();
    let mut writing = FuturesUnordered::new();
    // Taken from the queue, and too much for the command before it.
    let mut carried = None;
    loop {
        let next = tokio::select! {
            biased;
            _ = closing.wait_for(|closing| *closing) => break,
            Some(()) = writing.next(), if !writing.is_empty() => continue,
            next = async { match carried.take() { None => queue.recv().await, carried => carried } },
                if writing.len() < options.fact_commands_max => next,
        };
        let Some(first) = next else { break };
        if let Err(error) = caught_up(&proposer, &mut log_time, &mut closing).await {
            let mut refused = Some(first);
            while let Some(waiting) = refused {
                drop(waiting.answer.send(Err(error.clone())));
                refused = queue.try_recv().ok();
            }
            continue;
        }
        let mut gathered = Gathered::default();
        gathered.add(first);
        let enough = tokio::time::sleep(Duration::from_millis(options.fact_linger_ms));
        tokio::pin!(enough);
        while !gathered.full(options.fact_events_max) {
            if let Ok(waiting) = queue.try_recv() {
                if !gathered.has_room_for(&waiting, options.fact_events_max) {
                    carried = Some(waiting);
                    break;
                }
                gathered.add(waiting);
                continue;
            }
            if writing.is_empty() || gathered.full(options.fact_events_enough) {
                break;
            }
            tokio::select! {
                biased;
                () = &mut enough => break,
                Some(()) = writing.next() => {}
                Some(waiting) = queue.recv() => {
                    if !gathered.has_room_for(&waiting, options.fact_events_max) {
                        carried = Some(waiting);
                        break;
                    }
                    gathered.add(waiting);
                }
                else => break,
            }
        }
        writing.push(write(proposer.clone(), gathered));
        // The first poll hands the command to raft: in this order, not in that of the tasks' luck.
        futures_util::future::poll_immediate(writing.next()).await;
    }
    queue.close();
    while writing.next().await.is_some() {}
}
