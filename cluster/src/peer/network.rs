//! raft's network over the links.

use std::error::Error;
use std::future::Future;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use featureops_proto::peer::TransferRequest;
use futures_util::Stream;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use openraft::OptionalSend;
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{Backoff, RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};

use super::{Peers, Target, Use, append, install, wire};
use crate::raft::types::{Peer, RaftVote, Snapshot, Types};

/// Waits between two attempts at a peer that is not there, in milliseconds; the last one goes on.
const BACKOFF_MS: [u64; 4] = [25, 50, 100, 200];
/// Longest wait for a vote, in milliseconds, whatever raft would grant: its disk is in it.
const VOTE_MS_MIN: u64 = 250;

/// Makes the way to each peer.
pub struct Network(pub(crate) Peers);

impl RaftNetworkFactory<Types> for Network {
    type Network = Way;

    async fn new_client(&mut self, target: u64, node: &Peer) -> Way {
        Way { peers: self.0.clone(), target: target_of(target, node), what: Use::Bulk }
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &Peer) -> Way {
        Way { peers: self.0.clone(), target: target_of(target, node), what: Use::Prompt }
    }
}

/// A member as it is reached.
#[must_use]
pub fn target_of(node: u64, peer: &Peer) -> Target {
    Target { node, incarnation: peer.incarnation, address: peer.address.clone() }
}

/// The way to one peer.
pub struct Way {
    peers: Peers,
    target: Target,
    what: Use,
}

pub(super) fn unreachable(error: &(impl Error + 'static)) -> Unreachable<Types> {
    Unreachable::new(error)
}

impl Way {
    async fn ask(
        &mut self,
        request: &VoteRequest<Types>,
        pre_vote: bool,
        option: &RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        let within = option.hard_ttl().max(Duration::from_millis(VOTE_MS_MIN));
        let mut client = self.peers.client(&self.target.address, Use::Prompt);
        let request = self.peers.request(&self.target, wire::vote_request(request, pre_vote));
        let answered = self.peers.call(&self.target, within, client.vote(request)).await;
        let response = answered.map_err(|status| unreachable(&status))?;
        wire::raft_vote_response(response).map_err(|error| unreachable(&error).into())
    }
}

impl RaftNetworkV2<Types> for Way {
    type SnapshotData = Bytes;

    async fn append_entries(
        &mut self,
        _request: AppendEntriesRequest<Types>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        // raft appends by streams only.
        Err(unreachable(&io::Error::from(io::ErrorKind::Unsupported)).into())
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        _option: RPCOption,
    ) -> BoxFuture<
        's,
        Result<BoxStream<'s, Result<StreamAppendResult<Types>, RPCError<Types>>>, RPCError<Types>>,
    >
    where
        S: Stream<Item = AppendEntriesRequest<Types>> + OptionalSend + Unpin + 'static,
    {
        Box::pin(append::open(self.peers.clone(), self.target.clone(), self.what, input))
    }

    async fn vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.ask(&request, false, &option).await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.ask(&request, true, &option).await
    }

    async fn full_snapshot(
        &mut self,
        vote: RaftVote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let sent = install::send(&self.peers, &self.target, &vote, snapshot);
        tokio::select! {
            biased;
            closed = cancel => Err(closed.into()),
            sent = sent => match sent {
                Ok(vote) => Ok(SnapshotResponse::new(vote)),
                Err(status) => {
                    self.peers.fault(&self.target, &status);
                    Err(unreachable(&status).into())
                }
            },
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        let within = option.hard_ttl().max(Duration::from_millis(VOTE_MS_MIN));
        let mut client = self.peers.client(&self.target.address, Use::Prompt);
        let message = TransferRequest {
            from: Some(wire::ballot(request.from_leader())),
            to: *request.to_node_id(),
            last: request.last_log_id().map(wire::position),
        };
        let request = self.peers.request(&self.target, message);
        let answered = self.peers.call(&self.target, within, client.transfer(request)).await;
        let response = answered.map_err(|status| unreachable(&status))?;
        if response.refused.is_empty() {
            return Ok(Ok(()));
        }
        Err(unreachable(&io::Error::other(response.refused)).into())
    }

    fn backoff(&self) -> Option<Backoff> {
        let last = BACKOFF_MS.last().copied().unwrap_or_default();
        let waits = BACKOFF_MS.into_iter().chain(std::iter::repeat(last));
        Some(Backoff::new(waits.map(Duration::from_millis)))
    }
}
