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
//! A leader gathers nothing until it has brought the log's time up to date: facts of an outage, judged by the time before
//! it, would be turned off as far too early. A node that does not lead gathers for the leader, which gathers again.

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
    /// A peer sent it: it goes no further.
    here: bool,
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

    /// Takes a batch, wherever the leader is.
    pub(crate) async fn ingest(&self, batch: Batch) -> Answer {
        self.queue(batch, false).await
    }

    /// Takes a batch as the leader; refuses when another node leads.
    pub(crate) async fn ingest_here(&self, batch: Batch) -> Answer {
        self.queue(batch, true).await
    }

    async fn queue(&self, batch: Batch, here: bool) -> Answer {
        let bytes = batch.encoded_len();
        if bytes > BATCH_BYTES_MAX {
            return Err(ProposeError::TooLarge { bytes, bytes_max: BATCH_BYTES_MAX });
        }
        let (answer, receiver) = oneshot::channel();
        self.queue.try_send(Waiting { batch, bytes, here, answer }).map_err(|error| match error {
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
    /// Which of them go no further.
    here: Vec<bool>,
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
        self.here.push(waiting.here);
    }

    fn full(&self, events_max: usize) -> bool {
        self.events >= events_max || self.bytes >= BATCH_BYTES_MAX || self.batches.len() >= events_max
    }

    /// Together with this one it stays within what the fold takes at once.
    fn has_room_for(&self, waiting: &Waiting, events_max: usize) -> bool {
        self.events.saturating_add(waiting.events()) <= events_max
    }
}

async fn write<F: Fold>(proposer: Proposer<F>, mut gathered: Gathered) {
    // One turn at the leader that this node knows, and one more where that has changed meanwhile.
    for _ in 0..2 {
        if proposer.leader_elsewhere().is_some() {
            match forward(&proposer, gathered).await {
                Some(own) => gathered = own,
                None => return,
            }
        }
        let count = gathered.batches.len();
        let ingest = Ingest { batches: std::mem::take(&mut gathered.batches) };
        let mut entry = Entry { command: Some(Command::Ingest(ingest)), ..Entry::default() };
        let outcome = proposer.take(Bytes::from(entry.encode_to_vec())).await;
        if let Err(ProposeError::NotLeader { leader: Some(_) }) = outcome
            && let Some(Command::Ingest(ingest)) = entry.command.take()
        {
            gathered.batches = ingest.batches;
            continue;
        }
        let replies = outcome.and_then(|(position, reply)| split(position, reply, count));
        answer(gathered.answers, replies.map(|replies| replies.into_iter().map(Ok).collect()));
        return;
    }
    answer(gathered.answers, Err(ProposeError::NotLeader { leader: proposer.leader_elsewhere() }));
}

/// Hands to the leader what came from this node's callers; what came from a peer is sent back to it. Gives back what is this
/// node's own to write, because it leads by now.
async fn forward<F: Fold>(proposer: &Proposer<F>, gathered: Gathered) -> Option<Gathered> {
    let Gathered { batches, answers, here, .. } = gathered;
    let (mut mine, mut waiting, mut back) = (Vec::new(), Vec::new(), Vec::new());
    for ((batch, answer), here) in batches.into_iter().zip(answers).zip(here) {
        if here {
            back.push(answer);
        } else {
            mine.push(batch);
            waiting.push(answer);
        }
    }
    answer(back, Err(ProposeError::NotLeader { leader: proposer.leader_elsewhere() }));
    if mine.is_empty() {
        return None;
    }
    let forwarded = proposer.forward_batches(&mine).await;
    if let Err(ProposeError::NotLeader { leader: Some(leader) }) = forwarded
        && leader == proposer.options().node
    {
        let here = vec![false; mine.len()];
        return Some(Gathered { batches: mine, answers: waiting, here, ..Gathered::default() });
    }
    answer(waiting, forwarded);
    None
}

fn answer(answers: Vec<oneshot::Sender<Answer>>, replies: Result<Vec<Answer>, ProposeError>) {
    match replies {
        Ok(replies) => {
            for (answer, reply) in answers.into_iter().zip(replies) {
                drop(answer.send(reply));
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
    let judged = |time: &LogTime| *time != LogTime::Behind;
    if judged(&log_time.borrow()) {
        return Ok(());
    }
    proposer.check()?;
    let hold = Duration::from_millis(proposer.options().fact_hold_ms_max);
    tokio::select! {
        biased;
        _ = closing.wait_for(|closing| *closing) => Err(ProposeError::ShuttingDown),
        known = log_time.wait_for(judged) => match known {
            Ok(_) => Ok(()),
            Err(_) => Err(ProposeError::ShuttingDown),
        },
        () = tokio::time::sleep(hold) => {
            let why = "facts wait for a leader's first tick".to_owned();
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
