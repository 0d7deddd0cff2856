//! How entries and membership are written to the log and to snapshots: prost messages, additive only.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use bytes::Bytes;
use openraft::EntryPayload;
use prost::Message;

use super::types::{Entry, LogId, Membership, Peer, Proposal, StoredMembership, log_id, position};
use crate::storage::{LogEntry, LogPosition};

/// One log record.
#[derive(Clone, PartialEq, Message)]
struct Record {
    #[prost(oneof = "Body", tags = "1, 2, 3")]
    body: Option<Body>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Body {
    /// A new leader's first entry.
    #[prost(message, tag = "1")]
    Blank(Blank),
    #[prost(bytes = "bytes", tag = "2")]
    Proposal(Bytes),
    #[prost(message, tag = "3")]
    Membership(MembershipRecord),
}

#[derive(Clone, PartialEq, Message)]
struct Blank {}

#[derive(Clone, PartialEq, Message)]
struct MembershipRecord {
    /// One set of voters, or two while the membership changes.
    #[prost(message, repeated, tag = "1")]
    voters: Vec<Voters>,
    #[prost(btree_map = "uint64, string", tag = "2")]
    addresses: BTreeMap<u64, String>,
    /// Of the nodes whose incarnation is known.
    #[prost(btree_map = "uint64, uint64", tag = "3")]
    incarnations: BTreeMap<u64, u64>,
}

#[derive(Clone, PartialEq, Message)]
struct Voters {
    #[prost(uint64, repeated, tag = "1")]
    nodes: Vec<u64>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct PositionRecord {
    #[prost(uint64, tag = "1")]
    term: u64,
    #[prost(uint64, tag = "2")]
    index: u64,
}

/// A membership and where in the log it stands.
#[derive(Clone, PartialEq, Message)]
pub(super) struct StoredMembershipRecord {
    #[prost(message, optional, tag = "1")]
    position: Option<PositionRecord>,
    #[prost(message, optional, tag = "2")]
    membership: Option<MembershipRecord>,
}

fn invalid(why: impl ToString) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.to_string())
}

impl PositionRecord {
    pub(super) fn write(id: &LogId) -> Self {
        let LogPosition { term, index } = position(id);
        Self { term, index }
    }

    pub(super) fn read(&self) -> LogId {
        log_id(LogPosition::new(self.term, self.index))
    }
}

impl MembershipRecord {
    fn write(membership: &Membership) -> Self {
        let voters = membership.get_joint_config().iter();
        let known = membership.nodes().filter(|(_, node)| node.incarnation != 0);
        Self {
            voters: voters.map(|set| Voters { nodes: set.iter().copied().collect() }).collect(),
            addresses: membership.nodes().map(|(id, node)| (*id, node.address.clone())).collect(),
            incarnations: known.map(|(id, node)| (*id, node.incarnation)).collect(),
        }
    }

    fn read(self) -> io::Result<Membership> {
        let voters: Vec<BTreeSet<u64>> =
            self.voters.into_iter().map(|set| set.nodes.into_iter().collect()).collect();
        let peer = |(id, address)| {
            let incarnation = self.incarnations.get(&id).copied().unwrap_or_default();
            (id, Peer { address, incarnation })
        };
        let nodes: BTreeMap<u64, Peer> = self.addresses.into_iter().map(peer).collect();
        if voters.is_empty() && nodes.is_empty() {
            return Ok(Membership::default());
        }
        Membership::new(voters, nodes).map_err(invalid)
    }
}

impl StoredMembershipRecord {
    pub(super) fn write(stored: &StoredMembership) -> Self {
        Self {
            position: stored.log_id().as_ref().map(PositionRecord::write),
            membership: Some(MembershipRecord::write(stored.membership())),
        }
    }

    pub(super) fn read(self) -> io::Result<StoredMembership> {
        let membership = self.membership.unwrap_or_default().read()?;
        Ok(StoredMembership::new(self.position.map(|position| position.read()), membership))
    }
}

/// Encodes a membership as snapshots hold it.
#[must_use]
pub fn encode_membership(stored: &StoredMembership) -> Vec<u8> {
    StoredMembershipRecord::write(stored).encode_to_vec()
}

/// Decodes what [`encode_membership`] wrote.
///
/// # Errors
/// `InvalidData`: it is none.
pub fn decode_membership(bytes: &[u8]) -> io::Result<StoredMembership> {
    StoredMembershipRecord::decode(bytes).map_err(invalid)?.read()
}

/// Encodes an entry for the log.
#[must_use]
pub fn encode(entry: Entry) -> LogEntry {
    let body = match entry.payload {
        EntryPayload::Blank => Body::Blank(Blank {}),
        EntryPayload::Normal(Proposal(bytes)) => Body::Proposal(bytes),
        EntryPayload::Membership(membership) => Body::Membership(MembershipRecord::write(&membership)),
    };
    let payload = Record { body: Some(body) }.encode_to_vec();
    LogEntry { position: position(&entry.log_id), payload: payload.into() }
}

/// Decodes an entry of the log.
///
/// # Errors
/// `InvalidData`: the record is not one of ours.
pub fn decode(entry: LogEntry) -> io::Result<Entry> {
    let at = entry.position;
    let record =
        Record::decode(entry.payload).map_err(|error| invalid(format!("log record {at}: {error}")))?;
    let payload = match record.body {
        Some(Body::Blank(Blank {})) => EntryPayload::Blank,
        Some(Body::Proposal(bytes)) => EntryPayload::Normal(Proposal(bytes)),
        Some(Body::Membership(membership)) => EntryPayload::Membership(membership.read()?),
        None => return Err(invalid(format!("log record {at} is of a kind this version does not know"))),
    };
    Ok(Entry { log_id: log_id(at), payload })
}
