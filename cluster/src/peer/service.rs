//! What this node does for its peers. Each call is checked for who asks before anything else, and runs inside raft's scope.

use std::time::Duration;

use featureops_proto::log::Batch;
use featureops_proto::peer::{
    AppendRequest, AppendResponse, BarrierRequest, BarrierResponse, Caller, ChangeRequest, ChangeResponse,
    EntrustRequest, EntrustResponse, ForwardRequest, ForwardResponse, HelloRequest, HelloResponse,
    IngestAnswer, IngestRequest, IngestResponse, InstallRequest, InstallResponse, Placed, SecretRequest,
    SecretResponse, TransferRequest, TransferResponse, VoteRequest, VoteResponse, barrier_response,
    change_request, change_response, forward_response, ingest_answer,
};
use futures_util::StreamExt;
use futures_util::future::join_all;
use hyper::HeaderMap;
use openraft::raft::TransferLeaderRequest;
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};

use super::caller::{Purpose, check, read};
use super::install::Receiver;
use super::proof::{PEER_KEY_BYTES, PeerKey};
use super::rpc::peer_service_server::PeerService;
use super::{LEVEL, append, failure, wire};
use crate::facts::Facts;
use crate::fold::Fold;
use crate::members::{Change, ChangeError, Newcomer};
use crate::proposer::{ProposeError, Proposer};
use crate::raft::Identity;

/// Answers of a follower that wait to be sent.
const ANSWERS_MAX: usize = 64;
/// How often, and how long, it is looked whether a change is known as committed.
const COMMIT_LOOK: Duration = Duration::from_millis(5);
const COMMIT_PATIENCE: Duration = Duration::from_secs(1);
/// Batches of one call.
const BATCHES_MAX: usize = 4_096;

/// The peer service of one opened node.
#[derive(Clone)]
pub struct Service<F: Fold> {
    proposer: Proposer<F>,
    facts: Facts,
    receiver: Receiver,
    /// Whether whoever calls is on this machine, or nobody reads along.
    near: bool,
}

/// Who may make a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Passed {
    /// A member, by its proof.
    Proven,
    /// Anybody: the method itself looks who asks.
    Anybody,
}

impl<F: Fold> Service<F> {
    pub(crate) fn new(proposer: Proposer<F>, facts: Facts, receiver: Receiver) -> Self {
        Self { proposer, facts, receiver, near: false }
    }

    /// Whether nobody reads along on the way to it, wherever a caller is.
    pub(super) fn is_secured(&self) -> bool {
        self.proposer.options().secured
    }

    /// The same for one connection.
    pub(super) fn over(&self, near: bool) -> Self {
        Self { near, ..self.clone() }
    }

    /// The caller of a call of raft's. One that means this very node brings it into its cluster.
    async fn raft_caller(&self, metadata: &MetadataMap) -> Result<Caller, Status> {
        let own = self.proposer.peers().identity();
        let key = self.proposer.peers().keyring().key();
        let caller =
            check(metadata, &own, Purpose::Raft, key.as_ref()).inspect_err(|_| self.note_call(metadata))?;
        if own.cluster == 0 {
            tracing::info!(
                cluster = format!("{:016x}", caller.cluster),
                by = caller.node,
                "entering a cluster"
            );
            let entered = self.proposer.peers().enter(caller.cluster).await;
            entered.map_err(|error| Status::unavailable(error.to_string()))?;
        }
        Ok(caller)
    }

    fn writer(&self, metadata: &MetadataMap, purpose: Purpose) -> Result<Caller, Status> {
        let peers = self.proposer.peers();
        let caller = check(metadata, &peers.identity(), purpose, peers.keyring().key().as_ref())
            .inspect_err(|_| self.note_call(metadata))?;
        // One that was removed has the key still.
        let is_member = || {
            let known = self.proposer.member(caller.node);
            known.is_some_and(|known| known.incarnation == caller.incarnation || known.incarnation == 0)
        };
        if purpose == Purpose::Write && !is_member() {
            return Err(Status::permission_denied(format!(
                "node {}, incarnation {:016x}, is no member: let it join with an empty data folder",
                caller.node, caller.incarnation
            )));
        }
        Ok(caller)
    }

    /// Checks who calls a method, before anything of the call is decoded. The handlers check it again, each for itself.
    pub(super) fn let_pass(&self, path: &str, headers: &HeaderMap) -> Result<Passed, Status> {
        let purpose = match path.rsplit('/').next() {
            Some("Vote" | "Append" | "Install" | "Transfer") => Purpose::Raft,
            // Asked by those who are in no cluster yet; none of them holds a list.
            Some("Hello" | "Change" | "Entrust") => return Ok(Passed::Anybody),
            _ => Purpose::Write,
        };
        self.writer(&MetadataMap::from_headers(headers.clone()), purpose).map(|_| Passed::Proven)
    }

    /// What a refused call says of this node.
    fn note_call(&self, metadata: &MetadataMap) {
        if let Ok(caller) = read(metadata) {
            self.proposer.peers().called_as_before(&caller);
        }
    }

    /// Whether a caller is of this cluster, by its proof; by its word where there is no key.
    fn is_of_cluster(&self, caller: &Caller) -> bool {
        let peers = self.proposer.peers();
        let own = peers.identity().cluster;
        own != 0 && caller.cluster == own && peers.keyring().key().is_none_or(|key| key.proves(caller))
    }

    /// Lets a node in that asks for itself, by the token that it shows: its name; empty where nobody asks for one.
    async fn let_in(&self, caller: &Caller, newcomer: &Newcomer, token: &str) -> Result<String, ChangeError> {
        let refused = |why: String| Err(ChangeError::Refused { why });
        if caller.node != newcomer.node || caller.incarnation != newcomer.incarnation {
            return refused(format!(
                "node {} asks for node {}: whoever is no member asks for itself",
                caller.node, newcomer.node
            ));
        }
        if !self.proposer.raft().is_leader() {
            return Err(ProposeError::NotLeader { leader: self.proposer.leader_elsewhere() }.into());
        }
        // Only one that was let in already and did not hear of it asks again; who moved has the key, and proves it.
        let known = self.proposer.member(newcomer.node);
        if known.is_some_and(|known| {
            known.incarnation != newcomer.incarnation || known.address != newcomer.address
        }) {
            return refused(format!(
                "node {} is a member, and this one does not prove that it is the same: remove node {} first, or give this one \
                 another number",
                newcomer.node, newcomer.node
            ));
        }
        // Whoever shows nothing of worth costs the others nothing.
        if let Err(why) = self.proposer.shared().read(|state| state.admits(token)) {
            return refused(why);
        }
        // Whatever was revoked before this is known here then.
        self.proposer.linearizable().await?;
        match self.proposer.shared().read(|state| state.admits(token)) {
            Ok(name) => {
                tracing::info!(node = newcomer.node, token = name, "a node asks to be let in");
                Ok(name)
            }
            Err(why) => refused(why),
        }
    }

    /// Notes in the log which token let a node in, before anybody else notes that it is there. Should it fail, the leader notes the
    /// members a moment later, under its own name.
    async fn note_admission(&self, token: &str, position: u64) {
        let committed = async {
            loop {
                match crate::members::committed(&self.proposer) {
                    Some((index, members)) if index >= position => return (index, members),
                    _ => tokio::time::sleep(COMMIT_LOOK).await,
                }
            }
        };
        let Ok((index, members)) = tokio::time::timeout(COMMIT_PATIENCE, committed).await else { return };
        let Some(entry) = F::admission(token, index, members) else { return };
        if let Err(error) = self.proposer.take(entry.into()).await {
            tracing::warn!(error = %error, token, "it was not noted which token let a node in");
        }
    }

    /// Refuses what is secret where others could read along.
    fn check_near(&self) -> Result<(), Status> {
        if self.near {
            return Ok(());
        }
        Err(Status::permission_denied(
            "this port has no TLS: keys are handed over on one machine only; give the nodes --peer-tls-cert, --peer-tls-key and \
             --peer-tls-ca, or copy unit.key and peer.key (mode 0600) from another node's data folder into the calling node's",
        ))
    }
}

fn invalid(error: impl ToString) -> Status {
    Status::invalid_argument(error.to_string())
}

/// What a node shows that asks to be let in.
fn join_token(request: &ChangeRequest) -> &str {
    match &request.change {
        Some(change_request::Change::Admit(admit)) => &admit.join_token,
        _ => "",
    }
}

fn ended(error: impl ToString) -> Status {
    Status::unavailable(error.to_string())
}

#[tonic::async_trait]
impl<F: Fold> PeerService for Service<F> {
    async fn hello(&self, request: Request<HelloRequest>) -> Result<Response<HelloResponse>, Status> {
        self.writer(request.metadata(), Purpose::Join)?;
        let peers = self.proposer.peers();
        let Identity { cluster, node, incarnation } = peers.identity();
        let leader = self.proposer.leader();
        let begun = self.proposer.scoped(self.proposer.raft().is_initialized()).await.map_err(ended)?;
        let (feature_level, feature_level_max) =
            self.proposer.shared().read(|state| (state.feature_level(), state.feature_level_max()));
        Ok(Response::new(HelloResponse {
            cluster,
            node,
            incarnation,
            level: LEVEL,
            clock_ms: peers.clock_ms(),
            leader: leader.as_ref().map(|leader| leader.node),
            leader_address: leader.map(|leader| leader.address).unwrap_or_default(),
            empty: !begun,
            feature_level_max,
            feature_level,
            release: self.proposer.options().release.clone(),
            peer_key_id: peers.keyring().key().map_or(0, |key| key.id()),
        }))
    }

    async fn vote(&self, request: Request<VoteRequest>) -> Result<Response<VoteResponse>, Status> {
        self.raft_caller(request.metadata()).await?;
        let request = request.into_inner();
        let pre_vote = request.pre_vote;
        let request = wire::raft_vote_request(request).map_err(invalid)?;
        let raft = self.proposer.raft();
        let response = if pre_vote {
            self.proposer.scoped(raft.pre_vote(request)).await
        } else {
            self.proposer.scoped(raft.vote(request)).await
        };
        Ok(Response::new(wire::vote_response(&response.map_err(ended)?)))
    }

    type AppendStream = ReceiverStream<Result<AppendResponse, Status>>;

    async fn append(
        &self,
        request: Request<Streaming<AppendRequest>>,
    ) -> Result<Response<Self::AppendStream>, Status> {
        self.raft_caller(request.metadata()).await?;
        let requests = append::requests(request.into_inner());
        let (answers, receiver) = mpsc::channel(ANSWERS_MAX);
        let proposer = self.proposer.clone();
        let scope = self.proposer.clone();
        tokio::spawn(async move {
            let serve = async {
                let results = proposer.raft().stream_append(requests);
                let mut results = std::pin::pin!(results);
                while let Some(result) = results.next().await {
                    let (clock_ms, boot) = (proposer.peers().clock_ms(), proposer.peers().boot());
                    let answer = result.map(|result| wire::append_response(&result, clock_ms, boot));
                    let answer = answer.map_err(ended);
                    if answers.send(answer).await.is_err() {
                        return;
                    }
                }
            };
            let mut closing = scope.closing();
            tokio::select! {
                biased;
                _ = closing.wait_for(|closing| *closing) => {}
                () = scope.scoped(serve) => {}
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    type InstallStream = ReceiverStream<Result<InstallResponse, Status>>;

    async fn install(
        &self,
        request: Request<Streaming<InstallRequest>>,
    ) -> Result<Response<Self::InstallStream>, Status> {
        self.raft_caller(request.metadata()).await?;
        let received = self.receiver.receive(self.proposer.clone(), request.into_inner()).await?;
        Ok(Response::new(received))
    }

    async fn forward(&self, request: Request<ForwardRequest>) -> Result<Response<ForwardResponse>, Status> {
        self.writer(request.metadata(), Purpose::Write)?;
        let entry = request.into_inner().entry;
        // At the door, as one of this node's own: in the log it would stop the fold everywhere.
        F::inspect(&entry).map_err(|why| invalid(format!("the entry was not taken: {why}")))?;
        let outcome = match self.proposer.take(entry).await {
            Ok((position, reply)) => {
                forward_response::Outcome::Placed(Placed { position, reply: reply.encode_to_vec() })
            }
            Err(error) => forward_response::Outcome::Failure(failure::write(&error)),
        };
        Ok(Response::new(ForwardResponse { outcome: Some(outcome) }))
    }

    async fn ingest(&self, request: Request<IngestRequest>) -> Result<Response<IngestResponse>, Status> {
        self.writer(request.metadata(), Purpose::Write)?;
        let batches = request.into_inner().batches;
        if batches.len() > BATCHES_MAX {
            return Err(invalid(format!("{} batches are over the bound of {BATCHES_MAX}", batches.len())));
        }
        let batches =
            batches.into_iter().map(Batch::decode).collect::<Result<Vec<_>, _>>().map_err(invalid)?;
        // In order: each takes its place in the queue at its first poll.
        let answers = join_all(batches.into_iter().map(|batch| self.facts.ingest_here(batch))).await;
        let answer = |answer: Result<featureops_proto::log::BatchReply, _>| {
            let outcome = match answer {
                Ok(reply) => ingest_answer::Outcome::Reply(reply.encode_to_vec()),
                Err(error) => ingest_answer::Outcome::Failure(failure::write(&error)),
            };
            IngestAnswer { outcome: Some(outcome) }
        };
        Ok(Response::new(IngestResponse { answers: answers.into_iter().map(answer).collect() }))
    }

    async fn barrier(&self, request: Request<BarrierRequest>) -> Result<Response<BarrierResponse>, Status> {
        self.writer(request.metadata(), Purpose::Write)?;
        let outcome = match self.proposer.read_index().await {
            Ok(position) => barrier_response::Outcome::Position(position),
            Err(error) => barrier_response::Outcome::Failure(failure::write(&error)),
        };
        Ok(Response::new(BarrierResponse { outcome: Some(outcome) }))
    }

    async fn transfer(
        &self,
        request: Request<TransferRequest>,
    ) -> Result<Response<TransferResponse>, Status> {
        self.raft_caller(request.metadata()).await?;
        let request = request.into_inner();
        let from = wire::vote(request.from).map_err(invalid)?;
        let request = TransferLeaderRequest::new(from, request.to, request.last.map(wire::log_id));
        let taken = self.proposer.scoped(self.proposer.raft().handle_transfer_leader(request)).await;
        let refused = taken.map_err(ended)?.err().map(|error| error.to_string()).unwrap_or_default();
        Ok(Response::new(TransferResponse { refused }))
    }

    async fn change(&self, request: Request<ChangeRequest>) -> Result<Response<ChangeResponse>, Status> {
        let request_change = Change::read(request.get_ref()).ok_or_else(|| invalid("no known change"))?;
        let purpose = match request_change {
            Change::Admit(_) => Purpose::Join,
            _ => Purpose::Write,
        };
        let caller = self.writer(request.metadata(), purpose)?;
        let made = async {
            if let Change::Admit(newcomer) = &request_change
                && !self.is_of_cluster(&caller)
            {
                let token = self.let_in(&caller, newcomer, join_token(request.get_ref())).await?;
                let position = crate::members::change_here(&self.proposer, &request_change).await?;
                if !token.is_empty() {
                    self.note_admission(&token, position).await;
                }
                return Ok(position);
            }
            crate::members::change_here(&self.proposer, &request_change).await
        };
        let outcome = match made.await {
            Ok(position) => change_response::Outcome::Position(position),
            Err(ChangeError::Refused { why }) => change_response::Outcome::Refused(why),
            Err(ChangeError::Failed(error)) => change_response::Outcome::Failure(failure::write(&error)),
        };
        Ok(Response::new(ChangeResponse { outcome: Some(outcome) }))
    }

    async fn secret(&self, request: Request<SecretRequest>) -> Result<Response<SecretResponse>, Status> {
        let caller = self.writer(request.metadata(), Purpose::Write)?;
        self.check_near()?;
        let known = self.proposer.member(caller.node);
        if known.is_none_or(|known| known.incarnation != caller.incarnation) {
            return Err(Status::permission_denied(format!("node {} is no member", caller.node)));
        }
        let secret = self.proposer.options().secret.as_ref().and_then(|secret| (secret.0)());
        Ok(Response::new(SecretResponse { secret: secret.unwrap_or_default() }))
    }

    async fn entrust(&self, request: Request<EntrustRequest>) -> Result<Response<EntrustResponse>, Status> {
        let caller = self.writer(request.metadata(), Purpose::Join)?;
        self.check_near()?;
        let bytes = request.into_inner().peer_key;
        let length = bytes.len();
        let key = <[u8; PEER_KEY_BYTES]>::try_from(bytes)
            .map_err(|_| invalid(format!("peer_key: has {length} bytes, a key has {PEER_KEY_BYTES}")))?;
        let key = PeerKey::new(key);
        let peers = self.proposer.peers();
        let own = peers.identity();
        let refuse = |why: String| Err(Status::failed_precondition(why));
        if caller.cluster == 0 || caller.to_node != own.node || caller.to_incarnation != own.incarnation {
            return refuse(format!("node {} is entrusted with a key by a member that means it", own.node));
        }
        match peers.keyring().key() {
            Some(held) if held == key => return Ok(Response::new(EntrustResponse {})),
            Some(held) if own.cluster != 0 => {
                return refuse(format!(
                    "node {} holds peer key {:016x}, and node {} hands over {:016x}: copy peer.key from the data folder of the \
                     members that the cluster goes on with",
                    own.node,
                    held.id(),
                    caller.node,
                    key.id()
                ));
            }
            // Before there was a key, a member is one by its word.
            None if own.cluster != 0
                && self
                    .proposer
                    .member(caller.node)
                    .is_none_or(|known| known.incarnation != caller.incarnation) =>
            {
                return refuse(format!("node {} is no member that node {} knows", caller.node, own.node));
            }
            _ => {}
        }
        let kept = peers.keyring().keep(peers.environment(), key).await;
        kept.map_err(|error| Status::unavailable(format!("the peer key was not kept: {error}")))?;
        tracing::info!(by = caller.node, "entrusted with the cluster's peer key");
        Ok(Response::new(EntrustResponse {}))
    }
}
