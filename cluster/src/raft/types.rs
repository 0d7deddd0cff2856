//! What openraft's type parameters are here.

use std::fmt;

use bytes::Bytes;
use featureops_proto::log::Reply;
use openraft::impls::leader_id_std;
use openraft_rt::deterministic_rng::DeterministicRng;
use openraft_rt_tokio::TokioRuntime;

use crate::fold::Halted;
use crate::storage::{LogPosition, Vote};

/// An encoded entry of the log, opaque to raft.
#[derive(Clone, PartialEq, Eq)]
pub struct Proposal(pub Bytes);

impl fmt::Debug for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proposal({} bytes)", self.0.len())
    }
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What applying one entry gave.
#[derive(Clone, Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "nearly all are replies, and each lives from apply to its caller: a box would be an allocation a fact batch"
)]
pub enum Answer {
    /// The fold's reply.
    Reply(Reply),
    /// The fold stopped, at this entry or before it: the entry is in the log and was not applied.
    Halted(Halted),
    /// The entry was raft's own.
    Nothing,
}

/// A member as the membership holds it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// Where its peers reach it, a host and a port.
    pub address: String,
    /// That of its data folder. 0 in a log of before there were peers: any.
    pub incarnation: u64,
}

/// The runtime: tokio, with chance that a seed decides in simulation and entropy in production.
pub type Runtime = DeterministicRng<TokioRuntime>;

openraft::declare_raft_types!(
    /// openraft's types. Standard leader ids: one leader per term, so that a log position is a term and an index.
    pub Types:
        D = Proposal,
        R = Answer,
        Node = Peer,
        LeaderId = leader_id_std::LeaderId<Self::Term, Self::NodeId>,
        AsyncRuntime = Runtime,
);

pub type LogId = openraft::type_config::alias::LogIdOf<Types>;
pub type Entry = openraft::type_config::alias::EntryOf<Types>;
pub type RaftVote = openraft::type_config::alias::VoteOf<Types>;
pub type StoredMembership = openraft::type_config::alias::StoredMembershipOf<Types>;
pub type SnapshotMeta = openraft::type_config::alias::SnapshotMetaOf<Types>;
pub type Snapshot = openraft::type_config::alias::SnapshotOf<Types, Bytes>;
pub type Membership = openraft::Membership<u64, Peer>;

/// A position as openraft writes it.
#[must_use]
pub fn log_id(position: LogPosition) -> LogId {
    LogId::new_term_index(position.term, position.index)
}

/// openraft's log id as a position.
#[must_use]
pub fn position(id: &LogId) -> LogPosition {
    LogPosition::new(**id.committed_leader_id(), id.index())
}

/// openraft's vote as stored.
#[must_use]
pub fn stored_vote(vote: &RaftVote) -> Vote {
    Vote { term: vote.leader_id.term, node: vote.leader_id.voted_for, committed: vote.committed }
}

/// A stored vote as openraft's.
#[must_use]
pub fn raft_vote(vote: Vote) -> RaftVote {
    if vote.committed {
        RaftVote::new_committed(vote.term, vote.node)
    } else {
        RaftVote::new(vote.term, vote.node)
    }
}
