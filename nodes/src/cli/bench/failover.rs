//! How long writes stand still when the leader's process is killed: three nodes, each a process of its own on this machine.
//!
//! ```text
//!   kill -9 of the leader ── lease over, election ── another leads ── a write through a follower is acknowledged
//!        |<------------------------------------ measured ------------------------------------------>|
//! ```
//!
//! Writes are tried one after the other at a node that was not killed. Before the next trial the killed node is back and has
//! caught up.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use featureops_cluster::Options;
use featureops_proto::v1::{self, Cluster, GetClusterRequest, PromoteMemberRequest, SetFlagRequest};
use tokio::time::Instant;
use tonic::transport::Channel;

use super::Plan;
use super::report::{Bar, Figure, median};
use super::scale::Process;
use super::world::{ENVIRONMENT, connect, failed, folder, one_of};
use crate::cli::failure::Failure;
use crate::rpc::cluster_service_client::ClusterServiceClient;
use crate::rpc::flag_service_client::FlagServiceClient;

const TRIALS: usize = 20;
const NODES: usize = 3;
/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two attempts to write, and two looks at the cluster.
const LOOK: Duration = Duration::from_millis(2);

/// One of the nodes over its lives.
pub(super) struct Seat {
    data: PathBuf,
    arguments: Vec<String>,
    pub(super) process: Option<Process>,
}

impl Seat {
    pub(super) async fn power(&mut self) -> Result<(), Failure> {
        let (process, _) = Process::start_with(&self.data, &self.arguments).await?;
        self.process = Some(process);
        Ok(())
    }

    pub(super) async fn channel(&self) -> Result<Channel, Failure> {
        let address = self.process.as_ref().map(|process| process.address);
        let address = address.ok_or_else(|| Failure::internal("a node is not there"))?;
        one_of(&connect(address, 1).await?, 0)
    }

    pub(super) async fn cluster(&self) -> Result<Cluster, Failure> {
        let mut client = ClusterServiceClient::new(self.channel().await?);
        Ok(client.get_cluster(GetClusterRequest::default()).await.map_err(failed)?.into_inner())
    }
}

pub async fn measure(plan: &Plan) -> Result<Vec<Figure>, Failure> {
    let place = folder(&plan.data)?;
    let mut seats = found(place.path(), NODES).await?;
    let mut taken_ms = Vec::with_capacity(TRIALS);
    for trial in 0..TRIALS {
        let leader = settled(&seats).await?;
        taken_ms.push(trial_of(&mut seats, leader, trial).await?.as_secs_f64() * 1_000.0);
    }
    let worst = taken_ms.iter().copied().fold(0.0, f64::max);
    let best = taken_ms.iter().copied().fold(f64::INFINITY, f64::min);
    let (shortest, longest) = Options::new(1, "").election_ms;
    let note = format!("{TRIALS} kills from {best:.0} to {worst:.0} ms; three processes share this machine");
    Ok(vec![
        Figure::new("failover, median", "ms", median(&taken_ms))
            .limit("shortest wait before an election", shortest as f64)
            .bar(Bar::AtMost(1_000.0))
            .note(note),
        Figure::new("failover, worst", "ms", worst).limit("longest wait before an election", longest as f64),
    ])
}

/// So many voters.
pub(super) async fn found(place: &Path, nodes: usize) -> Result<Vec<Seat>, Failure> {
    let mut peers = Vec::with_capacity(nodes);
    let mut held = Vec::with_capacity(nodes);
    for _ in 0..nodes {
        let free = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0)));
        let free = free.map_err(|error| Failure::internal(format!("no free port: {error}")))?;
        peers.push(free.local_addr().map_err(|error| Failure::internal(error.to_string()))?.to_string());
        // Held until all are chosen, so that no port is chosen twice.
        held.push(free);
    }
    drop(held);
    let mut seats: Vec<Seat> = Vec::with_capacity(nodes);
    for (node, peer) in (1_u64..).zip(&peers) {
        let mut arguments =
            vec!["--node".to_owned(), node.to_string(), "--peer-listen".to_owned(), peer.clone()];
        if node > 1 {
            arguments.extend(["--join".to_owned(), peers.join(",")]);
        }
        let mut seat = Seat { data: place.join(node.to_string()), arguments, process: None };
        seat.power().await?;
        if node > 1 {
            promote(&seat, node).await?;
        }
        seats.push(seat);
    }
    Ok(seats)
}

async fn promote(seat: &Seat, node: u64) -> Result<(), Failure> {
    let began = Instant::now();
    let mut client = ClusterServiceClient::new(seat.channel().await?);
    loop {
        let request = PromoteMemberRequest { node, ..PromoteMemberRequest::default() };
        match client.promote_member(request).await {
            Ok(_) => return Ok(()),
            Err(status) if began.elapsed() > PATIENCE => return Err(failed(status)),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// Waits until every node follows the same leader and has all of its log; which one leads.
pub(super) async fn settled(seats: &[Seat]) -> Result<usize, Failure> {
    let began = Instant::now();
    loop {
        let mut seen = Vec::with_capacity(seats.len());
        for seat in seats {
            seen.push(seat.cluster().await?);
        }
        let leading = seen.iter().find(|cluster| cluster.leader == cluster.node && cluster.leader != 0);
        if let Some(leading) = leading {
            let whole = leading.members.iter().all(|member| {
                let heard = member.node == leading.node || member.heard_ms_ago.is_some_and(|ago| ago < 500);
                heard && member.lag_entries.is_some_and(|lag| lag < 10)
            });
            if whole && seen.iter().all(|cluster| cluster.leader == leading.leader) {
                return Ok(usize::try_from(leading.node.saturating_sub(1)).unwrap_or(0));
            }
        }
        if began.elapsed() > PATIENCE {
            return Err(Failure::internal(format!("the nodes did not settle within {PATIENCE:?}")));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn trial_of(seats: &mut [Seat], leader: usize, trial: usize) -> Result<Duration, Failure> {
    let other = seats.get((leader + 1) % NODES).ok_or_else(|| Failure::internal("there is no other node"))?;
    let mut client = FlagServiceClient::new(other.channel().await?);
    let killed = seats.get_mut(leader).and_then(|seat| seat.process.take());
    // Its kill returns when the process is gone.
    let began = Instant::now();
    drop(killed);
    let mut attempt = 0;
    let taken = loop {
        attempt += 1;
        let flag = v1::Flag {
            name: format!("{ENVIRONMENT}/flags/written"),
            r#type: v1::ValueType::Boolean.into(),
            variants: [("on".to_owned(), true.into())].into(),
            default_variant: Some("on".to_owned()),
            description: format!("trial {trial}, attempt {attempt}"),
            ..v1::Flag::default()
        };
        let request = SetFlagRequest {
            flag: Some(flag),
            request_id: format!("failover-{trial}-{attempt}"),
            ..SetFlagRequest::default()
        };
        match client.set_flag(request).await {
            Ok(_) => break began.elapsed(),
            Err(status) if began.elapsed() > PATIENCE => return Err(failed(status)),
            Err(_) => tokio::time::sleep(LOOK).await,
        }
    };
    match seats.get_mut(leader) {
        Some(seat) => seat.power().await?,
        None => return Err(Failure::internal("there is no such node")),
    }
    Ok(taken)
}
