//! Who belongs to the cluster, and its changes: one at a time, by the leader, never to a cluster that could not decide.
//!
//! ```text
//!   node with an empty folder ── admit ──> learner ── caught up, promote ──> voter ── remove ──> gone
//!                                                          └── replace: one comes, one goes, in one change
//! ```
//!
//! A change is refused when the voters that answer now would be no majority of those after it: such a cluster could not
//! even be repaired. The refusal names them, and the way out. The membership itself lies in the log as raft's own
//! entries; a change under way (two sets of voters) is finished by whoever leads next.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use featureops_proto::log::ClusterMember;
use featureops_proto::peer::{
    Admit, ChangeRequest, HelloRequest, HelloResponse, Replace, change_request, change_response,
};
use openraft::ChangeMembers;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ChangeMembershipError, ClientWriteError, RaftError};
use tokio::time::Instant;
use tonic::Code;

use crate::entrust::entrust;
use crate::fold::Fold;
use crate::peer::failure::{Meaning, read};
use crate::peer::{LEVEL, LEVEL_MIN, Target, Use, is_loopback, was_not_sent};
use crate::proposer::{ProposeError, Proposer, unknown};
use crate::raft::types::{Membership, Peer, Types};

/// Members of a cluster, learners among them.
pub const MEMBERS_MAX: usize = featureops_state::MAX_MEMBERS;
/// Voters: each more makes every write wait for more of them.
pub const VOTERS_MAX: usize = 9;
/// A learner that lacks fewer entries has caught up.
pub const LAG_ENTRIES_MAX: u64 = 1_000;
/// A member that was not heard for so long does not answer, in milliseconds.
const SILENT_MS: u64 = 2_000;
/// Time of one change, in milliseconds.
const CHANGE_MS_MAX: u64 = 10_000;
/// Time of one leader to hand over, in milliseconds.
const TRANSFER_MS_MAX: u64 = 3_000;
/// Time of one question to a node that is to join, in milliseconds.
const HELLO_MS_MAX: u64 = 2_000;

/// A change of the membership.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A node becomes a learner; a member that says another address has moved.
    Admit(Newcomer),
    /// A learner that has caught up votes.
    Promote(u64),
    /// A member leaves.
    Remove(u64),
    /// A learner that has caught up votes instead of a voter, who leaves.
    Replace {
        /// The voter.
        old: u64,
        /// The learner.
        new: u64,
    },
    /// Another voter leads.
    Transfer(u64),
}

/// A node that is to be admitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Newcomer {
    /// Its number.
    pub node: u64,
    /// Its incarnation; 0: it is asked for it.
    pub incarnation: u64,
    /// Where its peers reach it.
    pub address: String,
}

/// Why a change was not made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// It must not be made now; nothing was changed.
    #[error("{why}")]
    Refused {
        /// What stands against it, and the way out.
        why: String,
    },
    /// It has no answer.
    #[error(transparent)]
    Failed(#[from] ProposeError),
}

fn refused<T>(why: impl Into<String>) -> Result<T, ChangeError> {
    Err(ChangeError::Refused { why: why.into() })
}

/// How a member is, as this node knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemberHealth {
    /// Its number.
    pub node: u64,
    /// Where its peers reach it.
    pub address: String,
    /// That of its data folder; 0: of before there were peers.
    pub incarnation: u64,
    /// Whether it votes; else it is a learner.
    pub voter: bool,
    /// Index up to which its log is known to be the leader's: only the leader knows, and each node of itself.
    pub matched: Option<u64>,
    /// Milliseconds since it was last heard: only the leader knows.
    pub heard_ms_ago: Option<u64>,
    /// The same as a time of this node's monotonic clock, in milliseconds.
    pub heard_at_ms: Option<u64>,
    /// Of its present life, as it said when it was heard last; 0: it said none.
    pub boot: u64,
    /// How far its wall clock is ahead of this node's (behind it, when negative), in milliseconds.
    pub clock_ahead_ms: Option<i64>,
    /// Why this node does not reach it.
    pub fault: Option<String>,
}

impl Change {
    /// The change of a message; `None` when it is none that this release knows.
    #[must_use]
    pub fn read(request: &ChangeRequest) -> Option<Self> {
        Some(match request.change.as_ref()? {
            change_request::Change::Admit(Admit { node, incarnation, address, .. }) => {
                Self::Admit(Newcomer { node: *node, incarnation: *incarnation, address: address.clone() })
            }
            change_request::Change::Promote(node) => Self::Promote(*node),
            change_request::Change::Remove(node) => Self::Remove(*node),
            change_request::Change::Replace(Replace { old, new }) => Self::Replace { old: *old, new: *new },
            change_request::Change::TransferTo(node) => Self::Transfer(*node),
        })
    }

    fn write(&self, join_token: String) -> ChangeRequest {
        ChangeRequest {
            change: Some(match self {
                Self::Admit(Newcomer { node, incarnation, address }) => {
                    change_request::Change::Admit(Admit {
                        node: *node,
                        incarnation: *incarnation,
                        address: address.clone(),
                        join_token,
                    })
                }
                Self::Promote(node) => change_request::Change::Promote(*node),
                Self::Remove(node) => change_request::Change::Remove(*node),
                Self::Replace { old, new } => {
                    change_request::Change::Replace(Replace { old: *old, new: *new })
                }
                Self::Transfer(node) => change_request::Change::TransferTo(*node),
            }),
        }
    }
}

/// The members as this node knows them.
pub(crate) fn members<F: Fold>(proposer: &Proposer<F>) -> Vec<MemberHealth> {
    let receiver = proposer.raft().metrics();
    let metrics = receiver.borrow_watched();
    let membership = metrics.membership_config.membership();
    let voters: BTreeSet<u64> = membership.voter_ids().collect();
    let leads = metrics.replication.is_some();
    let own = proposer.options().node;
    let peers = proposer.peers();
    let member = |(node, peer): (&u64, &Peer)| {
        let heard = peers.heard_of(*node).filter(|_| leads && *node != own);
        let ago = heard.map(|heard| peers.monotonic_ms().saturating_sub(heard.at_ms));
        let replicated = metrics.replication.as_ref().and_then(|replication| replication.get(node));
        let matched = match *node == own {
            true => metrics.last_log_index,
            false => replicated.and_then(|matched| matched.as_ref().map(openraft::LogId::index)),
        };
        MemberHealth {
            node: *node,
            address: peer.address.clone(),
            incarnation: peer.incarnation,
            voter: voters.contains(node),
            matched,
            heard_ms_ago: ago,
            heard_at_ms: heard.map(|heard| heard.at_ms),
            boot: if *node == own { peers.boot() } else { heard.map_or(0, |heard| heard.boot) },
            clock_ahead_ms: heard.zip(ago).map(|(heard, ago)| {
                heard.clock_ms.saturating_add_unsigned(ago).saturating_sub(peers.clock_ms())
            }),
            fault: peers.fault_of(*node).filter(|_| *node != own),
        }
    };
    membership.nodes().map(member).take(MEMBERS_MAX).collect()
}

/// The committed membership and where it stands; `None` while there are two sets of voters.
pub(crate) fn committed<F: Fold>(proposer: &Proposer<F>) -> Option<(u64, Vec<ClusterMember>)> {
    let receiver = proposer.raft().metrics();
    let metrics = receiver.borrow_watched();
    let stored = &metrics.committed_membership_config;
    let membership = stored.membership();
    if membership.get_joint_config().len() != 1 {
        return None;
    }
    let voters: BTreeSet<u64> = membership.voter_ids().collect();
    let member = |(node, peer): (&u64, &Peer)| ClusterMember {
        node: *node,
        address: peer.address.clone(),
        incarnation: peer.incarnation,
        voter: voters.contains(node),
    };
    let mut members: Vec<ClusterMember> = membership.nodes().map(member).collect();
    members.sort_by_key(|member| member.node);
    Some((stored.log_id().as_ref()?.index(), members))
}

/// Makes a change, wherever the leader is.
pub(crate) async fn change<F: Fold>(proposer: &Proposer<F>, change: &Change) -> Result<u64, ChangeError> {
    let until = Instant::now() + Duration::from_millis(CHANGE_MS_MAX);
    let mut wait = Duration::from_millis(20);
    loop {
        let answered = match proposer.leader().filter(|leader| leader.node != proposer.options().node) {
            Some(leader) => ask(proposer, &leader, change).await,
            None => change_here(proposer, change).await,
        };
        let again = matches!(answered, Err(ChangeError::Failed(ProposeError::NotLeader { .. })));
        if !again || Instant::now() + wait >= until {
            return answered;
        }
        tokio::time::sleep(wait).await;
        wait = wait.saturating_mul(2).min(Duration::from_millis(500));
    }
}

/// Asks another node to make a change, as the leader.
pub(crate) async fn ask<F: Fold>(
    proposer: &Proposer<F>,
    leader: &Target,
    change: &Change,
) -> Result<u64, ChangeError> {
    let peers = proposer.peers();
    let mut client = peers.client(&leader.address, Use::Bulk);
    let token = token_for(proposer, leader, change)?;
    let request = peers.request(leader, change.write(token));
    let within = Duration::from_millis(CHANGE_MS_MAX);
    let response = match peers.call(leader, within, client.change(request)).await {
        Ok(response) => response,
        Err(status) if status.code() == Code::FailedPrecondition => return refused(status.message()),
        Err(status) if was_not_sent(&status) => {
            return Err(ProposeError::NotLeader { leader: None }.into());
        }
        Err(status) => {
            return Err(unknown(&format!("the leader gave no answer: {}", status.message())).into());
        }
    };
    match response.outcome {
        Some(change_response::Outcome::Position(position)) => Ok(position),
        Some(change_response::Outcome::Refused(why)) => Err(ChangeError::Refused { why }),
        Some(change_response::Outcome::Failure(failure)) => Err(match read(failure) {
            Meaning::Again { leader } => ProposeError::NotLeader { leader },
            Meaning::Final(error) => error,
        }
        .into()),
        None => Err(unknown("the leader answered with no outcome").into()),
    }
}

/// What this node shows to be let in; nothing for any other change, and nothing to where others could read along.
fn token_for<F: Fold>(
    proposer: &Proposer<F>,
    leader: &Target,
    change: &Change,
) -> Result<String, ChangeError> {
    let options = proposer.options();
    let asks_for_itself = matches!(change, Change::Admit(newcomer) if newcomer.node == options.node);
    match &options.join_token {
        Some(token) if asks_for_itself && (options.secured || is_loopback(&leader.address)) => {
            (token.0)().map_err(|why| ChangeError::Refused { why })
        }
        _ => Ok(String::new()),
    }
}

/// Who is at an address.
///
/// # Errors
/// Nobody, or somebody who does not speak with this node; in words.
pub(crate) async fn hello<F: Fold>(proposer: &Proposer<F>, target: &Target) -> Result<HelloResponse, String> {
    let peers = proposer.peers();
    let mut client = peers.client(&target.address, Use::Prompt);
    let request = peers.request(target, HelloRequest {});
    let said = peers.call(target, Duration::from_millis(HELLO_MS_MAX), client.hello(request)).await;
    said.map_err(|status| match status.code() {
        Code::FailedPrecondition => status.message().to_owned(),
        _ => format!("nobody answers at {}: {}", target.address, status.message()),
    })
}

/// The membership in force, and where in the log it stands.
struct Standing {
    membership: Membership,
    position: u64,
    last: u64,
    matched: BTreeMap<u64, u64>,
}

impl Standing {
    fn of<F: Fold>(proposer: &Proposer<F>) -> Self {
        let receiver = proposer.raft().metrics();
        let metrics = receiver.borrow_watched();
        let index = |id: &Option<crate::raft::types::LogId>| id.as_ref().map_or(0, openraft::LogId::index);
        let replication = metrics.replication.iter().flatten();
        Self {
            membership: metrics.membership_config.membership().clone(),
            position: index(metrics.membership_config.log_id()),
            last: metrics.last_log_index.unwrap_or_default(),
            matched: replication.map(|(node, matched)| (*node, index(matched))).collect(),
        }
    }

    fn voters(&self) -> BTreeSet<u64> {
        self.membership.voter_ids().collect()
    }

    fn is_member(&self, node: u64) -> bool {
        self.membership.get_node(&node).is_some()
    }
}

fn listed(nodes: &BTreeSet<u64>) -> String {
    nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// The members that answer now, this one among them.
fn alive<F: Fold>(proposer: &Proposer<F>, nodes: &BTreeSet<u64>) -> BTreeSet<u64> {
    let (own, now) = (proposer.options().node, proposer.peers().monotonic_ms());
    let answers = |node: &u64| {
        let heard = proposer.peers().heard_of(*node);
        let lately = heard.is_some_and(|heard| now.saturating_sub(heard.at_ms) <= SILENT_MS);
        *node == own || (lately && proposer.peers().fault_of(*node).is_none())
    };
    nodes.iter().copied().filter(answers).collect()
}

/// Refuses voters of whom no majority answers.
fn check_quorum<F: Fold>(
    proposer: &Proposer<F>,
    doing: &str,
    after: &BTreeSet<u64>,
) -> Result<(), ChangeError> {
    let answering = alive(proposer, after);
    let needed = after.len() / 2 + 1;
    if answering.len() >= needed {
        return Ok(());
    }
    let silent: BTreeSet<u64> = after.difference(&answering).copied().collect();
    refused(format!(
        "{doing} would leave the voters {}, of whom {} are needed and only {} answer ({}); start the silent ones again \
         ({}), or remove them first",
        listed(after),
        needed,
        answering.len(),
        if answering.is_empty() { "none".to_owned() } else { listed(&answering) },
        listed(&silent)
    ))
}

fn check_caught_up(standing: &Standing, node: u64) -> Result<(), ChangeError> {
    let Some(matched) = standing.matched.get(&node).copied().filter(|matched| *matched > 0) else {
        return refused(format!(
            "node {node} has nothing of the log yet: see that it runs and that its address is right, and try again"
        ));
    };
    let lag = standing.last.saturating_sub(matched);
    if lag > LAG_ENTRIES_MAX {
        return refused(format!(
            "node {node} is {lag} entries behind the leader's log of {}; it may vote when it is at most {LAG_ENTRIES_MAX} \
             behind: try again in a moment",
            standing.last
        ));
    }
    Ok(())
}

fn check_learner<F: Fold>(proposer: &Proposer<F>, standing: &Standing, node: u64) -> Result<(), ChangeError> {
    if !standing.is_member(node) {
        return refused(format!("node {node} is no member: let it join first (featureops serve --join)"));
    }
    if alive(proposer, &BTreeSet::from([node])).is_empty() {
        return refused(format!("node {node} does not answer: start it, and try again"));
    }
    check_caught_up(standing, node)
}

/// Makes a change, as the leader.
pub(crate) async fn change_here<F: Fold>(
    proposer: &Proposer<F>,
    change: &Change,
) -> Result<u64, ChangeError> {
    proposer.check()?;
    if !proposer.raft().is_leader() {
        return Err(ProposeError::NotLeader { leader: proposer.leader_elsewhere() }.into());
    }
    let standing = Standing::of(proposer);
    match change {
        Change::Admit(newcomer) => admit(proposer, &standing, newcomer).await,
        Change::Promote(node) => {
            let mut voters = standing.voters();
            if voters.contains(node) {
                // It votes by the membership; whether it answers as who it is there is another matter.
                return match proposer.peers().fault_of(*node) {
                    Some(fault) if *node != proposer.options().node => refused(format!(
                        "node {node} is a voter already, and does not answer as one: {fault}"
                    )),
                    _ => Ok(standing.position),
                };
            }
            check_learner(proposer, &standing, *node)?;
            if voters.len() >= VOTERS_MAX {
                return refused(format!(
                    "there are {VOTERS_MAX} voters, the most there may be: remove one first"
                ));
            }
            voters.insert(*node);
            check_quorum(proposer, &format!("promoting node {node}"), &voters)?;
            made(proposer, ChangeMembers::AddVoterIds(BTreeSet::from([*node])), true).await
        }
        Change::Remove(node) => remove(proposer, &standing, *node).await,
        Change::Replace { old, new } => replace(proposer, &standing, *old, *new).await,
        Change::Transfer(node) => transfer(proposer, *node).await,
    }
}

async fn admit<F: Fold>(
    proposer: &Proposer<F>,
    standing: &Standing,
    newcomer: &Newcomer,
) -> Result<u64, ChangeError> {
    let Newcomer { node, incarnation, address } = newcomer;
    let node = *node;
    if node == 0 || address.is_empty() || address.len() > 255 {
        return refused(format!(
            "node {node} at `{address}`: give a number from 1 on, and a host and a port"
        ));
    }
    let taken = standing.membership.nodes().find(|(other, peer)| **other != node && peer.address == *address);
    if let Some((other, _)) = taken {
        return refused(format!("address {address} is that of node {other}; give node {node} its own"));
    }
    let member = standing.membership.get_node(&node);
    let own = node == proposer.options().node;
    let mut answered = None;
    let incarnation = if own {
        proposer.peers().identity().incarnation
    } else {
        let target = Target { node, incarnation: *incarnation, address: address.clone() };
        let found = hello(proposer, &target).await.map_err(|why| ChangeError::Refused { why })?;
        if found.node != node {
            return refused(format!("node {} answers at {address}, not node {node}", found.node));
        }
        if found.level < LEVEL_MIN {
            return refused(format!(
                "node {node} speaks level {} of the peer protocol, this cluster {LEVEL}: update it",
                found.level
            ));
        }
        let level = proposer.shared().read(Fold::feature_level);
        // One of before there were levels says none, and knows the first.
        if found.feature_level_max.max(1) < level {
            return refused(format!(
                "node {node} (release {}) knows feature levels up to {}, and the cluster is at {level}: start a release that \
                 knows level {level} there",
                if found.release.is_empty() { "unknown" } else { &found.release },
                found.feature_level_max.max(1)
            ));
        }
        if member.is_none() && !found.empty {
            return refused(format!(
                "node {node} at {address} holds a log, and is no member: it may have been one once; empty its data folder, \
                 and let it join again"
            ));
        }
        let incarnation = found.incarnation;
        answered = Some((Target { incarnation, ..target }, found));
        incarnation
    };
    let change = match member {
        Some(known) if known.incarnation != incarnation && known.incarnation != 0 => {
            return refused(format!(
                "node {node} is a member under incarnation {:016x}, and the one at {address} is {incarnation:016x}: its data \
                 folder was emptied, or two nodes have one number; remove node {node} first, or give this one another number",
                known.incarnation
            ));
        }
        Some(known) if known.address == *address && known.incarnation == incarnation => {
            return Ok(standing.position);
        }
        Some(_) => ChangeMembers::SetNodes as fn(_) -> _,
        None if standing.membership.nodes().count() >= MEMBERS_MAX => {
            return refused(format!(
                "there are {MEMBERS_MAX} members, the most there may be: remove one first"
            ));
        }
        None => ChangeMembers::AddNodes as fn(_) -> _,
    };
    if let Some((target, found)) = &answered {
        // Before it is a member: one that is has the key, whatever becomes of either side. And after every refusal.
        entrust(proposer, target, found).await.map_err(|why| ChangeError::Refused { why })?;
    }
    let peer = Peer { address: address.clone(), incarnation };
    made(proposer, change(BTreeMap::from([(node, peer)])), true).await
}

async fn remove<F: Fold>(proposer: &Proposer<F>, standing: &Standing, node: u64) -> Result<u64, ChangeError> {
    if !standing.is_member(node) {
        // Removed already, perhaps by the attempt before this one.
        return Ok(standing.position);
    }
    let mut voters = standing.voters();
    if !voters.remove(&node) {
        return made(proposer, ChangeMembers::RemoveNodes(BTreeSet::from([node])), false).await;
    }
    if voters.is_empty() {
        return refused(format!(
            "node {node} is the only voter, and holds the cluster: let another node join, promote it, and then remove this one"
        ));
    }
    check_quorum(proposer, &format!("removing node {node}"), &voters)?;
    if node == proposer.options().node {
        return hand_over(proposer, &voters).await;
    }
    made(proposer, ChangeMembers::RemoveVoters(BTreeSet::from([node])), false).await
}

async fn replace<F: Fold>(
    proposer: &Proposer<F>,
    standing: &Standing,
    old: u64,
    new: u64,
) -> Result<u64, ChangeError> {
    let mut voters = standing.voters();
    if !standing.is_member(old) && voters.contains(&new) {
        return Ok(standing.position);
    }
    if !voters.contains(&old) {
        return refused(format!("node {old} does not vote; the voters are {}", listed(&voters)));
    }
    if voters.contains(&new) {
        return refused(format!("node {new} votes already; remove node {old} instead"));
    }
    check_learner(proposer, standing, new)?;
    voters.remove(&old);
    let staying = voters.clone();
    voters.insert(new);
    check_quorum(proposer, &format!("replacing node {old} by node {new}"), &voters)?;
    if old == proposer.options().node {
        if staying.is_empty() {
            return refused(format!(
                "node {old} is the only voter: promote node {new} first, then remove node {old}"
            ));
        }
        return hand_over(proposer, &staying).await;
    }
    let change = ChangeMembers::Batch(vec![
        ChangeMembers::AddVoterIds(BTreeSet::from([new])),
        ChangeMembers::RemoveVoters(BTreeSet::from([old])),
    ]);
    made(proposer, change, false).await
}

/// Lets the voter that has most of the log lead; the change is then asked of it.
async fn hand_over<F: Fold>(proposer: &Proposer<F>, voters: &BTreeSet<u64>) -> Result<u64, ChangeError> {
    let standing = Standing::of(proposer);
    let next = alive(proposer, voters).into_iter().max_by_key(|node| standing.matched.get(node).copied());
    let Some(next) = next else {
        return refused(format!("none of the voters {} answers", listed(voters)));
    };
    transfer(proposer, next).await?;
    Err(ProposeError::NotLeader { leader: Some(next) }.into())
}

/// Lets another voter lead.
async fn transfer<F: Fold>(proposer: &Proposer<F>, to: u64) -> Result<u64, ChangeError> {
    let standing = Standing::of(proposer);
    if to == proposer.options().node {
        return Ok(standing.position);
    }
    let voters = standing.voters();
    if !voters.contains(&to) {
        return refused(format!("node {to} does not vote; the voters are {}", listed(&voters)));
    }
    if alive(proposer, &BTreeSet::from([to])).is_empty() {
        return refused(format!("node {to} does not answer: start it, and try again"));
    }
    check_caught_up(&standing, to)?;
    let trigger = proposer.raft().trigger();
    let asked = proposer.scoped(trigger.transfer_leader(to)).await;
    asked.map_err(|fatal| ProposeError::Stopped { why: fatal.to_string() })?;
    let wait = proposer.raft().wait(Some(Duration::from_millis(TRANSFER_MS_MAX)));
    let taken = wait.metrics(|metrics| metrics.current_leader == Some(to), "another leader");
    match proposer.scoped(taken).await {
        Ok(_) => Ok(standing.position),
        Err(_) => refused(format!(
            "node {to} did not take over within {TRANSFER_MS_MAX} ms; see who leads, and try again"
        )),
    }
}

/// Before a leader ends: lets another voter lead, if one answers. A bounded time, and best effort.
pub(crate) async fn leave<F: Fold>(proposer: &Proposer<F>) {
    if !proposer.raft().is_leader() || proposer.check().is_err() {
        return;
    }
    let mut voters = Standing::of(proposer).voters();
    voters.remove(&proposer.options().node);
    if alive(proposer, &voters).is_empty() {
        return;
    }
    if let Err(ChangeError::Refused { why }) = hand_over(proposer, &voters).await {
        tracing::info!(why, "ending as the leader");
    }
}

async fn made<F: Fold>(
    proposer: &Proposer<F>,
    change: ChangeMembers<u64, Peer>,
    retain: bool,
) -> Result<u64, ChangeError> {
    tracing::info!(%change, "changing the membership");
    let making = proposer.scoped(proposer.raft().change_membership(change, retain));
    let made = tokio::time::timeout(Duration::from_millis(CHANGE_MS_MAX), making).await;
    match made {
        Ok(Ok(response)) => Ok(response.log_id.index()),
        Ok(Err(error)) => Err(failed(error)),
        Err(_) => {
            Err(unknown("the change was not committed in time; look at the members before repeating it")
                .into())
        }
    }
}

fn failed(error: RaftError<Types, ClientWriteError<Types>>) -> ChangeError {
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(forward)) => {
            ProposeError::NotLeader { leader: forward.leader_id }.into()
        }
        RaftError::APIError(ClientWriteError::ChangeMembershipError(error)) => ChangeError::Refused {
            why: match error {
                ChangeMembershipError::InProgress(_) => {
                    "another change of the membership is under way: try again in a moment".to_owned()
                }
                error => error.to_string(),
            },
        },
        error => unknown(&error.to_string()).into(),
    }
}
