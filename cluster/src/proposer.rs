//! Proposing: one entry in, its place and its reply out, or an honest account of why not.
//!
//! Everything is bounded: entries in flight, their bytes, the time one call may take. After an election openraft refuses
//! writes until its lease stands; that is retried here, within the call's time, since nothing was written yet.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use featureops_proto::log::Reply;
use openraft::errors::{ClientWriteError, ForwardReason, ForwardToLeader, LinearizableReadError, RaftError};
use openraft::raft::ReadPolicy;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};

use crate::fold::{Fold, Halted};
use crate::options::Options;
use crate::raft::machine::{Machine, Shared};
use crate::raft::types::{Answer, Proposal, Runtime, Types};
use crate::storage::{ENTRY_BYTES_MAX, Fault};

/// First wait before a refused write is tried again; doubles up to [`RETRY_MS_MAX`].
const RETRY_MS_MIN: u64 = 5;
const RETRY_MS_MAX: u64 = 100;

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
    /// The fold has stopped. If its position is this entry's, the entry is in the log and was not applied.
    #[error("{0}; run `featureops doctor`")]
    Halted(Halted),
    /// The node is ending. Nothing was written.
    #[error("this node is shutting down; ask another one")]
    ShuttingDown,
    /// The node stopped writing after an error of its disk. Nothing was written.
    #[error("this node stopped writing: {why}; see its disk, then restart it")]
    Stopped {
        /// The error.
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

pub(crate) type Raft<F> = openraft::Raft<Types, Machine<F>>;

struct Inner<F: Fold> {
    raft: Raft<F>,
    shared: Arc<Shared<F>>,
    options: Options,
    faults: [Fault; 2],
    entries: Semaphore,
    kibibytes: Semaphore,
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

/// What to do after openraft refused a write or a read.
enum Refused {
    /// Nothing was written, and soon it may be.
    Retry(Option<u64>),
    Final(ProposeError),
}

impl<F: Fold> Proposer<F> {
    pub(crate) fn new(
        raft: Raft<F>,
        shared: Arc<Shared<F>>,
        options: Options,
        faults: [Fault; 2],
        seed: u64,
    ) -> Self {
        Self(Arc::new(Inner {
            raft,
            shared,
            entries: Semaphore::new(options.proposals_max),
            kibibytes: Semaphore::new(options.proposal_bytes_max >> 10),
            options,
            faults,
            seed: AtomicU64::new(seed),
            closing: watch::Sender::new(false),
        }))
    }

    pub(crate) fn raft(&self) -> &Raft<F> {
        &self.0.raft
    }

    pub(crate) fn shared(&self) -> &Arc<Shared<F>> {
        &self.0.shared
    }

    pub(crate) fn options(&self) -> &Options {
        &self.0.options
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

    fn check(&self) -> Result<(), ProposeError> {
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

    pub(crate) async fn propose(&self, entry: Bytes) -> Result<(u64, Reply), ProposeError> {
        self.check()?;
        let bytes = entry.len();
        if bytes > ENTRY_BYTES_MAX {
            return Err(ProposeError::TooLarge { bytes, bytes_max: ENTRY_BYTES_MAX });
        }
        let options = &self.0.options;
        let _entry =
            self.0.entries.try_acquire().map_err(|_| overloaded("entries", options.proposals_max))?;
        let kibibytes = u32::try_from((bytes >> 10).saturating_add(1)).unwrap_or(u32::MAX);
        let _bytes = self
            .0
            .kibibytes
            .try_acquire_many(kibibytes)
            .map_err(|_| overloaded("bytes", options.proposal_bytes_max))?;

        self.write(entry).await
    }

    /// As [`Proposer::propose`], outside the bounds: for the tick, which is one at a time and must not starve.
    pub(crate) async fn write(&self, entry: Bytes) -> Result<(u64, Reply), ProposeError> {
        self.check()?;
        let refused = Mutex::new(None);
        let attempts = async {
            let mut wait_ms = RETRY_MS_MIN;
            loop {
                *refused.lock() = None;
                let answer = self.scoped(self.0.raft.client_write(Proposal(entry.clone()))).await;
                match answer {
                    Ok(response) => {
                        return match response.data {
                            Answer::Reply(reply) => Ok((response.log_id.index(), reply)),
                            Answer::Halted(halted) => Err(ProposeError::Halted(halted)),
                            Answer::Nothing => Err(unknown("the entry was answered as raft's own")),
                        };
                    }
                    Err(error) => match self.refused_write(error) {
                        Refused::Final(error) => return Err(error),
                        Refused::Retry(leader) => *refused.lock() = Some(ProposeError::NotLeader { leader }),
                    },
                }
                tokio::time::sleep(Duration::from_millis(wait_ms)).await;
                // Between two attempts nothing of this call is in raft.
                self.check()?;
                wait_ms = wait_ms.saturating_mul(2).min(RETRY_MS_MAX);
            }
        };
        // Out of time between two attempts: nothing is in raft. During one: nobody knows.
        self.bounded(attempts).await.unwrap_or_else(|| {
            Err(refused.lock().take().unwrap_or_else(|| unknown("no answer within the time of one call")))
        })
    }

    async fn bounded<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::time::timeout(Duration::from_millis(self.0.options.propose_timeout_ms), work).await.ok()
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
            (leader, _) => Refused::Final(ProposeError::NotLeader { leader }),
        }
    }

    /// Position up to which the state holds everything acknowledged before the call.
    pub(crate) async fn linearizable(&self) -> Result<u64, ProposeError> {
        let attempts = async {
            let mut wait_ms = RETRY_MS_MIN;
            loop {
                self.check()?;
                match self.scoped(self.0.raft.ensure_linearizable(ReadPolicy::ReadIndex)).await {
                    Ok(read) => {
                        self.check()?;
                        return Ok(read.log_id().index());
                    }
                    Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward))) => {
                        match self.forward(&forward) {
                            Refused::Final(error) => return Err(error),
                            Refused::Retry(_) => {}
                        }
                    }
                    // A read changes nothing: without a quorum there is no leader, for now.
                    Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_))) => {}
                    Err(RaftError::Fatal(fatal)) => {
                        return Err(ProposeError::Stopped { why: fatal.to_string() });
                    }
                }
                tokio::time::sleep(Duration::from_millis(wait_ms)).await;
                wait_ms = wait_ms.saturating_mul(2).min(RETRY_MS_MAX);
            }
        };
        self.bounded(attempts).await.unwrap_or(Err(ProposeError::NotLeader { leader: None }))
    }
}

fn unknown(why: &str) -> ProposeError {
    ProposeError::Unknown { why: why.to_owned() }
}
