//! Three members of etcd, the peer that single writes are measured beside: its own binary, started as its manual says, and
//! its `Put` over gRPC with the two fields that it needs.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::time::Instant;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic::{Request, Status};
use tonic_prost::ProstCodec;

use super::flight::{Caller, IN_FLIGHT};
use super::replicated::VALUE_BYTES;
use super::seats::{NODES, PATIENCE};
use super::world::{connect, failed, one_of};
use crate::cli::failure::Failure;

/// `etcdserverpb.PutRequest`, as far as it is used.
#[derive(Clone, PartialEq, Eq, prost::Message)]
struct PutRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// `etcdserverpb.PutResponse`; nothing of it is looked at.
#[derive(Clone, PartialEq, Eq, prost::Message)]
struct PutResponse {}

/// The processes; they end with this value.
pub struct Etcds {
    members: Vec<Child>,
    /// Where each serves.
    pub addresses: Vec<SocketAddr>,
}

impl Drop for Etcds {
    fn drop(&mut self) {
        for member in &mut self.members {
            let _ = member.kill();
            let _ = member.wait();
        }
    }
}

impl Etcds {
    /// Three members that know each other and serve; absent where there is no such program and none was named.
    pub async fn start(place: &Path, named: Option<&Path>) -> Result<Option<Self>, Failure> {
        let program = named.unwrap_or_else(|| Path::new("etcd"));
        let answer =
            Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        match answer {
            Ok(status) if status.success() => {}
            _ if named.is_none() => return Ok(None),
            Ok(status) => {
                return Err(Failure::usage(format!("'{} --version' ends with {status}", program.display())));
            }
            Err(error) => {
                return Err(Failure::usage(format!("'{}' does not run: {error}", program.display())));
            }
        }
        let ports = free_ports(2 * NODES)?;
        let (serving, peering) = ports.split_at(NODES);
        let everyone: Vec<String> =
            (1..).zip(peering).map(|(number, address)| format!("e{number}=http://{address}")).collect();
        let mut etcds = Self { members: Vec::with_capacity(NODES), addresses: serving.to_vec() };
        for ((number, client), peer) in (1..).zip(serving).zip(peering) {
            let member = Command::new(program)
                .arg("--name")
                .arg(format!("e{number}"))
                .arg("--data-dir")
                .arg(place.join(format!("etcd-{number}")))
                .arg("--listen-client-urls")
                .arg(format!("http://{client}"))
                .arg("--advertise-client-urls")
                .arg(format!("http://{client}"))
                .arg("--listen-peer-urls")
                .arg(format!("http://{peer}"))
                .arg("--initial-advertise-peer-urls")
                .arg(format!("http://{peer}"))
                .arg("--initial-cluster")
                .arg(everyone.join(","))
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .map_err(|error| Failure::internal(format!("etcd did not start: {error}")))?;
            etcds.members.push(member);
        }
        for address in &etcds.addresses {
            serves(*address).await?;
        }
        Ok(Some(etcds))
    }
}

fn free_ports(count: usize) -> Result<Vec<SocketAddr>, Failure> {
    // Held all at once, so that they differ.
    let mut held = Vec::with_capacity(count);
    for _ in 0..count {
        let free = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0)));
        held.push(free.map_err(|error| Failure::internal(format!("no free port: {error}")))?);
    }
    let addresses = held.iter().map(TcpListener::local_addr).collect::<Result<Vec<_>, _>>();
    addresses.map_err(|error| Failure::internal(error.to_string()))
}

/// Waits until a member takes a write.
async fn serves(address: SocketAddr) -> Result<(), Failure> {
    let began = Instant::now();
    loop {
        let taken = match connect(address, 1).await {
            Ok(channels) => Putting::new(one_of(&channels, 0)?).call(0).await.map_err(failed),
            Err(failure) => Err(failure),
        };
        match taken {
            Ok(()) => return Ok(()),
            Err(failure) if began.elapsed() > PATIENCE => return Err(failure),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// Puts values.
pub struct Putting(Grpc<Channel>);

impl Putting {
    /// Over a connection.
    pub fn new(channel: Channel) -> Self {
        Self(Grpc::new(channel))
    }
}

impl Caller for Putting {
    async fn call(&mut self, turn: u64) -> Result<(), Status> {
        let request = PutRequest {
            key: format!("written-{}", turn % IN_FLIGHT as u64).into_bytes(),
            value: format!("{turn:0>VALUE_BYTES$}").into_bytes(),
        };
        self.0.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let path = PathAndQuery::from_static("/etcdserverpb.KV/Put");
        let codec = ProstCodec::<PutRequest, PutResponse>::default();
        self.0.unary(Request::new(request), path, codec).await.map(drop)
    }
}
