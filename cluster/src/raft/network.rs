//! The way to the other nodes. A cluster of one voter has none, and says so: every peer is unreachable.

use std::future::Future;
use std::io;

use bytes::Bytes;
use openraft::OptionalSend;
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::impls::BasicNode;
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
};

use super::types::{RaftVote, Snapshot, Types};

/// Reaches nobody.
#[derive(Clone, Copy, Debug, Default)]
pub struct AbsentPeers;

/// One peer that is not reached.
#[derive(Clone, Copy, Debug)]
pub struct AbsentPeer {
    node: u64,
}

impl AbsentPeer {
    fn unreachable(&self) -> Unreachable<Types> {
        let text = format!("no network to node {}: this node runs alone", self.node);
        Unreachable::new(&io::Error::new(io::ErrorKind::NotConnected, text))
    }
}

impl RaftNetworkFactory<Types> for AbsentPeers {
    type Network = AbsentPeer;

    async fn new_client(&mut self, target: u64, _node: &BasicNode) -> AbsentPeer {
        AbsentPeer { node: target }
    }
}

impl RaftNetworkV2<Types> for AbsentPeer {
    type SnapshotData = Bytes;

    async fn append_entries(
        &mut self,
        _request: AppendEntriesRequest<Types>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        Err(self.unreachable().into())
    }

    async fn vote(
        &mut self,
        _request: VoteRequest<Types>,
        _option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        Err(self.unreachable().into())
    }

    async fn pre_vote(
        &mut self,
        _request: VoteRequest<Types>,
        _option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        // openraft's default grants without asking, which an absent peer must not.
        Err(self.unreachable().into())
    }

    async fn full_snapshot(
        &mut self,
        _vote: RaftVote,
        _snapshot: Snapshot,
        _cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        Err(self.unreachable().into())
    }
}
