//! The sentinels: one a machine, on a wire of its own that nobody cuts. Each asks its node for an evaluation again and again, and how
//! it sees the cluster.
//!
//! What a node owes in every phase of every fault is told by them: that it answers while it runs, and of which version.

use std::time::Duration;

use featureops::rpc::cluster_service_client::ClusterServiceClient;
use featureops::rpc::evaluation_service_client::EvaluationServiceClient;
use featureops_proto::v1;

use super::{ENVIRONMENT, EXPERIMENTS, Stage, World, text};
use crate::caller::{Answer, Caller};
use crate::history::{Probe, Standing};
use crate::machine::Machine;
use crate::trace::now_micros;

/// Pause between two questions.
const PAUSE: Duration = Duration::from_millis(120);
/// How long a node may take for an evaluation, over a few attempts.
const PATIENCE: Duration = Duration::from_millis(1_200);
/// Attempts: the first may find only that the connection is one of the life before.
const ATTEMPTS: usize = 3;

/// Name of a machine's sentinel.
#[must_use]
pub fn name_of(machine: &Machine) -> String {
    format!("sentinel-{}", machine.number)
}

/// Watches over one machine until the world closes.
pub async fn run(world: World, machine: Machine) -> turmoil::Result {
    let name = name_of(&machine);
    let mut caller = Caller::new(&name, "agent:sentinel", &machine.name, world.trace.clone());
    caller.deadline = PATIENCE;
    let mut asked = 0_usize;
    while !world.stage.reached(Stage::Closing) {
        tokio::time::sleep(PAUSE).await;
        asked = asked.saturating_add(1);
        if !machine.life.is_powered() {
            continue;
        }
        if asked.is_multiple_of(2) {
            look(&world, &machine, &mut caller).await;
        } else if let Some(flag) = EXPERIMENTS.get(asked / 2 % EXPERIMENTS.len()) {
            probe(&world, &machine, &mut caller, flag).await;
        }
    }
    Ok(())
}

async fn probe(world: &World, machine: &Machine, caller: &mut Caller, flag: &str) {
    let (serves, stood, minor) =
        (machine.life.serves_from(), machine.life.times_stood(), machine.life.is_minor());
    let asked = now_micros();
    let context = [("targetingKey".to_owned(), text("sentinel"))].into();
    let request = v1::EvaluateRequest {
        environment: ENVIRONMENT.to_owned(),
        flag: flag.to_owned(),
        context: Some(prost_types::Struct { fields: context }),
        no_exposure: true,
        expected_type: v1::ValueType::String.into(),
    };
    let mut version = None;
    let attempts = async {
        for _ in 0..ATTEMPTS {
            let act = |channel, request| async move {
                EvaluationServiceClient::new(channel).evaluate(request).await
            };
            let answer = caller.call(&format!("probe {flag}"), request.clone(), act).await;
            if let Answer::Ok(answer) = answer {
                version = Some(answer.flag_version);
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let _ = tokio::time::timeout(PATIENCE, attempts).await;
    // What was asked of a node that ended or stood still meanwhile says nothing of it.
    let ran = serves.is_some() && serves == machine.life.serves_from();
    let moved = stood == machine.life.times_stood() && !machine.life.stands();
    let probe = Probe {
        machine: machine.number,
        life: machine.life(),
        asked,
        answered: now_micros(),
        flag: flag.to_owned(),
        owed: ran && moved,
        minor: minor && machine.life.is_minor(),
        version,
    };
    world.history.write(|seen| seen.probes.push(probe));
}

async fn look(world: &World, machine: &Machine, caller: &mut Caller) {
    let act = |channel, request| async move { ClusterServiceClient::new(channel).get_cluster(request).await };
    let asked = now_micros();
    let answer = caller.call("get cluster", v1::GetClusterRequest::default(), act).await;
    let Answer::Ok(cluster) = answer else { return };
    let standing = Standing {
        machine: machine.number,
        asked,
        term: cluster.term,
        leader: cluster.leader,
        leads: cluster.leader == cluster.node && cluster.node == machine.number,
    };
    if standing.leader != 0 {
        world.leader.note(standing.term, standing.leader, &world.trace);
    }
    world.history.write(|seen| seen.standings.push(standing));
}
