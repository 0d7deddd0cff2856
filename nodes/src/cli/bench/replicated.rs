//! What three nodes replicate: facts in batches, and single writes of flags beside those of a three-member etcd.
//!
//! ```text
//!   4 producers x 4 batches in flight x 1,000 outcomes, over all nodes:    three nodes | bare log engine | … rounds
//!   64 writers, one write each at a time, over all nodes:                  three nodes | three etcds     | … rounds
//! ```
//!
//! Every write here is durable on two of three before it is acknowledged. A write of a flag is more than etcd's put of as
//! many bytes: it is checked, versioned, audited and told to clients. Nodes and etcds put their data on the same disk.

use std::net::SocketAddr;
use std::time::Duration;

use featureops_proto::v1::experiment::Policy;
use featureops_proto::v1::{self, SetFlagRequest};
use tonic::Status;
use tonic::transport::Channel;

use super::etcd::{Etcds, Putting};
use super::facts::{self, Engine, Producers, UNITS};
use super::flight::{self, Caller, IN_FLIGHT, Slices};
use super::report::{Bar, Figure, median};
use super::seats::{NODES, Seat, found, settled};
use super::world::{ENVIRONMENT, connect, define_metrics, folder, one_of, settled_units, start_experiment};
use super::{Plan, processor_seconds};
use crate::cli::failure::Failure;
use crate::rpc::flag_service_client::FlagServiceClient;

const ROUNDS: usize = 5;
/// Bytes of a flag's description, and of a value of etcd's.
pub const VALUE_BYTES: usize = 256;

pub async fn measure(plan: &Plan) -> Result<Vec<Figure>, Failure> {
    let place = folder(&plan.data)?;
    let seats = found(place.path(), NODES).await?;
    let leader = settled(&seats).await?;
    let channels = over(&seats.iter().map(Seat::address).collect::<Result<Vec<_>, _>>()?).await?;
    let control = one_of(&channels, leader)?;

    let mut figures = vec![facts(plan, &channels, &control).await?];
    let etcds = Etcds::start(place.path(), plan.etcd.as_deref()).await?;
    figures.push(writes(plan, &channels, etcds.as_ref()).await?);
    Ok(figures)
}

/// One connection to each.
async fn over(addresses: &[SocketAddr]) -> Result<Vec<Channel>, Failure> {
    let mut channels = Vec::with_capacity(addresses.len());
    for address in addresses {
        channels.extend(connect(*address, 1).await?);
    }
    Ok(channels)
}

async fn facts(plan: &Plan, channels: &[Channel], control: &Channel) -> Result<Figure, Failure> {
    define_metrics(control).await?;
    start_experiment(control, facts::EXPERIMENT, Policy::Fixed).await?;
    let receipts = facts::expose(control).await?;
    let exposed = settled_units(control, facts::EXPERIMENT).await?;
    if exposed < UNITS as u64 {
        return Err(Failure::internal(format!("{exposed} of {UNITS} exposures arrived in the log")));
    }
    let producers = Producers::new("replicated", facts::outcomes(&receipts, false));
    let engine = Engine::open(&plan.data)?;
    let slice = plan.slice(2 * ROUNDS as u32);
    producers.unary(channels, Duration::from_millis(300)).await?;
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    let processor_before = processor_seconds();
    for _ in 0..ROUNDS {
        ours.push(producers.unary(channels, slice).await?);
        bare.push(engine.write(facts::command_bytes(false), slice).await?);
    }
    let used = processor_seconds() - processor_before;
    let seconds = slice.as_secs_f64() * 2.0 * ROUNDS as f64;
    Ok(Figure::beside("facts on three nodes", "/s", &ours, "bare log engine", &bare)
        .bar(Bar::AtLeast(100_000.0))
        .note(format!(
            "batches go to all three nodes, each fact durable on two before it is acknowledged; producers and bare \
             engine, in this process, used {:.0} % of a core meanwhile",
            used / seconds * 100.0
        )))
}

/// Writes flags.
struct Writing(FlagServiceClient<Channel>);

impl Caller for Writing {
    async fn call(&mut self, turn: u64) -> Result<(), Status> {
        let flag = v1::Flag {
            name: format!("{ENVIRONMENT}/flags/written-{}", turn % IN_FLIGHT as u64),
            r#type: v1::ValueType::Boolean.into(),
            variants: [("on".to_owned(), true.into())].into(),
            default_variant: Some("on".to_owned()),
            description: format!("{turn:0>VALUE_BYTES$}"),
            ..v1::Flag::default()
        };
        let request = SetFlagRequest { flag: Some(flag), ..SetFlagRequest::default() };
        self.0.set_flag(request).await.map(drop)
    }
}

async fn writes(plan: &Plan, channels: &[Channel], etcds: Option<&Etcds>) -> Result<Figure, Failure> {
    let write = |slice| flight::unary(channels, slice, |channel| Writing(FlagServiceClient::new(channel)));
    let slice = plan.slice(2 * ROUNDS as u32);
    write(Duration::from_millis(300)).await?;
    let name = "flag writes on three nodes";
    let mut ours = Slices::default();
    let Some(etcds) = etcds else {
        for _ in 0..ROUNDS {
            ours.add(write(slice).await?);
        }
        let note = "no etcd to compare with: install etcd-server, or name one by --etcd";
        return Ok(Figure::new(name, "/s", median(&ours.rates)).note(note));
    };
    let their = over(&etcds.addresses).await?;
    let put = |slice| flight::unary(&their, slice, Putting::new);
    put(Duration::from_millis(300)).await?;
    let mut theirs = Slices::default();
    for _ in 0..ROUNDS {
        ours.add(write(slice).await?);
        theirs.add(put(slice).await?);
    }
    Ok(Figure::beside(name, "/s", &ours.rates, "etcd, three members", &theirs.rates).bar(Bar::Share(2.0)).note(
        format!(
            "{IN_FLIGHT} writers over all members, {VALUE_BYTES} bytes a write; p50 {:.1} ms, p99 {:.1} ms; etcd {:.1} and {:.1} ms",
            median(&ours.p50_ms),
            median(&ours.p99_ms),
            median(&theirs.p50_ms),
            median(&theirs.p99_ms)
        ),
    ))
}
