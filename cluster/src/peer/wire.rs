//! raft's messages as they are sent, and back. What a peer sends is looked at field by field: damage is an error.

use std::io;

use featureops_proto::peer::{
    AppendRequest, AppendResponse, Ballot, LogEntry as WireEntry, Matching, Position, VoteRequest,
    VoteResponse, append_response,
};
use openraft::raft::{AppendEntriesRequest, StreamAppendError, StreamAppendResult};

use crate::raft::record;
use crate::raft::types::{self, LogId, RaftVote, Types, raft_vote, stored_vote};
use crate::storage::{LogEntry, LogPosition, Vote};

fn invalid(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.to_owned())
}

/// A vote.
#[must_use]
pub fn ballot(vote: &RaftVote) -> Ballot {
    let Vote { term, node, committed } = stored_vote(vote);
    Ballot { term, node, committed }
}

/// A vote that a message must hold.
///
/// # Errors
/// It has none.
pub fn vote(ballot: Option<Ballot>) -> io::Result<RaftVote> {
    let Ballot { term, node, committed } = ballot.ok_or_else(|| invalid("the message has no vote"))?;
    Ok(raft_vote(Vote { term, node, committed }))
}

/// A place in the log.
#[must_use]
pub fn position(id: &LogId) -> Position {
    let LogPosition { term, index } = types::position(id);
    Position { term, index }
}

/// A place in the log, as raft has it.
#[must_use]
pub fn log_id(position: Position) -> LogId {
    types::log_id(LogPosition::new(position.term, position.index))
}

/// raft's request for a vote.
#[must_use]
pub fn vote_request(request: &openraft::raft::VoteRequest<Types>, pre_vote: bool) -> VoteRequest {
    VoteRequest {
        vote: Some(ballot(&request.vote)),
        last: request.last_log_id.as_ref().map(position),
        leadership_transfer: request.leadership_transfer,
        pre_vote,
    }
}

/// A request for a vote, as raft has it.
///
/// # Errors
/// It names no vote.
pub fn raft_vote_request(request: VoteRequest) -> io::Result<openraft::raft::VoteRequest<Types>> {
    let mut raft = openraft::raft::VoteRequest::new(vote(request.vote)?, request.last.map(log_id));
    raft.leadership_transfer = request.leadership_transfer;
    Ok(raft)
}

/// raft's answer to a request for a vote.
#[must_use]
pub fn vote_response(response: &openraft::raft::VoteResponse<Types>) -> VoteResponse {
    VoteResponse {
        vote: Some(ballot(&response.vote)),
        granted: response.vote_granted,
        last: response.last_log_id.as_ref().map(position),
    }
}

/// An answer to a request for a vote, as raft has it.
///
/// # Errors
/// It names no vote.
pub fn raft_vote_response(response: VoteResponse) -> io::Result<openraft::raft::VoteResponse<Types>> {
    let last = response.last.map(log_id);
    Ok(openraft::raft::VoteResponse::new(vote(response.vote)?, last, response.granted))
}

/// Entries for a follower.
#[must_use]
pub fn append_request(request: AppendEntriesRequest<Types>) -> AppendRequest {
    let entry = |entry| {
        let LogEntry { position, payload } = record::encode(entry);
        WireEntry { term: position.term, index: position.index, record: payload }
    };
    AppendRequest {
        vote: Some(ballot(&request.vote)),
        previous: request.prev_log_id.as_ref().map(position),
        entries: request.entries.into_iter().map(entry).collect(),
        committed: request.leader_commit.as_ref().map(position),
    }
}

/// Entries from the leader, as raft has them: each behind the one before.
///
/// # Errors
/// There is no vote, an entry is of no known kind, or they do not follow one another.
pub fn raft_append_request(request: AppendRequest) -> io::Result<AppendEntriesRequest<Types>> {
    let mut next = request.previous.as_ref().map_or(0, |previous| previous.index.saturating_add(1));
    let entries = request.entries.into_iter().map(|entry| {
        // raft takes it for granted, and panics otherwise.
        if entry.index != next {
            return Err(invalid("the entries do not follow one another"));
        }
        next = next.saturating_add(1);
        let position = LogPosition::new(entry.term, entry.index);
        record::decode(LogEntry { position, payload: entry.record })
    });
    let entries = entries.collect::<io::Result<_>>()?;
    Ok(AppendEntriesRequest {
        vote: vote(request.vote)?,
        prev_log_id: request.previous.map(log_id),
        entries,
        leader_commit: request.committed.map(log_id),
    })
}

/// raft's answer to entries.
#[must_use]
pub fn append_response(result: &StreamAppendResult<Types>, clock_ms: i64, boot: u64) -> AppendResponse {
    let result = match result {
        Ok(matching) => {
            append_response::Result::Matching(Matching { position: matching.as_ref().map(position) })
        }
        Err(StreamAppendError::Conflict(at)) => append_response::Result::Conflict(position(at)),
        Err(StreamAppendError::HigherVote(vote)) => append_response::Result::HigherVote(ballot(vote)),
    };
    AppendResponse { result: Some(result), clock_ms, boot }
}

/// An answer to entries, as raft has it.
///
/// # Errors
/// It is none that this release knows.
pub fn raft_append_response(response: AppendResponse) -> io::Result<StreamAppendResult<Types>> {
    match response.result {
        Some(append_response::Result::Matching(matching)) => Ok(Ok(matching.position.map(log_id))),
        Some(append_response::Result::Conflict(at)) => Ok(Err(StreamAppendError::Conflict(log_id(at)))),
        Some(append_response::Result::HigherVote(ballot)) => {
            Ok(Err(StreamAppendError::HigherVote(vote(Some(ballot))?)))
        }
        None => Err(invalid("the answer to entries is of a kind this release does not know")),
    }
}
