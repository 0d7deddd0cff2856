//! `cluster ...`: the members of a cluster, and who leads. Any node may be asked; changes go to the leader by themselves.

use clap::{Args, Subcommand};
use featureops_proto::v1::{self, Cluster, member};

use super::failure::Failure;
use super::page::{Cell, Page, Tone};
use super::render::{count_text, word_of};
use super::session::{RequestArgs, Session, principal_text};
use super::span::moment_text;
use crate::rpc::cluster_service_client::ClusterServiceClient;

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
        ClusterCommand::Members => {
            let cluster = fetch(session, false).await?;
            return session.show(&cluster, |page| members(page, &cluster));
        }
        ClusterCommand::Status { digest } => fetch(session, digest).await?,
    };
    session.show(&cluster, |page| {
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
    if !cluster.digest.is_empty() {
        let position = count_text(cluster.digest_position);
        page.line(Tone::Plain, format!("digest {} at {position}", cluster.digest));
    }
    if !cluster.joins.is_empty() {
        page.line(Tone::Warn, format!("it waits to join: {}", cluster.joins));
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
            Cell::new(&member.fault),
        ]
    });
    let rows = rows.collect();
    let heads = ["NODE", "ROLE", "ADDRESS", "BEHIND", "HEARD", "CHANGED BY", "FAULT"];
    page.table(&heads, rows, "the node is in no cluster");
}
