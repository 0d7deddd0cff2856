//! Where a node lives: started with its machine, ended in order when it is asked to, started again when that is worth it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use featureops::config::NodeConfig;
use featureops::node::Node;

use crate::caller::PORT;
use crate::history::Checkpoint;
use crate::machine::Machine;
use crate::workload::World;

/// Port for the other nodes.
pub const PEER_PORT: u16 = 7401;
/// Time between two digests of a node's state, in looks.
const CHECKPOINT_LOOKS: u64 = 7;
/// How often it is looked whether the node is to end.
const LOOK: Duration = Duration::from_millis(100);
/// How long a machine waits before it starts a node again whose start ended.
const START_AGAIN: Duration = Duration::from_millis(500);

fn peer_address(machine: &Machine) -> String {
    format!("{}:{PEER_PORT}", machine.name)
}

fn config_of(machine: &Machine, world: &World) -> NodeConfig {
    let plan = &world.plan;
    let mut config = NodeConfig {
        listen: SocketAddr::from(([0, 0, 0, 0], PORT)),
        node: machine.number,
        snapshot_every_entries: plan.snapshot_every_entries,
        snapshot_every_bytes: plan.snapshot_every_bytes,
        log_keep_entries: plan.keep_entries,
        loopback_only: false,
        observe_process: false,
        ..NodeConfig::default()
    };
    if plan.machines > 1 {
        config.drain_timeout = Duration::from_secs(2);
        config.peer_listen = Some(SocketAddr::from(([0, 0, 0, 0], PEER_PORT)));
        config.advertise = peer_address(machine);
        // The first machine founds the cluster, once; on another disk it joins as everybody does.
        if machine.number > 1 || machine.life.emptied() > 0 {
            let others = world.machines.iter().filter(|other| other.number != machine.number);
            config.join = others.map(peer_address).collect();
        }
    }
    config
}

/// A node from its machine's power to its loss. A start that ends while the disk ails is begun again, as a service manager
/// does it; any other that ends leaves the machine idle.
pub async fn node(machine: Machine, world: World) -> turmoil::Result {
    loop {
        while !machine.life.is_powered() {
            tokio::time::sleep(LOOK).await;
        }
        let environment = machine.environment();
        let life = machine.life();
        world.trace.note("node", &format!("{} starts life {life}", machine.name));
        let config = config_of(&machine, &world);
        match Node::start_with(environment, config, Arc::new(machine.clone())).await {
            Ok(node) => {
                machine.life.set_serves(true);
                let mut looks = 0_u64;
                while !machine.life.takes_restart() {
                    if looks.is_multiple_of(CHECKPOINT_LOOKS) {
                        let (position, digest) = node.digest();
                        world.trace.note("digest", &format!("{} {position} {digest:016x}", machine.name));
                        let checkpoint = Checkpoint { machine: machine.number, life, position, digest };
                        world.history.write(|seen| seen.checkpoints.push(checkpoint));
                    }
                    looks = looks.saturating_add(1);
                    tokio::time::sleep(LOOK).await;
                }
                machine.life.set_serves(false);
                world.trace.note("node", &format!("{} ends in order", machine.name));
                node.shutdown().await;
                continue;
            }
            Err(error) => {
                world.trace.note("node", &format!("{} did not start: {error}", machine.name));
                let ailment = machine.disk.ailment();
                let ails = ailment.full
                    || ailment.sync_fails
                    || error.to_string().contains("first start found no room");
                if !ails || error.to_string().contains("disk loss") {
                    world.history.write(|seen| seen.refused_starts.push(error.to_string()));
                    return std::future::pending().await;
                }
            }
        }
        tokio::time::sleep(START_AGAIN).await;
    }
}
