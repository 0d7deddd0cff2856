//! The cluster: members, their changes, who leads. What a change may do is the cluster room's to say; here it is asked, and
//! noted in the log under the name of whoever asked.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use featureops_cluster::{Change, ChangeError, Health, MemberHealth, Newcomer};
use featureops_proto::log::{Entry, LivenessMark, NoteLiveness, NoteMembers, entry};
use featureops_proto::timestamp_if_set;
use featureops_proto::v1::{
    AddLearnerRequest, Cluster, DrainMemberRequest, GetClusterRequest, InitializeClusterRequest,
    JoinClusterRequest, Member, OwnerMove, Principal, PromoteMemberRequest, RebalanceOwnersRequest,
    RebalanceOwnersResponse, RemoveMemberRequest, ReplaceMemberRequest, SetOwnerWeightRequest,
    TransferLeadershipRequest, member,
};
use featureops_state::liveness::{OWNER_WEIGHT, weight_of};
use featureops_state::placement::{Candidate, Owned, moves};
use featureops_state::{MAX_MEMBERS, State};
use prost::Message as _;
use tonic::{Request, Response, Status};
use xxhash_rust::xxh3::xxh3_64;

use crate::caller;
use crate::config::is_reachable;
use crate::host::{Host, Write};
use crate::identity::{give_identity, take_key};
use crate::placement;
use crate::refusal;
use crate::replica::failure;
use crate::rpc::cluster_service_server::ClusterService;
use crate::sent::{Sent, sent};
use crate::services::{self, person};

/// How long a node that founds a cluster waits to lead it.
const LEAD_MS_MAX: u64 = 5_000;
/// How often, and how many times, it is looked whether a change is known here as committed: a second in all.
const COMMIT_LOOK: Duration = Duration::from_millis(10);
const COMMIT_LOOKS: usize = 100;
/// How often the leader looks whether the members are noted.
const NOTE_INTERVAL: Duration = Duration::from_secs(1);
/// Moves of owners that an answer tells one by one.
const MOVES_TOLD_MAX: usize = 1_000;

/// The service.
pub struct Clusters(pub Arc<Host>);

fn changed(error: ChangeError) -> Status {
    match error {
        ChangeError::Refused { why } => refusal::not_now(why),
        ChangeError::Failed(error) => failure(error).into(),
    }
}

fn number(node: u64, field: &str) -> Result<u64, Status> {
    if (1..=65_535).contains(&node) {
        return Ok(node);
    }
    Err(refusal::invalid(field, node, "is no node's number; they are 1 to 65535"))
}

fn address(text: &str, field: &str) -> Result<String, Status> {
    if is_reachable(text) {
        return Ok(text.to_owned());
    }
    Err(refusal::invalid(field, text, "is not a host and a port, as node-2:7401"))
}

/// Waits until this node knows that the change at `position` is committed, a bounded time.
async fn committed(host: &Host, position: u64) {
    for _ in 0..COMMIT_LOOKS {
        match host.replica.member().committed_members() {
            Some((index, _)) if index >= position => return,
            _ => tokio::time::sleep(COMMIT_LOOK).await,
        }
    }
}

/// Notes the committed members in the log, if they are newer than those noted.
///
/// # Errors
/// There was no answer, or the fold refused.
async fn note(host: &Host, principal: Principal, request_id: String, asked: String) -> Result<(), Status> {
    let Some((index, members)) = host.replica.member().committed_members() else { return Ok(()) };
    if asked.is_empty() && index <= host.replica.read(State::members_index) {
        return Ok(());
    }
    host.propose(&noted(principal, request_id, NoteMembers { index, members, asked })).await.map(drop)
}

/// The entry of a note. What was asked for is what its request id stands for.
fn noted(principal: Principal, request_id: String, note: NoteMembers) -> Entry {
    Entry {
        principal: Some(principal),
        request_id,
        sent_hash: (!note.asked.is_empty()).then(|| xxh3_64(note.asked.as_bytes())),
        command: Some(entry::Command::NoteMembers(note)),
        ..Entry::default()
    }
}

/// Refuses a request id that stands for another change: repeated, it would be taken for the answer to this one.
fn check_request_id(host: &Host, principal: &Principal, request_id: &str, asked: &str) -> Result<(), Status> {
    if request_id.is_empty() {
        return Ok(());
    }
    let note = NoteMembers { asked: asked.to_owned(), ..NoteMembers::default() };
    let entry = noted(principal.clone(), request_id.to_owned(), note).encode_to_vec();
    match host.replica.read(|state| state.used_for_other(&entry)) {
        Ok(Some(refusal)) => Err(refusal::refused(&refusal)),
        _ => Ok(()),
    }
}

/// A change in words, for the audit.
fn told(change: &Change) -> String {
    match change {
        Change::Admit(Newcomer { node, address, .. }) => format!("admit node {node} at {address}"),
        Change::Promote(node) => format!("promote node {node}"),
        Change::Remove(node) => format!("remove node {node}"),
        Change::Replace { old, new } => format!("replace node {old} by node {new}"),
        Change::Transfer(node) => format!("transfer leadership to node {node}"),
    }
}

/// Notes what nobody did: a node that joined by itself, and what was lost on the way. Ends with the node.
pub async fn follow_members(host: Arc<Host>) {
    let mut seen = 0;
    loop {
        tokio::time::sleep(NOTE_INTERVAL).await;
        if !host.replica.health().leads || !host.replica.read(State::is_initialized) {
            continue;
        }
        let Some((index, _)) = host.replica.member().committed_members() else { continue };
        // Whoever asked for it comes first.
        if std::mem::replace(&mut seen, index) == index
            && let Err(status) = note(&host, caller::system("membership"), String::new(), String::new()).await
        {
            tracing::debug!(why = status.message(), "the members are not noted yet");
        }
    }
}

impl Clusters {
    /// Makes a change of the membership for a caller, and answers with what came of it.
    async fn change<T>(
        &self,
        from: &Request<T>,
        request_id: &str,
        change: Change,
    ) -> Result<Response<Cluster>, Status> {
        let principal = person(&self.0, from)?;
        let request_id = services::request_id(request_id)?;
        self.0.accepts_writes()?;
        let asked = told(&change);
        check_request_id(&self.0, &principal, &request_id, &asked)?;
        let position = self.0.replica.member().change(&change).await.map_err(changed)?;
        committed(&self.0, position).await;
        // It is made by now. Should the note fail, the leader makes it a moment later, under its own name.
        if let Err(status) = note(&self.0, principal, request_id, asked).await {
            tracing::warn!(why = status.message(), "a change of the cluster was not noted");
        }
        Ok(Response::new(self.cluster().await))
    }

    async fn cluster(&self) -> Cluster {
        let mut cluster = self.shown();
        self.0.replica.read(|state| note_of(&mut cluster, state));
        let (owned, candidates) =
            self.0.replica.read(|state| (state.running_experiments(), state.candidates()));
        placed(&mut cluster, &owned, &candidates);
        cluster
    }

    /// As raft has it.
    fn shown(&self) -> Cluster {
        let owners_running = u32::try_from(self.0.owners.running()).unwrap_or(u32::MAX);
        Cluster { owners_running, ..cluster_of(&self.0.replica.health()) }
    }

    /// Notes what a person says of a member, and answers with what came of it.
    async fn mark(
        &self,
        from: Sent,
        request_id: &str,
        validate_only: bool,
        mark: LivenessMark,
    ) -> Result<Response<Cluster>, Status> {
        let incarnation = self.0.replica.read(|state| {
            let members = state.members().iter().filter_map(|record| record.member.as_ref());
            members.filter(|member| member.node == mark.node).map(|member| member.incarnation).next()
        });
        let mark = LivenessMark { incarnation: incarnation.unwrap_or_default(), ..mark };
        let command = entry::Command::NoteLiveness(NoteLiveness { marks: vec![mark] });
        let write = Write { from: &from, request_id, validate_only, command };
        let mut cluster = self.shown();
        let marked = self.0.write(write, |state, _| {
            note_of(&mut cluster, state);
            placed(&mut cluster, &state.running_experiments(), &state.candidates());
            Some(())
        });
        marked.await?;
        Ok(Response::new(cluster))
    }
}

/// Adds what the log says of the members.
fn note_of(cluster: &mut Cluster, state: &State) {
    for record in state.members() {
        let node = record.member.as_ref().map_or(0, |member| member.node);
        let Some(member) = cluster.members.iter_mut().find(|member| member.node == node) else { continue };
        member.changed_by.clone_from(&record.changed_by);
        member.change_time = timestamp_if_set(record.changed_ms);
        member.owner_weight = OWNER_WEIGHT;
        if let Some(marked) = state.liveness_of(node) {
            member.mark = marked.mark;
            member.mark_time = timestamp_if_set(marked.marked_ms);
            member.draining = marked.draining;
            member.drained_by.clone_from(&marked.drained_by);
            member.owner_weight = weight_of(marked);
        }
    }
}

/// Adds where owners are.
fn placed(cluster: &mut Cluster, owned: &[Owned], candidates: &[Candidate]) {
    let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let mut by_node = BTreeMap::<u64, u32>::new();
    for owned in owned {
        *by_node.entry(owned.node).or_default() += 1;
    }
    for member in &mut cluster.members {
        member.owners = by_node.remove(&member.node).unwrap_or(0);
    }
    cluster.experiments = count(owned.len());
    cluster.unowned = by_node.values().sum();
    cluster.misplaced = count(moves(owned, candidates).iter().filter(|found| found.may_wait).count());
}

/// A cluster as one node knows it.
#[must_use]
pub fn cluster_of(health: &Health) -> Cluster {
    let last = health.last_log.unwrap_or_default();
    let member = |member: &MemberHealth| {
        let role = match (Some(member.node) == health.leader, member.voter) {
            (true, _) => member::Role::Leader,
            (false, true) => member::Role::Voter,
            (false, false) => member::Role::Learner,
        };
        let lag = member.matched.filter(|_| health.leads).map(|matched| last.saturating_sub(matched));
        Member {
            node: member.node,
            address: member.address.clone(),
            role: role.into(),
            incarnation: match member.incarnation {
                0 => String::new(),
                incarnation => format!("{incarnation:016x}"),
            },
            matched_index: member.matched,
            lag_entries: lag,
            heard_ms_ago: member.heard_ms_ago,
            clock_ahead_ms: member.clock_ahead_ms,
            fault: member.fault.clone().unwrap_or_default(),
            ..Member::default()
        }
    };
    Cluster {
        cluster: if health.cluster == 0 { String::new() } else { format!("{:016x}", health.cluster) },
        node: health.node,
        term: health.term,
        leader: health.leader.unwrap_or_default(),
        members: health.members.iter().map(member).collect(),
        joins: health.joins.clone().unwrap_or_default(),
        last_index: last,
        applied_index: health.applied,
        ..Cluster::default()
    }
}

#[tonic::async_trait]
impl ClusterService for Clusters {
    async fn get_cluster(&self, request: Request<GetClusterRequest>) -> Result<Response<Cluster>, Status> {
        let mut cluster = self.cluster().await;
        if request.into_inner().digest {
            let replica = self.0.replica.clone();
            let digested = self.0.beside(move || {
                let state = replica.copy();
                (state.position(), state.digest())
            });
            let (position, digest) = digested.await?;
            cluster.digest = format!("{digest:016x}");
            cluster.digest_position = position;
        }
        Ok(Response::new(cluster))
    }

    async fn initialize_cluster(
        &self,
        request: Request<InitializeClusterRequest>,
    ) -> Result<Response<Cluster>, Status> {
        let principal = person(&self.0, &request)?;
        let host = &self.0;
        host.accepts_writes()?;
        let member = host.replica.member();
        member.initialize().await.map_err(changed)?;
        member.ready(LEAD_MS_MAX).await.map_err(|error| Status::from(failure(error)))?;
        host.replica.current().await?;
        let given = give_identity(&host.clock, &host.entropy, &host.replica, host.keys.as_ref());
        given.await.map_err(|error| refusal::not_now(error.message))?;
        take_key(host);
        if let Err(status) = note(host, principal, String::new(), "found the cluster".to_owned()).await {
            tracing::warn!(why = status.message(), "the founding was not noted");
        }
        Ok(Response::new(self.cluster().await))
    }

    async fn join_cluster(&self, request: Request<JoinClusterRequest>) -> Result<Response<Cluster>, Status> {
        person(&self.0, &request)?;
        self.0.accepts_writes()?;
        let request = request.into_inner();
        if request.addresses.is_empty() || request.addresses.len() > MAX_MEMBERS {
            let count = request.addresses.len();
            return Err(refusal::invalid("addresses", count, format!("addresses; give 1 to {MAX_MEMBERS}")));
        }
        let addresses = request.addresses.iter().map(|text| address(text, "addresses"));
        let addresses = addresses.collect::<Result<Vec<_>, _>>()?;
        self.0.replica.member().join(addresses).map_err(changed)?;
        Ok(Response::new(self.cluster().await))
    }

    async fn add_learner(&self, request: Request<AddLearnerRequest>) -> Result<Response<Cluster>, Status> {
        let AddLearnerRequest { node, address: at, request_id } = request.get_ref().clone();
        let (node, address) = (number(node, "node")?, address(&at, "address")?);
        let change = Change::Admit(Newcomer { node, incarnation: 0, address });
        self.change(&request, &request_id, change).await
    }

    async fn promote_member(
        &self,
        request: Request<PromoteMemberRequest>,
    ) -> Result<Response<Cluster>, Status> {
        let PromoteMemberRequest { node, request_id } = request.get_ref().clone();
        self.change(&request, &request_id, Change::Promote(number(node, "node")?)).await
    }

    async fn remove_member(
        &self,
        request: Request<RemoveMemberRequest>,
    ) -> Result<Response<Cluster>, Status> {
        let RemoveMemberRequest { node, request_id } = request.get_ref().clone();
        self.change(&request, &request_id, Change::Remove(number(node, "node")?)).await
    }

    async fn replace_member(
        &self,
        request: Request<ReplaceMemberRequest>,
    ) -> Result<Response<Cluster>, Status> {
        let ReplaceMemberRequest { old_node, new_node, request_id } = request.get_ref().clone();
        let change =
            Change::Replace { old: number(old_node, "old_node")?, new: number(new_node, "new_node")? };
        self.change(&request, &request_id, change).await
    }

    async fn transfer_leadership(
        &self,
        request: Request<TransferLeadershipRequest>,
    ) -> Result<Response<Cluster>, Status> {
        let TransferLeadershipRequest { node, request_id } = request.get_ref().clone();
        self.change(&request, &request_id, Change::Transfer(number(node, "node")?)).await
    }

    async fn drain_member(&self, request: Request<DrainMemberRequest>) -> Result<Response<Cluster>, Status> {
        person(&self.0, &request)?;
        let (from, request) = sent(request);
        let DrainMemberRequest { node, undo, validate_only, request_id } = request;
        let mark =
            LivenessMark { node: number(node, "node")?, draining: Some(!undo), ..LivenessMark::default() };
        self.mark(from, &request_id, validate_only, mark).await
    }

    async fn set_owner_weight(
        &self,
        request: Request<SetOwnerWeightRequest>,
    ) -> Result<Response<Cluster>, Status> {
        person(&self.0, &request)?;
        let (from, request) = sent(request);
        let SetOwnerWeightRequest { node, owner_weight, validate_only, request_id } = request;
        let mark = LivenessMark {
            node: number(node, "node")?,
            owner_weight: Some(owner_weight),
            ..LivenessMark::default()
        };
        self.mark(from, &request_id, validate_only, mark).await
    }

    async fn rebalance_owners(
        &self,
        request: Request<RebalanceOwnersRequest>,
    ) -> Result<Response<RebalanceOwnersResponse>, Status> {
        let principal = person(&self.0, &request)?;
        let RebalanceOwnersRequest { validate_only, request_id } = request.into_inner();
        services::request_id(&request_id)?;
        self.0.accepts_writes()?;
        self.0.replica.current().await?;
        let (owned, candidates) =
            self.0.replica.read(|state| (state.running_experiments(), state.candidates()));
        let moves = moves(&owned, &candidates);
        let told = self.0.replica.read(|state| {
            let told = moves.iter().take(MOVES_TOLD_MAX).map(|found| OwnerMove {
                experiment: state
                    .experiment_by_number(found.owned.experiment)
                    .map_or_else(String::new, |experiment| experiment.name),
                from: found.owned.node,
                to: found.to,
            });
            told.collect()
        });
        if !validate_only {
            // Without the request's id: a repeat finds what is left to move, and a move that was made is passed over.
            for entry in placement::assignments(&moves, &principal) {
                self.0.propose(&entry).await?;
            }
        }
        let move_count = u32::try_from(moves.len()).unwrap_or(u32::MAX);
        Ok(Response::new(RebalanceOwnersResponse { moves: told, move_count }))
    }
}
