//! Proposing: one entry in, its place and its reply out, or an honest account of why not.
//!
//! Everything is bounded: entries in flight, their bytes, the time one call may take. After an election openraft refuses
//! writes until its lease stands; that is retried here, within the call's time, since nothing was written yet.
//!
//! ```text
//!   caller --entry--> write, a task of its own: [attempt -> refused -> wait]* -> attempt -> raft's answer -> permits freed
//!     ^                  |
//!     +---- outcome -----+   at the latest when the call's time is over, then Unknown
//! ```
//!
//! The task outlives its caller: what is in raft counts as in flight until raft answers, whoever still listens.
//!
//! A node that does not lead hands the entry to the leader ([`crate::forward`]), and answers once its own state holds it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use featureops_proto::log::Reply;
use futures_util::future::poll_immediate;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ClientWriteError, ForwardReason, ForwardToLeader, LinearizableReadError, RaftError};
use openraft::raft::ReadPolicy;
use tokio::sync::{Semaphore, oneshot, watch};

use crate::fold::{Fold, Halted};
use crate::options::Options;
use crate::peer::network::target_of;
use crate::peer::{Peers, Target};
use crate::raft::machine::{Machine, Shared};
use crate::raft::types::{Answer, Peer, Proposal, Runtime, Types};
use crate::storage::{ENTRY_BYTES_MAX, Fault, way_out};

/// First wait before a refused write is tried again; doubles up to [`RETRY_MS_MAX`].
pub(crate) const RETRY_MS_MIN: u64 = 5;
pub(crate) const RETRY_MS_MAX: u64 = 100;

/// Why an entry has no reply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Another node leads, or none does. Nothing was written.
    #[error("this node does not lead the cluster; leader: {}", leader.map_or_else(|| "none".to_owned(), |leader| leader.to_string()))]
    NotLeader {
        /// The leader, if one is known.
        leader: Option<u64>,
    },
    /// Nobody can say whether the entry was or will be applied. Repeating it under the same request id is safe.
    #[error("the outcome is unknown: {why}; repeat the request under the same request id")]
    Unknown {
        /// What happened.
        why: String,
    },
    /// Too much is in flight. Nothing was written.
    #[error("overloaded: {what} in flight are at their bound of {bound}; try again later")]
    Overloaded {
        /// What is bounded.
        what: &'static str,
        /// The bound.
        bound: usize,
    },
    /// The fold stopped before this entry was proposed. Nothing was written.
    #[error("{0}; run `featureops doctor`")]
    Halted(Halted),
    /// The fold stopped at this very entry: it is in the log and was not applied.
    #[error(
        "the entry is in the log at position {} and was not applied: it stopped the fold, {}; run `featureops doctor`",
        .0.position, .0.violation
    )]
    Violated(Halted),
    /// What the entry needs is not there yet. Nothing was written.
    #[error("{why}; try again")]
    NotReady {
        /// What is awaited.
        why: String,
    },
    /// The node is ending. Nothing was written.
    #[error("this node is shutting down; ask another one")]
    ShuttingDown,
    /// The node stopped writing after an error of its disk. Nothing was written.
    #[error("this node stopped writing: {why}; see its disk")]
    Stopped {
        /// The error.
        why: String,
    },
    /// The disk takes no writes; the node opens it again by itself. Nothing was written.
    #[error("this node takes no writes until its disk does: {why}; try again, or {}", way_out(why))]
    Waiting {
        /// The disk's error.
        why: String,
    },
    /// The entry breaks a bound. Nothing was written.
    #[error("entry of {bytes} bytes is over the bound of {bytes_max}; send less at once")]
    TooLarge {
        /// Its length.
        bytes: usize,
        /// The bound.
        bytes_max: usize,
    },
}

/// Where an entry stands and what the fold said.
pub(crate) type Outcome = Result<(u64, Reply), ProposeError>;

pub(crate) type Raft<F> = openraft::Raft<Types, Machine<F>>;

struct Inner<F: Fold> {
    raft: Raft<F>,
    peers: Peers,
    shared: Arc<Shared<F>>,
    options: Options,
    faults: [Fault; 2],
    entries: Arc<Semaphore>,
    kibibytes: Arc<Semaphore>,
    seed: AtomicU64,
    closing: watch::Sender<bool>,
}

/// Proposes to one node's raft; clones share its bounds.
pub(crate) struct Proposer<F: Fold>(Arc<Inner<F>>);

impl<F: Fold> Clone for Proposer<F> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

fn overloaded(what: &'static str, bound: usize) -> ProposeError {
    ProposeError::Overloaded { what, bound }
}

/// What to do after a write or a read was refused.
pub(crate) enum Refused {
    /// Nothing was written, and soon it may be.
    Retry(Option<u64>),
    /// Nothing was written; that node leads.
    Elsewhere(u64),
    Final(ProposeError),
}

impl<F: Fold> Proposer<F> {
    pub(crate) fn new(
        raft: Raft<F>,
        peers: Peers,
        shared: Arc<Shared<F>>,
        options: Options,
        faults: [Fault; 2],
        seed: u64,
    ) -> Self {
        Self(Arc::new(Inner {
            raft,
            peers,
            shared,
            entries: Arc::new(Semaphore::new(options.proposals_max)),
            kibibytes: Arc::new(Semaphore::new(options.proposal_bytes_max >> 10)),
            options,
            faults,
            seed: AtomicU64::new(seed),
            closing: watch::Sender::new(false),
        }))
    }

    pub(crate) fn raft(&self) -> &Raft<F> {
        &self.0.raft
    }

    pub(crate) fn peers(&self) -> &Peers {
        &self.0.peers
    }

    /// A member, as the membership holds it.
    pub(crate) fn member(&self, node: u64) -> Option<Peer> {
        let receiver = self.0.raft.metrics();
        let metrics = receiver.borrow_watched();
        metrics.membership_config.membership().get_node(&node).cloned()
    }

    /// The members, as the membership holds them.
    pub(crate) fn members(&self) -> Vec<(u64, Peer)> {
        let receiver = self.0.raft.metrics();
        let metrics = receiver.borrow_watched();
        metrics.membership_config.membership().nodes().map(|(node, peer)| (*node, peer.clone())).collect()
    }

    /// A member, as it is reached.
    pub(crate) fn target(&self, node: u64) -> Option<Target> {
        self.member(node).map(|peer| target_of(node, &peer))
    }

    /// The leader this node knows, as it is reached.
    pub(crate) fn leader(&self) -> Option<Target> {
        let leader = self.0.raft.metrics().borrow_watched().current_leader?;
        self.target(leader)
    }

    /// A leader that is not this node.
    pub(crate) fn leader_elsewhere(&self) -> Option<u64> {
        let leader = self.0.raft.metrics().borrow_watched().current_leader;
        leader.filter(|leader| *leader != self.0.options.node)
    }

    pub(crate) fn shared(&self) -> &Arc<Shared<F>> {
        &self.0.shared
    }

    pub(crate) fn options(&self) -> &Options {
        &self.0.options
    }

    pub(crate) fn faults(&self) -> &[Fault] {
        &self.0.faults
    }

    pub(crate) fn disk_error(&self) -> Option<String> {
        self.0.faults.iter().find_map(Fault::get)
    }

    pub(crate) fn close(&self) {
        self.0.closing.send_replace(true);
    }

    pub(crate) fn closing(&self) -> watch::Receiver<bool> {
        self.0.closing.subscribe()
    }

    /// Runs a call of openraft inside its deterministic scope, which a handler's task does not inherit.
    pub(crate) async fn scoped<T>(&self, call: impl Future<Output = T>) -> T {
        let seed = self.0.seed.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        Runtime::scope(seed, call).await
    }

    /// Refuses what cannot be written now, whatever it is.
    pub(crate) fn check(&self) -> Result<(), ProposeError> {
        if *self.0.closing.borrow() {
            return Err(ProposeError::ShuttingDown);
        }
        if let Some(why) = self.disk_error() {
            return Err(ProposeError::Stopped { why });
        }
        match self.0.shared.halted() {
            Some(halted) => Err(ProposeError::Halted(halted)),
            None => Ok(()),
        }
    }

    /// Proposes, wherever the leader is.
    pub(crate) async fn propose(&self, entry: Bytes) -> Outcome {
        self.bounded(entry, true).await
    }

    /// Proposes as the leader; refuses when another node leads.
    pub(crate) async fn take(&self, entry: Bytes) -> Outcome {
        self.bounded(entry, false).await
    }

    async fn bounded(&self, entry: Bytes, forwards: bool) -> Outcome {
        self.check()?;
        let bytes = entry.len();
        if bytes > ENTRY_BYTES_MAX {
            return Err(ProposeError::TooLarge { bytes, bytes_max: ENTRY_BYTES_MAX });
        }
        let options = &self.0.options;
        let entries = Arc::clone(&self.0.entries).try_acquire_owned();
        let entries = entries.map_err(|_| overloaded("entries", options.proposals_max))?;
        let kibibytes = u32::try_from((bytes >> 10).saturating_add(1)).unwrap_or(u32::MAX);
        let kibibytes = Arc::clone(&self.0.kibibytes).try_acquire_many_owned(kibibytes);
        let kibibytes = kibibytes.map_err(|_| overloaded("bytes", options.proposal_bytes_max))?;

        self.write_holding(entry, forwards, (entries, kibibytes)).await
    }

    /// As [`Proposer::take`], outside the bounds: for the tick, which is one at a time and must not starve.
    pub(crate) async fn write(&self, entry: Bytes) -> Outcome {
        self.check()?;
        self.write_holding(entry, false, ()).await
    }

    /// Writes, and lets go of `permits` only when nothing of the entry is in raft's hands any more.
    async fn write_holding(&self, entry: Bytes, forwards: bool, permits: impl Send + 'static) -> Outcome {
        let (answer, outcome) = oneshot::channel();
        let this = self.clone();
        let mut writing = Box::pin(async move {
            this.attempts(entry, forwards, answer).await;
            drop(permits);
        });
        // The first poll hands the entry to raft, here, so that callers' entries keep the order of their calls.
        if poll_immediate(&mut writing).await.is_none() {
            tokio::spawn(writing);
        }
        outcome.await.unwrap_or_else(|_| Err(unknown("the write ended without an answer")))
    }

    async fn attempts(&self, entry: Bytes, forwards: bool, mut answer: oneshot::Sender<Outcome>) {
        let time = Duration::from_millis(self.0.options.propose_timeout_ms);
        let until = tokio::time::Instant::now() + time;
        let over = tokio::time::sleep_until(until);
        tokio::pin!(over);
        let mut wait_ms = RETRY_MS_MIN;
        loop {
            let attempt = self.scoped(self.0.raft.client_write(Proposal(entry.clone())));
            tokio::pin!(attempt);
            let answered = tokio::select! {
                biased;
                answered = &mut attempt => answered,
                () = &mut over => {
                    drop(answer.send(Err(unknown("no answer within the time of one call"))));
                    drop(attempt.await);
                    return;
                }
            };
            let refused = match answered {
                Ok(response) => {
                    drop(answer.send(replied(response.log_id.index(), response.data)));
                    return;
                }
                Err(error) => {
                    let mut refused = self.refused_write(error);
                    if let Refused::Elsewhere(leader) = refused
                        && forwards
                    {
                        match self.forward_entry(leader, &entry, until).await {
                            Ok(placed) => {
                                drop(answer.send(Ok(placed)));
                                return;
                            }
                            Err(error) => refused = error,
                        }
                    }
                    match refused {
                        Refused::Final(error) => {
                            drop(answer.send(Err(error)));
                            return;
                        }
                        Refused::Elsewhere(leader) if !forwards => {
                            drop(answer.send(Err(ProposeError::NotLeader { leader: Some(leader) })));
                            return;
                        }
                        Refused::Elsewhere(leader) => ProposeError::NotLeader { leader: Some(leader) },
                        Refused::Retry(leader) => ProposeError::NotLeader { leader },
                    }
                }
            };
            // Between two attempts nothing of this call is in raft: it may end here, and does when nobody listens.
            let stop = tokio::select! {
                biased;
                () = answer.closed() => return,
                () = &mut over => Err(refused),
                () = tokio::time::sleep(Duration::from_millis(wait_ms)) => self.check(),
            };
            if let Err(error) = stop {
                drop(answer.send(Err(error)));
                return;
            }
            wait_ms = wait_ms.saturating_mul(2).min(RETRY_MS_MAX);
        }
    }

    fn refused_write(&self, error: RaftError<Types, ClientWriteError<Types>>) -> Refused {
        match error {
            RaftError::APIError(ClientWriteError::ForwardToLeader(forward)) => self.forward(&forward),
            RaftError::APIError(error) => Refused::Final(unknown(&error.to_string())),
            RaftError::Fatal(fatal) => Refused::Final(unknown(&fatal.to_string())),
        }
    }

    fn forward(&self, forward: &ForwardToLeader<Types>) -> Refused {
        match (forward.leader_id, forward.reason) {
            // Elected, and its lease not yet confirmed; or nobody is elected yet.
            (leader, ForwardReason::LeaseExpired) => Refused::Retry(leader),
            (None, _) => Refused::Retry(None),
            (Some(leader), _) if leader == self.0.options.node => Refused::Retry(Some(leader)),
            (Some(leader), _) => Refused::Elsewhere(leader),
        }
    }

    /// As the leader: a position that everything acknowledged before the call lies at or below.
    pub(crate) async fn read_index(&self) -> Result<u64, ProposeError> {
        self.check()?;
        match self.read_here().await {
            Ok(index) => Ok(index),
            Err(Refused::Final(error)) => Err(error),
            Err(Refused::Elsewhere(leader)) => Err(ProposeError::NotLeader { leader: Some(leader) }),
            Err(Refused::Retry(leader)) => Err(ProposeError::NotLeader { leader }),
        }
    }

    async fn read_here(&self) -> Result<u64, Refused> {
        match self.scoped(self.0.raft.get_read_linearizer(ReadPolicy::ReadIndex)).await {
            Ok(read) => Ok(read.read_log_id().index()),
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward))) => {
                Err(self.forward(&forward))
            }
            // A read changes nothing: without a quorum there is no leader, for now.
            Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_))) => Err(Refused::Retry(None)),
            Err(RaftError::Fatal(fatal)) => {
                Err(Refused::Final(ProposeError::Stopped { why: fatal.to_string() }))
            }
        }
    }

    /// Waits until the state holds everything acknowledged anywhere before the call; answers with its position.
    pub(crate) async fn linearizable(&self) -> Result<u64, ProposeError> {
        let bound = Duration::from_millis(self.0.options.propose_timeout_ms);
        let until = tokio::time::Instant::now() + bound;
        let attempts = async {
            let mut wait_ms = RETRY_MS_MIN;
            loop {
                self.check()?;
                let mut read = self.read_here().await;
                if let Err(Refused::Elsewhere(leader)) = read {
                    read = self.forward_read(leader, until).await;
                }
                match read {
                    Ok(index) => {
                        self.reached(index).await?;
                        self.check()?;
                        return Ok(index);
                    }
                    Err(Refused::Final(error)) => return Err(error),
                    Err(Refused::Retry(_) | Refused::Elsewhere(_)) => {}
                }
                tokio::time::sleep(Duration::from_millis(wait_ms)).await;
                wait_ms = wait_ms.saturating_mul(2).min(RETRY_MS_MAX);
            }
        };
        let in_time = tokio::time::timeout_at(until, attempts).await;
        in_time.unwrap_or(Err(ProposeError::NotLeader { leader: None }))
    }

    /// Waits until this node's state holds the entry at `position`.
    pub(crate) async fn reached(&self, position: u64) -> Result<(), ProposeError> {
        let mut applied = self.0.shared.applied();
        let mut closing = self.closing();
        tokio::select! {
            biased;
            _ = applied.wait_for(|applied| *applied >= position) => Ok(()),
            _ = closing.wait_for(|closing| *closing) => Err(ProposeError::ShuttingDown),
            // A fold that stops does not reach it any more.
            error = async {
                loop {
                    tokio::time::sleep(Duration::from_millis(RETRY_MS_MAX)).await;
                    if let Err(error) = self.check() {
                        return error;
                    }
                }
            } => Err(error),
        }
    }
}

/// What the fold's answer to the entry at `position` means to whoever proposed it.
fn replied(position: u64, answer: Answer) -> Outcome {
    match answer {
        Answer::Reply(reply) => Ok((position, reply)),
        Answer::Halted(halted) if halted.position == position => Err(ProposeError::Violated(halted)),
        // In the log, behind the entry that stopped the fold: applied as soon as somebody gets it going again.
        Answer::Halted(halted) => Err(unknown(&format!("the entry is in the log, not applied: {halted}"))),
        Answer::Nothing => Err(unknown("the entry was answered as raft's own")),
    }
}

pub(crate) fn unknown(why: &str) -> ProposeError {
    ProposeError::Unknown { why: why.to_owned() }
}
