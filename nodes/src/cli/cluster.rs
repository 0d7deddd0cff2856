//! `cluster ...`: the members of a cluster, and who leads. Any node may be asked; changes go to the leader by themselves.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::{Args, Subcommand};
use featureops_proto::v1::{self, Cluster, member};
use tokio::time::Instant;

use super::failure::{Exit, Failure};
use super::page::{Cell, Page, Tone};
use super::render::{count_text, word_of};
use super::session::{RequestArgs, Session, WriteArgs, principal_text, rehearsed, verb};
use super::span::moment_text;
use crate::rpc::cluster_service_client::ClusterServiceClient;

/// Between two looks at a member that drains.
const DRAIN_LOOK: Duration = Duration::from_millis(200);

#[derive(Debug, Subcommand)]
pub enum ClusterCommand {
    /// Make a cluster of the asked node, which was started with --join and is in none.
    #[command(after_help = "Example: three nodes that all wait for one another
  featureops serve --node 1 --peer-listen 127.0.0.1:7411 --join 127.0.0.1:7411,127.0.0.1:7412,127.0.0.1:7413
  (and so on for 2 and 3)
  featureops cluster init
  featureops cluster promote 2; featureops cluster promote 3")]
    Init(RequestArgs),
    /// Tell the asked node, which is in no cluster, whose it shall join.
    Join {
        /// Peer addresses of members, as 127.0.0.1:7411.
        #[arg(value_name = "ADDRESS", required = true)]
        addresses: Vec<String>,
        #[command(flatten)]
        request: RequestArgs,
    },
    /// Let a running node in, as a learner: it follows the log and does not vote.
    AddLearner {
        /// Its number.
        #[arg(value_name = "NODE")]
        node: u64,
        /// Its peer address, as 127.0.0.1:7412.
        #[arg(value_name = "ADDRESS")]
        address: String,
        #[command(flatten)]
        request: RequestArgs,
    },
    /// Let a learner vote that has caught up.
    Promote(NodeArgs),
    /// Remove a member: a voter, or a learner.
    #[command(after_help = "A node whose data folder was lost is removed, and joins again with an empty one:
  featureops cluster remove 3
  featureops serve --node 3 --peer-listen 127.0.0.1:7413 --join 127.0.0.1:7411
  featureops cluster promote 3")]
    Remove(NodeArgs),
    /// Let a learner vote instead of a voter, who leaves: one change.
    Replace {
        /// The voter that leaves.
        #[arg(value_name = "OLD")]
        old: u64,
        /// The learner that votes instead.
        #[arg(value_name = "NEW")]
        new: u64,
        #[command(flatten)]
        request: RequestArgs,
    },
    /// Let another voter lead.
    TransferLeader(NodeArgs),
    /// Move a member's owners, lead and clients elsewhere, and wait until it has none; it stays a member and answers.
    #[command(after_help = "Example: a machine that is to be repaired
  featureops cluster drain 3
  (stop the node, repair, start it)
  featureops cluster drain 3 --undo")]
    Drain {
        /// The node's number.
        #[arg(value_name = "NODE")]
        node: u64,
        /// Let it take owners and the lead again.
        #[arg(long)]
        undo: bool,
        /// Longest wait for its owners and its lead to be elsewhere, in seconds.
        #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(0..=3_600))]
        wait: u64,
        #[command(flatten)]
        request: WriteArgs,
    },
    /// Say how many owners a member takes beside the others; 100 is the usual weight.
    Weight {
        /// The node's number.
        #[arg(value_name = "NODE")]
        node: u64,
        /// 1 to 10,000.
        #[arg(value_name = "WEIGHT", value_parser = clap::value_parser!(u32).range(1..=10_000))]
        weight: u32,
        #[command(flatten)]
        request: WriteArgs,
    },
    /// Move every owner at once to the member that should have it; by itself the cluster moves 64 a second.
    Rebalance {
        #[command(flatten)]
        request: WriteArgs,
    },
    /// List the members.
    Members,
    /// Show the cluster as the asked node knows it.
    Status {
        /// Also a digest of its state: nodes at the same position have the same one.
        #[arg(long)]
        digest: bool,
    },
}

#[derive(Debug, Args)]
pub struct NodeArgs {
    /// The node's number.
    #[arg(value_name = "NODE")]
    node: u64,
    #[command(flatten)]
    request: RequestArgs,
}

/// A write of one method of the service.
macro_rules! write {
    ($session:expr, $request:expr, $method:ident, $message:expr) => {{
        let request_id = $request.id()?;
        let mut message = $message;
        message.request_id.clone_from(&request_id);
        $session
            .client
            .write(&request_id, message, |channel, request| async move {
                ClusterServiceClient::new(channel).$method(request).await
            })
            .await?
    }};
}

pub async fn run(session: &Session, command: ClusterCommand) -> Result<(), Failure> {
    let gone = match &command {
        ClusterCommand::Remove(NodeArgs { node, .. }) => Some(*node),
        ClusterCommand::Replace { old, .. } => Some(*old),
        _ => None,
    };
    let cluster = match command {
        ClusterCommand::Init(request) => {
            write!(session, request, initialize_cluster, v1::InitializeClusterRequest::default())
        }
        ClusterCommand::Join { addresses, request } => {
            let message = v1::JoinClusterRequest { addresses, ..v1::JoinClusterRequest::default() };
            write!(session, request, join_cluster, message)
        }
        ClusterCommand::AddLearner { node, address, request } => {
            let message = v1::AddLearnerRequest { node, address, ..v1::AddLearnerRequest::default() };
            write!(session, request, add_learner, message)
        }
        ClusterCommand::Promote(NodeArgs { node, request }) => {
            let message = v1::PromoteMemberRequest { node, ..v1::PromoteMemberRequest::default() };
            write!(session, request, promote_member, message)
        }
        ClusterCommand::Remove(NodeArgs { node, request }) => {
            let message = v1::RemoveMemberRequest { node, ..v1::RemoveMemberRequest::default() };
            write!(session, request, remove_member, message)
        }
        ClusterCommand::Replace { old, new, request } => {
            let message = v1::ReplaceMemberRequest {
                old_node: old,
                new_node: new,
                ..v1::ReplaceMemberRequest::default()
            };
            write!(session, request, replace_member, message)
        }
        ClusterCommand::TransferLeader(NodeArgs { node, request }) => {
            let message = v1::TransferLeadershipRequest { node, ..v1::TransferLeadershipRequest::default() };
            write!(session, request, transfer_leadership, message)
        }
        ClusterCommand::Drain { node, undo, wait, request } => {
            let validate_only = request.dry_run;
            let message =
                v1::DrainMemberRequest { node, undo, validate_only, ..v1::DrainMemberRequest::default() };
            let cluster = write!(session, request, drain_member, message);
            if undo || validate_only {
                return session.show(&cluster, |page| {
                    members(page, &cluster);
                    rehearsed(page, &request);
                });
            }
            return drained(session, node, Duration::from_secs(wait), cluster).await;
        }
        ClusterCommand::Weight { node, weight, request } => {
            let message = v1::SetOwnerWeightRequest {
                node,
                owner_weight: weight,
                validate_only: request.dry_run,
                ..v1::SetOwnerWeightRequest::default()
            };
            let cluster = write!(session, request, set_owner_weight, message);
            return session.show(&cluster, |page| {
                members(page, &cluster);
                rehearsed(page, &request);
            });
        }
        ClusterCommand::Rebalance { request } => {
            let message = v1::RebalanceOwnersRequest {
                validate_only: request.dry_run,
                ..v1::RebalanceOwnersRequest::default()
            };
            let response = write!(session, request, rebalance_owners, message);
            return session.show(&response, |page| moves(page, &response, request.dry_run));
        }
        ClusterCommand::Members => {
            let cluster = fetch(session, false).await?;
            return session.show(&cluster, |page| members(page, &cluster));
        }
        ClusterCommand::Status { digest } => fetch(session, digest).await?,
    };
    session.show(&cluster, |page| {
        if let Some(node) = gone {
            let text = match cluster.members.iter().any(|member| member.node == node) {
                // The one that leaves is told nothing more, and others hear it a moment later.
                true => format!("node {node} is removed; node {} has not heard of it", cluster.node),
                false => format!("node {node} is removed"),
            };
            page.line(Tone::Good, text);
        }
        describe(page, &cluster);
        members(page, &cluster);
    })
}

async fn fetch(session: &Session, digest: bool) -> Result<Cluster, Failure> {
    session
        .client
        .read(v1::GetClusterRequest { digest }, |channel, request| async move {
            ClusterServiceClient::new(channel).get_cluster(request).await
        })
        .await
}

/// Waits until a drained member owns nothing and does not lead.
async fn drained(session: &Session, node: u64, wait: Duration, cluster: Cluster) -> Result<(), Failure> {
    let until = Instant::now() + wait;
    let mut cluster = cluster;
    let owns = |cluster: &Cluster| {
        cluster.members.iter().find(|member| member.node == node).map_or(0, |member| member.owners)
    };
    loop {
        if owns(&cluster) == 0 && cluster.leader != node && cluster.leader != 0 {
            return session.show(&cluster, |page| {
                page.line(
                    Tone::Good,
                    format!("node {node} owns nothing and does not lead; it may be stopped"),
                );
                members(page, &cluster);
            });
        }
        if Instant::now() >= until {
            let leads = if cluster.leader == node { ", and leads" } else { "" };
            let owners = owns(&cluster);
            return Err(Failure::new(
                Exit::Unavailable,
                format!(
                    "node {node} drains, and after {} s it still owns {owners} experiments{leads}",
                    wait.as_secs()
                ),
            )
            .note("see: featureops cluster members; asked again, the command waits on"));
        }
        tokio::time::sleep(DRAIN_LOOK).await;
        // The asked node sends its clients away when it is the one: asked again, it answers.
        if let Ok(seen) = fetch(session, false).await {
            cluster = seen;
        }
    }
}

fn moves(page: &mut Page, response: &v1::RebalanceOwnersResponse, dry_run: bool) {
    let mut flows = BTreeMap::<(u64, u64), u64>::new();
    for found in &response.moves {
        *flows.entry((found.from, found.to)).or_default() += 1;
    }
    let verb = verb(dry_run, "moved", "would move");
    let all = count_text(u64::from(response.move_count));
    page.line(Tone::Plain, format!("{all} owners {verb}"));
    if response.moves.len() < response.move_count as usize {
        page.line(Tone::Faint, format!("of the first {}:", count_text(response.moves.len() as u64)));
    }
    let named = |node: u64| if node == 0 { "nobody".to_owned() } else { format!("node {node}") };
    let rows = flows.iter().map(|((from, to), count)| {
        vec![Cell::new(named(*from)), Cell::new(named(*to)), Cell::new(count_text(*count))]
    });
    if !flows.is_empty() {
        page.table(&["FROM", "TO", "OWNERS"], rows.collect(), "");
    }
}

fn describe(page: &mut Page, cluster: &Cluster) {
    let leader = match cluster.leader {
        0 => "none is known".to_owned(),
        leader => format!("node {leader}, term {}", cluster.term),
    };
    let name = if cluster.cluster.is_empty() { "none yet" } else { &cluster.cluster };
    page.facts([
        ("cluster", name.to_owned()),
        ("answered by", format!("node {}", cluster.node)),
        ("leader", leader),
        (
            "log",
            format!(
                "{} entries, {} applied",
                count_text(cluster.last_index),
                count_text(cluster.applied_index)
            ),
        ),
    ]);
    let mut owners = format!("{} running experiments", count_text(u64::from(cluster.experiments)));
    if cluster.unowned > 0 {
        owners.push_str(&format!(", {} without an owner", count_text(u64::from(cluster.unowned))));
    }
    if cluster.misplaced > 0 {
        let misplaced = count_text(u64::from(cluster.misplaced));
        owners.push_str(&format!(", {misplaced} on their way to a better place"));
    }
    page.facts([("owners", owners)]);
    if !cluster.digest.is_empty() {
        let position = count_text(cluster.digest_position);
        page.line(Tone::Plain, format!("digest {} at {position}", cluster.digest));
    }
    if !cluster.joins.is_empty() {
        page.line(Tone::Warn, format!("it waits to join: {}", cluster.joins));
    }
}

/// Whether it may own, in words.
fn standing(member: &v1::Member) -> String {
    let mark = match member.mark() {
        member::Mark::Unspecified => "-",
        member::Mark::Up => "up",
        member::Mark::Down => "down",
        member::Mark::Left => "left",
    };
    match (&member.drained_by, member.draining) {
        (Some(by), true) => format!("{mark}, draining by {}", principal_text(Some(by))),
        (_, true) => format!("{mark}, draining"),
        _ => mark.to_owned(),
    }
}

fn members(page: &mut Page, cluster: &Cluster) {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let rows = cluster.members.iter().map(|member| {
        let tone = match member.role() {
            member::Role::Leader => Tone::Good,
            _ if !member.fault.is_empty() => Tone::Bad,
            _ => Tone::Plain,
        };
        vec![
            Cell::new(member.node.to_string()),
            Cell::new(word_of(member.role().as_str_name(), "ROLE_")).tone(tone),
            Cell::new(&member.address),
            Cell::new(or_dash(member.lag_entries.map(|lag| format!("{} entries", count_text(lag))))),
            Cell::new(or_dash(member.heard_ms_ago.map(|ago| format!("{ago} ms ago")))),
            Cell::new(match &member.changed_by {
                Some(principal) => {
                    format!(
                        "{}, {}",
                        principal_text(Some(principal)),
                        moment_text(member.change_time.as_ref())
                    )
                }
                None => "-".to_owned(),
            }),
            Cell::new(standing(member)),
            Cell::new(count_text(u64::from(member.owners))),
            Cell::new(match member.owner_weight {
                0 => "-".to_owned(),
                weight => count_text(u64::from(weight)),
            }),
            Cell::new(&member.fault),
        ]
    });
    let rows = rows.collect();
    let heads =
        ["NODE", "ROLE", "ADDRESS", "BEHIND", "HEARD", "CHANGED BY", "STANDING", "OWNERS", "WEIGHT", "FAULT"];
    page.table(&heads, rows, "the node is in no cluster");
    if cluster.leader != 0 && cluster.leader != cluster.node && !cluster.members.is_empty() {
        page.line(
            Tone::Faint,
            format!(
                "node {} follows; BEHIND, HEARD and most faults are known where the lead is: ask node {}",
                cluster.node, cluster.leader
            ),
        );
    }
}
