//! How long the owners of a killed node are nobody's: five nodes, each a process of its own on this machine, and 1,000 running
//! experiments.
//!
//! ```text
//!   kill -9 ── (election, if it led) ── 2 s of silence ── marked down ── one AssignOwners ── owners run on the other four
//!      |<------------------------------------------ measured ------------------------------------------->|
//! ```
//!
//! Over when every running experiment is assigned to a node that lives, and these run as many owners as there are experiments.
//! Before the next trial the killed node is back, up, and has its share.

use std::time::Duration;

use featureops_proto::v1::{
    Arm, CreateExperimentRequest, Experiment, Flag, Metric, SetFlagRequest, SetMetricRequest,
    StartExperimentRequest, ValueType, metric,
};
use featureops_state::liveness::DOWN_AFTER_MS;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::transport::Channel;

use super::Plan;
use super::report::{Bar, Figure, median};
use super::seats::{Seat, found, settled};
use super::world::{ENVIRONMENT, failed, folder};
use crate::cli::failure::Failure;
use crate::rpc::experiment_service_client::ExperimentServiceClient;
use crate::rpc::flag_service_client::FlagServiceClient;
use crate::rpc::metric_service_client::MetricServiceClient;

const NODES: usize = 5;
const EXPERIMENTS: usize = 1_000;
const WRITERS: usize = 32;
/// Of each kind: the leader, and another.
const TRIALS: usize = 3;
/// Longest wait for owners to be where they should be: a fifth of them moves 64 a second.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(20);
/// Experiments that share a metric: 64 may.
const PER_METRIC: usize = 50;

pub async fn measure(plan: &Plan) -> Result<Vec<Figure>, Failure> {
    let place = folder(&plan.data)?;
    let mut seats = found(place.path(), NODES).await?;
    let first = seats.first().ok_or_else(|| Failure::internal("there is no node"))?.channel().await?;
    run_experiments(first).await?;
    let most = spread(&seats).await?;
    let mut taken_ms = [Vec::new(), Vec::new()];
    for trial in 0..2 * TRIALS {
        let leader = settled(&seats).await?;
        let other = trial % 2 == 1;
        let victim = if other { (leader + 1) % NODES } else { leader };
        let taken = trial_of(&mut seats, victim).await?;
        if let Some(taken_ms) = taken_ms.get_mut(usize::from(other)) {
            taken_ms.push(taken.as_secs_f64() * 1_000.0);
        }
        spread(&seats).await?;
    }
    let [leaders, others] = taken_ms;
    let figure = |name: &'static str, taken_ms: &[f64]| {
        let worst = taken_ms.iter().copied().fold(0.0, f64::max);
        Figure::new(name, "ms", worst)
            .limit("silence after which a node is down", DOWN_AFTER_MS as f64)
            .bar(Bar::AtMost(5_000.0))
            .note(format!(
                "{EXPERIMENTS} experiments, {TRIALS} kills, median {:.0} ms; {NODES} processes share this machine",
                median(taken_ms)
            ))
    };
    Ok(vec![
        figure("owners elsewhere, leader killed", &leaders),
        figure("owners elsewhere, another killed", &others),
        Figure::new("owners, most of a node over the mean", "", most)
            .note(format!("{EXPERIMENTS} experiments on {NODES} equal nodes")),
    ])
}

/// Flags, metrics, and an experiment on each flag that runs.
async fn run_experiments(channel: Channel) -> Result<(), Failure> {
    for number in 0..EXPERIMENTS.div_ceil(PER_METRIC) {
        let metric = Metric {
            name: format!("{ENVIRONMENT}/metrics/ordered-{number}"),
            kind: metric::Kind::Proportion.into(),
            direction: metric::Direction::HigherIsBetter.into(),
            ..Metric::default()
        };
        let request = SetMetricRequest { metric: Some(metric), ..SetMetricRequest::default() };
        MetricServiceClient::new(channel.clone()).set_metric(request).await.map_err(failed)?;
    }
    let mut tasks = JoinSet::new();
    for writer in 0..WRITERS {
        let channel = channel.clone();
        tasks.spawn(async move {
            for number in (writer..EXPERIMENTS).step_by(WRITERS) {
                run_experiment(&channel, number).await?;
            }
            Ok(())
        });
    }
    while let Some(joined) = tasks.join_next().await {
        let task: Result<(), tonic::Status> = joined.map_err(|error| Failure::internal(error.to_string()))?;
        task.map_err(failed)?;
    }
    Ok(())
}

async fn run_experiment(channel: &Channel, number: usize) -> Result<(), tonic::Status> {
    let key = format!("owned-{number}");
    let flag = Flag {
        name: format!("{ENVIRONMENT}/flags/{key}"),
        r#type: ValueType::Boolean.into(),
        variants: [("off".to_owned(), false.into()), ("on".to_owned(), true.into())].into(),
        default_variant: Some("off".to_owned()),
        safe_variant: Some("off".to_owned()),
        ..Flag::default()
    };
    let request = SetFlagRequest { flag: Some(flag), ..SetFlagRequest::default() };
    FlagServiceClient::new(channel.clone()).set_flag(request).await?;
    let name = format!("{ENVIRONMENT}/experiments/{key}");
    let arm = |variant: &str| Arm { variant: variant.to_owned(), established: true };
    let experiment = Experiment {
        name: name.clone(),
        flag: key,
        arms: vec![arm("off"), arm("on")],
        primary_metric: format!("ordered-{}", number / PER_METRIC),
        ..Experiment::default()
    };
    let mut client = ExperimentServiceClient::new(channel.clone());
    let request = CreateExperimentRequest { experiment: Some(experiment), ..Default::default() };
    client.create_experiment(request).await?;
    client.start_experiment(StartExperimentRequest { name, ..Default::default() }).await?;
    Ok(())
}

/// Waits until all nodes are up and every owner runs where it should; the most of a node over the mean.
async fn spread(seats: &[Seat]) -> Result<f64, Failure> {
    let began = Instant::now();
    loop {
        let mut running = 0;
        let mut last = None;
        for seat in seats {
            let cluster = seat.cluster().await?;
            running += cluster.owners_running;
            last = Some(cluster);
        }
        if let Some(cluster) = last {
            let most = cluster.members.iter().map(|member| member.owners).max().unwrap_or(0);
            let all = cluster.members.iter().filter(|member| member.owners > 0).count() == NODES;
            if all && cluster.unowned == 0 && cluster.misplaced == 0 && running as usize == EXPERIMENTS {
                return Ok(f64::from(most) * NODES as f64 / EXPERIMENTS as f64);
            }
        }
        if began.elapsed() > PATIENCE {
            return Err(Failure::internal(format!("the owners were not spread within {PATIENCE:?}")));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn trial_of(seats: &mut [Seat], victim: usize) -> Result<Duration, Failure> {
    let dead = victim as u64 + 1;
    let killed = seats.get_mut(victim).and_then(|seat| seat.process.take());
    // Its kill returns when the process is gone.
    let began = Instant::now();
    drop(killed);
    let taken = loop {
        let mut running = 0;
        let mut placed = true;
        for seat in seats.iter().filter(|seat| seat.process.is_some()) {
            let cluster = seat.cluster().await?;
            let held = cluster.members.iter().find(|member| member.node == dead);
            placed &= cluster.unowned == 0 && held.is_some_and(|member| member.owners == 0);
            running += cluster.owners_running;
        }
        if placed && running as usize == EXPERIMENTS {
            break began.elapsed();
        }
        if began.elapsed() > PATIENCE {
            return Err(Failure::internal(format!("node {dead} keeps its owners for {PATIENCE:?}")));
        }
        tokio::time::sleep(LOOK).await;
    };
    match seats.get_mut(victim) {
        Some(seat) => seat.power().await?,
        None => return Err(Failure::internal("there is no such node")),
    }
    Ok(taken)
}
