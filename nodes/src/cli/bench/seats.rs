//! Nodes, each a process of its own on this machine, that are one cluster, and all of them vote.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use featureops_proto::v1::{Cluster, GetClusterRequest, PromoteMemberRequest};
use tokio::time::Instant;
use tonic::transport::Channel;

use super::scale::Process;
use super::world::{connect, failed, one_of};
use crate::cli::failure::Failure;
use crate::rpc::cluster_service_client::ClusterServiceClient;

/// How many are the usual cluster.
pub const NODES: usize = 3;
/// Longest wait for anything.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// One of the nodes over its lives.
pub struct Seat {
    data: PathBuf,
    arguments: Vec<String>,
    /// Absent while it is down.
    pub process: Option<Process>,
}

impl Seat {
    /// Starts it.
    pub async fn power(&mut self) -> Result<(), Failure> {
        let (process, _) = Process::start_with(&self.data, &self.arguments).await?;
        self.process = Some(process);
        Ok(())
    }

    /// Where it serves.
    pub fn address(&self) -> Result<SocketAddr, Failure> {
        let address = self.process.as_ref().map(|process| process.address);
        address.ok_or_else(|| Failure::internal("a node is not there"))
    }

    /// A connection.
    pub async fn channel(&self) -> Result<Channel, Failure> {
        one_of(&connect(self.address()?, 1).await?, 0)
    }

    /// The cluster as it knows it.
    pub async fn cluster(&self) -> Result<Cluster, Failure> {
        let mut client = ClusterServiceClient::new(self.channel().await?);
        Ok(client.get_cluster(GetClusterRequest::default()).await.map_err(failed)?.into_inner())
    }
}

/// So many voters.
pub async fn found(place: &Path, nodes: usize) -> Result<Vec<Seat>, Failure> {
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
pub async fn settled(seats: &[Seat]) -> Result<usize, Failure> {
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
