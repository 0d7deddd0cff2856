//! What a node that does not lead asks of the leader: to write an entry, to place facts, to say what a read must see.
//!
//! Between a call that was sent and its answer anything may have happened, and that is what is said then: `Unknown`. Only
//! where nothing was sent, or the leader says that nothing was written, is it tried again, at whoever leads by then.

use std::time::Duration;

use bytes::Bytes;
use featureops_proto::log::{Batch, BatchReply, Reply};
use featureops_proto::peer::{
    BarrierRequest, ForwardRequest, IngestRequest, barrier_response, forward_response, ingest_answer,
};
use prost::Message;
use tokio::time::Instant;
use tonic::{Code, Status};

use crate::fold::Fold;
use crate::peer::failure::{Meaning, read};
use crate::peer::{Use, was_not_sent};
use crate::proposer::{ProposeError, Proposer, RETRY_MS_MAX, RETRY_MS_MIN, Refused, unknown};

/// What is left of a call's time.
fn left(until: Instant) -> Duration {
    until.saturating_duration_since(Instant::now())
}

fn meant(meaning: Meaning) -> Refused {
    match meaning {
        Meaning::Again { leader } => Refused::Retry(leader),
        Meaning::Final(error) => Refused::Final(error),
    }
}

/// Whether a call was surely not looked at.
fn unheard(status: &Status) -> bool {
    // The caller is checked before anything else.
    was_not_sent(status) || status.code() == Code::FailedPrecondition
}

fn refused(leader: u64, status: &Status) -> Refused {
    if unheard(status) {
        return Refused::Retry(Some(leader));
    }
    Refused::Final(unknown(&format!("the leader, node {leader}, did not answer: {}", status.message())))
}

impl<F: Fold> Proposer<F> {
    /// Hands an entry to the leader; answers once this node's state holds it, or its time is over.
    pub(crate) async fn forward_entry(
        &self,
        leader: u64,
        entry: &Bytes,
        until: Instant,
    ) -> Result<(u64, Reply), Refused> {
        let Some(target) = self.target(leader) else { return Err(Refused::Retry(Some(leader))) };
        let peers = self.peers();
        let mut client = peers.client(&target.address, Use::Bulk);
        let request = peers.request(&target, ForwardRequest { entry: entry.clone() });
        let answered = peers.call(&target, left(until), client.forward(request)).await;
        let response = answered.map_err(|status| refused(leader, &status))?;
        let placed = match response.outcome {
            Some(forward_response::Outcome::Placed(placed)) => placed,
            Some(forward_response::Outcome::Failure(failure)) => return Err(meant(read(failure))),
            None => return Err(Refused::Final(unknown("the leader answered with no outcome"))),
        };
        let reply = Reply::decode(placed.reply.as_slice());
        let reply =
            reply.map_err(|error| Refused::Final(unknown(&format!("the leader's reply: {error}"))))?;
        // Whoever wrote here reads here. It is written in any case: late is not lost.
        let _ = tokio::time::timeout_at(until, self.reached(placed.position)).await;
        Ok((placed.position, reply))
    }

    /// Asks the leader what a read must see.
    pub(crate) async fn forward_read(&self, leader: u64, until: Instant) -> Result<u64, Refused> {
        let Some(target) = self.target(leader) else { return Err(Refused::Retry(Some(leader))) };
        let peers = self.peers();
        // A leader that does not answer is soon none: not the whole time is spent on it.
        let within = left(until).min(Duration::from_millis(1_000));
        let mut client = peers.client(&target.address, Use::Prompt);
        let request = peers.request(&target, BarrierRequest {});
        match peers.call(&target, within, client.barrier(request)).await {
            Ok(response) => match response.outcome {
                Some(barrier_response::Outcome::Position(position)) => Ok(position),
                Some(barrier_response::Outcome::Failure(failure)) => Err(meant(read(failure))),
                None => Err(Refused::Retry(Some(leader))),
            },
            Err(_) => Err(Refused::Retry(Some(leader))),
        }
    }

    /// Hands batches of facts to the leader's coalescer. A batch that is sent twice counts once, so that it is sent again
    /// until there is an answer or its time is over.
    pub(crate) async fn forward_batches(
        &self,
        batches: &[Batch],
    ) -> Result<Vec<Result<BatchReply, ProposeError>>, ProposeError> {
        let until = Instant::now() + Duration::from_millis(self.options().propose_timeout_ms);
        let encoded: Vec<Bytes> = batches.iter().map(|batch| batch.encode_to_vec().into()).collect();
        let mut wait_ms = RETRY_MS_MIN;
        let mut sent = false;
        loop {
            self.check()?;
            let leader = self.leader_elsewhere();
            if let Some(target) = leader.and_then(|leader| self.target(leader)) {
                let peers = self.peers();
                let mut client = peers.client(&target.address, Use::Bulk);
                let request = peers.request(&target, IngestRequest { batches: encoded.clone() });
                match peers.call(&target, left(until), client.ingest(request)).await {
                    Ok(response) if response.answers.len() == batches.len() => {
                        let answers: Vec<_> =
                            response.answers.into_iter().map(|answer| answered(answer.outcome)).collect();
                        // All together: they are of one moment.
                        if !answers.iter().any(|answer| matches!(answer, Err(Refused::Retry(_)))) {
                            return Ok(answers.into_iter().map(|answer| answer.map_err(ended)).collect());
                        }
                        sent = true;
                    }
                    Ok(_) => return Err(unknown("the leader answered another number of batches")),
                    Err(status) => sent |= !unheard(&status),
                }
            } else if leader.is_none() && self.raft().is_leader() {
                return Err(ProposeError::NotLeader { leader: Some(self.options().node) });
            }
            if left(until).is_zero() {
                return Err(match sent {
                    true => unknown("the leader gave no answer within the time of one call"),
                    false => ProposeError::NotLeader { leader },
                });
            }
            tokio::time::sleep(Duration::from_millis(wait_ms).min(left(until))).await;
            wait_ms = wait_ms.saturating_mul(2).min(RETRY_MS_MAX);
        }
    }
}

fn answered(outcome: Option<ingest_answer::Outcome>) -> Result<BatchReply, Refused> {
    match outcome {
        Some(ingest_answer::Outcome::Reply(reply)) => {
            BatchReply::decode(reply.as_slice()).map_err(|error| Refused::Final(unknown(&error.to_string())))
        }
        Some(ingest_answer::Outcome::Failure(failure)) => Err(meant(read(failure))),
        None => Err(Refused::Final(unknown("the leader answered with no outcome"))),
    }
}

fn ended(refused: Refused) -> ProposeError {
    match refused {
        Refused::Final(error) => error,
        Refused::Retry(leader) => ProposeError::NotLeader { leader },
        Refused::Elsewhere(leader) => ProposeError::NotLeader { leader: Some(leader) },
    }
}
